"""One bar for a whole sweep: what it says, where it says it, and how honest its speed is. The clock is the tests' own."""

from __future__ import annotations

import io
import logging
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator

import pytest

from script_vlmeval import progress
from script_vlmeval.progress import Pace, Progress, clock, percent, span, speed

Wait = Callable[[float], None]


@pytest.fixture
def wait(monkeypatch: pytest.MonkeyPatch) -> Wait:
    """Lets time pass."""
    now = [1000.0]
    monkeypatch.setattr(progress, "monotonic", lambda: now[0])

    def pass_by(seconds: float) -> None:
        now[0] += seconds

    return pass_by


class Terminal:
    """A pseudo-terminal of 120 columns: `stream` to write to, `shown()` what came out since the last look."""

    def __init__(self) -> None:
        import fcntl
        import struct
        import termios

        self._master, slave = os.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
        os.set_blocking(self._master, False)
        self.stream = os.fdopen(slave, "w", encoding="utf-8")

    def shown(self) -> str:
        self.stream.flush()
        text = b""
        try:
            while block := os.read(self._master, 65536):
                text += block
        except BlockingIOError:
            pass
        return text.decode().replace("\r\n", "\n")

    def lines(self) -> list[str]:
        """What stays on the screen, as a terminal overwrites lines."""
        return [re.sub(r"\x1b\[[0-9]*[A-Za-z]", "", line).split("\r")[-1].rstrip() for line in self.shown().split("\n")]

    def close(self) -> None:
        self.stream.close()
        os.close(self._master)


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    screen = Terminal()
    yield screen
    screen.close()


# speed ----------------------------------------------------------------------------------------------------------------------


def paced(steps: list[tuple[int, float]], pace: Pace | None = None) -> Pace:
    """After steps of so many answers and seconds, from 0 on."""
    pace, answers, now = pace or Pace(), 0, 0.0
    pace.see(0, 0.0)
    for grown, seconds in steps:
        answers, now = answers + grown, now + seconds
        pace.see(answers, now)
    return pace


def test_the_time_before_the_first_answers_does_not_count():
    assert paced([]).rate is None
    assert paced([(10, 300.0)]).rate is None
    assert paced([(10, 300.0), (10, 1.0)]).rate == pytest.approx(10)


def test_a_pause_does_not_count_but_a_new_speed_does():
    steady = [(10, 1.0)] * 20
    assert paced([*steady, (10, 120.0), *steady[:3]]).rate == pytest.approx(10)
    assert paced([*steady, (10, 120.0)]).mean == pytest.approx(10)
    assert paced([*steady, (10, 120.0), (10, 100.0)]).rate == pytest.approx(0.1)  # twice: it is slow now
    assert paced([*steady, (10, 120.0), (10, 1.0), (10, 120.0), (10, 1.0)]).rate == pytest.approx(10)


def test_slow_steps_are_averaged_and_old_ones_forgotten():
    assert paced([(1, 100.0), (1, 100.0), (1, 300.0)]).rate == pytest.approx(1.7 / 370)
    assert paced([(1, 1.0)] * 100 + [(5, 1.0)] * 600).rate == pytest.approx(5, rel=0.01)


def test_late_and_discarded_answers_do_no_harm():
    pace = paced([(10, 1.0), (10, 1.0)])
    pace.see(20, 3.0)
    assert (pace.rate, pace.since) == (pytest.approx(10), 2.0)
    pace.see(5, 4.0)
    pace.see(15, 100.0)  # since when is not known
    pace.see(25, 101.0)
    assert pace.rate == pytest.approx(10)


def test_time_left():
    assert Pace().left(5) is None
    assert paced([(10, 1.0), (10, 2.0)]).left(50) == pytest.approx(10)


# words ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "long", "short"),
    [
        (0, "0 s", "0:00"),
        (59.4, "59 s", "0:59"),
        (59.6, "1 min", "0:59"),
        (192, "3 min", "3:12"),
        (3599, "1 h 00 min", "59:59"),
        (7500, "2 h 05 min", "2 h 05 min"),
        (86399, "1 d 0 h", "1 d 0 h"),
        (3 * 86400 + 4 * 3600, "3 d 4 h", "3 d 4 h"),
    ],
)
def test_durations(seconds: float, long: str, short: str):
    assert (span(seconds), clock(seconds)) == (long, short)


def test_speeds_and_shares():
    assert [speed(r) for r in (64.44, 1234.0, 1.0, 0.05, 0.001)] == ["64.4/s", "1,234/s", "1.0/s", "3.0/min", "3.6/h"]
    assert [percent(*p) for p in ((0, 3), (2999, 3000), (3, 3), (4, 3), (0, 0))] == ["0 %", "99 %", "100 %", "100 %", "100 %"]


# a log ----------------------------------------------------------------------------------------------------------------------


def test_a_log_gets_a_line_now_and_then_and_one_at_the_end(wait: Wait):
    log = io.StringIO()
    with Progress(33_000, 58, quiet=False, stream=log) as bar:
        bar.at("GQA llava_full")
        wait(290)
        bar.see(11_000, 0)
        assert log.getvalue() == ""
        wait(20)
        bar.see(12_345, 2)
        bar.cell(5)
        wait(1)
        bar.see(12_400, 2)
        bar.say("a word")
    lines = log.getvalue().splitlines()
    assert lines[0] == "12,345 of 33,000 answers (37 %), 67.2/s, about 5 min left, 0 of 58 cells, 2 failed"
    assert lines[1] == "a word"
    assert lines[2] == "12,400 of 33,000 answers (37 %) in 5 min, 66.7/s, 5 of 58 cells, 2 failed"
    assert len(lines) == 3


