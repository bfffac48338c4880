"""Encode once, prune many: within this context a module that sees the same tensor again returns the same output again.

The memo holds a few outputs of one batch. It wraps the `forward` of vision tower and projector, so hooks on them still run, and
returns the very objects that the modules returned, with what was written into them since put right.
"""

from __future__ import annotations

import functools
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .methods import Method, Visual
from .query import QuerySource

_TABLE = 4096  # values
_KEPT = 4  # outputs per module: a batch, parts of it asked again after a failure, and what methods run for themselves


@contextmanager
def encode_once(*modules: nn.Module) -> Iterator[None]:
    """Each module runs once per distinct input tensor; everything is forgotten at the end."""
    own = [module.__dict__.get("forward") for module in modules]  # what device placement or an outer context put there
    for module in modules:
        module.forward = _memoised(module.forward)
    try:
        yield
    finally:
        for module, forward in zip(modules, own, strict=True):
            if forward is None:
                del module.forward
            else:
                module.forward = forward


def _memoised(forward: Callable[..., Any]) -> Callable[..., Any]:
    seen: deque[tuple[list[Tensor], Any, Any]] = deque(maxlen=_KEPT)

    @functools.wraps(forward)
    def once(*args: Any, **kwargs: Any) -> Any:
        given = [a for a in (*args, *kwargs.values()) if isinstance(a, Tensor)]
        rest = [repr(a) for a in args if not isinstance(a, Tensor)]
        rest += [f"{name}={a!r}" for name, a in sorted(kwargs.items()) if not isinstance(a, Tensor)]
        if not given:
            return forward(*args, **kwargs)
        for i, entry in enumerate(seen):
            if entry[1] == rest and len(entry[0]) == len(given) and all(map(_same, entry[0], given)):
                del seen[i]
                seen.append(entry)  # what is used again outlives what is not
                return _as_it_was(*entry[2])
        output = forward(*args, **kwargs)
        fields = dict(output) if isinstance(output, Mapping) else {}
        seen.append((given, rest, (output, fields)))  # holding the input keeps its memory from being given to another tensor
        return output

    return once


def _as_it_was(output: Any, fields: Mapping[str, Any]) -> Any:
    """A module's output again; models write into some of its fields."""
    for name, value in fields.items():
        if output[name] is not value:
            output[name] = value
    return output


def _same(a: Tensor, b: Tensor) -> bool:
    """Whether both are views of the same memory, or small tables of whole numbers (sizes of pictures) that are equal.

    Values of pictures are not compared, so it costs nothing on a device.
    """
    if a.dtype == b.dtype == torch.long and a.numel() <= _TABLE:
        return torch.equal(a, b)
    return a is b or (a.data_ptr() == b.data_ptr() and a.shape == b.shape and a.stride() == b.stride() and a.dtype == b.dtype)


class QueryOnce:
    """A query source that encodes a batch's questions, and its patches, once."""

    def __init__(self, source: QuerySource) -> None:
        self.name, self.sign, self._source = source.name, source.sign, source
        self._asked: tuple[list[str], tuple[Tensor, Tensor]] | None = None
        self._patches: tuple[Tensor, Tensor | None] | None = None

    def forget(self) -> None:
        """Let go of the last batch."""
        self._asked = self._patches = None

    def encode(self, questions: list[str]) -> tuple[Tensor, Tensor]:
        if self._asked is None or self._asked[0] != questions:
            self._asked = (list(questions), self._source.encode(questions))
        return self._asked[1]

    def keys(self, model: nn.Module, selected: Tensor) -> Tensor | None:
        if self._patches is None or not _same(self._patches[0], selected):
            self._patches = (selected, self._source.keys(model, selected))
        return self._patches[1]


class Chosen:
    """Selections before the language model that several budgets of one method on one batch share.

    Give the same object to the contexts of one batch, method and seed: the method runs once, at the largest of `budgets`, and
    the smaller ones are prefixes of its order. Methods that are not nested run as ever.
    """

    def __init__(self, budgets: Sequence[str]) -> None:
        self.budgets = tuple(budgets)
        self._keep: dict[tuple[int, int], Tensor] = {}
        self.seconds = 0.0  # that choosing took

    def keep(self, method: Method, group: int, k: int, budgets: Sequence[int], see: Callable[[], Visual]) -> Tensor:
        """(I, G, k) what the method keeps of a group of images; `see` is asked for the images only where they are not known."""
        if (group, k) not in self._keep:
            start = time.perf_counter()
            visual = see()
            wanted = sorted({k, *(b for b in budgets if b < visual.shape[2])})
            self._keep |= {(group, b): keep for b, keep in zip(wanted, method.many(visual, wanted), strict=True)}
            self.seconds += time.perf_counter() - start
        return self._keep[group, k]

    def forget(self) -> None:
        """What was chosen of doubtful features."""
        self._keep.clear()
