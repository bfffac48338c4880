"""What each row is worth: points whose mean is the figure, by every rule, and the file in which they stand."""

from __future__ import annotations

import json
import math
import os
import random
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from script_vlmeval import scoring
from script_vlmeval.scoring import RULES, Verdicts, image_of
from script_vlmeval.scoring.points import of_groups, of_strata
from script_vlmeval.store import CellStore

Table = list[dict[str, str]]
COLORS = ["red", "green", "blue"]

# a random table for each rule: pictures of different difficulty, with one to four questions each ----------------------------


def rows_on_pictures(draw: random.Random, pictures: int, fill: Callable[[random.Random, bool, int], dict[str, str]]) -> Table:
    """fill: the cells of a row that is answered rightly or not."""
    rows: Table = []
    for picture in range(pictures):
        easy = draw.choice((0.3, 0.8))
        for _ in range(draw.randint(1, 4)):
            cells = fill(draw, draw.random() < easy, picture)
            rows.append({"index": str(len(rows)), "image_path": f"{picture}.png", **cells})
    return rows


def color(draw: random.Random, right: bool) -> tuple[str, str]:
    """An answer and what is said."""
    answer = draw.choice(COLORS)
    return answer, answer if right else draw.choice([c for c in COLORS if c != answer] + [""])


def opened(draw: random.Random, right: bool, _: int) -> dict[str, str]:
    answer, said = color(draw, right)
    return {"answer": answer, "prediction": said, "category": draw.choice("xy"), "type": draw.choice("01")}


def ten(draw: random.Random, right: bool, _: int) -> dict[str, str]:
    answer, said = color(draw, right)
    share = draw.randint(1, 10)
    return {"answer": str([answer] * share + ["grey"] * (10 - share)), "prediction": said}


def lettered(draw: random.Random, right: bool, _: int) -> dict[str, str]:
    answer = draw.choice("ABC")
    said = answer if right else draw.choice([x for x in "ABC" if x != answer])
    return {**dict(zip("ABC", COLORS, strict=True)), "answer": answer, "prediction": said, "category": draw.choice("xy")}


def yesno(draw: random.Random, right: bool, _: int) -> dict[str, str]:
    answer = draw.choice(("Yes", "No"))
    said = answer if right else {"Yes": "No", "No": draw.choice(("Yes", ""))}[answer]
    splits = draw.sample(["random", "popular", "adversarial"], draw.choice((1, 1, 2)))
    return {"answer": answer, "prediction": said, "category": ",".join(splits)}


def mixed(draw: random.Random, right: bool, picture: int) -> dict[str, str]:
    return draw.choice((opened, lettered, yesno))(draw, right, picture)


def candidates(draw: random.Random, right: bool, picture: int) -> dict[str, str]:
    answer, said = color(draw, right)
    task = ("run", "sit", "sit", "lie")[picture % 4]  # tasks of different size, a video in one of them
    return {"candidates": str(COLORS), "answer": answer, "prediction": said, "task_type": task}


def in_pairs(draw: random.Random, pictures: int) -> Table:
    """Two questions to a picture, in categories of different size."""
    rows: Table = []
    for picture in range(pictures):
        category = ("color", "OCR", "OCR", "code_reasoning", "")[picture % 5]
        easy = draw.choice((0.4, 0.9))
        for answer, other in (("Yes", "No"), ("No", "Yes")):
            said = answer if draw.random() < easy else draw.choice((other, ""))
            cells = {"answer": answer, "prediction": said, "category": category}
            rows.append({"index": str(len(rows)), "image_path": f"{category}/{picture}.png", **cells})
    return rows


def rotated(draw: random.Random, pictures: int) -> Table:
    """Two questions to most pictures, in two to four rotations."""
    rows: Table = []
    for question in range(2 * pictures):
        easy = draw.choice((0.5, 0.95))
        for turn in range(draw.choice((2, 4, 4))):
            cells = lettered(draw, draw.random() < easy, question)
            picture = question // 2 if question % 3 else question
            rows.append(cells | {"index": str(turn * 1_000_000 + question), "image_path": f"{picture}.png"})
    draw.shuffle(rows)
    return rows


