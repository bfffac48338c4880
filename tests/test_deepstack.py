"""DeepStack: what Qwen3-VL adds to its visual tokens after its first layers goes to those that are left, and to no other.

The reference of `test_in_llm.py` adds it at every visual position, dropped ones included, which nobody looks at any more.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import qwen
import torch
from reference import Rule
from test_in_llm import FAMILIES, GREEDY, NAMED, STEPS, LongerHalf, agrees, decoder_of, model_of, private, rows_of
from torch import Tensor

from script_vlmeval.methods import Method, Reduced, Visual, get_method
from script_vlmeval.methods.base import take
from script_vlmeval.prefill import Prefill
from script_vlmeval.prune import pruning

FAMILY, LAYERS, ADDED = "qwen3_vl", 4, 3  # features are added after layers 0, 1 and 2
FIRST = 4  # where the visual tokens begin: behind BOS, two words and the mark of an image
Leave = Callable[[Prefill, int, Tensor], Tensor]


@pytest.fixture
def model() -> Any:
    return model_of(FAMILY, "sdpa")


def generate(model: Any, batch: str = "one image") -> Any:
    with torch.no_grad():
        return model.generate(**FAMILIES[FAMILY].collate(FAMILIES[FAMILY].batches[batch]), **GREEDY)


# -- stages before, among and after the layers ---------------------------------------------------------------------------------
@pytest.mark.parametrize("batch", ["one image", "unequal images", "text first", "video", "video, then image"])
@pytest.mark.parametrize("rule", ["before", "fastv from layer 1"])
def test_stages_before_a_layer_with_features_equal_the_reference(rule: str, batch: str):
    """The other rules of `test_in_llm.py` come before some of these layers as well, and run there."""
    agrees(FAMILY, batch, rule)


def test_what_is_added_matters():
    row = rows_of(FAMILY, "one image")[0]
    plain = decoder_of(FAMILY).answer(row, Rule()).logits
    assert len(row.later) == ADDED
    for i in range(ADDED):
        fewer = [torch.zeros_like(f) if j == i else f for j, f in enumerate(row.later)]
        other = type(row)(row.x, row.tiles, row.positions, tuple(fewer))
        assert (decoder_of(FAMILY).answer(other, Rule()).logits - plain).abs().max() > 0.1


# -- the comparison can fail ---------------------------------------------------------------------------------------------------
_leave = Prefill.leave


def _nothing(self: Prefill, i: int, hidden: Tensor) -> Tensor:
    return hidden


def _ungathered(self: Prefill, i: int, hidden: Tensor) -> Tensor:
    """To the first tokens what belongs to the first, whoever they are now."""
    assert self.deepstack is not None
    features, rank = self.deepstack
    rows = rank[:, : hidden.shape[1]]
    return hidden + features[i][rows.clamp_min(0)].masked_fill((rows < 0)[..., None], 0)


def _of_the_last_stage_alone(self: Prefill, i: int, hidden: Tensor) -> Tensor:
    """Places in the sequence that the language model was given, taken for those of the prompt."""
    assert self.deepstack is not None
    features, rank = self.deepstack
    rows = rank.gather(1, (self.base if self.inside is None else self.inside).index)
    return hidden + features[i][rows.clamp_min(0)].masked_fill((rows < 0)[..., None], 0)


def _of_the_first_row(self: Prefill, i: int, hidden: Tensor) -> Tensor:
    before = _leave(self, i, hidden)
    return hidden + (before - hidden)[:1]


def _of_another_layer(self: Prefill, i: int, hidden: Tensor) -> Tensor:
    return hidden + _leave(self, (i + 1) % ADDED, hidden) - hidden


MUTATIONS: dict[str, tuple[Leave, str, str]] = {  # the wrong version, and the rule and batch that must notice
    "nothing, before": (_nothing, "before", "one image"),
    "nothing, inside": (_nothing, "fastv from layer 1", "one image"),
    "not gathered, before": (_ungathered, "before", "one image"),
    "not gathered, inside": (_ungathered, "fastv from layer 1", "one image"),
    "by the last stage alone": (_of_the_last_stage_alone, "pre + in", "one image"),
    "of another row": (_of_the_first_row, "fastv from layer 1", "padded"),
    "of another layer": (_of_another_layer, "before", "video"),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_the_comparison_notices_wrong_features(name: str, monkeypatch: pytest.MonkeyPatch):
    wrong, rule, batch = MUTATIONS[name]
    monkeypatch.setattr(Prefill, "leave", wrong)
    with pytest.raises(AssertionError, match="not close"):
        agrees(FAMILY, batch, rule)


# -- who gets what -------------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Left:
    """What a layer put out, and what it was made into."""

    layer: int
    before: Tensor
    after: Tensor


@pytest.fixture
def left(monkeypatch: pytest.MonkeyPatch) -> list[Left]:
    """Every call of `Prefill.leave`."""
    calls: list[Left] = []

    def watched(self: Prefill, i: int, hidden: Tensor) -> Tensor:
        calls.append(Left(i, hidden, _leave(self, i, hidden)))
        return calls[-1].after

    monkeypatch.setattr(Prefill, "leave", watched)
    return calls


@private
@dataclass(frozen=True)
class Folded(LongerHalf):
    """The last tokens, and the mean of all as a token without a place of its own: all of them move up by one place."""

    stage: int = 0

    def plan(self, budget: int | None, n_visual: int, n_layers: int) -> dict[int, int]:
        return {self.stage: n_visual // 2}

    def reduce(self, visual: Visual, k: int) -> Reduced:
        last = torch.arange(visual.shape[2] - k + 1, visual.shape[2])
        kept = take(visual, last.expand(*visual.shape[:2], -1))
        mean = visual.tokens.mean(2, keepdim=True)
        return Reduced(torch.cat([kept.keep, torch.full_like(kept.keep[..., :1], -1)], 2), torch.cat([kept.tokens, mean], 2))


def gets_its_own(model: Any, method: Method, stage: int, left: list[Left], keep: Tensor | None = None) -> None:
    """Each token that was kept gets its own features after each layer, and no text gets any."""
    with pruning(model, method, None) as trace:
        generate(model)
    (kept,), features = trace.kept[stage], qwen.features(model, FAMILIES[FAMILY].batches["one image"][0])[1:]
    keep = kept.flatten() if keep is None else keep
    assert torch.equal(kept.flatten(), keep)
    for call in left:
        real = keep[keep >= 0] if call.layer >= stage else torch.arange(len(features[0]))
        there = slice(FIRST, FIRST + len(real))
        torch.testing.assert_close(call.after[0, there], call.before[0, there] + features[call.layer][real], atol=1e-4, rtol=0)
        text = torch.ones(call.before.shape[1], dtype=torch.bool)
        text[FIRST : FIRST + (len(keep) if call.layer >= stage else len(real))] = False
        assert torch.equal(call.after[0, text], call.before[0, text])


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_each_token_gets_its_own_features(model: Any, stage: int, left: list[Left]):
    method = get_method("fastv", removed=0.5, first_layer=stage) if stage else LongerHalf()
    gets_its_own(model, method, stage, left)


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_tokens_that_make_room_for_a_merged_one_keep_their_features(model: Any, stage: int, left: list[Left]):
    """It follows the kept ones of its image, so those at the end stand in others' places."""
    n = len(qwen.features(model, FAMILIES[FAMILY].batches["one image"][0])[0])
    gets_its_own(model, Folded(stage), stage, left, torch.tensor([*range(n - n // 2 + 1, n), -1]))


# -- what must not change ------------------------------------------------------------------------------------------------------
def test_decoding_is_not_touched(model: Any, left: list[Left]):
    with pruning(model, NAMED["fastv from layer 1"][0](), None) as trace:
        generate(model)
    assert STEPS > 1
    assert [(call.layer, call.before.shape[1]) for call in left] == list(enumerate(trace.lengths[:ADDED]))


@pytest.mark.parametrize("batch", ["one image", "unequal images", "video, then image"])
@pytest.mark.parametrize("name", ["full", "random", "fastv"])
def test_keeping_all_changes_no_bit(model: Any, name: str, batch: str):
    plain = generate(model, batch)
    with pruning(model, get_method(name), "100pct"):
        out = generate(model, batch)
    assert torch.equal(torch.stack(out.logits), torch.stack(plain.logits))


@pytest.mark.parametrize("batch", ["one image", "unequal images", "video, then image"])
def test_layers_before_the_first_stage_give_the_same_bits(model: Any, batch: str):
    """The stage is the last layer's, so all features are added by the package, to all tokens."""
    entered: list[Tensor] = []

    def watch(module: Any, args: Any, kwargs: Any) -> None:
        entered.append(args[0] if args else kwargs["hidden_states"])

    handle = model.model.language_model.layers[ADDED].register_forward_pre_hook(watch, with_kwargs=True)  # before the package's
    try:
        generate(model, batch)
        plain, _ = entered[0], entered.clear()
        with pruning(model, get_method("fastv", removed=0.5, first_layer=ADDED), None):
            generate(model, batch)
    finally:
        handle.remove()
    real = FAMILIES[FAMILY].collate(FAMILIES[FAMILY].batches[batch])["attention_mask"].bool()
    assert torch.equal(entered[0][real], plain[real])


def test_the_model_is_as_it_was(model: Any):
    """No hook is left, neither of the layers with features nor of any other module, and the model adds them itself again."""
    plain = generate(model)
    with pruning(model, NAMED["pre + in"][0](), None):
        generate(model)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert torch.equal(torch.stack(generate(model).logits), torch.stack(plain.logits))
