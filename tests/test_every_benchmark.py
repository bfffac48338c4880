"""Every benchmark from a miniature of its official download to a score in the spreadsheet, with the embedded model."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import openpyxl
import pytest
from downloads import download, prepared

from script_vlmeval import plugin
from script_vlmeval.benchmarks import BENCHMARKS, GROUPS, resolve
from script_vlmeval.cli import main
from script_vlmeval.plugin.workbook import write_workbook

pd = pytest.importorskip("pandas")

NAMES = [b.name for b in BENCHMARKS.values() if b.kind in ("host", "video")]
UNSCORED = {"MMVet", "MLVU_OpenEnded", "VQAv2_TESTDEV", "VizWiz_TEST"}
SCORED = [name for name in NAMES if name not in UNSCORED]
CONFIG = "tiny_script_16"


def few(name):
    """The name with two frames of a video: the embedded model takes each for a picture."""
    return f"{name}_2frame" if BENCHMARKS[name].modality == "video" else name


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The data folder with all tables."""
    with prepared(NAMES, tmp_path_factory) as folder:
        yield folder


@pytest.fixture(scope="module")
def results(data, tmp_path_factory):
    """What one run over all of them left."""
    folder = tmp_path_factory.mktemp("results")
    names = [few(name) for name in NAMES]
    assert main(["--data", *names, "--model", CONFIG, "--work-dir", str(folder), "--quiet"]) == 0
    return folder


def result_of(results, name):
    return json.loads((results / CONFIG / few(name) / "result.json").read_text())


@pytest.mark.parametrize("name", SCORED)
def test_from_the_download_to_a_score(results, data, name):
    result = result_of(results, name)
    table = (data / f"{BENCHMARKS[name].host}.json").read_text()
    assert result["n"] == json.loads(table)["rows"] > 0
    assert (result["failed"], result["score"]) == (0, result["metrics"][result["primary"]])
    assert result["scorer"].startswith("script_vlmeval ")
    assert 0 <= result["score"] <= (2800 if name == "MME" else 100)
    workbook = results / CONFIG / few(name) / f"{CONFIG}_{few(name)}.xlsx"
    assert openpyxl.load_workbook(workbook).active.max_row == result["n"] + 1
    if BENCHMARKS[name].modality == "video":
        assert (result["tokens"]["frames"], result["fingerprint"]["sampler"]) == (2, "middle")
        assert result["tokens"]["visual_full"] == 2 * 144


def test_the_summary_has_a_sheet_for_each(results):
    sheets = openpyxl.load_workbook(results / "summary.xlsx").sheetnames
    assert {few(name) for name in SCORED} <= set(sheets)
    assert not set(sheets) & {few(name) for name in UNSCORED}


@pytest.mark.parametrize("name", SCORED)
def test_the_hosts_figure_stands_beside(results, name):
    """Wherever it has a scorer of its own that needs no judge; its OCRBench scorer runs cells as code, so ours alone is used."""
    others = result_of(results, name)["other scorers"]
    lacking = {"OCRBench", "VQAv2", "TGIF-QA", "MSVD-QA", "MSRVTT-QA", "ActivityNet-QA"}
    assert len(others) == (0 if name in lacking else 1)
    assert all(other["scorer"].startswith("vlmeval ") and other["metrics"] for other in others)


def test_what_others_score_is_said_and_the_file_to_send_in_written(results):
    sent = {
        name: results / CONFIG / name / f"{CONFIG}_{name}_submission.json" for name in ("VQAv2_TESTDEV", "VizWiz_TEST", "MMVet")
    }
    for name in UNSCORED:
        result = result_of(results, name)
        assert (result["score"], result["metrics"]) == (None, {})
        assert result["unscored"]
    vqa = json.loads(sent["VQAv2_TESTDEV"].read_text())
    asked = [row["index"] for row in plugin.open_dataset(resolve("VQAv2_TESTDEV"), None, results).rows]
    assert set(asked) < {str(item["question_id"]) for item in vqa}, "the whole test list, not test-dev alone"
    assert {str(item["question_id"]) for item in vqa if item["answer"]} <= set(asked)
    assert all(item.keys() == {"image", "answer"} for item in json.loads(sent["VizWiz_TEST"].read_text()))
    assert all(index.startswith("v1_") for index in json.loads(sent["MMVet"].read_text()))


# answers that are known to be right, or always the same -------------------------------------------------------------------


def truth(row):
    """A prediction that is right by every rule."""
    cell = row.get("answers") or row["answer"]
    accepted = ast.literal_eval(cell) if cell.startswith("[") else [cell]
    return max(accepted, key=accepted.count)


def scored(name, tmp_path, say):
    dataset = plugin.open_dataset(resolve(name), None, tmp_path)
    frame = pd.DataFrame(dataset.rows).assign(prediction=[say(row) for row in dataset.rows])
    folder = tmp_path / "cell"
    folder.mkdir(exist_ok=True)
    write_workbook(frame, folder / f"m_{name}.xlsx")
    return dataset, dataset.score(folder / f"m_{name}.xlsx")


