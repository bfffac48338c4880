"""Bookkeeping of a shortened sequence: which positions are left, and masks and rotary tables gathered to them."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn.functional import pad

from .doubts import settle

T = TypeVar("T")


def to(item: T, device: torch.device) -> T:
    """A record with its tensors on a device; itself where they are there."""

    def moved(value: Any) -> Any:
        if isinstance(value, tuple | dict):
            return {k: moved(v) for k, v in value.items()} if isinstance(value, dict) else tuple(map(moved, value))
        return value.to(device) if isinstance(value, Tensor) else value

    return replace(item, **{f.name: moved(getattr(item, f.name)) for f in fields(item)})  # type: ignore[arg-type, type-var]


def take(x: Tensor, index: Tensor) -> Tensor:
    """x (B, L, D) at index (B, M)."""
    return x[torch.arange(len(x), device=x.device)[:, None], index]


def take_positions(positions: Tensor, index: Tensor) -> Tensor:
    """Position ids (B, L) or, for multimodal rope, (3 or 4, B, L), at index (B, M)."""
    b = index.shape[0]
    if positions.ndim == 2:
        return positions.expand(b, -1).gather(1, index)
    return positions.expand(-1, b, -1).gather(2, index[None].expand(positions.shape[0], -1, -1))


def take_rope(table: Tensor, index: Tensor) -> Tensor:
    """A cosine or sine table (B or 1, L, d), or (3, B, L, d), at index (B, M)."""
    b = index.shape[0]
    if table.ndim == 3:
        return table.expand(b, -1, -1).gather(1, index[..., None].expand(-1, -1, table.shape[-1]))
    wide = index[None, ..., None].expand(table.shape[0], -1, -1, table.shape[-1])
    return table.expand(-1, b, -1, -1).gather(2, wide)


def take_mask(mask: Tensor | None, rows: Tensor | None, columns: Tensor, valid: Tensor) -> Tensor | None:
    """An attention mask at query rows (None = all) and key columns: None, (B, K), or (B, 1, Q, K) bool or additive."""
    if mask is None:
        return None
    b = len(columns)
    if mask.ndim == 2:
        return mask.expand(b, -1).gather(1, columns) & valid.to(mask.dtype)
    mask = mask.expand(b, -1, -1, -1)
    if rows is not None:
        mask = mask.gather(2, rows[:, None, :, None].expand(-1, mask.shape[1], -1, mask.shape[3]))
    mask = mask.gather(3, columns[:, None, None, :].expand(-1, mask.shape[1], mask.shape[2], -1))
    real = valid[:, None, None, :]
    return mask & real if mask.dtype == torch.bool else mask.masked_fill(~real, torch.finfo(mask.dtype).min)


def place(keep: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Where k kept tokens (B, G, k; -1 = merged) stand among the n of their tile: slot and origin.

    Returns positions in the flattened image, (B, G * k) each. Kept tokens stand in their own slots; merged ones follow them in
    the sequence, so the tile's last free slots are added and the tokens take the slots in order. `origin` is the position whose
    place in space a token has.
    """
    real = keep >= 0
    taken = torch.zeros(*keep.shape[:2], n + 1, device=keep.device)
    taken.scatter_(2, torch.where(real, keep, n), 2.0)
    late = torch.arange(n, device=keep.device) / n
    slot = torch.maximum(taken[..., :n], late).topk(keep.shape[-1], dim=-1).indices.sort(-1).values
    offset = torch.arange(keep.shape[1], device=keep.device)[:, None] * n
    return (slot + offset).flatten(1), (torch.where(real, keep, slot) + offset).flatten(1)


