"""What was found of one configuration on one batch, and what follows from it: medians, quartiles, ratios."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median, quantiles
from typing import Any

ADVICE = "choose another folder with -o, or change its permissions"  # where files cannot be written
IDEAL = "ideal"  # in the place of a method: the same model, fed what is left
_ROUNDING = 1e-6  # tokens
TIMES = ("encoder_ms", "selection_ms", "question_ms", "prefill_ms", "ttft_ms", "token_ms", "answer_ms")


@dataclass(frozen=True)
class Spread:
    """The quartiles of what was measured several times."""

    low: float
    median: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread | None:
        """None of nothing."""
        if len(values) < 2:
            return cls(values[0], values[0], values[0]) if values else None
        low, _, high = quantiles(values, n=4, method="inclusive")
        return cls(low, median(values), high)


@dataclass
class Row:
    """A configuration on a batch. repeats: by quantity, the raw figures of all turns that count, in their order.

    Times are of the whole batch. encoder_ms: tower and projector, measured apart, the same for all. selection_ms: all that
    pruning does in the prefill; question_ms: the question's encoding, a part of that. prefill_ms: from the model's call to its
    first logits, without the encoder. token_ms: each token after the first. generation_ms: the whole call of `generate`, without
    the encoder. peak_bytes: of that call, with weights and what all turns share (the encoder's output, the embeddings and the
    ideals' inputs) but without the encoder's own pass, so not a plain run's. counted: what needs no clock; FLOPs and tokens are
    means over the batch's samples, kv_bytes is the batch's.
    """

    model: str
    method: str
    budget: str
    batch: int
    params: Mapping[str, Any] = field(default_factory=dict)
    repeats: dict[str, list[float]] = field(default_factory=dict)
    counted: dict[str, Any] = field(default_factory=dict)
    against: dict[str, float | None] = field(default_factory=dict)
    error: str = ""

    @property
    def name(self) -> str:
        return "_".join(filter(None, (self.model, self.method, self.budget)))

    @property
    def full(self) -> bool:
        return self.method == "full"

    @property
    def ideal(self) -> bool:
        return self.method == IDEAL

    @property
    def level(self) -> tuple[str, int] | None:
        """The budget, and the visual tokens left, a mean over the layers, as the next whole number: rows of one level have one
        ideal. Under a schedule methods keep different numbers. None before they are counted."""
        return (self.budget, math.ceil(self.counted["visual"] - _ROUNDING)) if self.counted else None

    def values(self, quantity: str) -> list[float]:
        """Each turn's figure. Of those that hold the encoder, its median is added to each turn's own."""
        parts = {"ttft_ms": "prefill_ms", "answer_ms": "generation_ms"}
        own = self.repeats.get(parts.get(quantity, quantity), [])
        if quantity not in parts or not own:
            return own
        encoder = median(self.repeats["encoder_ms"])
        return [encoder + value for value in own]

    def spread(self, quantity: str) -> Spread | None:
        return Spread.of(self.values(quantity))

    def median(self, quantity: str) -> float | None:
        """Of a time; the largest of memory; what was counted as it is."""
        if quantity == "peak_bytes":
            return max(self.values(quantity), default=None)
        if quantity in self.counted:
            return float(self.counted[quantity])
        found = self.spread(quantity)
        return None if found is None else found.median

    @property
    def per_second(self) -> float | None:
        """Answers of that length, the encoder included."""
        took = self.median("answer_ms")
        return 1e3 * self.batch / took if took else None

    def data(self) -> dict[str, Any]:
        """All that is known, for JSON."""
        spreads = {name: found for name in TIMES if (found := self.spread(name))}
        return {
            "name": self.name,
            "model": self.model,
            "method": self.method,
            "budget": self.budget,
            "batch": self.batch,
            "params": dict(self.params),
            "error": self.error or None,
            **self.counted,
            "median": {name: found.median for name, found in spreads.items()} | self._peak(),
            "answers_per_second": self.per_second,
            "quartiles": {name: [found.low, found.high] for name, found in spreads.items()},
            "against": self.against,
            "repeats": self.repeats,
        }

    def _peak(self) -> dict[str, float]:
        peak = self.median("peak_bytes")
        return {} if peak is None else {"peak_bytes": peak}


_FASTER = ("prefill_ms", "ttft_ms", "token_ms", "answer_ms", "kv_bytes", "prefill_flops")


def compare(rows: Iterable[Row]) -> None:
    """Say of each row of one batch how many times faster, or smaller, it is than the unpruned model, and what percent of the
    ideal's speed it has."""
    rows = list(rows)
    full = next((row for row in rows if row.full), None)
    ideals = {row.level: row for row in rows if row.ideal}
    for row in rows:
        row.against = {f"{name} x full": _ratio(full, row, name) for name in _FASTER}
        ideal = None if row.ideal else ideals.get(row.level)
        for name in ("prefill_ms", "ttft_ms"):
            share = _ratio(ideal, row, name)
            row.against[f"{name} % of ideal"] = None if share is None else 100 * share


def _ratio(other: Row | None, row: Row, quantity: str) -> float | None:
    a, b = (None if x is None else x.median(quantity) for x in (other, row))
    return None if a is None or not b else a / b
