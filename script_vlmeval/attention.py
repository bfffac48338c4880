"""The attention rows that methods need, from the layers' own code, on any attention backend.

`output_attentions` forces the eager kernel and N x N memory. Instead the text config's attention function is swapped for one
that takes the rotated queries and keys, and stops there or goes on to the real one, so projections, norms, grouping and rotary
embedding are all the model's own code; of the softmax only the rows that are asked for are computed, in fp32.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from .sequence import take, take_rope

_NAME, _LISTENING = "script_vlmeval_capture", "script_vlmeval_listen"
_CHUNK = 64  # rows at a time: (heads x rows x length) of them are in memory
_ALIKE = 8  # rows from which on a matrix product rounds as one of any number of rows does, here and in most libraries


class _CapturedError(Exception):
    def __init__(self, query: Tensor, key: Tensor) -> None:
        self.query, self.key = query, key


def _capture(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> NoReturn:
    raise _CapturedError(query, key)


@cache
def _register() -> None:
    from transformers import AttentionInterface

    AttentionInterface.register(_NAME, _capture)
    AttentionInterface.register(_LISTENING, _listen)


def _captured(attention: Any, **inputs: Any) -> tuple[Tensor, Tensor]:
    """Queries and keys (B, H, L, d) as an attention module hands them to its kernel."""
    _register()
    config, previous = attention.config, attention.config._attn_implementation
    config._attn_implementation_internal = _NAME
    try:
        attention(attention_mask=None, **inputs)
    except _CapturedError as captured:
        return captured.query, captured.key
    finally:
        config._attn_implementation_internal = previous
    raise RuntimeError(f"{type(attention).__name__} does not go through transformers' attention interface")


def project(layer: nn.Module, hidden: Tensor, rope: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """Rotated queries (B, H, L, d) and keys (B, H_kv, L, d) of a decoder layer, from its un-normed input (B, L, D)."""
    norm: Any = layer.input_layernorm
    return _captured(layer.self_attn, hidden_states=norm(hidden), position_embeddings=rope)


def from_cls(layer: nn.Module, hidden: Tensor) -> tuple[Tensor, Tensor]:
    """What a vision encoder's CLS token, the first of `hidden` (B, 1 + N, E), attends to in one of its layers.

    (B, N) attention after the softmax over all tokens, heads averaged, CLS's own share left out and not made up for; and the
    (B, N, d) keys of the other tokens, heads averaged. In fp32.
    """
    attention: Any = layer.self_attn
    norm: Any = layer.layer_norm1
    query, key = _captured(attention, hidden_states=norm(hidden))
    scores = torch.matmul(query[:, :, :1].float(), key.float().transpose(2, 3)) * attention.scale
    return torch.softmax(scores, -1)[:, :, 0, 1:].mean(1), key[:, :, 1:].float().mean(1)


@dataclass
class Pass:
    """One layer's pass over a prompt, to ask what its positions attend to.

    Queries and keys are those that the layer itself makes where its kernel was overheard, else they are projected: for the
    rows that are asked for, and for all keys where none are at hand. Tokens that are in the cache before the pass, `ahead` of
    the prompt's, have keys alone: they are attended to, and nobody is told how much.
    """

    layer: nn.Module
    hidden: Tensor  # (B, L, D) the layer's input
    rope: tuple[Tensor, ...]
    mask: Tensor | None  # None, (B, ahead + L) or (B, 1, L, ahead + L)
    held: Tensor | None = None  # (B, H_kv, ahead, d) the keys that the cache holds before the layer runs
    query: Tensor | None = None  # (B, H, L, d) rotated
    key: Tensor | None = None  # (B, H_kv, ahead + L, d) rotated

    def of(self, row: Tensor) -> Pass:
        """The same for some samples of the batch, in any order."""
        rope = tuple(c if c.shape[-3] == 1 else c.index_select(-3, row) for c in self.rope)
        mask = self.mask if self.mask is None or len(self.mask) == 1 else self.mask[row]
        held, query, key = (None if x is None else x[row] for x in (self.held, self.query, self.key))
        return Pass(self.layer, self.hidden[row], rope, mask, held, query, key)

    def keys(self) -> Tensor:
        """(B, H_kv, ahead + L, d)."""
        if self.key is None:
            own = project(self.layer, self.hidden, self.rope)[1]
            self.key = own if self.held is None else torch.cat([self.held, own], 2)
        return self.key

    def received(self, at: Tensor) -> Tensor:
        """(B, M, L) what the positions `at` (B, M) attend to: after the softmax over all positions, heads averaged, in fp32.

        Where the model is float32, the same bits as its eager kernel's.
        """
        keys = self.keys().float()
        ahead = keys.shape[2] - self.hidden.shape[1]
        return torch.cat([self._weights(part, keys)[..., ahead:].mean(1) for part in at.split(_CHUNK, 1)], 1)

    def _weights(self, at: Tensor, keys: Tensor) -> Tensor:
        """(B, H, M, ahead + L), for keys (B, H_kv, ahead + L, d)."""
        some = torch.cat([at, at[:, :1].expand(-1, _ALIKE - at.shape[1])], 1) if at.shape[1] < _ALIKE else at
        query = self._query(some).float()
        b, heads, m, d = query.shape
        grouped = query.reshape(b, keys.shape[1], -1, d)  # the heads that share keys, one below the other
        attention: Any = self.layer.self_attn
        scores = torch.matmul(grouped, keys.transpose(2, 3)).view(b, heads, m, -1)[:, :, : at.shape[1]] * attention.scaling
        ahead = keys.shape[2] - self.hidden.shape[1]
        low, later = torch.finfo(scores.dtype).min, torch.arange(keys.shape[2], device=at.device) > at[..., None] + ahead
        if self.mask is None or self.mask.ndim == 2:
            unseen = later if self.mask is None else later | ~self.mask[:, None].bool()
            return torch.softmax(scores.masked_fill(unseen[:, None], low), -1)
        rows = self.mask.expand(len(at), -1, -1, -1)[..., : keys.shape[2]]
        rows = rows.gather(2, at[:, None, :, None].expand(-1, rows.shape[1], -1, rows.shape[3]))
        scores = scores.masked_fill(~rows, low) if rows.dtype == torch.bool else scores + rows.float()
        return torch.softmax(scores, -1)

    def _query(self, at: Tensor) -> Tensor:
        """(B, H, M, d)."""
        if self.query is None:
            return project(self.layer, take(self.hidden, at), tuple(take_rope(c, at) for c in self.rope))[0]
        return self.query.gather(2, at[:, None, :, None].expand(-1, self.query.shape[1], -1, self.query.shape[3]))


class Overheard:
    """Takes queries and keys from a layer's next pass, on their way to its kernel. `stop` puts back what a failed pass left.

    Only kernels that are registered by name can be overheard; a model's own eager function is not.
    """

    def __init__(self, what: Pass) -> None:
        from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

        _register()
        self.what = what
        attention: Any = what.layer.self_attn
        self._config: Any = attention.config
        if (other := _LISTENERS.get(id(self._config))) is not None:
            other.stop()
        self._kernel: str = self._config._attn_implementation
        if self._kernel in ALL_ATTENTION_FUNCTIONS.valid_keys():
            self._run: Callable[..., Any] = ALL_ATTENTION_FUNCTIONS[self._kernel]
            self._config._attn_implementation_internal = _LISTENING
            _LISTENERS[id(self._config)] = self

    def hear(self, module: nn.Module, query: Tensor, key: Tensor, *args: Any, **kwargs: Any) -> Any:
        self.tell(query, key)
        return self._run(module, query, key, *args, **kwargs)

    def tell(self, query: Tensor | None, key: Tensor) -> None:
        """They are known, from the kernel or otherwise: no need to listen any more."""
        self.stop()
        self.what.query, self.what.key = query, key

    def stop(self) -> None:
        if _LISTENERS.pop(id(self._config), None) is not None:
            self._config._attn_implementation_internal = self._kernel


_LISTENERS: dict[int, Overheard] = {}  # by the configuration of the layer that is about to run


def _listen(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
    return _LISTENERS[id(module.config)].hear(module, *args, **kwargs)


# -- encoders without CLS ------------------------------------------------------------------------------------------------------
_NOTING = "script_vlmeval_note"
_MOST = 1 << 24  # attention weights at a time: 64 MiB
_NOTES: dict[int, list[tuple[Tensor, Tensor]]] = {}  # by the configuration of the attention that is being asked


def _note(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, None]:
    """In a kernel's place: nothing is attended to, and what comes out has its shape."""
    _NOTES[id(module.config)].append((query, key))
    return value.transpose(1, 2), None


