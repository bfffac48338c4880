"""The host's own datasets: which can be scored here, building one without a download, its rows and its prompts."""

from __future__ import annotations

import fcntl
import hashlib
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import wraps
from pathlib import Path
from typing import Any

from ..benchmarks import Benchmark
from ..benchmarks.folders import DATA, digest
from ..benchmarks.tables import REFERENCE
from ..errors import UserError, said_by
from .host import environment, host, offline
from .host_scores import EVALUATORS
from .pictures import whole

Row = Mapping[str, str]
Message = list[dict[str, str]]
_WRITES, _FILES = "decode_base64_to_image_file", "vlmeval.smp.file"  # the host's function, and a module that uses it
_CUT_UP = 1 << 30  # bytes


def video_names() -> set[str]:
    known = {str(name) for name in getattr(host().dataset, "supported_video_datasets", {})}
    for cls in host().dataset.DATASET_CLASSES:
        if getattr(cls, "MODALITY", "IMAGE") == "VIDEO":
            known.update(cls.supported_datasets())
    return known


def class_of(name: str) -> Any:
    """The class that reads a table of this name: one of ours, or the host's. None for videos and for names that nobody knows."""
    known = host().dataset.DATASET_CLASSES  # first: what follows imports it too
    from .sets import SETS

    classes = (cls for cls in (*SETS, *known) if getattr(cls, "MODALITY", "IMAGE") != "VIDEO")
    return next((cls for cls in classes if name in cls.supported_datasets()), None)


def is_hosts(cls: Any) -> bool:
    """Whether a class is VLMEvalKit's own, so that its scorer says something besides ours."""
    from .sets import SETS

    return cls not in SETS


def refuse_collection(cls: Any, name: str) -> None:
    if cls.__name__ == "ConcatDataset":
        parts = ", ".join(cls.DATASET_SETS[name])
        raise UserError(f"'{name}' is a collection: name its parts instead ({parts}).")


def needs_judge(dataset: Any) -> bool:
    """Whether the host's scorer for a dataset is none of those that compare text alone."""
    return dataset is not None and dataset.evaluate.__qualname__ not in EVALUATORS


def where(cls: Any, benchmark: Benchmark) -> str:
    """How to come by a table that is not there."""
    from ..prepare import recipes

    url = getattr(cls, "DATASET_URL", {}).get(benchmark.host, "")
    ways = [f"VLMEvalKit publishes it at {url}: put it there."] if url else []
    if benchmark.host in recipes():
        made = f"`python run.py prepare {benchmark.name} --source DIR` makes it from the official download (docs/benchmarks.md)."
        ways.append(f"Or {made}" if ways else made)
    return " ".join(ways)


def has_answers(dataset: Any) -> bool:
    """Whether a table holds anything to score against: that of a test split does not."""
    columns = [dataset.data[c] for c in ("answer", "answers") if c in dataset.data]
    return any(column.notna().any() for column in columns)


def build(cls: Any, name: str, folder: Path) -> Any:
    """The host's dataset object, with its checksums out of the way: on a mismatch it would download over the user's file."""
    own = cls.__dict__.get("DATASET_MD5")
    _mend_pictures(cls)
    cls.DATASET_MD5 = {}
    try:
        with environment(**{DATA: str(folder)}), offline(), _one_at_a_time(folder / f"{name}.tsv"):
            dataset = cls(dataset=name)
        if getattr(cls, "MODALITY", "IMAGE") == "IMAGE" and not {"image", "image_path"} & set(dataset.data):
            raise UserError(f"{folder / name}.tsv has neither a column 'image' nor 'image_path'.")
        return dataset
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"VLMEvalKit cannot read {folder / name}.tsv: {said_by(error)}.") from error
    finally:
        if own is None:
            del cls.DATASET_MD5
        else:
            cls.DATASET_MD5 = own


def _mend_pictures(cls: Any) -> None:
    """The host writes pictures bit by bit under their names, where another process takes them for whole ones."""
    for name in {_FILES, *(base.__module__ for base in cls.__mro__)}:
        write = getattr(sys.modules.get(name), _WRITES, None)
        if write is not None and not hasattr(write, "__wrapped__"):
            setattr(sys.modules[name], _WRITES, _into_place(write))


def _into_place(write: Callable[..., None]) -> Callable[..., None]:
    @wraps(write)
    def written(text: str, path: str, *more: Any, **options: Any) -> None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with whole(Path(path)) as partial:
            write(text, str(partial), *more, **options)

    return written


@contextmanager
def _one_at_a_time(table: Path) -> Iterator[None]:
    """The host cuts up a table above a gigabyte beside it, in a file that another process would read before it is whole."""
    with ExitStack() as stack:
        if table.is_file() and table.stat().st_size > _CUT_UP:
            with suppress(OSError):  # a file system without locks
                fcntl.flock(stack.enter_context(open(table.with_name(f".{table.name}.lock"), "a")), fcntl.LOCK_EX)
        yield


def notes_on(cls: Any, name: str, path: Path) -> tuple[str, ...]:
    """What is to be said of a table that is not the one the host knows, unless `prepare` made it."""
    pin = getattr(cls, "DATASET_MD5", {}).get(name)
    if not pin or path.with_suffix(".json").is_file() or digest(path, "md5") == pin:
        return ()
    return (f"{path} differs from the table that this version of VLMEvalKit expects (md5 {pin}): scores may differ too.",)


def rows_of(dataset: Any, text: list[dict[str, str]]) -> tuple[list[dict[str, str]], tuple[str, ...]]:
    """The rows the host kept, as the text of the file; and the indices of those it skipped.

    The host reads with pandas' defaults, which turn "None" into an empty cell and 007 into 7. Where it rearranges the table,
    its own cells are taken.
    """
    table = dataset.data
    positions, indices = list(table.index), [str(index) for index in table["index"]]
    aligned = all(
        isinstance(p, int) and 0 <= p < len(text) and text[p]["index"].lstrip("0") == index.lstrip("0")
        for p, index in zip(positions, indices, strict=True)
    )
    if aligned:
        kept = set(positions)
        return [text[p] for p in positions], tuple(row["index"] for i, row in enumerate(text) if i not in kept)
    records = table.drop(columns=["image"], errors="ignore").to_dict("records")
    return [{str(k): "" if v != v else str(v) for k, v in record.items()} for record in records], ()


def marked(cell: str) -> str:
    """What is kept of an `image` cell: a digest of the picture, or the reference that stands in its place."""
    return hashlib.sha256(cell.encode()).hexdigest()[:24] if len(cell) > REFERENCE else cell


def told_apart(marks: Mapping[str, str]) -> dict[str, str]:
    """From the mark of each index, what tells its picture from the others: a reference gets the mark of the row that it names.
    Rows without a picture in the cell are left out."""
    return {index: marks.get(mark, mark) for index, mark in marks.items() if mark}


def messages_of(dataset: Any, rows: Iterable[Row]) -> Callable[[Row], Message]:
    """The host's own prompt for each of the rows, which stand in the order of its table."""
    position = {row["index"]: i for i, row in enumerate(rows)}

    def message(row: Row) -> Message:
        parts = dataset.build_prompt(dataset.data.iloc[position[row["index"]]])
        return [{str(k): str(v) for k, v in part.items()} for part in parts]

    return message
