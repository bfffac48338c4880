"""Scoring a workbook: what the host's tables say, which pictures are one, and what stays when something fails."""

from __future__ import annotations

import hashlib
import os
import uuid
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import data_factory
import judge_server
import pandas as pd
import pytest

from script_vlmeval import plugin, report, scoring
from script_vlmeval.benchmarks import resolve
from script_vlmeval.errors import UserError, said_by
from script_vlmeval.judge import Judge
from script_vlmeval.plugin import workbook as workbooks
from script_vlmeval.plugin.host import host, quiet_scoring
from script_vlmeval.plugin.host_scores import host_metrics, score_host

MARKER = "Failed to obtain answer via API."


@pytest.fixture(autouse=True)
def h():
    return host()


def answered(rows, folder, said, stem="m_X"):
    folder.mkdir(exist_ok=True)
    path = folder / f"{stem}.xlsx"
    workbooks.write_workbook(pd.DataFrame(rows).assign(prediction=list(said)), path)
    return path


def scorer(table, kind="VQA", name="Crafted"):
    """A dataset of the host's whose scorer answers with a table, or does what a function says."""
    evaluate = table if callable(table) else lambda path, **_: table
    cls = type(name, (), {"TYPE": kind, "dataset_name": name, "evaluate": lambda self, path, **more: evaluate(path, **more)})
    return cls()


def scored_by(dataset, tmp_path, judge=None):
    path = answered([{"index": "1", "question": "q", "answer": "a"}], tmp_path / "cell", ["a"])
    return score_host(dataset, workbooks.read_answers(path), path, tmp_path, judge)


# tables of the host ----------------------------------------------------------------------------------------------------------

MATHVISTA = pd.DataFrame(
    {
        "Task&Skill": ["Overall", "algebra", "geometry"],
        "tot": [10, 4, 6],
        "prefetch": [0, 0, 0],
        "hit": [3, 3, 0],
        "acc": [30.0, 75.0, 0.0],
    }
)


def test_a_row_of_a_part_is_named_by_the_tables_first_text(tmp_path):
    score = scored_by(scorer(MATHVISTA), tmp_path)
    assert (score.primary, score.metrics["acc"]) == ("acc", 30)
    assert (score.metrics["algebra/acc"], score.metrics["geometry/acc"], score.metrics["geometry/tot"]) == (75, 0, 6)
    assert not any(name.startswith("/") for name in score.metrics)


@pytest.mark.parametrize(("label", "column"), [("Overall", "Overall"), ("overall", "score"), ("Overall", "Accuracy")])
def test_the_row_of_the_whole_leads_wherever_it_stands(tmp_path, label, column):
    table = pd.DataFrame({"Subject": ["algebra", label], "tot": [4, 10], column: [75.0, 30.0]})
    score = scored_by(scorer(table), tmp_path)
    assert (score.primary, score.metrics[column], score.metrics[f"algebra/{column}"]) == (column, 30, 75)


@pytest.mark.parametrize(
    ("table", "says"),
    [
        (pd.DataFrame({"tot": [10], "hit": [3]}), "tot, hit"),
        (pd.DataFrame({"Subject": ["x", "y"], "acc": [1.0, 2.0]}), "x/acc, y/acc"),
        (pd.DataFrame({"Subject": ["x"]}), "none at all"),
        (None, "none at all"),
    ],
)
def test_no_other_figure_passes_for_the_main_one(tmp_path, table, says):
    with pytest.raises(UserError, match="no figure for the whole") as error:
        scored_by(scorer(table), tmp_path)
    assert says in str(error.value)


def test_splits_are_prefixed_as_before():
    table = pd.DataFrame({"split": ["dev", "test"], "Overall": [0.25, 0.75]})
    metrics = host_metrics(table, SimpleNamespace(TYPE="MCQ"), {"1": 1.0, "2": 0.0})
    assert metrics == {"Overall": 50, "dev/Overall": 25, "test/Overall": 75}