@cache
def _register_note() -> None:
    from transformers import AttentionInterface

    AttentionInterface.register(_NOTING, _note)


def _noted(attention: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[tuple[Tensor, Tensor]]:
    """Queries and keys (1, H, n, d) of each call that an attention module makes of its kernel: one per image or frame."""
    _register_note()
    config, previous = attention.config, attention.config._attn_implementation
    notes = _NOTES[id(config)] = []
    config._attn_implementation_internal = _NOTING
    try:
        attention.forward(*args, **kwargs)  # past the hooks, which would take it for a pass of the encoder
    finally:
        config._attn_implementation_internal = previous
        del _NOTES[id(config)]
    if not notes:
        raise RuntimeError(f"{type(attention).__name__} does not go through transformers' attention interface")
    return notes


def _from_each(query: Tensor, key: Tensor, scale: float) -> Tensor:
    """(N,) what each key (H, N, d) receives of the queries (H, N, d): after the softmax, mean of heads and queries, in fp32.

    The queries a part at a time, as many as N allows, so that a picture's bits do not depend on how many there are.
    """
    heads, n, _ = query.shape
    keys = key.float().transpose(1, 2)
    total = torch.zeros(n, device=query.device)
    for part in query.split(max(_ALIKE, _MOST // (heads * n)), 1):
        total += torch.softmax(part.float() @ keys * scale, -1).sum((0, 1))
    return total / (heads * n)


def from_patches(layer: nn.Module, hidden: Tensor) -> Tensor:
    """(B, N) what each patch of `hidden` (B, N, E), which enters a layer of a vision encoder without CLS, receives of all."""
    attention: Any = layer.self_attn
    norm: Any = layer.layer_norm1
    query, key = _captured(attention, hidden_states=norm(hidden))
    return torch.stack([_from_each(q, k, attention.scale) for q, k in zip(query, key, strict=True)])


def from_pictures(attention: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """(P,) what each patch receives of those of its own picture or frame, where all of a batch lie in one row.

    args, kwargs: what the attention module was called with.
    """
    return torch.cat([_from_each(q[0], k[0], attention.scaling) for q, k in _noted(attention, args, kwargs)])
