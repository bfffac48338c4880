"""How long choosing tokens takes, against the loops of the releases: `python benchmarks/selection.py`.

The releases' loops are written anew from what they do step by step (operations, order, index tensors, host synchronisations),
and are checked here to make the same picks. Every ratio is of medians of this one run, the two sides measured in alternation.
Inputs are synthetic: independent directions, or a smooth field over the tile, which is harder to predict rows for.

    python benchmarks/selection.py                     ratios and the growth of the cost, a few minutes on a CPU
    python benchmarks/selection.py --device cuda       the launch on a GPU besides
    python benchmarks/selection.py --out docs/images   also the plot
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from script_vlmeval import kernels
from script_vlmeval.kernels import fused, on_cpu
from script_vlmeval.methods import METHODS, Visual, get_method

# N, and the T of each
GROWTH = ((144, (8, 16, 32, 64)), (576, (8, 32, 64, 192)), (2880, (8, 64, 320, 640)), (11_520, (8, 64, 320, 1024)))


# -- the releases' loops -----------------------------------------------------------------------------------------------------
def released_kernel(features: Tensor, r: Tensor) -> Tensor:
    """diag(r) S diag(r) from all pairs, as both releases make it first."""
    a = features / features.norm(dim=-1, keepdim=True)
    return r[:, :, None] * torch.bmm(a, a.transpose(1, 2)) * r[:, None, :]


def released_cdpruner(kernel: Tensor, t: int) -> Tensor:
    """(B, T): CDPruner's greedy MAP, all tiles in lock-step, its index tensors made on the CPU at every step."""
    b, n, _ = kernel.shape
    d = torch.diagonal(kernel, dim1=1, dim2=2).clone()
    c = torch.zeros(t, b, n, device=kernel.device)
    picks = torch.empty(t, b, dtype=torch.long, device=kernel.device)
    for i in range(t):
        j = d.argmax(-1)
        picks[i] = j
        shared = torch.einsum("tb,tbn->bn", c[:i, torch.arange(b), j], c[:i])
        c[i] = (kernel[torch.arange(b), j] - shared) / torch.sqrt(d[torch.arange(b), j]).unsqueeze(-1)
        d -= torch.square(c[i])
        d[torch.arange(b), j] = -torch.inf
    return picks.T


def released_script(kernel: Tensor, t: int) -> Tensor:
    """(B, T): Script's two greedies, the first thrown away, the second with a Python loop over all earlier picks.

    Its inner loop subtracts earlier picks with a coefficient that is always -0, at four operations and four host
    synchronisations each.
    """
    released_cdpruner(kernel, t)
    b, n, _ = kernel.shape
    d = torch.diagonal(kernel, dim1=1, dim2=2).clone()
    free = torch.ones(b, n, dtype=torch.bool, device=kernel.device)
    picks = torch.empty(b, t, dtype=torch.long, device=kernel.device)
    for i in range(t):
        j = d.masked_fill(~free, -torch.inf).argmax(-1)
        picks[:, i] = j
        free[torch.arange(b), j] = False
        for tile in range(b):
            new = j[tile]
            if d[tile, new] <= 0:
                continue
            row = kernel[tile, new].clone()
            for s in range(i):
                earlier = picks[tile, s]
                share = kernel[tile, new, earlier] / (d[tile, earlier] + 1e-6)
                row = row - share * row
            row = row / (torch.sqrt(d[tile, new]) + 1e-6)
            d[tile] -= row * row
            d[tile, new] = -torch.inf
    return picks


