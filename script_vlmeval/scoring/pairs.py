"""Two yes/no questions for each picture: MME's score by its official reading, and by words for pairs of our own."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

from ..errors import UserError
from .points import of_strata
from .verdicts import Row, Verdicts, error_of, grouped, image_of, mean, prediction_of, require
from .yesno import gold_yes_no, mme_reading, yes_no

MME_PERCEPTION = frozenset("OCR artwork celebrity color count existence landmark position posters scene".split())
MME_REASONING = frozenset("code_reasoning commonsense_reasoning numerical_calculation text_translation".split())


def mme(rows: Sequence[Row]) -> Verdicts:
    """MME in points: per category 100 (accuracy + share of pictures with both right), 0..200; `total` is their sum.

    Read as MME's own tool reads (`mme_reading`). `perception` sums ten categories (at most 2000), `cognition` four (800); `acc`
    and `acc+` are over all questions and pictures, in percent. UserError when a picture has other than two questions in its
    category, or a reference is neither yes nor no.
    """
    require(rows)
    said = [mme_reading(prediction_of(row)) for row in rows]
    scores = [float(s == gold_yes_no(row)) for s, row in zip(said, rows, strict=True)]
    return _summed(rows, said, scores, "cognition")


def pairs(rows: Sequence[Row]) -> Verdicts:
    """The same sums with answers read by words (`yes_no`), for pairs of yes/no questions that are not MME's.

    MME's own categories, where they occur, also give `perception` and `reasoning`. UserError when a picture has other than two
    questions.
    """
    require(rows)
    said = [yes_no(row.get("prediction", "")) for row in rows]
    scores = [float(s.lower() == row["answer"].strip().lower()) for s, row in zip(said, rows, strict=True)]
    return _summed(rows, said, scores, "reasoning")


def _summed(rows: Sequence[Row], said: list[str], scores: list[float], reasoning: str) -> Verdicts:
    """Both questions of a picture have the points of the picture, so that a category's mean over rows is that over pictures."""
    both = _by_picture(rows, scores)
    odd = [image for (_, image), values in both.items() if len(values) != 2]
    if odd:
        raise UserError(f"MME scoring needs two questions for each picture; {len(odd)} have another number, such as '{odd[0]}'.")
    worth = {picture: 100 * (mean(values) + math.prod(values)) for picture, values in both.items()}
    by_category = {name: mean(values) for name, values in grouped((name for name, _ in worth), list(worth.values())).items()}
    categories, pictures = [row.get("category", "") for row in rows], [image_of(row) for row in rows]
    points = of_strata([worth[pair] for pair in zip(categories, pictures, strict=True)], categories, pictures)
    metrics = {"total": sum(by_category.values()), **error_of(points, rows, scale=1)}
    for name, members in (("perception", MME_PERCEPTION), (reasoning, MME_REASONING)):
        if members & by_category.keys():
            metrics[name] = sum(value for category, value in by_category.items() if category in members)
    metrics |= {"acc": 100 * mean(scores), "acc+": 100 * mean([math.prod(values) for values in both.values()])}
    metrics |= {category or "uncategorised": value for category, value in by_category.items()}
    return Verdicts(said, scores, metrics, points)


def picture_of(row: Row) -> str:
    """What the two questions of a pair share."""
    return f"{row.get('category', '')}/{image_of(row)}"


def _by_picture(rows: Sequence[Row], scores: Sequence[float]) -> dict[tuple[str, str], list[float]]:
    """Scores by category and picture."""
    both: dict[tuple[str, str], list[float]] = defaultdict(list)
    for row, score in zip(rows, scores, strict=True):
        both[row.get("category", ""), image_of(row)].append(score)
    return both
