"""The command line: nothing lists, `all` runs everything, names run those, each with its method's recordings."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from textwrap import fill

from script_vlmeval.errors import UserError, unknown

from .registry import FINDINGS, Evidence, Finding, examine

_MODULES = (
    "about_script",
    "about_cdpruner",
    "about_distance",
    "about_attention",
    "about_question",
    "about_video",
    "about_attended",
    "about_depths",
    "about_counts",
)

_USAGE = """usage: python scripts/audit [all | FINDING ...]

Without a name, all findings are listed. A finding shows its numbers and how our method agrees with recordings of released code,
where there are some; `all` runs every finding and leaves the recordings out.

Exit status: 0 all that was asked holds, 1 something does not, 2 there is no such finding."""


def load() -> dict[str, Finding]:
    """All findings, in the order of the document."""
    for module in _MODULES:
        import_module(f"{__package__}.{module}")
    return FINDINGS


def main(asked: Sequence[str]) -> int:
    """Exit status: 0 all that was asked holds, 1 something does not, 2 there is no such finding."""
    try:
        status = _dispatch(asked)
        sys.stdout.flush()  # here, where a reader that has gone is no error
        return status
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader has seen enough
        return 0


def _dispatch(asked: Sequence[str]) -> int:
    if "-h" in asked or "--help" in asked:
        print(_USAGE)
        return 0
    findings = load()
    if not asked:
        return _list(findings)
    for name in asked:
        if name not in (*findings, "all"):
            raise unknown("finding", name, [*findings, "all"], "Without a name, all are listed.")
    chosen = list(findings) if "all" in asked else list(dict.fromkeys(asked))
    seen = [_run(findings[name], recorded="all" not in asked) for name in chosen]
    failed = [e.finding.id for e in seen if not e.holds]
    if len(seen) > 1:
        print(f"{len(seen) - len(failed)} of {len(seen)} findings hold" + (f"; not: {', '.join(failed)}" if failed else "."))
    return 1 if failed else 0


def _list(findings: dict[str, Finding]) -> int:
    for method in dict.fromkeys(f.method for f in findings.values()):
        print(f"{'every method' if method == 'all' else method}")
        for found in findings.values():
            if found.method == method:
                print(fill(found.claim, 128, initial_indent=f"  {found.id:<30} ", subsequent_indent=" " * 33))
    print(f"\n{len(findings)} findings. Run some by their names, or `all`.")
    print("Named ones also print how our method agrees with recordings, where there are some; `all` leaves that out.")
    return 0


def _run(found: Finding, *, recorded: bool) -> Evidence:
    evidence = examine(found)
    print(f"{found.id} ({found.method}): {found.claim}")
    for line in evidence.lines:
        print(f"  {line}")
    if recorded and (line := _recordings(found.method)):
        print(f"  {line}")
    print(f"  => {'holds' if evidence.holds else 'DOES NOT HOLD'}\n")
    return evidence


def _recordings(method: str) -> str:
    """Agreement of our method with its recordings; nothing where there are none. No release computes what `script` is."""
    from script_vlmeval.conformance import recordings
    from script_vlmeval.conformance.tally import MismatchError, Tally

    root = recordings.find()
    if root is None or method not in recordings.RECORDED:
        return ""
    what = "our own float64 evaluation of the definition" if method == "script" else "recordings of the released code"
    total = Tally()
    for file in recordings.RECORDED[method].files(root):
        try:
            total += recordings.compare(method, file)
        except MismatchError as error:
            return f"{what}: {file.stem} differs: {error}"
    return f"{what}: {total}"
