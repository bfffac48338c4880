"""Scores by a judge model: one call per question, each answer cached, what cannot be read counted and never dropped.

MM-Vet and the open half of MLVU are put to the judge in VLMEvalKit's words, video question answering in ours (`judge.tasks`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import judge as judging
from .. import scoring
from ..errors import UserError
from .host import host
from .scores import Score, by_index, write_verdicts

if TYPE_CHECKING:
    from ..judge import Judge, Task

Row = Mapping[str, str]


@dataclass(frozen=True)
class Judged:
    """How a judge is asked about a row, how its answer is read, and what the readings are worth together."""

    task: Callable[[Row], Task]
    parse: Callable[[str], Any]
    score: Callable[[Sequence[Row], Sequence[Any]], scoring.Verdicts]
    primary: str
    protocol: str

    def scorer(self, judge: str) -> str:
        """What to call a score by a judge of that label: it tells another judge, and other words or readings, apart."""
        return f"script_vlmeval judge, {self.protocol}: {judge}"


def _video_task(row: Row) -> Task:
    return judging.video_qa(row["question"], row["answer"], row["prediction"])


def _mmvet_task(row: Row) -> Task:
    host()
    prompt = import_module("vlmeval.dataset.utils.mmvet").build_mmvet_gpt4_prompt(row)
    return judging.Task("", prompt, 16)


_MLVU = {"sub_scene": ("score_accuracy", "score_relevance"), "summary": ("score_completeness", "score_reliability")}


def _mlvu_task(row: Row) -> Task:
    host()
    words = import_module("vlmeval.dataset.utils.mlvu")
    kind = row["task_type"]
    system = {"sub_scene": words.system_prompt_sub_scene, "summary": words.system_prompt_summary}[kind]
    asked = {
        "sub_scene": f"Question: {row['question']}\nScoring Points: {row.get('scoring_points', '')}",
        "summary": f"Standard Answer: {row['answer']}",
    }[kind]
    return judging.Task(system, f"{asked}\nRespondent's Answer: {row['prediction']}", 512)


def _mlvu_pair(text: str) -> tuple[float, float] | None:
    """The two scores, under either task's names."""
    return next((pair for names in _MLVU.values() if (pair := judging.parse_pair(text, *names)) is not None), None)


JUDGED = {  # by the rule's name
    "videoqa": Judged(_video_task, judging.parse_video, scoring.videoqa_judged, "judge_acc", judging.PROTOCOL["videoqa"]),
    "mmvet": Judged(_mmvet_task, judging.parse_fraction, scoring.mmvet, "Overall", judging.PROTOCOL["mmvet"]),
    "mlvuopen": Judged(_mlvu_task, _mlvu_pair, scoring.mlvu_open, "G-Avg", judging.PROTOCOL["mlvuopen"]),
}


def score_judged(how: Judged, judge: Judge, workbook: Path, rows: Sequence[dict[str, str]], quiet: bool = False) -> Score:
    """The score by a judge of a workbook's rows; files go beside it. Rows without an answer are wrong without asking. UserError
    when the judge does not answer, or nothing that it says can be read: nothing is written, its replies are cached."""
    asked = [i for i, row in enumerate(rows) if row["prediction"]]
    replies = judge.ask([how.task(rows[i]) for i in asked], how.parse, progress=f"judging {workbook.stem}", quiet=quiet)
    if asked and all(reply.value is None for reply in replies):
        example = " ".join(replies[0].text.split())[:80]
        raise UserError(f"None of {len(replies):,} replies of {judge.label} could be read as a verdict, such as '{example}'.")
    said, words = list[Any]([None] * len(rows)), [""] * len(rows)
    for i, reply in zip(asked, replies, strict=True):
        said[i], words[i] = reply.value, reply.text
    verdicts = how.score(rows, said)
    write_verdicts(workbook, rows, verdicts, "judged", {"reply": words})
    unread = sum(reply.value is None for reply in replies)
    notes = (f"{unread:,} of {len(replies):,} judge replies could not be read: they count as wrong.",) if unread else ()
    return Score(  # without `read`: what a judge says is of the answer's worth, and two answers may differ and both be right
        verdicts.metrics,
        how.primary,
        how.scorer(judge.label),
        by_index(rows, verdicts.per_sample),
        notes=notes,
        judge=judge.label,
        points=by_index(rows, verdicts.pointed()),
    )
