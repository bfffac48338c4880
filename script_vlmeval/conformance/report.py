"""What a conformance run says: a block of lines per method, each failure with its reason and its smallest example, and totals."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hypothesis import configuration

from ..cells import Scalar
from . import EXAMPLES, around, check_found, laws
from .loading import resolve
from .outcome import Checked, Failure, MethodReport, Report
from .tally import Tally

_RANDOM = "The laws that hold on any input hold on random ones."
_WIDTH = 18
_NAMED = 6  # broken laws that are named where all are broken in the same way
_BASIC = ("declares_what_it_reads", "exact_count", "deterministic")  # broken, they break most others


def command(
    methods: Sequence[str],
    recordings: Path | None,
    *,
    quiet: bool = False,
    fuzz: int = EXAMPLES,
    params: Mapping[str, Scalar] | None = None,
) -> int:
    """Check the methods, printing as each is done. 0 = all hold, 1 = something is broken. UserError as `check`."""
    from tqdm import tqdm

    found = resolve(methods, params)
    with (
        _no_folder_left(),
        tqdm(total=len(found), unit="method", disable=quiet or not sys.stderr.isatty(), leave=False) as bar,
    ):

        def tell(method: MethodReport) -> None:
            with bar.external_write_mode(file=sys.stdout):
                print("\n".join(block(method)), flush=True)
            bar.update()

        report = check_found(found, recordings, fuzz=fuzz, params=params, each=tell)
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
    given = "".join(f" {name}={value}" for name, value in method.params.items())
    lines = [f"{method.name}{given}" + ("" if method.file is None else f" ({method.file})")]
    lines.append(_line("laws on tensors", _counts(method.laws)))
    lines.append(_line("random examples", _tried(method)))
    lines.append(_line("around a model", f"not run: {method.no_model}" if method.no_model else _counts(method.around)))
    lines.append(_line("recordings", method.no_recordings or str(method.tally)))
    shown, echoes = _told_apart(method)
    for group in _grouped(shown):
        lines += _failure(group)
    if echoes:
        lines.append(f"  likely echoes of the same fault: {_names(echoes)}, not shown")
    return lines


def _tried(method: MethodReport) -> str:
    if not method.examples:
        return "none tried"
    return f"{method.examples} tried, {'all hold' if method.random is None else 'FAILED'}"


def _told_apart(method: MethodReport) -> tuple[list[Failure], list[Failure]]:
    """What to show, and what follows from it: where a basic law is broken, most others are, whatever they say."""
    basic = next((f for name in _BASIC for f in method.laws.failures if f.law == name), None)
    if basic is None:
        return method.failures, []
    return [basic], [f for f in method.failures if f is not basic]


def _names(failures: Sequence[Failure]) -> str:
    more = f" and {len(failures) - _NAMED} more" if len(failures) > _NAMED else ""
    return f"{', '.join(f.law for f in failures[:_NAMED])}{more}"


def _line(what: str, text: str) -> str:
    return f"  {what:{_WIDTH}}{text}"


def _counts(checked: Checked) -> str:
    failed = f", {len(checked.failures)} FAILED" if checked.failures else ""
    skipped = "".join(f"; not applicable: {name} ({why})" for name, why in checked.skipped.items())
    return f"{len(checked.passed)} passed{failed}{skipped}"


def _grouped(failures: Sequence[Failure]) -> list[list[Failure]]:
    """Failures with the same explanation, but for shapes, are one finding."""
    found: dict[str, list[Failure]] = {}
    for failure in failures:
        found.setdefault(re.sub(r"\([\d, ]+\)", "(...)", failure.explanation), []).append(failure)
    return list(found.values())


def _failure(group: Sequence[Failure]) -> Iterator[str]:
    yield f"  FAILED {_names(group)}"
    if statement := _statement(group[0].law):
        yield f"    the law: {statement}"
    shown = min(group, key=_simplicity)
    yield f"    but {shown.explanation}"
    if shown.case is not None:
        yield f"    smallest example: {shown.case}"
        yield f"    to repeat it: from script_vlmeval.conformance.cases import Case, build; visual = {shown.case.code}"


def _simplicity(failure: Failure) -> tuple[object, ...]:
    """Sorts first what has an example, in float32, with ordinary tokens, few axes and few tokens."""
    if (c := failure.case) is None:
        return (True,)
    return (False, c.dtype != "float32", c.degenerate != "none", (c.b > 1) + (c.g > 1), c.b * c.g * c.n, c.k, str(c))


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
    random = sum(m.random is not None for m in report.methods)
    compared = sum((m.tally for m in report.methods if m.tally is not None), Tally())
    broken = [m.name for m in report.methods if not m.ok]
    mismatches = sum(len(m.recordings.failures) for m in report.methods)
    parts = [
        "1 method" if len(report.methods) == 1 else f"{len(report.methods)} methods",
        f"{passed} laws hold, {failed} broken" + (f", {random} on random examples" if random else ""),
        f"recordings: {compared if compared.compared else 'none compared'}"
        + (f", {mismatches} not reproduced" if mismatches else ""),
        f"FAILED: {', '.join(broken)}" if broken else "all hold",
    ]
    return "; ".join(parts)
