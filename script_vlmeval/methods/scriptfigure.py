"""The rule of Script's figures (`plot.py` of its repository)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .. import kernels
from .base import Method, Visual
from .cdpruner import check_sign
from .scriptcompat import raw_relevance


@dataclass(frozen=True)
class ScriptFigure(Method):
    """Script as its figures draw it: the T least redundant tokens within a DPP's choice, the rest by relevance.

    The graph connects all tokens of the encoder's unprojected output, each also to itself. Two sets of T tokens of N have about
    T / N of T in common, a ninth at 64 of 576, so most of the result is plain relevance.

    tau, gamma, degree: edges of similarity tau and above; weight of their mean similarity; tokens with fewer edges than
        `degree` count half. sign: +1 in the figures, though the same authors' evaluation uses -1.

    The question's rows are averaged where the release fails on more than one; the DPP has the guards of cdpruner.
    """

    needs = frozenset({"keys", "query", "encoded"})
    tau: float = 0.2
    gamma: float = 1.0
    degree: int = 4
    sign: int = 1

    def __post_init__(self) -> None:
        check_sign(self.name, self.sign)

    def select(self, visual: Visual, k: int) -> Tensor:
        b, g, _ = visual.shape
        assert visual.encoded is not None
        features = kernels.unit(visual.encoded).flatten(0, 1)
        r = raw_relevance(visual, self.sign, half=False)
        weight = None if r is None else r.flatten(0, 1)
        redundancy = kernels.full_redundancy(features, self.tau, self.gamma, self.degree)
        graph = redundancy.sort(dim=1, stable=True).indices[:, :k]
        proposed = kernels.greedy_map(features, weight, k)
        votes = torch.zeros_like(redundancy).scatter_(1, graph, 1.0)
        both = votes.scatter_add(1, proposed, torch.ones_like(proposed, dtype=votes.dtype)) == 2
        rank = torch.zeros_like(redundancy) if weight is None else weight
        first = rank.masked_fill(both, torch.inf).sort(dim=1, descending=True, stable=True).indices
        return first[:, :k].sort(-1).values.view(b, g, k)
