"""How far cells are, from folders alone: every state, thousands of them, damaged ones, and while a run works."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from script_vlmeval.errors import UserError
from script_vlmeval.status import CellState, command, live, states, table, watch, words
from script_vlmeval.store import CellStore

RESULT = {"n": 4, "failed": 0, "failures": {}, "score": 61.25}


def cell(
    work_dir: Path, config: str = "tiny_full", benchmark: str = "GQA", *, rows: Any = 4, answers: int | None = None, **files: Any
) -> Path:
    """A cell's folder as a run leaves it; files: result, failure. answers: those that a result is of, else none."""
    folder = work_dir / config / benchmark
    folder.mkdir(parents=True)
    (folder / "cell.json").write_text(json.dumps({"config": config, "rows": rows}))
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    lines(folder, files.get("result", {}).get("n", 0) if answers is None else answers)
    return folder


def lines(folder: Path, n: int, shard: str = "") -> None:
    with open(folder / f"predictions{shard}.jsonl", "a") as file:
        file.write('{"index": "1", "prediction": "a"}\n' * n)


def held(work_dir: Path, config: str, benchmark: str = "GQA") -> CellStore:
    store = CellStore(work_dir, config, benchmark, {"config": config, "rows": 4})
    store.hold()
    return store


def only(work_dir: Path) -> CellState:
    (found,) = states(work_dir)
    return found


# states ---------------------------------------------------------------------------------------------------------------------


def test_every_state(tmp_path: Path):
    cell(tmp_path, "tiny_full", result=RESULT, answers=4)
    cell(tmp_path, "tiny_script_128", result=RESULT | {"failed": 1, "failures": {"3": "no picture"}}, answers=4)
    running, waiting = cell(tmp_path, "tiny_script_64", answers=1), cell(tmp_path, "tiny_script_32")
    lines(running, 2, "-1")
    cell(tmp_path, "tiny_script_16", answers=3)
    cell(tmp_path, "tiny_script_8", answers=1, failure={"reason": "out of memory"})
    cell(tmp_path, "tiny_script_4")
    with held(tmp_path, "tiny_script_64"), held(tmp_path, "tiny_script_32"):
        found = states(tmp_path)
    short = [(c.config, c.state, c.rows, c.answers, c.failed, c.score, c.reason) for c in found]
    assert short == [
        ("tiny_full", "done", 4, 4, 0, "61.25", ""),
        ("tiny_script_128", "failed rows", 4, 3, 1, "61.25", "1 row: no picture"),
        ("tiny_script_64", "running", 4, 3, 0, "", ""),
        ("tiny_script_32", "waiting", 4, 0, 0, "", ""),
        ("tiny_script_16", "partial", 4, 3, 0, "", ""),
        ("tiny_script_8", "failed", 4, 1, 0, "", "out of memory"),
        ("tiny_script_4", "missing", 4, 0, 0, "", ""),
    ]
    assert waiting.is_dir()
    assert {c.state for c in states(tmp_path)} == {"done", "failed rows", "partial", "failed", "missing"}  # the run has ended


def test_a_run_as_the_store_does_it(tmp_path: Path):
    store = held(tmp_path, "tiny_full")
    assert only(tmp_path).state == "waiting"
    store.open()
    store.append([{"index": str(i), "prediction": "a"} for i in range(3)])
    assert (only(tmp_path).state, only(tmp_path).answers, only(tmp_path).rows) == ("running", 3, 4)
    store.give_up("no memory")
    store.close()
    assert (only(tmp_path).state, only(tmp_path).reason) == ("failed", "no memory")
    with held(tmp_path, "tiny_full") as store:
        store.open()
        assert only(tmp_path).state == "running"  # a rerun is at it
        store.finish(RESULT)
    assert only(tmp_path).state == "done"


def test_looking_changes_nothing_and_keeps_nobody_out(tmp_path: Path):
    cell(tmp_path, answers=2)
    lock = tmp_path / "tiny_full/GQA/.lock"
    lock.touch()
    before = {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in tmp_path.rglob("*")}
    states(tmp_path)
    assert {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in tmp_path.rglob("*")} == before
    held(tmp_path, "tiny_full").close()


def test_a_run_that_ends_between_two_looks_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = cell(tmp_path, answers=4)
    (folder / ".lock").touch()

    def ends(folder: Path) -> bool:
        (folder / "result.json").write_text(json.dumps(RESULT))
        return False

    monkeypatch.setattr(watch, "held", ends)
    assert only(tmp_path).state == "done"