def on(fill: Callable[[random.Random, bool, int], dict[str, str]]) -> Callable[[random.Random, int], Table]:
    return lambda draw, pictures: rows_on_pictures(draw, pictures, fill)


TABLES: dict[str, Callable[[random.Random, int], Table]] = {
    **dict.fromkeys(("gqa", "anls", "ocrbench", "videoqa"), on(opened)),
    **dict.fromkeys(("vqa", "vizwiz", "textvqa"), on(ten)),
    **dict.fromkeys(("mvbench", "videomme", "mlvu", "longvideobench"), on(candidates)),
    **dict.fromkeys(("mme", "pairs"), in_pairs),
    "exact": on(mixed),
    "scienceqa": on(lettered),
    "mmbench": rotated,
    "pope": on(yesno),
}
LINEARISED = {"mme", "pairs", "pope", "mmbench", "mlvu"}


def replied(name: str) -> Callable[[Sequence[dict[str, str]]], Verdicts]:
    """A judged score as a function of rows: what the judge says is in them."""
    return {
        "videoqa": lambda rows: scoring.videoqa_judged(
            rows, [SimpleNamespace(yes=r["prediction"] == r["answer"], score=3.0) for r in rows]
        ),
        "mmvet": lambda rows: scoring.mmvet(rows, [len(r["prediction"]) / 5 for r in rows]),
        "mlvuopen": lambda rows: scoring.mlvu_open(
            rows, [(1.0 + len(r["prediction"]) / 2, 5.0 - len(r["prediction"])) if r["prediction"] else None for r in rows]
        ),
    }[name]


JUDGED = {"videoqa": ("judge_acc", opened), "mmvet": ("Overall", opened), "mlvuopen": ("G-Avg", candidates)}
EVERY = [*TABLES, *(f"judged {name}" for name in JUDGED)]


def case(name: str) -> tuple[Callable[[Sequence[dict[str, str]]], Verdicts], str, Callable[[random.Random, int], Table]]:
    """A rule's or a judge's function, its main figure, and tables for it."""
    if name in TABLES:
        return RULES[name].function, RULES[name].primary, TABLES[name]
    plain = name.removeprefix("judged ")
    return replied(plain), JUDGED[plain][0], on(JUDGED[plain][1])


def clusters(rows: Table) -> list[str]:
    return [image_of(row) for row in rows]


# the law ------------------------------------------------------------------------------------------------------------------


def test_every_rule_has_a_table_here():
    assert set(TABLES) == set(RULES)


@pytest.mark.parametrize("name", EVERY)
def test_points_average_to_the_figure_and_carry_its_error(name):
    function, primary, table = case(name)
    seen = set()
    for seed in range(25):
        rows = table(random.Random(seed), 3 + 2 * seed)
        found = function(rows)
        points, figure = found.pointed(), found.metrics[primary]
        assert len(points) == len(rows)
        assert math.fsum(points) / len(points) == pytest.approx(figure, abs=1e-9)
        assert scoring.standard_error(points, clusters(rows)) == pytest.approx(found.metrics["stderr"], rel=1e-9, abs=1e-9)
        assert (found.points is None) == (name not in LINEARISED | {"judged mlvuopen"})
        seen.add(round(figure, 6))
    assert len(seen) > 15, "tables that differ"


