"""Families whose pictures are tiles or frames of a fixed size: LLaVA and its successors, InternVL."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from ..errors import UserError
from .base import Encoded, Group, Media, media_mask, run_starts, side_of, starts_of, truncated


@dataclass(frozen=True)
class Part:
    """A part of one picture: G tiles of N tokens."""

    at: Tensor  # (G, N) where its tokens stand among the picture's visual tokens
    grid: tuple[int, int]
    tiles: int = 1  # how many tiles of a budget each of its tiles stands for


Picture: TypeAlias = tuple[int, list[Part]]  # how many visual tokens it has, newlines included, and its parts


def split_llava(model: nn.Module, ids: Tensor, positions: Tensor | None, seen: Mapping[Media, Encoded]) -> list[Group]:
    """One tile per image, its side the tower's image size over its patch size."""
    refuse_cls(model)
    side = side_of(model)
    row, column = media_mask(model, ids, "image").nonzero(as_tuple=True)
    n = side * side
    if len(row) % n or bool((torch.bincount(row, minlength=len(ids)) % n).any()):
        raise truncated(len(row), f"{n} per sample")
    order = torch.arange(len(row), device=ids.device).view(-1, 1, n)
    image, starts = torch.arange(len(order), device=ids.device), starts_of(row, len(ids))
    return [Group(row[order[:, 0, 0]], column[order], (side, side), order=order, starts=starts, total=len(row), image=image)]


def split_internvl(model: nn.Module, ids: Tensor, positions: Tensor | None, seen: Mapping[Media, Encoded]) -> list[Group]:
    """A run of placeholders is an image: tiles of equal size, its thumbnail last.

    Frames of a video are images of one tile, each on its own: the ids do not tell "Frame1: <image>" from a user's "Picture 1:
    <image>". Methods that compare frames have none to compare here, which `pruning` warns of.
    """
    config: Any = model.config
    n = int(config.image_seq_length)
    side = round(n**0.5)
    row, column = media_mask(model, ids, "image").nonzero(as_tuple=True)
    starts = [*run_starts(row, column).nonzero()[:, 0].tolist(), len(row)]
    pictures: list[Picture] = []
    for start, end in pairwise(starts):
        if (end - start) % n:
            raise truncated(end - start, str(n))
        tiles = (end - start) // n
        pictures.append((end - start, [Part(torch.arange(tiles * n).view(tiles, n), (side, side))]))
    return list(_grouped(ids, "image", row, column, pictures))


def split_tiled(model: nn.Module, ids: Tensor, positions: Tensor | None, seen: Mapping[Media, Encoded]) -> list[Group]:
    """Images of several crops, and videos, as the vision side packed them."""
    groups: list[Group] = []
    kinds: tuple[Media, ...] = ("image", "video")
    for media in kinds:
        row, column = media_mask(model, ids, media).nonzero(as_tuple=True)
        if not len(row):
            continue
        if media not in seen:
            raise UserError("The vision encoder did not run inside the pruning context, so where its tokens went is not known.")
        pictures = _videos(model, seen[media]) if media == "video" else _images(model, seen[media])
        groups += _grouped(ids, media, row, column, pictures, sum(len(g.row) for g in groups))
    return groups


def _images(model: nn.Module, encoded: Encoded) -> list[Picture]:
    """Without packing, one tile each; else the overview and, behind it, the map of all crops, a newline behind every row.

    Where the model has no newline (LLaVA-NeXT's `paper` protocol), every tile is one of its own.
    """
    side = side_of(model)
    n = side * side
    if encoded.pack is None:
        return [(n, [Part(torch.arange(n)[None], (side, side))])] * encoded.shape[0]
    blank = [torch.zeros(tiles, n, 1) for tiles in encoded.pieces]
    if not encoded.newline:
        marks = [torch.arange(tiles * n).view(tiles, n, 1).float() for tiles in encoded.pieces]
        packed = encoded.pack(marks, None)
        if all(len(x) == tiles * n for x, tiles in zip(packed, encoded.pieces, strict=True)):
            return [(len(x), [Part(x[:, 0].argsort().view(-1, n), (side, side))]) for x in packed]
        raise UserError("The crops of an image were cut without newline tokens: give image sizes that fill the crops.")
    return [
        _with_newlines(x[:, 0] > 0, n, side, tiles)
        for x, tiles in zip(encoded.pack(blank, torch.ones(1)), encoded.pieces, strict=True)
    ]


def _with_newlines(newline: Tensor, n: int, side: int, tiles: int) -> Picture:
    """An image of which each token is known to be a newline or not."""
    parts = [Part(torch.arange(n)[None], (side, side))]
    ends = newline.nonzero()[:, 0]
    if tiles > 1 and len(ends):  # of a very thin picture, no row is left when its padding is cut off
        rows, columns = len(ends), int(ends[0]) - n
        within = torch.arange(rows)[:, None] * (columns + 1) + torch.arange(columns)
        parts.append(Part(n + within.flatten()[None], (rows, columns), tiles - 1))
    return len(newline), parts


