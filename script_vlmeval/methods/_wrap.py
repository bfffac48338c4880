"""What can be put around a selector: merging of what it drops, and centring of what it compares."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from .. import kernels
from ..errors import UserError
from .base import Method, Reduced, Visual, take

_EPS = 1e-6


@dataclass(frozen=True)
class _Around(Method, register=False):
    """Another method, seen through a change of what goes in or comes out."""

    inner: Method

    def __post_init__(self) -> None:
        for name in ("name", "needs", "joint", "frames", "changes", "union"):  # those of the method inside
            object.__setattr__(self, name, getattr(self.inner, name))

    def parameters(self) -> dict[str, Any]:
        return {**self.inner.parameters(), **self.option()}

    def option(self) -> dict[str, str]:
        """What this adds to the parameters of the method inside."""
        raise NotImplementedError

    def plan(self, budget: int | None, n_visual: int, n_layers: int) -> dict[int, int]:
        return self.inner.plan(budget, n_visual, n_layers)

    def scheduled(self, removed: float, first_layer: int) -> Method:
        return replace(self, inner=self.inner.scheduled(removed, first_layer))

    def reprunes(self) -> bool:
        return self.inner.reprunes()

    def source(self) -> str:
        return self.inner.source()


@dataclass(frozen=True)
class Merged(_Around, register=False):
    """Each dropped token is averaged into the kept one that it resembles most, by the cosine of what the language model reads.

    As ToMe-style mergers do, and as an unused copy of Script's release does; a mean over all members, the kept token included.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if type(self.inner).reduce is not Method.reduce:
            raise UserError(
                f"'{self.name}' makes tokens of its own from what it drops, so merge={'mean'!r} cannot be put around it."
            )
        object.__setattr__(self, "changes", True)

    def option(self) -> dict[str, str]:
        return {"merge": "mean"}

    def reduce(self, visual: Visual, k: int) -> Reduced:
        kept = take(visual, self.inner.select(visual, k))
        a = kernels.unit(visual.tokens)
        similarity = torch.einsum("bgnd,bgkd->bgnk", a, kernels.unit(kept.tokens))
        own = torch.arange(k, device=a.device).expand(kept.keep.shape)
        home = similarity.argmax(-1).scatter(2, kept.keep, own)
        total = torch.zeros_like(kept.tokens, dtype=torch.float32)
        total.scatter_add_(2, home[..., None].expand(*home.shape, total.shape[-1]), visual.tokens.float())
        members = torch.zeros(kept.keep.shape, device=a.device).scatter_add_(2, home, torch.ones_like(home, dtype=torch.float32))
        return Reduced(kept.keep, (total / members[..., None]).to(visual.tokens.dtype))


@dataclass(frozen=True)
class Centred(_Around, register=False):
    """Cen-Prune (arXiv 2608.30263): similarity without the direction that all tokens of an image share, and weight for what is
    unlike the rest.

    The selector compares tokens minus the image's mean, and multiplies a gate into its scores: a token's mean dissimilarity to
    the others, before centring, scaled over the image. form: `minmax`, as for LLaVA, or `sigmoid` of the standardised value, with
    tokens divided by their deviation per dimension first, as for Qwen2.5-VL. With `minmax` the least distinct token weighs 0.

    The paper gives no epsilon (1e-6 here) and does not say whether DivPrune's first pick is made before centring (after, here).
    No code was published. It tries DivPrune and CDPruner; around Script it is an experiment.
    """

    form: str = "minmax"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.inner.gated:
            raise UserError(f"'{self.name}' does not weigh tokens by how distinct they are, so centring cannot be put around it.")
        if self.form not in ("minmax", "sigmoid"):
            raise UserError(f"'{self.name}' takes centre 'none', 'minmax' or 'sigmoid', not {self.form!r}.")

    def option(self) -> dict[str, str]:
        return {"centre": self.form}

    @property
    def nested(self) -> bool:
        return self.inner.nested

    def order(self, visual: Visual, k: int) -> Tensor:
        return self.inner.order(self._centred(visual), k)

    def select(self, visual: Visual, k: int) -> Tensor:
        return self.inner.select(self._centred(visual), k)

    def _centred(self, visual: Visual) -> Visual:
        image = (1, 2)  # statistics are over all tiles of an image
        y = visual.tokens.float()
        if self.form == "sigmoid":
            y = y / (y.var(image, unbiased=False, keepdim=True) + _EPS).sqrt()
        a = kernels.unit(y)
        others = max(a.shape[1] * a.shape[2] - 1, 1)
        alike = ((a * a.sum(image, keepdim=True)).sum(-1) - (a * a).sum(-1)) / others
        gate = _SCALED[self.form](-alike)
        return replace(visual, tokens=y - y.mean(image, keepdim=True), gate=gate)


def _minmax(g: Tensor) -> Tensor:
    low, high = g.amin((1, 2), keepdim=True), g.amax((1, 2), keepdim=True)
    return torch.where(high - low < _EPS, torch.ones_like(g), (g - low) / (high - low + _EPS))


def _sigmoid(g: Tensor) -> Tensor:
    mean = g.mean((1, 2), keepdim=True)
    deviation = (g - mean).square().mean((1, 2), keepdim=True).sqrt()
    return torch.sigmoid((g - mean) / (deviation + _EPS))


_SCALED: dict[str, Callable[[Tensor], Tensor]] = {"minmax": _minmax, "sigmoid": _sigmoid}


def wrapped(method: Method, merge: object = "none", centre: object = "none") -> Method:
    """The method with these options around it. UserError for values that there are not, or that the method cannot take."""
    if centre not in ("none", None):
        method = Centred(method, str(centre))
    if merge not in ("none", "mean", None):
        raise UserError(f"'{method.name}' takes merge 'none' or 'mean', not {merge!r}.")
    return Merged(method) if merge == "mean" else method
