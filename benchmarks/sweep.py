"""A sweep by this harness against VLMEvalKit's own loop, over the same model object: `python benchmarks/sweep.py`.

8 methods at 4 budgets and the unpruned model answer 128 questions of ShapesVQA twice. The host's side is its `infer_data_job`,
one configuration after the other, each a model of this package around the one loaded runtime: nothing is loaded again, which is
the host's best case. Our side is one sweep from an empty folder. On both sides the clock leaves out importing, loading the
model and its text side, and drawing the pictures, and a first pass over two samples goes before it. The host's clock leaves out
building dataset and model objects too; it covers answering and its workbook. Ours covers checks, fingerprints, opening the
dataset, answering, the store on disk, the workbooks and, in the first of two figures, the scores.

    python benchmarks/sweep.py                                   the embedded model and a LLaVA of middling size, on a CPU
    python benchmarks/sweep.py --scale llava7b --device cuda --host-share 0.1
    python benchmarks/sweep.py --overhead                        the harness around a model that answers at once
    python benchmarks/sweep.py --overhead --rows 214354          the same with as many rows as VQAv2 has, for the peak memory

Answers of both sides are compared one by one. Where they differ, the host's question is asked again, and the two largest logits
of the first token that differs tell whether rounding decided between them.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any
from unittest import mock

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.append(str(Path(__file__).resolve().parent))
import sweep_models
import sweep_overhead
from sweep_models import SCALES, Scale
from sweep_sides import BENCHMARK, Difference, Side, by_host, by_us, explained, parted

from script_vlmeval import sweep
from script_vlmeval.cells import FULL, Config, Scalar
from script_vlmeval.errors import UserError, unknown
from script_vlmeval.methods import get_method
from script_vlmeval.methods.base import INSIDE
from script_vlmeval.runtime import choose_device, choose_dtype, method_of

METHODS = ("script", "cdpruner", "divprune", "visionzip", "fastervlm", "scope", "fastv", "seqprune")
PARAMS: dict[str, dict[str, Scalar]] = {"seqprune": {"step": 40}}  # steps of 10 percent cannot reach the smaller budgets
NEAR = 1e-4  # between two logits: what rounding may decide
EXPLAINED = 20  # answers that differ which are looked into
WARM = 2  # samples of the pass before the clock


# -- one scale ------------------------------------------------------------------------------------------------------------------
@dataclass
class Found:
    """Both sides at one scale."""

    scale: str
    model: str
    configs: list[str]
    samples: int
    host_samples: int
    host: Side
    whole: Side  # ours, with scores
    infer: Side  # ours, without
    distinct: int = 0  # different answers: few of them would prove little
    different: int = 0
    unsteady: int = 0  # answers that differ between our two sweeps
    differences: list[Difference] = field(default_factory=list)  # the first ones, looked into

    @property
    def ratios(self) -> tuple[float, float]:
        """Ours to the host's, with scores and without."""
        return self.whole.rate / self.host.rate, self.infer.rate / self.host.rate


def configs_of(scale: Scale, args: argparse.Namespace) -> list[Config]:
    """The unpruned model, then every method at its budgets. UserError for one that the model cannot serve."""
    found = [Config.parse(f"{scale.name}_{FULL}")]
    for method in args.methods:
        inside = not INSIDE.isdisjoint(get_method(method).needs)
        params = PARAMS.get(method, {}) | ({"first_layer": scale.first} if inside else {})
        budgets = args.budgets or (scale.inside if inside else scale.budgets)
        found += [Config.parse(f"{scale.name}_{method}_{budget}", params) for budget in budgets]
    for config in found:
        method_of(config)
    return found


def options(args: argparse.Namespace, folder: Path, **more: Any) -> sweep.Options:
    """How our side runs."""
    how: dict[str, Any] = {"limit": args.samples, "batch_size": args.batch, "device": args.device, "dtype": args.dtype}
    return sweep.Options(folder, quiet=True, **{**how, **more})


