"""Ask one model everything that the cells of one benchmark lack: batch by batch, every configuration before the next batch."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from . import prompts
from .backbones import Backbone
from .cells import Cell
from .inputs import Sample
from .loading import no_memory
from .methods import Method
from .plugin import Dataset
from .runtime import Prepared, Runtime
from .store import CellStore

_log = logging.getLogger(__name__)
_HOPELESS = 8  # a cell without a single answer is given up after so many failures of the model


@dataclass
class Work:
    """One cell in progress."""

    cell: Cell
    method: Method
    store: CellStore
    origin: Mapping[str, Any] = field(default_factory=dict)  # the checkpoint that is asked, for the provenance
    missing: set[str] = field(default_factory=set)  # indices of rows without a prediction
    finished: bool = False  # result.json is there and no row failed
    answered: int = 0
    failures: int = 0  # of the model, not of pictures
    errors: dict[str, str] = field(default_factory=dict)  # index -> why this run has no answer
    reason: str = ""  # why the cell was given up

    def take_up(self, dataset: Dataset, fresh: bool, judge: str = "") -> None:
        """Go on where an earlier run left the cell. An answer to a picture that is another one now does not count. judge: the
        label of the one that is to score: a score by another, by none, or in other words is not what was asked for."""
        answers = {} if fresh else self.store.answers()
        stamps = {row["index"]: dataset.stamp(row) for row in dataset.rows}
        valid = {i for i, a in answers.items() if "prediction" in a and a.get("stamp", "") == stamps.get(i)}
        self.missing = set(stamps) - valid
        self.answered = len(stamps) - len(self.missing)
        result = None if fresh or self.missing else self.store.result()
        self.finished = result is not None and result["failed"] == 0 and _as_judged(result, dataset, judge)

    def answers(self) -> dict[str, dict[str, Any]]:
        """Index -> the store's record that counts now: not an old answer to a picture that has changed or broken since."""
        records = self.store.answers()
        for i in self.missing:
            reason = self.errors.get(i) or records.pop(i, {}).get("error")
            if reason:
                records[i] = {"index": i, "error": reason}
        return records


def _as_judged(result: Mapping[str, Any], dataset: Dataset, judge: str) -> bool:
    """Whether a score is the one that a judge of that label, '' for none, would give by the words and readings of today."""
    if not judge or not dataset.judgeable:
        return True
    return result.get("judge") == judge and dataset.judged_by(judge) in ("", result["scorer"])


@dataclass(frozen=True)
class How:
    """What is the same for all configurations on a benchmark."""

    seed: int
    style: str  # as --prompt-style
    max_new_tokens: int


def style_of(wanted: str, dataset: Dataset) -> str:
    """Whose words a benchmark's messages are: VLMEvalKit's where it was named, or published numbers used no others."""
    return "vlmevalkit" if wanted == "vlmevalkit" else prompts.default_style(dataset.host)


def longest(wanted: str, dataset: Dataset, record: Backbone) -> int:
    """How many tokens an answer may have: the host's limit where its style was named, else the benchmark's own or the model's."""
    if wanted == "vlmevalkit":
        return record.host_max_new_tokens
    return prompts.max_new_tokens(dataset.host, style_of(wanted, dataset)) or record.max_new_tokens


def remarks(wanted: str, dataset: Dataset) -> tuple[str, ...]:
    """What must be said beside scores in that style."""
    if style_of(wanted, dataset) != "llava" or not prompts.reads_ocr(dataset.host) or "ocr_tokens" in dataset.rows[0]:
        return ()
    return (
        f"{dataset.name} is asked without OCR tokens, which published LLaVA-1.5 figures had: its table has no column ocr_tokens.",
    )


