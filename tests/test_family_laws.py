"""The laws of pruning for every model family, on checkpoints in the layout of published ones, loaded as a user's are.

What is pruned is compared with `reference.py`, which masks instead of removing, on what the unpruned language model was given of
each prompt alone; where tiles, newlines and frames stand is written down in `family_cases.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, ClassVar

import pytest
import reference
import torch
from family_cases import (
    BOTH,
    CASES,
    LAYERS,
    VIDEO,
    Entering,
    attention,
    decoder,
    entering,
    first_layers,
    prepared,
    prepared_alone,
    runtime,
)
from family_runs import STEPS, FailingSpy, Spy, alone, broken, encoder_fields, generate, groups_of, mate
from models import private
from reference import Answer, Row, Rule
from test_in_llm import HalfTwice, LongerHalf, halves, lengths_agree
from torch import Tensor

from script_vlmeval.methods import Method, Visual, get_method
from script_vlmeval.prune import pruning
from script_vlmeval.runtime import Answer as AnswerText
from script_vlmeval.trace import Trace


def same(out: Any, b: int, answer: Answer) -> None:
    """Row b of a generation is the reference's."""
    torch.testing.assert_close(torch.stack([step[b] for step in out.logits]).double(), answer.logits, atol=2e-4, rtol=0)
    assert out.sequences[b, -STEPS:].tolist() == answer.tokens


# -- nothing dropped -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("case", "batch"), BOTH)
def test_all_tokens_give_the_same_bits(case: str, batch: str):
    plain = generate(case, batch)
    for name in ("random", "fastv"):
        with pruning(runtime(case).model, get_method(name), "100pct", seed=3):
            out = generate(case, batch)
        assert torch.equal(torch.stack(out.logits), torch.stack(plain.logits)), name
        assert torch.equal(out.sequences, plain.sequences)


@pytest.mark.parametrize(("case", "batch"), [mate(case) for case in CASES])
def test_the_reference_is_the_model_where_nothing_is_dropped(case: str, batch: str):
    out = generate(case, batch)
    for b, row in enumerate(alone(case, batch)):
        same(out, b, decoder(case).answer(row.row(), Rule(), STEPS))


# -- before the language model, inside it, and both ----------------------------------------------------------------------------
RULES: dict[str, tuple[Callable[[], Method], Callable[[Row], Rule]]] = {
    "before": (LongerHalf, lambda row: Rule(halves(row).before)),
    "fastv": (
        lambda: get_method("fastv", removed=0.5, first_layer=2),
        lambda row: reference.fastv(len(row.visual), 0.5, 2),
    ),
    "pre + in": (HalfTwice, halves),
}


@cache
def answers(case: str, batch: str, rule: str) -> list[Answer]:
    rows = [e.row() for e in alone(case, batch)]
    return [decoder(case).answer(row, RULES[rule][1](row), STEPS) for row in rows]


def agrees(case: str, batch: str, rule: str) -> None:
    """A batch says what each of its rows says alone by the reference; kept tokens, lengths of sequences and caches are its."""
    expected, rows = answers(case, batch, rule), alone(case, batch)
    with pruning(runtime(case).model, RULES[rule][0](), None) as trace:
        out = generate(case, batch)
        assert trace.between is not None
    for b, answer in enumerate(expected):
        same(out, b, answer)
    lengths_agree(trace, out, expected, LAYERS, STEPS)
    assert trace.between.tolist() == [len(e.between) for e in rows]
    kept_agree(trace, expected, rows)


