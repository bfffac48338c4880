"""What a pruned prompt kept of each picture, from what the prefill noted of its groups and sets."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ..kept import Kept, Mask, Picture, Rect
from ..trace import Trace
from .base import Group, Media
from .places import Cut, Look, rectangles

Indices = NDArray[np.int64]


class Planned(Protocol):
    """What a plan says, see `plans.Plan`."""

    @property
    def before(self) -> list[int] | None: ...
    @property
    def inside(self) -> dict[int, list[int]]: ...
    @property
    def sets(self) -> list[list[tuple[int, int]]] | None: ...


class Asked(Protocol):
    """What relevance follows from, see `observe.Asked`."""

    @property
    def group(self) -> Group: ...
    def relevance(self) -> NDArray[np.uint8] | None: ...


@dataclass
class Entry:
    """A part of one picture: G tiles of N tokens, the i-th of a group."""

    group: int
    i: int
    row: int
    image: int
    first: int  # where its first token stands
    shape: tuple[int, int, int]  # G, rows, columns
    media: Media
    nth: int = 0  # which picture of its kind in the prompt
    part: int = 0
    kept: dict[int, Mask] = field(default_factory=dict)  # stage -> (G * N,)
    merged: dict[int, Indices] = field(default_factory=dict)  # stage -> (G,)

    @property
    def size(self) -> int:
        return self.shape[0] * self.shape[1] * self.shape[2]


def drawn(
    model: Any,
    processor: Any,
    looks: Sequence[Look],
    groups: Sequence[Group],
    plan: Planned,
    trace: Trace,
    asked: Iterable[Asked],
    seen: dict[int, NDArray[np.uint8]],
) -> list[Kept]:
    """One record for each prompt of a batch. asked: what the method saw this time; seen: group -> (I, G, N) relevance that is
    known, to which that is added: of several budgets that share a choice the method sees the batch once.

    Copies what the trace holds from its device, so it is asked for when the answers are there.
    """
    for a in asked:
        if (relevance := a.relevance()) is not None:
            seen[next(g for g, group in enumerate(groups) if group is a.group)] = relevance
    entries = _entries(groups)
    _before(entries, groups, plan, trace)
    _inside(entries, plan, trace)
    found: list[list[Picture]] = [[] for _ in looks]
    for entry in entries:
        look = looks[entry.row]
        among = sum(e.row == entry.row and e.media == entry.media and not e.part for e in entries)
        picture, frame, size = look.named(entry.media, entry.nth, among)
        cut = Cut(size, entry.media, entry.shape[0], entry.shape[1:], entry.part, look.square, among == 1)
        of_entry = seen[entry.group][entry.i].reshape(entry.shape) if entry.group in seen else None
        found[entry.row] += _pictures(entry, look, picture, frame, rectangles(model, processor, cut), of_entry)
    return [Kept(tuple(pictures), trace.relevance) for pictures in found]


def _entries(groups: Sequence[Group]) -> list[Entry]:
    """In the order of the prompts; the parts of a picture one after the other."""
    free = itertools.count(-1, -1)
    found = []
    for g, group in enumerate(groups):
        assert group.grid is not None, "every family says how its tokens lie"
        images = [next(free) for _ in group.row] if group.image is None else group.image.tolist()
        shape = (group.at.shape[1], *group.grid)
        for i, (row, image, first) in enumerate(
            zip(group.row.tolist(), images, group.at.flatten(1).amin(1).tolist(), strict=True)
        ):
            found.append(Entry(g, i, row, image, first, shape, group.media))
    found.sort(key=lambda entry: (entry.row, entry.first))
    for _, of_kind in itertools.groupby(sorted(found, key=lambda e: (e.row, e.media)), key=lambda e: (e.row, e.media)):
        for nth, (_, parts) in enumerate(itertools.groupby(of_kind, key=lambda e: e.image)):
            for part, entry in enumerate(parts):
                entry.nth, entry.part = nth, part
    return found


def _before(entries: Sequence[Entry], groups: Sequence[Group], plan: Planned, trace: Trace) -> None:
    """What the groups that lose some keep before the language model: the trace has these alone, in their order."""
    if plan.before is None:
        return
    lose = [g for g, (k, group) in enumerate(zip(plan.before, groups, strict=True)) if k < group.at.shape[2]]
    kept = dict(zip(lose, _arrays(trace.kept.get(0, ())), strict=True))
    for entry in entries:
        if entry.group not in kept:
            continue
        keep = kept[entry.group][entry.i]  # (G, k), or (1, k) where all tiles were one set
        places = keep + np.arange(len(keep))[:, None] * (entry.size // len(keep))
        entry.kept[0] = np.zeros(entry.size, dtype=bool)
        entry.kept[0][places[keep >= 0]] = True
        merged = (keep < 0).sum(1)
        entry.merged[0] = merged if len(merged) == entry.shape[0] else _first(int(merged.sum()), entry.shape[0])


def _inside(entries: Sequence[Entry], plan: Planned, trace: Trace) -> None:
    """What the sets that lose some keep at the later stages: positions among the tokens of all entries of a set."""
    if plan.sets is None or not plan.inside:
        return
    owned: dict[tuple[int, int], list[Entry]] = {}
    for entry in entries:
        owned.setdefault((entry.row, entry.image), []).append(entry)
        owned.setdefault((entry.row, -1), []).append(entry)
    before = {e.group: plan.before[e.group] if plan.before else e.shape[1] * e.shape[2] for e in entries}
    now = [sum(e.shape[0] * before[e.group] for e in owned[members[0]]) for members in plan.sets]
    for stage, wanted in sorted(plan.inside.items()):
        then = [min(n, k) for n, k in zip(now, wanted, strict=True)]
        lose = [members for members, n, k in zip(plan.sets, now, then, strict=True) if k < n]
        for members, kept in zip(lose, _arrays(trace.kept.get(stage, ())), strict=True):
            for member, keep in zip(members, kept, strict=True):
                _split(stage, owned[member], keep[0])
        now = then


def _split(stage: int, entries: Sequence[Entry], keep: Indices) -> None:
    """The positions (k,) that a set keeps, told to the entries that it is made of."""
    mask = np.zeros(sum(entry.size for entry in entries), dtype=bool)
    mask[keep[keep >= 0]] = True
    start, merged = 0, int((keep < 0).sum())
    for entry in entries:
        entry.kept[stage] = mask[start : start + entry.size]
        entry.merged[stage] = _first(merged, entry.shape[0])
        start, merged = start + entry.size, 0


def _first(n: int, tiles: int) -> Indices:
    """What stands for no place of any tile, counted with the first."""
    found = np.zeros(tiles, dtype=np.int64)
    found[0] = n
    return found


def _arrays(kept: Sequence[Tensor]) -> list[Indices]:
    return [indices.cpu().numpy() for indices in kept]


def _pictures(
    entry: Entry, look: Look, picture: int, frame: int | None, tiles: Sequence[Rect], seen: NDArray[np.uint8] | None
) -> Iterator[Picture]:
    """A picture with its tiles, or each frame with one of its own."""
    grid = entry.shape[1:]
    stages = {stage: mask.reshape(entry.shape) for stage, mask in entry.kept.items()}
    if entry.media == "image":
        frames = None if frame is None else look.frames[picture - look.plain]
        merged = {stage: int(n.sum()) for stage, n in entry.merged.items()}
        yield Picture(picture, grid, tuple(tiles), stages, merged, seen, frame, frames)
        return
    shown = look.frames[entry.nth]
    each = max(1, -(-shown // entry.shape[0]))  # how many frames a tile is of: Qwen joins them in pairs
    one: Callable[[Any, int], Any] = lambda x, i: None if x is None else x[i : i + 1]  # noqa: E731
    for i in range(entry.shape[0]):
        of_tile = {stage: one(mask, i) for stage, mask in stages.items()}
        merged = {stage: int(n[i]) for stage, n in entry.merged.items()}
        yield Picture(picture, grid, (tiles[i],), of_tile, merged, one(seen, i), min(i * each, shown - 1), shown)
