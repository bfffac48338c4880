"""What a batch's contexts share of the language model's work: nobody can tell from the answers, and it is done once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import flash
import pytest
import torch
from family_cases import A, B, attention, message, runtime
from torch import Tensor, nn

from script_vlmeval.begun import Begun, opening
from script_vlmeval.cache import roomy
from script_vlmeval.errors import UserError
from script_vlmeval.methods import get_method
from script_vlmeval.prune import pruning
from script_vlmeval.runtime import Prepared

STEPS, ROWS = 3, 9
CASES = ("llava", "llava_next paper", "qwen2_vl", "qwen2_5_vl", "internvl", "qwen3_vl")
CONFIGS: dict[str, tuple[str, dict[str, Any], str | None]] = {  # a method, its parameters and the budget
    "random 10": ("random", {}, "10pct"),
    "its own layer": ("pyramiddrop", {"layers": "2,3"}, "70pct"),  # overhears nobody
    "divprune 25": ("divprune", {}, "25pct"),
    "late fastv": ("fastv", {"first_layer": 3}, "80pct"),
    "sequential": ("seqprune", {"first_layer": 3, "step": 50}, "90pct"),
    "fastv r75k2": ("fastv", {}, "r75k2"),
    "fastv r50k1": ("fastv", {}, "r50k1"),
    "text raters, merging": ("sparsevlm", {"layers": "1,2,3"}, "60pct"),
    "cdpruner 60": ("cdpruner", {}, "60pct"),
    "keys of the layer": ("dart", {}, "60pct"),
    "hybrid": ("cdpruner+fastv", {"first_layer": 2}, "25pct"),
    "fastv r90k2": ("fastv", {}, "r90k2"),
    "all": ("full", {}, None),
    "divprune 90": ("divprune", {}, "90pct"),
}
OPENINGS: dict[str, tuple[list[list[int]], bool, int]] = {  # ids (9: a picture, 0: padding), whether masked, what is expected
    "padded": ([[0, 0, 1, 2, 3, 9, 4], [1, 2, 3, 9, 9, 5, 6]], True, 3),
    "padding that all have": ([[0, 0, 1, 9, 4], [0, 0, 1, 9, 4]], True, 1),
    "no mask": ([[0, 0, 1, 9, 4], [0, 0, 1, 9, 4]], False, 3),
    "no picture": ([[0, 0, 1, 2, 3], [1, 2, 3, 9, 5]], True, 2),
    "no picture anywhere": ([[1, 2, 3, 4], [1, 2, 3, 4]], True, 3),
    "one word alone": ([[0, 0, 0, 1], [1, 2, 9, 5]], True, 0),
    "others at once": ([[1, 2, 9], [3, 2, 9]], True, 0),
    "alike again": ([[1, 2, 5, 4, 9], [1, 2, 6, 4, 9]], True, 2),
    "question first": ([[0, 1, 2, 9, 7], [1, 2, 3, 9, 7]], True, 2),
    "picture first": ([[9, 9, 1, 2], [1, 2, 9, 9]], True, 0),
    "one row": ([[0, 1, 2, 3, 9, 4, 9]], True, 3),
}


@pytest.mark.parametrize("name", OPENINGS)
def test_the_words_that_all_rows_begin_with(name: str):
    rows, masked, expected = OPENINGS[name]
    ids = torch.tensor(rows)
    assert opening(ids, (ids != 0).long() if masked else None, ids == 9) == expected


# -- asking --------------------------------------------------------------------------------------------------------------------
@cache
def batch(case: str, rows: int = ROWS) -> Prepared:
    """Prompts of unequal length that begin alike, one with two pictures and one without any."""
    start, sizes = "Look closely.", ((120, 150), (200, 150)) if case.startswith("qwen") else (B, A)
    asked: list[list[Any]] = [[start, sizes[b % 2], "really " * (b % 4) + f"what {b}?"] for b in range(rows)]
    asked[1], asked[2] = [start, "hello?"], [start, *sizes, "or?"]
    return runtime(case).prepare([message(parts) for parts in asked])


def layers(case: str) -> Any:
    return runtime(case).model.model.language_model.layers


@contextmanager
def kernel(case: str, kind: str) -> Iterator[None]:
    with attention(runtime(case).model, "eager" if kind == "eager" else "sdpa"):
        if kind == "flash":
            flash.through_flash(runtime(case).model)
        yield


def ask(
    case: str, name: str, begun: Begun | None, rows: int = ROWS, steps: int = STEPS, asked: Prepared | None = None
) -> tuple[Tensor, list[Any]]:
    """(B, steps, V) logits; tokens and all that is counted. begun: None for transformers' own cache and nothing shared."""
    model, prepared, (method, params, budget) = runtime(case).model, asked or batch(case, rows), CONFIGS[name]
    options = {"do_sample": False, "max_new_tokens": steps, "output_logits": True, "return_dict_in_generate": True}
    own = {"seed": list(range(rows)), "question": prepared.questions, "begun": begun}
    with torch.no_grad(), pruning(model, get_method(method, **params), budget, **own) as trace:
        cache = {} if begun is None else {"past_key_values": roomy(model, steps)}
        out = model.generate(**prepared.inputs, **options, **cache)
    kept = {stage: [keep.tolist() for keep in own] for stage, own in trace.kept.items()}
    entering = trace.entering(len(layers(case))).tolist()
    return torch.stack(out.logits, 1), [out.sequences[:, -steps:].tolist(), entering, list(trace.lengths), kept]


