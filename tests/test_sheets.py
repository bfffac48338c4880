"""The spreadsheets of a folder: what the rows say beside the scores, a workbook for each configuration, charts, and texts."""

from __future__ import annotations

import csv
import json
import random
import re
import shutil
import subprocess
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import openpyxl
import pandas as pd
import pytest
from test_report import ESCAPED, NASTY, bold, cell_of, result, sheet_of

from script_vlmeval import celltext, report
from script_vlmeval.report import book, files
from script_vlmeval.report.figures import Interval
from script_vlmeval.report.sheets import fine, words
from script_vlmeval.store import CellStore

BENCHMARKS = ("GQA", "POPE")
CONFIGS = ("tiny_full", "tiny_script_16", "tiny_random_16", "tiny_pool_16", "tiny_script_72")
N = 60
WRONG = {"tiny_full": 6, "tiny_script_16": 7, "tiny_random_16": 45, "tiny_pool_16": 15, "tiny_script_72": 6}  # the first rows


@pytest.fixture(autouse=True)
def spreadsheets_alone(monkeypatch: pytest.MonkeyPatch):
    """Plots and the page have tests of their own."""
    monkeypatch.setattr(files, "plots", lambda *_: [])
    for name in ("accuracy", "write_page"):
        monkeypatch.setattr(files, name, lambda *_: None)


def cell(
    work_dir: Path,
    config: str,
    benchmark: str,
    worth: Sequence[float],
    said: Sequence[str | None] = (),
    rows: Sequence[dict[str, str]] = (),
    **more: Any,
) -> CellStore:
    """A finished cell as a sweep leaves it. said: the answers; None of a row that failed."""
    said = said or ["yes"] * len(worth)
    rows = rows or [{"index": str(i), "question": f"Question {i}?", "A": "red", "answer": "yes"} for i in range(len(worth))]
    fingerprint = {"config": config, "benchmark": benchmark, "data": f"{benchmark}-table"}
    store = CellStore(work_dir, config, benchmark, fingerprint)
    score, failed = 100 * sum(worth) / len(worth), said.count(None)
    found = result(config, benchmark, score, n=len(worth), failed=failed, fingerprint=fingerprint, reference={}, **more)
    lines = [
        {"index": row["index"], "cluster": f"{i // 2:08x}", "read": "Yes", "worth": w}
        for i, (row, w) in enumerate(zip(rows, worth, strict=True))
    ]
    with store:
        store.open()
        answers = [
            {"index": row["index"], "error": "=out of memory"} if text is None else {"index": row["index"], "prediction": text}
            for row, text in zip(rows, said, strict=True)
        ]
        store.append(answers)
        report.write_predictions(store.workbook, rows, {a["index"]: a["prediction"] for a in answers if "prediction" in a})
        store.finish(found, lines)
    return store


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    work_dir = tmp_path_factory.mktemp("study")
    for benchmark in BENCHMARKS:
        for config in CONFIGS:
            worth = [float(i >= WRONG[config]) for i in range(N)]
            said = [None if (config, i) == ("tiny_pool_16", 3) else f"answer {i}" for i in range(N)]
            cell(work_dir, config, benchmark, worth, said, efficiency={"ms": {"prefill": 2.5}, "peak_bytes": 7})
    return work_dir


@pytest.fixture
def work_dir(study: Path, tmp_path: Path) -> Path:
    return shutil.copytree(study, tmp_path / "study")


@pytest.fixture(scope="module")
def summary(study: Path, tmp_path_factory: pytest.TempPathFactory) -> report.Summary:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "plots", lambda *_: [])
        patch.setattr(files, "accuracy", lambda *_: None)
        patch.setattr(files, "write_page", lambda *_: None)
        return report.summarise(shutil.copytree(study, tmp_path_factory.mktemp("summed") / "up"))


def frame(path: Path, sheet: str) -> pd.DataFrame:
    return pd.read_excel(path, sheet_name=sheet, dtype=str, keep_default_na=False)


def notes(summary: report.Summary) -> str:
    return "\n".join(sheet_of(summary, "notes")["notes"])


# the summary -------------------------------------------------------------------------------------------------------------


