"""Spreadsheets keep every text, and the summary has the numbers that the results on disk have."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import openpyxl
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from script_vlmeval import celltext, draw, report
from script_vlmeval.cells import Config
from script_vlmeval.draw import plot
from script_vlmeval.errors import UserError
from script_vlmeval.report import files, sheets

NASTY = [
    "=1+1", "+1", "-1", "@SUM(A1)", "#N/A", "#REF!", "=", "'=1", "None", "NA", "nan", "null", "007", "1e5", "TRUE", "2024-01-01",
    "", " ", "  a  ", "\n", "a\nb", "a\r\nb", "a\rb", "\t", "\u2028", "\x85", "\xa0", "\u200f\u05e9\u05dc\u05d5\u05dd",
    "\U0001f600", "<b>&amp;</b>", "]]>", '"', "_x", "_x0041", "__", "é", "e\u0301",
]  # fmt: skip
ESCAPED = [
    "\x00",
    "a\x07b",
    "_x0041_",
    "_x0041_x0042_",
    "_x0041\x07",
    "__x005f_",
    "\ud800",
    "\uffff",
    "_\x1f_x000d_",
    "\ufffe_x0001\ud83d",
]


def row(index: int, **more: str) -> dict[str, str]:
    return {"index": str(index), "image": "aGVsbG8=", "question": "What?", "answer": "yes", **more}


def read(path: Path) -> pd.DataFrame:
    return pd.read_excel(path, dtype=str, keep_default_na=False)


def round_trip(texts: list[str], path: Path) -> list[str]:
    report.write_predictions(path, [row(i) for i in range(len(texts))], {str(i): text for i, text in enumerate(texts)})
    return list(read(path)["prediction"])


def test_columns_are_the_hosts(tmp_path: Path):
    path = tmp_path / "a.xlsx"
    rows = [row(3, A="red", category="c"), row(1, A="007", category="=1")]
    report.write_predictions(path, rows, {"1": "None", "9": "nobody's"})
    table = read(path)
    assert list(table.columns) == ["index", "question", "answer", "A", "category", "prediction"]
    assert table.to_numpy().tolist() == [["3", "What?", "yes", "red", "c", ""], ["1", "What?", "yes", "007", "=1", "None"]]
    sheet = openpyxl.load_workbook(path).active
    assert sheet.freeze_panes == "B2"
    assert {cell.data_type for line in sheet.iter_rows() for cell in line if cell.value is not None} == {"s"}


def test_plain_texts_survive_as_they_are(tmp_path: Path):
    assert round_trip(NASTY, tmp_path / "a.xlsx") == NASTY


def test_what_xml_cannot_hold_is_escaped(tmp_path: Path):
    found = round_trip(ESCAPED, tmp_path / "a.xlsx")
    assert found[:3] == ["_x0000_", "a_x0007_b", "_x005F_x0041_"]
    assert [celltext.unescape(text) for text in found] == ESCAPED


PIECES = st.sampled_from([*NASTY, *ESCAPED, "_x00", "41_", "x0041_", "_"])
TEXTS = st.one_of(st.text(st.characters()), st.lists(PIECES, max_size=5).map("".join))


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(TEXTS, min_size=20, max_size=30))
def test_any_text_survives(tmp_path: Path, texts: list[str]):
    found = round_trip(texts, tmp_path / "fuzz.xlsx")
    assert [celltext.unescape(text) for text in found] == texts


@pytest.mark.parametrize("unit", ["a", "\U0001f600", "\x07", "_x0041_", "ab_"])
@pytest.mark.parametrize("extra", [-1, 0, 1, 5, 6, 7, 8, 9000])
def test_long_texts_are_cut_and_say_so(tmp_path: Path, unit: str, extra: int):
    per = len(celltext.escape(unit).encode("utf-16-le")) // 2
    text = unit * (celltext.CELL_LIMIT // per) + "z" * (celltext.CELL_LIMIT % per + extra)
    fits = extra <= 0
    found = round_trip([text], tmp_path / "a.xlsx")[0]
    assert len(found.encode("utf-16-le")) <= 2 * celltext.CELL_LIMIT
    if fits:
        assert celltext.unescape(found) == text
    else:
        kept = celltext.unescape(found.removesuffix(celltext.CUT))
        assert found.endswith(celltext.CUT)
        assert text.startswith(kept)
        assert len(celltext.escape(kept).encode("utf-16-le")) // 2 > celltext.CELL_LIMIT - 60


def test_the_same_content_gives_the_same_bytes(tmp_path: Path):
    round_trip(NASTY, tmp_path / "a.xlsx")
    first = (tmp_path / "a.xlsx").read_bytes()
    round_trip(NASTY, tmp_path / "a.xlsx")
    assert (tmp_path / "a.xlsx").read_bytes() == first
    assert os.listdir(tmp_path) == ["a.xlsx"]


@pytest.mark.parametrize("n", [0, 1, 198, 199, 200, 201, 900])
def test_lines_written_one_by_one_are_those_of_a_page(tmp_path: Path, n: int):
    """Beyond those that openpyxl writes."""
    texts = [*NASTY, *ESCAPED, "x" * 40_000, "\x7f\x9f", " ", "é\U0001f600 "]
    lines = [[str(i), texts[i % len(texts)], texts[i * 7 % len(texts)]] for i in range(n)]
    head = ["index", "a", "b"]
    sheets.save([sheets.Page("page", [head, *lines])], tmp_path / "page.xlsx")
    sheets.save([sheets.plain_page("page", head, iter(lines), n)], tmp_path / "lines.xlsx")
    assert (tmp_path / "page.xlsx").read_bytes() == (tmp_path / "lines.xlsx").read_bytes()
    assert openpyxl.load_workbook(tmp_path / "lines.xlsx", read_only=True).active.calculate_dimension() == f"A1:C{n + 1}"


def test_a_workbook_that_cannot_be_written(tmp_path: Path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="file"):
        report.write_predictions(tmp_path / "file" / "a.xlsx", [row(1)], {})


# The summary -------------------------------------------------------------------------------------------------------------------


def result(config: str, benchmark: str, score: float | None, **more: Any) -> dict[str, Any]:
    model, method, budget = [*config.split("_"), ""][:3]
    kept = more.pop("kept", float(budget) if budget.isdecimal() else 36.0 if budget else 144.0)
    return {
        "cell": {"config": config, "model": model, "method": method, "budget": budget, "params": {}, "benchmark": benchmark},
        "fingerprint": {"seed": 0, "dataset": "abc"},
        "metrics": {"Overall": score, "color": (score or 0.0) / 2},
        "primary": "Overall",
        "score": score,
        "stderr": 1.0,
        "n": 100,
        "failed": 0,
        "scorer": "host 1.0",
        "reference": {"chance": 20.0, "blind": 35.0},
        "tokens": {"visual_full": 144.0, "visual_kept": kept, "text": 20.0, "layers": [kept] * 6},
        "seconds": 12.5,
        "samples_per_second": 8.0,
        "provenance": {"versions": {"torch": "2.6.1"}, "command": "=run", "started": "2026-01-01T00:00:00", "machine": "cpu"},
        **more,
    }


def put(work_dir: Path, config: str, benchmark: str, score: float | None, **more: Any) -> Path:
    path = work_dir / config / benchmark / "result.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(result(config, benchmark, score, **more)))
    return path


@pytest.fixture(autouse=True)
def spreadsheets_alone(monkeypatch: pytest.MonkeyPatch):
    """The plots of `plots/` and the page have tests of their own."""
    monkeypatch.setattr(files, "plots", lambda *_: [])
    monkeypatch.setattr(files, "write_page", lambda *_: None)


@pytest.fixture
def work_dir(tmp_path: Path) -> Path:
    put(tmp_path, "tiny_full", "ShapesVQA", 90.0)
    put(tmp_path, "tiny_full", "ShapesYN", 1600.0, reference={"chance": None, "blind": None})
    put(tmp_path, "tiny_script_16", "ShapesVQA", 81.0)
    put(tmp_path, "tiny_script_16", "ShapesYN", 1200.0, failed=3, reference={"chance": None, "blind": None})
    put(tmp_path, "tiny_random_16", "ShapesVQA", 45.0, stderr=None)
    put(tmp_path, "tiny_script_72", "ShapesVQA", 90.0)
    put(tmp_path, "tiny_random_72", "ShapesVQA", 60.0)
    started = tmp_path / "tiny_random_16" / "ShapesYN"
    started.mkdir(parents=True)
    (started / "predictions.jsonl").write_text("")
    return tmp_path


def sheet_of(summary: report.Summary, name: str) -> pd.DataFrame:
    return pd.read_excel(summary.workbook, sheet_name=name, keep_default_na=False)


def test_the_overview_has_scores_and_retention(work_dir: Path):
    table = sheet_of(report.summarise(work_dir), "overview").set_index("config")
    order = ["tiny_full", "tiny_random_72", "tiny_script_72", "tiny_random_16", "tiny_script_16"]
    assert list(table.index) == [*order, "(chance, tiny)", "(image-blind, tiny)"]
    assert table.loc["tiny_script_16", "ShapesVQA retention %"] == pytest.approx(90.0)
    assert table.loc["tiny_script_16", "ShapesYN retention %"] == pytest.approx(75.0)
    assert table.loc["tiny_script_16", "mean retention %"] == pytest.approx(82.5)
    assert table.loc["tiny_full", "mean retention %"] == pytest.approx(100.0)
    assert table.loc["tiny_random_16", "ShapesYN"] == "unfinished"
    assert table.loc["tiny_random_72", "ShapesYN"] == ""
    assert table.loc["(chance, tiny)", "ShapesVQA"] == 20.0
    assert table.loc["(image-blind, tiny)", "ShapesVQA"] == 35.0


def cell_of(summary: report.Summary, config: str, column: str) -> Any:
    sheet = openpyxl.load_workbook(summary.workbook)["overview"]
    at = [cell.value for cell in sheet[1]].index(column)
    return next(line[at] for line in sheet.iter_rows() if line[0].value == config)


def test_the_best_is_bold_and_the_incomplete_is_marked(work_dir: Path):
    summary = report.summarise(work_dir)
    bold = {
        c
        for c in ("tiny_full", "tiny_random_72", "tiny_script_72", "tiny_random_16", "tiny_script_16")
        if cell_of(summary, c, "ShapesVQA").font.b
    }
    assert bold == {"tiny_script_72", "tiny_script_16"}
    marked = cell_of(summary, "tiny_script_16", "ShapesYN")
    assert marked.number_format == '0.00" *"'
    assert marked.value == 1200
    assert marked.fill.fgColor.rgb == cell_of(summary, "tiny_random_16", "ShapesYN").fill.fgColor.rgb == "00FBE3D0"
    assert cell_of(summary, "tiny_script_16", "ShapesVQA").fill.fill_type is None


def test_the_long_sheet_has_one_row_per_cell(work_dir: Path):
    table = sheet_of(report.summarise(work_dir), "long")
    assert len(table) == 7
    line = table[(table["config"] == "tiny_script_16") & (table["benchmark"] == "ShapesYN")].iloc[0]
    assert [line["score"], line["standard error"], line["n"], line["failed"]] == [1200, 1, 100, 3]
    assert [line["95% low"], line["95% high"]] == [pytest.approx(1198.04), pytest.approx(1201.96)]
    assert [
        line["visual tokens"],
        line["visual tokens unpruned"],
        line["seconds without encoder"],
        line["answers/s"],
        line["scorer"],
    ] == [
        16,
        144,
        12.5,
        8,
        "host 1.0",
    ]
    unknown = table[table["config"] == "tiny_random_16"].iloc[0]
    assert [unknown["standard error"], unknown["95% low"]] == ["", ""]


def test_the_other_sheets(work_dir: Path):
    summary = report.summarise(work_dir)
    workbook = openpyxl.load_workbook(summary.workbook)
    tables, data = ["overview", "long", "efficiency"], ["curves", "retention"]
    assert workbook.sheetnames == [*tables, "charts", "ShapesVQA", "ShapesYN", *data, "provenance", "notes"]
    assert sheet_of(summary, "ShapesVQA")["color"].tolist() == [45.0, 30.0, 45.0, 22.5, 40.5]
    provenance = sheet_of(summary, "provenance")
    assert provenance.loc[0, ["versions.torch", "command", "fingerprint.seed"]].tolist() == ["2.6.1", "=run", 0]
    assert all(sheet.freeze_panes == "B2" and sheet.auto_filter.ref for sheet in workbook if sheet.title != "charts")
    assert not [cell for sheet in workbook for line in sheet.iter_rows() for cell in line if cell.data_type == "f"]


def test_the_table_is_aligned_and_has_the_numbers(work_dir: Path):
    lines = report.table(report.summarise(work_dir)).splitlines()
    assert len({len(line) for line in lines[:8]}) == 1
    assert lines[0].split()[:3] == ["config", "tokens", "ShapesVQA"]
    line = next(line for line in lines if line.startswith("tiny_script_16"))
    assert line.split() == ["tiny_script_16", "16.0", "81.00", "±2.0", "90.00", "1200.00*", "±2.0", "75.00", "82.50*", "-"]
    assert lines[-2].startswith("* incomplete")
    assert lines[-1].startswith("mean over")


def test_the_plot_is_a_picture_and_rebuilding_changes_nothing(work_dir: Path):
    summary = report.summarise(work_dir)
    assert summary.plot == work_dir / "accuracy.png"
    before = summary.plot.read_bytes(), summary.workbook.read_bytes()
    assert before[0].startswith(b"\x89PNG")
    report.summarise(work_dir)
    assert (summary.plot.read_bytes(), summary.workbook.read_bytes()) == before


def bold(summary: report.Summary, benchmark: str) -> set[str]:
    names = {str(config) for config in summary.configs}
    return {name for name in names if cell_of(summary, name, benchmark).font.b}


def test_bold_compares_what_read_equally_many_tokens(tmp_path: Path):
    """Not what has the same budget's text: at one schedule methods read very different numbers of tokens."""
    put(tmp_path, "tiny_seqprune_r90k2", "ShapesVQA", 90.0, kept=119.67)
    put(tmp_path, "tiny_fastv_r90k2", "ShapesVQA", 60.0, kept=57.33)
    put(tmp_path, "tiny_latelast_16", "ShapesVQA", 59.0, kept=57.0)
    put(tmp_path, "tiny_script_16", "ShapesVQA", 50.0)
    put(tmp_path, "tiny_random_16", "ShapesVQA", 40.0)
    for budget, score in (("72", 70.0), ("50pct", 71.0), ("r75k2", 72.0)):
        put(tmp_path, f"tiny_fastv_{budget}", "ShapesVQA", score, kept=72.0)
    put(tmp_path, "tiny_broken_16", "ShapesVQA", 99.0, kept=None)
    put(tmp_path, "tiny_silent_16", "ShapesVQA", 98.0, kept=None)
    put(tmp_path, "other_fastv_72", "ShapesVQA", 95.0)
    summary = report.summarise(tmp_path)
    assert bold(summary, "ShapesVQA") == {"tiny_fastv_r75k2", "tiny_fastv_r90k2", "tiny_script_16"}
    assert "equally many visual tokens" in sheet_of(summary, "notes").loc[0, "notes"]


