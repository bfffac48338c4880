"""Text in pictures: ANLS of DocVQA, containment of OCRBench."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from .answers import references, texts
from .verdicts import Row, Verdicts, accuracy, grouped, mean, prediction_of, require, with_categories

THRESHOLD = 0.5  # an answer less similar than this is worth nothing
_FORMULAS = "Handwritten Mathematical Expression Recognition"  # the category of OCRBench that is read literally


def anls(rows: Sequence[Row]) -> Verdicts:
    """Average normalised Levenshtein similarity in percent: `Overall`, `stderr`, `category/x`, and `question_type/x`, a question
    counting in each type that its list `question_types` names."""
    require(rows)
    said = [row.get("prediction", "") for row in rows]
    scores = [similarity(text, references(row.get("answer", ""))) for text, row in zip(said, rows, strict=True)]
    found = accuracy(rows, [_plain(text) for text in said], scores, {"category": "category"})
    typed = [(kind, score) for row, score in zip(rows, scores, strict=True) for kind in set(texts(row.get("question_types", "")))]
    types = grouped([kind for kind, _ in typed], [score for _, score in typed])
    return replace(found, metrics=found.metrics | {f"question_type/{kind}": 100 * mean(of) for kind, of in types.items()})


def similarity(prediction: str, accepted: Sequence[str]) -> float:
    """1 - distance / length for the best reference, 0..1, and 0 below the threshold.

    Distance is between texts in lower case with single blanks, length that of the longer text as it stands: the official
    script measures it before it normalises, so blanks around an answer are not free of effect.
    """
    if not prediction.strip():
        return 0.0
    best = max(1 - _relative(prediction, reference) for reference in accepted)
    return best if best >= THRESHOLD else 0.0


def _relative(prediction: str, reference: str) -> float:
    said, wanted = _plain(prediction), _plain(reference)
    length = max(len(prediction.upper()), len(reference.upper()))
    if abs(len(said) - len(wanted)) > length * (1 - THRESHOLD):  # too far apart to count, and long answers are slow
        return 1.0
    return distance(said, wanted) / length


def distance(first: str, second: str) -> int:
    """Levenshtein's: the least number of letters inserted, deleted or replaced."""
    row = list(range(len(second) + 1))
    for i, letter in enumerate(first, 1):
        before, row[0] = row[0], i
        for j, other in enumerate(second, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (letter != other))
    return row[-1]


def _plain(text: str) -> str:
    return " ".join(text.lower().split())


def ocrbench(rows: Sequence[Row]) -> Verdicts:
    """OCRBench's rule: right where any accepted answer occurs in the prediction, without regard to case; formulas are compared
    without spaces and with regard to case. In percent of the rows, over all (points of 1,000 divided by ten) and per category."""
    require(rows)
    scores = []
    for row in rows:
        formula = row.get("category", "") == _FORMULAS
        said, *accepted = (_ocr_text(text, formula) for text in (prediction_of(row), *references(row["answer"])))
        scores.append(float(said != "" and any(answer in said for answer in accepted)))
    found = accuracy(rows, [row.get("prediction", "") for row in rows], scores)
    return replace(found, metrics=with_categories(found.metrics, rows, scores))


def _ocr_text(text: str, formula: bool) -> str:
    plain = text.strip().replace("\n", " ")
    return plain.replace(" ", "") if formula else plain.lower()
