"""Comparisons from the disk: what is paired, the figures, what is refused, and what differs between two people's runs."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from script_vlmeval import compare, stats
from script_vlmeval.errors import UserError
from script_vlmeval.store import CellStore

SETTINGS = {"dtype": "float32", "data": "d1", "seed": 0, "torch": "2.9"}
FULL = [1, 1, 1, 0, 1, 1, 1, 0, 1, 1, 1, 1] * 2
PRUNED = [1, 0, 1, 0, 1, 0, 0, 0, 1, 1, 0, 0] * 2

pytestmark = pytest.mark.usefixtures("quick")


def cell(
    work_dir: Path,
    config: str,
    right: Sequence[int],
    benchmark: str = "GQA",
    *,
    unknown: bool = False,
    first: int = 0,
    said: dict[int, str] | None = None,
    settings: dict[str, Any] | None = None,
    **result: Any,
) -> Path:
    """A finished cell. right: what rows are worth; two rows share a picture; unknown: nothing says what rows are worth."""
    fingerprint = {"config": config, "method gamma": len(config), **SETTINGS, **(settings or {})}
    store = CellStore(work_dir, config, benchmark, fingerprint)
    texts = {i: (said or {}).get(i, f"{worth}") for i, worth in enumerate(right)}
    lines = [
        {"index": str(i + first), "cluster": f"c{i // 2}", "read": texts[i], "worth": float(worth)}
        for i, worth in enumerate(right)
    ]
    figures = {"score": 100 * sum(right) / len(right), "n": len(right), "failed": 0, "primary": "Overall", "scorer": "exact"}
    with store:
        store.open()
        store.append([{"index": str(i + first), "prediction": text} for i, text in texts.items()])
        store.finish({**figures, "fingerprint": fingerprint, **result}, None if unknown else lines)
    return store.folder


def lines_of(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().out.splitlines()


def row_of(lines: list[str], name: str) -> dict[str, str]:
    """The figures of a line of the table, by column."""
    head = next(line for line in lines if " clusters " in line)
    line = next(line for line in lines if line.startswith(name))
    cut = [re.split(r"  +", text.strip()) for text in (head, line)]
    return dict(zip(cut[0], cut[1][1:], strict=True))


# figures -------------------------------------------------------------------------------------------------------------------


def test_two_configurations_of_one_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    cell(tmp_path, "tiny_script_16", PRUNED)
    cell(tmp_path, "tiny_full", FULL)
    assert compare.command("tiny_script_16", "tiny_full", tmp_path) == 0
    lines = lines_of(capsys)
    row = row_of(lines, "GQA")
    data = stats.Paired([[100 * a, 100 * b] for a, b in zip(PRUNED, FULL, strict=True)], [i // 2 for i in range(24)])
    exact = data.difference(0, 1)
    assert (row["n"], row["clusters"], row["A"], row["B"]) == ("24", "12", "41.67", "83.33")
    assert (row["A - B"], row["95 %"]) == ("-41.67", f"[{exact.low:+.2f}, {exact.high:+.2f}]")
    assert (row["p"], row["McNemar"]) == (f"{exact.p:.4f}", f"{stats.mcnemar(0, 10):.4f}")
    assert (row["won"], row["lost"], row["same"]) == ("0", "10", "58.3 %")
    assert (row["detectable"], row["verdict"]) == (f"{exact.detectable:.2f}", "A is worse")
    assert not any("Settings that differ" in line for line in lines)  # gamma differs by nature
    assert not any("Overall" in line for line in lines)


def test_the_other_way_round_is_better(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    cell(tmp_path, "tiny_script_16", PRUNED)
    cell(tmp_path, "tiny_full", FULL)
    compare.command("tiny_full", "tiny_script_16", tmp_path)
    row = row_of(lines_of(capsys), "GQA")
    assert (row["A - B"], row["won"], row["verdict"]) == ("+41.67", "10", "A is better")


def test_several_benchmarks_have_an_overall_line_and_adjusted_ps(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for config, right in (("tiny_script_16", PRUNED), ("tiny_full", FULL)):
        cell(tmp_path, config, right)
        cell(tmp_path, config, right, "POPE")
    compare.command("tiny_script_16", "tiny_full", tmp_path)
    lines = lines_of(capsys)
    row = row_of(lines, "POPE")
    assert float(row["Holm p"]) == pytest.approx(2 * float(row["p"]), abs=2e-4)
    (overall,) = [line for line in lines if line.startswith("Overall")]
    assert "mean over 2 benchmarks of A in percent of B: 50.00" in overall
    assert overall.endswith("A is worse")
    compare.command("tiny_script_16", "tiny_full", tmp_path, ["pope"])
    assert not any("GQA" in line for line in lines_of(capsys))


def test_a_small_difference_is_not_told_apart_and_none_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    cell(tmp_path, "tiny_full", FULL)
    cell(tmp_path, "tiny_cdpruner_16", [*FULL[:-1], 0])
    cell(tmp_path, "tiny_script_16", FULL)
    compare.command("tiny_cdpruner_16", "tiny_full", tmp_path)
    assert row_of(lines_of(capsys), "GQA")["verdict"] == "cannot tell"
    compare.command("tiny_script_16", "tiny_full", tmp_path)
    row = row_of(lines_of(capsys), "GQA")
    assert (row["95 %"], row["p"], row["verdict"]) == ("[+0.00, +0.00]", "1.0000", "no row differs")


def test_verdicts_go_by_the_adjusted_p(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for name in ("GQA", "POPE", "TextVQA"):
        cell(tmp_path, "tiny_full", [1] * 24, name)
        cell(tmp_path, "tiny_script_16", [0, 1, 1, 1] * 6, name)
    compare.command("tiny_script_16", "tiny_full", tmp_path, ["GQA"])
    assert row_of(lines_of(capsys), "GQA")["verdict"] == "A is worse"
    compare.command("tiny_script_16", "tiny_full", tmp_path)
    row = row_of(lines_of(capsys), "GQA")
    assert float(row["p"]) < 0.05 < float(row["Holm p"])
    assert row["verdict"] == "cannot tell"


def test_rows_that_cancel_do_differ(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    cell(tmp_path, "tiny_full", [1, 0] * 12)
    cell(tmp_path, "tiny_script_16", [0, 1] * 12)
    compare.command("tiny_script_16", "tiny_full", tmp_path)
    row = row_of(lines_of(capsys), "GQA")
    assert (row["A - B"], row["verdict"]) == ("+0.00", "cannot tell")


def test_the_overall_line_is_the_mean_of_the_ratios(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """The same rows on two benchmarks are two samples, not one counted twice."""
    for name in ("GQA", "POPE"):
        cell(tmp_path, "tiny_full", FULL, name)
        cell(tmp_path, "tiny_script_16", PRUNED, name)
    compare.command("tiny_script_16", "tiny_full", tmp_path)
    (overall,) = [line for line in lines_of(capsys) if line.startswith("Overall")]
    both = [[100 * a, 100 * b] for a, b in zip(PRUNED, FULL, strict=True)]
    ratio = stats.Paired(both, [i // 2 for i in range(24)]).ratio(0, 1)
    mean = stats.mean_of_ratios([ratio, ratio])
    assert f"50.00 (95 %: [{mean.low:.2f}, {mean.high:.2f}])" in overall
    for name in ("GQA", "POPE"):
        cell(tmp_path, "tiny_random_16", [0] * 24, name)
    compare.command("tiny_random_16", "tiny_full", tmp_path)
    (overall,) = [line for line in lines_of(capsys) if line.startswith("Overall")]
    assert overall.endswith("0.00 (95 %: -): cannot tell")


def test_failed_rows_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    cell(tmp_path, "tiny_full", FULL, failed=1)
    cell(tmp_path, "tiny_script_16", PRUNED, failed=2)
    compare.command("tiny_script_16", "tiny_full", tmp_path)
    lines = lines_of(capsys)
    assert "GQA: 2 rows of A failed and count as wrong." in lines
    assert "GQA: 1 row of B failed and counts as wrong." in lines
    cell(tmp_path, "tiny_full", FULL, "POPE")
    cell(tmp_path, "tiny_random_16", PRUNED, "POPE")
    compare.command("tiny_random_16", "tiny_full", tmp_path, ["POPE"])
    assert not any("failed" in line for line in lines_of(capsys))


def test_settings_beside_the_method_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    cell(tmp_path, "tiny_script_16", PRUNED, settings={"dtype": "bfloat16"})
    cell(tmp_path, "tiny_full", FULL)
    compare.command("tiny_script_16", "tiny_full", tmp_path)
    text = "\n".join(lines_of(capsys))
    assert "dtype: bfloat16 -> float32" in text
    assert "gamma" not in text


# two people's runs ---------------------------------------------------------------------------------------------------------


def test_two_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for folder, torch in (("a", "2.9"), ("b", "2.15")):
        cell(tmp_path / folder, "tiny_full", FULL, settings={"torch": torch})
        cell(tmp_path / folder, "tiny_script_16", PRUNED, settings={"torch": torch})
    cell(tmp_path / "a", "tiny_cdpruner_16", PRUNED)  # which one alone has
    assert compare.command(str(tmp_path / "a"), str(tmp_path / "b"), tmp_path) == 0
    lines = lines_of(capsys)
    assert row_of(lines, "tiny_full/GQA")["verdict"] == "no row differs"
    assert any("torch: 2.9 -> 2.15  (2 cells)" in line for line in lines)
    assert not any("cdpruner" in line or "Other answers" in line for line in lines)


def test_answers_that_differ_at_equal_settings(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    cell(tmp_path / "a", "tiny_full", FULL)
    cell(tmp_path / "b", "tiny_full", FULL, said={3: "zero", 11: "one"})
    compare.command(str(tmp_path / "a"), str(tmp_path / "b"), tmp_path)
    text = "\n".join(lines_of(capsys))
    assert "All settings are equal" in text
    assert "Other answers, tiny_full/GQA: 2 of 24 rows, though all settings are equal: 3, 11" in text


def test_half_precision_may_explain_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    cell(tmp_path / "a", "tiny_full", FULL, settings={"dtype": "bfloat16"})
    cell(tmp_path / "b", "tiny_full", FULL, settings={"dtype": "bfloat16"}, said={3: "zero"})
    compare.command(f"{tmp_path}/a/tiny_full", f"{tmp_path}/b/tiny_full", tmp_path)
    assert "half precision: rounding goes with the batch" in capsys.readouterr().out


def test_answers_that_are_not_there_are_not_other_ones(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    cell(tmp_path / "a", "tiny_full", FULL)
    path = cell(tmp_path / "b", "tiny_full", FULL) / "predictions.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:20]))
    for kept in (20, 0):
        assert compare.command(str(tmp_path / "a"), str(tmp_path / "b"), tmp_path) == 0
        lines = lines_of(capsys)
        assert f"Answers not compared, tiny_full/GQA: '{path.parent}' holds {kept} of 24." in lines
        assert not any("Other answers" in line for line in lines)
        path.unlink(missing_ok=True)


def test_one_configuration_of_each_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    cell(tmp_path / "a", "tiny_full", FULL)
    cell(tmp_path / "b", "tiny_script_16", PRUNED)
    compare.command("tiny_full", f"{tmp_path}/b/tiny_script_16", tmp_path / "a")
    assert row_of(lines_of(capsys), "GQA")["won"] == "10"


# refusals ------------------------------------------------------------------------------------------------------------------


def refused(a: str, b: str, work_dir: Path, data: Sequence[str] = ()) -> str:
    with pytest.raises(UserError) as error:
        compare.command(a, b, work_dir, data)
    return str(error.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"right": FULL[:10]}, "other numbers of rows: 24"),
        ({"first": 1}, "other rows"),
        ({"settings": {"data": "d2"}}, "other tables"),
        ({"primary": "plain"}, "other main figures"),
        ({"scorer": "vlmeval"}, "other scorers"),
        ({"judge": "gpt-4"}, "other judges"),
        ({"score": 10.0}, "do not explain its score"),
        ({"unscored": "it needs a judge"}, "it needs a judge"),
    ],
)
def test_what_cannot_be_compared(tmp_path: Path, change: dict[str, Any], words: str):
    cell(tmp_path, "tiny_full", FULL)
    cell(tmp_path, "tiny_script_16", **{"right": FULL, **change})
    assert words in refused("tiny_full", "tiny_script_16", tmp_path)


def test_without_worths_the_command_that_writes_them_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    cell(tmp_path, "tiny_full", FULL)
    cell(tmp_path, "tiny_script_16", PRUNED, unknown=True)
    message = refused("tiny_script_16", "tiny_full", tmp_path)
    assert f"run.py --mode eval --model tiny_script_16 --data GQA --work-dir {tmp_path}" in message
    for config in ("tiny_full", "tiny_script_16"):
        cell(tmp_path, config, PRUNED, "POPE")
    assert compare.command("tiny_script_16", "tiny_full", tmp_path) == 1  # what can be is compared, and the rest told
    lines = lines_of(capsys)
    assert row_of(lines, "POPE")["n"] == "24"
    assert any(line.startswith("Not compared: GQA:") for line in lines)


def test_damaged_worths(tmp_path: Path):
    cell(tmp_path, "tiny_full", FULL)
    path = cell(tmp_path, "tiny_script_16", PRUNED) / "worth.jsonl"
    path.write_text(path.read_text() + "not json\n")
    message = refused("tiny_full", "tiny_script_16", tmp_path)
    assert f"'{path}' is damaged: line 25 is not JSON" in message
    assert "run.py --mode eval --model tiny_script_16 --data GQA" in message


@pytest.mark.parametrize("unknown", [24, 3])
def test_rows_without_points(tmp_path: Path, unknown: int):
    """Where no row has any, scoring again would say no more; where some have none, the file is not what was written."""
    cell(tmp_path, "tiny_full", FULL)
    path = cell(tmp_path, "tiny_script_16", PRUNED) / "worth.jsonl"
    lines = [json.loads(line) | ({"points": None} if i < unknown else {}) for i, line in enumerate(path.open())]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    message = refused("tiny_full", "tiny_script_16", tmp_path)
    assert ("--mode eval" in message) == (unknown == 3)
    assert ("cannot be compared row by row" in message) == (unknown == 24)


def test_a_figure_beyond_all_numbers_is_no_result(tmp_path: Path):
    cell(tmp_path, "tiny_full", FULL)
    cell(tmp_path, "tiny_script_16", PRUNED, score=10**400)
    assert "holds no result of this program" in refused("tiny_full", "tiny_script_16", tmp_path)


def test_nothing_in_common(tmp_path: Path):
    """What each has is named; running again is advised where something is unfinished alone."""
    cell(tmp_path, "tiny_full", FULL)
    folder = cell(tmp_path, "tiny_script_16", PRUNED, "POPE")
    message = refused("tiny_full", "tiny_script_16", tmp_path)
    assert "no finished cell that both have: 'tiny_full' has GQA; 'tiny_script_16' has POPE." in message
    assert "the same run again" not in message
    named = refused("tiny_full", "tiny_script_16", tmp_path, ["GQA"])
    assert "'tiny_script_16' has no result on GQA: it has POPE." in named
    assert "the same run again" not in named
    (folder / "result.json").unlink()
    for message in (refused("tiny_full", "tiny_script_16", tmp_path, data) for data in ([], ["GQA"])):
        assert "has none." in message
        assert f"`run.py status --work-dir {tmp_path}` says what is done; the same run again finishes the rest." in message
    cell(tmp_path / "a", "tiny_full", FULL)
    for name in ("GQA", "POPE", "MME", "TextVQA", "VizWiz", "SEEDBench_IMG", "ScienceQA_TEST", "MMStar", "AI2D_TEST"):
        cell(tmp_path / "b", "tiny_script_16", PRUNED, name)
    message = refused(str(tmp_path / "a"), str(tmp_path / "b"), tmp_path)
    assert "has tiny_full/GQA; " in message
    assert "tiny_script_16/POPE" in message
    assert ", 1 more." in message


def test_names(tmp_path: Path):
    cell(tmp_path, "tiny_full", FULL)
    cell(tmp_path, "tiny_script_16", PRUNED, "POPE")
    assert "Did you mean 'tiny_script_16'" in refused("tiny_scrip_16", "tiny_full", tmp_path)
    empty = refused("tiny_full", "tiny_full", tmp_path / "none")
    assert "neither a folder of results nor a configuration" in empty
    assert empty.endswith("which has none; name its folder with --work-dir.")
    assert refused(str(tmp_path / "none" / "a"), "tiny_full", tmp_path).endswith("none; give a folder that a run has written.")
    assert "the same results" in refused("tiny_full", "tiny_full", tmp_path)
    assert "name two of a kind" in refused(str(tmp_path), "tiny_full", tmp_path)


def test_another_scorer_s_version_is_a_setting(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Answers of one version, scored again by another on one side."""
    cell(tmp_path / "mine", "tiny_full", FULL)
    cell(tmp_path / "theirs", "tiny_full", FULL, rescored={"code": "later"})
    assert compare.command(str(tmp_path / "mine"), str(tmp_path / "theirs"), tmp_path) == 0
    assert "code, of the scorer: (none) -> later" in capsys.readouterr().out