def test_each_benchmark_compares_by_its_own_measurement(tmp_path: Path):
    put(tmp_path, "tiny_a_25pct", "ShapesVQA", 80.0, kept=100.0)
    put(tmp_path, "tiny_b_100", "ShapesVQA", 70.0, kept=101.0)
    put(tmp_path, "tiny_a_25pct", "ShapesYN", 80.0, kept=102.0)
    put(tmp_path, "tiny_b_100", "ShapesYN", 70.0, kept=100.0)
    summary = report.summarise(tmp_path)
    assert [bold(summary, name) for name in ("ShapesVQA", "ShapesYN")] == [{"tiny_a_25pct"}, set()]
    tokens = [cell_of(summary, name, "visual tokens") for name in ("tiny_a_25pct", "tiny_b_100")]
    assert [(cell.value, cell.number_format) for cell in tokens] == [(101.0, "0.0"), (100.5, "0.0")]


def test_peers_are_within_one_percent_of_the_fewest_of_their_group():
    values = [192.0, 100.0, 101.0, 101.001, 102.5, 0.0, 191.6]
    rows = [draw.Row(Config("m", "x", "9"), "b", 1.0, None, 1, 0, {"tokens": {"visual_kept": v}}) for v in values]
    groups = [[row.measured for row in group] for group in draw.peers(rows)]
    assert groups == [[100.0, 101.0], [101.001], [102.5], [191.6, 192.0]]


