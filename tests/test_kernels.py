"""The shared algorithms against definitions written out slowly: brute force, float64 numpy, plain loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from script_vlmeval import kernels
from script_vlmeval.errors import UserError


def unit_rows(*shape: int, seed: int = 0) -> Tensor:
    return kernels.unit(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)))


def weights(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(100 + seed)) * 0.9 + 0.1


def kernel64(features: Tensor, weight: Tensor) -> np.ndarray:
    a = features.double().numpy() * weight.double().numpy()[:, None]
    return a @ a.T


def greedy_by_projection(
    kernel: np.ndarray, k: int, allowed: np.ndarray | None = None, forced: np.ndarray | None = None
) -> list[int]:
    """The definition, one pick at a time: solve for what each candidate adds to the volume, nothing carried between steps."""
    n = len(kernel)
    allowed = np.ones(n, bool) if allowed is None else allowed
    picks: list[int] = []
    for i in range(k):
        if forced is not None and forced[i] >= 0:
            picks.append(int(forced[i]))
            continue
        gain = np.diag(kernel).copy()
        if picks:
            cross = kernel[picks]
            gain -= (cross * np.linalg.solve(kernel[np.ix_(picks, picks)], cross)).sum(0)
        gain[picks] = -np.inf
        gain[~allowed] = -np.inf
        picks.append(int(gain.argmax()))
    return picks


# -- greedy MAP --------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("seed", range(20))
def test_greedy_map_takes_the_largest_determinant_at_every_step(seed: int):
    features, weight = unit_rows(1, 8, 12, seed=seed), weights(1, 8, seed=seed)
    kernel = torch.from_numpy(kernel64(features[0], weight[0]))
    picks = kernels.greedy_map(features, weight, 8)[0].tolist()
    for i, pick in enumerate(picks):
        volume = {
            j: float(torch.linalg.slogdet(kernel[[*picks[:i], j]][:, [*picks[:i], j]]).logabsdet)
            for j in range(8)
            if j not in picks[:i]
        }
        assert pick == max(volume, key=volume.__getitem__)


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("restriction", ["none", "allowed", "forced", "both"])
def test_greedy_map_is_the_float64_definition(rows: int, restriction: str):
    features = unit_rows(rows, 200, 64, seed=rows)
    weight = weights(rows, 200, seed=rows)
    k, generator = 40, torch.Generator().manual_seed(7)
    allowed = torch.rand(rows, 200, generator=generator) < 0.5 if restriction in ("allowed", "both") else None
    forced = torch.full((rows, k), -1)
    if restriction in ("forced", "both"):
        forced[:, :6] = torch.stack([torch.randperm(200, generator=generator)[:6] for _ in range(rows)])
        forced[-1, 3:] = -1  # rows need not prescribe equally many
    prescribed = forced if bool((forced >= 0).any()) else None
    picks = kernels.greedy_map(features, weight, k, allowed=allowed, forced=prescribed)
    for r in range(rows):
        expected = greedy_by_projection(
            kernel64(features[r], weight[r]),
            k,
            None if allowed is None else allowed[r].numpy(),
            forced[r].numpy(),
        )
        assert picks[r].tolist() == expected


def test_no_weight_is_the_same_weight_for_all():
    """Compared with itself only: unit rows are equally long but for rounding, which decides the first pick."""
    features = unit_rows(3, 200, 64)
    assert torch.equal(kernels.greedy_map(features, None, 40), kernels.greedy_map(features, torch.ones(3, 200), 40))


def test_greedy_map_leaves_its_inputs_alone():
    features, weight, allowed = unit_rows(2, 20, 8), weights(2, 20), torch.ones(2, 20, dtype=torch.bool)
    before = [x.clone() for x in (features, weight, allowed)]
    kernels.greedy_map(features, weight, 5, allowed=allowed)
    assert all(torch.equal(a, b) for a, b in zip(before, (features, weight, allowed), strict=True))


def test_rows_do_not_influence_each_other():
    features, weight = unit_rows(4, 60, 24), weights(4, 60)
    together = kernels.greedy_map(features, weight, 20)
    alone = torch.cat([kernels.greedy_map(features[r : r + 1], weight[r : r + 1], 20) for r in range(4)])
    assert torch.equal(together, alone)


def test_a_smaller_budget_is_a_prefix_of_a_larger_one():
    features, weight = unit_rows(2, 50, 16), weights(2, 50)
    longest = kernels.greedy_map(features, weight, 50)
    for k in (1, 2, 7, 16, 17, 49):
        assert torch.equal(kernels.greedy_map(features, weight, k), longest[:, :k])


@pytest.mark.parametrize("rank", [1, 3, 8])
@pytest.mark.parametrize("k", [8, 30, 40])
def test_a_rank_deficient_kernel_still_gives_distinct_picks(rank: int, k: int):
    features = kernels.unit(unit_rows(2, 40, rank) @ unit_rows(rank, 32, seed=1))
    picks = kernels.greedy_map(features, weights(2, 40), k)
    assert all(len(set(row)) == k for row in picks.tolist())


def test_an_exhausted_kernel_goes_on_by_descending_weight():
    weight = torch.tensor([[0.5, 0.9, 0.7, 0.9, 0.1]])
    assert kernels.greedy_map(unit_rows(1, 1, 6).expand(1, 5, 6), weight, 5).tolist() == [[1, 3, 2, 0, 4]]


def test_tokens_of_zero_weight_come_last_by_index():
    weight = weights(1, 12)
    weight[0, [2, 5, 9]] = 0
    picks = kernels.greedy_map(unit_rows(1, 12, 32), weight, 12)[0].tolist()
    assert picks[-3:] == [2, 5, 9]
    assert kernels.greedy_map(unit_rows(1, 12, 32), torch.zeros(1, 12), 5).tolist() == [[0, 1, 2, 3, 4]]


def test_a_zero_feature_is_the_last_choice_and_harmless():
    features = unit_rows(1, 10, 16).clone()
    features[0, 4] = 0
    assert kernels.greedy_map(features, None, 10)[0].tolist()[-1] == 4


def test_exact_duplicates_are_taken_once_each_group_first():
    features = unit_rows(1, 10, 32).repeat_interleave(4, 1)
    picks = kernels.greedy_map(features, weights(1, 10).repeat_interleave(4, 1), 20)[0]
    assert sorted((picks[:10] // 4).tolist()) == list(range(10))
    assert (picks[:10] % 4 == 0).all()
    assert len(set(picks.tolist())) == 20


def test_ties_go_to_the_lower_index():
    orthonormal = torch.eye(6)[None]
    assert kernels.greedy_map(orthonormal, None, 6).tolist() == [[0, 1, 2, 3, 4, 5]]
    assert kernels.greedy_map(orthonormal, torch.tensor([[1.0, 2, 1, 2, 1, 2]]), 6).tolist() == [[1, 3, 5, 0, 2, 4]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_selects_as_float32_does_where_the_choice_is_clear(dtype: torch.dtype):
    """Sixteen orthogonal directions of clearly different weight, with weaker copies: rounding cannot change the order."""
    basis = torch.linalg.qr(torch.randn(32, 16, generator=torch.Generator().manual_seed(3)))[0].T
    tokens = torch.cat([basis * (3 - 0.1 * i) for i in range(2)])
    weight = torch.cat([torch.linspace(1, 0.4, 16), torch.linspace(0.35, 0.3, 16)])[None]
    full = kernels.greedy_map(kernels.unit(tokens)[None], weight, 16)
    assert torch.equal(kernels.greedy_map(kernels.unit(tokens.to(dtype))[None], weight, 16), full)
    assert full.tolist() == [list(range(16))]


@pytest.mark.parametrize("k", [0, 9])
def test_an_impossible_number_of_picks_is_refused(k: int):
    with pytest.raises(UserError, match="8 tokens"):
        kernels.greedy_map(unit_rows(1, 8, 4), None, k)


# -- unit rows ---------------------------------------------------------------------------------------------------------------
def test_unit_rows_have_unit_length_and_zero_stays_zero():
    x = torch.randn(3, 5, 7, generator=torch.Generator().manual_seed(0)) * 100
    x[1, 2] = 0
    norm = kernels.unit(x).norm(dim=-1)
    assert norm[1, 2] == 0
    norm[1, 2] = 1
    torch.testing.assert_close(norm, torch.ones(3, 5))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_unit_rows_of_large_half_precision_numbers_do_not_overflow(dtype: torch.dtype):
    x = torch.full((2, 64), 60_000.0).to(dtype)
    torch.testing.assert_close(kernels.unit(x), torch.full((2, 64), 0.125))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_unit_rows_refuse_what_is_not_finite(value: float):
    x = torch.ones(2, 3)
    x[1, 1] = value
    with pytest.raises(UserError, match="NaN or infinity"):
        kernels.unit(x)


# -- relevance ---------------------------------------------------------------------------------------------------------------
def plain_relevance(keys: np.ndarray, query: np.ndarray, sign: int, *, per_tile: bool) -> np.ndarray:
    """One image in float64. keys (G, N, C), query (M, C)."""
    keys = keys / np.linalg.norm(keys, axis=-1, keepdims=True)
    query = query / np.linalg.norm(query, axis=-1, keepdims=True)
    rho = sign * np.mean([keys @ q for q in query], 0)
    low, high = (f(rho, axis=1, keepdims=True) if per_tile else f(rho) for f in (np.min, np.max))
    return (rho - low + 1e-6) / (high - low)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("per_tile", [False, True])
def test_relevance_is_the_definition(sign: int, per_tile: bool):
    generator = torch.Generator().manual_seed(2)
    keys, query = torch.randn(2, 3, 20, 8, generator=generator) * 4, torch.randn(2, 5, 8, generator=generator)
    got = kernels.relevance(keys, query, sign=sign, per_tile=per_tile)
    for b in range(2):
        expected = plain_relevance(keys[b].double().numpy(), query[b].double().numpy(), sign, per_tile=per_tile)
        np.testing.assert_allclose(got[b].numpy(), expected, atol=2e-6)


def test_relevance_does_not_depend_on_batch_mates():
    generator = torch.Generator().manual_seed(4)
    keys, query = torch.randn(3, 2, 16, 8, generator=generator), torch.randn(3, 4, 8, generator=generator)
    keys[1] *= 50
    mask = torch.tensor([[True] * 4, [True, False, False, True], [False] * 4])
    together = kernels.relevance(keys, query, mask)
    for b in range(2):
        torch.testing.assert_close(together[b : b + 1], kernels.relevance(keys[b : b + 1], query[b : b + 1], mask[b : b + 1]))
    assert torch.equal(together[2], torch.ones(2, 16)), "a sample without a question among others has no preference"


def test_masked_query_rows_are_ignored():
    generator = torch.Generator().manual_seed(5)
    keys, query = torch.randn(1, 1, 16, 8, generator=generator), torch.randn(1, 4, 8, generator=generator)
    mask = torch.tensor([[True, False, True, False]])
    other = query.clone()
    other[0, [1, 3]] = 1000.0
    expected = kernels.relevance(keys, query[:, [0, 2]])
    torch.testing.assert_close(kernels.relevance(keys, query, mask), expected)
    torch.testing.assert_close(kernels.relevance(keys, other, mask), expected)


def test_constant_relevance_means_plain_diversity():
    keys = torch.ones(1, 1, 12, 8)
    weight = kernels.relevance(keys, torch.randn(1, 1, 8, generator=torch.Generator().manual_seed(6)))
    assert torch.equal(weight, torch.ones(1, 1, 12))
    features = unit_rows(1, 12, 32)
    assert torch.equal(kernels.greedy_map(features, weight[0], 6), kernels.greedy_map(features, None, 6))


@pytest.mark.parametrize(
    ("keys", "query", "mask"),
    [
        (None, torch.ones(1, 1, 8), None),
        (torch.ones(1, 1, 4, 8), None, None),
        (torch.ones(1, 1, 4, 8), torch.ones(1, 1, 8), torch.zeros(1, 1, dtype=torch.bool)),
    ],
)
def test_no_question_is_said_aloud(keys: Tensor | None, query: Tensor | None, mask: Tensor | None):
    with pytest.warns(UserWarning, match="no question"):
        assert kernels.relevance(keys, query, mask) is None


# -- bipartite graph ---------------------------------------------------------------------------------------------------------
def plain_redundancy(features: np.ndarray, tau: float, gamma: float, *, both: bool) -> np.ndarray:
    n = len(features)
    score = np.zeros(n)
    for i in range(n):
        if i % 2 and not both:
            continue
        others = range(1 - i % 2, n, 2)
        near = [s for j in others if (s := float(features[i] @ features[j])) >= tau]
        if near:
            score[i] = len(near) / len(others) * np.exp(gamma * (np.mean(near) - tau))
    return score


@pytest.mark.parametrize("n", [2, 9, 30])
@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize(("tau", "gamma"), [(0.2, 1.0), (0.0, 2.5), (0.6, -1.0)])
def test_redundancy_is_the_definition(n: int, both: bool, tau: float, gamma: float):
    features = unit_rows(3, n, 6)
    got = kernels.bipartite_redundancy(features, tau, gamma, both=both)
    for r in range(3):
        np.testing.assert_allclose(
            got[r].numpy(), plain_redundancy(features[r].double().numpy(), tau, gamma, both=both), atol=1e-5
        )


def test_a_single_token_has_no_partner():
    assert kernels.bipartite_redundancy(unit_rows(1, 1, 6), 0.2, 1.0, both=True).tolist() == [[0.0]]
