"""Fill the missing cells of a study: encode once, prune many, lose nothing.

All models are looked at before the first is loaded, so that what cannot work is said before anything runs. Then model by model,
one in memory, benchmark by benchmark: answers that are missing are asked for, all configurations on a batch before the next one
is read, so pictures are decoded and encoded once. A cell whose answers are complete is scored, and its `result.json` closes it.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from tqdm import tqdm

from . import asking, loading, methods, results
from .asking import Work, ask_all
from .backbones import CLIPS, Backbone, Models
from .benchmarks import Benchmark
from .cells import Cell, Config
from .errors import UserError
from .judge import Judge
from .methods import Method
from .plugin import SAMPLER, Dataset, host_label, open_dataset
from .report import write_predictions
from .results import Origin
from .runtime import Runtime, choose_device, choose_dtype, method_of, relevance_of
from .store import CellStore, disk

_SHARED = (
    "methods/base methods/_wrap kernels prune prefill plans observe tower sequence query families attention runtime encode "
    "inputs loading convert prompts video scoring"
).split()
_log = logging.getLogger(__name__)
_HERE = Path(__file__).parent


@dataclass(frozen=True)
class Options:
    """How to run; what to run is the study."""

    work_dir: Path = Path("results")
    mode: str = "all"  # all | infer | eval
    limit: int | None = None
    batch_size: int = 32
    seed: int = 0
    device: str = "auto"
    dtype: str = "auto"
    attn: str = "sdpa"
    models: Models = field(default_factory=Models)
    prompt_style: str = "auto"
    fresh: bool = False
    quiet: bool = False
    judge: Judge | None = None  # of benchmarks that one scores


@dataclass
class Outcome:
    """What became of the cells. `failed`: cell -> reason; `rows`: cell -> how many rows have no answer, and why the first."""

    done: list[Cell] = field(default_factory=list)
    already: list[Cell] = field(default_factory=list)
    failed: dict[Cell, str] = field(default_factory=dict)
    rows: dict[Cell, tuple[int, str]] = field(default_factory=dict)
    submissions: set[str] = field(default_factory=set)  # benchmarks of which there are files to send in

    @property
    def status(self) -> int:
        """The exit status: 0 when every cell is done without a failed row, else 1."""
        return 1 if self.failed or self.rows else 0


@dataclass(frozen=True)
class Job:
    """What one model has to do: the record with its checkpoint on this computer, and its cells, benchmark by benchmark."""

    record: Backbone
    tables: list[tuple[Dataset, list[Work]]]

    @property
    def missing(self) -> int:
        """How many answers."""
        return sum(len(work.missing) for _, works in self.tables for work in works)


def run(configs: Sequence[Config], data: Sequence[Benchmark], options: Options) -> Outcome:
    """Answer and score every configuration on every benchmark.

    UserError, before the first model is loaded, for what cannot work: unknown names, missing data, a checkpoint that cannot be
    had or is of another family, other settings in the same folder. So is a model that does not load, unless others have
    answered before it: then its cells fail. A UserError leaves earlier results as they are.
    """
    made = {c: method_of(c, options.models) for c in configs}
    records = {model: options.models.record(model) for model in dict.fromkeys(c.model for c in configs)}
    datasets = _all_opened(data, options)
    jobs = [
        _job(record, {c: m for c, m in made.items() if c.model == record.id}, datasets, options) for record in records.values()
    ]
    _check_judge(datasets, jobs, options)
    outcome = Outcome()
    for job in jobs:
        _fill(job, options, outcome)
    return outcome


def _job(asked: Backbone, made: Mapping[Config, Method], datasets: Sequence[tuple[Benchmark, Dataset]], options: Options) -> Job:
    """A model's cells to work on; its checkpoint is fetched and read as far as that needs no weights in memory."""
    relevance = {c: relevance_of(asked, method) for c, method in made.items()}
    clip = not CLIPS.isdisjoint(relevance.values())
    here = loading.fetched(asked, offline=options.models.offline, clip=clip)
    loading.check_family(here, Path(here.checkpoint))
    origins = results.origins(asked, here, relevance.values())
    return Job(
        here,
        [(d, [_work(Cell(c, b.name), m, here, origins[relevance[c]], d, options) for c, m in made.items()]) for b, d in datasets],
    )


