"""What all processes of a run have answered, brought together for the first one's bar and for the limit on failures."""

from __future__ import annotations

import time

from .progress import Progress
from .ranks import Ranks

_SECONDS = 0.5  # between two looks at what the others did


class Counts:
    """Answers and failed rows. Each process adds its own, a few times a second at most."""

    def __init__(self, ranks: Ranks, progress: Progress) -> None:
        self._ranks, self._progress = ranks, progress
        self._answers = self._failures = 0
        self._told = time.monotonic()

    def at(self, what: str) -> None:
        """What this process works on."""
        if self._ranks.first:
            self._progress.at(what)

    def add(self, answers: int, failures: int) -> None:
        """`answers`: rows that are dealt with, failed ones included."""
        self._answers += answers
        self._failures += failures
        if self._ranks.world == 1 or time.monotonic() - self._told > _SECONDS:
            self.show()

    def show(self) -> None:
        """Bring the sums up to date. RankFailed where another process failed or is gone: what is left is for a rerun."""
        self._ranks.check()
        answers, failures = self._ranks.add("answers", self._answers), self._ranks.add("failed rows", self._failures)
        self._answers = self._failures = 0
        self._told = time.monotonic()
        if self._ranks.first:
            self._progress.see(answers, failures)

    def failed(self, cell: str, rows: int) -> int:
        """Adds failed rows of a cell: how many all processes had of it."""
        return self._ranks.add(f"failed of {cell}", rows)

    def gave_up(self, cell: str, reason: str) -> None:
        """Tell the others why a cell was given up; the first to say so is heard."""
        if self._ranks.add(f"given up {cell}") == 1:
            self._ranks.give(f"why {cell}", reason.encode())

    def why(self, cell: str) -> str:
        """Why a cell was given up by any process, '' where it was not."""
        return self._ranks.take(f"why {cell}").decode() if self._ranks.add(f"given up {cell}", 0) else ""

    def trouble(self, what: str) -> None:
        """Something that the user is told at the end."""
        self._ranks.give(f"trouble {self._ranks.claim('troubles')}", what.encode())

    def troubles(self) -> list[str]:
        """All of it so far."""
        return [self._ranks.take(f"trouble {i}").decode() for i in range(self._ranks.add("troubles", 0))]