@pytest.mark.parametrize("name", EVERY)
def test_the_error_is_that_of_leaving_pictures_out(name):
    """Of a figure, and of the difference between two models' figures on the same rows, against the jackknife over pictures."""
    function, primary, table = case(name)
    strata = dict.fromkeys(("mme", "pairs", "mlvu", "judged mlvuopen"), (80, 0.06))
    pictures, close = {"pope": (220, 0.02), **strata}.get(name, (22, 0.1))
    rows = table(random.Random(name), pictures)
    other = [dict(row) for row in rows]
    for i in random.Random(5).sample(range(len(rows)), len(rows) // 3):
        other[i]["prediction"] = random.Random(i).choice(["", other[i - 1]["prediction"]])
    mine, theirs = function(rows).pointed(), function(other).pointed()
    names = sorted(set(clusters(rows)))
    alone, apart = [], []
    for left_out in names:
        kept = [i for i, name in enumerate(clusters(rows)) if name != left_out]
        alone.append(function([rows[i] for i in kept]).metrics[primary])
        apart.append(alone[-1] - function([other[i] for i in kept]).metrics[primary])
    gap = [a - b for a, b in zip(mine, theirs, strict=True)]
    for values, without in ((mine, alone), (gap, apart)):
        centre = sum(without) / len(without)
        jackknife = math.sqrt((len(names) - 1) / len(names) * sum((value - centre) ** 2 for value in without))
        assert jackknife > 0
        assert scoring.standard_error(values, clusters(rows)) == pytest.approx(jackknife, rel=close)


def strata_error(values: Sequence[float], strata: Sequence[str], names: Sequence[str]) -> float:
    """Of the sum of the strata's means, strata being independent."""
    members: dict[str, list[int]] = defaultdict(list)
    for i, stratum in enumerate(strata):
        members[stratum].append(i)
    parts = [scoring.standard_error([values[i] for i in at], [names[i] for i in at]) for at in members.values()]
    return math.sqrt(sum(part**2 for part in parts))


@pytest.mark.parametrize("name", ["mme", "mlvu"])
def test_independent_strata_have_exactly_their_error(name):
    rows = TABLES[name](random.Random(3), 40)
    found = RULES[name].function(rows)
    strata = [row.get("category" if name == "mme" else "task_type", "") for row in rows]
    values, scale = [100 * worth for worth in found.per_sample], 1 / len(set(strata))
    if name == "mme":
        pairs = [found.per_sample[i - i % 2 : i - i % 2 + 2] for i in range(len(rows))]
        values, scale = [100 * (sum(pair) / 2 + math.prod(pair)) for pair in pairs], 1
    assert scoring.standard_error(found.pointed(), clusters(rows)) == pytest.approx(
        scale * strata_error(values, strata, clusters(rows)), rel=1e-9
    )


def test_a_stratum_of_one_cluster_overstates_the_error_and_keeps_the_figure():
    values, strata = [1.0, 0.0, 1.0, 1.0, 0.0], ["a", "a", "a", "a", "alone"]
    points = of_strata(values, strata, list("12345"))
    assert sum(points) / 5 == pytest.approx(0.75)
    known = scoring.standard_error(values[:4])  # of stratum a; that of the other cannot be known
    assert scoring.standard_error(points) > known
    assert of_strata([1.0, 0.0], ["a", "a"], ["1", "1"], scale=2) == [2, 0], "one cluster in all: nobody's error"


def test_rotations_share_the_points_of_their_question():
    assert of_groups([1, 1, 0, 0], ["p", "p", "q", "q"]) == [100, 100, 0, 0]
    points = of_groups([1, 1, 1, 0], ["p", "p", "p", "q"])
    assert points[0] == points[1] == points[2] == pytest.approx(50 + 50 * 4 / 6)
    assert sum(points) / 4 == pytest.approx(50)


def test_a_wrong_answer_of_pope_takes_points_and_a_split_without_a_yes_moves_nothing():
    rows = TABLES["pope"](random.Random(1), 50)
    found = RULES["pope"].function(rows)
    rights = [p for p, w, row in zip(found.pointed(), found.per_sample, rows, strict=True) if w and row["answer"] == "Yes"]
    said = [(row["answer"], row["prediction"]) for row in rows]
    wrongs = [p for p, w, pair in zip(found.pointed(), found.per_sample, said, strict=True) if not w and pair != ("No", "")]
    assert min(rights) > found.metrics["F1"] > max(wrongs)
    neutral = {p for p, (answer, text) in zip(found.pointed(), said, strict=True) if answer == "No" and text in ("No", "")}
    assert neutral == {found.metrics["F1"]}, "what F1 does not see"
    silent = RULES["pope"].function([{**row, "answer": "No", "prediction": "no"} for row in rows])
    assert (silent.metrics["F1"], set(silent.pointed())) == (0, {0})
    twice = RULES["pope"].function([{**row, "category": "random,random"} for row in rows])
    assert math.fsum(twice.pointed()) / len(rows) == pytest.approx(twice.metrics["F1"], abs=1e-9)


# the file -----------------------------------------------------------------------------------------------------------------

LINES = [{"index": "0", "cluster": "00", "worth": 1.0}, {"index": "1", "cluster": "00", "worth": math.nan, "read": "\ud800"}]


def store(work_dir: Path) -> CellStore:
    found = CellStore(work_dir, "tiny_full", "X", {"seed": 0})
    found.open()
    found.append([{"index": "0", "prediction": "yes"}])
    return found


def worth_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "worth.jsonl").read_text().splitlines()]


