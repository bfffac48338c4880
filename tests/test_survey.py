"""What is to be done: rows dealt out alike to all processes, an earlier run taken up, other settings refused."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from script_vlmeval import survey
from script_vlmeval.backbones import Models
from script_vlmeval.benchmarks import Benchmark
from script_vlmeval.cells import Cell, Config
from script_vlmeval.errors import UserError
from script_vlmeval.plugin import Dataset
from script_vlmeval.runtime import method_of
from script_vlmeval.store import CellStore
from script_vlmeval.work import Job, Options, Table, Work

NAMES = ("tiny_full", "tiny_random_16", "tiny_script_16")


def dataset(
    rows: int, stamps: dict[str, str] | None = None, lengths: Sequence[int] = (), pictures: Sequence[int] = ()
) -> Dataset:
    """Rows whose pictures have stamps, and whose questions are as long as `lengths` says; a picture each but for `pictures`."""
    words = [{"index": str(i), "question": "x" * (lengths[i] if lengths else 5), "answer": "red"} for i in range(rows)]
    for row, picture in zip(words, pictures, strict=False):
        row["image_path"] = f"{picture}.png"
    said = stamps or {}
    return Dataset(
        Benchmark("mine", "mine", "tsv", "exact", "accuracy"), words, "digest", lambda row, style: [], lambda r: said[r["index"]]
    )


def works(folder: Path, missing: Any, **said: Any) -> list[Work]:
    """A cell for each row of `missing` (cells, rows)."""
    found = []
    for name, lacks in zip(NAMES, missing, strict=False):
        config = Config.parse(name)
        store = CellStore(folder, name, "mine", {"config": name, **said})
        found.append(Work(Cell(config, "mine"), method_of(config), store, np.array(lacks, bool)))
    return found


def job(folder: Path, missing: Any, data: Dataset | None = None, **said: Any) -> Job:
    data = data or dataset(np.shape(missing)[1], {str(i): "" for i in range(np.shape(missing)[1])})
    return Job(Models().record("tiny"), [Table(data, works(folder, missing, **said))])


# dealing out -------------------------------------------------------------------------------------------------------------
MISSING = st.integers(0, 60).flatmap(
    lambda rows: st.lists(st.lists(st.booleans(), min_size=rows, max_size=rows), min_size=1, max_size=3)
)
BATCHES = st.sampled_from([1, 3, 32, "auto"])


@settings(max_examples=60)
@given(MISSING, BATCHES, st.integers(1, 5), st.randoms())
def test_every_missing_row_is_dealt_once_and_to_all_alike(missing: list[list[bool]], batch: int | str, world: int, dice: Any):
    rows = len(missing[0])
    data = dataset(rows, lengths=[dice.randrange(9) for _ in range(rows)], pictures=[dice.randrange(20) for _ in range(rows)])

    def dealt() -> list[list[int]]:
        table = Table(data, works(Path("nowhere"), missing))
        survey.deal(table, Options(batch_size=batch), world)
        return [chunk.tolist() for chunk in table.chunks]

    wanted = {at for at in range(rows) if any(lacks[at] for lacks in missing)}
    assert sorted(at for chunk in dealt() for at in chunk) == sorted(wanted)
    assert all(dealt())
    assert dealt() == dealt()


@settings(max_examples=60)
@given(MISSING, BATCHES, st.integers(1, 5))
def test_rows_that_the_same_cells_lack_are_together_where_they_are_many(missing: list[list[bool]], batch: int | str, world: int):
    table = Table(dataset(len(missing[0])), works(Path("nowhere"), missing))
    survey.deal(table, Options(batch_size=batch), world)
    lacks = list(zip(*missing, strict=True))
    many = 32 if batch == "auto" else min(int(batch), 32)
    for chunk in table.chunks:
        kinds = {lacks[at] for at in chunk}
        assert len(kinds) == 1 or all(lacks.count(kind) < many for kind in kinds)


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 5)), min_size=1, max_size=40), st.integers(1, 5))
def test_the_longest_come_first_and_those_about_one_picture_side_by_side(rows: list[tuple[int, int]], world: int):
    lengths, pictures = [length for length, _ in rows], [picture for _, picture in rows]
    table = Table(dataset(len(rows), lengths=lengths, pictures=pictures), works(Path("nowhere"), np.ones((1, len(rows)), bool)))
    survey.deal(table, Options(batch_size=4), world)
    order = [int(at) for chunk in table.chunks for at in chunk]
    longest = [max(length for length, picture in rows if picture == pictures[at]) for at in order]
    assert longest == sorted(longest, reverse=True)
    shown = [pictures[at] for at in order]
    assert len(list(itertools.groupby(shown))) == len(set(shown))
    for _, same in itertools.groupby(order, key=lambda at: pictures[at]):
        found = [lengths[at] for at in same]
        assert found == sorted(found, reverse=True)


def test_rows_that_nobody_lacks_are_not_dealt(tmp_path: Path):
    table = Table(dataset(4), works(tmp_path, np.zeros((2, 4), bool)))
    survey.deal(table, Options(), 2)
    assert table.chunks == []
    empty = Table(dataset(3), [])
    survey.deal(empty, Options(), 2)
    assert empty.chunks == []


def test_every_process_gets_several_chunks(tmp_path: Path):
    table = Table(dataset(640), works(tmp_path, np.ones((1, 640), bool)))
    survey.deal(table, Options(batch_size=8), 4)
    assert len(table.chunks) >= 4 * 4
    assert all(len(chunk) % 8 == 0 for chunk in table.chunks)


@pytest.mark.parametrize("name", ["question", "hint", "A", "F", "ocr_tokens"])
def test_what_makes_a_prompt_long_counts(tmp_path: Path, name: str):
    data = dataset(3)
    data.rows[2][name] = data.rows[2].get(name, "") + "y" * 9
    table = Table(data, works(tmp_path, np.ones((1, 3), bool)))
    survey.deal(table, Options(batch_size=1), 3)
    assert [chunk.tolist() for chunk in table.chunks] == [[2], [0], [1]]


# telling the others ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("rows", [1, 7, 8, 9, 40])
def test_the_others_know_what_the_first_process_found(tmp_path: Path, rows: int):
    missing = np.random.default_rng(rows).random((3, rows)) < 0.5
    first, other = job(tmp_path / "a", missing), job(tmp_path / "b", np.ones((3, rows), bool))
    first.works[1].finished = True
    survey.follow([other], survey.plan([first]))
    for mine, told in zip(other.works, first.works, strict=True):
        assert mine.missing.tolist() == told.missing.tolist()
        assert mine.missing.dtype == bool
        assert mine.answered == rows - told.missing.sum()
        assert mine.finished == told.finished


@pytest.mark.parametrize(("here", "said"), [({"seed": 1}, "seed: 0 -> 1"), ({"seed": 0, "torch": "2"}, "torch: None -> 2")])
def test_other_settings_than_the_first_process_has_are_refused(tmp_path: Path, here: dict[str, Any], said: str):
    missing = np.ones((1, 4), bool)
    first, other = job(tmp_path, missing, seed=0), job(tmp_path, missing, **here)
    with pytest.raises(UserError) as caught:
        survey.follow([other], survey.plan([first]))
    assert f"({said})" in str(caught.value)
    assert str(caught.value).startswith("tiny_full/mine has other settings here than in the first process")


def test_a_plan_of_many_cells_is_small(tmp_path: Path):
    """33 cells of 100,000 rows, of which a killed run has answered the first half."""
    missing = np.ones((1, 100_000), bool)
    missing[:, 50_000:] = False
    one = job(tmp_path, missing, dataset(1))
    assert len(survey.plan([Job(one.record, one.tables * 33)])) < 20_000


# taking up ---------------------------------------------------------------------------------------------------------------
STAMPS = {str(i): f"{i} bytes" for i in range(4)}
TOKENS = {"tokens": {}, "seconds": 1.0}


def answered(folder: Path, *records: dict[str, Any], failed: int = 0, **result: Any) -> None:
    """What an earlier run left of the first cell."""
    with CellStore(folder, NAMES[0], "mine", {"config": NAMES[0]}) as store:
        store.open()
        store.append(records)
        if result or failed:
            store.finish({"failed": failed, **result})


def record(index: str, stamp: str | None = None, **said: str) -> dict[str, Any]:
    return {"index": index, "stamp": STAMPS[index] if stamp is None else stamp, **(said or {"prediction": "red"})}


def taken(folder: Path, **options: Any) -> Work:
    found = job(folder, np.ones((1, 4), bool), dataset(4, STAMPS))
    survey.take_up([found], Options(work_dir=folder, **options))
    return found.works[0]


def test_only_an_answer_to_the_picture_that_is_there_counts(tmp_path: Path):
    answered(tmp_path, record("0"), record("1", stamp="other"), record("2", error="broken"))
    work = taken(tmp_path)
    assert work.missing.tolist() == [False, True, True, True]
    assert work.answered == 1
    assert not work.finished


@pytest.mark.parametrize(("failed", "finished"), [(0, True), (1, False)])
def test_a_cell_is_finished_when_all_is_answered_and_its_result_says_so(tmp_path: Path, failed: int, finished: bool):
    answered(tmp_path, *(record(str(i)) for i in range(4)), failed=failed, score=1.0)
    assert taken(tmp_path).finished is finished


def test_a_result_does_not_finish_a_cell_whose_picture_is_another_one_now(tmp_path: Path):
    answered(tmp_path, *(record(str(i), stamp="other" if i == 3 else None) for i in range(4)), score=1.0)
    work = taken(tmp_path)
    assert not work.finished
    assert np.flatnonzero(work.missing).tolist() == [3]


def test_answers_without_a_result_are_taken_up(tmp_path: Path):
    answered(tmp_path, *(record(str(i)) for i in range(4)))
    work = taken(tmp_path)
    assert not work.missing.any()
    assert not work.finished


def test_fresh_takes_nothing_up_and_leaves_what_is_there_for_now(tmp_path: Path):
    answered(tmp_path, *(record(str(i)) for i in range(4)), score=1.0)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.json*")}
    work = taken(tmp_path, fresh=True)
    assert work.missing.all()
    assert not work.finished
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.json*")} == before


def test_a_cell_that_is_to_be_answered_is_held_and_a_finished_one_is_not(tmp_path: Path):
    answered(tmp_path, *(record(str(i)) for i in range(4)), score=1.0)
    done = taken(tmp_path)
    again = taken(tmp_path)
    assert done.finished
    assert again.finished
    open_cell = taken(tmp_path / "new")
    with pytest.raises(UserError, match=r"Another run \(host .*, process \d+.*\) is working on"):
        taken(tmp_path / "new")
    open_cell.store.close()


def test_results_of_other_settings_are_refused_before_anything_is_held(tmp_path: Path):
    answered(tmp_path, record("0"))
    found = job(tmp_path, np.ones((2, 4), bool), dataset(4, STAMPS), seed=1)
    with pytest.raises(UserError, match=r"other settings \(seed: \(none\) -> 1\)"):
        survey.take_up([found], Options(work_dir=tmp_path))
    assert not (tmp_path / NAMES[1]).exists()


class Judge:
    """Its label is all that is looked at."""

    def __init__(self, label: str) -> None:
        self.label = label


@pytest.mark.parametrize(
    ("before", "judge", "mode", "finished"),
    [
        ({"judge": "a", "scorer": "words of a"}, "a", "all", True),
        ({"judge": "b", "scorer": "words of b"}, "a", "all", False),
        ({"judge": "a", "scorer": "older words"}, "a", "all", False),
        ({"judge": None, "scorer": "exact"}, "a", "all", False),
        ({"judge": None, "scorer": "exact"}, "a", "infer", True),
        ({"judge": "a", "scorer": "words of a"}, "", "all", True),
    ],
)
def test_a_score_by_another_judge_or_in_other_words_is_not_what_was_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: dict[str, Any], judge: str, mode: str, finished: bool
):
    monkeypatch.setattr(Dataset, "judgeable", property(lambda self: True))
    monkeypatch.setattr(Dataset, "judged_by", lambda self, label: f"words of {label}")
    answered(tmp_path, *(record(str(i)) for i in range(4)), score=1.0, **before)
    work = taken(tmp_path, judge=Judge(judge) if judge else None, mode=mode)
    assert work.finished is finished
    assert not work.missing.any()


def test_a_plan_says_what_would_be_answered_under(tmp_path: Path):
    """As JSON, so that a setting that JSON turns into another is compared as the others got it."""
    missing = np.ones((1, 2), bool)
    first, other = job(tmp_path, missing, sizes=(1, 2)), job(tmp_path, missing, sizes=[1, 2])
    survey.follow([other], survey.plan([first]))
    assert json.loads(json.dumps(other.works[0].store.fingerprint)) == first.works[0].store.fingerprint