@pytest.mark.parametrize("name", SCORED)
def test_the_truth_scores_all_there_is(data, tmp_path, name):
    _, score = scored(name, tmp_path, truth)
    best = 2800 if name == "MME" else 100
    assert score.metrics[score.primary] == pytest.approx(best)
    assert set(score.per_sample.values()) == {1.0}
    if name == "MME":
        assert (score.metrics["perception"], score.metrics["cognition"]) == (2000, 800)
    for other in score.others:
        assert other.metrics[other.primary] == pytest.approx(best), other


@pytest.mark.parametrize("name", SCORED)
def test_silence_scores_nothing(data, tmp_path, name):
    _, score = scored(name, tmp_path, lambda row: "")
    assert score.metrics[score.primary] == 0
    assert set(score.per_sample.values()) == {0.0}


@pytest.mark.parametrize("name", ["POPE", "MME"])
@pytest.mark.parametrize("word", ["Yes", "No"])
def test_a_constant_answer_is_right_for_its_share(data, tmp_path, name, word):
    dataset, score = scored(name, tmp_path, lambda row: word)
    share = sum(row["answer"] == word for row in dataset.rows) / len(dataset)
    if name == "MME":  # one question of each pair: accuracy 50, and never both
        assert share == 0.5
        assert (score.metrics["perception"], score.metrics["cognition"]) == (500, 200)
    else:
        assert score.metrics["yes ratio"] == (100 if word == "Yes" else 0)
        assert (score.metrics["F1"] == 0) == (word == "No")


@pytest.mark.parametrize("name", ["ScienceQA", "MVBench", "Video-MME", "MLVU", "LongVideoBench"])
def test_a_constant_letter_is_right_for_its_share(data, tmp_path, name):
    dataset, score = scored(name, tmp_path, lambda row: "A")
    right = [gold(row) == "A" for row in dataset.rows]
    assert sum(score.per_sample.values()) == sum(right)
    assert 0 < score.metrics[score.primary] < 100


def gold(row):
    from script_vlmeval.scoring import gold_letter

    return gold_letter(row)


# names --------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """Another data folder, that is not there yet."""
    folder = tmp_path / "LMUData"
    monkeypatch.setenv("LMUData", str(folder))
    return folder


def test_of_a_group_what_is_there_is_prepared(elsewhere, tmp_path, capsys):
    assert main(["prepare", "image10", "--source", str(download("MME", tmp_path)), "--quiet"]) == 2
    said = capsys.readouterr()
    assert "MME: 28 questions" in said.out
    assert "9 of 10 were not prepared" in said.err
    assert "VQAv2: VQAv2" not in said.err
    assert [path.name for path in elsewhere.glob("*.tsv")] == ["MME.tsv"]


@pytest.mark.parametrize(
    ("name", "says"),
    [("GQAA", "Did you mean 'GQA'"), ("image11", "image10"), ("ShapesVQA", "no preparing"), ("mine.tsv", "no preparing")],
)
def test_a_name_that_is_not_a_downloads_stops_before_anything_is_made(elsewhere, tmp_path, capsys, name, says):
    assert main(["prepare", "MME", name, "--source", str(download("MME", tmp_path)), "--quiet"]) == 2
    assert says in capsys.readouterr().err
    assert not list(tmp_path.glob("LMUData/*.tsv"))


def test_all_tables_that_lack_are_named_at_once(elsewhere, tmp_path, capsys):
    elsewhere.mkdir()
    assert main(["--data", "image10", "--model", CONFIG, "--work-dir", str(tmp_path / "r"), "--quiet"]) == 2
    said = capsys.readouterr().err
    assert "10 of 10 benchmarks cannot be opened" in said
    assert all(f"{BENCHMARKS[name].host}.tsv" in said for name in GROUPS["image10"])
    assert not (tmp_path / "r").exists()


def test_a_rerun_says_again_what_has_no_score(results, capsys):
    assert main(["--data", "VQAv2_TESTDEV", "--model", CONFIG, "--work-dir", str(results), "--quiet"]) == 0
    said = capsys.readouterr().out
    assert "Nothing to do" in said
    assert "not scored: VQAv2_TESTDEV (scored by the VQA challenge's server" in said
    assert "VQAv2_TESTDEV/<configuration>_VQAv2_TESTDEV_submission.json" in said


def test_tables_do_not_depend_on_where_they_lie(data, tmp_path, monkeypatch):
    """The same download elsewhere is the same benchmark: results stay valid."""
    here = plugin.open_dataset(resolve("MSVD-QA"), None, tmp_path)
    monkeypatch.setenv("LMUData", str(tmp_path / "LMUData"))
    assert main(["prepare", "MSVD-QA", "--source", str(download("MSVD-QA", tmp_path / "again")), "--quiet"]) == 0
    there = plugin.open_dataset(resolve("MSVD-QA"), None, tmp_path)
    assert here.digest == there.digest
    assert [here.stamp(row) for row in here.rows] == [there.stamp(row) for row in there.rows]
    assert Path(here.rows[0]["video_path"]) != Path(there.rows[0]["video_path"])


@pytest.mark.parametrize("place", range(4))
def test_names_may_stand_before_and_behind_flags(elsewhere, tmp_path, place):
    words = ["--source", str(download("GQA", tmp_path)), "--quiet", "--fresh"]
    spot = (0, 2, 3, 4)[place]
    assert main(["prepare", *words[:spot], "GQA", *words[spot:]]) == 0
    assert (elsewhere / "GQA_TestDev_Balanced.tsv").is_file()