def kept_agree(trace: Trace, expected: list[Answer], rows: list[Entering]) -> None:
    """Before the language model as many tiles with these tokens as expected, in each row; inside, the set of each row.

    A set is in the order of the sequence, where crops without newlines alternate row by row, and so not always ascending.
    """
    stages = {stage for answer in expected for stage in answer.kept}
    if any([len(kept) for kept in a.before] != [len(at) for at in e.tiles] for a, e in zip(expected, rows, strict=True)):
        stages.add(0)
    assert set(trace.kept) == stages
    for stage, groups in trace.kept.items():
        found: list[list[list[int]]] = [[] for _ in rows]
        for group, row in zip(groups, trace.rows[stage], strict=True):
            for tiles, b in zip(group.tolist(), row.tolist(), strict=True):
                found[b] += [tile if stage == 0 else sorted(tile) for tile in tiles]
        for own, answer, e in zip(found, expected, rows, strict=True):
            assert sorted(own) == (sorted(answer.before) if stage == 0 else [answer.kept[stage]] if e.tiles else [])


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(("case", "batch"), BOTH)
def test_generation_equals_the_masked_reference(case: str, batch: str, rule: str):
    agrees(case, batch, rule)


@pytest.mark.parametrize("rule", ["before", "fastv"])
@pytest.mark.parametrize("case", CASES)
def test_eager_attention_equals_the_reference_too(case: str, rule: str):
    with attention(runtime(case).model, "eager"):
        agrees(case, "two", rule)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("case", CASES)
def test_dropping_matters(case: str, rule: str):
    batch = "mixed" if case in VIDEO else "one"
    full = decoder(case).answer(entering(case, batch, 0).row(), Rule())
    assert (answers(case, batch, rule)[0].logits[0] - full.logits[0]).abs().max() > 0.1


# -- how many ------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("case", "batch"), BOTH)
def test_as_many_of_each_tile_as_asked(case: str, batch: str):
    """A number is meant per tile or frame, and for the map of an image's crops once for each crop but the overview."""
    rows, crops = alone(case, batch), {"llava_next hf", "llava_next_video", "llava_onevision"}
    with pruning(runtime(case).model, get_method("random"), 3, seed=5) as trace:
        generate(case, batch, max_new_tokens=1)
    found = [sorted(len(t) for g, r in groups_of(trace) for t in g[r == b].flatten(0, 1).tolist()) for b in range(len(rows))]
    for e, sizes, entered in zip(rows, found, trace.entering(LAYERS)[0].tolist(), strict=True):
        expected = [3 * _crops(case, grid) if case in crops else 3 for grid in e.grids]
        kept = [min(k, len(at)) for k, at in zip(expected, e.tiles, strict=True)]
        assert sizes == sorted(kept)
        assert entered == len(e.x) - len(e.visual) + sum(kept) + len(e.between)


def _crops(case: str, grid: tuple[int, int]) -> int:
    """Tiles that a part of a picture stands for, by its rows and columns after what was cut off."""
    known = {"llava_onevision": {(5, 8): 2, (3, 15): 3}}.get(case, {(6, 8): 4, (8, 6): 4, (4, 12): 3})
    return known.get(grid, 1)


