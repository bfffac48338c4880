"""Fill the missing cells of a study: encode once, prune many, lose nothing; in one process or in many.

The first process looks at what is missing and tells the others; from then on each takes chunks of rows from a shared counter,
model by model, one in memory, benchmark by benchmark, all configurations on a batch before the next one is read. The first
process scores a cell when all its chunks are done, and its `result.json` closes it. Nobody waits for anybody before the end.
"""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace

from . import atlas, room, survey
from .ahead import decoders
from .asking import Asking
from .batches import Meter, Sizer
from .benchmarks import Benchmark
from .cells import Config
from .closing import Outcome, close
from .counts import Counts
from .errors import UserError, reason_of
from .plugin import host_label
from .progress import Progress, is_terminal
from .ranks import RankFailed, Ranks
from .runtime import Runtime, choose_device, device_of, method_of
from .stopping import STOPPED, between_batches
from .wording import How, longest
from .work import Chunk, Job, Options

__all__ = ["Options", "Outcome", "run"]


def run(configs: Sequence[Config], data: Sequence[Benchmark], options: Options, ranks: Ranks | None = None) -> Outcome:
    """Answer and score every configuration on every benchmark. ranks: the processes of this run; one where None.

    UserError, before the first model is loaded, for what cannot work: unknown names, missing data, a checkpoint that cannot be
    had or is of another family, other settings in the same folder, a folder that another run works on. So is a model that does
    not load, unless others have answered before it: then its cells fail. A UserError leaves earlier results as they are.
    RankFailed when another process of the run failed; Stopped between two batches when SIGINT or SIGTERM came. What was answered
    is on disk either way. Only the first process has an outcome to tell; that of the others is empty.
    """
    ranks = ranks or Ranks.here()
    options = replace(options, device=device_of(options.device, ranks))
    try:
        with ExitStack() as stack:
            jobs = _surveyed(configs, data, options, ranks, stack)
            stack.enter_context(room.settled())
            cells = [work for job in jobs for work in job.works]
            answers = 0 if options.mode == "eval" else sum(job.missing for job in jobs)
            quiet = options.quiet or not ranks.first or not answers
            if not quiet and not is_terminal(sys.stderr):
                print(f"{answers:,} answers are missing, {len(cells):,} cells in all", file=sys.stderr, flush=True)
            return _Sweep(jobs, options, ranks, stack.enter_context(Progress(answers, len(cells), quiet=quiet))).run()
    except RankFailed:
        raise
    except BaseException as error:
        ranks.fail(STOPPED if isinstance(error, KeyboardInterrupt) else reason_of(error))
        raise


def _surveyed(
    configs: Sequence[Config], data: Sequence[Benchmark], options: Options, ranks: Ranks, stack: ExitStack
) -> list[Job]:
    """What is to be done: seen by the first process, which fetches and prepares what the others then find, and told to them."""
    made = {c: method_of(c, options.models) for c in configs}
    records = {model: options.models.record(model) for model in dict.fromkeys(c.model for c in configs)}
    if not ranks.first:
        host_label()  # importing the host takes seconds, in which the first process is at work
        ranks.take("opened")
    datasets = survey.opened(data, options)
    jobs = [
        survey.job(record, {c: m for c, m in made.items() if c.model == record.id}, datasets, options)
        for record in records.values()
    ]
    for work in (work for job in jobs for work in job.works):
        stack.callback(work.store.close)
    if ranks.first:
        ranks.give("opened", b"")
        survey.take_up(jobs, options)
        survey.check_judge(datasets, jobs, options)
        ranks.give("plan", survey.plan(jobs))
    else:
        survey.follow(jobs, ranks.take("plan"))
    for job in jobs if options.mode != "eval" else []:
        for table in job.tables:
            survey.deal(table, options, ranks.world)
    return jobs


