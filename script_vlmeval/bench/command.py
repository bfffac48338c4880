"""The command, from its arguments to its exit status."""

from __future__ import annotations

import gc
import platform
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib import metadata
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..backbones import Models
from ..cells import Config, Scalar, schedule
from ..errors import UserError
from ..files import disk
from ..progress import Progress
from .rows import ADVICE
from .wanted import Wanted, refuse_if_none, wanted

if TYPE_CHECKING:
    from ..methods import Method
    from .rows import Row
    from .subject import Subject


@dataclass(frozen=True)
class _How:
    """The options, checked."""

    batch_sizes: tuple[int, ...]
    repeats: int
    new_tokens: int
    seed: int
    device: str
    dtype: str
    attn: str
    models: Models


def command(
    names: Sequence[str] = (),
    *,
    random_weights: Sequence[str] = (),
    methods: Sequence[str] = (),
    budgets: Sequence[str] = (),
    params: Mapping[str, Scalar] | None = None,
    batch_sizes: Sequence[int | str] = (1,),
    repeats: int | str = 5,
    new_tokens: int | str = 32,
    seed: int = 0,
    device: str = "auto",
    dtype: str = "auto",
    attn: str = "sdpa",
    out: str | Path = "results/bench",
    models: Models | None = None,
    given: Sequence[str] | None = None,
    quiet: bool = False,
) -> int:
    """Measure, print, and write bench.json, bench.xlsx, bench.png and bench.svg into `out` after every batch.

    names: configurations. random_weights: models of published size without a checkpoint; methods, budgets: a grid of them. given:
    the command line to record, the process's own where None. Exit status 0, or 1 where a configuration could not be measured;
    one of a grid beside others, whose method cannot reach the budget, is told and is no failure. UserError for what does not
    exist or cannot work, before any weights are loaded.
    """
    tasks = wanted(names, random_weights, methods, budgets, params, models)
    sizes = tuple(dict.fromkeys(_whole("--batch-size", size, 1) for size in batch_sizes))
    counts = sizes, _whole("--repeats", repeats, 1), _whole("--new-tokens", new_tokens, 2)
    how = _How(*counts, seed, *_place(device, dtype, attn), models or Models())
    chosen = [task.methods() for task in tasks]
    refuse_if_none(chosen)
    folder = Path(out).expanduser()
    with disk(folder, ADVICE):
        folder.mkdir(parents=True, exist_ok=True)
    facts = _facts(how, tasks, sys.argv[1:] if given is None else given)
    return _run(list(zip(tasks, chosen, strict=True)), how, folder, facts, quiet)


def _whole(flag: str, value: int | str, least: int) -> int:
    """UserError unless it is a whole number and large enough."""
    with suppress(ValueError):
        if (number := int(value)) >= least:
            return number
    raise UserError(f"{flag} {value}: it must be a whole number, at least {least}.")


def _place(device: str, dtype: str, attn: str) -> tuple[str, str, str]:
    """Where and how it runs. UserError for what is not there."""
    import torch

    from ..loading import ALL_GPUS, check_attention
    from ..runtime import choose_device, choose_dtype

    if device == ALL_GPUS:
        raise UserError("--device all spreads a model, and one device is measured: use --device cuda or cpu.")
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(f"--device {device}: there is no GPU here. What a CPU can do: --random-weights mid --device cpu.")
    where = choose_device(device)
    if where != "cpu" and not where.startswith("cuda"):
        raise UserError(f"--device {device}: only cuda and cpu have clocks here.")
    kind = choose_dtype(dtype, where)
    check_attention(attn, where)
    if attn == "flash_attention_2" and kind == "float32":
        raise UserError("--attn flash_attention_2 has no float32: use --dtype bfloat16.")
    if where.startswith("cuda:"):
        torch.cuda.set_device(where)  # where events are recorded and memory is counted
    return where, kind, attn


