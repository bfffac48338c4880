"""Messages of the video benchmarks: VLMEvalKit's words for those it has, one part for the video, nothing else shown.

Subtitles are left out. VLMEvalKit has no words for the four sets of open questions: its style is the bare question there.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable
from string import ascii_uppercase

from ..errors import UserError, unknown
from .llava import LETTER, Row, asked, written

Message = list[dict[str, str]]
STYLES = ("llava", "vlmevalkit")

_EVENTS = (
    "Carefully watch the video and pay attention to the cause and sequence of events, the detail and movement of objects, "
    "and the action and pose of persons. "
)
_DETAIL = "Carefully watch this video and pay attention to every detail. "
_SELECT = "Based on your observations, select the best option that accurately addresses the question."
_ANSWER = "Based on your observations, answer the given questions."
_BEST = "\nOnly give the best option."
_FRAMES = (
    "\nThese are the frames of a video. Select the best answer to the following multiple-choice question based on the video. "
    "Respond with only the letter (A, B, C, or D) of the correct option.\n"
)
LONG = {"MLVU_OpenEnded": 1024}  # tokens of an answer, where an answer is a paragraph


def video_message(table: str, row: Row, style: str, frames: str = "", sampler: str = "middle", fps: str = "") -> Message:
    """The message of a row of one of the sets in `VIDEOS`: texts, and one part for the video that says how to read it.

    The five sets of VLMEvalKit are asked in its words in either style. frames, sampler, fps: as `inputs.read` takes them; an
    empty one is left out. UserError for an unknown set or style, and for a row that lacks a column or has nonsense in it.
    """
    check_style(style)
    if table not in _WORDS:
        raise unknown("video benchmark", table, VIDEOS)
    video = {"type": "video", "value": _cell(row, "video_path", table)}
    video |= {name: value for name, value in (("frames", frames), ("sampler", sampler), ("fps", fps)) if value}
    if table == "MVBench":
        video |= _span(row)
    entry = asked(table) if style == "llava" else None
    if entry:
        _cell(row, "question", table)
        return [video, _text(entry.text(row))]
    before, behind = _around(_WORDS[table](row, table))
    return [*before, video, *behind]


def check_style(style: str) -> None:
    """UserError for a style that does not exist."""
    if style not in STYLES:
        raise unknown("prompt style", style, STYLES)


# cells --------------------------------------------------------------------------------------------------------------------


def _cell(row: Row, column: str, table: str) -> str:
    if not row.get(column, "").strip():
        raise UserError(
            f"{table}, row {row.get('index', '?')}: the column '{column}' is missing or empty. Prepare the table again."
        )
    return row[column]


def _candidates(row: Row, table: str) -> list[str]:
    """The options of a row, from a Python list written as text.

    One option alone is refused: so do arrays read that were printed without commas.
    """
    cell = _cell(row, "candidates", table)
    try:
        found = ast.literal_eval(cell.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        found = None
    if not isinstance(found, list | tuple) or not 2 <= len(found) <= len(ascii_uppercase):
        where = f"{table}, row {row.get('index', '?')}"
        raise UserError(
            f"{where}: 'candidates' must be a Python list of 2 to 26 options, not {cell[:60]!r}. Prepare the table again."
        )
    return [str(option) for option in found]


def _span(row: Row) -> dict[str, str]:
    """Where the video is to be read, by MVBench's columns: a span in seconds, and folders of three frames a second."""
    bound, kind = (_cell(row, column, "MVBench").strip() for column in ("bound", "data_type"))
    found = {"folder_fps": "3"} if kind == "frame" else {}
    if bound.lower() not in ("true", "false"):
        raise UserError(f"MVBench, row {row.get('index', '?')}: 'bound' must be True or False, not {bound!r}.")
    if bound.lower() == "true":
        found |= {column: _seconds(row, column) for column in ("start", "end")}
    return found


def _seconds(row: Row, column: str) -> str:
    cell = _cell(row, column, "MVBench").strip()
    try:
        good = math.isfinite(float(cell))
    except ValueError:
        good = False
    if not good:
        raise UserError(f"MVBench, row {row.get('index', '?')}: '{column}' must be a number of seconds, not {cell!r}.")
    return cell


# words --------------------------------------------------------------------------------------------------------------------


def _text(value: str, role: str = "") -> dict[str, str]:
    return {"type": "text", "value": value} | ({"role": role} if role else {})


def _around(texts: Message) -> tuple[Message, Message]:
    """What stands before the video, which is the system's text, and behind it."""
    return [t for t in texts if t.get("role") == "system"], [t for t in texts if t.get("role") != "system"]


def _bracketed(row: Row, table: str) -> str:
    """The question under a heading, and its options as (A), (B), ..."""
    lines = [f"({letter}) {option}" for letter, option in zip(ascii_uppercase, _candidates(row, table), strict=False)]
    return "\n".join([f"Question: {_cell(row, 'question', table)}", "Options:", *lines]).rstrip()


def _mvbench(row: Row, table: str) -> Message:
    opening = _text("Best option:(", "assistant")
    return [_text(f"{_EVENTS}{_SELECT}\n", "system"), _text(_bracketed(row, table)), _text(_BEST), opening]


def _mlvu(row: Row, table: str) -> Message:
    return [_text(_DETAIL + _SELECT, "system"), _text(_bracketed(row, table)), _text(_BEST)]


def _mlvu_open(row: Row, table: str) -> Message:
    return [_text(_DETAIL + _ANSWER, "system"), _text(_cell(row, "question", table))]


def _videomme(row: Row, table: str) -> Message:
    """Its options begin with their letters."""
    lines = [_cell(row, "question", table), *_candidates(row, table)]
    return [_text(_FRAMES), _text("Question: {}\nAnswer: ".format("\n".join(lines)))]


def _longvideobench(row: Row, table: str) -> Message:
    lines = [f"{letter}. {option}" for letter, option in zip(ascii_uppercase, _candidates(row, table), strict=False)]
    return [_text("\n".join([_cell(row, "question", table), *lines, LETTER]))]


def _open(row: Row, table: str) -> Message:
    return [_text(_cell(row, "question", table))]


def _activitynet(row: Row, table: str) -> Message:
    return [_text(written(_cell(row, "question", table)))]


_WORDS: dict[str, Callable[[Row, str], Message]] = {
    "MVBench": _mvbench,
    "Video-MME": _videomme,
    "MLVU_MCQ": _mlvu,
    "MLVU_OpenEnded": _mlvu_open,
    "LongVideoBench": _longvideobench,
    **dict.fromkeys(("TGIF-QA", "MSVD-QA", "MSRVTT-QA"), _open),
    "ActivityNet-QA": _activitynet,
}
VIDEOS = tuple(_WORDS)
