"""What the tests of all families share: generation, methods that remember what they saw, groups that are wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from family_cases import CASES, VIDEO, Entering, entering, prepared, runtime
from models import private
from torch import Tensor

from script_vlmeval import families
from script_vlmeval.methods import Method, Visual
from script_vlmeval.prune import pruning
from script_vlmeval.trace import Trace

STEPS = 3
GREEDY = {"do_sample": False, "max_new_tokens": STEPS, "output_logits": True, "return_dict_in_generate": True}


def mate(case: str) -> tuple[str, str]:
    """The case with a batch that has all that it reads."""
    return case, "mixed" if case in VIDEO else "two"


def generate(case: str, batch: str, **more: Any) -> Any:
    with torch.no_grad():
        return runtime(case).model.generate(**prepared(case, batch).inputs, **{**GREEDY, **more})


def alone(case: str, batch: str) -> list[Entering]:
    return [entering(case, batch, b) for b in range(len(prepared(case, batch)))]


def groups_of(trace: Trace) -> list[tuple[Tensor, Tensor]]:
    """(I, G, k) kept, and whose images these are."""
    return list(zip(trace.kept.get(0, []), trace.rows.get(0, []), strict=True))


@private
@dataclass(frozen=True)
class Spy(Method):
    """The first tokens; remembers what it saw."""

    needs: frozenset[str] = frozenset()
    seen: list[Visual] = field(default_factory=list, compare=False)

    def score(self, visual: Visual) -> Tensor:
        self.seen.append(visual)
        return -torch.arange(visual.shape[2]).expand(visual.shape).float()


@private
@dataclass(frozen=True)
class FailingSpy(Spy):
    def score(self, visual: Visual) -> Tensor:
        raise RuntimeError("no more memory")


def encoder_fields(case: str) -> frozenset[str]:
    return runtime(case).family.offers & {"encoded", "project", "encoder_keys", "saliency"}


def spied(case: str, inputs: dict[str, Any]) -> tuple[list[Visual], Trace]:
    spy = Spy(encoder_fields(case))
    with torch.no_grad(), pruning(runtime(case).model, spy, 1) as trace:
        runtime(case).model.generate(**inputs, **{**GREEDY, "max_new_tokens": 1})
    return spy.seen, trace


def broken(patch: pytest.MonkeyPatch, case: str, wrong: Callable[[families.Group], families.Group]) -> None:
    """The family with groups of another kind."""
    family = families.FAMILIES[CASES[case][0]]
    split: Callable[..., list[families.Group]] = lambda *given: [wrong(g) for g in family.split(*given)]  # noqa: E731
    patch.setitem(families.FAMILIES, family.name, replace(family, split=split))
