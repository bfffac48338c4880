"""VQA accuracy over ten human answers: the official evaluations of VQAv2, VizWiz and TextVQA.

They share tables and the punctuation rule, whose peculiarities are facts of the metric and kept:

- A mark goes without a trace where it stands beside a blank anywhere in the text, or where the text has a comma between two
  digits anywhere; otherwise it becomes a blank. So "1,000 red-green" reads "1000 redgreen", "red-green" reads "red green".
- A period goes unless a digit follows. The expression `(?!<=\\d)(\\.)(?!\\d)` means a look-behind and spells a look-ahead
  for the characters "<=", which is always true at a period: "3." loses its period, ".5" and "3.5" keep theirs.
- At most 32 periods go, because `re.UNICODE` (32) stands where the substitution takes its count.
- Contractions with a capital in the published table ("Id've", "Im", "Ive") never match, since words are lower case by then.
- VizWiz's table has typographic apostrophes nearly everywhere, so that "dont" becomes "don’t" and is not the reference "don't".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache

from ..errors import UserError
from .answers import ARTICLES, NUMBERS, leave_one_out, references
from .verdicts import Row, Verdicts, accuracy, name_of, prediction_of, require

ANNOTATORS = 10
_MARKS = ';/[]"{}()=+\\_-><@`,?!'
_COMMA = re.compile(r"\d,\d")
_PERIOD = re.compile(r"\.(?!\d)")
_PERIODS = 32
# Every spelling that lacks one of the apostrophes stands for the word.
_APOSTROPHES = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've he's how'd
    how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't not've o'clock oughtn't
    'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd someone'd've
    someone'll someone's something'd something'd've something'll that's there'd there'd've there're there's they'd they'd've
    they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's what've when's where'd where's where've
    who'd who'd've who'll who's who've why'll why're why's won't would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd
    you'd've you'll you're you've
""".split()
CONTRACTIONS = {w[:i] + w[i + 1 :]: w for w in _APOSTROPHES for i, letter in enumerate(w) if letter == "'"}
CONTRACTIONS["somebody'd"] = "somebodyd"  # the one entry that goes the other way
# Where VizWiz's table has the plain apostrophe: what these stand for, and two of the spellings.
_PLAIN = set("ain't aren't can't could've couldn't we've where's who've couldn'tve hadn'tve".split())
VIZWIZ_CONTRACTIONS = {
    (said if said in _PLAIN else said.replace("'", "’")): (word if word in _PLAIN else word.replace("'", "’"))
    for said, word in CONTRACTIONS.items()
}


@lru_cache(maxsize=4096)  # ten people say few different things
def vqa_text(text: str) -> str:
    """An answer as the official VQA evaluation compares it."""
    return _words(_unmarked(_one_line(text)))


@lru_cache(maxsize=4096)
def textvqa_text(text: str) -> str:
    """An answer as TextVQA's evaluation compares it: first lower case, "," and "?" dropped, "'s" a word of its own."""
    plain = text.lower().replace(",", "").replace("?", "").replace("'s", " 's")
    return _words(_unmarked(_one_line(plain.strip())))


@lru_cache(maxsize=4096)
def vizwiz_text(text: str) -> str:
    """A prediction as VizWiz's evaluation compares it."""
    return _words(_unmarked(_one_line(text)), VIZWIZ_CONTRACTIONS)


def normalise_vqa(text: str) -> str:
    """An answer as LLaVA writes it into the files that servers score: VQAv2 test-dev, VizWiz test."""
    return textvqa_text(text)


def _one_line(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()


def _unmarked(text: str) -> str:
    dropped = bool(_COMMA.search(text))
    plain = text
    for mark in _MARKS:
        plain = plain.replace(mark, "" if dropped or f"{mark} " in text or f" {mark}" in text else " ")
    return _PERIOD.sub("", plain, count=_PERIODS)


def _words(text: str, contractions: Mapping[str, str] = CONTRACTIONS) -> str:
    numbers = [NUMBERS.get(word, word) for word in text.lower().split()]
    return " ".join(contractions.get(word, word) for word in numbers if word not in ARTICLES)


def vqa_score(prediction: str, accepted: Sequence[str]) -> float:
    """Leave-one-out mean of min(matches / 3, 1), 0..1.

    Where the annotators differ, both sides are normalised. Where all agree, the references stay as they are, and the
    prediction counts as it is (the current official code) or normalised (its earlier releases, and what is uploaded for
    LLaVA): otherwise "Yes." would be wrong where ten people said "yes".
    """
    lines = [_one_line(reference) for reference in accepted]
    said = vqa_text(prediction)
    if len(set(lines)) > 1:
        return leave_one_out(said, [vqa_text(line) for line in lines])
    return max(leave_one_out(said, lines), leave_one_out(_one_line(prediction), lines))


def textvqa_score(prediction: str, accepted: Sequence[str]) -> float:
    """Leave-one-out mean of min(matches / 3, 1), 0..1, both sides always normalised."""
    return leave_one_out(textvqa_text(prediction), [textvqa_text(reference) for reference in accepted])


def vizwiz_score(prediction: str, accepted: Sequence[str]) -> float:
    """Leave-one-out mean of min(matches / 3, 1), 0..1: the prediction is normalised, the references never are.

    So a reference with a capital, an article or a mark is out of reach, as it is in the official evaluation.
    """
    return leave_one_out(vizwiz_text(prediction), list(accepted))


def ten_answers(row: Row) -> list[str]:
    """The ten human answers in `answer` or `answers`. UserError for another number: one reference would always score 0."""
    cell = row.get("answer") or row.get("answers", "")
    found = references(cell) if cell.strip() else []
    if len(found) != ANNOTATORS:
        raise UserError(
            f"VQA accuracy needs ten human answers, as a Python list in the column 'answer' or 'answers'; "
            f"{name_of(row)} has {len(found)}."
        )
    return found


def vqa(rows: Sequence[Row]) -> Verdicts:
    """VQA accuracy in percent: `Overall`, `stderr`, `answer_type/x` and `question_type/x`. UserError as of `ten_answers`."""
    return _soft(rows, vqa_text, vqa_score)


def vizwiz(rows: Sequence[Row]) -> Verdicts:
    """VizWiz's accuracy in percent: `Overall`, `stderr`, `answer_type/x`. UserError as of `ten_answers`."""
    return _soft(rows, vizwiz_text, vizwiz_score)


def textvqa(rows: Sequence[Row]) -> Verdicts:
    """TextVQA's accuracy in percent: `Overall`, `stderr`, `question_type/x`. UserError as of `ten_answers`."""
    return _soft(rows, textvqa_text, textvqa_score)


def _soft(rows: Sequence[Row], text: Callable[[str], str], score: Callable[[str, Sequence[str]], float]) -> Verdicts:
    require(rows)
    said = [prediction_of(row) for row in rows]
    scores = [score(answer, ten_answers(row)) * bool(answer) for answer, row in zip(said, rows, strict=True)]
    columns = {"answer_type": "answer_type", "question_type": "question_type"}
    return accuracy(rows, [text(answer) for answer in said], scores, columns)
