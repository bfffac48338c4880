"""One prompt being pruned: what its prefill drops at each stage, and how its decoding steps must look afterwards."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from . import doubts, plans, sequence
from .attention import Overheard, Pass
from .encode import Chosen
from .errors import UserError
from .families import Family, Group
from .methods import Method, Visual
from .methods.base import require_finite
from .observe import Before, Observer, Text
from .plans import Plan, Unit
from .sequence import Stage
from .trace import Trace

_FROM_BEFORE = frozenset({"attention", "text_attention", "layer_keys", "text_keys"})  # read off the layer before a stage

Choice: TypeAlias = tuple[Tensor, Tensor | None]  # kept indices (I, G, k), and features (I, G, k, D) where they are others
_TEXT = frozenset({"text", "text_keys", "text_attention", "given"})


class Prefill:
    """The prompt's pass through the language model, stage by stage, and the bookkeeping that its decoding needs.

    groups: the images; text (B, L): real text tokens of the prompt. `start` prepares what enters the language model, `layer` what
    enters a layer, `step` and `decode_mask` what a decoding step gives to both.
    """

    def __init__(
        self,
        method: Method,
        plan: Plan,
        groups: list[Group],
        text: Tensor,
        family: Family,
        observer: Observer,
        chosen: Chosen | None,
        trace: Trace,
    ) -> None:
        self.method, self.plan = method, plan
        self.groups = plans.numbered(groups) if "seed" in method.needs else groups
        self.text, self.family, self.observer, self.chosen, self.trace = text, family, observer, chosen, trace
        self.ahead = 0  # tokens that the cache holds before the language model runs
        self.units = [Unit.of_images(g) for g in self.groups]
        self.after: list[Text] = []  # per unit inside: the prompt's text after it
        self.inside: Stage | None = None  # the sequence as shortened inside the language model
        self.layer_stage: dict[int, Stage] = {}
        self.previous: Pass | None = None  # of the layer before a stage
        self.overheard: Overheard | None = None
        self.masks: dict[int, Tensor | None] | None = None  # stage -> mask of the current decoding step; None in the prefill
        self.deepstack: tuple[list[Tensor], Tensor] | None = None  # features to add after layers, and (B, L) their rows, else -1

    # -- before the language model -------------------------------------------------------------------------------------------
    def start(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        """The language model's arguments, without what is dropped before it."""
        x, mask, given = kwargs["inputs_embeds"], kwargs.get("attention_mask"), kwargs.get("position_ids")
        valid = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device) if mask is None else mask.bool()
        self.length = x.shape[1]
        self.base = Stage.whole(valid)
        self._take_deepstack(kwargs)
        if self.plan.before is not None:
            x, self.base = self._reduce(0, x, self.base, self.plan.before, self._choose_before)
            self.trace.relevance = self.observer.relevance
            self.observer.settle()
        self.begin = x.shape[1]
        self.removed = valid.sum(1) - self.base.valid.sum(1)
        self.padded = not bool(self.base.valid.all()) if self.base.padded is None else self.base.padded
        # without positions a model counts the padding too, which methods would see in rotated keys
        self.counted = given is None and self.padded and bool(self.plan.inside)
        self.last_position = None if given is None else given[..., -1:].clone()
        kwargs["inputs_embeds"] = x
        # an explicit mask, always: without one, gaps in position_ids are taken for the borders of packed sequences
        kwargs["attention_mask"] = self.base.valid.to(torch.long if mask is None else mask.dtype)
        kwargs["position_ids"] = self._positions(given)
        if kwargs.get("cache_position") is not None:
            kwargs["cache_position"] = torch.arange(self.begin, device=x.device)
        self._enter(x)
        return kwargs

    def begin_behind(self, opening: tuple[int, Tensor]) -> None:
        """The cache holds the first tokens of each row, and (B, L) of the sequence are real: layers see what is behind them."""
        self.ahead, valid = opening
        self.base = replace(self.base, valid=valid)
        place = (torch.arange(self.begin, device=valid.device) - self.ahead).clamp_min(0).expand(valid.shape)
        self.units = [unit.moved(place) for unit in self.units]
        self.after = [text.moved(unit.row, place) for unit, text in zip(self.units, self.after, strict=False)]

    def _positions(self, given: Tensor | None) -> Tensor | None:
        if self.family.positions == "renumber":
            return (self.base.valid.long().cumsum(1) - 1).clamp_min(0) if given is not None or self.counted else None
        if given is None:
            given = torch.arange(self.length, device=self.base.index.device)[None]
        return sequence.take_positions(given, self.base.origin)

    def _take_deepstack(self, kwargs: dict[str, Any]) -> None:
        """Features that the model adds again to its visual tokens after early layers: added by `leave` to those that stay."""
        mask, features = kwargs.pop("visual_pos_masks", None), kwargs.pop("deepstack_visual_embeds", None)
        if mask is None or not features:
            return
        mask = mask[..., 0] if mask.ndim == 3 else mask
        rank = mask.flatten().long().cumsum(0).view(mask.shape) - 1
        self.deepstack = (list(features), rank.masked_fill(~mask, -1))

    def leave(self, i: int, hidden: Tensor) -> Tensor:
        """What a layer puts out, with the features that the model adds after it."""
        if self.deepstack is None or i >= len(self.deepstack[0]):
            return hidden
        features, rank = self.deepstack
        now = self.base if self.inside is None else self.inside
        origin = now.origin if now is self.base else self.base.origin.gather(1, now.origin)
        rows = rank.gather(1, origin)
        for unit in self.units:  # a merged token stands for no place, whose features it could get
            row = unit.row[:, None]
            rows[row, unit.at] = rows[row, unit.at].masked_fill(unit.index < 0, -1)
        rows = rows.to(hidden.device)
        added = features[i].to(hidden)[rows.clamp_min(0)]
        return hidden + added.masked_fill((rows < 0)[..., None], 0)

    def _enter(self, x: Tensor) -> None:
        """The sets among which later stages choose, and what the language model was given of them."""
        if not self.plan.inside:
            return
        if self.plan.sets is not None:
            self.units = plans.united(self.units, self.plan.sets, self.groups, self.method.union, x.shape[:2])
        if _TEXT & self.method.needs:
            text = self.text.gather(1, self.base.index) & self.base.valid
            self.after = [Text.behind(u, text, x, self.method.needs) for u in self.units]

    # -- the only place where tokens disappear -------------------------------------------------------------------------------
    def _reduce(
        self, stage: int, x: Tensor, now: Stage, sizes: list[int], choose: Callable[[int, Tensor, int], Choice]
    ) -> tuple[Tensor, Stage]:
        """The sequence x (B, L, D) without the tokens that the method drops at this stage, and its bookkeeping."""
        try:
            with doubts.gathered():
                return self._reduced(stage, x, now, [choose(u, x, k) for u, k in enumerate(sizes)])
        except UserError:
            if self.chosen is not None:
                self.chosen.forget()  # it may hold what features chose that were found not to be finite since
            raise

    def _reduced(self, stage: int, x: Tensor, now: Stage, choices: list[Choice]) -> tuple[Tensor, Stage]:
        drop = torch.zeros_like(now.valid)
        origin = torch.arange(x.shape[1], device=x.device).repeat(len(x), 1)
        x = x if all(tokens is None for _, tokens in choices) else x.clone()
        for u, (unit, (keep, tokens)) in enumerate(zip(self.units, choices, strict=True)):
            row = unit.row[:, None]
            slot, source = sequence.place(keep, unit.at.shape[1] // keep.shape[1])
            drop[row, unit.at] = True
            at = unit.at.gather(1, slot)
            drop[row, at] = False
            if tokens is not None:
                x[row, at] = tokens.flatten(1, 2).to(x.dtype)
            origin[row, at] = unit.at.gather(1, source)
            self.units[u] = unit.kept(slot, source, (keep < 0).flatten(1))
            if slot.shape != unit.at.shape:
                self.trace.note(stage, unit.row, keep if stage == 0 else _ascending(self.units[u].index)[:, None])
        then, place = now.shrink(~drop, origin)
        self.units = [unit.moved(place) for unit in self.units]
        self.after = [text.moved(unit.row, place) for unit, text in zip(self.units, self.after, strict=False)]
        self.trace.stages[stage] = then.valid.sum(1) + then.ahead
        return sequence.take(x, then.step), then

    def _choose_before(self, u: int, x: Tensor, k: int) -> Choice:
        """What the method makes of a group of images before the language model."""
        group, method = self.groups[u], self.method.at(0)
        see: Callable[[], Visual] = lambda: self.observer.before(group, x, self.text)  # noqa: E731
        if self.chosen is None or not method.nested:
            return _chosen(method, see(), k)
        budgets = [b for b in self.chosen.budgets if b]
        sizes = [plans.before(self.method, b, group, self.plan.layers) for b in budgets]
        return self.chosen.keep(method, u, k, sizes, see), None

    # -- inside --------------------------------------------------------------------------------------------------------------
    def layer(self, i: int, layer: nn.Module, hidden: Tensor, kwargs: dict[str, Any]) -> Tensor:
        """What enters a layer; its other arguments are changed in kwargs."""
        if self.plan.inside:
            hidden = self._follow(layer, hidden, kwargs)
        if i > 0 and i in self.plan.inside:
            rope, mask = kwargs["position_embeddings"], kwargs.get("attention_mask")
            flat = "flash" in layer.self_attn.config._attn_implementation  # type: ignore[operator, union-attr]
            now = self.inside or Stage.whole(self.base.valid[:, self.ahead :], rope, mask, flat, self.ahead)
            before = self._look(i, layer, hidden, now, kwargs.get("past_key_values"))

            def choose(u: int, x: Tensor, k: int) -> Choice:
                return self._choose_inside(i, u, x, k, before)

            hidden, self.inside = self._reduce(i, hidden, now, self.plan.inside[i], choose)
        if self.inside is not None:
            self.layer_stage[i] = self.inside
            kwargs["position_embeddings"], kwargs["attention_mask"] = self.inside.rope, self.inside.mask
            if kwargs.get("position_ids") is not None:
                kwargs["position_ids"] = None  # a layer reads it only to tell packed sequences apart, which these are not
            if kwargs.get("cache_position") is not None:
                kwargs["cache_position"] = kwargs["cache_position"][: hidden.shape[1]]
        self.previous = self.overheard = None
        if i == max(self.plan.inside, default=0):
            self.after = []  # nobody asks any more: what was kept for later stages would live as long as the decoding
        if i + 1 in self.plan.inside and _FROM_BEFORE & self.method.needs:
            held = self._held(i, kwargs.get("past_key_values"))
            self.previous = Pass(layer, hidden, kwargs["position_embeddings"], kwargs.get("attention_mask"), held)
            self.overheard = Overheard(self.previous)
        return hidden

    def _follow(self, layer: nn.Module, hidden: Tensor, kwargs: dict[str, Any]) -> Tensor:
        """To the layer's device, where a model is spread over several: accelerate moves its inputs later than our hooks run."""
        device = next(layer.parameters()).device
        if device == hidden.device == self.base.valid.device or device.type == "meta":  # meta: offloaded, runs where hidden is
            return hidden
        self.base = sequence.to(self.base, device)
        self.inside = None if self.inside is None else sequence.to(self.inside, device)
        self.units = [sequence.to(unit, device) for unit in self.units]
        self.after = [sequence.to(text, device) for text in self.after]
        self.deepstack = self.deepstack and (self.deepstack[0], self.deepstack[1].to(device))
        kwargs["position_embeddings"] = tuple(table.to(device) for table in kwargs["position_embeddings"])
        if isinstance(mask := kwargs.get("attention_mask"), Tensor):
            kwargs["attention_mask"] = mask.to(device)
        return hidden.to(device)

    def end(self) -> None:
        """Put back what a pass that failed may have left."""
        if self.overheard is not None:
            self.overheard.stop()
            self.overheard = None

    def _choose_inside(self, stage: int, u: int, x: Tensor, k: int, before: Before) -> Choice:
        """What the method makes of the sets of a unit at the entry of a layer."""
        unit, method = self.units[u], self.method.at(stage)
        n = unit.at.shape[1]
        if 0 < k < n:
            text = self.after[u] if self.after else None
            return _chosen(method, self.observer.inside(unit, text, x, before, u), k)
        require_finite(x[unit.row[:, None], unit.at], f"the visual tokens given to '{method.name}'")
        return torch.arange(min(k, n), device=x.device).expand(len(unit.row), 1, -1), None  # none, or all

    def _look(self, i: int, layer: nn.Module, hidden: Tensor, now: Stage, cache: Any) -> Before:
        """What there is to see before layer i: of the layer before it, and of itself."""
        needs, last, previous = self.method.needs, now.last()[:, None], self.previous
        found: dict[str, Any] = {}
        if "ahead" in needs:
            found["ahead"] = Pass(layer, hidden, now.rope, now.mask, self._held(i, cache)).received(last)[:, 0]
        if previous is None:
            return Before(**found)
        there, here = previous.hidden.device, hidden.device
        if previous.key is None:
            previous.key = _cached_keys(cache, i - 1, hidden, self.ahead)
        if "attention" in needs:
            found["attention"] = previous.received(last.to(there))[:, 0].to(here)
        if "text_attention" in needs:
            asked = [(u.row.to(there), t.at.to(there)) for u, t in zip(self.units, self.after, strict=True)]
            found["from_text"] = [previous.of(row).received(at).to(here) for row, at in asked]
        if {"layer_keys", "text_keys"} & needs:
            found["keys"] = previous.keys()[:, :, self.ahead :].transpose(1, 2).flatten(2).to(here)
        return Before(**found)

    def _held(self, i: int, cache: Any) -> Tensor | None:
        """The keys of what is ahead: all that the cache holds of a layer before it runs."""
        return cache.layers[i].keys if self.ahead else None

    # -- decoding ------------------------------------------------------------------------------------------------------------
    def step(self, kwargs: dict[str, Any], past: int) -> dict[str, Any]:
        """The language model's arguments at a decoding step on a cache whose first layer holds `past` tokens."""
        if self.masks is None:  # the first step: nothing but the bookkeeping of masks is needed any more
            small = {id(s): replace(s, rope=None, mask=None) for s in self.layer_stage.values()}
            self.layer_stage = {i: small[id(s)] for i, s in self.layer_stage.items()}
            self.inside = self.previous = self.overheard = self.deepstack = None
            self.units, self.after = [], []
        self.masks = {}
        self.past, new = past, kwargs["inputs_embeds"].shape[1]
        valid = self.base.valid.to(kwargs["inputs_embeds"].device)  # the prefill left it where the last layer is
        mask, positions = kwargs.get("attention_mask"), kwargs.get("position_ids")
        if mask is not None:
            kwargs["attention_mask"] = torch.cat([valid.to(mask.dtype), mask[:, self.length :]], 1)
        elif self.padded:
            tail = valid.new_ones(len(valid), past + new - self.begin)
            kwargs["attention_mask"] = torch.cat([valid, tail], 1).long()
        if self.family.positions == "renumber" and self.counted and positions is None:
            steps = torch.arange(past - self.begin, past - self.begin + new, device=self.removed.device)
            kwargs["position_ids"] = valid.sum(1, keepdim=True) + steps
        elif self.family.positions == "renumber":
            kwargs["position_ids"] = None if positions is None else positions - self.removed[:, None]
        elif positions is None:
            kwargs["position_ids"] = (torch.arange(past, past + new, device=self.removed.device) + self.length - self.begin)[None]
        if kwargs.get("cache_position") is not None:
            kwargs["cache_position"] = kwargs["cache_position"] - (self.length - self.begin)
        return kwargs

    def decode_mask(self, i: int, mask: Tensor | None, new: int) -> Tensor | None:
        """The attention mask of a decoding step at a layer, from that of the first layer."""
        if i not in self.layer_stage:
            return mask
        assert self.masks is not None
        stage = self.layer_stage[i]
        if id(stage) not in self.masks:
            self.masks[id(stage)] = stage.decode_mask(mask, self.begin, self.past, new)
        return self.masks[id(stage)]


def _ascending(index: Tensor) -> Tensor:
    """In the order of the picture's own tokens, which crops may have another than the sequence; -1, merged, at the end."""
    order = torch.where(index < 0, torch.iinfo(index.dtype).max, index).argsort(dim=-1, stable=True)
    return index.gather(-1, order)


def _chosen(method: Method, visual: Visual, k: int) -> Choice:
    """What the method keeps. One that only selects moves no feature."""
    if type(method).reduce is Method.reduce and k < visual.shape[2]:
        return method.many(visual, [k])[0], None
    reduced = method(visual, k)
    return reduced.keep, reduced.tokens


def _cached_keys(cache: Any, i: int, hidden: Tensor, ahead: int) -> Tensor | None:
    """A layer's keys, also of what is ahead, where the cache holds them plainly; None where it quantises or moves them."""
    keys = getattr(cache.layers[i], "keys", None) if cache is not None and len(getattr(cache, "layers", ())) > i else None
    if not isinstance(keys, Tensor) or keys.ndim != 4 or keys.device != hidden.device or not keys.is_floating_point():
        return None
    return keys if keys.shape[2] == ahead + hidden.shape[1] else None
