"""What the language model makes of a batch before configurations part: read once, and taken up by each of them.

Two things are the same for all. The words before the first picture (LLaVA's prompt opens with 35 tokens, a budget of 64 has
hardly twice as many) are the same in every row as well, and no later token changes them: their keys and values are computed for
one row. And what drops nothing before a later layer runs the layers before it on the whole prompt, as every other such
configuration does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import DynamicCache

from .attention import Overheard

_ROWS, _OPENING = 8, 8  # of fewer rows, or a shorter opening, each row reads its own: a pass of its own costs more


def opening(ids: Tensor, mask: Tensor | None, visual: Tensor) -> int:
    """How many real tokens, before the first visual one, all rows of a batch begin with: ids, mask and visual are (B, L)."""
    rows = []
    for row, seen, real in zip(ids, visual, torch.ones_like(ids) if mask is None else mask, strict=True):
        words, pictures = row[real.bool()], seen[real.bool()]
        rows.append(words[: int(pictures.long().argmax()) if bool(pictures.any()) else max(0, len(words) - 1)])
    shortest = min(map(len, rows))
    same = torch.stack([row[:shortest] == rows[0][:shortest] for row in rows]).all(0)
    return int(same.long().cumprod(0).sum())


@dataclass
class _Layer:
    """A layer's pass over the whole prompt: what came out, its part of the cache, and the queries where they were asked for."""

    output: Any
    keys: Tensor
    values: Tensor
    query: Tensor | None


class Begun:
    """One batch's beginnings. Give the same object to the contexts of one prepared batch, with a cache from `cache.roomy`.

    opening: how many tokens all rows begin with, see `opening`.
    """

    def __init__(self, opening: int = 0) -> None:
        self.opening = opening
        self.several = True  # whether what the first layers make of the batch will be asked for again
        self._prefix: list[tuple[Tensor, Tensor]] = []  # per layer: keys and values (1, H, p, d)
        self._layers: dict[int, _Layer] = {}

    # -- the opening ---------------------------------------------------------------------------------------------------------
    def enter(self, language_model: Any, kwargs: dict[str, Any], valid: Tensor) -> tuple[int, Tensor]:
        """Put the opening into the cache, and leave it out of the language model's arguments.

        valid (B, L): real tokens of the sequence. Returns how many tokens p are in the cache now, none where rows are padded on
        the right, and valid for all L: the opening stands at the left of every row, and the padding between it and the rest.
        """
        x, positions, p = kwargs["inputs_embeds"], kwargs.get("position_ids"), self.opening
        if len(x) < _ROWS or p < _OPENING or positions is None or bool((valid[:, :-1] & ~valid[:, 1:]).any()):
            return 0, valid
        length = x.shape[1]
        first = length - valid.sum(1)
        if not self._prefix:
            at = first[:1] + torch.arange(p, device=x.device)
            self._prefix = _read(language_model, x[:1].index_select(1, at), positions[..., :1, :].index_select(-1, at))
        for i, (keys, values) in enumerate(self._prefix):
            whole = (len(x), *keys.shape[1:])
            kwargs["past_key_values"].update(keys.expand(whole), values.expand(whole), i)
        rest = torch.arange(length, device=x.device) >= (first + p)[:, None]
        valid = rest | (torch.arange(length, device=x.device) < p)
        kwargs["inputs_embeds"], kwargs["position_ids"] = x[:, p:], positions[..., p:]
        kwargs["attention_mask"] = valid.to(kwargs["attention_mask"].dtype)
        if kwargs.get("cache_position") is not None:
            kwargs["cache_position"] = kwargs["cache_position"][p:]
        return p, valid

    # -- the first layers ----------------------------------------------------------------------------------------------------
    def share(self, layers: Sequence[nn.Module], overheard: Callable[[], Overheard | None]) -> Callable[[], None]:
        """Until what is returned is called, these layers' pass over the prompt is run once, and remembered.

        overheard: who listens to the layer that is about to run, if anybody.
        """
        undo = ExitStack()
        for i, layer in enumerate(layers):
            own = layer.__dict__.get("forward")  # what device placement put there
            layer.forward = self._once(i, layer.forward, overheard)
            undo.callback(_restore, layer, own)
        return undo.close

    def _once(self, i: int, forward: Callable[..., Any], overheard: Callable[[], Overheard | None]) -> Callable[..., Any]:
        def once(*args: Any, **kwargs: Any) -> Any:
            known, listener, cache = self._layers.get(i), overheard(), kwargs["past_key_values"]
            if known is None or (listener is not None and known.query is None):
                output = forward(*args, **kwargs)
                held, query = cache.layers[i], None if listener is None else listener.what.query
                self._layers[i] = _Layer(output, held.keys, held.values, query)
                return output
            if listener is not None:
                listener.tell(known.query, known.keys)
            ahead = cache.get_seq_length(i)  # the opening is there already
            cache.update(known.keys[:, :, ahead:], known.values[:, :, ahead:], i)
            return known.output

        return once


def _restore(layer: nn.Module, forward: Any) -> None:
    if forward is None:
        del layer.forward
    else:
        layer.forward = forward


def _read(language_model: Any, embeds: Tensor, positions: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Keys and values of each layer for one row of tokens."""
    cache: Any = DynamicCache(config=language_model.config)
    mask = torch.ones(embeds.shape[:2], dtype=torch.long, device=embeds.device)
    language_model(inputs_embeds=embeds, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True)
    return [(layer.keys, layer.values) for layer in cache.layers]
