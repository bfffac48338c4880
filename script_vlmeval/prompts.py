"""What a benchmark's message says: two styles, and which part of it is the question.

`llava` asks as LLaVA's own evaluation does, on which the published figures of pruning methods rest; `vlmevalkit` leaves the
host's message as it is. Their figures must not be compared. Text in, text out; a row's cells are those of VLMEvalKit's table.

The layouts follow LLaVA's question files and evaluation scripts of v1.5. Where the host asks otherwise, `llava` does not follow:

- VizWiz, POPE: the host sends the bare question; LLaVA asks for a word or phrase, and in VizWiz for "Unanswerable" too.
- MME: the host's column ends in "Please answer yes or no."; LLaVA puts the sentence for a word or phrase in its place.
- TextVQA: the host names no OCR tokens; LLaVA does, wherever its table has them (`reads_ocr`).
- ScienceQA, MMBench: the host heads the parts with Hint, Question and Options and asks to select; LLaVA asks for the letter.

TextVQA and VizWiz are written as in LLaVA's files: the first letter upper case, the rest lower. VQAv2 is written like GQA;
its file and the Chinese MMBench table were not read, nor whether VLMEvalKit's tables hold every cell as LLaVA's files do.
LLaVA asks VizWiz of the test split and MMBench once per row; neither is the style's to change.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from .errors import UserError, unknown
from .scoring import options

Row = Mapping[str, str]
STYLES = ("llava", "vlmevalkit")

SHORT = "Answer the question using a single word or phrase."
LETTER = "Answer with the option's letter from the given choices directly."
LETTER_CN = "请直接回答选项字母。"
UNANSWERABLE = "When the provided information is insufficient, respond with 'Unanswerable'."


@dataclass(frozen=True)
class _Asked:
    """How LLaVA's evaluation asks one benchmark. `names`: a pattern of VLMEvalKit's names for it and its splits."""

    names: str
    text: Callable[[Row], str]
    max_new_tokens: int
    ocr: bool = False


def default_style(host_name: str) -> str:
    """The style behind a benchmark's published pruning figures, by VLMEvalKit's name: 'llava' for the ten image sets that LLaVA's
    evaluation and the papers share, 'vlmevalkit' otherwise (so also for Korean or multilingual MMBench, CCBench, MMVet_Hard)."""
    return "llava" if _asked(host_name) else "vlmevalkit"


def text(host_name: str, row: Row) -> str | None:
    """The text of a 'llava' message for a row, without the place of the picture; None where LLaVA's evaluation has no such set.

    UserError for a row without the column `question`.
    """
    asked = _asked(host_name)
    return asked.text(row) if asked else None


def restyled(host_name: str, message: Sequence[Mapping[str, str]], row: Row, style: str) -> list[dict[str, str]]:
    """The host's message in a style: pictures first, in their order, then one text; as it is where nothing is to be changed.

    UserError for an unknown style.
    """
    _check(style)
    said = text(host_name, row) if style == "llava" else None
    parts = [dict(part) for part in message]
    if said is None:
        return parts
    return [*(part for part in parts if part["type"] != "text"), {"type": "text", "value": said}]


def max_new_tokens(host_name: str, style: str) -> int | None:
    """How many tokens an answer may have in a style; None leaves it to the model. UserError for an unknown style."""
    _check(style)
    asked = _asked(host_name) if style == "llava" else None
    return asked.max_new_tokens if asked else None


def reads_ocr(host_name: str) -> bool:
    """Whether the style 'llava' names OCR tokens, which must then stand in a column `ocr_tokens`."""
    asked = _asked(host_name)
    return asked is not None and asked.ocr


def _asked(host_name: str) -> _Asked | None:
    return next((asked for asked in _ASKED if re.fullmatch(asked.names, host_name)), None)


def _check(style: str) -> None:
    if style not in STYLES:
        raise unknown("prompt style", style, STYLES)


# LLaVA's texts ------------------------------------------------------------------------------------------------------------


def _question(row: Row) -> str:
    if "question" not in row:
        raise UserError("The style 'llava' asks what stands in the column 'question', which is missing. Use 'vlmevalkit'.")
    return row["question"]


def _short(row: Row) -> str:
    return f"{_question(row)}\n{SHORT}"


def _vizwiz(row: Row) -> str:
    return f"{_question(row).capitalize()}\n{UNANSWERABLE}\n{SHORT}"


def _mme(row: Row) -> str:
    question = re.sub(r"(?<!\s)\s*please answer yes or no\.?\s*\Z", "", _question(row), flags=re.IGNORECASE)
    return f"{question.rstrip()}\n{SHORT}"


def _textvqa(row: Row) -> str:
    """A cell with an empty list gives the line without tokens, as in LLaVA's file; without a cell there is no line."""
    cell = row.get("ocr_tokens", "").strip()
    line = [f"Reference OCR token: {_tokens(cell)}"] if cell else []
    return "\n".join([_question(row).capitalize(), *line, SHORT])


