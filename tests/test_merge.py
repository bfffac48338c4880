"""Results of several people in one folder: what is taken, what is joined, what is refused, and what a kill leaves."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT

from script_vlmeval import merge
from script_vlmeval.errors import UserError
from script_vlmeval.merge import writing
from script_vlmeval.store import CellStore

SETTINGS = {"method gamma": 1.0, "dtype": "float32", "data": "d1", "rows": 4}
ROWS = "0123"

pytestmark = pytest.mark.usefixtures("quick")


def record(index: str, prediction: str = "", **more: Any) -> dict[str, Any]:
    said = {"error": "no picture"} if prediction == "!" else {"prediction": prediction or f"answer {index}"}
    return {"index": index, "stamp": "77", **said, "tokens": {}, "seconds": 0.5, **more}


def cell(
    work_dir: Path,
    rows: str | dict[str, str] = ROWS,
    *,
    config: str = "tiny_script_16",
    done: bool = True,
    settings: dict[str, Any] | None = None,
    result: dict[str, Any] | None = None,
    **record_: Any,
) -> CellStore:
    """A cell as a run leaves it. rows: what is answered, and how ('!' failed)."""
    said = rows if isinstance(rows, dict) else dict.fromkeys(rows, "")
    store = CellStore(work_dir, config, "ShapesVQA", {"config": config, **SETTINGS, **(settings or {})})
    with store:
        store.open()
        store.append([record(index, text, **record_) for index, text in said.items()])
        if done:
            failed = list(said.values()).count("!")
            figures = {"score": 50.0, "primary": "accuracy", "scorer": "exact", "n": len(said), "failed": failed}
            store.finish({**figures, **(result or {})}, [{"index": index, "cluster": "aa", "worth": 1.0} for index in said])
            store.workbook.write_bytes(b"a workbook")
    return store


def merged(into: Path, config: str = "tiny_script_16") -> CellStore:
    settings = {"config": config, **SETTINGS}
    return CellStore(into, config, "ShapesVQA", settings)


def said(store: CellStore) -> dict[str, str]:
    return {index: found.get("prediction", "!") for index, found in store.answers().items()}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# what becomes of cells -----------------------------------------------------------------------------------------------------


def test_cells_of_several_people_lie_side_by_side(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    cell(tmp_path / "a")
    cell(tmp_path / "b", config="tiny_full")
    before = contents(tmp_path / "a") | contents(tmp_path / "b")
    assert merge.command([tmp_path / "a", tmp_path / "b"], tmp_path / "all") == 0
    found = contents(tmp_path / "all")
    assert found == {name: data for name, data in before.items() if not name.endswith(".lock")}
    assert before == contents(tmp_path / "a") | contents(tmp_path / "b")  # copied, not moved
    assert "2 cells" in capsys.readouterr().out
    assert merged(tmp_path / "all").result()
    assert said(merged(tmp_path / "all", "tiny_full")).keys() == set(ROWS)


def test_the_same_cell_twice_is_one(tmp_path: Path):
    cell(tmp_path / "a", seconds=1.0)
    cell(tmp_path / "b", seconds=2.0)
    merge.command([tmp_path / "a", tmp_path / "b"], tmp_path / "all")
    assert {found["seconds"] for found in merged(tmp_path / "all").answers().values()} == {1.0}


@pytest.mark.parametrize("order", ["ab", "ba"])
def test_complete_beats_partial(tmp_path: Path, order: str):
    cell(tmp_path / "a", "01", done=False)
    cell(tmp_path / "b")
    merge.command([tmp_path / name for name in order], tmp_path / "all")
    assert merged(tmp_path / "all").result()
    assert said(merged(tmp_path / "all")).keys() == set(ROWS)


def test_partial_ones_are_joined_row_by_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    a = cell(tmp_path / "a", {"0": "", "1": "!", "2": "!"}, done=False)
    cell(tmp_path / "b", {"1": "yes", "3": ""}, done=False)
    with open(a.folder / "predictions-2.jsonl", "wb") as shard:  # of another process, and torn
        shard.write(a._seal.line(record("9")) + b'{"index": "8", "prediction": "to')
    merge.command([tmp_path / "a", tmp_path / "b"], tmp_path / "all")
    store = merged(tmp_path / "all")
    assert said(store) == {"0": "answer 0", "1": "yes", "2": "!", "3": "answer 3", "9": "answer 9"}
    assert store.result() is None
    assert "Not scored yet: tiny_script_16/ShapesVQA" in capsys.readouterr().out
    store.open()  # a run goes on with it
    store.close()


def test_answers_that_a_finished_cell_lacks_are_not_lost(tmp_path: Path):
    cell(tmp_path / "a", {"0": "", "1": "!", "2": "", "3": ""})
    cell(tmp_path / "b", {"1": "no"}, done=False)
    merge.command([tmp_path / "a", tmp_path / "b"], tmp_path / "all")
    assert said(merged(tmp_path / "all"))["1"] == "no"
    assert merged(tmp_path / "all").result() is None


def test_a_finished_cell_with_failed_rows_stays_where_others_add_nothing(tmp_path: Path):
    cell(tmp_path / "a", {"0": "", "1": "!"})
    cell(tmp_path / "b", {"0": "", "1": "!"}, done=False)
    merge.command([tmp_path / "b", tmp_path / "a"], tmp_path / "all")
    assert (merged(tmp_path / "all").result() or {})["failed"] == 1


def test_a_score_is_preferred_to_none(tmp_path: Path):
    cell(tmp_path / "a", result={"unscored": "it needs a judge", "score": None})
    cell(tmp_path / "b")
    merge.command([tmp_path / "a", tmp_path / "b"], tmp_path / "all")
    assert (merged(tmp_path / "all").result() or {})["score"] == 50.0


def test_lines_of_other_settings_are_no_answers(tmp_path: Path):
    a = cell(tmp_path / "a", "01", done=False)
    stranger = CellStore(tmp_path, "tiny_script_16", "ShapesVQA", {"other": 1})
    with open(a.folder / "predictions.jsonl", "ab") as file:
        file.write(stranger._seal.line(record("2", "invented")))
    cell(tmp_path / "b", "03", done=False)
    merge.command([tmp_path / "a", tmp_path / "b"], tmp_path / "all")
    assert said(merged(tmp_path / "all")).keys() == set("013")


def test_the_target_may_hold_cells(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    cell(tmp_path / "all", config="tiny_full")
    cell(tmp_path / "all", "01", done=False)
    cell(tmp_path / "a")
    merge.command([tmp_path / "a", tmp_path / "all"], tmp_path / "all")
    assert merged(tmp_path / "all").result()
    assert merged(tmp_path / "all", "tiny_full").result()
    assert "1 copied, 1 there before" in capsys.readouterr().out
    before = contents(tmp_path / "all")
    merge.command([tmp_path / "a"], tmp_path / "all")  # again: nothing to do
    assert contents(tmp_path / "all") == before
    assert not (tmp_path / "all" / merge.STAGE).exists()


def test_worth_is_preferred_to_none(tmp_path: Path):
    (cell(tmp_path / "all").folder / "worth.jsonl").unlink()
    cell(tmp_path / "b")
    merge.command([tmp_path / "b"], tmp_path / "all")
    assert (merged(tmp_path / "all").folder / "worth.jsonl").exists()


@pytest.mark.parametrize("bad", [{"failed": None}, {"failed": "x"}, {"failed": 0.5}, {"n": None}, {"n": "4"}], ids=str)
@pytest.mark.parametrize("order", ["ab", "ba"])
def test_a_result_that_counts_no_rows_is_the_lesser_one(tmp_path: Path, bad: dict[str, Any], order: str):
    cell(tmp_path / "a", result={**bad, "score": 1.0})
    cell(tmp_path / "b")
    merge.command([tmp_path / name for name in order], tmp_path / "all")
    assert (merged(tmp_path / "all").result() or {})["score"] == 50.0


def test_a_joined_file_has_a_line_for_each_row(tmp_path: Path):
    cell(tmp_path / "a", {"0": "", "1": "", "2": "!"}, done=False)
    cell(tmp_path / "b", {"1": "", "2": "!", "3": ""}, done=False)
    merge.command([tmp_path / "a", tmp_path / "b"], tmp_path / "all")
    lines = (merged(tmp_path / "all").folder / "predictions.jsonl").read_bytes().splitlines()
    assert sorted(json.loads(line)["index"] for line in lines) == list(ROWS)


# results without their answers ---------------------------------------------------------------------------------------------


def bare(work_dir: Path, **more: Any) -> CellStore:
    """A finished cell whose answers were not handed on."""
    store = cell(work_dir, **more)
    (store.folder / "predictions.jsonl").unlink()
    return store


def test_a_result_alone_comes_along(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    bare(tmp_path / "a")
    merge.command([tmp_path / "a"], tmp_path / "all")
    assert (merged(tmp_path / "all").result() or {})["score"] == 50.0
    assert "4 of its answers are missing on disk" in caplog.text
    assert str(merged(tmp_path / "a").folder) in caplog.text


def test_a_result_alone_gives_way_to_the_same_one_with_answers(tmp_path: Path):
    bare(tmp_path / "all")
    cell(tmp_path / "a")
    merge.command([tmp_path / "a"], tmp_path / "all")
    assert said(merged(tmp_path / "all")).keys() == set(ROWS)
    before = contents(tmp_path / "all")
    bare(tmp_path / "b")
    merge.command([tmp_path / "b"], tmp_path / "all")
    assert contents(tmp_path / "all") == before


@pytest.mark.parametrize(
    ("other", "why"),
    [
        ({"result": {"score": 10.0}}, "score: 99.0 and 10.0"),
        ({"settings": {"dtype": "float16"}, "result": {"score": 99.0}}, "dtype: float32 and float16"),
        ({"rows": "012", "result": {"score": 99.0}}, "results of other rows"),
        ({"rows": {"0": "", "1": "", "2": "", "3": "!"}, "result": {"score": 99.0}}, "results of other rows"),
        ({"done": False}, "a result without its answers"),
        ({"rows": "01", "done": False}, "a result without its answers"),
    ],
    ids=str,
)
def test_a_result_alone_is_compared(tmp_path: Path, other: dict[str, Any], why: str):
    bare(tmp_path / "all", result={"score": 99.0})
    cell(tmp_path / "a", **other)
    message = refused([tmp_path / "a"], tmp_path / "all").replace("10.0 and 99.0", "99.0 and 10.0")
    assert why in message


def test_a_result_alone_is_not_lost_among_answers_to_be_joined(tmp_path: Path):
    bare(tmp_path / "a")
    cell(tmp_path / "b", "01", done=False)
    cell(tmp_path / "c", "12", done=False)
    assert "a result without its answers in" in refused([tmp_path / name for name in "abc"], tmp_path / "all")
    failed = {"0": "", "1": "!", "2": "", "3": ""}
    bare(tmp_path / "d", rows=failed)
    cell(tmp_path / "e", failed)  # done likewise, until another has the row that failed
    merge.command([tmp_path / "d", tmp_path / "e"], tmp_path / "both")
    assert "a result without its answers in" in refused([tmp_path / name for name in "dec"], tmp_path / "all")


@pytest.mark.parametrize("left", [0, 1, 3])
def test_answers_that_are_missing_are_told(tmp_path: Path, left: int, caplog: pytest.LogCaptureFixture):
    path = cell(tmp_path / "a", {"0": "", "1": "", "2": "", "3": "!"}).folder / "predictions.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:left]))
    merge.command([tmp_path / "a"], tmp_path / "all")
    lost = f"{path.parent}: done, but {3 - left} of its answers are missing on disk"
    assert (lost in caplog.text) == (left < 3)
    assert ("missing" in caplog.text) == (left < 3)
    caplog.clear()
    cell(tmp_path / "b", "3", done=False)
    if left:
        merge.command([tmp_path / "b", tmp_path / "a"], tmp_path / "joined")
        assert "missing" not in caplog.text  # nothing that is joined is done


@pytest.mark.parametrize("several", [False, True])
def test_lines_that_cannot_be_read_are_told(tmp_path: Path, several: bool, caplog: pytest.LogCaptureFixture):
    folder = cell(tmp_path / "a", "01", done=False).folder
    if several:
        cell(tmp_path / "b", "01", done=False)
    with open(folder / "predictions.jsonl", "ab") as file:
        file.write(b"{damaged}\n")
    merge.command([tmp_path / "a", *[tmp_path / "b"] * several], tmp_path / "all")
    assert f"{folder}: skipped 1 unreadable" in caplog.text


# pictures ------------------------------------------------------------------------------------------------------------------


def atlas(work_dir: Path, rows: int, mark: str = "", table: str | None = None) -> Path:
    """Pictures of so many rows. table: the digest that they are signed with."""
    folder = work_dir / "atlas" / "ShapesVQA"
    folder.mkdir(parents=True)
    (folder / "samples.jsonl").write_text("{}\n" * rows)
    (folder / "0-0.jpg").write_text(mark)
    if table:
        (folder / "atlas.json").write_text(json.dumps({"rows": "r", "data": table}))
    return folder


def shown(work_dir: Path) -> tuple[int, str, Any]:
    """Rows, mark and signature of the pictures in a work dir."""
    folder = work_dir / "atlas" / "ShapesVQA"
    made = folder / "atlas.json"
    table = json.loads(made.read_text()).get("data") if made.exists() else None
    return (folder / "samples.jsonl").read_text().count("\n"), (folder / "0-0.jpg").read_text(), table


def test_pictures_come_along(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for name, rows in (("a", 2), ("b", 3)):
        cell(tmp_path / name)
        atlas(tmp_path / name, rows, name)
    merge.command([tmp_path / "a", tmp_path / "b"], tmp_path / "all")
    assert shown(tmp_path / "all") == (3, "b", "d1")
    assert "pictures of 1 benchmark." in capsys.readouterr().out


@pytest.mark.parametrize("rows", [2, 3])
def test_pictures_of_no_more_rows_do_not_replace_the_targets(tmp_path: Path, rows: int):
    cell(tmp_path / "all")
    cell(tmp_path / "a", config="tiny_full")
    atlas(tmp_path / "all", 3, "mine")
    atlas(tmp_path / "a", rows, "theirs")
    merge.command([tmp_path / "a"], tmp_path / "all")
    assert shown(tmp_path / "all") == (3, "mine", None)


@pytest.mark.parametrize("signed", [True, False])
def test_pictures_of_another_table_do_not_replace_the_targets(
    tmp_path: Path, signed: bool, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
):
    """What is not signed is of the table that the cells beside it were asked of, and signed as soon as others join them."""
    cell(tmp_path / "all")
    atlas(tmp_path / "all", 1, "mine", "d1" if signed else None)
    for config in ("tiny_full", "tiny_script_8"):
        cell(tmp_path / "a", config=config, settings={"data": "d2"})
    atlas(tmp_path / "a", 5, "theirs", "d2" if signed else None)
    merge.command([tmp_path / "a"], tmp_path / "all")
    assert shown(tmp_path / "all") == (1, "mine", "d1")
    assert "ShapesVQA: its cells were asked of 2 tables (d2: 2 cells, d1: 1 cell)" in caplog.text
    assert "pictures are shown of d1 alone" in caplog.text
    assert "pictures of" not in capsys.readouterr().out


def test_of_several_tables_the_pictures_of_most_cells_are_taken(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    cell(tmp_path / "a", settings={"data": "d2"})
    atlas(tmp_path / "a", 9, "few")
    for config in ("tiny_full", "tiny_script_8"):
        cell(tmp_path / "b", config=config)
    atlas(tmp_path / "b", 2, "many")
    merge.command([tmp_path / "a", tmp_path / "b"], tmp_path / "all")
    assert shown(tmp_path / "all") == (2, "many", "d1")
    assert "2 tables" in caplog.text


def test_pictures_that_no_cell_was_asked_of_stay_behind(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.WARNING)
    cell(tmp_path / "a")
    atlas(tmp_path / "a", 9, "foreign", "d7")
    cell(tmp_path / "b", config="tiny_full")
    atlas(tmp_path / "b", 2, "own", "d1")
    atlas(tmp_path / "all", 9, "foreign", "d7")
    merge.command([tmp_path / "a", tmp_path / "b"], tmp_path / "all")
    assert shown(tmp_path / "all") == (2, "own", "d1")
    assert not caplog.text


# refusals ------------------------------------------------------------------------------------------------------------------


def refused(dirs: list[Path], into: Path) -> str:
    """What it says; nothing may have been written."""
    before = contents(into) if into.exists() else None
    with pytest.raises(UserError) as error:
        merge.command(dirs, into)
    assert (contents(into) if into.exists() else None) == before
    return str(error.value)


def test_other_answers_at_the_same_settings(tmp_path: Path):
    cell(tmp_path / "a")
    cell(tmp_path / "a", config="tiny_full")
    cell(tmp_path / "b", {"0": "", "1": "no", "2": "", "3": "maybe"}, done=False)
    message = refused([tmp_path / "a", tmp_path / "b"], tmp_path / "all")
    assert "1 of 2 cells" in message
    assert "tiny_script_16/ShapesVQA: other answers at the same settings" in message
    assert "2 of 4 rows (1, 3)" in message


def test_other_settings(tmp_path: Path):
    cell(tmp_path / "a")
    cell(tmp_path / "b", settings={"dtype": "bfloat16", "protocol": "hf"})
    message = refused([tmp_path / "a", tmp_path / "b"], tmp_path / "all")
    assert "dtype: float32 and bfloat16; protocol: (none) and hf" in message


def test_other_pictures(tmp_path: Path):
    cell(tmp_path / "a")
    cell(tmp_path / "b", stamp="78")
    assert "other pictures" in refused([tmp_path / "a", tmp_path / "b"], tmp_path / "all")


def test_another_judge(tmp_path: Path):
    cell(tmp_path / "a", result={"judge": "gpt-4", "score": 61.0})
    cell(tmp_path / "b", result={"judge": "qwen", "score": 58.0})
    assert "judge: gpt-4 and qwen" in refused([tmp_path / "a", tmp_path / "b"], tmp_path / "all")


def test_another_score_of_the_same_answers(tmp_path: Path):
    cell(tmp_path / "a", result={"score": 61.0})
    (cell(tmp_path / "b", result={"score": 58.0}).folder / "worth.jsonl").unlink()  # which makes it no other score
    assert "score: 61.0 and 58.0" in refused([tmp_path / "a", tmp_path / "b"], tmp_path / "all")


@pytest.mark.parametrize("place", ["tiny_script_16", "tiny_script_16/ShapesVQA"])
def test_a_file_where_a_cell_is_to_go(tmp_path: Path, place: str):
    path = tmp_path / "all" / place
    path.parent.mkdir(parents=True)
    path.write_text("notes")
    cell(tmp_path / "a")
    assert f"'{path}' is a file" in refused([tmp_path / "a"], tmp_path / "all")


def test_foreign_files_where_a_cell_is_to_go(tmp_path: Path):
    folder = tmp_path / "all" / "tiny_script_16" / "ShapesVQA"
    folder.mkdir(parents=True)
    (folder / "notes.txt").write_text("mine")
    cell(tmp_path / "a")
    assert "holds files that are no results" in refused([tmp_path / "a"], tmp_path / "all")
    (folder / "notes.txt").unlink()
    merge.command([tmp_path / "a"], tmp_path / "all")  # an empty folder may go
    assert merged(tmp_path / "all").result()


def test_what_a_run_left_that_answered_nothing_may_go(tmp_path: Path):
    with merged(tmp_path / "all") as store:
        store.open()
        store.give_up("no memory")
    assert (store.folder / "failure.json").exists()
    cell(tmp_path / "a")
    merge.command([tmp_path / "a"], tmp_path / "all")
    assert merged(tmp_path / "all").result()
    assert not (store.folder / "failure.json").exists()


@pytest.mark.parametrize("place", ["a", "b", "all"])
@pytest.mark.parametrize("done", [True, False])
def test_what_changes_while_it_is_read(tmp_path: Path, place: str, done: bool, monkeypatch: pytest.MonkeyPatch):
    """A source, or the target, before the whole copy takes its place."""
    for name, rows in (("a", ROWS if done else "1"), ("b", "2"), ("all", "3")):
        cell(tmp_path / name, rows, done=done and name == "a")
    changed = merged(tmp_path / place).folder / "predictions.jsonl"
    for step in ("_copied", "_joined"):
        real = getattr(writing, step)
        monkeypatch.setattr(writing, step, lambda *given, real=real: (real(*given), changed.write_bytes(b""))[0])
    with pytest.raises(UserError, match=f"'{changed.parent}' was changed while it was read"):
        merge.command([tmp_path / "a", tmp_path / "b"], tmp_path / "all")
    assert merged(tmp_path / "all").result() is None


def test_what_changes_just_before_it_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    target = cell(tmp_path / "all", "01", done=False).folder
    cell(tmp_path / "a")
    real = writing.lock.hold

    def hold(folder: Path) -> int:
        if folder == target:
            (folder / "predictions.jsonl").write_bytes(b"a run was here\n")
        return real(folder)

    monkeypatch.setattr(writing.lock, "hold", hold)
    with pytest.raises(UserError, match="was changed meanwhile"):
        merge.command([tmp_path / "a"], tmp_path / "all")
    assert (target / "predictions.jsonl").read_bytes() == b"a run was here\n"


def test_what_comes_just_before_a_cell_is_put_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A run has begun, and ended, in a folder that was empty when it was looked at."""
    target = merged(tmp_path / "all").folder
    target.mkdir(parents=True)
    cell(tmp_path / "a")
    real = writing._copied
    monkeypatch.setattr(writing, "_copied", lambda *given: (real(*given), cell(tmp_path / "all", "01", done=False))[0])
    with pytest.raises(UserError, match="holds files"):
        merge.command([tmp_path / "a"], tmp_path / "all")
    assert said(merged(tmp_path / "all")).keys() == {"0", "1"}


