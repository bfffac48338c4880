"""Close a cell: its answers into a workbook, the workbook to the scorers, what rows are worth, and `result.json` last."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any

from . import efficiency, loading, results
from .cells import Cell
from .errors import UserError, said_by
from .files import disk
from .plugin import Dataset, Worth
from .report import write_predictions
from .runtime import choose_device
from .tally import Cost, Tally
from .work import Options, Work

_PROMPTS = 10_000  # of as many tokens in every layer, whose cost is remembered: prompts of one benchmark are much alike
_log = logging.getLogger(__name__)


@dataclass
class Outcome:
    """What became of the cells. `failed`: cell -> reason; `rows`: cell -> how many rows have no answer, and why the first;
    `troubles`: processes that did no share, and why."""

    done: list[Cell] = field(default_factory=list)
    already: list[Cell] = field(default_factory=list)
    failed: dict[Cell, str] = field(default_factory=dict)
    rows: dict[Cell, tuple[int, str]] = field(default_factory=dict)
    troubles: list[str] = field(default_factory=list)
    submissions: set[str] = field(default_factory=set)  # benchmarks of which there are files to send in

    @property
    def status(self) -> int:
        """The exit status: 0 when every cell is done without a failed row, else 1."""
        return 1 if self.failed or self.rows or self.troubles else 0


def close(work: Work, dataset: Dataset, options: Options, outcome: Outcome) -> None:
    """Score a cell and finish it, or say why not."""
    if work.finished and options.mode != "eval":
        outcome.already.append(work.cell)
        if (work.store.result() or {}).get("submission"):
            outcome.submissions.add(work.cell.benchmark)
        return
    reason = work.reason or _answered(work, dataset, options, outcome)
    if reason:
        outcome.failed[work.cell] = reason
        if options.mode != "eval":  # which leaves what there is
            work.store.announce()
            work.store.give_up(reason)
    else:
        outcome.done.append(work.cell)


def _answered(work: Work, dataset: Dataset, options: Options, outcome: Outcome) -> str:
    """The workbook and, unless answers alone were asked for, the score. Why there is none; '' where there is."""
    tally = Tally.of(_records(work, dataset), _cost(work, options))
    if unanswered := len(dataset.rows) - len(tally.predictions) - len(tally.failed):
        again = "without --mode eval" if options.mode == "eval" else "again"
        return f"{unanswered} of {len(dataset.rows)} rows have no answer: run it {again}"
    first = next(iter(tally.failed.values()), "")
    if not tally.predictions:
        return f"none of {len(dataset.rows)} rows could be answered, the first because of: {first}"
    if tally.failed:
        outcome.rows[work.cell] = len(tally.failed), first
    # A failed row's cell stays empty: wrong.
    write_predictions(work.store.workbook, dataset.rows, tally.predictions)
    return _scored(work, dataset, tally, options, outcome) if options.mode != "infer" else ""


def _cost(work: Work, options: Options) -> Cost | None:
    """What the cell's samples cost, by the checkpoint's description and the precision of its answers; None where that is not to
    be had, which is no reason to lose a score."""
    try:
        shape = loading.shape(options.models.record(work.cell.config.model))
        counted = partial(efficiency.counted, shape, efficiency.BYTES[work.store.fingerprint["dtype"]])
        return lru_cache(_PROMPTS)(counted)
    except (UserError, KeyError) as error:
        _log.debug("%s: no cost: %s", work.cell, error)
        return None


def _records(work: Work, dataset: Dataset) -> Iterator[dict[str, Any]]:
    """The record that counts of each row, in the order of the rows: not an old answer to a picture that is another one now."""
    work.store.refresh()
    lines = work.store.lines()
    kept = [
        line
        for row in dataset.rows
        if (line := lines.get(row["index"])) and (not line.answered or line.stamp == dataset.stamp(row))
    ]
    return work.store.records(kept)


def _scored(work: Work, dataset: Dataset, tally: Tally, options: Options, outcome: Outcome) -> str:
    before = work.store.result() or {}
    if before.get("judge") and options.judge is None and dataset.judgeable:
        _log.warning("%s: the score by %s gives way to one without a judge.", work.cell, before["judge"])
    try:
        with disk(work.store.folder):
            score = dataset.score(work.store.workbook, options.judge, options.quiet, said=tally.predictions)
        worth = Worth.of(dataset, score)
    except UserError as error:
        return str(error)
    except Exception as error:  # the host's own code, or a rule that meets what nobody thought of: one cell's loss
        _log.debug("%s", work.cell, exc_info=True)
        return f"scoring failed: {said_by(error)}"
    if score.submission:
        outcome.submissions.add(work.cell.benchmark)
    device = choose_device(options.device)
    result = results.result(work.cell, work.store.fingerprint, dataset, score, worth, tally, device, work.origin)
    if work.since:  # in `--mode eval` alone
        changes = [f"{key} {work.store.fingerprint.get(key)} -> {value}" for key, value in work.since.items()]
        result["notes"].append(f"Scored by another version than answered: {'; '.join(changes)}.")
        result["rescored"] = dict(work.since)
    work.store.finish(result, worth.lines(tally.failed) if worth else None)
    return ""