def test_the_file_is_written_whole_and_goes_with_the_result(tmp_path):
    with store(tmp_path) as cell:
        cell.finish({"score": 1}, iter(LINES))
        assert worth_of(cell.folder) == [LINES[0], LINES[1] | {"worth": None}]
        cell.finish({"score": 2}, LINES[:1])
        assert (worth_of(cell.folder), cell.result()) == (LINES[:1], {"score": 2})
        cell.finish({"score": 3})
        assert not (cell.folder / "worth.jsonl").exists(), "a scorer that says nothing of rows leaves no earlier one's word"
        cell.finish({"score": 4}, LINES)
        cell.reopen()
        assert sorted(os.listdir(cell.folder)) == [".lock", "cell.json", "predictions.jsonl"]
        cell.finish({"score": 5}, LINES)
    with CellStore(tmp_path, "tiny_full", "X", {"seed": 1}) as other:
        other.open(fresh=True)
        assert sorted(os.listdir(other.folder)) == [".lock", "cell.json", "predictions.jsonl"]


@pytest.mark.parametrize("worth", [LINES[1:], None])
def test_killed_before_the_result_is_not_done(tmp_path, monkeypatch, worth):
    """Whatever is on disk then is of one scoring, and scoring again finishes it."""
    with store(tmp_path) as cell:
        cell.finish({"score": 1}, LINES)
        replace = os.replace
        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", lambda a, b: _killed() if Path(b).name == "result.json" else replace(a, b))
            with pytest.raises(KeyboardInterrupt):
                cell.finish({"score": 2}, worth)
        assert cell.result() is None
        assert (cell.folder / "worth.jsonl").exists() == (worth is not None)
        cell.finish({"score": 3}, LINES)
        assert (cell.result(), len(worth_of(cell.folder))) == ({"score": 3}, 2)


def _killed() -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(("result", "worth"), [({"score": object()}, LINES), ({"score": 2}, [LINES[0], {"worth": object()}])])
def test_what_cannot_be_written_leaves_the_earlier_scoring(tmp_path, result, worth):
    with store(tmp_path) as cell:
        cell.finish({"score": 1}, LINES[:1])
        before = (cell.folder / "worth.jsonl").read_bytes(), (cell.folder / "result.json").read_bytes()
        with pytest.raises(TypeError):
            cell.finish(result, worth)
        assert ((cell.folder / "worth.jsonl").read_bytes(), (cell.folder / "result.json").read_bytes()) == before
        assert not list(cell.folder.glob(".*.tmp"))


# of a table ---------------------------------------------------------------------------------------------------------------


def dataset(rows: Table, rule: str = "", host: str = "Own") -> Any:
    from script_vlmeval.benchmarks import Benchmark
    from script_vlmeval.plugin.datasets import Dataset

    return Dataset(Benchmark("Own", host, "tsv", rule, "accuracy"), rows, "", lambda row, style: [])


def by_rule(rows: Table, rule: str) -> Any:
    from script_vlmeval.plugin.scores import Score, by_index

    found = RULES[rule].function(rows)
    values = (by_index(rows, found.per_sample), by_index(rows, found.read), by_index(rows, found.pointed()))
    return Score(found.metrics, RULES[rule].primary, "", values[0], read=values[1], points=values[2])


