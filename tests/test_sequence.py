"""A shortened sequence behind tokens that the cache holds already: its masks, and what its positions attend to."""

from __future__ import annotations

from typing import Any

import models
import pytest
import torch
from torch import Tensor

from script_vlmeval import attention
from script_vlmeval.sequence import Stage

LENGTH, NEW, SPOKEN = 8, 2, 3  # of the sequence, of a decoding step, tokens decoded before it
PADDED = torch.arange(LENGTH) >= torch.tensor([0, 3, 1])[:, None]
FULL = torch.ones_like(PADDED)
KEEP = torch.tensor([[1, 1, 0, 1, 0, 0, 1, 1], [0, 0, 0, 1, 1, 0, 1, 1], [0, 1, 1, 1, 1, 1, 0, 1]]).bool()
AGAIN = torch.tensor([[1, 0, 1, 1, 1, 1], [1, 1, 0, 1, 0, 1], [1, 1, 0, 0, 1, 1]]).bool()  # of the six that are left
KINDS = ("bool", "additive", "none", "flat", "flat none")  # how a kernel's masks are written


def mask_of(kind: str, valid: Tensor, ahead: int) -> Tensor | None:
    """As transformers makes it for (B, L) tokens behind `ahead` others."""
    real = torch.cat([torch.ones(len(valid), ahead, dtype=torch.bool), valid], 1)
    seen = torch.ones(LENGTH, ahead + LENGTH, dtype=torch.bool).tril(ahead) & real[:, None, None]
    additive = torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)
    return {"bool": seen, "additive": additive, "flat": real.long()}.get(kind)


def seen_in(mask: Tensor) -> Tensor:
    return mask.bool() if mask.dtype in (torch.bool, torch.long) else mask == 0


def behind(kind: str, valid: Tensor, ahead: int) -> Stage:
    rope = (torch.arange(LENGTH, dtype=torch.float32)[None, :, None],)
    stage = Stage.whole(valid, rope, mask_of(kind, valid, ahead), kind.startswith("flat"), ahead)
    for keep in (KEEP, AGAIN):
        own = torch.arange(keep.shape[1]).expand(keep.shape)
        stage, _ = stage.shrink(keep & stage.valid, own)
    return stage


CASES = [
    (kind, valid, ahead) for kind in KINDS for valid in (PADDED, FULL) for ahead in (0, 4) if "none" not in kind or valid is FULL
]


@pytest.mark.parametrize(("kind", "valid", "ahead"), CASES)
def test_what_is_ahead_is_seen_by_all_that_stay(kind: str, valid: Tensor, ahead: int):
    stage = behind(kind, valid, ahead)
    assert stage.mask is not None
    assert not stage.valid.all()
    seen, n = seen_in(stage.mask), stage.valid.shape[1]
    for b, q in stage.valid.nonzero().tolist():
        before = [True] * ahead + [bool(stage.valid[b, c]) and (stage.flat or c <= q) for c in range(n)]
        assert (seen[b] if stage.flat else seen[b, 0, q]).tolist() == before


@pytest.mark.parametrize(("kind", "valid", "ahead"), CASES)
def test_and_by_every_token_of_the_answer(kind: str, valid: Tensor, ahead: int):
    """The columns are those of a cache that holds what is ahead, what stayed, and the answer."""
    stage, start = behind(kind, valid, ahead), ahead + LENGTH
    total = start + SPOKEN + NEW
    real = torch.cat([torch.ones(3, ahead), valid, torch.ones(3, SPOKEN + NEW)], 1).bool()
    causal = torch.ones(NEW, total, dtype=torch.bool).tril(total - NEW) & real[:, None, None]
    given = {"bool": causal, "additive": torch.zeros(causal.shape).masked_fill(~causal, -1e30), "flat": real.long()}.get(kind)
    found = stage.decode_mask(given, start, start + SPOKEN, NEW)
    assert found is not None
    seen = seen_in(found)
    for b, own in enumerate(stage.valid.tolist()):
        for q in range(NEW):
            spoken = [stage.flat or c <= SPOKEN + q for c in range(SPOKEN + NEW)]
            assert (seen[b] if stage.flat else seen[b, 0, q]).tolist() == [True] * ahead + own + spoken


@pytest.mark.parametrize("known", ["nothing", "keys", "both"])
@pytest.mark.parametrize("kind", ["none", "flat", "bool", "additive"])
def test_attention_behind_held_keys_is_that_in_the_whole(kind: str, known: str):
    """What was overheard, taken from the cache, and projected again; for all samples, and for some in another order."""
    model: Any = models.build()
    ahead, layer = 5, model.model.language_model.layers[0]
    hidden = torch.randn(3, ahead + LENGTH, models.WIDTH, generator=torch.Generator().manual_seed(0))
    rope = model.model.language_model.rotary_emb(hidden, torch.arange(ahead + LENGTH)[None])
    at = torch.tensor([[LENGTH - 1, 4], [LENGTH - 1, 5], [LENGTH - 2, 3]])
    valid = FULL if kind == "none" else PADDED
    with torch.no_grad():
        query, key = attention.project(layer, hidden, rope)
        unseen = mask_of("flat", valid, ahead)
        whole = attention.Pass(layer, hidden, rope, unseen).received(at + ahead)
        rest = tuple(table[:, ahead:] for table in rope)
        part = attention.Pass(layer, hidden[:, ahead:], rest, mask_of(kind, valid, ahead), key[:, :, :ahead])
        part.key = None if known == "nothing" else key
        part.query = query[:, :, ahead:] if known == "both" else None
        row = torch.tensor([2, 0])
        some = part.of(row).received(at[row])
        found = part.received(at)
    assert whole[..., :ahead].sum() > 0.1
    torch.testing.assert_close(found, whole[..., ahead:], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(some, found[row], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(part.keys(), key, atol=1e-6, rtol=1e-5)
