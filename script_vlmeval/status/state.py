"""One cell, as it is on the disk."""

from __future__ import annotations

from dataclasses import dataclass, replace

DONE, FAILED_ROWS, RUNNING, WAITING = "done", "failed rows", "running", "waiting"
PARTIAL, FAILED, MISSING = "partial", "failed", "missing"


@dataclass(frozen=True)
class CellState:
    """One cell: a state of those above, in numbers and words.

    rows: 0 where that is not known. answers: of a finished cell those that are no failures, of any other all that are there.
    score: of a finished cell. reason: what is wrong, if anything. lost: answers of a finished cell that are not on disk.
    """

    config: str
    benchmark: str
    state: str
    rows: int
    answers: int
    failed: int = 0
    score: str = ""
    reason: str = ""
    lost: int = 0

    @property
    def complete(self) -> bool:
        """Whether a rerun would find nothing to do."""
        return self.state == DONE and not self.lost

    @property
    def active(self) -> bool:
        """Whether a run holds it."""
        return self.state in (RUNNING, WAITING)

    def without(self, lost: int) -> CellState:
        """A finished cell of which so many lines, failed rows' among them, are missing."""
        if not lost:
            return self
        why = f"{lost:,} {'answer is' if lost == 1 else 'answers are'} missing on disk: a rerun asks them again"
        return replace(self, answers=max(0, self.answers - lost), lost=lost, reason="; ".join(filter(None, [why, self.reason])))
