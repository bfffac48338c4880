"""Several stages inside the language model: which layers, and how many tokens each may keep for a mean over all layers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from ..errors import UserError


@dataclass(frozen=True)
class Stages:
    """Dropping at the entry of the layers `at` (ascending, 0-based, from 1) of `depth`; n visual tokens before the first."""

    at: tuple[int, ...]
    depth: int
    n: int

    def total(self, kept: Sequence[int]) -> int:
        """Visual tokens summed over all layers, where `kept` stay from each stage on."""
        return sum(
            (after - stage) * k for (stage, after), k in zip(pairwise((0, *self.at, self.depth)), (self.n, *kept), strict=True)
        )

    def plan(self, kept: Sequence[int]) -> dict[int, int]:
        """Stage -> tokens, without the stages that remove nothing."""
        return {stage: k for stage, (before, k) in zip(self.at, pairwise((self.n, *kept)), strict=True) if k < before}

    def largest(self, kept: Callable[[int], Sequence[int]], top: int, budget: int) -> Sequence[int]:
        """kept(i) with the largest mean over all layers that is at most `budget`, for i from 0 to below `top`.

        kept must not fall in i. Raises UserError where even kept(0) is too many.
        """
        low, high = 0, top
        if self.total(kept(low)) > budget * self.depth:
            raise self._unreachable(budget, kept(low))
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self.total(kept(middle)) <= budget * self.depth else (low, middle)
        return kept(low)

    def _unreachable(self, budget: int, least: Sequence[int]) -> UserError:
        earliest = Stages(tuple(range(1, len(self.at) + 1)), self.depth, self.n)
        floor, lowest = (-(-where.total(least) // where.depth) for where in (self, earliest))
        earlier = f", and {lowest} with layers='{_listed(earliest.at)}'" if lowest < floor else ""
        return UserError(
            f"A mean of {budget} visual tokens per layer cannot be had: {self.at[0]} of {self.depth} layers see all {self.n}. "
            f"The smallest budget here is {floor}{earlier}."
        )


def parsed(layers: str | int, method: str) -> tuple[int, ...]:
    """'8,16,24' -> (8, 16, 24). UserError for what is not a list of layers from 1 on, ascending."""
    words = [word.strip() for word in str(layers).split(",")]
    at = tuple(int(word) for word in words if word.isascii() and word.isdigit())
    if len(at) < len(words) or at[0] < 1 or any(b <= a for a, b in pairwise(at)):
        raise UserError(
            f"'{method}' takes layers as ascending numbers of layers, counted from 0, the first at least 1, such as '8,16,24'; "
            f"not {layers!r}."
        )
    return at


def stages(layers: str | int | None, usual: tuple[int, ...], depth: int, n: int, method: str) -> Stages:
    """The stages as asked for, or the `usual` ones of 32 layers: each moved so that all are different and from 1 on.

    Raises UserError for a model without such layers.
    """
    at: tuple[int, ...] = () if layers is None else parsed(layers, method)
    if layers is None:
        for stage in usual:
            at = (*at, max(stage, at[-1] + 1 if at else 1))
    if at[-1] >= depth:
        first = _listed(range(1, len(at) + 1))
        others = f"give others, such as layers='{first}'" if len(at) < depth else f"{len(at)} stages need {len(at) + 1} layers"
        raise UserError(f"'{method}' is to drop tokens before layers {_listed(at)}; this model has 0 to {depth - 1}: {others}.")
    return Stages(at, depth, n)


def _listed(layers: Iterable[int]) -> str:
    return ",".join(map(str, layers))
