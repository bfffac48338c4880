"""Pruning inside the language model against `reference.py`, which masks instead of removing, on a tiny LLaVA and three Qwen-VL.

First-token logits, five greedy tokens, kept positions and cache lengths, for FastV, Sequential Prune and a method that works
before the language model and inside it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import pairwise
from typing import Any, ClassVar

import models
import pytest
import qwen
import reference
import torch
from models import LAYERS, private, random_prompt
from reference import Answer, Decoder, Row, Rule
from torch import Tensor

from script_vlmeval import sequence
from script_vlmeval.methods import Method, Visual, get_method
from script_vlmeval.prefill import Prefill
from script_vlmeval.prune import pruning
from script_vlmeval.sequence import Stage
from script_vlmeval.trace import Trace

STEPS = 5
GREEDY = {"do_sample": False, "max_new_tokens": STEPS, "output_logits": True, "return_dict_in_generate": True}


# -- the families --------------------------------------------------------------------------------------------------------------
def llava_row(model: Any, decoder: Decoder, prompt: models.Prompt) -> Row:
    at = (torch.tensor(prompt.ids) == models.IMAGE).nonzero()[:, 0]
    features: Any = []
    if len(at):
        with torch.no_grad():
            features = model.model.get_image_features(pixel_values=prompt.pixels)
    x = decoder.embed(prompt.ids, at, getattr(features, "pooler_output", features))  # transformers 4 returns the list itself
    return Row(x, at.split(models.N) if len(at) else (), None)


@dataclass(frozen=True, eq=False)
class Family:
    """A model to build, how to ask it and how the reference reads the same."""

    build: Callable[[str], Any]
    collate: Callable[[Sequence[Any]], dict[str, Tensor]]
    row: Callable[[Any, Decoder, Any], Row]
    batches: dict[str, list[Any]]
    eager: Collection[str] | None = None  # the batches that are run on the eager kernel too; None = all


BIG, SMALL, CLIP = (1, 8, 12), (1, 8, 4), (3, 4, 8)  # times, rows, columns of patches; a token is 2 x 2 of them


def qwen_family(name: str, eager: Collection[str] | None = None) -> Family:
    ask = partial(qwen.prompt, family=name)
    batches = {
        "one image": [ask([BIG], 0)],
        "two images": [ask([BIG, SMALL], 6)],
        "padded": [ask([BIG], 0), ask([BIG], 3, text=7)],
        "unequal images": [ask([BIG, SMALL], 0), ask([SMALL], 3), ask([], 1)],
        "text first": [ask([], 1, text=9), ask([SMALL], 3)],
        "equal lengths": [ask([SMALL], 0, text=20), ask([BIG], 3)],
        "video": [ask([CLIP], 2, placeholder=qwen.VIDEO)],
        "image beside video": [ask([SMALL], 0), ask([CLIP], 2, placeholder=qwen.VIDEO)],
        "video, then image": [ask([CLIP, SMALL], 2, placeholder=[qwen.VIDEO, qwen.IMAGE]), ask([SMALL], 0)],
    }
    return Family(partial(qwen.build, family=name), qwen.collate, qwen.row, batches, eager)


FAMILIES = {
    "llava": Family(
        models.build,
        models.collate,
        llava_row,
        {
            "one image": [random_prompt(1, 0)],
            "two images": [random_prompt(2, 1)],
            "padded": [random_prompt(1, 0), random_prompt(1, 3)],
            "unequal images": [random_prompt(2, 0), random_prompt(1, 3), random_prompt(0, 1)],
            "equal lengths": [random_prompt(1, 0, text=4 + models.N + 3), random_prompt(2, 1, text=4)],
            "video": [random_prompt(3, 2)],
        },
    ),
    "qwen2_vl": qwen_family("qwen2_vl"),
    "qwen2_5_vl": qwen_family("qwen2_5_vl", {"video"}),
    "qwen3_vl": qwen_family("qwen3_vl", {"unequal images", "video, then image"}),
}
QWEN = [family for family in FAMILIES if family != "llava"]
CASES = [
    (family, batch, attn)
    for family, f in FAMILIES.items()
    for batch in f.batches
    for attn in ("sdpa", "eager")
    if attn == "sdpa" or f.eager is None or batch in f.eager
]


@cache
def model_of(family: str, attn: str) -> Any:
    return FAMILIES[family].build(attn)


@cache
def decoder_of(family: str) -> Decoder:
    return Decoder(model_of(family, "sdpa"))


@cache
def rows_of(family: str, batch: str) -> list[Row]:
    model, decoder = model_of(family, "sdpa"), decoder_of(family)
    return [FAMILIES[family].row(model, decoder, p) for p in FAMILIES[family].batches[batch]]


def same(out: Any, b: int, answer: Answer, atol: float = 2e-4) -> None:
    """Row b of a generation is the reference's."""
    torch.testing.assert_close(torch.stack([step[b] for step in out.logits]).double(), answer.logits, atol=atol, rtol=0)
    assert out.sequences[b, -STEPS:].tolist() == answer.tokens


