"""A file of a user's own with methods that each break one law, and one that breaks none. Loaded by path, never imported."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from script_vlmeval.errors import UserError
from script_vlmeval.methods import Method, Reduced, Visual

MESSAGE = "the first line\nthe second line"


def first(visual: Visual, k: int) -> Tensor:
    """(B, G, k) the first k tokens."""
    b, g, _ = visual.shape
    return torch.arange(k).expand(b, g, k).clone()


@dataclass(frozen=True)
class Longest(Method):
    """Nothing is wrong with it."""

    def score(self, visual: Visual) -> Tensor:
        return visual.tokens.float().norm(dim=-1)


class Repeated(Method):
    """Keeps the first token twice."""

    def select(self, visual: Visual, k: int) -> Tensor:
        keep = first(visual, k)
        keep[..., 1:2] = 0
        return keep


class Descending(Method):
    """Forgets to sort."""

    def select(self, visual: Visual, k: int) -> Tensor:
        return first(visual, k).flip(-1)


class Short(Method):
    """Off by one."""

    def select(self, visual: Visual, k: int) -> Tensor:
        return first(visual, max(1, k - 1))


class Beyond(Method):
    """Counts from one."""

    def select(self, visual: Visual, k: int) -> Tensor:
        return first(visual, k) + visual.shape[2] - k + 1


class Central(Method):
    """Distance to the mean of the whole batch."""

    def score(self, visual: Visual) -> Tensor:
        tokens = visual.tokens.float()
        return (tokens - tokens.mean((0, 1, 2))).norm(dim=-1)


class Trusting(Method):
    """Looks at nothing before it sorts."""

    needs = frozenset({"saliency"})

    def order(self, visual: Visual, k: int) -> Tensor:
        assert visual.saliency is not None
        return visual.saliency.sort(dim=-1, descending=True, stable=True).indices[..., :k]


class Greedy(Method):
    """Farthest tokens first, but chosen ones stay in the running: exact copies are picked again."""

    def select(self, visual: Visual, k: int) -> Tensor:
        x = visual.tokens.float()
        picks = [torch.zeros(visual.shape[:2], dtype=torch.long)]
        far = torch.full(visual.shape, torch.inf)
        for _ in range(k - 1):
            last = x.gather(2, picks[-1][..., None, None].expand(-1, -1, 1, x.shape[-1]))
            far = torch.minimum(far, (x - last).norm(dim=-1))
            picks.append(far.argmax(-1))
        return torch.stack(picks, -1).sort(-1).values


class Writing(Method):
    """Centres the tokens where they stand."""

    def score(self, visual: Visual) -> Tensor:
        return visual.tokens.sub_(visual.tokens.mean(2, keepdim=True)).float().norm(dim=-1)


class Dice(Method):
    """Random, and another time otherwise."""

    def score(self, visual: Visual) -> Tensor:
        return torch.rand(visual.shape)


class Louder(Method):
    """Scales what it keeps without saying so."""

    def reduce(self, visual: Visual, k: int) -> Reduced:
        return Reduced(first(visual, k), visual.tokens[:, :, :k] * 1.5)


class Single(Method):
    """Works in float32 alone."""

    def score(self, visual: Visual) -> Tensor:
        return (visual.tokens @ torch.ones(visual.tokens.shape[-1], 1))[..., 0]


class Widened(Method):
    """Gives its tokens back in float32."""

    def reduce(self, visual: Visual, k: int) -> Reduced:
        return Reduced(first(visual, k), visual.tokens[:, :, :k].float())


class Moody(Method):
    """Another order at each budget."""

    def order(self, visual: Visual, k: int) -> Tensor:
        return (first(visual, visual.shape[2]) + k).remainder(visual.shape[2])[..., :k]


class Asking(Method):
    """Cannot do without a question."""

    needs = frozenset({"keys", "query"})

    def score(self, visual: Visual) -> Tensor:
        assert visual.keys is not None
        return torch.einsum("bgnc,bc->bgn", visual.keys.float(), visual.query.float().mean(1))  # type: ignore[union-attr]


class Unmasked(Method):
    """Takes padding for a part of the question."""

    needs = frozenset({"keys", "query"})

    def score(self, visual: Visual) -> Tensor:
        if visual.keys is None or visual.query is None:
            return torch.ones(visual.shape)
        return torch.einsum("bgnc,bc->bgn", visual.keys.float(), visual.query.float().mean(1))


class Pairing(Method):
    """Has never seen three tiles."""

    def select(self, visual: Visual, k: int) -> Tensor:
        return first(visual, k)[:, torch.arange(min(2, visual.shape[1]))]


class Rescaled(Method):
    """Scales saliency over the whole batch, which a ranking would not notice and a product does."""

    needs = frozenset({"saliency"})

    def score(self, visual: Visual) -> Tensor:
        assert visual.saliency is not None
        if not torch.isfinite(visual.saliency).all():
            raise UserError("NaN or infinity in the saliency")
        s = visual.saliency.float()
        s = (s - s.min()) / (s.max() - s.min() + 1e-8)
        x = visual.tokens.float()
        return s * (x - x.mean(2, keepdim=True)).norm(dim=-1)


class Undeclared(Method):
    """Reads what it does not list."""

    def score(self, visual: Visual) -> Tensor:
        assert visual.saliency is not None
        return visual.saliency


class Secretive(Method):
    """Reads two such fields, and has something to say about one of them."""

    needs = frozenset({"saliency"})

    def score(self, visual: Visual) -> Tensor:
        return visual.saliency * visual.encoded.float().norm(dim=-1) * visual.cls.float().norm(dim=-1)[..., None]  # type: ignore


class Always(Method):
    """Scales what it keeps, and everything too."""

    changes = True

    def reduce(self, visual: Visual, k: int) -> Reduced:
        return Reduced(first(visual, k), visual.tokens[:, :, :k])

    def __call__(self, visual: Visual, k: int) -> Reduced:
        reduced = super().__call__(visual, k)
        return Reduced(reduced.keep, reduced.tokens * 2)


class Lenient(Method):
    """Takes a budget of nothing for one of one token."""

    def select(self, visual: Visual, k: int) -> Tensor:
        return first(visual, k)

    def __call__(self, visual: Visual, k: int) -> Reduced:
        return super().__call__(visual, max(k, 1))


class Careless(Method):
    """Goes on without what it needs."""

    needs = frozenset({"saliency"})

    def score(self, visual: Visual) -> Tensor:
        return torch.ones(visual.shape) if visual.saliency is None else visual.saliency

    def guarded(self, visual: Visual, k: int) -> tuple[Visual, int]:
        return visual, k


class Informing(Method):
    """Refuses NaN in words that only contain the right ones."""

    needs = frozenset({"saliency"})

    def score(self, visual: Visual) -> Tensor:
        assert visual.saliency is not None
        if not torch.isfinite(visual.saliency).all():
            raise UserError("no information on finances\nand a second line")
        return visual.saliency


class Hollow(Method):
    """Divides by zero."""

    def score(self, visual: Visual) -> Tensor:
        return visual.tokens.float().norm(dim=-1) / 0 * 0


class Spendthrift(Method):
    """Takes the budget for what stays from a late layer on, and forgets the layers before."""

    needs = frozenset({"attention"})

    def plan(self, budget: int | None, n_visual: int, n_layers: int) -> dict[int, int]:
        return {2: budget or 1}

    def score(self, visual: Visual) -> Tensor:
        assert visual.attention is not None
        return visual.attention


class Chatty(Method):
    """Fails at length."""

    def score(self, visual: Visual) -> Tensor:
        raise ValueError(MESSAGE)
