"""What a cell's folder survives: kills at any moment, torn and foreign lines, a second run, other settings, a full disk."""

from __future__ import annotations

import errno
import json
import logging
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from script_vlmeval.errors import UserError
from script_vlmeval.store import CellStore, digest, disk, replacing, write_json

ROOT = Path(__file__).resolve().parents[1]
PRINT = {"model": "tiny", "seed": 0, "limit": None, "dtype": "float32"}


def make(work_dir: Path, **changes: Any) -> CellStore:
    return CellStore(work_dir, "tiny_script_16", "ShapesVQA", PRINT | changes)


def opened(work_dir: Path, **changes: Any) -> CellStore:
    store = make(work_dir, **changes)
    store.open()
    return store


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {str(p.relative_to(folder)): (p.read_bytes(), p.stat().st_mtime_ns) for p in folder.rglob("*") if p.is_file()}


def test_names_and_places(tmp_path: Path):
    store = make(tmp_path)
    assert store.folder == tmp_path / "tiny_script_16" / "ShapesVQA"
    assert store.workbook == store.folder / "tiny_script_16_ShapesVQA.xlsx"
    assert not store.folder.exists()
    assert (store.result(), store.answers()) == (None, {})


def test_answers_come_back(tmp_path: Path):
    texts = ["yes", "", "a\nb\r\nc\u2028\x85", "\U0001f600", "\ud800", "\x00", '{"index": "9"}', "None"]
    records = [{"index": str(i), "prediction": text, "tokens": {"visual_kept": 16}} for i, text in enumerate(texts)]
    with opened(tmp_path) as store:
        store.append(records[:3])
        store.append(records[3:])
        store.append([])
    with opened(tmp_path) as store:
        assert store.answers() == {record["index"]: record for record in records}
    assert (store.folder / "predictions.jsonl").read_bytes().count(b"\n") == len(texts)


def test_the_last_line_wins_but_an_error_never_hides_a_prediction(tmp_path: Path):
    with opened(tmp_path) as store:
        store.append([{"index": "a", "error": "no picture"}, {"index": "b", "prediction": "old"}, {"index": "c", "error": "1"}])
        store.append([{"index": "a", "prediction": "yes"}, {"index": "b", "prediction": "new"}, {"index": "c", "error": "2"}])
        store.append([{"index": "a", "error": "again"}])
        found = store.answers()
    assert [found["a"]["prediction"], found["b"]["prediction"], found["c"]["error"]] == ["yes", "new", "2"]


@pytest.mark.parametrize(
    "record",
    [
        {},
        {"index": 1, "prediction": "a"},
        {"index": "1"},
        {"index": "1", "prediction": None},
        {"index": "1", "prediction": "a", "error": "b"},
    ],
    ids=str,
)
def test_a_record_that_could_not_be_read_back_is_refused(tmp_path: Path, record: dict[str, Any]):
    with opened(tmp_path) as store:
        with pytest.raises(ValueError, match="a record is"):
            store.append([{"index": "0", "prediction": "fine"}, record])
        assert store.answers() == {}


def test_a_torn_last_line_is_cut_at_every_byte(tmp_path: Path):
    with opened(tmp_path) as store:
        store.append([{"index": "1", "prediction": "first é"}])
        whole = (store.folder / "predictions.jsonl").read_bytes()
        store.append([{"index": "2", "prediction": "second \U0001f600"}])
        both = (store.folder / "predictions.jsonl").read_bytes()
    for end in range(len(whole), len(both)):
        (store.folder / "predictions.jsonl").write_bytes(both[:end])
        assert set(make(tmp_path).answers()) == {"1"}, "before it is opened"
        with opened(tmp_path) as again:
            assert set(again.answers()) == {"1"}
            again.append([{"index": "3", "prediction": "third"}])
            assert set(again.answers()) == {"1", "3"}
    (store.folder / "predictions.jsonl").write_bytes(both)
    with opened(tmp_path) as again:
        assert set(again.answers()) == {"1", "2"}


FOREIGN = [
    b"{",
    b"null",
    b"[]",
    b"7",
    b"\xff",
    b"",
    b"\x00" * 9,
    b'{"index": 1, "prediction": "a"}',
    b'{"index": "1"}',
    b"[" * 99_999,
]
FOREIGN += [
    b'{"index": "1", "prediction": 3}',
    b'{"index": "1", "prediction": "a", "error": "b"}',
    b'{"index": ["1"], "error": "b"}',
]


def test_foreign_lines_are_skipped_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    with opened(tmp_path) as store:
        store.append([{"index": "5", "prediction": "yes"}])
    with open(store.folder / "predictions.jsonl", "ab") as file:
        file.write(b"\n".join(FOREIGN) + b"\n")
    with opened(tmp_path) as store, caplog.at_level(logging.WARNING):
        store.append([{"index": "6", "prediction": "no"}])
        assert {index: record["prediction"] for index, record in store.answers().items()} == {"5": "yes", "6": "no"}
    assert f"skipped {len(FOREIGN)} unreadable" in caplog.text


