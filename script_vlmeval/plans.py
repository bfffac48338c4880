"""How many visual tokens stay at which stage: what a method's plan makes of a budget for the images of a batch."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias, TypeVar

import torch
from torch import Tensor

from . import cells
from .errors import UserError
from .families import Group
from .methods import Method
from .methods.base import INSIDE


def asked(method: Method, budget: int | str | None) -> tuple[Method, str | None]:
    """The method and the budget to plan with: a layer schedule ('r75k2') becomes parameters of the method, and None is left."""
    if budget is None:
        return method, None
    budget = cells.check_budget(str(budget))
    if (schedule := cells.schedule(budget)) is None:
        return method, budget
    return method.scheduled(*schedule), None


def tokens(budget: str | None, n_visual: int) -> int | None:
    """Visual tokens that a budget means for a tile of `n_visual` of them; None stays None."""
    return None if budget is None else cells.tokens(budget, n_visual)


def plan(method: Method, budget: int | None, n_visual: int, n_layers: int) -> dict[int, int]:
    """What the method keeps from which stage on. UserError for a budget out of its reach and for layers that there are not."""
    planned = method.plan(budget, n_visual, n_layers)
    for stage in planned:
        if not 0 <= stage < n_layers:
            raise UserError(f"'{method.name}' plans a stage {stage}; this model has layers 0 to {n_layers - 1}.")
    if set(planned) == {0} and (wanted := sorted(method.needs & INSIDE)):
        raise UserError(
            f"'{method.name}' needs {', '.join(wanted)}, which there is inside the language model alone: override plan() to say "
            "from which layer on (docs/add_a_method.md)."
        )
    if budget is not None and (mean := layer_mean(planned, n_visual, n_layers)) > max(budget, 1):
        warnings.warn(
            f"'{method.name}' reads a mean of {mean:.1f} visual tokens per layer at a budget of {budget}.", stacklevel=2
        )
    return planned


def layer_mean(planned: dict[int, int], n_visual: int, n_layers: int) -> float:
    """Visual tokens of a tile over all layers, by a plan."""
    total, now = 0, n_visual
    for layer in range(n_layers):
        now = min(now, planned.get(layer, now))
        total += now
    return total / n_layers


def before(method: Method, budget: str, group: Group, n_layers: int) -> int:
    """How many tokens of a tile another budget leaves before the language model; all where it cannot be planned."""
    try:
        method, count = asked(method, budget)
        return entering(method, count, group, n_layers)
    except UserError:
        return group.at.shape[2]


@dataclass(frozen=True)
class Unit:
    """Sets of visual tokens among which a stage chooses, of one size: images, or whole samples. I of them, n tokens each."""

    row: Tensor  # (I,) the sample
    at: Tensor  # (I, n) where the tokens stand in the current sequence
    index: Tensor  # (I, n) which of the set's first tokens each is, -1 merged
    image: Tensor  # (I, n) which image of the sample, counted from 0
    frame: Tensor  # (I, n) which tile or frame, counted from 0 over the images of the set
    nth: tuple[int, ...] | None = None  # per set, how many of all units come before it in its sample

    def kept(self, slot: Tensor, source: Tensor, merged: Tensor) -> Unit:
        """The tokens of these places (I, k), where they are to stand in `slot`; merged (I, k) marks those of no single place."""
        index, image, frame = (x.gather(1, source) for x in (self.index, self.image, self.frame))
        return replace(self, at=self.at.gather(1, slot), index=index.masked_fill(merged, -1), image=image, frame=frame)

    def moved(self, place: Tensor) -> Unit:
        """The same in a shortened sequence, where each old position has its new place (B, L)."""
        return replace(self, at=place[self.row[:, None], self.at])

    @classmethod
    def of_images(cls, group: Group) -> Unit:
        """Each image a set."""
        at = group.at.flatten(1)
        index = torch.arange(at.shape[1], device=at.device).expand_as(at)
        return cls(group.row, at, index, torch.zeros_like(at), index // group.at.shape[2])


G = TypeVar("G", Group, Unit)
Set: TypeAlias = tuple[int, int]  # a sample, and which image of the batch, or -1 for all images of the sample


@dataclass(frozen=True)
class Plan:
    """Tokens that stay, without the stages that remove nothing."""

    before: list[int] | None  # per tile before the language model, a number for each group of images
    inside: dict[int, list[int]]  # stage -> per set inside it, a number for each unit
    sets: list[list[Set]] | None  # those of each unit; None where nothing is planned inside
    layers: int

    def __bool__(self) -> bool:
        return self.before is not None or bool(self.inside)

    @classmethod
    def of(cls, method: Method, budget: str | None, groups: Sequence[Group], n_layers: int) -> Plan:
        """For the images at hand. UserError where the budget cannot be reached.

        Before the language model a budget is of each tile. Inside it a set is planned for as a whole: all visual tokens of a
        sample, or all of an image, whatever its parts. So ten tiles are not ten roundings, and nothing depends on other images.
        """
        sizes = [g.at.shape[2] for g in groups]
        within = method.union or method.at(0) is not method or bool(method.needs & INSIDE)
        if not within:
            planned = [plan(method, of_tile(budget, g), n, n_layers) for g, n in zip(groups, sizes, strict=True)]
            within = any(set(p) - {0} for p in planned)
        first = [entering(method, budget, g, n_layers) for g in groups]
        inside, sets = _within(method, budget, groups, first, n_layers) if within else ({}, None)
        return cls(first if first != sizes else None, inside, sets, n_layers)


def _within(
    method: Method, budget: str | None, groups: Sequence[Group], first: Sequence[int], n_layers: int
) -> tuple[dict[int, list[int]], list[list[Set]]]:
    """(stage -> what each unit keeps, the sets of each unit), by a plan for all visual tokens of a sample, or of an image.

    Its budget is the share of them or, where it is a number for each tile, the sum: one of fewer tokens gives others nothing.
    first: how many of each group's tiles' tokens enter the language model.
    """
    sums: dict[Set, tuple[int, int, int]] = {}  # tokens, of them entering the language model, budgets
    for group, owners, kept in zip(groups, owners_of(groups, method.union), first, strict=True):
        _, tiles, n = group.at.shape
        wanted = min(n, of_tile(budget, group) or 0)
        for owner in owners:
            a, b, c = sums.get(owner, (0, 0, 0))
            sums[owner] = (a + tiles * n, b + tiles * kept, c + tiles * wanted)
    then = method.at(1)
    entered = method.union or then is not method  # a hybrid's second method is planned for what the first one leaves
    alike: dict[tuple[int, int, int | None], list[Set]] = {}
    for owner, (total, enters, wanted) in sorted(sums.items()):
        asked = None if budget is None else cells.tokens(budget, total) if budget.endswith("pct") else wanted
        alike.setdefault((enters, enters if entered else total, asked), []).append(owner)
    planned = [plan(then, asked, n, n_layers) for _, n, asked in alike]
    planned = [{stage: k for stage, k in p.items() if stage} for p in planned]
    return _inside([n for n, _, _ in alike], planned), list(alike.values())


def entering(method: Method, budget: str | None, group: Group, n_layers: int) -> int:
    """How many tokens of a tile a method lets into the language model: all, where it works inside and cannot plan for one tile
    alone. UserError where another cannot."""
    n = group.at.shape[2]
    try:
        return min(n, method.entering(of_tile(budget, group), n, n_layers))
    except UserError:
        if method.at(0) is not method or not method.needs & INSIDE:
            raise
        return n


def of_tile(budget: str | None, group: Group) -> int | None:
    """Visual tokens that a budget means for a tile of a group; None stays None."""
    count = tokens(budget, group.at.shape[2])
    return count if count is None or str(budget).endswith("pct") else count * group.tiles


def touched(groups: Sequence[Group], rows: int) -> Tensor | int:
    """(rows,) visual tokens of each row among which methods choose."""
    return sum(torch.bincount(g.row, minlength=rows) * g.at.shape[1] * g.at.shape[2] for g in groups)


def owners_of(groups: Sequence[Group], union: bool) -> list[list[Set]]:
    """The set that each entry of each group belongs to: its sample or its image."""
    images = [[-1] * len(g.row) for g in groups] if union else images_of(groups)
    return [list(zip(g.row.tolist(), own, strict=True)) for g, own in zip(groups, images, strict=True)]


def images_of(groups: Sequence[Group]) -> list[list[int]]:
    """The image or video that each entry of each group is a part of; one of its own where a group does not say."""
    given = [None if g.image is None else g.image.tolist() for g in groups]
    free = itertools.count(1 + max((i for own in given if own for i in own), default=-1))
    return [[next(free) for _ in g.row] if own is None else own for g, own in zip(groups, given, strict=True)]


def numbered(groups: Sequence[G]) -> list[G]:
    """The groups, or units, each told how many entries of all of them come before each of its own in a sample."""
    places = sorted(
        (row, at, u, i)
        for u, group in enumerate(groups)
        for i, (row, at) in enumerate(zip(group.row.tolist(), group.at.flatten(1).amin(1).tolist(), strict=True))
    )
    nth = [[0] * len(group.row) for group in groups]
    for _, own in itertools.groupby(places, key=lambda place: place[0]):
        for count, (_, _, u, i) in enumerate(own):
            nth[u][i] = count
    return [replace(group, nth=tuple(own)) for group, own in zip(groups, nth, strict=True)]


def _inside(now: list[int], planned: Sequence[dict[int, int]]) -> dict[int, list[int]]:
    """The stages after 0 that remove something."""
    stages: dict[int, list[int]] = {}
    for stage in sorted({s for p in planned for s in p if s > 0}):
        then = [min(n, p.get(stage, n)) for n, p in zip(now, planned, strict=True)]
        if then != now:
            stages[stage] = now = then
    return stages


def united(
    units: Sequence[Unit], sets: Iterable[Sequence[Set]], groups: Sequence[Group], union: bool, shape: torch.Size
) -> list[Unit]:
    """Entries of groups as sets -> samples, or images, as sets: a unit for each list of those with equally many tokens.

    groups: what the units were at first, of whose tokens their `index` tells. shape: (B, L) of the current sequence.
    """
    device, owners = units[0].at.device, owners_of(groups, union)
    owned = torch.full(shape, -2, dtype=torch.long, device=device)
    index, image, frame = (torch.zeros(shape, dtype=torch.long, device=device) for _ in range(3))
    for unit, own, offsets in zip(units, owners, _offsets(units, owners, groups), strict=True):
        row, before = unit.row[:, None], torch.tensor(offsets, device=device)
        owned[row, unit.at] = torch.tensor([which for _, which in own], device=device)[:, None]
        index[row, unit.at] = torch.where(unit.index >= 0, unit.index + before[:, :1], -1)
        image[row, unit.at] = before[:, 1:2].expand_as(unit.at)
        frame[row, unit.at] = unit.frame + before[:, 2:]
    found = []
    for members in sets:
        row, which = torch.tensor(members, device=device).T
        at = (owned[row] == which[:, None]).nonzero()[:, 1].view(len(row), -1)
        of_set = [canvas[row].gather(1, at) for canvas in (index, image, frame)]
        found.append(Unit(row, at, of_set[0], of_set[1], of_set[2]))
    return numbered(found)


def _offsets(units: Sequence[Unit], owners: Sequence[Sequence[Set]], groups: Sequence[Group]) -> list[list[list[int]]]:
    """For each entry of each unit: tokens, images and frames of its set that come before it. The parts of an image are one."""
    parts = images_of(groups)
    order = sorted(
        (own[i], at, u, i)
        for u, (unit, own) in enumerate(zip(units, owners, strict=True))
        for i, at in enumerate(unit.at[:, 0].tolist())
    )
    found = [[[0, 0, 0] for _ in unit.row] for unit in units]
    owner, last, before = None, -1, [0, 0, 0]
    for whose, _, u, i in order:
        own = parts[u][i]
        if whose != owner:
            before = [0, 0, 0]
        elif own != last:
            before = [before[0], before[1] + 1, before[2]]
        owner, last, found[u][i] = whose, own, before
        _, tiles, n = groups[u].at.shape
        before = [before[0] + tiles * n, before[1], before[2] + tiles]
    return found
