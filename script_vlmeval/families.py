"""Where each transformers family keeps its visual tokens, and what it can offer to methods.

A family is a record; the hooks in `prune.py` are the same for all. Positions: `renumber` counts 0, 1, 2... over the shortened
sequence (LLaVA-1.5, as the releases do); `keep` leaves every kept token its place, on all three axes where positions have those.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
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
        raise UserError(f"The prompt holds {len(column)} image placeholders, not a multiple of {n} per sample: was it truncated?")
    return [Group(row.view(-1, n)[:, 0], column.view(-1, 1, n), (side, side))]


def _split_qwen(model: nn.Module, ids: Tensor, positions: Tensor | None) -> list[Group]:
    """A run of placeholders is an image of one tile, or a video of one per temporal patch. Heights and widths are read off the
    positions, which every version hands to the language model; the processor's grids do not get that far."""
    visual = visual_mask(model, ids)
    row, column = visual.nonzero(as_tuple=True)
    if not len(row):
        return []
    if positions is None or positions.ndim != 3:
        raise UserError(
            "The visual tokens have no positions on three axes: give mm_token_type_ids and grids as the processor does."
        )
    begins = torch.ones_like(row, dtype=torch.bool)
    begins[1:] = (row[1:] != row[:-1]) | (column[1:] != column[:-1] + 1)
    run = begins.long().cumsum(0) - 1
    first = begins.nonzero()[:, 0]
    sides = [_extent(axis.expand_as(ids)[row, column], run, len(first)) for axis in positions[-2:]]
    length = torch.bincount(run)
    found: dict[tuple[int, int, int], list[int]] = {}
    for i, (n, h, w) in enumerate(torch.stack([length, *sides], 1).tolist()):
        if n % (h * w):
            raise UserError(f"The prompt holds {n} placeholders for an image of {h} x {w} visual tokens: was it truncated?")
        found.setdefault((n, h, w), []).append(i)
    groups = []
    for (n, h, w), runs in found.items():
        start = first[runs]
        at = column[start[:, None] + torch.arange(n, device=ids.device)]
        groups.append(Group(row[start], at.view(len(runs), -1, h * w), (h, w)))
    return groups


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
