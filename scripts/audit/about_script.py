"""Script: what its repository computes is neither the paper's graph nor a determinantal point process."""

from __future__ import annotations

import torch

from script_vlmeval.methods import get_method
from script_vlmeval.methods.scriptcompat import raw_relevance

from .inputs import alike, asked, common, log_volume, minmax, normal, smooth, unit
from .registry import Show, finding
from .released import cholesky_greedy, full_graph, repeated_penalties, weighed

N, T = 576, 64


def _joined(graph: set[int], greedy: list[int], r: torch.Tensor) -> set[int]:
    """The release's join: what both chose, filled up with the most relevant of the greedy's others."""
    both = graph & set(greedy)
    others = sorted(set(greedy) - graph, key=lambda i: -float(r[i]))
    return both | set(others[: len(greedy) - len(both)])


@finding("scriptcompat", "The released graph cannot change the result: the join of graph and greedy is the greedy's set again.")
def script_dead_graph(show: Show) -> bool:
    features, tried, changed, sizes = alike(0.2, n=144, d=64), 0, 0, set[int]()
    r = minmax(normal(144, seed=5))
    greedy, _ = repeated_penalties(weighed(features, r), 24)
    for tau in (-0.5, 0.0, 0.2, 0.4):
        for gamma in (0.0, 1.0, 5.0):
            for least in (0, 4, 30):
                for largest in (True, False):
                    graph = set(full_graph(features, tau, least, gamma).topk(24, largest=largest).indices.tolist())
                    sizes.add(len(graph & set(greedy)))
                    tried, changed = tried + 1, changed + (_joined(graph, greedy, r) != set(greedy))
    show(f"{tried} graphs (tau, gamma, least degree, most or least redundant first): {changed} change the selection")
    show(f"of 24 tokens, graph and greedy had between {min(sizes)} and {max(sizes)} in common")
    return changed == 0 and len(sizes) > 3


@finding("scriptcompat", "The released greedy counts penalties again and again: it runs dry and ends with irrelevant tokens.")
def script_repeated_penalties(show: Show) -> bool:
    features, keys, query = alike(0.4), normal(N, 64, seed=1), normal(1, 64, seed=2)
    r = raw_relevance(asked(features, keys, query), -1, half=True)
    assert r is not None
    weight = r[0, 0] + 1e-6
    kernel = weighed(features, r[0, 0])
    released, positive = repeated_penalties(kernel, T)
    greedy = cholesky_greedy(kernel, T)
    volume = [log_volume(features, weight, picks) for picks in (released, greedy)]
    mean = [float(weight[picks].mean()) for picks in (range(N), released, greedy)]
    ours = get_method("scriptcompat").order(asked(features, keys, query), T).flatten()
    show(
        f"mean cosine 0.4, {T} of {N}: {positive} picks of positive score, {common(released, greedy)} shared with the true greedy"
    )
    show(f"mean relevance of all {mean[0]:.2f}, released picks {mean[1]:.2f}, true greedy {mean[2]:.2f}")
    show(f"log det of the kernel: released picks {volume[0]:.0f}, true greedy {volume[1]:.0f}")
    show(f"our scriptcompat: {int((ours == torch.tensor(released)).sum())} of {T} picks as in the re-stated release")
    return positive < 10 and mean[1] < mean[0] < mean[2] and volume[0] < volume[1] - 50 and ours.tolist() == released


@finding("scriptcompat", "The released graph ranks the most redundant tokens first; the paper's graph is there to remove them.")
def script_keeps_redundant(show: Show) -> bool:
    features = alike(0.0, seed=3)
    clump = range(200, 300)
    features[list(clump)] = normal(1, 512, seed=4) / 512**0.5 + 0.3 * features[list(clump)]
    released = common(full_graph(features).topk(T).indices, list(clump))
    script = get_method("script")
    kept: torch.Tensor = script.graph_set(features[None], T)[0]  # type: ignore[attr-defined]
    vetoed = (~kept).nonzero().flatten()
    show(f"100 tokens are near copies: {released} of the {T} that the released graph prefers are among them")
    show(f"ours vetoes {len(vetoed)} tokens, {common(vetoed, list(clump))} of the clump's 50 even ones among them")
    return released == T and common(vetoed, list(clump)) == 50


@finding(
    "scriptcompat", "The released relevance is a raw product, so the length of a patch embedding decides; the cosine has none."
)
def script_raw_relevance(show: Show) -> bool:
    features, keys, query = alike(0.0), normal(N, 64, seed=1), normal(1, 64, seed=2)
    stretched = keys * torch.linspace(0.3, 3, N)[:, None]
    same = {}
    for name in ("scriptcompat", "script", "cdpruner"):
        kept = [get_method(name)(asked(features, k, query), T).keep for k in (keys, stretched)]
        same[name] = common(*kept)
    show(f"of {T} tokens, kept again after the patch embeddings were stretched by 0.3 to 3: {same}")
    return same["scriptcompat"] < 48 and same["script"] == same["cdpruner"] == T


@finding("scriptcompat", "Of two rows of question text the release reads one; the other may say anything that scores less.")
def script_half_rows(show: Show) -> bool:
    features, keys = alike(0.0), normal(N, 64, seed=1) + 0.5
    first = torch.ones(1, 64) + normal(1, 64, seed=2)
    others = [normal(1, 64, seed=s) - 1 for s in (3, 4)]
    same = {}
    for name in ("scriptcompat", "script"):
        kept = [get_method(name)(asked(features, keys, torch.cat([first, other])), T).keep for other in others]
        same[name] = common(*kept)
    show(f"of {T} tokens, kept again after the second row was replaced: {same}")
    return same["scriptcompat"] == T and same["script"] < T


