"""Every model family, loaded from a folder in the layout of published checkpoints, with messages to ask and where the visual
tokens of each picture stand.

The places are written down by hand per family, from what the processor's placeholders mean, and not taken from the package: tiles
and frames with rows and columns of their own, newlines and the CLS of frames outside them.
"""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from layouts import layout
from PIL import Image
from reference import Decoder, Row
from torch import Tensor, nn

from script_vlmeval.backbones import BACKBONES, Models
from script_vlmeval.conformance.subjects import endless
from script_vlmeval.runtime import Prepared, Runtime

SIDE, FRAMES, LAYERS = 4, 4, 4  # patches along a tile (OneVision: 5), frames of a video, layers of the language model
A, B, C = (90, 60), (60, 70), (200, 50)  # sizes of pictures: width, height

# name of a case -> the family, its name in the table of models and the protocol
CASES = {
    "llava": ("llava", "llava", None),
    "llava_next paper": ("llava_next", "llavanext", "paper"),
    "llava_next hf": ("llava_next", "llavanext", "hf"),
    "llava_next_video": ("llava_next_video", "llavavideo", None),
    "llava_onevision": ("llava_onevision", "llavaov", None),
    "video_llava": ("video_llava", "videollava", None),
    "qwen2_vl": ("qwen2_vl", "qwen2vl2b", None),
    "qwen2_5_vl": ("qwen2_5_vl", "qwen25vl3b", None),
    "qwen3_vl": ("qwen3_vl", "qwen3vl2b", None),
    "internvl": ("internvl", "internvl3", None),
}
VIDEO = [case for case in CASES if case.split()[0] not in ("llava", "llava_next")]

# A batch is its prompts, a prompt its pictures (a size), videos (a number that says which) and text.
BATCHES: dict[str, list[list[Any]]] = {
    "one": [[A, "what is this?"]],
    "two": [[A, B, "which?"], [C, "a longer question here"]],
    "beside": [[A, "what?"], ["hello, is anybody there?"], [A, B, "or?"]],
    "video": [[2, "and why is that?"]],
    "mixed": [[A, 1, "what?"], ["hello?"], [2, "and why is that?"]],
}
BOTH = [(case, batch) for case in CASES for batch in (("two", "video", "mixed") if case in VIDEO else ("one", "two", "beside"))]


# -- loading -------------------------------------------------------------------------------------------------------------------
@cache
def _scratch() -> Path:
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@cache
def _checkpoint(family: str) -> Path:
    return layout(family, _scratch() / family)


@cache
def runtime(case: str) -> Runtime:
    """Loaded as a user's checkpoint of a model of the table is; only pictures and prompts stay small, and answers do not end."""
    family, name, protocol = CASES[case]
    before = BACKBONES[name]
    talk = replace(before.talk, prompt=before.talk.prompt[max(0, before.talk.prompt.find("USER:")) :])
    try:
        BACKBONES[name] = replace(before, talk=talk, pixels=None, frames=FRAMES)
        found = Runtime.load(name, device="cpu", checkpoints=Models({name: str(_checkpoint(family))}, {}, protocol))
    finally:
        BACKBONES[name] = before
    endless(found.model)
    return found


@contextmanager
def attention(model: Any, kind: str) -> Iterator[None]:
    """The model with another attention kernel."""
    before = model.config._attn_implementation
    model.set_attn_implementation(kind)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


# -- asking --------------------------------------------------------------------------------------------------------------------
def saved(pixels: np.ndarray, name: str) -> str:
    path = _scratch() / f"{name}.png"
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(pixels).save(path)
    return str(path)


def message(parts: Sequence[Any]) -> list[dict[str, str]]:
    """A prompt of BATCHES as the host writes it, its pictures drawn into files."""
    found = []
    for part in parts:
        if isinstance(part, str):
            found.append({"type": "text", "value": part})
        elif isinstance(part, tuple):
            found.append({"type": "image", "value": saved(_colours(*part, seed=sum(part)), f"{part[0]}x{part[1]}")})
        else:
            folder = {saved(_colours(140, 112, seed=100 * part + i), f"video{part}/{i}") for i in range(FRAMES)}
            found.append({"type": "video", "value": str(Path(folder.pop()).parent)})
    return found


