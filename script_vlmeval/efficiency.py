"""What a prefill costs, counted from the tokens that entered each layer: floating-point operations and bytes of the cache.

A multiply-add is two operations, and only matrix products count: norms, rotary positions, softmax and activations are below a
percent. These are the conventions of `torch.utils.flop_counter`, so a count can be checked against a run. Tokens are real ones,
text included; the padding of a batch is computed too and counted nowhere, since it depends on who is asked together.

Papers on pruning count visual tokens alone and heads that share no keys (`papers_flops`). That gives 41.65 and 4.20 TFLOPs for
2,880 and 320 tokens of LLaVA-NeXT-7B, where Script prints 41.7 and 4.1, and CDPruner 39.2 and 4.0. Caches of these are 1,440 and
160 MiB, where Script prints 169 (338 tokens) and CDPruner 2,250 and 250 (2,880 and 320 tokens of a 13B model).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from .errors import UserError

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}  # of an element
_PLAIN = ("phi", "gpt_neox", "starcoder2", "nemotron")  # language models whose MLP has no gate
_SIZES = {
    "layers": "num_hidden_layers",
    "hidden": "hidden_size",
    "heads": "num_attention_heads",
    "ffn": "intermediate_size",
    "vocab": "vocab_size",
}


@dataclass(frozen=True)
class Shape:
    """Sizes of a language model. matrices: of an MLP, 3 with a gate, 2 without.

    A mixture of experts has `experts` of width `expert_ffn` for each token, chosen among `routed`, and `shared` more columns for
    all tokens; its `dense` layers have an ordinary MLP of width `ffn`.
    """

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocab: int
    matrices: int = 3
    experts: int = 0
    expert_ffn: int = 0
    routed: int = 0
    shared: int = 0
    dense: tuple[int, ...] = ()

    @classmethod
    def of(cls, config: Any) -> Shape:
        """Of a transformers configuration or the dictionary of one; of a whole model's, its language model's part. UserError that
        names the sizes it lacks, and for keys and values that are not kept as such (latent attention)."""
        get = _reader(config)
        sizes = {name: get(key) for name, key in _SIZES.items()}
        if lacking := [_SIZES[name] for name, size in sizes.items() if not isinstance(size, int) or size < 1]:
            raise UserError(f"The cost of '{get('model_type')}' cannot be counted: its configuration lacks {', '.join(lacking)}.")
        if get("kv_lora_rank"):
            raise UserError(f"The cost of '{get('model_type')}' cannot be counted: its attention is latent (kv_lora_rank).")
        return cls(
            **sizes,
            kv_heads=get("num_key_value_heads") or sizes["heads"],
            head_dim=get("head_dim") or sizes["hidden"] // sizes["heads"],
            matrices=2 if get("model_type") in _PLAIN else 3,
            **_mixture(get, sizes["layers"], sizes["ffn"]),
        )

    @property
    def inner(self) -> int:
        """Width of all queries of a token."""
        return self.heads * self.head_dim

    @property
    def kept(self) -> int:
        """Width of the keys, or values, of a token in one layer."""
        return self.kv_heads * self.head_dim

    @property
    def logits(self) -> int:
        """Operations of one token's."""
        return 2 * self.hidden * self.vocab

    @property
    def projections(self) -> int:
        """Operations of one token's q, k, v and o in one layer."""
        return 4 * self.hidden * (self.inner + self.kept)

    def mlp(self, layer: int) -> int:
        """Operations of one token's MLP, with the choice of its experts."""
        if not self.experts or layer in self.dense:
            return 2 * self.matrices * self.hidden * self.ffn
        return 2 * self.hidden * (self.matrices * (self.experts * self.expert_ffn + self.shared) + self.routed)


def _reader(config: Any) -> Callable[[str], Any]:
    """A key -> what the language model's part of the configuration says, None for nothing."""
    if isinstance(config, dict):
        return (config.get("text_config") or config).get
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    return lambda key: getattr(text, key, None)