@finding("scriptcompat", "Without any relevance the released rule keeps the first tokens of the raster, the top of the picture.")
def script_constant_relevance(show: Show) -> bool:
    features = alike(0.0)
    zero = torch.zeros(N)
    released, _ = repeated_penalties(weighed(features, zero), T)
    visual = asked(features, torch.ones(N, 8), torch.ones(1, 8))
    compat, script = (get_method(name)(visual, T).keep.flatten().tolist() for name in ("scriptcompat", "script"))
    show(f"re-stated release: {released[:4]}...{released[-1]}; our scriptcompat: {compat[:4]}...{compat[-1]}")
    show(f"our script falls back to plain diversity: {script[:4]}...{script[-1]}")
    return released == compat == list(range(T)) and script != compat


@finding("script", "Filling up with the DPP's own vetoed proposals makes the graph ineffective: it is CDPruner per tile.")
def script_fill_order(show: Show) -> bool:
    features, keys, query = torch.stack([smooth(seed=1), smooth(seed=7)]), normal(2, N, 64, seed=1), normal(1, 64, seed=2)
    visual = asked(features, keys, query)
    plain = get_method("cdpruner", scope="tile")(visual, T).keep
    order, ours = get_method("script", fill="order")(visual, T).keep, get_method("script")(visual, T).keep
    shared = [common(a, b) for a, b in zip(ours[0], plain[0], strict=True)]
    show(f"fill=order equals cdpruner with scope=tile: {torch.equal(order, plain)}")
    show(f"fill=continue, the default, shares {shared[0]} and {shared[1]} of {T} tokens with it")
    return torch.equal(order, plain) and max(shared) < T


@finding(
    "script", "Where few tokens have neighbours in the graph, our veto, as defined, also hits the last tokens that have none."
)
def script_zero_score_veto(show: Show) -> bool:
    from script_vlmeval import kernels

    features = alike(0.0, d=256, seed=6)
    score = kernels.bipartite_redundancy(unit(features)[None], 0.2, 1.0)[0]
    kept: torch.Tensor = get_method("script").graph_set(features[None], T)[0]  # type: ignore[attr-defined]
    innocent = ((score == 0) & ~kept).nonzero().flatten()
    show(f"{int((score > 0).sum())} of {N} tokens have a redundancy above 0; {N // 4} are vetoed")
    show(f"{len(innocent)} vetoed tokens have redundancy 0, the first of them at {int(innocent.min())}")
    unmarked = (score == 0).nonzero().flatten()
    return len(innocent) > 0 and torch.equal(innocent, unmarked[-len(innocent) :])


@finding("script", "The graph's veto costs diversity by the DPP's own measure, a little, and leaves coverage about as it was.")
def script_graph_price(show: Show) -> bool:
    features, keys, query = smooth(seed=3, noise=0.5), normal(N, 64, seed=1), normal(1, 64, seed=2)
    visual, a = asked(features, keys, query), unit(features)
    weight = minmax(-(unit(keys) @ unit(query)[0]))
    volumes, covers = [], []
    kept = [get_method(name, scope="tile")(visual, T).keep.flatten() for name in ("cdpruner", "script")]
    for keep in kept:
        volumes.append(log_volume(features, weight, keep))
        covers.append(float((a @ a[keep].T).amax(1).mean()))
    show(f"{T - common(*kept)} of {T} tokens differ from plain CDPruner per tile")
    show(f"log det {volumes[0]:.1f} (cdpruner), {volumes[1]:.1f} (script); mean best cosine {covers[0]:.3f}, {covers[1]:.3f}")
    return volumes[1] < volumes[0] and abs(covers[1] - covers[0]) < 0.02


@finding(
    "scriptfigure", "The figures' rule is almost plain relevance: graph and DPP rarely agree, and relevance fills up the rest."
)
def script_figure_is_relevance(show: Show) -> bool:
    features, keys, query = smooth(seed=5), normal(N, 64, seed=1), normal(1, 64, seed=2)
    r = keys @ query[0]
    graph = full_graph(features).topk(T, largest=False).indices
    greedy = cholesky_greedy(weighed(features, (r - r.min()) / (r.max() - r.min() + 1e-6)), T)
    kept = get_method("scriptfigure")(asked(features, keys, query), T).keep
    both, top = common(graph, greedy), common(kept, r.topk(T).indices)
    show(f"graph and DPP share {both} of {T} tokens; the chance expectation is {T * T / N:.1f}")
    show(f"{top} of the {T} kept tokens are among the {T} most relevant")
    return both < T // 4 and top >= T - both and top > 48


@finding("scriptfigure", "Figures and evaluation disagree about what is relevant: the cosine in one, its negative in the other.")
def script_figure_sign(show: Show) -> bool:
    features, keys, query = alike(0.0), normal(N, 64, seed=1), normal(1, 64, seed=2)
    visual = asked(features, keys, query)
    compat = raw_relevance(visual, -1, half=True)
    assert compat is not None
    top = (keys @ query[0]).topk(T).indices
    kept = {name: common(get_method(name)(visual, T).keep, top) for name in ("scriptfigure", "scriptcompat")}
    show(f"of the {T} tokens most similar to the question are kept: {kept}")
    show(f"relevance of the most similar token in the evaluated code: {float(compat[0, 0, top[0]]):.3f}")
    return kept["scriptfigure"] > 48 and kept["scriptcompat"] < 4 and float(compat[0, 0, top[0]]) == 0
