"""DART (Wen et al., EMNLP 2025, arXiv 2502.11494): tokens that duplicate a few pivots least, inside the language model.

At the entry of a layer, the loudest image and text tokens (L1 norm of their attention keys) are pivots; each in turn keeps the
tokens that are least similar to it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from .. import kernels
from ..errors import UserError
from ._schedule import uniform
from .base import Method, Visual, require_finite


@dataclass(frozen=True)
class DART(Method):
    """Tokens least similar to pivots of the image and the prompt, from an early layer on.

    The budget is the mean number of visual tokens over all layers, never more: fewer stay after the first layers, which see all.
    pivots, text_pivots: image tokens and prompt tokens after the image with the largest L1 norm of their keys in the layer
        before; the former are kept, the latter only vote. Fewer where a prompt, or the number to keep, has no more.
    layer: dropping happens at its entry.
    visit: `norm`, image pivots then text pivots, loudest first; or `release`, the iteration order of a CPython set of their
        places in the sequence, an accident of hashing that changes the result. It is found on the host, once per stage.
    start: where the image begins in the sequence, for `release` alone; 35 is LLaVA-1.5's.

    Deviations: exactly k tokens stay, the remainder of an uneven split going to the pivots visited first; the release keeps
    4 + 8 floor(k / 8). A prompt with fewer than 4 tokens after the image works, where it fails. The tiles of an image are one
    set, as there.
    """

    joint = True
    needs = frozenset({"layer_keys", "text", "norm"})
    pivots: int = 4
    text_pivots: int = 4
    layer: int = 2
    visit: Literal["norm", "release"] = "norm"
    start: int = 35

    def __post_init__(self) -> None:
        for field, least in (("pivots", 1), ("text_pivots", 0), ("layer", 1), ("start", 0)):
            if getattr(self, field) < least:
                raise UserError(f"'{self.name}' needs {field} of at least {least}, not {getattr(self, field)}.")
        if self.visit not in ("norm", "release"):
            raise UserError(f"'{self.name}' has visit 'norm' or 'release', not {self.visit!r}.")

    def plan(self, budget: int | None, n_visual: int, n_layers: int) -> dict[int, int]:
        if budget is None:
            return super().plan(budget, n_visual, n_layers)
        return {self.layer: uniform(budget, n_visual, n_layers, self.layer)}

    def select(self, visual: Visual, k: int) -> Tensor:
        b, _, n = visual.shape
        image, text, real = self.loudest(visual, k)
        visits, real = self.visits(visual, image, text, real)
        share = _shares(k - image.shape[1], real)
        z = _directions(visual)
        free = torch.ones(b, n, dtype=torch.bool, device=z.device).scatter_(1, image, False)
        each = torch.arange(b, device=z.device)
        for i in range(visits.shape[1]):
            similarity = kernels.snapped((z[:, :n] * z[each, visits[:, i], None]).sum(-1))  # rounds alike for equal rows
            rank = similarity.masked_fill(~free, torch.inf).sort(dim=-1, stable=True).indices.argsort(-1)
            free &= rank >= share[:, i : i + 1]  # what is taken already ranks behind all that is free
        return free.int().sort(dim=-1, stable=True).indices[:, None, :k]

    def loudest(self, visual: Visual, k: int) -> tuple[Tensor, Tensor, Tensor]:
        """Image pivots (B, P) and text pivots (B, Q), indices into N and M, loudest first; which of the latter are real."""
        assert visual.layer_keys is not None
        if visual.text_keys is None:
            raise UserError(f"'{self.name}' needs 'text_keys' beside 'text', which this model does not give.")
        real = _real(visual)
        keys, text_keys = visual.layer_keys[:, 0].float(), visual.text_keys.float()
        require_finite(keys, "the attention keys of the visual tokens")
        require_finite(text_keys, "the attention keys of the text")
        text_norm = text_keys.abs().sum(-1).masked_fill(~real, -1)
        text = text_norm.sort(dim=-1, descending=True, stable=True).indices[:, : self.text_pivots]
        image = keys.abs().sum(-1).sort(dim=-1, descending=True, stable=True).indices[:, : min(self.pivots, k)]
        return image, text, real.gather(1, text)

    def visits(self, visual: Visual, image: Tensor, text: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        """All pivots (B, P + Q) in the order of their turns, indices into [image, text], and which are real: these come first."""
        n = visual.shape[2]
        visits = torch.cat([image, n + text], 1)
        real = torch.cat([torch.ones_like(image, dtype=torch.bool), real], 1)
        if self.visit == "norm":
            return visits, real
        behind = n + (_real(visual).long().cumsum(1) - 1).gather(1, text)  # padding takes no place in the release's sequence
        places = torch.cat([image, behind], 1) + self.start
        turns = torch.tensor([_as_a_set(*row) for row in zip(places.tolist(), real.tolist(), strict=True)], device=visits.device)
        return visits.gather(1, turns), real.gather(1, turns)


def _as_a_set(places: list[int], real: list[bool]) -> list[int]:
    """The turns of pivots at these places, in the iteration order of a set; what is not real comes last."""
    present = [place for place, there in zip(places, real, strict=True) if there]  # a list: a set grows otherwise from a dict
    return [*map(places.index, set(present)), *(i for i, there in enumerate(real) if not there)]


def _shares(total: int, real: Tensor) -> Tensor:
    """(B, P) even split of `total` over the real pivots, the remainder to the first ones."""
    count = real.sum(1, keepdim=True)
    turn = torch.arange(real.shape[1], device=real.device)
    return (total // count + (turn < total % count)).masked_fill(~real, 0)


def _real(visual: Visual) -> Tensor:
    """(B, M) bool: the text tokens that are not padding."""
    assert visual.text is not None
    return torch.ones_like(visual.text[..., 0], dtype=torch.bool) if visual.text_mask is None else visual.text_mask


def _directions(visual: Visual) -> Tensor:
    """(B, N + M, D) unit rows of image and text tokens after the model's final norm."""
    assert visual.text is not None
    assert visual.norm is not None
    return kernels.unit(visual.norm(torch.cat([visual.tokens[:, 0], visual.text.to(visual.tokens.dtype)], 1)))
