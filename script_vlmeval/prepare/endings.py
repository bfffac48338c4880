"""Whether a media file goes on to where it says that it ends: a download that was cut off is found without decoding it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

from ..video import closed

_TAIL = 4096  # some writers add bytes behind the end
_JPEG, _PNG, _GIF, _EBML = b"\xff\xd8", b"\x89PNG", b"GIF8", b"\x1a\x45\xdf\xa3"
_SEGMENT = b"\x18\x53\x80\x67"  # Matroska's body
_BOXES = frozenset({b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot", b"styp", b"uuid"})


def ends(path: Path) -> bool | None:
    """True where the end that the format promises is there, False where it is not, None for a format that promises none.

    JPEG, PNG and GIF have an end mark, looked for in the last 4 KiB; RIFF (AVI, WebP), MP4 and MOV, Matroska and WebM state the
    sizes of their parts. OSError as the file system raises it.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        head = file.read(16)
        if head.startswith((_JPEG, _PNG)):
            return _marked(head, file, size)
        if head.startswith(_GIF):
            return closed(path)
        if head[:4] == b"RIFF":
            return _riff(head, file, size)
        if head[4:8] in _BOXES:
            return _boxes(file, size)
        return _matroska(file, size) if head.startswith(_EBML) else None


def _marked(head: bytes, file: BinaryIO, size: int) -> bool:
    file.seek(max(0, size - _TAIL))
    tail = file.read()
    if head.startswith(_JPEG):
        return b"\xff\xd9" in tail
    return b"IEND" in tail


def _riff(head: bytes, file: BinaryIO, size: int) -> bool:
    """Long AVI files are a row of RIFF parts; one that was never closed states 0 and is left to the decoder."""
    end = 0
    while head[:4] == b"RIFF":
        stated = int.from_bytes(head[4:8], "little")
        end += 8 + stated + stated % 2
        if not stated or end >= size:
            break
        file.seek(end)
        head = file.read(8)
    return end - 1 <= size  # the padding byte may be left out


def _boxes(file: BinaryIO, size: int) -> bool:
    """MP4: boxes one behind the other, each with its size; 0 means to the end of the file. The index must be among them."""
    position, names = 0, set()
    while position + 8 <= size:
        file.seek(position)
        head = file.read(16)
        length, name = int.from_bytes(head[:4], "big"), head[4:8]
        if length == 1:
            length = int.from_bytes(head[8:16], "big")
        names.add(name)
        if length == 0:
            break
        if length < 8:  # not a box: bytes that some writers leave behind the last
            return b"moov" in names
        position += length
    return position <= size and (b"moov" in names or b"moof" in names)


def _matroska(file: BinaryIO, size: int) -> bool | None:
    """The body's stated size; None where it was written as a stream, without one."""
    file.seek(4)
    head = _vint(file)
    if head is None:
        return None
    file.seek(head, os.SEEK_CUR)
    while (name := file.read(4)) and name != _SEGMENT:
        if name[0] != 0xEC or len(name) < 4:  # Void is the only other thing that may stand here
            return None
        file.seek(-3, os.SEEK_CUR)
        skipped = _vint(file)
        if skipped is None:
            return None
        file.seek(skipped, os.SEEK_CUR)
    body = _vint(file) if name else None
    return None if body is None else file.tell() + body <= size


def _vint(file: BinaryIO) -> int | None:
    """A number of Matroska's: its leading zero bits say how many bytes follow; all ones is 'not known'."""
    first = file.read(1)
    if not first or not first[0]:
        return None
    length = 9 - first[0].bit_length()
    value = int.from_bytes(bytes([first[0] & ((1 << (8 - length)) - 1)]) + file.read(length - 1), "big")
    return None if value == (1 << (7 * length)) - 1 else value
