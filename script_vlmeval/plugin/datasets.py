"""A benchmark as our runner sees it: rows of text, a message for each row, and a score for a workbook of answers."""

from __future__ import annotations

import hashlib
import logging
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import prompts, scoring
from ..benchmarks import Benchmark, known_names, read_tsv, read_user_tsv
from ..benchmarks.folders import DATA, data_folder, digest, named_folder, own_folder
from ..errors import UserError, unknown
from ..scoring import RULES
from . import hosted, videos
from .groups import first, group_of
from .host import environment, host
from .host_scores import score_host
from .judged import JUDGED, score_judged
from .pictures import OwnTable, without_table
from .scores import Score, by_rule
from .submissions import SUBMISSIONS, write_submission
from .workbook import Answers, Joined, answered, read_answers, settle

if TYPE_CHECKING:
    from ..judge import Judge

log = logging.getLogger(__name__)
Row = dict[str, str]
Message = list[dict[str, str]]
_PATHS = ("image_path", "video_path", "subtitle_path")


@dataclass
class Dataset:
    """One opened benchmark. `rows` hold every cell but the picture as text, in file order, each `index` once.

    `skipped`: indices of rows without a picture, which the host leaves out. `notes`: what belongs beside a score, such as a
    table that differs from the published one. `digest`: SHA-256 of what is asked. `stamps`: tell a row's media files from others
    under the same names, which the digest does not see. `scored`: whether there is anything to score against. `pictures`: of
    pictures that stand in the table's cells, which the rows do not hold, index -> what tells one from the others.
    """

    benchmark: Benchmark
    rows: list[Row]
    digest: str
    _message: Callable[[Row, str], Message] = field(repr=False)
    _stamp: Callable[[Row], str] = field(default=lambda row: "", repr=False)
    evaluator: Any = field(default=None, repr=False)  # the host's object or class with `evaluate`
    scored: bool = True
    skipped: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    pictures: Mapping[str, str] = field(default_factory=dict, repr=False)
    _stamps: dict[str, str] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def name(self) -> str:
        return self.benchmark.name

    @property
    def kind(self) -> str:
        return self.benchmark.kind

    @property
    def host(self) -> str:
        """VLMEvalKit's name, or ours in its data folder, of published benchmarks."""
        return self.benchmark.host if self.kind in ("host", "video") else ""

    def message(self, row: Row, style: str = "vlmevalkit") -> Message:
        """What a model is asked: dicts of `type` image | video | text and `value` path | text, in the words of a style.

        ValueError naming the row for a picture that stands in its cell and cannot be written as a file, and a video that is not
        there. Whether a picture's file is there and can be decoded is the reader's to say (`inputs.read`), who opens it once.
        """
        try:
            return self._message(row, style)
        except Exception as error:
            reason = str(error) or type(error).__name__
            raise ValueError(f"row with index '{row['index']}': {reason}") from error

    def cluster(self, row: Row) -> str:
        """What tells a row's picture or video from others: rows of one picture are not independent."""
        return scoring.image_of(self.with_picture(row))

    def with_picture(self, row: Row) -> Row:
        """A row as scorers see it: `image` tells its picture from others where that stands in the cell."""
        return {**row, **self._picture(row["index"])}

    def _picture(self, index: str) -> Row:
        return {"image": self.pictures[index]} if index in self.pictures else {}

    def stamp(self, row: Row) -> str:
        """Looked at once for each row."""
        if row["index"] not in self._stamps:
            self._stamps[row["index"]] = self._stamp(row)
        return self._stamps[row["index"]]

    @property
    def judgeable(self) -> bool:
        """Whether a judge has anything to say."""
        return self.benchmark.rule in JUDGED or (self.scored and not self.benchmark.rule and hosted.needs_judge(self.evaluator))

    def judged_by(self, judge: str) -> str:
        """What the scorer of a score by a judge of that label would be called; '' where that is the host's to say."""
        rule = self.benchmark.rule
        return JUDGED[rule].scorer(judge) if rule in JUDGED else ""

    def score(
        self, workbook: Path, judge: Judge | None = None, quiet: bool = True, said: Mapping[str, str] | None = None
    ) -> Score:
        """The score of a workbook (all columns but the picture, and `prediction`), with what other scorers say beside it; their
        files go beside the workbook. judge: where the benchmark is one that a judge scores. said: index -> what stands in the
        workbook for it, of `rows`, so that it need not be read: that takes longer than most scoring.

        UserError when the workbook cannot be read, the scorer gives up, or the judge does not answer: then the files of an
        earlier scoring stay as they are.
        """
        answers = read_answers(workbook) if said is None else Answers(workbook, answered(self.rows, said))
        rows = Joined(answers.rows, self._picture) if self.pictures else answers.rows
        with tempfile.TemporaryDirectory(prefix="score-") as folder:
            beside = Path(folder, workbook.name)  # the host reuses the files of an earlier scoring: none is here
            scores = self._by_ours(rows, beside, judge if self.judgeable else None, quiet)
            scores = self._with_hosts(scores, answers, beside, judge if self.judgeable else None)
            score = scores[0] if scores else Score({}, "", "", unscored=self._why_unscored())
            for other in scores[1:]:
                score = score.beside(other)
            if self.host in SUBMISSIONS:
                sent = write_submission(SUBMISSIONS[self.host], rows, data_folder(), beside)
                score = replace(score, submission=sent.name)
            settle(Path(folder), workbook)
        return score

    def _by_ours(self, rows: Sequence[Row], beside: Path, judge: Judge | None, quiet: bool) -> list[Score]:
        """By a judge, by a rule: the main one first."""
        rule = self.benchmark.rule
        found = [score_judged(JUDGED[rule], judge, beside, rows, quiet)] if judge and rule in JUDGED else []
        return [*found, by_rule(RULES[rule], beside, rows)] if self.scored and rule in RULES else found

    def _with_hosts(self, scores: list[Score], answers: Answers, beside: Path, judge: Judge | None) -> list[Score]:
        """The host's scorer behind ours; with the judge where there is none of ours. Where it gives up beside ours, that is a
        note."""
        if self.evaluator is None or not self.scored or (hosted.needs_judge(self.evaluator) and (scores or not judge)):
            return scores
        try:
            return [*scores, score_host(self.evaluator, answers, beside, data_folder(), None if scores else judge)]
        except UserError as error:
            if not scores:
                raise
            return [replace(scores[0], notes=(*scores[0].notes, str(error))), *scores[1:]]

    def _why_unscored(self) -> str:
        if self.judgeable:
            return "needs a judge: name one with --judge"
        where = SUBMISSIONS[self.host].where if self.host in SUBMISSIONS else "its authors' server"
        return f"scored by {where}"


