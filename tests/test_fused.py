"""The Triton launch, through Triton's interpreter on a CPU, against the same in tensor operations; and that it compiles."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from script_vlmeval import kernels
from script_vlmeval.doubts import gathered
from script_vlmeval.errors import UserError
from script_vlmeval.kernels import dpp, fused, maxmin, unit

pytest.importorskip("triton")
interpreted = pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") != "1", reason="a GPU is here; test_on_a_gpu covers it")


def tokens(b: int, n: int, d: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(b, n, d, generator=draw), torch.rand(b, n, generator=draw)


@interpreted
@pytest.mark.parametrize(("b", "n", "d", "k"), [(1, 16, 8, 5), (3, 50, 24, 20), (2, 33, 64, 32), (1, 130, 40, 40)])
@pytest.mark.parametrize("weighted", [True, False])
def test_map_picks_the_same(b: int, n: int, d: int, k: int, weighted: bool):
    features, weight = tokens(b, n, d)
    w = weight if weighted else None
    assert torch.equal(fused.greedy_map(features, w, k, None, None), dpp._stepwise(unit(features), w, k, None, None))


@interpreted
def test_map_with_prescribed_picks_and_a_restricted_set():
    features, weight = tokens(3, 50, 24)
    allowed = torch.rand(3, 50, generator=torch.Generator().manual_seed(1)) > 0.4
    forced = torch.full((3, 12), -1)
    forced[:, :3] = torch.tensor([7, 3, 20])
    allowed.scatter_(1, forced[:, :3], True)
    picks = fused.greedy_map(features, weight, 12, allowed, forced)
    assert torch.equal(picks, dpp._stepwise(unit(features), weight, 12, allowed, forced))
    assert allowed.gather(1, picks).all()


@interpreted
def test_map_goes_on_where_residuals_run_out():
    """Fewer dimensions than picks, copies, and a token of zeros."""
    features, weight = tokens(3, 40, 6)
    features[:, 7] = features[:, 3]
    features[0, 5] = 0
    picks = fused.greedy_map(features, weight, 30, None, None)
    assert torch.equal(picks, dpp._stepwise(unit(features), weight, 30, None, None))
    assert all(len(set(row)) == 30 for row in picks.tolist())


@interpreted
@pytest.mark.parametrize("gated", [True, False])
def test_max_min_picks_the_same(gated: bool):
    features, gate = tokens(3, 50, 24)
    features[1, 9] = features[1, 4]
    g = gate if gated else None
    assert torch.equal(fused.farthest_first(features, 20, g), maxmin.farthest_first(unit(features), 20, gate=g))


@interpreted
def test_max_min_of_copies_stays_distinct():
    features, _ = tokens(1, 6, 8)
    picks = fused.farthest_first(features.repeat_interleave(3, 1), 12, None)
    assert len(set(picks[0].tolist())) == 12
    assert {p // 3 for p in picks[0, :6].tolist()} == set(range(6))


@interpreted
def test_when_the_candidates_are_used_up_the_others_follow():
    features, weight = tokens(2, 12, 16)
    allowed = torch.zeros(2, 12, dtype=torch.bool)
    allowed[:, [2, 5, 7]] = True
    picks = fused.greedy_map(features, weight, 8, allowed, None)
    assert torch.equal(picks, kernels.greedy_map(features, weight, 8, allowed=allowed))


@interpreted
@pytest.mark.filterwarnings("ignore:invalid value")
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_refused_and_harmless_until_then(value: float):
    features, weight = tokens(2, 12, 16)
    broken, heavy = features.clone(), weight.clone()
    broken[1, 3, 2] = heavy[0, 2] = value
    calls = [
        lambda: fused.greedy_map(broken, weight, 5, None, None),
        lambda: fused.greedy_map(features, heavy, 5, None, None),
        lambda: fused.farthest_first(broken, 5, None),
    ]
    for call in calls:
        with pytest.raises(UserError, match="NaN or infinity"):
            call()
        with pytest.raises(UserError, match="NaN or infinity"), gathered():
            assert call().lt(12).all()


@interpreted
def test_many_tiles_are_taken_in_parts(monkeypatch: pytest.MonkeyPatch):
    features, weight = tokens(5, 20, 16)
    gate = weight.flip(0)
    whole = fused.greedy_map(features, weight, 6, None, None), fused.farthest_first(features, 6, gate)
    monkeypatch.setattr(fused, "_AT_ONCE", 900)
    assert fused._parts(features) == 3
    parts = fused.greedy_map(features, weight, 6, None, None), fused.farthest_first(features, 6, gate)
    assert torch.equal(whole[0], parts[0])
    assert torch.equal(whole[1], parts[1])


@interpreted
def test_a_batch_is_what_its_tiles_are_alone():
    features, weight = tokens(4, 30, 16)
    together = fused.greedy_map(features, weight, 10, None, None)
    alone = [fused.greedy_map(features[i : i + 1], weight[i : i + 1], 10, None, None) for i in range(4)]
    assert torch.equal(together, torch.cat(alone))


def test_on_a_cpu_it_is_not_used():
    assert not fused.serves(torch.zeros(1, 8, 4))


COMPILE = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from script_vlmeval.kernels import fused

def compiled(kernel, types, constants, absent):
    constants = {**constants, **dict.fromkeys(absent)}
    types = {**types, "n": "i32", "k": "i32", **dict.fromkeys(constants, "constexpr")}
    assert "ptx" in triton.compile(ASTSource(kernel, types, constants), target=GPUTarget("cuda", 90, 32)).asm

for absent in ([], ["allowed", "forced"]):
    types = dict(products="*fp32", scale="*fp32", diagonal="*fp32", allowed="*i8", forced="*i64", basis="*fp32", picks="*i64")
    compiled(fused._map_kernel, types, dict(BLOCK=1024, SPAN=8, LEAST=1e-5, TINY=1e-12), absent)
for absent in ([], ["gate"]):
    types = dict(cosine="*fp32", gate="*fp32", first="*i64", picks="*i64")
    compiled(fused._maxmin_kernel, types, dict(BLOCK=1024, STEP=2.0**-20), absent)
print("compiled")
"""


def test_it_compiles_for_a_gpu(tmp_path):
    """Down to machine code for an H100's generation; running it needs one."""
    environment = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", COMPILE], env=environment, capture_output=True, text=True, timeout=110)
    if "ptxas" in done.stderr and done.returncode:
        pytest.skip("Triton's build here brings no assembler")
    assert done.stdout.endswith("compiled\n"), done.stderr


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_on_a_gpu_it_picks_what_the_cpu_picks(dtype: torch.dtype):
    features, weight = tokens(8, 576, 256)
    features = features.to(dtype)
    assert fused.serves(features.cuda())
    here, there = kernels.greedy_map(features, weight, 64), kernels.greedy_map(features.cuda(), weight.cuda(), 64)
    assert (here == there.cpu()).float().mean() > 0.98
    here, there = (kernels.farthest_first(unit(x), 64) for x in (features, features.cuda()))
    assert (here == there.cpu()).float().mean() > 0.95
