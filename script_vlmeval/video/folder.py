"""A folder of pictures as a video."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from .clip import Clip
from .sampling import Wanted

if TYPE_CHECKING:
    from PIL.Image import Image

_PICTURES = frozenset({".jpg", ".jpeg", ".png"})


def from_folder(folder: Path, wanted: Wanted, rate: float) -> Clip:
    """Only the chosen pictures are opened. rate: pictures a second."""
    files = pictures_in(folder)
    if not files:
        raise ValueError(f"cannot read video {folder}: there is no jpg or png in this folder")
    times, duration = [i / rate for i in range(len(files))], len(files) / rate
    indices = wanted.among(times, rate)
    if not indices:
        raise wanted.missing(folder, duration)
    pictures = tuple(_picture(files[i]) for i in indices)
    return Clip(pictures, tuple(times[i] for i in indices), rate, duration, len(files), pictures[0].size)


def pictures_in(folder: Path) -> list[Path]:
    """The pictures that are its frames, in order."""
    return sorted((f for f in folder.iterdir() if f.suffix.lower() in _PICTURES and not f.name.startswith(".")), key=_natural)


def _natural(file: Path) -> tuple[list[tuple[int, int, str]], str]:
    """A key by which frame 10 comes after frame 9."""
    parts = re.findall(r"(\d+)|(\D+)", file.name)
    return [(0, int(number), "") if number else (1, 0, text) for number, text in parts], file.name


def _picture(file: Path) -> Image:
    from PIL import Image, ImageOps

    try:
        with Image.open(file) as opened:
            return ImageOps.exif_transpose(opened).convert("RGB")
    except (OSError, Image.DecompressionBombError, SyntaxError) as error:
        raise ValueError(f"cannot read picture {file}: {error}") from None
