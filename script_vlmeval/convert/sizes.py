"""How large a folder's model is, by its configuration alone: the language model, and the visual tokens of a picture."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from ..efficiency import Shape
from ..errors import UserError, reason_of
from .layout import family_of, is_original, needed, read, tower_at

# What the published files of CLIP's tower say, for a checkpoint that has its weights and not its sizes.
TOWER: dict[str, Any] = dict(hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16)
TOWER |= dict(patch_size=14, image_size=336, hidden_act="quick_gelu", projection_dim=768)


def described(folder: Path) -> dict[str, Any]:
    """config.json of a checkpoint in transformers' layout. UserError where it does not say what model it is, which transformers 4
    would guess from the folder's name, and for adapters, which would be left out or send for their base model."""
    found = read(folder / "config.json")
    if "model_type" not in found:
        raise UserError(f"{folder}/config.json names no model_type: it is not a transformers checkpoint, nor an original LLaVA.")
    if (folder / "adapter_config.json").exists():
        raise UserError(f"{folder} holds an adapter (LoRA): merge it into its base model first, and give the folder of that.")
    return found


def kind(folder: Path) -> str:
    """transformers' model_type of what the folder holds."""
    return family_of(folder) if is_original(folder) else str(described(folder)["model_type"])


@cache
def layers(folder: Path) -> int:
    """Layers of the language model."""
    if is_original(folder):
        return int(needed(folder, "num_hidden_layers"))
    text = described(folder).get("text_config") or {}
    if "num_hidden_layers" in text:
        return int(text["num_hidden_layers"])
    return int(_built(folder).get_text_config().num_hidden_layers)


@cache
def shape(folder: Path) -> Shape:
    """Sizes of the language model, as it will be loaded."""
    if not is_original(folder):
        return Shape.of(_built(folder))  # not the file: what it leaves out has other defaults in each class
    found = {key: needed(folder, key) for key in ("num_hidden_layers", "hidden_size", "num_attention_heads", "intermediate_size")}
    more = {key: value for key, value in read(folder / "config.json").items() if key in ("num_key_value_heads", "head_dim")}
    return Shape.of({"model_type": "llama", **found, **more, "vocab_size": rows_of(int(needed(folder, "vocab_size")))})


def rows_of(vocabulary: int) -> int:
    """Rows of the embedding of an original checkpoint: its words, `<image>` and `<pad>`, filled up to a multiple of 64."""
    return (vocabulary + 2 + 63) // 64 * 64


@cache
def visual(folder: Path) -> int:
    """Patches of what the vision tower sees at once, of a tower with square pictures of one size."""
    if is_original(folder):
        place = tower_at(folder)
        found = read(place / "config.json") if place else {}
        vision = TOWER | found.get("vision_config", found)
    else:
        vision = described(folder).get("vision_config") or {}
        if not {"image_size", "patch_size"} <= set(vision):
            vision = _built(folder).vision_config.to_dict()
    try:
        return int(vision["image_size"] // vision["patch_size"]) ** 2
    except (KeyError, TypeError, ZeroDivisionError) as error:
        raise UserError(
            f"{folder}/config.json does not say how large the pictures and patches of its vision tower are."
        ) from error


def _built(folder: Path) -> Any:
    """With the defaults of its class, which a published config.json may leave out."""
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:
        raise UserError(
            f"{folder}/config.json describes no model that transformers knows by itself: {reason_of(error)}"
        ) from error