# -- one set inside the language model -----------------------------------------------------------------------------------------
@private
@dataclass(frozen=True)
class HalfOfEach(Method):
    """Half of the tokens of each picture, those most attended to, from layer 2 on."""

    needs: ClassVar[frozenset[str]] = frozenset({"attention"})

    def plan(self, budget: int | None, n_visual: int, n_layers: int) -> dict[int, int]:
        return {2: n_visual // 2}

    def score(self, visual: Visual) -> Tensor:
        assert visual.attention is not None
        return visual.attention


@pytest.mark.parametrize("case", ["llava_next hf", "llava_next_video", "llava_onevision"])
@pytest.mark.parametrize("method", [RULES["fastv"][0], HalfOfEach])
def test_overview_and_crops_are_chosen_among_together(case: str, method: Callable[[], Method]):
    shares_the_count(case, method())


def shares_the_count(case: str, method: Method) -> None:
    """A picture is one set whose parts share the count; a choice per part would keep half of each."""
    row = entering(case, "one", 0).row()
    answer = decoder(case).answer(row, reference.fastv(len(row.visual), 0.5, 2), STEPS)
    with pruning(runtime(case).model, method, None) as trace:
        out = generate(case, "one")
    same(out, 0, answer)
    (kept,) = trace.kept[2]
    assert kept.tolist() == [[answer.kept[2]]]
    first = len(row.tiles[0])
    assert int((kept < first).sum()) != first // 2


# -- what is left behind -------------------------------------------------------------------------------------------------------
def traces_in(model: Any) -> list[tuple[str, Any]]:
    """Hooks and attributes of every module."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_forward_hooks_with_kwargs", "_forward_pre_hooks_with_kwargs")
    left = [(name, list(getattr(m, kind))) for name, m in model.named_modules() for kind in kinds if getattr(m, kind)]
    return [*left, *((name, sorted(m.__dict__)) for name, m in model.named_modules())]


@contextmanager
def failing(module: Any) -> Iterator[None]:
    def fail(*_: Any) -> None:
        raise RuntimeError("no more memory")

    handle = module.register_forward_hook(fail)
    try:
        yield
    finally:
        handle.remove()


@pytest.mark.parametrize("case", CASES)
def test_nothing_is_left_behind(case: str):
    model, (_, batch) = runtime(case).model, mate(case)
    before, plain = traces_in(model), generate(case, batch)
    with runtime(case).batch(), pruning(model, Spy(encoder_fields(case)), 2):
        generate(case, batch)
        assert traces_in(model) != before
    assert traces_in(model) == before
    broken = failing(first_layers(model)[-1]), pytest.raises(RuntimeError, match="memory")
    with broken[0], broken[1], runtime(case).batch(), pruning(model, Spy(encoder_fields(case)), 2):
        generate(case, batch)
    assert traces_in(model) == before
    with pytest.raises(RuntimeError, match="memory"), pruning(model, FailingSpy(encoder_fields(case)), 2):
        generate(case, batch)
    assert traces_in(model) == before
    assert torch.equal(torch.stack(generate(case, batch).logits), torch.stack(plain.logits))


# -- rows of a batch -----------------------------------------------------------------------------------------------------------
def answers_alone(case: str, method: Method, budget: str) -> list[tuple[AnswerText, AnswerText]]:
    """What each row of a batch is answered in it, and alone."""
    rt, (_, batch) = runtime(case), mate(case)
    with rt.batch():
        together = rt.answer(prepared(case, batch), method, budget, max_new_tokens=STEPS)
    given = [prepared_alone(case, batch, b) for b in range(len(together))]
    return [(a, *rt.answer(p, method, budget, max_new_tokens=STEPS)) for a, p in zip(together, given, strict=True)]


@pytest.mark.parametrize("case", CASES)
def test_an_answer_does_not_depend_on_the_rest_of_the_batch(case: str):
    for name, budget in (("random", "50pct"), ("divprune", "50pct"), ("script+fastv", "40pct")):
        method = get_method(name, **({"first_layer": 1} if "+" in name else {}))
        for together, own in answers_alone(case, method, budget):
            assert together.text == own.text, name
            assert {**together.tokens, "relevance": ""} == {**own.tokens, "relevance": ""}, name


@pytest.mark.parametrize("case", ["llava", "llava_next_video", "qwen2_vl"])
def test_where_relevance_came_from_does_not_depend_on_it_either(case: str):
    """A row without a picture has none, whatever the others have."""
    for together, own in answers_alone(case, get_method("cdpruner"), "50pct"):
        assert together.tokens["relevance"] == own.tokens["relevance"]


# -- the comparison can fail ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("case", ["llava_next hf", "llava_onevision"])
def test_parts_that_choose_for_themselves_are_noticed(case: str, monkeypatch: pytest.MonkeyPatch):
    broken(monkeypatch, case, lambda g: replace(g, image=None))
    with pytest.raises(AssertionError):
        shares_the_count(case, HalfOfEach())


@pytest.mark.parametrize("case", CASES)
def test_tokens_one_place_off_are_noticed(case: str, monkeypatch: pytest.MonkeyPatch):
    broken(monkeypatch, case, lambda g: replace(g, at=g.at + 1))
    with pytest.raises(AssertionError):
        agrees(*mate(case), "before")