def test_lines_of_an_accuracy_hold_no_points():
    from script_vlmeval.plugin import Worth

    said = ("red", "Blue", "", "red")
    rows = [{"index": str(7 + i), "image_path": f"/p/{i // 2}.png", "answer": "red", "prediction": p} for i, p in enumerate(said)]
    worth = Worth.of(dataset(rows, "exact"), by_rule(rows, "exact"))
    first, second, third, fourth = worth.lines({"9"})
    assert first == {"index": "7", "cluster": first["cluster"], "read": "red", "worth": 1.0}
    assert (second["read"], second["worth"], second["cluster"]) == ("blue", 0.0, first["cluster"])
    assert third == {"index": "9", "cluster": third["cluster"], "read": "", "worth": 0.0, "failed": True}
    assert third["cluster"] == fourth["cluster"] != first["cluster"]
    assert all(len(line["cluster"]) == 8 and int(line["cluster"], 16) >= 0 for line in (first, third))
    assert worth.standard_error() == pytest.approx(by_rule(rows, "exact").metrics["stderr"])
    moved = [{**row, "image_path": row["image_path"].replace("/p/", "/elsewhere/")} for row in rows]
    assert Worth.of(dataset(moved, "exact"), by_rule(moved, "exact")).clusters == worth.clusters, "wherever the files lie"


def test_lines_of_a_sum_hold_points():
    from script_vlmeval.plugin import Worth

    rows = in_pairs(random.Random(0), 20)
    score = by_rule(rows, "pairs")
    lines = list(Worth.of(dataset(rows, "pairs"), score).lines(()))
    points = [line.get("points", 100 * line["worth"]) for line in lines]
    assert sum(points) / len(points) == pytest.approx(score.metrics["total"])
    assert scoring.standard_error(points, [line["cluster"] for line in lines]) == pytest.approx(score.metrics["stderr"])
    assert sum("points" in line for line in lines) > len(lines) / 2


def test_a_failed_row_is_worth_nothing_and_counts_in_the_mean():
    """Also where the host's scorer took its filler for an answer."""
    from script_vlmeval.plugin import Score, Worth

    rows = [{"index": i, "image_path": i, "answer": ""} for i in "abcd"]
    said = {"a": 1.0, "b": 0.0, "c": 1.0, "d": 1.0}
    score = Score({"Overall": 75.0}, "Overall", "", said, points={i: 100 * worth for i, worth in said.items()})
    lines = list(Worth.of(dataset(rows), score).lines({"b", "c"}))
    assert [line["worth"] for line in lines] == [1, 0, 0, 1]
    assert ["failed" in line for line in lines] == [False, True, True, False]
    assert sum(line.get("points", 100 * line["worth"]) for line in lines) / 4 == 75
    assert not any("read" in line for line in lines)


def test_rotations_share_what_the_hosts_scorer_says_of_a_question():
    from script_vlmeval.plugin import Score, Worth

    rows = [
        {"index": str(q + turn * 1_000_000), "image_path": f"{q}"} for turn in range(3) for q in (1, 2) if (turn, q) != (2, 2)
    ]
    said = {"1": 1.0, "2": 0.0}
    score = Score({"Overall": 50.0}, "Overall", "", said, points={"1": 100.0, "2": 0.0})
    worth = Worth.of(dataset(rows, host="CCBench"), score)
    assert worth.worth == [1, 0, 1, 0, 1]
    assert worth.points == pytest.approx(
        [50 + 50 * 5 / 6] * 1 + [50 - 50 * 5 / 4, 50 + 50 * 5 / 6, 50 - 50 * 5 / 4, 50 + 50 * 5 / 6]
    )
    assert worth.standard_error() == pytest.approx(100 * scoring.standard_error([1.0, 0.0]))
    single = Worth.of(dataset(rows), score)  # where rows stand for themselves, the others are unknown and move nothing
    assert single.worth == [1, 0, None, None, None]
    assert sum(single.points) / 5 == pytest.approx(50)
    assert single.standard_error() == pytest.approx(worth.standard_error())
    assert [line["worth"] for line in single.lines(())] == [1, 0, None, None, None]
    assert all("points" in line for line in single.lines(()))


