"""How strictly recordings were compared, and what a difference looks like."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np


class MismatchError(Exception):
    """A method does not do what a recording of its official code did."""


@dataclass(frozen=True)
class Tally:
    """Rows (tiles or samples) compared: pick for pick, as sets, or by invariants where a recording allows no more."""

    exact: int = 0
    sets: int = 0
    invariants: int = 0

    def __add__(self, other: Tally) -> Tally:
        return Tally(self.exact + other.exact, self.sets + other.sets, self.invariants + other.invariants)

    @property
    def compared(self) -> int:
        return self.exact + self.sets + self.invariants

    def __str__(self) -> str:
        return f"{self.compared} rows compared: {self.exact} exact, {self.sets} set-equal, {self.invariants} invariants only"


def same(what: str, ours: Any, recorded: Any) -> None:
    """Equal element by element, or MismatchError with the first difference."""
    a, b = np.asarray(ours), np.asarray(recorded)
    if a.shape != b.shape:
        raise MismatchError(f"{what}: shape {a.shape}, recorded {b.shape}")
    if (different := np.argwhere(a != b)).size:
        at = tuple(int(i) for i in different[0])
        raise MismatchError(f"{what}: {len(different)} of {a.size} differ, first at {at}: {a[at]}, recorded {b[at]}")


def same_sets(what: str, ours: Any, recorded: Any) -> None:
    """Equal along the last axis but for the order."""
    same(what, np.sort(np.asarray(ours), -1), np.sort(np.asarray(recorded), -1))


def close(what: str, ours: Any, recorded: Any, *, atol: float, rtol: float = 0.0) -> None:
    """Equal within a tolerance, or MismatchError with the largest difference."""
    a, b = np.asarray(ours, np.float64), np.asarray(recorded, np.float64)
    if a.shape != b.shape:
        raise MismatchError(f"{what}: shape {a.shape}, recorded {b.shape}")
    if not np.allclose(a, b, atol=atol, rtol=rtol):
        raise MismatchError(f"{what}: differs by up to {np.abs(a - b).max():.3g}, allowed {atol:.3g} (relative {rtol:.3g})")


def well_formed(what: str, keep: Any, k: int, n: int) -> None:
    """k different indices below n, ascending along the last axis."""
    a = np.asarray(keep)
    if a.shape[-1] != k or (np.diff(a, axis=-1) <= 0).any() or a.min() < 0 or a.max() >= n:
        raise MismatchError(f"{what}: not {k} ascending, different indices below {n}")
