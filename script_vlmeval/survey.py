"""What is to be done: benchmarks opened, checkpoints fetched, cells compared with what is on disk.

All models are looked at before the first is loaded, so that what cannot work is said before anything runs.
"""

from __future__ import annotations

import hashlib
import json
import logging
import zlib
from collections.abc import Mapping, Sequence
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from . import batches, cells, loading, methods, results, wording
from .backbones import CLIPS, Backbone
from .benchmarks import Benchmark
from .cells import Cell, Config
from .errors import UserError
from .files import read_json
from .methods import Method
from .plugin import SAMPLER, Dataset, host_label, open_dataset
from .results import Origin
from .runtime import choose_device, choose_dtype, per_tile, relevance_of
from .store import CELL, CellStore
from .work import Chunk, Job, Options, Table, Work

_SHARED = (
    "methods/base methods/_wrap kernels prune prefill plans observe tower sequence query families attention runtime encode "
    "inputs pictures loading convert prompts video scoring"
).split()
# what `--mode eval` takes as it was when the cell was answered; the first four may change a score too
_SCORING = ("code", "host", "script-vlmeval", "ms-vlmeval")
_ANSWERING = (*_SCORING, "dtype", "attn", *(name for name in results.DECISIVE if name not in _SCORING))
_LENGTHS = ("question", "hint", "A", "B", "C", "D", "E", "F", "ocr_tokens")  # cells that make one prompt longer than another
_FEW = 32  # rows that are worth asking together
_log = logging.getLogger(__name__)
_HERE = Path(__file__).parent


def opened(data: Sequence[Benchmark], options: Options) -> list[tuple[Benchmark, Dataset]]:
    """UserError that names all which cannot be opened."""
    found, failed = [], []
    for benchmark in data:
        try:
            found.append((benchmark, _opened(benchmark, options)))
        except UserError as error:
            failed.append(str(error))
    if failed:
        several = [f"{len(failed)} of {len(data)} benchmarks cannot be opened:"] if len(failed) > 1 else []
        raise UserError("\n  ".join([*several, *failed]))
    return found


def _opened(benchmark: Benchmark, options: Options) -> Dataset:
    dataset = open_dataset(benchmark, options.limit, options.work_dir)
    for remark in (said := wording.remarks(options.prompt_style, dataset)):
        _log.warning(remark)
    dataset.notes += said
    return dataset


def job(asked: Backbone, made: Mapping[Config, Method], datasets: Sequence[tuple[Benchmark, Dataset]], options: Options) -> Job:
    """A model's cells, as yet all missing; its checkpoint is fetched and read as far as that needs no weights in memory."""
    relevance = {c: relevance_of(asked, method) for c, method in made.items()}
    clip = not CLIPS.isdisjoint(relevance.values())
    here = loading.fetched(asked, offline=options.models.offline, clip=clip)
    loading.check_family(here, Path(here.checkpoint))
    origins = results.origins(asked, here, relevance.values())
    tables = []
    for benchmark, dataset in datasets:
        cells_here = {Cell(config, benchmark.name): (method, origins[relevance[config]]) for config, method in made.items()}
        works = [_work(cell, method, here, origin, dataset, options) for cell, (method, origin) in cells_here.items()]
        _find_twins(here, dataset, works)
        tables.append(Table(dataset, works))
    return Job(here, tables)


def _work(cell: Cell, method: Method, record: Backbone, origin: Origin, dataset: Dataset, options: Options) -> Work:
    settings = fingerprint(cell, method, record, origin, dataset, options)
    store, since = CellStore(options.work_dir, str(cell.config), cell.benchmark, settings), dict[str, Any]()
    if options.mode == "eval" and (there := read_json(store.folder / CELL)):
        since = {key: settings.get(key) for key in _SCORING if there.get(key) != settings.get(key)}
        settings = {key: value for key, value in settings.items() if key not in _ANSWERING}
        settings |= {key: there[key] for key in _ANSWERING if key in there}
        store = CellStore(options.work_dir, str(cell.config), cell.benchmark, settings)
    return Work(cell, method, store, np.ones(len(dataset.rows), dtype=bool), origin=origin.said(), since=since)


def _find_twins(record: Backbone, dataset: Dataset, works: Sequence[Work]) -> None:
    """Cells whose work is the same under two names: 16 tokens, and the share that are 16 of this model's pictures."""
    if record.dynamic or dataset.benchmark.modality == "video":
        return
    first: dict[Any, Work] = {}
    visual = loading.visual(record)
    for work in works:
        budget = work.cell.config.budget
        twin = first.setdefault((work.method, _exactly(per_tile(record, budget), visual)), work)
        work.twin = None if twin is work else twin


def _exactly(budget: str, visual: int) -> Fraction | str:
    """Tokens of a tile; a share that is no whole number of them may be rounded over several tiles."""
    if cells.schedule(budget) is not None:
        return budget
    if not budget:
        return Fraction(visual)
    share = Fraction(budget.removesuffix("pct")) * (Fraction(visual, 100) if budget.endswith("pct") else 1)
    return share if share.denominator == 1 else budget


# what is on disk ---------------------------------------------------------------------------------------------------------


