"""Exact match: over tables of any mixture of questions (multiple choice, yes/no, open, told apart row by row), and GQA's."""

from __future__ import annotations

from collections.abc import Sequence

from .answers import normalise, open_score
from .choice import gold_letter, options
from .letters import option_letter
from .verdicts import Row, Verdicts, accuracy, error_of, grouped, mean, prediction_of, require, with_categories
from .yesno import yes_no

_GQA = {"category": "category", "type": "type", "structural": "structural", "semantic": "semantic"}


def kind_of(row: Row) -> str:
    """'mcq', 'yesno' or 'open', from a row's own cells."""
    if options(row):
        return "mcq"
    return "yesno" if row.get("answer", "").strip().lower() in ("yes", "no") else "open"


def verdict(row: Row) -> tuple[str, float]:
    """What a row's prediction says and its score in 0..1."""
    prediction, kind = row.get("prediction", ""), kind_of(row)
    if kind == "mcq":
        letter = option_letter(prediction, options(row))
        return letter, float(letter != "" and letter == gold_letter(row))
    if kind == "yesno":
        said = yes_no(prediction)
        return said, float(said.lower() == row["answer"].strip().lower())
    return normalise(prediction), open_score(prediction, row.get("answer", "")) * bool(prediction.strip())


def exact_scores(rows: Sequence[Row]) -> Verdicts:
    """Accuracy in percent over rows with a `prediction`, of any mixture of kinds.

    Metrics: `Overall`, `stderr` (clustered by picture; absent where undefined), each category by its name, and
    `kind/<kind>` where kinds are mixed. UserError when there is no row.
    """
    require(rows)
    pairs = [verdict(row) for row in rows]
    scores = [score for _, score in pairs]
    metrics = {"Overall": 100 * mean(scores), **error_of(scores, rows)}
    kinds = grouped((kind_of(row) for row in rows), scores)
    if len(kinds) > 1:
        metrics |= {f"kind/{kind}": 100 * mean(values) for kind, values in kinds.items()}
    return Verdicts([said for said, _ in pairs], scores, with_categories(metrics, rows, scores))


def _gqa_text(text: str) -> str:
    """Lower case without periods at the end: what LLaVA's evaluation hands to GQA's own comparison."""
    return text.strip().rstrip(".").lower()


def gqa(rows: Sequence[Row]) -> Verdicts:
    """Accuracy in percent: `Overall`, `stderr`, and a breakdown by each of GQA's columns that is there."""
    require(rows)
    said = [_gqa_text(prediction_of(row)) for row in rows]
    scores = [float(text != "" and text == row.get("answer", "").strip().lower()) for text, row in zip(said, rows, strict=True)]
    return accuracy(rows, said, scores, _GQA)
