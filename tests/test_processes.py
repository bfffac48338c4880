"""A sweep in several processes: the same results as in one, none waits for another, and what fails is named."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openpyxl
import pytest
from conftest import ROOT
from runtimes import Child, StandIn, free_port, lines, started, table, warm

from script_vlmeval import cli, ranks, survey
from script_vlmeval.errors import UserError
from script_vlmeval.ranks import RankFailed
from script_vlmeval.tiny import ASSETS

NAMES = ("tiny_full", "tiny_random_16")
ROWS = 60


class Steady(StandIn):
    pause = 0.03


class Slow(StandIn):
    pause = 0.25


class Endless(StandIn):
    """Would take minutes for what is behind its first batch."""

    pause = 0.0

    def answer(self, *args: Any, **how: Any) -> Any:
        answers = super().answer(*args, **how)
        self.pause = 1.0
        return answers


class Named(Slow):
    """Signs its answers."""

    def answer(self, prepared: Any, *args: Any, **how: Any) -> Any:
        texts = super().answer(prepared, *args, **how)
        return [type(answer)(f"{type(self).__name__} {answer.text}", answer.tokens) for answer in texts]


class Quick(Named):
    pause = 0.01


def gated(gate: Path) -> Callable[[Any], StandIn]:
    """Answers one batch, and the others when a file is there."""

    class Gated(Steady):
        calls = 0

        def answer(self, *args: Any, **how: Any) -> Any:
            self.calls += 1
            while self.calls > 1 and not gate.exists():
                time.sleep(0.01)
            return super().answer(*args, **how)

    return Gated


def refuses(record: Any) -> Any:
    raise UserError("the weights do not fit")


def only(*models: str, kind: Callable[[Any], Any] = Steady) -> Callable[[Any], Any]:
    """Loads these models and no others."""
    return lambda record: kind(record) if record.id in models else refuses(record)


def command(folder: Path, *more: str, models: tuple[str, ...] = NAMES, out: str = "out") -> list[str]:
    data = table(folder / "data", ROWS)
    argv = ["--model", *models, "--data", str(data), "--work-dir", str(folder / out), "--batch-size", "4"]
    return [*argv, *more]


def answered(folder: Path, out: str = "out") -> int:
    return sum(len(lines(cell)) for cell in (folder / out).glob("*_*/mine"))


def complete(folder: Path, models: tuple[str, ...] = NAMES, out: str = "out", failed: int = 0) -> None:
    """Each row has one answer in one file, in every cell. failed: rows that failed before."""
    for name in models:
        cell = folder / out / name / "mine"
        assert sorted(int(record["index"]) for record in lines(cell) if "prediction" in record) == list(range(ROWS))
        assert len(lines(cell)) == ROWS + failed
        assert not list(cell.glob("predictions-*"))
        assert json.loads((cell / "result.json").read_text())["failed"] == 0


def rerun(folder: Path, argv: list[str], models: tuple[str, ...] = NAMES, failed: int = 0) -> None:
    last = Child(argv, folder / "rerun.txt")
    assert last.end() == 0, last.said
    complete(folder, models, failed=failed)


def pages(work_dir: Path) -> dict[str, Any]:
    """Every workbook of answers, cell for cell."""
    books = {str(path.relative_to(work_dir)): openpyxl.load_workbook(path) for path in sorted(work_dir.glob("*_*/*/*.xlsx"))}
    return {name: {page.title: list(page.values) for page in book} for name, book in books.items()}


def timeless(work_dir: Path) -> dict[str, Any]:
    """Records by row and results, without times."""
    found: dict[str, Any] = {}
    for path in sorted(work_dir.glob("*_*/*/result.json")):
        kept = [{k: v for k, v in r.items() if k not in ("seconds", "sum")} for r in lines(path.parent)]
        result = json.loads(path.read_text())
        scored = {key: result[key] for key in ("score", "n", "failed", "tokens", "metrics")}
        found[str(path.relative_to(work_dir))] = sorted(kept, key=lambda r: int(r["index"])), scored
    return found


@contextlib.contextmanager
def ended(*children: Child) -> Any:
    """None of them outlives the test."""
    try:
        yield
    finally:
        for child in children:
            child.kill()


# what is the same --------------------------------------------------------------------------------------------------------
def test_two_processes_make_what_one_makes(tmp_path: Path):
    alone = Child(command(tmp_path, out="one"), tmp_path / "one.txt")
    assert alone.end() == 0, alone.said
    two = started(command(tmp_path, out="two"), tmp_path, Steady, Steady)
    assert [child.end() for child in two] == [0, 0], two[0].said
    complete(tmp_path, out="two")
    assert pages(tmp_path / "two") == pages(tmp_path / "one")
    assert len(pages(tmp_path / "one")) >= len(NAMES)
    assert timeless(tmp_path / "two") == timeless(tmp_path / "one")
    assert "2 cells done" in two[0].said
    assert not two[1].said


def test_a_slow_process_does_not_hold_the_other(tmp_path: Path):
    children = started(command(tmp_path), tmp_path, Quick, Named)
    assert [child.end() for child in children] == [0, 0], children[0].said
    complete(tmp_path)
    said = [record["prediction"].split()[0] for name in NAMES for record in lines(tmp_path / "out" / name / "mine")]
    assert said.count("Quick") > said.count("Named") > 0


def test_a_process_that_comes_to_no_chunk_ends_well(tmp_path: Path):
    """More processes than there is work for."""
    argv = command(tmp_path, "--limit", "4")
    children = started(argv, tmp_path, Steady, Steady, Steady)
    assert [child.end() for child in children] == [0, 0, 0], children[0].said
    assert answered(tmp_path) == 8


@pytest.mark.parametrize("mode", ["eval", "all"])
def test_several_processes_have_nothing_to_do_either(tmp_path: Path, mode: str):
    assert Child(command(tmp_path), tmp_path / "first.txt").end() == 0
    children = started(command(tmp_path, "--mode", mode), tmp_path, refuses, refuses)
    assert [child.end() for child in children] == [0, 0], children[0].said
    assert ("Nothing to do" in children[0].said) == (mode == "all")


# a process that dies -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("told", [True, False], ids=["the launcher stops the other", "nobody tells the other"])
@pytest.mark.parametrize("victim", [0, 1])
def test_a_process_that_is_killed_ends_the_run_by_name_and_a_rerun_completes(tmp_path: Path, victim: int, told: bool):
    """Within seconds: what is left would take minutes."""
    argv = command(tmp_path)
    children = started(argv, tmp_path, Endless, Endless)
    other = children[1 - victim]
    with ended(*children):
        children[0].until(lambda: bool(answered(tmp_path)))
        children[victim].kill()
        children[victim].end()
        if told:
            other.kill(signal.SIGTERM)
        assert other.end(12.0) == 1
    assert f"rank {victim} " in other.said
    assert f"pid {children[victim].pid}" in other.said
    assert "Traceback" not in other.said
    rerun(tmp_path, argv)


def test_a_lost_table_while_processes_meet_is_no_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def lost(env: Any = None) -> Any:
        raise RankFailed("lost contact with the first process at 127.0.0.1:1")

    monkeypatch.setattr(ranks.Ranks, "here", lost)
    assert cli.main([*command(tmp_path), "--quiet"]) == 1
    assert "lost contact with the first process" in capsys.readouterr().err


# a process that cannot ---------------------------------------------------------------------------------------------------
def test_the_others_do_the_share_of_one_whose_model_does_not_load(tmp_path: Path):
    gate = tmp_path / "gate"

    def refused(record: Any) -> Any:
        gate.touch()
        return refuses(record)

    children = started(command(tmp_path), tmp_path, gated(gate), refused)
    with ended(*children):
        assert children[0].end() == 1
        assert children[1].end() in (0, 1)
    assert "TROUBLE: process 1 did no share of 'tiny': the weights do not fit" in children[0].said
    complete(tmp_path)


def test_a_model_that_the_first_process_alone_cannot_load_is_left_to_the_others(tmp_path: Path):
    models = ("tiny_full", "other_full")
    argv = command(tmp_path, "--checkpoint", f"other={ASSETS}", models=models)
    children = started(argv, tmp_path, only("tiny"), Steady)
    assert [child.end() for child in children] == [0, 0], children[0].said + children[1].said
    complete(tmp_path, models)


def test_fresh_leaves_it_to_the_others_too(tmp_path: Path):
    """What is to be discarded is there."""
    models = ("tiny_full", "other_full")
    argv = command(tmp_path, "--checkpoint", f"other={ASSETS}", models=models)
    assert Child(argv, tmp_path / "first.txt").end() == 0
    children = started([*argv, "--fresh"], tmp_path, only("tiny"), Steady)
    assert all(child.end() in (0, 1) for child in children), children[0].said + children[1].said
    assert "Traceback" not in children[0].said + children[1].said
    rerun(tmp_path, argv, models)


def test_a_model_that_nobody_can_load_fails_its_cells_alone(tmp_path: Path):
    models = ("tiny_full", "other_full")
    argv = command(tmp_path, "--checkpoint", f"other={ASSETS}", models=models)
    children = started(argv, tmp_path, only("tiny"), only("tiny"))
    assert children[0].end() == 1
    assert children[1].end() in (0, 1)
    assert "NOT DONE: other_full/mine: the weights do not fit" in children[0].said
    complete(tmp_path, models[:1])
    rerun(tmp_path, argv, models)


def test_the_first_model_that_the_first_process_cannot_load_stops_all(tmp_path: Path):
    children = started(command(tmp_path), tmp_path, refuses, Endless)
    with ended(*children):
        assert [child.end(12.0) for child in children] == [2, 1]
    assert children[0].said.count("the weights do not fit") == 1


def test_a_process_that_crashes_is_named_with_its_reason(tmp_path: Path):
    def crashes(record: Any) -> Any:
        raise RuntimeError("driver too old")

    children = started(command(tmp_path), tmp_path, Endless, crashes)
    with ended(*children):
        assert children[0].end(12.0) == 1
    assert "FAILED: rank 1 (" in children[0].said
    assert "failed: driver too old. Answers so far are on disk" in children[0].said


def test_other_settings_in_one_process_stop_all(tmp_path: Path):
    def other_code() -> None:
        survey._code = lambda method: "another release"

    children = started(command(tmp_path), tmp_path, Endless, StandIn, befores=[lambda: None, other_code])
    with ended(*children):
        assert [child.end(12.0) for child in children] == [1, 2]
    assert "FAILED: rank 1 (" in children[0].said
    assert (
        f"pid {children[1].pid}) failed: tiny_full/mine has other settings here than in the first process (code: "
        in children[0].said
    )
    assert "-> another release)" in children[0].said


@pytest.mark.parametrize(
    ("more", "said"),
    [(["--batch-size", "0"], "at least 1"), (["--model", "tiny_script_500"], "144 visual tokens"), (["--work"], "--work")],
)
def test_what_all_refuse_is_said_once(tmp_path: Path, more: list[str], said: str):
    children = started(command(tmp_path, *more), tmp_path, StandIn, StandIn)
    assert [child.end() for child in children] == [2, 2]
    assert children[0].said.count("error: ") == 1
    assert said in children[0].said
    assert not children[1].said


def test_failures_are_counted_over_all_processes(tmp_path: Path):
    """Each has fewer than are tolerated."""

    class Failing(StandIn):
        pause = 0.01

        def answer(self, prepared: Any, *args: Any, **how: Any) -> Any:
            if "place 1" in " ".join(prepared.questions):  # 1 and 10 to 19
                raise ValueError("no")
            return super().answer(prepared, *args, **how)

    argv = command(tmp_path, "--max-failures", "10", models=("tiny_full",))
    children = started(argv, tmp_path, Failing, Failing)
    assert children[0].end() == 1
    assert (
        "NOT DONE: tiny_full/mine: 11 rows failed, more than 10 (--max-failures), the last with ValueError: no"
        in children[0].said
    )
    assert children[1].end() in (0, 1)
    failed = sum("error" in record for record in lines(tmp_path / "out/tiny_full/mine"))
    assert 11 <= failed <= 15
    rerun(tmp_path, argv, ("tiny_full",), failed)


# two runs ----------------------------------------------------------------------------------------------------------------
def test_a_second_run_on_the_same_folder_is_refused(tmp_path: Path):
    argv = command(tmp_path)
    first = Child(argv, tmp_path / "first.txt", gated(tmp_path / "gate"))
    with ended(first):
        first.until(lambda: bool(answered(tmp_path)))
        second = Child(argv, tmp_path / "second.txt")
        assert second.end() == 2
        assert f"Another run (host {os.uname().nodename}, process {first.pid}, since " in second.said
        pair = started(argv, tmp_path, StandIn, StandIn)
        assert [child.end() for child in pair] == [2, 1]
        assert f"process {first.pid}" in pair[0].said
        (tmp_path / "gate").touch()
        assert first.end() == 0
    complete(tmp_path)


# as it is started --------------------------------------------------------------------------------------------------------
def torchrun(argv: list[str], log: Path) -> None:
    """The launcher itself, in a process that has torch loaded already."""
    from torch.distributed import run

    sys.stdout = sys.stderr = file = log.open("w", buffering=1)
    os.dup2(file.fileno(), 1)
    os.dup2(file.fileno(), 2)
    run.main(argv)


def test_under_torchrun_with_the_real_model(tmp_path: Path):
    argv = ["--model", *NAMES, "--data", "ShapesVQA", "--limit", "24", "--batch-size", "4", "--quiet", "--work-dir"]
    launch = ["--nproc-per-node", "2", "--master-addr", "127.0.0.1", "--master-port", str(free_port()), str(ROOT / "run.py")]
    warm()
    log = tmp_path / "log.txt"
    agent = multiprocessing.get_context("fork").Process(target=torchrun, args=([*launch, *argv, str(tmp_path / "two")], log))
    agent.start()
    try:
        agent.join(110)
    finally:
        agent.terminate()  # not kill: it takes its own processes with it
    assert agent.exitcode == 0, log.read_text()
    assert log.read_text().count("2 cells done") == 1
    assert cli.main([*argv, str(tmp_path / "one")]) == 0
    assert pages(tmp_path / "two") == pages(tmp_path / "one")
    assert timeless(tmp_path / "two") == timeless(tmp_path / "one")
    assert len(pages(tmp_path / "one")) >= len(NAMES)
