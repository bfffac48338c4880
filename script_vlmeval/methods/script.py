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
from .cdpruner import check_conditioning, conditioned, gated


@dataclass(frozen=True)
class Script(Method):
    """Tokens that are neither redundant in a bipartite graph nor irrelevant to the question.

    tau, gamma: similarity threshold of the graph's edges, and weight of their mean similarity beside their number.
    sides: score the even tokens (`src`, the literal reading) or `both`, which can drop both members of a pair.
    n_keep: tokens that pass the graph; None = max(k, N - N // 4), half of the source side vetoed.
    fill: how the core is filled up: `continue` the DPP inside the graph's set; `order`, with the DPP's own vetoed proposals,
        which makes the graph ineffective; `relevance`, with the most relevant tokens, graph ignored.
    sign, scope, relevance: as in cdpruner, but minimum and maximum of the relevance are per tile by default.

    The paper's rules for filling up the join and for n_keep, and its values, are not known to us; the defaults are this
    project's choice. The released code computes something else, `scriptcompat`, its figures a third thing, `scriptfigure`.
    """

    needs = frozenset({"keys", "query"})
    gated = True
    tau: float = 0.2
    gamma: float = 1.0
    sides: Literal["src", "both"] = "src"
    n_keep: int | None = None
    fill: Literal["continue", "order", "relevance"] = "continue"
    sign: int | None = None
    scope: Literal["image", "tile"] = "tile"
    relevance: Literal["auto", "clip", "clipcompat", "llm"] = "auto"

    def __post_init__(self) -> None:
        check_conditioning(self.name, self.sign, self.scope, self.relevance)
        if self.sides not in ("src", "both"):
            raise UserError(f"'{self.name}' has sides 'src' or 'both', not {self.sides!r}.")
        if self.fill not in ("continue", "order", "relevance"):
            raise UserError(f"'{self.name}' has fill 'continue', 'order' or 'relevance', not {self.fill!r}.")
        if self.n_keep is not None and self.n_keep < 1:
            raise UserError(f"'{self.name}' needs n_keep of at least 1, not {self.n_keep}.")

    def source(self) -> str:
        return self.relevance

    def select(self, visual: Visual, k: int) -> Tensor:
        b, g, n = visual.shape
        weight = gated(visual, conditioned(visual, self.sign, per_tile=self.scope == "tile"))
        return self.picks(visual.tokens.flatten(0, 1), weight, min(k, n)).sort(-1).values.view(b, g, -1)

    def picks(self, features: Tensor, weight: Tensor | None, k: int) -> Tensor:
        """(R, k) picks: the core in the DPP's order, then the fill."""
        proposed = kernels.greedy_map(features, weight, k)
        if self.fill == "order":
            return proposed
        graph = self.graph_set(features, k)
        vetoed = ~graph.gather(1, proposed)
        first = vetoed.int().sort(dim=1, stable=True).indices  # accepted proposals first, in the DPP's order
        core = proposed.gather(1, first).masked_fill(vetoed.gather(1, first), -1)
        if self.fill == "relevance":
            return _filled(core, weight, features.shape[1])
        return kernels.greedy_map(features, weight, k, allowed=graph, forced=core)

    def graph_set(self, features: Tensor, k: int) -> Tensor:
        """(R, N) bool: the n_keep least redundant tokens, ties to the lower index."""
        n = features.shape[1]
        wanted = n - n // 4 if self.n_keep is None else self.n_keep
        score = kernels.bipartite_redundancy(kernels.unit(features), self.tau, self.gamma, both=self.sides == "both")
        kept = score.sort(dim=1, stable=True).indices[:, : min(n, max(k, wanted))]
        return torch.zeros_like(score, dtype=torch.bool).scatter_(1, kept, True)


def _filled(core: Tensor, weight: Tensor | None, n: int) -> Tensor:
    """The core, then the heaviest tokens outside it, ties to the lower index; without weights the first ones."""
    taken = torch.zeros(len(core), n + 1, device=core.device).scatter_(1, core.where(core >= 0, n), 1.0)[:, :n] > 0
    heavy = torch.zeros(taken.shape, device=core.device) if weight is None else weight.float()
    rest = heavy.masked_fill(taken, -torch.inf).sort(dim=1, descending=True, stable=True).indices
    missing = core < 0  # always at the end
    return torch.where(missing, rest.gather(1, (missing.long().cumsum(1) - 1).clamp_min(0)), core)