def ask_all(
    runtime: Runtime,
    dataset: Dataset,
    works: Sequence[Work],
    batch_size: int,
    seed: int,
    bar: Any,
    style: str = "auto",
) -> None:
    """All answers that the cells lack; each is on disk before the bar moves. style: as --prompt-style."""
    how = How(seed, style, longest(style, dataset, runtime.record))
    wanted: set[str] = set().union(*(w.missing for w in works))
    rows = [row for row in dataset.rows if row["index"] in wanted]
    budgets: dict[Method, list[str]] = {}
    for work in works:
        budgets.setdefault(work.method, []).append(work.cell.config.budget)
    for start in range(0, len(rows), batch_size):
        now = rows[start : start + batch_size]
        samples, broken = _read(runtime, dataset, now, style)
        stamps = {row["index"]: dataset.stamp(row) for row in now}
        prepared: dict[tuple[str, ...], Prepared] = {}
        with runtime.batch():
            for work in works:
                if work.reason:
                    continue
                mine = {i: s for i, s in samples.items() if i in work.missing}
                records = [{"index": i, "error": reason} for i, reason in broken.items() if i in work.missing]
                records += [
                    {**r, "stamp": stamps[r["index"]]} for r in _ask(runtime, work, mine, how, prepared, budgets[work.method])
                ]
                work.store.append(records)
                _note(work, records)
                bar.set_postfix_str(f"{dataset.name} {work.cell.config}", refresh=False)
                bar.update(len(records))


def _read(
    runtime: Runtime, dataset: Dataset, rows: Iterable[dict[str, str]], style: str
) -> tuple[dict[str, Sample], dict[str, str]]:
    """Decoded samples by index, and the reasons of those that cannot be decoded."""
    samples: dict[str, Sample] = {}
    broken: dict[str, str] = {}
    for row in rows:
        try:
            samples[row["index"]] = runtime.read(dataset.message(row, style_of(style, dataset)), style)
        except Exception as error:  # decoders raise whatever a broken file makes them raise
            broken[row["index"]] = str(error) or type(error).__name__
            _log.warning("%s, row %s: %s", dataset.name, row["index"], broken[row["index"]])
    return samples, broken


def _ask(
    runtime: Runtime,
    work: Work,
    samples: Mapping[str, Sample],
    how: How,
    prepared: dict[tuple[str, ...], Prepared],
    budgets: Sequence[str],
) -> Iterator[dict[str, Any]]:
    """Records of a batch, which is prepared and encoded once for all configurations.

    A batch that does not fit into memory is asked in halves; one that fails otherwise is asked again one by one, so that one bad
    sample costs only itself.
    """
    if not samples:
        return
    indices = tuple(samples)
    try:
        if indices not in prepared:
            prepared[indices] = runtime.prepare(list(samples.values()), how.style)
            runtime.encode(prepared[indices])  # here, so that no configuration pays for the others
        shared = prepared[indices].chosen.get(
            (work.method, how.seed)
        )  # each pays for a choice that they share, not the first alone
        before = shared.seconds if shared else 0.0
        start = time.perf_counter()
        answers = runtime.answer(
            prepared[indices],
            work.method,
            work.cell.config.budget,
            seed=how.seed,
            budgets=budgets,
            max_new_tokens=how.max_new_tokens,
        )
    except Exception as error:
        memory = no_memory(error)
        if len(samples) == 1:
            work.failures += 1
            text = str(error).splitlines()[0] if str(error) else ""
            yield {"index": indices[0], "error": memory or f"{type(error).__name__}: {text}"}
            return
        prepared.pop(indices, None)
        pieces = (indices[: len(indices) // 2], indices[len(indices) // 2 :]) if memory else tuple((i,) for i in indices)
        del error
        runtime.let_go()
        for piece in pieces:
            if work.failures < _HOPELESS or work.answered:
                yield from _ask(runtime, work, {i: samples[i] for i in piece}, how, prepared, budgets)
        return
    share = (time.perf_counter() - start + before) / len(indices)
    for i, answer in zip(indices, answers, strict=True):
        shown = {"frames": sum(samples[i].frames)} if samples[i].frames else {}
        yield {"index": i, "prediction": answer.text, "tokens": answer.tokens | shown, "seconds": share}


def _note(work: Work, records: Sequence[Mapping[str, Any]]) -> None:
    """Keep count; a cell in which the model has answered nothing and failed several times is given up."""
    good = {r["index"] for r in records if "prediction" in r}
    work.errors |= {r["index"]: r["error"] for r in records if "error" in r}
    work.answered += len(good)
    work.missing -= good
    if work.failures >= _HOPELESS and not work.answered:
        work.reason = f"the model failed on every row, the last time with {records[-1]['error']}"
        _log.error("%s is given up: %s", work.cell, work.reason)
