"""The benchmark of sweeps: both sides answer the same, what differs is counted and looked into, scales are what they say."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from conftest import benchmark
from runtimes import lightly

from script_vlmeval import tiny

TINY = ["--scale", "tiny", "--device", "cpu", "--samples", "4", "--methods", "divprune", "fastv", "--budgets", "84"]
CONFIGS = ["tiny_full", "tiny_divprune_84", "tiny_fastv_84"]


@pytest.fixture(scope="module")
def bench() -> Iterator[ModuleType]:
    before, path = set(sys.modules), list(sys.path)
    yield benchmark("sweep")
    sys.path[:] = path
    for name in {"sweep_benchmark", "sweep_models", "sweep_overhead", "sweep_sides"} - before:
        del sys.modules[name]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_benchmark("ShapesVQA", tmp_path_factory.mktemp("drawn"))


@pytest.fixture
def vlmeval(monkeypatch: pytest.MonkeyPatch, drawn: Path) -> Iterator[None]:
    """VLMEvalKit, and a table whose pictures are drawn already."""
    pytest.importorskip("vlmeval", exc_type=ImportError)
    monkeypatch.setattr(tiny, "write_benchmark", lambda name, folder: Path(shutil.copy(drawn, folder / drawn.name)))
    with lightly():
        yield


# -- both sides -------------------------------------------------------------------------------------------------------------
def test_both_sides_give_the_same_answers(vlmeval: None, bench: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """The host on half of the samples; every figure follows from the seconds and answers beside it."""
    file = tmp_path / "sweep.json"
    assert bench.main([*TINY, "--batch", "3", "--host-share", "0.5", "--json", str(file)]) == 0
    facts, printed = json.loads(file.read_text()), capsys.readouterr().out
    (found,) = facts["scales"]
    assert (found["configs"], found["samples"], found["host_samples"]) == (CONFIGS, 4, 2)
    assert [found[side]["answers"] for side in ("host", "whole", "infer")] == [6, 12, 12]
    assert (found["different"], found["unsteady"], found["differences"]) == (0, 0, [])
    assert found["distinct"] > 1
    rate = {side: found[side]["answers"] / found[side]["seconds"] for side in ("host", "whole", "infer")}
    assert found["ratios"] == pytest.approx([rate["whole"] / rate["host"], rate["infer"] / rate["host"]])
    assert "VLMEvalKit only on the first 2 samples" in printed
    assert "0 of 6 answers differ" in printed
    assert f"{rate['whole']:10.2f} {found['ratios'][0]:6.2f}" in printed
    assert printed.splitlines()[-2] == facts["command"]
    assert "batch 3" in printed.splitlines()[-1]


def test_the_clocks_leave_loading_out_and_nothing_is_loaded_twice(
    vlmeval: None, bench: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    from script_vlmeval import loading
    from script_vlmeval.backbones import BACKBONES
    from script_vlmeval.plugin import classes

    loads, own = [], loading.load
    monkeypatch.setattr(loading, "load", lambda *a, **k: loads.append(a) or own(*a, **k))
    monkeypatch.setattr(classes, "_RUNTIMES", {})
    before = dict(BACKBONES)
    assert bench.main(TINY) == 0
    assert len(loads) == 1
    assert classes._RUNTIMES == {}
    assert before == BACKBONES


def test_answers_that_differ_are_counted_and_looked_into(
    vlmeval: None, bench: ModuleType, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    """One of our answers is replaced: the report names it, and the gap between the two largest logits is no near-tie."""
    by_us, replaced = bench.by_us, dict[str, str]()

    def wrong(configs: Any, runtime: Any, options: Any) -> Any:
        side, answers = by_us(configs, runtime, options)
        index = sorted(answers["tiny_fastv_84"])[0]
        replaced[index] = answers["tiny_fastv_84"][index]
        answers["tiny_fastv_84"][index] = "nonsense"
        return side, answers

    monkeypatch.setattr(bench, "by_us", wrong)
    assert bench.main(TINY) == 0
    printed = capsys.readouterr().out
    (index,) = replaced
    assert "1 of 12 answers differ" in printed
    assert "of 1 looked into, 0 part where two logits are within 0.0001" in printed
    (line,) = [line for line in printed.splitlines() if line.startswith(f"    tiny_fastv_84 {index}: token 0, gap ")]
    assert line.endswith(f"{replaced[index]!r} / 'nonsense'")
    assert float(line.split("gap ")[1].split(":")[0]) > 1e-4


def test_what_we_have_no_answer_to_is_an_error(bench: ModuleType):
    with pytest.raises(bench.UserError, match="no row 2"):
        bench.parted({"a": {"1": "x", "2": "y"}}, {"a": {"1": "x"}})


def test_the_host_s_failures_are_an_error(
    vlmeval: None, bench: ModuleType, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    from script_vlmeval.runtime import Runtime

    def fail(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("no answer today")

    monkeypatch.setattr(Runtime, "answer", fail)
    assert bench.main(TINY) == 2
    assert "no answer to 2 of 2 samples of tiny_full" in capsys.readouterr().err


# -- scales -----------------------------------------------------------------------------------------------------------------
def test_the_small_tower_is_as_light_as_the_published_one(bench: ModuleType):
    scales = bench.SCALES
    share = {
        name: (of := bench.sweep_models.work(scales[name].geometry))["vision"] / of["prefill"] for name in ("mid", "llava7b")
    }
    assert share["llava7b"] == pytest.approx(0.048, abs=0.001)
    assert share["llava7b"] < share["mid"] < 0.1


@pytest.mark.parametrize("name", ["tiny", "mid", "llava7b"])
def test_every_configuration_can_be_served(bench: ModuleType, name: str, capsys: pytest.CaptureFixture[str]):
    assert bench.main(["--scale", name, "--dry", "--device", "cpu"]) == 0
    printed = capsys.readouterr().out
    assert f"33 configurations: {name}_full {name}_script_" in printed
    assert ("7,063 M parameters" in printed) == (name == "llava7b")


def test_a_random_model_answers_at_length_and_by_what_is_kept(bench: ModuleType, drawn: Path, tmp_path: Path):
    """The middling scale, made narrower: loaded from disk, no answer ends early, and tokens left out change answers."""
    from dataclasses import replace

    from script_vlmeval.cells import Config
    from script_vlmeval.runtime import method_of

    scale = bench.SCALES["mid"]
    text = {**scale.geometry.text, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3}
    scale = replace(scale, geometry=replace(scale.geometry, text=text))
    pictures = sorted((drawn.parent / "images" / "ShapesVQA").iterdir())[:3]
    message = [[{"type": "image", "value": str(p)}, {"type": "text", "value": "what is red ?"}] for p in pictures]
    said: dict[str, list[str]] = {}
    with bench.sweep_models.named(scale, tmp_path / "checkpoint", 5) as model:
        runtime = bench.sweep_models.load(scale, model, "cpu", "float32")
        for name in ("mid_full", "mid_script_32", "mid_visionzip_64"):
            config = Config.parse(name)
            with torch.inference_mode():
                found = runtime.answer(runtime.prepare(message), method_of(config), config.budget)
            said[name] = [answer.text for answer in found]
            assert found[0].tokens["visual_full"] == 576
    assert {len(text.split()) for texts in said.values() for text in texts} == {5}
    assert len(set(map(tuple, said.values()))) == 3


# -- overhead ---------------------------------------------------------------------------------------------------------------
def test_the_overhead_is_told_part_by_part(vlmeval: None, bench: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    file = tmp_path / "overhead.json"
    assert bench.main(["--overhead", "--rows", "50", "--device", "cpu", "--json", str(file)]) == 0
    cost, printed = json.loads(file.read_text())["overhead"], capsys.readouterr().out
    assert set(cost["seconds"]) == set(bench.sweep_overhead.PARTS)
    assert min(cost["seconds"].values()) > 0
    assert cost["peak_bytes"] >= cost["imports_bytes"] > 2**27
    assert f"together             {1e3 * sum(cost['seconds'].values()) / 50:8.3f} ms a sample" in printed


# -- the command ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--scale", "tini"], "'tiny'"),
        (["--methods", "scripd"], "'script'"),
        (["--samples", "0"], "--samples 0"),
        (["--answer-tokens", "0"], "--answer-tokens 0"),
        (["--host-share", "0"], "--host-share 0"),
        (["--host-share", "1.5"], "--host-share 1.5"),
        (["--budgets", "9"], "tiny_fastv_9"),
        (["--json", "nowhere/at/all.json"], "nowhere/at"),
        (["--device", "cuda:7"], "cuda:7"),
    ],
)
def test_what_cannot_be_measured_is_one_line(
    bench: ModuleType, capsys: pytest.CaptureFixture[str], options: list[str], says: str
):
    assert bench.main([*TINY, "--dry", *options]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert says in error
    assert error.count("\n") == 1