def test_the_overview_says_how_many_tokens_were_read(work_dir: Path):
    summary = report.summarise(work_dir)
    table = sheet_of(summary, "overview").set_index("config")
    assert list(table.columns)[:4] == ["model", "method", "budget", "visual tokens"]
    assert table.loc[["tiny_full", "tiny_script_16"], "visual tokens"].tolist() == [144.0, 16.0]
    put(work_dir, "tiny_latelast_16", "ShapesVQA", 70.0, kept=58.6667)
    lines = report.table(report.summarise(work_dir)).splitlines()
    assert next(line.split()[1] for line in lines if line.startswith("tiny_latelast_16")) == "58.7"


def test_many_methods_of_one_budget_are_set_against_each_other(tmp_path: Path):
    """Best at the top; the curves above are of methods with several budgets, and of those that have no place below."""
    for i, method in enumerate(["random", "grid", "pool", "script", "scope"]):
        put(tmp_path, f"tiny_{method}_16", "ShapesVQA", 50.0 + 7 * i % 20)
    put(tmp_path, "tiny_script_36", "ShapesVQA", 80.0)
    put(tmp_path, "tiny_dart_72", "ShapesVQA", 70.0)
    put(tmp_path, "tiny_script_16", "ShapesYN", 70.0)
    summary = report.summarise(tmp_path)
    shapes, yes_no = plot._panels(summary.rows)
    (rows,) = shapes.comparisons
    assert [row.score for row in rows] == sorted(row.score for row in rows)
    assert {row.config.method for row in rows} == {"random", "grid", "pool", "script", "scope"}
    assert set(shapes.curves) == {"script", "dart"}
    assert not yes_no.comparisons
    assert set(yes_no.curves) == {"script"}
    assert summary.plot.read_bytes().startswith(b"\x89PNG")