def test_how_often_is_an_attribute(wait: Wait, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Progress, "every", 10.0)
    log = io.StringIO()
    with Progress(100, 2, quiet=False, stream=log) as bar:
        for _ in range(40):
            wait(1)
            bar.at("x")
        assert log.getvalue().splitlines() == ["0 of 100 answers (0 %), 0 of 2 cells"] * 4


def test_without_missing_answers_a_short_log_stays_empty(wait: Wait):
    log = io.StringIO()
    with Progress(0, 2, quiet=False, stream=log) as bar:
        bar.cell()
    assert log.getvalue() == ""
    with Progress(0, 2, quiet=False, stream=log) as bar:
        wait(400)
        bar.cell()
    assert log.getvalue().splitlines() == ["1 of 2 cells", "1 of 2 cells"]


def test_numbers_never_go_back(wait: Wait):
    log = io.StringIO()
    with Progress(10, 1, quiet=False, stream=log) as bar:
        bar.see(8, 3)
        bar.see(5, 1)
    assert log.getvalue().startswith("8 of 10 answers (80 %)")
    assert "3 failed" in log.getvalue()


@pytest.mark.parametrize("closed", [False, True])
def test_quiet_is_silent_and_a_closed_log_is_no_error(closed: bool, wait: Wait):
    log = io.StringIO()
    if closed:
        log.close()
    with Progress(10, 1, quiet=not closed, stream=log) as bar:
        wait(1000)
        bar.see(5, 1)
        bar.say("a word")
        bar.cell()
    assert closed or log.getvalue() == ""


def test_where_errors_go_is_where_it_goes(capsys: pytest.CaptureFixture[str]):
    with Progress(1, 1, quiet=False) as bar:
        bar.see(1, 0)
    out, err = capsys.readouterr()
    assert not out
    assert err.startswith("1 of 1 answers (100 %)")


# a terminal -----------------------------------------------------------------------------------------------------------------


def test_the_bar(terminal: Terminal, wait: Wait):
    with Progress(33_000, 58, quiet=False, stream=terminal.stream) as bar:
        bar.see(6_345, 0)
        wait(100)
        bar.see(12_345, 0)
        first = terminal.lines()[-1]
        wait(92)
        bar.at("GQA llava_script_64")
        bar.cell(5)
        bar.see(12_345, 2)
        wait(1)
        bar.at("GQA llava_script_64")
        second = terminal.lines()[-1]
        bar.see(33_000, 2)
    assert re.fullmatch(r" 37% \|█+.? +\| 12,345/33,000 answers \[1:40<5:44, 60.0/s, 0/58 cells\]", first)
    assert second.endswith("| 12,345/33,000 answers [3:13<5:44, 60.0/s, 5/58 cells, 2 failed, GQA llava_script_64]")
    assert 110 < len(first) == len(second) <= 120  # as wide as the terminal
    last = terminal.lines()
    assert last[-1] == ""
    assert "100% |" in last[-2]
    assert "33,000/33,000 answers [3:13, " in last[-2]


def test_the_bar_is_not_drawn_at_every_word(terminal: Terminal, wait: Wait):
    with Progress(100, 1, quiet=False, stream=terminal.stream) as bar:
        terminal.shown()
        for n in range(50):
            bar.see(n, 0)
        assert terminal.shown() == ""
        wait(1)
        bar.see(60, 0)
        assert terminal.shown().count("60/100") == 1


def test_cells_are_counted_where_no_answer_is_missing_and_long_names_are_cut(terminal: Terminal, wait: Wait):
    with Progress(0, 4, quiet=False, stream=terminal.stream) as bar:
        bar.cell()
        wait(61)
        bar.at("x" * 100)
        assert re.fullmatch(rf" 25% \|█+.? +\| \[1:01, 1/4 cells, {'x' * 37}\.\.\.\]", terminal.lines()[-1])
    assert terminal.lines() == [""]


def test_nothing_to_do_shows_nothing(terminal: Terminal):
    with Progress(0, 0, quiet=False, stream=terminal.stream):
        pass
    assert terminal.shown() == ""


def test_words_logs_and_warnings_do_not_tear_the_bar(terminal: Terminal, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "stderr", terminal.stream)
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    handler.setLevel(logging.ERROR)
    log = logging.getLogger("a library")
    monkeypatch.setattr(log, "handlers", [handler])
    with warnings.catch_warnings():
        warnings.showwarning = before = lambda message, *_: print(f"warned: {message}", file=sys.stderr)
        with Progress(10, 1, quiet=False) as bar:
            bar.say("a word")
            log.error("bad")
            log.warning("below the handler's level")
            warnings.warn("careful", stacklevel=1)
            standing = terminal.lines()
        assert warnings.showwarning is before
    assert standing[:-1] == ["a word", "ERROR: bad", "warned: careful"]
    assert "0/10 answers" in standing[-1]
    assert handler.stream is terminal.stream


def test_what_was_swapped_is_put_back(terminal: Terminal, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "stderr", terminal.stream)
    handler = logging.StreamHandler()
    monkeypatch.setattr(logging.getLogger("a library"), "handlers", [handler])
    shown = warnings.showwarning
    bar = Progress(10, 1, quiet=False).__enter__()
    assert handler.stream is not terminal.stream
    bar.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert handler.stream is terminal.stream
    assert warnings.showwarning is shown
    assert terminal.shown().endswith("\n")