def test_the_target_contradicts_too(tmp_path: Path):
    cell(tmp_path / "all", {"0": "other"}, done=False)
    cell(tmp_path / "a")
    assert "other answers" in refused([tmp_path / "a"], tmp_path / "all")


@pytest.mark.parametrize("place", ["a", "all"])
def test_a_run_at_work(tmp_path: Path, place: str):
    store = cell(tmp_path / place, "01", done=False)
    cell(tmp_path / "b")
    with store:
        store.hold()
        message = refused([tmp_path / "b", tmp_path / place], tmp_path / "all")
    assert "A run is working on" in message
    assert place in message


def test_answers_without_settings(tmp_path: Path):
    (cell(tmp_path / "a").folder / "cell.json").unlink()
    assert "no readable cell.json" in refused([tmp_path / "a"], tmp_path / "all")


def test_a_result_without_settings(tmp_path: Path):
    store = bare(tmp_path / "a")
    (store.folder / "cell.json").unlink()
    assert "no readable cell.json" in refused([tmp_path / "a"], tmp_path / "all")


def test_a_setting_that_is_null_is_not_one_that_is_not_there(tmp_path: Path):
    cell(tmp_path / "a", settings={"clip": None})
    cell(tmp_path / "b")
    assert "clip: None and (none)" in refused([tmp_path / "a", tmp_path / "b"], tmp_path / "all")


