"""A sweep that is killed again and again, for test_kills.py: `python killing.py DIR KILLS SEED`.

One process imports everything once and forks each run, so that a kill costs as long as the sweep ran and no more. The model is a
stand-in that answers from a digest of the question: what is tried is everything around it. Prints what came of it as JSON.
"""

from __future__ import annotations

import contextlib
import gc
import json
import logging
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

import openpyxl
from runtimes import StandIn, free_port, loading, warm

from script_vlmeval import ahead, cli
from script_vlmeval.runtime import Runtime

NAMES = ["tiny_full", "tiny_random_16", "tiny_script_16"]
ARGV = ["--model", *NAMES, "--data", "ShapesVQA", "ShapesYN", "--limit", "40"]
SIZES = ("3", "8", "auto")


def forked(work_dir: Path, rank: int, world: int, port: int, size: str) -> int:
    """A process of a run; its id."""
    if pid := os.fork():
        return pid
    if world > 1:
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world)}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    with open(os.devnull, "w") as nowhere, open(work_dir.parent / "log.txt", "a", buffering=1) as log:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(log.fileno(), 2)
        sys.stdout, sys.stderr = nowhere, log
        status = 99
        try:
            status = cli.main([*ARGV, "--work-dir", str(work_dir), "--quiet", "--batch-size", size])
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(status)


def run(work_dir: Path, world: int, size: str, kill_after: float | None = None, dice: random.Random | None = None) -> list[int]:
    """One run of so many processes. With `kill_after`, one of them is killed then, and the others are asked to stop, as torchrun
    does. The exit statuses, negative for signals."""
    port = free_port()
    children = [forked(work_dir, rank, world, port, size) for rank in range(world)]
    if kill_after is not None and dice is not None:
        time.sleep(kill_after)
        os.kill(victim := dice.choice(children), signal.SIGKILL)
        for child in children:
            if child != victim:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, signal.SIGTERM)
    ends, deadline = {}, time.monotonic() + 60
    while len(ends) < world:
        for child in set(children) - set(ends):
            pid, status = os.waitpid(child, os.WNOHANG)
            if pid:
                ends[child] = os.waitstatus_to_exitcode(status)
        if time.monotonic() > deadline:
            for child in set(children) - set(ends):
                os.kill(child, signal.SIGKILL)
            raise TimeoutError(f"processes hang: {set(children) - set(ends)}")
        time.sleep(0.002)
    return [ends[child] for child in children]


def sheets(path: Path) -> dict[str, list[list[Any]]]:
    book = openpyxl.load_workbook(path)
    return {sheet.title: [[cell.value for cell in row] for row in sheet.iter_rows()] for sheet in book}


def _anywhere(value: Any, work_dir: Path) -> Any:
    """A cell without the folder in which the run was."""
    return value.replace(str(work_dir), "") if isinstance(value, str) else value


def content(work_dir: Path) -> dict[str, Any]:
    """Every spreadsheet, cell for cell, but the pages that tell times and commands."""
    found: dict[str, Any] = {}
    for path in sorted(work_dir.rglob("*.xlsx")):
        pages = sheets(path)
        if path.name == "summary.xlsx":
            pages = {title: page for title, page in pages.items() if title in ("overview", "ShapesVQA", "ShapesYN")}
        pages = {title: [_timeless(page, row) for row in page] for title, page in pages.items()}
        placed = {title: [[_anywhere(cell, work_dir) for cell in row] for row in page] for title, page in pages.items()}
        found[str(path.relative_to(work_dir))] = placed
    return found


def _timeless(page: list[list[Any]], row: list[Any]) -> list[Any]:
    head = page[0]
    return [cell for name, cell in zip(head, row, strict=True) if "second" not in str(name) and name != "answers/s"]


def once_each(work_dir: Path) -> bool:
    """Whether each row has one answer on disk, in one file, and nothing is left over."""
    for folder in (p.parent for p in work_dir.glob("*/*/result.json")):
        lines = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
        if len({line["index"] for line in lines}) != 40 or any("error" in line for line in lines):
            return False
        if list(folder.glob("predictions-*")) or list(folder.glob(".*.tmp")):
            return False
    return len(list(work_dir.glob("*/*/result.json"))) == len(NAMES) * 2


def main(folder: Path, kills: int, seed: int) -> dict[str, Any]:
    """What came of it. It changes the process: to be called in one of its own."""
    dice = random.Random(seed)
    warm()
    gc.freeze()  # to collect what is imported would take each run longer than its work
    logging.getLogger().handlers.clear()  # of a caller, as are the threads that decode
    ahead._pool.cache_clear()
    Runtime.load = loading(StandIn)  # type: ignore[method-assign]
    (folder / "calm").mkdir(parents=True)
    start = time.monotonic()
    calm = folder / "calm" / "out"
    statuses = run(calm, 1, "8")
    seconds = time.monotonic() - start
    start = time.monotonic()
    run(folder / "calm" / "again", 1, "8")
    seconds = min(seconds, time.monotonic() - start)
    expected, told = content(calm), {"calm": statuses, "seconds": seconds, "kills": 0, "worlds": [0, 0, 0]}
    bad: list[str] = []
    round_ = 0
    while told["kills"] < kills:
        round_ += 1
        out = folder / f"round{round_}" / "out"
        out.parent.mkdir()
        for _ in range(min(3, kills - told["kills"])):
            world = 2 - told["kills"] % 2  # in turn, so that few kills try both
            ends = run(out, world, dice.choice(SIZES), dice.uniform(0.05, seconds), dice)
            told["worlds"][world] += 1
            told["kills"] += 1
            if 99 in ends or 2 in ends:
                bad.append(f"round {round_}: statuses {ends}")
        last = run(out, dice.choice((1, 2)), dice.choice(SIZES))
        if set(last) != {0}:
            bad.append(f"round {round_}: the last run ended with {last}")
        elif content(out) != expected:
            bad.append(f"round {round_}: other spreadsheets")
        elif not once_each(out):
            bad.append(f"round {round_}: rows doubled or left over")
    return {**told, "rounds": round_, "bad": bad}


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))))
