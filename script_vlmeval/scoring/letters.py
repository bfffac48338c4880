"""The option that a prediction names. The first of these readings that finds something decides:

1. One letter and nothing else. A capital is an option's letter. A small letter that is some option's text ("a" of the options c,
   a, b) means that text, else the letter. What is no option's letter may be an option's text in the other case.
2. The whole prediction: an option's text, or its letter and its text ("B) a").
3. Letters in front ("B. ..."), in brackets, behind "answer", "option" or "choice", or in "A or B"; more than one is no answer.
   A letter in front outweighs brackets further on, unless what follows it is a list.
4. The only capital that stands alone ("I think D"), else an option's text within the prediction.
"""

from __future__ import annotations

import re
import string
from collections.abc import Mapping

from .answers import normalise

_BARE = re.compile(r"\W*([A-Za-z])\W*")
_FIRST = re.compile(r"\W*([A-Za-z])(\W+)")
_LEADING = re.compile(r"\W*([A-Z])(?:\s*[.):]|\W*\n)")
_NEXT = re.compile(r"\W*(?:(?:or|and)\b\W*)?([A-Z])(?:\s*[.):,;]|\W*$|\s+(?:or|and)\b)")
_STATED = re.compile(
    r"(?i:\b(?:answer|choice|option)\b(?:\s+(?:is|would be|should be))?)\W*\b([A-Z])\b(?!['’])(?P<rest>\s+[a-z]\w*)?"
)
_EITHER = re.compile(r"\b([A-Z])\)?\s+(?:or|and)\s+\(?([A-Z])\b")
_BRACKETED = re.compile(r"\(([A-Z])\)")
_VERBS = {"is", "because", "since", "as", "and", "in", "for", "of", "from"}
# ASCII, so that a letter among Chinese characters stands alone; "not C" names no option, and "C-shaped", "D's", "A.M." no letter.
_ALONE = re.compile(r"(?<!\b[Nn]ot )(?<!n't )(?<!n’t )(?<![\w.'’-])([A-Z])(?![\w'’-]|\.\w)", re.ASCII)
_NO_ARTICLE = re.compile(r"\W*$|\s*[-–—:;,.)!?\]*]|[^\x00-\x7f]|\s+(?:is|because|since|or|nor|and)\b")


def option_letter(prediction: str, choices: Mapping[str, str]) -> str:
    """The option a prediction names, by letter or by its text; '' when it names none or more than one.

    An article is not option A: "A red square" is read as the text "red square".
    """
    bare = _BARE.fullmatch(prediction)
    if bare:
        return _single(str(bare[1]), choices)
    whole = _by_whole_text(prediction, choices)
    if whole:
        return whole
    letters = sorted(_letters(prediction, choices) & set(choices))
    if letters:
        return letters[0] if len(letters) == 1 else ""
    return _alone(prediction, choices) or _by_contained_text(prediction, choices)


def _single(said: str, choices: Mapping[str, str]) -> str:
    """What one letter means; '' for nothing."""
    texts = [letter for letter, text in choices.items() if text == said and said.islower()]
    spelled = [letter for letter, text in choices.items() if text.lower() == said.lower()]
    return [*texts, *([said.upper()] if said.upper() in choices else []), *spelled, ""][0]


def _by_whole_text(prediction: str, choices: Mapping[str, str]) -> str:
    """The option that the prediction is: spelled so, else its letter with its text, else its text after normalisation."""
    said, (first, marked) = prediction.strip().lower(), _letter_with_text(prediction, choices)
    spelled = [letter for letter, text in choices.items() if text.lower() == said]
    # Without its article, "B) a" would be the text "b" and "A) dog" the text "dog": neither is meant.
    compared = {} if marked else {letter: text for letter, text in choices.items() if not _is_letter(text)}
    equal = [letter for letter, text in compared.items() if normalise(text) == normalise(prediction)]
    return next((found[0] for found in (spelled, [first] if first else [], equal) if len(found) == 1), "")


def _letter_with_text(prediction: str, choices: Mapping[str, str]) -> tuple[str, bool]:
    """The option whose letter and text the prediction is, else ''; and whether it begins with an option's letter and a mark."""
    first = _FIRST.match(prediction)
    letter = str(first[1]).upper() if first else ""
    if first is None or letter not in choices:
        return "", False
    rest = prediction[first.end() :].strip(string.punctuation + string.whitespace)
    return letter if normalise(rest) == normalise(choices[letter]) else "", not str(first[2]).isspace()


def _is_letter(text: str) -> bool:
    """Whether a text comes down to one letter, which is also how options are called."""
    return bool(re.fullmatch("[a-z]", normalise(text)))


def _letters(prediction: str, choices: Mapping[str, str]) -> set[str]:
    """The letters that a prediction names in so many words."""
    stated, lead = _stated(prediction), _LEADING.match(prediction)
    if lead and lead[1] in choices:
        rest, own = prediction[lead.end() :].lstrip(), choices[str(lead[1])]
        listed = _NEXT.match(rest[len(own) :] if rest.lower().startswith(own.lower()) else rest)
        return {str(lead[1]), *stated, *([str(listed[1])] if listed else [])}
    pairs = {x for pair in _EITHER.findall(prediction) if set(pair) <= set(choices) for x in pair}
    return {*stated, *_BRACKETED.findall(prediction), *pairs}


def _stated(prediction: str) -> list[str]:
    """Letters after "answer", "option" or "choice"; an A before a noun is an article."""
    return [
        match[1]
        for match in _STATED.finditer(prediction)
        if match[1] != "A" or match["rest"] is None or match["rest"].strip() in _VERBS
    ]


def _alone(prediction: str, choices: Mapping[str, str]) -> str:
    """The only capital that stands alone and calls an option; '' for none and for several.

    An A before a noun is an article, and an I a pronoun. A capital within an option's text ("vitamin C") is part of that text.
    """
    said = " ".join(prediction.split())
    for text in choices.values():
        if len(text) > 1 and _ALONE.search(text):
            said = re.sub(re.escape(text), " _ ", said, flags=re.IGNORECASE)
    found = {
        str(match[1])
        for match in _ALONE.finditer(said)
        if match[1] in choices and (match[1] not in "AI" or _NO_ARTICLE.match(said, match.end()))
    }
    return found.pop() if len(found) == 1 else ""


def _by_contained_text(prediction: str, choices: Mapping[str, str]) -> str:
    """The one option whose text occurs in the prediction as whole words; a longer option outweighs those inside it."""
    said = f" {normalise(prediction)} "
    words = {letter: normalise(text) for letter, text in choices.items()}
    lead = re.match(r"\W*(yes|no)\W*(?:[,.;:!]|$)", prediction.lower())

    def occurs(letter: str) -> bool:
        text = words[letter]
        if text in ("yes", "no"):  # "(no answer)" is not the option "no": these two must stand alone in front.
            return lead is not None and lead[1] == text
        if _is_letter(text):
            return choices[letter].islower() and _small(choices[letter], prediction)
        return f" {text} " in said

    found = {letter: text for letter, text in words.items() if occurs(letter)}
    outer = [x for x, text in found.items() if not any(text != other and f" {text} " in f" {other} " for other in found.values())]
    return outer[0] if len(outer) == 1 else ""


def _small(text: str, prediction: str) -> bool:
    """Whether a text of one small letter stands in a prediction as it is; an "a" before a word is an article."""
    article = r"(?!\s+\w)" if text == "a" else ""
    return re.search(rf"(?<![\w'’-]){re.escape(text)}(?![\w'’-]){article}", prediction) is not None
