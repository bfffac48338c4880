"""PyramidDrop and SparseVLM: their schedules as published, and what they choose against slow restatements of what they say."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from script_vlmeval.errors import UserError
from script_vlmeval.methods import Method, Visual, get_method
from script_vlmeval.methods.sparsevlm import density_peaks, split, totals

PUBLISHED = {  # nominal budget -> what is kept, tokens with the merged ones, their mean over 32 layers
    192: ((300, 200, 110), (309, 204, 113), 206.5),
    128: ((303, 110, 36), (312, 117, 39), 145.40625),
    96: ((238, 48, 26), (249, 55, 27), 114.09375),
    64: ((66, 30, 17), (82, 32, 18), 82.25),
}


def mean(plan: dict[int, int], n: int, layers: int) -> float:
    """Visual tokens per layer."""
    entering = []
    for layer in range(layers):
        n = plan.get(layer, n)
        entering.append(n)
    return sum(entering) / layers


def case(b: int = 2, n: int = 40, m: int = 6, d: int = 12, *, seed: int = 0, before: int = 0) -> Visual:
    """A stage that n tokens reach, `before` of the first having been dropped; the last row of the text is padding."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    mask = torch.ones(b, m, dtype=torch.bool)
    mask[:, -1] = False
    mask[1:, 1:2] = False
    return Visual(
        tokens=normal(b, 1, n, d),
        ahead=normal(b, 1, n).softmax(-1),
        text=normal(b, m, d),
        text_mask=mask,
        text_attention=normal(b, 1, m, n + 7).softmax(-1)[..., :n].transpose(2, 3).contiguous(),
        given=normal(b, 1, n + before, d) / 2,
        text_given=normal(b, m, d),
    )


def only(visual: Visual, row: int) -> Visual:
    """One sample alone."""
    changed: dict[str, Any] = {k: v[row : row + 1] for k, v in vars(visual).items() if isinstance(v, Tensor)}
    return replace(visual, **changed)


# -- PyramidDrop: schedules ---------------------------------------------------------------------------------------------------
def test_pyramiddrop_has_the_papers_schedule_without_a_budget():
    assert get_method("pyramiddrop").plan(None, 576, 32) == {8: 288, 16: 144, 24: 72}
    assert get_method("pyramiddrop", ratio=0.5).plan(None, 576, 32) == {8: 288, 16: 144, 24: 72}
    assert mean({8: 288, 16: 144, 24: 72}, 576, 32) == 270
    assert get_method("pyramiddrop").plan(None, 576, 40) == {10: 288, 20: 144, 30: 72}
    assert get_method("pyramiddrop").plan(None, 7, 4) == {1: 3, 2: 1}  # at least one token; a stage that drops none is left out


def test_pyramiddrop_budget_270_is_the_papers_schedule():
    assert get_method("pyramiddrop").plan(270, 576, 32) == {8: 288, 16: 144, 24: 72}


