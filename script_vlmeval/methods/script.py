"""Script (graph-structured and query-conditioned semantic token pruning, arXiv 2512.01949): graph veto joined with a DPP.

A bipartite graph between even and odd tokens marks redundant ones; a question-conditioned DPP proposes a set; what both
accept is the core, and the DPP goes on from it inside the graph's set until the budget is full.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from .. import kernels
from ..errors import UserError
from .base import Method, Visual
from .cdpruner import check_sign, conditioned


@dataclass(frozen=True)
class Script(Method):
    """Tokens that are neither redundant in a bipartite graph nor irrelevant to the question.

    tau, gamma: similarity threshold of the graph's edges, and weight of their mean similarity beside their number.
    sides: score the even tokens (`src`, the literal reading) or `both`, which can drop both members of a pair.
    n_keep: tokens that pass the graph; None = max(k, N - N // 4), half of the source side vetoed.
    sign: as in cdpruner; None = the sign of the space that the model offers.

    The paper is silent on the join's fill rule and on n_keep; both are this project's choice, and `fill` is not an option
    here. Its released code computes something else (its graph cannot change the result); minimum and maximum of the relevance
    are per tile.
    """

    needs = frozenset({"keys", "query"})
    tau: float = 0.2
    gamma: float = 1.0
    sides: Literal["src", "both"] = "src"
    n_keep: int | None = None
    sign: int | None = None

    def __post_init__(self) -> None:
        check_sign(self.name, self.sign)
        if self.sides not in ("src", "both"):
            raise UserError(f"'{self.name}' has sides 'src' or 'both', not {self.sides!r}.")
        if self.n_keep is not None and self.n_keep < 1:
            raise UserError(f"'{self.name}' needs n_keep of at least 1, not {self.n_keep}.")

    def select(self, visual: Visual, k: int) -> Tensor:
        b, g, n = visual.shape
        k = min(k, n)
        features = kernels.unit(visual.tokens).flatten(0, 1)
        weight = conditioned(visual, self.sign, per_tile=True)
        return self.picks(features, weight, k).sort(-1).values.view(b, g, k)

    def picks(self, features: Tensor, weight: Tensor | None, k: int) -> Tensor:
        """(R, k) picks: the core in the DPP's order, then the continuation."""
        graph = self.graph_set(features, k)
        proposed = kernels.greedy_map(features, weight, k)
        vetoed = ~graph.gather(1, proposed)
        first = vetoed.int().sort(dim=1, stable=True).indices  # accepted proposals first, in the DPP's order
        core = proposed.gather(1, first).masked_fill(vetoed.gather(1, first), -1)
        return kernels.greedy_map(features, weight, k, allowed=graph, forced=core)

    def graph_set(self, features: Tensor, k: int) -> Tensor:
        """(R, N) bool: the n_keep least redundant tokens, ties to the lower index."""
        n = features.shape[1]
        wanted = n - n // 4 if self.n_keep is None else self.n_keep
        score = kernels.bipartite_redundancy(features, self.tau, self.gamma, both=self.sides == "both")
        kept = score.sort(dim=1, stable=True).indices[:, : min(n, max(k, wanted))]
        return torch.zeros_like(score, dtype=torch.bool).scatter_(1, kept, True)
