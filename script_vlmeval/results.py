"""What `result.json` says of a finished cell: score, standard error, references, measured tokens, their cost, provenance."""

from __future__ import annotations

import platform
import shlex
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from . import __version__, convert, hub, loading, tiny
from .backbones import CLIPS, Backbone
from .cells import Cell
from .plugin import Dataset, Score, Worth
from .tally import Tally

DECISIVE = ("script-vlmeval", "torch", "transformers", "ms-vlmeval")  # versions that can change an answer or a score
_VERSIONS = (*DECISIVE, "numpy", "pillow")
_NAMED = 20  # failed rows that are listed with their reasons


@dataclass(frozen=True)
class Origin:
    """The checkpoint behind a cell's answers: as asked for, as found, and what it holds.

    clip: the CLIP checkpoint, of a cell whose answers depend on one, and nothing of any other: it may come and go.
    """

    place: str  # a folder, or an id on the hub
    commit: str | None  # of a snapshot in the hub's cache
    family: str
    relevance: str  # where it comes from: clip | clipcompat | llm | words | none
    digest: str
    clip: str | None = None
    clip_commit: str | None = None
    clip_digest: str | None = None

    def said(self) -> dict[str, Any]:
        """For the provenance."""
        names = ("place", "commit", "family", "clip", "clip_commit")
        return {name: getattr(self, name) for name in names}


def origins(asked: Backbone, here: Backbone, relevances: Iterable[str]) -> dict[str, Origin]:
    """By the source of relevance, what a model's cells are scored with. here: the record with what was fetched for it."""
    folder, digest = Path(here.checkpoint), cache(loading.checkpoint_digest)
    known = hub.locate(here.clip) if here.clip else None
    tower = _tower(folder)
    found = {}
    for relevance in dict.fromkeys(relevances):
        clip = known if relevance in CLIPS else tower
        origin = Origin(asked.checkpoint, hub.revision(folder), asked.family, relevance, digest(folder))
        if clip:
            names = (asked.clip, convert.tower_of(folder) if convert.is_original(folder) else None)
            place = next((name for name in names if name and hub.locate(name) == clip), str(clip))
            origin = replace(origin, clip=place, clip_commit=hub.revision(clip), clip_digest=digest(clip))
        found[relevance] = origin
    return found


def _tower(folder: Path) -> Path | None:
    """The CLIP from which an original LLaVA checkpoint takes its vision tower; None for any other checkpoint.

    One that holds its tower's weights reads sizes and preprocessing alone there, and takes the published ones where there is no
    CLIP: so it depends on one of the user's own, and not on whether the published one is here.
    """
    if not convert.is_original(folder):
        return None
    found = convert.tower_at(folder)
    return None if found and hub.revision(found) and convert.towered(folder) else found


def result(
    cell: Cell,
    fingerprint: Mapping[str, Any],
    dataset: Dataset,
    score: Score,
    worth: Worth | None,
    tally: Tally,
    device: str,
    checkpoint: Mapping[str, Any],
) -> dict[str, Any]:
    """The content of result.json. `checkpoint`: what an `Origin` said."""
    config, seconds, efficiency = cell.config, tally.seconds, tally.efficiency()
    return {
        "cell": {
            "config": str(config),
            "model": config.model,
            "method": config.method,
            "budget": config.budget,
            "params": dict(config.params),
            "benchmark": cell.benchmark,
        },
        "fingerprint": dict(fingerprint),
        "metrics": score.metrics,
        "primary": score.primary,
        "score": score.metrics[score.primary] if score.primary else None,
        **({"unscored": score.unscored} if score.unscored else {}),
        **({"submission": score.submission} if score.submission else {}),
        **({"judge": score.judge} if score.judge else {}),
        "stderr": worth.standard_error() if worth else None,
        "n": len(dataset.rows),
        "failed": len(tally.failed),
        "failures": dict(list(tally.failed.items())[:_NAMED]),
        "scorer": score.scorer,
        "other scorers": [other.said() for other in score.others],
        "notes": [*dataset.notes, *score.notes],
        "reference": tiny.reference(dataset.name, dataset.rows) if dataset.kind == "embedded" else {},
        "tokens": tally.tokens(),
        **({"efficiency": efficiency} if efficiency else {}),
        "seconds": seconds,
        "samples_per_second": len(tally.predictions) / seconds if seconds else None,
        "provenance": {"checkpoint": dict(checkpoint), **provenance(device)},
    }


def provenance(device: str) -> dict[str, Any]:
    """Who made this, in words: versions, machine, command, date."""
    return {
        "versions": {"python": platform.python_version(), **{name: version(name) for name in _VERSIONS}},
        "machine": f"{platform.system()} {platform.machine()}, {device}",
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "finished": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


@cache
def version(name: str) -> str:
    """Of an installed distribution; our own also where it runs from a clone."""
    if name == "script-vlmeval":
        return __version__
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"