def _mixture(get: Callable[[str], Any], layers: int, ffn: int) -> dict[str, Any]:
    """What a mixture of experts adds; families call it by several names. Nothing for other models."""
    routed = next((n for key in ("num_experts", "num_local_experts", "n_routed_experts") if (n := get(key))), 0)
    if not routed:
        return {}
    width, every = get("moe_intermediate_size") or ffn, get("decoder_sparse_step") or 1
    first, named = get("first_k_dense_replace") or 0, get("mlp_only_layers") or ()
    return {
        "experts": get("num_experts_per_tok") or 1,
        "expert_ffn": width,
        "routed": routed,
        "shared": get("shared_expert_intermediate_size") or width * (get("n_shared_experts") or 0),
        "dense": tuple(i for i in range(layers) if i < first or i in named or (i + 1) % every),
    }


def prefill_flops(shape: Shape, entering: Sequence[float]) -> float:
    """Of one sample. entering: how many of its tokens entered each layer, T_l.

    The sum over layers of T_l (4 h (H D + c) + 6 h f) + 4 T_l^2 H D, with c = kv_heads D, and 2 h V for the last token's logits.
    The half of the attention that causality hides is counted, as kernels without a causal path compute it and torch's counter
    says. What a method inside the language model looks at, a few rows of attention, belongs to selection and is left out.
    """
    linear = sum(tokens * (shape.projections + shape.mlp(i)) for i, tokens in enumerate(_each(shape, entering)))
    return linear + 4 * shape.inner * sum(tokens * tokens for tokens in entering) + shape.logits


def decode_flops(shape: Shape, entering: Sequence[float], generated: int = 0) -> float:
    """Of one new token, behind a prefill of `entering` and `generated` more tokens in the cache. It sees all these and itself."""
    one = sum(shape.projections + shape.mlp(i) for i in range(len(_each(shape, entering))))
    return one + 4 * shape.inner * sum(tokens + generated + 1 for tokens in entering) + shape.logits


def papers_flops(shape: Shape, visual: Sequence[float]) -> float:
    """By the convention of the papers: visual tokens alone, n_l of them in layer l, every head with keys of its own.

    The sum over layers of 2 (4 n d^2 + 2 n^2 d + 3 n d m), with d the hidden width and m the MLP's. No text, logits, vision tower
    or selection, so it is below the real cost, and ratios of it are above the real ones.
    """
    d = shape.hidden
    return sum(8 * n * d * d + 4 * n * n * d + n * shape.mlp(i) for i, n in enumerate(_each(shape, visual)))


def kv_bytes(shape: Shape, entering: Sequence[float], bytes_each: int) -> int:
    """Of one sample's cache behind the prefill: keys and values of what entered each layer. bytes_each: of an element.

    Of layers with a sliding window, which keep less than that, it is the upper bound.
    """
    return round(2 * shape.kept * bytes_each * sum(_each(shape, entering)))


def _each(shape: Shape, entering: Sequence[float]) -> Sequence[float]:
    """UserError unless there is one number for each layer."""
    if len(entering) != shape.layers:
        raise UserError(f"Tokens of {len(entering)} layers were given, and the language model has {shape.layers}.")
    return entering


def counted(shape: Shape, bytes_each: int, entering: Sequence[float], text: float, visual: float) -> dict[str, float]:
    """All figures of one sample by their names in a result, also had nothing been pruned.

    text, visual: how many tokens the prompt had of either before any was dropped. bytes_each: of an element of the cache.
    """
    full = [text + visual] * shape.layers
    return {
        **_prefill(shape, bytes_each, entering, text),
        "decode_flops": decode_flops(shape, entering),
        **{f"unpruned_{name}": value for name, value in _prefill(shape, bytes_each, full, text).items()},
    }


def _prefill(shape: Shape, bytes_each: int, entering: Sequence[float], text: float) -> dict[str, float]:
    return {
        "prefill_flops": prefill_flops(shape, entering),
        "papers_flops": papers_flops(shape, [tokens - text for tokens in entering]),
        "kv_bytes": kv_bytes(shape, entering, bytes_each),
    }
