"""CDPruner: short sets, the sign, tiles that influence each other, and questions that CLIP cannot read in one piece."""

from __future__ import annotations

from types import SimpleNamespace

import torch
from torch import Tensor

from script_vlmeval.methods import get_method
from script_vlmeval.query import ClipQuery

from .inputs import alike, asked, common, minmax, normal, unit
from .registry import Show, finding
from .released import cholesky_greedy, weighed

N, T = 576, 64


@finding("cdpruner", "The released recursion returns fewer tokens than asked for, silently, once a value is not finite.")
def cdpruner_short_sets(show: Show) -> bool:
    holed, thin = alike(0.0), normal(N, 64, seed=3)
    holed[300] = 0
    cases = {
        "constant relevance": (alike(0.0), torch.ones(N, 8), torch.ones(1, 8), T),
        "one all-zero token": (holed, normal(N, 64, seed=1), normal(1, 64, seed=2), T),
        "192 tokens, kernel of rank 64": (thin, normal(N, 64, seed=1), normal(1, 64, seed=2), 192),
    }
    good = True
    for name, (features, keys, query, t) in cases.items():
        released = len(set(cholesky_greedy(weighed(features, minmax(-(unit(keys) @ unit(query)[0]))), t)))
        ours = len(set(get_method("cdpruner")(asked(features, keys, query), t).keep.flatten().tolist()))
        show(f"{name}: {released} different tokens of {t} in the re-stated release, {ours} in ours")
        good &= released < t / 2 + 1 and ours == t
    return good


@finding("cdpruner", "The sign decides: with the paper's +cosine and the release's -cosine different tokens are kept.")
def cdpruner_sign(show: Show) -> bool:
    features, keys, query = alike(0.1), normal(N, 64, seed=1), normal(1, 64, seed=2)
    cosine = unit(keys) @ unit(query)[0]
    kept = {sign: get_method("cdpruner", sign=sign)(asked(features, keys, query), T).keep for sign in (1, -1)}
    mean = {sign: float(cosine[keep].mean()) for sign, keep in kept.items()}
    show(f"{common(kept[1], kept[-1])} of {T} tokens are kept under both signs; by chance {T * T / N:.0f} would be")
    show(
        f"mean cosine with the question: sign +1 {mean[1]:+.3f}, sign -1 {mean[-1]:+.3f}, all tokens {float(cosine.mean()):+.3f}"
    )
    show(f"under -1 the most similar token has the smallest relevance, {float(minmax(-cosine)[cosine.argmax()]):.1e}")
    return common(kept[1], kept[-1]) < T // 4 and mean[-1] < float(cosine.mean()) < mean[1]


@finding("cdpruner", "One minimum and maximum for all tiles couples them: a tile is pruned otherwise alone than beside others.")
def cdpruner_batch_scope(show: Show) -> bool:
    features = torch.stack([alike(0.0, d=128, seed=s) for s in range(3)])
    keys, query = normal(3, N, 64, seed=1), normal(1, 64, seed=2)
    keys[1:] += 0.4 * query  # more similar to the question than the first tile is
    same = {}
    for scope in ("image", "tile"):
        method = get_method("cdpruner", scope=scope)
        same[scope] = common(
            method(asked(features, keys, query), T).keep[0, 0], method(asked(features[0], keys[0], query), T).keep
        )
    show(f"of {T} tokens of the first tile, kept again when it is alone, by scope: {same}")
    return same["image"] < T and same["tile"] == T


@finding(
    "cdpruner", "Of a question longer than 77 ids, the first row that the release compares with does not depend on the text."
)
def clip_long_text(show: Show) -> bool:
    begin, end = 998, 999
    table = normal(1000, 32, seed=1)

    def tower(input_ids: Tensor, attention_mask: Tensor | None = None) -> SimpleNamespace:
        """Like CLIP's: causal, so a position knows what came before it; pooled at the largest id, the end where there is one."""
        states = table[input_ids].cumsum(1)
        return SimpleNamespace(text_embeds=states[torch.arange(len(input_ids)), input_ids.argmax(-1)])

    def official(pieces: list[int]) -> Tensor:
        ids = [begin, *pieces, end]
        rows = (len(ids) - 1) // 77 + 1
        embeds: Tensor = tower(torch.tensor(ids + [0] * (77 * rows - len(ids))).view(rows, 77)).text_embeds
        return embeds

    def tokenizer(question: str, add_special_tokens: bool = False) -> dict[str, list[int]]:
        return {"input_ids": [int(word) for word in question.split()]}

    tokenizer.__dict__.update(bos_token_id=begin, eos_token_id=end, pad_token_id=0)
    texts = [torch.randint(1, 900, (120,), generator=torch.Generator().manual_seed(s)).tolist() for s in (5, 6)]
    released = [official(pieces) for pieces in texts]
    ours, mask = ClipQuery(tower, tokenizer, torch.eye(32)).encode([" ".join(map(str, pieces)) for pieces in texts])
    gaps = [float((released[0][i] - released[1][i]).norm()) for i in (0, 1)]
    ours_gaps = [float((ours[0, i] - ours[1, i]).norm()) for i in (0, 1)]
    show(f"two unrelated texts of 122 ids; distance of their rows in the released rule: {gaps[0]:.1f} and {gaps[1]:.1f}")
    show(f"in ours, chunks of 75 pieces between begin and end: {ours_gaps[0]:.1f} and {ours_gaps[1]:.1f}")
    start = torch.equal(released[0][0], table[begin])
    show(f"the released first row is the state at the begin token alone: {start}")
    return gaps[0] == 0 and gaps[1] > 0 and min(ours_gaps) > 0 and start and bool(mask.all())


@finding("cdpruner", "Cen-Prune's min-max gate gives the least distinct token a weight of exactly 0.")
def centre_zero_weight(show: Show) -> bool:
    features, keys, query = alike(0.3, n=64), normal(64, 16, seed=1), normal(1, 16, seed=2)
    a = unit(features)
    least = int((a @ a.T).mean(1).argmax())
    visual = asked(features, keys, query)
    place = {
        c: get_method("cdpruner", centre=c).order(visual, 64).flatten().tolist().index(least) + 1 for c in ("none", "minmax")
    }
    show(
        f"of 64 tokens, the one most like all others is picked as number {place['none']}, and number {place['minmax']} when gated"
    )
    return place["minmax"] == 64 and place["none"] < 64