def open_dataset(benchmark: Benchmark, limit: int | None, work_dir: Path) -> Dataset:
    """The dataset of a benchmark, cut to its first `limit` rows (whole groups where rows are scored together).

    Nothing is downloaded. UserError for a name that nobody knows, a missing data folder or table, or a broken table.
    """
    if limit is not None and limit < 1:
        raise UserError(f"--limit {limit} leaves no row; give at least 1.")
    opener = {"embedded": _open_embedded, "tsv": _open_own, "video": _open_video}.get(benchmark.kind, _open_host)
    dataset = opener(benchmark, work_dir)
    whole, published = len(dataset), benchmark.published
    if published and whole not in published and benchmark.kind != "embedded":
        numbers = " or ".join(f"{n:,}" for n in published)
        dataset.notes += (f"{benchmark.name}: {whole:,} questions here, {numbers} as published.",)
    if limit is not None:
        group = group_of(benchmark)
        groups = [group(dataset.with_picture(row)) for row in dataset.rows] if group else None
        dataset.rows = first(dataset.rows, limit, groups)
        if len(dataset) < whole:
            dataset.notes += (f"{benchmark.name}: the first {len(dataset):,} of {whole:,} questions (--limit).",)
    if not dataset.rows:
        raise UserError(f"'{benchmark.name}' has no row with a picture.")
    for note in dataset.notes:
        log.warning(note)
    return dataset


# the sources -------------------------------------------------------------------------------------------------------------


def _content(rows: list[Row]) -> str:
    """A digest of what is asked, not of the file: that holds absolute paths, and the same benchmark may lie in any folder."""
    asked = hashlib.sha256()
    paths = [key for key in _PATHS if rows and key in rows[0]]
    for row in rows:
        asked.update(repr({**row, **{key: _name(row[key]) for key in paths}}).encode())
    return asked.hexdigest()


@lru_cache(maxsize=64)
def _name(path: str) -> str:
    """Of the file alone; rows of one picture stand together."""
    return Path(path).name


def _sizes() -> Callable[[Row], str]:
    """`_size`, looked up once for all rows of the same files."""
    seen: dict[tuple[str, ...], str] = {}

    def stamp(row: Row) -> str:
        files = tuple(row.get(key, "") for key in _PATHS[:2])
        if files not in seen:
            seen[files] = _size(row)
        return seen[files]

    return stamp


def _size(row: Row) -> str:
    """The sizes of a row's media files; times differ between copies of one download."""
    return " ".join(_extent(Path(item)) for key in _PATHS[:2] if row.get(key) for item in scoring.references(row[key]))


def _extent(path: Path) -> str:
    """A file's size. Of a folder of frames their number and sizes: its own depends on the file system alone."""
    if path.is_dir():
        sizes = [file.stat().st_size for file in path.rglob("*") if file.is_file()]
        return f"{len(sizes)}:{sum(sizes)}"
    return str(path.stat().st_size) if path.exists() else "missing"


