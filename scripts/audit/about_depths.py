"""Methods inside the language model with a few stages at fixed depths: PyramidDrop and SparseVLM."""

from __future__ import annotations

from fractions import Fraction

import torch
from torch import Tensor

from script_vlmeval.errors import UserError
from script_vlmeval.methods import Visual, get_method
from script_vlmeval.methods.sparsevlm import density_peaks, split

from . import embedded
from .inputs import common, layer_mean, normal, smooth
from .registry import Show, finding

SEEDS = (1, 2, 3, 4)
STAGES = {1: 72, 3: 36, 4: 18}  # PyramidDrop's default for 144 tokens in the 6 layers of the embedded model
KEPT = {192: (300, 200, 110), 128: (303, 110, 36), 96: (238, 48, 26), 64: (66, 30, 17)}  # SparseVLM's tables
AFTER = (3, 7, 16)


# -- PyramidDrop ---------------------------------------------------------------------------------------------------------------
@finding("pyramiddrop", "Apart from positions our prefill is the rule as read in the release, layer by layer.")
def pyramiddrop_as_read(show: Show) -> bool:
    method, equal, gap = get_method("pyramiddrop"), [], 0.0
    for seed in SEEDS:
        ours, logits = embedded.pruned(method, embedded.prompts([seed]))
        kept, expected = embedded.pyramid(seed, STAGES, renumbered=False)
        equal.append([common(ours[s][0], k) for s, k in zip(STAGES, kept, strict=True)])
        gap = max(gap, float((logits - expected).abs().max()))
    show(f"embedded model, 4 pictures, of {list(STAGES.values())} tokens kept at the stages, equal: {equal}")
    show(f"logits of the last token differ by at most {gap:.1e}")
    return equal == [list(STAGES.values())] * 4 and gap < 1e-3


@finding(
    "pyramiddrop", "The release numbers tokens anew after each stage; ours keeps positions. Later stages then keep other tokens."
)
def pyramiddrop_renumbered(show: Show) -> bool:
    shared, gaps = [], []
    for seed in SEEDS:
        (kept, logits), (anew, others) = (embedded.pyramid(seed, STAGES, renumbered=x) for x in (False, True))
        shared.append([common(a, b) for a, b in zip(kept, anew, strict=True)])
        gaps.append(round(float((logits - others).abs().max()), 2))
    show(f"embedded model, 4 pictures, of {list(STAGES.values())} tokens at the stages, kept under both: {shared}")
    show(f"largest difference of the last token's logits: {gaps}")
    return all(s[0] == 72 for s in shared) and any(s[-1] < 18 for s in shared) and min(gaps) > 0


@finding(
    "pyramiddrop", "It asks the layer that a stage comes before; FastV asks the layer before that, which keeps other tokens."
)
def pyramiddrop_looks_ahead(show: Show) -> bool:
    shared = []
    for seed in SEEDS:
        layers, at = embedded.attended_by_layer(seed), embedded.visual(seed)
        ahead, before = (layers[i].mean(0)[-1, at].topk(36).indices for i in (3, 2))
        shared.append(common(ahead, before))
    show(f"embedded model, 4 pictures, before layer 3: {shared} of 36 tokens are kept by both layers; by chance 9 would be")
    return max(shared) < 36


@finding("pyramiddrop", "Its default means 270 tokens; ours solves the ratio for other means, which its stages bound from below.")
def pyramiddrop_budgets(show: Show) -> bool:
    method, means = get_method("pyramiddrop"), {}
    show(f"default: {method.plan(None, 576, 32)}, mean {layer_mean(method.plan(None, 576, 32)):g}")
    for budget in (270, 192, 145):
        plan = method.plan(budget, 576, 32)
        means[budget] = layer_mean(plan)
        show(f"budget {budget}: {plan}, mean {means[budget]:.2f}")
    earlier = get_method("pyramiddrop", layers="2,8,16")
    for budget in (128, 64):
        try:
            method.plan(budget, 576, 32)
            return False
        except UserError:
            plan = earlier.plan(budget, 576, 32)
            means[budget] = layer_mean(plan)
            show(f"budget {budget}: not with a first stage at layer 8; with layers='2,8,16' {plan}, mean {means[budget]:.2f}")
    return means[270] == 270 and all(budget - 1 < mean <= budget for budget, mean in means.items())


@finding("pyramiddrop", "Default counts are the release's for any N from 8 on; other ratios are read as written, not as doubles.")
def pyramiddrop_counts(show: Show) -> bool:
    default = [n for n in range(1, 4000) if [int(n * r) for r in (0.5, 0.25, 0.125)] != _exact(n, Fraction(1, 2))]
    show(f"ratio 0.5: of N from 1 to 3999, other counts than the release's: N in {default}, where it would keep none")
    ratio = 0.58
    doubles = [int(100 * ratio), int(100 * ratio**2)]
    ours = list(get_method("pyramiddrop", ratio=ratio, layers="8,16").plan(None, 100, 32).values())
    show(f"ratio {ratio}, N = 100: {doubles} in doubles, {ours} in ours")
    return default == list(range(1, 8)) and doubles[0] == 57 and ours[0] == 58