@cache
def alone(case: str, name: str, kind: str, rows: int = ROWS) -> tuple[Tensor, list[Any]]:
    return ask(case, name, None, rows)


def agrees(case: str, name: str, begun: Begun, kind: str = "sdpa", rows: int = ROWS) -> None:
    (logits, counts), (expected, others) = ask(case, name, begun, rows), alone(case, name, kind, rows)
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5, msg=lambda said: f"{name}: {said}")
    assert counts == others, name


# -- nobody can tell -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("case", "kind"), [*((case, "sdpa") for case in CASES), ("llava", "flash"), ("llava", "eager"), ("qwen2_5_vl", "eager")]
)
def test_configurations_in_any_order_are_answered_as_alone(case: str, kind: str):
    begun = Begun(batch(case).begun.opening)
    assert begun.opening >= 8
    assert not batch(case).inputs["attention_mask"].all()
    with kernel(case, kind), runtime(case).batch():
        for name in CONFIGS:
            agrees(case, name, begun, kind)
    assert len(begun._layers) == 3
    assert bool(begun._prefix) == (case != "qwen3_vl"), "features that are added after layers stand in the way"


@pytest.mark.parametrize(("name", "budgets"), [("fastv", ("r50k1", "r75k2")), ("divprune", ("4", "8"))])
def test_the_runtime_shares_layers_where_there_is_more_than_one_budget(name: str, budgets: tuple[str, ...]):
    """And the opening always, so that no bit depends on which other configurations are asked."""
    run, found = runtime("llava"), []
    for prepared, given in ((run.place(batch("llava")), ()), (shared := run.place(batch("llava")), budgets)):
        found.append([run.answer(prepared, get_method(name), b, budgets=given, max_new_tokens=STEPS) for b in budgets])
        assert bool(prepared.begun._layers) == (bool(given) and name == "fastv")
        assert prepared.begun._prefix
    assert found[0] == found[1]
    fresh = run.place(shared).begun
    assert not fresh._layers
    assert not fresh._prefix


# -- done once -----------------------------------------------------------------------------------------------------------------
@contextmanager
def ran() -> Iterator[list[tuple[int, tuple[int, int]]]]:
    """(layer, (rows, tokens)) whenever a layer's attention is called, be it for queries and keys alone."""
    passes: list[tuple[int, tuple[int, int]]] = []

    def watch(i: int) -> Callable[..., None]:
        return lambda m, a, kwargs: passes.append((i, tuple(kwargs["hidden_states"].shape[:2])))

    own = [layer.self_attn for layer in layers("llava")]
    handles = [module.register_forward_pre_hook(watch(i), with_kwargs=True) for i, module in enumerate(own)]
    try:
        yield passes
    finally:
        for handle in handles:
            handle.remove()


