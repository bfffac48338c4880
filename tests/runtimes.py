"""A stand-in for the model, and runs of it in processes of their own: for tests of everything around the model.

A process is a fork, since to import everything anew takes five seconds.
"""

from __future__ import annotations

import contextlib
import csv
import gc
import hashlib
import json
import logging
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from PIL import Image

from script_vlmeval import ahead, cli
from script_vlmeval.errors import UserError
from script_vlmeval.inputs import Sample
from script_vlmeval.ranks import Ranks
from script_vlmeval.runtime import Answer, Runtime

TOKENS = {"visual_full": 144, "visual_kept": 16, "between": 0, "text": 20, "layers": [36] * 6, "relevance": "none"}


@dataclass(frozen=True)
class Made:
    """A batch of nothing but questions."""

    questions: list[str]
    chosen: dict[Any, Any] = field(default_factory=dict)


class StandIn:
    """What `asking` uses of a Runtime. It answers from a digest of the question, after `pause` seconds."""

    device = "cpu"
    pause = 0.004

    def __init__(self, record: Any) -> None:
        self.record = record

    def ready(self, method: Any) -> None: ...
    def encode(self, prepared: Made) -> None: ...

    def read(self, message: Any, style: str) -> Sample:
        text = "".join(part["value"] for part in message if part["type"] == "text")
        return Sample((), (), text, text, text)

    def collate(self, samples: list[Sample], style: str) -> Made:
        return Made([sample.question for sample in samples])

    prepare = collate

    def place(self, prepared: Made) -> Made:
        return prepared

    @contextlib.contextmanager
    def batch(self) -> Iterator[None]:
        yield

    def answer(self, prepared: Made, method: Any, budget: str, **how: Any) -> list[Answer]:
        time.sleep(self.pause)
        said = [hashlib.sha256(f"{method.name}{budget}{q}".encode()).hexdigest()[:6] for q in prepared.questions]
        return [Answer(text, dict(TOKENS)) for text in said]


@cache
def warm() -> None:
    """Imports what a run would, so that each fork need not."""
    import matplotlib.pyplot  # noqa: F401
    import openpyxl  # noqa: F401
    import torch.distributed  # noqa: F401

    import script_vlmeval.report
    import script_vlmeval.sweep  # noqa: F401
    from script_vlmeval.plugin.host import host

    host()


@contextlib.contextmanager
def lightly() -> Iterator[None]:
    """Runs within import nothing more, and the collections of garbage that they ask for pass over what was there before: in a
    process that has everything imported, each takes a third of a second."""
    with contextlib.suppress(ImportError, UserError):  # without VLMEvalKit there is less to pass over
        warm()
    gc.freeze()
    yield


Loader = Callable[[Any], Any] | None  # the stand-in for a model's record; None: the model itself


def loading(kind: Callable[[Any], Any]) -> Any:
    """What takes the place of `Runtime.load`."""
    return classmethod(lambda cls, record, **how: kind(record))


def table(folder: Path, rows: int, broken: Sequence[int] = ()) -> Path:
    """A table of one's own, called mine, over one picture that can be read and one that cannot. Made once in a folder."""
    if (folder / "mine.tsv").is_file():
        return folder / "mine.tsv"
    folder.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), "red").save(folder / "good.png")
    (folder / "bad.png").write_bytes((folder / "good.png").read_bytes()[:40])
    with (folder / "mine.tsv").open("w", newline="") as file:
        out = csv.writer(file, delimiter="\t", lineterminator="\n")
        out.writerow(["index", "image_path", "question", "answer"])
        for i in range(rows):
            picture = "bad.png" if i in broken else "good.png"
            longer = "really " * (0 if i in broken else 1 + i % 5)  # the broken ones are asked last
            out.writerow([i, picture, f"What is {longer}to be seen at place {i}?", "red"])
    return folder / "mine.tsv"


def lines(cell: Path) -> list[dict[str, Any]]:
    """All records of a cell's folder, shards included, in the order in which they were written."""
    files = sorted(cell.glob("predictions*.jsonl"))
    return [json.loads(line) for file in files for line in file.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Child:
    """`run.py` with these arguments in a fork of this process, under a stand-in; `rank` of `world` processes."""

    def __init__(
        self,
        argv: Sequence[str],
        log: Path,
        kind: Loader = StandIn,
        *,
        rank: int = 0,
        world: int = 1,
        port: int = 0,
        before: Callable[[], object] = lambda: None,
    ) -> None:
        """log: where what it says goes; before: is called in the child, ahead of everything."""
        warm()
        self.log, self.status = log, None
        self._seen: int | None = None
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text("")
        self.pid = os.fork()
        if not self.pid:
            self._run(argv, kind, {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "MASTER_PORT": port}, before)

    def _run(self, argv: Sequence[str], kind: Loader, env: dict[str, int], before: Callable[[], object]) -> None:
        status = 99
        try:
            said = self.log.open("a", buffering=1)
            os.dup2(said.fileno(), 1)
            os.dup2(said.fileno(), 2)
            sys.stdout = sys.stderr = said
            logging.getLogger().handlers.clear()  # the test's
            ahead._pool.cache_clear()  # its threads are the parent's
            gc.freeze()  # to collect what the parent imported would take longer than the run, and copy it
            if kind:
                Runtime.load = loading(kind)  # type: ignore[method-assign]
            Ranks.beat = 0.2
            if env["WORLD_SIZE"] > 1:
                os.environ |= {name: str(value) for name, value in env.items()}
                os.environ |= {"MASTER_ADDR": "127.0.0.1", "LOCAL_WORLD_SIZE": str(env["WORLD_SIZE"])}
            before()
            status = cli.main([*argv, "--quiet"])
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)

    @property
    def said(self) -> str:
        return self.log.read_text()

    def running(self) -> bool:
        if self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.status = os.waitstatus_to_exitcode(status) if pid else None
        return self.status is None

    def kill(self, number: int = signal.SIGKILL) -> None:
        if self.running():
            os.kill(self.pid, number)

    def end(self, seconds: float = 30.0) -> int:
        """Its exit status, negative for a signal. Fails where it does not end in time."""
        limit = time.monotonic() + seconds
        while self.running():
            if time.monotonic() > limit:
                self.kill()
                raise AssertionError(f"process {self.pid} did not end within {seconds:g} s\n{self.said}")
            time.sleep(0.005)
        assert self.status is not None
        return self.status

    def until(self, happened: Callable[[], bool], seconds: float = 30.0) -> None:
        """Waits for something that it does."""
        limit = time.monotonic() + seconds
        while not happened():
            assert self.running(), f"it ended with {self.status}\n{self.said}"
            assert time.monotonic() < limit, f"in vain\n{self.said}"
            time.sleep(0.002)


def started(argv: Sequence[str], folder: Path, *kinds: Loader, befores: Sequence[Callable[[], object]] = ()) -> list[Child]:
    """One run of as many processes as there are stand-ins."""
    port, world = free_port(), len(kinds)
    before = [*befores, *[lambda: None] * (world - len(befores))]
    logs = [folder / f"rank{rank}.txt" for rank in range(world)]
    return [Child(argv, logs[r], kinds[r], rank=r, world=world, port=port, before=before[r]) for r in range(world)]
