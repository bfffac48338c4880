"""Yes or no: three readings of a prediction, since POPE's, MME's and VLMEvalKit's scorers differ."""

from __future__ import annotations

import re

from ..errors import UserError
from .verdicts import Row, name_of


def yes_no(text: str) -> str:
    """'Yes' or 'No' when exactly one of the two words occurs, else '' (as the MME and POPE scorers of VLMEvalKit decide)."""
    words = set(re.findall(r"\w+", text.lower()))
    if ("yes" in words) == ("no" in words):
        return ""
    return "Yes" if "yes" in words else "No"


def pope_reading(text: str) -> str:
    """POPE's: of the text before the first period, without commas, a word "no", "No" or "not" means no, all else yes.

    Words are what stands between blanks, so "no!" and "NO" mean yes. '' for an empty answer alone.
    """
    words = text.strip().partition(".")[0].replace(",", "").split(" ")
    if not text.strip():
        return ""
    return "No" if {"No", "not", "no"} & set(words) else "Yes"


def mme_reading(text: str) -> str:
    """MME's: yes or no as the whole answer or within its first four characters, in any case; '' (wrong) otherwise.

    "Not sure" and "know" mean no, since the characters decide and not the word.
    """
    start = text.strip().lower()[:4]
    return "Yes" if "yes" in start else "No" if "no" in start else ""


def gold_yes_no(row: Row) -> str:
    """'Yes' or 'No' as the reference says. UserError when it says neither."""
    answer = row.get("answer", "").strip().lower()
    if answer not in ("yes", "no"):
        raise UserError(f"The answer of a yes/no question is Yes or No; {name_of(row)} has '{row.get('answer', '')}'.")
    return answer.capitalize()
