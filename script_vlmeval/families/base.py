"""What a family is, and what it says of a prompt: where the visual tokens of which picture stand."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from ..errors import UserError
from ..offers import require

Media: TypeAlias = Literal["image", "video"]
_TOKENS: dict[Media, tuple[str, str]] = {
    "image": ("image_token_id", "image_token_index"),
    "video": ("video_token_id", "video_token_index"),
}


@dataclass(frozen=True)
class Group:
    """Images, or parts of images, of one shape in a batch. I images, G tiles (or frames), N tokens per tile.

    Tokens between the parts of a picture (newlines, the CLS of a frame) are in no group: they always stay.
    """

    row: Tensor  # (I,) the sample that an image belongs to
    at: Tensor  # (I, G, N) positions of its tokens in the sequence
    grid: tuple[int, int] | None  # rows, columns of a tile
    media: Media = "image"
    order: Tensor | None = None  # (I, G, N) which of the batch's visual tokens of this kind each is; None: not asked for
    starts: Tensor | None = None  # (B,) how many of those the rows before hold
    total: int = 0  # how many of those there are
    tiles: int = 1  # how many tiles of a budget each tile stands for: the merged map of an image's crops stands for all of them
    image: Tensor | None = None  # (I,) which image or video of the batch it is a part of; None: each is one of its own
    nth: tuple[int, ...] | None = None  # per image, how many entries of all groups come before it in its sample


@dataclass
class Encoded:
    """What the vision side did with the images, or the videos, of a batch. T tiles or frames, n tokens each."""

    shape: torch.Size  # of the pixels that the model was given: (images or tiles, ...) or (videos, frames, ...)
    selected: Tensor | None = None  # (T, n, E) the encoder's features, as they enter the projector; n may count a CLS
    tower: Any = None  # the encoder's output object
    pixels: Tensor | None = None  # (T, 3, height, width) what the encoder was given
    grids: Tensor | None = None  # (T, 3) frames, rows, columns of patches of each picture, where those of all lie in one row
    pieces: list[int] = field(default_factory=list)  # tiles of each image, where the model packs them
    pack: Callable[[Sequence[Tensor], Tensor | None], list[Tensor]] | None = None  # tiles of each image, newline -> as packed
    newline: bool = False  # whether it packs with newline tokens
    spread: dict[str, Tensor] = field(default_factory=dict)  # by name (V, C): values of patches that were spread over tokens


# CLS's; that of all patches, where there is no CLS; the same where the patches of all pictures lie in one row (Qwen)
Looks: TypeAlias = Literal["cls", "patches", "pictures"]
# model, prompt ids (B, L), positions as the language model gets them, what was encoded -> images of equal shape together
Split: TypeAlias = Callable[[nn.Module, Tensor, Tensor | None, Mapping[Media, Encoded]], list[Group]]
# model, kind, what was encoded, a value of each patch or projected token (T, n, C) -> that of each visual token (V, C)
Spread: TypeAlias = Callable[[nn.Module, Media, Encoded, Tensor], Tensor]


def in_order(model: nn.Module, media: Media, encoded: Encoded, x: Tensor) -> Tensor:
    """Tiles one after the other, every patch a token."""
    return x.flatten(0, 1)


@dataclass(frozen=True)
class Family:
    """One transformers `model_type`."""

    name: str
    positions: Literal["renumber", "keep"]
    offers: frozenset[str]  # optional Visual fields
    split: Split
    vision: tuple[str, ...]  # modules of the vision side, which see each picture once
    pictures: tuple[str, ...] = ("pixel_values",)  # arguments that images come in
    videos: tuple[str, ...] = ()  # arguments that videos come in; none: frames are shown as images
    towers: Mapping[Media, str] = field(default_factory=dict)  # the vision encoder of each kind
    looks: Looks = "cls"  # whose attention in it is saliency
    spread: Spread = in_order
    packs: bool = False  # whether crops of an image are packed into one map, with newline tokens
    adds_again: bool = False  # the language model adds visual features to its early layers' outputs too (DeepStack)

    def deepstack(self, model: nn.Module) -> int:
        """After how many layers visual features are added again."""
        vision: Any = model.config.vision_config  # type: ignore[union-attr]
        return len(vision.deepstack_visual_indexes) if self.adds_again else 0

    def require(self, method: str, needs: Iterable[str]) -> None:
        """UserError when the family cannot give what the method reads, naming the methods that it can serve."""
        require(self.name, method, needs, self.offers)


def placeholders(model: nn.Module, media: Media) -> list[int]:
    """The ids that stand for visual tokens of a kind in a prompt."""
    config: Any = model.config
    return sorted({token for name in _TOKENS[media] if isinstance(token := getattr(config, name, None), int)})


def media_mask(model: nn.Module, ids: Tensor, media: Media) -> Tensor:
    """(B, L) bool: which prompt positions are visual tokens of a kind."""
    mask = torch.zeros_like(ids, dtype=torch.bool)
    for token in placeholders(model, media):
        mask |= ids == token
    return mask


def visual_mask(model: nn.Module, ids: Tensor) -> Tensor:
    """(B, L) bool: which prompt positions are visual tokens."""
    return media_mask(model, ids, "image") | media_mask(model, ids, "video")


def starts_of(row: Tensor, rows: int) -> Tensor:
    """(rows,) how many tokens lie before each row, from the row that each is in."""
    counts = torch.bincount(row, minlength=rows)
    return counts.cumsum(0) - counts


def run_starts(row: Tensor, column: Tensor) -> Tensor:
    """(V,) bool: which visual tokens, standing at `row` and `column`, do not follow another one without a gap."""
    begins = torch.ones_like(row, dtype=torch.bool)
    begins[1:] = (row[1:] != row[:-1]) | (column[1:] != column[:-1] + 1)
    return begins


def side_of(model: nn.Module) -> int:
    """Patches along a side of what the encoder sees. UserError for encoders of pictures that are not square."""
    vision: Any = model.config.vision_config  # type: ignore[union-attr]
    size, patch = (x if isinstance(x, int) else x[0] for x in (vision.image_size, vision.patch_size))
    return int(size // patch)


def truncated(found: int, of: str) -> UserError:
    """The error for placeholders that are no whole pictures."""
    return UserError(
        f"The prompt holds {found} image placeholders, not a multiple of {of}: was it truncated, or does it come in pieces?"
    )