def test_ties_with_the_best_are_bold_and_slanted(summary: report.Summary):
    letters = {name: cell_of(summary, name, "GQA letters").value for name in CONFIGS}
    assert set(letters["tiny_script_16"]) & set(letters["tiny_pool_16"])
    assert not set(letters["tiny_script_16"]) & set(letters["tiny_random_16"])
    assert letters["tiny_full"] is None
    assert bold(summary, "GQA") == {"tiny_script_16", "tiny_pool_16"}
    slanted = {name for name in CONFIGS if cell_of(summary, name, "GQA").font.i}
    assert slanted == {"tiny_pool_16"}
    assert "cannot be told apart" in notes(summary)


def test_intervals_are_those_of_the_rows_everywhere(summary: report.Summary):
    assert summary.evidence is not None
    key = ("tiny_pool_16", "POPE")
    score, kept, mean = summary.evidence.interval[key], summary.evidence.retention[key], summary.evidence.mean_retention[key[0]]
    heads = [f"{what} 95% {end}" for what in ("POPE", "POPE retention", "mean retention") for end in ("low", "high")]
    shown = [cell_of(summary, key[0], head).value for head in heads]
    assert shown == pytest.approx([end for one in (score, kept, mean) for end in (one.low, one.high)])
    assert shown[1] - shown[0] != pytest.approx(2 * 1.96)  # of the standard error in the result
    long = sheet_of(summary, "long").set_index(["config", "benchmark"]).loc[key]
    found = long[["95% low", "95% high", "retention 95% low", "retention 95% high"]].tolist()
    assert found == pytest.approx([score.low, score.high, kept.low, kept.high])
    assert [long["n"], long["clusters"], long["loyalty %"]] == [N, N // 2, 100]
    line = next(line for line in report.table(summary).splitlines() if line.startswith("tiny_pool_16"))
    assert f"{score.low:.1f} to {score.high:.1f}" in line


def test_a_head_stands_where_its_figures_do(summary: report.Summary):
    """At the right, with room for the filter's arrow there, over numbers; over texts at the left."""
    book = openpyxl.load_workbook(summary.workbook)
    places = {cell.value: (cell.alignment.horizontal, cell.column_letter) for cell in book["long"][1]}
    assert {head: places[head][0] for head in ("config", "score", "n", "letters", "budget")} == {
        "config": None, "score": "right", "n": "right", "letters": None, "budget": "right"}  # fmt: skip
    assert all(cell.alignment.wrap_text for cell in book["long"][1])
    width = {head: book["long"].column_dimensions[letter].width for head, (_, letter) in places.items()}
    assert width["standard error"] == len("standard") + 4 + 2
    rows = openpyxl.load_workbook(summary.workbook.parent / "tiny_pool_16" / "tiny_pool_16.xlsx")["GQA"]
    heads = {cell.value: cell.alignment.horizontal for cell in rows[1]}
    assert (heads["worth"], heads["prediction"]) == ("right", None)


def test_every_comparison_has_its_verdict(summary: report.Summary):
    table = sheet_of(summary, "statistics")
    assert summary.evidence is not None
    assert len(table) == len(summary.evidence.comparisons) > 0
    assert list(dict.fromkeys(table["why"])) == ["unpruned model", "random choice", "another method"]
    assert "has the same" not in notes(summary)
    assert "Corrected together" in notes(summary)
    lines = table.set_index(["benchmark", "why", "config", "against"])
    worse = lines.loc[("GQA", "unpruned model", "tiny_random_16", "tiny_full")]
    assert [worse["difference"], worse["won"], worse["lost"], worse["verdict"]] == [-65, 0, 39, "worse"]
    assert worse["95% low"] < -65 < worse["95% high"] < 0
    assert worse["McNemar p"] < worse["smallest detectable"]
    better = lines.loc[("GQA", "random choice", "tiny_script_16", "tiny_random_16")]
    same = lines.loc[("GQA", "unpruned model", "tiny_script_72", "tiny_full")]
    assert [better["verdict"], same["verdict"], same["p"], same["Holm p"]] == ["better", "cannot tell", 1, 1]


def test_costs_have_every_figure_of_the_result(summary: report.Summary):
    line = sheet_of(summary, "efficiency").set_index(["config", "benchmark"]).loc[("tiny_script_16", "GQA")]
    assert line[["ms.prefill", "peak_bytes"]].tolist() == [2.5, 7]
    assert line[["visual tokens entering", "kept %", "seconds per answer", "answers/s"]].tolist() == pytest.approx(
        [144, 100 * 16 / 144, 1 / 8, 8]
    )
    assert line["tokens in the first layer"] == 16


def test_what_is_small_has_three_digits():
    shown = [words(fine(value)) for value in (0.0076, 0.5, 12.345, 0.0, -0.00123)]
    assert shown == ["0.00760", "0.500", "12.35", "0.00", "-0.00123"]


def test_an_interval_is_said_as_it_is():
    """A perfect share has no upper arm: ± would promise more than 100."""
    assert Interval(76.53, 100.0).said(100.0) == "76.5 to 100.0"
    assert Interval(45.0, 55.2).said(50.0) == "±5.1"
    assert Interval(45.0, 56.0).said(50.0) == "45.0 to 56.0"
    assert Interval(0.0, 0.0).said(0.0) == "±0.0"


def test_a_mean_of_some_benchmarks_says_of_how_many(work_dir: Path):
    shutil.rmtree(work_dir / "tiny_pool_16" / "POPE")
    summary = report.summarise(work_dir)
    assert [cell_of(summary, name, "mean over benchmarks").value for name in ("tiny_pool_16", "tiny_script_16")] == [
        "1 of 2",
        None,
    ]
    assert "mean over 'k of n' benchmarks" in report.table(summary)
    assert "1 of 2" in next(line for line in report.table(summary).splitlines() if line.startswith("tiny_pool_16"))


def test_without_the_unpruned_model_it_is_named(work_dir: Path):
    shutil.rmtree(work_dir / "tiny_full")
    summary = report.summarise(work_dir)
    assert cell_of(summary, "tiny_pool_16", "mean retention %").value == "-"
    assert "no retention on GQA, POPE: add tiny_full to the run" in report.table(summary)
    assert "add tiny_full to the run" in notes(summary)


def test_without_rows_of_known_worth_nothing_is_said_of_them(work_dir: Path):
    for path in work_dir.glob("*/*/worth.jsonl"):
        path.unlink()
    summary = report.summarise(work_dir)
    workbook = openpyxl.load_workbook(summary.workbook)
    assert "statistics" not in workbook.sheetnames
    assert not [cell.value for cell in workbook["overview"][1] if "letters" in str(cell.value)]
    assert "There is no sheet 'statistics'" in notes(summary)
    assert "told apart" not in notes(summary)
    ends = [cell_of(summary, "tiny_pool_16", f"GQA 95% {end}").value for end in ("low", "high")]
    assert ends == pytest.approx([75 - 1.96, 75 + 1.96])


def test_charts_draw_the_figures(summary: report.Summary):
    workbook = openpyxl.load_workbook(summary.workbook)
    drawn: dict[str, list[list[Any]]] = {"scatterChart": [], "barChart": []}
    for chart in workbook["charts"]._charts:
        for series in chart.series:
            values = (series.yVal or series.val).numRef.f
            sheet, place = values.replace("$", "").replace("'", "").split("!")
            cells = [line[0].value for line in workbook[sheet][place]] if ":" in place else [workbook[sheet][place].value]
            drawn[chart.tagname].append([series.tx.v, *cells])
    scores = {str(row.config): row.score for row in summary.rows if row.benchmark == "GQA"}
    assert ["script", scores["tiny_script_16"], scores["tiny_script_72"]] in drawn["scatterChart"]
    assert ["unpruned", scores["tiny_full"]] in drawn["scatterChart"]
    kept = {str(row.config): row.retention for row in summary.rows if row.benchmark == "GQA"}
    assert ["script", kept["tiny_script_72"], kept["tiny_script_16"]] in drawn["barChart"]
    assert ["random", None, kept["tiny_random_16"]] in drawn["barChart"]
    assert len(workbook["charts"]._charts) == 2 * len(BENCHMARKS) + 1  # and the mean


# a configuration's workbook ----------------------------------------------------------------------------------------------


def test_a_configurations_workbook(summary: report.Summary):
    path = summary.workbook.parent / "tiny_pool_16" / "tiny_pool_16.xlsx"
    assert path in summary.books
    assert len(summary.books) == len(CONFIGS)
    workbook = openpyxl.load_workbook(path)
    assert workbook.sheetnames == ["benchmarks", *BENCHMARKS]
    assert all(sheet.freeze_panes == "B2" and sheet.auto_filter.ref for sheet in workbook)
    front = frame(path, "benchmarks").set_index("benchmark").loc["GQA"]
    assert front[["score", "n", "failed", "visual tokens", "rows shown"]].tolist() == ["75", "60", "1", "16", "60"]
    table = frame(path, "GQA")
    assert list(table.columns) == ["index", "question", "A", "answer", "prediction", "read", "worth", "failed"]
    assert table.loc[3, ["index", "prediction", "worth", "failed"]].tolist() == ["3", "", "0", "=out of memory"]
    assert table.loc[20].tolist() == ["20", "Question 20?", "red", "yes", "answer 20", "Yes", "1", ""]
    assert workbook["GQA"]["G2"].number_format == "0.00"


def changed(work_dir: Path) -> set[str]:
    """The configurations whose workbooks are written anew."""
    before = {path: path.stat().st_mtime_ns for path in work_dir.glob("*/*.xlsx")}
    report.summarise(work_dir)
    return {path.stem for path in work_dir.glob("*/*.xlsx") if before.get(path) != path.stat().st_mtime_ns}


def test_only_what_changed_is_written_again(work_dir: Path):
    assert changed(work_dir) == set(CONFIGS)
    assert changed(work_dir) == set()
    again = [float(i >= 9) for i in range(N)]
    shutil.rmtree(work_dir / "tiny_pool_16" / "GQA")
    cell(work_dir, "tiny_pool_16", "GQA", again)
    shutil.rmtree(work_dir / "tiny_script_16" / "POPE")
    (work_dir / "tiny_random_16" / "tiny_random_16.xlsx").write_bytes(b"no workbook")
    assert {"tiny_pool_16", "tiny_script_16", "tiny_random_16"} <= changed(work_dir) < set(CONFIGS)
    shutil.rmtree(work_dir / "tiny_full" / "GQA")
    cell(work_dir, "tiny_full", "GQA", again)
    assert changed(work_dir) == set(CONFIGS)  # retention is on each


def test_rebuilding_gives_the_same_bytes(work_dir: Path):
    first = {path: path.read_bytes() for path in (report.summarise(work_dir).workbook, *work_dir.glob("*/*.xlsx"))}
    for path in first:
        path.unlink()
    report.summarise(work_dir)
    assert {path: path.read_bytes() for path in first} == first


def test_very_many_rows_are_shown_in_part(work_dir: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(book, "MOST", N - 1)
    monkeypatch.setattr(book, "SHOWN", 7)
    report.summarise(work_dir)
    table = frame(work_dir / "tiny_full" / "tiny_full.xlsx", "GQA")
    assert table["index"].tolist() == ["…", *map(str, range(7))]
    assert table.loc[0, "question"].startswith("The first 7 of 60 rows. All of them: GQA/tiny_full_GQA.xlsx")
    assert table["prediction"].tolist()[1:] == [f"answer {i}" for i in range(7)]
    assert frame(work_dir / "tiny_full" / "tiny_full.xlsx", "benchmarks")["rows shown"].tolist() == ["7", "7"]


@pytest.mark.parametrize("content", [None, b"", b"no workbook"], ids=["missing", "empty", "foreign"])
def test_without_its_workbook_a_cell_still_has_its_answers(work_dir: Path, content: bytes | None):
    for path in work_dir.glob("tiny_*/GQA/*.xlsx"):
        path.unlink() if content is None else path.write_bytes(content)
    report.summarise(work_dir)
    table = frame(work_dir / "tiny_full" / "tiny_full.xlsx", "GQA")
    assert list(table.columns) == ["index", "prediction", "read", "worth", "failed"]
    assert table.loc[20].tolist() == ["20", "answer 20", "Yes", "1", ""]
    other = frame(work_dir / "tiny_full" / "tiny_full.xlsx", "POPE")
    assert "question" in other.columns


def test_without_answers_a_cell_still_has_its_figures(work_dir: Path):
    (work_dir / "tiny_full" / "GQA" / "predictions.jsonl").unlink()
    report.summarise(work_dir)
    table = frame(work_dir / "tiny_full" / "tiny_full.xlsx", "GQA")
    assert table.loc[20].tolist() == ["20", "Question 20?", "red", "yes", "", "Yes", "1", ""]


# texts -------------------------------------------------------------------------------------------------------------------


def nasty(count: int) -> list[str]:
    """All different kinds of texts that a spreadsheet could take for something else, joined at random."""
    rng = random.Random(7)
    pieces = [
        *NASTY,
        *ESCAPED,
        "_x000D_",
        "_x000d_",
        "x005F_",
        "_x",
        "{=1}",
        "=cmd|' /C calc'!A0",
        "\u202e",
        "\u0000",
        "1.50",
        "1e400",
    ]
    points = [*range(32), *range(0x7F, 0xA0), 0xD800, 0xDFFF, 0xFFFE, 0x10FFFF, 0x1F468, 0x200D, 0x661, *range(65, 91)]
    found = [*pieces, "long " * 6553 + "ye"]
    while len(found) < count:
        found.append(
            "".join(rng.choice(pieces) if rng.random() < 0.7 else chr(rng.choice(points)) for _ in range(rng.randint(1, 5)))
        )
    return [json.loads(json.dumps(text)) for text in found]  # two halves side by side are a pair for JSON


def formulas(path: Path) -> list[str]:
    with zipfile.ZipFile(path) as file:
        sheets = [name for name in file.namelist() if name.startswith("xl/worksheets/")]
        return [name for name in sheets if re.search(rb"<f[ >/]", file.read(name))]


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    work_dir, texts = tmp_path_factory.mktemp("fuzz"), nasty(5000)
    rows = [{"index": str(i), "question": text, "answer": texts[-1 - i]} for i, text in enumerate(texts)]
    cell(work_dir, "tiny_full", "GQA", [1.0] * len(texts), texts, rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "plots", lambda *_: [])
        patch.setattr(files, "write_page", lambda *_: None)
        report.summarise(work_dir)
    return work_dir / "tiny_full" / "tiny_full.xlsx", texts


def test_no_text_changes_on_its_way_through_a_workbook(fuzzed: tuple[Path, list[str]]):
    path, texts = fuzzed
    table = frame(path, "GQA")
    for column, expected in {"prediction": texts, "question": texts, "answer": texts[::-1]}.items():
        assert [celltext.unescape(text) for text in table[column]] == expected
    plain = [i for i, text in enumerate(texts) if celltext.escape(text) == text]
    assert len(plain) > 1000
    assert [table["prediction"][i] for i in plain] == [texts[i] for i in plain]
    lines = openpyxl.load_workbook(path, read_only=True)["GQA"].iter_rows(min_row=2, min_col=4, max_col=4, values_only=True)
    assert [celltext.unescape(text or "") for (text,) in lines] == texts


def test_no_cell_is_a_formula(fuzzed: tuple[Path, list[str]], summary: report.Summary):
    books = [fuzzed[0], fuzzed[0].parent / "GQA" / "tiny_full_GQA.xlsx", summary.workbook, *summary.books]
    assert [formulas(path) for path in books] == [[]] * len(books)


def test_text_in_a_result_is_no_formula_either(work_dir: Path):
    path = work_dir / "tiny_full" / "GQA" / "result.json"
    data = json.loads(path.read_text())
    data["provenance"] |= {"command": "=1+1", "=key": ["@a", "=b"]}
    path.write_text(json.dumps(data | {"efficiency": {"=x": "-1"}}))
    summary = report.summarise(work_dir)
    assert not formulas(summary.workbook)
    assert "=b" in " ".join(map(str, sheet_of(summary, "provenance")["=key"]))


def test_what_is_cut_says_so(work_dir: Path):
    shutil.rmtree(work_dir / "tiny_full" / "GQA")
    cell(work_dir, "tiny_full", "GQA", [1.0] * 2, ["x" * 40_000, "short"])
    report.summarise(work_dir)
    found = frame(work_dir / "tiny_full" / "tiny_full.xlsx", "GQA")["prediction"]
    assert found[0].endswith("whole in predictions.jsonl]")
    assert (len(found[0]), found[1]) == (celltext.CELL_LIMIT, "short")


# another reader ----------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(shutil.which("soffice") is None, reason="LibreOffice (soffice) is not installed")
def test_libreoffice_reads_the_same_texts(fuzzed: tuple[Path, list[str]], tmp_path: Path):
    """Escapes undone as the format says, and nothing computed."""
    filters = "csv:Text - txt - csv (StarCalc):44,34,76,1,,0,true,false,false,false,false,2"
    home = f"-env:UserInstallation=file://{tmp_path}/home"
    done = subprocess.run(
        ["soffice", "--headless", home, "--convert-to", filters, "--outdir", str(tmp_path), str(fuzzed[0])],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    (written,) = tmp_path.glob("*.csv")
    assert not done.returncode
    with open(written, newline="", encoding="utf-8") as file:
        csv.field_size_limit(1 << 20)
        lines = list(csv.reader(file))[1:]
    plain = [i for i, text in enumerate(fuzzed[1]) if re.fullmatch(r"[ -~\u0590-\u05ff\U0001f600]*", text)]
    assert len(plain) > 400
    assert [lines[i][3] for i in plain] == [fuzzed[1][i] for i in plain]
