"""FastV and Sequential Prune: schedules to the token, budgets solved for, shares of images and frames.

The tables in `golden` are this project's own computation from the written definition of the releases, apart from this code:
240 schedules, 32 places where doubles and exact arithmetic differ, 345 shares found by scanning a grid for the nearest mean.
"""

from __future__ import annotations

import json
import math
import re
import warnings
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from script_vlmeval.errors import UserError
from script_vlmeval.methods import Method, Visual, catalogue, get_method
from script_vlmeval.methods._schedule import events, kept, sequential, single, solve_sequential, solve_single

GOLDEN = Path(__file__).parent / "golden"
BOTH = ("fastv", "seqprune")


def table(name: str) -> list[dict[str, Any]]:
    read = json.loads((GOLDEN / name).read_text())
    return [dict(zip(read["columns"], row, strict=True)) for row in read["rows"]]


def per_layer(plan: dict[int, int], n: int, layers: int) -> list[int]:
    """The visual tokens that enter each layer."""
    counts = []
    for layer in range(layers):
        counts.append(plan.get(layer, counts[-1] if counts else n))
    return counts


def method_of(row: dict[str, Any], **params: object) -> Method:
    step = {"step": row["step"]} if row["method"] == "seq" else {}
    return get_method({"seq": "seqprune", "fastv": "fastv"}[row["method"]], first_layer=row["K"], **step, **params)


# -- published schedules -------------------------------------------------------------------------------------------------------
def test_the_recorded_schedules():
    rows = table("in_llm_schedules.json")
    assert len(rows) == 240
    for row in rows:
        counts = per_layer(method_of(row, removed=row["R"]).plan(None, row["N"], row["L"]), row["N"], row["L"])
        assert counts == [count for count, layers in row["counts_and_layers"] for _ in range(layers)], row
        assert round(sum(counts) / row["L"], 3) == row["avg_visual"], row


def test_the_float_traps():
    traps = json.loads((GOLDEN / "in_llm_schedules.json").read_text())["traps"]
    assert len(traps) == 32
    for trap in traps:
        if trap["kind"] == "events":
            ours, exact = events(trap["R"], trap["step"]), int(Fraction(str(trap["R"])) * 100 / trap["step"])
        else:
            n, fraction = trap["N"], Fraction(str(trap["frac"]))
            exact = int((1 - fraction) * n)
            steps = int(fraction * 10)  # as the event of a schedule that many tenths on, or as what is removed in the end
            ours = sequential(1.0, n, 40, 2, 10)[1 + steps] if trap["kind"] == "count_product" else kept(trap["frac"], n)
        assert (ours, exact) == (trap["official"], trap["exact"]), trap


def test_the_schedules_by_hand():
    seqprune = get_method("seqprune", removed=0.75, first_layer=2, step=10)
    assert seqprune.plan(None, 576, 32) == {2: 518, 3: 460, 4: 403, 5: 345, 6: 288, 7: 230, 8: 144}
    assert get_method("fastv", removed=0.75, first_layer=3).plan(None, 576, 32) == {3: 144}
    assert get_method("seqprune", removed=0.5, step=30).plan(None, 576, 32) == {2: 288}  # one event: FastV
    assert get_method("seqprune", removed=1).plan(None, 576, 32)[11] == 0
    assert get_method("fastv", removed=1).plan(None, 576, 32) == {2: 0}


def test_rounding_to_the_nearest_is_half_to_even():
    for n, down, nearest in ((5, 2, 2), (7, 3, 4), (576, 288, 288)):
        assert get_method("fastv", removed=0.5).plan(None, n, 8) == {2: down}
        assert get_method("fastv", removed=0.5, rounding="nearest").plan(None, n, 8) == {2: nearest}