class _Sweep:
    """The work of one process on a surveyed study."""

    def __init__(self, jobs: list[Job], options: Options, ranks: Ranks, progress: Progress) -> None:
        self.jobs, self.options, self.ranks, self.progress = jobs, options, ranks, progress
        self.counts = Counts(ranks, progress)
        self.outcome = Outcome()
        self.asked = [number for number, job in enumerate(jobs) if job.missing and options.mode != "eval"]
        self.unable: dict[int, str] = {}  # jobs whose model this process cannot load, and why
        self.behind: list[tuple[int, int]] = []  # tables, by job, that wait for other processes before they are closed

    def run(self) -> Outcome:
        """Every job; then, in the first process, what others were still at."""
        for number in range(len(self.jobs)):
            self._do(number)
            room.let_go()  # the next model needs the room
        self.counts.show()
        self._close(wait=True)
        if self.ranks.first:
            self.outcome.troubles += self.counts.troubles()
            self.ranks.give("finished", b"")
        else:  # a launcher on another computer would take the end of one process for that of the run, while the first one scores
            self.ranks.take("finished")
        return self.outcome

    # one model -----------------------------------------------------------------------------------------------------------
    def _do(self, number: int) -> None:
        """A job: its model in memory only as long as this takes."""
        runtime = self._loaded(number) if number in self.asked else None
        self._begin(number)
        for i in range(len(self.jobs[number].tables)):
            if runtime:
                self._ask(runtime, number, i)
            self.behind.append((number, i))
            self._close()

    def _loaded(self, number: int) -> Runtime | None:
        """The model, and what its methods need besides it.

        UserError where that fails for the first model that answers, in the first process. Else the other processes do the share
        of this one, and where none can load it the cells are given up.
        """
        job, options = self.jobs[number], self.options
        fatal = self.ranks.first and number == self.asked[0]
        if choose_device(options.device) == "cpu":
            room.keep()
        try:
            runtime = Runtime.load(
                job.record, device=options.device, dtype=options.dtype, attn=options.attn, checkpoints=options.models
            )
        except UserError as error:
            if fatal:
                raise
            self.unable[number] = str(error)
            if not self.ranks.first:
                self.counts.trouble(f"process {self.ranks.rank} did no share of '{job.record.id}': {error}")
            for i in range(len(job.tables)):
                self.ranks.add(f"out of {number}.{i}")
            return None
        for work in (work for work in job.works if work.missing.any()):
            try:
                runtime.ready(work.method)
            except UserError as error:
                if fatal:
                    raise
                work.reason = str(error)
                self.counts.gave_up(str(work.cell), work.reason)  # also where others could: what they lack is for a rerun
        return runtime

    def _begin(self, number: int) -> None:
        """The first process makes the folders ready, and the others wait for that: all when the first model is there, since from
        then on nobody is to wait. What --fresh discards is discarded job by job, when the model that makes it anew is there."""
        first = self.asked[0] if self.asked else len(self.jobs)
        if number > first and not self.options.fresh:
            return
        jobs = self.jobs[number:] if number == first and not self.options.fresh else [self.jobs[number]]
        works = {str(work.cell): work for job in jobs for work in job.works}
        if not self.ranks.first:
            for cell, reason in json.loads(self.ranks.take(f"begun {number}")).items():
                works[cell].reason = reason
            return
        closed = {}  # to all processes, where this one cannot begin
        for cell, work in works.items():
            if reason := work.reason or self.unable.get(number, ""):
                closed[cell] = reason
            elif not work.finished or self.options.mode == "eval":
                work.store.open(fresh=self.options.fresh)
        self.ranks.give(f"begun {number}", json.dumps(closed).encode())

    def _ask(self, runtime: Runtime, number: int, i: int) -> None:
        """This process's share of a table."""
        job, options = self.jobs[number], self.options
        table = job.tables[i]
        works = [work for work in table.works if work.missing.any() and not work.reason]
        if not works:
            self.ranks.add(f"out of {number}.{i}")
            return
        chunks = self._claimed(number, i)
        if (first := next(chunks, None)) is None:
            return
        for work in works:
            if not self.ranks.first:
                work.store.join(self.ranks.rank)
            work.store.reopen()
        how = How(options.seed, options.prompt_style, longest(options.prompt_style, table.dataset, job.record))
        sizer = Sizer.of(options.batch_size, Meter.of(runtime.device))
        with between_batches() as stop:
            tolerated = options.tolerated(len(table.dataset.rows))
            asking = Asking(runtime, table, how, sizer, self.counts, stop, tolerated, decoders(self.ranks.beside), options.atlas)
            for _ in asking.ask(itertools.chain([first], chunks)):
                self.ranks.add(f"done {number}.{i}")
            stop.check()  # asked for during the last batch
        for work in works:
            work.store.rest() if self.ranks.first else work.store.close()

    def _claimed(self, number: int, i: int) -> Iterator[Chunk]:
        """Chunks for this process, until there is none left."""
        chunks = self.jobs[number].tables[i].chunks
        while (claimed := self.ranks.claim(f"{number}.{i}")) < len(chunks):
            yield chunks[claimed]

    # closing -------------------------------------------------------------------------------------------------------------
    def _close(self, wait: bool = False) -> None:
        """Close the tables that all processes are through with; of all others too, where they are waited for."""
        if not self.ranks.first:
            return
        left = []
        for number, i in self.behind:
            if wait:
                self.ranks.wait(lambda number=number, i=i: self._through(number, i))  # type: ignore[misc]
            if wait or self._through(number, i):
                self._close_table(number, i)
            else:
                left.append((number, i))
        self.behind = left

    def _through(self, number: int, i: int) -> bool:
        """Whether all chunks are done, or never will be."""
        self.counts.show()
        done = self.ranks.add(f"done {number}.{i}", 0) == len(self.jobs[number].tables[i].chunks)
        return done or self.ranks.add(f"out of {number}.{i}", 0) == self.ranks.world

    def _close_table(self, number: int, i: int) -> None:
        """Every cell of a table that is through: scored, or its reason told."""
        table = self.jobs[number].tables[i]
        nobody = self.ranks.add(f"out of {number}.{i}", 0) == self.ranks.world
        for work in table.works:
            if work.missing.any() and not work.reason:
                work.reason = self.counts.why(str(work.cell)) or (self.unable.get(number, "") if nobody else "")
            close(work, table.dataset, self.options, self.outcome)
            work.store.close()
            if work.cell not in self.outcome.failed:
                self.progress.cell()
        atlas.write(self.options.work_dir, table.dataset, self.options.atlas, frames=self.jobs[number].record.frames)