LINE = [json.dumps({"index": str(i), "prediction": f"answer {i}"}).encode() for i in range(5)]
PARTS = st.lists(
    st.sampled_from([*(line + b"\n" for line in LINE), *LINE, *(line + b"\n" for line in FOREIGN), b"\x00" * 99, b"\r\n"])
)


@given(PARTS, st.integers(0, 40))
def test_no_damage_invents_a_prediction(tmp_path_factory: pytest.TempPathFactory, parts: list[bytes], cut: int):
    """Lines doubled, joined, foreign, cut at any byte: what is found is what was once written under that index."""
    folder = tmp_path_factory.mktemp("fuzz")
    opened(folder).close()
    damaged = b"".join(parts)[: -cut or None]
    path = make(folder).folder / "predictions.jsonl"
    path.write_bytes(damaged)
    whole = {str(i) for i, line in enumerate(LINE) if line in damaged.split(b"\n")[:-1]}
    with opened(folder) as store:
        assert store.answers().items() >= {i: {"index": i, "prediction": f"answer {i}"} for i in whole}.items()
        assert all(record["prediction"] == f"answer {i}" for i, record in store.answers().items() if i != "5")
        store.append([{"index": "new", "prediction": "kept"}])
        assert store.answers()["new"]["prediction"] == "kept"


def test_the_result_is_last_and_whole(tmp_path: Path):
    with opened(tmp_path) as store:
        assert store.result() is None
        store.finish({"score": 91.5, "metrics": {"color": float("nan")}, "tokens": {"layers": (1, 2)}})
        expected = {"score": 91.5, "metrics": {"color": None}, "tokens": {"layers": [1, 2]}}
        assert store.result() == expected
    assert make(tmp_path).result() == expected
    assert make(tmp_path, seed=1).result() is None, "done with other settings is not done"
    assert sorted(os.listdir(store.folder)) == [".lock", "cell.json", "predictions.jsonl", "result.json"]


def test_a_result_that_cannot_be_written_leaves_the_old_one(tmp_path: Path):
    with opened(tmp_path) as store:
        store.finish({"score": 1})
        with pytest.raises(TypeError):
            store.finish({"score": object()})
        assert store.result() == {"score": 1}
        assert not list(store.folder.glob(".*.tmp"))


def test_an_unreadable_result_is_no_result(tmp_path: Path):
    with opened(tmp_path) as store:
        (store.folder / "result.json").write_text('{"score": ')
        assert store.result() is None


def test_writing_needs_open(tmp_path: Path):
    store = make(tmp_path)
    with pytest.raises(RuntimeError):
        store.append([])
    with pytest.raises(RuntimeError):
        store.finish({})


def test_two_runs_cannot_share_a_cell(tmp_path: Path):
    first = opened(tmp_path)
    first.open()  # again, by the same run, is nothing
    with pytest.raises(UserError, match="Another run"):
        make(tmp_path).open()
    with pytest.raises(UserError, match="Another run"):
        make(tmp_path).open(fresh=True)
    code = f"from tests.test_store import *; make(Path({str(tmp_path)!r})).open()"
    other = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert "Another run" in other.stderr
    first.append([{"index": "1", "prediction": "still works"}])
    first.close()
    first.close()
    with opened(tmp_path) as second:
        assert set(second.answers()) == {"1"}


def test_other_settings_are_refused_and_nothing_is_touched(tmp_path: Path):
    with opened(tmp_path) as store:
        store.append([{"index": "1", "prediction": "yes"}])
        store.finish({"score": 1})
    (store.folder / ".lock").unlink()
    with open(store.folder / "predictions.jsonl", "ab") as file:
        file.write(b"torn")
    before = contents(tmp_path)
    with pytest.raises(UserError) as error:
        make(tmp_path, seed=7, limit=20, attn="eager").open()
    for part in ("seed: 0 -> 7", "limit: null -> 20", 'attn: (none) -> "eager"', "--fresh", "--work-dir"):
        assert part in str(error.value)
    assert "dtype" not in str(error.value)
    assert contents(tmp_path) == before


def test_true_one_and_one_point_zero_differ(tmp_path: Path):
    with opened(tmp_path, seed=1) as store:
        store.append([{"index": "1", "prediction": "yes"}])
    for value in (True, 1.0, "1"):
        with pytest.raises(UserError, match="seed: 1 ->"):
            make(tmp_path, seed=value).open()


def test_a_run_that_stopped_before_its_first_answer_binds_nobody(tmp_path: Path):
    opened(tmp_path, seed=1).close()
    with opened(tmp_path, seed=2) as store:
        assert json.loads((store.folder / "cell.json").read_text())["seed"] == 2


def test_reopening_takes_the_result_back(tmp_path: Path):
    with opened(tmp_path) as store:
        store.append([{"index": "1", "prediction": "yes"}])
        store.finish({"score": 1})
        store.reopen()
        assert store.result() is None
        assert set(store.answers()) == {"1"}


