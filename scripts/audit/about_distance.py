"""Methods that choose by distances between tokens: DivPrune before the language model, DART inside it."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from script_vlmeval.methods import Visual, get_method
from script_vlmeval.methods.dart import DART

from .inputs import common, normal, smooth, unit
from .registry import Show, finding
from .released import max_min

START, TEXT = 35, 40  # length of LLaVA-1.5's system prompt; tokens after the image


def _divprune(features: Tensor, t: int) -> list[int]:
    kept: list[int] = get_method("divprune")(Visual(features[None, None]), t).keep.flatten().tolist()
    return kept


@finding("divprune", "The released rule does not mask what it has chosen, so copies of a token are picked again and again.")
def divprune_repeats(show: Show) -> bool:
    few, one = normal(24, 64).repeat(6, 1), normal(1, 64).repeat(50, 1)
    released, ours, same, single = max_min(few, 36), _divprune(few, 36), max_min(one, 10), _divprune(one, 10)
    distinct = [len({i % 24 for i in picks}) for picks in (released, ours)]
    show(f"24 vectors, 6 copies of each, 36 wanted: {len(set(released))} indices in the re-stated release, {distinct[0]} vectors")
    show(f"ours: {len(set(ours))} indices, {distinct[1]} vectors")
    show(f"50 copies of one vector, 10 wanted: {len(set(same))} indices in the re-stated release, {len(set(single))} in ours")
    return distinct == [24, 24] and len(set(released)) < 36 == len(set(ours)) and len(set(same)) < 10 == len(set(single))


@finding("divprune", "One all-zero token turns the released selection into two tokens.")
def divprune_zero_token(show: Show) -> bool:
    features = smooth(seed=2)
    features[300] = 0
    released, ours = max_min(features, 64), _divprune(features, 64)
    show(f"64 wanted: {len(set(released))} different tokens in the re-stated release, {len(set(ours))} in ours")
    return len(set(released)) == 2 and len(set(ours)) == 64


@finding(
    "divprune", "With tiles, newline tokens compete too: copies of one vector, of which about one survives whatever the budget."
)
def divprune_newlines(show: Show) -> bool:
    newline = normal(1, 256, seed=8).expand(24, 1, 256)
    rows = torch.cat([smooth(seed=2).view(24, 24, 256), newline], 1).flatten(0, 1)  # one newline closes each row
    survivors = {t: sum(i % 25 == 24 for i in max_min(rows, t)) for t in (32, 64, 128)}
    show(f"24 rows, a newline after each; newlines among the tokens kept, by budget: {survivors}")
    return set(survivors.values()) == {1}


@finding("divprune", "On tokens without copies our picks are the released rule's, one by one.")
def divprune_as_released(show: Show) -> bool:
    features = smooth(seed=4)
    ours = get_method("divprune").order(Visual(features[None, None]), 64).flatten().tolist()
    equal = sum(int(a == b) for a, b in zip(max_min(features, 64), ours, strict=True))
    show(f"{equal} of 64 picks equal, in order")
    return equal == 64


def _prompt(seed: int = 0) -> tuple[Tensor, Tensor, Visual]:
    """Hidden states and keys of a prompt's image (576) and the text after it, and the same as methods see them."""
    lonely = torch.rand(576, 1, generator=torch.Generator().manual_seed(seed))
    image = smooth(seed=seed, d=128) + 3 * lonely * normal(1, 128, seed=seed + 40)  # some have little of what all share
    state = torch.cat([image, normal(TEXT, 128, seed=seed + 50)])
    keys = normal(len(state), 64, seed=seed + 60)
    visual = Visual(
        state[None, None, :576],
        layer_keys=keys[None, None, :576],
        text=state[None, 576:],
        text_keys=keys[None, 576:],
        norm=lambda x: x,
    )
    return state, keys, visual


def _dart(state: Tensor, keys: Tensor, each: int, *, as_a_set: bool) -> list[int]:
    """Kept image tokens of the released rule: 4 + 4 pivots, `each` tokens by each of them."""
    norm = keys.abs().sum(-1)
    image, text = norm[:576].topk(4).indices.tolist(), (576 + norm[576:].topk(4).indices).tolist()
    pivots = [START + i for i in [*image, *text]]
    kept, a = set(image), unit(state)
    for pivot in set(pivots) if as_a_set else pivots:
        free = [i for i in range(576) if i not in kept]
        kept.update(free[i] for i in (a[free] @ a[pivot - START]).topk(each, largest=False).indices.tolist())
    return sorted(kept)


@finding("dart", "The released result depends on the iteration order of a set of integers, an accident of hashing.")
def dart_set_order(show: Show) -> bool:
    differ, equal = [], True
    for seed in range(5):
        state, keys, visual = _prompt(10 * seed)
        hashed, loud = (_dart(state, keys, 16, as_a_set=x) for x in (True, False))
        differ.append(len(hashed) - common(hashed, loud))
        for visit, expected in (("release", hashed), ("norm", loud)):
            equal &= get_method("dart", visit=visit, start=START)(visual, 132).keep.flatten().tolist() == expected
    show(f"5 prompts, 132 of 576 tokens: {differ} differ between the set's order and loudest first")
    show(f"ours gives the first with visit=release and the second by default: {equal}")
    return min(differ) > 0 and equal


@finding("dart", "A nominal 128 keeps 132 tokens from layer 2 on, 159.8 in the mean over 32 layers; our budget is that mean.")
def dart_true_count(show: Show) -> bool:
    good = True
    for nominal, mean in ((64, 99.75), (128, 159.75), (192, 219.75)):
        kept = 4 + 8 * (nominal // 8)
        true = (2 * 576 + 30 * kept) / 32
        plan, matching = (get_method("dart").plan(budget, 576, 32) for budget in (nominal, -int(-true // 1)))
        ours = (2 * 576 + 30 * plan[2]) / 32
        show(f"nominal {nominal}: released {kept} tokens from layer 2, mean {true:.2f}; ours {plan[2]}, mean {ours:.2f}")
        show(f"  ours with a budget of {-int(-true // 1)}: {matching[2]} tokens from layer 2, as the release")
        good &= true == mean and nominal - 1 < ours <= nominal and matching == {2: kept}
    return good


@finding("dart", "Fewer than four tokens after the image stop the release; ours asks those that there are.")
def dart_short_prompts(show: Show) -> bool:
    _, _, visual = _prompt()
    assert visual.text is not None
    assert visual.text_keys is not None
    method, counts = cast(DART, get_method("dart")), []
    for m in (0, 1, 3):
        short = Visual(
            visual.tokens,
            layer_keys=visual.layer_keys,
            text=visual.text[:, :m],
            text_keys=visual.text_keys[:, :m],
            norm=visual.norm,
        )
        counts.append(len(set(method(short, 132).keep.flatten().tolist())))
    try:
        normal(3).topk(4)
        released = "works"
    except RuntimeError:
        released = "raises"
    show(f"taking the 4 largest of 3 {released}; ours keeps {counts} of 132 tokens with 0, 1 and 3 tokens of text")
    return released == "raises" and counts == [132] * 3
