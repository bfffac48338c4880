"""Methods that follow the vision encoder's CLS attention: FasterVLM, VisPruner, VisionZip, HoloV and SCOPE."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor

from script_vlmeval.methods import Visual, get_method

from .inputs import alike, attended, common, normal, seen, smooth, unit
from .registry import Show, finding

N, T = 576, 64


@finding("fastervlm", "Our choice is the released rule's: the tokens with the largest CLS attention.")
def fastervlm_as_released(show: Show) -> bool:
    attention = attended()
    ours = get_method("fastervlm")(seen(smooth(), attention), T).keep.flatten()
    equal = common(ours, attention.topk(T).indices)
    show(f"{equal} of {T} tokens equal, ascending: {bool((ours.diff() > 0).all())}")
    return equal == T


# -- VisPruner -----------------------------------------------------------------------------------------------------------------
def _chosen(features: Tensor, attention: Tensor, t: int, r: float) -> tuple[list[int], list[int]]:
    """What VisPruner keeps, in two: by attention, and the diverse others."""
    keep = get_method("vispruner", important_ratio=r)(seen(features, attention), t).keep.flatten().tolist()
    important = attention.sort(descending=True, stable=True).indices[: int(t * r)].tolist()
    return [i for i in keep if i in important], [i for i in keep if i not in important]


@finding("vispruner", "The diverse half is chaotic: rounding the features to float16 replaces much of it.")
def vispruner_chaos(show: Show) -> bool:
    diverse, whole, attended_alike = {}, {}, True
    for t in (64, 192):
        overlaps = []
        for seed in range(4):
            features, attention = smooth(seed=20 * seed), attended(seed=seed)
            full, half = (_chosen(x, attention, t, 0.5) for x in (features, features.half().float()))
            attended_alike &= full[0] == half[0]
            overlaps.append(common(full[1], half[1]) / len(full[1]))
        diverse[t] = round(sum(overlaps) / 4, 2)
        whole[t] = round((1 + diverse[t]) / 2, 2)
    show(f"share of the diverse tokens that stay, mean of 4 pictures, by budget: {diverse}; of all kept tokens: {whole}")
    show(f"by chance {32 / (N - 32):.2f} and {96 / (N - 96):.2f} of the diverse would stay; the attended stay: {attended_alike}")
    return attended_alike and max(diverse.values()) < 0.8


@finding("vispruner", "Budgets that leave an odd number to deal out stop the release, 63 and 10 among them; ours takes any.")
def vispruner_odd_lists(show: Show) -> bool:
    good = True
    for t in (64, 63, 14, 10):
        left = N - t // 2
        sides = (left + 1) // 2, left // 2
        kept = sum(map(len, _chosen(smooth(), attended(), t, 0.5)))
        show(f"budget {t}: {left} left-over tokens in sides of {sides[0]} and {sides[1]}; ours keeps {kept}")
        good &= kept == t and (sides[0] != sides[1]) == (t != 64)
    return good


@finding("vispruner", "An important_ratio of 1 is FasterVLM.")
def vispruner_ratio_one(show: Show) -> bool:
    methods = get_method("vispruner", important_ratio=1.0), get_method("fastervlm")
    kept = [method(seen(smooth(), attended()), T).keep for method in methods]
    show(f"{common(*kept)} of {T} tokens equal")
    return torch.equal(*kept)


# -- VisionZip -----------------------------------------------------------------------------------------------------------------
def _zipped(hidden: Tensor, keys: Tensor, attention: Tensor, d: int, m: int) -> tuple[Tensor, list[int]]:
    """The released rule's merged tokens (m, E), and how many tokens joined each: `hidden` (577, E) begins with CLS."""
    dominant = {0, *(1 + attention.topk(d - 1).indices).tolist()}
    left = [i for i in range(len(hidden)) if i not in dominant]
    targets = left[:: max(1, len(left) // m)][:m]
    rest = [i for i in left if i not in targets]
    home = (unit(keys[rest]) @ unit(keys[targets]).T).argmax(1).tolist()
    members = [[i for i, h in zip(rest, home, strict=True) if h == q] for q in range(m)]
    rows = [hidden[t] + (hidden[own].mean(0) if own else 0) for t, own in zip(targets, members, strict=True)]
    return torch.stack(rows), [len(own) for own in members]


def _encoded(shared: float = 1.0) -> tuple[Tensor, Tensor, Tensor, Visual]:
    """Hidden states with CLS, keys, attention of the patches, and the same as methods see them.

    shared: length of the direction that all patches have in common, beside what is their own.
    """
    hidden = torch.cat([normal(1, 256, seed=8), smooth() + shared * normal(1, 256, seed=9)])
    keys, attention = normal(577, 64, seed=10), attended()
    visual = replace(
        seen(hidden[1:], attention), encoder_keys=keys[None, None, 1:], cls=hidden[None, None, 0], project=lambda x: x
    )
    return hidden, keys, attention, visual


@finding("visionzip", "A merged token is a sum, centre plus mean of what joins it, and so up to twice as long as other tokens.")
def visionzip_sum(show: Show) -> bool:
    longer: dict[str, list[float]] = {"sum": [], "mean": []}
    gap = 0.0
    for shared in (0.0, 1.0, 3.0):
        hidden, keys, attention, visual = _encoded(shared)
        released, _ = _zipped(hidden, keys, attention, 54, 10)
        usual = float(hidden[1:].norm(dim=-1).median())
        for combine, found in longer.items():
            ours = get_method("visionzip", combine=combine)(visual, T).tokens[0, 0, 54:]
            found.append(round(float(ours.norm(dim=-1).mean()) / usual, 2))
            gap = max(gap, float((released - ours).abs().max())) if combine == "sum" else gap
    show("length of 10 merged tokens against the median patch, the more patches have in common (3 steps):")
    show(f"  combine=sum {longer['sum']}, combine=mean {longer['mean']}")
    show(f"ours with combine=sum, the default, differs from the re-stated release by at most {gap:.1e}")
    ordered = 1 < longer["sum"][0] < longer["sum"][1] < longer["sum"][2] < 2.1
    return ordered and longer["sum"][2] > 1.8 and max(longer["mean"]) < 1.1 and gap < 1e-4


@finding("visionzip", "64 tokens are 53 patches, CLS and 10 merged tokens; LLaVA was not trained on CLS or on merged ones.")
def visionzip_what_64_means(show: Show) -> bool:
    *_, visual = _encoded()
    good = True
    for k, patches, merged in ((64, 53, 10), (128, 107, 20), (192, 161, 30)):
        keep = get_method("visionzip")(visual, k).keep.flatten()
        show(f"{k}: {int((keep >= 0).sum())} patches in their places, {int((keep < 0).sum())} others (CLS and {merged} merged)")
        good &= int((keep >= 0).sum()) == patches and int((keep < 0).sum()) == merged + 1
    return good


@finding("visionzip", "No merged tokens at all is a division by zero in the release; ours allows it.")
def visionzip_zero_contextual(show: Show) -> bool:
    hidden, keys, attention, visual = _encoded()
    try:
        _zipped(hidden, keys, attention, 64, 0)
        released = "works"
    except ZeroDivisionError:
        released = "divides by zero"
    kept = get_method("visionzip", contextual=0)(visual, T).keep.flatten()
    show(f"re-stated release: {released}; ours: {int((kept >= 0).sum())} patches and CLS")
    return released != "works" and len(kept) == T and int((kept < 0).sum()) == 1


# -- HoloV ---------------------------------------------------------------------------------------------------------------------
def _run_scores(features: Tensor, attention: Tensor, crops: int) -> Tensor:
    """HoloV's score of each run: attention plus weighted variance of similarities."""
    scores = []
    for run in torch.arange(len(features)).tensor_split(crops):
        s = unit(features[run]) @ unit(features[run]).T
        s.fill_diagonal_(0)
        others = len(run) - 1
        mean = s.sum(1, keepdim=True) / others
        variance, a = ((s - mean) ** 2).sum(1) / others, 1000 * attention[run]
        scores.append((a + 0.09 * variance * a.abs().mean() / (variance.abs().mean() + 1e-6)).mean())
    return torch.stack(scores)


def _holov(features: Tensor, attention: Tensor, crops: int, t: int) -> tuple[list[int], int]:
    """The released rule's tokens in its order, and how many zero rows it adds."""
    score = _run_scores(features, attention, crops)
    w = score / (score.sum() + 1e-6)
    quota = (w * t).floor().long()
    quota[w.topk(t - int(quota.sum())).indices] += 1
    kept = []
    for run, q in zip(torch.arange(len(features)).tensor_split(crops), quota.tolist(), strict=True):
        kept += run.tolist() if q >= len(run) else run[attention[run].topk(q).indices].tolist()
    return kept[:t], t - len(kept[:t])


@finding(
    "holov", "The variance of similarities has no effect: run scores are 1.09 times the mean attention, whatever the picture."
)
def holov_variance_void(show: Show) -> bool:
    good = True
    for seed in range(3):
        features, attention = smooth(seed=11 * seed), attended(seed=seed)
        mean = torch.stack([1000 * run.mean() for run in attention.tensor_split(16)])
        ratio = _run_scores(features, attention, 16) / mean
        kept = [get_method("holov", variance=v)(seen(features, attention), T).keep for v in (0.09, 0.0, 0.9)]
        show(f"score / mean attention from {float(ratio.min()):.5f} to {float(ratio.max()):.5f}")
        good &= bool((ratio - 1.09).abs().max() < 1e-3) and torch.equal(kept[0], kept[1]) and torch.equal(kept[0], kept[2])
    show(f"ours keeps the same {T} tokens with a variance weight of 0.09, 0 and 0.9: {good}")
    return good


@finding("holov", "What a run's quota has beyond its size is lost: the release fills up with zero vectors.")
def holov_zero_rows(show: Show) -> bool:
    features, attention = smooth(), attended()
    attention[180:216] += 0.02  # one run of 36 with a large share of the attention
    attention = attention / attention.sum()
    kept, zero = _holov(features, attention, 16, 192)
    ours = get_method("holov")(seen(features, attention), 192).keep.flatten()
    show(
        f"192 wanted: {len(kept)} tokens and {zero} zero rows in the re-stated release, {len(set(ours.tolist()))} tokens in ours"
    )
    show(f"the release's tokens among ours: {common(ours, kept)} of {len(kept)}")
    return zero > 0 and len(set(ours.tolist())) == 192 and common(ours, kept) == len(kept)


@finding(
    "holov", "Released tokens stand in the order of their attention within a run, so positions no longer follow the picture."
)
def holov_attention_order(show: Show) -> bool:
    features, attention = smooth(seed=2), attended(seed=2)
    kept, zero = _holov(features, attention, 16, T)
    ours = get_method("holov")(seen(features, attention), T).keep.flatten().tolist()
    backward = sum(a > b for a, b in pairwise(kept))
    show(f"{backward} of {T - 1} steps in the release go backward; the same set as ours, which ascends: {sorted(kept) == ours}")
    return zero == 0 and backward > 0 and sorted(kept) == ours


# -- SCOPE ---------------------------------------------------------------------------------------------------------------------
def _scope(features: Tensor, attention: Tensor, t: int, *, positive: bool = False) -> list[int]:
    """The released rule's picks; `positive`: with negative cosines cut off beforehand."""
    s = unit(features) @ unit(features).T
    s = s.clamp_min(0) if positive else s
    cover, picks = torch.zeros(len(s)), list[int]()
    for _ in range(t):
        score = (s - cover[:, None]).clamp_min(0).sum(0) * attention
        score[picks] = -torch.inf
        picks.append(int(score.argmax()))
        cover = torch.maximum(cover, s[:, picks[-1]])
    return picks


@finding("scope", "Our picks are the released rule's, one by one.")
def scope_as_released(show: Show) -> bool:
    features, attention = smooth(seed=6), attended(seed=6)
    ours = get_method("scope").order(seen(features, attention), T).flatten().tolist()
    equal = sum(int(a == b) for a, b in zip(ours, _scope(features, attention, T), strict=True))
    show(f"{equal} of {T} picks equal, in order")
    return equal == T


@finding("scope", "Coverage starts at 0, so opposite tokens count as merely unlike: negative cosines never matter.")
def scope_negative_cosines(show: Show) -> bool:
    features, attention = smooth(seed=6), attended(seed=6)
    s = unit(features) @ unit(features).T
    equal = _scope(features, attention, T) == _scope(features, attention, T, positive=True)
    show(f"{float((s < 0).float().mean()):.0%} of the cosines are negative; picks with them set to 0 are the same: {equal}")
    return equal and bool((s < 0).float().mean() > 0.2)


@finding(
    "scope", "A strong saliency overrules coverage: with attention as peaked as CLS attention is, most picks are its largest."
)
def scope_saliency_share(show: Show) -> bool:
    features, shares = alike(0.3), {}
    for sharpness in (0.1, 1.0, 3.0):
        attention = attended(seed=6, sharpness=sharpness)
        picks = get_method("scope")(seen(features, attention), T).keep
        shares[sharpness] = common(picks, attention.topk(T).indices)
    show(f"of {T} picks, among the {T} most attended tokens, by sharpness of the attention: {shares}")
    return shares[0.1] <= shares[1.0] <= shares[3.0] and shares[3.0] > 48