def demo(work_dir: Path, benchmark: str = "ShapesVQA") -> None:
    """A study as configs/tiny.yaml: a grid, and many methods at one of its budgets, two of them under two names."""
    grid = [f"{method}_{budget}" for method in ("random", "cdpruner", "script") for budget in (72, 36, 16, 8)]
    early = [f"{method}_16" for method in ("grid", "pool", "divprune", "scriptcompat")]
    inside = [f"{method}_72" for method in ("fastv", "seqprune", "dart", "pyramiddrop", "sparsevlm")]
    put(work_dir, "tiny_full", benchmark, 96.0)
    put(work_dir, "tiny_fastv_r75k2", benchmark, 71.0, kept=72.0)
    for i, name in enumerate([*grid, *early, *inside]):
        put(work_dir, f"tiny_{name}", benchmark, 40.0 + i * 17 % 50)


def texts(axis: Any) -> list[str]:
    return [label.get_text() for label in axis.get_yticklabels()]


def test_every_budget_of_many_methods_has_a_comparison(tmp_path: Path):
    """And what has no other budget is in that alone, its budget beside its name where the name is there twice."""
    demo(tmp_path)
    panels = plot._panels(files.read(tmp_path).rows)
    assert [{row.tokens for row in rows} for rows in panels[0].comparisons] == [{72.0}, {16.0}]
    assert set(panels[0].curves) == {"random", "cdpruner", "script"}
    above, at_72, at_16 = plot._figure(panels).axes
    assert above.get_title(loc="left") == "ShapesVQA"
    assert [axis.get_title(loc="left") for axis in (at_72, at_16)] == ["ShapesVQA at 72 tokens", "ShapesVQA at 16 tokens"]
    twice = {"fastv 72", "fastv r75k2"}
    assert set(texts(at_72)) == {"random", "cdpruner", "script", "seqprune", "dart", "pyramiddrop", "sparsevlm"} | twice
    assert {"script", "scriptcompat"} <= set(texts(at_16))