def measure(scale: Scale, args: argparse.Namespace, scratch: Path) -> Found:
    """Both sides, one after the other, in this process."""
    from script_vlmeval.plugin import classes

    with sweep_models.named(scale, scratch / "checkpoint", args.answer_tokens) as model:
        configs = configs_of(scale, args)
        runtime = sweep_models.load(scale, model, args.device, args.dtype)
        for config in configs:
            runtime.ready(method_of(config))
        with mock.patch.dict(classes._RUNTIMES, {scale.name: runtime}):
            by_host(configs, min(WARM, args.samples), scratch / "warm_host", args.device)
            by_us(configs, runtime, options(args, scratch / "warm", limit=min(WARM, args.samples)))
            some = max(1, round(args.samples * args.host_share))
            host, theirs = by_host(configs, some, scratch / "host", args.device)
            whole, ours = by_us(configs, runtime, options(args, scratch / "whole"))
            infer, again = by_us(configs, runtime, options(args, scratch / "infer", mode="infer"))
            differ, unsteady = parted(theirs, ours), len(parted(again, ours))
            named = {str(config): config for config in configs}
            looked = [explained(difference, runtime, named) for difference in differ[:EXPLAINED]]
    distinct = len({answer for said in theirs.values() for answer in said.values()})
    model, sides = sweep_models.described(scale), {"host": host, "whole": whole, "infer": infer}
    counts = {"distinct": distinct, "different": len(differ), "unsteady": unsteady}
    return Found(scale.name, model, [*named], args.samples, some, **sides, **counts, differences=looked)


def dry(scale: Scale, args: argparse.Namespace, scratch: Path) -> str:
    """What would run, without weights: the configurations are served, and the model has so many parameters."""
    with sweep_models.named(scale, scratch / "checkpoint", args.answer_tokens):
        configs = configs_of(scale, args)
        size = f"; {sweep_models.parameters(scale) / 1e6:,.0f} M parameters" if scale.geometry else ""
    return f"{sweep_models.described(scale)}{size}\n{len(configs)} configurations: {' '.join(map(str, configs))}"


# -- what is shown --------------------------------------------------------------------------------------------------------------
def shown(found: Found) -> str:
    """The lines of one scale."""
    part = "" if found.host_samples == found.samples else f"; VLMEvalKit only on the first {found.host_samples} samples"
    lines = [found.model, f"{found.samples} samples x {len(found.configs)} configurations{part}"]
    lines.append(f"  {'':44} {'answers':>8} {'seconds':>9} {'CPU s':>9} {'answers/s':>10} {'ratio':>6}")
    rows = [("VLMEvalKit's loop, with its workbooks", found.host, 1.0)]
    for name, side, ratio in zip(("with", "without"), (found.whole, found.infer), found.ratios, strict=True):
        rows.append((f"this harness, {name} scores", side, ratio))
    for name, side, ratio in rows:
        lines.append(f"  {name:44} {side.answers:8,} {side.seconds:9.2f} {side.cpu:9.2f} {side.rate:10.2f} {ratio:6.2f}")
    lines.append(f"  {found.different} of {found.host.answers:,} answers differ; {found.distinct:,} distinct ones")
    if found.unsteady:
        lines.append(f"  {found.unsteady} answers differ between two sweeps of this harness")
    if found.different:
        near = sum(d.gap is not None and d.gap < NEAR for d in found.differences)
        lines.append(f"  of {len(found.differences)} looked into, {near} part where two logits are within {NEAR:g}:")
        lines += [f"    {d.config} {d.index}: token {d.token}, gap {d.gap}: {d.host!r} / {d.ours!r}" for d in found.differences]
    return "\n".join(lines)


def about(args: argparse.Namespace, given: Sequence[str]) -> dict[str, Any]:
    """The command, the machine, versions and date: without these a figure is worth nothing."""
    import transformers

    from script_vlmeval.plugin import host_label

    threads = f"{platform.machine()} CPU, {torch.get_num_threads()} thread(s)"
    return {
        "command": shlex.join(["python", "benchmarks/sweep.py", *given]),
        "machine": threads if args.device == "cpu" else torch.cuda.get_device_properties(0).name,
        "settings": f"{args.dtype}, batch {args.batch}",
        "versions": f"python {platform.python_version()}, torch {torch.__version__}, transformers {transformers.__version__}, "
        f"{host_label()}",
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
    }


