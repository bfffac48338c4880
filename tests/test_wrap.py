"""Merging and centring around a selector, by hand and against their definitions."""

from __future__ import annotations

import pytest
import torch

from script_vlmeval import kernels
from script_vlmeval.errors import UserError
from script_vlmeval.methods import Visual, catalogue, get_method


def visual(b: int = 2, g: int = 2, n: int = 20, d: int = 6, seed: int = 0) -> Visual:
    draw = torch.Generator().manual_seed(seed)
    return Visual(
        tokens=torch.randn(b, g, n, d, generator=draw) + 1,
        keys=torch.randn(b, g, n, 4, generator=draw),
        query=torch.randn(b, 1, 4, generator=draw),
        seed=torch.arange(b),
    )


def test_dropped_tokens_are_averaged_into_the_most_similar_kept_one():
    tokens = torch.tensor([[1.0, 0], [0, 2], [3, 0.1], [0.1, 4], [5, 0]])
    v = Visual(tokens=tokens[None, None], grid=(1, 5), seed=torch.tensor([1]))

    reduced = get_method("random", merge="mean")(v, 2)
    keep = reduced.keep[0, 0]
    cosine = kernels.unit(tokens) @ kernels.unit(tokens[keep]).T
    cosine[keep] = torch.eye(2)  # a kept token stays its own
    expected = torch.stack([tokens[cosine.argmax(1) == q].mean(0) for q in range(2)])
    torch.testing.assert_close(reduced.tokens[0, 0], expected)
    assert torch.equal(keep, get_method("random")(v, 2).keep[0, 0])


@pytest.mark.parametrize("name", ["cdpruner", "script", "random", "divprune"])
def test_merging_loses_nothing_in_total(name: str):
    """Members times mean sums up to all tokens, whatever the assignment."""
    v = visual()
    method = get_method(name, merge="mean")
    reduced = method(v, 7)
    assert torch.equal(reduced.keep, get_method(name)(v, 7).keep)
    tokens = v.joined().tokens if method.joint else v.tokens
    copies = tokens.shape[2] / reduced.tokens.shape[2]
    assert reduced.tokens.mean() != pytest.approx(float(tokens.mean()), abs=1e-6) or copies == 1
    kept = tokens.gather(2, reduced.keep[..., None].expand_as(reduced.tokens))
    similarity = torch.einsum("bgnd,bgkd->bgnk", kernels.unit(tokens), kernels.unit(kept))
    home = similarity.argmax(-1)
    members = torch.nn.functional.one_hot(home, reduced.keep.shape[2]).sum(2)
    torch.testing.assert_close((reduced.tokens * members[..., None]).sum(2), tokens.sum(2), atol=1e-4, rtol=1e-4)


def test_half_precision_stays_half():
    v = visual()
    v = Visual(tokens=v.tokens.half(), seed=v.seed)
    assert get_method("random", merge="mean")(v, 7).tokens.dtype == torch.float16


def test_centring_compares_tokens_without_their_common_direction():
    """With a large common part all tokens look alike, and DivPrune follows its rounding; centred, the pattern decides."""
    pattern = visual(1, 1, 24, 8, seed=3).tokens - 1
    common = 40 * torch.ones(8)
    method = get_method("divprune", centre="minmax")
    centred = pattern - pattern.mean((1, 2), keepdim=True)
    gate = _gate(pattern + common)
    expected = kernels.farthest_first(kernels.unit(centred)[0], 9, gate=gate[0])
    assert torch.equal(method.order(Visual(tokens=pattern + common), 9)[0], expected)


def _gate(tokens: torch.Tensor) -> torch.Tensor:
    """By the formula: minus the mean cosine to the other tokens of the image, scaled to 0..1."""
    a = kernels.unit(tokens)
    cosine = torch.einsum("bgnd,bhmd->bgnhm", a, a)
    n = tokens.shape[1] * tokens.shape[2]
    g = -(cosine.sum((3, 4)) - 1) / (n - 1)
    return (g - g.min()) / (g.max() - g.min() + 1e-6)