def test_two_budgets_of_one_method_are_not_many_methods(tmp_path: Path):
    for name in ("fastv_72", "fastv_50pct", "fastv_r75k2", "dart_72", "script_72"):
        put(tmp_path, f"tiny_{name}", "ShapesVQA", 70.0, kept=72.0)
    (panel,) = plot._panels(files.read(tmp_path).rows)
    assert not panel.comparisons
    assert set(panel.curves) == {"fastv", "dart", "script"}


def test_without_curves_there_is_no_panel_for_them(tmp_path: Path):
    for i in range(5):
        put(tmp_path, f"tiny_m{i}_16", "ShapesVQA", 50.0 + i)
    figure = plot._figure(plot._panels(files.read(tmp_path).rows))
    assert [axis.get_title(loc="left") for axis in figure.axes] == ["ShapesVQA at 16 tokens"]
    assert {"chance", "image-blind"} <= {text.get_text() for text in figure.axes[0].texts}
    assert not figure.legends


@pytest.mark.parametrize("count", [1, 8, 11, 12, 40])
def test_no_colour_is_there_twice(count: int):
    looks = plot._looks([f"m{i}" for i in range(count)])
    assert len({str(look["color"]) for look in looks.values()}) == len(looks) == count


@pytest.mark.parametrize("benchmarks", [1, 2])
@pytest.mark.parametrize("names", [["a", "b"], [f"averylongname{i}+another" for i in range(7)], ["x" * 40, "y" * 40]])
def test_the_legend_is_inside_the_picture(tmp_path: Path, benchmarks: int, names: list[str]):
    for i, name in enumerate(names):
        for budget in (16, 36) if i % 2 else (16, 72):
            for benchmark in range(benchmarks):
                put(tmp_path, f"tiny_{name}_{budget}", f"Bench{benchmark}", 50.0 + i)
    figure = plot._figure(plot._panels(files.read(tmp_path).rows))
    figure.draw_without_rendering()
    legend, page = figure.legends[0].get_window_extent(), figure.bbox
    assert page.x0 <= legend.x0
    assert legend.x1 <= page.x1
    assert page.y0 <= legend.y0
    assert legend.y1 <= min(axis.get_tightbbox().y0 for axis in figure.axes) + 1
    assert figure.axes[0].get_window_extent().height > 200
    assert len(figure.legends[0].get_texts()) == len(names) + 1


