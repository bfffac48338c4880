"""Where each transformers family keeps its visual tokens, and what it can offer to methods.

A family is a record; the hooks in `prune.py` are the same for all. Positions: `renumber` counts 0, 1, 2... over the shortened
sequence (all families with plain rotary positions, as the releases do); `keep` leaves every kept token its place, on all three
axes where positions have those (Qwen).

    base.py   the records: Family, Group, Encoded
    tiled.py  tiles and frames of a fixed size: LLaVA-1.5, LLaVA-NeXT, LLaVA-NeXT-Video, OneVision, Video-LLaVA, InternVL
    qwen.py   pictures of any size: Qwen2-VL, Qwen2.5-VL, Qwen3-VL
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import nn

from ..errors import unknown
from ..offers import offers
from .base import Encoded as Encoded
from .base import Family as Family
from .base import Group as Group
from .base import Media as Media
from .base import media_mask as media_mask
from .base import placeholders as placeholders
from .base import side_of as side_of
from .base import visual_mask as visual_mask
from .qwen import split_qwen, spread_qwen
from .tiled import split_internvl, split_llava, split_tiled, spread_internvl, spread_tiled

_LLAVA = ("vision_tower", "multi_modal_projector")
_TOWER: dict[Media, str] = {"image": "vision_tower"}
_BOTH: dict[Media, str] = {"image": "vision_tower", "video": "vision_tower"}
_TWO: dict[Media, str] = {"image": "image_tower", "video": "video_tower"}
_VIDEOS = ("pixel_values_videos",)
_VISUAL: dict[Media, str] = {"image": "visual", "video": "visual"}


def _qwen(name: str, *, adds_again: bool = False) -> Family:
    return Family(
        name,
        *("keep", offers(name), split_qwen, ("visual",)),
        *(("pixel_values", "image_grid_thw"), ("pixel_values_videos", "video_grid_thw")),
        towers=_VISUAL,
        looks="pictures",
        spread=spread_qwen,
        adds_again=adds_again,
    )


FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        Family("llava", "renumber", offers("llava"), split_llava, _LLAVA, towers=_TOWER),
        Family(
            "llava_next",
            *("renumber", offers("llava_next"), split_tiled, _LLAVA, ("pixel_values", "image_sizes")),
            towers=_TOWER,
            spread=spread_tiled,
            packs=True,
        ),
        Family(
            "llava_next_video",
            *(
                "renumber",
                offers("llava_next_video"),
                split_tiled,
                (*_LLAVA, "vision_resampler"),
                ("pixel_values", "image_sizes"),
                _VIDEOS,
            ),
            towers=_BOTH,
            spread=spread_tiled,
            packs=True,
        ),
        Family(
            "llava_onevision",
            *(
                "renumber",
                offers("llava_onevision"),
                split_tiled,
                _LLAVA,
                ("pixel_values", "image_sizes", "batch_num_images"),
                _VIDEOS,
            ),
            towers=_BOTH,
            looks="patches",
            spread=spread_tiled,
            packs=True,
        ),
        Family(
            "video_llava",
            *(
                "renumber",
                offers("video_llava"),
                split_tiled,
                ("image_tower", "video_tower", "multi_modal_projector"),
                ("pixel_values_images",),
            ),
            videos=_VIDEOS,
            towers=_TWO,
            spread=spread_tiled,
        ),
        _qwen("qwen2_vl"),
        _qwen("qwen2_5_vl"),
        _qwen("qwen3_vl", adds_again=True),
        Family("internvl", "renumber", offers("internvl"), split_internvl, _LLAVA, towers=_TOWER, spread=spread_internvl),
    )
}


def family_of(model: nn.Module) -> Family:
    """The family of a loaded model. Raises UserError for one that is not known."""
    name = str(getattr(model.config, "model_type", type(model).__name__))
    if name not in FAMILIES:
        raise unknown("model family", name, FAMILIES, "Pruning needs to know where a family keeps its visual tokens.")
    family = FAMILIES[name]
    whole = family.packs and getattr(model.model, "image_newline", None) is None
    return replace(family, offers=family.offers | offers(name, whole=True)) if whole else family


def language_model(model: nn.Module) -> Any:
    """The decoder stack: the module whose `layers` are called one after the other."""
    lm: Any = model.model.language_model  # type: ignore[union-attr]
    return lm.model if hasattr(lm, "model") and hasattr(lm.model, "layers") else lm
