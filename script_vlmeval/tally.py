"""What a cell's answers add up to, taken up one record at a time: texts, failures, measured tokens and their cost, seconds."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from .errors import UserError

_MEANS = ("visual_full", "visual_kept", "between", "text")
_SPREAD = ("prefill_flops", "kv_bytes")  # figures of which the standard deviation is told too

# (tokens entering each layer, text tokens, visual tokens before pruning) -> figures of one sample, see `efficiency.counted`
Cost: TypeAlias = Callable[[tuple[float, ...], float, float], Mapping[str, float]]


def runs(layers: Sequence[float]) -> list[list[float]]:
    """[[tokens, layers], ...]: how many tokens enter so many layers one after the other, which is how the store holds it."""
    return [[value, len(list(same))] for value, same in itertools.groupby(layers)]


@dataclass
class Spread:
    """Mean and sample standard deviation of numbers taken up one at a time (Welford's way: sums of squares of large numbers that
    are alike would cancel)."""

    n: int = 0
    mean: float = 0.0
    _squares: float = 0.0

    def add(self, value: float) -> None:
        self.n += 1
        step = value - self.mean
        self.mean += step / self.n
        self._squares += step * (value - self.mean)

    @property
    def std(self) -> float | None:
        """None of fewer than two."""
        return math.sqrt(self._squares / (self.n - 1)) if self.n > 1 else None


@dataclass
class Tally:
    """`predictions` and `failed` by index; of a failed row its reason. cost: of a sample, where it can be counted."""

    predictions: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    _sums: dict[str, float] = field(default_factory=dict)
    _layers: list[float] = field(default_factory=list)
    _relevance: str = "none"
    cost: Cost | None = None
    _figures: dict[str, Spread] = field(default_factory=dict)

    @classmethod
    def of(cls, records: Iterable[Mapping[str, Any]], cost: Cost | None = None) -> Tally:
        """Of the store's records."""
        tally = cls(cost=cost)
        for record in records:
            tally.add(record)
        return tally

    def add(self, record: Mapping[str, Any]) -> None:
        if "prediction" not in record:
            self.failed[record["index"]] = record["error"]
            return
        self.predictions[record["index"]] = record["prediction"]
        self.seconds += record["seconds"]
        counts = record["tokens"]
        for name in (*_MEANS, *(["frames"] if "frames" in counts else [])):
            self._sums[name] = self._sums.get(name, 0.0) + counts[name]
        self._relevance = counts["relevance"] if counts["relevance"] != "none" else self._relevance
        layers = [value for value, times in counts["layers"] for _ in range(times)]
        self._layers = [a + b for a, b in zip(self._layers or [0.0] * len(layers), layers, strict=True)]
        if self.cost:
            self._count(self.cost, layers, counts)

    def _count(self, cost: Cost, layers: Sequence[float], counts: Mapping[str, Any]) -> None:
        """Answers of a model with another number of layers than is described have no cost, and their score stands."""
        try:
            figures = cost(tuple(layers), counts["text"], counts["visual_full"])
        except UserError:
            self.cost = None
            return
        for name, value in figures.items():
            self._figures.setdefault(name, Spread()).add(value)

    def tokens(self) -> dict[str, Any]:
        """Means over the answered samples: visual tokens before pruning and (mean over the layers) behind it, those between them
        that no method touches, text tokens, frames; all tokens entering each layer; where relevance came from."""
        if not self.predictions:
            return {}
        n = len(self.predictions)
        means = {name: total / n for name, total in self._sums.items()}
        return {**means, "layers": [total / n for total in self._layers], "relevance": self._relevance}

    def efficiency(self) -> dict[str, float]:
        """Means over the answered samples of what each cost, with the sample standard deviation (`..._std`) of some. {} where no
        cost was given."""
        if self.cost is None:
            return {}
        means = {name: spread.mean for name, spread in self._figures.items()}
        stds = {f"{name}_std": self._figures[name].std for name in _SPREAD if name in means}
        return means | {name: std for name, std in stds.items() if std is not None}
