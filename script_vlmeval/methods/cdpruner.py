"""CDPruner (Zhang et al., NeurIPS 2025, arXiv 2506.10967): the most diverse tokens, conditioned on the question.

MAP of a determinantal point process with kernel diag(r) S diag(r): S is the cosine similarity of the tokens that the language
model reads, r their relevance to the question.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from .. import kernels
from ..errors import UserError
from .base import Method, Visual

_THETA = 0.98  # beyond, the squares of exp(alpha r) leave float32


@dataclass(frozen=True)
class CDPruner(Method):
    """Greedy MAP of a DPP over similarity, weighted by relevance to the question.

    sign: how relevance follows from the cosine of token and question: -1 (less similar is more relevant), +1, or None, the
        sign of the space that the model offers. The paper writes +1; its release uses -1, as it does best with CLIP patches.
    scope: minimum and maximum of the relevance over the whole `image`, all its tiles (the release), or over each `tile`.
    theta: None weighs by r; a number from 0 to 0.98 weighs by exp(alpha r), alpha = theta / (2 (1 - theta)), an option that the
        release has commented out (at 0.5): 0 is diversity alone, 0.98 (alpha = 24.5) nearly relevance alone.
    relevance: where the question comes from: `clip` (the text tower), `clipcompat` (the same with the release's rule for
        questions longer than 77 ids, of which the first 77 then have no effect), `llm` (its embeddings in the language model),
        or `auto`, what the model family has. Published numbers on Qwen models differ by it.

    Beyond the release: norms have a lower bound, constant relevance falls back to plain diversity, and an exhausted kernel is
    continued by descending weight, where the release silently returns fewer tokens.
    """

    needs = frozenset({"keys", "query"})
    gated = True
    sign: int | None = None
    scope: Literal["image", "tile"] = "image"
    theta: float | None = None
    relevance: Literal["auto", "clip", "clipcompat", "llm"] = "auto"

    def __post_init__(self) -> None:
        check_conditioning(self.name, self.sign, self.scope, self.relevance)
        if self.theta is not None and not 0 <= self.theta <= _THETA:
            raise UserError(f"'{self.name}' takes theta from 0 to {_THETA} or none (the plain weights), not {self.theta!r}.")

    def source(self) -> str:
        return self.relevance

    def order(self, visual: Visual, k: int) -> Tensor:
        b, g, n = visual.shape
        weight = conditioned(visual, self.sign, per_tile=self.scope == "tile")
        if weight is not None and self.theta is not None:
            weight = torch.exp(self.theta / (2 * (1 - self.theta)) * weight)
        return kernels.greedy_map(visual.tokens.flatten(0, 1), gated(visual, weight), min(k, n)).view(b, g, -1)


def check_conditioning(name: str, sign: int | None, scope: str, relevance: str) -> None:
    """UserError for values that relevance cannot take."""
    check_sign(name, sign)
    if scope not in ("image", "tile"):
        raise UserError(f"'{name}' has scope 'image' or 'tile', not {scope!r}.")
    check_relevance(name, relevance)


def check_relevance(name: str, relevance: str) -> None:
    """UserError for a place that the question cannot come from."""
    if relevance not in ("auto", "clip", "clipcompat", "llm"):
        raise UserError(f"'{name}' takes relevance from 'auto', 'clip', 'clipcompat' or 'llm', not {relevance!r}.")


def check_sign(name: str, sign: int | None) -> None:
    """UserError for a sign that relevance cannot have."""
    if sign not in (None, 1, -1):
        raise UserError(f"'{name}' takes sign 1, -1 or none (the model's own), not {sign!r}.")


def conditioned(visual: Visual, sign: int | None, *, per_tile: bool) -> Tensor | None:
    """(B * G, N) relevance of the tokens to the question, None where there is no question."""
    r = kernels.relevance(
        visual.keys, visual.query, visual.query_mask, sign=visual.sign if sign is None else sign, per_tile=per_tile
    )
    return None if r is None else r.flatten(0, 1)


def gated(visual: Visual, weight: Tensor | None) -> Tensor | None:
    """The weights times the gate that centring puts on the tokens, where it does."""
    if visual.gate is None:
        return weight
    gate = visual.gate.float().flatten(0, 1)
    return gate if weight is None else weight * gate