def test_less_than_a_step_warns_and_removes_nothing():
    with pytest.warns(UserWarning, match="no pruning"):
        assert get_method("seqprune", removed=0.09).plan(None, 576, 32) == {}
    with pytest.warns(UserWarning, match="no pruning"):
        assert get_method("fastv", removed=0).plan(None, 576, 32) == {}


def test_a_model_that_ends_before_the_target_warns():
    with pytest.warns(
        UserWarning, match="target not reached: 'seqprune' removes 0.9 in 9 layers from layer 2 on, and this model"
    ):
        assert get_method("seqprune", removed=0.9).plan(None, 100, 10) == dict(enumerate([90, 80, 70, 60, 50, 39, 29, 19], 2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert get_method("seqprune", removed=0.9).plan(None, 100, 11)[10] == 9  # the last layer is enough
        assert get_method("seqprune", step=1).plan(97, 100, 10)  # a budget has no target that could be missed


@pytest.mark.parametrize("name", BOTH)
def test_a_layer_that_the_model_does_not_have(name: str):
    method = get_method(name, first_layer=8)
    for budget, asked in ((None, replace(method, removed=0.5)), (20, method)):
        with pytest.raises(UserError, match="entry of layer 8 was asked for; this model has layers 0 to 7"):
            asked.plan(budget, 64, 8)


# -- budgets -------------------------------------------------------------------------------------------------------------------
@cache
def grid(method: str, n: int, layers: int, first_layer: int, step: float) -> list[tuple[float, int]]:
    """Share, on a grid of 0.001, and what all layers see of it."""
    found = []
    for removed in (i / 1000 for i in range(1, 1001)):
        plan = single(removed, n, first_layer) if method == "fastv" else sequential(removed, n, layers, first_layer, step)
        found.append((removed, sum(per_layer(plan, n, layers))))
    return found


def test_the_recorded_budgets():
    rows = table("in_llm_budgets.json")
    assert len(rows) == 345
    for row in rows:
        n, layers, target = row["N"], row["L"], row["target"]
        scan = grid(row["method"], n, layers, row["K"], row["step"])
        removed, total = min(scan, key=lambda found: abs(found[1] / layers - target))
        mean = total / layers
        near = abs(mean - target) <= max(1, 0.02 * target)
        assert (removed, round(mean, 2), near) == (row["R"], row["avg"], row["reachable"]), row
        below = max((total for _, total in scan if total <= target * layers), default=None)
        try:
            plan = method_of(row).plan(target, n, layers)
        except UserError:
            assert below is None, row
        else:
            assert (below or 0) <= sum(per_layer(plan, n, layers)) <= target * layers, row


@st.composite
def asked(draw: st.DrawFn) -> tuple[Method, int, int]:
    """A method, tokens and layers."""
    layers = draw(st.integers(2, 48))
    first_layer = draw(st.integers(1, min(layers - 1, 8)))
    n = draw(st.integers(1, 200) | st.integers(1, 20_000))
    if draw(st.booleans()):
        return get_method("fastv", first_layer=first_layer, rounding=draw(st.sampled_from(["down", "nearest"]))), n, layers
    step = draw(st.integers(1, 100) | st.floats(0.5, 100))
    return get_method("seqprune", first_layer=first_layer, step=step), n, layers


def solved(method: Method, budget: int, n: int, layers: int) -> float:
    first: Any = method
    if method.name == "fastv":
        return solve_single(budget, n, layers, first.first_layer, first.rounding == "nearest")
    return solve_sequential(budget, n, layers, first.first_layer, first.step)


@given(asked(), st.data())
def test_a_budget_is_a_mean_that_is_never_exceeded(example: tuple[Method, int, int], data: st.DataObject):
    method, n, layers = example
    budget = data.draw(st.integers(0, n))
    try:
        plan = method.plan(budget, n, layers)
    except UserError as refused:
        floor = int(re.search(r"smallest budget here is (\d+)", str(refused))[1])
        assert budget < floor
        assert sum(per_layer(method.plan(floor, n, layers), n, layers)) <= floor * layers
        with pytest.raises(UserError, match=f"smallest budget here is {floor}"):
            method.plan(floor - 1, n, layers)
        return
    counts = per_layer(plan, n, layers)
    assert sum(counts) <= budget * layers
    assert counts == sorted(counts, reverse=True)
    assert min(counts) >= 0
    assert all(method.first_layer <= stage < layers for stage in plan)  # type: ignore[attr-defined]
    removed = solved(method, budget, n, layers)
    assert (removed > 0) == (budget < n)
    if not removed:
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the schedule may go beyond the model's last layer
        assert replace(method, removed=removed).plan(None, n, layers) == plan  # type: ignore[type-var]


def shares(n: int, step: float) -> Iterator[float]:
    """At least one share of every schedule that there is: the borders of all counts, and the doubles around them."""
    borders = [i / n for i in range(n + 1)] + [i * step / 100 for i in range(int(100 / step) + 2)]
    borders += [(i + 0.5) / n for i in range(n)]
    for border in borders:
        low = high = min(border, 1.0)
        for _ in range(6):
            yield from (low, high)
            low, high = max(0.0, math.nextafter(low, 0)), min(1.0, math.nextafter(high, 1))


@pytest.mark.parametrize(
    ("n", "layers", "first_layer", "step"),
    [
        (7, 6, 1, 10),
        (23, 8, 2, 10),
        (23, 8, 6, 15),
        (40, 12, 2, 25),
        (40, 12, 3, 30.5),
        (11, 5, 1, 60),
        (9, 4, 3, 100),
        (30, 9, 2, 2),
    ],
)
def test_no_share_comes_nearer_to_a_budget(n: int, layers: int, first_layer: int, step: float):
    def total(plan: dict[int, int]) -> int:
        return sum(per_layer(plan, n, layers))

    tried = sorted(set(shares(n, step)))
    families = {
        get_method("seqprune", first_layer=first_layer, step=step): lambda r: sequential(r, n, layers, first_layer, step),
        get_method("fastv", first_layer=first_layer): lambda r: single(r, n, first_layer),
        get_method("fastv", first_layer=first_layer, rounding="nearest"): lambda r: single(r, n, first_layer, True),
    }
    for method, plan_of in families.items():
        totals = [total(plan_of(removed)) for removed in tried]
        for budget in range(n):
            best = max((t for t in totals if t <= budget * layers), default=None)
            if best is None:
                with pytest.raises(UserError, match="cannot be had"):
                    method.plan(budget, n, layers)
                continue
            assert total(method.plan(budget, n, layers)) == best, (method, budget)
            smallest = tried[totals.index(best)]
            assert solved(method, budget, n, layers) <= smallest, "of several shares, the smallest"


@pytest.mark.parametrize("name", BOTH)
def test_a_budget_of_everything_removes_nothing(name: str):
    for budget in (64, 65):
        assert get_method(name).plan(budget, 64, 32) == {}
        assert get_method(name, first_layer=40).plan(budget, 64, 32) == {}


def test_a_budget_may_leave_no_token_in_the_end():
    assert get_method("fastv").plan(36, 576, 32) == {2: 0}


def test_what_cannot_be_had_says_what_can():
    with pytest.raises(UserError) as fastv:
        get_method("fastv", first_layer=3).plan(35, 576, 32)
    assert str(fastv.value) == (
        "A mean of 35 visual tokens per layer cannot be had: 3 of 32 layers see all 576. "
        "The smallest budget here is 54, 18 with first_layer=1."
    )
    with pytest.raises(UserError) as seqprune:
        get_method("seqprune").plan(64, 576, 32)
    assert str(seqprune.value) == (
        "A mean of 64 visual tokens per layer cannot be had: 2 of 32 layers see all 576, and later ones lose 10 percent each. "
        "The smallest budget here is 116, 98 with first_layer=1, 59 with step=25."
    )
    assert sum(per_layer(get_method("seqprune", step=25).plan(64, 576, 32), 576, 32)) <= 64 * 32
    with pytest.raises(UserError, match=r"The smallest budget here is 55, 19 with layer=1\.$"):
        get_method("dart", layer=3).plan(35, 576, 32)
    assert get_method("dart", layer=1).plan(19, 576, 32)
    with pytest.raises(UserError, match=r"The smallest budget here is 18\.$"):
        get_method("fastv", first_layer=1).plan(17, 576, 32)


def test_many_tokens_are_no_slower_than_few(monkeypatch: pytest.MonkeyPatch):
    calls = 0

    def counted(removed: float, n: int, nearest: bool = False) -> int:
        nonlocal calls
        calls += 1
        return kept(removed, n, nearest)

    monkeypatch.setattr("script_vlmeval.methods._schedule.kept", counted)
    solve_sequential(16_000, 19_991, 48, 2, 1)
    assert 0 < calls < 48 * 100
    calls = 0
    solve_sequential(16_000, 19_991, 48, 2, 1)
    assert calls == 0


# -- contradictions ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", BOTH)
def test_a_budget_and_a_share_contradict_each_other(name: str):
    with pytest.raises(UserError, match=r"budget of 64 visual tokens contradicts removed=0.75.*\(r75k3\)"):
        get_method(name, removed=0.75, first_layer=3).plan(64, 576, 32)
    with pytest.raises(UserError, match=r"was not told how much to remove.*removed=0\.75"):
        get_method(name).plan(None, 576, 32)


@pytest.mark.parametrize("name", BOTH)
def test_a_schedule_named_as_the_budget(name: str):
    method = get_method(name)
    set_up = method.scheduled(0.75, 3)
    assert set_up == get_method(name, removed=0.75, first_layer=3)
    assert set_up.scheduled(0.75, 3) == set_up
    assert method == get_method(name), "the method itself is left alone"
    assert get_method(name, first_layer=3).scheduled(0.75, 3) == set_up
    assert get_method(name, removed=0.75).scheduled(0.75, 3) == set_up, "2 is the default and nobody's wish"
    assert get_method(name, per="image").scheduled(0.75, 3).parameters()["per"] == "image"
    with pytest.raises(UserError, match=r"r75k2 contradicts removed=0\.5"):
        get_method(name, removed=0.5).scheduled(0.75, 2)
    with pytest.raises(UserError, match="r75k2 contradicts first_layer=5"):
        get_method(name, first_layer=5).scheduled(0.75, 2)


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        *((name, {"removed": 1.1}, "needs removed from 0 to 1") for name in BOTH),
        *((name, {"removed": float("nan")}, "needs removed from 0 to 1") for name in BOTH),
        *((name, {"first_layer": 0}, "first_layer of at least 1") for name in BOTH),
        *((name, {"per": "batch"}, "per 'sample', 'image' or 'frame'") for name in BOTH),
        ("seqprune", {"step": 0}, "step above 0"),
        ("seqprune", {"step": 1e-320}, "step above 0"),
        ("seqprune", {"step": 101}, "at most 100 percent"),
        ("fastv", {"rounding": "up"}, "rounding 'down' or 'nearest'"),
    ],
)
def test_parameters_that_there_are_not(name: str, params: dict[str, object], message: str):
    with pytest.raises(UserError, match=message):
        get_method(name, **params)