CALLS = {  # of layers' attention; pyramiddrop asks the layer of its stage for keys and for a query before it runs
    "its own layer": ([0, 1, 2, 2, 2, 3, 3, 3], [0, 1, 2, 2, 2, 3, 3, 3]),
    "late fastv": ([2, 3], [2, 2, 3]),  # for the query, where nobody can be overheard
    "sequential": ([3], [2, 2, 3]),
    "fastv r75k2": ([1, 2, 3], [1, 1, 2, 3]),
    "fastv r90k2": ([2, 3], [1, 1, 2, 3]),
}


@pytest.mark.parametrize("kind", ["sdpa", "eager"])
def test_layers_before_the_first_stage_run_once(kind: str):
    """Once more where somebody overhears them who did not before; a kernel without a name cannot be overheard."""
    begun = Begun()
    with kernel("llava", kind):
        for name, calls in CALLS.items():
            with ran() as passes:
                ask("llava", name, begun, steps=1)
            assert [i for i, _ in passes] == calls[kind == "eager"], name


@pytest.mark.parametrize(("rows", "p"), [(ROWS, None), (8, 8), (7, None), (ROWS, 7), (ROWS, 0)])
def test_the_opening_is_read_once_where_that_is_worth_it(rows: int, p: int | None):
    """Of fewer than 8 rows or tokens each row reads its own."""
    begun = Begun(batch("llava", rows).begun.opening if p is None else p)
    shared = begun.opening if rows >= 8 and begun.opening >= 8 else 0
    for n, name in enumerate(("divprune 25", "divprune 90", "random 10")):
        length = alone("llava", name, "sdpa", rows)[1][2][0]
        with ran() as passes:
            agrees("llava", name, begun, rows=rows)
        first = [(1, shared)] * bool(shared and not n) + [(rows, length - shared)]
        assert [shape for i, shape in passes if i == 0] == [*first, *[(rows, 1)] * (STEPS - 1)]