def test_a_judged_score_of_the_hosts_names_its_judge(tmp_path):
    judge = Judge("some-model", "http://127.0.0.1:9/v1")
    score = scored_by(scorer(MATHVISTA), tmp_path, judge)
    assert score.judge == judge.label
    assert score.judge in score.scorer
    assert scored_by(scorer(MATHVISTA), tmp_path).judge == ""


@pytest.mark.parametrize(
    ("marks", "worth", "points"), [((1, 0.5), (1, 0.5), (100, 50)), ((1, 0), (1, 0), None), ((5, 0.5), None, None)]
)
def test_rows_of_the_hosts_have_points_where_they_explain_its_figure(tmp_path, marks, worth, points):
    """Marks beyond 0..1 are in a unit of its own."""

    def evaluate(path, **_):
        pd.DataFrame({"index": [1, 7], "score": marks}).to_excel(path.replace(".xlsx", "_score.xlsx"))
        return pd.DataFrame({"Overall": [75.0]})

    path = answered([{"index": "1"}, {"index": "007"}], tmp_path / "cell", ["a", "b"])
    score = score_host(scorer(evaluate, "Y/N"), workbooks.read_answers(path), path, tmp_path)
    assert score.per_sample == (worth and dict(zip(("1", "007"), worth, strict=True)))
    assert score.points == (points and dict(zip(("1", "007"), points, strict=True)))
    assert score.read is None


def test_a_set_of_the_hosts_that_needs_a_judge_says_so(data, tmp_path):
    data_factory.gqa(data)
    dataset = plugin.open_dataset(resolve("GQA"), None, tmp_path)
    unknown = replace(dataset, benchmark=replace(dataset.benchmark, rule="", judge=""), evaluator=scorer({"score": 1.0}))
    book = answered(dataset.rows, tmp_path / "cell", ["x"] * len(dataset))
    assert unknown.score(book).unscored == "needs a judge: name one with --judge"
    assert unknown.judged_by("m at here") == "", "the host says it"
    assert "its authors' server" in replace(unknown, scored=False).score(book).unscored


def test_an_error_of_the_hosts_is_quoted_in_one_line(data, tmp_path):
    def fail(path, **_):
        raise AssertionError("the first line\nand a second\n  and a third")

    with pytest.raises(UserError) as error:
        scored_by(scorer(fail), tmp_path)
    assert "AssertionError: the first line." in str(error.value)
    assert "\n" not in str(error.value)
    assert said_by(KeyError()) == "KeyError"
    data_factory.gqa(data)
    dataset = plugin.open_dataset(resolve("GQA"), None, tmp_path)
    broken = scorer(fail)
    type(broken).evaluate.__qualname__ = "ImageVQADataset.evaluate"  # one that needs no judge
    dataset.evaluator = broken
    (note,) = dataset.score(answered(dataset.rows, tmp_path / "cell", ["red"] * len(dataset))).notes
    assert "the first line" in note
    assert "\n" not in note


# which rows share a picture ----------------------------------------------------------------------------------------------------


def test_base64_rows_of_one_picture_are_one_cluster(data, tmp_path):
    """Whether a cell repeats the picture or names the row that has it."""
    data_factory.gqa(data)  # 8 rows with one of four pictures, and 4 that name one of these
    dataset = plugin.open_dataset(resolve("GQA"), None, tmp_path)
    clusters = [dataset.cluster(row) for row in dataset.rows]
    assert clusters == [clusters[i % 4] for i in range(12)]
    assert len(set(clusters)) == 4
    said = [row["answer"] if i % 4 == 0 else "none" for i, row in enumerate(dataset.rows)]
    book = answered(dataset.rows, tmp_path / "cell", said)
    columns = list(pd.read_excel(book))
    score = dataset.score(book)
    assert score.metrics["stderr"] == pytest.approx(100 * scoring.standard_error([1.0, 0, 0, 0]))
    assert "image" not in columns == list(pd.read_excel(book))


