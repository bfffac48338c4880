"""Scores for answers: pure functions of text, the same on every machine.

A rule takes rows (column -> text, with `prediction`) and gives `Verdicts`; `RULES` names them. Rules follow the benchmark's own
evaluation, and say where they do not. A verdict that cannot be read from a prediction is a wrong answer, and so is an empty
prediction in every rule, also where the official one would read it as something. Rules of `judged` also take what a judge said.
"""

from .answers import normalise, open_score, references
from .choice import gold_letter, options, scienceqa_letter
from .documents import anls, distance, ocrbench, similarity
from .exact import KINDS, exact_scores, kind_of, verdict
from .gqa import gqa, gqa_text
from .judged import ABILITIES, VideoReply, mlvu_open, mmvet, videoqa_judged
from .mcq import mmbench, scienceqa
from .named import option_letter
from .pairs import MME_PERCEPTION, MME_REASONING, mme, mme_error, mme_official
from .pope import pope
from .rules import RULES, Rule
from .verdicts import Row, Verdicts, grouped, image_of, standard_error
from .videos import longvideobench, mlvu, mvbench, videomme, videoqa
from .vqa import normalise_vqa, textvqa, textvqa_score, textvqa_text, vizwiz, vizwiz_score, vizwiz_text, vqa, vqa_score, vqa_text
from .yesno import mme_reading, pope_reading, yes_no

__all__ = [
    "ABILITIES",
    "KINDS",
    "MME_PERCEPTION",
    "MME_REASONING",
    "RULES",
    "Row",
    "Rule",
    "Verdicts",
    "VideoReply",
    "anls",
    "distance",
    "exact_scores",
    "gold_letter",
    "gqa",
    "gqa_text",
    "grouped",
    "image_of",
    "kind_of",
    "longvideobench",
    "mlvu",
    "mlvu_open",
    "mmbench",
    "mme",
    "mme_error",
    "mme_official",
    "mme_reading",
    "mmvet",
    "mvbench",
    "normalise",
    "normalise_vqa",
    "ocrbench",
    "open_score",
    "option_letter",
    "options",
    "pope",
    "pope_reading",
    "references",
    "scienceqa",
    "scienceqa_letter",
    "similarity",
    "standard_error",
    "textvqa",
    "textvqa_score",
    "textvqa_text",
    "verdict",
    "videomme",
    "videoqa",
    "videoqa_judged",
    "vizwiz",
    "vizwiz_score",
    "vizwiz_text",
    "vqa",
    "vqa_score",
    "vqa_text",
    "yes_no",
]