def test_other_folders_are_no_cells(tmp_path: Path):
    cell(tmp_path)
    cell(tmp_path, ".trash")
    cell(tmp_path, "tiny_full", ".cache")
    (tmp_path / "plots" / "empty").mkdir(parents=True)
    (tmp_path / "summary.xlsx").touch()
    (tmp_path / "tiny_full" / "notes.txt").touch()
    assert [(c.config, c.benchmark) for c in states(tmp_path)] == [("tiny_full", "GQA")]


def test_rows_of_a_cell_that_was_not_begun_are_those_of_its_benchmark(tmp_path: Path):
    folder = cell(tmp_path, "tiny_script_16", failure={"reason": "no model"})
    (folder / "cell.json").unlink()
    assert only(tmp_path).rows == 0
    cell(tmp_path, "tiny_full", rows=7)
    assert [c.rows for c in states(tmp_path)] == [7, 7]
    cell(tmp_path, "tiny_script_8", rows=9)
    assert sorted(c.rows for c in states(tmp_path)) == [0, 7, 9]


def test_answered_twice_is_not_more_than_all(tmp_path: Path):
    cell(tmp_path, answers=6)
    assert (only(tmp_path).answers, only(tmp_path).reason) == (4, "not scored yet")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b'{"rows": "4"}', b'{"rows": true}', b'{"rows": -1}'])
def test_a_damaged_fingerprint_is_told(content: bytes, tmp_path: Path):
    cell(tmp_path, "tiny_full", "MME")
    folder = cell(tmp_path, answers=3)
    (folder / "cell.json").write_bytes(content)
    assert [(c.benchmark, c.state, c.reason) for c in states(tmp_path)] == [
        ("GQA", "partial", "no readable cell.json"),
        ("MME", "missing", ""),
    ]


@pytest.mark.parametrize("content", ["{", "{}", '{"n": 4}', '{"n": 4, "failed": "no"}'])
def test_a_damaged_result_is_told(content: str, tmp_path: Path):
    folder = cell(tmp_path, answers=3)
    (folder / "result.json").write_text(content)
    assert (only(tmp_path).state, only(tmp_path).reason) == ("partial", "no readable result.json")


@pytest.mark.parametrize("failures", [None, [], {}, {"1": None}])
def test_odd_results_are_no_error(failures: Any, tmp_path: Path):
    cell(tmp_path, result=RESULT | {"failed": 2, "failures": failures, "score": None})
    assert only(tmp_path).state == "failed rows"
    assert only(tmp_path).reason.startswith("2 rows")


def test_what_has_no_score_says_why(tmp_path: Path):
    cell(tmp_path, result=RESULT | {"score": None, "unscored": "needs a judge"})
    assert (only(tmp_path).state, only(tmp_path).score, only(tmp_path).reason) == ("done", "", "not scored: needs a judge")


