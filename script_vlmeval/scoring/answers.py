"""Open answers in words: one normalisation, and the cell that lists what is accepted."""

from __future__ import annotations

import ast
import re
from functools import lru_cache

ARTICLES = {"a", "an", "the"}
# "none" counts as a number because the VQA metric reads "how many?" - "none" as 0.
NUMBERS = {w: str(i) for i, w in enumerate("zero one two three four five six seven eight nine ten".split())} | {"none": "0"}


def normalise(text: str) -> str:
    """Lower case, no punctuation, no articles, number words as digits. Text with nothing else in it stays as it is."""
    plain = text.strip().lower()
    spaced = re.sub(r"(?<=\d),(?=\d{3})|['’]|\.(?!\d)", "", plain)
    spaced = re.sub(r"(?<=[^\s(])-|-(?!\d)|[^\w\s.-]|_", " ", spaced)
    words = [NUMBERS.get(word, word) for word in spaced.split() if word not in ARTICLES]
    return " ".join(words) or plain


_LISTED = re.compile(r"\[(?:'[^'\\\n\r\0]*', )*'[^'\\\n\r\0]*'\]")  # a list of texts as `str` writes it, with nothing escaped


@lru_cache(maxsize=16)  # a row's cell is asked for several times in a row
def texts(cell: str) -> tuple[str, ...]:
    """The texts of a Python list written as text; none for any other cell."""
    if not cell.strip().startswith("["):
        return ()
    if _LISTED.fullmatch(cell):  # nearly all are, and Python's own parser takes thirty times as long
        return tuple(cell[2:-2].split("', '"))
    try:
        found = ast.literal_eval(cell.strip())
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return ()
    return tuple(str(item) for item in found) if isinstance(found, list) else ()


def references(answer: str) -> list[str]:
    """The accepted answers of a cell: one, or those of a Python list written as text."""
    return list(texts(answer)) or [answer]


def open_score(prediction: str, answer: str) -> float:
    """1 for any accepted answer; with ten human answers VQA accuracy: mean over leave-one-out sets of min(matches / 3, 1)."""
    said, accepted = normalise(prediction), [normalise(reference) for reference in references(answer)]
    return leave_one_out(said, accepted) if len(accepted) == 10 else float(said in accepted)


def leave_one_out(said: str, accepted: list[str]) -> float:
    """Mean over the sets that lack one annotator of min(matches / 3, 1)."""
    hits = accepted.count(said)
    return sum(min((hits - (reference == said)) / 3, 1.0) for reference in accepted) / len(accepted)
