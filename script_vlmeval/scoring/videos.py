"""Questions about videos that need no judge: four multiple-choice sets, and short answers matched as strings."""

from __future__ import annotations

from collections.abc import Sequence

from .answers import normalise, references
from .choice import chosen
from .tasks import task_mean, task_points
from .verdicts import Row, Verdicts, accuracy, error_of, mean, prediction_of, require

_TASKS = {"task": "task_type"}
_VIDEOMME = {"duration": "duration", "domain": "domain", "task": "task_type", "sub_category": "sub_category"}
_LONGVIDEO = {"duration": "duration_group", "category": "question_category"}


def mvbench(rows: Sequence[Row]) -> Verdicts:
    """MVBench in percent: `Overall` (mean over questions), `stderr`, `task mean` (over tasks), `task/x`.

    The prompt ends in "Best option:(", so that answers go on as "B) text". A letter counts or an option's text; a bracket, an
    article before a noun or nothing at all is no answer.
    """
    found = chosen(rows, _TASKS)
    return _after_main(found, "task mean", 100 * task_mean(rows, found.per_sample))


def videomme(rows: Sequence[Row]) -> Verdicts:
    """Video-MME in percent: `Overall` over questions, `stderr`, `duration/x`, `domain/x`, `task/x`, `sub_category/x`."""
    return chosen(rows, _VIDEOMME)


def longvideobench(rows: Sequence[Row]) -> Verdicts:
    """LongVideoBench in percent: `Overall` over questions, `stderr`, `duration/x` (seconds, up to), `category/x`."""
    return chosen(rows, _LONGVIDEO)


def mlvu(rows: Sequence[Row]) -> Verdicts:
    """MLVU's multiple choice in percent: `M-Avg` is the mean of the tasks' accuracies, `M-Avg pooled` that of the questions.

    `stderr` is of `M-Avg`, tasks being independent; overstated where a task has one video.
    """
    found = chosen(rows, _TASKS)
    points = task_points(rows, found.per_sample, scale=100)
    metrics = {"M-Avg": 100 * task_mean(rows, found.per_sample), **error_of(points, rows, scale=1)}
    metrics["M-Avg pooled"] = found.metrics["Overall"]
    extra = {name: value for name, value in found.metrics.items() if name not in ("Overall", "stderr")}
    return Verdicts(found.read, found.per_sample, metrics | extra, points)


def videoqa(rows: Sequence[Row]) -> Verdicts:
    """Open answers in percent: `em_acc` (equal after normalisation), `stderr`, `contains_acc` (the reference as whole words of
    the answer), `type/x` (of `em_acc`). Neither is a judge's accuracy, which papers report for these sets."""
    require(rows)
    said = [normalise(prediction_of(row)) for row in rows]
    wanted = [[normalise(reference) for reference in references(row.get("answer", ""))] for row in rows]
    equal = [float(text != "" and text in accepted) for text, accepted in zip(said, wanted, strict=True)]
    within = [float(any(ref and f" {ref} " in f" {text} " for ref in refs)) for text, refs in zip(said, wanted, strict=True)]
    found = accuracy(rows, said, equal, {"type": "type"}, main="em_acc")
    return _after_main(found, "contains_acc", 100 * mean(within))


def _after_main(found: Verdicts, name: str, value: float) -> Verdicts:
    """With one more metric behind the main figure and its error."""
    head = {key: found.metrics[key] for key in list(found.metrics)[:1] + ["stderr"] * ("stderr" in found.metrics)}
    return Verdicts(found.read, found.per_sample, {**head, name: value, **found.metrics})
