"""Scoring a workbook of answers: ours by `scoring`, a host's benchmark by the host's own scorer, offline and from scratch."""

from __future__ import annotations

import math
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any

import pandas as pd

from .. import scoring
from ..celltext import unescape
from ..errors import UserError
from .host import MARKER, environment, host, quiet_scoring

FILLER = "Z"  # for the host's scorers: no option, no yes or no, hardly ever an answer
EVALUATORS = {  # the host's scorers that need no judge model, and what to call them
    "ImageVQADataset.evaluate": "VQAEval",
    "ImageMCQDataset.evaluate": "MCQEval exact matching",
    "ImageYORNDataset.evaluate": "YOrNEval exact matching",
    "VizWiz.evaluate": "VQAEval",
}
_FAILED = "script_vlmeval failed"  # a column that no table has
_PER_SAMPLE = {"_auxmatch": "score", "_results": "eval_score", "_exact_matching_result": "hit"}
_PRIMARY = ("total", "Overall", "Avg ACC", "aAcc", "acc")


@dataclass(frozen=True)
class Score:
    """A benchmark's figures, in percent or in MME's points. `per_sample`: index -> 0..1, None where the host does not say."""

    metrics: dict[str, float]
    primary: str
    scorer: str
    per_sample: dict[str, float] | None


def read_workbook(path: Path) -> pd.DataFrame:
    """The rows of a workbook (or of a TSV, as the host may write), every cell as text. UserError when it has no predictions."""
    try:
        if path.suffix == ".xlsx":
            frame = pd.read_excel(path, dtype=str, keep_default_na=False)
        else:
            frame = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False)
    except FileNotFoundError:
        raise UserError(f"There are no answers to score: {path} does not exist. Run with --mode infer first.") from None
    except (ValueError, KeyError, OSError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} cannot be read as a workbook: {error}.") from None
    missing = [column for column in ("index", "prediction") if column not in frame]
    if missing:
        raise UserError(f"{path} has no column '{missing[0]}'.")
    frame = frame.map(unescape)
    # A failed row is wrong, and must not be read by a scorer: "... via API." counts as option A in some.
    failed = frame["prediction"].str.strip().eq("") | frame["prediction"].str.contains(MARKER, regex=False)
    return frame.assign(prediction=frame["prediction"].mask(failed, FILLER), **{_FAILED: failed})


def write_workbook(frame: pd.DataFrame, path: Path) -> None:
    """Text stays text: no formula and no link is made of what a model said."""
    options = {"strings_to_formulas": False, "strings_to_urls": False, "strings_to_numbers": False}
    with pd.ExcelWriter(path, engine="xlsxwriter", engine_kwargs={"options": options}) as writer:
        frame.to_excel(writer, index=False)


def remove_stale(workbook: Path) -> None:
    """Files of an earlier scoring: the host's scorers would read them instead of the answers."""
    for path in workbook.parent.iterdir():
        if path.name.startswith(f"{workbook.stem}_") and path.suffix in (".xlsx", ".csv", ".tsv", ".json", ".pkl"):
            path.unlink()


# ours --------------------------------------------------------------------------------------------------------------------


def score_exact(workbook: Path) -> Score:
    """Exact match over open, yes/no and multiple-choice rows; `<stem>_results.xlsx` says what was read from each answer."""
    return _score_ours(workbook, scoring.exact_scores, "Overall", "script_vlmeval exact match", "_acc.csv")


def score_pairs(workbook: Path) -> Score:
    """MME's scores over pairs of yes/no questions."""
    return _score_ours(workbook, scoring.mme, "total", "script_vlmeval yes/no pairs", "_score.csv")


def score_ocrbench(workbook: Path) -> Score:
    """OCRBench's containment of the answer, in percent."""
    return _score_ours(workbook, scoring.ocrbench, "Overall", "script_vlmeval OCRBench containment", "_score.csv")


def _score_ours(
    workbook: Path, rule: Callable[[Sequence[Mapping[str, str]]], scoring.Verdicts], primary: str, scorer: str, suffix: str
) -> Score:
    frame = read_workbook(workbook)
    frame["prediction"] = frame["prediction"].mask(frame.pop(_FAILED), "")  # ours take an empty answer for what it is: wrong
    verdicts = rule([{str(k): str(v) for k, v in row.items()} for row in frame.to_dict("records")])
    results = frame.assign(extracted=verdicts.read, hit=verdicts.per_sample)
    write_workbook(results, workbook.with_name(f"{workbook.stem}_results.xlsx"))
    pd.DataFrame([verdicts.metrics]).to_csv(workbook.with_name(workbook.stem + suffix), index=False)
    return Score(verdicts.metrics, primary, scorer, dict(zip(frame["index"], verdicts.per_sample, strict=True)))


