"""What a method gets to see of a model: the fields of `Visual` that it asked for, gathered from the model's own modules."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from . import families, kernels, sequence, tower
from .errors import UserError
from .methods import Method, Visual
from .plans import Unit
from .query import QuerySource

_IMAGE_SEED = 1_000_003  # images of one sample draw from seeds this far apart
_TOWER = frozenset({"saliency", "encoder_keys", "cls", "resized"})  # what the encoder itself must be watched for


@dataclass(frozen=True)
class Before:
    """What can be seen at the entry of a layer: of the layer before it, and of itself."""

    attention: Tensor | None = None  # (B, L) of the last prompt token, in the layer before
    ahead: Tensor | None = None  # (B, L) the same in the layer itself
    from_text: list[Tensor] | None = None  # per unit (I, M, L) of the text rows, in the layer before
    keys: Tensor | None = None  # (B, L, H) of the layer before, heads side by side


@dataclass(frozen=True)
class Text:
    """The prompt's text behind the visual tokens of each set of a unit, and what the language model was given of both."""

    at: Tensor  # (I, M) where it stands in the current sequence
    real: Tensor  # (I, M) False = padding
    given: dict[str, Tensor]  # the Visual fields `given` and `text_given`, where they are needed

    @classmethod
    def behind(cls, unit: Unit, text: Tensor, x: Tensor, needs: AbstractSet[str]) -> Text:
        """x (B, L, D) is what enters the language model, text (B, L) marks the prompt's text in it."""
        row = unit.row[:, None]
        after = text[unit.row] & (torch.arange(text.shape[1], device=x.device) > unit.at.amax(1, keepdim=True))
        m = max(1, int(after.sum(1).max()))
        at = torch.argsort((~after).to(torch.uint8), dim=1, stable=True)[:, :m]
        given = {"given": x[row, unit.at][:, None], "text_given": x[row, at]} if "given" in needs else {}
        return cls(at, after.gather(1, at), given)

    def moved(self, row: Tensor, place: Tensor) -> Text:
        """The same in a shortened sequence, where each old position has its new place (B, L)."""
        return replace(self, at=place[row[:, None], self.at].clamp_min(0))


