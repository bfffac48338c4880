"""What a method gets to see of a model: the fields of `Visual` that it asked for, gathered from the model's own modules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from . import families
from .errors import UserError
from .methods import Method, Visual
from .query import QuerySource

_IMAGE_SEED = 1_000_003  # images of one sample draw from seeds this far apart


class Observer:
    """Makes `Visual`s for one method on one model. `relevance` tells where the question's side came from."""

    def __init__(
        self,
        model: nn.Module,
        method: Method,
        seed: int | Sequence[int],
        question: str | Sequence[str] | None,
        query: QuerySource | None,
    ) -> None:
        self.model, self.needs, self.query = model, method.needs, query
        self.seed, self.question = seed, question
        self.selected: Tensor | None = None  # the tower's patch features, as they enter the projector
        self.relevance = "none"

    def hooks(self) -> list[Any]:
        """Handles of the hooks that watch the vision side, only where the method needs it."""
        if not {"keys", "encoded"} & self.needs:
            return []
        projector: Any = self.model.model.multi_modal_projector  # type: ignore[union-attr]
        return [projector.register_forward_pre_hook(self._on_projector)]

    def _on_projector(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        self.selected = args[0]

    def before(self, group: families.Group, x: Tensor, text: Tensor) -> Visual:
        """Before the language model: x (B, L, D) is its input, text (B, L) marks the real text tokens."""
        tokens = x[group.row[:, None], group.at.flatten(1)].unflatten(1, group.at.shape[1:])
        given: dict[str, Any] = {"grid": group.grid}
        if {"keys", "query"} & self.needs:
            given |= self._relevance(group, tokens, x, text)
        if "encoded" in self.needs:
            given["encoded"] = self._encoded(group)
        if "project" in self.needs:
            given["project"] = self.model.model.multi_modal_projector  # type: ignore[union-attr]
        if "seed" in self.needs:
            given["seed"] = self._seeds(group.row, len(x))
        return Visual(tokens, **given)

    def inside(self, group: families.Group, at: Tensor, x: Tensor, attention: Tensor | None) -> Visual:
        """At the entry of a layer: the survivors `at` (I, n) of each image as one tile; attention (B, L) of the last token."""
        row = group.row[:, None]
        given: dict[str, Any] = {}
        if attention is not None:
            given["attention"] = attention[row, at][:, None]
        if "seed" in self.needs:
            given["seed"] = self._seeds(group.row, len(x))
        return Visual(x[row, at][:, None], **given)

    def _relevance(self, group: families.Group, tokens: Tensor, x: Tensor, text: Tensor) -> dict[str, Any]:
        """Tokens and question in one space: that of the query source, else the language model's embeddings of the prompt."""
        if self.query is None:
            self.relevance = "llm"
            return {"keys": tokens, "query": x[group.row], "query_mask": text[group.row], "sign": 1}
        self.relevance = self.query.name
        asked = [self.question or ""] if self.question is None or isinstance(self.question, str) else list(self.question)
        query, mask = self.query.encode(asked)
        row = group.row // _times(len(x), len(asked), "questions")
        keys = self.query.keys(self.model, self._encoded(group).flatten(0, 1)).unflatten(0, group.at.shape[:2])
        return {"keys": keys, "query": query[row], "query_mask": mask[row], "sign": self.query.sign}

    def _encoded(self, group: families.Group) -> Tensor:
        """(I, G, N, E). Beams and repeated returns expand the rows after the tower ran: its features are repeated likewise."""
        images, tiles, n = group.at.shape
        if self.selected is None:
            raise UserError("The vision encoder did not run inside the pruning context, so its features cannot be seen.")
        features = self.selected.reshape(-1, tiles, n, self.selected.shape[-1])
        if len(features) == images:
            return features
        times = _times(images, len(features), "encoded images")
        per_row = torch.bincount(group.row)
        ordinal = torch.arange(images, device=group.row.device) - (per_row.cumsum(0) - per_row)[group.row]
        originals = per_row[::times]
        return features[(originals.cumsum(0) - originals)[group.row // times] + ordinal]

    def _seeds(self, row: Tensor, batch: int) -> Tensor:
        """One seed per image, on the CPU: the row's own, moved on for the second and later images of a row."""
        rows = row.tolist()
        base = [self.seed] if isinstance(self.seed, int) else list(self.seed)
        times = _times(batch, len(base), "seeds")
        return torch.tensor([base[r // times] + _IMAGE_SEED * rows[:i].count(r) for i, r in enumerate(rows)])


def _times(rows: int, given: int, what: str) -> int:
    """How often each given item is repeated, as generate() repeats rows for beams."""
    if not given or rows % given:
        raise UserError(f"{given} {what} were given for a batch of {rows}: give one, or one per prompt.")
    return rows // given