def _exact(n: int, ratio: Fraction) -> list[int]:
    return [max(1, int(n * ratio**s)) for s in (1, 2, 3)]


# -- SparseVLM -----------------------------------------------------------------------------------------------------------------
@finding(
    "sparsevlm", "Nominal budgets are no means over the layers: 192, 128 and 64 are 206.5, 145.4 and 82.25, merged tokens in."
)
def sparsevlm_nominal_budgets(show: Show) -> bool:
    true = {}
    for nominal, kept in KEPT.items():
        published = get_method("sparsevlm", published=True).plan(nominal, 576, 32)
        true[nominal] = layer_mean(published)
        bare = layer_mean(dict(zip(AFTER, kept, strict=True)))
        early = layer_mean(dict(zip((2, 6, 15), kept, strict=True)))
        show(
            f"nominal {nominal}: mean {true[nominal]:.2f}; without merged tokens {bare:.2f}; and with two full layers {early:.2f}"
        )
    ours = {k: round(layer_mean(get_method("sparsevlm").plan(k, 576, 32)), 2) for k in KEPT}
    show(f"ours, budget and mean: {ours}")
    right = true == {192: 206.5, 128: 145.40625, 96: 114.09375, 64: 82.25}
    return right and all(budget - 1 < mean <= budget for budget, mean in ours.items())


@finding(
    "sparsevlm", "The release fixes what is kept and lets the total follow; ours fixes the total. All 12 published splits agree."
)
def sparsevlm_splits(show: Show) -> bool:
    equal = 0
    for nominal, kept in KEPT.items():
        n, line = 576, []
        for m in kept:
            again = int(0.3 * (n - m)) + 1
            total = m + again // 10 + 1
            line.append(f"{n} -> {m} + {total - m}")
            equal += split(n, total) == (m, total - m)
            n = total
        show(f"nominal {nominal}: {', '.join(line)}")
    show(f"found again by ours from the totals: {equal} of 12")
    return equal == 12


def _noisy_groups(x: Tensor, groups: int, noise: Tensor) -> Tensor:
    """(groups, D) means of the released clustering, for rows x (n, D) and noise (n,) on their densities."""
    distance = torch.cdist(x, x) / x.shape[1] ** 0.5
    density = (-distance.topk(groups, largest=False).values.square().mean(-1)).exp() + noise
    denser = density[None] > density[:, None]
    apart = torch.where(denser, distance, distance.max()).amin(-1)
    centres = (apart * density).topk(groups).indices
    home = distance[:, centres].argmin(-1)
    home[centres] = torch.arange(groups)
    return torch.stack([x[home == i].sum(0) / ((home == i).sum() + 1e-6) for i in range(groups)])


@finding("sparsevlm", "Random noise on densities decides the clusters wherever dropped tokens are far apart; ours has none.")
def sparsevlm_noise(show: Show) -> bool:
    results, gap, base = {}, 0.0, smooth(seed=3, noise=0.6)[:83]
    for length in (1, 3, 12):
        x = length * base
        runs = [_noisy_groups(x, 9, 1e-6 * torch.rand(83, generator=torch.Generator().manual_seed(s))) for s in range(8)]
        results[length] = len({tuple(sorted((run.norm(dim=-1) * 1e3).round().tolist())) for run in runs})
        density = (-(torch.cdist(x, x).square() / 256).topk(9, largest=False).values.mean(-1)).exp()
        show(f"83 dropped tokens times {length}: largest density {float(density.max()):.1e}, {results[length]} results in 8 runs")
        quiet, ours = _noisy_groups(x, 9, torch.zeros(83)), density_peaks(x[None], 9)[0]
        if length == 1:
            gap = float((quiet - ours).abs().max())
    show(f"ours on the first, against the re-stated release without noise: differs by at most {gap:.1e}")
    return results[1] == 1 and results[12] == 8 and gap < 1e-4


@finding(
    "sparsevlm", "Where no word is above the average, as with one word alone, the released scores are NaN; ours asks all words."
)
def sparsevlm_no_raters(show: Show) -> bool:
    good = True
    for words in (1, 5):
        given, text = normal(1, 1, 40, 16), normal(1, 1, 16, seed=1).expand(1, words, 16)
        attention = normal(1, 1, words, 50, seed=2).softmax(-1)[..., :40]
        share = (given[0, 0].double() @ text[0].double().T).softmax(-1).mean(0)
        raters = share > share.mean() + 1e-12
        released = attention[0, 0][raters].mean(0)
        visual = Visual(
            normal(1, 1, 40, 16, seed=3), text=text, text_attention=attention.transpose(2, 3), given=given, text_given=text
        )
        ours = get_method("sparsevlm", recycle=False)(visual, 8).keep.flatten()
        best = attention[0, 0].mean(0).topk(8).indices
        show(f"{words} equal words: {int(raters.sum())} raters, scores {released[:2].tolist()} ... in the re-stated release")
        show(f"  ours keeps {common(ours, best)} of the 8 tokens that all words together attend to most")
        good &= bool(released.isnan().all()) and common(ours, best) == 8
    return good
