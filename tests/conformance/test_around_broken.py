"""Each law around a model catches what breaks it: a method that does, or a pruning step that was made to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import models
import pytest
import torch
from torch import Tensor

from script_vlmeval import plans, prune
from script_vlmeval.conformance import around, subjects
from script_vlmeval.conformance.outcome import LawBroken, explained
from script_vlmeval.methods import METHODS, Method, Visual, get_method
from script_vlmeval.prefill import Prefill
from script_vlmeval.prune import pruning

pytestmark = pytest.mark.filterwarnings("ignore:no question text")


def breaks(law: str, method: Method | None = None, subject: models.Subject | None = None) -> str:
    """What the law says; it must hold for nothing but the fault under test, so a sound method is the default."""
    with pytest.raises(LawBroken) as broken, explained():
        around.LAWS[law](method or get_method("divprune"), subject or models.random_llava())
    return broken.value.explanation


@pytest.fixture
def step(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Callable[..., Any]], None]:
    """Puts something around a step of pruning: change(original, self, ...)."""

    def change(name: str, by: Callable[..., Any], of: type = pruning) -> None:
        original = getattr(of, name)
        monkeypatch.setattr(of, name, lambda self, *args: by(original, self, *args))

    return change


def test_the_registry_is_left_alone():
    assert not {"dice", "texts", "silent"} & set(METHODS)


def test_a_budget_of_everything_that_drops_a_token(monkeypatch: pytest.MonkeyPatch):
    tokens = plans.tokens
    monkeypatch.setattr(plans, "tokens", lambda budget, n: min(tokens(budget, n), n - 1))
    assert "for 16 tokens the logits change by up to" in breaks("same_bits_at_full_budget")


@pytest.mark.parametrize(
    ("law", "words"),
    [
        ("plan_kept_exactly", "(images, tiles, tokens kept): {0: (2, 1, 4)}, not {0: (2, 1, 5)}"),
        ("lengths_equal_the_plan", "tokens entering"),
    ],
)
def test_one_token_fewer_than_planned(law: str, words: str, monkeypatch: pytest.MonkeyPatch):
    tokens = plans.tokens
    monkeypatch.setattr(plans, "tokens", lambda budget, n: tokens(budget, n) - 1)
    assert words in breaks(law)


def test_a_cache_that_is_longer_than_planned(monkeypatch: pytest.MonkeyPatch):
    """Lengths at the entry of a layer and in its cache are told apart."""
    result = subjects._result

    def longer(*args: Any) -> models.Run:
        out = result(*args)
        return replace(out, cache=[n + 1 for n in out.cache])

    monkeypatch.setattr(subjects, "_result", longer)
    assert "cache of each layer after 4 steps" in breaks("lengths_equal_the_plan")


class Dice(Method, register=False):
    """Random, and another time otherwise."""

    def score(self, visual: Visual) -> Tensor:
        return torch.rand(visual.shape)


def test_a_method_that_draws_anew():
    assert "two runs on the same prompts: at stage 0, image 0 keeps" in breaks("same_run_twice", Dice())


class Texts(Method, register=False):
    """Compares with all of the prompt, as if none of it were padding."""

    needs = frozenset({"text"})

    def plan(self, budget: int, n_visual: int, n_layers: int) -> dict[int, int]:
        return {1: budget}

    def score(self, visual: Visual) -> Tensor:
        assert visual.text is not None
        return torch.einsum("bgnd,bd->bgn", visual.tokens, visual.text[:, -1])


def test_a_method_that_reads_padding():
    assert "in a batch and alone: at stage 1, image" in breaks("batch_equals_alone", Texts())


def test_padding_that_is_taken_for_text(step: Callable[..., None]):
    def start(original: Callable[..., Any], self: Prefill, kwargs: dict[str, Any]) -> dict[str, Any]:
        self.text = torch.ones_like(self.text)
        return original(self, kwargs)

    step("start", start, Prefill)
    found = breaks("left_padding_has_no_say", get_method("cdpruner"), subjects.without_query(models.random_llava()))
    assert "with 7 columns of padding: at stage 0, image 0 keeps" in found


def test_positions_that_do_not_follow_the_shortened_prompt(step: Callable[..., None]):
    def decode(original: Callable[..., Any], self: Prefill, kwargs: dict[str, Any], past: int) -> dict[str, Any]:
        self.removed = self.removed - 3
        try:
            return original(self, kwargs, past)
        finally:
            self.removed = self.removed + 3

    step("step", decode, Prefill)
    assert "with and without a cache: logits differ" in breaks("cached_equals_recomputed")


def test_a_stage_inside_the_model_that_is_not_refused_without_a_cache(step: Callable[..., None]):
    step("_continues", lambda original, self, cache: False)
    assert "was not refused without a cache" in breaks("cached_equals_recomputed", Texts())


def test_a_prompt_without_an_image_that_is_touched(step: Callable[..., None]):
    def read(original: Callable[..., Any], self: pruning, kwargs: dict[str, Any], *args: Any) -> Any:
        if (pruned := original(self, kwargs, *args)) is None:
            kwargs["inputs_embeds"].mul_(1.01)
        return pruned

    step("_read_prompt", read)
    assert "without an image the logits change by up to" in breaks("no_image")


def test_a_context_that_cannot_be_entered_again(step: Callable[..., None]):
    def leave(original: Callable[..., Any], self: pruning, *exc: object) -> None:
        original(self, *exc)
        prune._ACTIVE.add(self.model)

    step("__exit__", leave)
    try:
        assert "being pruned already" in breaks("entered_again")
    finally:
        prune._ACTIVE.discard(models.random_llava().model)


def test_a_context_that_leaves_something_behind(step: Callable[..., None]):
    handles: list[Any] = []

    def leave(original: Callable[..., Any], self: pruning, *exc: object) -> None:
        original(self, *exc)
        handles.append(self.model.lm_head.register_forward_hook(lambda module, args, out: out + 1))

    step("__exit__", leave)
    try:
        assert "outside the context the model answers differently" in breaks("entered_again")
        assert "hooks after pruning" in breaks("nothing_left_behind")
    finally:
        for handle in handles:
            handle.remove()


class Silent(Method, register=False):
    """Looks at nothing, so that only the guard before it can refuse NaN."""

    def select(self, visual: Visual, k: int) -> Tensor:
        return torch.arange(k).expand(*visual.shape[:2], k)

    def guarded(self, visual: Visual, k: int) -> tuple[Visual, int]:
        return visual, k


def test_a_method_that_takes_nan():
    assert "nan in the visual tokens went unnoticed" in breaks("not_finite_refused", Silent())
