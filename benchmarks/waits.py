"""Where a pruned prefill waits for the device: `python benchmarks/waits.py`.

To read a number of a tensor on the host, its truth, its length where that depends on values, is to wait until an accelerator has
computed it, and what comes next is launched late. Each such place between the vision tower and the first new token is listed with
how often it was passed, transformers' own beside ours.

On a CPU nothing waits, and places are found by what they ask of tensors; with `--device cuda` CUDA itself says where it
synchronised, and `--trace FILE` writes the profiler's timeline.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from script_vlmeval import shapes
from script_vlmeval.cells import Config
from script_vlmeval.errors import UserError
from script_vlmeval.runtime import Runtime, method_for, per_tile

OURS = "script_vlmeval/"
# what makes the host read values, or needs them to know how large its result is
_READING = {"item", "_local_scalar_dense", "is_nonzero", "nonzero", "nonzero_numpy", "masked_select", "equal"}
_READING |= {"_unique2", "unique_consecutive"}
_HOST = ("tolist", "numpy", "item", "__bool__", "__int__", "__float__", "__index__")
CONFIGS = ("full", "random_16", "script_16", "cdpruner_16", "divprune_16", "fastv_48", "seqprune_128")


class Waits(TorchDispatchMode):
    """Places, as 'folder/file.py:line', and how often each was passed."""

    def __init__(self) -> None:
        super().__init__()
        self.places: Counter[str] = Counter()
        self._within = False

    def note(self) -> None:
        own = {__file__, mock.__file__}
        frames = [f for f in traceback.extract_stack() if f.filename not in own and "/torch/" not in f.filename]
        if frames:
            path = Path(frames[-1].filename)
            self.places[f"{path.parent.parent.name}/{path.parent.name}/{path.name}:{frames[-1].lineno}"] += 1

    def ours(self) -> dict[str, int]:
        return {place: n for place, n in self.places.items() if OURS in place}

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        name = func._schema.name.removeprefix("aten::")
        masks = args[1] if name in ("index", "index_put_", "index_put") else ()
        if not self._within and (name in _READING or any(m is not None and m.dtype == torch.bool for m in masks)):
            self.note()
        return func(*args, **(kwargs or {}))

    def reading(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """A method of tensors that reads them, counted once whatever it calls."""

        def read(*args: Any, **kwargs: Any) -> Any:
            if self._within:
                return original(*args, **kwargs)
            self.note()
            self._within = True
            try:
                return original(*args, **kwargs)
            finally:
                self._within = False

        return read


@contextmanager
def waits() -> Iterator[Waits]:
    """What reads tensors of a CPU within."""
    with ExitStack() as stack:
        found = Waits()
        for name in _HOST:
            stack.enter_context(mock.patch.object(torch.Tensor, name, found.reading(getattr(torch.Tensor, name))))
        stack.enter_context(found)
        yield found


@contextmanager
def cuda_waits() -> Iterator[Waits]:
    """What CUDA says that it waited for within."""
    found = Waits()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.showwarning = lambda message, *_: found.note() if "synchroniz" in str(message) else None
            yield found
    finally:
        torch.cuda.set_sync_debug_mode("default")


def messages(folder: Path, rows: int) -> list[list[dict[str, str]]]:
    """Drawn scenes, each with a question."""
    import numpy as np
    from PIL import Image

    found = []
    for i in range(rows):
        path = folder / f"{i}.png"
        Image.fromarray(shapes.draw(np.random.default_rng(i)).pixels).save(path)
        found.append([{"type": "image", "value": str(path)}, {"type": "text", "value": "What color is the circle?"}])
    return found


def measured(runtime: Runtime, name: str, shown: list[list[dict[str, str]]], trace: Path | None = None) -> Waits:
    """One prefill and its first token, behind one that warmed up."""
    config = Config.parse(f"{runtime.record.id}_{name}")
    method, budget = method_for(runtime.record, config), per_tile(runtime.record, config.budget)
    for warm in (False, True):
        prepared = runtime.prepare(shown)
        with runtime.batch(), torch.inference_mode():
            runtime.encode(prepared)
            watch = cuda_waits() if runtime.where.startswith("cuda") else waits()
            if not warm:
                runtime.answer(prepared, method, budget, max_new_tokens=1)
                continue
            with ExitStack() as stack:
                found = stack.enter_context(watch)
                profile = stack.enter_context(torch.profiler.profile(with_stack=True)) if trace else None
                runtime.answer(prepared, method, budget, max_new_tokens=1)
            if profile and trace:
                profile.export_chrome_trace(str(trace.with_stem(f"{trace.stem}_{name}")))
    return found


def main() -> int:
    p = argparse.ArgumentParser(description="Where a pruned prefill waits for the device.")
    p.add_argument("--model", default="tiny", help="a model's name; its checkpoint is needed")
    p.add_argument("--config", nargs="+", default=list(CONFIGS), metavar="METHOD_BUDGET", help="what is asked of it")
    p.add_argument("--batch-size", type=int, default=4, metavar="N", help="prompts at a time (4)")
    p.add_argument("--device", default="auto", help="auto, cpu, cuda")
    p.add_argument("--dtype", default="auto", help="auto: float32 on a CPU, bfloat16 on a GPU")
    p.add_argument("--trace", type=Path, metavar="FILE", help="the profiler's timeline, one file for each configuration")
    args = p.parse_args()
    try:
        runtime = Runtime.load(args.model, device=args.device, dtype=args.dtype)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    refused = 0
    with tempfile.TemporaryDirectory() as folder:
        shown = messages(Path(folder), args.batch_size)
        for name in args.config:
            try:
                found = measured(runtime, name, shown, args.trace)
            except UserError as error:
                print(f"{name}: {error}")
                refused = 1
                continue
            ours = found.ours()
            print(f"{name}: {sum(ours.values())} of ours, {sum(found.places.values()) - sum(ours.values())} of transformers")
            for place, times in found.places.most_common():
                print(f"  {times:3} {place}")
    return refused


if __name__ == "__main__":
    sys.exit(main())
