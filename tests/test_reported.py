"""Published figures stand beside measured ones where both are the same quantity, with whose they are and what is doubtful."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import openpyxl
import pytest
from test_report import put

from script_vlmeval.backbones import BACKBONES
from script_vlmeval.benchmarks import BENCHMARKS
from script_vlmeval.judge import PROTOCOL
from script_vlmeval.published import figure
from script_vlmeval.report import table
from script_vlmeval.report.evidence import Evidence
from script_vlmeval.report.page.tables import tables
from script_vlmeval.report.pages import pages
from script_vlmeval.report.reported import Reported, reported
from script_vlmeval.report.rows import read
from script_vlmeval.report.sheets import Styled, save
from script_vlmeval.report.summary import Summary
from script_vlmeval.scoring import RULES

LIMITED = "GQA: the first 12,578 of 20,000 questions (--limit)."


def cell(work_dir: Path, config: str, benchmark: str, score: float, **more: Any) -> None:
    """A finished cell of all of a benchmark's questions, scored by its own rule."""
    record = BENCHMARKS[benchmark]
    rule, model = RULES.get(record.rule), BACKBONES.get(config.partition("_")[0])
    primary = rule.primary if rule else "Overall"
    usual = {
        "n": record.questions,
        "primary": primary,
        "metrics": {primary: score},
        "scorer": f"script_vlmeval {rule.label}" if rule else "host 1.0",
        "reference": {},
        "fingerprint": {"protocol": "paper"} if model and model.protocol else {},
        "provenance": {"checkpoint": {"place": model.checkpoint if model else "elsewhere"}},
    }
    put(work_dir, config, benchmark, score, **{**usual, **more})


def found(work_dir: Path, config: str = "llava_cdpruner_64", benchmark: str = "GQA", **more: Any) -> Reported | None:
    """What stands beside a cell."""
    cell(work_dir, config, benchmark, 60.0, **more)
    (row,) = read(work_dir).rows
    return reported(row)


def points(total: float = 1700.0, **more: float) -> dict[str, Any]:
    return {"metrics": {"total": total, **more}}


# which figure -------------------------------------------------------------------------------------------------------------


def test_a_whole_benchmark_has_its_published_figure(tmp_path: Path):
    one = found(tmp_path)
    assert one is not None
    assert (one.published.figure, one.measured, one.metric, one.doubt) == (58.6, 60.0, "", "")
    assert one.origin == one.source == "EADP's table"


@pytest.mark.parametrize(
    "more",
    [{"n": 200}, {"n": 12_577}, {"notes": [LIMITED]}, {"scorer": "vlmeval 0.0.20 VQAEval (ms-vlmeval)"}, {"scorer": ""},
     {"metrics": {"Overall": None}}],
    ids=str,
)  # fmt: skip
def test_another_quantity_has_none(tmp_path: Path, more: dict[str, Any]):
    assert found(tmp_path, **more) is None


def test_a_number_of_questions_that_is_not_known_is_not_all_of_them(tmp_path: Path):
    assert not BENCHMARKS["POPE"].published
    assert figure("llava", "cdpruner", "64", "POPE")
    assert found(tmp_path, benchmark="POPE", n=9_000) is None


@pytest.mark.parametrize("n", BENCHMARKS["MMBench"].published)
def test_each_published_number_of_questions_is_all_of_them(tmp_path: Path, n: int):
    assert found(tmp_path, benchmark="MMBench", n=n) is not None


@pytest.mark.parametrize("config", ["mymodel_cdpruner_64", "llava_cdpruner_63", "llava_dart_64", "llava13b_cdpruner_64"])
def test_what_nobody_published_has_none(tmp_path: Path, config: str):
    assert found(tmp_path, config) is None


def test_other_parameters_are_another_configuration(tmp_path: Path):
    named = {"config": "llava_cdpruner_64", "benchmark": "GQA", "params": {"sign": 1}}
    assert found(tmp_path, cell=named) is None


@pytest.mark.parametrize(("fingerprint", "there"), [({"protocol": "paper"}, True), ({"protocol": "hf"}, False), ({}, False)])
def test_crops_must_be_those_of_the_papers(tmp_path: Path, fingerprint: dict[str, str], there: bool):
    one = found(tmp_path, "llavanext_cdpruner_320", fingerprint=fingerprint)
    assert (one is not None) == there


