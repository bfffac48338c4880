"""Rows that are scored together: the two questions of a picture in MME, the rotations of one question in MMBench."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from ..benchmarks import Benchmark
from ..scoring import RULES

Group: TypeAlias = Callable[[Mapping[str, str]], str]
_CIRCULAR = ("mmbench", "ccbench", "circular", "mmcr")  # in the names of the host's sets that rotate options


def group_of(benchmark: Benchmark) -> Group | None:
    """What tells the rows that are scored together: as the rule says. Without one the host scores, rotations of a question
    together in its circular sets. None where each row stands for itself."""
    if benchmark.rule:
        return RULES[benchmark.rule].group if benchmark.rule in RULES else None
    circular = any(part in benchmark.host.lower() for part in _CIRCULAR)
    return RULES["mmbench"].group if circular else None


def first(rows: Sequence[dict[str, str]], limit: int, groups: Sequence[str] | None) -> list[dict[str, str]]:
    """The first rows, and the later ones that are scored together with them. groups: of each row; None where each is alone."""
    if groups is None:
        return list(rows[:limit])
    chosen = set(groups[:limit])
    return [row for row, name in zip(rows, groups, strict=True) if name in chosen]