def test_fresh_discards_what_is_there(tmp_path: Path):
    with opened(tmp_path) as store:
        store.append([{"index": "1", "prediction": "yes"}])
        store.finish({"score": 1})
    (store.folder / "scorer").mkdir()
    (store.folder / "scorer" / "score.csv").write_text("x")
    store.workbook.write_text("old")
    again = make(tmp_path, seed=7)
    again.open(fresh=True)
    assert (again.answers(), again.result()) == ({}, None)
    assert json.loads((again.folder / "cell.json").read_text())["seed"] == 7
    assert sorted(os.listdir(again.folder)) == [".lock", "cell.json", "predictions.jsonl"]


def test_fresh_does_not_empty_a_folder_that_is_not_ours(tmp_path: Path):
    folder = make(tmp_path).folder
    folder.mkdir(parents=True)
    (folder / "thesis.tex").write_text("years")
    with pytest.raises(UserError, match="not results of this program"):
        make(tmp_path).open(fresh=True)
    assert (folder / "thesis.tex").read_text() == "years"


@pytest.mark.parametrize("content", [None, b"", b"[]", b"{"])
def test_answers_of_unknown_origin_are_refused(tmp_path: Path, content: bytes | None):
    with opened(tmp_path) as store:
        store.append([{"index": "1", "prediction": "yes"}])
    (store.folder / "cell.json").unlink()
    if content is not None:
        (store.folder / "cell.json").write_bytes(content)
    with pytest.raises(UserError, match=r"no readable cell\.json"):
        make(tmp_path).open()


def test_what_a_kill_leaves_behind_is_cleared(tmp_path: Path):
    folder = make(tmp_path).folder
    folder.mkdir(parents=True)
    (folder / ".cell.json.123.tmp").write_text("{")
    make(tmp_path).open(fresh=True)
    assert sorted(os.listdir(folder)) == [".lock", "cell.json", "predictions.jsonl"]


def test_where_a_folder_cannot_be(tmp_path: Path):
    (tmp_path / "file").write_text("x")
    for work_dir in (tmp_path / "file", Path("/proc/nothing"), tmp_path / ("x" * 300)):
        with pytest.raises(UserError, match="Cannot read or write"):
            make(work_dir).open()
    for name in ("", ".", "..", "a/b"):
        with pytest.raises(UserError, match="cannot be the name"):
            CellStore(tmp_path, "tiny_full", name, PRINT)


def test_what_would_help_is_said_by_those_who_write(tmp_path: Path):
    (tmp_path / "file").write_text("x")
    place = tmp_path / "file/inside.json"
    with pytest.raises(UserError, match=r"inside\.json.*: Not a directory; choose another --work-dir, or"):
        write_json(place, {})
    with pytest.raises(UserError, match=r"Not a directory; ask somebody\.$"):
        write_json(place, {}, "ask somebody")
    with pytest.raises(UserError, match=r"No space left on device; free some space"), disk(place, "ask somebody"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(UserError, match="as it is"), replacing(tmp_path / "other", "ask somebody"):
        raise UserError("as it is")
    assert sorted(os.listdir(tmp_path)) == ["file"]


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
def test_no_permission(tmp_path: Path):
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="Permission denied"):
        make(tmp_path).open()


def test_a_full_disk_keeps_what_was_there(tmp_path: Path):
    store = opened(tmp_path)
    store.append([{"index": "1", "prediction": "first"}])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (300, hard))  # half a record still fits: a real partial write
        with pytest.raises(UserError, match="free some space"):
            store.append([{"index": "2", "prediction": "x" * 1000}])
        with pytest.raises(UserError, match="free some space"):
            store.finish({"text": "x" * 1000})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignored)
    assert set(store.answers()) == {"1"}
    assert (store.folder / "predictions.jsonl").read_bytes().endswith(b"\n")
    assert store.result() is None
    store.append([{"index": "3", "prediction": "later"}])
    assert set(store.answers()) == {"1", "3"}


WRITER = """
import itertools, sys
from pathlib import Path
from tests.test_store import make
store = make(Path(sys.argv[1]))
store.open()
for i in itertools.count(len(store.answers())):
    store.append([{"index": str(i), "prediction": f"answer {i} " * 50}])
    print(i, flush=True)
"""


def test_no_acknowledged_record_is_lost_by_kill_9(tmp_path: Path):
    moments = random.Random(0)
    for _ in range(5):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert writer.stdout
        assert writer.stdout.readline(), "the writer got nowhere: the lock of a killed run must not last"
        time.sleep(moments.uniform(0, 0.15))
        writer.send_signal(signal.SIGKILL)
        said = [line for line in writer.stdout.read().splitlines(keepends=True) if line.endswith("\n")]
        writer.wait()
        with opened(tmp_path) as store:
            answers = store.answers()
        last = int(said[-1]) if said else 0
        assert len(answers) > last
        assert {index: record["prediction"] for index, record in answers.items()} == {
            str(i): f"answer {i} " * 50 for i in range(len(answers))
        }


def test_digest_is_of_the_content():
    assert digest({"a": 1, "b": "é"}) == digest({"b": "é", "a": 1})
    assert len({digest(m) for m in ({"a": 1}, {"a": 1.0}, {"a": True}, {"a": "1"}, {"b": 1}, {}, {"a": None})}) == 7
    assert digest({}) == "44136fa355b3678a"
