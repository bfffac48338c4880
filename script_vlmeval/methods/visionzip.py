"""VisionZip (Yang et al., CVPR 2025, arXiv 2412.04467): dominant tokens by CLS attention, and the rest merged into a few.

The dominant tokens are CLS itself and the most attended patches. Evenly spaced left-over patches each take up those whose keys
are most similar to theirs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import kernels
from ..errors import UserError
from .base import Method, Reduced, Visual, require_finite, take

_PUBLISHED = {32: 6}  # 26 + 6 in SCOPE's repository; its other splits, and the authors' 54 + 10, are 5/32 of the budget


@dataclass(frozen=True)
class VisionZip(Method):
    """The most attended tokens with CLS, and the others merged by their keys.

    contextual: number of merged tokens, at most k - 1; None = 5/32 of the budget, rounded, at least 1, but 6 of 32.
        That gives the authors' split of 64, 54 + 10, and those that SCOPE's repository asks of VisionZip: 108 + 20, 162 + 30,
        540 + 100 and 26 + 6. In the latter's 640 the number is that of a whole picture in tiles; here budgets are per tile.
    combine: a merged token is the `sum` of its centre and the mean of what joins it (the release), about twice as long as other
        tokens, or the `mean` of centre and all that join it.

    A budget k is the number of all tokens, CLS and merged ones included, as in the release: 1 is CLS alone, 2 is CLS and one
    merged token. Deviations: the patches come first, in ascending order, then CLS and the merged tokens, which have no position
    (the release begins with CLS); everything is per tile; contextual = 0 is allowed, where the release divides by zero.
    """

    needs = frozenset({"saliency", "encoded", "encoder_keys", "cls", "project"})
    contextual: int | None = None
    combine: Literal["sum", "mean"] = "sum"

    def __post_init__(self) -> None:
        if self.contextual is not None and self.contextual < 0:
            raise UserError(f"'{self.name}' needs a contextual of at least 0, not {self.contextual}.")
        if self.combine not in ("sum", "mean"):
            raise UserError(f"'{self.name}' has combine 'sum' or 'mean', not {self.combine!r}.")

    def merged(self, k: int) -> int:
        """Merged tokens of a budget of k."""
        wanted = _PUBLISHED.get(k, max(1, round(k * 5 / 32))) if self.contextual is None else self.contextual
        return min(wanted, k - 1)

    def reduce(self, visual: Visual, k: int) -> Reduced:
        assert visual.saliency is not None
        assert visual.encoded is not None
        assert visual.encoder_keys is not None
        assert visual.cls is not None
        assert visual.project is not None
        require_finite(visual.saliency, "the CLS attention")
        require_finite(visual.encoded, "the encoded tokens")
        require_finite(visual.cls, "the CLS token")
        b, g, _ = visual.shape
        m = self.merged(k)
        patches = k - m - 1
        ranked = visual.saliency.float().sort(dim=-1, descending=True, stable=True).indices
        left = ranked[..., patches:].sort(-1).values.flatten(0, 1)
        contextual = self.contextual_tokens(visual.encoded.flatten(0, 1), visual.encoder_keys.flatten(0, 1), left, m)
        unplaced = torch.cat([visual.cls[:, :, None].float(), contextual.unflatten(0, (b, g))], 2).to(visual.encoded.dtype)
        projected = visual.project(unplaced).to(visual.tokens.dtype)
        require_finite(projected, "the merged tokens")
        dominant = take(visual, ranked[..., :patches].sort(-1).values)
        keep = torch.cat([dominant.keep, dominant.keep.new_full((b, g, m + 1), -1)], 2)
        return Reduced(keep, torch.cat([dominant.tokens, projected], 2))

    def contextual_tokens(self, encoded: Tensor, keys: Tensor, left: Tensor, m: int) -> Tensor:
        """(R, m, E) merged tokens in float32 of the left-over positions `left` (R, L) of encoded (R, N, E)."""
        features = encoded.gather(1, left[..., None].expand(-1, -1, encoded.shape[-1])).float()
        directions = kernels.unit(keys).gather(1, left[..., None].expand(-1, -1, keys.shape[-1]))
        if m == 0:
            return features[:, :0]
        centres = slice(0, m * (left.shape[1] // m), left.shape[1] // m)
        joins = F.one_hot(torch.bmm(directions, directions[:, centres].transpose(1, 2)).argmax(-1), m).float()
        joins[:, centres] = 0  # a centre joins nobody, whatever its keys
        total, count = torch.bmm(joins.transpose(1, 2), features), joins.sum(1)[..., None]
        if self.combine == "mean":
            return (features[:, centres] + total) / (1 + count)
        return features[:, centres] + total / count.clamp_min(1)
