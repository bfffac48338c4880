"""The contract of a token-selection method: what it sees, what it returns, and the one rung it overrides.

A method is a pure function of tensors over a batch of images of one shape. It knows no model, no tokenizer and no benchmark.
Subclass `Method` as a frozen dataclass in a file of its own in this folder; the fields are its hyper-parameters, the class name
in lower case is the name that users type.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import ClassVar

import torch
from torch import Tensor

from ..errors import UserError, unknown

METHODS: dict[str, type[Method]] = {}


@dataclass(frozen=True)
class Visual:
    """The visual tokens of B images (or clips) of one shape at one stage. G = tiles or frames, N = tokens per tile.

    A stage inside the language model sees the survivors of an image as G = 1. Optional fields are present when the method
    lists them in `needs`.
    """

    tokens: Tensor  # (B, G, N, D) what the language model would read
    keys: Tensor | None = None  # (B, G, N, C) the tokens in a space shared with the question
    query: Tensor | None = None  # (B, M, C) the question in that space
    query_mask: Tensor | None = None  # (B, M) bool, True = real row
    saliency: Tensor | None = None  # (B, G, N) attention received from CLS (or the mean query) in the vision encoder
    attention: Tensor | None = None  # (B, G, N) attention from the last prompt token, layer before the stage; None at stage 0
    encoded: Tensor | None = None  # (B, G, N, E) encoder output before the projector
    encoder_keys: Tensor | None = None  # (B, G, N, H) attention keys of that encoder layer, heads averaged
    cls: Tensor | None = None  # (B, G, E) the encoder's CLS token
    project: Callable[[Tensor], Tensor] | None = None  # the projector: (..., E) -> (..., D)
    grid: tuple[int, int] | None = None  # rows, columns of a tile
    seed: Tensor | None = None  # (B,) per-sample seed, the same on every device, rank and batch size
    sign: int = -1  # how relevance follows from cosine(keys, query) in this space: -1 in CLIP's (patches of LLaVA), +1 elsewhere

    @property
    def shape(self) -> tuple[int, int, int]:
        """B, G, N."""
        b, g, n = self.tokens.shape[:3]
        return b, g, n


@dataclass(frozen=True)
class Reduced:
    """The tokens that stay. `keep` ascends; -1, at its end, is a token that stands for no single position (merged, mean)."""

    keep: Tensor  # (B, G, k) indices into N
    tokens: Tensor  # (B, G, k, D) original or merged features


class Method:
    """Override exactly one of `score`, `select`, `reduce`; the others follow. Budgets k are per tile (or frame)."""

    name: ClassVar[str] = "method"
    needs: ClassVar[frozenset[str]] = frozenset()  # optional Visual fields that it reads; checked before weights load

    def __init_subclass__(cls, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        cls.name = cls.__name__.lower()
        if cls.name in METHODS and METHODS[cls.name].__module__ != cls.__module__:
            raise UserError(f"Two methods are called '{cls.name}': {METHODS[cls.name].__module__} and {cls.__module__}.")
        METHODS[cls.name] = cls

    def plan(self, budget: int, n_visual: int, n_layers: int) -> dict[int, int]:
        """Stage -> visual tokens kept from there on. Stage 0 is before the language model, stage i the entry of its layer i."""
        return {0: budget}

    def score(self, visual: Visual) -> Tensor:
        """(B, G, N) importance; the k highest are kept, ties to the lower index."""
        raise NotImplementedError(f"'{self.name}' overrides none of score, select, reduce")

    def select(self, visual: Visual, k: int) -> Tensor:
        """(B, G, k) indices into N, ascending."""
        order = self.score(visual).float().sort(dim=-1, descending=True, stable=True).indices
        return order[..., :k].sort(-1).values

    def reduce(self, visual: Visual, k: int) -> Reduced:
        """The kept tokens with their features."""
        return take(visual, self.select(visual, k))

    def __call__(self, visual: Visual, k: int) -> Reduced:
        """`reduce` behind its guards: k >= N keeps everything, non-finite features and malformed results are refused.

        Raises UserError for a budget below 1, for NaN or inf in the tokens and for a missing field; a method that returns
        another number of tokens than asked for is an error too, never a silently short set.
        """
        if k < 1:
            raise UserError(f"'{self.name}' was asked to keep {k} visual tokens; a budget is at least 1.")
        if k >= visual.shape[2]:
            return take(visual, torch.arange(visual.shape[2], device=visual.tokens.device).expand(visual.shape))
        for field in sorted(self.needs):
            if getattr(visual, field) is None and field not in ("query", "attention"):  # no question; no layer before stage 0
                raise UserError(f"'{self.name}' needs '{field}' of the visual tokens, which this model does not give.")
        require_finite(visual.tokens, f"the visual tokens given to '{self.name}'")
        reduced = self.reduce(visual, k)
        expected = (*visual.shape[:2], k)
        if tuple(reduced.keep.shape) != expected or tuple(reduced.tokens.shape[:3]) != expected:
            raise UserError(f"'{self.name}' returned {tuple(reduced.keep.shape)} indices where {expected} were asked for.")
        if not _well_formed(reduced.keep, visual.shape[2]):
            raise UserError(f"'{self.name}' returned indices that are not ascending, distinct and below {visual.shape[2]}.")
        return reduced


def _well_formed(keep: Tensor, n: int) -> bool:
    """Ascending, distinct, below n, with -1 only at the end."""
    real = keep >= 0
    rising = (keep[..., 1:] > keep[..., :-1]) | ~real[..., 1:]
    ended = real[..., :-1] | ~real[..., 1:]
    return bool(rising.all() & ended.all() & (keep < n).all())


def take(visual: Visual, keep: Tensor) -> Reduced:
    """The original features at `keep` (B, G, k)."""
    index = keep[..., None].expand(-1, -1, -1, visual.tokens.shape[-1])
    return Reduced(keep, visual.tokens.gather(2, index))


def require_finite(x: Tensor, what: str) -> None:
    """Fail closed: a NaN would win every argmax and repeat picks, so a set would be short without a word."""
    if not bool(torch.isfinite(x).all()):
        raise UserError(f"NaN or infinity in {what}: a selection would be arbitrary. Try another --dtype (float32).")


def get_method(name: str, **params: object) -> Method:
    """The method of that name with these hyper-parameters. Raises UserError for unknown names and parameters."""
    if name not in METHODS:
        raise unknown("method", name, METHODS)
    cls = METHODS[name]
    known = {f.name for f in fields(cls)} if hasattr(cls, "__dataclass_fields__") else set()  # type: ignore[arg-type]
    for param in params:
        if param not in known:
            raise unknown(f"parameter of method '{name}':", param, known, "" if known else "It has no parameters.")
    return cls(**{f.name: _typed(name, f.name, str(f.type), params[f.name]) for f in fields(cls) if f.name in params})  # type: ignore[arg-type]


def _typed(method: str, name: str, kind: str, value: object) -> object:
    """The value as its field wants it: 'none' for None, whole numbers where a float is meant. UserError for another type."""
    if "None" in kind and (value is None or str(value).lower() == "none"):
        return None
    number = isinstance(value, int | float) and not isinstance(value, bool)
    fits = {
        "float": number,
        "int": number and not isinstance(value, float),
        "bool": isinstance(value, bool),
        "str": isinstance(value, str),
        "Literal": True,  # the method itself says what it takes
    }
    wanted = [word for word in fits if word in kind]
    if wanted and not any(fits[word] for word in wanted):
        raise UserError(f"'{method}' takes {name} as {kind}, not {value!r}.")
    return value