def _all_opened(data: Sequence[Benchmark], options: Options) -> list[tuple[Benchmark, Dataset]]:
    """UserError that names all which cannot be opened."""
    opened, failed = [], []
    for benchmark in data:
        try:
            opened.append((benchmark, _opened(benchmark, options)))
        except UserError as error:
            failed.append(str(error))
    if failed:
        several = [f"{len(failed)} of {len(data)} benchmarks cannot be opened:"] if len(failed) > 1 else []
        raise UserError("\n  ".join([*several, *failed]))
    return opened


def _opened(benchmark: Benchmark, options: Options) -> Dataset:
    dataset = open_dataset(benchmark, options.limit, options.work_dir)
    for remark in (said := asking.remarks(options.prompt_style, dataset)):
        _log.warning(remark)
    dataset.notes += said
    return dataset


def _check_judge(datasets: Sequence[tuple[Benchmark, Dataset]], jobs: Sequence[Job], options: Options) -> None:
    """UserError for a judge that has nothing to judge or does not answer: before the hours of answering, not behind them."""
    open_cells = {w.cell.benchmark for job in jobs for _, works in job.tables for w in works if not w.finished}
    judged = [b for b, dataset in datasets if dataset.judgeable]
    if options.judge is not None and not judged:
        raise UserError(f"--judge: {', '.join(b.name for b, _ in datasets)} need no judge. Leave it out.")
    if options.mode == "infer" or not any(b.name in open_cells for b in judged):
        return
    if options.judge is not None:
        options.judge.check()
        return
    for b in judged:
        if b.judge != "optional" and b.name in open_cells:
            _log.warning("%s is scored by a judge model (--judge): without one there are answers, but no score.", b.name)


def _work(cell: Cell, method: Method, record: Backbone, origin: Origin, dataset: Dataset, options: Options) -> Work:
    """A cell to work on; refused, with nothing written, where its folder holds results of other settings."""
    settings = fingerprint(cell, method, record, origin, dataset, options)
    store = CellStore(options.work_dir, str(cell.config), cell.benchmark, settings)
    if not options.fresh:
        store.check()
    work = Work(cell, method, store, origin.said())
    work.take_up(dataset, options.fresh, options.judge.label if options.judge and options.mode != "infer" else "")
    return work


def fingerprint(
    cell: Cell, method: Method, record: Backbone, origin: Origin, dataset: Dataset, options: Options
) -> dict[str, Any]:
    """Everything that could change the score of a cell, as JSON scalars."""
    talk = record.asked(options.prompt_style)
    return {
        "config": str(cell.config),
        **{f"method {name}": value for name, value in method.parameters().items()},
        "code": _code(cell.config.method),
        "checkpoint": origin.digest,
        **({"clip": origin.clip_digest} if origin.clip_digest else {}),
        "relevance": origin.relevance,
        "prompt": talk.prompt,
        "placeholders": f"{talk.image}{talk.video}{talk.gap}",
        "square": talk.square,
        "message style": asking.style_of(options.prompt_style, dataset),
        "conversation": "vlmevalkit" if talk is record.host_talk else "model",
        "max_new_tokens": asking.longest(options.prompt_style, dataset, record),
        **({"protocol": record.protocol} if record.protocol else {}),
        **_shown(record, dataset, bool(talk.video)),
        "benchmark": dataset.name,
        "data": dataset.digest,
        "rows": len(dataset.rows),
        "seed": options.seed,
        "dtype": choose_dtype(options.dtype, choose_device(options.device)),
        "attn": options.attn,
        "host": host_label(),
        **{name: results.version(name) for name in results.DECISIVE},
    }


