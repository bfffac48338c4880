"""Methods inside the language model that follow the last prompt token's attention: FastV and Sequential Prune."""

from __future__ import annotations

import warnings
from fractions import Fraction
from functools import cache
from typing import Any

import numpy as np
import torch

from script_vlmeval.methods import get_method

from . import embedded
from .inputs import common, layer_mean, normal
from .registry import Show, finding

SEEDS = (1, 2, 3, 4)
ABSENT = "no recording of the release here: its own numbers are not shown"


@cache
def _recorded(name: str) -> Any:
    """A recorded prefill of the release; None without recordings."""
    from script_vlmeval.conformance import recordings

    root = recordings.find()
    file = None if root is None else root / "in_llm" / "cases" / f"{name}.npz"
    return recordings.read("fastv", file) if file is not None and file.is_file() else None


def _plan(method: str, removed: float, n: int = 576, layers: int = 32, **parameters: Any) -> dict[int, int]:
    return get_method(method, removed=removed, **parameters).plan(None, n, layers)


def _means(removed: float, layers: int = 32, **parameters: Any) -> tuple[float, float]:
    """FastV's and Sequential Prune's mean over all layers, of 576 tokens from layer 2 on."""
    plans = _plan("fastv", removed, layers=layers), _plan("seqprune", removed, layers=layers, **parameters)
    one, other = (layer_mean(plan, layers) for plan in plans)
    return one, other


# -- FastV ---------------------------------------------------------------------------------------------------------------------
@finding(
    "fastv", "Our choice is the released rule's: what the last token attends to most, mean of heads, layer before the first."
)
def fastv_as_released(show: Show) -> bool:
    equal, method = [], get_method("fastv", removed=0.75, first_layer=2)
    for seed in SEEDS:
        row = embedded.attended_by_layer(seed)[1].mean(0)[-1, embedded.visual(seed)]
        kept, _ = embedded.pruned(method, embedded.prompts([seed]))
        equal.append(common(kept[2][0], row.topk(36).indices))
    show(f"embedded model, 4 pictures: {equal} of 36 tokens equal")
    return equal == [36] * 4


