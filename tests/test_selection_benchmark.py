"""The benchmark's own honesty: its re-stated release loops pick what the releases pick, at the releases' number of operations."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT, benchmark
from torch.utils._python_dispatch import TorchDispatchMode

from script_vlmeval import kernels

VIEWS = set("view select slice unsqueeze squeeze expand permute diagonal transpose t alias as_strided".split())
VIEWS |= {"_unsafe_view", "detach", "lift_fresh"}


@pytest.fixture(scope="module")
def selection() -> ModuleType:
    return benchmark("selection")


class Counting(TorchDispatchMode):
    """Operators that launch work, and values that the host asks for."""

    def __init__(self):
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(function).removeprefix("aten.").rpartition(".")[0]
        self.found["syncs" if name == "_local_scalar_dense" else "views" if name in VIEWS else "operators"] += 1
        return function(*args, **(kwargs or {}))


def counted(call: Callable[[], Any]) -> Counter[str]:
    with Counting() as mode:
        call()
    return mode.found


@pytest.mark.parametrize("b", [1, 5])
def test_cdpruner_s_loop_costs_17_operators_per_pick(selection: ModuleType, b: int):
    """13 on the device and 4 index tensors from the CPU, for any number of tiles, and no host synchronisation."""
    kernel = selection.released_kernel(*selection.tokens(b, 64, 64))
    short, long = (counted(lambda t=t: selection.released_cdpruner(kernel, t)) for t in (8, 24))
    assert (long["operators"] - short["operators"]) / 16 == 17
    assert long["syncs"] == 0


@pytest.mark.parametrize("t", [8, 16, 24])
def test_script_s_loop_costs_what_the_release_costs(selection: ModuleType, t: int):
    """(22 + 9 B) T + 2 B T (T - 1) + 8 B operators within 2 %; at most its 2 B T (T - 1) + 5 B T + B host synchronisations."""
    kernel = selection.released_kernel(*selection.apart(64, 4096))
    found = counted(lambda: selection.released_script(kernel, t))
    assert found["operators"] == pytest.approx(31 * t + 2 * t * (t - 1) + 8, rel=0.02)
    assert 1.5 * t * (t - 1) <= found["syncs"] <= 2 * t * (t - 1) + 5 * t + 1


def test_both_sides_pick_the_same(selection: ModuleType):
    features, r = selection.tokens(3, 80, 64)
    kernel = selection.released_kernel(features, r)
    assert torch.equal(selection.released_cdpruner(kernel, 30), kernels.greedy_map(features, r, 30))
    features, r = selection.apart(80, 2048)
    kernel = selection.released_kernel(features, r)
    assert torch.equal(selection.released_script(kernel, 30), kernels.greedy_repeated(features, r, 30))


def test_the_loops_pick_what_was_recorded(selection: ModuleType):
    data = np.load(ROOT / "tests" / "golden" / "20_tiny.npz")
    features, r = (torch.from_numpy(data[name]) for name in ("image_features", "cdpruner.relevance"))
    picks = selection.released_cdpruner(selection.released_kernel(features, r), int(data["T"]))
    np.testing.assert_array_equal(picks, data["cdpruner.order"])
    r = torch.from_numpy(data["scriptcompat.relevance"])
    picks = selection.released_script(selection.released_kernel(features, r), int(data["T"]))
    np.testing.assert_array_equal(picks, data["scriptcompat.order"])


def test_it_measures_every_method_and_writes_what_it_found(selection: ModuleType, tmp_path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(selection, "loops", lambda budget: [])
    monkeypatch.setattr(selection, "GROWTH", ((36, (8,)), (64, (8, 32))))
    monkeypatch.setattr("sys.argv", ["selection.py", "--seconds", "0.01", "--out", str(tmp_path)])
    threads = torch.get_num_threads()
    try:
        selection.main()
    finally:
        torch.set_num_threads(threads)
    found = json.loads((tmp_path / "selection.json").read_text())
    assert set(found["methods"]) == set(selection.METHODS)
    assert [row["n"] for row in found["growth"]] == [36, 64, 64]
    assert (tmp_path / "selection.png").stat().st_size > 10_000