def _tokens(cell: str) -> str:
    """A list, as JSON or Python writes it, joined by commas; other text as it stands."""
    for read in (json.loads, ast.literal_eval):
        try:
            found = read(cell)
        except (ValueError, SyntaxError):
            continue
        if isinstance(found, list | tuple):
            return ", ".join(str(token) for token in found)
    return cell


def _scienceqa(row: Row) -> str:
    context = [] if _missing(row, "hint") else [f"Context: {row['hint']}"]
    lettered = [f"{letter}. {option}" for letter, option in options(row).items()]
    return "\n".join(["\n".join([*context, _question(row), *lettered]).strip(), LETTER])


def _mmbench(row: Row, request: str = LETTER) -> str:
    """Options A to D; the list ends before the first that is missing."""
    hint = [] if _missing(row, "hint") else [row["hint"]]
    last = next((i for i, letter in enumerate("ABCD") if _missing(row, letter)), 4)
    return "\n".join([*hint, _question(row), *(f"{letter}. {row[letter]}" for letter in "ABCD"[:last]), request])


def _mmbench_cn(row: Row) -> str:
    return _mmbench(row, LETTER_CN)


def _missing(row: Row, column: str) -> bool:
    """LLaVA leaves out "nan" and "none" in any case, and reads with pandas, for which some other words mean an empty cell."""
    cell = row.get(column, "").strip()
    return cell.lower() in ("", "nan", "none") or cell in ("NA", "N/A", "n/a", "<NA>", "NULL", "null")


_ASKED: tuple[_Asked, ...] = (
    _Asked(r"(?:VQAv2|GQA)_\w+|POPE", _short, 128),
    _Asked(r"VizWiz", _vizwiz, 128),
    _Asked(r"TextVQA_VAL", _textvqa, 128, ocr=True),
    _Asked(r"MME", _mme, 128),
    _Asked(r"ScienceQA_\w+", _scienceqa, 1024),
    _Asked(r"MMBench(?:_(?:DEV|TEST)_EN)?(?:_V11)?", _mmbench, 1024),
    _Asked(r"MMBench(?:_(?:DEV|TEST))?_CN(?:_V11)?", _mmbench_cn, 1024),
    _Asked(r"MMVet", _question, 1024),
)


# the question alone -------------------------------------------------------------------------------------------------------

_ANY_CASE = (  # tables of the user's own hold these too
    r"(?:Please )?Answer the question using a single word or phrase\.",
    r"Answer (?:directly )?with the option(?:['’]s)? letter from the given choices"
    r"(?: directly)?(?: and only give the best option)?\.",
    r"Please answer yes or no\.",
    r"Please select the correct answer from the options(?: above\b\.?|\.)",
)
_AS_WRITTEN = (  # the capital tells a sentence from a clause in the same words
    re.escape(UNANSWERABLE),
    r"Answer the question directly\.",
    # MVBench and MLVU
    r"Carefully watch the video and pay attention to the cause and sequence of events, the detail and movement of objects, "
    r"and the action and pose of persons\.",
    r"Carefully watch this video and pay attention to every detail\.",
    r"Based on your observations, (?:select the best option that accurately addresses the question|answer the given questions)\.",
    r"Only give the best option\.",
    r"Best option:\(",
    # Video-MME, and MME-RealWorld after it
    r"These are the frames of a video\.",
    r"Select the best answer to the (?:following|above) multiple-choice question based on the (?:video|image)\.",
    r"Respond with only the letter(?: \([^()\n]*\))? of the correct option\.",
)
_CHINESE = (  # no blank stands between its sentences
    re.escape(LETTER_CN),
    "请直接回答问题。",
    "根据图像选择上述多项选择题的最佳答案。",
    r"只需回答正确选项的字母（[^（）\n]*）。",
)
_SENTENCE = rf"(?:(?<!\w)(?i:{'|'.join(_ANY_CASE)})|(?<!\w)(?:{'|'.join(_AS_WRITTEN)})|{'|'.join(_CHINESE)})"
_SENTENCES = re.compile(rf"(?<!\s)\s*(?:{_SENTENCE}\s*)+")
# Of an answer, as the last line.
_OPENING = re.compile(r"(?:\A|\n)[ \t]*(?:Answer|Best option|The best answer is|最佳答案为)[:：]\s*\Z")


def question_of(text: str) -> str:
    """The text without the sentences that ask for a form of answer: what selection conditions on, in either style.

    Hints, lettered options, OCR tokens, subtitles and headings such as "Question:" stay, as in the releases (which take out the
    sentence for a word or phrase, or for the letter). The instructions around a video's question go as well. Lines stay lines.
    """
    shorter = _OPENING.sub("", _SENTENCES.sub(lambda m: "\n" if "\n" in m[0] else " ", text)).strip()
    return shorter if shorter == text else question_of(shorter)
