"""A slow decoder in float64 that removes nothing: what pruning drops stays in the sequence, and later layers are kept from it.

Independent of the package and of transformers' layers. It reads one unpadded row at a time, takes the weights from the state
dict by name, has its own norms, rotary positions (LLaMA's one axis, Qwen-VL's three), grouped-query attention and MLP, adds
what Qwen3-VL adds to its early layers' outputs (DeepStack) to every visual token, and computes every step of a generation from
scratch; what the prompt's pass chose stays chosen.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Span = tuple[int, int, int, int]  # times, rows, columns in tokens; how far on the first axis one time is from the next


# -- positions -----------------------------------------------------------------------------------------------------------------
def one_axis(visible: Tensor) -> Tensor:
    """(1, L) what is visible is counted 0, 1, 2...; the rest stands anywhere."""
    return (visible.long().cumsum(0) - 1).clamp_min(0)[None]


def three_axes(visual: Sequence[bool], spans: Iterable[Span], behind_sides: bool = False) -> Tensor:
    """(3, L) text counts on all three axes; a picture spans times, rows and columns of its grid (in tokens) from there on, and
    what follows stands behind all of it, or `behind_sides`, behind its rows and columns alone."""
    span, columns, start, i = iter(spans), [], 0, 0
    while i < len(visual):
        times, rows, across, step = next(span) if visual[i] else (1, 1, 1, 1)
        places = [[t * step, h, w] for t in range(times) for h in range(rows) for w in range(across)]
        columns.append(torch.tensor(places).T + start)
        start = start + max(rows, across) if behind_sides else int(columns[-1].max()) + 1
        i += len(places)
    return torch.cat(columns, 1)


def dealt(sections: Sequence[int], interleaved: bool) -> Tensor:
    """(frequencies,) the axis of the positions that each turns with: runs of `sections`, or the axes dealt in turn, where the
    first takes the turns of those whose section is full."""
    if not interleaved:
        return torch.tensor([axis for axis, n in enumerate(sections) for _ in range(n)])
    given, axes = [0, 0, 0], []
    for i in range(sum(sections)):
        axis = i % 3 if given[i % 3] < sections[i % 3] else 0
        given[axis] += 1
        axes.append(axis)
    return torch.tensor(axes)


# -- what to read and what to keep ---------------------------------------------------------------------------------------------
@dataclass(frozen=True, eq=False)
class Row:
    """One prompt without padding."""

    x: Tensor  # (L, D) float64 embeddings, pictures in place
    tiles: tuple[Tensor, ...]  # where the tokens of each image, or each frame, stand
    positions: Tensor | None  # (3, L), or None: counted 0, 1, 2... over what is left before the language model
    later: tuple[Tensor, ...] = ()  # (N, D) float64, what is added to the visual tokens after layer 0, 1, ...

    @property
    def visual(self) -> Tensor:
        """(N,) where the visual tokens stand."""
        return torch.cat(self.tiles) if self.tiles else torch.zeros(0, dtype=torch.long)


@dataclass(frozen=True)
class Rule:
    """What stays: of each image, by norm, before the language model; of all images together, by attention, from a layer on."""

    before: tuple[int, ...] | None = None
    inside: tuple[tuple[int, int], ...] = ()  # (layer, visual tokens)
    ahead: bool = False  # by the attention of that layer itself, not of the one before it


def fastv(n: int, removed: float, layer: int) -> Rule:
    return Rule(inside=((layer, int(n * (1 - removed))),))


def sequential(n: int, removed: float, layer: int, step: int) -> Rule:
    """Every layer from `layer` on loses `step` percent of n, and the last of them what is missing to `removed`."""
    events = int(1 / (step / 100) * removed)
    counts = [int((1 - (step / 100) * (i + 1)) * n) for i in range(events - 1)] + [int((1 - removed) * n)]
    return Rule(inside=tuple((layer + i, m) for i, m in enumerate(counts[:events])))


def pyramid(n: int, layers: Sequence[int]) -> Rule:
    """Half of the tokens at the first of the layers, a quarter at the second..."""
    return Rule(inside=tuple((layer, n // 2 ** (s + 1)) for s, layer in enumerate(layers)), ahead=True)


@dataclass(frozen=True, eq=False)
class Answer:
    """What came out of one row."""

    logits: Tensor  # (steps, V)
    tokens: list[int]
    visible: list[Tensor]  # per layer (L,) bool: the prompt's tokens that it may look at
    before: list[list[int]]  # per tile, the positions in it that are left before the language model
    kept: dict[int, list[int]]  # layer -> positions among the row's visual tokens that are left from there on

    @property
    def entering(self) -> list[int]:
        """Tokens that enter each layer, text included."""
        return [int(v.sum()) for v in self.visible]


# -- the decoder ---------------------------------------------------------------------------------------------------------------
class Decoder:
    """The language model of a LLaVA on LLaMA, a Qwen2-VL, Qwen2.5-VL or Qwen3-VL, by its weights."""

    def __init__(self, model: Any) -> None:
        config = model.config.get_text_config()
        self.w = {name: w.double() for name, w in model.model.language_model.state_dict().items()}
        self.head = model.lm_head.weight.double()
        self.layers, self.eps = config.num_hidden_layers, config.rms_norm_eps
        self.heads, self.groups = config.num_attention_heads, config.num_key_value_heads
        self.d = getattr(config, "head_dim", None) or config.hidden_size // self.heads
        rope = getattr(config, "rope_parameters", None) or {"rope_theta": config.rope_theta, **(config.rope_scaling or {})}
        self.frequency = rope["rope_theta"] ** (-torch.arange(0, self.d, 2).double() / self.d)
        sections = rope.get("mrope_section", [self.d // 2])  # how many frequencies turn with each axis of the positions
        self.axis = dealt(sections, rope.get("mrope_interleaved", False))

    def embed(self, ids: Sequence[int], at: Tensor, features: Sequence[Tensor]) -> Tensor:
        """(L, D) the words' embeddings, with the pictures' features `at` their places."""
        x = self.w["embed_tokens.weight"][torch.tensor(ids)]
        if len(at):
            x[at] = torch.cat(list(features)).double()
        return x

    def norm(self, x: Tensor, name: str) -> Tensor:
        return x / (x.square().mean(-1, keepdim=True) + self.eps).sqrt() * self.w[f"{name}.weight"]

    def linear(self, x: Tensor, name: str) -> Tensor:
        return x @ self.w[f"{name}.weight"].T + self.w.get(f"{name}.bias", 0)

    def rotate(self, x: Tensor, positions: Tensor) -> Tensor:
        """x (heads, L, d): component i and component i + d/2 turn together."""
        angle = positions[self.axis].T.double() * self.frequency
        a, b = x.chunk(2, -1)
        return torch.cat([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()], -1)

    def layer(self, i: int, row: Row, h: Tensor, positions: Tensor, visible: Tensor) -> tuple[Tensor, Tensor]:
        """What the next layer gets, and (L,) what the last token attended to: the mean of the heads."""
        name = f"layers.{i}.self_attn"
        x = self.norm(h, f"layers.{i}.input_layernorm")
        q, k, v = (self.linear(x, f"{name}.{p}_proj").view(len(x), -1, self.d).transpose(0, 1) for p in "qkv")
        if f"{name}.q_norm.weight" in self.w:
            q, k = self.norm(q, f"{name}.q_norm"), self.norm(k, f"{name}.k_norm")
        q, k = self.rotate(q, positions), self.rotate(k, positions)
        of = torch.arange(self.heads) // (self.heads // self.groups)  # the group of each head
        seen = torch.ones(len(x), len(x), dtype=torch.bool).tril() & visible
        p = (q @ k[of].transpose(1, 2) / self.d**0.5).masked_fill(~seen, -torch.inf).softmax(-1)
        h = h + self.linear((p @ v[of]).transpose(0, 1).flatten(1), f"{name}.o_proj")
        x = self.norm(h, f"layers.{i}.post_attention_layernorm")
        gate = self.linear(x, f"layers.{i}.mlp.gate_proj")
        h = h + self.linear(gate * gate.sigmoid() * self.linear(x, f"layers.{i}.mlp.up_proj"), f"layers.{i}.mlp.down_proj")
        if i < len(row.later):
            h[row.visual] += row.later[i]
        return h, p[:, -1].mean(0)

    def choose(self, row: Row, rule: Rule) -> tuple[list[Tensor], Tensor]:
        """Per layer (L,) what it may look at, chosen in one pass over the prompt; and the prompt's positions."""
        now = torch.ones(len(row.x), dtype=torch.bool)
        for tile, m in zip(row.tiles, rule.before or (), strict=rule.before is not None):
            now = _best(row.x.norm(dim=-1), now, tile, m)
        positions = one_axis(now) if row.positions is None else row.positions
        inside, visible, h, attended = dict(rule.inside), [], row.x, torch.empty(0)
        for i in range(self.layers):
            if i in inside and rule.ahead:
                _, attended = self.layer(i, row, h, positions, now)
            if i in inside:
                now = _best(attended, now, row.visual, inside[i])
            visible.append(now)
            h, attended = self.layer(i, row, h, positions, now)
        return visible, positions

    def logits(self, row: Row, x: Tensor, positions: Tensor, visible: Sequence[Tensor]) -> Tensor:
        """(V,) of the last token of x, the prompt's and those after it."""
        for i in range(self.layers):
            x, _ = self.layer(i, row, x, positions, visible[i])
        return self.head @ self.norm(x[-1], "norm")

    def answer(self, row: Row, rule: Rule, steps: int = 1, forced: Sequence[int] = ()) -> Answer:
        """Greedy generation, or one of the tokens `forced`."""
        visible, positions = self.choose(row, rule)
        following = int(positions[0, -1]) + 1
        logits: list[Tensor] = []
        tokens: list[int] = []
        for step in range(steps):
            later = (following + torch.arange(step)).expand(len(positions), -1)
            x = torch.cat([row.x, self.w["embed_tokens.weight"][torch.tensor(tokens, dtype=torch.long)]])
            own = torch.ones(step, dtype=torch.bool)
            logits.append(self.logits(row, x, torch.cat([positions, later], 1), [torch.cat([v, own]) for v in visible]))
            tokens.append(forced[step] if forced else int(logits[-1].argmax()))
        kept = {layer: visible[layer][row.visual].nonzero()[:, 0].tolist() for layer, _ in rule.inside}
        before = [visible[0][tile].nonzero()[:, 0].tolist() for tile in row.tiles]
        return Answer(torch.stack(logits), tokens, visible, before, kept)


def _best(score: Tensor, now: Tensor, at: Tensor, m: int) -> Tensor:
    """`now` with the m best of those at `at` that are left, the first of equal ones."""
    left = at[now[at]]
    then = now.clone()
    then[left] = False
    then[left[score[left].sort(descending=True, stable=True).indices[:m]]] = True
    return then