def test_nothing_to_merge(tmp_path: Path):
    (tmp_path / "empty").mkdir()
    assert "There is no folder" in refused([tmp_path / "a"], tmp_path / "all")
    assert "There are no results" in refused([tmp_path / "empty"], tmp_path / "all")
    cell(tmp_path / "a")
    assert "Nothing to merge" in refused([tmp_path / "a", tmp_path / "." / "a"], tmp_path / "a")
    (tmp_path / "file").write_text("")
    assert "is a file" in refused([tmp_path / "a"], tmp_path / "file")


# kills ---------------------------------------------------------------------------------------------------------------------


KILLED = """
import os, signal, sys
from pathlib import Path
from script_vlmeval import merge

counted, at, calls = sys.argv[1].split(","), int(sys.argv[2]), 0

def counting(call):
    def counted_call(*given, **more):
        global calls
        calls += 1
        if calls == at:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*given, **more)
    return counted_call

os.fsync = lambda fd: None
for name in counted:
    setattr(os, name, counting(getattr(os, name)))
merge.command([Path("a"), Path("b")], Path("all"))
"""
CONFIGS = {
    "tiny_script_16": ["01"],
    "tiny_cdpruner_16": ["0"],
    "tiny_full": [],
}  # and the rows that the target may have beside all


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cell to copy, one to join with answers that the target alone has, one that replaces what the target has."""
    start = tmp_path_factory.mktemp("merge")
    cell(start / "a")
    cell(start / "all", "0", config="tiny_cdpruner_16", done=False)
    cell(start / "a", "12", config="tiny_cdpruner_16", done=False)
    cell(start / "b", "23", config="tiny_cdpruner_16", done=False)
    cell(start / "b", config="tiny_full")
    cell(start / "all", "01", done=False)
    return start


@pytest.mark.parametrize(("counted", "step"), [("rename", 1), ("mkdir,unlink,rmdir,open,replace,listdir,scandir", 40)])
def test_killed_anywhere_cells_are_whole_and_a_rerun_goes_on(begun: Path, tmp_path: Path, counted: str, step: int):
    """A cell of the target is the old or the new one; between two renames it may be missing, until the next merge."""
    killed = 0
    for at in range(step, 100 * step, step):
        work = tmp_path / str(at)
        shutil.copytree(begun, work)
        call = [sys.executable, "-c", KILLED, counted, str(at)]
        ended = subprocess.run(call, cwd=work, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, timeout=60)
        for config, old in CONFIGS.items():
            store = merged(work / "all", config)
            answers = said(store) if store.folder.exists() else {}
            assert set(answers) in map(set, ["", ROWS, *old]), config
            assert (work / "all" / config / "ShapesVQA" / "result.json").exists() <= (set(answers) == set(ROWS))
        merge.command([work / "a", work / "b"], work / "all")
        assert {config: set(said(merged(work / "all", config))) for config in CONFIGS} == {key: set(ROWS) for key in CONFIGS}
        assert merged(work / "all").result() is not None
        assert {path.name for path in (work / "all").iterdir()} == set(CONFIGS)
        if ended.returncode != -signal.SIGKILL:
            assert ended.returncode == 0, ended.stderr
            break
        killed += 1
    assert killed >= 3


def test_a_full_disk_leaves_the_target_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    cell(tmp_path / "a")
    cell(tmp_path / "all", "01", done=False)
    real = Path.rename

    def refusing(self: Path, target: Path) -> Path:
        if merge.STAGE in self.parts and merge.REPLACED not in self.parts:
            raise OSError(28, "No space left on device")
        return real(self, target)

    before = contents(tmp_path / "all")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", refusing)
        with pytest.raises(UserError, match="free some space"):
            merge.command([tmp_path / "a"], tmp_path / "all")
    assert contents(tmp_path / "all") == before
    merge.command([tmp_path / "a"], tmp_path / "all")
    assert merged(tmp_path / "all").result()
