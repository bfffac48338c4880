"""Methods that read the question besides CDPruner and Script: TRIM and MMTok."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from script_vlmeval.methods import get_method

from .inputs import asked, common, normal, smooth, unit
from .registry import Show, finding

N, T = 576, 64


def _trim(products: Tensor, ratio: float | None = None) -> tuple[list[Tensor], int]:
    """The released rule for a batch of raw products (B, N): kept tokens of each tile, and their number, one for all.

    Without a ratio it is the share of outliers among all softmax values of the batch.
    """
    p = (-products).softmax(-1)
    if ratio is None:
        low, high = torch.quantile(p, torch.tensor([0.25, 0.75]))
        ratio = float((p > high + 1.5 * (high - low)).double().mean())
    n = int(products.shape[1] * ratio)
    return [row.topk(n).indices for row in p], n


def _outliers(products: Tensor) -> int:
    """Tokens that our automatic count keeps for one image."""
    method = get_method("trim")
    visual = asked(smooth(), products[:, None], torch.ones(1, 1))
    return int(N * float(method.outliers(visual)))  # type: ignore[attr-defined]


@finding("trim", "The released relevance is a raw product, not the paper's cosine: other tokens are kept where lengths differ.")
def trim_raw_product(show: Show) -> bool:
    keys, query = normal(N, 64, seed=1) * (0.5 * normal(N, 1, seed=3)).exp(), normal(1, 64, seed=2)
    released = _trim((keys @ query[0])[None], T / N)[0][0]
    cosine = (-(unit(keys) @ unit(query)[0])).topk(T).indices
    visual = replace(asked(smooth(), keys, query), project=lambda x: x)
    ours = get_method("trim")(visual, T + 1).keep.flatten()[:-1]
    show(f"of {T} tokens, {common(released, cosine)} are also those of smallest cosine")
    show(f"ours keeps {common(ours, released)} of {T} as the re-stated release")
    return common(released, cosine) < T - 8 and common(ours, released) == T


@finding("trim", "The release keeps the tokens least like the question, as CDPruner does; the sign is an option here.")
def trim_sign(show: Show) -> bool:
    keys, query = normal(N, 64, seed=1), normal(1, 64, seed=2)
    products = keys @ query[0]
    visual = replace(asked(smooth(), keys, query), project=lambda x: x)
    mean = {s: float(products[get_method("trim", sign=s)(visual, T + 1).keep.flatten()[:-1]].mean()) for s in (None, -1, 1)}
    released = float(products[_trim(products[None], T / N)[0][0]].mean())
    show(f"mean product of the kept tokens in the re-stated release {released:+.1f}, of all {float(products.mean()):+.1f}")
    show(f"in ours, by sign (none is the space's own, -1 with CLIP): { {s: round(x, 1) for s, x in mean.items()} }")
    return abs(released - mean[-1]) < 1e-3 and mean[None] == mean[-1] < 0 < mean[1]


@finding("trim", "The automatic count takes its quartiles over the whole batch, so an image's count depends on its batch mates.")
def trim_batch_quartiles(show: Show) -> bool:
    image, mate = 2 * normal(N, seed=1), 0.5 * normal(N, seed=2)
    alone, together = _trim(image[None])[1], _trim(torch.stack([image, mate]))[1]
    ours = _outliers(image)
    show(f"tokens of one image: {alone} alone, {together} beside another in the re-stated release; ours {ours}, always")
    return alone != together and ours == alone


@finding("trim", "The automatic count can be 0, where the release fails; ours then keeps the mean token alone.")
def trim_no_outliers(show: Show) -> bool:
    products = torch.linspace(-0.5, 0.5, N)
    released, ours = _trim(products[None])[1], _outliers(products)
    visual = replace(asked(smooth(), products[:, None], torch.ones(1, 1)), project=lambda x: x)
    reduced = get_method("trim")(visual, ours + 1)
    gap = float((reduced.tokens[0, 0, 0] - visual.tokens[0, 0].mean(0)).abs().max())
    show(f"evenly spread relevance: {released} outliers in the re-stated release, {ours} in ours")
    show(f"ours with budget {ours + 1}: one token, which differs from the mean of all by {gap:.0e}")
    return released == ours == 0 and reduced.keep.flatten().tolist() == [-1] and gap < 1e-5


@finding("trim", "The mean token comes on top of the released budget, 64 are 65; ours counts it.")
def trim_plus_one(show: Show) -> bool:
    products = normal(N, seed=1)
    n = _trim(products[None], 0.1112)[1]
    visual = replace(asked(smooth(), products[:, None], torch.ones(1, 1)), project=lambda x: x)
    ours = get_method("trim")(visual, T).keep.flatten()
    show(f"ratio 0.1112: {n} tokens and the mean in the release; ours with 64: {int((ours >= 0).sum())} and the mean")
    return n == 64 and len(ours) == 64 and int((ours >= 0).sum()) == 63


# -- MMTok ---------------------------------------------------------------------------------------------------------------------
def _coverage(vision: Tensor, encoded: Tensor, words: Tensor, t_tv: float, alpha: float = 0.5) -> Tensor:
    """The released rows to cover: words, and patches."""
    p = (unit(words) @ unit(vision).T / t_tv).softmax(-1) / len(words)
    q = (unit(encoded) @ unit(encoded).T / 0.2).softmax(-1) / len(vision)
    return torch.cat([p, alpha * q])


def _mmtok(rows: Tensor, t: int, excluded: list[int]) -> list[int]:
    """The released picks; what is chosen and what is excluded is never the largest, unless there is nothing else."""
    best, picks = torch.zeros(len(rows)), list[int]()
    for _ in range(t):
        gain = (rows - best[:, None]).clamp_min(0).sum(0)
        gain[[*picks, *excluded]] = -torch.inf
        picks.append(int(gain.argmax()))
        best = torch.maximum(best, rows[:, picks[-1]])
    return picks


@finding("mmtok", "Our choice is the released rule's, at either temperature.")
def mmtok_as_released(show: Show) -> bool:
    vision, encoded, words = smooth(seed=1), smooth(seed=2), normal(5, 256, seed=3)
    visual = replace(asked(vision, vision, words), encoded=encoded[None, None])
    equal = {}
    for t_tv in (0.02, 0.01):
        released = _mmtok(_coverage(vision, encoded, words, t_tv), T, [])
        equal[t_tv] = common(get_method("mmtok", t_tv=t_tv)(visual, T).keep, released)
    show(f"of {T} tokens equal, by t_tv: {equal}")
    return set(equal.values()) == {T}


@finding("mmtok", "The released temperature of words is 0.02 on LLaVA and 0.01 on Qwen2.5-VL; it changes some of the choice.")
def mmtok_temperature(show: Show) -> bool:
    vision = smooth(seed=1, noise=1.0) + 2 * normal(1, 256, seed=9)
    visual = replace(asked(vision, vision, normal(20, 256, seed=3)), encoded=smooth(seed=2)[None, None])
    kept = {t: get_method("mmtok", t_tv=t)(visual, T).keep for t in (0.02, 0.01)}
    shared = common(kept[0.02], kept[0.01])
    show(f"20 words: {shared} of {T} tokens are kept at both temperatures")
    return T // 2 < shared < T


@finding("mmtok", "When only padding is left, the release repeats token 0; ours goes on with the padding.")
def mmtok_padding_repeats(show: Show) -> bool:
    vision, encoded, words = (x[:144] for x in (smooth(seed=1), smooth(seed=2), normal(5, 256, seed=3)))
    padding = list(range(96, 144))
    released = _mmtok(_coverage(vision, encoded, words, 0.02), 110, padding)
    shown = torch.ones(1, 1, 144, dtype=torch.bool)
    shown[..., padding] = False
    visual = replace(asked(vision, vision, words), encoded=encoded[None, None], shown=shown)
    ours = get_method("mmtok")(visual, 110).keep.flatten().tolist()
    show(f"110 wanted of 96 patches and 48 of padding: {len(set(released))} different tokens in the re-stated release")
    show(f"ours: {len(set(ours))}, {common(ours, padding)} of them padding; token 0 in the release: {released.count(0)} times")
    return len(set(released)) == 96 and released.count(0) == 15 and len(set(ours)) == 110 and common(ours, padding) == 14
