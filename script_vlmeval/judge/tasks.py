"""What a judge is asked, and how its reply is read.

A reader returns None for a reply that does not say one thing clearly: a value that is missing, out of range, or given twice
with different values. Such a reply is asked for again and at last counted, never guessed at.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

# Said in a scorer's name, one per rule. The number grows when words or reader change, since figures then may.
PROTOCOL = {
    "videoqa": "Video-ChatGPT's protocol in our words, 1",
    "mmvet": "MM-Vet's protocol in VLMEvalKit's words, 1",
    "mlvuopen": "MLVU's protocol in VLMEvalKit's words, 1",
}

_PLAIN = {ord(curly): straight for curly, straight in zip("‘’“”", "''\"\"", strict=True)}
_DECIMAL = re.compile(r"[0-9]+(?:\.[0-9]+)?|\.[0-9]+")
_WORD = re.compile(r"[\w.,%/+-]+")

_VIDEO_SYSTEM = """\
You grade short answers to questions about videos. You see no frame of the video: the reference answer is the truth.
An answer is right when it says what the reference says, in whatever words: synonyms, other word forms, more detail and whole
sentences are fine. It is wrong when it contradicts the reference, misses what was asked for, or says nothing.
Besides right or wrong you give a whole number from 0 (nothing in common with the reference) to 5 (the same meaning)."""

_VIDEO_USER = """\
Question: {question}
Reference answer: {answer}
Answer to grade: {prediction}

Is the answer to grade right? Write one Python dictionary and nothing else. Its key 'pred' holds 'yes' or 'no', its key 'score' a
whole number from 0 to 5, for instance {{'pred': 'no', 'score': 1}}."""


@dataclass(frozen=True)
class Task:
    """One question to a judge. `max_tokens` bounds its reply."""

    system: str
    user: str
    max_tokens: int


@dataclass(frozen=True)
class VideoVerdict:
    """What a judge says of one answer: right or not, and 0 to 5."""

    yes: bool
    score: float


def video_qa(question: str, answer: str, prediction: str) -> Task:
    """Grades one answer of an open video question set.

    After the protocol of Video-ChatGPT's evaluation: one call per question, a dictionary with 'pred' (yes or no) and 'score'
    (an integer, 0 to 5) as reply. The words are this project's own, so figures compare with each other before they compare with
    published ones.
    """
    return Task(_VIDEO_SYSTEM, _VIDEO_USER.format(question=question, answer=answer, prediction=prediction), max_tokens=128)


def parse_video(text: str) -> VideoVerdict | None:
    """A reply to `video_qa`: a dictionary, as JSON or as Python writes it, alone, in a code fence or between other words."""
    pred, score = _fields(text, ["pred", "score"])
    said = {value.lower().rstrip(".") for value in pred}
    number = _one_number(score, 0.0, 5.0)
    if number is None or len(said) != 1 or not said <= {"yes", "no"}:
        return None
    return VideoVerdict(said == {"yes"}, number)


def parse_pair(text: str, first: str, second: str) -> tuple[float, float] | None:
    """Two scores of 1 to 5 under their keys, as MLVU's open tasks ask for: {'score_accuracy': 4, 'score_relevance': 5, ...}."""
    one, two = (_one_number(values, 1.0, 5.0) for values in _fields(text, [first, second]))
    return None if one is None or two is None else (one, two)


def parse_fraction(text: str) -> float | None:
    """MM-Vet's score of 0.0 to 1.0: the only number of the reply, however often it is written."""
    return _one_number({word.rstrip(".,") for word in _WORD.findall(text) if re.search("[0-9]", word)}, 0.0, 1.0)


def _fields(text: str, keys: Sequence[str]) -> list[set[str]]:
    """The different values that each key has, as texts: in the dictionaries that hold all keys, else anywhere."""
    text = text.translate(_PLAIN)
    whole = [f for span in re.findall(r"\{[^{}]*\}", text) if all(f := [_values(span, key) for key in keys])]
    if not whole:
        return [_values(text, key) for key in keys]
    return [set().union(*of_key) for of_key in zip(*whole, strict=True)]


def _values(text: str, key: str) -> set[str]:
    """What stands behind a key, up to the next comma, bracket or line end, without quotes."""
    found = re.findall(rf"(?<!\w){re.escape(key)}[\"'*]*\s*[:=]\s*([^,{{}}\n]*)", text, flags=re.IGNORECASE)
    return {value.strip(" \t\r\"'*`") for value in found}


def _one_number(values: set[str], low: float, high: float) -> float | None:
    """The number that all of `values` write, when they do and it lies within both bounds."""
    if not values or not all(_DECIMAL.fullmatch(value) for value in values):
        return None
    numbers = {float(value) for value in values}
    number = numbers.pop()
    return None if numbers or not low <= number <= high else number
