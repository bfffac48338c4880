"""What a summary of many benchmarks says: who scored, what is incomplete and why, and what has no score."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import openpyxl
import pytest
from test_report import cell_of, put, sheet_of

from script_vlmeval import report
from script_vlmeval.draw import plot
from script_vlmeval.report import files
from script_vlmeval.report.sheets import sheet_names

HOST = "vlmeval 0.0.20 VQAEval (ms-vlmeval)"
JUDGE = "needs a judge: name one with --judge"


@pytest.fixture(autouse=True)
def spreadsheets_alone(monkeypatch: pytest.MonkeyPatch):
    """Plots and the page have tests of their own."""
    monkeypatch.setattr(files, "plots", lambda *_: [])
    for name in ("accuracy", "write_page"):
        monkeypatch.setattr(files, name, lambda *_: None)


def scored(work_dir: Path, config: str, benchmark: str, score: float, metric: str = "Overall", **more: Any) -> None:
    figures = {metric: score, **more.pop("figures", {})}
    put(work_dir, config, benchmark, score, **{"metrics": figures, "primary": metric, "reference": {}, **more})


def judged(work_dir: Path, config: str, judge: str, score: float = 50.0, unread: int = 0, benchmark: str = "MSVD-QA") -> None:
    scorer, figures = f"script_vlmeval judge, its protocol: {judge}", {"judge_unparsable": float(unread)}
    scored(work_dir, config, benchmark, score, "judge_acc", scorer=scorer, judge=judge, figures=figures)


def unscored(work_dir: Path, config: str, benchmark: str, why: str = JUDGE, **more: Any) -> None:
    empty = {"metrics": {}, "primary": "", "stderr": None, "scorer": "", "reference": {}, "unscored": why}
    put(work_dir, config, benchmark, None, **{**empty, **more})


def heads(summary: report.Summary) -> list[str]:
    """The columns of scores."""
    found = [str(cell.value) for cell in openpyxl.load_workbook(summary.workbook)["overview"][1]]
    return [
        head
        for head in found[found.index("budget") + 1 :]
        if not head.endswith(("%", "tokens", ", video", " low", " high", " benchmarks"))
    ]


def notes(summary: report.Summary) -> str:
    return "\n".join(sheet_of(summary, "notes")["notes"])


def lines(summary: report.Summary) -> list[str]:
    return report.table(summary).splitlines()


# scorers -----------------------------------------------------------------------------------------------------------------


def test_scores_by_different_scorers_share_no_column_and_no_retention(tmp_path: Path):
    scored(tmp_path, "tiny_full", "GQA", 80.0, scorer=HOST)
    scored(tmp_path, "tiny_script_16", "GQA", 60.0, scorer="script_vlmeval GQA accuracy")
    summary = report.summarise(tmp_path)
    assert heads(summary) == ["GQA (GQA accuracy)", "GQA (VQAEval)"]
    assert [row.retention for row in summary.rows] == [100.0, None]
    assert cell_of(summary, "tiny_script_16", "GQA (VQAEval)").value is None


def test_versions_of_vlmevalkit_are_one_scorer(tmp_path: Path):
    scored(tmp_path, "tiny_full", "GQA", 80.0, scorer=HOST)
    scored(tmp_path, "tiny_script_16", "GQA", 60.0, scorer=HOST.replace("0.0.20", "0.0.21rc1"))
    summary = report.summarise(tmp_path)
    assert heads(summary) == ["GQA"]
    assert [row.retention for row in summary.rows] == [100.0, 75.0]


@pytest.mark.parametrize(
    ("judges", "columns"),
    [
        (["gpt-a at x.org, t=0"], ["MSVD-QA (em_acc)", "MSVD-QA (judge_acc)"]),
        (
            ["gpt-a at x.org, t=0", "gpt-b at x.org, t=0"],
            ["MSVD-QA (em_acc)", "MSVD-QA (judge_acc, gpt-a)", "MSVD-QA (judge_acc, gpt-b)"],
        ),
        (
            ["gpt-a at x.org, t=0", "gpt-a at y.org, t=0"],
            ["MSVD-QA (em_acc)", "MSVD-QA (judge_acc, gpt-a at x.org, t=0)", "MSVD-QA (judge_acc, gpt-a at y.org, t=0)"],
        ),
    ],
)
def test_labels_are_as_short_as_tells_them_apart(tmp_path: Path, judges: list[str], columns: list[str]):
    scored(tmp_path, "tiny_full", "MSVD-QA", 70.0, "em_acc", scorer="script_vlmeval exact match after normalisation")
    for i, judge in enumerate(judges):
        judged(tmp_path, f"tiny_script_{16 + i}", judge)
    assert heads(report.summarise(tmp_path)) == columns


def test_two_judges_alone_keep_the_metric_in_front(tmp_path: Path):
    for budget, judge in ((16, "gpt-a at x.org, t=0"), (36, "gpt-b at x.org, t=0")):
        judged(tmp_path, f"tiny_script_{budget}", judge)
    assert heads(report.summarise(tmp_path)) == ["MSVD-QA judge_acc (gpt-a)", "MSVD-QA judge_acc (gpt-b)"]


def test_what_is_unfinished_is_so_in_every_column_of_its_benchmark(tmp_path: Path):
    scored(tmp_path, "tiny_full", "GQA", 80.0, scorer=HOST)
    scored(tmp_path, "tiny_script_16", "GQA", 60.0)
    (tmp_path / "tiny_random_16" / "GQA").mkdir(parents=True)
    (tmp_path / "tiny_random_16" / "GQA" / "cell.json").write_text("{}")
    summary = report.summarise(tmp_path)
    assert heads(summary) == ["GQA (VQAEval)", "GQA (host 1.0)"]
    assert [cell_of(summary, "tiny_random_16", head).value for head in heads(summary)] == ["unfinished"] * 2


# headings ----------------------------------------------------------------------------------------------------------------


def test_headings_name_the_metric(tmp_path: Path):
    for benchmark, metric in (("POPE", "F1"), ("MSVD-QA", "em_acc"), ("MME", "total"), ("GQA", "Overall")):
        scored(tmp_path, "tiny_full", benchmark, 66.0, metric)
    summary = report.summarise(tmp_path)
    assert heads(summary) == ["GQA", "MME total", "MSVD-QA em_acc", "POPE F1"]
    first = lines(summary)[0]
    assert all(f"  {head}  " in first for head in heads(summary))
    sheets = openpyxl.load_workbook(summary.workbook).sheetnames
    assert {"POPE", "MME"} <= set(sheets), "a benchmark's sheet has all its metrics"


def test_mme_in_papers_is_perception(tmp_path: Path):
    scored(tmp_path, "tiny_full", "ShapesYN", 380.0, "total")
    assert "perception" not in notes(report.summarise(tmp_path))
    scored(tmp_path, "tiny_full", "MME", 1800.0, "total", figures={"perception": 1500.0, "cognition": 300.0})
    summary = report.summarise(tmp_path)
    assert "papers' MME is `perception`" in notes(summary)
    assert sheet_of(summary, "MME").loc[0, ["total", "perception", "cognition"]].tolist() == [1800, 1500, 300]


@pytest.mark.parametrize(("told", "explained"), [({"rows that differ": 0}, False), ({}, True)])
def test_blank_differences_are_explained(tmp_path: Path, told: dict[str, int], explained: bool):
    other = {"scorer": HOST, "primary": "Overall", "metrics": {"Overall": 60.0}, **told}
    scored(tmp_path, "tiny_full", "GQA", 60.0, **{"other scorers": [other]})
    assert ("`rows that differ` is blank" in notes(report.summarise(tmp_path))) is explained


# tokens ------------------------------------------------------------------------------------------------------------------


def video(kept: float) -> dict[str, Any]:
    return {"visual_full": 1152.0, "visual_kept": kept, "text": 9.0, "frames": 8.0, "layers": [kept] * 6}


def test_pictures_and_videos_have_their_own_means_of_tokens(tmp_path: Path):
    scored(tmp_path, "tiny_script_16", "GQA", 60.0)
    scored(tmp_path, "tiny_script_16", "MVBench", 60.0, tokens=video(128.0))
    scored(tmp_path, "tiny_random_16", "Video-MME", 60.0, tokens=video(120.0))
    unscored(tmp_path, "tiny_script_16", "MLVU_OpenEnded", tokens=video(112.0))
    summary = report.summarise(tmp_path)
    assert cell_of(summary, "tiny_script_16", "visual tokens").value == 16
    assert cell_of(summary, "tiny_script_16", "visual tokens, video").value == 120
    assert cell_of(summary, "tiny_random_16", "visual tokens").value is None
    assert lines(summary)[0].split()[:4] == ["config", "tokens", "tokens,", "video"]


@pytest.mark.parametrize("tokens", [{}, {"tokens": video(128.0)}])
def test_one_kind_has_one_column_of_tokens(tmp_path: Path, tokens: dict[str, Any]):
    scored(tmp_path, "tiny_script_16", "MVBench", 60.0, **tokens)
    summary = report.summarise(tmp_path)
    assert cell_of(summary, "tiny_script_16", "visual tokens").value == (128 if tokens else 16)
    assert "tokens, video" not in lines(summary)[0]
    (panel,) = plot._panels(summary.rows)
    assert f"per {'video' if tokens else 'image'}" in plot._figure([panel]).axes[0].get_xlabel()


# incomplete --------------------------------------------------------------------------------------------------------------


def test_unread_replies_of_a_judge_are_marked(tmp_path: Path):
    judged(tmp_path, "tiny_full", "gpt-a at x.org, t=0")
    judged(tmp_path, "tiny_script_16", "gpt-a at x.org, t=0", 40.0, unread=2)
    summary = report.summarise(tmp_path)
    head = "MSVD-QA judge_acc"
    assert ["*" in cell_of(summary, c, head).number_format for c in ("tiny_full", "tiny_script_16")] == [False, True]
    long = openpyxl.load_workbook(summary.workbook)["long"]
    assert ["*" in line[6].number_format for line in long.iter_rows(min_row=2)] == [False, True]
    assert "40.00*" in report.table(summary)
    assert lines(summary)[-1] == "* incomplete: judge replies that could not be read"
    assert "incomplete (judge replies that could not be read)" in notes(summary)


def test_the_mean_is_of_benchmarks_that_the_unpruned_model_can_do(tmp_path: Path):
    for benchmark, score in (("GQA", 80.0), ("MME", 0.0)):
        scored(tmp_path, "tiny_full", benchmark, score)
        scored(tmp_path, "tiny_script_16", benchmark, 40.0)
    summary = report.summarise(tmp_path)
    mean = cell_of(summary, "tiny_script_16", "mean retention %")
    assert (mean.value, mean.number_format) == (50, "0.00")
    assert "incomplete" not in report.table(summary) + notes(summary)


def test_an_incomplete_unpruned_score_marks_the_means_that_rest_on_it(tmp_path: Path):
    scored(tmp_path, "tiny_full", "GQA", 80.0, failed=1)
    scored(tmp_path, "tiny_script_16", "GQA", 40.0)
    assert "*" in cell_of(report.summarise(tmp_path), "tiny_script_16", "mean retention %").number_format


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ({"failed": 2}, "failed rows"),
        ({"unread": 1}, "judge replies that could not be read"),
    ],
)
def test_the_legend_names_the_causes_that_exist(tmp_path: Path, change: dict[str, Any], cause: str):
    for config in ("tiny_full", "tiny_script_16"):
        scored(tmp_path, config, "GQA", 40.0)
        if "unread" in change:
            judged(tmp_path, config, "gpt", **change)
        else:
            scored(tmp_path, config, "POPE", 40.0, **change)
    assert lines(report.summarise(tmp_path))[-1] == f"* incomplete: {cause}"


@pytest.mark.parametrize(
    ("change", "cause"), [({"n": 7}, "scores on other rows than the unpruned model's"), (None, "missing benchmarks")]
)
def test_what_a_mean_lacks_is_said_and_no_star(tmp_path: Path, change: dict[str, Any] | None, cause: str):
    for benchmark in ("GQA", "POPE"):
        scored(tmp_path, "tiny_full", benchmark, 80.0)
    scored(tmp_path, "tiny_script_16", "GQA", 40.0)
    if change is not None:
        scored(tmp_path, "tiny_script_16", "POPE", 40.0, **change)
    summary = report.summarise(tmp_path)
    assert lines(summary)[-1].endswith(f"not to be compared with other means: {cause}")
    assert "*" not in report.table(summary)
    assert cell_of(summary, "tiny_script_16", "mean over benchmarks").value == "1 of 2"


def test_the_legend_names_several_causes(tmp_path: Path):
    scored(tmp_path, "tiny_full", "GQA", 80.0)
    scored(tmp_path, "tiny_full", "POPE", 80.0)
    scored(tmp_path, "tiny_script_16", "GQA", 40.0, failed=1)
    (tmp_path / "tiny_script_16" / "POPE").mkdir()
    (tmp_path / "tiny_script_16" / "POPE" / "cell.json").write_text("{}")
    assert lines(report.summarise(tmp_path))[-2] == "* incomplete: failed rows or unfinished cells"


# without a score -----------------------------------------------------------------------------------------------------------


def test_what_has_no_score_says_why_everywhere(tmp_path: Path):
    scored(tmp_path, "tiny_full", "GQA", 80.0)
    unscored(tmp_path, "tiny_full", "MMVet", submission="file.json", n=218)
    unscored(tmp_path, "tiny_full", "MLVU_OpenEnded")
    summary = report.summarise(tmp_path)
    long = sheet_of(summary, "long").set_index("benchmark")
    assert long.loc["MMVet", ["score", "n", "visual tokens"]].tolist() == ["", 218, 144]
    assert long["why there is no score"].to_dict() == {
        "GQA": "",
        "MLVU_OpenEnded": JUDGE,
        "MMVet": f"{JUDGE}; to send in: file.json",
    }
    provenance = sheet_of(summary, "provenance").set_index("benchmark")
    assert provenance.loc["MMVet", "versions.torch"] == "2.6.1"
    assert "file.json" in provenance.loc["MMVet", "why there is no score"]
    cell = cell_of(summary, "tiny_full", "MMVet")
    assert (cell.value, cell.fill.fill_type) == ("not scored", None)
    said = f"not scored: MLVU_OpenEnded, MMVet ({JUDGE})"
    assert said == lines(summary)[-1]
    assert said[1:] in notes(summary)


def test_where_all_have_a_score_nothing_says_why_not(tmp_path: Path):
    scored(tmp_path, "tiny_full", "GQA", 80.0)
    summary = report.summarise(tmp_path)
    assert "why there is no score" not in sheet_of(summary, "long").columns
    assert "not scored" not in (report.table(summary) + notes(summary)).lower()


def test_a_summary_without_any_score(tmp_path: Path):
    unscored(tmp_path, "tiny_full", "MMVet")
    unscored(tmp_path, "tiny_script_16", "MMVet")
    summary = report.summarise(tmp_path)
    assert [len(sheet_of(summary, name)) for name in ("overview", "long", "provenance")] == [2, 2, 2]
    assert (summary.plot, list(summary.gaps.values())) == (None, ["not scored"] * 2)


# names and widths --------------------------------------------------------------------------------------------------------


def test_sheets_that_are_cut_alike_are_numbered_and_named_in_the_notes(tmp_path: Path):
    for budget, judge in ((16, "a-very-long-name-1 at x.org, t=0"), (36, "a-very-long-name-2 at x.org, t=0")):
        judged(tmp_path, f"tiny_script_{budget}", judge)
    summary = report.summarise(tmp_path)
    sheets = [name for name in openpyxl.load_workbook(summary.workbook).sheetnames if name.startswith("MSVD")]
    assert sheets == ["MSVD-QA judge_acc (a-very-lo 1", "MSVD-QA judge_acc (a-very-lo 2"]
    for number in (1, 2):
        assert f"Sheet '{sheets[number - 1]}': MSVD-QA judge_acc (a-very-long-name-{number})." in notes(summary)


def test_sheet_names_differ_whatever_the_case_and_are_no_longer_than_may_be():
    names = ["overview", "GQA", "gqa", "x" * 40, "x" * 41, f"{'x' * 28} 1", "'quoted'", "a/b"]
    found = sheet_names(names, ["overview"])
    assert len({name.casefold() for name in [*found, "overview"]}) == len(names) + 1
    assert max(map(len, found)) <= 31
    assert (found[0], found[-1]) == ("overview 1", "a-b")
    assert not any(name.startswith("'") or name.endswith("'") for name in found)


@pytest.mark.parametrize(("benchmarks", "configs", "turned"), [(8, 2, False), (9, 2, True), (9, 8, True), (9, 9, False)])
def test_many_benchmarks_have_a_line_each(tmp_path: Path, benchmarks: int, configs: int, turned: bool):
    names = [f"tiny_m{i}_16" for i in range(configs)]
    for name in names:
        for i in range(benchmarks):
            scored(tmp_path, name, f"Bench{i}", 10.0 * i)
    *found, missing = lines(report.summarise(tmp_path))
    assert missing.startswith("no retention on Bench0, Bench1")
    assert len({len(line) for line in found}) == 1
    if turned:
        assert found[0].split() == ["config", *names]
        assert [line.split()[0] for line in found[1:]] == ["tokens", *(f"Bench{i}" for i in range(benchmarks)), "mean"]
        assert found[4].split() == ["Bench2", *["20.00"] * configs]
    else:
        assert found[0].split()[:2] == ["config", "tokens"]
        assert [line.split()[0] for line in found[1:]] == names


def test_rebuilding_gives_the_same_bytes(tmp_path: Path):
    scored(tmp_path, "tiny_full", "GQA", 80.0, scorer=HOST)
    scored(tmp_path, "tiny_script_16", "GQA", 80.0)
    judged(tmp_path, "tiny_script_16", "gpt-a at x.org, t=0", unread=1)
    unscored(tmp_path, "tiny_full", "MMVet")
    first = report.summarise(tmp_path).workbook.read_bytes()
    assert report.summarise(tmp_path).workbook.read_bytes() == first
