"""The laws of a pruning method and recordings of official code, for any method, a user's own file too.

    report = check(["script", "my_method.py"])
    for failure in report.methods[1].failures: print(failure.law, failure.explanation, failure.case)

Laws on tensors: `laws`, on random ones: `fuzz`, around the embedded model: `around`; recordings: `recordings`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from ..cells import Scalar
from ..errors import UserError
from ..methods import Method
from . import around, laws, recordings
from .cases import Case, ladder
from .fuzz import fuzz as run_fuzz
from .loading import Found, resolve
from .outcome import Failure, LawBroken, MethodReport, Report, explained
from .subjects import embedded
from .tally import Tally

__all__ = ["EXAMPLES", "Case", "Failure", "LawBroken", "MethodReport", "Report", "check", "check_law", "check_method"]

EXAMPLES = 100  # random cases per method


def check(
    methods: Sequence[str | Path],
    recordings: Path | None = None,
    *,
    fuzz: int = EXAMPLES,
    model: bool = True,
    params: Mapping[str, Scalar] | None = None,
    each: Callable[[MethodReport], None] | None = None,
) -> Report:
    """Everything that can be said about these methods: names, 'all', or paths of files that define some.

    recordings: the folder with recordings of official code; None = where they usually are, none at all is fine. fuzz: random
    cases per method. model: also around the embedded model. params: hyper-parameters and options (merge, centre) of every method
    named; recordings are of the defaults and are not compared then. each: called with a method's report as soon as it is
    complete. UserError for unknown names and files that cannot be used, before anything is tried.
    """
    return check_found(resolve(methods, params), recordings, fuzz=fuzz, model=model, params=params, each=each)


def check_found(
    found: Sequence[Found],
    recordings: Path | None = None,
    *,
    fuzz: int = EXAMPLES,
    model: bool = True,
    params: Mapping[str, Scalar] | None = None,
    each: Callable[[MethodReport], None] | None = None,
) -> Report:
    """`check` of methods that are loaded already, with these parameters."""
    root, report = _recordings(recordings), Report()
    for method, file in found:
        report.methods.append(check_method(method, file, root, fuzz=fuzz, model=model, params=params))
        if each is not None:
            each(report.methods[-1])
    return report


def _recordings(named: Path | None) -> Path | None:
    return recordings.find(named)


def check_method(
    method: Method,
    file: Path | None,
    root: Path | None,
    *,
    fuzz: int,
    model: bool,
    params: Mapping[str, Scalar] | None = None,
) -> MethodReport:
    """One method: laws on tensors, random ones, around the model, recordings below `root`."""
    report = MethodReport(method.name, file, dict(params or {}))
    with _no_warnings():
        for name in laws.LAWS:
            report.laws.try_law(name, check_law, name, method)
        _fuzz(report, method, fuzz)
        if model:
            _around(report, method)
        if file is not None:
            report.no_recordings = "none of a method of your own"
        elif params:
            report.no_recordings = "not compared: parameters given"
        else:
            _compare(report, method.name, root)
    return report


def check_law(name: str, method: Method) -> None:
    """One law on tensors, on cases from small to large. LawBroken, with the smallest, or NotApplicable."""
    for case in ladder(method):
        with explained(case):
            laws.LAWS[name](method, case)


def _fuzz(report: MethodReport, method: Method, examples: int) -> None:
    """Random cases; of what breaks a law, the smallest that was found."""
    if examples < 1:
        return
    report.examples, broken = run_fuzz(method, examples)
    if broken is not None:
        report.random = Failure("random_examples", broken.explanation, broken.case)


def _around(report: MethodReport, method: Method) -> None:
    try:
        subject = embedded()
    except UserError as error:
        report.no_model = str(error)
        return
    report.no_model = around.obstacle(method, subject)
    if report.no_model:
        return
    reached = around.reachable(method, subject)
    assert reached is not None
    for name, law in around.LAWS.items():
        report.around.try_law(name, law, method, reached)


def _compare(report: MethodReport, name: str, root: Path | None) -> None:
    if name not in recordings.RECORDED:
        report.no_recordings = "none of this method"
    elif root is None:
        report.no_recordings = "not here (give --recordings DIR)"
    elif not (files := recordings.RECORDED[name].files(root)):
        report.no_recordings = f"none of this method in {root}"
    else:
        report.tally = Tally()
        for file in files:
            report.recordings.try_law(f"recording {file.stem}", _count, report, name, file)


def _count(report: MethodReport, name: str, file: Path) -> None:
    assert report.tally is not None
    report.tally += recordings.compare(name, file)


@contextmanager
def _no_warnings() -> Iterator[None]:
    """Cases without a question are meant to be; what methods say to them is noise here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