def _colours(width: int, height: int, seed: int) -> np.ndarray:
    """Squares of colour, a patch or so wide."""
    few = np.random.default_rng(seed).integers(0, 256, (-(-height // 14), -(-width // 14), 3), dtype=np.uint8)
    return few.repeat(14, 0).repeat(14, 1)[:height, :width]


@cache
def prepared(case: str, batch: str) -> Prepared:
    return runtime(case).prepare([message(parts) for parts in BATCHES[batch]])


@cache
def prepared_alone(case: str, batch: str, b: int) -> Prepared:
    return runtime(case).prepare([message(BATCHES[batch][b])])


# -- where visual tokens stand -------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Picture:
    """One image or video: how many visual tokens it has, which of them each tile or frame has, and their rows and columns."""

    length: int
    tiles: tuple[Tensor, ...]
    grids: tuple[tuple[int, int], ...]


def _flat(tiles: int, rows: int, columns: int, first: int = 0, last: int = 0) -> Picture:
    """Tiles one after the other, each behind `first` tokens that are no part of it, and `last` ones behind all of them."""
    n = first + rows * columns
    at = [torch.arange(n * i + first, n * (i + 1)) for i in range(tiles)]
    return Picture(tiles * n + last, tuple(at), ((rows, columns),) * tiles)


def _packed(side: int, rows: int, columns: int) -> Picture:
    """The overview, and the map of all crops with a newline behind each row."""
    n = side * side
    whole = (n + torch.arange(rows * (columns + 1))).view(rows, columns + 1)[:, :-1]
    return Picture(n + rows * (columns + 1), (torch.arange(n), whole.flatten()), ((side, side), (rows, columns)))


def _quartered(side: int) -> Picture:
    """The overview, and four crops whose rows alternate in the map."""
    n = side * side
    whole = (n + torch.arange(4 * n)).view(2 * side, 2 * side)
    crops = [whole[i : i + side, j : j + side].flatten() for i in (0, side) for j in (0, side)]
    return Picture(5 * n, (torch.arange(n), *crops), ((side, side),) * 5)


def _cut(size: tuple[int, int], rows: int, columns: int) -> tuple[int, int]:
    """The part of a map of so many patches that a picture fills when it is scaled to fit."""
    width, height = size
    if width * rows > height * columns:
        return rows - (rows - height * columns // width) // 2 * 2, columns
    return rows, columns - (columns - width * rows // height) // 2 * 2


_NEXT = {A: (2, 2), B: (2, 2), C: (1, 3)}  # rows and columns of crops that fit a picture best
_ONEVISION = {A: (1, 2), C: (1, 3)}
_INTERNVL = {A: 7, B: 13, C: 5}  # tiles, the thumbnail included


def _image(case: str, size: tuple[int, int], alone: bool, grid: Callable[[], Tensor]) -> Picture:
    if case.startswith("qwen"):
        return _boxes(grid())
    if case == "llava_next paper":
        return _quartered(SIDE)
    if case in ("llava_next hf", "llava_next_video"):
        return _packed(SIDE, *_cut(size, *(SIDE * n for n in _NEXT[size])))
    if case == "llava_onevision":
        return _packed(5, *_cut(size, *(5 * n for n in _ONEVISION[size]))) if alone else _flat(1, 5, 5, last=1)
    return _flat(_INTERNVL[size], 2, 2) if case == "internvl" else _flat(1, SIDE, SIDE)


def _video(case: str, grid: Callable[[], Tensor]) -> Picture:
    if case.startswith("qwen"):
        return _boxes(grid())
    if case == "llava_onevision":
        return _flat(FRAMES, 3, 3, last=1)
    return _flat(FRAMES, SIDE, SIDE, first=1) if case == "video_llava" else _flat(FRAMES, 2, 2)


def _boxes(grid: Tensor) -> Picture:
    times, rows, columns = grid.tolist()
    return _flat(times, rows // 2, columns // 2)


def pictures(case: str, parts: Sequence[Any], inputs: dict[str, Tensor]) -> list[Picture]:
    """Those of one prompt, which was prepared alone."""
    grids = {name: iter(inputs.get(f"{name}_grid_thw", ())) for name in ("image", "video")}
    sizes = [part for part in parts if isinstance(part, tuple)]
    found = []
    for part in parts:
        if isinstance(part, tuple):
            found.append(_image(case, part, len(sizes) == 1, lambda: next(grids["image"])))
        elif isinstance(part, int):
            found.append(_video(case, lambda: next(grids["video"])))
    return found


# -- what enters the language model -----------------------------------------------------------------------------------------
@dataclass(frozen=True, eq=False)
class Entering:
    """One prompt without padding and pruning, as the language model gets it."""

    x: Tensor  # (L, D)
    visual: Tensor  # (V,) places of the visual tokens
    tiles: tuple[Tensor, ...]  # places of each tile's
    grids: tuple[tuple[int, int], ...]
    positions: Tensor | None  # (3, L), of families that have such
    later: tuple[Tensor, ...]  # (V, D) what is added after layer 0, 1, ...

    @property
    def between(self) -> Tensor:
        """(S,) places of visual tokens that are in no tile."""
        chosen = torch.cat(self.tiles) if self.tiles else torch.zeros(0, dtype=torch.long)
        return self.visual[~torch.isin(self.visual, chosen)]

    def row(self) -> Row:
        """For the reference decoder."""
        return Row(self.x.double(), self.tiles, self.positions, tuple(f.double() for f in self.later))


def asked_of_language_model(model: Any, inputs: dict[str, Any]) -> dict[str, Any]:
    """The language model's arguments when it reads the prompt."""
    seen: list[dict[str, Any]] = []
    handle = model.model.language_model.register_forward_pre_hook(lambda m, a, kwargs: seen.append(kwargs), with_kwargs=True)
    try:
        with torch.no_grad():
            model.generate(**inputs, do_sample=False, max_new_tokens=1)
    finally:
        handle.remove()
    return seen[0]


@cache
def entering(case: str, batch: str, b: int) -> Entering:
    model, inputs = runtime(case).model, prepared_alone(case, batch, b).inputs
    kwargs = asked_of_language_model(model, inputs)
    names = ("image_token_id", "image_token_index", "video_token_id", "video_token_index")
    ids = [getattr(model.config, name, -1) for name in names]
    visual = torch.isin(inputs["input_ids"][0], torch.tensor([i for i in ids if isinstance(i, int)])).nonzero()[:, 0]
    tiles, grids, start = [], [], 0
    for picture in pictures(case, BATCHES[batch][b], inputs):
        tiles += [visual[start + at] for at in picture.tiles]
        grids += picture.grids
        start += picture.length
    assert start == len(visual), f"{case}: {len(visual)} placeholders, {start} expected"
    positions = kwargs["position_ids"][-3:, 0] if case.startswith("qwen") else None
    later = kwargs.get("deepstack_visual_embeds") or ()
    return Entering(kwargs["inputs_embeds"][0], visual, tuple(tiles), tuple(grids), positions, tuple(later))


@cache
def decoder(case: str) -> Decoder:
    return Decoder(runtime(case).model)


# -- the vision side -------------------------------------------------------------------------------------------------------------
def first_layers(model: Any) -> list[nn.Module]:
    """Of each tower."""
    found = []
    for name in ("vision_tower", "image_tower", "video_tower", "visual"):
        if (tower := getattr(model.model, name, None)) is not None:
            inside = getattr(tower, "vision_model", tower)
            layers = inside.blocks if hasattr(inside, "blocks") else inside.encoder
            found.append(next(x for x in layers.children())[0] if hasattr(layers, "config") else layers[0])
    return found


@contextmanager
def nearsighted(model: Any) -> Iterator[None]:
    """Towers whose patches do not look at each other: what attention puts out is nothing."""
    ends = ("out_proj", "attn.proj", "projection_layer")
    own = [
        w
        for name, w in model.model.named_parameters()
        if not name.startswith("language_model.") and name.rpartition(".")[0].endswith(ends)
    ]
    assert own, "no attention found"
    before = [w.detach().clone() for w in own]
    try:
        for w in own:
            w.data.zero_()
        yield
    finally:
        for w, then in zip(own, before, strict=True):
            w.data.copy_(then)