def test_scores_that_are_all_alike_do_not_make_an_axis_of_rounding_errors(tmp_path: Path):
    for budget in (16, 72):
        put(tmp_path, f"tiny_script_{budget}", "ShapesVQA", 0.0, stderr=None, reference={"chance": None, "blind": None})
    axis = plot._figure(plot._panels(files.read(tmp_path).rows)).axes[0]
    low, high = axis.get_ylim()
    assert low < 0 < high
    assert high - low >= 1


def test_only_unpruned_results_have_no_plot(tmp_path: Path):
    put(tmp_path, "tiny_full", "ShapesVQA", 90.0)
    assert report.summarise(tmp_path).plot is None
    assert not (tmp_path / "accuracy.png").exists()


def test_shares_lie_at_the_tokens_that_were_kept(tmp_path: Path):
    put(tmp_path, "tiny_script_25pct", "ShapesVQA", 80.0)
    put(tmp_path, "tiny_script_16", "ShapesVQA", 70.0)
    assert [row.tokens for row in files.read(tmp_path).rows] == [36.0, 16.0]


@pytest.mark.parametrize(
    ("budget", "kept", "place"),
    [("16", 16.0, 16), ("16", 58.67, 58.67), ("143", 134.0, 134), ("192", 206.5, 206.5), ("192", 191.6, 192), ("192", 193.5, 192),
     ("r75k2", 72.0, 72), ("16", None, 0)],
)  # fmt: skip
def test_the_place_is_what_was_measured(tmp_path: Path, budget: str, kept: float | None, place: float):
    """As the number named where that is the same within 1 %."""
    put(tmp_path, f"tiny_script_{budget}", "ShapesVQA", 80.0, kept=kept)
    assert [row.tokens for row in files.read(tmp_path).rows] == [place]


