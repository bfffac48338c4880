"""What pruning costs and saves in models of real size, without their checkpoints: `python benchmarks/models.py`.

Weights, pictures and words are random; widths, depths, heads, vocabularies and numbers of tokens are the published ones. Speed
and memory depend on these alone, answers on the weights, so nothing here says how good an answer is. Rows of a batch are equally
long, so nothing is padded.

`full` is the model without any hook of this project. All methods work on the same batch, their repeats take turns, the first
round is thrown away, and times are medians. The vision side runs beforehand and is timed by itself; what a method does besides,
the question's text tower included, is in its prefill. A row that runs out of memory, or cannot have its budget, says so.

    python benchmarks/models.py --json models.json                on a GPU
    python benchmarks/models.py --scale tiny --device cpu         the same prompts through narrow, shallow models
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import shlex
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from datetime import datetime, timezone
from importlib import metadata
from itertools import groupby
from pathlib import Path
from statistics import median
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))
from real_size import GEOMETRIES, Subject

from script_vlmeval import loading
from script_vlmeval.errors import UserError, unknown
from script_vlmeval.families import language_model
from script_vlmeval.methods import Method, get_method
from script_vlmeval.prune import pruning
from script_vlmeval.runtime import Prepared, choose_dtype, per_tile

NAMES = ("full", "cdpruner", "divprune", "script", "fastv", "seqprune")
PARAMS: dict[str, dict[str, Any]] = {"seqprune": {"step": 40}}  # steps of 10 percent cannot reach a tenth of the compute
TINY_PARAMS = {"fastv": {"first_layer": 1}, "seqprune": {"step": 40, "first_layer": 1}}  # of fewer layers, two are too many
QUANTITIES = ("prefill_ms", "token_ms", "kv_bytes", "peak_bytes")


# -- clocks ------------------------------------------------------------------------------------------------------------------
def now(device: str) -> float:
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter()


def peak(device: str) -> int | None:
    return torch.cuda.max_memory_allocated() if device != "cpu" else None


def storages(kv: Any) -> int:
    """Bytes that the tensors of a cache really hold."""
    found = [part.untyped_storage() for layer in kv.layers for part in (layer.keys, layer.values)]
    return sum({s.data_ptr(): s.nbytes() for s in found}.values())


@dataclass
class Passes:
    """When the model's first pass, the prefill, began and ended; the cache that it left; and how many passes there were."""

    device: str
    begin: float = 0.0
    end: float = 0.0
    kv: int = 0
    resumed: float = 0.0
    count: int = 0

    @contextmanager
    def of(self, model: Any) -> Iterator[None]:
        handles = [model.register_forward_pre_hook(self._before), model.register_forward_hook(self._after)]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _before(self, *_: Any) -> None:
        if not self.count:
            self.begin = now(self.device)

    def _after(self, module: Any, args: Any, output: Any) -> None:
        self.count += 1
        if self.count == 1:
            self.end = now(self.device)
            self.kv, self.resumed = storages(output.past_key_values), now(self.device)


# -- what is measured ----------------------------------------------------------------------------------------------------------
@dataclass
class Row:
    """One method on one batch. Times in ms, sizes in bytes, tokens with the text; None: not to be had."""

    model: str
    batch: int
    attn: str
    method: str
    budget: str
    weights_bytes: int | None = None  # the question's text tower included
    vision_ms: float | None = None  # tower and projector, the same for all methods
    vision_peak_bytes: int | None = None
    prefill_ms: float | None = None
    token_ms: float | None = None  # per token after the first
    new_tokens: int | None = None  # of an answer, the first included
    kv_bytes: int | None = None  # after the prefill
    peak_bytes: int | None = None  # in prefill and decoding, weights and the kept vision outputs included
    mean_tokens: float | None = None  # over the layers
    entering: list[float] = field(default_factory=list)  # each layer, mean over the batch
    layers: str = ""  # the same in short
    of_full: dict[str, float | None] = field(default_factory=dict)
    error: str = ""


