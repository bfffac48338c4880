"""Procedural scenes with checked questions: what the embedded model learns from and is tested on.

A scene is a textured background with a few objects of different shape, colour and size. Every answer depends on one or two
objects, a small part of the picture, so losing their visual tokens costs the answer. Everything is numpy, seeded, and the same
on every machine; training draws from other seeds than the test split does (`tiny.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[Any]
SIZE = 96
PATCH = 8
GRID = SIZE // PATCH
COLORS: dict[str, tuple[int, int, int]] = {
    "red": (220, 40, 40),
    "green": (40, 180, 60),
    "blue": (50, 80, 230),
    "yellow": (235, 215, 50),
    "purple": (150, 60, 190),
    "cyan": (60, 200, 210),
}
SHAPES = ("circle", "square", "triangle", "cross", "ring")
KINDS = ("exist", "color", "shape", "count", "relation")
MAX_OBJECTS = 5
_CELL = 24
_YY, _XX = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32)


@dataclass(frozen=True)
class Thing:
    """One object: centre and radius in pixels."""

    shape: str
    color: str
    x: float
    y: float
    radius: float

    @property
    def name(self) -> str:
        return f"{self.color} {self.shape}"

    def covers(self) -> Pixels:
        """(SIZE, SIZE) bool: the pixels that belong to the object."""
        dx: Pixels = _XX - self.x
        dy: Pixels = _YY - self.y
        r = self.radius
        if self.shape == "circle":
            return np.hypot(dx, dy) < r
        if self.shape == "ring":
            d: Pixels = dx * dx + dy * dy
            return np.logical_and(d < r * r, d > (0.55 * r) ** 2)
        if self.shape == "square":
            return np.logical_and(abs(dx) < 0.85 * r, abs(dy) < 0.85 * r)
        if self.shape == "triangle":
            return np.logical_and((dy < 0.8 * r) & (dy > -r), abs(dx) < (dy + r) * 0.55)
        return np.logical_or((abs(dx) < 0.3 * r) & (abs(dy) < r), (abs(dy) < 0.3 * r) & (abs(dx) < r))


@dataclass(frozen=True)
class Question:
    """`about`: indices of the objects that the answer depends on, for relevance."""

    kind: str
    text: str
    answer: str
    about: tuple[int, ...]


@dataclass(frozen=True)
class Scene:
    pixels: Pixels  # (SIZE, SIZE, 3) uint8
    things: tuple[Thing, ...]

    @cached_property
    def owner(self) -> Pixels:
        """(GRID * GRID,) the object that a patch shows (at least a sixth of its pixels), -1 for background."""
        covers = np.stack([t.covers() for t in self.things])
        share = covers.reshape(-1, GRID, PATCH, GRID, PATCH).mean((2, 4)).reshape(-1, GRID * GRID)
        return np.where(share.max(0) > 1 / 6, share.argmax(0), -1)


def draw(rng: np.random.Generator, most: int = MAX_OBJECTS) -> Scene:
    """A scene of 2 to `most` objects, each in a cell of its own."""
    pixels = _background(rng)
    things = []
    for cell in rng.permutation(16)[: rng.integers(2, most + 1)]:
        x, y = (cell % 4) * _CELL + 12 + rng.uniform(-2, 2), (cell // 4) * _CELL + 12 + rng.uniform(-2, 2)
        thing = Thing(SHAPES[rng.integers(5)], list(COLORS)[rng.integers(6)], float(x), float(y), float(rng.uniform(7.5, 11)))
        where = thing.covers()
        pixels[where] = np.array(COLORS[thing.color], np.float32) + rng.normal(0, 12, (int(where.sum()), 3))
        things.append(thing)
    return Scene(pixels.clip(0, 255).round().astype(np.uint8), tuple(things))


def _background(rng: np.random.Generator) -> Pixels:
    """A dim wavy texture with noise."""
    angle, period, phase = rng.uniform(0, np.pi), rng.uniform(6, 30), rng.uniform(0, 2 * np.pi)
    wave = np.sin((_XX * np.cos(angle) + _YY * np.sin(angle)) * (2 * np.pi / period) + phase)
    base = rng.uniform(70, 150, 3) + wave[..., None] * rng.uniform(0, 18, 3)
    textured: Pixels = base + rng.normal(0, 12, (SIZE, SIZE, 3))
    return textured.astype(np.float32)


def ask(scene: Scene, kind: str, rng: np.random.Generator) -> Question | None:
    """One question of a kind, or None where this scene admits none without ambiguity."""
    return _ASK[kind](scene.things, rng)


def ask_yes_no(scene: Scene, rng: np.random.Generator) -> tuple[Question, Question]:
    """Two questions about one picture, the first answered yes, the second no."""
    for _ in range(20):
        pair = _relation_pair(scene.things, rng) if rng.random() < 0.5 else _exist_pair(scene.things, rng)
        if pair is not None:
            return pair
    raise AssertionError("every scene has an existence pair")


def _pick(rng: np.random.Generator, among: list[int]) -> int:
    return among[rng.integers(len(among))]


def _exist(things: tuple[Thing, ...], rng: np.random.Generator) -> Question | None:
    pair = _exist_pair(things, rng)
    return None if pair is None else pair[int(rng.random() < 0.5)]


def _exist_pair(things: tuple[Thing, ...], rng: np.random.Generator) -> tuple[Question, Question] | None:
    present = {(t.color, t.shape) for t in things}
    yes = things[rng.integers(len(things))]
    colors, shapes = sorted({t.color for t in things}), sorted({t.shape for t in things})
    if rng.random() < 0.3:  # an easier negative: any absent combination
        colors, shapes = list(COLORS), list(SHAPES)
    absent = [(c, s) for c in colors for s in shapes if (c, s) not in present]
    absent = absent or [(c, s) for c in COLORS for s in SHAPES if (c, s) not in present]
    color, shape = absent[rng.integers(len(absent))]
    match = tuple(i for i, t in enumerate(things) if t.name == yes.name)
    near = tuple(i for i, t in enumerate(things) if t.color == color or t.shape == shape)
    return (
        Question("exist", f"Is there a {yes.name}?", "yes", match),
        Question("exist", f"Is there a {color} {shape}?", "no", near),
    )


def _color(things: tuple[Thing, ...], rng: np.random.Generator) -> Question | None:
    single = [i for i, t in enumerate(things) if sum(o.shape == t.shape for o in things) == 1]
    if not single:
        return None
    i = _pick(rng, single)
    return Question("color", f"What color is the {things[i].shape}?", things[i].color, (i,))


def _shape(things: tuple[Thing, ...], rng: np.random.Generator) -> Question | None:
    single = [i for i, t in enumerate(things) if sum(o.color == t.color for o in things) == 1]
    if not single:
        return None
    i = _pick(rng, single)
    return Question("shape", f"What shape is the {things[i].color} object?", things[i].shape, (i,))


def _count(things: tuple[Thing, ...], rng: np.random.Generator) -> Question | None:
    shape = SHAPES[rng.integers(5)] if rng.random() < 0.3 else things[rng.integers(len(things))].shape
    about = tuple(i for i, t in enumerate(things) if t.shape == shape)
    plural = "crosses" if shape == "cross" else shape + "s"
    return Question("count", f"How many {plural} are there?", str(len(about)), about)


def _related(things: tuple[Thing, ...], rng: np.random.Generator) -> tuple[int, int, bool] | None:
    """Two objects with names of their own that are apart along an axis: (a, b, vertical)."""
    single = [i for i, t in enumerate(things) if sum(o.name == t.name for o in things) == 1]
    pairs = [
        (a, b, vertical)
        for a in single
        for b in single
        for vertical in (False, True)
        if a != b and abs(things[a].y - things[b].y if vertical else things[a].x - things[b].x) > _CELL * 0.75
    ]
    return pairs[rng.integers(len(pairs))] if pairs else None


def _side(a: Thing, b: Thing, vertical: bool) -> str:
    return ("above" if a.y < b.y else "below") if vertical else ("left" if a.x < b.x else "right")


def _relation(things: tuple[Thing, ...], rng: np.random.Generator) -> Question | None:
    related = _related(things, rng)
    if related is None:
        return None
    a, b, vertical = related
    options = "above or below" if vertical else "left or right of"
    text = f"Is the {things[a].name} {options} the {things[b].name}?"
    return Question("relation", text, _side(things[a], things[b], vertical), (a, b))


_OPPOSITE = {"left": "right", "right": "left", "above": "below", "below": "above"}


def _relation_pair(things: tuple[Thing, ...], rng: np.random.Generator) -> tuple[Question, Question] | None:
    related = _related(things, rng)
    if related is None:
        return None
    a, b, vertical = related
    side = _side(things[a], things[b], vertical)

    def question(side: str, answer: str) -> Question:
        link = side if vertical else side + " of"
        return Question("relation", f"Is the {things[a].name} {link} the {things[b].name}?", answer, (a, b))

    return question(side, "yes"), question(_OPPOSITE[side], "no")


_ASK: dict[str, Callable[[tuple[Thing, ...], np.random.Generator], Question | None]] = {
    "exist": _exist,
    "color": _color,
    "shape": _shape,
    "count": _count,
    "relation": _relation,
}
WORDS = (
    "is there a the what color shape object how many are left right of above below or yes no 0 1 2 3 4 5".split()
    + list(COLORS)
    + list(SHAPES)
    + [s + "s" for s in SHAPES if s != "cross"]
    + ["crosses"]
)
