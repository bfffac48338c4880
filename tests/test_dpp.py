"""The ways in which one greedy selection is computed: they must agree, whatever the shape, the batch and the budget."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from script_vlmeval import kernels
from script_vlmeval.errors import UserError
from script_vlmeval.kernels import dpp, on_cpu, unit


def tokens(b: int, n: int, d: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(b, n, d, generator=draw), torch.rand(b, n, generator=draw) * 0.9 + 0.1


@pytest.mark.parametrize(("b", "n", "d", "k"), [(1, 64, 96, 20), (5, 64, 96, 60), (2, 577, 48, 32), (4, 300, 2048, 24)])
def test_numpy_and_tensor_operations_pick_the_same(b: int, n: int, d: int, k: int):
    features, weight = tokens(b, n, d)
    expected = dpp._stepwise(unit(features), weight, k, None, None)
    assert torch.equal(kernels.greedy_map(features, weight, k), expected)
    assert torch.equal(kernels.greedy_map(features, None, k), dpp._stepwise(unit(features), None, k, None, None))


@pytest.mark.parametrize("seed", range(5))
def test_tiles_in_lock_step_are_bit_for_bit_what_each_is_alone(seed: int):
    features, weight = tokens(6, 200, 128, seed)
    together = on_cpu.Kernels(features, weight)
    together_residual = together.own.copy()
    picks, _ = on_cpu._lockstep(together, together_residual, 90, None)
    for r in range(6):
        alone = on_cpu.Kernels(features[r : r + 1], weight[r : r + 1])
        residual = alone.own[0].copy()
        np.testing.assert_array_equal(picks[r], on_cpu._one(alone, 0, residual, 90, None))
        free = np.isfinite(residual)
        np.testing.assert_array_equal(together_residual[r, free], residual[free])


@pytest.mark.parametrize("k", [1, 20, 64, 150])
def test_rows_made_on_demand_pick_what_the_whole_matrix_picks(monkeypatch: pytest.MonkeyPatch, k: int):
    features, weight = tokens(2, 160, 256)
    whole = kernels.greedy_map(features, weight, k)
    monkeypatch.setattr(on_cpu, "_WIDE", 1)
    made = on_cpu.Kernels(features, weight)
    assert torch.equal(on_cpu.greedy_map(made, k, None, None), whole)
    assert made.made(0) < 160 or k > 100, "only the rows of likely picks are made"


def test_fewer_rows_are_made_than_there_are(monkeypatch: pytest.MonkeyPatch):
    features, weight = tokens(1, 576, 1024)
    made = on_cpu.Kernels(features, weight)
    assert made.wide
    on_cpu.greedy_map(made, 64, None, None)
    assert 64 <= made.made(0) <= 160


def test_a_large_problem_against_float64():
    """576 tokens, 192 picks, by explicit projection in float64."""
    features, weight = tokens(1, 576, 512)
    a = features[0].double()
    a = (a / a.norm(dim=-1, keepdim=True)) * weight[0].double()[:, None]
    basis, picks = torch.zeros(0, 512, dtype=torch.float64), []
    for _ in range(192):
        residual = ((a - (a @ basis.T) @ basis) ** 2).sum(1)
        residual[picks] = -1
        picks.append(int(residual.argmax()))
        new = a[picks[-1]] - basis.T @ (basis @ a[picks[-1]])
        basis = torch.cat([basis, new[None] / new.norm()])
    assert kernels.greedy_map(features, weight, 192)[0].tolist() == picks


def test_one_tile_that_runs_out_does_not_disturb_the_others():
    features, weight = tokens(4, 40, 64)
    features[2, :, 3:] = 0
    picks = kernels.greedy_map(features, weight, 20)
    for r in range(4):
        assert torch.equal(picks[r], kernels.greedy_map(features[r : r + 1], weight[r : r + 1], 20)[0])
        assert len(set(picks[r].tolist())) == 20


@pytest.mark.parametrize("rank", [3, 12, 40])
def test_where_residuals_run_out_batch_mates_and_larger_budgets_change_nothing(rank: int):
    draw = torch.Generator().manual_seed(rank)
    features = torch.randn(6, 120, rank, generator=draw) @ torch.randn(rank, 64, generator=draw)
    features = features + 0.05 * torch.randn(6, 120, 64, generator=draw).bfloat16().float() * (torch.arange(6) % 2)[:, None, None]
    weight = torch.rand(6, 120, generator=draw)
    longest = kernels.greedy_map(features, weight, 100)
    for k in (1, 2, rank, rank + 1, 60):
        assert torch.equal(kernels.greedy_map(features, weight, k), longest[:, :k])
    for r in range(6):
        assert torch.equal(kernels.greedy_map(features[r : r + 1], weight[r : r + 1], 100)[0], longest[r])
        assert len(set(longest[r].tolist())) == 100


@pytest.mark.parametrize("path", ["numpy", "tensors"])
def test_when_the_candidates_are_used_up_the_others_follow(path: str):
    features, weight = tokens(4, 12, 16)
    allowed = torch.zeros(4, 12, dtype=torch.bool)
    allowed[:, [2, 5, 7]] = True
    pick = kernels.greedy_map if path == "numpy" else lambda x, w, k, allowed: dpp._stepwise(unit(x), w, k, allowed, None)
    picks = pick(features, weight, 8, allowed=allowed)
    assert all(set(row[:3]) == {2, 5, 7} and len(set(row)) == 8 for row in picks.tolist())
    rest = weight.masked_fill(allowed, -1).sort(dim=1, descending=True).indices[:, :5]
    assert torch.equal(picks[:, 3:], rest), "by weight"


def test_prescribed_picks_in_a_batch():
    features, weight = tokens(4, 60, 80)
    forced = torch.full((4, 15), -1)
    forced[:, :4] = torch.tensor([9, 2, 33, 50])
    allowed = torch.rand(4, 60, generator=torch.Generator().manual_seed(2)) > 0.3
    allowed.scatter_(1, forced[:, :4], True)
    picks = kernels.greedy_map(features, weight, 15, allowed=allowed, forced=forced)
    assert torch.equal(picks, dpp._stepwise(unit(features), weight, 15, allowed, forced))


@pytest.mark.parametrize("shift", [0.0, 2.0])
@pytest.mark.parametrize("wide", [False, True])
def test_repeated_penalties_are_the_closed_form(monkeypatch: pytest.MonkeyPatch, shift: float, wide: bool):
    """d_i <- d_i - (K_ij / (sqrt d_j + 1e-6))^2 while the best score is positive, then the frozen scores in descending order."""
    monkeypatch.setattr(on_cpu, "_WIDE", 1 if wide else 1 << 30)
    features, weight = tokens(3, 80, 32)
    features = features + shift
    a = unit(features).double()
    w = weight.double()
    kernel = w[:, :, None] * (a @ a.transpose(1, 2)) * w[:, None]
    for r, picks in enumerate(kernels.greedy_repeated(features, weight, 40).tolist()):
        score, free = kernel[r].diagonal().clone(), torch.ones(80, dtype=torch.bool)
        for pick in picks:
            best = score.masked_fill(~free, -torch.inf)
            assert best[pick] >= best.max() - 1e-6
            free[pick] = False
            if score[pick] > 0:
                score = score - (kernel[r, pick] / (score[pick].sqrt() + 1e-6)) ** 2
        assert len(set(picks)) == 40


def test_repeated_penalties_in_tensor_operations(monkeypatch: pytest.MonkeyPatch):
    """What other devices run, made to run here."""
    features, weight = tokens(3, 80, 32)
    expected = kernels.greedy_repeated(features, weight, 40)
    a = unit(features)
    assert torch.equal(dpp._repeated_stepwise(a, weight, 40), expected)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_refused(value: float):
    features, weight = tokens(2, 10, 4)
    features[1, 3, 2] = value
    with pytest.raises(UserError, match="NaN or infinity"):
        kernels.greedy_map(features, weight, 3)
    with pytest.raises(UserError, match="NaN or infinity"):
        kernels.greedy_repeated(features, weight, 3)
    features[1, 3, 2], weight[1, 4] = 0, value
    for select in (kernels.greedy_map, kernels.greedy_repeated):
        with pytest.raises(UserError, match="NaN or infinity"):
            select(features, weight, 3)
