"""What a finding is, and the table of all of them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field

FINDINGS: dict[str, Finding] = {}

Show = Callable[[str], None]
Demonstration = Callable[[Show], bool]


@dataclass(frozen=True)
class Finding:
    """A claim about a method, and a function that shows its numbers and says whether it holds."""

    id: str
    method: str  # as registered, or "all"
    claim: str
    demonstrate: Demonstration


@dataclass(frozen=True)
class Evidence:
    """What a demonstration has shown."""

    finding: Finding
    holds: bool
    lines: list[str] = field(default_factory=list)


def finding(method: str, claim: str) -> Callable[[Demonstration], Demonstration]:
    """Register a demonstration; its name with hyphens is the finding's id."""

    def register(demonstrate: Demonstration) -> Demonstration:
        name = demonstrate.__name__.replace("_", "-")
        assert name not in FINDINGS, name
        FINDINGS[name] = Finding(name, method, claim, demonstrate)
        return demonstrate

    return register


def examine(found: Finding) -> Evidence:
    """Run the demonstration. Cases without a question are meant to be, so nothing is said to them."""
    lines: list[str] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        holds = bool(found.demonstrate(lines.append))
    return Evidence(found, holds, lines)
