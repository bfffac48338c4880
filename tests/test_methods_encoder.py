"""The methods that read the vision encoder: cases small enough to check by hand, what their specification says of the edges,
slow references in float64, and recordings of the released code.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from script_vlmeval import kernels
from script_vlmeval.conformance import compare_encoder
from script_vlmeval.conformance.tally import MismatchError
from script_vlmeval.errors import UserError
from script_vlmeval.methods import Visual, get_method
from script_vlmeval.methods.holov import quotas
from script_vlmeval.methods.vispruner import cosines, thin

NAMES = ("fastervlm", "vispruner", "visionzip", "holov", "scope", "mmtok")


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def visual(b: int = 2, g: int = 2, n: int = 20, seed: int = 0) -> Visual:
    matrix = normal(10, 6, seed=99)
    return Visual(
        tokens=normal(b, g, n, 6, seed=seed),
        keys=normal(b, g, n, 5, seed=seed + 1),
        query=normal(b, 3, 5, seed=seed + 2),
        saliency=normal(b, g, n, seed=seed + 3).softmax(-1),
        encoded=normal(b, g, n, 10, seed=seed + 4),
        encoder_keys=normal(b, g, n, 7, seed=seed + 5),
        cls=normal(b, g, 10, seed=seed + 6),
        project=lambda x: x @ matrix.to(x.dtype),
    )


def tile(saliency: list[float], encoded: list[list[float]] | None = None) -> Visual:
    """One tile whose tokens are numbered."""
    tokens = torch.arange(1.0, len(saliency) + 1)[None, None, :, None]
    rows = None if encoded is None else torch.tensor(encoded)[None, None]
    return Visual(tokens=tokens, saliency=torch.tensor(saliency)[None, None], encoded=rows)


def kept(name: str, v: Visual, k: int, **params: object) -> list[int]:
    return get_method(name, **params)(v, k).keep[0, 0].tolist()


# -- greedy coverage ---------------------------------------------------------------------------------------------------------
def plain_cover(similarity: np.ndarray, k: int, weight: np.ndarray, allowed: np.ndarray) -> list[int]:
    """The definition in float64, nothing carried between steps."""
    picks: list[int] = []
    for _ in range(k):
        cover = np.max([np.zeros(len(similarity)), *similarity[:, picks].T], 0)
        gain = np.maximum(similarity - cover[:, None], 0).sum(0) * weight
        gain[picks] = -np.inf
        if np.isfinite(gain[allowed]).any():
            gain[~allowed] = -np.inf
        picks.append(int(gain.argmax()))
    return picks


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("restricted", [False, True])
@pytest.mark.parametrize("cached", [0, 1 << 20])
def test_coverage_is_the_definition(weighted: bool, restricted: bool, cached: int, monkeypatch: pytest.MonkeyPatch):
    """All tiles at once, and one after the other."""
    monkeypatch.setattr("script_vlmeval.kernels.coverage._CACHED", cached)
    similarity = normal(3, 9, 14)
    weight, allowed = normal(3, 14, seed=1).exp(), normal(3, 14, seed=2) > 0
    given = {"weight": weight if weighted else None, "allowed": allowed if restricted else None}
    picks = kernels.greedy_cover(similarity, 14, **given)
    for r in range(3):
        w = weight[r].double().numpy() if weighted else np.ones(14)
        a = allowed[r].numpy() if restricted else np.ones(14, bool)
        assert picks[r].tolist() == plain_cover(similarity[r].double().numpy(), 14, w, a)


def test_coverage_of_a_row_is_that_of_its_best_token_so_far():
    similarity = torch.tensor([[[0.9, 0.8, 0.0], [0.0, 0.6, 0.7]]])
    assert kernels.greedy_cover(similarity, 3).tolist() == [[1, 0, 2]]  # 1.4 first; then gains of 0.1 and 0.1: the lower index
    assert kernels.greedy_cover(similarity, 3, weight=torch.tensor([[2.0, 1.0, 1.0]])).tolist() == [[0, 2, 1]]


def test_negative_similarity_never_counts():
    assert kernels.greedy_cover(torch.tensor([[[-5.0, 0.1], [0.2, 0.0]]]), 1).tolist() == [[0]]


def test_coverage_goes_on_with_what_is_not_allowed_by_the_same_rule():
    similarity = torch.eye(4)[None] * torch.tensor([1.0, 2.0, 3.0, 4.0])
    allowed = torch.tensor([[True, True, False, False]])
    assert kernels.greedy_cover(similarity, 4, allowed=allowed).tolist() == [[1, 0, 3, 2]]
    assert kernels.greedy_cover(similarity, 2, allowed=torch.zeros_like(allowed)).tolist() == [[3, 2]]


def test_coverage_with_nothing_to_gain_takes_distinct_tokens_in_order():
    assert kernels.greedy_cover(torch.zeros(2, 3, 5), 5).tolist() == [[0, 1, 2, 3, 4]] * 2


def test_coverage_leaves_its_input_alone_and_needs_no_gradient():
    similarity = normal(1, 6, 6).requires_grad_()
    before = similarity.detach().clone()
    assert not kernels.greedy_cover(similarity, 3, weight=torch.ones(1, 6).requires_grad_()).requires_grad
    assert torch.equal(similarity.detach(), before)


@pytest.mark.parametrize("k", [0, 7])
def test_an_impossible_number_of_picks_is_refused(k: int):
    with pytest.raises(UserError, match="of 6 tokens"):
        kernels.greedy_cover(normal(1, 6, 6), k)


def test_no_value_is_asked_of_the_device():
    """Tensors without data have no values to ask for."""
    none = {"device": "meta"}
    allowed = torch.empty(2, 6, dtype=torch.bool, **none)
    assert kernels.greedy_cover(torch.empty(2, 5, 6, **none), 3, weight=torch.empty(2, 6, **none), allowed=allowed).shape == (
        2,
        3,
    )
    assert quotas(torch.empty(2, 4, **none), torch.empty(4, dtype=torch.long, **none), 7).shape == (2, 4)
    assert thin(torch.empty(2, 6, 6, **none), torch.empty(2, 5, dtype=torch.long, **none), 2).shape == (2, 3)


# -- FasterVLM ---------------------------------------------------------------------------------------------------------------
def test_fastervlm_keeps_the_most_attended_and_of_equal_ones_the_lower():
    assert kept("fastervlm", tile([0.1, 0.3, 0.2, 0.3, 0.1]), 3) == [1, 2, 3]
    assert kept("fastervlm", tile([0.1, 0.1, 0.2, 0.1]), 2) == [0, 2]


# -- SCOPE -------------------------------------------------------------------------------------------------------------------
E1, E2, E3 = [1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]
GROUPS = [E1, E1, E1, E2, E2, E3]


@pytest.mark.parametrize(
    ("saliency", "alpha", "expected"),
    [
        ([0.1] * 6, 1.0, [0, 3, 5, 1, 2, 4]),  # covers 3, 2, 1; then nothing is left to gain
        ([0.1, 0.1, 0.2, 0.1, 0.1, 0.1], 1.0, [2, 3, 5, 0, 1, 4]),
        ([0.1, 0.1, 0.1, 0.1, 0.1, 0.9], 1.0, [5, 0, 3, 1, 2, 4]),
        ([0.1, 0.1, 0.1, 0.1, 0.1, 0.9], 0.0, [0, 3, 5, 1, 2, 4]),
        ([0.1, 0.1, 0.1, 0.1, 0.1, 0.2], 1.0, [0, 3, 5, 1, 2, 4]),
        ([0.1, 0.1, 0.1, 0.1, 0.1, 0.2], 2.0, [5, 0, 3, 1, 2, 4]),  # 4 x 1 against 3
        ([0.001, 0.001, 0.001, 0.002, 0.001, 0.001], 40.0, [3, 0, 5, 1, 2, 4]),  # 1e-120: no number in float32
    ],
)
def test_scope_weighs_coverage_by_attention(saliency: list[float], alpha: float, expected: list[int]):
    method = get_method("scope", alpha=alpha)
    assert method.order(tile(saliency, GROUPS), 6)[0, 0].tolist() == expected
    assert kept("scope", tile(saliency, GROUPS), 4, alpha=alpha) == sorted(expected[:4])


def test_scope_sums_and_means_of_heads_are_alike():
    v = visual()
    assert torch.equal(get_method("scope")(v, 9).keep, get_method("scope")(replace(v, saliency=v.saliency * 16), 9).keep)


def test_scope_is_nested():
    method, v = get_method("scope"), visual()
    assert method.nested
    for k, keep in zip((3, 8), method.select_many(v, (3, 8)), strict=True):
        assert torch.equal(keep, method(v, k).keep)


# -- VisPruner ---------------------------------------------------------------------------------------------------------------
def test_a_round_drops_what_is_near_the_other_side():
    similarity = torch.zeros(1, 7, 7)
    for a, b, value in ((4, 5, 0.9), (2, 5, 0.3), (6, 0, 0.5), (4, 2, 1.0)):  # the last pair is on one side: of no account
        similarity[0, a, b] = similarity[0, b, a] = value
    rest = torch.tensor([[2, 5, 4, 0, 6]])  # 2, 4, 6 against 5, 0
    assert thin(similarity, rest, 1).tolist() == [[6, 2, 5, 0]]
    assert thin(similarity, rest, 4).tolist() == [[2, 5, 0]], "the first side keeps one"
    assert thin(similarity, rest[:, :2], 1).tolist() == [[5]], "unless two are left for one place"


def plain_vispruner(saliency: np.ndarray, encoded: np.ndarray, k: int, ratio: float) -> list[int]:
    unit = encoded / np.linalg.norm(encoded, axis=-1, keepdims=True)
    order = sorted(range(len(saliency)), key=lambda i: (-saliency[i], i))
    important = int(k * ratio)
    rest = order[important:] if important < k else []
    while len(rest) > k - important:
        first, second = rest[0::2], rest[1::2]
        drop = min(8, len(rest) - (k - important), max(1, len(first) - 1))
        first.sort(key=lambda i: -max(unit[i] @ unit[j] for j in second))
        rest = first[drop:] + second
    return sorted(order[:important] + rest)


@pytest.mark.parametrize("n", [13, 40])
@pytest.mark.parametrize("ratio", [0.0, 0.3, 0.5, 1.0])
def test_vispruner_is_the_definition_at_every_budget(n: int, ratio: float):
    """Odd lists and tiny diverse parts, where the release fails, among them."""
    v = visual(b=1, g=2, n=n)
    for k in range(1, n):
        keep = get_method("vispruner", important_ratio=ratio)(v, k).keep[0]
        for t in range(2):
            saliency, encoded = v.saliency[0, t].double().numpy(), v.encoded[0, t].double().numpy()
            assert keep[t].tolist() == plain_vispruner(saliency, encoded, k, ratio), (k, t)


def test_vispruner_by_attention_alone_is_fastervlm():
    v = visual()
    assert torch.equal(get_method("vispruner", important_ratio=1)(v, 7).keep, get_method("fastervlm")(v, 7).keep)


def test_similarities_do_not_depend_on_the_number_of_tiles():
    encoded = normal(3, 2, 50, 33)
    assert torch.equal(cosines(encoded)[2:4], cosines(encoded[1:2]))


# -- VisionZip ---------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("k", "merged"),
    [(64, 10), (192, 30), (128, 20), (640, 100), (320, 50), (160, 25), (32, 6), (1, 0), (2, 1), (3, 1), (8, 1), (12, 2), (16, 2)],
)
def test_visionzip_splits_as_published_and_sensibly_below(k: int, merged: int):
    assert get_method("visionzip").merged(k) == merged


def merging() -> Visual:
    """Attention takes patch 2 first; the keys pair 3 with 1 and 4 with 0."""
    keys = torch.tensor([[1.0, 0], [0, 1], [5, 5], [1, 9], [9, 1], [-1, 8]])[None, None]
    encoded = torch.tensor([[1.0, 0], [0, 2], [3, 3], [0, 40], [50, 0], [0, 60]])[None, None]
    return Visual(
        tokens=torch.arange(6.0)[None, None, :, None].expand(1, 1, 6, 2).clone(),
        saliency=torch.tensor([0.1, 0.2, 0.9, 0.3, 0.1, 0.1])[None, None],
        encoded=encoded,
        encoder_keys=keys,
        cls=torch.tensor([[[7.0, 8.0]]]),
        project=lambda x: 10 * x,
    )


@pytest.mark.parametrize(
    ("k", "contextual", "merge", "keep", "tokens"),
    [
        (1, None, "sum", [-1], [[70, 80]]),  # CLS alone
        (2, 0, "sum", [2, -1], [[2, 2], [70, 80]]),
        # left over: 0 1 3 4 5, centres 0 and 3 (every second); 1 and 5 join 3, 4 joins 0
        (4, 2, "sum", [2, -1, -1, -1], [[2, 2], [70, 80], [510, 0], [0, 400 + 310]]),
        (4, 2, "mean", [2, -1, -1, -1], [[2, 2], [70, 80], [255, 0], [0, 340]]),
        (2, None, "sum", [-1, -1], [[70, 80], [10 + (0 + 30 + 0 + 500 + 0) / 5, (20 + 30 + 400 + 600) / 5]]),
        (3, 99, "sum", [-1, -1, -1], [[70, 80], [10 + 0, 1], [2, 3]]),  # at most k - 1; values below
    ],
)
def test_visionzip_merges_what_is_left_over(
    k: int, contextual: int | None, merge: str, keep: list[int], tokens: list[list[float]]
):
    reduced = get_method("visionzip", contextual=contextual, combine=merge)(merging(), k)
    assert reduced.keep[0, 0].tolist() == keep
    if contextual != 99:
        torch.testing.assert_close(reduced.tokens[0, 0], torch.tensor(tokens, dtype=torch.float32))


def plain_visionzip(v: Visual, b: int, t: int, d: int, m: int) -> np.ndarray:
    """Merged tokens before the projector, as the specification says it: hidden rows with CLS, then one cluster after another."""
    hidden = torch.cat([v.cls[b, t][None], v.encoded[b, t]]).double().numpy()
    keys = v.encoder_keys[b, t].double().numpy()
    keys = np.concatenate([np.zeros_like(keys[:1]), keys / np.linalg.norm(keys, axis=-1, keepdims=True)])
    dominant = [0, *(1 + i for i in np.argsort(-v.saliency[b, t].numpy(), kind="stable")[: d - 1])]
    left = [i for i in range(len(hidden)) if i not in dominant]
    centres = left[:: max(1, len(left) // m)][:m]
    joins: dict[int, list[int]] = {c: [] for c in centres}
    for i in left:
        if i not in joins:
            joins[max(centres, key=lambda c: keys[i] @ keys[c])].append(i)
    return np.stack([hidden[c] + (hidden[joins[c]].mean(0) if joins[c] else 0) for c in centres])


@pytest.mark.parametrize(("k", "m"), [(6, 1), (9, 4), (15, 9), (19, 10), (12, 11)])
def test_visionzip_is_the_definition(k: int, m: int):
    v = visual()
    reduced = get_method("visionzip", contextual=m)(v, k)
    patches = k - m - 1
    for b in range(2):
        for t in range(2):
            expected = v.project(torch.from_numpy(plain_visionzip(v, b, t, k - m, m)).float())
            torch.testing.assert_close(reduced.tokens[b, t, patches + 1 :], expected)
            torch.testing.assert_close(reduced.tokens[b, t, patches], v.project(v.cls[b, t]))
            assert torch.equal(reduced.tokens[b, t, :patches], v.tokens[b, t, reduced.keep[b, t, :patches]])
    assert (reduced.keep[..., patches:] == -1).all()
    assert torch.equal(
        reduced.keep[..., :patches], get_method("fastervlm")(v, patches).keep if patches else reduced.keep[..., :0]
    )


@pytest.mark.parametrize("merge", ["sum", "mean"])
def test_visionzip_never_crashes_at_any_budget(merge: str):
    v = visual(n=12)
    for k in range(1, 12):
        for contextual in (None, 0, 1, 5, 100):
            reduced = get_method("visionzip", contextual=contextual, combine=merge)(v, k)
            assert reduced.keep.shape == (2, 2, k)
            assert torch.isfinite(reduced.tokens).all()


def test_visionzip_refuses_what_the_projector_makes_infinite():
    with pytest.raises(UserError, match="NaN or infinity"):
        get_method("visionzip")(replace(visual(), project=lambda x: x[..., :6] / 0), 7)


def test_visionzip_refuses_a_class_token_that_the_projector_would_hide():
    v = visual()
    with pytest.raises(UserError, match="NaN or infinity in the CLS token"):
        get_method("visionzip")(replace(v, cls=v.cls / 0, project=lambda x: torch.zeros_like(x[..., :6])), 7)


# -- HoloV -------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("score", "sizes", "total", "expected"),
    [
        ([3.0, 1.0], [9, 9], 8, [6, 2]),
        ([3.0, 1.0], [9, 9], 6, [5, 1]),  # 4.5 and 1.5: the unit left goes to the larger share
        ([3.0, 1.0], [2, 6], 6, [2, 4]),  # the release would lose 3
        ([8.0, 1.0, 3.0], [2, 9, 9], 10, [2, 1, 7]),  # 2, 0, 3 of 7, 0, 3 at first, then 5 as 1 : 3
        ([8.0, 4.0, 1.0, 1.0], [1, 2, 9, 9], 11, [1, 2, 4, 4]),
        ([5.0, 0.0, 0.0], [2, 4, 4], 7, [2, 3, 2]),  # shares of nothing are even
        ([0.0, 0.0], [5, 5], 3, [2, 1]),
        ([1.0, 1.0, 1.0], [4, 4, 3], 11, [4, 4, 3]),
    ],
)
def test_quotas(score: list[float], sizes: list[int], total: int, expected: list[int]):
    assert quotas(torch.tensor([score]), torch.tensor(sizes), total).tolist() == [expected]


@pytest.mark.parametrize("seed", range(10))
def test_quotas_fill_up_whatever_the_shares(seed: int):
    score = (normal(50, 16, seed=seed) * 6).exp() * (normal(50, 16, seed=seed + 100) > -0.5)
    sizes = torch.randint(1, 40, (16,), generator=torch.Generator().manual_seed(seed))
    for total in (1, 15, int(sizes.sum()) // 2, int(sizes.sum()) - 1):
        quota = quotas(score, sizes, total)
        assert (quota.sum(-1) == total).all()
        assert ((quota >= 0) & (quota <= sizes)).all()


def test_holov_takes_the_most_attended_of_each_run():
    saliency = [0.1, 0.4, 0.3, 0.2, 0.95, 0.05, 0.06, 0.04]
    assert kept("holov", tile(saliency), 4, crops=2) == [1, 4, 5, 6], "1.9 and 2.1: one, and two with the unit left"
    assert kept("holov", tile(saliency), 4, crops=1) == [1, 2, 3, 4]
    assert kept("holov", tile([*saliency, 0.39]), 4, crops=2) == [1, 2, 4, 8], "0 to 4 and 5 to 8: 2.97 and 1.03"


def test_holov_with_runs_of_one_token_is_plain_attention():
    v = visual(g=1, n=14)
    for k in (1, 5, 13):
        assert torch.equal(get_method("holov", crops=100)(v, k).keep, get_method("fastervlm")(v, k).keep)


def test_holov_is_one_selection_over_all_tiles():
    v = visual(b=3, g=2, n=16)
    saliency = v.saliency.clone()
    saliency[0, 1] = 0  # nothing of interest in one tile: the other is kept whole, and half of this one, evenly
    reduced = get_method("holov", crops=4)(replace(v, saliency=saliency), 12)
    assert reduced.keep.shape == (3, 1, 24)
    assert reduced.keep[0, 0, :16].tolist() == list(range(16))
    assert reduced.keep[0, 0, 16:].tolist() == [16, 17, 18, 19, 24, 25, 26, 27]
    assert torch.equal(reduced.tokens[0, 0], v.tokens[0].flatten(0, 1)[reduced.keep[0, 0]])


def plain_run_scores(attention: np.ndarray, features: np.ndarray, runs: int, variance: float, scale: float) -> list[float]:
    scores = []
    for at in np.array_split(np.arange(len(attention)), runs):
        x = features[at] / np.linalg.norm(features[at], axis=-1, keepdims=True)
        similarity = x @ x.T
        np.fill_diagonal(similarity, 0)
        mean = similarity.sum(1, keepdims=True) / (len(at) - 1)
        spread = ((similarity - mean) ** 2).sum(1) / (len(at) - 1)
        a = scale * attention[at]
        scores.append(float((a + variance * spread * a.mean() / (spread.mean() + 1e-6)).mean()))
    return scores


@pytest.mark.parametrize("n", [20, 23])
@pytest.mark.parametrize("unlike", [False, True])
def test_run_scores_are_the_definition_though_variance_cancels(n: int, unlike: bool):
    """Of tokens that are hardly alike at all, the variance is so small that the release's epsilon matters."""
    v, seen = visual(b=1, g=1, n=n), []
    if unlike:
        v = replace(v, tokens=(torch.eye(n) + 1e-3 * normal(n, n))[None, None])
    method = get_method("holov", crops=4, variance=0.5, scale=100.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("script_vlmeval.methods.holov.quotas", lambda *given: seen.append(given) or quotas(*given))
        method(v, 7)
    score, sizes, total = seen[0]
    assert sizes.tolist() == [len(x) for x in np.array_split(np.arange(n), 4)]
    assert total == 7
    expected = plain_run_scores(v.saliency[0, 0].double().numpy(), v.tokens[0, 0].double().numpy(), 4, 0.5, 100.0)
    np.testing.assert_allclose(score[0].numpy(), expected, rtol=1e-4 if unlike else 1e-5)
    if unlike:
        return
    mean = np.array([x.mean() for x in np.array_split(v.saliency[0, 0].numpy(), 4)])
    np.testing.assert_allclose(score[0].numpy(), 150 * mean, rtol=1e-3)


# -- MMTok -------------------------------------------------------------------------------------------------------------------
def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def plain_mmtok(v: Visual, b: int, t: int, k: int, words: list[int], alpha: float = 0.5) -> list[int]:
    keys, query, encoded = (kernels.unit(x).double().numpy() for x in (v.keys[b, t], v.query[b, words], v.encoded[b, t]))
    rows = alpha * softmax(encoded @ encoded.T / 0.2) / len(keys)
    if words:
        rows = np.concatenate([softmax(query @ keys.T / 0.02) / len(words), rows])
    return sorted(plain_cover(rows, k, np.ones(len(keys)), v.shown[b, t].numpy()))


@pytest.mark.parametrize("k", [1, 6, 15, 19])
def test_mmtok_is_the_definition_sample_by_sample(k: int):
    """Of three samples one has all words, one some, one none; a quarter of the patches is padding."""
    v = visual(b=3)
    mask = torch.tensor([[True] * 3, [True, False, True], [False] * 3])
    v = replace(v, query_mask=mask, shown=normal(3, 2, 20, seed=5) > -0.6)
    spoiled = v.query.masked_fill(~mask[..., None], float("nan"))
    keep = get_method("mmtok")(replace(v, query=spoiled), k).keep
    for b in range(3):
        words = mask[b].nonzero()[:, 0].tolist()
        for t in range(2):
            assert keep[b, t].tolist() == plain_mmtok(v, b, t, k, words), (b, t)


def test_mmtok_covers_words_with_1_in_all_and_tokens_with_alpha():
    mask = torch.tensor([[True] * 3, [True, False, True], [False] * 3])
    total = get_method("mmtok", alpha=0.3).coverage(replace(visual(b=3), query_mask=mask)).sum(-1)
    for b, words in enumerate(([1 / 3] * 3, [1 / 2, 0, 1 / 2], [0, 0, 0])):
        tokens = [(1.0 if b == 2 else 0.3) / 20] * 20  # unasked, the tile is all there is to cover
        torch.testing.assert_close(total[b], torch.tensor([[*words, *tokens]] * 2))


def test_mmtok_shows_padding_last():
    v = visual(b=1, g=1)
    shown = torch.arange(20)[None, None] % 4 > 0
    keep = get_method("mmtok")(replace(v, shown=shown), 17).keep[0, 0]
    assert shown[0, 0, keep].sum() == 15, "all that is shown, and two more"
    assert shown[0, 0, get_method("mmtok")(replace(v, shown=shown), 15).keep[0, 0]].all()


@pytest.mark.parametrize("alpha", [0.0, 0.5])
def test_mmtok_without_a_question_covers_the_tile_and_says_so(alpha: float):
    v = replace(visual(), shown=torch.ones(2, 2, 20, dtype=torch.bool))
    method = get_method("mmtok", alpha=alpha)
    expected = [[plain_mmtok(v, b, t, 6, []) for t in range(2)] for b in range(2)]
    for query, mask in ((None, None), (v.query, torch.zeros(2, 3, dtype=torch.bool))):
        with pytest.warns(UserWarning, match="no question"):
            assert method(replace(v, query=query, query_mask=mask), 6).keep.tolist() == expected


def test_mmtok_follows_the_question():
    """One word for each of two tokens, which are unlike each other and all others."""
    v = visual(b=1, g=1)
    query = v.keys[:, 0, [4, 11]]
    assert set(kept("mmtok", replace(v, query=query), 2, alpha=0.0)) == {4, 11}
    assert get_method("mmtok").source() == "words"


# -- all of them -------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "param", "bad", "match"),
    [
        ("scope", "alpha", -1, "alpha"),
        ("scope", "alpha", float("nan"), "alpha"),
        ("scope", "alpha", "much", "alpha"),
        ("vispruner", "important_ratio", 1.01, "important_ratio"),
        ("vispruner", "important_ratio", -0.1, "important_ratio"),
        ("vispruner", "important_ratio", float("nan"), "important_ratio"),
        ("visionzip", "contextual", -1, "contextual"),
        ("visionzip", "contextual", 1.5, "contextual"),
        ("visionzip", "combine", "max", "combine"),
        ("holov", "crops", 0, "crops"),
        ("holov", "variance", -0.1, "variance"),
        ("holov", "variance", float("inf"), "variance"),
        ("holov", "scale", 0, "scale"),
        ("mmtok", "alpha", -0.5, "alpha"),
        ("mmtok", "t_vv", 0, "t_vv"),
        ("mmtok", "t_tv", float("nan"), "t_tv"),
        ("fastervlm", "alpha", 1, "Unknown parameter"),
    ],
)
def test_bad_parameters_are_refused(name: str, param: str, bad: object, match: str):
    with pytest.raises(UserError, match=match):
        get_method(name, **{param: bad})


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("k", [1, 2, 7])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_refused(name: str, k: int, value: float):
    method = get_method(name)
    for field in sorted(method.needs - {"project"}):
        spoiled = getattr(visual(), field).clone()
        spoiled[(-1,) * spoiled.ndim] = value
        with pytest.raises(UserError, match="NaN or infinity"):
            method(replace(visual(), **{field: spoiled}), k)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_arithmetic_is_float32(name: str, dtype: torch.dtype):
    """Numbers that half precision holds exactly give the same choice in it."""
    fields = ("tokens", "keys", "query", "saliency", "encoded", "encoder_keys", "cls")
    halves = {f: getattr(visual(), f).to(dtype) for f in fields}
    half = get_method(name)(replace(visual(), **halves), 7)
    full = get_method(name)(replace(visual(), **{f: x.float() for f, x in halves.items()}), 7)
    assert half.tokens.dtype == dtype
    assert torch.equal(half.keep, full.keep)