@pytest.mark.parametrize(("left", "lost"), [(4, 0), (3, 1), (1, 3), (0, 4)])
def test_answers_that_a_finished_cell_has_lost_are_told(left: int, lost: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folder = cell(tmp_path, result=RESULT, answers=max(0, left - 1))
    lines(folder, min(1, left), "-2")
    (folder / "predictions.jsonl").open("a").write('{"index": "9", "predi')  # torn
    found = only(tmp_path)
    assert (found.state, found.rows, found.answers, found.lost, found.score) == ("done", 4, left, lost, "61.25")
    told = "1 answer is missing on disk" if lost == 1 else f"{lost} answers are missing on disk"
    assert (told in found.reason) == bool(lost)
    assert command(tmp_path, live=False) == int(lost > 0)
    assert f"{left}/4" in capsys.readouterr().out


def test_a_finished_cell_without_its_file_of_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (cell(tmp_path, result=RESULT | {"failed": 1, "failures": {"3": "no picture"}}) / "predictions.jsonl").unlink()
    assert (only(tmp_path).state, only(tmp_path).answers, only(tmp_path).lost) == ("failed rows", 0, 4)
    assert only(tmp_path).reason == "4 answers are missing on disk: a rerun asks them again; 1 row: no picture"
    monkeypatch.setattr(words, "_SINGLY", 0)
    assert "4 answers are missing" in table(states(tmp_path))


def test_lost_answers_among_many_cells_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(words, "_SINGLY", 1)
    cell(tmp_path, "tiny_full", result=RESULT)
    cell(tmp_path, "tiny_script_16", result=RESULT, answers=2)
    cell(tmp_path, "tiny_script_8", result=RESULT | {"score": None, "unscored": "needs a judge"})
    lines = table(states(tmp_path)).split("\n")
    assert lines[2:4] == ["done: 2 answers are missing on disk: a rerun asks them again", "    tiny_script_16/GQA"]
    assert len(lines) == 5


def test_lines_are_counted_again_where_a_file_of_answers_has_changed(tmp_path: Path):
    folder = cell(tmp_path, result=RESULT, answers=3)
    seen = watch.Watch(tmp_path)
    assert [c.lost for c in seen.look()] == [1]
    lines(folder, 1)
    assert [c.lost for c in seen.look()] == [0]


def test_a_folder_that_cannot_be_read_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    cell(tmp_path, "tiny_full", "GQA", answers=1)
    cell(tmp_path, "tiny_full", "MME", answers=1)
    count = watch.written

    def refused(folder: Path) -> int:
        if folder.name == "GQA":
            raise PermissionError(13, "Permission denied", str(folder))
        return count(folder)

    monkeypatch.setattr(watch, "written", refused)
    assert [(c.state, c.reason) for c in states(tmp_path)] == [("missing", "cannot be read: Permission denied"), ("partial", "")]


def test_what_has_not_changed_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    done, open_ = cell(tmp_path, "tiny_full", result=RESULT), cell(tmp_path, "tiny_script_16", answers=2)
    read: list[str] = []
    monkeypatch.setattr(watch, "read_json", lambda path, real=watch.read_json: (read.append(path.name), real(path))[1])
    monkeypatch.setattr(watch, "written", lambda folder, real=watch.written: (read.append("lines"), real(folder))[1])
    seen = watch.Watch(tmp_path)
    assert [c.answers for c in seen.look()] == [4, 2]
    assert read == ["result.json", "cell.json", "lines"]
    read.clear()
    assert [c.answers for c in seen.look()] == [4, 2]
    assert read == []
    lines(open_, 1, "-1")
    (done / "result.json").write_text(json.dumps(RESULT | {"failed": 1}))
    assert [c.answers for c in seen.look()] == [3, 3]
    assert sorted(read) == ["lines", "result.json"]


# the table ------------------------------------------------------------------------------------------------------------------


def test_few_cells_are_listed_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", "72")
    cells = [
        CellState("tiny_full", "GQA", "done", 12_000, 12_000, 0, "61.25"),
        CellState("tiny_script_16", "ShapesVQA", "failed", 345, 1, reason="out of\nmemory \x1b[31m" + 80 * "x"),
        CellState("tiny_script_8", "Own", "waiting", 0, 0),
    ]
    assert table(cells).split("\n") == [
        "configuration   benchmark  state          answers    %  score  reason",
        "tiny_full       GQA        done     12,000/12,000  100  61.25",
        "tiny_script_16  ShapesVQA  failed           1/345    0         out of...",
        "tiny_script_8   Own        waiting            0/?",
        "3 cells: 1 done, 1 waiting, 1 failed; 97 % of 12,345 answers",
    ]


def test_the_last_line_counts_one(tmp_path: Path):
    cell(tmp_path, result=RESULT)
    assert table(states(tmp_path)).split("\n")[-1] == "1 cell: 1 done; 100 % of 4 answers"


def test_many_cells_are_grouped_by_benchmark_with_what_failed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", "100")
    names = [f"tiny_script_{n}" for n in range(1, 41)]
    cells = [CellState(name, "GQA", "done", 10, 10, 0, "50.00") for name in names]
    cells += [
        CellState(name, "MME", "failed" if i < 8 else "running", 10, 0, 0, "", "no memory" * (i < 8))
        for i, name in enumerate(names)
    ]
    cells += [CellState("tiny_full", "MME", "failed rows", 10, 9, 1, "50.00", "1 row: no picture")]
    lines = table(cells).split("\n")
    assert lines[:3] == [
        "benchmark  cells  done  failed rows  running  failed  answers    %",
        "GQA           40    40                                400/400  100",
        "MME           41                  1       32       8    9/410    2",
    ]
    assert lines[3] == "failed: no memory"
    assert [name for line in lines[4:6] for name in line.strip(" ,").split(", ")] == [f"{name}/MME" for name in names[:8]]
    assert lines[6:8] == ["failed rows: 1 row: no picture", "    tiny_full/MME"]
    assert lines[8] == "81 cells: 40 done, 1 failed rows, 32 running, 8 failed; 50 % of 810 answers"
    assert all(len(line) <= 100 for line in lines)


def test_five_thousand_cells_fit_on_a_screen():
    cells = [CellState(f"tiny_script_{n}", f"B{b}", "missing", 1000, 0) for n in range(500) for b in range(10)]
    assert len(table(cells).split("\n")) == 12


# the command ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("extra", "expected"), [({"result": RESULT}, 0), ({"answers": 1}, 1), ({"failure": {"reason": "x"}}, 1)])
def test_the_exit_status(extra: dict[str, Any], expected: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    cell(tmp_path, "tiny_full", "MME", result=RESULT)
    cell(tmp_path, **extra)
    assert command(tmp_path, live=True) == expected
    out = capsys.readouterr().out
    assert out.count("\n") == 4
    assert "\x1b" not in out


def test_failed_rows_are_not_done(tmp_path: Path):
    cell(tmp_path, result=RESULT | {"failed": 1})
    assert command(tmp_path, live=False) == 1


def test_nothing_there_is_said(tmp_path: Path):
    with pytest.raises(UserError, match=r"There is no folder .*nowhere'.*--work-dir"):
        command(tmp_path / "nowhere", live=False)
    with pytest.raises(UserError, match=r"There are no cells in .*--work-dir"):
        command(tmp_path, live=False)


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[int], None]], None]:
    """A terminal, and a clock that moves by 2 s a look; what is given is called with the number of each wait."""
    monkeypatch.setattr(live, "is_terminal", lambda stream: True)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("LINES", "30")
    now, waits = [0.0], [0]

    def during(step: Callable[[int], None]) -> None:
        def sleep(seconds: float) -> None:
            assert seconds >= 2
            now[0] += seconds
            waits[0] += 1
            step(waits[0])

        monkeypatch.setattr(live, "time", SimpleNamespace(monotonic=lambda: now[0], sleep=sleep))

    return during


