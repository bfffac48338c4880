"""Where tables and pictures lie, and digests of files. The standard library alone, so that asking costs nothing."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from ..errors import UserError

DATA = "LMUData"  # the host's variable


def named_folder() -> Path | None:
    """The folder that the host's variable names, whether it exists or not."""
    value = os.environ.get(DATA)
    return Path(value).expanduser().absolute() if value else None


def expected_folder() -> Path:
    """VLMEvalKit's data folder, whether it exists or not: the named one, or else its default."""
    return named_folder() or Path.home() / DATA


def data_folder() -> Path:
    """VLMEvalKit's data folder. UserError when it does not exist: the host would go on with another one without a word."""
    folder = expected_folder()
    if not folder.is_dir():
        what = f"{DATA} names" if named_folder() else f"{DATA} is not set, and the default is"
        raise UserError(f"{what} the folder {folder}, which does not exist. Set {DATA} to the folder that holds the TSV files.")
    return folder


def new_data_folder() -> Path:
    """The data folder for tables to be made in; made itself, below a folder that is there. UserError where it cannot be."""
    folder = expected_folder()
    if not folder.is_dir():
        try:
            folder.mkdir()
        except OSError as error:
            raise UserError(f"The data folder {folder} cannot be made: {error.strerror}. Set {DATA} to another one.") from None
    return folder


def own_folder(work_dir: Path) -> Path:
    """Where we make files: VLMEvalKit's data folder when it is set and writable, else `work_dir`/.data."""
    named = named_folder()
    if named and named.is_dir() and os.access(named, os.W_OK):
        return named
    folder = work_dir.absolute() / ".data"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"The folder {folder} cannot be made: {error.strerror}. Choose another --work-dir.") from None
    return folder


def digest(path: Path, algorithm: str = "sha256") -> str:
    """Of all bytes of a file, in hexadecimal digits. OSError as the file system raises it."""
    total = hashlib.new(algorithm, usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            total.update(block)
    return total.hexdigest()