def test_pope_errors_are_clustered_by_picture(data, tmp_path):
    data_factory.pope(data)
    dataset = plugin.open_dataset(resolve("POPE"), None, tmp_path)
    said = ["yes" if i % 3 else "no" for i in range(len(dataset))]
    score = dataset.score(answered(dataset.rows, tmp_path / "cell", said))
    alone = replace(dataset, pictures={}).score(answered(dataset.rows, tmp_path / "cell", said))
    assert len({dataset.cluster(row) for row in dataset.rows}) == 4
    assert score.metrics["F1"] == alone.metrics["F1"]
    assert score.metrics["stderr"] != pytest.approx(alone.metrics["stderr"])


def test_the_users_own_base64_pictures_are_told_apart(data, tmp_path):
    red, blue = data_factory.as_base64("red"), data_factory.as_base64("blue")
    rows = [dict(index=i, question="q", answer="a", image=cell) for i, cell in enumerate([red, blue, red, "1"])]
    path = data_factory.write_tsv(tmp_path / "own.tsv", rows)
    dataset = plugin.open_dataset(resolve(str(path)), None, tmp_path)
    first, second, third, fourth = map(dataset.cluster, dataset.rows)
    assert first == third != second == fourth


def test_tables_with_paths_are_told_apart_by_these(data, tmp_path):
    data_factory.mme(data)
    dataset = plugin.open_dataset(resolve("MME"), None, tmp_path)
    assert [dataset.cluster(row) for row in dataset.rows] == [row["image_path"] for row in dataset.rows]


def test_a_folder_of_frames_is_known_by_its_files(tmp_path):
    from script_vlmeval.plugin.datasets import _size

    row = {"index": "0", "video_path": str(tmp_path / "frames")}
    assert _size(row) == "missing"
    (tmp_path / "frames").mkdir()
    for i in range(3):
        (tmp_path / "frames" / f"{i}.jpg").write_bytes(b"x" * (10 + i))
    before = _size(row)
    assert before == "3:33"
    (tmp_path / "frames" / "2.jpg").write_bytes(b"x" * 13)
    assert _size(row) == "3:34"
    (tmp_path / "frames" / "2.jpg").unlink()
    assert _size(row) == "2:21"
    assert _size({"index": "0", "video_path": str(tmp_path / "frames" / "0.jpg")}) == "10"


# files beside a workbook -------------------------------------------------------------------------------------------------------


def judged_dataset(dataset):
    """A dataset of the user's own, scored by a judge as open video questions are, and by string match."""
    return replace(dataset, benchmark=replace(dataset.benchmark, rule="videoqa", judge="optional"))


@pytest.fixture
def questions(data, tmp_path):
    rows = [dict(index=i, question="q", answer=f"a{i}", image=data_factory.as_base64("red")) for i in range(4)]
    path = data_factory.write_tsv(tmp_path / "own.tsv", rows)
    return judged_dataset(plugin.open_dataset(resolve(str(path)), None, tmp_path))


def test_a_judge_that_leaves_leaves_the_earlier_files(questions, tmp_path):
    book = answered(questions.rows, tmp_path / "cell", ["a0", "b", "c", "d"])
    questions.score(book)
    before = {path.name: path.read_bytes() for path in book.parent.iterdir()}
    assert len(before) == 3
    with (
        judge_server.server(lambda request: judge_server.refuses(400, "this model is gone")) as url,
        pytest.raises(UserError, match="gone"),
    ):
        questions.score(book, Judge("m", url))
    assert {path.name: path.read_bytes() for path in book.parent.iterdir()} == before


def test_replies_that_cannot_be_read_are_noted(questions, tmp_path):
    def grade(request):
        return "{'pred': 'yes', 'score': 5}" if "a0" in request.user else "no idea"

    book = answered(questions.rows, tmp_path / "cell", ["a0", "b", "", "d"])
    with judge_server.server(grade) as url:
        score = questions.score(book, Judge("m", url))
    assert score.notes == ("2 of 3 judge replies could not be read: they count as wrong.",)
    assert score.metrics["judge_acc"] == 25
    with judge_server.server("{'pred': 'yes', 'score': 5}") as url:
        assert questions.score(book, Judge("m", url)).notes == ()