OURS = {"OCRBench.evaluate": score_ocrbench}  # scored here: the host's own evaluates the answers' cells as code


# the host's --------------------------------------------------------------------------------------------------------------


def score_host(dataset: Any, workbook: Path, data: Path) -> Score:
    """The host's own `evaluate` on a copy of the workbook; its files are moved beside the original.

    A copy in a folder of its own, because the host derives file names by replacing text in the whole path, reuses what lies
    there, and for some benchmarks writes the workbook anew. UserError with the reason when the scorer gives up.
    """
    frame = read_workbook(workbook).drop(columns=_FAILED)
    with tempfile.TemporaryDirectory(prefix="score-") as folder:
        copy = Path(folder, "answers.xlsx")
        write_workbook(frame, copy)
        with quiet_scoring(), environment(LMUData=str(data), PRED_FORMAT=None, EVAL_FORMAT=None, PRINT_VANILLA=None):
            try:
                result = dataset.evaluate(str(copy), model="exact_matching", nproc=1)
            except Exception as error:
                reason = f"{type(error).__name__}: {error}"
                raise UserError(f"VLMEvalKit's scorer for {dataset.dataset_name} failed: {reason}.") from error
        per_sample = _per_sample(Path(folder), list(frame["index"]))
        for path in sorted(Path(folder).glob("answers_*")):
            shutil.move(path, workbook.with_name(workbook.stem + path.name.removeprefix("answers")))
    metrics = host_metrics(result, dataset, per_sample)
    primary = next((name for name in _PRIMARY if name in metrics), next(iter(metrics), ""))
    if not primary:
        raise UserError(f"VLMEvalKit's scorer for {dataset.dataset_name} gave no figure.")
    if getattr(dataset, "TYPE", "") == "VQA" and per_sample and not _explains(per_sample, metrics[primary]):
        per_sample = None  # ANLS and the like: the column is a distance, not the score
    name, _, origin = host().label.partition(" (")
    return Score(metrics, primary, f"{name} {EVALUATORS[dataset.evaluate.__qualname__]} ({origin}", per_sample)


def host_metrics(result: Any, dataset: Any, per_sample: Mapping[str, float] | None) -> dict[str, float]:
    """The host's table as one flat mapping in percent; splits other than the whole are prefixed."""
    records = result.to_dict("records") if isinstance(result, pd.DataFrame) else [dict(result)]
    scale = 100.0 if getattr(dataset, "TYPE", "") == "MCQ" else 1.0
    metrics: dict[str, float] = {}
    for record in records:
        split = str(record.get("split", ""))
        prefix = "" if len(records) == 1 or split == "Overall" else f"{split}/"
        for key, value in record.items():
            if key != "split" and isinstance(value, Real) and not math.isnan(value):
                metrics[f"{prefix}{key}"] = float(value) * scale
    if {"perception", "reasoning"} <= metrics.keys():
        metrics = {"total": metrics["perception"] + metrics["reasoning"], **metrics}
    if len(records) > 1 and scale == 100 and per_sample:  # several splits of a multiple-choice set
        metrics = {"Overall": 100 * sum(per_sample.values()) / len(per_sample), **metrics}
    return metrics


def _per_sample(folder: Path, indices: Sequence[str]) -> dict[str, float] | None:
    """Scores by our index, from the file in which the host's scorer keeps them."""
    ours = {_canonical(index): index for index in indices}
    for suffix, column in _PER_SAMPLE.items():
        path = folder / f"answers{suffix}.xlsx"
        if path.is_file():
            frame = pd.read_excel(path)
            found = {_canonical(str(i)): float(s) for i, s in zip(frame["index"], frame[column], strict=True)}
            return {ours[index]: score for index, score in found.items() if index in ours}
    return None


def _canonical(index: str) -> str:
    """pandas reads 007 as 7."""
    return str(int(index)) if index.isdecimal() else index


def _explains(per_sample: Mapping[str, float], overall: float) -> bool:
    return math.isclose(100 * sum(per_sample.values()) / len(per_sample), overall, abs_tol=1e-6)
