"""CDPruner (Zhang et al., NeurIPS 2025, arXiv 2506.10967): the most diverse tokens, conditioned on the question.

MAP of a determinantal point process with kernel diag(r) S diag(r): S is the cosine similarity of the tokens that the language
model reads, r their relevance to the question.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from .. import kernels
from ..errors import UserError
from .base import Method, Visual


@dataclass(frozen=True)
class CDPruner(Method):
    """Greedy MAP of a DPP over similarity, weighted by relevance to the question.

    sign: how relevance follows from the cosine of token and question: -1 (less similar is more relevant), +1, or None, the
        sign of the space that the model offers. The paper writes +1; its release uses -1, as it does best with CLIP patches.
    scope: minimum and maximum of the relevance over the whole `image` (the release) or over each `tile`.

    Beyond the release: norms have a lower bound, constant relevance falls back to plain diversity, and an exhausted kernel is
    continued by descending weight, where the release silently returns fewer tokens.
    """

    needs = frozenset({"keys", "query"})
    sign: int | None = None
    scope: Literal["image", "tile"] = "image"

    def __post_init__(self) -> None:
        check_sign(self.name, self.sign)
        if self.scope not in ("image", "tile"):
            raise UserError(f"'{self.name}' has scope 'image' or 'tile', not {self.scope!r}.")

    def order(self, visual: Visual, k: int) -> Tensor:
        b, g, n = visual.shape
        features = kernels.unit(visual.tokens).flatten(0, 1)
        weight = conditioned(visual, self.sign, per_tile=self.scope == "tile")
        return kernels.greedy_map(features, weight, min(k, n)).view(b, g, -1)


def check_sign(name: str, sign: int | None) -> None:
    if sign not in (None, 1, -1):
        raise UserError(f"'{name}' takes sign 1, -1 or none (the model's own), not {sign!r}.")


def conditioned(visual: Visual, sign: int | None, *, per_tile: bool) -> Tensor | None:
    """(B * G, N) relevance of the tokens to the question, None where there is no question."""
    r = kernels.relevance(
        visual.keys, visual.query, visual.query_mask, sign=visual.sign if sign is None else sign, per_tile=per_tile
    )
    return None if r is None else r.flatten(0, 1)
