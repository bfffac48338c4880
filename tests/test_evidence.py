"""What the rows on disk say: intervals, comparisons, letters; and nothing where rows are missing, torn or others."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_report import put

from script_vlmeval import stats
from script_vlmeval.cells import Config
from script_vlmeval.report import Summary, figures
from script_vlmeval.report.evidence import Comparison, Evidence, evidence
from script_vlmeval.report.rows import read
from script_vlmeval.report.worth import Worths, panels, read_worth

N = 200
NAMES = ["tiny_full", "tiny_script_16", "tiny_random_16", "tiny_downsample_16", "tiny_script_8"]
SHARES = {"tiny_full": 0.9, "tiny_script_16": 0.85, "tiny_random_16": 0.5, "tiny_downsample_16": 0.8, "tiny_script_8": 0.4}


def tokens(config: str) -> dict[str, Any]:
    budget = config.split("_")[-1]
    return {"visual_full": 64.0, "visual_kept": float(budget) if budget.isdecimal() else 64.0, "layers": []}


def right(config: str, n: int = N) -> np.ndarray:
    """Of two questions about each picture: the easier ones, with some luck, the same in every run."""
    rng = np.random.default_rng(sum(map(ord, config)))
    easy = np.random.default_rng(0).random(n // 2).repeat(2)
    return (easy < SHARES[config]) ^ (rng.random(n) < 0.03)


def records(hits: np.ndarray, **more: Any) -> list[dict[str, Any]]:
    return [
        {"index": str(i), "cluster": f"{i // 2:08x}", "read": "yes" if hit else "no", "worth": float(hit), **more}
        for i, hit in enumerate(hits)
    ]


def cell(
    work_dir: Path,
    config: str,
    lines: list[dict[str, Any]] | None,
    benchmark: str = "POPE",
    score: float | None = None,
    **more: Any,
) -> Path:
    """A finished cell, without rows where `lines` is None. Returns the path of its rows."""
    known = [line.get("points", 100 * line["worth"]) for line in lines or [] if line.get("worth") is not None]
    score = (float(np.mean(known)) if known else 50.0) if score is None else score
    more = {"n": len(lines) if lines else N, "fingerprint": {"data": "d1"}, "tokens": tokens(config), **more}
    path = put(work_dir, config, benchmark, score, **more).with_name("worth.jsonl")
    if lines is not None:
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture
def work_dir(tmp_path: Path) -> Path:
    for config in NAMES:
        cell(tmp_path, config, records(right(config)))
    return tmp_path


def of(work_dir: Path) -> Evidence:
    return evidence(read(work_dir))


def comparison(found: Evidence, config: str, against: str, why: str) -> Comparison:
    return next(c for c in found.comparisons if (str(c.config), str(c.against), c.why) == (config, against, why))


# figures -----------------------------------------------------------------------------------------------------------------


def test_every_score_has_its_interval(work_dir: Path):
    found = of(work_dir)
    assert set(found.interval) == {(config, "POPE") for config in NAMES}
    expected = stats.share(right("tiny_script_16"), np.arange(N) // 2)
    assert found.interval["tiny_script_16", "POPE"] == expected
    assert expected.low < expected.value < expected.high


def test_retention_is_in_percent_of_the_unpruned_model(work_dir: Path):
    summary = read(work_dir)
    found = evidence(summary)
    for row in summary.rows:
        assert found.retention[str(row.config), "POPE"].value == pytest.approx(row.retention)
    full = found.retention["tiny_full", "POPE"]
    assert (full.low, full.value, full.high) == (100, 100, 100)
    assert found.mean_retention["tiny_script_16"] == found.retention["tiny_script_16", "POPE"]


def test_the_mean_retention_weighs_benchmarks_alike(work_dir: Path):
    for config in ("tiny_full", "tiny_script_16"):
        cell(work_dir, config, records(np.roll(right(config), 7)[:80]), "GQA")
    found = of(work_dir)
    parts = [found.retention["tiny_script_16", name] for name in ("POPE", "GQA")]
    mean = found.mean_retention["tiny_script_16"]
    assert mean.value == pytest.approx(sum(part.value for part in parts) / 2)
    assert mean == stats.mean_of_ratios(parts)
    assert mean.stderr == pytest.approx(math.hypot(*(part.stderr for part in parts)) / 2)
    assert found.mean_retention["tiny_full"].stderr == 0


def test_a_mean_with_a_benchmark_on_which_nothing_was_right_has_no_interval(work_dir: Path):
    cell(work_dir, "tiny_full", records(right("tiny_full")), "GQA")
    cell(work_dir, "tiny_script_16", records(np.zeros(N, dtype=bool)), "GQA")
    found = of(work_dir)
    assert ("tiny_script_16", "GQA") not in found.retention
    assert "tiny_script_16" not in found.mean_retention
    assert found.interval["tiny_script_16", "GQA"].high > 0


def test_nothing_is_retained_of_a_score_of_nothing(tmp_path: Path):
    """Also where points come to a trace that the score was rounded down from."""
    lines = [line | {"worth": 0.0} for line in records(right("tiny_full"))]
    cell(tmp_path, "tiny_full", [line | {"points": 0.004} for line in lines], score=0.0)
    cell(tmp_path, "tiny_script_16", [line | {"points": 0.008 * (i % 2)} for i, line in enumerate(lines)], score=0.0)
    cell(tmp_path, "tiny_full", lines, "GQA")
    cell(tmp_path, "tiny_script_16", records(right("tiny_script_16")), "GQA")
    found = of(tmp_path)
    assert not found.retention
    assert not found.mean_retention


def test_a_mean_with_a_benchmark_of_unknown_rows_has_no_interval(work_dir: Path):
    cell(work_dir, "tiny_full", None, "GQA")
    cell(work_dir, "tiny_script_16", None, "GQA")
    found = of(work_dir)
    assert "tiny_script_16" not in found.mean_retention
    assert "tiny_script_8" in found.mean_retention  # of POPE alone, as its mean is


def test_loyalty_is_agreement_with_the_unpruned_answer(work_dir: Path):
    found = of(work_dir)
    agree = right("tiny_full") == right("tiny_script_16")
    assert found.loyalty["tiny_script_16", "POPE"] == stats.share(agree, np.arange(N) // 2)
    assert ("tiny_full", "POPE") not in found.loyalty


def test_failed_rows_agree_with_nothing_and_unread_ones_with_each_other(tmp_path: Path):
    failed = {"read": "", "worth": 0.0, "failed": True}
    unread = {"read": "", "worth": 0.0}
    base = records(np.ones(10, dtype=bool))
    cell(tmp_path, "tiny_full", [base[0] | failed, base[1] | unread, *base[2:]])
    cell(tmp_path, "tiny_script_16", [base[0] | failed, base[1] | unread, base[2] | failed, *base[3:]])
    assert of(tmp_path).loyalty["tiny_script_16", "POPE"].value == pytest.approx(80)


def test_without_what_was_read_there_is_no_loyalty(tmp_path: Path):
    for config in ("tiny_full", "tiny_script_16"):
        cell(tmp_path, config, [{k: v for k, v in line.items() if k != "read"} for line in records(right(config))])
    found = of(tmp_path)
    assert not found.loyalty
    assert len(found.retention) == 2


def test_hard_rows_are_those_that_downsampling_has_wrong(work_dir: Path):
    found = of(work_dir)
    wrong = ~right("tiny_downsample_16")
    share, n = found.hard["tiny_script_16", "POPE"]
    assert n == wrong.sum()
    assert share == stats.share(right("tiny_script_16")[wrong], (np.arange(N) // 2)[wrong])
    assert set(found.hard) == {("tiny_script_16", "POPE"), ("tiny_random_16", "POPE")}  # of the same budget, and not itself


def test_half_right_is_not_hard(tmp_path: Path):
    halves = [line | {"worth": (0.25, 0.5, 1.0)[i % 3]} for i, line in enumerate(records(np.ones(N, dtype=bool)))]
    cell(tmp_path, "tiny_downsample_16", halves)
    cell(tmp_path, "tiny_script_16", records(right("tiny_script_16")))
    assert of(tmp_path).hard["tiny_script_16", "POPE"][1] == len(halves[::3])


def test_the_oracle_is_right_where_some_peer_is(work_dir: Path):
    some = np.any([right(name) for name in NAMES if name.endswith("_16")], axis=0)
    assert of(work_dir).oracle == {("tiny", "POPE", "16"): pytest.approx(100 * some.mean())}


# comparisons -------------------------------------------------------------------------------------------------------------


def test_what_is_compared_with_what(work_dir: Path):
    found = {(c.why, str(c.config), str(c.against)) for c in of(work_dir).comparisons}
    pruned = [name for name in NAMES if name != "tiny_full"]
    assert {(a, b) for why, a, b in found if why == "full"} == {(name, "tiny_full") for name in pruned}
    assert {(a, b) for why, a, b in found if why == "random"} == {
        (name, "tiny_random_16") for name in ("tiny_script_16", "tiny_downsample_16")
    }
    pairs = [{a, b} for why, a, b in found if why == "pair"]
    assert len(pairs) == 3
    assert all(name.endswith("_16") for pair in pairs for name in pair)


def test_the_unpruned_model_is_no_peer(tmp_path: Path):
    """A budget of all tokens reads as many."""
    for config in ("tiny_full", "tiny_script_64", "tiny_random_64"):
        cell(tmp_path, config, records(right(config if config in SHARES else "tiny_script_16")))
    found = of(tmp_path)
    pairs = [(str(c.config), str(c.against)) for c in found.comparisons if c.why == "pair"]
    assert [set(pair) for pair in pairs] == [{"tiny_script_64", "tiny_random_64"}]
    assert {config for config, _ in found.letters} == {"tiny_script_64", "tiny_random_64"}
    assert found.oracle["tiny", "POPE", "64"] == pytest.approx(100 * right("tiny_script_16").mean())


def test_random_choice_of_the_same_budget_goes_before_one_of_nearly_as_many_tokens(tmp_path: Path):
    for budget, kept in ((16, 16.0), (17, 16.1)):
        for method in ("script", "random"):
            measured = tokens("tiny_full") | {"visual_kept": kept}
            cell(tmp_path, f"tiny_{method}_{budget}", records(right(f"tiny_{method}_16")), tokens=measured)
    found = {str(c.config): str(c.against) for c in of(tmp_path).comparisons if c.why == "random"}
    assert found == {"tiny_script_16": "tiny_random_16", "tiny_script_17": "tiny_random_17"}


def test_a_verdict_goes_by_the_adjusted_p():
    difference = stats.Difference(2.0, 0.1, 3.9, 0.9, p=0.03, n=200, clusters=100, detectable=3.0, won=9, lost=5, mcnemar=0.1)
    names = Config.parse("tiny_script_16"), Config.parse("tiny_random_16")
    verdicts = [Comparison("POPE", *names, "pair", difference, adjusted).verdict for adjusted in (0.03, 0.09)]
    assert verdicts == ["better", "cannot tell"]


def test_differences_are_paired_and_adjusted_within_their_family(work_dir: Path):
    found = of(work_dir)
    one = comparison(found, "tiny_script_16", "tiny_full", "full").difference
    both = np.stack([right("tiny_script_16"), right("tiny_full")], axis=1)
    assert one == stats.Paired(100.0 * both, np.arange(N) // 2).difference(0, 1)
    assert one.stderr < found.interval["tiny_script_16", "POPE"].stderr  # what both share cancels
    for why in ("full", "random", "pair"):
        family = [c for c in found.comparisons if c.why == why]
        assert [c.adjusted for c in family] == pytest.approx(stats.holm([c.difference.p for c in family]))


def test_verdicts_and_letters_agree(work_dir: Path):
    found = of(work_dir)
    assert comparison(found, "tiny_script_16", "tiny_random_16", "random").verdict == "better"
    assert comparison(found, "tiny_script_8", "tiny_full", "full").verdict == "worse"
    assert found.letters == {
        ("tiny_script_16", "POPE"): "a",
        ("tiny_downsample_16", "POPE"): "a",
        ("tiny_random_16", "POPE"): "b",
    }
    pair = next(c for c in found.comparisons if c.why == "pair" and "random" not in str(c.config) + str(c.against))
    assert pair.verdict == "cannot tell"


def test_letters_go_by_all_pairs_and_not_by_the_comparison_with_random_choice(tmp_path: Path):
    """Two comparisons with random choice tell it from the others, the three of all pairs do not."""
    cell(tmp_path, "tiny_random_16", records(np.arange(24) % 4 > 0))
    for config in ("tiny_script_16", "tiny_cdpruner_16"):
        cell(tmp_path, config, records(np.ones(24, dtype=bool)))
    found = of(tmp_path)
    assert {c.verdict for c in found.comparisons if c.why == "random"} == {"better"}
    assert {c.verdict for c in found.comparisons if c.why == "pair"} == {"cannot tell"}
    assert set(found.letters.values()) == {"a"}


def test_points_carry_another_figure_than_the_rows_mean(tmp_path: Path):
    for config in ("tiny_full", "tiny_script_16"):
        cell(tmp_path, config, [line | {"points": 900 * line["worth"] + 3} for line in records(right(config))], "MME")
    found = of(tmp_path)
    hits = right("tiny_full")
    assert found.interval["tiny_full", "MME"].value == pytest.approx(900 * hits.mean() + 3)
    assert found.interval["tiny_full", "MME"].stderr == pytest.approx(stats.standard_error(900.0 * hits, np.arange(N) // 2))
    assert comparison(found, "tiny_script_16", "tiny_full", "full").difference.mcnemar is not None


def test_the_order_of_rows_does_not_matter(work_dir: Path):
    before = of(work_dir)
    path = work_dir / "tiny_script_16" / "POPE" / "worth.jsonl"
    path.write_text("".join(sorted(path.read_text().splitlines(keepends=True), reverse=True)))
    after = of(work_dir)
    assert after.comparisons == before.comparisons
    assert after.loyalty == before.loyalty


def test_the_same_folder_gives_the_same_evidence(work_dir: Path):
    cell(work_dir, "tiny_full", records(right("tiny_full")), "GQA")
    cell(work_dir, "tiny_script_16", records(right("tiny_script_16")), "GQA")
    assert of(work_dir) == of(work_dir)


# what cannot be used -----------------------------------------------------------------------------------------------------


def test_cells_without_rows_have_no_entries(tmp_path: Path):
    cell(tmp_path, "tiny_full", None)
    cell(tmp_path, "tiny_script_16", records(right("tiny_script_16")))
    found = of(tmp_path)
    assert set(found.interval) == {("tiny_script_16", "POPE")}
    assert not found.retention
    assert not found.comparisons


@pytest.mark.parametrize("different", ["rows", "table", "clusters"])
def test_other_rows_are_not_compared(tmp_path: Path, different: str):
    lines = records(right("tiny_script_16"))
    if different == "rows":
        lines = [line | {"index": f"x{line['index']}"} for line in lines]
    if different == "clusters":
        lines = [line | {"cluster": "0" * 7 + str(i % 2)} for i, line in enumerate(lines)]
    cell(tmp_path, "tiny_full", records(right("tiny_full")))
    cell(tmp_path, "tiny_script_16", lines, **({"fingerprint": {"data": "d2"}} if different == "table" else {}))
    found = of(tmp_path)
    assert len(found.interval) == 2
    assert not found.comparisons
    assert set(found.retention) == {("tiny_full", "POPE")}


@pytest.mark.parametrize("different", ["table", "number of rows"])
def test_peers_with_other_rows_share_no_letters_and_no_oracle(tmp_path: Path, different: str):
    """One pair of peers was asked other rows than the other pair: each alone would begin at 'a'."""
    rows, data = (100, "d1") if different == "number of rows" else (N, "d2")
    for config, n, table in (
        ("script_16", N, "d1"),
        ("random_16", N, "d1"),
        ("cdpruner_16", rows, data),
        ("fastv_16", rows, data),
    ):
        hits = right("tiny_random_16" if config in ("random_16", "fastv_16") else "tiny_script_16", n)
        cell(tmp_path, f"tiny_{config}", records(hits), fingerprint={"data": table})
    cell(tmp_path, "tiny_script_8", records(right("tiny_script_8")))
    cell(tmp_path, "tiny_random_8", records(right("tiny_random_16")))
    found = of(tmp_path)
    assert {str(c.config) for c in found.comparisons if c.why == "random"} == {"tiny_script_16", "tiny_script_8"}
    assert len([c for c in found.comparisons if c.why == "pair"]) == 3
    assert {config for config, _ in found.letters} == {"tiny_script_8", "tiny_random_8"}
    assert set(found.oracle) == {("tiny", "POPE", "8")}


def test_a_budget_of_two_tables_has_two_oracles(tmp_path: Path):
    for methods, kept, data in ((("script", "random"), 16.0, "d1"), (("cdpruner", "fastv"), 12.0, "d2")):
        for method in methods:
            measured = tokens("tiny_full") | {"visual_kept": kept}
            hits = right("tiny_script_16" if method != "random" else "tiny_random_16")
            cell(tmp_path, f"tiny_{method}_25pct", records(hits), tokens=measured, fingerprint={"data": data})
    found = of(tmp_path)
    assert set(found.oracle) == {("tiny", "POPE", "25pct (16 tokens)"), ("tiny", "POPE", "25pct (12 tokens)")}
    assert len(found.letters) == 4


def worths(indices: str) -> Worths:
    known = np.array([float(index) / 10 for index in indices])
    return Worths(tuple(indices), tuple(indices), tuple(indices), known, 100 * known)


def test_rows_in_another_order_are_like_and_a_part_of_them_is_not():
    assert worths("321").like(worths("123")) is not None
    assert worths("321").like(worths("123")).points == pytest.approx([10, 20, 30])
    assert worths("321").like(worths("123")).reads == ("1", "2", "3")
    assert worths("123").like(worths("12")) is None
    assert worths("12").like(worths("123")) is None


BAD = {
    "torn": lambda text: text[:-20],
    "foreign": lambda text: "index,worth\n1,2\n" + text,
    "a list": lambda text: "[1]\n" + text,
    "a line too many": lambda text: text + text.splitlines(keepends=True)[0],
    "twice": lambda text: text.replace('"index": "7"', '"index": "5"'),
    "without a name": lambda text: text.replace('"index": "7"', '"index": 7'),
    "without worth": lambda text: text.replace('"worth": 1.0', '"points": 100', 1),
    "huge worth": lambda text: text.replace('"worth": 1.0', '"worth": 1' + 400 * "0", 1),
    "not utf-8": lambda text: text.replace("yes", "\udcff", 1),
    "worth of text": lambda text: text.replace('"worth": 1.0', '"worth": "1"', 1),
    "worth above one": lambda text: text.replace('"worth": 1.0', '"worth": 7, "points": 100', 1),
    "some points null": lambda text: text.replace('"worth": 1.0', '"worth": 1.0, "points": null', 1),
    "other worths": lambda text: text.replace('"worth": 1.0', '"worth": 0.0'),
    "empty": lambda text: "",
}


SAID = {
    "torn": "it has 199 of the 200 rows",
    "foreign": "line 1 is not JSON",
    "a list": "line 1 does not name a row",
    "twice": "line 8 is about the same row as line 6",
    "without a name": "line 8 does not name a row",
    "without worth": "has no number as 'worth'",
    "huge worth": "has no number as 'worth'",
    "not utf-8": "is not JSON",
    "worth above one": "has a row that is worth 7: not from 0 to 1",
    "some points null": "it does not say what 1 of the 200 rows add to the score",
    "empty": "it has no rows",
}
WHOLE = {"torn", "other worths", "some points null", "empty"}  # lines of their own that are in order


@pytest.mark.parametrize("kind", BAD)
def test_bad_rows_are_left_out_with_a_warning(work_dir: Path, kind: str, caplog: pytest.LogCaptureFixture):
    path = work_dir / "tiny_script_16" / "POPE" / "worth.jsonl"
    path.write_bytes(BAD[kind](path.read_text()).encode(errors="surrogateescape"))
    with caplog.at_level(logging.WARNING):
        summary = read(work_dir)
        found = evidence(summary)
        assert (read_worth(path) is None) == (kind not in WHOLE)
    assert set(found.interval) == {(name, "POPE") for name in NAMES if name != "tiny_script_16"}
    (warning,) = caplog.messages
    assert warning.startswith(f"{path}: left out, ")
    assert SAID.get(kind, "") in warning
    assert "Error" not in warning
    assert f"`run.py --mode eval --model tiny_script_16 --data POPE --work-dir {work_dir}`" in warning
    assert found.damaged == {("tiny_script_16", "POPE")}


def test_another_interval_stands_in_for_rows_that_are_not_there_and_not_for_damaged_ones(tmp_path: Path):
    cell(tmp_path, "tiny_full", None, score=50.0, stderr=2.0)
    cell(tmp_path, "tiny_script_16", records(right("tiny_script_16")), stderr=2.0).write_text("torn\n")
    summary = read(tmp_path)
    found = evidence(summary)
    absent, damaged = (figures.score(row, found) for row in summary.rows)
    assert absent == figures.Interval(50 - 3.92, 50 + 3.92)
    assert damaged is None
    assert found.damaged == {("tiny_script_16", "POPE")}


def test_no_rows_are_said_to_be_none(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    cell(tmp_path, "tiny_full", [], n=0)
    with caplog.at_level(logging.WARNING):
        assert not of(tmp_path).interval
    assert "it has no rows" in caplog.text


def test_rows_of_unknown_worth_are_left_out(tmp_path: Path):
    lines = [line | {"worth": None} for line in records(right("tiny_full"))]
    cell(tmp_path, "tiny_full", lines)
    assert of(tmp_path) == Evidence()


def test_one_picture_has_no_interval(tmp_path: Path):
    for config in ("tiny_full", "tiny_script_16"):
        cell(tmp_path, config, [line | {"cluster": "00000000"} for line in records(right(config))])
    found = of(tmp_path)
    assert not found.interval
    assert not found.comparisons
    assert set(found.retention) == {("tiny_full", "POPE")}


def test_configurations_without_measured_tokens_are_nobodys_peers(tmp_path: Path):
    for config in ("tiny_script_16", "tiny_random_16"):
        cell(tmp_path, config, records(right(config)), tokens={})
    found = of(tmp_path)
    assert len(found.interval) == 2
    assert not found.comparisons
    assert not found.letters


def test_reading_one_file(work_dir: Path):
    found = read_worth(work_dir / "tiny_full" / "POPE" / "worth.jsonl")
    assert isinstance(found, Worths)
    assert found.points == pytest.approx(100.0 * right("tiny_full"))
    assert read_worth(work_dir / "nobody.jsonl") is None
    summary: Summary = read(work_dir)
    (panel,) = panels(summary.rows, work_dir)
    assert panel.points.shape == (N, len(NAMES))
