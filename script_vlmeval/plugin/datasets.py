"""A benchmark as our runner sees it: rows of text, the host's message for each row, and a score for a workbook of answers."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from ..benchmarks import BENCHMARKS, Benchmark, read_tsv, read_user_tsv
from ..errors import UserError, unknown
from .folders import DATA, data_folder, digest, named_folder, own_folder
from .host import environment, host
from .hosted import (
    Message,
    Row,
    build,
    messages_of,
    needs_judge,
    notes_on,
    refuse_unscorable,
    refuse_without_answers,
    rows_of,
    video_names,
)
from .pictures import OwnTable, check_pictures
from .scores import OURS, Score, remove_stale, score_exact, score_host, score_pairs

log = logging.getLogger(__name__)


@dataclass
class Dataset:
    """One opened benchmark. `rows` hold every cell but the picture as text, in file order, each `index` once.

    `skipped`: indices of rows without a picture, which the host leaves out. `notes`: what belongs beside a score, such as a
    table that differs from the published one. `digest`: SHA-256 of the table. `kind`: as the benchmark's. `stamp`: tells a row's
    picture files from others under the same names, which the table's digest does not see.
    """

    name: str
    rows: list[dict[str, str]]
    digest: str
    _message: Callable[[Row], Message] = field(repr=False)
    _score: Callable[[Path], Score] = field(repr=False)
    kind: str = "host"
    host: str = ""  # VLMEvalKit's name, of its own benchmarks
    stamp: Callable[[Row], str] = field(default=lambda row: "", repr=False)
    skipped: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.rows)

    def message(self, row: Row) -> Message:
        """What the host's runner would send for this row: dicts of `type` image | text and `value` path | text.

        ValueError saying which picture of which row is missing or cannot be decoded.
        """
        try:
            message = self._message(row)
            check_pictures(part["value"] for part in message if part["type"] == "image")
        except Exception as error:
            reason = str(error) or type(error).__name__
            raise ValueError(f"row with index '{row['index']}': {reason}") from error
        return message

    def score(self, workbook: Path) -> Score:
        """The score of a workbook (all columns but the picture, and `prediction`); the scorer's files go beside it.

        UserError when the workbook cannot be read or the scorer gives up.
        """
        remove_stale(workbook)
        return self._score(workbook)


def open_dataset(benchmark: Benchmark, limit: int | None, work_dir: Path) -> Dataset:
    """The dataset of a benchmark, cut to its first `limit` rows (whole groups where rows are scored together).

    Nothing is downloaded. UserError for a name that nobody knows, a missing data folder or table, a broken table, or a
    benchmark that cannot be scored here.
    """
    if limit is not None and limit < 1:
        raise UserError(f"--limit {limit} leaves no row; give at least 1.")
    if benchmark.kind == "planned":
        raise UserError(f"'{benchmark.name}' is not supported yet ({benchmark.note}). `--list data` shows what is.")
    if benchmark.judge:
        raise needs_judge(benchmark.name)
    opener = {"embedded": _open_embedded, "tsv": _open_own}.get(benchmark.kind, _open_host)
    dataset = opener(benchmark, work_dir)
    if limit is not None:
        dataset.rows = _first(dataset.rows, limit, _group_of(benchmark))
    if not dataset.rows:
        raise UserError(f"'{benchmark.name}' has no row with a picture.")
    for note in dataset.notes:
        log.warning(note)
    return dataset


# limits ------------------------------------------------------------------------------------------------------------------


def _group_of(benchmark: Benchmark) -> Callable[[Row], str] | None:
    """What the host scores together: the questions about a picture in MME, the rotations of a circular question in MMBench."""
    name = benchmark.host if benchmark.kind != "tsv" else ""
    if name in ("MME", "ShapesYN"):
        return lambda row: f"{row.get('category')}/{row.get('image_path', row['index'])}"
    if any(part in name.lower() for part in ("mmbench", "ccbench", "circular", "mmcr")):
        return lambda row: row.get("g_index") or row["index"][-6:].lstrip("0")
    return None


def _first(rows: list[dict[str, str]], limit: int, group: Callable[[Row], str] | None) -> list[dict[str, str]]:
    """The first rows, and the later ones that are scored together with them."""
    if group is None:
        return rows[:limit]
    chosen = {group(row) for row in rows[:limit]}
    return [row for row in rows if group(row) in chosen]


# the three sources -------------------------------------------------------------------------------------------------------


def _open_embedded(benchmark: Benchmark, work_dir: Path) -> Dataset:
    host()
    from .classes import DATASETS, embedded_table

    folder = own_folder(work_dir)
    path = embedded_table(benchmark.name, folder)
    rows = read_tsv(path)
    cls = next(c for c in DATASETS if c.__name__ == benchmark.name)
    with environment(**{DATA: str(folder)}):
        dataset = cls(benchmark.name)
    score = score_pairs if benchmark.name == "ShapesYN" else score_exact
    # Of what is asked, not of the file: that holds absolute paths, and the same benchmark is made in any folder.
    asked = repr([{**row, "image_path": Path(row["image_path"]).name} for row in rows])
    content = hashlib.sha256(asked.encode()).hexdigest()
    return Dataset(benchmark.name, rows, content, messages_of(dataset, rows), score, "embedded")


def _open_own(benchmark: Benchmark, work_dir: Path) -> Dataset:
    path = Path(benchmark.host)
    rows = read_user_tsv(path)
    cache = work_dir.absolute() / ".data" / "images" / benchmark.name
    table = OwnTable(path, {row["index"]: row.pop("image", "") for row in rows}, cache)
    return Dataset(benchmark.name, rows, digest(path), table.message, score_exact, "tsv", stamp=table.stamp)


def _open_host(benchmark: Benchmark, work_dir: Path) -> Dataset:
    name, h = benchmark.host, host()
    cls = next((c for c in h.dataset.DATASET_CLASSES if name in c.supported_datasets()), None)
    if cls is None or name in video_names():
        return _open_unknown(benchmark, work_dir, cls)
    refuse_unscorable(cls, name)
    folder = data_folder()
    path = folder / f"{name}.tsv"
    url = getattr(cls, "DATASET_URL", {}).get(name, "")
    rows = read_tsv(path, ("index",), f"VLMEvalKit publishes it{f' at {url}' if url else ''}: put it there.", skip=("image",))
    dataset = build(cls, name, folder)
    kept, skipped = rows_of(dataset, rows)
    refuse_without_answers(dataset, name)
    content = digest(path)
    if "image" in dataset.data:  # base64 pictures are written as files once; those of a table that was corrected are others
        dataset.img_root = str(own_folder(work_dir) / "images" / f"{name}-{content[:8]}")
    return Dataset(
        benchmark.name,
        kept,
        content,
        messages_of(dataset, kept),
        OURS.get(cls.evaluate.__qualname__) or partial(score_host, dataset, data=folder),
        host=name,
        skipped=skipped,
        notes=notes_on(cls, name, path),
    )


def _open_unknown(benchmark: Benchmark, work_dir: Path, cls: Any) -> Dataset:
    """A name that the host does not know may be a table of the user's in the data folder."""
    name = benchmark.host
    if cls is not None or name in video_names():
        raise UserError(f"'{name}' is a video benchmark: not supported yet.")
    named = named_folder()
    if named and (path := named / f"{name}.tsv").is_file():
        return _open_own(Benchmark(name, str(path), "tsv"), work_dir)
    raise unknown("benchmark", name, {*BENCHMARKS, *host().dataset.SUPPORTED_DATASETS}, "Or give the path of a .tsv file.")
