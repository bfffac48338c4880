"""Which part of a message is the question, told by the sentences around it; no benchmark need be known."""

from __future__ import annotations

import re

from .llava import LETTER_CN, UNANSWERABLE

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


# Of a video's message alone: elsewhere the releases leave them where they are.
_ABOUT_VIDEO = re.compile(r"(?<!\w)(?:Carefully watch th(?:e|is) video and pay attention to|These are the frames of a video\.)")
_HEADINGS = re.compile(r"^(?:Question: ?|Options:[ \t]*(?:\n|\Z))", re.MULTILINE)


def question_of(text: str) -> str:
    """The text without the sentences that ask for a form of answer: what selection conditions on, in either style.

    Hints, lettered options, OCR tokens, subtitles and headings such as "Question:" stay, as in the releases (which take out the
    sentence for a word or phrase, or for the letter). The instructions around a video's question go as well, and the headings
    "Question:" and "Options:" with them. Lines stay lines.
    """
    bare = _HEADINGS.sub("", text) if _ABOUT_VIDEO.search(text) else text
    shorter = _OPENING.sub("", _SENTENCES.sub(lambda m: "\n" if "\n" in m[0] else " ", bare)).strip()
    return shorter if shorter == text else question_of(shorter)