# -- recordings --------------------------------------------------------------------------------------------------------------
RECORDINGS = (
    "fastervlm_a_T128 holov_a_T64 holov_b_T192_overflow mmtok_a_T64 mmtok_b_T128_pad scope_a_T64 scope_b_T128 scope_c_B2_T32 "
    "scope_f_n144_B3_T40 visionzip_a_54_10 visionzip_b_108_20 visionzip_c_162_30 visionzip_f_560_16_emptyclusters "
    "vispruner_a_T128_r0.5 vispruner_b_T64_r0.75 vispruner_c_T32_r0.5_B2 vispruner_f_T64_r0"
).split()


def recorded(shared: Path, case: str) -> tuple[Callable, dict[str, np.ndarray]]:
    path = shared / "oracles" / "baselines" / f"{case}.npz"
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    with np.load(path) as data:
        return getattr(compare_encoder, case.split("_")[0]), dict(data)


@pytest.mark.parametrize("case", RECORDINGS)
def test_the_released_code_is_reproduced(shared: Path, case: str):
    compare, data = recorded(shared, case)
    tally = compare(data)
    assert tally.compared == (len(data.get("order", data.get("cls_attn", [0]))))
    assert (tally.invariants > 0) == (case == "holov_b_T192_overflow")


def test_every_recording_is_named(shared: Path):
    found = {p.stem for p in (shared / "oracles" / "baselines").glob("*.npz") if p.stem.split("_")[0] in NAMES}
    if not found:
        pytest.skip("no recordings")
    assert found == set(RECORDINGS)


@pytest.mark.parametrize(
    ("case", "field", "at", "value"),
    [
        ("fastervlm_a_T128", "cls_attn", (0, slice(None), 5), 0.9),
        ("holov_a_T64", "kept_in_order", 3, 575),
        ("holov_b_T192_overflow", "attn", slice(0, 30), 0.0),
        ("mmtok_a_T64", "kept_sorted", 0, 1),
        ("scope_c_B2_T32", "saliency", (1, 0), 100.0),
        ("visionzip_a_54_10", "out", (0, 60, 3), 1.0),
        ("visionzip_a_54_10", "out", (0, 0, 3), 1.0),
        ("visionzip_f_560_16_emptyclusters", "cls_attn", (0, slice(None), 10), 0.0),
        ("vispruner_c_T32_r0.5_B2", "features", (1, 40), 0.0),
        ("vispruner_c_T32_r0.5_B2", "attn_order", (1, 0), 3),
    ],
)
def test_a_recording_that_says_otherwise_is_noticed(shared: Path, case: str, field: str, at: object, value: float):
    compare, data = recorded(shared, case)
    data[field][at] = value
    with pytest.raises(MismatchError):
        compare(data)
