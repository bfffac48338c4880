"""How far a sweep is, for people: one bar for all of it on a terminal, a line now and then in a log.

Speed is that of answering alone: what was answered by earlier runs, and the time in which a model loads, do not count.
"""

from __future__ import annotations

import logging
import math
import sys
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from time import monotonic
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tqdm import tqdm

_MEMORY = 60.0  # seconds over which speed is averaged
_KEPT = 0.7  # but a step never drowns more than this share of what came before it, so that slow steps are averaged too
_PAUSE, _SHORTEST = 10.0, 2.0  # a step that takes so many times longer than usual, and so many seconds, is a pause
_BLINK = 0.1  # seconds between two pictures of the bar
_LONGEST = 40  # characters of what is being worked on


class Pace:
    """How fast answers come, from looks at their number: `see` it now and then.

    The time before the first growth counts for nothing, since nobody knows when that began. Nor does a step that took much longer
    than usual, unless the next is as slow: then this is the speed now, and the earlier one is forgotten.
    """

    def __init__(self) -> None:
        self.since: float | None = None  # when the number last grew
        self._count: int | None = None
        self._recent = self._all = (0.0, 0.0)  # answers, seconds
        self._paused = False

    @property
    def rate(self) -> float | None:
        """Answers per second, over about the last minute; None until it can be known."""
        return _ratio(self._recent)

    @property
    def mean(self) -> float | None:
        """The same over all of the time that was not a pause."""
        return _ratio(self._all)

    def see(self, answers: int, now: float) -> None:
        """So many answers at this time, in seconds of a clock that does not jump."""
        grown = 0 if self._count is None else answers - self._count
        self._count = answers
        if grown < 0:  # some were discarded
            self.since = None
        elif grown:
            since, self.since = self.since, now
            if since is not None:
                self._step(grown, now - since)

    def left(self, answers: int) -> float | None:
        """Seconds that so many more answers will take."""
        return answers / self.rate if self.rate else None

    def _step(self, answers: int, seconds: float) -> None:
        slow = self.rate is not None and seconds > max(_SHORTEST, _PAUSE * answers / self.rate)
        if slow and not self._paused:
            self._paused = True
            return
        keep = 0.0 if slow else max(_KEPT, math.exp(-seconds / _MEMORY))
        self._paused = False
        self._recent = keep * self._recent[0] + answers, keep * self._recent[1] + seconds
        self._all = self._all[0] + answers, self._all[1] + seconds


class Progress:
    """The progress of one sweep, over all its models, benchmarks and configurations.

    answers: how many are missing at the start; cells: how many there are to finish. Without missing answers the bar counts cells.
    stream: where to, stderr unless given: a bar if it is a terminal, else a line every `every` seconds and one at the end.
    quiet: nothing at all. While the bar stands, logs and warnings are written above it.
    """

    every = 300.0

    def __init__(self, answers: int, cells: int, *, quiet: bool, stream: IO[str] | None = None) -> None:
        self._answers, self._cells = answers, cells
        self._quiet = quiet
        self._stream = sys.stderr if stream is None else stream
        self._answered = self._failed = self._finished = 0
        self._at = ""
        self._pace = Pace()
        self._begun = self._shown = monotonic()
        self._bar: tqdm[Any] | None = None
        self._undo = ExitStack()

    def __enter__(self) -> Progress:
        self._begun = self._shown = monotonic()
        self._pace.see(0, self._begun)
        if not self._quiet and (self._answers or self._cells) and is_terminal(self._stream):
            self._bar = self._drawn()
            self._undo.callback(self._bar.close)
            self._undo.enter_context(_above(self._stream))
        return self

    def __exit__(self, *_: object) -> None:
        with self._undo:
            if self._bar is not None:
                self._paint(self._bar, self._pace.mean)
            elif self._answers or self._shown > self._begun:  # else it was short, and the caller tells of it
                took = f" in {span(monotonic() - self._begun)}" if self._answers else ""
                self._print(self._line(self._pace.mean, took))
        self._bar = None

    def at(self, text: str) -> None:
        """What is being worked on, in a few words."""
        self._at = text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."
        self._show()

    def see(self, answers: int, failures: int) -> None:
        """How many answers this run has given so far, all processes together, and how many of them are failures.

        A smaller number than before is a late one and changes nothing.
        """
        if answers > self._answered:
            self._answered = answers
            self._pace.see(answers, monotonic())
        self._failed = max(self._failed, failures)
        self._show()

    def cell(self, n: int = 1) -> None:
        """So many more cells are finished."""
        self._finished += n
        self._show()

    def say(self, line: str) -> None:
        """Writes a line above the bar, or into the log."""
        if self._bar is None:
            self._print(line)
        else:
            self._bar.write(line, file=self._stream)

    def _show(self) -> None:
        """Draws the bar again, or writes a line, if it is time to."""
        waited = monotonic() - self._shown
        if self._bar is not None and waited >= _BLINK:
            self._shown += waited
            self._paint(self._bar, self._pace.rate)
        elif self._bar is None and waited >= self.every:
            self._shown += waited
            self._print(self._line(self._pace.rate))

    def _drawn(self) -> tqdm[Any]:
        from tqdm import tqdm

        return tqdm(
            total=self._answers or self._cells,
            desc=self._words(None),
            bar_format="{percentage:3.0f}% |{bar}| {desc}",
            file=self._stream,
            dynamic_ncols=True,
            leave=self._answers > 0,
        )

    def _paint(self, bar: tqdm[Any], rate: float | None) -> None:
        bar.n = min(self._answered, self._answers) if self._answers else min(self._finished, self._cells)
        bar.set_description_str(self._words(rate), refresh=False)
        bar.refresh()

    def _words(self, rate: float | None) -> str:
        """What stands right of the bar."""
        time = clock(monotonic() - self._begun)
        if self._answered < self._answers:
            left = self._pace.left(self._answers - self._answered)
            time += "<?" if left is None else f"<{clock(left)}"
        parts = [time, _speed(rate), f"{self._finished:,}/{self._cells:,} cells", self._failures(), self._at]
        counted = f"{self._answered:,}/{self._answers:,} answers " if self._answers else ""
        return f"{counted}[{', '.join(filter(None, parts))}]"

    def _line(self, rate: float | None, took: str = "") -> str:
        """The state in words."""
        done, total = self._answered, self._answers
        answers = f"{done:,} of {total:,} answers ({percent(done, total)}){took}" if total else ""
        left = self._pace.left(total - done) if done < total and not took else None
        rest = "" if left is None else f"about {span(left)} left"
        parts = [answers, _speed(rate), rest, f"{self._finished:,} of {self._cells:,} cells", self._failures()]
        return ", ".join(filter(None, parts))

    def _failures(self) -> str:
        return f"{self._failed:,} failed" if self._failed else ""

    def _print(self, line: str) -> None:
        if not self._quiet:
            with suppress(OSError, ValueError):  # a log that is closed or full is no reason to stop
                print(line, file=self._stream, flush=True)