def test_other_tokens_than_named_are_not_compared_at_the_name(tmp_path: Path):
    for method, kept in (("a", 16.0), ("b", 16.0), ("c", 16.1), ("d", 16.0), ("script+fastv", 15.9), ("latelast", 58.67)):
        put(tmp_path, f"tiny_{method}_16", "ShapesVQA", 80.0, kept=kept)
    (panel,) = plot._panels(files.read(tmp_path).rows)
    assert not panel.comparisons  # 15.9 and 16.1 are more than 1 % apart
    put(tmp_path, "tiny_e_16", "ShapesVQA", 80.0)
    (panel,) = plot._panels(files.read(tmp_path).rows)
    assert [{row.config.method for row in rows} for rows in panel.comparisons] == [{"a", "b", "d", "e", "script+fastv"}]
    assert [row.tokens for row in panel.curves["latelast"]] == [58.67]


def test_no_retention_against_other_rows(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    put(tmp_path, "tiny_full", "ShapesVQA", 90.0, n=1000)
    put(tmp_path, "tiny_script_16", "ShapesVQA", 80.0, n=50)
    assert [row.retention for row in files.read(tmp_path).rows] == [100.0, None]
    assert "50 rows, but 1000" in caplog.text


def test_no_retention_against_another_table(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    put(tmp_path, "tiny_full", "ShapesVQA", 90.0, fingerprint={"data": "one"})
    put(tmp_path, "tiny_script_16", "ShapesVQA", 80.0, fingerprint={"data": "other"})
    assert [row.retention for row in files.read(tmp_path).rows] == [100.0, None]
    assert "another table" in caplog.text


BROKEN = [b"", b"{", b"[1]", b"{}", b"\xff\xfe", b'{"cell": 3}', b"[" * 100_000]


@pytest.mark.parametrize("content", BROKEN, ids=range(len(BROKEN)))
def test_a_corrupt_result_is_skipped_with_a_warning(work_dir: Path, content: bytes, caplog: pytest.LogCaptureFixture):
    (work_dir / "tiny_script_72" / "ShapesVQA" / "result.json").write_bytes(content)
    summary = files.read(work_dir)
    assert len(summary.rows) == 6
    assert summary.gaps["tiny_script_72", "ShapesVQA"] == "unreadable"
    assert "tiny_script_72" in caplog.text


@pytest.mark.parametrize(
    "change",
    [{"score": None}, {"score": "9"}, {"score": True}, {"metrics": None}, {"n": None}, {"cell": {"config": "tiny_full"}}],
    ids=str,
)
def test_a_foreign_result_is_skipped(work_dir: Path, change: dict[str, Any]):
    data = result("tiny_script_72", "ShapesVQA", 1.0) | change
    (work_dir / "tiny_script_72" / "ShapesVQA" / "result.json").write_text(json.dumps(data))
    assert files.read(work_dir).gaps["tiny_script_72", "ShapesVQA"] == "unreadable"


def test_a_result_in_another_cells_folder_is_not_that_cells(work_dir: Path, caplog: pytest.LogCaptureFixture):
    data = result("tiny_full", "ShapesVQA", 99.0)
    (work_dir / "tiny_script_72" / "ShapesVQA" / "result.json").write_text(json.dumps(data))
    assert "unreadable" in report.summarise(work_dir).gaps.values()
    assert "it is about tiny_full" in caplog.text


def test_foreign_folders_are_ignored(work_dir: Path):
    (work_dir / "my notes" / "sub").mkdir(parents=True)
    (work_dir / "my notes" / "sub" / "result.json").write_text("{}")
    assert len(files.read(work_dir).rows) == 7


def test_benchmarks_with_awkward_names_get_a_sheet(tmp_path: Path):
    for name in ("overview", "a[1]:b*?", "x" * 60, "x" * 60 + "y"):
        put(tmp_path, "tiny_full", name, 50.0)
    sheets = openpyxl.load_workbook(report.summarise(tmp_path).workbook).sheetnames
    assert len(sheets) == 9
    assert max(map(len, sheets)) <= 31


def test_no_results_say_so(tmp_path: Path):
    with pytest.raises(UserError, match="no results"):
        report.summarise(tmp_path)
    with pytest.raises(UserError, match="no results"):
        report.summarise(tmp_path / "missing")
    (tmp_path / "tiny_full" / "MME").mkdir(parents=True)
    (tmp_path / "tiny_full" / "MME" / "cell.json").write_text("{}")
    with pytest.raises(UserError, match="1 begun"):
        report.summarise(tmp_path)
