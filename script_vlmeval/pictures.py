"""Pictures, each decoded and made into tensors once, however many questions in a row are about it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from .recent import Recent

if TYPE_CHECKING:
    from PIL.Image import Image

_PICTURES: Recent[tuple[Image, tuple[int, int]]] = Recent(16)  # more than are decoded side by side


def read(path: str, square: bool, digest: Any) -> tuple[Image, tuple[int, int]]:
    """A picture in RGB, padded to a square where that is asked for, and its size before; its bytes added to the digest. It may be
    another sample's too. ValueError, naming the file, for one that cannot be read."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise ValueError(f"cannot read picture {path}: {error}") from None
    found = hashlib.sha256(data).digest()
    digest.update(found)
    try:
        return _PICTURES.get((found, square), lambda: _decoded(data, square))
    except ValueError as error:
        raise ValueError(f"cannot read picture {path}: {error}") from None


def _decoded(data: bytes, square: bool) -> tuple[Image, tuple[int, int]]:
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(BytesIO(data)) as opened:
            picture = ImageOps.exif_transpose(opened).convert("RGB")
    except UnidentifiedImageError:
        raise ValueError("it is no picture, or of an unknown kind" if data else "the file is empty") from None
    except (OSError, Image.DecompressionBombError, SyntaxError) as error:
        raise ValueError(error) from None
    return padded(picture) if square else picture, picture.size


def padded(picture: Image) -> Image:
    """A square with the picture in its middle, on LLaVA's mean colour."""
    from PIL import Image as images

    side = max(picture.size)
    if picture.size == (side, side):
        return picture
    canvas = images.new("RGB", (side, side), (122, 116, 104))
    canvas.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    return canvas


def pixels(path: str, limits: tuple[int, int] | None) -> float:
    """How many a picture has by the head of its file, within limits; 0 for one that cannot be read."""
    from PIL import Image

    try:
        with Image.open(path) as opened:
            found = opened.width * opened.height
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return 0.0
    return min(max(found, limits[0]), limits[1]) if limits else found


class Distinct:
    """An image processor that works on each picture of a call once, and gives it to all prompts that show it."""

    def __init__(self, own: Any) -> None:
        self._own = own
        self._rows = True  # as far as is known, it makes as many rows as there are pictures

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name in ("_own", "_rows"):  # before there is one, as when it is copied
            raise AttributeError(name)
        return getattr(self._own, name)

    def __call__(self, images: Sequence[Any], *args: Any, **kwargs: Any) -> Any:
        """images: pictures, or lists of them."""
        flat = [item[0] if isinstance(item, list) and len(item) == 1 else item for item in images]
        first: dict[int, int] = {}
        which = [first.setdefault(id(item), len(first)) for item in flat]
        if not self._rows or len(first) == len(flat) or any(isinstance(item, list) for item in flat):
            return self._own(images, *args, **kwargs)
        found = self._own([images[which.index(i)] for i in range(len(first))], *args, **kwargs)
        spread = _spread(found, which)
        if "pixel_values" not in spread:  # crops, of which a picture has as many as it likes
            self._rows = False
            return self._own(images, *args, **kwargs)
        for name, value in spread.items():
            found[name] = value
        return found


def _spread(found: Any, which: Sequence[int]) -> dict[str, Any]:
    """What was made of distinct pictures, for all prompts: what has a row for each, and patches by the grids beside them."""
    rows = {name: value for name, value in found.items() if len(value) == max(which) + 1}
    spread = {
        name: value[list(which)] if isinstance(value, torch.Tensor) else [value[i] for i in which] for name, value in rows.items()
    }
    if (grids := found.get("image_grid_thw")) is not None:
        pieces = found["pixel_values"].split(torch.as_tensor(grids).prod(-1).tolist())
        spread["pixel_values"] = torch.cat([pieces[i] for i in which])
    return spread
