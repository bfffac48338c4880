"""What takes the place of a terminal's bars, and patience with another process."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest


class Bar:
    """Remembers what a bar would have shown. n: how far it came; settings: all that it was made with."""

    def __init__(self, total: int | None = None, desc: str = "", initial: int = 0, **settings: Any) -> None:
        self.total, self.desc, self.initial, self.n, self.settings = total, desc, initial, initial, settings

    def update(self, n: int = 1) -> None:
        self.n += n

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: object) -> None: ...


def bars_of(monkeypatch: pytest.MonkeyPatch, *modules: ModuleType) -> list[Bar]:
    """The bars that these modules make from now on, in order."""
    made: list[Bar] = []

    def bar(**settings: Any) -> Bar:
        made.append(Bar(**settings))
        return made[-1]

    for module in modules:
        monkeypatch.setattr(module, "tqdm", bar)
    return made


def wait_for(happened: Callable[[], bool], process: subprocess.Popen[Any], what: str, seconds: float = 60) -> None:
    """Until something happens while a process runs. Fails, saying what did not, where the process ends or time runs out."""
    end = time.monotonic() + seconds
    while not happened():
        code = process.poll()
        if code is not None and not happened():  # it may have happened at the very end
            pytest.fail(f"{what}: the process ended with {code} before")
        if time.monotonic() > end:
            process.kill()
            process.wait()
            pytest.fail(f"{what}: not within {seconds:g} seconds")
        time.sleep(0.005)
