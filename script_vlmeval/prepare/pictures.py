"""Pictures that come inside other files: how they would be called as files of their own."""

from __future__ import annotations

from pathlib import Path

_MARKS = {b"\xff\xd8\xff": ".jpg", b"\x89PNG": ".png", b"GIF8": ".gif", b"BM": ".bmp", b"II*\0": ".tif", b"MM\0*": ".tif"}


def _suffix_of(content: bytes) -> str:
    """The suffix by the first bytes; that of a JPEG where they say nothing, and the check of media then refuses the file."""
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return ".webp"
    return next((suffix for mark, suffix in _MARKS.items() if content.startswith(mark)), ".jpg")


def name_of(index: str, content: bytes) -> str:
    """A file's name from a row's index."""
    return f"{Path(index).name}{_suffix_of(content)}"
