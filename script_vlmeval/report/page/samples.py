"""The atlas: of each benchmark the samples whose kept tokens were recorded, with what every configuration answered."""

from __future__ import annotations

import base64
import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...cells import Config
from ...draw import Row, at
from ...files import disk, lines, read_json
from ...store import ATLAS, MADE, SAMPLES
from ..summary import Summary
from .answers import Answer, answers, share
from .embed import CLOSE, embedded, opened
from .tokens import Places, kept

ROOM = 192 << 20  # bytes of pictures that a page holds at most: browsers open no page of a gigabyte
_KINDS = {".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".png": "image/png", ".webp": "image/webp"}
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sample:
    """A row as its question was put. pictures: their places among the atlas's pictures."""

    index: str
    question: str
    answer: str
    pictures: tuple[int, ...]
    frames: int


@dataclass
class Atlas:
    """A benchmark's samples, and the files of their pictures, each once. table: the digest of the table that they are of, None
    where it does not say: then all cells were asked of one."""

    benchmark: str
    folder: Path
    table: str | None = None
    samples: list[Sample] = field(default_factory=list)
    pictures: list[Path] = field(default_factory=list)
    left: int = 0  # samples for which there was no room

    def shows(self, row: Row) -> bool:
        """Whether a cell was asked these samples: another table may have other rows under the same indices."""
        return row.folder == self.benchmark and self.table in (None, at(row.data, "fingerprint.data"))


def atlases(work_dir: Path, summary: Summary) -> list[Atlas]:
    """Of every benchmark that has one, in the order of their names. A cell that was asked of another table than the pictures are
    of is not in it, and a benchmark without any other is left out: a warning says so."""
    names = sorted({row.folder for row in summary.answered})
    there = {name: work_dir / ATLAS / name for name in names if (work_dir / ATLAS / name / SAMPLES).is_file()}
    found = [Atlas(name, folder, _table(folder)) for name, folder in there.items()]
    shown = [atlas for atlas in found if _fits(atlas, [row for row in summary.answered if row.folder == atlas.benchmark])]
    return [_filled(atlas, ROOM // len(shown)) for atlas in shown]


def blocks(atlas: Atlas, number: int, work_dir: Path, summary: Summary) -> Iterator[bytes]:
    """The samples as the page's scripts find them: what filters need; a line for each sample; a line for each picture."""
    wanted = {sample.index for sample in atlas.samples}
    cells = {str(row.config): row for row in summary.answered if atlas.shows(row)}
    found = {name: answers(work_dir, row, wanted) for name, row in cells.items()}
    configs = [row.config for name, row in cells.items() if found[name]]
    said = [[found[str(config)].get(sample.index) for config in configs] for sample in atlas.samples]
    rows = [_row(sample, answered) for sample, answered in zip(atlas.samples, said, strict=True)]
    front = {
        "configs": [_config(config) for config in configs],
        "left": atlas.left,
        "stages": _stages(said),
        "samples": [_brief(sample, answered) for sample, answered in zip(atlas.samples, said, strict=True)],
    }
    yield opened(f"atlas-{number}", atlas=atlas.benchmark) + embedded(front) + CLOSE
    yield opened(f"atlas-{number}-samples", "application/jsonl") + b"\n".join(map(embedded, rows)) + CLOSE
    yield opened(f"atlas-{number}-pictures", "text/plain")
    for i, path in enumerate(atlas.pictures):
        yield b"\n" * (i > 0) + _picture(path)
    yield CLOSE


def _picture(path: Path) -> bytes:
    with disk(path):
        return f"{_KINDS[path.suffix.lower()]};base64,".encode() + base64.b64encode(path.read_bytes())


# reading ------------------------------------------------------------------------------------------------------------------


def _table(folder: Path) -> str | None:
    found = (read_json(folder / MADE) or {}).get("data")
    return found if isinstance(found, str) else None


def _fits(atlas: Atlas, rows: Sequence[Row]) -> bool:
    """Whether there is a cell to show; those that are left out are told of."""
    tables = {str(at(row.data, "fingerprint.data")) for row in rows}
    if atlas.table is None and len(tables) > 1:
        why = "their cells were asked of %d tables, and of which these are nothing says; run the sweep again to show them"
        _log.warning(f"%s: left out: {why}", atlas.folder, len(tables))
        return False
    others = [str(row.config) for row in rows if not atlas.shows(row)]
    if others:
        more = f" and {len(others) - 1} more" if len(others) > 1 else ""
        _log.warning("%s: not shown for %s%s: asked of another table than these pictures are of", atlas.folder, others[0], more)
    return len(others) < len(rows)


def _filled(atlas: Atlas, room: int) -> Atlas:
    """With the samples of its folder, up to `room` bytes of pictures."""
    folder = atlas.folder
    known: dict[bytes, int] = {}
    by_name: dict[str, int] = {}
    for record in _records(folder / SAMPLES):
        if room <= 0:
            atlas.left += 1
            continue
        places = []
        for name in record["pictures"]:
            if name not in by_name and (path := _file(folder, name)) is not None:
                with disk(path):
                    content = path.read_bytes()
                place = known.setdefault(hashlib.sha256(content).digest(), len(atlas.pictures))
                if place == len(atlas.pictures):
                    atlas.pictures.append(path)
                    room -= len(content) * 4 // 3
                by_name[name] = place
            places.append(by_name.get(name, -1))
        atlas.samples.append(_sample(record, tuple(places)))
    return atlas


def _sample(record: Mapping[str, Any], pictures: tuple[int, ...]) -> Sample:
    text = [record.get(key) for key in ("question", "answer")]
    question, answer = ("" if value is None else str(value) for value in text)
    frames = record.get("frames")
    return Sample(record["index"], question, answer, pictures, frames if isinstance(frames, int) else 0)


def _records(path: Path) -> Iterator[dict[str, Any]]:
    strange = 0
    for line in lines(path):
        try:
            record = json.loads(line)
            if not isinstance(record["index"], str) or not all(isinstance(name, str) for name in record["pictures"]):
                raise ValueError("not a sample")
            yield record
        except (ValueError, LookupError, TypeError, RecursionError):
            strange += 1
    if strange:
        _log.warning("%s: skipped %d line(s) that are no samples", path, strange)


def _file(folder: Path, name: str) -> Path | None:
    """A picture of the folder itself, of a kind that browsers show."""
    path = folder / name
    fits = Path(name).name == name and path.suffix.lower() in _KINDS and path.is_file()
    return path if fits else None


# telling ------------------------------------------------------------------------------------------------------------------


def _config(config: Config) -> dict[str, Any]:
    return {"name": str(config), "model": config.model, "method": config.method, "budget": config.budget, "full": config.full}


def _brief(sample: Sample, said: Sequence[Answer | None]) -> list[Any]:
    """What filters need: index, question, a state for each configuration, and who said the same."""
    codes: dict[str, int] = {}
    same = [-1 if answer is None or answer.failed else codes.setdefault(answer.said, len(codes)) for answer in said]
    return [sample.index, sample.question, "".join("-" if answer is None else answer.state for answer in said), same]


def _row(sample: Sample, said: Sequence[Answer | None]) -> dict[str, Any]:
    """Everything else. What records share (where tiles lie, relevance) is there once and referred to."""
    places = Places(len(sample.pictures), min(sample.frames, len(sample.pictures)))
    records = [None if answer is None else _record(answer, i, places) for i, answer in enumerate(said)]
    return {
        "answer": sample.answer,
        "pictures": sample.pictures,
        "frames": sample.frames,
        "records": records,
        "places": places.places,
        "seen": places.maps,
    }


def _record(answer: Answer, config: int, places: Places) -> list[Any]:
    tokens = [None if count is None else round(count, 2) for count in answer.tokens]
    marks = None if answer.kept is None else kept(answer.kept, config, places)
    return [answer.text, answer.read, share(answer.worth), *tokens, marks]


def _stages(said: Sequence[Sequence[Answer | None]]) -> list[int]:
    """The layers before which some configuration drops tokens."""
    found: set[int] = set()
    for answer in (answer for row in said for answer in row if answer is not None and answer.kept is not None):
        pictures = (answer.kept or {}).get("pictures")
        for part in pictures if isinstance(pictures, list) else ():
            stages = part.get("stages") if isinstance(part, Mapping) else None
            found |= {int(stage) for stage in stages if str(stage).isdecimal()} if isinstance(stages, Mapping) else set()
    return sorted(found)
