"""Results of several people in one folder: what is taken, what is joined, what is refused, and what a kill leaves."""

from __future__ import annotations

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


def test_pictures_come_along(tmp_path: Path):
    for name, rows in (("a", 2), ("b", 3)):
        cell(tmp_path / name)
        folder = tmp_path / name / "atlas" / "ShapesVQA"
        folder.mkdir(parents=True)
        (folder / "samples.jsonl").write_text("{}\n" * rows)
        (folder / "0-0.jpg").write_bytes(b"a picture")
    merge.command([tmp_path / "a", tmp_path / "b"], tmp_path / "all")
    folder = tmp_path / "all" / "atlas" / "ShapesVQA"
    assert (folder / "samples.jsonl").read_text().count("\n") == 3
    assert (folder / "0-0.jpg").exists()


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
