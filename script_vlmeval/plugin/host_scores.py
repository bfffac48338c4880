"""The host's own scorers: on a copy, offline unless a judge is named, from scratch."""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from ..errors import UserError, said_by
from .host import environment, host, quiet_scoring
from .scores import Score
from .workbook import HOST_FILES, Answers

if TYPE_CHECKING:
    from ..judge import Judge

EVALUATORS = {  # the host's scorers that need no judge model, and what to call them
    "ImageVQADataset.evaluate": "VQAEval",
    "ImageMCQDataset.evaluate": "MCQEval exact matching",
    "ImageYORNDataset.evaluate": "YOrNEval exact matching",
    "VizWiz.evaluate": "VQAEval",
    "VideoMME.evaluate": "exact matching",
    "MVBench.evaluate": "exact matching",
    "MLVU_MCQ.evaluate": "exact matching",
    "LongVideoBench.evaluate": "exact matching",
}
_PER_SAMPLE = {"_auxmatch": "score", "_results": "eval_score", "_exact_matching_result": "hit", "_score": "score"}
_PRIMARY = ("total", "overall", "avg acc", "aacc", "acc", "accuracy", "score", "relative score (main)")  # in lower case
_WHOLE = "overall"  # the label, in lower case, of the row of a host's table that is about all questions


def scorer_of(cls: Any) -> str:
    """What to call a class's scorer, with the host's version: 'vlmeval 0.0.20 VQAEval (ms-vlmeval)'."""
    name, _, origin = host().label.partition(" (")
    qualified = cls.evaluate.__qualname__
    return f"{name} {EVALUATORS.get(qualified, qualified)} ({origin}"


def score_host(dataset: Any, answers: Answers, workbook: Path, data: Path, judge: Judge | None = None) -> Score:
    """The host's own `evaluate` on a copy of a workbook; its files are moved into a folder of theirs beside `workbook`.

    A copy in a folder of its own, because the host derives file names by replacing text in the whole path, reuses what lies
    there, and for some benchmarks writes the workbook anew. dataset: an object of the host, or a class of it whose `evaluate`
    needs none. UserError with the reason when the scorer gives up, or no figure of its can be told to be the main one.
    """
    name = str(getattr(dataset, "dataset_name", None) or getattr(dataset, "__name__", "?"))
    with tempfile.TemporaryDirectory(prefix="score-") as folder:
        copy = Path(folder, "answers.xlsx")
        answers.copy_to(copy)
        settings: dict[str, str | None] = {"LMUData": str(data), "PRED_FORMAT": None, "EVAL_FORMAT": None, "PRINT_VANILLA": None}
        with quiet_scoring(Path(folder)), environment(**settings, **(judge.environment() if judge else {})):
            try:
                result = dataset.evaluate(str(copy), model=judge.model if judge else "exact_matching", nproc=1)
            except Exception as error:
                raise UserError(f"VLMEvalKit's scorer for {name} failed: {said_by(error)}.") from error
        per_sample = _per_sample(Path(folder), [row["index"] for row in answers.rows])
        theirs = workbook.parent / HOST_FILES
        theirs.mkdir(exist_ok=True)
        for path in sorted(Path(folder).glob("answers_*")):
            shutil.move(path, theirs / (workbook.stem + path.name.removeprefix("answers")))
    metrics = host_metrics(result, dataset, per_sample)
    primary = _main(metrics, name)
    explained = per_sample is not None and _explains(per_sample, metrics[primary])
    if getattr(dataset, "TYPE", "") == "VQA" and not explained:
        per_sample = None  # ANLS and the like: the column is a distance, not the score
    points = {index: 100 * worth for index, worth in per_sample.items()} if per_sample is not None and explained else None
    by = judge.label if judge else ""
    return Score(metrics, primary, scorer_of(dataset) + (f", judge {by}" if by else ""), per_sample, judge=by, points=points)