# -- the command ----------------------------------------------------------------------------------------------------------------
def parsed(given: Sequence[str]) -> argparse.Namespace:
    p = argparse.ArgumentParser(description="A sweep by this harness against VLMEvalKit's own loop over the same model.")
    p.add_argument("--scale", nargs="+", default=["tiny", "mid"], metavar="NAME", help=", ".join(SCALES))
    p.add_argument("--samples", type=int, default=128, help=f"of {BENCHMARK}")
    p.add_argument("--methods", nargs="+", default=list(METHODS), metavar="NAME")
    p.add_argument("--budgets", nargs="+", metavar="B", help="of all methods, in place of the scale's")
    p.add_argument("--batch", type=int, default=32, help="samples that our side asks together")
    p.add_argument("--device", default="auto")
    p.add_argument("--dtype", default="auto", choices=("auto", "float32", "bfloat16", "float16"), help="auto: bfloat16 on a GPU")
    p.add_argument("--answer-tokens", type=int, default=8, help="of each answer; the embedded model ends its own")
    p.add_argument("--host-share", type=float, default=1.0, metavar="S", help="VLMEvalKit on this share of the samples alone")
    p.add_argument("--dry", action="store_true", help="only check that everything can be served; loads no weights")
    p.add_argument("--overhead", action="store_true", help="the harness around a model that answers at once")
    p.add_argument("--rows", type=int, default=10_000, help="of the table for --overhead")
    p.add_argument("--json", type=Path, metavar="FILE", help="for what was found")
    return p.parse_args(given)


def checked(args: argparse.Namespace) -> argparse.Namespace:
    """The options made complete. UserError for what cannot be measured."""
    for name in args.scale:
        if name not in SCALES:
            raise unknown("scale", name, SCALES)
    for option in ("samples", "batch", "answer_tokens", "rows"):
        if (value := getattr(args, option)) < 1:
            raise UserError(f"--{option.replace('_', '-')} {value}: it must be at least 1.")
    if not 0 < args.host_share <= 1:
        raise UserError(f"--host-share {args.host_share}: it must be above 0 and at most 1.")
    if args.json and not args.json.absolute().parent.is_dir():
        raise UserError(f"--json {args.json}: there is no folder {args.json.parent}.")
    args.device = choose_device(args.device)
    args.dtype = choose_dtype(args.dtype, args.device)
    return args


def report(args: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """Print what was asked for, scale by scale, and return it."""
    from script_vlmeval.plugin import register
    from script_vlmeval.tiny import write_benchmark

    if args.overhead:
        cost = sweep_overhead.measure(args.rows, scratch)
        print(sweep_overhead.shown(cost), flush=True)
        return {"overhead": asdict(cost)}
    if args.dry:
        print("\n".join(dry(SCALES[name], args, scratch / name) for name in args.scale))
        return {}
    register()
    write_benchmark(BENCHMARK, scratch)
    scales = []
    for name in args.scale:
        found = measure(SCALES[name], args, scratch / name)
        scales.append({**asdict(found), "ratios": found.ratios})
        print(shown(found), flush=True)
    return {"scales": scales}


def main(given: Sequence[str] | None = None) -> int:
    given = sys.argv[1:] if given is None else list(given)
    args = parsed(given)
    with tempfile.TemporaryDirectory(prefix="sweep-") as folder, mock.patch.dict(os.environ, LMUData=folder):
        try:
            found = report(checked(args), Path(folder))
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
    if args.dry:
        return 0
    facts = about(args, given)
    print("\n" + "\n".join([facts["command"], "; ".join(facts[name] for name in list(facts)[1:])]))
    if args.json:
        args.json.write_text(json.dumps({**facts, **found}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