@pytest.mark.parametrize(("n", "layers"), [(576, 32), (577, 28), (64, 4), (9, 7)])
def test_pyramiddrop_budget_is_the_largest_mean_that_a_ratio_gives(n: int, layers: int):
    method = get_method("pyramiddrop")
    stages = (max(1, layers // 4), max(2, layers // 2), max(3, 3 * layers // 4))
    spans = np.diff([0, *stages, layers])
    roots = {(c / n) ** (1 / s) for s in (1, 2, 3) for c in range(n + 1)}
    exact = {r + e for r in roots for e in (-1e-9, 1e-9) if 0 < r + e < 1}
    sums = {int(np.dot(spans, [n, *(max(1, math.floor(n * r**s)) for s in (1, 2, 3))])) for r in exact}
    floor = -(-(stages[0] * n + layers - stages[0]) // layers)
    for budget in range(floor, n, max(1, n // 9)):
        plan = method.plan(budget, n, layers)
        assert set(plan) <= set(stages)
        assert mean(plan, n, layers) == max(s for s in sums if s <= budget * layers) / layers
    with pytest.raises(UserError, match=f"smallest budget here is {floor}"):
        method.plan(floor - 1, n, layers)


def test_pyramiddrop_reads_a_ratio_as_it_is_written():
    assert get_method("pyramiddrop", ratio=0.7, layers="2,3").plan(None, 100, 4) == {2: 70, 3: 49}  # 0.7 ** 2 < 0.49 in doubles


def test_pyramiddrop_takes_other_layers():
    assert get_method("pyramiddrop", layers="2, 5").plan(None, 576, 32) == {2: 288, 5: 144}
    assert mean(get_method("pyramiddrop", layers="2,8,16").plan(64, 576, 32), 576, 32) <= 64


@pytest.mark.parametrize("name", ["pyramiddrop", "sparsevlm"])
def test_a_budget_of_all_tokens_drops_none(name: str):
    assert get_method(name).plan(576, 576, 32) == get_method(name).plan(600, 576, 32) == {}


@pytest.mark.parametrize(
    ("name", "params", "budget", "layers", "says"),
    [
        ("pyramiddrop", {}, 144, 32, "smallest budget here is 145, and 19 with layers='1,2,3'"),
        ("pyramiddrop", {"ratio": 0.3}, 270, 32, "leave out the ratio"),
        ("pyramiddrop", {"ratio": 1.0}, None, 32, "below 1"),
        ("pyramiddrop", {"layers": "8,8"}, None, 32, "ascending"),
        ("pyramiddrop", {"layers": "0,4"}, None, 32, "at least 1"),
        ("pyramiddrop", {"layers": "8;16"}, None, 32, "such as '8,16,24'"),
        ("pyramiddrop", {"layers": "8,32"}, None, 32, "0 to 31: give others, such as layers='1,2'"),
        ("pyramiddrop", {}, None, 3, "3 stages need 4 layers"),
        ("sparsevlm", {}, None, 32, "needs a budget"),
        ("sparsevlm", {}, 57, 32, "smallest budget here is 58, and 21 with layers='1,2,3'"),
        ("sparsevlm", {"recycle": False}, 54, 32, "smallest budget here is 55, and 19 with"),
        ("sparsevlm", {"layers": "1,2,3"}, 20, 32, r"smallest budget here is 21\.$"),
        ("sparsevlm", {"layers": "3,7"}, 192, 32, "three stages"),
        ("sparsevlm", {"published": True}, 100, 32, "192, 128, 96, 64"),
        ("sparsevlm", {"published": True, "layers": "3,7,16"}, 192, 32, "leave out"),
    ],
)
def test_what_cannot_be_planned_is_refused(name: str, params: dict[str, object], budget: int | None, layers: int, says: str):
    with pytest.raises(UserError, match=says):
        get_method(name, **params).plan(budget, 576, layers)


# -- PyramidDrop: choice ------------------------------------------------------------------------------------------------------
def test_pyramiddrop_keeps_what_the_last_token_attends_to():
    visual = replace(case(1, 5), ahead=torch.tensor([[[0.1, 0.4, 0.1, 0.05, 0.2]]]))
    method = get_method("pyramiddrop")
    assert [method(visual, k).keep[0, 0].tolist() for k in (1, 2, 3)] == [[1], [1, 4], [0, 1, 4]]  # ties to the lower index


# -- SparseVLM: schedules -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("budget", PUBLISHED)
def test_sparsevlm_published_budgets(budget: int):
    kept, all_of_them, true_mean = PUBLISHED[budget]
    method = get_method("sparsevlm", published=True)
    assert method.plan(budget, 576, 32) == dict(zip((3, 7, 16), all_of_them, strict=True))
    assert mean(method.plan(budget, 576, 32), 576, 32) == true_mean
    assert [split(n, k)[0] for n, k in zip((576, *all_of_them), all_of_them, strict=False)] == list(kept)
    bare = get_method("sparsevlm", published=True, recycle=False)
    assert bare.plan(budget, 576, 32) == dict(zip((3, 7, 16), kept, strict=True))
    with pytest.raises(UserError, match="published"):
        method.plan(budget, 577, 32)


@pytest.mark.parametrize("recycle", [True, False])
@pytest.mark.parametrize(("n", "layers"), [(576, 32), (100, 28), (64, 4), (700, 40)])
def test_sparsevlm_budget_is_the_largest_mean_that_a_factor_gives(n: int, layers: int, recycle: bool):
    method = get_method("sparsevlm", recycle=recycle)
    stages = (3, 7, 16) if layers >= 32 else {28: (2, 6, 14), 4: (1, 2, 3)}[layers]
    spans = np.diff([0, *stages, layers])
    factors = {(c + e) / s for s in (300, 200, 110) for c in range(n + 1) for e in (-1e-9, 1e-9)}
    shapes = {tuple(max(1, math.floor(s * f)) for s in (300, 200, 110)) for f in factors if f > 0}
    sums = {int(np.dot(spans, [n, *totals(n, shape, recycle)])) for shape in shapes}
    for budget in range(-(-min(sums) // layers), n, max(1, n // 9)):
        plan = method.plan(budget, n, layers)
        assert set(plan) <= set(stages)
        assert mean(plan, n, layers) == max(s for s in sums if s <= budget * layers) / layers
    with pytest.raises(UserError, match=f"smallest budget here is {-(-min(sums) // layers)}"):
        method.plan(-(-min(sums) // layers) - 1, n, layers)


def test_splits_follow_the_formulas_wherever_they_can():
    def groups(dropped: int) -> int:
        return (int(0.3 * dropped) + 1) // 10 + 1

    for n in range(2, 200):
        for k in range(1, n):
            kept, merged = split(n, k)
            assert kept >= 1
            assert kept + merged == k
            assert merged == groups(n - kept) or (kept == 1 and merged < groups(n - kept))
            assert kept + 1 + groups(n - kept - 1) > k  # no split keeps more


# -- SparseVLM: choice, restated in float64 -----------------------------------------------------------------------------------
def rated(visual: Visual, row: int) -> list[float]:
    """The mean attention of the raters, token by token."""
    v = {k: x[row].double().numpy() for k, x in vars(visual).items() if isinstance(x, Tensor)}
    real = [m for m in range(v["text_mask"].shape[0]) if v["text_mask"][m]]
    turned = np.zeros(len(real))
    for token in v["given"][0]:
        product = np.array([token @ v["text_given"][m] for m in real])
        weight = np.exp(product - product.max())
        turned += weight / weight.sum() / len(v["given"][0])
    raters = [m for m, share in zip(real, turned, strict=True) if share > turned.mean()]
    return [float(np.mean([attention[m] for m in raters])) for attention in v["text_attention"][0]]


def clustered(x: np.ndarray, groups: int) -> list[np.ndarray]:
    """Density peaks by loops; the release's noise left out."""
    n, d = x.shape
    distance = [[math.sqrt(((x[i] - x[j]) ** 2).sum() / d) for j in range(n)] for i in range(n)]
    density = [math.exp(-np.mean([s * s for s in sorted(row)[:groups]])) for row in distance]
    score = []
    for i in range(n):
        denser = [distance[i][j] for j in range(n) if density[j] > density[i] or (density[j] == density[i] and j < i)]
        score.append(density[i] * min(denser, default=max(map(max, distance))))
    centres = sorted(range(n), key=lambda i: (-score[i], i))[:groups]
    members: list[list[int]] = [[] for _ in centres]
    for i in range(n):
        home = centres.index(i) if i in centres else min(range(groups), key=lambda c: distance[centres[c]][i])
        members[home].append(i)
    return [x[m].mean(0) for m in members]


def reduced(visual: Visual, row: int, k: int) -> tuple[list[int], np.ndarray]:
    score, n = rated(visual, row), visual.shape[2]
    ranked = sorted(range(n), key=lambda j: (-score[j], j))
    kept, groups = split(n, k)
    tokens = visual.tokens[row, 0].double().numpy()
    again = sorted(ranked[kept : kept + int(0.3 * (n - kept)) + 1])
    merged = clustered(tokens[again], groups) if groups else []
    keep = sorted(ranked[:kept])
    return keep + [-1] * groups, np.array([*tokens[keep], *merged])


@pytest.mark.parametrize(("n", "m", "before"), [(2, 4, 0), (9, 5, 0), (40, 6, 25), (150, 20, 40), (400, 9, 0)])
def test_sparsevlm_is_its_definition(n: int, m: int, before: int):
    for seed in range(3):
        visual = case(2, n, m, 10, seed=seed, before=before)
        for k in sorted({1, n // 10 + 1, n // 2, n - 2, n - 1} - {0}):
            ours = get_method("sparsevlm")(visual, k)
            for row in range(2):
                keep, tokens = reduced(visual, row, k)
                assert ours.keep[row, 0].tolist() == keep
                assert np.allclose(ours.tokens[row, 0].numpy(), tokens, rtol=1e-4, atol=1e-5)


def test_sparsevlm_without_recycling_keeps_the_best_rated():
    visual = case(2, 40)
    keep = get_method("sparsevlm", recycle=False)(visual, 11).keep
    for row in range(2):
        score = rated(visual, row)
        assert keep[row, 0].tolist() == sorted(sorted(range(40), key=lambda j: -score[j])[:11])


def test_groups_are_where_the_tokens_crowd():
    corners = torch.tensor([[0.0, 0.0], [9.0, 0.0], [0.0, 9.0]])
    jitter = torch.randn(12, 2, generator=torch.Generator().manual_seed(0)) / 10
    x = corners.repeat(4, 1) + jitter
    means = density_peaks(x[None], 3)[0]
    for i, corner in enumerate(corners):
        nearest = means[(means - corner).norm(dim=-1).argmin()]
        assert torch.allclose(nearest, x[i::3].mean(0), atol=1e-5)


def test_densities_that_would_underflow_still_tell_groups_apart():
    x = torch.tensor([[0.0], [100.0], [10000.0], [10100.0]])  # exp(-5000) each: 0 in any precision
    assert density_peaks(x[None], 2)[0].tolist() == [[50.0], [10050.0]]


def test_distances_beyond_float32_are_refused():
    with pytest.raises(UserError, match="distances"):
        density_peaks(torch.tensor([[[3e38, 3e38], [-3e38, -3e38]]]), 1)


@pytest.mark.parametrize("raters", [1, 5])
def test_sparsevlm_text_that_is_all_alike_rates_together(raters: int):
    visual = case(1, 20)
    mask = torch.arange(6)[None] < raters
    alike = replace(visual, text_mask=mask, text_given=torch.ones(1, 6, 12))
    keep = get_method("sparsevlm", recycle=False)(alike, 4).keep[0, 0]
    assert visual.text_attention is not None
    assert keep.tolist() == visual.text_attention[0, 0, :, :raters].mean(-1).topk(4).indices.sort().values.tolist()


def test_sparsevlm_without_text_keeps_the_first_tokens():
    visual = case(2, 20)
    assert visual.text_mask is not None
    none = replace(visual, text_mask=torch.zeros_like(visual.text_mask))
    with pytest.warns(UserWarning, match="no question"):
        keep = get_method("sparsevlm")(none, 7).keep
    assert keep[:, 0].tolist() == [[0, 1, 2, 3, 4, 5, -1]] * 2
    empty = replace(visual, text=torch.zeros(2, 0, 12), text_given=torch.zeros(2, 0, 12), text_mask=None)
    with pytest.warns(UserWarning, match="no question"):
        keep = get_method("sparsevlm")(replace(empty, text_attention=torch.zeros(2, 1, 20, 0)), 7).keep
    assert keep[:, 0].tolist() == [[0, 1, 2, 3, 4, 5, -1]] * 2


# -- both ---------------------------------------------------------------------------------------------------------------------
BOTH = [get_method("pyramiddrop"), get_method("sparsevlm"), get_method("sparsevlm", recycle=False)]


@pytest.mark.parametrize("method", BOTH, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("spoil", ["nothing", "equal", "zero"])
def test_exactly_k_for_every_k(method: Method, dtype: torch.dtype, spoil: str):
    visual = case(2, 45)
    if spoil != "nothing":
        factor = 0 if spoil == "zero" else 1
        same: dict[str, Any] = {
            name: factor * torch.ones_like(getattr(visual, name))
            for name in ("tokens", "ahead", "text_attention", "given", "text_given")
        }
        visual = replace(visual, **same)
    changed: dict[str, Any] = {k: v.to(dtype) for k, v in vars(visual).items() if torch.is_tensor(v) and v.is_floating_point()}
    visual = replace(visual, **changed)
    for k in range(1, 45):
        result = method(visual, k)
        assert result.keep.shape == (2, 1, k)  # ascending and distinct: the call sees to it
        assert result.tokens.dtype == dtype
        assert torch.isfinite(result.tokens).all()


@pytest.mark.parametrize("method", BOTH, ids=str)
def test_a_sample_is_the_same_beside_others_and_whatever_its_padding_holds(method: Method):
    for seed in range(5):
        visual = case(4, 90, seed=seed)
        assert visual.text_mask is not None
        padding = ~visual.text_mask
        garbage: dict[str, Any] = {
            "text": visual.text.masked_fill(padding[..., None], torch.nan),  # type: ignore[union-attr]
            "text_given": visual.text_given.masked_fill(padding[..., None], 3e38),  # type: ignore[union-attr]
            "text_attention": visual.text_attention.masked_fill(padding[:, None, None], torch.inf),  # type: ignore[union-attr]
        }
        together, spoiled = method(visual, 30), method(replace(visual, **garbage), 30)
        assert torch.equal(together.keep, spoiled.keep)
        assert torch.equal(together.tokens, spoiled.tokens)
        for row in range(4):
            alone = method(only(visual, row), 30)
            assert torch.equal(alone.keep[0], together.keep[row])
            assert torch.allclose(alone.tokens[0], together.tokens[row], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("method", BOTH, ids=str)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_refused(method: Method, value: float):
    read = {"tokens", *method.needs} | ({"text_given"} if "given" in method.needs else set())
    for name in sorted(read):
        visual = case(2, 20)
        getattr(visual, name)[0].view(-1)[0] = value
        with pytest.raises(UserError, match="NaN or infinity"):
            method(visual, 6)


def test_sparsevlm_names_the_text_that_is_missing():
    with pytest.raises(UserError, match="text_given"):
        get_method("sparsevlm")(replace(case(), text_given=None), 6)
