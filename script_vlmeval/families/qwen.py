"""Families of Qwen's vision-language models: pictures of any size, positions on three axes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from ..errors import UserError
from .base import Encoded, Group, Media, media_mask, run_starts, starts_of, visual_mask

_KINDS: tuple[Media, ...] = ("image", "video")


def split_qwen(model: nn.Module, ids: Tensor, positions: Tensor | None, seen: Mapping[Media, Encoded]) -> list[Group]:
    """A run of placeholders is an image of one tile, or a video of one per temporal patch. Heights and widths are read off the
    positions, which every version hands to the language model; the processor's grids do not get that far.

    Qwen3-VL puts each frame of a video, behind its time as text, into a run of its own. How many make a video is in the grids
    that the vision side was given; where those are not known, frames of one size that follow each other without an image between
    them are one video.
    """
    row, column = visual_mask(model, ids).nonzero(as_tuple=True)
    kinds = {media: media_mask(model, ids, media)[row, column] for media in _KINDS}
    order = torch.where(kinds["video"], kinds["video"].cumsum(0), kinds["image"].cumsum(0)) - 1  # among those of its kind
    found: dict[tuple[int, int, int, bool], list[tuple[int, int, Tensor]]] = {}
    for image, ((sample, height, width, video), pieces) in enumerate(
        _videos(model, _runs(model, ids, positions, row, column), seen)
    ):
        which = torch.cat([torch.arange(start, start + n, device=ids.device) for start, n in pieces])
        found.setdefault((len(which), height, width, video), []).append((sample, image, which.view(-1, height * width)))
    groups: list[Group] = []
    for (_, height, width, video), entries in found.items():
        media: Media = "video" if video else "image"
        samples, images, places = zip(*entries, strict=True)
        which, kind = torch.stack(places), kinds[media]
        whose, image_ids = (torch.tensor(x, device=ids.device) for x in (samples, images))
        starts = starts_of(row[kind], len(ids))
        place, where = column[which], order[which]
        groups.append(Group(whose, place, (height, width), media, where, starts, int(kind.sum()), image=image_ids))
    return groups


_What: TypeAlias = tuple[int, int, int, bool]  # sample, rows, columns, is video
_Piece: TypeAlias = tuple[int, int]  # start, length
_Run: TypeAlias = tuple[_What, _Piece]
_Joined: TypeAlias = tuple[_What, list[_Piece]]


def _runs(model: nn.Module, ids: Tensor, positions: Tensor | None, row: Tensor, column: Tensor) -> list[_Run]:
    """The runs of placeholders, which stand at `row` and `column`. UserError where one is no full rectangle."""
    if not len(row):
        return []
    if positions is None or positions.ndim != 3:
        raise UserError(
            "Visual tokens need positions on three axes: give mm_token_type_ids and grids as the processor makes them."
        )
    begins = run_starts(row, column)
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


def _videos(model: nn.Module, runs: Sequence[_Run], seen: Mapping[Media, Encoded]) -> Iterator[_Joined]:
    """Each run alone or, where frames are runs, those of a video together."""
    whose: list[int] = list(range(len(runs)))
    if model.config.model_type == "qwen3_vl":  # type: ignore[union-attr]
        moving = [i for i, ((*_, video), _) in enumerate(runs) if video]
        grids = seen["video"].grids if "video" in seen else None
        found = None if grids is None else _frames([runs[i][0][0] for i in moving], grids[:, 0].tolist())
        for nth, i in enumerate(moving):
            whose[i] = -1 if found is None else -1 - found[nth]
    for (_, what), together in groupby(zip(whose, runs, strict=True), key=lambda run: (run[0], run[1][0])):
        yield what, [piece for _, (_, piece) in together]


def _frames(rows: Sequence[int], counts: Sequence[int]) -> list[int] | None:
    """Which video each frame is of. rows: the sample of each, in order; counts: frames of each video, once for all the rows that
    generate() makes of a prompt. None where they do not fit."""
    total = sum(counts)
    if not total or len(rows) % total:
        return None
    times, found = len(rows) // total, list[int]()
    own = [len(list(frames)) for _, frames in groupby(rows)]
    left = [i for i, n in enumerate(counts) for _ in range(n)]
    for n in own[::times]:
        for again in range(times):
            found += [which * times + again for which in left[:n]]
        left = left[n:]
    return found if len(found) == len(rows) else None


def _extent(places: Tensor, run: Tensor, runs: int) -> Tensor:
    """(runs,) how far each run's places on an axis reach."""
    low, high = (places.new_zeros(runs).scatter_reduce(0, run, places, how, include_self=False) for how in ("amin", "amax"))
    return high - low + 1


# -- values of patches -> values of visual tokens ------------------------------------------------------------------------------
def spread_qwen(model: nn.Module, media: Media, encoded: Encoded, x: Tensor) -> Tensor:
    """(1, P, C), all pictures' patches in the order that the encoder works in -> (V, C) in fp32: the mean of those that become
    one token, tokens row by row.

    Qwen2.5-VL's encoder sorts them by window. HoloV's release for it leaves its scores in that order beside tokens that are
    not, so that they are other tokens' scores; here both are put right.
    """
    visual: Any = model.model.visual  # type: ignore[union-attr]
    merge = int(visual.spatial_merge_size)
    tokens: Tensor = x[0].float().unflatten(0, (-1, merge**2)).mean(1)
    if not hasattr(visual, "window_size"):
        return tokens
    assert encoded.grids is not None
    return tokens[_by_window(encoded.grids, merge, visual.window_size // merge // visual.patch_size).argsort().to(x.device)]


def _by_window(grids: Tensor, merge: int, side: int) -> Tensor:
    """(V,) which token is where in the encoder, for grids (pictures, 3) of patches: frame by frame, and in each window by window
    of side x side tokens, or fewer at the right and lower edges."""
    found, start = [], 0
    for frames, height, width in grids.tolist():
        rows, columns = height // merge, width // merge
        window = torch.arange(rows)[:, None] // side * -(-columns // side) + torch.arange(columns) // side
        within = window.flatten().argsort(stable=True)
        found.append((start + torch.arange(frames)[:, None] * len(within) + within).flatten())
        start += frames * len(within)
    return torch.cat(found)