def test_the_gate_is_the_mean_dissimilarity_to_all_tiles():
    v = visual(1, 3)
    method = get_method("cdpruner", centre="minmax")
    torch.testing.assert_close(method._centred(v).gate, _gate(v.tokens), atol=1e-5, rtol=1e-5)


def test_the_least_distinct_token_comes_last():
    v = visual(1, 1)
    last = int(_gate(v.tokens).argmin())
    for name in ("divprune", "cdpruner"):
        order = get_method(name, centre="minmax").order(v, 20).flatten().tolist()
        assert last in (order[-1], order[0])  # first only where the ungated first pick falls on it
        assert last == order[-1] or name == "divprune"


def test_sigmoid_standardises_and_divides_by_the_deviation():
    v = visual(1, 2)
    seen = get_method("cdpruner", centre="sigmoid")._centred(v)
    y = v.tokens / (v.tokens.var((1, 2), unbiased=False, keepdim=True) + 1e-6).sqrt()
    torch.testing.assert_close(seen.tokens, y - y.mean((1, 2), keepdim=True))
    assert 0 < float(seen.gate.min()) < 0.5 < float(seen.gate.max()) < 1


def test_centring_is_of_the_image_alone():
    v = visual()
    alone = get_method("cdpruner", centre="minmax")(Visual(v.tokens[:1], v.keys[:1], v.query[:1]), 6)
    assert torch.equal(alone.keep, get_method("cdpruner", centre="minmax")(v, 6).keep[:1])


def test_the_kept_features_are_the_original_ones():
    v = visual()
    reduced = get_method("cdpruner", centre="minmax")(v, 6)
    assert torch.equal(reduced.tokens, v.tokens.gather(2, reduced.keep[..., None].expand_as(reduced.tokens)))


def test_both_together_and_nesting():
    v = visual()
    method = get_method("cdpruner", centre="minmax", merge="mean", theta=0.5)
    assert method.parameters() == {**get_method("cdpruner", theta=0.5).parameters(), "centre": "minmax", "merge": "mean"}
    assert not method.nested  # merged features differ from budget to budget
    centred = get_method("cdpruner", centre="minmax", theta=0.5)
    assert centred.nested
    assert torch.equal(method(v, 6).keep, centred(v, 6).keep)
    for k, keep in zip((3, 6), centred.select_many(v, (3, 6)), strict=True):
        assert torch.equal(keep, centred.select(v, k))


def test_an_instance_is_a_value():
    assert get_method("cdpruner", merge="mean") == get_method("cdpruner", merge="mean")
    assert get_method("cdpruner", merge="mean") != get_method("cdpruner")
    assert hash(get_method("cdpruner", centre="minmax")) == hash(get_method("cdpruner", centre="minmax"))
    assert get_method("cdpruner", merge="none") == get_method("cdpruner")


@pytest.mark.parametrize(
    ("name", "params", "said"),
    [
        ("random", {"centre": "minmax"}, "centre"),
        ("cdpruner", {"centre": "middle"}, "minmax"),
        ("cdpruner", {"merge": "sum"}, "'none' or 'mean'"),
        ("full", {"merge": "mean"}, "merge"),
        ("trim", {"merge": "mean"}, "merge"),
        ("script", {"center": "minmax"}, "Did you mean 'centre'"),
    ],
)
def test_what_cannot_be_put_around_a_method_is_refused(name: str, params: dict[str, str], said: str):
    with pytest.raises(UserError, match=said):
        get_method(name, **params)


def test_the_catalogue_tells_the_options():
    options = {m.name: {p for p, _ in m.params} & {"merge", "centre"} for m in catalogue().values()}
    assert options["cdpruner"] == {"merge", "centre"}
    assert options["random"] == {"merge"}
    assert options["full"] == set()