# -- nothing is left behind ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", ["sdpa", "eager"])
@pytest.mark.parametrize(  # layer, x: its attention, from how many rows on (the opening's pass: 1)
    "failing",
    ["divprune 25,2,,1", "divprune 25,2,x,2", "fastv r75k2,0,,2", "fastv r75k2,1,x,2", "late fastv,1,x,2", "late fastv,3,,2"],
)
def test_a_pass_that_fails_leaves_nothing(failing: str, kind: str):
    name, number, inner, least = failing.split(",")

    def fail(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if len(args[0] if args else kwargs["hidden_states"]) >= int(least):
            raise RuntimeError("no more memory")

    prepared, model, begun = batch("llava"), runtime("llava").model, Begun(batch("llava").begun.opening)
    method, params, budget = CONFIGS[name]
    with kernel("llava", kind), pruning(model, get_method(method, **params), budget, begun=begun):
        where = layers("llava")[int(number)]
        handle = (where.self_attn if inner else where).register_forward_pre_hook(fail, with_kwargs=True)
        for _ in range(2):
            with torch.no_grad(), pytest.raises(RuntimeError, match="no more memory"):
                model.generate(**prepared.inputs, max_new_tokens=1, past_key_values=roomy(model, 1))
            assert not [i for i, own in enumerate(layers("llava")) if "forward" in own.__dict__]
            assert where.self_attn.config._attn_implementation == kind
        handle.remove()
        with torch.no_grad():  # on in the same context
            out = model.generate(**prepared.inputs, max_new_tokens=STEPS, past_key_values=roomy(model, STEPS))
    with kernel("llava", kind):
        assert out[:, -STEPS:].tolist() == alone("llava", name, kind)[1][0]
        for other in (name, "fastv r50k1", "divprune 90"):
            agrees("llava", other, begun, kind)


def test_a_layer_s_own_forward_is_put_back():
    """Libraries that place models on devices put one there."""
    one, other = nn.Identity(), nn.Identity()
    own = one.forward = lambda *args, **kwargs: None
    undo = Begun().share([one, other], lambda: None)
    assert all(layer.__dict__["forward"] is not own for layer in (one, other))
    for _ in range(2):
        undo()
        assert one.__dict__["forward"] is own
        assert "forward" not in other.__dict__


@pytest.mark.parametrize("case", ["llava", "qwen3_vl"])
def test_what_is_remembered_stays_as_it_is(case: str):
    """Decoding goes on behind it; merging and added features work on copies."""
    begun, found = Begun(batch(case).begun.opening), []
    for name in ("late fastv", "divprune 25"):
        ask(case, name, begun, steps=1)
    for layer in begun._layers.values():
        found += [layer.output[0] if isinstance(layer.output, tuple) else layer.output, layer.keys, layer.values]
    found += [begun._layers[2].query, *(x for pair in begun._prefix for x in pair)]
    before = [x.clone() for x in found]
    for name in ("text raters, merging", "fastv r50k1", "late fastv", "divprune 90"):
        ask(case, name, begun, steps=8)
    assert all(torch.equal(x, then) for x, then in zip(found, before, strict=True))


# -- stages inside, behind the opening -----------------------------------------------------------------------------------------
INSIDE = ("its own layer", "sequential", "text raters, merging", "keys of the layer", "hybrid")


def test_stages_inside_go_on_behind_the_opening():
    """The opening is read once, and what is behind it once, or again where it was shortened before."""
    begun, p = Begun(batch("llava").begun.opening), batch("llava").begun.opening
    behind = {name: (ROWS, alone("llava", name, "sdpa")[1][2][0] - p) for name in ("sequential", "hybrid")}
    expected = {"sequential": [(1, p), behind["sequential"]], "late fastv": [], "hybrid": [behind["hybrid"]], "fastv r90k2": []}
    for name, shapes in expected.items():
        with ran() as passes:
            agrees("llava", name, begun)
        assert [shape for i, shape in passes if i == 0 and shape[1] > 1] == shapes, name


@pytest.mark.parametrize(("case", "kind"), [("llava", "sdpa"), ("llava", "flash"), ("qwen2_5_vl", "flash")])
def test_rows_of_one_length_become_ragged_behind_the_opening(case: str, kind: str):
    """Some kernels are given no mask before that."""
    sizes = ((120, 150), (200, 150)) if case.startswith("qwen") else (A, B)
    asked = runtime(case).prepare([message(["Look closely.", sizes[0], f"what {b}?"]) for b in range(ROWS)])
    assert asked.inputs["attention_mask"].all()
    begun = Begun(asked.begun.opening)
    with kernel(case, kind):
        for name in INSIDE:
            (logits, counts), (expected, others) = (ask(case, name, b, asked=asked) for b in (begun, None))
            torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)
            assert counts == others, name
    assert begun._prefix


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", ["late fastv", "its own layer", "hybrid"])
def test_a_direct_forward_shares_the_opening_where_rows_end_together(name: str, side: str):
    """Padding on the right is cut by what is dropped before the language model, and stays where nothing is."""
    model, inputs = runtime("llava").model, dict(batch("llava").inputs)
    if side == "right":
        for key in ("input_ids", "attention_mask"):
            pads = (inputs["attention_mask"] == 0).sum(1).tolist()
            inputs[key] = torch.stack([row.roll(-n) for row, n in zip(batch("llava").inputs[key], pads, strict=True)])
    (method, params, budget), found = CONFIGS[name], []
    begun = Begun(batch("llava").begun.opening)
    for shared in (None, begun, begun):
        with torch.no_grad(), pruning(model, get_method(method, **params), budget, begun=shared) as trace:
            logits = model(**inputs, past_key_values=roomy(model, 1), use_cache=True).logits
        found.append((logits[:, -1], trace.entering(len(layers("llava")))))  # what is dropped leaves padding on the left alone
    assert bool(begun._prefix) == (side == "left" or name == "hybrid")
    (expected, counted), *others = found
    for logits, entering in others:
        assert torch.equal(entering, counted)
        torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["divprune 25", "fastv r75k2"])
def test_without_a_cache_it_is_refused_or_makes_no_difference(name: str):
    (method, params, budget), model, found = CONFIGS[name], runtime("llava").model, []
    for begun in (None, Begun(batch("llava").begun.opening)):
        with torch.no_grad(), pruning(model, get_method(method, **params), budget, begun=begun):
            try:
                found.append(model(**batch("llava").inputs, use_cache=False).logits[:, -1])
                model.generate(**batch("llava").inputs, max_new_tokens=1, use_cache=False)
            except UserError:
                continue
    assert all(torch.allclose(logits, found[0], atol=1e-5) for logits in found)