# words ----------------------------------------------------------------------------------------------------------------------


def span(seconds: float) -> str:
    """How long, to about two digits: '40 s', '5 min', '2 h 05 min', '3 d 4 h'."""
    minutes = round(seconds / 60)
    hours = round(seconds / 3600)
    if round(seconds) < 60:
        return f"{round(seconds)} s"
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 24 * 60:
        return f"{minutes // 60} h {minutes % 60:02} min"
    return f"{hours // 24} d {hours % 24} h"


def clock(seconds: float) -> str:
    """How long, in little room: '3:12' below an hour, else as `span`."""
    whole = int(seconds)
    return f"{whole // 60}:{whole % 60:02}" if whole < 3600 else span(seconds)


def speed(rate: float) -> str:
    """Answers per second, minute or hour, whichever reads best: '64.4/s', '3.1/min'."""
    for unit, seconds in (("s", 1), ("min", 60)):
        if rate * seconds >= 1:
            return f"{rate * seconds:,.{1 if rate * seconds < 100 else 0}f}/{unit}"
    return f"{rate * 3600:.1f}/h"


def percent(done: int, total: int) -> str:
    """A share in words, rounded down: 100 % is all of it."""
    return f"{min(100, 100 * done // total) if total else 100} %"


def _speed(rate: float | None) -> str:
    return speed(rate) if rate else ""


def _ratio(step: tuple[float, float]) -> float | None:
    return step[0] / step[1] if step[1] > 0 else None


# the terminal ---------------------------------------------------------------------------------------------------------------


def is_terminal(stream: IO[str]) -> bool:
    try:
        return stream.isatty()
    except ValueError:  # closed
        return False


class _Above:
    """A stream, written to with the bar on `screen` out of the way."""

    def __init__(self, stream: IO[str], screen: IO[str]) -> None:
        self._stream, self._screen = stream, screen

    def write(self, text: str) -> int:
        with _aside(self._screen):
            return self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def _aside(screen: IO[str]) -> Iterator[None]:
    """What is written in this block stands above the bar."""
    from tqdm import tqdm

    with tqdm.external_write_mode(file=screen):
        yield


@contextmanager
def _above(screen: IO[str]) -> Iterator[None]:
    """In this block, log handlers of a terminal and warnings write above the bar; afterwards all is as before."""
    shown = warnings.showwarning
    swapped = [(handler, handler.stream) for handler in _handlers() if handler.stream in (screen, sys.stdout, sys.stderr)]

    def show(*args: Any, **options: Any) -> None:
        with _aside(screen):
            shown(*args, **options)

    for handler, stream in swapped:
        handler.setStream(_Above(stream, screen))
    warnings.showwarning = show
    try:
        yield
    finally:
        for handler, stream in swapped:
            handler.setStream(stream)
        if warnings.showwarning is show:
            warnings.showwarning = shown


def _handlers() -> list[logging.StreamHandler[Any]]:
    """Of all loggers: libraries have their own."""
    loggers = [logging.root, *(known for known in logging.root.manager.loggerDict.values() if isinstance(known, logging.Logger))]
    handlers = {id(handler): handler for logger in loggers for handler in logger.handlers}
    return [h for h in handlers.values() if isinstance(h, logging.StreamHandler) and "stream" in vars(h)]  # not the last resort