def test_what_was_read_stands_beside_the_words_of_the_judge(questions, tmp_path):
    def grade(request):
        return "I say {'pred': 'yes', 'score': 5}" if "a0" in request.user else "no idea"

    book = answered(questions.rows, tmp_path / "cell", ["a0", "b", "", "d"])
    with judge_server.server(grade) as url:
        questions.score(book, Judge("m", url))
    table = pd.read_excel(book.with_name("m_X_judged.xlsx"), dtype=str, keep_default_na=False)
    assert list(table["extracted"]) == ["yes", "", "no", ""]
    assert list(table["reply"]) == ["I say {'pred': 'yes', 'score': 5}", "no idea", "", "no idea"]


def test_what_was_read_stands_in_few_columns(questions, tmp_path):
    book = answered(questions.rows, tmp_path / "cell", ["a0", "b", "c", "d"])
    with judge_server.server("{'pred': 'yes', 'score': 5}") as url:
        questions.score(book, Judge("m", url))
    for mark in ("verdicts", "judged"):
        table = pd.read_excel(book.with_name(f"m_X_{mark}.xlsx"))
        assert list(table) == ["index", "prediction", "answer", "extracted", "hit", *(["reply"] if mark == "judged" else [])]
        assert list(table["prediction"]) == ["a0", "b", "c", "d"]
        assert book.with_name(f"m_X_{mark}.csv").is_file()


def test_the_workbook_is_read_once_and_copied_where_it_can_be(data, tmp_path, monkeypatch):
    data_factory.gqa(data)
    dataset = plugin.open_dataset(resolve("GQA"), None, tmp_path)
    reads, written = [], []
    for module in (workbooks, plugin.datasets, plugin.scores):
        for name, log in (("read_answers", reads), ("answered_rows", reads), ("write_lines", written)):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, partial(_logged, getattr(module, name), log))
    book = tmp_path / "cell" / "m_X.xlsx"
    for said, files in ((["red"] * 12, 1), (["a \x07 bell"] * 12, 2), ([MARKER, *["red"] * 11], 2)):
        reads.clear()
        answered(dataset.rows, book.parent, said)
        written.clear()
        (other,) = dataset.score(book).others
        assert (len(reads), len(written)) == (1, files), said[0]
        assert set(other.per_sample) == {row["index"] for row in dataset.rows}


SAID = ["red", "", MARKER, "a \x07 bell", "_x0041_", "=1+1", "007", "None", " ", "Green.", "\ud800", "a\rb"]


@pytest.mark.parametrize("name", ["GQA", "MME", "POPE", "SQA", "MMBench"])
def test_what_was_said_is_scored_without_reading_it_back(data, tmp_path, monkeypatch, name):
    """The same score and the same files, also of what a workbook cannot hold as it is."""
    getattr(data_factory, {"SQA": "science_qa"}.get(name, name.lower()))(data)
    dataset = plugin.open_dataset(resolve(name), None, tmp_path)
    said = {row["index"]: SAID[i % 12] if i % 3 else row["answer"] for i, row in enumerate(dataset.rows)}
    del said[dataset.rows[-1]["index"]]
    (tmp_path / "cell").mkdir()
    book = tmp_path / "cell" / "m_X.xlsx"
    report.write_predictions(book, dataset.rows, said)
    read = dataset.score(book), _tables(book.parent)
    assert len(read[1]) >= 3
    monkeypatch.setattr(plugin.datasets, "read_answers", lambda path: pytest.fail("it was read"))
    assert (dataset.score(book, said=said), _tables(book.parent)) == read


def _tables(folder):
    """What stands in the files of a scoring, by name."""
    return {
        path.name: pd.read_excel(path, dtype=str).to_csv() if path.suffix == ".xlsx" else path.read_text()
        for path in folder.rglob("*")
        if path.suffix in (".xlsx", ".csv")
    }