def _main(metrics: Mapping[str, float], name: str) -> str:
    """The figure that leads. UserError where none is known to: any other would look like the score."""
    lower = {key.lower(): key for key in metrics}
    main = next((lower[key] for key in _PRIMARY if key in lower), "")
    if not main:
        held = ", ".join(list(metrics)[:8]) + (", ..." if len(metrics) > 8 else "")
        raise UserError(f"VLMEvalKit's scorer for {name} gave no figure for the whole; its table holds {held or 'none at all'}.")
    return main


def host_metrics(result: Any, dataset: Any, per_sample: Mapping[str, float] | None) -> dict[str, float]:
    """The host's table as one flat mapping in percent; rows of a part (a split, a skill) are prefixed with its name."""
    if str(getattr(dataset, "TYPE", "")).startswith("Video"):
        return _video_metrics(result)
    single = [dict(result)] if isinstance(result, Mapping) else []
    records = result.to_dict("records") if isinstance(result, pd.DataFrame) else single
    # Rows are named in the first column with text: `split`, "Task&Skill", "Subject", "Category" in one table or another.
    naming = next((key for record in records for key, value in record.items() if isinstance(value, str)), "")
    scale = 100.0 if getattr(dataset, "TYPE", "") == "MCQ" else 1.0
    metrics: dict[str, float] = {}
    for record in records:
        label = str(record.get(naming, ""))
        prefix = "" if len(records) == 1 or label.lower() == _WHOLE else f"{label}/"
        for key, value in record.items():
            if key != naming and isinstance(value, Real) and not math.isnan(value):
                metrics[f"{prefix}{key}"] = float(value) * scale
    if {"perception", "reasoning"} <= metrics.keys():
        metrics = {"total": metrics["perception"] + metrics["reasoning"], **metrics}
    if len(records) > 1 and scale == 100 and per_sample:  # several splits of a multiple-choice set
        metrics = {"Overall": 100 * sum(per_sample.values()) / len(per_sample), **metrics}
    return metrics


def _video_metrics(result: Any) -> dict[str, float]:
    """Its video scorers answer in dictionaries of several shapes: [right, all] by task, with a percentage as text behind or not,
    or fractions as text under 'overall'. The main figure of each, and the tasks where they are counted."""
    if "overall" in result and isinstance(result["overall"], Mapping):  # Video-MME, LongVideoBench
        spans = {str(k): v.get("overall") for k, v in result.items() if isinstance(v, Mapping)}
        found = {k: 100 * float(v) for k, v in spans.items() if v not in (None, "", "nan")}
        return (
            {"Overall": found.pop("overall"), **{f"duration/{k}": v for k, v in found.items()}} if "overall" in found else found
        )
    counts = {str(k): v for k, v in dict(result).items() if isinstance(v, Sequence) and len(v) >= 2 and v[1]}
    whole = counts.pop("overall", None) or [sum(v[i] for v in counts.values()) for i in (0, 1)]
    if not whole[1]:
        return {}
    return {"Overall": 100 * whole[0] / whole[1], **{f"task/{k}": 100 * v[0] / v[1] for k, v in counts.items()}}


def _per_sample(folder: Path, indices: Sequence[str]) -> dict[str, float] | None:
    """Scores by our index, from the file in which the host's scorer keeps them."""
    ours = {_canonical(index): index for index in indices}
    for suffix, column in _PER_SAMPLE.items():
        path = folder / f"answers{suffix}.xlsx"
        if path.is_file():
            frame = pd.read_excel(path)
            if column not in frame or "index" not in frame:
                continue
            found = {_canonical(str(i)): float(s) for i, s in zip(frame["index"], frame[column], strict=True)}
            known = {ours[index]: score for index, score in found.items() if index in ours}
            return known if all(0 <= score <= 1 for score in known.values()) else None  # else a judge's marks or percentages
    return None


def _canonical(index: str) -> str:
    """pandas reads 007 as 7."""
    return str(int(index)) if index.isdecimal() else index


def _explains(per_sample: Mapping[str, float], overall: float) -> bool:
    return bool(per_sample) and math.isclose(100 * sum(per_sample.values()) / len(per_sample), overall, abs_tol=1e-6)
