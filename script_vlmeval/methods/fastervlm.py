"""FasterVLM (Zhang et al., arXiv 2412.01818v1): the tokens that the vision encoder's CLS token attends to most."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from .base import Method, Visual


@dataclass(frozen=True)
class FasterVLM(Method):
    """The tokens with the largest CLS attention in the vision encoder, tile by tile.

    No deviation in the rule. The release breaks ties as its sort happens to; here they go to the lower index. On tiled pictures
    it drops the newline tokens; what a family adds around a tile's tokens is not a method's business here.
    """

    needs = frozenset({"saliency"})

    def score(self, visual: Visual) -> Tensor:
        assert visual.saliency is not None
        return visual.saliency
