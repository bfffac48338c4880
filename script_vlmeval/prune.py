"""Prune the visual tokens of an unmodified transformers model, with hooks that leave nothing behind.

    with pruning(model, get_method("script"), 64, question="What is on the table?") as trace:
        model.generate(**inputs)

One seam for every family and version: a pre-hook on the language model (stage 0, and the bookkeeping of every decoding step)
and pre-hooks on its layers (later stages). Within the context every prefill is pruned; decoding runs on the shorter cache.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn

from . import families, plans
from .begun import Begun
from .encode import Chosen
from .errors import UserError
from .methods import Method
from .observe import Observer
from .plans import Plan
from .prefill import Prefill
from .query import QuerySource
from .trace import Trace

_ACTIVE: WeakSet[nn.Module] = WeakSet()
_PRUNED = "_script_vlmeval_pruned"  # marks a cache


class pruning:
    """Within this context every prefill of `model` keeps `budget` visual tokens per tile, chosen by `method`.

    model: a transformers vision-language model of a known family, unmodified. budget: tokens, or a share as "25pct", per image
    tile or frame; of methods that prune inside the language model, the mean over its layers; a published schedule as "r75k2"
    (75 % removed from layer 2 on), or None for what the method's own parameters say. seed: one for all rows, or one per
    row of the batch. question: the text that relevance is computed from, one for all rows or one per row; query: the space to
    compare in. Without `query`, relevance uses the language model's embeddings of the whole prompt. shown: (images, N) bool,
    False where a visual token lies in the padding around its picture, for methods that never keep those. chosen: selections of
    one batch to share among contexts, see `Chosen`. begun: what the language model makes of that batch before contexts part, to
    share among them, see `Begun`.

    Yields a Trace of the last prefill; steps without a cache, which read the prompt again, are in its `again`. The context can
    be entered again, not nested. Raises UserError for what cannot work: a method that needs what the family does not give, a
    static cache, stages inside the language model without a cache, chunked prefill, a further turn on a pruned cache,
    non-finite features.
    """

    def __init__(
        self,
        model: nn.Module,
        method: Method,
        budget: int | str | None,
        *,
        seed: int | Sequence[int] = 0,
        question: str | Sequence[str] | None = None,
        query: QuerySource | None = None,
        shown: Tensor | None = None,
        chosen: Chosen | None = None,
        begun: Begun | None = None,
    ) -> None:
        method, self.budget = plans.asked(method, budget)
        self.model, self.method = model, method
        self.family = families.family_of(model)
        self.family.require(method.name, method.needs)
        self.lm = families.language_model(model)
        _check_source(method, query)
        self.observer = Observer(model, method, seed, question, query, shown)
        self.chosen, self.begun = chosen, begun
        self.trace = Trace()
        self._handles: list[Any] = []
        self._unshare: Callable[[], None] = lambda: None
        self.aside = False  # whether the language model reads a batch's opening, which is no prompt
        self._reset()

    def _reset(self) -> None:
        if (pruned := getattr(self, "pruned", None)) is not None:
            pruned.end()
        self._unshare()
        self.prompt = False  # whether this forward reads a prompt
        self.pruned: Prefill | None = None  # the current prompt, where something is dropped from it
        self.ids: Tensor | None = None
        self.uncached: Tensor | None = None  # the ids of the last prompt that was read without a cache
        self.warned = False  # of frames that are pictures of their own
        self.asked = 0  # its length, or that of the prompt that it continues
        self.logits = 0  # how many positions' logits the caller wants: generate() wants one, speculation all that it feeds
        self.observer.forget()

    # -- hooks ---------------------------------------------------------------------------------------------------------------
    def __enter__(self) -> Trace:
        if self.model in _ACTIVE:
            raise UserError("This model is being pruned already: leave the outer pruning context before entering another.")
        _ACTIVE.add(self.model)
        self._reset()
        inner: Any = self.model.model
        try:
            for handle in self.observer.hooks():
                self._handles.append(handle)
            self._handles += [
                self.model.register_forward_pre_hook(self._on_call, with_kwargs=True),
                inner.register_forward_pre_hook(self._on_inputs, with_kwargs=True),
                self.lm.register_forward_pre_hook(self._on_language_model, with_kwargs=True),
                self.lm.register_forward_hook(self._on_end, always_call=True),
            ]
            for i, layer in enumerate(self.lm.layers):
                self._handles.append(layer.register_forward_pre_hook(self._before_layer(i), with_kwargs=True))
            for i in range(self.family.deepstack(self.model)):
                self._handles.append(self.lm.layers[i].register_forward_hook(self._after_layer(i)))
        except BaseException:
            self.__exit__()
            raise
        return self.trace

    def __exit__(self, *exc: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        _ACTIVE.discard(self.model)
        self._reset()

    def _on_call(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        wanted = kwargs.get("logits_to_keep", 0)
        self.logits = wanted if isinstance(wanted, int) else 0

    def _on_end(self, *_: Any) -> None:
        """Also after a pass that failed, before the next one makes its masks."""
        if self.aside:
            return
        self._unshare()
        if self.pruned is not None:
            self.pruned.end()

    def _on_inputs(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.ids = kwargs.get("input_ids", args[0] if args else None)

    @torch.no_grad()
    def _on_language_model(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self.aside:
            return None
        cache = kwargs.get("past_key_values")
        if getattr(cache, "is_compileable", False):
            raise UserError("A static cache fixes the length before pruning: use the dynamic cache.")
        past = int(cache.get_seq_length()) if cache is not None else 0
        self.prompt = past == 0
        if self.prompt:
            self.pruned = None
            self._refuse_drafts(cache)
            self.pruned = self._read_prompt(kwargs, cache)
            if self.pruned is None:
                return None
            if cache is not None:
                setattr(cache, _PRUNED, True)
            return args, self._taken_up(self.pruned, self.pruned.start(dict(kwargs)))
        self._refuse_second_prompt(kwargs, cache, past)
        return None if self.pruned is None else (args, self.pruned.step(dict(kwargs), past))

    def _read_prompt(self, kwargs: dict[str, Any], cache: Any) -> Prefill | None:
        """Where the visual tokens are and what the plan is; None where nothing is to be removed, so that no bit changes."""
        embeds, mask = kwargs["inputs_embeds"], kwargs.get("attention_mask")
        if self.ids is None or self.ids.shape[:2] != embeds.shape[:2]:
            raise UserError("Pruning finds visual tokens by input_ids: call the model with input_ids, not inputs_embeds.")
        if isinstance(mask, dict) or (mask is not None and mask.ndim == 4):
            raise UserError("A ready-made attention mask fixes the length before pruning: give a 2-D mask, or none.")
        visual = families.visual_mask(self.model, self.ids)
        text = ~visual if mask is None else ~visual & mask.bool()
        again = self._continues(cache)
        self.trace.again = Trace() if again else None
        (self.trace.again or self.trace).begin(text.sum(1), visual.sum(1))
        self.asked = self.asked if again else text.shape[1]
        groups = [
            g
            for g in self.family.split(self.model, self.ids, kwargs.get("position_ids"), self.observer.vision.seen)
            if g.at.numel()
        ]
        (self.trace.again or self.trace).between = visual.sum(1) - plans.touched(groups, len(visual))
        self._warn_of_frames(groups)
        plan = Plan.of(self.method, self.budget, groups, len(self.lm.layers))
        if not plan:
            return None
        if plan.inside:
            self._refuse_inside(visual, text, again, cache)
        question = text & (torch.arange(text.shape[1], device=text.device) < self.asked)  # without the answer
        return Prefill(
            self.method, plan, groups, question, self.family, self.observer, self.chosen, self.trace.again or self.trace
        )

    def _taken_up(self, pruned: Prefill, kwargs: dict[str, Any]) -> dict[str, Any]:
        """The language model's arguments, where it can without what contexts of this batch have in common."""
        if self.begun is None or self.trace.again is not None or kwargs.get("past_key_values") is None:
            return kwargs
        if pruned.deepstack is None:
            self.aside = True
            try:
                pruned.begin_behind(self.begun.enter(self.lm, kwargs, pruned.base.valid))
            finally:
                self.aside = False
        if pruned.plan.before is None and self.begun.several:
            layers = self.lm.layers[: min(pruned.plan.inside)]
            self._unshare = self.begun.share(layers, lambda: pruned.overheard)
        return kwargs

    def _warn_of_frames(self, groups: Sequence[families.Group]) -> None:
        """Once per context, where a method compares frames and a prompt has several pictures, of one tile each."""
        if self.warned or not self.method.at(0).frames:
            return
        found: dict[int, dict[int, int]] = {}  # sample -> picture -> frames
        for group, images in zip(groups, plans.images_of(groups), strict=True):
            for row, image in zip(group.row.tolist(), images, strict=True):
                found.setdefault(row, {})[image] = group.at.shape[1]
        if any(len(own) > 1 and set(own.values()) == {1} for own in found.values()):
            self.warned = True
            warnings.warn(
                f"'{self.method.at(0).name}' compares the frames of a video, and a prompt here has several pictures of one frame "
                "each, which it prunes one by one. So it does where a family is shown frames as images (LLaVA-1.5, LLaVA-NeXT, "
                "InternVL): choose another method, or a family that reads videos.",
                stacklevel=2,
            )

    def _continues(self, cache: Any) -> bool:
        """Whether generate() without a cache feeds the last prompt again, one token longer."""
        before, self.uncached = self.uncached, self.ids if cache is None else None
        if self.uncached is None or before is None or self.uncached.shape[1] != before.shape[1] + 1:
            return False
        return torch.equal(self.uncached[:, :-1], before)

    def _before_layer(self, i: int) -> Callable[..., Any]:
        def hook(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            if self.aside:
                return None
            hidden = args[0] if args else kwargs["hidden_states"]
            if self.pruned is not None:
                kwargs = dict(kwargs)
                if self.prompt:
                    with torch.no_grad():
                        hidden = self.pruned.layer(i, layer, hidden, kwargs)
                else:
                    mask = kwargs.get("attention_mask")
                    kwargs["attention_mask"] = self.pruned.decode_mask(i, mask, hidden.shape[1])
            if self.prompt:
                (self.trace.again or self.trace).lengths.append(hidden.shape[1] + (self.pruned.ahead if self.pruned else 0))
            return ((hidden, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": hidden})

        return hook

    def _after_layer(self, i: int) -> Callable[..., Any]:
        def hook(layer: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
            if self.pruned is None or not self.prompt:
                return None
            if isinstance(output, tuple):
                return (self.pruned.leave(i, output[0]), *output[1:])
            return self.pruned.leave(i, output)

        return hook

    # -- refusals ------------------------------------------------------------------------------------------------------------
    def _refuse_inside(self, visual: Tensor, text: Tensor, again: bool, cache: Any) -> None:
        """Selection inside the language model happens once, at a prompt whose last token is there to ask and to answer."""
        if again and not self.method.reprunes():
            raise UserError("Pruning inside the language model needs use_cache=True: without it every step would select again.")
        window = getattr(self.lm.config, "sliding_window", None) if getattr(self.lm.config, "use_sliding_window", True) else None
        if window is not None and window < text.shape[1]:
            raise UserError(
                f"The layers of this model look at the last {window} tokens alone, fewer than the prompt has: tokens can be "
                "dropped before the language model, not inside it."
            )
        kinds = sorted(set(getattr(self.lm.config, "layer_types", None) or ()))
        if len(kinds) > 1:
            raise UserError(
                f"The layers of this model look at different stretches of the prompt ({', '.join(kinds)}): tokens can be dropped "
                "before the language model, not inside it."
            )
        if cache is not None and self.method.reprunes():
            raise UserError("reprune_each_step reproduces generation without a cache: call generate() with use_cache=False.")
        real = torch.arange(text.shape[1], device=text.device) * (text | visual)
        if bool(visual.gather(1, real.amax(1, keepdim=True)).any()):
            raise UserError(
                f"'{self.method.name}' works inside the language model, where the prompt's last token asks and answers, and this "
                "prompt ends with an image: put the question behind it."
            )

    def _refuse_drafts(self, cache: Any) -> None:
        """Speculative decoding may read the prompt and what it drafts behind it in one pass, and take back a part of it."""
        if cache is not None and self.logits > 1:
            raise UserError(
                "Speculative decoding reads drafted tokens together with the prompt, and they would choose what to keep: "
                "generate without assistant model and prompt lookup."
            )

    def _refuse_second_prompt(self, kwargs: dict[str, Any], cache: Any, past: int) -> None:
        """Several tokens on a filled cache are fine when they continue the prompt, and wrong when they are a piece of one, or
        when generate() sliced a longer prompt by the length of the shortened cache."""
        new, pruned = kwargs["inputs_embeds"].shape[1], self.pruned
        if pruned is None and getattr(cache, _PRUNED, False):
            raise UserError("This turn goes on from a cache that was pruned before: give the whole dialogue as one prompt.")
        if pruned is not None and past < pruned.begin:
            raise UserError("A part of the pruned prompt was taken back from the cache: give the prompt anew.")
        if new == 1 or self.logits == new:  # a step, or drafts that are being checked
            return
        if self.method.name != "full" and self.ids is not None and bool(families.visual_mask(self.model, self.ids).any()):
            raise UserError("Visual tokens on a filled cache: chunked prefill and further turns with images cannot be pruned.")
        if pruned is None:
            return
        positions, last = kwargs.get("position_ids"), pruned.last_position
        moved = False
        if positions is not None and last is not None:
            moved = bool((positions[..., :1] != last + 1 + past - pruned.begin).any())
        if past == pruned.begin or self.logits or moved:
            raise UserError(
                "The prompt comes in pieces (chunked prefill), or a further turn follows on a pruned cache: tokens are chosen "
                "when all of a prompt was read. Give the whole dialogue as one prompt."
            )


def _check_source(method: Method, query: QuerySource | None) -> None:
    """UserError where the method wants the question in another space than the one at hand."""
    wanted, here = method.source(), "llm" if query is None else query.name
    if wanted != "auto" and {"words": "llm"}.get(wanted, wanted) != here:
        raise UserError(
            f"'{method.name}' takes relevance from '{wanted}', and the question comes from '{here}': give a query of it."
        )
