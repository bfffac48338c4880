"""`summary.tex`: the figures of the overview, escaped, marked and the same again."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from test_report import put

from script_vlmeval.report.evidence import Evidence
from script_vlmeval.report.latex import escaped, write_table
from script_vlmeval.report.rows import read
from script_vlmeval.stats import Estimate


def lines(work_dir: Path, evidence: Evidence | None = None) -> dict[str, list[str]]:
    """The cells of each line that has several, by the first one; intervals by that of the line above with a bar behind it."""
    found, above = {}, ""
    for line in write_table(read(work_dir), evidence or Evidence()).read_text(encoding="utf-8").splitlines():
        if " & " in line:
            first, *cells = (cell.strip() for cell in line.removesuffix(r"\\").split(" & "))
            above, name = (first, first) if first else (above, f"{above} |")
            found[name] = cells
    return found


def study(work_dir: Path) -> None:
    put(work_dir, "tiny_full", "ShapesVQA", 90.0)
    for method, score in (("script", 81.0), ("pool", 80.0), ("random", 45.0)):
        put(work_dir, f"tiny_{method}_16", "ShapesVQA", score, failed=1 if method == "pool" else 0)
    put(work_dir, "tiny_script_16", "Shapes_YN", 70.0)


def test_scores_stand_over_their_intervals_and_the_best_is_bold(tmp_path: Path):
    study(tmp_path)
    around = {("tiny_script_16", "ShapesVQA"): Estimate(81.0, 60.0, 90.0, 1.0)}
    letters = {("tiny_script_16", "ShapesVQA"): "a", ("tiny_pool_16", "ShapesVQA"): "ab", ("tiny_random_16", "ShapesVQA"): "b"}
    found = lines(tmp_path, Evidence(interval=around, letters=letters))
    assert found["Method"] == ["ShapesVQA", r"Shapes\_YN", r"Retention, \%"]
    assert found["script"][:2] == [r"\textbf{81.0}", "70.0"]
    assert found["pool"] == [r"\underline{80.0*}", "--", "88.9*"]
    assert found["random"][0] == "45.0"
    assert [found["script |"][0], found["pool |"][0]] == [r"{\scriptsize 60.0--90.0}", r"{\scriptsize $\pm$2.0}"]


def test_every_line_has_all_columns_and_every_group_is_closed(tmp_path: Path):
    study(tmp_path)
    put(tmp_path, "tiny_script_25pct", "ShapesVQA", 80.0)
    text = write_table(read(tmp_path), Evidence()).read_text(encoding="utf-8")
    assert {len(cells) for cells in lines(tmp_path).values()} == {3}
    assert text.count("{") == text.count("}")
    assert r"25 \% of the visual tokens" in text
    assert r"\begin{tabular}{lccc}" in text


def test_the_same_folder_gives_the_same_bytes(tmp_path: Path):
    study(tmp_path)
    first = write_table(read(tmp_path), Evidence()).read_bytes()
    assert write_table(read(tmp_path), Evidence()).read_bytes() == first


@pytest.mark.parametrize("text", ["A&B", "50%", "a_b", "$x$", "#1", "{x}", "~", "^", "\\input{x}", "a\nb", "<b>"])
def test_no_text_is_a_command(text: str):
    bare = re.sub(r"\\(text(backslash|asciitilde|asciicircum|less|greater)\{\}|[&%$#_{}])", "", escaped(text))
    assert not set(bare) & set("\\&%$#_{}~^<>\n")
    assert escaped("plain text 1.0") == "plain text 1.0"