# -- inputs and clocks -------------------------------------------------------------------------------------------------------
def tokens(b: int, n: int, d: int, *, smooth: bool = False, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Features (B, N, D) and weights (B, N)."""
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(b, n, d, generator=draw)
    if smooth:
        side = max(2, round(n**0.5))
        coarse = torch.randn(b, d, 6, 6, generator=draw)
        field = torch.nn.functional.interpolate(coarse, (side, -(-n // side)), mode="bilinear").flatten(2).transpose(1, 2)[:, :n]
        x = 0.5 * x + field + 0.5 * torch.randn(d, generator=draw)
    return x.contiguous(), torch.rand(b, n, generator=draw) * 0.9 + 0.1


def apart(n: int, d: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Tokens so nearly orthogonal that the scores of Script's release stay positive."""
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(1, n, d, generator=draw), torch.rand(1, n, generator=draw) * 0.5 + 0.5


def seconds(call: Callable[[], Any], device: str) -> float:
    if device != "cpu":
        torch.cuda.synchronize()
    start = time.perf_counter()
    call()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def medians(calls: dict[str, Callable[[], Any]], device: str, budget: float) -> dict[str, float]:
    """Median seconds of each, in alternation, for about `budget` seconds in all."""
    rounds: list[dict[str, float]] = []
    first = sum(seconds(call, device) for call in calls.values())
    for _ in range(max(5, min(200, int(budget / max(first, 1e-6))))):
        rounds.append({name: seconds(call, device) for name, call in calls.items()})
    return {name: sorted(r[name] for r in rounds)[len(rounds) // 2] for name in calls}


# -- what is measured --------------------------------------------------------------------------------------------------------
def loops(budget: float) -> list[dict[str, Any]]:
    """The greedy alone, both sides given the kernel; then with the similarity."""
    rows = []
    for b, n, t in ((1, 576, 64), (1, 576, 192), (5, 576, 64)):
        features, r = tokens(b, n, 256)
        kernel, ours = released_kernel(features, r), on_cpu.Kernels(features, r)
        same = torch.equal(released_cdpruner(kernel, t), on_cpu.greedy_map(ours, t, None, None))
        calls = {"release": lambda: released_cdpruner(kernel, t), "ours": lambda: on_cpu.greedy_map(ours, t, None, None)}  # noqa: B023
        rows.append(_row(f"CDPruner's loop, {b} x {n}, T = {t}", calls, same, 5, budget))
    features, r = apart(576, 4096)
    kernel, ours = released_kernel(features, r), on_cpu.Kernels(features, r)
    same = torch.equal(released_script(kernel, 192), on_cpu.greedy_repeated(ours, 192))
    calls = {"release": lambda: released_script(kernel, 192), "ours": lambda: on_cpu.greedy_repeated(ours, 192)}
    rows.append(_row("Script's loop, 1 x 576, T = 192, scores positive", calls, same, 50, budget))
    for smooth, t in ((False, 64), (True, 64), (False, 128), (False, 192)):
        features, r = tokens(1, 576, 4096, smooth=smooth)
        calls = {
            "release": lambda: released_cdpruner(released_kernel(features, r), t),  # noqa: B023
            "ours": lambda: kernels.greedy_map(features, r, t),  # noqa: B023
        }
        same = torch.equal(calls["release"](), calls["ours"]())
        kind = "smooth" if smooth else "independent"
        rows.append(
            _row(f"similarity included, D = 4096, 1 x 576, T = {t}, {kind} tokens", calls, same, 3 if t == 64 else None, budget)
        )
    return rows


def _row(what: str, calls: dict[str, Callable[[], Any]], same: bool, target: float | None, budget: float) -> dict[str, Any]:
    took = medians(calls, "cpu", budget)
    ratio = took["release"] / took["ours"]
    aim = "" if target is None else f"  (target {target:g}x: {'met' if ratio >= target else 'MISSED'})"
    picks = "" if same else "  OTHER PICKS"
    print(f"{what}: {took['release'] * 1e3:.2f} ms -> {took['ours'] * 1e3:.2f} ms, {ratio:.1f}x{aim}{picks}")
    return {"what": what, "release_ms": took["release"] * 1e3, "ours_ms": took["ours"] * 1e3, "ratio": ratio, "same": same}


def every_method(device: str, budget: float) -> dict[str, float]:
    """Milliseconds of one call of each method on one image of 24 x 24 tokens, D = 4096, T = 64."""
    visual = _visual(device)
    took = {}
    for name in sorted(METHODS):
        method = get_method(name)
        took[name] = medians({name: lambda m=method: m(visual, 64)}, device, budget)[name] * 1e3
        print(f"{name:14} {took[name]:8.2f} ms")
    return took


def _visual(device: str, n: int = 576) -> Visual:
    draw = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw).to(device)

    matrix = normal(1024, 4096) / 32
    return Visual(
        tokens=normal(1, 1, n, 4096),
        keys=normal(1, 1, n, 768),
        query=normal(1, 1, 768),
        saliency=normal(1, 1, n).softmax(-1),
        attention=normal(1, 1, n).softmax(-1),
        encoded=normal(1, 1, n, 1024),
        encoder_keys=normal(1, 1, n, 64),
        cls=normal(1, 1, 1024),
        project=lambda x: x @ matrix.to(x.dtype),
        grid=(24, 24),
        seed=torch.tensor([0]),
        resized=lambda rows, columns: normal(1, 1, rows * columns, 4096),
        text=normal(1, 40, 4096),
        text_mask=torch.ones(1, 40, dtype=torch.bool, device=device),
        text_keys=normal(1, 40, 4096),
        layer_keys=normal(1, 1, n, 4096),
        norm=lambda x: x,
        ahead=normal(1, 1, n).softmax(-1),
        text_attention=normal(1, 1, n, 40).softmax(2),
        given=normal(1, 1, n, 4096),
        text_given=normal(1, 40, 4096),
        image=torch.zeros(1, 1, n, dtype=torch.long, device=device),
        frame=torch.zeros(1, 1, n, dtype=torch.long, device=device),
    )


def growth(device: str, budget: float) -> list[dict[str, Any]]:
    """The conditional DPP, similarity included, D = 4096, over the number of tokens and the budget."""
    rows = []
    for n, ks in GROWTH:
        features, r = (x.to(device) for x in tokens(1, n, 4096))
        for k in ks:
            took = medians({"dpp": lambda k=k, f=features, w=r: kernels.greedy_map(f, w, k)}, device, budget)["dpp"]
            print(f"N = {n:6}, T = {k:5}: {took * 1e3:9.2f} ms")
            rows.append({"n": n, "k": k, "ms": took * 1e3})
    return rows


def on_gpu(budget: float) -> list[dict[str, Any]]:
    """The launch against the same in tensor operations: 8 images of 5 tiles of 576, T = 64."""
    rows = []
    for b, n, k in ((1, 576, 64), (5, 576, 64), (40, 576, 64), (40, 576, 192)):
        features, r = (x.cuda() for x in tokens(b, n, 4096))
        half = features.half()
        products = fused.similarity(half)
        calls = {
            "one launch": lambda: kernels.greedy_map(half, r, k),  # noqa: B023
            "its similarity": lambda: fused.similarity(half),  # noqa: B023
            "tensor operations": lambda: kernels.dpp._stepwise(kernels.unit(half), r, k, None, None),  # noqa: B023
            "release": lambda: released_cdpruner(released_kernel(features, r), k),  # noqa: B023
        }
        same = float((calls["one launch"]() == calls["tensor operations"]()).float().mean())
        took = {name: t * 1e3 for name, t in medians(calls, "cuda", budget).items()}
        print(
            f"{b} x {n}, T = {k}: {', '.join(f'{name} {t:.3f} ms' for name, t in took.items())}; {same:.1%} of the picks the same"
        )
        rows.append({"tiles": b, "n": n, "k": k, "same": same, "bytes": products.nbytes, **took})
    return rows


def plot(rows: list[dict[str, Any]], file: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6.4, 4), layout="constrained")
    for n, marker in zip(sorted({row["n"] for row in rows}), "os^D", strict=False):
        mine = [row for row in rows if row["n"] == n]
        axes.loglog([row["k"] for row in mine], [row["ms"] for row in mine], marker=marker, label=f"N = {n:,}")
    axes.set(xlabel="budget T, tokens", ylabel="milliseconds, median", title="Conditional DPP, similarity included, D = 4096")
    axes.grid(alpha=0.3, which="both")
    axes.legend(title="visual tokens")
    figure.savefig(file, dpi=150)
    print(f"plot: {file}")


def machine(device: str) -> str:
    if device != "cpu":
        return torch.cuda.get_device_name()
    names = [
        line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")
    ]
    return f"{names[0] if names else platform.processor()}, one thread"


def main() -> None:
    p = argparse.ArgumentParser(description="Cost of choosing visual tokens, against the releases' loops.")
    p.add_argument("--device", default="cpu")
    p.add_argument("--seconds", type=float, default=3.0, help="per comparison")
    p.add_argument("--out", type=Path, help="folder for selection.png and selection.json")
    args = p.parse_args()
    if args.seconds <= 0:
        p.error(f"--seconds {args.seconds:g}: it must be above 0")
    if args.device not in ("cpu", "cuda") or (args.device == "cuda" and not torch.cuda.is_available()):
        p.error(f"--device {args.device}: it is cpu, or cuda where there is a GPU (seen here: {torch.cuda.device_count()})")
    torch.set_num_threads(1)
    print(f"{machine(args.device)}; torch {torch.__version__}")
    found: dict[str, Any] = {"machine": machine(args.device), "torch": torch.__version__}
    if args.device == "cpu":
        found["loops"] = loops(args.seconds)
    else:
        found["launch"] = on_gpu(args.seconds)
    found["methods"] = every_method(args.device, args.seconds / 3)
    found["growth"] = growth(args.device, args.seconds / 3)
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / "selection.json").write_text(json.dumps(found, indent=1))
        plot(found["growth"], args.out / "selection.png")


if __name__ == "__main__":
    main()
