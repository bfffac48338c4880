"""What a cell's folder survives: kills at any moment, torn and foreign lines, a second run, other settings, a full disk."""

from __future__ import annotations

import errno
import hashlib
import itertools
import json
import logging
import os
import random
import resource
import signal
import socket
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from script_vlmeval.errors import UserError
from script_vlmeval.files import digest
from script_vlmeval.store import CellStore, failure, held, lock, shard, written
from script_vlmeval.store.seal import Seal

ROOT = Path(__file__).resolve().parents[1]
PRINT = {"model": "tiny", "seed": 0, "limit": None, "dtype": "float32"}

pytestmark = pytest.mark.usefixtures("quick")


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
        {"index": "1", "prediction": "a", "sum": "0"},
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


SEAL = Seal(PRINT)
LINE = [SEAL.line({"index": str(i), "prediction": f"answer {i}"})[:-1] for i in range(5)]
FOREIGN += [Seal(PRINT | {"seed": 1}).line({"index": "0", "prediction": "of other settings"})[:-1]]
FOREIGN += [Seal({}).line({"index": "1", "prediction": "of another cell"})[:-1], LINE[2].replace(b"answer 2", b"answer 3")]
PARTS = st.lists(
    st.sampled_from([*(line + b"\n" for line in LINE), *LINE, *(line + b"\n" for line in FOREIGN), b"\x00" * 99, b"\r\n"])
)


@given(st.lists(PARTS, min_size=1, max_size=3), st.integers(0, 40))
def test_no_damage_invents_a_prediction(tmp_path_factory: pytest.TempPathFactory, parts: list[list[bytes]], cut: int):
    """Lines doubled, joined, foreign, cut at any byte, in any order in any shard: what is found is what was once written under
    that index, and every line that is whole counts."""
    folder = tmp_path_factory.mktemp("fuzz")
    opened(folder).close()
    whole = set()
    for rank, several in enumerate(parts):
        damaged = b"".join(several)[: -cut or None]
        (make(folder).folder / shard.name(rank)).write_bytes(damaged)
        whole |= {str(i) for i, line in enumerate(LINE) if line in damaged.split(b"\n")[:-1]}
    expected = {i: {"index": i, "prediction": f"answer {i}"} for i in whole}
    assert make(folder).answers() == expected
    with opened(folder) as store:
        assert store.answers() == expected
        store.append([{"index": "new", "prediction": "kept"}])
        assert store.answers() == expected | {"new": {"index": "new", "prediction": "kept"}}


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
    code = f"from tests.test_store import *; lock.PATIENCE = 0; make(Path({str(tmp_path)!r})).open()"
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
store, rank = make(Path(sys.argv[1])), int(sys.argv[2])
store.join(rank) if rank else store.open()
for i in itertools.count(sum(index.startswith(f"{rank} ") for index in store.answers())):
    store.append([{"index": f"{rank} {i}", "prediction": f"answer {rank} {i} " * 50}])
    print(i, flush=True)
