"""How many visual tokens stay at which stage: what a method's plan makes of a budget for the images of a batch."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

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


def before(method: Method, budget: str, n_visual: int, n_layers: int) -> int:
    """How many tokens of a tile another budget leaves before the language model; all where it cannot be planned."""
    try:
        method, count = asked(method, budget)
        return min(n_visual, method.entering(tokens(count, n_visual), n_visual, n_layers))
    except UserError:
        return n_visual


@dataclass(frozen=True)
class Unit:
    """Sets of visual tokens among which a stage chooses, of one size: images, or whole samples. I of them, n tokens each."""

    row: Tensor  # (I,) the sample
    at: Tensor  # (I, n) where the tokens stand in the current sequence
    index: Tensor  # (I, n) which of the set's first tokens each is, -1 merged
    image: Tensor  # (I, n) which image of the sample, counted from 0
    frame: Tensor  # (I, n) which tile or frame, counted from 0 over the images of the set

    def kept(self, slot: Tensor, source: Tensor, merged: Tensor) -> Unit:
        """The tokens of these places (I, k), where they are to stand in `slot`; merged (I, k) marks those of no single place."""
        index, image, frame = (x.gather(1, source) for x in (self.index, self.image, self.frame))
        return Unit(self.row, self.at.gather(1, slot), index.masked_fill(merged, -1), image, frame)

    def moved(self, place: Tensor) -> Unit:
        """The same in a shortened sequence, where each old position has its new place (B, L)."""
        return replace(self, at=place[self.row[:, None], self.at])

    @classmethod
    def of_images(cls, group: Group) -> Unit:
        """Each image a set."""
        at = group.at.flatten(1)
        index = torch.arange(at.shape[1], device=at.device).expand_as(at)
        return cls(group.row, at, index, torch.zeros_like(at), index // group.at.shape[2])


@dataclass(frozen=True)
class Plan:
    """Tokens that stay, without the stages that remove nothing."""

    before: list[int] | None  # per tile before the language model, a number for each group of images
    inside: dict[int, list[int]]  # stage -> per set inside it, a number for each unit
    samples: list[list[int]] | None  # the samples of each unit, where sets are samples; None where they are images
    layers: int

    def __bool__(self) -> bool:
        return self.before is not None or bool(self.inside)

    @classmethod
    def of(cls, method: Method, budget: str | None, groups: Sequence[Group], n_layers: int) -> Plan:
        """For the images at hand. UserError where the budget cannot be reached."""
        sizes = [g.at.shape[2] for g in groups]
        if method.union:
            first = [min(n, method.entering(tokens(budget, n), n, n_layers)) for n in sizes]
            return cls._of_samples(method, budget, groups, first, n_layers)
        planned = [plan(method, tokens(budget, n), n, n_layers) for n in sizes]
        first = [min(n, p.get(0, n)) for n, p in zip(sizes, planned, strict=True)]
        scaled = [{stage: k * g.at.shape[1] for stage, k in p.items()} for g, p in zip(groups, planned, strict=True)]
        now = [k * g.at.shape[1] for g, k in zip(groups, first, strict=True)]
        return cls(first if first != sizes else None, _inside(now, scaled), None, n_layers)

    @classmethod
    def _of_samples(cls, method: Method, budget: str | None, groups: Sequence[Group], first: list[int], n_layers: int) -> Plan:
        """With a plan for all visual tokens of a sample at once.

        Its budget is the share of them or, where it is a number for each tile, the sum: one of fewer tokens gives others nothing.
        """
        sums: dict[int, tuple[int, int, int]] = {}  # sample -> tokens, of them entering the language model, budgets
        for group, kept in zip(groups, first, strict=True):
            _, tiles, n = group.at.shape
            wanted = min(n, tokens(budget, n) or 0)
            for row in group.row.tolist():
                a, b, c = sums.get(row, (0, 0, 0))
                sums[row] = (a + tiles * n, b + tiles * kept, c + tiles * wanted)
        alike: dict[tuple[int, int | None], list[int]] = {}
        for row, (total, entering, wanted) in sorted(sums.items()):
            asked = None if budget is None else cells.tokens(budget, total) if budget.endswith("pct") else wanted
            alike.setdefault((entering, asked), []).append(row)
        planned = [plan(method.at(1), asked, n, n_layers) for n, asked in alike]
        before = first if first != [g.at.shape[2] for g in groups] else None
        return cls(before, _inside([n for n, _ in alike], planned), list(alike.values()), n_layers)


def _inside(now: list[int], planned: Sequence[dict[int, int]]) -> dict[int, list[int]]:
    """The stages after 0 that remove something."""
    stages: dict[int, list[int]] = {}
    for stage in sorted({s for p in planned for s in p if s > 0}):
        then = [min(n, p.get(stage, n)) for n, p in zip(now, planned, strict=True)]
        if then != now:
            stages[stage] = now = then
    return stages


def united(units: Sequence[Unit], samples: Iterable[Sequence[int]], shape: torch.Size, sizes: Sequence[int]) -> list[Unit]:
    """Images as sets -> samples as sets: for each list of samples with equally many tokens, one unit.

    shape: (B, L) of the current sequence. sizes: tokens that an image of each unit had at first, which its `index` counts.
    """
    device = units[0].at.device
    alive = torch.zeros(shape, dtype=torch.bool, device=device)
    index, image, frame = (torch.zeros(shape, dtype=torch.long, device=device) for _ in range(3))
    for unit, offsets in zip(units, _offsets(units, sizes), strict=True):
        row, before = unit.row[:, None], torch.tensor(offsets, device=device)
        alive[row, unit.at] = True
        index[row, unit.at] = torch.where(unit.index >= 0, unit.index + before[:, :1], -1)
        image[row, unit.at] = before[:, 1:2].expand_as(unit.at)
        frame[row, unit.at] = unit.frame + before[:, 2:]
    found = []
    for rows in samples:
        row = torch.tensor(rows, device=device)
        at = alive[row].nonzero()[:, 1].view(len(rows), -1)
        found.append(Unit(row, at, *(canvas[row].gather(1, at) for canvas in (index, image, frame))))
    return found


def _offsets(units: Sequence[Unit], sizes: Sequence[int]) -> list[list[list[int]]]:
    """For each image of each unit: tokens, images and frames of its sample that come before it."""
    frames = [int(unit.frame.max()) + 1 if unit.frame.numel() else 0 for unit in units]
    order = sorted(
        (row, at, u, i)
        for u, unit in enumerate(units)
        for i, (row, at) in enumerate(zip(unit.row.tolist(), unit.at[:, 0].tolist(), strict=True))
    )
    found = [[[0, 0, 0] for _ in unit.row] for unit in units]
    sample, before = -1, [0, 0, 0]
    for row, _, u, i in order:
        before = before if row == sample else [0, 0, 0]
        sample, found[u][i] = row, before
        before = [before[0] + sizes[u], before[1] + 1, before[2] + frames[u]]
    return found