def _shown(record: Backbone, dataset: Dataset, films: bool) -> dict[str, Any]:
    """How many frames of a video are shown, and which."""
    benchmark = dataset.benchmark
    if benchmark.modality != "video":
        return {"frames": record.frames} if record.dynamic or films else {}
    return {"frames": f"{benchmark.fps:g} a second" if benchmark.fps else benchmark.frames or record.frames, "sampler": SAMPLER}


@cache
def _code(method: str) -> str:
    """Digest of the sources that make answers and scores: those that methods share, and the method's own with what it imports."""
    digest = hashlib.sha256()
    for name in _SHARED:
        path = _HERE / name
        for file in sorted(path.glob("*.py")) if path.is_dir() else [path.with_suffix(".py")]:
            digest.update(file.read_bytes())
    for file in methods.sources(method):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def _fill(job: Job, options: Options, outcome: Outcome) -> None:
    """Answer and close one model's cells, benchmark by benchmark. The model loads before anything is written."""
    total = 0 if options.mode == "eval" else job.missing
    runtime = _loaded(job, options, keep=bool(outcome.done or outcome.failed)) if total else None
    with tqdm(total=total, unit="answer", desc=job.record.id, disable=True if options.quiet or not total else None) as bar:
        for dataset, works in job.tables:
            with ExitStack() as stack:
                for work in works:
                    if not work.reason and (not work.finished or options.mode == "eval"):
                        work.store.open(fresh=options.fresh)
                        stack.callback(work.store.close)
                open_works = [w for w in works if w.missing and not w.reason]
                if runtime and open_works:
                    for work in open_works:
                        work.store.reopen()
                    ask_all(runtime, dataset, open_works, options.batch_size, options.seed, bar, options.prompt_style)
                for work in works:
                    _close(work, dataset, options, outcome)


def _loaded(job: Job, options: Options, keep: bool) -> Runtime | None:
    """The model, and what its methods need besides it. UserError where that fails; keep: there are answers to tell of, so the
    cells that cannot be answered are given up instead."""
    works = [w for _, works in job.tables for w in works if w.missing]
    try:
        runtime = Runtime.load(
            job.record, device=options.device, dtype=options.dtype, attn=options.attn, checkpoints=options.models
        )
    except UserError as error:
        if not keep:
            raise
        for work in works:
            work.reason = str(error)
        return None
    for work in works:
        try:
            runtime.ready(work.method)
        except UserError as error:
            if not keep:
                raise
            work.reason = str(error)
    return runtime


def _close(work: Work, dataset: Dataset, options: Options, outcome: Outcome) -> None:
    """Score a cell and finish it, or say why not."""
    before = work.store.result() or {}
    if work.finished and options.mode != "eval":
        outcome.already.append(work.cell)
        if before.get("submission"):
            outcome.submissions.add(work.cell.benchmark)
        return
    if work.reason:
        outcome.failed[work.cell] = work.reason
        return
    answers = work.answers()
    unanswered = [row["index"] for row in dataset.rows if row["index"] not in answers]
    if unanswered:
        outcome.failed[work.cell] = f"{len(unanswered)} of {len(dataset.rows)} rows have no answer: run it without --mode eval"
        return
    if failed := [a["error"] for a in answers.values() if "prediction" not in a]:
        outcome.rows[work.cell] = len(failed), failed[0]
    predictions = {i: a["prediction"] for i, a in answers.items() if "prediction" in a}  # a failed row's cell stays empty: wrong
    write_predictions(work.store.workbook, dataset.rows, predictions)
    if options.mode != "infer":
        if before.get("judge") and options.judge is None and dataset.judgeable:
            _log.warning("%s: the score by %s gives way to one without a judge.", work.cell, before["judge"])
        try:
            with disk(work.store.folder):
                score = dataset.score(work.store.workbook, options.judge, options.quiet)
        except UserError as error:
            outcome.failed[work.cell] = str(error)
            return
        if score.submission:
            outcome.submissions.add(work.cell.benchmark)
        device = choose_device(options.device)
        work.store.finish(results.result(work.cell, work.store.fingerprint, dataset, score, answers, device, work.origin))
    outcome.done.append(work.cell)
