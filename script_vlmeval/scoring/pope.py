"""POPE: F1 of "yes, it is there", over three ways of choosing what to ask for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from .points import of_f1
from .verdicts import Row, Verdicts, error_of, mean, prediction_of, require
from .yesno import gold_yes_no, pope_reading

Counts = Mapping[str, int]  # "tp", "fp", "tn", "fn", "yes" and "all" of some rows


def pope(rows: Sequence[Row]) -> Verdicts:
    """All in percent. `F1`: unweighted mean over the splits in `category` (a cell may list several, comma-separated).

    `stderr` is of `F1`, linearised, clustered by picture. `F1 pooled`, `accuracy`, `precision`, `recall` and `yes ratio` are over
    all rows, one that stands in several splits counting in each; `<split>/...` has the same five. An empty prediction is wrong
    and not a yes. UserError when a reference is neither yes nor no.
    """
    require(rows)
    said, gold = [pope_reading(prediction_of(row)) for row in rows], [gold_yes_no(row) for row in rows]
    counted: dict[str, list[tuple[int, list[str]]]] = {}  # split -> the rows in it, and what each adds to
    for i, row in enumerate(rows):
        for split in _splits(row):
            counted.setdefault(split, []).append((i, _outcome(said[i], gold[i])))
    whole = {split: Counter(kind for _, kinds in members for kind in kinds) for split, members in sorted(counted.items())}
    pooled = _figures(sum(whole.values(), Counter()))
    points = of_f1(
        len(rows), [[(i, "tp" in kinds, not {"fp", "fn"}.isdisjoint(kinds)) for i, kinds in s] for s in counted.values()]
    )
    metrics = {
        "F1": mean([_figures(counts)["F1"] for counts in whole.values()]),
        **error_of(points, rows, scale=1),
        "F1 pooled": pooled.pop("F1"),
    }
    metrics |= pooled
    for split, counts in whole.items():
        metrics |= {f"{split}/{name}": value for name, value in _figures(counts).items() if split}
    return Verdicts(said, [float(a == g) for a, g in zip(said, gold, strict=True)], metrics, points)


def _splits(row: Row) -> list[str]:
    return [split.strip() for split in row.get("category", "").split(",") if split.strip()] or [""]


def _outcome(answer: str, truth: str) -> list[str]:
    """What one row adds to; an empty answer to a No is a miss of neither kind, wrong in accuracy alone."""
    kinds = {("Yes", "Yes"): "tp", ("Yes", "No"): "fp", ("No", "No"): "tn", ("No", "Yes"): "fn", ("", "Yes"): "fn"}
    return ["all", *(["yes"] if answer == "Yes" else []), *filter(None, [kinds.get((answer, truth))])]


def _figures(counts: Counts) -> dict[str, float]:
    """F1, accuracy, precision, recall and yes ratio in percent; 0 where nothing was said or asked."""
    tp, wrong = counts["tp"], counts["fp"] + counts["fn"]
    return {
        "F1": _percent(2 * tp, 2 * tp + wrong),
        "accuracy": _percent(tp + counts["tn"], counts["all"]),
        "precision": _percent(tp, tp + counts["fp"]),
        "recall": _percent(tp, tp + counts["fn"]),
        "yes ratio": _percent(counts["yes"], counts["all"]),
    }


def _percent(part: int, whole: int) -> float:
    return 100 * part / whole if whole else 0.0
