"""Made-up visual tokens with every field that a model could offer, from two draws to a whole batch, and what can be wrong with
them: the material on which the laws of `laws.py` are tried.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from ..methods import Method, Visual
from ..methods.base import INSIDE

WIDTH, SHARED, ENCODER, HEADS = 24, 8, 40, 16  # of tokens, of the space shared with the question, of encoder output, of keys
_ROWS = 5  # question rows and text tokens, the last one padding
_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
_MEASURED = (
    "keys",
    "query",
    "saliency",
    "attention",
    "ahead",
    "text_attention",
    "encoder_keys",
)  # float32 around a model of any precision, CLIP's space too
_ALWAYS = frozenset({"tokens", "grid", "sign", "shown", "tiles", "gate"})  # gate: None but for what centring sets
_BESIDE = {"query_mask": "query", "text_mask": "text", "text_keys": "layer_keys", "text_given": "given"}  # what comes with what
_GRIDS = ((1, 1), (1, 2), (1, 3), (2, 2), (1, 5), (2, 3), (1, 7), (3, 3), (2, 5), (3, 4), (4, 4), (5, 5), (4, 6))


@dataclass(frozen=True)
class Case:
    """One input of a method, small enough to be said in a line. `build` makes its tensors, always the same ones."""

    b: int = 1
    g: int = 1
    grid: tuple[int, int] = (2, 2)
    k: int = 2
    dtype: str = "float32"
    degenerate: str = "none"
    seed: int = 0
    measured: bool = False  # in half precision: what is measured around the model, and CLIP's space, stays float32

    @property
    def n(self) -> int:
        """Tokens per tile."""
        return self.grid[0] * self.grid[1]

    def __str__(self) -> str:
        rows, columns = self.grid
        half = " (question, saliency and attention float32)" if self.measured and self.dtype != "float32" else ""
        wrong = "" if self.degenerate == "none" else f", degenerate: {self.degenerate}"
        return f"B={self.b} G={self.g} N={self.n} ({rows} x {columns}) k={self.k} {self.dtype}{half}{wrong}"

    @property
    def code(self) -> str:
        """The Python expression that makes its tensors."""
        given = ", ".join(f"{f.name}={v!r}" for f in fields(self) if (v := getattr(self, f.name)) != f.default)
        return f"build(Case({given}))"


def build(case: Case, needs: AbstractSet[str] | None = None) -> Visual:
    """Every optional field, or those needed, drawn from the case's seed, spoiled as it says and in its precision."""
    visual = _plain(case)
    if case.degenerate != "none":
        visual = DEGENERATE[case.degenerate](visual)
    dtype = _DTYPES[case.dtype]
    changed: dict[str, Any] = {
        name: x.to(dtype)
        for name, x in tensors(visual).items()
        if x.is_floating_point() and not (case.measured and name in _MEASURED)
    }
    visual = _with_callables(replace(visual, **changed))
    return visual if needs is None else declared(visual, needs)


def optional() -> frozenset[str]:
    """The fields of Visual that a method gets because it lists them in `needs`, or what they come with."""
    return frozenset(f.name for f in fields(Visual)) - _ALWAYS


def declared(visual: Visual, needs: AbstractSet[str]) -> Visual:
    """What a method with these needs gets: the fields that it lists, what comes beside them and what always comes."""
    missing: dict[str, Any] = dict.fromkeys(name for name in optional() - needs if _BESIDE.get(name) not in needs)
    return replace(visual, **missing)


