"""What a benchmark's message says: two styles, and which part of it is the question.

`llava` asks as LLaVA's own evaluation does, on which the published figures of pruning methods rest; `vlmevalkit` leaves the
host's message as it is. Their figures must not be compared. Text in, text out; a row's cells are those of VLMEvalKit's table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from . import llava
from .llava import LETTER, LETTER_CN, SHORT, UNANSWERABLE, Row
from .question import question_of
from .video import LONG, STYLES, VIDEOS, check_style, video_message

__all__ = [
    "LETTER",
    "LETTER_CN",
    "SHORT",
    "STYLES",
    "UNANSWERABLE",
    "VIDEOS",
    "Row",
    "default_style",
    "max_new_tokens",
    "question_of",
    "reads_ocr",
    "restyled",
    "text",
    "video_message",
]


def default_style(host_name: str) -> str:
    """The style behind a benchmark's published pruning figures, by VLMEvalKit's name: 'llava' for the ten image sets that LLaVA's
    evaluation and the papers share, and for the four open video sets, which VLMEvalKit has not; 'vlmevalkit' otherwise (so also
    for other video sets, Korean or multilingual MMBench, CCBench, MMVet_Hard)."""
    return "llava" if llava.asked(host_name) else "vlmevalkit"


def text(host_name: str, row: Row) -> str | None:
    """The text of a 'llava' message for a row, without the place of the picture; None where LLaVA's evaluation has no such set.

    UserError for a row without the column `question`.
    """
    entry = llava.asked(host_name)
    return entry.text(row) if entry else None


def restyled(host_name: str, message: Sequence[Mapping[str, str]], row: Row, style: str) -> list[dict[str, str]]:
    """The host's message in a style: pictures first, in their order, then one text; as it is where nothing is to be changed.

    UserError for an unknown style.
    """
    check_style(style)
    said = text(host_name, row) if style == "llava" else None
    parts = [dict(part) for part in message]
    if said is None:
        return parts
    return [*(part for part in parts if part["type"] != "text"), {"type": "text", "value": said}]


def max_new_tokens(host_name: str, style: str) -> int | None:
    """How many tokens an answer may have in a style; None leaves it to the model. UserError for an unknown style."""
    check_style(style)
    entry = llava.asked(host_name) if style == "llava" else None
    return entry.max_new_tokens if entry else LONG.get(host_name)


def reads_ocr(host_name: str) -> bool:
    """Whether the style 'llava' names OCR tokens, which must then stand in a column `ocr_tokens`."""
    entry = llava.asked(host_name)
    return entry is not None and entry.ocr