def test_a_table_of_the_users_own_is_not_the_benchmark_of_that_name(tmp_path: Path):
    assert found(tmp_path, scorer="script_vlmeval exact match") is None


@pytest.mark.parametrize(("rule", "there"), [("mmvet", True), ("videoqa", False)])
def test_a_judge_scores_by_the_benchmarks_protocol(tmp_path: Path, rule: str, there: bool):
    scorer = f"script_vlmeval judge, {PROTOCOL[rule]}: m at host"
    one = found(tmp_path, benchmark="MMVet", scorer=scorer, judge="m at host")
    assert (one is not None) == there
    assert one is None or one.doubt == "another judge"


def test_another_metric_is_measured_as_that_metric(tmp_path: Path):
    one = found(tmp_path, benchmark="MME", **points(perception=1400.5))
    assert one is not None
    assert (one.published.figure, one.measured, one.metric) == (1399.1, 1400.5, "perception")


def test_without_that_metric_there_is_none(tmp_path: Path):
    assert found(tmp_path, benchmark="MME", **points()) is None


def test_doubts_and_authors_are_told(tmp_path: Path):
    one = found(tmp_path, "llava_script_32", "MMBench")
    assert one is not None
    assert one.source == "Script's project page (chart), the authors' own"
    assert "the server's matching" in one.doubt
    assert "the chart's number of tokens is doubtful" in one.doubt
    assert one.origin == f"{one.source} ({one.doubt})"


@pytest.mark.parametrize(
    ("more", "doubt"),
    [
        ({"provenance": {"checkpoint": {"place": "/models/mine"}}}, "the answers here are of the checkpoint /models/mine"),
        ({"fingerprint": {"conversation": "vlmevalkit"}}, "asked here in VLMEvalKit's words"),
        ({"notes": ["Without what published figures had.", "Something else."]}, "Without what published figures had"),
    ],
)
def test_what_the_result_says_of_differences_is_a_doubt(tmp_path: Path, more: dict[str, Any], doubt: str):
    one = found(tmp_path, **more)
    assert one is not None
    assert one.doubt == doubt


# the sheet ----------------------------------------------------------------------------------------------------------------


def study(work_dir: Path) -> Summary:
    cell(work_dir, "llava_full", "GQA", 61.5)
    cell(work_dir, "llava_cdpruner_64", "GQA", 58.0)
    cell(work_dir, "llava_cdpruner_64", "TextVQA", 54.0)
    cell(work_dir, "llava_cdpruner_64", "MME", 1700.0, **points(perception=1400.5), failed=1)
    cell(work_dir, "llava_cdpruner_63", "MME", 1690.0, **points(1690.0, perception=1390.0))
    return read(work_dir)


def overview(summary: Summary) -> dict[str, dict[str, Any]]:
    """Configuration -> head -> what is shown."""
    head, *lines = next(page for page in pages(summary, Evidence()) if page.name == "overview").lines
    return {line[0]: dict(zip(head, map(plain, line), strict=True)) for line in lines}


def plain(value: Any) -> Any:
    return value.value if isinstance(value, Styled) else value


def after(heads: Sequence[str], head: str, count: int = 1) -> list[str]:
    place = list(heads).index(head)
    return list(heads)[place + 1 : place + 1 + count]


def test_the_published_column_follows_the_score(tmp_path: Path):
    lines = overview(study(tmp_path))
    assert after(list(lines["llava_full"]), "GQA") == ["GQA published"]
    assert [lines[name]["GQA published"] for name in ("llava_full", "llava_cdpruner_64", "llava_cdpruner_63")] == [
        62.0,
        58.6,
        None,
    ]


def test_another_metric_has_its_measured_figure_in_the_column_before(tmp_path: Path):
    lines = overview(study(tmp_path))
    pair = ["MME perception", "MME perception published"]
    assert after(list(lines["llava_full"]), "MME total", 2) == pair
    assert [lines["llava_cdpruner_64"][head] for head in pair] == [1400.5, 1399.1]
    assert [lines["llava_cdpruner_63"][head] for head in pair] == [1390.0, None]
    assert "MME total published" not in lines["llava_full"]


def test_a_measured_figure_of_another_metric_is_marked_as_the_score_is(tmp_path: Path):
    summary = study(tmp_path)
    head, *lines = next(page for page in pages(summary, Evidence()) if page.name == "overview").lines
    marked = {line[0]: line[head.index("MME perception")] for line in lines}
    assert [marked[name].incomplete for name in ("llava_cdpruner_64", "llava_cdpruner_63")] == [True, False]


