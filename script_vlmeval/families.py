"""Where each transformers family keeps its visual tokens, and what it can offer to methods.

A family is a record; the hooks in `prune.py` are the same for all. Positions: `renumber` counts 0, 1, 2... over the shortened
sequence (LLaVA-1.5, as the releases do); `keep` leaves every kept token its place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from .errors import UserError, unknown
from .methods import catalogue


@dataclass(frozen=True)
class Group:
    """Images of one shape in a batch. I images, G tiles, N tokens per tile."""

    row: Tensor  # (I,) the sample that an image belongs to
    at: Tensor  # (I, G, N) positions of its tokens in the sequence
    grid: tuple[int, int] | None  # rows, columns of a tile


@dataclass(frozen=True)
class Family:
    """One transformers `model_type`."""

    name: str
    positions: Literal["renumber", "keep"]
    offers: frozenset[str]  # optional Visual fields
    split: Callable[[nn.Module, Tensor], list[Group]]  # visual mask (B, L) -> groups, images in the order of the batch

    def require(self, method: str, needs: Iterable[str]) -> None:
        """UserError when the family cannot give what the method reads, naming the methods that it can serve."""
        if missing := sorted(set(needs) - self.offers):
            working = ", ".join(m.name for m in catalogue().values() if set(m.needs) <= self.offers)
            raise UserError(
                f"'{method}' needs {', '.join(missing)}, which {self.name} models do not give. Methods that work: {working}."
            )


def _split_llava(model: nn.Module, visual: Tensor) -> list[Group]:
    """One tile per image, its side the tower's image size over its patch size."""
    config: Any = model.config
    if (strategy := getattr(config, "vision_feature_select_strategy", "default")) != "default":
        raise UserError(
            f"This checkpoint shows the language model '{strategy}' vision features; only 'default', patches without CLS."
        )
    vision: Any = config.vision_config
    side = vision.image_size // vision.patch_size
    n = side * side
    row, column = visual.nonzero(as_tuple=True)
    if len(column) % n or bool((visual.sum(1) % n).any()):
        raise UserError(f"The prompt holds {len(column)} image placeholders, not a multiple of {n} per sample: was it truncated?")
    return [Group(row.view(-1, n)[:, 0], column.view(-1, 1, n), (side, side))]


_LLAVA = frozenset(
    "keys query attention encoded encoder_keys saliency cls project resized seed text text_keys layer_keys norm".split()
)
FAMILIES: dict[str, Family] = {
    "llava": Family(
        "llava",
        "renumber",
        _LLAVA,
        _split_llava,
    ),
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
