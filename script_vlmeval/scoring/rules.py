"""The rules by name: how a table's answers become figures, which of them leads, and what to call it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .documents import anls, ocrbench
from .exact import exact_scores, gqa
from .mcq import mmbench, question_of, scienceqa
from .pairs import mme, pairs, picture_of
from .pope import pope
from .verdicts import Row, Verdicts
from .videos import longvideobench, mlvu, mvbench, videomme, videoqa
from .vqa import textvqa, vizwiz, vqa


@dataclass(frozen=True)
class Rule:
    """`primary` is the metric that leads, `label` what to call the rule beside a score. `group`: rows for which it says the same
    are scored together, so that a table is not cut between them; None where each row stands for itself."""

    name: str
    primary: str
    label: str
    function: Callable[[Sequence[Row]], Verdicts]
    group: Callable[[Row], str] | None = None


RULES = {
    rule.name: rule
    for rule in (
        Rule("exact", "Overall", "exact match", exact_scores),
        Rule("pairs", "total", "yes/no pairs", pairs, picture_of),
        Rule("vqa", "Overall", "VQA accuracy, ten references", vqa),
        Rule("vizwiz", "Overall", "VizWiz accuracy, references as they are", vizwiz),
        Rule("textvqa", "Overall", "VQA accuracy, TextVQA's answer processor", textvqa),
        Rule("gqa", "Overall", "GQA accuracy", gqa),
        Rule("pope", "F1", "POPE mean F1", pope),
        Rule("mme", "total", "MME points", mme, picture_of),
        Rule("scienceqa", "Overall", "ScienceQA accuracy", scienceqa),
        Rule("mmbench", "Overall", "MMBench circular accuracy, exact reading", mmbench, question_of),
        Rule("anls", "Overall", "ANLS", anls),
        Rule("ocrbench", "Overall", "OCRBench containment", ocrbench),
        Rule("mvbench", "Overall", "MVBench accuracy", mvbench),
        Rule("videomme", "Overall", "Video-MME accuracy", videomme),
        Rule("mlvu", "M-Avg", "MLVU M-Avg", mlvu),
        Rule("longvideobench", "Overall", "LongVideoBench accuracy", longvideobench),
        Rule("videoqa", "em_acc", "exact match after normalisation", videoqa),
    )
}