@dataclass(frozen=True)
class Stage:
    """The sequence from a stage on, in coordinates of the sequence that the language model was given.

    Rows with fewer tokens than the longest are padded on the left; `valid` marks real tokens. What all rows begin with may be in
    the cache already: `ahead` tokens, all real, that masks have a column for and no row.
    """

    index: Tensor  # (B, M) positions in the language model's sequence
    origin: Tensor  # (B, M) whose position in space a token has; differs from index for merged tokens' neighbours only
    valid: Tensor  # (B, M) bool
    step: Tensor  # (B, M) positions in the stage before
    rope: Any = None
    mask: Tensor | None = None  # (B, 1, M, ahead + M), or (B, ahead + M) where masks are flat
    ragged: bool = False  # rows of unequal length: the mask must be explicit, also where transformers would give none
    flat: bool = False  # whether masks are (B, K), as for flash attention
    ahead: int = 0  # tokens that the cache holds before them
    padded: bool | None = None  # whether some rows are shorter than others; None: nobody has looked

    @classmethod
    def whole(cls, valid: Tensor, rope: Any = None, mask: Tensor | None = None, flat: bool = False, ahead: int = 0) -> Stage:
        index = torch.arange(valid.shape[1], device=valid.device).expand(valid.shape)
        return cls(index, index, valid, index, rope, mask, flat=flat, ahead=ahead)

    def last(self) -> Tensor:
        """(B,) where each row's last real token stands."""
        return (self.valid * torch.arange(self.valid.shape[1], device=self.valid.device)).amax(1)

    def shrink(self, keep: Tensor, moved: Tensor) -> tuple[Stage, Tensor]:
        """The stage without the positions that are not in keep (B, L), and the new place (B, L) of each old position."""
        keep = keep & self.valid  # padding that no row needs any more goes as well
        counts = keep.sum(1)
        m, least = settle(counts.max(), counts.min())  # the one host synchronisation of a stage: how long its rows still are
        step = torch.argsort(keep.to(torch.uint8), dim=1, stable=True)[:, -m:]
        valid = keep.gather(1, step)
        rank = keep.long().cumsum(1) - 1 + (m - counts[:, None])
        place = moved.gather(1, step)
        ragged = self.rope is not None and least < m
        mask = self.mask
        if ragged and mask is None:
            mask = _real(self.valid, self.ahead) if self.flat else _causal(self.valid, self.ahead)
        rope = None if self.rope is None else tuple(take_rope(c, place) for c in self.rope)
        shrunk = Stage(
            self.index.gather(1, step),
            self.origin.gather(1, place),
            valid,
            step,
            rope,
            take_mask(mask, step, _columns(step, self.ahead), _real(valid, self.ahead)),
            ragged,
            self.flat,
            self.ahead,
            least < m,
        )
        return shrunk, rank

    def decode_mask(self, mask: Tensor | None, start: int, past: int, new: int) -> Tensor | None:
        """The mask of a decoding step of `new` tokens, made for the first layer's cache (`past` long, `start` of it prompt), at
        the columns that this layer's cache holds."""
        real = _real(self.valid, self.ahead)
        if mask is None and self.ragged and self.flat:
            return torch.cat([real, real.new_ones(len(real), past - start + new)], 1)
        if mask is None and self.ragged:
            tail = torch.ones(new, past - start + new, dtype=torch.bool, device=real.device).tril(past - start)
            prompt = real[:, None, None, :].expand(-1, 1, new, -1)
            return torch.cat([prompt, tail.expand(len(prompt), 1, -1, -1)], -1)
        if mask is None:
            return None
        columns, real = _columns(self.index, self.ahead).to(mask.device), real.to(mask.device)
        later = torch.arange(start, mask.shape[-1], device=mask.device).expand(len(columns), -1)
        return take_mask(
            mask, None, torch.cat([columns, later], 1), torch.cat([real, torch.ones_like(later, dtype=torch.bool)], 1)
        )


def _columns(index: Tensor, ahead: int) -> Tensor:
    """Where the cache holds what is ahead and, behind it, these positions (B, M) of the sequence: (B, ahead + M)."""
    return torch.cat([torch.arange(ahead, device=index.device).expand(len(index), -1), index + ahead], 1)


def _real(valid: Tensor, ahead: int) -> Tensor:
    """Which of these columns are real tokens (B, ahead + M), as `valid` (B, M) says of the sequence."""
    return pad(valid, (ahead, 0), value=True)


def _causal(valid: Tensor, ahead: int) -> Tensor:
    """(B, 1, L, ahead + L) bool."""
    real = _real(valid, ahead)
    n = real.shape[1]
    return torch.ones(n, n, dtype=torch.bool, device=real.device).tril()[ahead:] & real[:, None, None, :]