"""


def test_no_acknowledged_record_is_lost_by_kill_9(tmp_path: Path):
    moments = random.Random(0)
    for _ in range(2):
        writers = []
        for rank in range(2):
            command = [sys.executable, "-c", WRITER, str(tmp_path), str(rank)]
            writers.append(subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True))
            assert writers[-1].stdout
            assert writers[-1].stdout.readline(), "the writer got nowhere: the locks of a killed run must not last"
        time.sleep(moments.uniform(0, 0.15))
        last = []
        for writer in writers:
            writer.send_signal(signal.SIGKILL)
            assert writer.stdout
            said = [line for line in writer.stdout.read().splitlines(keepends=True) if line.endswith("\n")]
            last.append(int(said[-1]) if said else 0)
            writer.wait()
        with opened(tmp_path) as store:
            found = predictions(store)
        for rank in range(2):
            mine = {index: text for index, text in found.items() if index.startswith(f"{rank} ")}
            assert len(mine) > last[rank]
            assert mine == {f"{rank} {i}": f"answer {rank} {i} " * 50 for i in range(len(mine))}


# the line ----------------------------------------------------------------------------------------------------------------


def test_a_line_ends_with_a_sum_over_the_settings_and_the_rest(tmp_path: Path):
    with opened(tmp_path) as store:
        store.append([{"prediction": "é", "tokens": [1], "index": "7"}])
        line = (store.folder / "predictions.jsonl").read_bytes()
    body = '{"index": "7", "prediction": "é", "tokens": [1]}'.encode()
    summed = hashlib.blake2b(body, key=digest(PRINT).encode(), digest_size=6).hexdigest()
    assert line == body[:-1] + f', "sum": "{summed}"}}\n'.encode()
    assert list(json.loads(line))[-1] == "sum"
    assert make(tmp_path).answers() == {"7": {"index": "7", "prediction": "é", "tokens": [1]}}


def test_every_bit_of_a_line_counts(tmp_path: Path):
    line = SEAL.line({"index": "7", "prediction": "yes"})
    for at in range(len(line)):
        for bit in range(8):
            changed = bytearray(line)
            changed[at] ^= 1 << bit
            assert SEAL.record(bytes(changed)) is None
            assert SEAL.glance(bytes(changed)) is None
    assert SEAL.record(line) == {"index": "7", "prediction": "yes"}


RECORDS = [
    ({"index": "1", "prediction": "a"}, ("1", True, "")),
    ({"stamp": "3:4", "error": '", "prediction": "b', "index": 'a"\\'}, ('a"\\', False, "3:4")),
    ({"index": "\ud800", "prediction": "\udfff", "stamp": "\ud800"}, ("\ud800", True, "\ud800")),
    ({"tokens": {"index": "2", "error": "no"}, "prediction": "", "index": "", "stamp": ""}, ("", True, "")),
    ({"index": "5", "stamp": 7, "prediction": "c"}, ("5", True, "7")),
]


@pytest.mark.parametrize(("record", "seen"), RECORDS)
def test_a_glance_sees_what_reading_would(record: dict[str, Any], seen: tuple[str, bool, str]):
    line = SEAL.line(record)
    assert SEAL.glance(line) == seen
    assert SEAL.record(line) == record


@pytest.mark.parametrize(
    "body", [b"{}", b"[]", b"7", b"{", b"\xff}", b'{"index": 1, "prediction": "a"}', b'{"index": "1", "error": 2}']
)
def test_a_sum_alone_makes_no_record(body: bytes):
    line = b'%b, "sum": "%b"}\n' % (body[:-1], SEAL._sum(body[:-1] + b"}"))
    assert SEAL.record(line) is None
    assert SEAL.glance(line) is None


# lines and records -------------------------------------------------------------------------------------------------------


def test_lines_tell_what_counts_and_records_read_it(tmp_path: Path):
    with opened(tmp_path) as store:
        store.append([{"index": "a", "prediction": "0", "stamp": "s"}, {"index": "b", "error": "0"}])
        second = make(tmp_path)
        second.join(2)
        second.append(
            [
                {"index": "a", "error": "2", "stamp": "s"},
                {"index": "b", "prediction": "2", "stamp": "t"},
                {"index": "c", "error": "2"},
            ]
        )
        found = store.lines()
        assert {index: line[:3] for index, line in found.items()} == {
            "a": (True, "s", 0),
            "b": (True, "t", 2),
            "c": (False, "", 2),
        }
        given = [found["c"], found["a"], found["b"], found["a"]]
        assert [r["index"] for r in store.records(given)] == ["c", "a", "b", "a"], "in the order given"
        assert [r.get("prediction") for r in store.records(given)] == [None, "0", "2", "0"]
        assert store.answers() == second.answers() == {r["index"]: r for r in store.records(given)}


def test_shards_are_read_in_the_order_of_their_numbers(tmp_path: Path):
    with opened(tmp_path) as store:
        for rank in (10, 9, 2):
            other = make(tmp_path)
            other.join(rank)
            other.append([{"index": "a", "prediction": str(rank)}])
            other.close()
        store.append([{"index": "a", "prediction": "0"}])
        (store.folder / "predictions-011.jsonl").write_bytes(SEAL.line({"index": "a", "prediction": "no shard's name"}))
        assert store.answers()["a"]["prediction"] == "10"
    with opened(tmp_path) as store:
        assert store.answers()["a"]["prediction"] == "10"
        assert [path.name for path in shard.files(store.folder).values()] == ["predictions.jsonl"]


def test_lines_that_changed_since_they_were_found_are_no_answers(tmp_path: Path):
    with opened(tmp_path) as store:
        store.append([{"index": "1", "prediction": "first"}, {"index": "2", "prediction": "second"}])
        found = store.lines()
        path = store.folder / "predictions.jsonl"
        path.write_bytes(path.read_bytes().replace(b"second", b"SECOND"))
        reading = store.records(found.values())
        assert next(reading)["prediction"] == "first"
        with pytest.raises(UserError, match="changed while it was read"):
            next(reading)
        path.unlink()
        with pytest.raises(UserError, match="Cannot read"):
            list(store.records(found.values()))


def test_memory_does_not_grow_with_the_length_of_lines(tmp_path: Path):
    with opened(tmp_path) as store:
        for i in range(100):
            store.append([{"index": str(i), "prediction": "x" * 100_000}])
        tracemalloc.start()
        try:
            found = store.lines()
            assert sum(len(record["prediction"]) for record in store.records(found.values())) == 10_000_000
            assert tracemalloc.get_traced_memory()[1] < 2_000_000
        finally:
            tracemalloc.stop()


# holding -----------------------------------------------------------------------------------------------------------------


def test_a_held_cell_says_by_whom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    first, second = make(tmp_path), make(tmp_path)
    assert not held(first.folder)
    first.hold()
    first.hold()
    assert held(first.folder)
    who = rf"Another run \(host {socket.gethostname()}, process {os.getpid()}, since \d\d:\d\d\) is working on"
    with pytest.raises(UserError, match=who):
        second.hold()
    said = json.loads((first.folder / ".lock").read_text())
    (first.folder / ".lock").write_text(json.dumps(said | {"since": "2001-02-03T04:05:06+00:00"}))
    with pytest.raises(UserError, match=r"since 2001-02-0\d \d\d:\d\d\)"):
        second.hold()
    for content in ("", "{", "[]", '{"since": 7}', '{"since": "x", "host": "h"}'):
        (first.folder / ".lock").write_text(content)
        with pytest.raises(UserError, match="Another run is working on"):
            second.hold()
    first.close()
    assert not held(first.folder)
    assert not first.folder.exists(), "nothing was begun"
    monkeypatch.setattr(lock, "PATIENCE", 60)
    first.hold()
    monkeypatch.setattr(lock.time, "sleep", lambda _: first.close())
    second.hold()  # waits for one that only looks
    second.close()


def test_looking_at_a_lock_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert not held(tmp_path / "nowhere")
    store = make(tmp_path)
    store.folder.mkdir(parents=True)
    assert not held(store.folder)
    assert os.listdir(store.folder) == []
    store.hold()
    files = len(os.listdir("/proc/self/fd"))
    assert held(store.folder)
    assert len(os.listdir("/proc/self/fd")) == files
    store.close()

    def broken(*_: Any) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(lock.fcntl, "flock", broken)
    assert not held(store.folder)
    with pytest.raises(UserError, match="Input/output error"):
        store.hold()


def test_a_file_system_without_locks_is_used_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    def none(*_: Any) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(lock.fcntl, "flock", none)
    with caplog.at_level(logging.WARNING), opened(tmp_path) as store:
        other = make(tmp_path)
        other.join(1)
        other.append([{"index": "1", "prediction": "yes"}])
        assert not held(store.folder)
    assert caplog.text.count("has no locks") == 1


def test_opening_keeps_one_descriptor(tmp_path: Path):
    before = len(os.listdir("/proc/self/fd"))
    with opened(tmp_path) as store:
        assert len(os.listdir("/proc/self/fd")) == before + 1
        store.append([{"index": "1", "prediction": "yes"}])
        store.rest()
        assert len(os.listdir("/proc/self/fd")) == before + 1
        assert held(store.folder)
        store.append([{"index": "2", "prediction": "no"}])
        assert set(store.answers()) == {"1", "2"}
    assert len(os.listdir("/proc/self/fd")) == before


def test_more_cells_than_files_may_be_open(tmp_path: Path):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    few = max(map(int, os.listdir("/proc/self/fd"))) + 20
    stores = [CellStore(tmp_path, "tiny_full", f"set{i}", PRINT) for i in range(few)]
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (few, hard))
        for store in stores:
            store.hold()
        stores[-1].open()
        stores[-1].append([{"index": "1", "prediction": "yes"}])
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
    finally:
        for store in stores:
            store.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_too_many_open_files_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)
    asked = []
    monkeypatch.setattr(lock.resource, "setrlimit", lambda *limit: asked.append(limit))
    refuse(monkeypatch, "open", errno.EMFILE)
    with pytest.raises(UserError, match=r"Too many open files; allow more open files \(ulimit -n\)"):
        make(tmp_path).hold()
    assert asked == [(resource.RLIMIT_NOFILE, (allowed[1], allowed[1]))]


def refuse(monkeypatch: pytest.MonkeyPatch, name: str, number: int) -> None:
    def refused(*_: Any, **__: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, name, refused)


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES])
@pytest.mark.parametrize("name", ["open", "mkdir", "listdir", "fsync"])
def test_what_the_disk_refuses_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, number: int):
    refuse(monkeypatch, name, number)
    with pytest.raises(UserError, match=f"{os.strerror(number)}; choose another --work-dir"):
        make(tmp_path).open()
    monkeypatch.undo()
    opened(tmp_path).close()  # nothing is held
    refuse(monkeypatch, "open", number)
    for act in (make(tmp_path).hold, lambda: make(tmp_path).join(1)):
        with pytest.raises(UserError, match=os.strerror(number)):
            act()
    monkeypatch.undo()
    refuse(monkeypatch, "listdir", number)
    for act in (make(tmp_path).lines, make(tmp_path).check, lambda: written(make(tmp_path).folder)):
        with pytest.raises(UserError, match=os.strerror(number)):
            act()


# what others see ---------------------------------------------------------------------------------------------------------


def test_a_cell_that_waits_is_announced(tmp_path: Path):
    store = make(tmp_path, seed=1)
    with pytest.raises(RuntimeError, match="hold"):
        store.announce()
    store.hold()
    store.announce()
    cell = store.folder / "cell.json"
    assert json.loads(cell.read_text()) == PRINT | {"seed": 1}
    before = cell.stat().st_ino
    store.announce()
    assert cell.stat().st_ino == before, "written once"
    store.close()
    with make(tmp_path, seed=2) as other:
        other.hold()
        other.announce()
        assert json.loads(cell.read_text())["seed"] == 2
        other.open()
        other.append([{"index": "1", "prediction": "yes"}])
    with make(tmp_path, seed=3) as third:
        third.hold()
        third.announce()
        assert json.loads(cell.read_text())["seed"] == 2, "what holds answers says whose they are"


def test_a_cell_that_was_given_up_says_why(tmp_path: Path):
    store = make(tmp_path)
    assert failure(store.folder) == ""
    with pytest.raises(RuntimeError, match="hold"):
        store.give_up("no")
    store.hold()
    store.give_up('too "large"\nfor this GPU')
    assert set(json.loads((store.folder / "failure.json").read_text())) == {"reason", "when"}
    store.close()
    for takes_back in (store.reopen, lambda: store.finish({"score": 1})):
        store.open()
        store.give_up('too "large"\nfor this GPU')
        assert failure(store.folder) == 'too "large"\nfor this GPU'
        takes_back()
        assert failure(store.folder) == ""
    store.give_up("once more")
    store.close()
    store.open()
    assert failure(store.folder) == "once more", "until somebody tries again"
    store.close()
    store.open(fresh=True)
    assert failure(store.folder) == ""
    (store.folder / "failure.json").write_text("{")
    assert failure(store.folder) == ""
    store.close()


def test_written_counts_complete_lines_with_a_prediction(tmp_path: Path):
    assert written(tmp_path / "nowhere") == 0
    with opened(tmp_path) as store:
        assert written(store.folder) == 0
        store.append([{"index": str(i), "prediction": "x" * 30_000} for i in range(100)])
        with make(tmp_path) as other:
            other.join(3)
            other.append([{"index": "0", "prediction": 'again, "prediction": "x'}, {"index": "1", "error": "no"}])
            (store.folder / "predictions-4.jsonl").write_bytes(b"\n\ntorn")
            assert written(store.folder) == 101


# several processes -------------------------------------------------------------------------------------------------------


def test_another_process_writes_its_own_shard_alone(tmp_path: Path):
    with opened(tmp_path) as first:
        first.append([{"index": "1", "prediction": "one"}])
        before = contents(tmp_path)
        other = make(tmp_path)
        other.join(1)
        other.join(1)
        other.append([{"index": "2", "prediction": "two"}])
        other.rest()
        other.append([{"index": "3", "prediction": "three"}])
        for act in (other.open, other.hold, other.announce, lambda: other.finish({}), lambda: other.give_up("")):
            with pytest.raises(RuntimeError):
                act()
        with pytest.raises(RuntimeError):
            first.join(1)
        with pytest.raises(ValueError, match="0"):
            make(tmp_path).join(0)
        other.append([{"index": "4", "prediction": "four"}])
        after = contents(tmp_path)
        assert after.pop("tiny_script_16/ShapesVQA/predictions-1.jsonl")[0].count(b"\n") == 3
        assert after == before
        assert set(first.answers()) == {"1", "2", "3", "4"}
        other.close()
        other.close()
    with pytest.raises(UserError, match="seed: 0 -> 1"):
        make(tmp_path, seed=1).join(1)
    with pytest.raises(UserError, match="No such file"):
        make(tmp_path / "nowhere").join(1)


def test_any_process_takes_the_result_back(tmp_path: Path):
    with opened(tmp_path) as first, make(tmp_path) as other:
        first.finish({"score": 1})
        first.give_up("no")
        other.join(1)
        other.reopen()
        assert (first.result(), failure(first.folder)) == (None, "")


def test_a_process_left_behind_is_not_overlapped(tmp_path: Path):
    opened(tmp_path).close()
    left = make(tmp_path)
    left.join(1)
    left.append([{"index": "1", "prediction": "one"}])
    before = contents(tmp_path)
    for act in (lambda: make(tmp_path).join(1), lambda: make(tmp_path).open(), lambda: make(tmp_path).open(fresh=True)):
        with pytest.raises(UserError, match=r"A process of an earlier run still has '.*predictions-1\.jsonl'"):
            act()
        after = contents(tmp_path)
        assert {**after, "tiny_script_16/ShapesVQA/.lock": 0} == {**before, "tiny_script_16/ShapesVQA/.lock": 0}
    with make(tmp_path) as other:
        other.join(2)
    left.close()
    with opened(tmp_path) as store:
        assert set(store.answers()) == {"1"}


def test_a_shard_of_its_own_is_cut_where_it_is_torn(tmp_path: Path):
    with opened(tmp_path):
        path = make(tmp_path).folder / "predictions-1.jsonl"
        path.write_bytes(LINE[0] + b"\n" + LINE[1])
        with make(tmp_path) as other:
            other.join(1)
            other.append([{"index": "2", "prediction": "answer 2"}])
        assert path.read_bytes() == LINE[0] + b"\n" + LINE[2] + b"\n"


def test_shards_are_merged_when_a_cell_is_taken_up_and_when_it_is_done(tmp_path: Path):
    for act in ("open", "finish"):
        with opened(tmp_path) as first:
            others = [make(tmp_path) for _ in range(3)]
            for rank, other in enumerate(others, 1):
                other.join(rank)
                other.append([{"index": f"{act} {rank}", "prediction": str(rank)}])
            if act == "finish":
                first.finish({"score": 1})
                others[0].append([{"index": "late", "prediction": "kept"}])
            for other in others:
                other.close()
        found = opened(tmp_path)
        found.close()
        assert sorted(os.listdir(found.folder)) == [
            ".lock",
            "cell.json",
            "predictions.jsonl",
            *["result.json"] * (act == "finish"),
        ]
    assert set(found.answers()) == {*(f"{act} {r}" for act in ("open", "finish") for r in (1, 2, 3)), "late"}


@pytest.mark.parametrize("moment", ["before", "after"])
def test_what_is_appended_while_shards_are_merged_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str):
    with opened(tmp_path) as first, make(tmp_path) as other:
        other.join(1)
        other.append([{"index": "1", "prediction": "one"}])
        unlink = os.unlink

        def busy(path: Path, **options: Any) -> None:
            if path.name != "predictions-1.jsonl":
                return unlink(path, **options)
            if moment == "after":
                unlink(path, **options)
            other.append([{"index": "2", "prediction": "two"}])
            return None if moment == "after" else unlink(path, **options)

        monkeypatch.setattr(os, "unlink", busy)
        first.finish({"score": 1})
        assert set(first.answers()) == {"1", "2"}
        monkeypatch.undo()
        other.append([{"index": "3", "prediction": "three"}])
        assert set(first.answers()) == {"1", "2", "3"}


def three(work_dir: Path) -> dict[str, bytes]:
    """A folder of two shards beside the first file, some indices twice; name -> content."""
    opened(work_dir).close()
    content = {}
    for rank in range(3):
        records = [{"index": f"{rank} {i}", "prediction": f"é {rank} {i}"} for i in range(4)]
        records.insert(1, {"index": "all", "prediction": "é all"})
        content[shard.name(rank)] = b"".join(map(SEAL.line, records))
        (make(work_dir).folder / shard.name(rank)).write_bytes(content[shard.name(rank)])
    return content


def expected(*contents: bytes) -> dict[str, str]:
    """What whole lines say, as `three` has written them."""
    said = [json.loads(line) for content in contents for line in content.split(b"\n")[:-1] if line.endswith(b'"}')]
    return {record["index"]: record["prediction"] for record in said}


def predictions(store: CellStore) -> dict[str, str]:
    return {index: record["prediction"] for index, record in store.answers().items()}


def test_shards_cut_anywhere_lose_only_what_was_cut(tmp_path: Path):
    content = three(tmp_path)
    folder = make(tmp_path).folder
    chance = random.Random(0)
    for name, whole in content.items():
        last_two = whole.rindex(b"\n", 0, whole.rindex(b"\n", 0, -1))
        for end in [*range(last_two, len(whole)), *chance.sample(range(last_two), 15), 0]:
            for each, bytes_ in content.items():
                (folder / each).write_bytes(bytes_[:end] if each == name else bytes_)
            wanted = expected(*(bytes_[:end] if each == name else bytes_ for each, bytes_ in content.items()))
            assert predictions(make(tmp_path)) == wanted
            with opened(tmp_path) as store:
                assert predictions(store) == wanted
                store.append([{"index": "new", "prediction": "kept"}])
                assert predictions(store) == wanted | {"new": "kept"}


def test_a_torn_line_that_others_follow_costs_two(tmp_path: Path):
    content = three(tmp_path)["predictions-1.jsonl"]
    rows = content.splitlines(keepends=True)
    for end in range(len(rows[2])):
        (make(tmp_path).folder / "predictions-1.jsonl").write_bytes(b"".join([rows[0], rows[1], rows[2][:end], *rows[3:]]))
        found = predictions(make(tmp_path)).keys()
        assert {"1 0", "all", "1 3"} <= found
        assert ("1 2" in found) == (end == 0)
        assert "1 1" not in found


class Killed(BaseException):
    """Stands for SIGKILL: from then on nothing reaches the disk."""


def kill(monkeypatch: pytest.MonkeyPatch, after: int, half: bool) -> None:
    """The operation `after` so many on the disk does not happen (half: a write does in part), nor does any after it."""
    count = itertools.count()

    def deadly(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def act(*args: Any, **options: Any) -> Any:
            if (now := next(count)) < after:
                return real(*args, **options)
            if half and now == after and name == "write":
                real(args[0], args[1][: len(args[1]) // 2])
            raise Killed

        return act

    for name in ("write", "pwrite", "fsync", "unlink", "ftruncate", "replace", "open", "rmdir"):
        monkeypatch.setattr(os, name, deadly(name, getattr(os, name)))


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("act", ["open", "finish"])
def test_a_merge_killed_at_any_point_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, act: str, half: bool):
    for after in itertools.count():
        work = tmp_path / str(after)
        content = three(work)
        wanted = expected(*content.values())
        store = make(work)
        if act == "finish":
            shards = {name: content.pop(name) for name in ("predictions-1.jsonl", "predictions-2.jsonl")}
            for name in shards:
                (store.folder / name).unlink()
            store.open()
            for name, bytes_ in shards.items():
                (store.folder / name).write_bytes(bytes_)
        kill(monkeypatch, after, half)
        try:
            store.open() if act == "open" else store.finish({"score": 1})
            survived = True
        except Killed:
            survived = False
        monkeypatch.undo()
        store.close()
        assert predictions(make(work)) == wanted, "as it was left"
        assert store.result() in (None, {"score": 1})
        with opened(work) as again:
            assert predictions(again) == wanted
            again.append([{"index": "new", "prediction": "kept"}])
            assert predictions(again) == wanted | {"new": "kept"}
            assert sorted(shard.files(again.folder)) == [0]
        if survived:
            break
    assert after > 10


def test_discarding_killed_at_any_point_leaves_a_folder_that_can_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for after in itertools.count():
        work = tmp_path / str(after)
        wanted = expected(*three(work).values())
        store = make(work, seed=1)
        (store.folder / "result.json").write_text("{}")
        kill(monkeypatch, after, False)
        try:
            store.open(fresh=True)
            survived = True
        except Killed:
            survived = False
        monkeypatch.undo()
        store.close()
        assert predictions(make(work)).items() <= wanted.items()
        assert predictions(make(work, seed=1)) == {}
        with make(work, seed=1) as again:
            again.open(fresh=True)
            assert (again.answers(), again.result()) == ({}, None)
        if survived:
            break
    assert after > 10


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_what_does_not_fit_leaves_nothing_torn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int):
    content = three(tmp_path)
    wanted = expected(*content.values())
    folder = make(tmp_path).folder
    write = os.write

    def full(fd: int, data: bytes) -> int:
        if len(data) < 2:
            raise OSError(number, os.strerror(number))
        return write(fd, data[: len(data) // 2])

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(UserError, match=os.strerror(number)):
        make(tmp_path).open()
    assert {name: (folder / name).read_bytes() for name in content} == content
    monkeypatch.setattr(os, "write", write)
    with opened(tmp_path) as store, make(tmp_path) as other:
        other.join(1)
        other.append([{"index": "shard", "prediction": "kept"}])
        monkeypatch.setattr(os, "write", full)
        for writer in (store, other):
            with pytest.raises(UserError, match=os.strerror(number)):
                writer.append([{"index": "lost", "prediction": "x" * 1000}] * 3)
        with pytest.raises(UserError, match=os.strerror(number)):
            store.finish({"score": 1})
        assert all(path.read_bytes().endswith(b"\n") for path in shard.files(folder).values())
        assert predictions(store) == wanted | {"shard": "kept"}
        assert store.result() is None
        monkeypatch.setattr(os, "write", write)
        other.append([{"index": "later", "prediction": "kept"}])
        store.finish({"score": 1})
        assert predictions(store) == wanted | {"shard": "kept", "later": "kept"}


def test_what_could_not_even_be_truncated_is_cut_before_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with opened(tmp_path) as store:
        store.append([{"index": "1", "prediction": "one"}])
        write = os.write

        def torn(fd: int, data: bytes) -> int:
            write(fd, data[:20])
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        monkeypatch.setattr(os, "write", torn)
        refuse(monkeypatch, "ftruncate", errno.EIO)
        with pytest.raises(UserError):
            store.append([{"index": "2", "prediction": "two"}])
        monkeypatch.undo()
        assert set(make(tmp_path).answers()) == {"1"}
        store.append([{"index": "3", "prediction": "three"}])
        assert set(store.answers()) == {"1", "3"}
        assert (store.folder / "predictions.jsonl").read_bytes().count(b"\n") == 2


def test_records_that_come_together_are_one_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with opened(tmp_path) as store:
        calls = []
        write = os.write
        monkeypatch.setattr(os, "write", lambda fd, data: (calls.append(len(data)), write(fd, data))[1])
        store.append([{"index": str(i), "prediction": "yes"} for i in range(32)])
        store.append([])
        assert len(calls) == 1
        assert set(store.answers()) == {str(i) for i in range(32)}


def test_an_answer_is_on_disk_before_append_returns_and_before_its_shard_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Names of files and the folder, in the order in which they are written, synced and removed."""
    with opened(tmp_path) as store, make(tmp_path) as other:
        other.join(1)
        done: list[str] = []
        write, unlink = os.write, os.unlink

        def name(fd: int) -> str:
            return Path(os.readlink(f"/proc/self/fd/{fd}")).name

        monkeypatch.setattr(os, "write", lambda fd, data: (done.append(f"write {name(fd)}"), write(fd, data))[1])
        monkeypatch.setattr(os, "fsync", lambda fd: done.append(f"sync {name(fd)}"))
        monkeypatch.setattr(os, "unlink", lambda path, **options: (done.append(f"remove {path.name}"), unlink(path, **options)))
        other.append([{"index": "1", "prediction": "yes"}])
        assert done == ["write predictions-1.jsonl", "sync predictions-1.jsonl"]
        done.clear()
        shard.merge(store.folder)
        steps = ["sync ShapesVQA", "write predictions.jsonl", "sync predictions.jsonl", "remove predictions-1.jsonl"]
        assert done == steps
        other.append([{"index": "2", "prediction": "yes"}])
        assert done[-2:] == ["write predictions-1.jsonl", "sync predictions-1.jsonl"]
        assert "sync ShapesVQA" in done[len(steps) :], "its new name"


def test_an_error_about_another_picture_takes_the_place_of_a_prediction(tmp_path: Path):
    """Else the reason why the picture that is there now has no answer would never be read."""
    with opened(tmp_path) as store:
        store.append([{"index": "a", "prediction": "old", "stamp": "1"}, {"index": "a", "error": "broken", "stamp": "2"}])
        assert store.lines()["a"][:2] == (False, "2")
        store.append([{"index": "a", "prediction": "new", "stamp": "2"}, {"index": "a", "error": "late", "stamp": "2"}])
        assert store.answers()["a"]["prediction"] == "new"
