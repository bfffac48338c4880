"""SIGINT and SIGTERM: a clean stop behind the batch, a second one at once, and handlers as they were before."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from runtimes import Child, StandIn, lines, started, table

from script_vlmeval import stopping
from script_vlmeval.stopping import Stop, Stopped, between_batches, terminated_as_interrupted

SIGNALS = (signal.SIGINT, signal.SIGTERM)
NAMES = ("tiny_full", "tiny_random_16")
ROWS = 60


def handlers() -> list[Any]:
    return [signal.getsignal(number) for number in SIGNALS]


# the handlers ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_waits_for_the_check(number: signal.Signals):
    with between_batches() as stop:
        stop.check()
        os.kill(os.getpid(), number)
        with pytest.raises(Stopped, match=number.name):
            stop.check()
        with pytest.raises(Stopped):  # it stays asked for
            stop.check()


def at_once() -> None:
    """A second signal counts from the first moment on."""
    stopping._ECHO = 0.0


@pytest.mark.parametrize("second", SIGNALS)
def test_a_second_signal_interrupts_at_once(second: signal.Signals, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(stopping, "_ECHO", 0.0)
    with between_batches():
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt, match=second.name) as caught:
            os.kill(os.getpid(), second)
        assert not isinstance(caught.value, Stopped)


@pytest.mark.parametrize("second", SIGNALS)
def test_the_same_stop_told_twice_is_one(second: signal.Signals, monkeypatch: pytest.MonkeyPatch):
    """A terminal and a launcher both send it."""
    monkeypatch.setattr(stopping, "_ECHO", 600.0)
    with between_batches() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), second)
        assert stop.signal is signal.SIGINT


def test_sigterm_interrupts_where_no_batch_is_at_hand():
    with terminated_as_interrupted(), pytest.raises(KeyboardInterrupt, match="SIGTERM"):
        os.kill(os.getpid(), signal.SIGTERM)


def test_a_batch_within_takes_the_signals_over_and_gives_them_back():
    with terminated_as_interrupted():
        with between_batches() as stop:
            os.kill(os.getpid(), signal.SIGTERM)
            assert stop.signal is signal.SIGTERM
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("context", [between_batches, terminated_as_interrupted])
@pytest.mark.parametrize("error", [None, ValueError, KeyboardInterrupt])
def test_handlers_are_as_they_were(context: Callable[[], AbstractContextManager[Any]], error: type[BaseException] | None):
    before = handlers()
    with contextlib.suppress(ValueError, KeyboardInterrupt), context():
        assert handlers() != before
        if error:
            raise error
    assert handlers() == before


@pytest.mark.parametrize("context", [between_batches, terminated_as_interrupted])
def test_in_another_thread_nothing_changes(context: Callable[[], AbstractContextManager[Any]]):
    before, seen = handlers(), []

    def work() -> None:
        with context() as stop:
            seen.append(handlers())
            if isinstance(stop, Stop):
                stop.check()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]


# a run -------------------------------------------------------------------------------------------------------------------
class Steady(StandIn):
    """Takes its time, so that a signal comes while it answers."""

    pause = 0.03


class Stuck(StandIn):
    """Answers two batches, and then none."""

    pause = 0.0

    def answer(self, *args: Any, **how: Any) -> Any:
        self.calls = getattr(self, "calls", 0) + 1
        self.pause = 90.0 if self.calls > 2 else 0.0
        return super().answer(*args, **how)


def command(folder: Path) -> list[str]:
    data = table(folder / "data", ROWS)
    return ["--model", *NAMES, "--data", str(data), "--work-dir", str(folder / "out"), "--batch-size", "4"]


def answered(folder: Path) -> list[int]:
    return [len(lines(folder / "out" / name / "mine")) for name in NAMES]


def finished(folder: Path, argv: list[str]) -> None:
    """A rerun completes, with each row once."""
    kept = answered(folder)
    last = Child(argv, folder / "rerun.txt")
    assert last.end() == 0, last.said
    for name, before in zip(NAMES, kept, strict=True):
        found = lines(folder / "out" / name / "mine")
        assert before < ROWS
        assert sorted(int(record["index"]) for record in found) == list(range(ROWS))


@pytest.mark.parametrize("number", SIGNALS)
def test_a_run_stops_behind_its_batch_and_a_rerun_completes(tmp_path: Path, number: signal.Signals):
    argv = command(tmp_path)
    child = Child(argv, tmp_path / "log.txt", Steady)
    child.until(lambda: answered(tmp_path)[1] >= 8)
    child.kill(number)
    assert child.end() == 1
    assert f"warning: {number.name}: stopping after this batch; once more stops at once." in child.said
    assert "Stopped. Answers so far are on disk: run the same command again to go on." in child.said
    assert "Traceback" not in child.said
    assert "FAILED" not in child.said
    kept = answered(tmp_path)
    assert all(rows % 4 == 0 for rows in kept)  # no batch was broken off
    assert not list((tmp_path / "out").glob("*/*/result.json"))
    finished(tmp_path, argv)


def test_a_second_signal_stops_a_batch_that_hangs(tmp_path: Path):
    argv = command(tmp_path)
    child = Child(argv, tmp_path / "log.txt", Stuck, before=at_once)
    child.until(lambda: answered(tmp_path) == [4, 4])
    child.kill(signal.SIGINT)
    child.until(lambda: "stopping after this batch" in child.said)
    assert child.running()
    child.kill(signal.SIGINT)
    assert child.end() == 1
    assert "Stopped. Answers so far are on disk" in child.said
    assert "Traceback" not in child.said
    assert answered(tmp_path) == [4, 4]
    finished(tmp_path, argv)


def test_two_processes_that_are_both_asked_to_stop_do_so_without_blame(tmp_path: Path):
    """As Ctrl-C and a scheduler do it."""
    argv = command(tmp_path)
    children = started(argv, tmp_path, Steady, Steady)
    children[0].until(lambda: min(answered(tmp_path)) >= 8)
    for child in children:
        child.kill(signal.SIGTERM)
    assert [child.end() for child in children] == [1, 1]
    assert "Stopped. Answers so far are on disk" in children[0].said
    finished(tmp_path, argv)
    said = children[0].said + children[1].said
    assert said.count("Stopped.") == 1
    assert "Traceback" not in said
    assert "FAILED" not in said, said
