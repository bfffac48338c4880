"""A batch asked of a model by every configuration: what fails costs only itself, and nothing is asked or encoded twice."""

from __future__ import annotations

import gc
import signal
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from runtimes import Made, StandIn, lines, loading

from script_vlmeval import asking, sweep
from script_vlmeval.asking import Asking
from script_vlmeval.backbones import Models
from script_vlmeval.batches import Sizer
from script_vlmeval.benchmarks import Benchmark, resolve
from script_vlmeval.cells import Cell, Config
from script_vlmeval.cli import main
from script_vlmeval.counts import Counts
from script_vlmeval.plugin import Dataset, open_dataset
from script_vlmeval.progress import Progress
from script_vlmeval.ranks import Ranks
from script_vlmeval.runtime import Answer, Runtime, method_of
from script_vlmeval.stopping import Stop, Stopped
from script_vlmeval.store import CellStore
from script_vlmeval.wording import How
from script_vlmeval.work import Table, Work

RECORD = Models().record("tiny")
NAMES = ("tiny_full", "tiny_random_16", "tiny_script_16")
Fails = Callable[[str, list[str]], Exception | None]


class Seen(StandIn):
    """Remembers (configuration, questions) of every call; `fails` may make one fail."""

    pause = 0.0

    def __init__(self, record: Any = RECORD, fails: Fails = lambda name, questions: None) -> None:
        super().__init__(record)
        self.fails = fails
        self.calls: list[tuple[str, list[str]]] = []

    def answer(self, prepared: Made, method: Any, budget: str, **how: Any) -> list[Answer]:
        name = "_".join(filter(None, [method.name, budget]))
        self.calls.append((name, prepared.questions))
        if error := self.fails(name, prepared.questions):
            raise error
        return super().answer(prepared, method, budget, **how)

    def sizes(self, name: str) -> list[int]:
        return [len(questions) for asked, questions in self.calls if asked == name]


def no_room() -> Exception:
    return torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


