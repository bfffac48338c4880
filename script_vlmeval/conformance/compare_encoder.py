"""Methods that read the vision encoder against recordings of their released code, as exactly as the recordings allow.

Every function takes the arrays of one recording, runs this project's method on them and raises MismatchError on a difference.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..methods import Visual, get_method
from ..methods.vispruner import attention_order, cosines, thin
from .tally import MismatchError, Tally, close, same, same_sets, well_formed

Arrays = Mapping[str, NDArray[Any]]


def tensor(x: NDArray[Any]) -> Tensor:
    return torch.from_numpy(np.array(x))


def kept(mask: NDArray[Any]) -> NDArray[Any]:
    """Ascending indices of a mask whose rows have equally many."""
    return np.stack([np.flatnonzero(row) for row in mask])


def fastervlm(data: Arrays) -> Tally:
    saliency = tensor(data["cls_attn"]).mean(1)[:, None]
    keep = get_method("fastervlm")(Visual(tokens=saliency[..., None], saliency=saliency), int(data["T"])).keep[:, 0]
    same("fastervlm, kept", keep, kept(data["mask"]))
    return Tally(sets=len(keep))


def scope(data: Arrays) -> Tally:
    features, t = tensor(data["features"])[None], int(data["T"])
    visual = Visual(tokens=features, encoded=features, saliency=tensor(data["saliency"])[None])
    method = get_method("scope", alpha=float(data["alpha"]))
    same("scope, picks", method.order(visual, t)[0], data["order"])
    same_sets("scope, kept", method(visual, t).keep[0], data["order"])
    return Tally(exact=features.shape[1])


def mmtok(data: Arrays) -> Tally:
    vision, pad = tensor(data["vision"])[None, None], tensor(data["pad"]).long()
    shown = torch.ones(vision.shape[:3], dtype=torch.bool)
    shown[..., pad] = False
    query, encoded = tensor(data["text"])[None], tensor(data["clip"])[None, None]
    visual = Visual(tokens=vision, keys=vision, query=query, encoded=encoded, shown=shown if len(pad) else None)
    method = get_method("mmtok", alpha=float(data["alpha"]), t_vv=float(data["vv_temp"]), t_tv=float(data["tv_temp"]))
    same("mmtok, kept", method(visual, int(data["T"])).keep[0, 0], data["kept_sorted"])
    return Tally(sets=1)


def holov(data: Arrays) -> Tally:
    """A recording without zero rows has to be reproduced; one with them must be contained, filled up with other tokens."""
    tokens, t = tensor(data["tokens"])[None, None], int(data["T"])
    visual = Visual(tokens=tokens, saliency=tensor(data["attn"])[None, None])
    keep = get_method("holov", crops=int(data["num_crops"]))(visual, t).keep[0, 0].numpy()
    well_formed("holov, kept", keep, t, tokens.shape[2])
    recorded = data["kept_in_order"]
    if not int(data["n_zero_rows"]):
        same_sets("holov, kept", keep, recorded)
        return Tally(sets=1)
    if missing := sorted(set(recorded[recorded >= 0].tolist()) - set(keep.tolist())):
        raise MismatchError(f"holov: {len(missing)} recorded tokens are not kept, first {missing[0]}")
    return Tally(invariants=1)


def visionzip(data: Arrays) -> Tally:
    """The recording begins with CLS; here CLS follows the patches that keep their places."""
    hidden, metric = tensor(data["hidden"])[:, None], tensor(data["metric"])[:, None]
    dominant, contextual = int(data["dominant"]), int(data["contextual"])
    patches, k = hidden[:, :, 1:], dominant + contextual
    visual = Visual(
        tokens=patches,
        saliency=tensor(data["cls_attn"]).mean(1)[:, None, 1:],
        encoded=patches,
        encoder_keys=metric[:, :, 1:],
        cls=hidden[:, :, 0],
        project=lambda x: x,
    )
    method = get_method("visionzip", contextual=contextual)
    reduced = method(visual, k) if k < patches.shape[2] else method.reduce(visual, k)  # a call would keep everything as it is
    keep = reduced.keep[:, 0].numpy()
    well_formed("visionzip, kept", keep[:, : dominant - 1], dominant - 1, patches.shape[2])
    same_sets("visionzip, kept", keep[:, :dominant] + 1, data["kept_idx"])  # CLS: -1 here, 0 there
    same("visionzip, merged", keep[:, dominant:], np.full((len(keep), contextual), -1))
    recorded = np.concatenate([data["out"][:, 1:dominant], data["out"][:, :1], data["out"][:, dominant:]], 1)
    close("visionzip, tokens", reduced.tokens[:, 0], recorded, atol=1e-5)
    return Tally(sets=len(keep))


def vispruner(data: Arrays) -> Tally:
    """Round by round, each from the recorded list before it: what rounding does to one round decides all that follow."""
    features, t, ratio = tensor(data["features"])[None], int(data["T"]), float(data["important_ratio"])
    visual = Visual(tokens=features, encoded=features, saliency=tensor(data["cls_attn"]).mean(1)[None])
    b, n = features.shape[1:3]
    important = int(t * ratio)
    same("vispruner, order by attention", attention_order(visual)[0], data["attn_order"])
    keep = get_method("vispruner", important_ratio=ratio)(visual, t).keep[0].numpy()
    well_formed("vispruner, kept", keep, t, n)
    for row in range(b):
        same("vispruner, important", np.isin(data["attn_order"][row, :important], keep[row]), np.ones(important, bool))
    similarity, trace = cosines(features), data["trace"]
    rounds = [x[:, x[0] >= 0] for x in trace]  # -1 = no longer in the list
    same("vispruner, first list", rounds[0], data["attn_order"][:, important:])
    for i, (before, after) in enumerate(pairwise(rounds)):
        ours = thin(similarity, tensor(before).long(), before.shape[1] - (t - important))
        same_sets(f"vispruner, round {i}", ours, after)
    return Tally(sets=b)
