"""What a folder in LLaVA's own layout holds, by its config.json alone: no weights, no torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .. import hub
from ..errors import UserError

CLIP = "openai/clip-vit-large-patch14-336"  # the vision tower of both releases
HOPE = "the Hugging Face conversion of it (llava-hf) works where there is one."
_FEATURES = {"patch": "default", "cls_patch": "full"}


def is_original(folder: Path) -> bool:
    """Whether the folder has LLaVA's own layout. Reads config.json alone; a folder without one is not."""
    if not (folder / "config.json").is_file():
        return False
    config = read(folder / "config.json")
    return "vision_config" not in config and ("mm_vision_tower" in config or "mm_projector_type" in config)


def family_of(folder: Path) -> str:
    """'llava' or 'llava_next', transformers' model_type. UserError for relatives of LLaVA that are neither."""
    config = read(folder / "config.json")
    if reason := _stranger(config, folder):
        raise UserError(f"{folder} holds {reason}, of which the original files cannot be loaded: {HOPE}")
    merge, aspect = config.get("mm_patch_merge_type", "flat"), config.get("image_aspect_ratio") or "square"
    if merge == "spatial_unpad" and aspect == "anyres":
        return "llava_next"
    if merge == "flat" and "anyres" not in aspect:
        return "llava"
    raise UserError(
        f"{folder} lays out its crops by mm_patch_merge_type '{merge}' and image_aspect_ratio '{aspect}': only LLaVA-1.5 (flat, "
        "and pad or square) and LLaVA-1.6 (spatial_unpad and anyres) can be loaded."
    )


def _stranger(config: dict[str, Any], folder: Path) -> str | None:
    """What the folder holds instead of a LLaVA on LLaMA or Vicuna with a CLIP tower; None: that is what it holds."""
    kind = str((config.get("architectures") or ["LlavaLlamaForCausalLM"])[0])
    tower, projector = str(config.get("mm_vision_tower")), config.get("mm_projector_type", "linear")
    reasons = {
        "an adapter to be merged into its base model": (folder / "adapter_config.json").is_file(),
        f"a mixture of experts ({kind})": "moe" in config or "moe" in kind.lower(),
        f"a LLaVA on Qwen, LLaVA-OneVision or LLaVA-Video ({kind})": "qwen" in kind.lower(),
        f"a LLaVA on another language model ({kind})": kind != "LlavaLlamaForCausalLM",
        f"a LLaVA with the vision tower '{tower}'": not config.get("mm_vision_tower") or "siglip" in tower.lower(),
        "a LLaVA with a tower of several scales (s2)": bool(config.get("s2")),
        f"a projector of type '{projector}' (known: mlp2x_gelu)": projector != "mlp2x_gelu",
        "a LLaVA with a resampler": bool(config.get("mm_resampler_type")),
        "a LLaVA that marks images by words of their own (mm_use_im_start_end, mm_use_im_patch_token)": bool(
            config.get("mm_use_im_start_end") or config.get("mm_use_im_patch_token")
        ),
        f"features '{config.get('mm_vision_select_feature')}' (known: {', '.join(_FEATURES)})": (
            config.get("mm_vision_select_feature", "patch") not in _FEATURES
        ),
    }
    return next((reason for reason, found in reasons.items() if found), None)


def clip_of(folder: Path, clip: str | None) -> Path | None:
    """Where the CLIP checkpoint is: `clip` if given, else a local mm_vision_tower, else FOLDER/clip, else nowhere.

    A relative mm_vision_tower is looked for in the folder. UserError where `clip` is given and holds no checkpoint.
    """
    if clip is not None:
        if not (Path(clip) / "config.json").is_file():
            raise UserError(f"No CLIP checkpoint in {clip}: expected config.json there, as in {CLIP}.")
        return Path(clip)
    places = [folder / str(tower) for tower in [read(folder / "config.json").get("mm_vision_tower")] if tower]
    return next((place for place in (*places, folder / "clip") if (place / "config.json").is_file()), None)


def tower_of(folder: Path) -> str | None:
    """The id of the published CLIP that the tower is; None where config.json names a folder of somebody's own."""
    tower = str(needed(folder, "mm_vision_tower"))
    return tower if hub.is_id(tower) else CLIP if Path(tower).name == Path(CLIP).name else None


def tower_at(folder: Path) -> Path | None:
    """The CLIP checkpoint of the tower: the folder's own, else that in the hub's cache. No network."""
    name = tower_of(folder)
    return clip_of(folder, None) or (hub.locate(name) if name else None)


def remedies(folder: Path) -> str:
    """How to give a folder the CLIP checkpoint of its tower."""
    name = tower_of(folder)
    cached = f", or into the hub's cache with `hf download {name}`" if name else ""
    return f"put the CLIP checkpoint {name or needed(folder, 'mm_vision_tower')} into {folder / 'clip'}{cached}."


def read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"Cannot read {path}: {error}") from error
    if not isinstance(found, dict):
        raise UserError(f"{path} holds no JSON object.")
    return found


def needed(folder: Path, key: str) -> Any:
    config = read(folder / "config.json")
    if key not in config:
        raise UserError(f"{folder / 'config.json'} does not say '{key}', without which the model cannot be built.")
    return config[key]


def features(folder: Path) -> str:
    """Which of the tower's tokens are used, by transformers' name: 'default' is without CLS, 'full' with it."""
    return _FEATURES[read(folder / "config.json").get("mm_vision_select_feature", "patch")]
