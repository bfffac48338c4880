"""What a method gets to see of a model: the fields of `Visual` that it asked for, gathered from the model's own modules."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from . import attention, families, tower
from .errors import UserError
from .methods import Method, Visual
from .query import QuerySource

_IMAGE_SEED = 1_000_003  # images of one sample draw from seeds this far apart
_FROM_CLS = "_script_vlmeval_from_cls"


@dataclass(frozen=True)
class Before:
    """What the layer before a stage inside the language model left for methods to read."""

    text: Tensor  # (B, L) bool: real text tokens of the prompt
    attention: Tensor | None  # (B, L) of the last token, heads averaged
    keys: Tensor | None  # (B, L, H), heads side by side


class Observer:
    """Makes `Visual`s for one method on one model. `relevance` tells where the question's side came from."""

    def __init__(
        self,
        model: nn.Module,
        method: Method,
        seed: int | Sequence[int],
        question: str | Sequence[str] | None,
        query: QuerySource | None,
        shown: Tensor | None,
    ) -> None:
        self.model, self.needs, self.query = model, method.needs, query
        self.seed, self.question, self.shown = seed, question, shown
        self.selected: Tensor | None = None  # the tower's patch features, as they enter the projector
        self.seen: tower.Seen | None = None
        self.relevance = "none" if "query" not in self.needs else "llm" if query is None else query.name
        self._listening = True

    def forget(self) -> None:
        """Let go of the last prompt's features."""
        self.selected = self.seen = None

    # -- the vision side -----------------------------------------------------------------------------------------------------
    def hooks(self) -> list[Any]:
        """Handles of the hooks that watch the vision side, only where the method needs it."""
        inner: Any = self.model.model
        handles: list[Any] = []
        if {"keys", "encoded"} & self.needs:
            handles.append(inner.multi_modal_projector.register_forward_pre_hook(self._on_projector))
        if {"saliency", "encoder_keys", "cls", "resized"} & self.needs:
            handles += tower.watch(self.model)
            handles.append(inner.vision_tower.register_forward_hook(self._on_tower, with_kwargs=True))
        return handles

    def _on_projector(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        if self._listening:
            self.selected = args[0]

    def _on_tower(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        if self._listening:
            self.seen = tower.Seen(args[0] if args else kwargs["pixel_values"], output)

    def _unheard(self, run: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """`run` without taking what it does for the prompt's own pass."""

        def quietly(*args: Any) -> Tensor:
            self._listening = False
            try:
                return run(*args)
            finally:
                self._listening = True

        return quietly

    def _projected(self, x: Tensor) -> Tensor:
        """The projector, which takes its own precision alone, for any."""
        inner: Any = self.model.model
        projected: Tensor = inner.multi_modal_projector(x.to(next(inner.multi_modal_projector.parameters()).dtype))
        return projected

    # -- views ---------------------------------------------------------------------------------------------------------------
    def before(self, group: families.Group, x: Tensor, text: Tensor) -> Visual:
        """Before the language model: x (B, L, D) is its input, text (B, L) marks the real text tokens."""
        tokens = x[group.row[:, None], group.at.flatten(1)].unflatten(1, group.at.shape[1:])
        given: dict[str, Any] = {"grid": group.grid}
        if {"keys", "query"} & self.needs:
            given |= self._relevance(group, tokens, x, text)
        if "encoded" in self.needs:
            given["encoded"] = self._encoded(group)
        if {"saliency", "encoder_keys", "cls", "resized"} & self.needs:
            given |= self._vision(group)
        if "project" in self.needs:
            given["project"] = self._unheard(self._projected)
        if "seed" in self.needs:
            given["seed"] = self._seeds(group.row, len(x))
        if self.shown is not None:
            given["shown"] = self._per_image(group, self.shown.to(x.device))
        return Visual(tokens, **given)

    def inside(self, group: families.Group, at: Tensor, x: Tensor, before: Before) -> Visual:
        """At the entry of a layer, where x (B, L, D) arrives: the survivors `at` (I, n) of each image as one tile."""
        row = group.row[:, None]
        given: dict[str, Any] = {}
        if before.attention is not None:
            given["attention"] = before.attention[row, at][:, None]
        if before.keys is not None:
            given |= {"layer_keys": before.keys[row, at][:, None], "text_keys": before.keys[group.row]}
        if "text" in self.needs:
            after = torch.arange(x.shape[1], device=x.device) > at.amax(1, keepdim=True)
            given |= {"text": x[group.row], "text_mask": before.text[group.row] & after}
        if "norm" in self.needs:
            given["norm"] = families.language_model(self.model).norm
        if "seed" in self.needs:
            given["seed"] = self._seeds(group.row, len(x))
        return Visual(x[row, at][:, None], **given)

    def _vision(self, group: families.Group) -> dict[str, Any]:
        """What the vision encoder tells: attention received from CLS, keys, CLS itself, and the encoder for other sizes."""
        if self.seen is None:
            raise UserError("The vision encoder did not run inside the pruning context, so its attention cannot be seen.")
        seen, given = self.seen, dict[str, Any]()
        if {"saliency", "encoder_keys"} & self.needs:
            received, keys = self._from_cls(seen)
            given |= {"saliency": self._per_image(group, received), "encoder_keys": self._per_image(group, keys)}
        if "cls" in self.needs:
            given["cls"] = self._per_image(group, seen.cls(self.model)[:, None]).squeeze(2)
        if "resized" in self.needs:
            encode = tower.resizer(self.model, seen.pixels)
            given["resized"] = self._unheard(lambda rows, columns: self._per_image(group, encode(rows, columns)))
        return given

    def _from_cls(self, seen: tower.Seen) -> tuple[Tensor, Tensor]:
        """Kept with the encoder's output, so that it is computed once per picture however many methods read it."""
        kept: dict[str, Any] = seen.output.__dict__
        if _FROM_CLS not in kept:
            kept[_FROM_CLS] = attention.from_cls(tower.selected_layer(self.model), seen.entered())
        found: tuple[Tensor, Tensor] = kept[_FROM_CLS]
        return found

    def _relevance(self, group: families.Group, tokens: Tensor, x: Tensor, text: Tensor) -> dict[str, Any]:
        """Tokens and question in one space: that of the query source, else the language model's embeddings of the prompt."""
        if self.query is None:
            return {"keys": tokens, "query": x[group.row], "query_mask": text[group.row], "sign": 1}
        asked = [self.question or ""] if self.question is None or isinstance(self.question, str) else list(self.question)
        query, mask = self.query.encode(asked)
        row = group.row // _times(len(x), len(asked), "questions")
        keys = self.query.keys(self.model, self._encoded(group).flatten(0, 1))
        keys = tokens if keys is None else keys.unflatten(0, group.at.shape[:2])
        return {"keys": keys, "query": query[row], "query_mask": mask[row], "sign": self.query.sign}

    def _encoded(self, group: families.Group) -> Tensor:
        """(I, G, N, E)."""
        if self.selected is None:
            raise UserError("The vision encoder did not run inside the pruning context, so its features cannot be seen.")
        return self._per_image(group, self.selected)

    def _per_image(self, group: families.Group, of_tiles: Tensor) -> Tensor:
        """(tiles, ...) -> (I, G, ...). Beams and repeated returns expand the rows after the tower ran: repeated likewise."""
        images, tiles = group.at.shape[:2]
        features: Tensor = of_tiles.unflatten(0, (-1, tiles))
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
