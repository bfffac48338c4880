"""A whole table of multiple choice: what was read, what is right, and rows that cannot be answered rightly."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from ..errors import UserError
from .choice import gold_letter, is_right, options
from .named import option_letter
from .verdicts import Row, Verdicts, accuracy, name_of, prediction_of, require


def chosen(
    rows: Sequence[Row],
    columns: Mapping[str, str] | None = None,
    read: Callable[[str, Mapping[str, str]], str] = option_letter,
) -> Verdicts:
    """Accuracy in percent with its breakdowns. `rows without a right option`: a count, where the table has such rows; wrong.

    UserError when it has no others: then it holds no answers, or no options.
    """
    require(rows)
    said = [read(prediction_of(row), options(row)) for row in rows]
    found = accuracy(rows, said, [float(is_right(row, letter)) for row, letter in zip(rows, said, strict=True)], columns)
    lost = [row for row in rows if not gold_letter(row)]
    if len(lost) == len(rows):
        row = rows[0]
        raise UserError(f"No row says which of its options is right; {name_of(row)} has the answer '{row.get('answer', '')}'.")
    if lost:
        found.metrics["rows without a right option"] = float(len(lost))
    return found
