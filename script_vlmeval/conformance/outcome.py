"""What a law says when it is broken or does not apply, and what became of a method's laws."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import ParamSpec

from .. import doubts
from ..cells import Scalar
from ..errors import UserError
from ..methods import base
from .cases import Case
from .tally import MismatchError, Tally

P = ParamSpec("P")
_GUARDS = ("order", "checked", "__call__")  # of `Method`, on what an override returned


class LawBroken(Exception):
    """A method does what no method may do: what, and on which input."""

    def __init__(self, explanation: str, case: Case | None = None) -> None:
        super().__init__(explanation)
        self.explanation, self.case = explanation, case


class NotApplicable(Exception):
    """The law says nothing about this method; the message says why."""


@dataclass(frozen=True)
class Failure:
    """One broken law: its name, why, and the smallest input that was found."""

    law: str
    explanation: str
    case: Case | None = None


@dataclass
class Checked:
    """What became of the laws of one kind."""

    passed: list[str] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)  # law -> why it does not apply

    def try_law(self, name: str, law: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> None:
        """Run a law and note what became of it."""
        try:
            with explained():
                law(*args, **kwargs)
        except NotApplicable as reason:
            self.skipped[name] = str(reason)
        except LawBroken as broken:
            self.failures.append(Failure(name, broken.explanation, broken.case))
        else:
            self.passed.append(name)


@dataclass
class MethodReport:
    """Everything that was tried on one method."""

    name: str
    file: Path | None  # where a user's own method stands
    params: Mapping[str, Scalar] = field(default_factory=dict)  # as given, others than its defaults
    laws: Checked = field(default_factory=Checked)
    examples: int = 0  # random ones tried
    random: Failure | None = None  # the smallest of them that breaks a law
    around: Checked = field(default_factory=Checked)
    no_model: str = ""  # why it was not run around a model
    recordings: Checked = field(default_factory=Checked)  # a file for a law
    tally: Tally | None = None  # how strictly they were compared; None: not at all, and `no_recordings` says why
    no_recordings: str = ""

    @property
    def failures(self) -> list[Failure]:
        random = [] if self.random is None else [self.random]
        return [*self.laws.failures, *random, *self.around.failures, *self.recordings.failures]

    @property
    def ok(self) -> bool:
        return not self.failures


@dataclass
class Report:
    """The methods that were checked, in the order in which they were named."""

    methods: list[MethodReport] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return all(m.ok for m in self.methods)


@contextmanager
def explained(case: Case | None = None) -> Iterator[None]:
    """What a method raises, as a broken law that says where; `case` is added where a broken law does not name one."""
    try:
        yield
    except NotApplicable:
        raise
    except LawBroken as broken:
        broken.case = broken.case or case
        raise
    except MismatchError as mismatch:
        raise LawBroken(first_line(mismatch), case) from mismatch
    except UserError as error:
        what = "its result was refused" if _refused_result(error.__traceback__) else "refused what it must accept"
        raise LawBroken(f"{what}: {first_line(error)}", case) from error
    except Exception as error:
        raise LawBroken(f"raised {type(error).__name__}{where(error.__traceback__)}: {first_line(error)}", case) from error


def where(trace: TracebackType | None) -> str:
    """The last line of somebody's own code that an error passed through: ' at file.py:12 (`code`)'."""
    here = Path(__file__).parent
    frames = [f for f in traceback.extract_tb(trace) if Path(f.filename).parent != here and "site-packages" not in f.filename]
    return f" at {Path(frames[-1].filename).name}:{frames[-1].lineno} (`{frames[-1].line}`)" if frames else ""


def _refused_result(trace: TracebackType | None) -> bool:
    """Whether a guard of the contract refused what the method returned, not the method what it was given."""
    frames = [f for f in traceback.extract_tb(trace) if f.name != "require_finite" and f.filename != doubts.__file__]
    return bool(frames) and frames[-1].filename == base.__file__ and frames[-1].name in _GUARDS


def first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "no message")