def _open_embedded(benchmark: Benchmark, work_dir: Path) -> Dataset:
    host()
    from .classes import EMBEDDED, embedded_table

    folder = own_folder(work_dir)
    path = embedded_table(benchmark.name, folder)
    rows = read_tsv(path)
    cls = next(c for c in EMBEDDED if c.__name__ == benchmark.name)
    with environment(**{DATA: str(folder)}):
        dataset = cls(benchmark.name)
    return Dataset(benchmark, rows, _content(rows), _plain(hosted.messages_of(dataset, rows)))


def _plain(message: Callable[[Mapping[str, str]], Message]) -> Callable[[Row, str], Message]:
    """One wording for every style."""
    return lambda row, style: message(row)


def _open_own(benchmark: Benchmark, work_dir: Path) -> Dataset:
    path = Path(benchmark.host)
    rows = read_user_tsv(path)
    cache = work_dir.absolute() / ".data" / "images" / benchmark.name
    images = {row["index"]: row.pop("image", "") for row in rows}
    table = OwnTable(path, images, cache)
    pictures = hosted.told_apart({index: hosted.marked(cell) for index, cell in images.items()})
    return Dataset(benchmark, rows, digest(path), _plain(table.message), table.stamp, pictures=pictures)


def _open_video(benchmark: Benchmark, work_dir: Path) -> Dataset:
    rows = videos.rows_of(videos.table_of(benchmark))
    return Dataset(
        benchmark,
        rows,
        _content(rows),
        lambda row, style: videos.message(benchmark, row, style),
        _sizes(),
        videos.host_class(benchmark),
    )


def _open_host(benchmark: Benchmark, work_dir: Path) -> Dataset:
    name = benchmark.host
    cls = hosted.class_of(name)
    if cls is None:
        return _open_unknown(benchmark, work_dir)
    hosted.refuse_collection(cls, name)
    folder = data_folder()
    path = folder / f"{name}.tsv"
    rows = read_tsv(path, ("index",), hosted.where(cls, benchmark), shorten={"image": hosted.marked})
    if not hosted.is_hosts(cls) and "image" not in rows[0]:
        return _open_prepared(benchmark, cls, rows)
    marks = {row["index"]: row.pop("image", "") for row in rows}
    dataset = hosted.build(cls, name, folder)
    kept, skipped = hosted.rows_of(dataset, rows)
    content = digest(path) if "image" in dataset.data else _content(kept)
    if "image" in dataset.data:  # base64 pictures are written as files once; those of a table that was corrected are others
        dataset.img_root = str(own_folder(work_dir) / "images" / f"{name}-{content[:8]}")
    message = hosted.messages_of(dataset, kept)
    return Dataset(
        benchmark,
        kept,
        content,
        lambda row, style: prompts.restyled(name, message(row), row, style),
        (lambda row: "") if "image" in dataset.data else _sizes(),
        dataset if hosted.is_hosts(cls) else None,
        scored=hosted.has_answers(dataset),
        skipped=skipped,
        notes=hosted.notes_on(cls, name, path),
        pictures=hosted.told_apart(marks),
    )


def _open_prepared(benchmark: Benchmark, cls: Any, rows: list[Row]) -> Dataset:
    """A set that the host lacks, of a table with paths: its prompts need no other copy of the table."""
    if "image_path" not in rows[0]:
        raise UserError(f"{data_folder() / benchmark.host}.tsv has neither a column 'image' nor 'image_path'.")
    prompter = without_table(cls, benchmark.host)

    def message(row: Row, style: str) -> Message:
        if not row["image_path"]:
            raise ValueError("the cell 'image_path' is empty")
        return prompts.restyled(benchmark.host, prompter.build_prompt(row), row, style)

    scored = any(row.get(column) for row in rows for column in ("answer", "answers"))
    return Dataset(benchmark, rows, _content(rows), message, _sizes(), scored=scored)


def _open_unknown(benchmark: Benchmark, work_dir: Path) -> Dataset:
    """A name that the host does not know may be a table of the user's in the data folder."""
    name = benchmark.host
    if name in hosted.video_names():
        raise UserError(f"'{name}' is a video benchmark of VLMEvalKit's that is not read here; `--list data` shows which are.")
    named = named_folder()
    if named and (path := named / f"{name}.tsv").is_file():
        return _open_own(Benchmark(name, str(path), "tsv", "exact", "accuracy"), work_dir)
    known = {*known_names(), *host().dataset.SUPPORTED_DATASETS}
    raise unknown("benchmark", name, known, "`--list data` shows ours; a table of your own is given by its path, ending in .tsv.")
