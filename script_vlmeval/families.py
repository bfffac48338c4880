"""Where each transformers family keeps its visual tokens, and what it can offer to methods.

A family is a record; the hooks in `prune.py` are the same for all. Positions: `renumber` counts 0, 1, 2... over the shortened
sequence (LLaVA-1.5, as the releases do); `keep` leaves every kept token its place, on all three axes where positions have those.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from .errors import UserError, unknown
from .methods import catalogue


@dataclass(frozen=True)
class Group:
    """Images of one shape in a batch. I images, G tiles, N tokens per tile."""

    row: Tensor  # (I,) the sample that an image belongs to
    at: Tensor  # (I, G, N) positions of its tokens in the sequence
    grid: tuple[int, int] | None  # rows, columns of a tile


# model, prompt ids (B, L), positions as the language model gets them -> images of equal shape together, in the batch's order
Split: TypeAlias = Callable[[nn.Module, Tensor, Tensor | None], list[Group]]


@dataclass(frozen=True)
class Family:
    """One transformers `model_type`."""

    name: str
    positions: Literal["renumber", "keep"]
    offers: frozenset[str]  # optional Visual fields
    split: Split
    vision: tuple[str, ...]  # modules of the vision side, which see each picture once
    pictures: tuple[str, ...]  # arguments that pictures come in
    adds_again: bool = False  # the language model adds visual features to its early layers' outputs too (DeepStack)

    def deepstack(self, model: nn.Module) -> int:
        """After how many layers visual features are added again."""
        vision: Any = model.config.vision_config  # type: ignore[union-attr]
        return len(vision.deepstack_visual_indexes) if self.adds_again else 0

    def require(self, method: str, needs: Iterable[str]) -> None:
        """UserError when the family cannot give what the method reads, naming the methods that it can serve."""
        if missing := sorted(set(needs) - self.offers):
            working = ", ".join(m.name for m in catalogue().values() if set(m.needs) <= self.offers)
            raise UserError(
                f"'{method}' needs {', '.join(missing)}, which {self.name} models do not give. Methods that work: {working}."
            )


def _split_llava(model: nn.Module, ids: Tensor, positions: Tensor | None) -> list[Group]:
    """One tile per image, its side the tower's image size over its patch size."""
    config: Any = model.config
    if (strategy := getattr(config, "vision_feature_select_strategy", "default")) != "default":
        raise UserError(
            f"This checkpoint shows the language model '{strategy}' vision features; only 'default', patches without CLS."
        )
    visual = visual_mask(model, ids)
    vision: Any = config.vision_config
    side = vision.image_size // vision.patch_size
    n = side * side
    row, column = visual.nonzero(as_tuple=True)
    if len(column) % n or bool((visual.sum(1) % n).any()):
        raise UserError(
            f"The prompt holds {len(column)} image placeholders, not a multiple of {n} per sample: was it truncated, or does it "
            "come in pieces?"
        )
    return [Group(row.view(-1, n)[:, 0], column.view(-1, 1, n), (side, side))]


def _split_qwen(model: nn.Module, ids: Tensor, positions: Tensor | None) -> list[Group]:
    """A run of placeholders is an image of one tile, or a video of one per temporal patch. Heights and widths are read off the
    positions, which every version hands to the language model; the processor's grids do not get that far.

    Qwen3-VL puts each frame of a video, behind its time as text, into a run of its own: frames of one size that follow each other
    without an image between them are one video.
    """
    row, column = visual_mask(model, ids).nonzero(as_tuple=True)
    found: dict[tuple[int, int, int], tuple[list[int], list[Tensor]]] = {}
    joins: bool = model.config.model_type == "qwen3_vl"  # type: ignore[union-attr]
    for (sample, height, width, _), pieces in _joined(_runs(model, ids, positions, row, column), joins):
        at = torch.cat([column[start : start + n] for start, n in pieces])
        rows, places = found.setdefault((len(at), height, width), ([], []))
        rows.append(sample)
        places.append(at.view(-1, height * width))
    return [Group(torch.tensor(rows, device=ids.device), torch.stack(at), (h, w)) for (_, h, w), (rows, at) in found.items()]