def test_a_set_that_the_host_lacks_is_asked_in_its_words_without_its_table(data, tmp_path, monkeypatch):
    from script_vlmeval.plugin.sets import VQAv2

    pictures = [str(tmp_path / f"{i}.jpg") for i in range(3)]
    rows = [
        dict(index="007", image_path=pictures[0], question="None", answer=repr(["NA"] * 10)),
        dict(index="8", image_path=repr(pictures[1:]), question="a\tb?", answer=""),
    ]
    data_factory.write_tsv(data / "VQAv2_VAL.tsv", rows)
    theirs = VQAv2("VQAv2_VAL")
    monkeypatch.setattr(plugin.hosted, "build", lambda *_: pytest.fail("a second table"))
    dataset = plugin.open_dataset(resolve("VQAv2"), None, tmp_path)
    assert [dataset.message(row) for row in dataset.rows] == [theirs.build_prompt(theirs.data.iloc[i]) for i in range(2)]
    assert (dataset.rows, dataset.scored) == (rows, True)
    data_factory.write_tsv(data / "VQAv2_VAL.tsv", [rows[0] | dict(image_path=""), rows[1]])
    with pytest.raises(ValueError, match="index '007': the cell 'image_path' is empty"):
        (again := plugin.open_dataset(resolve("VQAv2"), None, tmp_path)).message(again.rows[0])
    data_factory.write_tsv(data / "VQAv2_VAL.tsv", [dict(index=1, question="q")])
    with pytest.raises(UserError, match="neither a column 'image' nor 'image_path'"):
        plugin.open_dataset(resolve("VQAv2"), None, tmp_path)


def test_a_digest_sees_all_but_the_folders_of_files():
    def digest(row):
        return plugin.datasets._content([{"index": "1", "image_path": "/a/b.jpg", "question": "q"} | row])

    same = [digest({"image_path": path}) for path in ("/a/b.jpg", "b.jpg", "/c/b.jpg/", "/c/b.jpg/.")]
    assert len(set(same)) == 1
    assert same[0] == hashlib.sha256(repr({"index": "1", "image_path": "b.jpg", "question": "q"}).encode()).hexdigest()
    assert len({same[0], digest({"image_path": "c.jpg"}), digest({"question": "/a/q"}), digest({"more": ""})}) == 4


def test_a_file_of_several_rows_is_looked_at_once(data, tmp_path, monkeypatch):
    data_factory.picture("red").save(tmp_path / "red.png")
    row = dict(image_path=str(tmp_path / "red.png"), question="q", answer="a")
    data_factory.write_tsv(data / "VQAv2_VAL.tsv", [row | dict(index=i) for i in range(5)])
    dataset = plugin.open_dataset(resolve("VQAv2"), None, tmp_path)
    looks, extent = [], plugin.datasets._extent
    monkeypatch.setattr(plugin.datasets, "_extent", lambda path: looks.append(path) or extent(path))
    assert {dataset.stamp(row) for row in dataset.rows} == {str((tmp_path / "red.png").stat().st_size)}
    assert len(looks) == 1


def _logged(function, log, *arguments, **options):
    log.append(function)
    return function(*arguments, **options)


def test_answers_are_read_as_they_were_said(tmp_path):
    said = ["a \x07 bell", "", MARKER, "None", "007", "=1+1", "red"]
    path = answered([{"index": str(i), "answer": "NA"} for i in range(7)], tmp_path, said)
    found = workbooks.read_answers(path)
    assert [row["prediction"] for row in found.rows] == ["a \x07 bell", "", "", "None", "007", "=1+1", "red"]
    found.copy_to(tmp_path / "copy.xlsx")
    assert list(pd.read_excel(tmp_path / "copy.xlsx", dtype=str, keep_default_na=False)["prediction"])[1:3] == ["Z", "Z"]
    assert {row["answer"] for row in found.rows} == {"NA"}


