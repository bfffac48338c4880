"""The laws that hold on any input whatever, on random ones; hypothesis shrinks what breaks them to the smallest example."""

from __future__ import annotations

import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Flaky

from ..methods import Method
from .cases import Case, build, cases, tensors, tiles_allowed
from .examine import ask
from .laws import everything, features_kept, many_budgets
from .outcome import LawBroken, NotApplicable, explained


def core(method: Method, case: Case) -> None:
    """Exact count, determinism, inputs and features left alone, everything kept at k >= N."""
    with explained(case):
        if case.k >= case.n:
            everything(method, case)
            return
        visual, untouched = build(case, method.needs), tensors(build(case, method.needs))
        first = ask(method, visual, case.k)
        for name, x in tensors(visual).items():
            if not torch.equal(x, untouched[name]):
                raise LawBroken(f"it changed visual.{name} in place")
        if not torch.equal(first.keep, ask(method, visual, case.k).keep):
            raise LawBroken("two runs on the same input differ")
        if not method.changes:
            features_kept(method, case)
        if method.nested:
            many_budgets(method, case)


def fuzz(method: Method, examples: int) -> tuple[int, LawBroken | None]:
    """How many random cases were tried, and the smallest that breaks a law, if any. A program tries the same ones every time."""
    tried, last = 0, None

    @settings(
        max_examples=examples,
        derandomize=True,
        deadline=None,
        database=None,
        print_blob=False,
        report_multiple_bugs=False,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(cases(tiles_allowed(method)))
    def attempt(case: Case) -> None:
        nonlocal tried, last
        tried += 1
        try:
            core(method, case)
        except NotApplicable:
            return
        except LawBroken as broken:
            last = broken
            raise

    try:
        attempt()
    except LawBroken as broken:
        return tried, broken
    except Flaky:
        assert last is not None
        return tried, LawBroken(f"{last.explanation} (not every time: it is not deterministic)", last.case)
    return tried, None