_Run: TypeAlias = tuple[tuple[int, int, int, bool], tuple[int, int]]  # (sample, rows, columns, is video), (start, length)


def _runs(model: nn.Module, ids: Tensor, positions: Tensor | None, row: Tensor, column: Tensor) -> list[_Run]:
    """The runs of placeholders, which stand at `row` and `column`. UserError where one is no full rectangle."""
    if not len(row):
        return []
    if positions is None or positions.ndim != 3:
        raise UserError(
            "Visual tokens need positions on three axes: give mm_token_type_ids and grids as the processor makes them."
        )
    begins = torch.ones_like(row, dtype=torch.bool)
    begins[1:] = (row[1:] != row[:-1]) | (column[1:] != column[:-1] + 1)
    run, first = begins.long().cumsum(0) - 1, begins.nonzero()[:, 0]
    sides = [_extent(axis.expand_as(ids)[row, column], run, len(first)) for axis in positions[-2:]]
    video = ids[row[first], column[first]].eq(model.config.video_token_id)  # type: ignore[arg-type, union-attr]
    table = torch.stack([row[first], *sides, video.long(), first, torch.bincount(run)], 1)
    runs: list[_Run] = []
    for sample, height, width, moving, start, n in table.tolist():
        if n % (height * width):
            raise UserError(
                f"The prompt holds {n} placeholders for an image of {height} x {width} visual tokens: was it truncated?"
            )
        runs.append(((sample, height, width, bool(moving)), (start, n)))
    return runs


def _joined(runs: Iterable[_Run], joins: bool) -> Iterator[tuple[tuple[int, int, int, bool], list[tuple[int, int]]]]:
    """Each run alone or, where frames are runs, successive ones of a video together."""
    for (_, what), together in groupby(enumerate(runs), key=lambda run: (-1 if joins and run[1][0][3] else run[0], run[1][0])):
        yield what, [piece for _, (_, piece) in together]


def _extent(places: Tensor, run: Tensor, runs: int) -> Tensor:
    """(runs,) how far each run's places on an axis reach."""
    low, high = (places.new_zeros(runs).scatter_reduce(0, run, places, how, include_self=False) for how in ("amin", "amax"))
    return high - low + 1


_INSIDE = frozenset("attention ahead text text_keys text_attention layer_keys given image frame norm seed".split())
_LLAVA = _INSIDE | frozenset("keys query encoded encoder_keys saliency cls project resized".split())
_QWEN = _INSIDE | frozenset("keys query".split())  # relevance from the language model's embeddings alone
_VISUAL = (("visual",), ("pixel_values", "image_grid_thw"))
FAMILIES: dict[str, Family] = {
    "llava": Family("llava", "renumber", _LLAVA, _split_llava, ("vision_tower", "multi_modal_projector"), ("pixel_values",)),
    "qwen2_vl": Family("qwen2_vl", "keep", _QWEN, _split_qwen, *_VISUAL),
    "qwen2_5_vl": Family("qwen2_5_vl", "keep", _QWEN, _split_qwen, *_VISUAL),
    "qwen3_vl": Family("qwen3_vl", "keep", _QWEN, _split_qwen, *_VISUAL, adds_again=True),
}


def family_of(model: nn.Module) -> Family:
    """The family of a loaded model. Raises UserError for one that is not known."""
    name = str(getattr(model.config, "model_type", type(model).__name__))
    if name not in FAMILIES:
        raise unknown("model family", name, FAMILIES, "Pruning needs to know where a family keeps its visual tokens.")
    return FAMILIES[name]


def language_model(model: nn.Module) -> Any:
    """The decoder stack: the module whose `layers` are called one after the other."""
    lm: Any = model.model.language_model  # type: ignore[union-attr]
    return lm.model if hasattr(lm, "model") and hasattr(lm.model, "layers") else lm


def visual_mask(model: nn.Module, ids: Tensor) -> Tensor:
    """(B, L) bool: which prompt positions are visual tokens."""
    config: Any = model.config
    names = ("image_token_id", "image_token_index", "video_token_id", "video_token_index")
    tokens = {getattr(config, n) for n in names if isinstance(getattr(config, n, None), int)}
    mask = ids.new_zeros(ids.shape).bool()
    for token in tokens:
        mask |= ids == token
    return mask
