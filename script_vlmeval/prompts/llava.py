"""How LLaVA's own evaluation words each benchmark: a row's cells in, the text of its message out.

The layouts follow LLaVA's question files and evaluation scripts of v1.5. Where the host asks otherwise, they do not follow:

- VizWiz, POPE: the host sends the bare question; LLaVA asks for a word or phrase, and in VizWiz for "Unanswerable" too.
- MME: the host's column ends in "Please answer yes or no."; LLaVA puts the sentence for a word or phrase in its place.
- TextVQA: the host names no OCR tokens; LLaVA does, wherever its table has them (`Asked.ocr`).
- ScienceQA, MMBench: the host heads the parts with Hint, Question and Options and asks to select; LLaVA asks for the letter.

TextVQA and VizWiz are written as in LLaVA's files: the first letter upper case, the rest lower. VQAv2 is written like GQA;
its file and the Chinese MMBench table were not read, nor whether VLMEvalKit's tables hold every cell as LLaVA's files do.
LLaVA asks VizWiz of the test split and MMBench once per row; neither is the style's to change.

LLaVA's evaluation has no video sets. Open questions about videos are asked for a word or phrase in the same sentence, and those
of ActivityNet-QA get a capital and a question mark, as lmms-eval does there.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ..errors import UserError
from ..scoring import options

Row = Mapping[str, str]

SHORT = "Answer the question using a single word or phrase."
LETTER = "Answer with the option's letter from the given choices directly."
LETTER_CN = "请直接回答选项字母。"
UNANSWERABLE = "When the provided information is insufficient, respond with 'Unanswerable'."


@dataclass(frozen=True)
class Asked:
    """How LLaVA's evaluation asks one benchmark. `names`: a pattern of VLMEvalKit's names for it and its splits."""

    names: str
    text: Callable[[Row], str]
    max_new_tokens: int
    ocr: bool = False


def asked(host_name: str) -> Asked | None:
    """The entry of a benchmark by VLMEvalKit's name, or by ours where it has none; None where this evaluation has no such set."""
    return next((entry for entry in _ASKED if re.fullmatch(entry.names, host_name)), None)


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


def _activitynet(row: Row) -> str:
    return f"{written(_question(row))}\n{SHORT}"


def written(question: str) -> str:
    """A question of ActivityNet-QA, whose table has neither capitals nor question marks, with both."""
    plain = question.strip()
    return f"{plain[:1].upper()}{plain[1:]}{'' if plain.endswith('?') else '?'}"


_ASKED: tuple[Asked, ...] = (
    Asked(r"(?:VQAv2|GQA)_\w+|POPE", _short, 128),
    Asked(r"VizWiz(?:_TEST)?", _vizwiz, 128),
    Asked(r"TextVQA_VAL", _textvqa, 128, ocr=True),
    Asked(r"MME", _mme, 128),
    Asked(r"ScienceQA_\w+", _scienceqa, 1024),
    Asked(r"MMBench(?:_(?:DEV|TEST)_EN)?(?:_V11)?", _mmbench, 1024),
    Asked(r"MMBench(?:_(?:DEV|TEST))?_CN(?:_V11)?", _mmbench_cn, 1024),
    Asked(r"MMVet", _question, 1024),
    Asked(r"TGIF-QA|MSVD-QA|MSRVTT-QA", _short, 128),
    Asked(r"ActivityNet-QA", _activitynet, 128),
)