def _videos(model: nn.Module, encoded: Encoded) -> list[Picture]:
    """Frames one after the other: pooled ones, with one newline behind them all or none, or patches behind the CLS of each."""
    videos, frames = encoded.shape[:2]
    inner: Any = model.model
    side, first, last = side_of(model), 0, 0
    if hasattr(inner, "video_tower"):  # Video-LLaVA keeps the CLS of every frame
        first = 1
    elif hasattr(inner, "vision_resampler"):
        side //= int(model.config.spatial_pool_stride)  # type: ignore[arg-type, union-attr]
    else:
        side, last = -(-side // 2), 1
    n = side * side
    stride = first + n
    at = torch.arange(frames)[:, None] * stride + first + torch.arange(n)
    return [(frames * stride + last, [Part(at, (side, side))])] * int(videos)


def _grouped(
    ids: Tensor, media: Media, row: Tensor, column: Tensor, pictures: Sequence[Picture], image: int = 0
) -> Iterator[Group]:
    """Parts of equal shape together. row, column: where the visual tokens of this kind stand; pictures: in the batch's order,
    once for all the rows that generate() makes of a prompt for beams or several answers; image: the number of the first."""
    starts = starts_of(row, len(ids))
    counts = torch.bincount(row, minlength=len(ids)).tolist()
    shapes: dict[tuple[Any, ...], list[tuple[int, int, Tensor]]] = {}
    start = 0
    for r, those in enumerate(_of_rows(counts, pictures)):
        for length, parts in those:
            for part in parts:
                shapes.setdefault((part.at.shape, part.grid, part.tiles), []).append((r, image, part.at + start))
            start, image = start + length, image + 1
    for (_, grid, tiles), found in shapes.items():
        rows, images, at = zip(*found, strict=True)
        order = torch.stack(at).to(ids.device)
        which = torch.tensor(images, device=ids.device)
        yield Group(torch.tensor(rows, device=ids.device), column[order], grid, media, order, starts, len(row), tiles, which)


def _of_rows(counts: Sequence[int], pictures: Sequence[Picture]) -> list[list[Picture]]:
    """The pictures of each row, which has so many visual tokens. UserError where they do not fit."""
    total = sum(length for length, _ in pictures)
    times = sum(counts) // total if total and sum(counts) % total == 0 else 1
    rows: list[list[Picture]] = []
    waiting = list(reversed(pictures))
    for count in counts[::times]:
        rows.append([])
        while count > 0 and waiting:
            rows[-1].append(waiting.pop())
            count -= rows[-1][-1][0]
        if count:
            raise truncated(sum(counts), f"the {total} visual tokens of its pictures")
    if waiting or any(a != b for a, b in zip(counts, (c for c in counts[::times] for _ in range(times)), strict=False)):
        raise truncated(sum(counts), f"the {total} visual tokens of its pictures")
    return [pictures for pictures in rows for _ in range(times)]


def refuse_cls(model: nn.Module) -> None:
    """UserError for a checkpoint whose language model reads the encoder's CLS token too."""
    if (strategy := getattr(model.config, "vision_feature_select_strategy", "default")) != "default":
        raise UserError(
            f"This checkpoint shows the language model '{strategy}' vision features; only 'default', patches without CLS."
        )


# -- values of patches -> values of visual tokens ------------------------------------------------------------------------------
def spread_tiled(model: nn.Module, media: Media, encoded: Encoded, x: Tensor) -> Tensor:
    """What the model does to its tokens, done to other values of them: packing, pooling. Newlines get zeros."""
    inner: Any = model.model
    if media == "image":
        if encoded.pack is None:
            return x.flatten(0, 1)
        newline = x.new_zeros(x.shape[-1]) if encoded.newline else None
        return torch.cat(encoded.pack(x.split(encoded.pieces), newline))
    if hasattr(inner, "video_tower"):
        whole = 1 + side_of(model) ** 2
        return (x if x.shape[1] == whole else pad(x, (0, 0, 1, 0))).flatten(0, 1)
    if hasattr(inner, "vision_resampler"):
        return (inner.vision_resampler(x) if x.shape[1] == side_of(model) ** 2 else x).flatten(0, 1)
    pooled = inner.apply_pooling(x).reshape(encoded.shape[0], -1, x.shape[-1])
    return pad(pooled, (0, 0, 0, 1)).flatten(0, 1)


def spread_internvl(model: nn.Module, media: Media, encoded: Encoded, x: Tensor) -> Tensor:
    """Values of tokens as they are; of patches, the mean of those that the model shuffles into one token."""
    config: Any = model.config
    inner: Any = model.model
    if x.shape[1] == config.image_seq_length:
        return x.flatten(0, 1)
    side, channels = round(x.shape[1] ** 0.5), x.shape[-1]
    shuffled: Tensor = inner.pixel_shuffle(x.unflatten(1, (side, side)), scale_factor=config.downsample_ratio)
    together: Tensor = shuffled.flatten(0, 2).unflatten(-1, (-1, channels))
    return together.mean(1)
