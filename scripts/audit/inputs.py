"""Made-up visual tokens, seeded, and arithmetic that several demonstrations share."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import interpolate, normalize

from script_vlmeval import plans
from script_vlmeval.methods import Visual


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def alike(cosine: float, n: int = 576, d: int = 512, seed: int = 0) -> Tensor:
    """(n, d) tokens of unit length, about, whose pairwise cosines are `cosine` on average."""
    shared, own = math.sqrt(cosine / d), math.sqrt((1 - cosine) / d)
    return shared * normal(1, d, seed=seed + 900) + own * normal(n, d, seed=seed)


def smooth(side: int = 24, d: int = 256, seed: int = 0, noise: float = 0.3) -> Tensor:
    """(side * side, d) tokens that resemble their neighbours on the map, as patches of a picture do."""
    field = interpolate(normal(1, d, 7, 7, seed=seed), size=(side, side), mode="bicubic", align_corners=False)
    return field[0].flatten(1).T + noise * normal(side * side, d, seed=seed + 1)


def attended(n: int = 576, seed: int = 0, sharpness: float = 1.0) -> Tensor:
    """(n,) attention of a few strong tokens and many weak ones, of sum 1."""
    return (sharpness * normal(n, seed=seed)).softmax(-1)


def asked(features: Tensor, keys: Tensor, query: Tensor, *, sign: int = -1) -> Visual:
    """One image of one tile (N, D), or of as many as features (G, N, D) has, with a question (M, C)."""
    tiled = features.ndim == 3
    tokens, keys = (features[None], keys[None]) if tiled else (features[None, None], keys[None, None])
    return Visual(tokens, keys=keys, query=query[None], encoded=tokens, sign=sign)


def seen(features: Tensor, attention: Tensor) -> Visual:
    """One tile as the vision encoder saw it."""
    x = features[None, None]
    return Visual(x, encoded=x, saliency=attention[None, None])


def unit(x: Tensor) -> Tensor:
    rows: Tensor = normalize(x, dim=-1)
    return rows


def minmax(x: Tensor) -> Tensor:
    """CDPruner's: 1e-6 in the numerator only, nothing guards the division."""
    return (x - x.min() + 1e-6) / (x.max() - x.min())


def common(a: Tensor | list[int], b: Tensor | list[int]) -> int:
    """How many indices two selections share."""
    one, other = (set(x.flatten().tolist()) if isinstance(x, Tensor) else set(x) for x in (a, b))
    return len(one & other)


def log_volume(features: Tensor, weight: Tensor, picks: Tensor | list[int]) -> float:
    """log det of the kernel diag(w) S diag(w) of the picked tokens: what a greedy MAP of a DPP tries to make large."""
    a = unit(features[picks].double())
    return float(torch.linalg.slogdet(a @ a.T).logabsdet + 2 * weight[picks].double().log().sum())


def layer_mean(stages: dict[int, int], layers: int = 32, n: int = 576) -> float:
    """Mean over layers of the visual tokens that enter them; stages: first layer -> tokens from there on."""
    return plans.layer_mean(stages, n, layers)