def pictures(out: str) -> list[list[str]]:
    """The lines of each repaint."""
    return [re.sub(r"\x1b\[[?0-9]*[A-Za-z]|\r", "", part).rstrip("\n").split("\n") for part in out.split("\x1b[?7h")[:-1]]


def test_live_until_nothing_runs(tmp_path: Path, screen: Any, capsys: pytest.CaptureFixture[str]):
    folder = cell(tmp_path, rows=100, answers=10)
    store = held(tmp_path, "tiny_full")

    def step(n: int) -> None:
        if n < 3:
            lines(folder, 10)
        else:
            (folder / "result.json").write_text(json.dumps(RESULT))
            store.close()

    screen(step)
    assert command(tmp_path, live=True) == 0
    out = capsys.readouterr().out
    assert out.count("\r\x1b[3A") == 3  # in place
    last = [lines[-1] for lines in pictures(out)]
    assert last == [
        "1 cell: 1 running; 10 % of 100 answers",
        "1 cell: 1 running; 20 % of 100 answers",
        "1 cell: 1 running; 30 % of 100 answers; 5.0/s, about 14 s left",
        "1 cell: 1 done; 100 % of 4 answers",
    ]


def test_live_says_when_nothing_comes_and_ends_with_ctrl_c(tmp_path: Path, screen: Any, capsys: pytest.CaptureFixture[str]):
    cell(tmp_path)

    def step(n: int) -> None:
        if n == 40:
            raise KeyboardInterrupt

    screen(step)
    with held(tmp_path, "tiny_full"):
        assert command(tmp_path, live=True) == 0
    last = [lines[-1] for lines in pictures(capsys.readouterr().out)]
    assert last[30] == "1 cell: 1 waiting; 0 % of 4 answers"
    assert last[39] == "1 cell: 1 waiting; 0 % of 4 answers; no new answers for 1 min"


def test_live_keeps_to_the_height_of_the_screen(tmp_path: Path, screen: Any, capsys: pytest.CaptureFixture[str]):
    for n in range(1, 41):
        cell(tmp_path, f"tiny_script_{n}")
    store = held(tmp_path, "tiny_script_1")
    screen(lambda n: store.close())
    assert command(tmp_path, live=True) == 1
    first, last = pictures(capsys.readouterr().out)
    assert len(first) == 29
    assert first[-2] == "... 14 more lines"
    assert first[-1].startswith("40 cells: ")
    assert len(last) == 42


def test_a_pipe_gets_one_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    cell(tmp_path)
    with held(tmp_path, "tiny_full"):
        assert command(tmp_path, live=True) == 1
    assert capsys.readouterr().out.count("\n") == 3
