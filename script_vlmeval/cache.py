"""A key-value cache that has room for the answer."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

_STEP = 64  # tokens of an answer that there is room for at a time, at most


class Roomy(DynamicLayer):
    """A layer's keys and values (B, H, n, d), the first n of a larger piece of memory.

    transformers' own layer copies all that it holds at every token. This one takes the prompt as it is given, copies it once to
    where `room` more tokens fit, and once more each time that room is used up.
    """

    def __init__(self, room: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.room = max(1, min(room, _STEP))
        self._held: tuple[Tensor, Tensor] | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Keys and values with those of new tokens behind them."""
        old = self.get_seq_length()
        if not old:
            self.dtype, self.device, self.is_initialized = key_states.dtype, key_states.device, True
            self.keys, self.values = key_states, value_states
            return key_states, value_states
        new = old + key_states.shape[-2]
        assert self.keys is not None
        assert self.values is not None
        held = self._held
        if held is None or held[0].data_ptr() != self.keys.data_ptr() or held[0].shape[-2] < new:  # not ours, or full
            held = self._held = (_wider(self.keys, new + self.room), _wider(self.values, new + self.room))
        for memory, states in zip(held, (key_states, value_states), strict=True):
            memory[..., old:new, :] = states
        self.keys, self.values = (memory[..., :new, :] for memory in held)
        return self.keys, self.values


def _wider(states: Tensor, length: int) -> Tensor:
    """A copy with room behind it."""
    wider = states.new_empty(*states.shape[:-2], length, states.shape[-1])
    wider[..., : states.shape[-2], :] = states
    return wider


def roomy(model: nn.Module, room: int) -> Cache | None:
    """A cache for one call of `generate` and answers of `room` tokens; None for a model whose layers keep other things than all
    keys and values, or that was told which cache to use."""
    if getattr(getattr(model, "generation_config", None), "cache_implementation", None) is not None:
        return None
    config: Any = model.config
    layers = DynamicCache(config=config.get_text_config()).layers
    if not layers or any(type(layer) is not DynamicLayer for layer in layers):
        return None
    return Cache(layers=[Roomy(room) for _ in layers])
