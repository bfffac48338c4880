"""The pictures and questions of a benchmark's first rows, small, beside the results: what kept tokens are drawn on.

    <work_dir>/atlas/<benchmark>/samples.jsonl    one line per row: index, question, answer, pictures, frames
                                 <row>-<i>.jpg    a picture, or a frame of a video; one that several rows show is there once
                                 atlas.json       what all of it was made from, and of which table (`data`, its digest)

The folder appears whole, under its name, when everything in it is written.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import inputs
from .backbones import BACKBONES
from .files import digest, disk, dumps, read_json, sync_folder, write_json
from .plugin import Dataset
from .store import ATLAS, MADE, SAMPLES

if TYPE_CHECKING:
    from PIL.Image import Image

LONGEST, QUALITY = 448, 85  # pixels of a picture's longer side, and how well it is written
_READER = BACKBONES["qwen2vl2b"]  # of pictures as they are, and of videos as such
_log = logging.getLogger(__name__)


def write(work_dir: Path, dataset: Dataset, n: int = 100, *, frames: int = 8) -> Path | None:
    """The folder for the first n rows; None where n is 0. frames: of a video whose message does not say how many.

    What is there for the same rows stays as it is. A row whose pictures cannot be read is there without them. UserError for what
    the disk refuses.
    """
    rows = dataset.rows[:n]
    if not rows:
        return None
    folder = work_dir / ATLAS / dataset.name
    made = {
        "rows": digest({row["index"]: [row, dataset.stamp(row), dataset.cluster(row)] for row in rows}),
        "frames": frames,
        "longest": LONGEST,
        "data": dataset.digest,
    }
    there = read_json(folder / MADE) or {}
    if there == made:
        return folder
    if {**there, "data": dataset.digest} == made:  # the same rows, of a table that differs elsewhere or was not named
        write_json(folder / MADE, made)
        return folder
    with disk(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        for left in folder.parent.iterdir():
            if left.name.startswith(f".{dataset.name}.") and left.suffix == ".tmp":  # of a run that was killed
                shutil.rmtree(left, ignore_errors=True)
        new, old = (folder.with_name(f".{dataset.name}.{what}.{os.getpid()}.tmp") for what in ("new", "old"))
        new.mkdir()
        try:
            _fill(new, dataset, rows, frames)
            write_json(new / MADE, made)
            if folder.is_dir():
                folder.rename(old)
            new.rename(folder)
            sync_folder(folder.parent)
        finally:
            for left in (new, old):
                shutil.rmtree(left, ignore_errors=True)
    return folder


def _fill(folder: Path, dataset: Dataset, rows: list[dict[str, str]], frames: int) -> None:
    names: dict[str, list[str]] = {}  # digest of what a row shows -> its files
    with (folder / SAMPLES).open("wb") as out:
        for at, row in enumerate(rows):
            shown = _shown(dataset, row, frames)
            if shown is None:
                pictures, moving = [], 0
            else:
                if shown.digest not in names:
                    names[shown.digest] = [_written(folder / f"{at}-{i}.jpg", image) for i, image in enumerate(_images(shown))]
                pictures, moving = names[shown.digest], sum(shown.frames)
            asked = {
                "index": row["index"],
                "question": question(row),
                "answer": str(row.get("answer") or row.get("answers") or ""),
            }
            out.write(dumps({**asked, "pictures": pictures, "frames": moving}) + b"\n")


def _shown(dataset: Dataset, row: dict[str, str], frames: int) -> inputs.Sample | None:
    """A row's pictures and videos, decoded; None, with a word in the log, where they cannot be."""
    try:
        return decoded(dataset.message(row), frames)
    except Exception as error:  # the host's own code, and decoders
        _log.info("%s: no picture in the atlas of row %s: %s", dataset.name, row["index"], error)
        return None


def decoded(message: inputs.Message, frames: int) -> inputs.Sample:
    """The pictures and videos of a message as they are, whatever a model would make of them; its digest is of these alone.
    ValueError for what cannot be read."""
    record = replace(_READER, frames=frames)
    return inputs.read(record, record.talk, [part for part in message if part["type"] != "text"])


def _images(shown: inputs.Sample) -> list[Image]:
    """Pictures, then the frames of videos: the order in which records of kept tokens count them."""
    return [*shown.images, *(frame for clip in shown.videos for frame in clip.frames)]


def _written(path: Path, image: Image) -> str:
    small = image.convert("RGB")
    small.thumbnail((LONGEST, LONGEST))
    small.save(path, "JPEG", quality=QUALITY)
    return path.name


def question(row: Mapping[str, Any]) -> str:
    """A row's question with its options, each on a line of its own."""
    options = [f"{letter}. {row[letter]}" for letter in "ABCDEFGHIJ" if str(row.get(letter) or "").strip()]
    return "\n".join([str(row.get("question") or ""), *options])
