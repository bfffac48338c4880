"""What one cell says of some of its rows: the answer, what it is worth, and which tokens were kept."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...draw import Row, at, number
from ...files import lines
from ...store import WORTH, CellStore

_START = b'{"index": "'  # as the program writes it, so that most lines need not be parsed
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Answer:
    """A row's record. worth: 0..1, None where the scorer does not say. read: what the scorer read, None likewise."""

    text: str
    failed: bool
    worth: float | None
    read: str | None
    tokens: tuple[float | None, float | None]  # kept (the mean over the layers), of
    kept: Mapping[str, Any] | None

    @property
    def state(self) -> str:
        """r(ight), w(rong), p(artly right), q (partly, below a half), f(ailed) or ? where the scorer does not say."""
        if self.failed:
            return "f"
        if self.worth is None:
            return "?"
        if 0 < self.worth < 1:
            return "p" if self.worth >= 0.5 else "q"
        return "r" if self.worth else "w"

    @property
    def said(self) -> str:
        """What tells answers apart: as the scorer read them, or without case and outer spaces."""
        return self.read or self.text.strip().rstrip(".").casefold()


def answers(work_dir: Path, row: Row, wanted: Collection[str]) -> dict[str, Answer]:
    """Row index -> its record, of those wanted that the cell has."""
    fingerprint = row.data.get("fingerprint")
    if not isinstance(fingerprint, Mapping):
        return {}
    store = CellStore(work_dir, str(row.config), row.folder, fingerprint)
    found = [line for index, line in store.lines().items() if index in wanted]
    worth = _worths(store.folder / WORTH, wanted)
    return {record["index"]: _answer(record, worth.get(record["index"], {})) for record in store.records(found)}


def _answer(record: Mapping[str, Any], verdict: Mapping[str, Any]) -> Answer:
    failed = "prediction" not in record
    text = str(record["error"] if failed else record["prediction"])
    tokens = number(at(record, "tokens.visual_kept")), number(at(record, "tokens.visual_full"))
    read, kept = verdict.get("read"), record.get("kept")
    return Answer(
        text,
        failed,
        number(verdict.get("worth")),
        read if isinstance(read, str) else None,
        tokens,
        kept if isinstance(kept, Mapping) else None,
    )


def _worths(path: Path, wanted: Collection[str]) -> dict[str, Mapping[str, Any]]:
    """The lines of the wanted rows; lines that are not ours are left out, and named."""
    found, strange = {}, 0
    for line in lines(path):
        if not _perhaps(line, wanted):
            continue
        try:
            row = json.loads(line)
            if row["index"] in wanted:
                found[row["index"]] = row
        except (ValueError, LookupError, TypeError, RecursionError):
            strange += 1
    if strange:
        _log.warning("%s: skipped %d line(s) that say nothing about a row", path, strange)
    return found


def _perhaps(line: bytes, wanted: Collection[str]) -> bool:
    """Whether a line may be about a wanted row, at a glance."""
    name, quote, _ = line.removeprefix(_START).partition(b'"')
    return not line.startswith(_START) or not quote or b"\\" in name or name.decode(errors="replace") in wanted


def share(worth: float | None) -> float | None:
    """A worth as the page has it: four digits."""
    return None if worth is None or not math.isfinite(worth) else round(worth, 4)