def test_the_hosts_scorer_has_its_scratch_file_to_itself(tmp_path):
    """Its circular scorer names one in /tmp by the second, which processes that score at once would share."""
    from vlmeval.dataset.utils import multiple_choice

    before, names = multiple_choice.timestr, set()
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        with quiet_scoring(tmp_path / name):
            path = f"/tmp/{multiple_choice.timestr()}.xlsx"
        assert Path(os.path.realpath(path)).parent == (tmp_path / name).resolve()
        names.add(path)
    assert len(names) == 2
    assert multiple_choice.timestr is before


def test_mmbench_leaves_nothing_outside(data, tmp_path, monkeypatch):
    """Also where the clock stands still, as it does for processes that score within a second."""
    clock = f"test-{uuid.uuid4()}"
    from vlmeval.dataset.utils import multiple_choice

    monkeypatch.setattr(multiple_choice, "timestr", lambda: clock)
    data_factory.mmbench(data)
    dataset = plugin.open_dataset(resolve("MMBench"), None, tmp_path)
    (other,) = dataset.score(answered(dataset.rows, tmp_path / "cell", [row["answer"] for row in dataset.rows])).others
    assert other.metrics["Overall"] == 100
    assert not Path(f"/tmp/{clock}.xlsx").exists()


def test_sets_that_the_host_lacks_are_scored_by_our_rule_alone(data, tmp_path):
    data_factory.picture("red").save(tmp_path / "red.png")
    row = dict(index=1, image_path=str(tmp_path / "red.png"), question="q", answer=repr(["red"] * 10))
    data_factory.write_tsv(data / "VQAv2_VAL.tsv", [row, row | dict(index=2)])
    dataset = plugin.open_dataset(resolve("VQAv2"), None, tmp_path)
    score = dataset.score(answered(dataset.rows, tmp_path / "cell", ["red", "blue"]))
    assert (score.metrics["Overall"], score.others) == (50, ())
    assert dataset.scored


# what rows are worth -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["GQA", "MME", "POPE", "SQA", "MMBench", "OCRBench", "DocVQA"])
@pytest.mark.parametrize("limit", [None, 5])
def test_points_of_a_table_average_to_its_score(data, tmp_path, name, limit):
    """Whoever scores it, with pictures in cells and rotations, and of a part of it."""
    getattr(data_factory, {"SQA": "science_qa"}.get(name, name.lower()))(data)
    dataset = plugin.open_dataset(resolve(name), limit, tmp_path)
    said = [row["answer"] if i % 3 else "No" for i, row in enumerate(dataset.rows)]
    ours = dataset.score(answered(dataset.rows, tmp_path / "cell", said))
    for score in (ours, *ours.others):
        worth = plugin.Worth.of(dataset, score)
        if worth is None or worth.points is None:
            assert score is not ours
            continue
        assert (len(worth.points), score.read is None) == (len(dataset), score is not ours)
        assert sum(worth.points) / len(dataset) == pytest.approx(score.metrics[score.primary], abs=1e-9)
        error = 0.0 if len(set(worth.points)) == 1 else ours.metrics["stderr"]  # rows that are all alike say nothing of it
        assert (worth.standard_error() or 0.0) == pytest.approx(error) or score is not ours
    if name in ("GQA", "SQA", "MMBench"):
        assert ours.others[0].points, "the host's rows explain its figure too"


def test_a_judge_says_what_an_answer_is_worth_and_not_what_it_says(questions, tmp_path):
    book = answered(questions.rows, tmp_path / "cell", ["a0", "b", "", "d"])
    with judge_server.server(lambda request: f"{{'pred': '{'yes' if 'a0' in request.user else 'no'}', 'score': 3}}") as url:
        score = questions.score(book, Judge("m", url))
    assert (score.read, list(score.points.values())) == (None, [100, 0, 0, 0])
    (exact,) = score.others
    assert exact.read == {"0": "a0", "1": "b", "2": "", "3": "d"}
