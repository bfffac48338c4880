"""Scores for answers: pure functions of text, the same on every machine.

A rule takes rows (column -> text, with `prediction`) and gives `Verdicts`; `RULES` names them. Rules follow the benchmark's own
evaluation, and say where they do not. A verdict that cannot be read from a prediction is a wrong answer, and so is an empty
prediction in every rule, also where the official one would read it as something. The three functions of `judged` also take what
a judge said, and are in no rule.
"""

from .answers import open_score, references
from .choice import gold_letter, options, scienceqa_letter
from .exact import exact_scores, kind_of
from .judged import mlvu_open, mmvet, videoqa_judged
from .letters import option_letter
from .pairs import MME_PERCEPTION, MME_REASONING, pairs
from .rules import RULES, Rule
from .verdicts import Row, Verdicts, image_of, standard_error
from .vqa import normalise_vqa, textvqa_score, textvqa_text, vizwiz_score, vqa_score, vqa_text
from .yesno import mme_reading, pope_reading, yes_no

__all__ = [
    "MME_PERCEPTION",
    "MME_REASONING",
    "RULES",
    "Row",
    "Rule",
    "Verdicts",
    "exact_scores",
    "gold_letter",
    "image_of",
    "kind_of",
    "mlvu_open",
    "mme_reading",
    "mmvet",
    "normalise_vqa",
    "open_score",
    "option_letter",
    "options",
    "pairs",
    "pope_reading",
    "references",
    "scienceqa_letter",
    "standard_error",
    "textvqa_score",
    "textvqa_text",
    "videoqa_judged",
    "vizwiz_score",
    "vqa_score",
    "vqa_text",
    "yes_no",
]