# -- without pruning -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("family", "batch", "attn"), CASES)
def test_the_reference_is_the_model_where_nothing_is_dropped(family: str, batch: str, attn: str):
    inputs = FAMILIES[family].collate(FAMILIES[family].batches[batch])
    out = model_of(family, attn).generate(**inputs, **GREEDY)
    for b, row in enumerate(rows_of(family, batch)):
        same(out, b, decoder_of(family).answer(row, Rule(), STEPS), atol=1e-4)


# -- methods and their rules ---------------------------------------------------------------------------------------------------
@private
@dataclass(frozen=True)
class LongerHalf(Method):
    """Half of the tokens of each image or frame, those of largest norm."""

    def plan(self, budget: int | None, n_visual: int, n_layers: int) -> dict[int, int]:
        return {0: n_visual // 2}

    def score(self, visual: Visual) -> Tensor:
        return visual.tokens.norm(dim=-1)


@private
@dataclass(frozen=True)
class HalfTwice(Method):
    """One half before the language model, and FastV's half of what is left inside it."""

    needs = frozenset({"attention", "image", "frame"})
    union: ClassVar[bool] = True

    def plan(self, budget: int | None, n_visual: int, n_layers: int) -> dict[int, int]:
        return {0: n_visual // 2, 2: n_visual // 2 // 2}

    def at(self, stage: int) -> Method:
        return get_method("fastv", removed=0.5, first_layer=2) if stage else LongerHalf()


def halves(row: Row) -> Rule:
    before = tuple(len(tile) // 2 for tile in row.tiles)
    return Rule(before, ((2, sum(before) // 2),))


RULES: dict[str, tuple[Callable[[], Method], Callable[[Row], Rule]]] = {
    "fastv": (
        lambda: get_method("fastv", removed=0.5, first_layer=2),
        lambda row: reference.fastv(len(row.visual), 0.5, 2),
    ),
    "sequential": (
        lambda: get_method("seqprune", removed=0.75, first_layer=1, step=25),
        lambda row: reference.sequential(len(row.visual), 0.75, 1, 25),
    ),
    "pre + in": (HalfTwice, halves),
}
EARLY: dict[str, tuple[Callable[[], Method], Callable[[Row], Rule]]] = {
    # before the layers after which Qwen3-VL adds features: for test_deepstack.py
    "before": (LongerHalf, lambda row: Rule(halves(row).before)),
    "fastv from layer 1": (
        lambda: get_method("fastv", removed=0.5, first_layer=1),
        lambda row: reference.fastv(len(row.visual), 0.5, 1),
    ),
}
AHEAD: dict[str, tuple[Callable[[], Method], Callable[[Row], Rule]]] = {
    "pyramid": (
        lambda: get_method("pyramiddrop", ratio=0.5, layers="1,2,3"),
        lambda row: reference.pyramid(len(row.visual), (1, 2, 3)),
    ),
}
NAMED = {**RULES, **EARLY, **AHEAD}


@cache
def answers(family: str, batch: str, rule: str) -> list[Answer]:
    """What the reference says of each row."""
    decoder = decoder_of(family)
    return [decoder.answer(row, NAMED[rule][1](row), STEPS) for row in rows_of(family, batch)]


def agrees(family: str, batch: str, rule: str, attn: str = "sdpa") -> None:
    """One generation is the reference's: logits and tokens, what was kept, how long each layer's sequence and cache are."""
    f, model, expected = FAMILIES[family], model_of(family, attn), answers(family, batch, rule)
    with torch.no_grad(), pruning(model, NAMED[rule][0](), None) as trace:
        out = model.generate(**f.collate(f.batches[batch]), **GREEDY)
    for b, answer in enumerate(expected):
        same(out, b, answer)
    lengths_agree(trace, out, expected, LAYERS, STEPS)
    kept_agree(trace.kept, expected, rows_of(family, batch), NAMED[rule][1])


def lengths_agree(trace: Trace, out: Any, expected: list[Answer], layers: int, steps: int) -> None:
    """What enters each layer, row by row and padded, and each layer's cache after so many steps."""
    for b, answer in enumerate(expected):
        assert trace.entering(layers)[:, b].tolist() == answer.entering
    longest = [max(lengths) for lengths in zip(*(a.entering for a in expected), strict=True)]
    assert trace.lengths == longest
    assert [layer.keys.shape[2] for layer in out.past_key_values.layers] == [n + steps - 1 for n in longest]


def kept_agree(kept: dict[int, list[Tensor]], expected: list[Answer], rows: list[Row], rule: Callable[[Row], Rule]) -> None:
    """Kept positions: those of each tile at stage 0; those of each sample inside, samples of equally many tokens together."""
    together: dict[int, list[Answer]] = {}
    for answer, row in zip(expected, rows, strict=True):
        if row.tiles:
            entered = sum(len(tile) for tile in answer.before)
            together.setdefault(entered, []).append(answer)
    stages = {layer for row in rows if row.tiles for layer, _ in rule(row).inside}
    before = any(rule(row).before for row in rows)
    assert sorted(kept) == sorted(stages | ({0} if before else set()))
    for stage in stages:
        found = [group[:, 0].tolist() for group in kept[stage]]
        assert found == [[answer.kept[stage] for answer in group] for group in together.values()]
    if before:
        tiles = [tile.tolist() for group in kept[0] for tile in group.flatten(0, 1)]
        assert sorted(tiles) == sorted(tile for answer in expected for tile in answer.before)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(("family", "batch", "attn"), CASES)
def test_generation_equals_the_masked_reference(family: str, batch: str, rule: str, attn: str):
    agrees(family, batch, rule, attn)


@pytest.mark.parametrize("batch", ["padded", "unequal images"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_attention_of_the_layer_ahead_equals_the_reference(family: str, batch: str):
    """Where the method reads the stage's own layer, whose keys are in no cache yet."""
    agrees(family, batch, "pyramid")


# -- the comparison says something ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("family", FAMILIES)
def test_dropping_matters(family: str, rule: str):
    full = decoder_of(family).answer(rows_of(family, "one image")[0], Rule())
    assert (answers(family, "one image", rule)[0].logits[0] - full.logits[0]).abs().max() > 0.1


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("family", FAMILIES)
def test_rows_of_a_batch_choose_for_themselves(family: str, rule: str):
    first, second = answers(family, "padded", rule)
    assert all(first.kept[layer] != second.kept[layer] for layer in first.kept)


@pytest.mark.parametrize("rule", ["fastv", "sequential"])
@pytest.mark.parametrize("family", FAMILIES)
def test_images_of_a_sample_share_the_count(family: str, rule: str):
    """A choice per image would keep the same share of each."""
    (answer,), (row,) = answers(family, "two images", rule), rows_of(family, "two images")
    first, n = len(row.tiles[0]), len(row.visual)
    assert any(sum(p < first for p in kept) != len(kept) * first // n for kept in answer.kept.values())


@pytest.mark.parametrize(("family", "step", "frames"), [("qwen2_vl", 1, 1), ("qwen2_5_vl", 4, 1), ("qwen3_vl", 0, 3)])
def test_positions_of_a_picture_are_of_three_axes(family: str, step: int, frames: int):
    """Frames of a video step on the first axis; Qwen3-VL's stand apart, with text between them, as so many runs."""
    (row,) = rows_of(family, "two images")
    t, h, w = row.positions[:, row.tiles[1]]
    assert not torch.equal(t, h)
    assert not torch.equal(h, w)
    (clip,) = rows_of(family, "video")
    assert 1 + int((clip.visual.diff() > 1).sum()) == frames
    first = [clip.positions[:, tile[0]] for tile in clip.tiles]
    if frames == 1:
        assert [(p - first[0]).tolist() for p in first] == [[i * step, 0, 0] for i in range(3)]
    else:
        assert all(len(clip.positions[0, tile].unique()) == 1 for tile in clip.tiles)
        assert all(bool((after > before).all()) for before, after in pairwise(first))


# -- rows of a batch -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("family", QWEN)
def test_the_order_of_the_rows_changes_nothing(family: str, rule: str):
    """A row without an image between two with some; each says what it says elsewhere in the batch."""
    f, model = FAMILIES[family], model_of(family, "sdpa")
    prompts = f.batches["unequal images"]
    for order in ([0, 2, 1], [2, 1, 0]):
        with torch.no_grad(), pruning(model, RULES[rule][0](), None):
            out = model.generate(**f.collate([prompts[i] for i in order]), **GREEDY)
        for b, i in enumerate(order):
            same(out, b, answers(family, "unequal images", rule)[i])


@pytest.mark.parametrize("family", QWEN)
def test_a_batch_without_images_is_left_alone(family: str):
    f, model = FAMILIES[family], model_of(family, "sdpa")
    inputs = f.collate([qwen.prompt([], seed, text=4 + seed, family=family) for seed in range(2)])
    plain = model.generate(**inputs, **GREEDY)
    with torch.no_grad(), pruning(model, RULES["pre + in"][0](), None) as trace:
        out = model.generate(**inputs, **GREEDY)
    assert torch.equal(torch.stack(out.logits), torch.stack(plain.logits))
    assert not trace.kept


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def test_methods_that_compare_frames_see_a_video_as_one(family: str):
    """EVS keeps the first frame first, and only then what changed."""
    f, model = FAMILIES[family], model_of(family, "sdpa")
    (row,) = rows_of(family, "video")
    budget = len(row.tiles[0]) // 4
    with torch.no_grad(), pruning(model, get_method("evs"), budget) as trace:
        model.generate(**f.collate(f.batches["video"]), **GREEDY)
    (kept,) = trace.kept[0]
    assert kept.flatten().tolist() == list(range(budget * len(row.tiles)))


# -- beams ---------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("batch", ["padded", "unequal images", "video, then image"])
@pytest.mark.parametrize("family", QWEN)
def test_beam_scores_equal_the_reference(family: str, batch: str):
    """Rows are repeated for beams after the vision tower ran, and the shortened caches change places at every step."""
    if qwen.OLD and family == "qwen3_vl" and "video" in batch:
        pytest.skip("transformers 4 itself, unpruned, counts frames for videos here")
    f, model, n = FAMILIES[family], model_of(family, "sdpa"), 2
    inputs = f.collate(f.batches[batch])
    beams = {"num_beams": 3, "num_return_sequences": n, "length_penalty": 0.0, "do_sample": False, "max_new_tokens": 4}
    with torch.no_grad(), pruning(model, RULES["fastv"][0](), None):
        out = model.generate(**inputs, **beams, output_scores=True, return_dict_in_generate=True)
    new = out.sequences[:, inputs["input_ids"].shape[1] :]
    for b, score in enumerate(out.sequences_scores):
        row, tokens = rows_of(family, batch)[b // n], new[b].tolist()
        said = decoder_of(family).answer(row, RULES["fastv"][1](row), 4, forced=tokens).logits
        expected = said.log_softmax(-1).gather(1, new[b][:, None]).sum()
        torch.testing.assert_close(score.double(), expected, atol=1e-3, rtol=0)


# -- the comparison can fail ---------------------------------------------------------------------------------------------------
def _mask_of_the_first_layer(self: Stage, mask: Tensor | None, start: int, *rest: Any) -> Tensor | None:
    columns = self.index.shape[1] + (0 if mask is None else mask.shape[-1] - start)
    return None if mask is None else mask[..., :columns]


_step = Prefill.step


def _moved(self: Prefill, kwargs: dict[str, Any], past: int, by: Tensor | int) -> dict[str, Any]:
    done = _step(self, dict(kwargs), past)
    return {**done, "position_ids": done["position_ids"] + by}


def _positions_by_the_last_cache(self: Prefill, kwargs: dict[str, Any], past: int) -> dict[str, Any]:
    return _moved(self, kwargs, past, self.layer_stage[LAYERS - 1].index.shape[1] - self.length)


def _positions_of_the_other_family(self: Prefill, kwargs: dict[str, Any], past: int) -> dict[str, Any]:
    by = self.removed[:, None]
    return _moved(self, kwargs, past, by if self.family.positions == "renumber" else -by)


def _pads_forgotten(self: Prefill, kwargs: dict[str, Any], past: int) -> dict[str, Any]:
    done = _step(self, dict(kwargs), past)
    return {**done, "attention_mask": torch.ones_like(done["attention_mask"])}


MUTATIONS: dict[str, tuple[Any, str, Callable[..., Any], str, str]] = {
    # what to break, the wrong version, and the rule and batch that must notice
    "no decode mask": (Stage, "decode_mask", lambda *_: None, "fastv", "padded"),
    "decode mask of the first layer": (Stage, "decode_mask", _mask_of_the_first_layer, "sequential", "unequal images"),
    "rotary table not gathered": (sequence, "take_rope", lambda x, index: x[..., : index.shape[1], :], "fastv", "one image"),
    "decode positions by the cache": (Prefill, "step", _positions_by_the_last_cache, "fastv", "one image"),
    "decode positions as elsewhere": (Prefill, "step", _positions_of_the_other_family, "pre + in", "one image"),
    "padding forgotten in decoding": (Prefill, "step", _pads_forgotten, "pre + in", "padded"),
    "axes not gathered": (sequence, "take_positions", lambda x, index: x[..., : index.shape[1]], "pre + in", "video"),
}
BROKEN = [(name, family) for name in MUTATIONS for family in FAMILIES if (name, family) != ("axes not gathered", "llava")]


@pytest.mark.parametrize(("name", "family"), BROKEN)
def test_the_comparison_notices_a_broken_mechanism(name: str, family: str, monkeypatch: pytest.MonkeyPatch):
    where, attribute, wrong, rule, batch = MUTATIONS[name]
    monkeypatch.setattr(where, attribute, wrong)
    with pytest.raises(AssertionError, match="not close"):
        agrees(family, batch, rule, "eager")


# -- padding on the right ------------------------------------------------------------------------------------------------------
def right_padded_agrees(attn: str) -> None:
    """A forward of rows padded on the right: the last valid token of each asks, and what it says is the reference's."""
    f = FAMILIES["llava"]
    prompts: list[models.Prompt] = f.batches["padded"]
    length = max(len(p.ids) for p in prompts)
    pads = [length - len(p.ids) for p in prompts]
    assert max(pads) > 0
    inputs = {
        "input_ids": torch.tensor([[*p.ids, *[models.PAD] * n] for p, n in zip(prompts, pads, strict=True)]),
        "attention_mask": torch.tensor([[1] * len(p.ids) + [0] * n for p, n in zip(prompts, pads, strict=True)]),
        "pixel_values": torch.cat([p.pixels for p in prompts]),
    }
    with torch.no_grad(), pruning(model_of("llava", attn), RULES["fastv"][0](), None) as trace:
        logits = model_of("llava", attn)(**inputs).logits
    expected = answers("llava", "padded", "fastv")
    kept_agree(trace.kept, expected, rows_of("llava", "padded"), RULES["fastv"][1])
    last = torch.stack([a.logits[0] for a in expected])  # shortened rows are padded on the left
    torch.testing.assert_close(logits[:, -1].double(), last, atol=2e-4, rtol=0)


@pytest.mark.parametrize("attn", ["sdpa", "eager"])
def test_the_last_valid_token_asks_where_padding_is_on_the_right(attn: str):
    right_padded_agrees(attn)


def test_the_comparison_notices_a_padding_token_that_asks(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Stage, "last", lambda self: torch.full((len(self.valid),), self.valid.shape[1] - 1))
    with pytest.raises(AssertionError):
        right_padded_agrees("sdpa")