@pytest.mark.parametrize("name", BOTH)
def test_what_is_known_without_importing_it(name: str):
    info, method = catalogue()[name], get_method(name)
    assert set(info.needs) == method.needs == {"attention", "image", "frame"}
    assert [p for p, _ in info.params if p != "merge"] == list(method.parameters())
    assert method.union
    assert not method.reprunes()
    assert get_method(name, reprune_each_step=True).reprunes()


# -- which tokens --------------------------------------------------------------------------------------------------------------
def view(attention: Tensor, image: Tensor | None = None, frame: Tensor | None = None) -> Visual:
    """Rows of attention (B, N) as a stage inside the language model sees them."""
    none = torch.zeros_like(attention, dtype=torch.long)
    image, frame = (none if unit is None else unit for unit in (image, frame))
    return Visual(attention[:, None, :, None], attention=attention[:, None], image=image[:, None], frame=frame[:, None])


@pytest.mark.parametrize("name", BOTH)
def test_the_most_attended_stay_and_ties_go_to_the_earlier(name: str):
    visual = view(torch.tensor([[0.1, 0.3, 0.2, 0.3, 0.2, 0.2], [0.0, 0.0, 0.0, 0.0, 0.0, 0.0]]))
    method = get_method(name)
    assert method(visual, 4).keep[:, 0].tolist() == [[1, 2, 3, 4], [0, 1, 2, 3]]
    assert method.order(visual, 3)[0, 0].tolist() == [1, 3, 2]
    nearly = torch.tensor([0.25, 0.25]).double().nextafter(torch.tensor([0.0, 1.0]).double())
    assert method(view(nearly[None]), 1).keep.tolist() == [[[1]]], "what differs by one bit is no tie"


