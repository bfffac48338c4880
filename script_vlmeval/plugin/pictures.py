"""Pictures of a user's own table, and the check that a picture can be decoded at all."""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from PIL import Image

from ..benchmarks.tables import REFERENCE
from ..scoring import kind_of, options, references
from .host import host

_CLASSES = {"mcq": "ImageMCQDataset", "yesno": "ImageYORNDataset", "open": "ImageVQADataset"}


def check_pictures(paths: Iterable[str]) -> None:
    """ValueError for a picture that is missing or broken, before a whole batch fails for it."""
    for path in paths:
        reason = _broken(path)
        if reason:
            _broken.cache_clear()  # it may be mended before the next try
            raise ValueError(reason)


@cache
def _broken(path: str) -> str:
    """Why a picture cannot be used; '' when it can. Pictures of several rows are decoded once."""
    if not os.path.isfile(path):
        return f"there is no picture {path}"
    try:
        with Image.open(path) as picture:
            picture.load()
    except Exception as error:
        return f"the picture {path} cannot be decoded ({error or type(error).__name__})"
    return ""


@cache
def _prompter(kind: str) -> Any:
    """A host dataset without a table, for its prompt alone."""
    cls = getattr(host().dataset, _CLASSES[kind])
    dataset = cls.__new__(cls)
    dataset.dataset_name, dataset.meta_only = "own", True
    return dataset


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
        """ValueError when a picture is not base64; whether it decodes is checked elsewhere."""
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
            partial = path.with_name(f"{path.name}.{os.getpid()}")
            partial.write_bytes(data)
            partial.replace(path)
        return str(path)
