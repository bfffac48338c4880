"""GQA's accuracy: one short answer, compared exactly."""

from __future__ import annotations

from collections.abc import Sequence

from .verdicts import Row, Verdicts, accuracy, prediction_of, require

_COLUMNS = {"category": "category", "type": "type", "structural": "structural", "semantic": "semantic"}


def gqa_text(text: str) -> str:
    """Lower case without periods at the end: what LLaVA's evaluation hands to GQA's own comparison."""
    return text.strip().rstrip(".").lower()


def gqa(rows: Sequence[Row]) -> Verdicts:
    """Accuracy in percent: `Overall`, `stderr`, and a breakdown by each of GQA's columns that is there."""
    require(rows)
    said = [gqa_text(prediction_of(row)) for row in rows]
    scores = [float(text != "" and text == row.get("answer", "").strip().lower()) for text, row in zip(said, rows, strict=True)]
    return accuracy(rows, said, scores, _COLUMNS)