@pytest.mark.parametrize("name", BOTH)
def test_outside_the_language_model_there_is_no_attention(name: str):
    with pytest.raises(UserError, match="works inside the language model"):
        get_method(name)(replace(view(torch.rand(1, 4)), attention=None), 2)
    with pytest.raises(UserError, match="NaN or infinity in the attention"):
        get_method(name)(replace(view(torch.rand(1, 4)), attention=torch.full((1, 1, 4), torch.nan)), 2)


def by_quota(attention: list[float], unit: list[int], k: int) -> list[int]:
    """The definition, token by token."""
    n, units = len(unit), sorted(set(unit))
    exact = {u: Fraction(k * unit.count(u), n) for u in units}
    quota = {u: int(share) for u, share in exact.items()}
    for u in sorted(units, key=lambda u: (quota[u] - exact[u], u))[: k - sum(quota.values())]:
        quota[u] += 1
    ranked = {u: sorted((i for i in range(n) if unit[i] == u), key=lambda i: (-attention[i], i)) for u in units}
    return sorted(i for u in units for i in ranked[u][: quota[u]])


@given(st.data())
def test_images_and_frames_keep_their_share(data: st.DataObject):
    rows, n = data.draw(st.integers(1, 3)), data.draw(st.integers(2, 24))
    k = data.draw(st.integers(1, n - 1))
    some = st.lists(st.lists(st.integers(0, 7), min_size=n, max_size=n), min_size=rows, max_size=rows)  # gaps, ties, any order
    attention, image, frame = (torch.tensor(data.draw(some)) for _ in range(3))
    visual = view(attention / 7, image, 1000 * frame)
    for per, unit in (("image", image), ("frame", frame)):
        method = get_method(data.draw(st.sampled_from(BOTH)), per=per)
        expected = [by_quota(a, u, k) for a, u in zip(attention.tolist(), unit.tolist(), strict=True)]
        assert method(visual, k).keep[:, 0].tolist() == expected
        assert method.select_many(visual, [k, 1])[0][:, 0].tolist() == expected, "not a part of a larger budget's choice"
        best_first = attention[:, None].gather(-1, method.order(visual, k)).diff()
        assert (best_first <= 0).all()


@pytest.mark.parametrize("name", BOTH)
def test_one_image_is_the_sample(name: str):
    visual = view(torch.rand(2, 30, generator=torch.Generator().manual_seed(0)))
    choices = [get_method(name, per=per)(visual, 11).keep for per in ("sample", "image", "frame")]
    assert torch.equal(choices[0], choices[1])
    assert torch.equal(choices[0], choices[2])
    assert get_method(name).nested
    assert not get_method(name, per="image").nested