@pytest.fixture(autouse=True)
def let_go(monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """A call for each time that memory is given back. Collecting everything takes longer than all else here."""
    calls: list[None] = []
    monkeypatch.setattr(asking, "let_go", lambda: calls.append(None))
    monkeypatch.setattr(sweep.room, "let_go", lambda: None)
    return calls


def question(at: int) -> str:
    return f"question {at:02}"


def dataset(rows: int) -> Dataset:
    """Questions of one length, so that they are asked in their order."""
    return Dataset(
        Benchmark("mine", "mine", "tsv", "exact", "accuracy"),
        [{"index": str(i), "question": question(i), "answer": "red"} for i in range(rows)],
        "digest",
        lambda row, style: [{"type": "text", "value": row["question"]}],
    )


def asked_of(
    runtime: Any,
    folder: Path,
    names: Sequence[str] = NAMES,
    rows: int = 6,
    size: int = 6,
    tolerated: int = 99,
    lacks: Sequence[Sequence[int]] = (),
) -> Asking:
    """Cells with open stores. lacks: the rows that each lacks, where not all."""
    data, works = dataset(rows), []
    for i, name in enumerate(names):
        config = Config.parse(name)
        missing = np.ones(rows, bool)
        if lacks:
            missing[:] = False
            missing[list(lacks[i])] = True
        store = CellStore(folder, name, "mine", {"config": name})
        store.open()
        works.append(Work(Cell(config, "mine"), method_of(config), store, missing))
    ranks = Ranks.here({})
    counts = Counts(ranks, Progress(0, 0, quiet=True))
    return Asking(runtime, Table(data, works), How(0, "auto", 8), Sizer(size, size), counts, Stop(), tolerated)


def run(asked: Asking, *chunks: Sequence[int]) -> int:
    """How many chunks were told of. Without chunks: one of all rows."""
    dealt = [np.array(chunk) for chunk in chunks] or [np.arange(len(asked.rows))]
    return len(list(asked.ask(iter(dealt))))


def answers(work: Work) -> dict[str, str]:
    return {index: record.get("prediction", "") for index, record in work.store.answers().items()}


def records(work: Work) -> list[dict[str, Any]]:
    return lines(work.store.folder)


# failures ----------------------------------------------------------------------------------------------------------------
def test_one_bad_sample_costs_only_itself(tmp_path: Path):
    bad = question(1)
    runtime = Seen(fails=lambda name, asked: ValueError("odd\nand more") if name == "random_16" and bad in asked else None)
    asked = asked_of(runtime, tmp_path, rows=3)
    run(asked)
    assert {name: runtime.sizes(name) for name, _ in runtime.calls} == {"full": [3], "random_16": [3, 1, 1, 1], "script_16": [3]}
    full, random, script = asked.works
    assert all(answers(full).values())
    assert all(answers(script).values())
    assert {index for index, text in answers(random).items() if text} == {"0", "2"}
    assert random.store.answers()["1"]["error"] == "ValueError: odd"
    assert "prediction" not in random.store.answers()["1"]
    assert random.missing.tolist() == [False, True, False]


def test_a_batch_that_does_not_fit_goes_on_in_halves_and_later_ones_are_smaller(tmp_path: Path):
    """The second cell has no room for more than two. The first one's answers stay, the third gets halves at once."""
    runtime = Seen(fails=lambda name, asked: no_room() if name == "random_16" and len(asked) > 2 else None)
    asked = asked_of(runtime, tmp_path, rows=64, size=8)
    assert run(asked, *[range(start, start + 8) for start in range(0, 64, 8)]) == 8
    assert asked.sizer.now == 2
    assert runtime.sizes("full")[0] == 8
    assert runtime.sizes("random_16")[:3] == [8, 4, 2]
    assert runtime.sizes("script_16")[0] == 2
    assert runtime.sizes("full")[-1] == runtime.sizes("script_16")[-1] == 2
    for work in asked.works:
        assert sorted(record["index"] for record in records(work)) == sorted(map(str, range(64)))
        assert all(answers(work).values())
        assert not work.missing.any()
        assert not work.failures


def test_a_batch_that_does_not_fit_is_gone_before_its_halves_are_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    alive: list[weakref.ref[Made]] = []

    class Held(Seen):
        """Its batches are on a device, as `place` and `prepare` put them there."""

        def place(self, prepared: Made) -> Made:
            alive.append(weakref.ref(found := Made(list(prepared.questions))))
            return found

        def prepare(self, samples: list[Any], style: str) -> Made:
            assert not [ref for ref in alive if ref()]
            return self.place(self.collate(samples, style))

    monkeypatch.setattr(asking, "let_go", gc.collect)
    asked = asked_of(
        Held(fails=lambda name, asked: no_room() if name == "random_16" and len(asked) > 1 else None), tmp_path, rows=4
    )
    run(asked)
    assert len(alive) == 1 + 2 + 4
    assert not any(work.missing.any() for work in asked.works)


def test_memory_is_given_back_when_a_batch_failed(tmp_path: Path, let_go: list[None]):
    run(asked_of(Seen(), tmp_path / "well", rows=4))
    assert not let_go
    run(asked_of(Seen(fails=lambda name, asked: no_room() if len(asked) > 2 else None), tmp_path / "halves", NAMES[:1], rows=4))
    assert len(let_go) == 1
    run(asked_of(Seen(fails=lambda name, asked: ValueError() if len(asked) > 1 else None), tmp_path / "alone", NAMES[:1], rows=4))
    assert len(let_go) == 2


def test_halves_of_an_odd_batch_down_to_single_rows(tmp_path: Path):
    runtime = Seen(fails=lambda name, asked: no_room() if len(asked) > 1 else None)
    asked = asked_of(runtime, tmp_path, ("tiny_full",), rows=5, size=5)
    run(asked)
    assert runtime.sizes("full") == [5, 3, 2, 1, 1, 1, 2, 1, 1]
    assert len(records(asked.works[0])) == 5


def test_a_batch_that_does_not_fit_already_when_it_is_encoded(tmp_path: Path):
    class Narrow(Seen):
        def encode(self, prepared: Made) -> None:
            if len(prepared.questions) > 2:
                raise no_room()

    asked = asked_of(Narrow(), tmp_path, rows=8, size=8)
    run(asked)
    for work in asked.works:
        assert all(answers(work).values())
        assert len(records(work)) == 8


def test_a_batch_that_does_not_fit_asks_nothing_of_whom_it_is_answered(tmp_path: Path):
    """Rows that cells lack differ: halves hold the rows that are left for each, once."""
    lacks = [(0, 1, 2, 3), (2, 3, 4, 5), (0, 5)]
    runtime = Seen(fails=lambda name, asked: no_room() if name == "random_16" and len(asked) > 1 else None)
    asked = asked_of(runtime, tmp_path, rows=6, lacks=lacks)
    run(asked)
    for work, rows in zip(asked.works, lacks, strict=True):
        assert sorted(record["index"] for record in records(work)) == sorted(map(str, rows))
        assert all(answers(work).values())


def test_a_sample_too_large_alone_is_a_failed_row_with_advice(tmp_path: Path):
    runtime = Seen(fails=lambda name, asked: no_room() if question(2) in asked else None)
    asked = asked_of(runtime, tmp_path, ("tiny_full",), rows=4, size=4)
    run(asked)
    found = asked.works[0].store.answers()
    assert [index for index, record in found.items() if "error" in record] == ["2"]
    assert found["2"]["error"].startswith("out of memory. Try")
    assert len(records(asked.works[0])) == 4


def test_a_cell_without_an_answer_is_given_up_after_eight_failures_and_others_go_on(tmp_path: Path):
    runtime = Seen(fails=lambda name, asked: RuntimeError("out of order") if name == "random_16" else None)
    asked = asked_of(runtime, tmp_path, rows=20, size=5)
    run(asked)
    assert runtime.sizes("random_16") == [5, 1, 1, 1, 1, 1, 5, 1, 1, 1]
    reason = "the model failed on every row, the last time with RuntimeError: out of order"
    assert [work.reason for work in asked.works] == ["", reason, ""]
    assert asked.counts.why("tiny_random_16/mine") == reason
    assert not asked.works[0].missing.any()
    assert not asked.works[2].missing.any()


def test_a_cell_with_an_answer_is_not_given_up_for_eight_failures(tmp_path: Path):
    runtime = Seen(fails=lambda name, asked: RuntimeError("no") if asked != [question(0)] else None)
    asked = asked_of(runtime, tmp_path, ("tiny_full",), rows=20, size=5)
    run(asked)
    assert not asked.works[0].reason
    assert len(records(asked.works[0])) == 20


@pytest.mark.parametrize(("tolerated", "calls", "given_up"), [(0, 1, True), (2, 3, True), (3, 6, False)])
def test_more_failures_than_tolerated_stop_a_cell(tmp_path: Path, tolerated: int, calls: int, given_up: bool):
    """Rows 0, 1 and 2 fail, one in a batch each."""
    broken = {question(i) for i in range(3)}
    runtime = Seen(fails=lambda name, asked: ValueError("no") if broken & set(asked) else None)
    asked = asked_of(runtime, tmp_path, ("tiny_full",), rows=6, size=1, tolerated=tolerated)
    run(asked)
    assert len(runtime.calls) == calls
    assert bool(asked.works[0].reason) == given_up
    if given_up:
        said = f"{tolerated + 1} rows failed, more than {tolerated} (--max-failures), the last with ValueError: no"
        assert asked.works[0].reason == said


def test_failures_of_other_processes_count_too(tmp_path: Path):
    runtime = Seen(fails=lambda name, asked: ValueError("no"))
    asked = asked_of(runtime, tmp_path, ("tiny_full",), rows=6, size=1, tolerated=4)
    asked.counts.failed("tiny_full/mine", 3)  # as another process would
    run(asked)
    assert len(runtime.calls) == 2
    assert asked.works[0].reason.startswith("5 rows failed, more than 4")


def test_what_cannot_be_read_is_a_failed_row_of_every_cell_and_never_reaches_the_model(tmp_path: Path):
    class Picky(Seen):
        def read(self, message: Any, style: str) -> Any:
            if question(1) in message[0]["value"]:
                raise ValueError("cannot read picture")
            return super().read(message, style)

    runtime = Picky()
    asked = asked_of(runtime, tmp_path, rows=4, size=2, lacks=[range(4), (0, 1), (2, 3)])
    message = asked.dataset._message
    asked.dataset._message = lambda row, style: message(row, style) if row["index"] != "2" else _raise(KeyError("no such cell"))
    run(asked)
    full, random, script = (work.store.answers() for work in asked.works)
    assert full["1"]["error"] == random["1"]["error"] == "cannot read picture"
    assert full["2"]["error"] == script["2"]["error"] == "row with index '2': 'no such cell'"
    assert "1" not in script
    assert "2" not in random
    assert sorted(q for name, asked in runtime.calls for q in asked if name == "full") == [question(0), question(3)]


def _raise(error: Exception) -> None:
    raise error


def test_a_chunk_of_nothing_but_broken_rows_is_told_of_too(tmp_path: Path):
    class Blind(Seen):
        def read(self, message: Any, style: str) -> Any:
            raise ValueError("cannot read picture")

    runtime = Blind()
    asked = asked_of(runtime, tmp_path, ("tiny_full",), rows=4, size=1)
    asked.dataset._message = lambda row, style: _raise(RuntimeError("no"))
    assert run(asked, (0, 1)) == 1
    asked.dataset._message = dataset(4)._message
    assert run(asked, (2,), (3,)) == 2
    assert not runtime.calls
    assert len(records(asked.works[0])) == 4


def test_a_batch_that_cannot_be_made_is_asked_row_by_row(tmp_path: Path):
    class Careful(Seen):
        def collate(self, samples: list[Any], style: str) -> Made:
            if any(sample.question == question(1) for sample in samples):
                raise ValueError("sizes do not fit")
            return super().collate(samples, style)

        prepare = collate

    asked = asked_of(Careful(), tmp_path, ("tiny_full", "tiny_random_16"), rows=3)
    run(asked)
    for work in asked.works:
        assert work.missing.tolist() == [False, True, False]
        assert work.store.answers()["1"]["error"] == "ValueError: sizes do not fit"


# nothing twice ------------------------------------------------------------------------------------------------------------
def test_twins_are_asked_once_and_both_have_records(tmp_path: Path):
    runtime = Seen()
    asked = asked_of(runtime, tmp_path, ("tiny_random_16", "tiny_random_25pct"), rows=4, size=2)
    asked.works[1].twin = asked.works[0]
    run(asked)
    assert [name for name, _ in runtime.calls] == ["random_16", "random_16"]
    assert answers(asked.works[0]) == answers(asked.works[1])
    assert len(records(asked.works[1])) == 4
    assert not asked.works[1].missing.any()


def test_a_twin_is_asked_what_the_other_was_not(tmp_path: Path):
    """The first has an answer of row 0 from before; of rows 0 and 1 the second then asks both."""
    runtime = Seen()
    names = ("tiny_random_16", "tiny_random_25pct")
    asked = asked_of(runtime, tmp_path, names, rows=4, size=2, lacks=[(1, 2, 3), range(4)])
    asked.works[1].twin = asked.works[0]
    run(asked)
    assert len(answers(asked.works[1])) == 4
    assert [(name, len(asked)) for name, asked in runtime.calls] == [("random_16", 1), ("random_25pct", 2), ("random_16", 2)]


def test_rows_that_cells_lack_are_asked_once_each(tmp_path: Path):
    runtime = Seen()
    lacks = [(0, 1, 2), (2, 3), (5,)]
    asked = asked_of(runtime, tmp_path, rows=6, size=3, lacks=lacks)
    run(asked, (0, 1), (2, 3, 5))
    for name, rows in zip(("full", "random_16", "script_16"), lacks, strict=True):
        met = [q for called, questions in runtime.calls for q in questions if called == name]
        assert sorted(met) == [question(at) for at in rows]
    for work, rows in zip(asked.works, lacks, strict=True):
        assert sorted(record["index"] for record in records(work)) == sorted(map(str, rows))


def test_a_batch_is_read_and_encoded_once_for_all_cells(tmp_path: Path):
    class Counting(Seen):
        reads, encodes, places = 0, 0, 0

        def read(self, message: Any, style: str) -> Any:
            self.reads += 1
            return super().read(message, style)

        def encode(self, prepared: Made) -> None:
            self.encodes += 1

        def place(self, prepared: Made) -> Made:
            self.places += 1
            return prepared

    runtime = Counting()
    run(asked_of(runtime, tmp_path, rows=10, size=4))
    assert (runtime.reads, runtime.encodes, runtime.places) == (10, 3, 3)


@pytest.mark.parametrize("size", [1, 2, 7])
def test_each_chunk_is_told_of_once_when_its_answers_are_on_disk(tmp_path: Path, size: int):
    asked = asked_of(Seen(), tmp_path, rows=12, size=size)
    told = []
    for _ in asked.ask(iter(np.array(chunk) for chunk in ((3, 1, 2), (5,), (0, 4, 6, 7, 8, 9, 10, 11)))):
        told.append([len(records(work)) for work in asked.works])
    assert told == [[3] * 3, [4] * 3, [12] * 3]


def test_a_stop_comes_behind_what_is_being_asked_and_its_answers_are_on_disk(tmp_path: Path):
    stop: list[Stop] = []

    def stops(name: str, questions: list[str]) -> None:
        if name == "random_16":
            stop[0].signal = signal.SIGTERM

    runtime = Seen(fails=stops)
    asked = asked_of(runtime, tmp_path, rows=6, size=3)
    stop.append(asked.stop)
    with pytest.raises(Stopped, match="SIGTERM"):
        run(asked)
    assert [len(records(work)) for work in asked.works] == [3, 3, 0]
    assert len(runtime.calls) == 2


# the real model ----------------------------------------------------------------------------------------------------------
METHODS = ("random", "divprune", "cdpruner", "script", "trim", "visionzip", "vispruner", "fastv")
SWEEP = ["tiny_full", *(f"tiny_{method}_{budget}" for method in METHODS for budget in (48, 72))]
SAMPLES = 6


def rows_seen(runtime: Runtime) -> dict[str, list[int]]:
    """What goes through layers of vision tower, projector and text tower from now on: rows of each call. Of the projector those
    with all tokens of a picture: methods that merge some project what they made."""
    seen: dict[str, list[int]] = {"vision": [], "projector": [], "text": []}

    def count(name: str) -> Callable[..., None]:
        return lambda module, args, output: seen[name].append(len(output) * (name != "projector" or output.shape[-2] == 144))

    inner = runtime.model.model
    tower = getattr(inner.vision_tower, "vision_model", inner.vision_tower)
    tower.embeddings.patch_embedding.register_forward_hook(count("vision"))
    inner.multi_modal_projector.linear_1.register_forward_hook(count("projector"))
    text = runtime._query("clip")._source.text
    getattr(text, "text_model", text).final_layer_norm.register_forward_hook(count("text"))
    return seen


def test_towers_run_once_per_sample_for_a_whole_sweep_with_the_answers_of_each_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    runtime = Runtime.load(RECORD)
    monkeypatch.setattr(Runtime, "load", loading(lambda record: runtime))
    seen = rows_seen(runtime)
    argv = ["--model", *SWEEP, "--data", "ShapesVQA", "--limit", str(SAMPLES), "--batch-size", "4", "--mode", "infer"]
    assert main([*argv, "--work-dir", str(tmp_path), "--quiet"]) == 0
    assert {name: sum(rows) for name, rows in seen.items()} == dict.fromkeys(seen, SAMPLES)

    data = open_dataset(resolve("ShapesVQA"), SAMPLES, tmp_path)
    for name in SWEEP:
        config = Config.parse(name)
        with runtime.batch():
            prepared = runtime.prepare([data.message(row) for row in data.rows])
            alone = [answer.text for answer in runtime.answer(prepared, method_of(config), config.budget)]
        found = {record["index"]: record["prediction"] for record in lines(tmp_path / name / "ShapesVQA")}
        assert [found[row["index"]] for row in data.rows] == alone
