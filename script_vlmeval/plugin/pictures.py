"""Pictures that stand in a table's cells, written as files, and those of a user's own table."""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import uuid
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from ..benchmarks.tables import REFERENCE
from ..scoring import kind_of, options, references
from .host import host

_CLASSES = {"mcq": "ImageMCQDataset", "yesno": "ImageYORNDataset", "open": "ImageVQADataset"}


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A name beside `path` to write a picture under, which then takes its place: other processes and threads, which may write the
    same one, never see half of it."""
    partial = path.with_name(f".{uuid.uuid4().hex}{path.suffix}")  # a picture's format follows from its suffix
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def without_table(cls: Any, name: str) -> Any:
    """An object of a class of the host's for its prompts alone, of rows that name their pictures' files."""
    dataset = cls.__new__(cls)
    dataset.dataset_name, dataset.meta_only = name, True
    return dataset


@cache
def _prompter(kind: str) -> Any:
    return without_table(getattr(host().dataset, _CLASSES[kind]), "own")


class OwnTable:
    """The rows of a user's TSV as messages: the host's prompt for each row's kind, pictures as absolute paths.

    `images`: index -> the `image` cell (base64, or the index of the row that has it; '' where `image_path` names a file).
    Base64 pictures are written to `cache` once, under their digest.
    """

    def __init__(self, path: Path, images: Mapping[str, str], cache: Path) -> None:
        self.folder = path.absolute().parent
        self.images = images
        self.cache = cache

    def message(self, row: Mapping[str, str]) -> list[dict[str, str]]:
        """ValueError when a picture is not base64; whether it can be decoded is the reader's to say."""
        line: dict[str, Any] = {"question": row["question"], "image_path": self._paths(row), **options(row)}
        if row.get("hint"):
            line["hint"] = row["hint"]
        return [dict(part) for part in _prompter(kind_of(row)).build_prompt(line)]

    def stamp(self, row: Mapping[str, str]) -> str:
        """Size and time of the row's picture files; '' for base64, which the table itself holds."""
        cell = self.images.get(row["index"], "")
        if cell and not (len(cell) <= REFERENCE and cell in self.images):
            return ""
        found = []
        for path in map(Path, self._paths(row)):
            stat = path.stat() if path.is_file() else None
            found.append(f"{stat.st_size}:{stat.st_mtime_ns}" if stat else "missing")
        return " ".join(found)

    def _paths(self, row: Mapping[str, str]) -> list[str]:
        cell = self.images.get(row["index"], "")
        if len(cell) <= REFERENCE and cell in self.images:
            cell = self.images[cell]
        if cell:
            return [self._write(item) for item in references(cell)]
        return [str(self.folder / item) for item in references(row.get("image_path", ""))]

    def _write(self, text: str) -> str:
        try:
            data = base64.b64decode(text.partition("base64,")[2] or text, validate=True)
        except (binascii.Error, ValueError):
            raise ValueError("the cell 'image' is not a base64 picture") from None
        path = self.cache / hashlib.sha256(data).hexdigest()[:24]
        if not path.is_file():
            self.cache.mkdir(parents=True, exist_ok=True)
            with whole(path) as partial:
                partial.write_bytes(data)
        return str(path)