def test_sources_and_doubts_are_in_one_column_at_the_end(tmp_path: Path):
    cell(tmp_path, "llava_cdpruner_64", "MMBench", 61.0)
    lines = overview(study(tmp_path))
    assert list(lines["llava_full"])[-1] == "published from"
    assert lines["llava_full"]["published from"] == "GQA: LLaVA's model zoo, the authors' own"
    assert lines["llava_cdpruner_64"]["published from"].splitlines() == [
        "GQA, MME, TextVQA: EADP's table",
        "MMBench: EADP's table (perhaps the server's matching, which is milder than exact)",
    ]
    assert lines["llava_cdpruner_63"]["published from"] is None


def test_without_published_figures_there_is_no_such_column(tmp_path: Path):
    cell(tmp_path, "llava_full", "GQA", 61.5, n=200)
    cell(tmp_path, "tiny_full", "ShapesVQA", 61.5)
    assert not [head for head in overview(read(tmp_path))["llava_full"] if "published" in head]


def test_floors_leave_the_columns_empty(tmp_path: Path):
    cell(tmp_path, "llava_full", "GQA", 61.5, reference={"chance": 20.0, "blind": None})
    line = overview(read(tmp_path))["(chance, llava)"]
    assert (line["GQA"], line["GQA published"], line["published from"]) == (20.0, None, None)


def test_a_mean_has_none_whose_benchmarks_are_not_known(tmp_path: Path):
    assert figure("llava", "cdpruner", "64", "")
    heads = list(overview(study(tmp_path))["llava_cdpruner_64"])
    assert after(heads, "mean retention %") == ["published from"]


def test_the_workbook_can_be_read_back(tmp_path: Path):
    summary = study(tmp_path)
    save(pages(summary, Evidence()), tmp_path / "a.xlsx")
    head, *lines = openpyxl.load_workbook(tmp_path / "a.xlsx")["overview"].iter_rows(values_only=True)
    shown = {line[0]: dict(zip(head, line, strict=True)) for line in lines}["llava_cdpruner_64"]
    assert (shown["TextVQA published"], shown["published from"]) == (54.7, "GQA, MME, TextVQA: EADP's table")


def test_the_terminal_stays_as_it_is(tmp_path: Path):
    text = table(study(tmp_path))
    assert "58.00" in text
    assert "published" not in text
    assert "perception" not in text


# the page -----------------------------------------------------------------------------------------------------------------


def column(spec: dict[str, Any], head: str) -> list[Any]:
    place = [one["head"] for one in spec["columns"]].index(head)
    return [row[place] for row in spec["rows"]]


def test_the_page_has_published_figures_beside_scores(tmp_path: Path):
    spec = tables(study(tmp_path), Evidence())["overview"]
    names = column(spec, "configuration")
    beside, points = (
        {name: cell and (cell["s"], cell.get("u")) for name, cell in zip(names, column(spec, head), strict=True)}
        for head in ("GQA", "MME total")
    )
    assert beside["llava_cdpruner_64"] == ("±2.0", "published 58.6")
    assert points["llava_cdpruner_64"] == ("±2.0", "perception 1400.5, published 1399.1")
    assert points["llava_cdpruner_63"] == ("±2.0", None)


def test_a_score_without_an_interval_has_its_published_figure(tmp_path: Path):
    cell(tmp_path, "llava_full", "GQA", 61.5, stderr=None)
    (shown,) = column(tables(read(tmp_path), Evidence())["overview"], "GQA")
    assert ("s" in shown, shown["u"]) == (False, "published 62.0")


def test_the_pages_results_tell_sources_and_doubts(tmp_path: Path):
    cell(tmp_path, "llava_cdpruner_64", "MMBench", 61.0)
    spec = tables(study(tmp_path), Evidence())["results"]
    heads = ("configuration", "benchmark", "published", "published from", "what may differ")
    told = {line[:2]: line[2:] for line in zip(*(column(spec, head) for head in heads), strict=True)}
    doubt = "perhaps the server's matching, which is milder than exact"
    assert told["llava_cdpruner_64", "MMBench"] == ({"v": 61.1}, "EADP's table", doubt)
    assert told["llava_cdpruner_64", "MME"] == ({"v": 1399.1, "s": "perception; measured 1400.5"}, "EADP's table", None)
    assert told["llava_cdpruner_63", "MME"] == (None, None, None)
