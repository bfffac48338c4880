"""What a cell's answers add up to, taken up one record at a time: texts, reasons of failures, measured tokens, seconds."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

_MEANS = ("visual_full", "visual_kept", "between", "text")


def runs(layers: Sequence[float]) -> list[list[float]]:
    """[[tokens, layers], ...]: how many tokens enter so many layers one after the other, which is how the store holds it."""
    return [[value, len(list(same))] for value, same in itertools.groupby(layers)]


@dataclass
class Tally:
    """`predictions` and `failed` by index; of a failed row its reason."""

    predictions: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    _sums: dict[str, float] = field(default_factory=dict)
    _layers: list[float] = field(default_factory=list)
    _relevance: str = "none"

    @classmethod
    def of(cls, records: Iterable[Mapping[str, Any]]) -> Tally:
        """Of the store's records."""
        tally = cls()
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

    def tokens(self) -> dict[str, Any]:
        """Means over the answered samples: visual tokens before pruning and (mean over the layers) behind it, those between them
        that no method touches, text tokens, frames; all tokens entering each layer; where relevance came from."""
        if not self.predictions:
            return {}
        n = len(self.predictions)
        means = {name: total / n for name, total in self._sums.items()}
        return {**means, "layers": [total / n for total in self._layers], "relevance": self._relevance}
