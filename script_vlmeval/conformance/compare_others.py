"""DivPrune, TRIM, DART and VidCom2 against recordings of their official code.

Each function takes the arrays of one recording, runs the method on them as a `Visual`, and compares as strictly as the
recording allows. The shapes are the recordings' own; a release's batch of tiles is one image here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import layer_norm

from .. import kernels
from ..methods import Visual, get_method
from ..methods.dart import DART
from ..methods.trim import TRIM
from ..methods.vidcom2 import released, scales
from .tally import MismatchError, Tally, close, same, same_sets, well_formed

_NOISE = 2e-6  # of a cosine distance in float32


def divprune(data: Mapping[str, np.ndarray]) -> Tally:
    """Pick for pick. Where the release picked copies of chosen tokens again: the same vectors in the same order."""
    x = torch.from_numpy(data["x"])
    budget = round(float(data["ratio"]) * len(x))
    method, visual = get_method("divprune"), Visual(tokens=x[None, None])
    ours, recorded = method.order(visual, budget)[0, 0].numpy(), data["order"]
    keep = method(visual, budget).keep[0, 0].numpy()
    well_formed("divprune's set", keep, budget, len(x))
    same_sets("divprune's set and order", keep, ours)
    if int(data["n_distinct"]) == budget:
        same("divprune's picks", ours, recorded)
        same("divprune's set", keep, data["kept_sorted"])
        return Tally(exact=1)
    _same_vectors(data)
    return Tally(invariants=1)


def _same_vectors(data: Mapping[str, np.ndarray]) -> None:
    """Of exact copies, which one is picked says nothing: the vectors must be the same, in the same order, until they run out.

    Each token has a copy at distance 0, so in the release rounding decides where to begin. The comparison begins where it did:
    with that token at the front, where a tie leads.
    """
    recorded = data["order"]
    _, vector = np.unique(data["x"], axis=0, return_inverse=True)
    front = np.concatenate([recorded[:1], np.delete(np.arange(len(vector)), recorded[0])])
    x, different = torch.from_numpy(data["x"][front]), int(data["n_distinct"])
    picks = front[get_method("divprune").order(Visual(tokens=x[None, None]), len(recorded))[0, 0].numpy()]
    same("divprune's different picks", len(np.unique(picks)), len(recorded))
    same("divprune's vectors", vector[picks][:different], vector[recorded][:different])
    x = torch.from_numpy(data["x"])
    close("divprune's distances", _max_min(x, picks), _max_min(x, recorded), atol=_NOISE)


def _max_min(x: Tensor, picks: np.ndarray) -> np.ndarray:
    """The distance of each pick, after the first, to the nearest one before it."""
    rows = kernels.unit(x[torch.from_numpy(picks).long()])
    distance = 1 - rows @ rows.T
    return np.array([distance[i, :i].min().item() for i in range(1, len(picks))])


def trim(data: Mapping[str, np.ndarray]) -> Tally:
    """The kept tokens exactly, the output to the float16 that the release gives, the automatic count where it was used."""
    features, text = torch.from_numpy(data["features"]), torch.from_numpy(data["text"])
    normed = layer_norm(features, features.shape[-1:], torch.from_numpy(data["ln_weight"]), torch.from_numpy(data["ln_bias"]))
    method = cast(TRIM, get_method("trim"))
    visual = _one_image(features, normed @ torch.from_numpy(data["proj"]).T, text)
    ratio = float(data["k"])
    n = visual.shape[2]
    kept = int(n * (float(method.outliers(visual)[0]) if ratio < 0 else ratio))
    same("trim's count", kept + 1, int(data["n_out"]))
    reduced = method(visual, kept + 1) if kept + 1 < n else method.reduce(visual, n)  # all tokens are never reduced
    same("trim's kept tokens", reduced.keep[0, :, :-1].numpy(), data["kept_idx"])
    same("trim's mean token", reduced.keep[0, :, -1].numpy(), np.full(len(features), -1))
    close("trim's output", reduced.tokens[0].numpy(), data["out"], atol=3e-3)
    return Tally(exact=len(features))


def _one_image(features: Tensor, keys: Tensor, text: Tensor) -> Visual:
    """G tiles of one image, although each has a text of its own: a tile's keys see their own text alone, the rest is zero."""
    tiles = len(features)
    apart = torch.stack([torch.cat([row if i == j else row * 0 for j in range(tiles)], -1) for i, row in enumerate(keys)])
    query = text.reshape(1, 1, -1)
    return Visual(features[None], keys=apart[None], query=query, encoded=features[None], project=lambda x: x, sign=-1)


def dart(data: Mapping[str, np.ndarray]) -> Tally:
    """Pivots, the order of their turns, and the kept tokens, exactly."""
    start, n, image, text = (int(data[name]) for name in ("start", "n_image", "pivots_image", "pivots_text"))
    method = cast(DART, get_method("dart", visit="release", start=start, pivots=image, text_pivots=text))
    state = torch.from_numpy(data["state"])[None, start:]
    keys = torch.from_numpy(data["keys"]).transpose(0, 1).flatten(1)[None, start:]
    visual = Visual(
        tokens=state[:, None, :n], layer_keys=keys[:, None, :n], text=state[:, n:], text_keys=keys[:, n:], norm=lambda x: x
    )
    budget = image + (image + text) * int(n * (1 - float(data["reduction_ratio"])) / (image + text))
    loudest, asking, real = method.loudest(visual, budget)
    same("dart's image pivots", start + loudest[0].numpy(), data["image_pivots"])
    same("dart's text pivots", start + n + asking[0].numpy(), data["text_pivots"])
    same("dart's turns", start + method.visits(visual, loudest, asking, real)[0][0].numpy(), data["visit_order"])
    same("dart's kept tokens", start + method(visual, budget).keep[0, 0].numpy(), data["kept"])
    return Tally(exact=1)


def vidcom2(data: Mapping[str, np.ndarray]) -> Tally:
    """Scales to 1e-5, the release's counts and tokens exactly; the method's own set has the same size, a frame +-1 token."""
    x = torch.from_numpy(data["x"])[None]
    frames, ratio = x.shape[1] // int(data["tokens_per_frame"]), float(data["ratio"])
    close("vidcom2's scales", scales(x, frames, ratio)[0].numpy(), data["scales"], atol=1e-5)
    counts, kept = released(x, frames, ratio)
    same("vidcom2's tokens per frame", counts[0].numpy(), data["per_frame"])
    same("vidcom2's kept tokens", kept[0].flatten().nonzero()[:, 0].numpy(), data["kept"])
    total = len(data["kept"])
    keep = get_method("vidcom2")(Visual(tokens=x[:, None], tiles=frames), total).keep[0, 0]
    well_formed("vidcom2's set", keep.numpy(), total, x.shape[1])
    ours = torch.bincount(keep // int(data["tokens_per_frame"]), minlength=frames).numpy()
    if (np.abs(ours - data["per_frame"]) > 1).any():
        raise MismatchError(f"vidcom2's exact counts: {ours}, recorded {data['per_frame']}")
    if (ours == data["per_frame"]).all():
        same("vidcom2's own set", keep.numpy(), data["kept"])
    return Tally(exact=1)