def _plain(case: Case) -> Visual:
    generator = torch.Generator().manual_seed(case.seed)
    b, g, n = case.b, case.g, case.n

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    def apart(x: Tensor) -> Tensor:
        """Another scale and offset in each image, so that statistics over the batch are those of none of them."""
        i = torch.arange(b).view(b, *[1] * (x.ndim - 1))
        return x * (1 + i) + 0.3 * i

    mask = torch.ones(b, _ROWS, dtype=torch.bool)
    mask[:, -1] = False
    mask[1:2, 1:] = False
    return Visual(
        tokens=apart(normal(b, g, n, WIDTH)),
        keys=apart(normal(b, g, n, SHARED) * (1 + 4 * torch.arange(b)[:, None, None, None])),
        query=apart(normal(b, _ROWS, SHARED)),
        query_mask=mask,
        saliency=apart(normal(b, g, n).softmax(-1)),
        attention=apart(normal(b, g, n).softmax(-1)),
        encoded=apart(normal(b, g, n, ENCODER)),
        encoder_keys=apart(normal(b, g, n, HEADS)),
        cls=apart(normal(b, g, ENCODER)),
        grid=case.grid,
        seed=torch.tensor([3, 1_000_000_007, 3])[:b],
        sign=1 if case.seed % 2 else -1,
        shown=torch.ones(b, g, n, dtype=torch.bool),
        text=apart(normal(b, _ROWS, WIDTH)),
        text_mask=mask.clone(),
        text_keys=apart(normal(b, _ROWS, HEADS)),
        layer_keys=apart(normal(b, g, n, HEADS)),
        ahead=apart(normal(b, g, n).softmax(-1)),
        text_attention=normal(b, g, n, _ROWS).softmax(2),
        given=apart(normal(b, g, 2 * n, WIDTH)),
        text_given=apart(normal(b, _ROWS, WIDTH)),
        image=(torch.arange(n) >= n // 2).long().expand(b, g, n).clone(),
        frame=(torch.arange(n) * 3 // n).expand(b, g, n).clone(),
    )


def _with_callables(v: Visual) -> Visual:
    """Projector, smaller pictures and final norm that answer in the tokens' own precision."""
    matrix = torch.randn(ENCODER, WIDTH, generator=torch.Generator().manual_seed(7)) / ENCODER**0.5
    tokens, grid = v.tokens, v.grid

    def project(x: Tensor) -> Tensor:
        return torch.matmul(x, matrix.to(x.dtype))

    def resized(rows: int, columns: int) -> Tensor:
        assert grid is not None
        pictures = tokens.float().flatten(0, 1).transpose(1, 2).unflatten(2, grid)
        small: Tensor = adaptive_avg_pool2d(pictures, (rows, columns))
        return small.flatten(2).transpose(1, 2).reshape(*tokens.shape[:2], rows * columns, -1).to(tokens.dtype)

    def norm(x: Tensor) -> Tensor:
        return torch.nn.functional.rms_norm(x.float(), x.shape[-1:], eps=1e-6).to(x.dtype)

    return replace(v, project=project, resized=resized, norm=norm)


def tensors(visual: Visual) -> dict[str, Tensor]:
    """The fields that are tensors."""
    return {f.name: x for f in fields(visual) if isinstance(x := getattr(visual, f.name), Tensor)}


def rows(visual: Visual, at: list[int]) -> Visual:
    """Some of the images alone."""
    changed: dict[str, Any] = {name: x[at] for name, x in tensors(visual).items()}
    if (resized := visual.resized) is not None:
        changed["resized"] = lambda height, width: resized(height, width)[at]
    return replace(visual, **changed)


# -- what can be wrong with them ----------------------------------------------------------------------------------------------
_FEATURES = ("tokens", "keys", "encoded", "encoder_keys", "layer_keys", "given")


def _each(change: Callable[[Tensor], Tensor], *names: str) -> Callable[[Visual], Visual]:
    """The same change to several fields."""

    def changed(v: Visual) -> Visual:
        given: dict[str, Any] = {name: change(getattr(v, name)) for name in names}
        return replace(v, **given)

    return changed


def _first_zero(x: Tensor) -> Tensor:
    return torch.cat([torch.zeros_like(x[:, :, :1]), x[:, :, 1:]], 2)


def _pairs(x: Tensor) -> Tensor:
    return x[:, :, torch.arange(x.shape[2]) // 2]


def _no_question(v: Visual) -> Visual:
    assert v.query is not None
    assert v.text_mask is not None
    b, _, c = v.query.shape
    return replace(
        v, query=torch.zeros(b, 1, c), query_mask=torch.zeros(b, 1, dtype=torch.bool), text_mask=torch.zeros_like(v.text_mask)
    )


def _first_unasked(v: Visual) -> Visual:
    changed: dict[str, Any] = {}
    for name in ("query_mask", "text_mask"):
        changed[name] = getattr(v, name).clone()
        changed[name][0] = False
    return replace(v, **changed)


def _bordered(v: Visual) -> Visual:
    """The first row of every tile lies in the padding around the picture."""
    assert v.shown is not None
    assert v.grid is not None
    shown = v.shown.clone()
    shown[..., : v.grid[1]] = False
    return replace(v, shown=shown)


DEGENERATE: dict[str, Callable[[Visual], Visual]] = {
    "tokens in identical pairs": _each(_pairs, *_FEATURES),
    "the first token is zero": _each(_first_zero, *_FEATURES),
    "all tokens are zero": _each(torch.zeros_like, "tokens", "encoded", "encoder_keys", "layer_keys", "given"),
    "all tokens are equal": _each(lambda x: x[:, :, :1].expand_as(x).clone(), *_FEATURES),
    "all tokens lie in one direction": _each(lambda x: x[..., :1] * torch.ones_like(x), *_FEATURES),
    "constant keys": _each(torch.ones_like, "keys"),
    "constant saliency and attention": _each(
        lambda x: torch.full_like(x, 1 / x.shape[2]), "saliency", "attention", "ahead", "text_attention"
    ),
    "all values are -1 or 1, with many ties": _each(lambda x: torch.where(x > 0, 1.0, -1.0), *_FEATURES, "query"),
    "no question": _no_question,
    "no question at all (None)": lambda v: replace(v, query=None, query_mask=None),
    "the first row has no question": _first_unasked,
    "padding around the picture": _bordered,
    "padding everywhere": _each(torch.zeros_like, "shown"),
}
UNASKED = tuple(name for name in DEGENERATE if "question" in name)


# -- which cases -----------------------------------------------------------------------------------------------------------------
def tiles_allowed(method: Method) -> int:
    """Stages inside the language model see the survivors of an image as one tile."""
    return 1 if method.needs & INSIDE else 3


def ladder(method: Method) -> list[Case]:
    """From small to large, so that the first case that breaks a law is a small one."""
    steps = [Case(1, 1, (2, 2), 2), Case(2, 1, (3, 3), 4), Case(3, 2, (4, 6), 7)]
    return [replace(case, g=min(case.g, tiles_allowed(method))) for case in steps]


@st.composite
def cases(draw: st.DrawFn, tiles: int = 3) -> Case:
    """Any case, up to so many tiles; hypothesis shrinks it towards one small image with ordinary tokens."""
    grid = draw(st.sampled_from(_GRIDS))
    n = grid[0] * grid[1]
    k = draw(st.one_of(st.integers(1, n), st.sampled_from([1, max(1, n - 1), n, n + 5])))
    return Case(
        b=draw(st.integers(1, 3)),
        g=draw(st.integers(1, tiles)),
        grid=grid,
        k=k,
        dtype=draw(st.sampled_from(list(_DTYPES))),
        degenerate=draw(st.sampled_from(["none", *DEGENERATE])),
        seed=draw(st.integers(0, 99)),
        measured=draw(st.booleans()),
    )
