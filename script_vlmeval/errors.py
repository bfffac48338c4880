"""Errors that a user can mend: what was asked, why it cannot work, what would. Shown as one line, exit status 2."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Something that the user must change. The message is the whole output: no traceback is shown."""


def unknown(kind: str, name: str, known: Iterable[str], hint: str = "") -> UserError:
    """The error for a name that does not exist, with the nearest ones that do."""
    names = sorted(known)
    by_lower = {n.lower(): n for n in names}
    near = [by_lower[n] for n in difflib.get_close_matches(name.lower(), list(by_lower), n=3, cutoff=0.5)]
    if near:
        advice = f"Did you mean {' or '.join(repr(n) for n in near)}?"
    elif len(names) <= 20:
        advice = f"Known: {', '.join(names) or 'none'}."
    else:
        advice = ""
    return UserError(" ".join(part for part in (f"Unknown {kind} '{name}'.", advice, hint) if part))


def reason_of(error: BaseException) -> str:
    """What another library's error says, in one line; its type where it says nothing."""
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)


def said_by(error: BaseException) -> str:
    """What went wrong in code that is not ours, in one line: the kind of error and what it says."""
    said = reason_of(error)
    return said if said == type(error).__name__ else f"{type(error).__name__}: {said}"
