"""What an axis of scores says: what was measured, and in which unit."""

from __future__ import annotations

from ..scoring import RULES
from .mean import MEAN
from .row import Row

_LABELS = {rule.label: rule.label.partition(",")[0] for rule in RULES.values()}
_POINTS = "total"  # the metric of rules that count points


def measured(row: Row) -> str:
    """The rule that scored and its unit; what a scorer of others calls its metric, whose unit is not known."""
    if row.benchmark == MEAN:
        return "mean retention, %"
    label = _LABELS.get(row.scorer.removeprefix("script_vlmeval "))
    if label is None:
        return "score" if row.metric in ("", "Overall") else row.metric
    if row.metric != _POINTS:
        return f"{label}, %"
    return label if label.endswith("points") else f"{label}, points"
