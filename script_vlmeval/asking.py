"""Ask one model everything that the cells of one benchmark lack: batch by batch, every configuration before the next batch.

While the model works on a batch, a thread decodes the pictures of the next ones and makes their tensors.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import torch

from .ahead import ahead, gather
from .batches import Sizer, cuts
from .counts import Counts
from .errors import said_by
from .inputs import Message, Sample, extent
from .loading import no_memory, quiet
from .methods import Method
from .room import let_go
from .runtime import Prepared, Runtime
from .stopping import Stop
from .tally import runs
from .wording import How, style_of
from .work import Chunk, Table, Work

_log = logging.getLogger(__name__)
_HOPELESS = 8  # a cell without a single answer is given up after so many failures of the model
_WARNINGS = 9  # about rows of a benchmark that cannot be read
_AHEAD = 2  # batches that wait, decoded, for the model


Records: TypeAlias = dict[int, Mapping[str, Any]]  # by position of the row


class _TooLarge(Exception):
    """A batch does not fit into memory."""


@dataclass
class Batch:
    """Rows that are asked together, by position. ends: whether the last of a chunk."""

    messages: dict[int, Message]
    broken: dict[int, str]  # why a row cannot be asked
    ends: bool
    samples: dict[int, Sample] = field(default_factory=dict)
    prepared: Prepared | None = None  # all samples, not yet on the model's device


@dataclass
class Asking:
    """One benchmark's open cells, asked of one model by this process. tolerated: failed rows that a cell may have; workers:
    threads that decode pictures; atlas: the first rows of the table whose records tell which tokens were kept."""

    runtime: Runtime
    table: Table
    how: How
    sizer: Sizer
    counts: Counts
    stop: Stop
    tolerated: int
    workers: int = 1
    atlas: int = 100
    leaving: bool = field(default=False, init=False)
    warned: set[str] = field(default_factory=set, init=False)

    def __post_init__(self) -> None:
        self.rows, self.dataset = self.table.dataset.rows, self.table.dataset
        self.works = [work for work in self.table.works if not work.reason and work.missing.any()]
        self.budgets: dict[Method, list[str]] = {}
        for work in self.works:
            self.budgets.setdefault(work.method, []).append(work.cell.config.budget)

    def ask(self, chunks: Iterable[Chunk]) -> Iterator[None]:
        """All answers that the cells lack in these rows, each on disk before it is counted. Yields behind each chunk."""
        with quiet(ours=True), ahead(self._read, self._batches(chunks), _AHEAD) as read:
            try:
                for batch in read:
                    for work in self.works if batch.broken else ():
                        self._keep(work, {at: self._failed(at, why) for at, why in batch.broken.items() if work.missing[at]})
                    if batch.samples:
                        self._answer(batch.samples, self.works, batch.prepared)
                    if batch.ends:
                        yield
            finally:
                self.leaving = True

    # ahead of the model, in a thread -------------------------------------------------------------------------------------
    def _batches(self, chunks: Iterable[Chunk]) -> Iterator[Batch]:
        """Chunks cut into batches of near-equal length."""
        torch.set_num_threads(max(1, self.workers // 2))  # of this thread: the model's are not to wait for them
        style = style_of(self.how.style, self.dataset)
        for chunk in chunks:
            messages: dict[int, Message] = {}
            broken: dict[int, str] = {}
            wanted = [work.missing[chunk] for work in self.works if not work.reason]  # not what given up cells lack alone
            for at in map(int, chunk[np.any(wanted, axis=0)] if wanted else ()):
                try:
                    messages[at] = self.dataset.message(self.rows[at], style)
                except Exception as error:  # the host's own code
                    broken[at] = _said(error)
            asked = list(messages)
            left = len(asked)
            for part in cuts(self._costs(list(messages.values())), lambda: self.sizer.now):
                left -= len(part)
                yield Batch({asked[i]: messages[asked[i]] for i in part}, broken, ends=not left)
                broken = {}
            if not asked:
                yield Batch({}, broken, ends=True)

    def _sample(self, message: Message) -> Sample:
        if self.leaving:  # nobody wants it any more
            raise InterruptedError
        return self.runtime.read(message, self.how.style)

    def _warn(self, at: int, why: str) -> None:
        """Each reason once, and the first few of them."""
        if why not in self.warned and len(self.warned) <= _WARNINGS:
            more = " (there are more: they stand in predictions.jsonl)" if len(self.warned) == _WARNINGS else ""
            _log.warning("%s, row %s: %s%s", self.dataset.name, self.rows[at]["index"], why, more)
            self.warned.add(why)

    def _costs(self, messages: Sequence[Message]) -> list[float]:
        """How long each message is; those about one picture as the longest of them, so that they stay side by side."""
        longest: dict[str, float] = {}
        shown = ["".join(str(part["value"]) for part in message if part["type"] != "text") for message in messages]
        for name, message in zip(shown, messages, strict=True):
            longest[name] = max(longest.get(name, 0.0), extent(self.runtime.record, message))
        return [longest[name] for name in shown]

    def _read(self, batch: Batch) -> Batch:
        """Decode a batch's pictures and make the tensors."""
        found = gather(self._sample, list(batch.messages.values()), self.workers)
        for at, sample in zip(batch.messages, found, strict=True):
            if isinstance(sample, Exception):  # decoders raise whatever a broken file makes them raise
                batch.broken[at] = _said(sample)
            else:
                batch.samples[at] = sample
        for at, why in batch.broken.items() if not self.leaving else ():
            self._warn(at, why)
        if batch.samples:
            try:
                batch.prepared = self.runtime.collate(list(batch.samples.values()), self.how.style)
            except Exception as error:  # told of when each row is asked alone
                _log.debug("%s: a batch cannot be made: %s", self.dataset.name, error)
        return batch

    # the model -----------------------------------------------------------------------------------------------------------
    def _answer(self, samples: dict[int, Sample], works: Sequence[Work], prepared: Prepared | None = None) -> None:
        """Every cell's answers to a batch. Where it does not fit into memory, this cell and those behind it get it in halves."""
        said: dict[int, Records] = {}
        with self.runtime.batch():
            shared = _Shared(self.runtime, self.how.style, samples, prepared)
            for i, work in enumerate(works):
                self.stop.check()
                mine = tuple(at for at in samples if work.missing[at])
                if work.reason or not mine:
                    continue
                self.counts.at(f"{self.dataset.name} {work.cell.config}")
                known = said.get(id(work.twin), {})
                try:
                    twin = all(at in known for at in mine)
                    said[id(work)] = {at: known[at] for at in mine} if twin else self._asked(work, mine, shared)
                except _TooLarge:
                    rest = works[i:]
                    break
                self._keep(work, said[id(work)])
            else:
                self.sizer.fitted(len(samples))
                return
            del shared
        let_go()
        self.sizer.failed(len(samples))
        half = (len(samples) + 1) // 2
        for part in (list(samples)[:half], list(samples)[half:]):
            self._answer({at: samples[at] for at in part}, rest)

    def _asked(self, work: Work, mine: tuple[int, ...], shared: _Shared) -> Records:
        """A cell's records of rows of a batch. Where they fail together each is asked again alone, so that one bad sample costs
        only itself. _TooLarge for several that do not fit into memory."""
        try:
            return self._together(work, mine, shared)
        except Exception as error:
            memory = no_memory(error)
            if memory and len(mine) > 1:
                raise _TooLarge from None
            if len(mine) == 1:
                work.failures += 1
                return {mine[0]: self._failed(mine[0], memory or said_by(error))}
        shared.forget(mine)
        let_go()
        records: Records = {}
        for at in mine:
            if work.failures < _HOPELESS or work.answered or any("prediction" in record for record in records.values()):
                records |= self._asked(work, (at,), shared)
        return records

    def _together(self, work: Work, mine: tuple[int, ...], shared: _Shared) -> Records:
        prepared = shared.rows(mine)
        chosen = prepared.chosen.get((work.method, self.how.seed))
        before = chosen.seconds if chosen else 0.0  # each pays for a choice that they share, not the first alone
        start = time.perf_counter()
        answers = self.runtime.answer(
            prepared,
            work.method,
            work.cell.config.budget,
            seed=self.how.seed,
            budgets=self.budgets[work.method],
            max_new_tokens=self.how.max_new_tokens,
            kept=min(mine) < self.atlas,
        )
        share = (time.perf_counter() - start + before) / len(mine)
        records: Records = {}
        for at, answer in zip(mine, answers, strict=True):
            tokens = {**answer.tokens, "layers": runs(answer.tokens["layers"])}
            if frames := shared.samples[at].frames:
                tokens["frames"] = sum(frames)
            kept = answer.kept if at < self.atlas else None  # behind the clock: nobody's time holds it
            more = {"kept": kept.record()} if kept else {}
            records[at] = {**self._row(at), "prediction": answer.text, "tokens": tokens, "seconds": share, **more}
        return records

    # records -------------------------------------------------------------------------------------------------------------
    def _row(self, at: int) -> dict[str, Any]:
        return {"index": self.rows[at]["index"], "stamp": self.dataset.stamp(self.rows[at])}

    def _failed(self, at: int, why: str) -> dict[str, Any]:
        return {**self._row(at), "error": why}

    def _keep(self, work: Work, records: Records) -> None:
        """Put records on disk and keep count. A cell is given up where the model has answered nothing and failed several times,
        and where more rows failed than are tolerated."""
        if work.reason or not records:
            return
        work.store.append(list(records.values()))
        good = [at for at, record in records.items() if "prediction" in record]
        work.missing[good] = False
        failed = len(records) - len(good)
        self.counts.add(len(records), failed)
        if not failed:
            return
        last = next(record["error"] for record in reversed(records.values()) if "error" in record)
        total = self.counts.failed(str(work.cell), failed)
        if work.failures >= _HOPELESS and not work.answered:
            work.reason = f"the model failed on every row, the last time with {last}"
        elif total > self.tolerated:
            work.reason = f"{total} rows failed, more than {self.tolerated} (--max-failures), the last with {last}"
        if work.reason:
            self.counts.gave_up(str(work.cell), work.reason)
            _log.error("%s is given up: %s", work.cell, work.reason)


class _Shared:
    """A batch as the model takes it, made and encoded once for all cells that ask the same rows of it."""

    def __init__(self, runtime: Runtime, style: str, samples: Mapping[int, Sample], prepared: Prepared | None) -> None:
        """prepared: all samples, where that was made ahead."""
        self.samples, self._runtime, self._style = samples, runtime, style
        self._ahead = {tuple(samples): prepared} if prepared else {}
        self._made: dict[tuple[int, ...], Prepared] = {}

    def rows(self, at: tuple[int, ...]) -> Prepared:
        """Those rows, on the model's device."""
        if at not in self._made:
            ahead_of_us = self._ahead.pop(at, None)
            samples = [self.samples[i] for i in at]
            now = self._runtime.place(ahead_of_us) if ahead_of_us else self._runtime.prepare(samples, self._style)
            self._runtime.encode(now)  # here, so that no configuration pays for the others
            self._made[at] = now
        return self._made[at]

    def forget(self, at: tuple[int, ...]) -> None:
        self._made.pop(at, None)


def _said(error: BaseException) -> str:
    return str(error) or type(error).__name__