def take_up(jobs: Sequence[Job], options: Options) -> None:
    """Take hold of the cells, and see what an earlier run left of them. Nothing is changed; UserError where another run holds
    one, or a folder holds results of other settings."""
    works = [(table.dataset, work) for job in jobs for table in job.tables for work in table.works]
    if not options.fresh:
        for _, work in works:
            work.store.check()
    judge = options.judge.label if options.judge and options.mode != "infer" else ""
    for dataset, work in works:
        if not options.fresh and options.mode != "eval" and (work.store.result() or {}).get("failed") == 0:
            _take_up(work, dataset, judge)
        if not work.finished:
            work.store.hold()
            if not options.fresh:
                _take_up(work, dataset, judge)


def _take_up(work: Work, dataset: Dataset, judge: str) -> None:
    """Go on where an earlier run left the cell. An answer to a picture that is another one now does not count. judge: the
    label of the one that is to score: a score by another, by none, or in other words is not what was asked for."""
    find = work.store.lines().get
    found = ((find(row["index"]), dataset.stamp(row)) for row in dataset.rows)
    work.missing[:] = [line is None or not line.answered or line.stamp != stamp for line, stamp in found]
    result = None if work.missing.any() else work.store.result()
    work.finished = result is not None and result.get("failed") == 0 and _as_judged(result, dataset, judge)


def _as_judged(result: Mapping[str, Any], dataset: Dataset, judge: str) -> bool:
    """Whether a score is the one that a judge of that label, '' for none, would give by the words and readings of today."""
    if not judge or not dataset.judgeable:
        return True
    return result.get("judge") == judge and dataset.judged_by(judge) in ("", result.get("scorer"))


def check_judge(datasets: Sequence[tuple[Benchmark, Dataset]], jobs: Sequence[Job], options: Options) -> None:
    """UserError for a judge that has nothing to judge or does not answer: before the hours of answering, not behind them."""
    open_cells = {w.cell.benchmark for job in jobs for w in job.works if not w.finished}
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


# dealing out -------------------------------------------------------------------------------------------------------------


def deal(table: Table, options: Options, processes: int) -> None:
    """Lay the rows that any cell lacks in chunks: those that the same cells lack together, where they are many; longest first,
    those about one picture side by side. Every process that knows what is missing gets the same."""
    lacking = np.stack([work.missing for work in table.works]) if table.works else np.zeros((0, len(table.dataset.rows)), bool)
    auto = options.batch_size == "auto"
    batch = batches.LARGEST if auto else int(options.batch_size)
    wanted = np.flatnonzero(lacking.any(axis=0))
    kinds = np.unique(np.packbits(lacking[:, wanted], axis=0), axis=1, return_inverse=True)[1].reshape(-1)
    size = batches.chunk_size(len(wanted), batch, processes, auto)
    table.chunks = []
    few = np.bincount(kinds, minlength=1)[kinds] < min(batch, _FEW)  # of a kind: no batch of their own
    kinds = np.unique(np.where(few, -1, kinds), return_inverse=True)[1]
    for kind in range(kinds.max(initial=-1) + 1):
        rows: Chunk = wanted[kinds == kind]
        here = [table.dataset.rows[at] for at in rows]
        about = [table.dataset.cluster(row) for row in here]
        table.chunks += [rows[chunk] for chunk in batches.chunks([_length(row) for row in here], size, about)]


def _length(row: Mapping[str, str]) -> int:
    return sum(len(row.get(name, "")) for name in _LENGTHS)


def plan(jobs: Sequence[Job]) -> bytes:
    """What the first process found, for the others: settings and missing rows of each cell."""
    told = [
        {
            "cell": str(work.cell),
            "settings": work.store.fingerprint,
            "finished": work.finished,
            "missing": np.packbits(work.missing).tobytes().hex(),
        }
        for job in jobs
        for work in job.works
    ]
    return zlib.compress(json.dumps(told).encode())


def follow(jobs: Sequence[Job], plan: bytes) -> None:
    """Take up what the first process found. UserError where this process would answer under other settings than that one: other
    versions, another checkpoint or table."""
    works = [work for job in jobs for work in job.works]
    for work, told in zip(works, json.loads(zlib.decompress(plan)), strict=True):
        mine, first = work.store.fingerprint, told["settings"]
        if differ := [
            f"{key}: {first.get(key)} -> {mine.get(key)}" for key in {**first, **mine} if first.get(key) != mine.get(key)
        ]:
            raise UserError(
                f"{work.cell} has other settings here than in the first process ({'; '.join(differ)}): all computers of a run "
                "need the same versions, checkpoints and tables."
            )
        bits = np.frombuffer(bytes.fromhex(told["missing"]), np.uint8)
        work.missing = np.unpackbits(bits, count=len(work.missing)).astype(bool)
        work.finished = told["finished"]


# settings ----------------------------------------------------------------------------------------------------------------


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
        "message style": wording.style_of(options.prompt_style, dataset),
        "conversation": "vlmevalkit" if talk is record.host_talk else "model",
        "max_new_tokens": wording.longest(options.prompt_style, dataset, record),
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
