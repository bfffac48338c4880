"""The contract of a token-selection method: what it sees, what it returns, and the one rung it overrides.

A method is a pure function of tensors over a batch of images of one shape. It knows no model, no tokenizer and no benchmark.
Subclass `Method` as a frozen dataclass in a file of its own in this folder; the fields are its hyper-parameters, the class name
in lower case is the name that users type. Files whose name begins with an underscore define no method of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..doubts import doubt, gathering
from ..errors import UserError, unknown

METHODS: dict[str, type[Method]] = {}


@dataclass(frozen=True)
class Visual:
    """The visual tokens of B images (or clips) of one shape at one stage. G = tiles or frames, N = tokens per tile.

    A stage inside the language model sees the survivors of an image, or of all images of a sample (`Method.union`), as G = 1.
    Optional fields are present when the method lists them in `needs`; `text_given` comes with `given`. What a layer attends to
    is after the softmax over all that it saw, text included, in fp32, heads averaged.
    """

    tokens: Tensor  # (B, G, N, D) what the language model would read
    keys: Tensor | None = None  # (B, G, N, C) the tokens in a space shared with the question
    query: Tensor | None = None  # (B, M, C) the question in that space
    query_mask: Tensor | None = None  # (B, M) bool, True = real row
    saliency: Tensor | None = None  # (B, G, N) attention received from CLS (or the mean query) in the vision encoder
    attention: Tensor | None = None  # (B, G, N) attention from the last prompt token, layer before the stage; None at stage 0
    encoded: Tensor | None = None  # (B, G, N, E) encoder output before the projector
    encoder_keys: Tensor | None = None  # (B, G, N, H) attention keys of that encoder layer, heads averaged
    cls: Tensor | None = None  # (B, G, E) the encoder's CLS token
    project: Callable[[Tensor], Tensor] | None = None  # the projector: (..., E) -> (..., D), in the model's precision
    grid: tuple[int, int] | None = None  # rows, columns of a tile
    seed: Tensor | None = None  # (B,) per-sample seed, the same on every device, rank and batch size
    sign: int = -1  # how relevance follows from cosine(keys, query) in this space: -1 in CLIP's (patches of LLaVA), +1 elsewhere
    resized: Callable[[int, int], Tensor] | None = None  # rows, columns -> (B, G, rows * columns, D): the picture shrunk first
    shown: Tensor | None = None  # (B, G, N) bool: False = padding around the picture; None = no padding
    text: Tensor | None = None  # (B, M, D) the prompt's tokens after the image, as they stand at this stage
    text_mask: Tensor | None = None  # (B, M) bool, True = real
    text_keys: Tensor | None = None  # (B, M, H) attention keys of the layer before the stage, heads side by side
    layer_keys: Tensor | None = None  # (B, G, N, H) the same of the visual tokens
    norm: Callable[[Tensor], Tensor] | None = None  # the language model's final norm
    gate: Tensor | None = None  # (B, G, N) in [0, 1]: how distinct a token is; set by centring alone
    tiles: int = 1  # how many tiles or frames a joint view holds, one after the other, N / tiles tokens each
    ahead: Tensor | None = None  # (B, G, N) attention from the last prompt token, in the layer that the stage comes before
    text_attention: Tensor | None = None  # (B, G, N, M) attention from each row of `text`, layer before the stage
    given: Tensor | None = None  # (B, G, N0, D) all visual tokens as the language model was given them
    text_given: Tensor | None = None  # (B, M, D) the rows of `text` as the language model was given them
    image: Tensor | None = None  # (B, G, N) which image of the sample a token is of, counted from 0
    frame: Tensor | None = None  # (B, G, N) which tile or frame of the sample, counted from 0 over all its images

    @property
    def shape(self) -> tuple[int, int, int]:
        """B, G, N."""
        b, g, n = self.tokens.shape[:3]
        return b, g, n

    def joined(self) -> Visual:
        """All tiles of an image side by side, for methods that choose among all of them: (B, G, N, ...) -> (B, 1, G * N, ...)."""
        given: dict[str, Any] = {name: x.flatten(1, 2)[:, None] for name in _PER_TOKEN if (x := getattr(self, name)) is not None}
        if (resized := self.resized) is not None:
            given["resized"] = lambda rows, columns: resized(rows, columns).flatten(1, 2)[:, None]
        return replace(self, **given, tiles=self.tiles * self.shape[1])


# What there is to see inside the language model alone: a method that needs any of it works there.
INSIDE = frozenset("attention ahead text text_keys text_attention given layer_keys norm image frame".split())
_PER_TOKEN = (
    *("tokens", "keys", "saliency", "attention", "encoded", "encoder_keys", "shown", "layer_keys", "gate"),
    *("ahead", "text_attention", "image", "frame"),
)


@dataclass(frozen=True)
class Reduced:
    """The tokens that stay. `keep` ascends; -1, at its end, is a token that stands for no single position (merged, mean)."""

    keep: Tensor  # (B, G, k) indices into N
    tokens: Tensor  # (B, G, k, D) original or merged features


class Method:
    """Override exactly one of `score`, `order`, `select`, `reduce`; the others follow. Budgets k are per tile (or frame)."""

    name: ClassVar[str] = "method"
    needs: ClassVar[frozenset[str]] = frozenset()  # optional Visual fields that it reads; checked before weights load
    joint: ClassVar[bool] = False  # chooses among all tiles of an image: it sees G = 1 and k times the number of tiles
    changes: ClassVar[bool] = False  # tokens that stand for a position may have other features than the original there
    frames: ClassVar[bool] = False  # compares the frames of a video, so that pictures of one tile give it nothing to compare
    gated: ClassVar[bool] = False  # multiplies Visual.gate into its weights, so centring can be put around it
    union: ClassVar[bool] = False  # a stage inside the language model sees all images of a sample as one, B = samples

    def __init_subclass__(cls, register: bool = True, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        if not register:
            return
        cls.name = cls.__name__.lower()
        if cls.name in METHODS and METHODS[cls.name].__module__ != cls.__module__:
            raise UserError(f"Two methods are called '{cls.name}': {METHODS[cls.name].__module__} and {cls.__module__}.")
        METHODS[cls.name] = cls

    def parameters(self) -> dict[str, Any]:
        """Everything that makes this instance choose as it does, by name."""
        return {f.name: getattr(self, f.name) for f in fields(self)}  # type: ignore[arg-type]  # every method is a dataclass

    def plan(self, budget: int | None, n_visual: int, n_layers: int) -> dict[int, int]:
        """Stage -> visual tokens kept from there on. Stage 0 is before the language model, stage i the entry of its layer i.

        A budget of a method that works inside is the mean number of visual tokens over all layers, never more; None stands for
        what its own parameters say. UserError for what cannot be reached.
        """
        if budget is None:
            raise UserError(f"'{self.name}' needs a budget: a number of visual tokens (64) or a share (25pct).")
        return {0: budget}

    def entering(self, budget: int | None, n_visual: int, n_layers: int) -> int:
        """How many of a tile's tokens the plan lets into the language model."""
        return n_visual if self.union and self.at(0) is self else self.plan(budget, n_visual, n_layers).get(0, n_visual)

    def scheduled(self, removed: float, first_layer: int) -> Method:
        """The method with the published schedule of a budget such as `r75k2`: 0.75 removed from layer 2 on."""
        budget = f"r{100 * removed:g}k{first_layer}"
        raise UserError(f"'{self.name}' has no layer schedule such as '{budget}': give a number of visual tokens or a share.")

    def at(self, stage: int) -> Method:
        """The method that works at a stage: itself, but for hybrids."""
        return self

    def reprunes(self) -> bool:
        """Whether every step of a generation without a cache selects again, as releases do; for parity with them only."""
        return False

    def source(self) -> str:
        """Where the question comes from: `auto` (what the model family has), `clip`, `llm` (the question's embeddings in the
        language model) or `words` (the same of its content words alone)."""
        return "auto"

    def score(self, visual: Visual) -> Tensor:
        """(B, G, N) importance; the k highest are kept, ties to the lower index."""
        raise NotImplementedError(f"'{self.name}' overrides none of score, order, select, reduce")

    def order(self, visual: Visual, k: int) -> Tensor:
        """(B, G, k) indices into N, best first, so that the first j are the choice at budget j."""
        score = self.score(visual).float()
        if score.shape != visual.shape:
            raise UserError(f"'{self.name}' scored {tuple(score.shape)} tokens where there are {visual.shape}.")
        require_finite(score, f"the scores of '{self.name}'")
        return score.sort(dim=-1, descending=True, stable=True).indices[..., :k]

    def select(self, visual: Visual, k: int) -> Tensor:
        """(B, G, k) indices into N, ascending."""
        return self.order(visual, k).sort(-1).values

    def reduce(self, visual: Visual, k: int) -> Reduced:
        """The kept tokens with their features."""
        return take(visual, self.select(visual, k))

    @property
    def nested(self) -> bool:
        """Whether a smaller budget keeps a part of what a larger one keeps, so that one run serves all budgets."""
        return type(self).select is Method.select and type(self).reduce is Method.reduce

    def select_many(self, visual: Visual, budgets: Sequence[int]) -> list[Tensor]:
        """`select` at several budgets; from one run at the largest where the method is nested."""
        if not self.nested or not budgets:
            return [self.select(visual, k) for k in budgets]
        order = self.order(visual, max(budgets))
        return [order[..., :k].sort(-1).values for k in budgets]

    def many(self, visual: Visual, budgets: Sequence[int]) -> list[Tensor]:
        """`select_many` behind the guards of a call, for budgets below N."""
        tiles = visual.shape[1]
        visual, _ = self.guarded(visual, min(budgets))
        wanted = [k * (tiles // visual.shape[1]) for k in budgets]
        return [self.checked(visual, k, keep) for k, keep in zip(wanted, self.select_many(visual, wanted), strict=True)]

    def __call__(self, visual: Visual, k: int) -> Reduced:
        """`reduce` behind its guards: k >= N keeps everything, non-finite features and malformed results are refused.

        Raises UserError for a budget below 1, for NaN or inf in the tokens and for a missing field; a method that returns
        another number of tokens than asked for is an error too, never a silently short set.
        """
        visual, k = self.guarded(visual, k)
        if k >= visual.shape[2]:
            return take(visual, torch.arange(visual.shape[2], device=visual.tokens.device).expand(visual.shape))
        reduced = self.reduce(visual, k)
        reduced = replace(reduced, keep=self.checked(visual, k, reduced.keep))
        if reduced.tokens.shape != (*reduced.keep.shape, visual.tokens.shape[-1]):
            raise UserError(f"'{self.name}' returned tokens of shape {tuple(reduced.tokens.shape)} for {k} kept ones.")
        return reduced

    def guarded(self, visual: Visual, k: int) -> tuple[Visual, int]:
        """What the method will see, and its budget there. UserError for what it cannot work with."""
        if k < 1:
            raise UserError(f"'{self.name}' was asked to keep {k} visual tokens; a budget is at least 1.")
        if self.joint and visual.shape[1] > 1:
            visual, k = visual.joined(), k * visual.shape[1]
        for field in sorted(self.needs):
            if getattr(visual, field) is None and field not in ("query", "attention"):  # no question; no layer before stage 0
                raise UserError(f"'{self.name}' needs '{field}' of the visual tokens, which this model does not give.")
        require_finite(visual.tokens, f"the visual tokens given to '{self.name}'")
        return visual, k

    def checked(self, visual: Visual, k: int, keep: Tensor) -> Tensor:
        """The indices, where they are well formed; UserError otherwise."""
        expected = (*visual.shape[:2], k)
        if tuple(keep.shape) != expected:
            raise UserError(f"'{self.name}' returned {tuple(keep.shape)} indices where {expected} were asked for.")
        n = visual.shape[2]
        said = f"'{self.name}' returned indices that are not ascending, distinct and below {n}."
        doubt(_malformed(keep, n), lambda: UserError(said))
        return keep.clamp(-1, n - 1) if gathering() else keep


def _malformed(keep: Tensor, n: int) -> Tensor:
    """Whether not ascending, distinct, below n, with -1 only at the end."""
    real = keep >= 0
    rising = (keep[..., 1:] > keep[..., :-1]) | ~real[..., 1:]
    ended = real[..., :-1] | ~real[..., 1:]
    return ~(rising.all() & ended.all() & (keep < n).all())


def take(visual: Visual, keep: Tensor) -> Reduced:
    """The original features at `keep` (B, G, k)."""
    index = keep[..., None].expand(-1, -1, -1, visual.tokens.shape[-1])
    return Reduced(keep, visual.tokens.gather(2, index))


def require_finite(x: Tensor, what: str) -> None:
    """Fail closed: a NaN would win every argmax and repeat picks, so a set would be short without a word.

    One pass that makes nothing: only a sum that is not finite, which very large numbers give as well, is looked into.
    """

    def error() -> UserError | None:
        if bool(torch.isfinite(x).all()):
            return None
        return UserError(f"NaN or infinity in {what}: a selection would be arbitrary. Try another --dtype (float32).")

    doubt(~torch.isfinite(x.sum(dtype=torch.float32)), error)


def get_method(name: str, **params: object) -> Method:
    """The method of that name with these hyper-parameters. Raises UserError for unknown names and parameters.

    A hybrid such as `script+fastv` is a method before the language model and one inside it; it takes the parameters of both (a
    name that both have goes to the first) and `before`, the tokens per image in between.

    Besides its own fields a method takes `merge` ("none", "mean": dropped tokens are averaged into the kept one most like them)
    unless it merges by itself, and `centre` ("none", "minmax", "sigmoid": Cen-Prune) where it weighs tokens.
    """
    from . import around

    if name.count("+") == 1:
        first, then = name.split("+")
        return _hybrid(first, then, dict(params))
    if name not in METHODS:
        raise unknown("method", name, METHODS, "See --list methods.")
    cls = METHODS[name]
    own = {f.name: str(f.type) for f in fields(cls)} if hasattr(cls, "__dataclass_fields__") else {}  # type: ignore[arg-type]
    known = {*own, *around(name, cls.reduce is not Method.reduce, cls.gated)}
    for param in params:
        if param not in known:
            raise unknown(f"parameter of method '{name}':", param, known, "" if known else "It has no parameters.")
    method = cls(**{p: _typed(name, p, kind, params[p]) for p, kind in own.items() if p in params})
    options = {p: params[p] for p in params if p not in own}
    if not options:
        return method
    from ._wrap import wrapped

    return wrapped(method, **options)


def _hybrid(first: str, then: str, params: dict[str, object]) -> Method:
    """The hybrid of two methods, each with its own of the parameters."""
    from . import info
    from ._hybrid import joined

    if (both := info(f"{first}+{then}")) is None:
        raise unknown("method", then if first in METHODS else first, METHODS, f"(in '{first}+{then}')")
    known = [{p for p, _ in both.params}, *({p for p, _ in one.params} for n in (first, then) if (one := info(n)))]
    for param in params:
        if param not in known[0]:
            raise unknown(f"parameter of method '{first}+{then}':", param, known[0])
    before = params.pop("before", None)
    early = {p: v for p, v in params.items() if p in known[1]}
    late = {p: v for p, v in params.items() if p in known[2] and p not in early}
    return joined(get_method(first, **early), get_method(then, **late), before)


def _typed(method: str, name: str, kind: str, value: object) -> object:
    """The value as its field wants it: 'none' for None, whole numbers where a float is meant. UserError for another type."""
    if "None" in kind and (value is None or str(value).lower() == "none"):
        return None
    number = isinstance(value, int | float) and not isinstance(value, bool)
    fits = {
        "float": number,
        "int": number and not isinstance(value, float),
        "bool": isinstance(value, bool),
        "str": isinstance(value, str),
        "Literal": True,  # the method itself says what it takes
    }
    wanted = [word for word in fits if word in kind]
    if wanted and not any(fits[word] for word in wanted):
        raise UserError(f"'{method}' takes {name} as {kind}, not {value!r}.")
    return value
