"""The rules by name: how a table's answers become figures, which of them leads, and what to call it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .documents import anls, ocrbench
from .exact import exact_scores
from .gqa import gqa
from .judged import mlvu_open, mmvet, videoqa_judged
from .mcq import mmbench, scienceqa
from .pairs import mme, mme_official
from .pope import pope
from .verdicts import Verdicts
from .videos import longvideobench, mlvu, mvbench, videomme, videoqa
from .vqa import textvqa, vizwiz, vqa


@dataclass(frozen=True)
class Rule:
    """`function(rows)` gives the verdicts; where `judged`, `function(rows, replies)` does, a reply for each row.

    `primary` is the metric that leads, `label` what to call the rule beside a score.
    """

    name: str
    primary: str
    label: str
    function: Callable[..., Verdicts]
    judged: bool = False


RULES = {
    rule.name: rule
    for rule in (
        Rule("exact", "Overall", "exact match", exact_scores),
        Rule("pairs", "total", "yes/no pairs", mme),
        Rule("vqa", "Overall", "VQA accuracy, ten references", vqa),
        Rule("vizwiz", "Overall", "VizWiz accuracy, references as they are", vizwiz),
        Rule("textvqa", "Overall", "VQA accuracy, TextVQA's answer processor", textvqa),
        Rule("gqa", "Overall", "GQA accuracy", gqa),
        Rule("pope", "F1", "POPE mean F1", pope),
        Rule("mme", "total", "MME points", mme_official),
        Rule("scienceqa", "Overall", "ScienceQA accuracy", scienceqa),
        Rule("mmbench", "Overall", "MMBench circular accuracy, exact reading", mmbench),
        Rule("anls", "Overall", "ANLS", anls),
        Rule("ocrbench", "Overall", "OCRBench containment", ocrbench),
        Rule("mvbench", "Overall", "MVBench accuracy", mvbench),
        Rule("videomme", "Overall", "Video-MME accuracy", videomme),
        Rule("mlvu", "M-Avg", "MLVU M-Avg", mlvu),
        Rule("longvideobench", "Overall", "LongVideoBench accuracy", longvideobench),
        Rule("videoqa", "em_acc", "exact match after normalisation", videoqa),
        Rule("mmvet", "Overall", "MM-Vet judge score", mmvet, judged=True),
        Rule("videoqa_judged", "judge_acc", "judge accuracy", videoqa_judged, judged=True),
        Rule("mlvuopen", "G-Avg", "MLVU G-Avg", mlvu_open, judged=True),
    )
}