@dataclass(frozen=True, eq=False)
class Asked:
    """What a group's relevance to the question follows from. It is computed when somebody looks, not while the model answers."""

    group: families.Group
    visual: Visual  # its keys, query, query_mask and sign alone

    def relevance(self) -> NDArray[np.uint8] | None:
        """(I, G, N) from 0 to 255 over each picture; None where no prompt has a question."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the method itself has warned of it
            v = self.visual
            found = kernels.relevance(v.keys, v.query, v.query_mask, sign=v.sign)
        return None if found is None else (found.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()


class Observer:
    """Makes `Visual`s for one method on one model. `relevance` tells where the question's side came from.

    asked: where a list is put there, what relevance follows from is added for each group that is seen.
    """

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
        self.asked: list[Asked] | None = None
        self._sign: int | None = getattr(method.at(0), "sign", None)
        self.relevance = "none" if "query" not in self.needs else "llm" if query is None else query.name
        elsewhere = "keys" in self.needs and query is not None and query.name != "llm"  # in a space of the encoder's
        self._reads_encoded = "encoded" in self.needs or elsewhere
        self.family = families.family_of(model)
        self.vision = tower.Watch(model, self.family, selected=self._reads_encoded, towers=bool(_TOWER & self.needs))

    def forget(self) -> None:
        """Let go of the last prompt's features."""
        self.vision.forget()

    def hooks(self) -> Iterator[Any]:
        """Handles of what watches the vision side, only where the method or the family needs it."""
        return self.vision.hooks()

    def settle(self) -> None:
        """Let go of what only the views before the language model share."""
        for seen in self.vision.seen.values():
            seen.spread.clear()

    def _norm(self, x: Tensor) -> Tensor:
        """The language model's final norm, on the device of x: of a model over several GPUs it stands on the last one."""
        normed: Tensor = families.language_model(self.model).norm(x)
        return normed.to(x.device)

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
            given |= (asked := self._relevance(group, tokens, x, text))
            if self.asked is not None:
                self.asked.append(Asked(group, Visual(tokens[..., :0], **{**asked, "sign": self._sign or asked["sign"]})))
        if "encoded" in self.needs:
            given["encoded"] = self._encoded(group)
        if _TOWER & self.needs:
            given |= self._vision(group)
        if "project" in self.needs:
            given["project"] = self._projected
        if "seed" in self.needs:
            given["seed"] = self._seeds(group.row, group.nth, len(x))
        if self.shown is not None:
            given["shown"] = self._per_tile(group, self.shown.to(x.device))
        return Visual(tokens, **given)

    def inside(self, unit: Unit, text: Text | None, x: Tensor, before: Before, u: int) -> Visual:
        """At the entry of a layer, where x (B, L, D) arrives: the sets of a unit, the u-th of all, as one tile each."""
        row, needs = unit.row[:, None], self.needs
        given: dict[str, Any] = {}
        if before.attention is not None:
            given["attention"] = before.attention[row, unit.at][:, None]
        if before.ahead is not None:
            given["ahead"] = before.ahead[row, unit.at][:, None]
        if before.keys is not None:
            given["layer_keys"] = before.keys[row, unit.at][:, None]
        if text is not None:
            given |= {"text": x[row, text.at], "text_mask": text.real, **text.given}
            if before.keys is not None:
                given["text_keys"] = before.keys[row, text.at]
            if before.from_text is not None:
                seen = before.from_text[u].transpose(1, 2)  # (I, L, M)
                given["text_attention"] = sequence.take(seen, unit.at)[:, None]
        if {"image", "frame"} & needs:
            given |= {"image": unit.image[:, None], "frame": unit.frame[:, None]}
        if "norm" in needs:
            given["norm"] = self._norm
        if "seed" in needs:
            given["seed"] = self._seeds(unit.row, unit.nth, len(x))
        return Visual(x[row, unit.at][:, None], **given)

    def _seen(self, group: families.Group) -> families.Encoded:
        if (seen := self.vision.seen.get(group.media)) is None:
            raise UserError("The vision encoder did not run inside the pruning context, so its features cannot be seen.")
        return seen

    def _vision(self, group: families.Group) -> dict[str, Any]:
        """What the vision encoder tells: attention received, keys, CLS, and the encoder for other sizes."""
        seen, given = self._seen(group), dict[str, Any]()
        if {"saliency", "encoder_keys"} & self.needs:
            received, keys = tower.attended(self.model, self.family, group.media, seen)
            if "saliency" in self.needs:
                given["saliency"] = self._per_token(group, "saliency", received[..., None])[..., 0]
            if "encoder_keys" in self.needs:
                assert keys is not None, "offered by families of encoders with CLS alone"
                given["encoder_keys"] = self._per_token(group, "encoder_keys", keys)
        if "cls" in self.needs:
            given["cls"] = self._per_tile(group, tower.cls(self.model, seen)[:, None]).squeeze(2)
        if "resized" in self.needs:
            encode = tower.resizer(self.model, seen)
            given["resized"] = lambda rows, columns: self._per_tile(group, encode(rows, columns))
        return given

    def _relevance(self, group: families.Group, tokens: Tensor, x: Tensor, text: Tensor) -> dict[str, Any]:
        """Tokens and question in one space: that of the query source, else the language model's embeddings of the prompt."""
        if self.query is None:
            return {"keys": tokens, "query": x[group.row], "query_mask": text[group.row], "sign": 1}
        asked = [self.question or ""] if self.question is None or isinstance(self.question, str) else list(self.question)
        query, mask = self.query.encode(asked)
        row = group.row // _times(len(x), len(asked), "questions")
        keys: Tensor | None = None
        if self._reads_encoded:
            keys = self.query.keys(self.model, self._selected(group))
        keys = tokens if keys is None else self._per_token(group, "keys", keys)
        return {"keys": keys, "query": query[row], "query_mask": mask[row], "sign": self.query.sign}

    def _selected(self, group: families.Group) -> Tensor:
        """(T, n, E) of all tiles of its kind."""
        if (selected := self._seen(group).selected) is None:
            raise UserError("The projector did not run inside the pruning context, so what it read cannot be seen.")
        return selected

    def _encoded(self, group: families.Group) -> Tensor:
        """(I, G, N, E)."""
        return self._per_token(group, "encoded", self._selected(group))

    def _per_token(self, group: families.Group, name: str, of_patches: Tensor) -> Tensor:
        """(T, n, C) values of patches -> (I, G, N, C) of the group's tokens. Beams and repeated returns expand the rows after
        the tower ran: their values repeat likewise.

        All pictures of a kind are spread at once, as the model packs them, and kept for the other groups under their name.
        """
        seen = self._seen(group)
        if name not in seen.spread:
            seen.spread[name] = self.family.spread(self.model, group.media, seen, of_patches)
        values, order = seen.spread[name], group.order
        assert order is not None, "families that show the encoder's features say which token is which"
        if len(order) and (first := self._originals(group, len(values))) is not None:
            order = order + first[:, None, None]
        return values.to(order.device)[order]

    def _originals(self, group: families.Group, encoded: int) -> Tensor | None:
        """(I,) how far back the tokens of each image's original lie; None where nothing was repeated."""
        if group.total == encoded:
            return None
        assert group.starts is not None
        times = _times(group.total, encoded, "encoded visual tokens")
        originals = group.starts[::times] // times  # a row's tokens repeat right behind it
        return originals[group.row // times] - group.starts[group.row]

    def _per_tile(self, group: families.Group, of_tiles: Tensor) -> Tensor:
        """(tiles, ...) -> (I, G, ...), likewise."""
        images, tiles = group.at.shape[:2]
        features: Tensor = of_tiles.unflatten(0, (-1, tiles))
        if len(features) == images:
            return features
        times = _times(images, len(features), "encoded images")
        per_row = torch.bincount(group.row)
        ordinal = torch.arange(images, device=group.row.device) - (per_row.cumsum(0) - per_row)[group.row]
        originals = per_row[::times]
        return features[(originals.cumsum(0) - originals)[group.row // times] + ordinal]

    def _seeds(self, row: Tensor, nth: Sequence[int] | None, batch: int) -> Tensor:
        """One seed per image, on the CPU: the row's own, moved on for later images, and parts of them, of the row."""
        base = [self.seed] if isinstance(self.seed, int) else list(self.seed)
        times = _times(batch, len(base), "seeds")
        assert nth is not None, "counted where a method reads seeds"
        return torch.tensor([base[r // times] + _IMAGE_SEED * i for r, i in zip(row.tolist(), nth, strict=True)])


def _times(rows: int, given: int, what: str) -> int:
    """How often each given item is repeated, as generate() repeats rows for beams."""
    if not given or rows % given:
        raise UserError(f"{given} {what} were given for a batch of {rows}: give one, or one per prompt.")
    return rows // given
