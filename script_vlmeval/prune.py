"""Prune the visual tokens of an unmodified transformers model, with hooks that leave nothing behind.

    with pruning(model, get_method("script"), 64, question="What is on the table?") as trace:
        model.generate(**inputs)

One seam for every family and version: a pre-hook on the language model (stage 0, and the bookkeeping of every decoding step)
and pre-hooks on its layers (later stages). Within the context every prefill is pruned; decoding runs on the shorter cache.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn

from . import attention, families, sequence
from .cells import check_budget
from .cells import tokens as budget_tokens
from .encode import Chosen
from .errors import UserError
from .methods import Method, Reduced, Visual
from .observe import Before, Observer
from .query import QuerySource
from .sequence import Stage
from .trace import Trace

_ACTIVE: WeakSet[nn.Module] = WeakSet()


class pruning:
    """Within this context every prefill of `model` keeps `budget` visual tokens per tile, chosen by `method`.

    model: a transformers vision-language model of a known family, unmodified. budget: tokens, or a share as "25pct"; for stages
    inside the language model, what the method's `plan` makes of it. seed: one for all rows, or one per row of the batch.
    question: the text that relevance is computed from, one for all rows or one per row; query: the space to compare in. Without
    `query`, relevance uses the language model's embeddings of the whole prompt. shown: (images, N) bool, False where a visual
    token lies in the padding around its picture, for methods that never keep those. chosen: selections of one batch to share
    among contexts, see `Chosen`.

    Yields a Trace of the last prefill. The context can be entered again, not nested. Raises UserError for what cannot work:
    a method that needs what the family does not give, a static cache, stages inside the language model without a cache, chunked
    prefill, a further turn on a pruned cache, non-finite features.
    """

    def __init__(
        self,
        model: nn.Module,
        method: Method,
        budget: int | str,
        *,
        seed: int | Sequence[int] = 0,
        question: str | Sequence[str] | None = None,
        query: QuerySource | None = None,
        shown: Tensor | None = None,
        chosen: Chosen | None = None,
    ) -> None:
        self.model, self.method, self.budget = model, method, check_budget(str(budget))
        budget_tokens(self.budget, 1)  # a schedule over layers is refused here, not in the middle of a prefill
        self.family = families.family_of(model)
        self.family.require(method.name, method.needs)
        self.lm = families.language_model(model)
        _check_source(method, query)
        self.observer = Observer(model, method, seed, question, query, shown)
        self.chosen = chosen
        self.trace = Trace()
        self._handles: list[Any] = []
        self._reset()

    def _reset(self) -> None:
        self.active = self.prompt = False  # whether the current prompt is pruned; whether this forward reads a prompt
        self.ids: Tensor | None = None
        self.groups: list[families.Group] = []
        self.plan: dict[int, list[int]] = {}  # stage -> tokens per tile, one number per group
        self.alive: list[Tensor] = []  # per group (I, n): where the images' survivors stand in the current sequence
        self.index: list[Tensor] = []  # per group (I, n): the position in the image that a survivor came from, -1 merged
        self.inside: Stage | None = None  # the sequence as shortened inside the language model
        self.layer_stage: dict[int, Stage] = {}
        self.previous: tuple[nn.Module, Tensor, Any, Tensor | None] | None = None  # the layer before a stage, and its inputs
        self.uncached: Tensor | None = None  # the ids of the last prompt that was read without a cache
        self.asked = 0  # its length, or that of the prompt that it continues
        self.observer.forget()

    # -- hooks ---------------------------------------------------------------------------------------------------------------
    def __enter__(self) -> Trace:
        if self.model in _ACTIVE:
            raise UserError("This model is being pruned already: leave the outer pruning context before entering another.")
        _ACTIVE.add(self.model)
        self._reset()
        inner: Any = self.model.model
        self._handles = [
            inner.register_forward_pre_hook(self._on_inputs, with_kwargs=True),
            self.lm.register_forward_pre_hook(self._on_language_model, with_kwargs=True),
            *(layer.register_forward_pre_hook(self._layer_hook(i), with_kwargs=True) for i, layer in enumerate(self.lm.layers)),
            *self.observer.hooks(),
        ]
        return self.trace

    def __exit__(self, *exc: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        _ACTIVE.discard(self.model)
        self._reset()

    def _on_inputs(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.ids = kwargs.get("input_ids", args[0] if args else None)

    @torch.no_grad()
    def _on_language_model(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        cache = kwargs.get("past_key_values")
        if getattr(cache, "is_compileable", False):
            raise UserError("A static cache fixes the length before pruning: use the dynamic cache.")
        past = int(cache.get_seq_length()) if cache is not None else 0
        self.prompt = past == 0
        if self.prompt:
            self._read_prompt(kwargs["inputs_embeds"], kwargs.get("attention_mask"), cache)
            return (args, self._prefill(dict(kwargs))) if self.active else None
        if not self.active:
            return None
        self._refuse_second_prompt(kwargs, past)
        return args, self._decode(dict(kwargs), past)

    # -- prefill -------------------------------------------------------------------------------------------------------------
    def _read_prompt(self, embeds: Tensor, mask: Tensor | None, cache: Any) -> None:
        """Where the visual tokens are and what the plan is; inactive where nothing is to be removed, so no bit changes."""
        if self.ids is None or self.ids.shape[:2] != embeds.shape[:2]:
            raise UserError("Pruning finds visual tokens by input_ids: call the model with input_ids, not inputs_embeds.")
        if isinstance(mask, dict) or (mask is not None and mask.ndim == 4):
            raise UserError("A ready-made attention mask fixes the length before pruning: give a 2-D mask, or none.")
        visual = families.visual_mask(self.model, self.ids)
        text = ~visual if mask is None else ~visual & mask.bool()
        self.trace.begin(text.sum(1), visual.sum(1))
        again = self._continues(cache)
        self.asked = self.asked if again else text.shape[1]
        self.text = text & (torch.arange(text.shape[1], device=text.device) < self.asked)  # the question, not the answer
        self.groups = [g for g in self.family.split(self.model, visual) if g.at.numel()]
        self.plan = self._make_plan()
        self.active = bool(self.plan)
        if again and any(stage > 0 for stage in self.plan):
            raise UserError("Pruning inside the language model needs use_cache=True: without it every step would select again.")

    def _continues(self, cache: Any) -> bool:
        """Whether generate() without a cache feeds the last prompt again, one token longer."""
        before, self.uncached = self.uncached, self.ids if cache is None else None
        if self.uncached is None or before is None or self.uncached.shape[1] != before.shape[1] + 1:
            return False
        return torch.equal(self.uncached[:, :-1], before)

    def _make_plan(self) -> dict[int, list[int]]:
        """Stage -> tokens per tile and group, without the stages that remove nothing."""
        layers = len(self.lm.layers)
        now = [g.at.shape[2] for g in self.groups]
        asked = [plan(self.method, budget_tokens(self.budget, n), n, layers) for n in now]
        stages: dict[int, list[int]] = {}
        for stage in sorted({s for p in asked for s in p}):
            then = [min(n, p.get(stage, n)) for n, p in zip(now, asked, strict=True)]
            if then != now:
                stages[stage] = now = then
        return stages

    def _prefill(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        x, mask, given = kwargs["inputs_embeds"], kwargs.get("attention_mask"), kwargs.get("position_ids")
        valid = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device) if mask is None else mask.bool()
        self.length = x.shape[1]
        self.alive = [g.at.flatten(1) for g in self.groups]
        self.index = [torch.arange(a.shape[1], device=x.device).expand_as(a) for a in self.alive]
        self.inside, self.layer_stage = None, {}
        self.base = Stage.whole(valid)
        if 0 in self.plan:
            x, self.base = self._reduce(0, x, self.base, lambda g, _, x: self.observer.before(self.groups[g], x, self.text))
            self.trace.relevance = self.observer.relevance
        self.start = x.shape[1]
        self.removed = valid.sum(1) - self.base.valid.sum(1)
        self.padded = not bool(self.base.valid.all())
        # without positions a model counts the padding too, which methods would see in rotated keys
        self.counted = given is None and self.padded and any(stage > 0 for stage in self.plan)
        self.last_position = None if given is None else given[..., -1:].clone()
        kwargs["inputs_embeds"] = x
        # an explicit mask, always: without one, gaps in position_ids are taken for the borders of packed sequences
        kwargs["attention_mask"] = self.base.valid.to(torch.long if mask is None else mask.dtype)
        kwargs["position_ids"] = self._prompt_positions(given)
        if kwargs.get("cache_position") is not None:
            kwargs["cache_position"] = torch.arange(self.start, device=x.device)
        return kwargs

    def _prompt_positions(self, given: Tensor | None) -> Tensor | None:
        if self.family.positions == "renumber":
            return (self.base.valid.long().cumsum(1) - 1).clamp_min(0) if given is not None or self.counted else None
        if given is None:
            given = torch.arange(self.length, device=self.base.index.device)[None]
        return sequence.take_positions(given, self.base.origin)

    # -- the only place where tokens disappear -------------------------------------------------------------------------------
    def _reduce(self, stage: int, x: Tensor, now: Stage, see: Callable[[int, Tensor, Tensor], Visual]) -> tuple[Tensor, Stage]:
        """The sequence x (B, L, D) without the tokens that the method drops at this stage, and its bookkeeping."""
        drop = torch.zeros_like(now.valid)
        origin = torch.arange(x.shape[1], device=x.device).repeat(len(x), 1)
        slots: list[Tensor] = []
        reductions = [self._choose(stage, g, see, x) for g in range(len(self.groups))]
        x = x.clone()
        for g, (group, reduced) in enumerate(zip(self.groups, reductions, strict=True)):
            at, row = self.alive[g], group.row[:, None]
            slot, source = sequence.place(reduced.keep, at.shape[1] // reduced.keep.shape[1])
            drop[row, at] = True
            drop[row, at.gather(1, slot)] = False
            x[row, at.gather(1, slot)] = reduced.tokens.flatten(1, 2).to(x.dtype)
            origin[row, at.gather(1, slot)] = at.gather(1, source)
            slots.append(at.gather(1, slot))
            self.index[g] = self.index[g].gather(1, source).masked_fill((reduced.keep < 0).flatten(1), -1)
            self.trace.kept.setdefault(stage, []).append(reduced.keep if stage == 0 else self.index[g][:, None])
        then, place = now.shrink(~drop, origin)
        self.alive = [place[g.row[:, None], s] for g, s in zip(self.groups, slots, strict=True)]
        self.trace.stages[stage] = then.valid.sum(1)
        return sequence.take(x, then.step), then

    def _choose(self, stage: int, g: int, see: Callable[[int, Tensor, Tensor], Visual], x: Tensor) -> Reduced:
        """What the method makes of a group of images at a stage."""
        k, tiles = self.plan[stage][g], self.groups[g].at.shape[1]
        if stage > 0:
            return self.method(see(g, self.alive[g], x), k * tiles)
        if self.chosen is None or not self.method.nested:
            return self.method(see(g, self.alive[g], x), k)
        budgets = [budget_tokens(b, self.groups[g].at.shape[2]) for b in self.chosen.budgets]
        keep = self.chosen.keep(self.method, g, k, budgets, lambda: see(g, self.alive[g], x))
        at = self.alive[g].unflatten(1, (keep.shape[1], -1))
        return Reduced(keep, x[self.groups[g].row[:, None, None], at.gather(2, keep)])

    # -- layers --------------------------------------------------------------------------------------------------------------
    def _layer_hook(self, i: int) -> Callable[..., Any]:
        def hook(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            hidden = args[0] if args else kwargs["hidden_states"]
            if self.active:
                kwargs = dict(kwargs)
                if self.prompt:
                    hidden = self._prefill_layer(i, layer, hidden, kwargs)
                elif i in self.layer_stage:
                    mask = kwargs.get("attention_mask")
                    kwargs["attention_mask"] = self.layer_stage[i].decode_mask(mask, self.start, self.past, hidden.shape[1])
            if self.prompt:
                self.trace.lengths.append(hidden.shape[1])
            return ((hidden, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": hidden})

        return hook

    @torch.no_grad()
    def _prefill_layer(self, i: int, layer: nn.Module, hidden: Tensor, kwargs: dict[str, Any]) -> Tensor:
        if i > 0 and i in self.plan:
            now = self.inside or Stage.whole(self.base.valid, kwargs["position_embeddings"], kwargs.get("attention_mask"))
            before = self._before(i, now, kwargs)
            see = lambda g, at, x: self.observer.inside(self.groups[g], at, x, before)  # noqa: E731
            hidden, self.inside = self._reduce(i, hidden, now, see)
        if self.inside is not None:
            self.layer_stage[i] = self.inside
            kwargs["position_embeddings"], kwargs["attention_mask"] = self.inside.rope, self.inside.mask
            if kwargs.get("position_ids") is not None:
                kwargs["position_ids"] = None  # a layer reads it only to tell packed sequences apart, which these are not
            if kwargs.get("cache_position") is not None:
                kwargs["cache_position"] = kwargs["cache_position"][: hidden.shape[1]]
        if i + 1 in self.plan:
            self.previous = (layer, hidden, kwargs["position_embeddings"], kwargs.get("attention_mask"))
        return hidden

    def _before(self, i: int, now: Stage, kwargs: dict[str, Any]) -> Before:
        """What the layer before leaves for the method: attention of the last prompt token, keys, where the text is."""
        assert self.previous is not None
        needs, cache = self.method.needs, kwargs.get("past_key_values")
        keys = None if cache is None else cache.layers[i - 1].keys
        row = attention.last_row(*self.previous, keys).mean(1) if "attention" in needs else None
        if {"layer_keys", "text_keys"} & needs:
            keys = attention.project(*self.previous[:3])[1] if keys is None else keys
            keys = keys.transpose(1, 2).flatten(2)
        else:
            keys = None
        text = self.text.gather(1, self.base.index) & self.base.valid
        return Before(text.gather(1, now.index) & now.valid, row, keys)

    # -- decoding ------------------------------------------------------------------------------------------------------------
    def _decode(self, kwargs: dict[str, Any], past: int) -> dict[str, Any]:
        self.past, new = past, kwargs["inputs_embeds"].shape[1]
        mask, positions = kwargs.get("attention_mask"), kwargs.get("position_ids")
        if mask is not None:
            kwargs["attention_mask"] = torch.cat([self.base.valid.to(mask.dtype), mask[:, self.length :]], 1)
        elif self.padded:
            tail = self.base.valid.new_ones(len(self.base.valid), past + new - self.start)
            kwargs["attention_mask"] = torch.cat([self.base.valid, tail], 1).long()
        if self.family.positions == "renumber" and self.counted and positions is None:
            steps = torch.arange(past - self.start, past - self.start + new, device=self.removed.device)
            kwargs["position_ids"] = self.base.valid.sum(1, keepdim=True) + steps
        elif self.family.positions == "renumber":
            kwargs["position_ids"] = None if positions is None else positions - self.removed[:, None]
        elif positions is None:
            kwargs["position_ids"] = (torch.arange(past, past + new, device=self.removed.device) + self.length - self.start)[None]
        if kwargs.get("cache_position") is not None:
            kwargs["cache_position"] = kwargs["cache_position"] - (self.length - self.start)
        return kwargs

    # -- refusals ------------------------------------------------------------------------------------------------------------
    def _refuse_second_prompt(self, kwargs: dict[str, Any], past: int) -> None:
        """Several tokens on a filled cache are fine when they continue the prompt (speculation), and wrong when generate()
        sliced a longer prompt by the length of the shortened cache."""
        if kwargs["inputs_embeds"].shape[1] == 1:
            return
        if past == self.start:
            raise UserError("The prompt comes in pieces (chunked prefill): tokens would be chosen before all of it was read.")
        if self.ids is not None and bool(families.visual_mask(self.model, self.ids).any()):
            raise UserError("Visual tokens on a filled cache: chunked prefill and further turns with images cannot be pruned.")
        positions = kwargs.get("position_ids")
        if positions is None or self.last_position is None:
            return
        if not bool((positions[..., :1] == self.last_position + 1 + (past - self.start)).all()):
            raise UserError("This turn does not continue the pruned prompt: give the whole dialogue as one prompt, no cache.")


def plan(method: Method, budget: int, n_visual: int, n_layers: int) -> dict[int, int]:
    """What the method keeps from which stage on. UserError for a budget out of its reach and for layers that there are not."""
    asked = method.plan(budget, n_visual, n_layers)
    for stage in asked:
        if not 0 <= stage < n_layers:
            raise UserError(f"'{method.name}' plans a stage {stage}; this model has layers 0 to {n_layers - 1}.")
    return asked


def _check_source(method: Method, query: QuerySource | None) -> None:
    """UserError where the method wants the question in another space than the one at hand."""
    wanted, here = method.source(), "llm" if query is None else query.name
    if wanted != "auto" and {"words": "llm"}.get(wanted, wanted) != here:
        raise UserError(
            f"'{method.name}' takes relevance from '{wanted}', and the question comes from '{here}': give a query of it."
        )