@finding("fastv", "The paper ranks by the attention of all tokens, the release by the last one's; they keep different tokens.")
def fastv_all_queries(show: Show) -> bool:
    alike, halves = [], []
    for seed in SEEDS:
        heads, at = embedded.attended_by_layer(seed)[1].mean(0), embedded.visual(seed)
        last, everyone = (row[at].topk(36).indices for row in (heads[-1], heads.mean(0)))
        alike.append(common(last, everyone))
        halves.append([int((x < embedded.N // 2).sum()) for x in (last, everyone)])
    show(f"embedded model, 4 pictures, 36 of {embedded.N}: {alike} kept under both rules; by chance 9 would be")
    show(f"of them in the upper half of the picture, by the last token and by all: {halves}")
    show("a later token is attended to by fewer, since attention is causal: a mean over all of them favours the first ones")
    return max(alike) < 30 and all(by_all >= 34 for _, by_all in halves)


@finding(
    "fastv", "A mean of heads in half precision, as releases take it, ties tokens at the border; which one stays is left open."
)
def fastv_half_precision(show: Show) -> bool:
    most = 0
    for name, kind in (("float16", torch.float16), ("bfloat16", torch.bfloat16)):
        tied, moved = [], []
        for seed in range(4):
            logits = normal(32, 641, seed=seed) / 2
            logits[:, -1] += 9  # a token such as the first one, on which most of the attention rests
            attention = logits.softmax(-1)[:, :576]
            exact, half = attention.mean(0), attention.to(kind).mean(0)
            tied.append(int((half == half.topk(64).values[-1]).sum()))
            moved.append(64 - common(exact.topk(64).indices, half.sort(descending=True, stable=True).indices[:64]))
        show(f"32 heads, 64 of 576 tokens kept, {name}, 4 times: {tied} tokens share the value of the last one kept;")
        show(f"  {moved} kept tokens are others than by the mean in float32, ties to the lower index in both")
        most = max(most, *tied)
    return most > 1


@finding(
    "fastv", "Counts are truncated in doubles: of 100 tokens a share of 0.9 leaves 9. FastV's variant for Hugging Face rounds."
)
def fastv_rounding(show: Show) -> bool:
    shares = [i / 100 for i in range(1, 100)]
    lost = [r for r in shares if _plan("fastv", r, 100)[2] != 100 - round(100 * r)]
    kept = {way: [_plan("fastv", r, rounding=way)[2] for r in (0.5, 0.75, 0.9)] for way in ("down", "nearest")}
    show(f"N = 100, shares of whole per cents that leave one token less than exact arithmetic: {len(lost)} of 99, {lost[:5]} ...")
    show(f"0.9 leaves {_plan('fastv', 0.9, 100)[2]}; with rounding=nearest {_plan('fastv', 0.9, 100, rounding='nearest')[2]}")
    show(f"N = 576, shares of 0.5, 0.75 and 0.9: {kept}")
    return _plan("fastv", 0.9, 100)[2] == 9 and kept == {"down": [288, 144, 57], "nearest": [288, 144, 58]}


@finding(
    "fastv", "With several images the released mask mode keeps the number of one, and takes places as if no text lay between."
)
def fastv_two_images(show: Show) -> bool:
    starts, n, kept = (5, 33), 20, 10  # two images of 20 tokens, 8 of text between them
    visual = np.concatenate([np.arange(s, s + n) for s in starts])
    ranked = np.argsort(-np.random.default_rng(0).random(2 * n), kind="stable")[:kept]
    unmasked = starts[0] + ranked
    text, best = ~np.isin(unmasked, visual), np.isin(unmasked, visual[ranked])
    show(f"made up, two images of {n}, {kept} wanted of each: ours keeps {2 * kept} in all, the re-stated release ranks {kept};")
    show(f"  of these it unmasks {int(best.sum())}, {int(text.sum())} tokens of the text, and others for the rest")
    return _two_recorded_images(show) and int(best.sum()) < kept


def _two_recorded_images(show: Show) -> bool:
    data = _recorded("mha16_fastv_mask_N20_R0.5_K2_S10_2img")
    if data is None:
        show(ABSENT)
        return True
    n, first, image = data["case"]["N"], data["case"]["K"], data["input_ids"][0] < 0
    visual = np.flatnonzero(np.repeat(image, np.where(image, n, 1)))
    ranked = np.argsort(-data["lastrow"][0, first - 1, visual], kind="stable")[: int((1 - data["case"]["R"]) * n)]
    stay = set(visual[data["visible"][0, first, visual]].tolist())
    best, shifted = set(visual[ranked].tolist()), set((visual[0] + ranked).tolist()) & set(visual.tolist())
    show(f"recorded: {len(stay)} of {len(visual)} visual tokens stay, {len(stay & best)} of the {len(ranked)} best among them;")
    show(f"  they are the ranked places counted on from the first image's start: {stay == shifted}")
    return stay == shifted != best


# -- Sequential Prune ----------------------------------------------------------------------------------------------------------
@finding("seqprune", "In a batch the release's first sample decides for all of them; in ours each decides for itself.")
def seqprune_batch(show: Show) -> bool:
    method = get_method("seqprune", removed=0.75, first_layer=1, step=25)
    together, _ = embedded.pruned(method, embedded.prompts([1, 2]))
    alone = [embedded.pruned(method, embedded.prompts([s]))[0] for s in (1, 2)]
    one, other = (set(x) for x in together[3])
    show(f"embedded model, two pictures: their own choices share {len(one & other)} of {len(one)} tokens")
    same = all(together[s] == [alone[0][s][0], alone[1][s][0]] for s in together)
    show(f"ours keeps the same tokens of each in a batch and alone: {same}")
    data = _recorded("mha16_seq_inplace_N37_R0.5_K2_S10_batch2")
    if data is None:
        show(ABSENT)
        return same and len(one & other) < len(one)
    case = data["case"]
    visual = np.arange(case["starts"][0], case["starts"][0] + case["N"])
    left = [set(visual[data["visible"][b, case["K"], visual]].tolist()) for b in (0, 1)]
    row = data["lastrow"][1, case["K"] - 1, visual]
    own = set(visual[np.argsort(-row, kind="stable")[: len(left[1])]].tolist())
    show(f"recorded: both keep the same {len(left[0])} tokens: {left[0] == left[1]};")
    show(f"  of the {len(own)} that the second attends to most, {len(own & left[1])} stay")
    return same and left[0] == left[1] != own


@finding("seqprune", "The release chooses again for each new token, which then reads another set of visual tokens than the last.")
def seqprune_chooses_again(show: Show) -> bool:
    method = get_method("seqprune", removed=0.75, first_layer=1, step=25, reprune_each_step=True)
    counts = []
    for seed in SEEDS:
        kept = embedded.reread(method, seed, 6)
        counts.append([len(step - kept[0]) for step in kept[1:]])
        show(f"picture {seed}, {len(kept[0])} tokens kept: {counts[-1]} are others than for the first new token, steps 2 to 6")
    show("embedded model with reprune_each_step and without a cache; with one, ours chooses once, in prefill")
    return all(max(c) > 0 for c in counts)


@finding("seqprune", "At equal share and layer it spends more tokens than FastV, so a comparison at equal share is none.")
def seqprune_spends_more(show: Show) -> bool:
    table = {r: tuple(round(x, 1) for x in _means(r)) for r in (0.5, 0.75, 0.9, 1.0)}
    for removed, (one, other) in table.items():
        show(f"share {removed}, layer 2, LLaVA-1.5-7B: mean {one} tokens with FastV, {other} with steps of 10 %")
    for budget in (288, 192, 128):
        plans = [get_method(name).plan(budget, 576, 32) for name in ("fastv", "seqprune")]
        left = [min(plan.values()) for plan in plans]
        means = [layer_mean(plan) for plan in plans]
        show(f"budget {budget}: {left[0]} and {left[1]} tokens in the end, means {means[0]:.1f} and {means[1]:.1f}")
    gentle = [round(_means(0.9, 40, step=step)[1], 1) for step in (5, 10, 25)]
    show(f"share 0.9 in 40 layers (13B), steps of 5, 10 and 25 %: mean {gentle}")
    known = {0.5: (306.0, 323.9), 0.75: (171.0, 214.1), 0.9: (89.4, 154.3), 1.0: (36.0, 116.9)}
    return table == known and gentle == [193.2, 134.8, 98.1]


@finding(
    "seqprune", "The mean is a sawtooth in the share: removing more can cost more, and removing all still costs 116.9 tokens."
)
def seqprune_sawtooth(show: Show) -> bool:
    means = {i / 1000: _means(i / 1000)[1] for i in range(100, 1001)}
    rises = [(a, b) for a, b in zip(means, list(means)[1:], strict=False) if means[b] > means[a]]
    show(f"shares from 0.1 to 1 in steps of 0.001: the mean rises {len(rises)} times, at {[b for _, b in rises]}")
    show(f"share 0.999: mean {means[0.999]:.1f}; share 1: {means[1.0]:.1f}; so no share has a mean of 64 with steps of 10 %")
    return means[1.0] > means[0.999] and f"{means[0.999]:.1f} {means[1.0]:.1f}" == "115.1 116.9"


@finding("seqprune", "A share below one step prunes nothing, and a share of more steps than layers are left is never reached.")
def seqprune_target_missed(show: Show) -> bool:
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        none, short = _plan("seqprune", 0.09), _plan("seqprune", 0.9, step=2.5)
    left = min(short.values())
    show(f"share 0.09, steps of 10 %: stages {none}")
    show(f"share 0.9, 36 steps of 2.5 %, 30 layers from layer 2 on: {left} of 576 tokens enter the last layer, not 57")
    show(f"ours says so: {[str(w.message).partition(':')[0] for w in said]}")
    return not none and left > 57 and len(said) == 2


@finding("seqprune", "A share of less than two steps goes in a single one, and that is exactly FastV.")
def seqprune_one_step(show: Show) -> bool:
    good = True
    for removed, step in ((0.5, 30), (0.75, 50), (0.9, 50)):
        one, other = _plan("fastv", removed), _plan("seqprune", removed, step=step)
        few = [get_method("fastv", removed=removed), get_method("seqprune", removed=removed, step=step)]
        logits = [embedded.pruned(method, embedded.prompts([1]))[1] for method in few]
        good &= one == other and torch.equal(*logits)
        show(f"share {removed}, steps of {step} %: {other} in both; logits of the embedded model equal: {torch.equal(*logits)}")
    return good


@finding("seqprune", "Counts are truncated in doubles: of 100 tokens six steps of 10 % leave 39, of 2880 three leave 2015.")
def seqprune_truncated(show: Show) -> bool:
    good = True
    for n, expected in ((100, 4), (576, 0), (2880, 5)):
        counts = list(_plan("seqprune", 1.0, n).values())[:-1]
        exact = [int(n * (1 - Fraction(i + 1, 10))) for i in range(len(counts))]
        lost = sum(int(a < b) for a, b in zip(counts, exact, strict=True))
        show(f"{n} tokens: {counts}; one less than in exact arithmetic {lost} times")
        good &= lost == expected
    return good
