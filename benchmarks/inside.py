"""What pruning inside the language model costs and saves: `python benchmarks/inside.py`.

A random LLaMA inside a LLaVA of transformers' own classes reads one image and a question, unpruned and pruned. All times are
medians of this one run, the sides taking turns, and every ratio is of two of them. Scoring (the attention row of each stage and
the selection by it) is timed where it happens, by clocks inside pruned prefills of their own, and once more as what it adds to
a prefill that throws the selection away. The key-value cache is measured by its storages.

    python benchmarks/inside.py                                   a minute on one CPU thread
    python benchmarks/inside.py --device cuda --dtype bfloat16 --hidden 4096 --heads 32 --layers 32
    python benchmarks/inside.py --table                           the tables of docs/inside.md, which need no model
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from script_vlmeval.bench.passes import storages
from script_vlmeval.doubts import gathered
from script_vlmeval.errors import UserError
from script_vlmeval.methods import Method, get_method
from script_vlmeval.prefill import Prefill
from script_vlmeval.prune import pruning

N, LAYERS, TEXT = 576, 32, 64  # LLaVA-1.5-7B, for the tables
BUDGETS, FIRST, REMOVED = (288, 192, 128, 64), (2, 3, 5), (0.5, 0.75, 0.9, 1.0)
NAMES = ("fastv", "seqprune")
TARGET = 2.0  # percent of the unpruned prefill that scoring may cost
IMAGE, VOCABULARY, PATCH = 2, 1000, 4


# -- what a plan costs -------------------------------------------------------------------------------------------------------
def per_layer(plan: dict[int, int], n: int, layers: int) -> list[int]:
    """The visual tokens that enter each layer."""
    counts, now = [], n
    for layer in range(layers + 1):
        now = plan.get(layer, now)
        counts.append(now)
    return counts[:layers]


def flops(lengths: Iterable[int], h: int, f: int, c: int) -> int:
    """A prefill whose layers see so many tokens. h: hidden width, all heads together as well; f: MLP; c: keys of a token."""
    return sum(2 * t * (2 * h * h + 2 * h * c) + 4 * t * t * h + 6 * t * h * f for t in lengths)


def cost(plan: dict[int, int]) -> tuple[float, float, float]:
    """Mean visual tokens; FLOPs of the prefill, scoring included, and bytes of its cache, against unpruned. LLaVA-1.5-7B."""
    counts = per_layer(plan, N, LAYERS)
    lengths, full = [TEXT + v for v in counts], [TEXT + N] * LAYERS
    scoring = sum(2 * 4096 * lengths[stage - 1] for stage in plan if stage)
    spent = flops(lengths, 4096, 11008, 4096) + scoring
    return sum(counts) / LAYERS, spent / flops(full, 4096, 11008, 4096), sum(lengths) / sum(full)


# -- tables ------------------------------------------------------------------------------------------------------------------
def tables() -> dict[str, str]:
    """What docs/inside.md shows of schedules and budgets, recomputed."""
    return {"published": _markdown(_published()), "budgets": _markdown(_budgets()), "others": _markdown(_others())}


def _markdown(rows: Iterable[Sequence[str]]) -> str:
    head, *lines = (f"| {' | '.join(row)} |" for row in rows)
    return "\n".join([head, "|" + "---|" * (head.count("|") - 1), *lines])


def _published() -> Iterator[Sequence[str]]:
    yield ("R, K = 2", "FastV: mean", "FLOPs", "KV", "Sequential: mean", "FLOPs", "KV")
    for removed in REMOVED:
        cells = [f"{removed:g}"]
        for name in NAMES:
            mean, operations, kept = cost(get_method(name, removed=removed).plan(None, N, LAYERS))
            cells += [f"{mean:.1f}", f"{operations:.3f}", f"{kept:.3f}"]
        yield cells


def _budgets() -> Iterator[Sequence[str]]:
    yield ("mean wanted", "method", "K", "nearest R", "its mean", "integer budget: schedule", "its mean", "FLOPs")
    for budget in BUDGETS:
        for name in NAMES:
            for first in FIRST:
                removed, mean = min(scan(name, first), key=lambda found: abs(found[1] - budget))
                far = abs(mean - budget) > max(1, 0.02 * budget)
                nearest = ("unreachable", f"{mean:.2f} at {removed:g}") if far else (f"{removed:g}", f"{mean:.2f}")
                yield (str(budget), f"`{name}`", str(first), *nearest, *_solved(name, first, budget))


@cache
def scan(name: str, first: int) -> list[tuple[float, float]]:
    """Share removed, on a grid of 0.001, and the mean of its schedule."""
    found = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a share below the first step removes nothing
        for removed in (i / 1000 for i in range(1, 1001)):
            found.append((removed, cost(get_method(name, removed=removed, first_layer=first).plan(None, N, LAYERS))[0]))
    return found


def _solved(name: str, first: int, budget: int) -> Sequence[str]:
    method: Any = get_method(name, first_layer=first)
    try:
        mean, operations, _ = cost(method.plan(budget, N, LAYERS))
    except UserError:
        return f"unreachable, smallest {smallest(method, budget)}", "", ""
    tenths = -int(-method.solved(budget, N, LAYERS) * 1000 // 1)  # rounded up, which changes no count of 576 tokens
    return f"`r{tenths / 10:g}k{first}`", f"{mean:.2f}", f"{operations:.3f}"


def smallest(method: Method, above: int) -> int:
    """The smallest integer budget that can be planned, beyond one that cannot."""
    for budget in range(above + 1, N):
        try:
            method.plan(budget, N, LAYERS)
        except UserError:
            continue
        return budget
    return N


def _others() -> Iterator[Sequence[str]]:
    yield ("method", *(f"mean of {budget}" for budget in BUDGETS))
    for name in ("pyramiddrop", "sparsevlm", "dart", "script+fastv"):
        method = get_method(name)
        cells = []
        for budget in BUDGETS:
            try:
                plan = method.plan(budget, N, LAYERS)
            except UserError:
                cells.append(f"unreachable, smallest {smallest(method, budget)}")
                continue
            counts = ", ".join(f"{stage}: {count}" for stage, count in plan.items())
            cells.append(f"{counts} = {cost(plan)[0]:.2f}")
        yield (f"`{name}`", *cells)


# -- the model ---------------------------------------------------------------------------------------------------------------
def build(args: argparse.Namespace) -> Any:
    """A LLaVA with the language model asked for behind a tower that costs next to nothing, weights at random."""
    import transformers as t

    vision = t.CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=1,
        image_size=PATCH * args.side,
        patch_size=PATCH,
    )
    text = t.LlamaConfig(
        hidden_size=args.hidden,
        intermediate_size=feed_forward(args.hidden),
        num_hidden_layers=args.layers,
        num_attention_heads=args.heads,
        num_key_value_heads=args.heads,
        vocab_size=VOCABULARY,
        max_position_embeddings=4096,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=None,
    )
    config = t.LlavaConfig(
        vision_config=vision.to_dict(),
        text_config=text.to_dict(),
        image_token_index=IMAGE,
        image_seq_length=args.side**2,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
    )
    torch.manual_seed(0)
    with torch.device(args.device):
        model = t.LlavaForConditionalGeneration._from_config(config, attn_implementation=args.attn)
    return model.eval().requires_grad_(False).to(getattr(torch, args.dtype))


def feed_forward(hidden: int) -> int:
    """LLaMA's width: 8/3 of the hidden one, up to a multiple of 256."""
    return -(-8 * hidden // (3 * 256)) * 256


def prompt(args: argparse.Namespace, model: Any) -> dict[str, Any]:
    """Half of the text, the image, the other half."""
    draw = torch.Generator().manual_seed(0)
    words = torch.randint(IMAGE + 1, VOCABULARY, (args.text,), generator=draw)
    half = args.text // 2
    ids = torch.cat([words[:half], torch.full((args.side**2,), IMAGE), words[half:]])[None]
    size = PATCH * args.side
    given = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    pixels = torch.randn(1, 3, size, size, generator=draw).to(model.dtype)
    return {name: x.to(args.device) for name, x in {**given, "pixel_values": pixels}.items()}


# -- clocks ------------------------------------------------------------------------------------------------------------------
def now(device: str) -> float:
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter()


@contextmanager
def replaced(**methods: Callable[..., Any]) -> Iterator[None]:
    """Other methods of Prefill for a while."""
    before = {name: getattr(Prefill, name) for name in methods}
    try:
        for name, method in methods.items():
            setattr(Prefill, name, method)
        yield
    finally:
        for name, method in before.items():
            setattr(Prefill, name, method)


@contextmanager
def clocks(device: str) -> Iterator[dict[str, float]]:
    """Seconds in the attention rows, in the selection, and in all that the hooks do to a prompt."""
    spent = dict.fromkeys(("start", "layer", "_look", "_choose_inside"), 0.0)

    def clocked(name: str) -> Callable[..., Any]:
        own = getattr(Prefill, name)

        def timed(self: Prefill, *args: Any) -> Any:
            begin = now(device)
            out = own(self, *args)
            spent[name] += now(device) - begin
            return out

        return timed

    with replaced(**{name: clocked(name) for name in spent}):
        yield spent


def _thrown_away(self: Prefill, stage: int, x: Any, stand: Any, sizes: list[int], choose: Callable[..., Any]) -> Any:
    """In the place of Prefill._reduce: everything is chosen, nothing goes. Later stages choose among all tokens again."""
    with gathered():
        for u, k in enumerate(sizes):
            choose(u, x, k)
    return x, stand


# -- what is measured --------------------------------------------------------------------------------------------------------
def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Medians of all prefills, what scoring took inside the pruned ones, and the caches."""
    n = args.side**2
    methods = {"fastv": get_method("fastv"), "seqprune": get_method("seqprune", step=args.step)}
    plans = {name: method.plan(args.budget, n, args.layers) for name, method in methods.items()}
    model = build(args)
    inputs = prompt(args, model)

    def prefill(name: str = "", budget: int | str = "100pct") -> Any:
        """The cache of one prefill."""
        context = pruning(model, methods[name], budget) if name else nullcontext()
        with context:
            return model(**inputs, use_cache=True, logits_to_keep=1).past_key_values

    def thrown_away(name: str) -> Any:
        with replaced(_reduce=_thrown_away):
            return prefill(name, args.budget)

    calls: dict[str, Callable[[], Any]] = {"unpruned": prefill, "hooks, all kept": lambda: prefill("fastv")}
    calls |= {f"{name}, selection thrown away": lambda name=name: thrown_away(name) for name in NAMES}
    calls |= {name: lambda name=name: prefill(name, args.budget) for name in NAMES}
    took: dict[str, list[float]] = {name: [] for name in calls}
    inside: dict[str, list[dict[str, float]]] = {name: [] for name in NAMES}
    with torch.inference_mode():
        held = {name: storages(prefill(name, args.budget)) for name in ("", *NAMES)}  # and the first of each is slower
        for _ in range(args.repeats):
            for what, call in calls.items():
                begin = now(args.device)
                call()
                took[what].append(now(args.device) - begin)
            for name in NAMES:
                with clocks(args.device) as spent:
                    prefill(name, args.budget)
                inside[name].append(spent)
    milliseconds = {what: 1e3 * median(seconds) for what, seconds in took.items()}
    width, ffn, element = args.hidden, feed_forward(args.hidden), model.dtype.itemsize
    lengths = {name: [args.text + v for v in per_layer(plan, n, args.layers)] for name, plan in {"": {}, **plans}.items()}
    spent_by = {name: flops(seen, width, ffn, width) for name, seen in lengths.items()}
    predicted = {name: 2 * width * element * sum(seen) for name, seen in lengths.items()}
    return {
        "ms": milliseconds,
        "flops": {name: spent_by[name] / spent_by[""] for name in NAMES},
        "scoring": {
            name: {
                "stages": len(plans[name]),
                "ms": 1e3 * median(s["_look"] + s["_choose_inside"] for s in inside[name]),
                "hooks_ms": 1e3 * median(s["start"] + s["layer"] for s in inside[name]),
                "added_ms": 1e3
                * median(a - b for a, b in zip(took[f"{name}, selection thrown away"], took["unpruned"], strict=True)),
            }
            for name in NAMES
        },
        "mean": {name: sum(per_layer(plans[name], n, args.layers)) / args.layers for name in NAMES},
        "cache": {name or "unpruned": {"measured": held[name], "predicted": predicted[name]} for name in lengths},
    }


def show(found: dict[str, Any], args: argparse.Namespace) -> None:
    full = found["ms"]["unpruned"]
    print(f"\n| prefill of {args.side**2} visual and {args.text} text tokens | ms | of the unpruned | FLOPs, predicted |")
    print("|---|---|---|---|")
    for what, ms in found["ms"].items():
        wanted = f"{found['flops'][what]:.3f}" if what in found["flops"] else "1"
        mean = f", mean {found['mean'][what]:.1f}" if what in found["mean"] else ""
        print(f"| {what}{mean} | {ms:.2f} | {ms / full:.3f} | {wanted} |")
    print()
    for name, s in found["scoring"].items():
        share = 100 * s["ms"] / full
        print(
            f"scoring by {name}: {s['stages']} stage(s), {s['ms']:.2f} ms, {share:.2f} % of the unpruned prefill (target below "
            f"{TARGET:g} %: {'met' if share < TARGET else 'MISSED'}); all that the hooks do: {100 * s['hooks_ms'] / full:.2f} %; "
            f"thrown away it adds {100 * s['added_ms'] / full:+.2f} %"
        )
    for name in NAMES:
        print(f"saved by {name}: {full - found['ms'][name]:.2f} ms, {100 * (1 - found['ms'][name] / full):.1f} % of the prefill")
    whole = found["cache"]["unpruned"]["measured"]
    for name, c in found["cache"].items():
        print(
            f"cache, {name}: {c['measured']:,} bytes measured, {c['predicted']:,} predicted "
            f"({100 * (c['measured'] / c['predicted'] - 1):+.2f} %), {c['measured'] / whole:.3f} of the unpruned"
        )


def machine(device: str, threads: int) -> str:
    if device != "cpu":
        return torch.cuda.get_device_name()
    file = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*:\s*(.+)", file.read_text()) if file.exists() else []
    return f"{names[0] if names else platform.processor()}, {threads} thread(s)"


def main(given: Sequence[str] | None = None) -> None:
    p = argparse.ArgumentParser(description="Cost and savings of pruning inside the language model.")
    p.add_argument("--table", action="store_true", help="print the tables of docs/inside.md and stop")
    p.add_argument("--device", default="cpu")
    p.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"))
    p.add_argument("--attn", default="sdpa", choices=("sdpa", "eager"))
    p.add_argument("--threads", type=int, default=1, help="of the CPU")
    p.add_argument("--hidden", type=int, default=768)
    p.add_argument("--layers", type=int, default=24)
    p.add_argument("--heads", type=int, help="one per 64 of the hidden width, unless given")
    p.add_argument("--side", type=int, default=24, help="of the image, in visual tokens")
    p.add_argument("--text", type=int, default=64, help="text tokens")
    p.add_argument("--budget", type=int, help="mean visual tokens per layer; a third of all, unless given")
    p.add_argument("--step", type=float, default=10, help="of Sequential Prune, in percent")
    p.add_argument("--repeats", type=int, default=4, help="how often each prefill is measured")
    p.add_argument("--json", type=Path, help="file for what was found")
    args = p.parse_args(given)
    if args.table:
        print("\n\n".join(tables().values()))
        return
    if args.device not in ("cpu", "cuda") or (args.device == "cuda" and not torch.cuda.is_available()):
        p.error(f"--device {args.device}: it is cpu, or cuda where there is a GPU (seen here: {torch.cuda.device_count()})")
    for name, least in (("threads", 1), ("hidden", 64), ("layers", 2), ("side", 2), ("text", 2), ("repeats", 1)):
        if getattr(args, name) < least:
            p.error(f"--{name} {getattr(args, name)}: it must be at least {least}")
    args.heads = args.heads or args.hidden // 64
    if args.hidden % (2 * args.heads):
        p.error(f"--hidden {args.hidden} cannot be shared by {args.heads} heads of an even width: give --heads")
    args.budget = args.budget or args.side**2 // 3
    torch.set_num_threads(args.threads)
    print(f"{machine(args.device, args.threads)}; torch {torch.__version__}; {args.dtype}, {args.attn}")
    print(f"{args.layers} layers of {args.hidden}, {args.heads} heads, MLP {feed_forward(args.hidden)}; {args.repeats} repeats")
    try:
        found = measure(args)
    except UserError as error:
        p.error(str(error))
    show(found, args)
    if args.json:
        about = {"machine": machine(args.device, args.threads), "torch": torch.__version__}
        options = {name: value for name, value in vars(args).items() if name not in ("json", "table")}
        args.json.write_text(json.dumps({**about, **options, **found}, indent=1))


if __name__ == "__main__":
    main()
