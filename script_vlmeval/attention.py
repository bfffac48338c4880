"""The attention rows that methods need, from the layers' own code, on any attention backend.

`output_attentions` forces the eager kernel and N x N memory. Instead the text config's attention function is swapped for one
that captures the rotated queries and keys and stops there, so projections, norms, grouping and rotary embedding are all the
model's own code; only the rows that are asked for are computed, in fp32.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NoReturn, TypeAlias

import torch
from torch import Tensor, nn

from .sequence import take, take_rope

_NAME = "script_vlmeval_capture"
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


Inputs: TypeAlias = tuple[nn.Module, Tensor, tuple[Tensor, ...], Tensor | None]  # a layer, hidden states, rotary tables, mask


def of_rows(inputs: Inputs, row: Tensor) -> Inputs:
    """A layer's inputs for some samples of the batch, in any order."""
    layer, hidden, rope, mask = inputs
    rope = tuple(c if c.shape[-3] == 1 else c.index_select(-3, row) for c in rope)
    return layer, hidden[row], rope, mask if mask is None or len(mask) == 1 else mask[row]


def received(
    layer: nn.Module, hidden: Tensor, rope: tuple[Tensor, ...], mask: Tensor | None, at: Tensor, keys: Tensor | None = None
) -> Tensor:
    """(B, M, L) what the positions `at` (B, M) attend to in a layer: after the softmax over all positions, heads averaged, fp32.

    hidden (B, L, D) is the layer's input; mask its attention mask (None, (B, L) or (B, 1, L, L)); keys the layer's rotated keys
    from the cache, which saves projecting them again. Where the model is float32, the same bits as its eager kernel's.
    """
    if keys is None:
        keys = project(layer, hidden, rope)[1]
    grouped: Any = layer.self_attn
    keys = keys.float().repeat_interleave(grouped.num_key_value_groups, 1)
    parts = [_rows(layer, hidden, rope, mask, part, keys).mean(1) for part in at.split(_CHUNK, 1)]
    return torch.cat(parts, 1)


def _rows(layer: nn.Module, hidden: Tensor, rope: tuple[Tensor, ...], mask: Tensor | None, at: Tensor, keys: Tensor) -> Tensor:
    """(B, H, M, L), for keys (B, H, L, d)."""
    attention: Any = layer.self_attn
    some = torch.cat([at, at[:, :1].expand(-1, _ALIKE - at.shape[1])], 1) if at.shape[1] < _ALIKE else at
    query, _ = project(layer, take(hidden, some), tuple(take_rope(c, some) for c in rope))
    scores = torch.matmul(query.float(), keys.transpose(2, 3))[:, :, : at.shape[1]] * attention.scaling
    later = torch.arange(keys.shape[2], device=at.device) > at[..., None]
    if mask is not None and mask.ndim == 4:
        rows = mask.expand(len(at), -1, -1, -1)[..., : keys.shape[2]]
        rows = rows.gather(2, at[:, None, :, None].expand(-1, rows.shape[1], -1, rows.shape[3]))
        low = torch.finfo(scores.dtype).min
        scores = scores.masked_fill(~rows, low) if rows.dtype == torch.bool else scores + rows.float()
    else:
        hidden_keys = later if mask is None else later | ~mask[:, None].bool()
        scores = scores.masked_fill(hidden_keys[:, None], torch.finfo(scores.dtype).min)
    return torch.softmax(scores, -1)