def compact(entering: Iterable[float]) -> str:
    """[616, 616, 88] -> '0-1: 616, 2: 88'."""
    parts = []
    for count, same in groupby(enumerate(entering), key=lambda layer: layer[1]):
        first, *rest = [i for i, _ in same]
        parts.append(f"{first}{f'-{rest[-1]}' if rest else ''}: {count:g}")
    return ", ".join(parts)


def attempt(call: Callable[[], Any]) -> tuple[Any, str]:
    """What it returns, or why it cannot. Other failures are raised."""
    try:
        return call(), ""
    except UserError as error:
        return None, str(error)
    except Exception as error:
        if not loading.no_memory(error):
            raise
    gc.collect()  # behind the handler, which held what the failed call had on its stack
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return None, "out of memory"


def vision(subject: Subject, prepared: Prepared, repeats: int) -> dict[str, Any]:
    """The tower and what joins it to the language model, each time anew."""
    device, took = subject.runtime.device, []
    for _ in range(1 + repeats):
        if device != "cpu":
            torch.cuda.reset_peak_memory_stats()
        with subject.runtime.batch():
            begin = now(device)
            subject.runtime.encode(prepared)
            took.append(now(device) - begin)
    return {"vision_ms": 1e3 * median(took[1:]), "vision_peak_bytes": peak(device)}


def answer(subject: Subject, prepared: Prepared, method: Method, budget: str, new: int, look: bool) -> dict[str, Any]:
    """One generation, timed pass by pass. look: trace it, which `full` is spared when it counts."""
    runtime, bare = subject.runtime, method.name == "full" and not look
    where: AbstractContextManager[Any] = nullcontext()
    if not bare:
        budget = "100pct" if method.name == "full" else budget
        where = pruning(runtime.model, method, budget, question=prepared.questions, query=subject.query(method))
    if runtime.device != "cpu":
        torch.cuda.reset_peak_memory_stats()
    passes = Passes(runtime.device)
    with passes.of(runtime.model), where as trace:
        out = runtime.model.generate(**prepared.inputs, do_sample=False, max_new_tokens=new, use_cache=True)
        end = now(runtime.device)
        found: dict[str, Any] = {"prefill_ms": 1e3 * (passes.end - passes.begin), "kv_bytes": passes.kv}
        found |= {"token_ms": 1e3 * (end - passes.resumed) / (passes.count - 1), "peak_bytes": peak(runtime.device)}
        found["new_tokens"] = out.shape[1] - prepared.inputs["input_ids"].shape[1]
        assert passes.count == found["new_tokens"], "a pass per token"
        if look:
            found["entering"] = trace.entering(len(language_model(runtime.model).layers)).float().mean(1).tolist()
    return found


@torch.inference_mode()
def rows_of(subject: Subject, size: int, attn: str, methods: dict[str, Method], args: argparse.Namespace) -> list[Row]:
    """All methods on one batch, in turns."""
    budget = subject.geometry.budget
    rows = {m: Row(subject.name, size, attn, m, "" if m == "full" else budget, subject.weights) for m in methods}
    share = per_tile(subject.runtime.record, budget)
    took: dict[str, list[dict[str, Any]]] = {m: [] for m in methods}
    prepared, error = attempt(lambda: subject.batch(size))
    if not error:
        seen, error = attempt(lambda: vision(subject, prepared, args.repeats))
    if error:
        return failed(rows.values(), error)
    with subject.runtime.batch():
        _, error = attempt(lambda: subject.runtime.encode(prepared))
        if error:
            return failed(rows.values(), error)
        for turn in range(1 + args.repeats):
            for m, row in rows.items():
                if row.error:
                    continue
                call = lambda m=m: answer(subject, prepared, methods[m], share, args.new_tokens, turn == 0)  # noqa: E731, B023
                found, row.error = attempt(call)
                if found:
                    took[m].append(found)
    for m, row in rows.items():
        if not row.error:
            settle(row, seen, took[m])
    for row in rows.values():
        row.of_full = {name: ratio(getattr(row, name), getattr(rows["full"], name)) for name in QUANTITIES}
    return list(rows.values())