# -- what is measured ----------------------------------------------------------------------------------------------------------
def _run(
    tasks: Sequence[tuple[Wanted, Mapping[Config, Method | str]]], how: _How, folder: Path, facts: dict[str, Any], quiet: bool
) -> int:
    """Model by model, one in memory at a time; files are written anew after every batch."""
    from . import files, table

    rows, failing = list["Row"](), False
    for task, methods in tasks:
        excused = [(str(config), dict(config.params)) for config in task.out_of_reach(methods)]
        for found, weights in _measured(task, methods, how, quiet):
            rows += found
            failing |= any(row.error and (row.name, row.params) not in excused for row in found)
            facts["weights_bytes"][task.record.id] = weights
            print("\n".join(table.lines(found)) + "\n", flush=True)
            files.write(folder, rows, facts)
    print("\n".join([*table.notes(facts), f"Files: {folder}/bench.json, bench.xlsx, bench.png, bench.svg"]))
    return int(failing)


def _measured(
    task: Wanted, methods: Mapping[Config, Method | str], how: _How, quiet: bool
) -> Iterator[tuple[list[Row], int | None]]:
    """Of each batch its rows, and the bytes of the model's weights. A bar stands while it is measured."""
    import torch

    from .measure import Turns, attempt, failed, measure

    subject, error = attempt(lambda: _subject(task, how))
    for size in how.batch_sizes:
        if error:
            yield failed(methods, size, error), None
            continue
        with Progress(_generations(methods, how.repeats), 1, quiet=quiet) as bar:
            found = measure(subject, methods, size, Turns(how.repeats, how.new_tokens, how.seed, _heard(bar)))
            bar.cell()
        yield found, subject.weights
    subject = None
    gc.collect()
    if how.device != "cpu":
        torch.cuda.empty_cache()


def _generations(methods: Mapping[Config, Method | str], repeats: int) -> int:
    """How many a batch takes, where none fails: a look at each configuration, then turns of these and the ideals."""
    from .measure import WARM_UPS

    had = [config for config, method in methods.items() if not isinstance(method, str)]
    ideals = {config if schedule(config.budget) else config.budget for config in had if not config.full}
    return len(had) + (WARM_UPS + repeats) * (len(had) + len(ideals))


def _heard(bar: Progress) -> Callable[[str], None]:
    """Tells the bar of each generation."""
    n = count(1)

    def hear(name: str) -> None:
        bar.see(next(n), 0)
        bar.at(name)

    return hear


def _subject(task: Wanted, how: _How) -> Subject:
    from .subject import drawn, loaded

    if task.geometry is None:
        return loaded(task.record, how.models, how.device, how.dtype, how.attn)
    return drawn(task.record, task.geometry, how.device, how.dtype, how.attn)


# -- what it was measured on ---------------------------------------------------------------------------------------------------
def _facts(how: _How, tasks: Sequence[Wanted], given: Sequence[str]) -> dict[str, Any]:
    """Command, machine, versions, date and settings: without these a figure is worth nothing."""
    import torch

    gpu = torch.cuda.get_device_properties(how.device) if how.device != "cpu" else None
    machine = f"{platform.machine()} CPU, {torch.get_num_threads()} thread(s)"
    versions = {"python": platform.python_version()}
    for name in ("torch", "transformers", "flash-attn", "triton"):
        with suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return {
        "command": shlex.join(["python", "run.py", *given]),
        "machine": machine if gpu is None else f"{gpu.name}, {gpu.total_memory / 2**30:.0f} GiB",
        "versions": versions,
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "device": how.device,
        "dtype": how.dtype,
        "attention": how.attn,
        "seed": how.seed,
        "repeats": how.repeats,
        "new_tokens": how.new_tokens,
        "models": {
            task.record.id: f"random weights; sizes: {task.geometry.source}" if task.geometry else task.record.checkpoint
            for task in tasks
        },
        "weights_bytes": {},
    }
