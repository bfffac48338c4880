"""Guards that must see values: one look for all of them, nothing harmful until then, no doubt lost."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
import torch
from conftest import benchmark
from models import private

from script_vlmeval import get_method, pruning
from script_vlmeval.doubts import doubt, gathered, settle
from script_vlmeval.errors import UserError
from script_vlmeval.methods.base import Method, Reduced, Visual
from script_vlmeval.runtime import Runtime

YES, NO = torch.tensor(True), torch.tensor(False)


@pytest.fixture(scope="module")
def waits() -> ModuleType:
    return benchmark("waits")


@pytest.fixture(scope="module")
def runtime() -> Runtime:
    return Runtime.load("tiny", device="cpu")


@pytest.fixture(scope="module")
def scenes(waits: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> list[list[dict[str, str]]]:
    return waits.messages(Path(tmp_path_factory.mktemp("scenes")), 3)


@pytest.fixture
def prepared(runtime: Runtime, scenes: list[list[dict[str, str]]]):
    return runtime.prepare(scenes)


def error(text: str = "wrong"):
    return lambda: UserError(text)


def test_alone_a_doubt_is_settled_at_once():
    doubt(NO, error())
    with pytest.raises(UserError, match="wrong"):
        doubt(YES, error())


def test_gathered_doubts_come_with_the_numbers_and_the_first_that_is_right_is_heard():
    with gathered():
        doubt(NO, error("none"))
        assert settle(torch.tensor(7), torch.tensor([3])) == [7, 3]
        doubt(YES, lambda: None)  # at a second look all is well
        doubt(YES, error("first"))
        doubt(YES, error("second"))
        with pytest.raises(UserError, match="first"):
            settle(torch.tensor(7))
        assert settle() == [], "each is heard once"


def test_what_nobody_settled_is_at_the_end():
    with pytest.raises(UserError, match="wrong"), gathered():
        doubt(YES, error())


def test_a_doubt_goes_before_what_followed_from_it():
    def fail(wrong: torch.Tensor) -> None:
        with gathered():
            doubt(wrong, error())
            raise IndexError("a consequence, or not")

    with pytest.raises(UserError, match="wrong"):
        fail(YES)
    with pytest.raises(IndexError):
        fail(NO)


@private
class Garbage(Method):
    """Picks far outside, as a kernel on broken features might."""

    name = "garbage"

    def reduce(self, visual: Visual, k: int) -> Reduced:
        keep = torch.full((*visual.shape[:2], k), 10**6)
        return Reduced(keep, visual.tokens[:, :, :k])


def test_indices_that_do_not_exist_are_refused_and_never_used(runtime: Runtime, prepared):
    with runtime.batch(), pytest.raises(UserError, match="not ascending"), pruning(runtime.model, Garbage(), 16):
        runtime.model.generate(**prepared.inputs, max_new_tokens=1)


def test_what_was_chosen_of_broken_features_is_not_remembered(runtime: Runtime, prepared, monkeypatch: pytest.MonkeyPatch):
    """All budgets of a batch share a choice: each refuses it."""
    method, whole = get_method("random"), Method.guarded
    broken = lambda self, visual, k: whole(self, Visual(**{**vars(visual), "tokens": visual.tokens * torch.nan}), k)  # noqa: E731
    monkeypatch.setattr(Method, "guarded", broken)
    with runtime.batch():
        for budget in ("16", "4"):
            with pytest.raises(UserError, match="NaN or infinity"):
                runtime.answer(prepared, method, budget, budgets=["16", "4"])


@pytest.mark.parametrize(("name", "most"), [("script", 4), ("cdpruner", 4), ("divprune", 3), ("visionzip", 3), ("grid", 3)])
def test_the_prefill_waits_a_few_times_whatever_its_size(runtime: Runtime, scenes, waits: ModuleType, name: str, most: int):
    """Where the tokens stand, whether there is a question, and once a stage: how long its rows still are. What the choice does on
    a CPU is no waiting, and what is counted afterwards is behind the first token."""
    counts = []
    for rows, budget in ((1, "4"), (3, "64")):
        found = waits.measured(runtime, f"{name}_{budget}", scenes[:rows])
        counts.append(
            sum(
                n for place, n in found.ours().items() if "on_cpu" not in place and "maxmin" not in place and "trace" not in place
            )
        )
    assert 0 < counts[0] == counts[1] <= most


def test_what_waits_is_seen(waits: ModuleType):
    x = torch.arange(4)
    with waits.waits() as found:
        bool(x.any()), x.tolist(), x[x > 1], x.nonzero(), int(x.sum()), x + 1
    assert sum(found.places.values()) == 5
