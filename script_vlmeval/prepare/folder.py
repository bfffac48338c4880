"""The folder of an official download: finding its files, reading them, and saying what is wrong with them."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ..benchmarks import read_tsv
from ..errors import UserError, reason_of
from ..files import disk

_ARCHIVE = re.compile(r"\.(zip|7z|rar|tar|tar\.[a-z0-9]+|tgz|zip\.\w+|z\d\d|tar\.part\w*)$", re.IGNORECASE)
REFUSED = "change its permissions, or set LMUData to another data folder"  # what helps where a data folder refuses
_SHOWN = 3  # files, and archives, named in an error


class Folder:
    """A downloaded data set under `root`, or one level below it. What a recipe makes goes to `pictures`.

    A file that is not found is remembered instead of raised; whatever reads next, or `complete()`, raises one UserError with all
    of them. Paths are absolute; symbolic links in them are left as they are. `called` is the benchmark as the user named it.
    """

    def __init__(
        self, root: Path, pictures: Path | None = None, layout: str = "", links: Sequence[str] = (), called: str = ""
    ) -> None:
        self.root = root.expanduser().absolute()
        self.pictures = (pictures or self.root / "images").absolute()
        self.layout, self.links, self.called = layout, tuple(links), called
        self.total: int | None = None  # rows to come, for the bar
        self.notes: list[str] = []
        self.extras: dict[str, str] = {}  # suffix -> text of a file to be written beside the table
        self._lacking: list[tuple[str, ...]] = []
        self._below: list[Path] | None = None
        self._home: Path | None = None

    # -- finding ---------------------------------------------------------------------------------------------------------------
    def find(self, *candidates: str) -> Path:
        """The first of these relative paths that exists, here or in a folder right below."""
        found = self.maybe(*candidates)
        if found is None:
            self._lacking.append(candidates)
        return found or self.root / candidates[0]

    def maybe(self, *candidates: str) -> Path | None:
        """As `find`, for what may be absent: None then."""
        for base in self.bases():
            for name in candidates:
                if (base / name).exists():
                    self._home = self._home or base
                    return base / name
        return None

    def glob(self, *patterns: str, needed: bool = True) -> list[Path]:
        """All matches of the first pattern that has any, sorted; remembered as lacking where none has, if they are needed."""
        for base in self.bases():
            for pattern in patterns:
                if matches := sorted(base.glob(pattern)):
                    return matches
        if needed:
            self._lacking.append(patterns)
        return []

    def bases(self) -> list[Path]:
        """The root and the folders right below it; before them, where the first file was found: a parent may hold several
        downloads, whose folders have the same names."""
        if self._below is None:
            try:
                with os.scandir(self.root) as entries:
                    self._below = sorted(Path(entry.path) for entry in entries if entry.is_dir() and entry.name[0] != ".")
            except OSError as error:
                raise UserError(f"The folder {self.root} cannot be read: {error.strerror}.") from None
        return list(dict.fromkeys([*([self._home] if self._home else []), self.root, *self._below]))

    def complete(self) -> None:
        """UserError when anything asked for was not found: the first of it, archives that lie there, and the expected layout.

        Of each file, the place is named at which the download has it, and not where else it was looked for.
        """
        if not self._lacking:
            return
        names = list(dict.fromkeys(candidates[0] for candidates in self._lacking))
        parts = [f"{self.root} lacks {_few(names)}.", self._packed()]
        if self.layout:
            parts.append(f"Expected there: {self.layout}.")
        if self.links and not parts[1]:
            parts.append(f"Download: {self.links[0]}")
        raise UserError(" ".join(filter(None, parts)))

    def _packed(self) -> str:
        """Advice about archives: those named like what is lacking, or else all."""
        archives = [path for base in self.bases() for path in _files(base) if _ARCHIVE.search(path.name)]
        wanted = {part.rsplit(".", 1)[0] for names in self._lacking for name in names for part in name.split("/")}
        named = [path for path in archives if _ARCHIVE.sub("", path.name) in wanted] or archives
        if not named:
            return ""
        return f"Unpack {_few([str(path.relative_to(self.root)) for path in named])} there."

    # -- reading ---------------------------------------------------------------------------------------------------------------
    def json(self, path: Path, hook: Callable[[dict[str, Any]], Any] | None = None) -> Any:
        """The JSON in a file; `hook` takes the place of each object in it, so that a large file need not be held as it is."""
        try:
            return json.loads(self.text(path), object_hook=hook)
        except json.JSONDecodeError as error:
            raise _not_json(path, error, error.lineno) from None
        except RecursionError:
            raise UserError(f"{path} is not the official JSON: it is nested too deep. Download it again.") from None

    def entries(self, path: Path, key: str = "", hook: Callable[[dict[str, Any]], Any] | None = None) -> list[dict[str, Any]]:
        """The list of objects in a JSON file, under a key where one is given; `hook` as of `json`. UserError for anything else,
        or an empty list."""
        found = self.json(path, hook)
        found = found.get(key) if key and isinstance(found, dict) else found
        if not isinstance(found, list) or not found or not all(isinstance(entry, dict) for entry in found):
            where = f" under '{key}'" if key else ""
            raise UserError(f"{path} is not the official file: a list of questions, one JSON object each, was expected{where}.")
        return found

    def lines(self, path: Path) -> Iterator[dict[str, Any]]:
        """The objects of a file with one JSON object a line; empty lines are skipped."""
        for number, line in enumerate(self.text(path).split("\n"), 1):
            if not line.strip():
                continue
            try:
                value = json.loads(line)
            except json.JSONDecodeError as error:
                raise _not_json(path, error, number) from None
            if not isinstance(value, dict):
                raise UserError(f"{path}, line {number}: a JSON object was expected, not {str(value)[:40]!r}.")
            yield value

    def text(self, path: Path) -> str:
        """A whole UTF-8 file."""
        self.complete()
        try:
            return path.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            raise UserError(f"{path} is not UTF-8 text (byte {error.start}). Download it again.") from None
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror}.") from None

    def parquet(self, path: Path, columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
        """The rows of a parquet file, a few at a time."""
        self.complete()
        import pyarrow
        import pyarrow.parquet

        try:
            with pyarrow.parquet.ParquetFile(path) as file:
                for batch in file.iter_batches(batch_size=64, columns=columns):
                    yield from batch.to_pylist()
        except (pyarrow.ArrowException, OSError) as error:
            raise _not_parquet(path, error) from None

    def count(self, path: Path) -> int:
        """The rows of a parquet file, by its footer."""
        self.complete()
        import pyarrow
        import pyarrow.parquet

        try:
            return int(pyarrow.parquet.read_metadata(path).num_rows)
        except (pyarrow.ArrowException, OSError) as error:
            raise _not_parquet(path, error) from None

    def tsv(self, path: Path, required: Sequence[str] = ("index", "question")) -> list[dict[str, str]]:
        """The rows of a tab-separated table, every cell as the text that stands there."""
        self.complete()
        return read_tsv(path, required)

    # -- keeping ---------------------------------------------------------------------------------------------------------------
    def keep(self, name: str, content: bytes) -> Path:
        """A picture that came inside another file, as a file of its own: written in one step, or left where it is complete."""
        if not name or "/" in name or name.startswith("."):
            raise UserError(f"{self.root}: '{name[:60]}' cannot be the name of a picture.")
        path = self.pictures / name
        with disk(path, REFUSED):
            if path.is_file() and path.stat().st_size == len(content) and path.read_bytes() == content:
                return path
            self.pictures.mkdir(parents=True, exist_ok=True)
            temporary = path.with_name(f".{name}.{os.getpid()}.tmp")
            try:
                temporary.write_bytes(content)
                os.replace(temporary, path)
            finally:
                temporary.unlink(missing_ok=True)
        return path

    def note(self, text: str) -> None:
        """A sentence that the user is to read when the table is done."""
        self.notes.append(text)


def pick(*paths: Path) -> Path:
    """The first of these that exists, or else the first: the check of media then reports it."""
    return next((path for path in paths if path.exists()), paths[0])


def _files(base: Path) -> list[Path]:
    with os.scandir(base) as entries:
        return sorted(Path(entry.path) for entry in entries if entry.is_file())


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{', '.join(names[:_SHOWN])}{more}"


def _not_parquet(path: Path, error: Exception) -> UserError:
    return UserError(f"{path} is not a whole parquet file ({reason_of(error)}). Download it again.")


def _not_json(path: Path, error: json.JSONDecodeError, line: int) -> UserError:
    ended = " (it ends there: cut off?)" if not error.doc[error.pos :].strip() or error.msg.startswith("Unterminated") else ""
    what = error.msg.removesuffix(" at")  # as in "Unterminated string starting at"
    return UserError(f"{path} is not whole JSON: {what} at line {line}, column {error.colno}{ended}. Download it again.")
