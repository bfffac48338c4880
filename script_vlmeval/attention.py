"""The attention rows that methods need, from the layers' own code, on any attention backend.

`output_attentions` forces the eager kernel and N x N memory. Instead the text config's attention function is swapped for one
that captures the rotated queries and keys and stops there, so projections, norms, grouping and rotary embedding are all the
model's own code; only the last row of the softmax is computed.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

_NAME = "script_vlmeval_capture"


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


def last_row(layer: nn.Module, hidden: Tensor, rope: tuple[Tensor, ...], mask: Tensor | None, keys: Tensor | None) -> Tensor:
    """(B, H, L) attention of the last position in fp32, over all positions.

    hidden (B, L, D) is the layer's input; mask its attention mask (None, (B, L) or (B, 1, L, L)); keys the layer's rotated keys
    from the cache, which saves projecting them again.
    """
    attention: Any = layer.self_attn
    query, _ = project(layer, hidden[:, -1:], tuple(c[..., -1:, :] for c in rope))
    if keys is None:
        keys = project(layer, hidden, rope)[1]
    b, heads, _, d = query.shape
    grouped = query.reshape(b, keys.shape[1], heads // keys.shape[1], d)
    scores = torch.einsum("bkgd,bknd->bkgn", grouped, keys).reshape(b, heads, -1) * attention.scaling
    if mask is not None and mask.ndim == 4:
        row = mask[:, :, -1, : scores.shape[-1]]
        scores = scores.masked_fill(~row, torch.finfo(scores.dtype).min) if row.dtype == torch.bool else scores + row
    elif mask is not None:
        scores = scores.masked_fill(~mask[:, None].bool(), torch.finfo(scores.dtype).min)
    return torch.softmax(scores.float(), -1)
