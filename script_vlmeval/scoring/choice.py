"""Multiple choice: a row's options, the one that is right, ScienceQA's reading of a prediction, and a whole table."""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Mapping, Sequence

from ..errors import UserError
from .answers import texts
from .letters import option_letter
from .verdicts import Row, Verdicts, accuracy, name_of, prediction_of, require


def options(row: Row) -> dict[str, str]:
    """The non-empty options of a row by letter: its columns A, B, ..., or else the list in `candidates`.

    Where every candidate begins with its own letter ("A. " or "(A) "), the letters are not part of the texts.
    """
    lettered = {letter: row[letter].strip() for letter in string.ascii_uppercase if row.get(letter, "").strip()}
    return lettered or {letter: text for letter, text in _candidates(row)[0].items() if text}


def _candidates(row: Row) -> tuple[dict[str, str], bool]:
    """The texts of `candidates` by letter, and whether they were listed with their letters."""
    listed = dict(zip(string.ascii_uppercase, texts(row.get("candidates", "")), strict=False))
    marks = {x: re.match(rf"\s*(?:{x}\.|\({x}\)|{x}\))(?:\s+|$)", text) for x, text in listed.items()}
    ends = [mark.end() for mark in marks.values() if mark]
    marked = bool(listed) and len(ends) == len(listed)
    if marked:
        listed = {letter: text[end:] for (letter, text), end in zip(listed.items(), ends, strict=True)}
    return {letter: text.strip() for letter, text in listed.items()}, marked


def scienceqa_letter(prediction: str, choices: Mapping[str, str]) -> str:
    """ScienceQA's reading: one letter, or "X. " at the start, or "The answer is X" and any character exactly once; else ''."""
    found = prediction[:1] if len(prediction) == 1 or prediction[1:3] == ". " else ""
    if found not in string.ascii_uppercase[:5]:
        found = ""
    if not found:
        stated = re.findall(r"The answer is ([A-Z]).", prediction)
        found = stated[0] if len(stated) == 1 else ""
    return found if found in choices else ""


def gold_letter(row: Row) -> str:
    """The right option of a multiple-choice row; '' when its answer is none of them.

    The number in `correct_choice` (0 is A) where there is one. Otherwise `answer` is a letter or an option's text: the letter
    goes first with columns A, B, ... and with candidates listed by letter, the text with bare candidates, which may be letters.
    """
    answer, choices = row.get("answer", "").strip(), options(row)
    if row.get("correct_choice", "").strip().isdecimal():
        letter = string.ascii_uppercase[int(row["correct_choice"]) :][:1]
        return letter if letter in choices else ""
    lettered = any(row.get(letter, "").strip() for letter in choices)
    by_letter = [letter for letter in choices if letter == answer.upper()]
    by_text = [letter for letter, text in choices.items() if text == answer]
    if lettered:
        return (by_letter or (by_text if len(by_text) == 1 else []) or [""])[0]
    bare = not _candidates(row)[1]
    return [*(by_text if bare else by_letter), *by_letter, *by_text, ""][0]


def is_right(row: Row, letter: str) -> bool:
    """Whether a letter names the right option, or another one with the same text."""
    gold, choices = gold_letter(row), options(row)
    return bool(letter and gold) and choices.get(letter) == choices[gold]


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
