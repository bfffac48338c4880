"""What a conformance run says: a block of lines per method, each failure with its reason and its smallest example, and totals."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hypothesis import configuration

from . import EXAMPLES, around, check, laws
from .loading import resolve
from .outcome import Checked, Failure, MethodReport, Report
from .tally import Tally

_RANDOM = "The laws that hold on any input hold on random ones."
_WIDTH = 18
_NAMED = 6  # broken laws that are named where all are broken in the same way


def command(methods: Sequence[str], recordings: Path | None, *, quiet: bool = False, fuzz: int = EXAMPLES) -> int:
    """Check the methods, printing as each is done. 0 = all hold, 1 = something is broken. UserError as `check`."""
    from tqdm import tqdm

    with (
        _no_folder_left(),
        tqdm(total=len(resolve(methods)), unit="method", disable=quiet or not sys.stderr.isatty(), leave=False) as bar,
    ):

        def tell(method: MethodReport) -> None:
            with bar.external_write_mode(file=sys.stdout):
                print("\n".join(block(method)), flush=True)
            bar.update()

        report = check(methods, recordings, fuzz=fuzz, each=tell)
    print(total(report))
    return 0 if report.ok else 1


@contextmanager
def _no_folder_left() -> Iterator[None]:
    """hypothesis keeps notes in a folder `.hypothesis` where it is started; here, somewhere else and not for long."""
    with TemporaryDirectory() as scratch:
        configuration.set_hypothesis_home_dir(scratch)
        try:
            yield
        finally:
            configuration.set_hypothesis_home_dir(None)


def block(method: MethodReport) -> list[str]:
    """The lines on one method."""
    lines = [method.name if method.file is None else f"{method.name} ({method.file})"]
    lines.append(_line("laws on tensors", _counts(method.laws)))
    lines.append(_line("random examples", f"{method.examples} tried"))
    lines.append(_line("around a model", f"not run: {method.no_model}" if method.no_model else _counts(method.around)))
    lines.append(_line("recordings", method.no_recordings or str(method.tally)))
    for group in _grouped(method.failures):
        lines += _failure(group)
    return lines


def _line(what: str, text: str) -> str:
    return f"  {what:{_WIDTH}}{text}"


def _counts(checked: Checked) -> str:
    failed = f", {len(checked.failures)} FAILED" if checked.failures else ""
    skipped = "".join(f"; not applicable: {name} ({why})" for name, why in checked.skipped.items())
    return f"{len(checked.passed)} passed{failed}{skipped}"


def _grouped(failures: Sequence[Failure]) -> list[list[Failure]]:
    """Failures with the same explanation are one finding."""
    found: dict[str, list[Failure]] = {}
    for failure in failures:
        found.setdefault(failure.explanation, []).append(failure)
    return list(found.values())


def _failure(group: Sequence[Failure]) -> Iterator[str]:
    more = f" and {len(group) - _NAMED} more" if len(group) > _NAMED else ""
    yield f"  FAILED {', '.join(f.law for f in group[:_NAMED])}{more}"
    if statement := _statement(group[0].law):
        yield f"    the law: {statement}"
    yield f"    but {group[0].explanation}"
    cases = sorted((f.case for f in group if f.case is not None), key=lambda c: (c.b * c.g * c.n, c.k, str(c)))
    if cases:
        yield f"    smallest example: {cases[0]}"
        yield f"    to repeat it: from script_vlmeval.conformance.cases import Case, build; visual = {cases[0].code}"


def _statement(name: str) -> str:
    """What a law says, in a sentence; nothing for a recording."""
    every: dict[str, Any] = {**around.LAWS, **laws.LAWS}
    if name in every:
        return str(every[name].__doc__).split("\n")[0]
    return _RANDOM if name == "random_examples" else ""


def total(report: Report) -> str:
    """The last line."""
    passed = sum(len(c.passed) for m in report.methods for c in (m.laws, m.around))
    failed = sum(len(c.failures) for m in report.methods for c in (m.laws, m.around))
    compared = sum((m.tally for m in report.methods if m.tally is not None), Tally())
    broken = [m.name for m in report.methods if not m.ok]
    mismatches = sum(len(m.recordings.failures) for m in report.methods)
    parts = [
        "1 method" if len(report.methods) == 1 else f"{len(report.methods)} methods",
        f"{passed} laws hold, {failed} broken",
        f"recordings: {compared if compared.compared else 'none compared'}"
        + (f", {mismatches} not reproduced" if mismatches else ""),
        f"FAILED: {', '.join(broken)}" if broken else "all hold",
    ]
    return "; ".join(parts)
