"""CDPruner and the variants of Script against recordings of the released code, as the recordings' README allows.

A recording's batch of tiles is one image of as many tiles. Pick orders are compared exactly where the recording allows it. Of
identical tokens only the group says something; ties go to its first member. Where the budget exceeds the number of tokens, all
must be kept. `ref.*` is not official: this project's own float64 evaluation of the written definitions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from .. import kernels
from ..methods import Visual, get_method
from .tally import MismatchError, Tally, close, same, same_sets, well_formed

Data = Mapping[str, np.ndarray]
RELEVANCE = 1e-5  # for a float32 port
REDUNDANCY = 1e-6


class Recording:
    """One recorded input as methods see it."""

    def __init__(self, data: Data) -> None:
        self.data = data
        self.budget = int(data["T"])
        self.features, embeds, query = (torch.from_numpy(data[k]) for k in ("image_features", "image_embeds", "text_embeds"))
        self.visual = Visual(
            tokens=self.features[None],
            keys=embeds[None],
            query=query[None],
            query_mask=torch.ones(1, len(query), dtype=torch.bool),
            encoded=self.features[None],
            sign=-1,
        )
        self.tiles, self.n = self.features.shape[:2]
        self.k = min(self.budget, self.n)

    @property
    def first(self) -> np.ndarray:
        """(tiles, N) the first token identical to each."""
        found = [np.unique(tile, axis=0, return_index=True, return_inverse=True)[1:] for tile in self.data["image_features"]]
        return np.stack([at[inverse.reshape(-1)] for at, inverse in found])

    @property
    def duplicates(self) -> bool:
        return bool((self.first != np.arange(self.n)).any())

    def relevance(self, *, per_tile: bool) -> torch.Tensor | None:
        visual = self.visual
        found = kernels.relevance(visual.keys, visual.query, visual.query_mask, sign=-1, per_tile=per_tile)
        return None if found is None else found[0]

    def kept(self, method: str, **params: object) -> np.ndarray:
        """(tiles, k) what the method keeps, behind its guards."""
        keep: np.ndarray = get_method(method, **params)(self.visual, self.budget).keep[0].numpy()
        well_formed(f"{method} at budget {self.budget}", keep, self.k, self.n)
        return keep

    def picks(self, method: str, **params: object) -> np.ndarray:
        """(tiles, k) in the order in which the method picks them."""
        picks: np.ndarray = get_method(method, **params).order(self.visual, self.k)[0].numpy()
        return picks

    def everything(self, method: str) -> Tally:
        """A budget above the number of tokens keeps all of them, as the release does."""
        kept = self.kept(method)
        same(f"{method} at budget {self.budget}", kept, np.tile(np.arange(self.n), (self.tiles, 1)))
        if f"{method}.mask" in self.data:
            same(f"{method}.mask", _mask(kept, self.n), self.data[f"{method}.mask"])
        return Tally(sets=self.tiles)

    def groups(self, method: str) -> Tally:
        """Of identical tokens the recorded groups are picked in the recorded order, by their first members."""
        picks, recorded = self.picks(method), self.data[f"{method}.order"]
        same(f"groups of {method}.order", np.take_along_axis(self.first, picks, 1), np.take_along_axis(self.first, recorded, 1))
        if (lower := self._skipped(picks)) is not None:
            raise MismatchError(f"{method}: token {lower[0]} is picked before the identical token {lower[1]}")
        return Tally(exact=self.tiles)

    def _skipped(self, picks: np.ndarray) -> tuple[int, int] | None:
        """A pick that is not the lowest free one of its identical tokens, and that one."""
        for tile, first in zip(picks.tolist(), self.first, strict=True):
            for i, pick in enumerate(tile):
                free = set(np.flatnonzero(first == first[pick]).tolist()) - set(tile[:i])
                if pick != min(free):
                    return pick, min(free)
        return None


def _mask(keep: np.ndarray, n: int) -> np.ndarray:
    mask = np.zeros((len(keep), n), bool)
    np.put_along_axis(mask, keep, True, 1)
    return mask


def cdpruner(data: Data) -> Tally:
    """Relevance, order and mask of the release; the definition with minimum and maximum per tile."""
    r = Recording(data)
    close("cdpruner.relevance", r.relevance(per_tile=False), data["cdpruner.relevance"], atol=RELEVANCE)
    if r.budget > r.n:
        return r.everything("cdpruner")
    if r.duplicates:
        kept = r.kept("cdpruner")
        same_sets("cdpruner, kept and picked", kept, r.picks("cdpruner"))
        return r.groups("cdpruner")
    picks, kept = r.picks("cdpruner"), r.kept("cdpruner")
    same("cdpruner.order", picks, data["cdpruner.order"])
    same("ref.cdpruner_batch", picks, data["ref.cdpruner_batch"])
    same("cdpruner.mask", _mask(kept, r.n), data["cdpruner.mask"])
    per_tile = r.picks("cdpruner", scope="tile")
    same("ref.cdpruner_image (scope=tile)", per_tile, data["ref.cdpruner_image"])
    same_sets("cdpruner (scope=tile), kept and picked", r.kept("cdpruner", scope="tile"), per_tile)
    return Tally(exact=2 * r.tiles)  # in both scopes


def script(data: Data) -> Tally:
    """The paper's definition: redundancy, and the picks in order."""
    r, method = Recording(data), get_method("script")
    if r.budget > r.n:
        return r.everything("script")
    redundancy = kernels.bipartite_redundancy(kernels.unit(r.features), tau=0.2, gamma=1.0)
    close("ref.script_gsp_score", redundancy, data["ref.script_gsp_score"], atol=REDUNDANCY)
    kept = r.kept("script")
    if r.duplicates:
        return Tally(invariants=r.tiles)
    maker: Any = method  # Script's picks are no part of the contract
    picks = maker.picks(kernels.unit(r.features), r.relevance(per_tile=True), r.k).numpy()
    same("ref.script", picks, data["ref.script"])
    same_sets("script, kept and picked", kept, picks)
    return Tally(exact=r.tiles)


def scriptcompat(data: Data) -> Tally:
    """The released code's picks in order, and its mask."""
    r = Recording(data)
    if r.budget > r.n:
        return r.everything("scriptcompat")
    kept = r.kept("scriptcompat")
    if r.duplicates:
        same_sets("scriptcompat, kept and picked", kept, r.picks("scriptcompat"))
        return r.groups("scriptcompat")
    picks = r.picks("scriptcompat")
    same("scriptcompat.order", picks, data["scriptcompat.order"])
    same("ref.scriptcompat", picks, data["ref.scriptcompat"])
    same("scriptcompat.mask", _mask(kept, r.n), data["scriptcompat.mask"])
    return Tally(exact=r.tiles)


def scriptfigure(data: Data) -> Tally:
    """The figure script's mask for one tile and one row of text; this project's extension of it elsewhere."""
    r = Recording(data)
    if r.budget > r.n:
        return r.everything("scriptfigure")
    kept = r.kept("scriptfigure")
    if r.duplicates:
        return Tally(invariants=r.tiles)
    if "scriptfigure.mask" in data:
        same("scriptfigure.mask", _mask(kept, r.n), data["scriptfigure.mask"])
    same_sets("ref.scriptfigure", kept, data["ref.scriptfigure"])
    return Tally(sets=r.tiles)