def failed(rows: Iterable[Row], error: str) -> list[Row]:
    """Rows that say why there is nothing in them."""
    found = list(rows)
    for row in found:
        row.error, row.of_full = error, dict.fromkeys(QUANTITIES)
    return found


def settle(row: Row, seen: dict[str, Any], took: Sequence[dict[str, Any]]) -> None:
    """What was found of a method: the first turn's tokens, the medians and the largest peak of the others."""
    first, *rest = took
    counted = {"entering": first["entering"], "new_tokens": first["new_tokens"], "kv_bytes": first["kv_bytes"], **seen}
    counted |= {name: median(x[name] for x in rest) for name in ("prefill_ms", "token_ms")}
    counted["peak_bytes"] = None if rest[0]["peak_bytes"] is None else max(x["peak_bytes"] for x in rest)
    for name, value in counted.items():
        setattr(row, name, value)
    row.mean_tokens, row.layers = sum(row.entering) / len(row.entering), compact(row.entering)


def ratio(value: float | None, full: float | None) -> float | None:
    return None if value is None or not full else value / full


def params_of(method: str, scale: str) -> dict[str, Any]:
    """What a method is given besides its budget."""
    return (TINY_PARAMS if scale == "tiny" else PARAMS).get(method, {})


def measure(args: argparse.Namespace, show: Callable[[list[Row]], None]) -> Iterator[Row]:
    """Row by row, a model in memory at a time; `show` hears of each batch when it is done."""
    methods = {m: get_method(m, **params_of(m, args.scale)) for m in args.method}
    for name in args.model:
        for attn in args.attn:
            subject, error = attempt(lambda: Subject.build(name, args.scale, args.device, args.dtype, attn))  # noqa: B023
            for size in args.batch:
                if error:
                    rows = failed((Row(name, size, attn, m, GEOMETRIES[name].budget) for m in methods), error)
                else:
                    rows = rows_of(subject, size, attn, methods, args)
                show(rows)
                yield from rows
            subject = None
            gc.collect()
            if args.device != "cpu":
                torch.cuda.empty_cache()


# -- what is shown -------------------------------------------------------------------------------------------------------------
HEAD: tuple[str, ...] = (
    "model",
    "batch",
    "attn",
    "method",
    "tokens, mean",
    "entering layers",
    "vision ms",
    "prefill ms",
    "of full",
)
HEAD += ("ms/token", "of full", "KV MiB", "of full", "peak GiB", "of full", "weights GiB")


def line(row: Row) -> str:
    def number(value: float | None, form: str = ".1f", unit: float = 1) -> str:
        return "-" if value is None else format(value / unit, form)

    cells = [row.model, str(row.batch), row.attn, f"{row.method} {row.budget}".strip()]
    cells += [number(row.mean_tokens), row.layers or row.error, number(row.vision_ms)]
    for name, form, unit in zip(QUANTITIES, (".1f", ".2f", ".1f", ".2f"), (1, 1, 2**20, 2**30), strict=True):
        cells += [number(getattr(row, name), form, unit), number(row.of_full[name], ".3f")]
    return f"| {' | '.join([*cells, number(row.weights_bytes, '.2f', 2**30)])} |"


def about(args: argparse.Namespace, given: Sequence[str]) -> dict[str, Any]:
    """The command, the machine, versions and date: without these a figure is worth nothing."""
    import transformers

    gpu = torch.cuda.get_device_properties(0) if args.device != "cpu" else None
    machine = f"{platform.machine()} CPU, {torch.get_num_threads()} thread(s)"
    versions = {"python": platform.python_version(), "torch": torch.__version__, "transformers": transformers.__version__}
    with suppress(metadata.PackageNotFoundError):
        versions["flash-attn"] = metadata.version("flash-attn")
    return {
        "command": shlex.join(["python", "benchmarks/models.py", *given]),
        "machine": machine if gpu is None else f"{gpu.name}, {gpu.total_memory / 2**30:.0f} GiB",
        "versions": versions,
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
    }