def test_figures_that_rows_do_not_explain_have_no_points_and_silence_no_file():
    from script_vlmeval.plugin import Score, Worth

    rows = [{"index": i, "image_path": i} for i in "ab"]
    unexplained = Worth.of(dataset(rows), Score({"total": 7.0}, "total", "", {"a": 1.0, "b": 0.0}))
    assert [line["points"] for line in unexplained.lines(())] == [None, None]
    assert [line["worth"] for line in unexplained.lines(())] == [1, 0]
    assert unexplained.standard_error() is None
    alike = Score({"Overall": 100.0}, "Overall", "", {"a": 1.0, "b": 1.0}, points={"a": 100.0, "b": 100.0})
    assert Worth.of(dataset(rows), alike).standard_error() is None, "nothing says how much rows vary"
    assert Worth.of(dataset(rows), Score({"ANLS": 7.0}, "ANLS", "")) is None
    assert Worth.of(dataset(rows), Score({}, "", "", unscored="needs a judge")) is None


# of a run -----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def host():
    pytest.importorskip("vlmeval", exc_type=ImportError)
    from runtimes import StandIn, lightly, loading

    from script_vlmeval.runtime import Answer, Runtime

    class Partly(StandIn):
        """Right at even places, and at none at place 4."""

        def answer(self, prepared: Any, *args: Any, **how: Any) -> list[Answer]:
            places = [int(re.findall(r"at place (\d+)", question)[0]) for question in prepared.questions]
            if 4 in places:
                raise ValueError("out of order")
            answers = super().answer(prepared, *args, **how)
            return [answer if place % 2 else Answer("Red.", answer.tokens) for place, answer in zip(places, answers, strict=True)]

    with lightly(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(Runtime, "load", loading(Partly))
        yield


def ask(folder: Path, *more: str) -> int:
    from runtimes import table

    from script_vlmeval.cli import main

    mine = str(table(folder, 6, broken=[4]))
    return main(["--model", "tiny_full", "tiny_random_16", "--data", mine, "--work-dir", str(folder / "out"), "--quiet", *more])


def test_a_run_writes_what_rows_are_worth_and_eval_writes_it_again(host, tmp_path):
    assert ask(tmp_path) == 1
    cells = [tmp_path / "out" / config / "mine" for config in ("tiny_full", "tiny_random_16")]
    before = [worth_of(cell) for cell in cells]
    for lines in before:
        assert [line["index"] for line in lines] == list("012345")
        assert [line["index"] for line in lines if "failed" in line] == ["4"]
        assert [line["worth"] for line in lines] == [1, 0, 1, 0, 0, 0]
        assert [line["read"] for line in lines][::2] == ["red", "red", ""]
    assert [line["cluster"] for line in before[0]] == [line["cluster"] for line in before[1]]
    assert len({line["cluster"] for line in before[0]}) == 2, "two pictures"
    for cell in cells:  # as an earlier version has left it
        (cell / "worth.jsonl").write_text("torn")
    (cells[1] / "worth.jsonl").unlink()
    assert ask(tmp_path) == 1, "the failed row is asked again"
    assert [worth_of(cell) for cell in cells] == before
    (cells[0] / "worth.jsonl").unlink()
    assert ask(tmp_path, "--mode", "eval") == 1
    assert [worth_of(cell) for cell in cells] == before
    assert ask(tmp_path, "--fresh", "--mode", "infer") == 1
    assert not any((cell / "worth.jsonl").exists() for cell in cells)


def test_a_part_of_a_table_has_lines_for_its_rows(host, tmp_path):
    assert ask(tmp_path, "--limit", "3") == 0
    for config in ("tiny_full", "tiny_random_16"):
        assert [line["index"] for line in worth_of(tmp_path / "out" / config / "mine")] == list("012")
