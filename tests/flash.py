"""transformers' own flash-attention path on a CPU: its wrapper and its masks, with plain products in place of the kernels.

Real kernels need a GPU; what can go wrong around them (2-D masks, unpadding, packed sequences) runs here.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
import transformers.modeling_flash_attention_utils as flash
from torch import Tensor
from transformers import AttentionInterface
from transformers.integrations.flash_attention import flash_attention_forward
from transformers.masking_utils import AttentionMaskInterface, flash_attention_mask

NAME = "flash_attention_on_cpu"
CALLS = {"dense": 0, "packed": 0}


def _product(q: Tensor, k: Tensor, v: Tensor, scale: float | None, causal: bool) -> Tensor:
    """q (Q, H, d), k and v (K, H_kv, d); causal is aligned to the last key, as in the kernels."""
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
    scores = torch.einsum("qhd,khd->hqk", q, k) * (scale or q.shape[-1] ** -0.5)
    if causal:
        seen = torch.ones(len(q), len(k), dtype=torch.bool).tril(len(k) - len(q))
        scores = scores.masked_fill(~seen, -torch.inf)
    return torch.einsum("hqk,khd->qhd", scores.softmax(-1), v)


def _dense(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    deterministic: bool = False,
) -> Tensor:
    CALLS["dense"] += 1
    return torch.stack([_product(*row, softmax_scale, causal) for row in zip(q, k, v, strict=True)])


def _packed(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen_q: int = 0,
    max_seqlen_k: int = 0,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    deterministic: bool = False,
) -> Tensor:
    CALLS["packed"] += 1
    out = torch.empty_like(q)
    ends_q, ends_k = cu_seqlens_q.tolist(), cu_seqlens_k.tolist()
    for a, b, c, d in zip(ends_q, ends_q[1:], ends_k, ends_k[1:], strict=False):
        out[a:b] = _product(q[a:b], k[c:d], v[c:d], softmax_scale, causal)
    return out


def _install() -> None:
    original: Any = flash.lazy_import_flash_attention
    pad, unpad = flash._pad_input, flash._unpad_input

    def lazy(implementation: Any, *args: Any, **kwargs: Any) -> Any:
        if implementation not in (NAME, None):  # transformers 4 does not say which
            return original(implementation, *args, **kwargs)
        process = flash._lazy_define_process_function(_packed)
        if (
            "k_cache" in inspect.signature(flash._flash_attention_forward).parameters
        ):  # newer versions also ask for a cached kernel
            return (_dense, _packed, None, pad, unpad), (process, dict)
        return (_dense, _packed, pad, unpad), process

    flash.lazy_import_flash_attention = lazy
    AttentionInterface.register(NAME, flash_attention_forward)
    AttentionMaskInterface.register(NAME, flash_attention_mask)


_install()


def through_flash(model: Any) -> Any:
    """The model with its language model's attention on the flash path."""
    config = model.model.language_model.config
    config._attn_implementation_internal = NAME
    assert config._attn_implementation == NAME
    return model