# -- the command ---------------------------------------------------------------------------------------------------------------
def parsed(given: Sequence[str]) -> argparse.Namespace:
    p = argparse.ArgumentParser(description="Cost and savings of pruning in models of real size, with random weights.")
    p.add_argument("--model", nargs="+", default=list(GEOMETRIES), metavar="NAME", help=", ".join(GEOMETRIES))
    p.add_argument("--method", nargs="+", default=list(NAMES), metavar="NAME", help="`full` is measured in any case")
    p.add_argument("--batch", nargs="+", type=int, default=[1, 16], metavar="N")
    p.add_argument("--attn", nargs="+", default=["sdpa", "flash_attention_2"], choices=("sdpa", "eager", "flash_attention_2"))
    p.add_argument("--dtype", default="auto", choices=("auto", "float32", "bfloat16", "float16"), help="auto: bfloat16 on a GPU")
    p.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    p.add_argument("--scale", default="full", choices=("full", "tiny"), help="tiny: narrow and shallow, for a CPU")
    p.add_argument("--repeats", type=int, default=5, help="how often each generation is measured")
    p.add_argument("--new-tokens", type=int, default=32, help="of an answer; the first comes from the prefill")
    p.add_argument("--json", type=Path, metavar="FILE", help="for what was found, written anew after each batch")
    return p.parse_args(given)


def checked(args: argparse.Namespace) -> argparse.Namespace:
    """The options made complete. UserError for what cannot be measured."""
    for name in args.model:
        if name not in GEOMETRIES:
            raise unknown("model", name, GEOMETRIES)
    for name in args.method:
        get_method(name)
    for option, least in (("repeats", 1), ("new_tokens", 2)):
        if (value := getattr(args, option)) < least:
            raise UserError(f"--{option.replace('_', '-')} {value}: it must be at least {least}.")
    if min(args.batch) < 1:
        raise UserError(f"--batch {min(args.batch)}: it must be at least 1.")
    if args.device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: there is no GPU here. The same at a small scale: --scale tiny --device cpu.")
    if args.json and not args.json.absolute().parent.is_dir():
        raise UserError(f"--json {args.json}: there is no folder {args.json.parent}.")
    args.dtype = choose_dtype(args.dtype, args.device)
    args.method = list(dict.fromkeys(["full", *args.method]))
    return args


def usable(attns: Sequence[str], device: str, dtype: str) -> Iterator[str]:
    """The kinds of attention that can run here; the others get a line."""
    for attn in attns:
        _, error = attempt(lambda: loading.check_attention(attn, device))  # noqa: B023
        if not error and attn == "flash_attention_2" and dtype == "float32":
            error = "it has no float32: use --dtype bfloat16."
        if error:
            print(f"{attn} is left out: {error}")
        else:
            yield attn


def main(given: Sequence[str] | None = None) -> int:
    given = sys.argv[1:] if given is None else list(given)
    args, rows = parsed(given), list[Row]()
    try:
        args = checked(args)
        args.attn = list(usable(args.attn, args.device, args.dtype))
        if not args.attn:
            raise UserError("No kind of attention is left: use --attn sdpa.")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    facts: dict[str, Any] = {**about(args, given), "dtype": args.dtype, "scale": args.scale}
    facts["sizes"] = {name: GEOMETRIES[name].source for name in args.model}
    facts["params"] = {name: found for name in args.method if (found := params_of(name, args.scale))}

    def show(found: list[Row]) -> None:
        rows.extend(found)
        print("\n".join(map(line, found)), flush=True)
        if args.json:
            args.json.write_text(json.dumps({**facts, "rows": [vars(row) for row in rows]}, indent=1))

    print(f"| {' | '.join(HEAD)} |\n{'|---' * len(HEAD)}|")
    for _ in measure(args, show):
        pass
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    own = (f"{name} with {', '.join(f'{k} {v}' for k, v in found.items())}" for name, found in facts["params"].items())
    print("\n" + "; ".join([f"scale {args.scale}", *own]))
    print(f"{facts['command']}\n{facts['machine']}; {args.dtype}; {versions}; {facts['date']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
