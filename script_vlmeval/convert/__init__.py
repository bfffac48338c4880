"""Checkpoints in LLaVA's own layout (`liuhaotian/llava-v1.5-7b`, `liuhaotian/llava-v1.6-vicuna-7b`) as transformers' classes.

Nothing is written and nothing of the folder is run: tensors get the names of the Hugging Face layout, `from_pretrained` takes
them as a state dict, and the tokenizer is built from the sentencepiece model. What a release leaves to its training code is added
as the llava-hf conversions have it: rows for `<image>` (id V, the size of the vocabulary) and `<pad>` (V + 1), filled up to a
multiple of 64; they are the mean of all rows and are never generated. Whatever the folder holds instead is a `UserError`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UserError
from .chat import beginning as beginning
from .chat import other_prompt as other_prompt
from .layout import CLIP, features, needed, read, remedies
from .layout import clip_of as clip_of
from .layout import family_of as family_of
from .layout import is_original as is_original
from .layout import tower_at as tower_at
from .layout import tower_of as tower_of
from .processor import processor_of
from .sizes import TOWER as TOWER
from .sizes import described as described
from .sizes import kind as kind
from .sizes import layers as layers
from .sizes import rows_of
from .sizes import shape as shape
from .sizes import visual as visual
from .weights import UNSAFE as UNSAFE
from .weights import state_of
from .weights import towered as towered

if TYPE_CHECKING:
    import torch

_SIZES = "hidden_size intermediate_size num_hidden_layers num_attention_heads rms_norm_eps".split()
_MORE = (
    "num_key_value_heads hidden_act max_position_embeddings rope_theta rope_scaling initializer_range attention_bias "
    "bos_token_id eos_token_id"
).split()


def load(folder: Path, clip: Path | None, *, dtype: torch.dtype, attn: str, device_map: Any = None) -> tuple[Any, Any]:
    """(model in evaluation mode, processor padding on the left), on the CPU unless `device_map` says otherwise.

    `clip` is a folder with the CLIP checkpoint, see `clip_of`: weights, configuration and preprocessing of the tower where the
    checkpoint has none, configuration and preprocessing where it has. UserError where it is needed and not there.
    """
    import transformers as t

    family = family_of(folder)
    inside = towered(folder)
    vision = _vision(folder, clip, inside)
    processor = processor_of(folder, clip, family, vision)
    vocabulary = len(processor.tokenizer) - 2
    config = _config(folder, family, vision, vocabulary)
    rows = config.text_config.vocab_size
    state = state_of(folder, None if inside else clip, vocabulary, rows, dtype)
    cls: Any = t.LlavaNextForConditionalGeneration if family == "llava_next" else t.LlavaForConditionalGeneration
    model, info = cls.from_pretrained(
        None,
        config=config,
        state_dict=state,
        dtype=dtype,
        attn_implementation=attn,
        device_map=device_map,
        ignore_mismatched_sizes=True,  # reported below, all together
        output_loading_info=True,
    )
    _complete(folder, info)
    told = {k: _generation(folder).get(k, getattr(config.text_config, k)) for k in ("bos_token_id", "eos_token_id")}
    model.generation_config = t.GenerationConfig(
        **told, pad_token_id=vocabulary + 1, suppress_tokens=list(range(vocabulary, rows))
    )
    return model.eval(), processor


def _complete(folder: Path, info: dict[str, Any]) -> None:
    """UserError where weights would stay random, or were given and not used."""
    said = {"missing_keys": "lacks", "unexpected_keys": "has unknown", "mismatched_keys": "has by another shape"}
    for what, verb in said.items():
        names = sorted(key if isinstance(key, str) else key[0] for key in info[what])
        if names:
            raise UserError(f"The checkpoint {folder} {verb} {len(names)} weights, such as {names[0]}.")


def _generation(folder: Path) -> dict[str, Any]:
    """generation_config.json, of which only the ends of a text count: how to sample is for the caller to say."""
    path = folder / "generation_config.json"
    return read(path) if path.is_file() else {}


def _vision(folder: Path, clip: Path | None, inside: bool) -> Any:
    """The tower's configuration: the CLIP folder's, else the published one where the checkpoint holds that tower's weights."""
    from transformers import CLIPVisionConfig

    if clip is not None:
        kind = read(clip / "config.json").get("model_type")
        if kind not in ("clip", "clip_vision_model"):
            raise UserError(f"{clip} holds a '{kind}' model: LLaVA's vision tower is a CLIP, such as {CLIP}.")
        return CLIPVisionConfig.from_pretrained(clip)
    if lacking := _lacking(folder, inside):
        raise UserError(lacking)
    return CLIPVisionConfig(**TOWER)


def _lacking(folder: Path, inside: bool) -> str:
    """What the folder has not of its vision tower, and where to put it; empty where it has all that is needed."""
    if inside and tower_of(folder) == CLIP:
        return ""
    return f"{folder} holds no {'sizes' if inside else 'weights'} of its vision tower: {remedies(folder)}"


def lacking(folder: Path) -> str:
    """The same of the folder by itself and the hub's cache: empty where a CLIP checkpoint is found. Reads names alone."""
    return "" if family_of(folder) and tower_at(folder) else _lacking(folder, towered(folder))


def _config(folder: Path, family: str, vision: Any, vocabulary: int) -> Any:
    """The configuration in the Hugging Face layout, `vocabulary` words and the new ones."""
    import transformers as t

    config = read(folder / "config.json")
    said = {key: needed(folder, key) for key in _SIZES} | {key: config[key] for key in _MORE if config.get(key) is not None}
    rows, pad = rows_of(vocabulary), vocabulary + 1
    same: dict[str, Any] = dict(
        text_config=t.LlamaConfig(**said, vocab_size=rows, pad_token_id=pad),
        vision_config=vision,
        image_token_index=vocabulary,
        image_seq_length=(vision.image_size // vision.patch_size) ** 2,
        vision_feature_layer=config.get("mm_vision_select_layer", -2),
        vision_feature_select_strategy=features(folder),
        projector_hidden_act="gelu",
        tie_word_embeddings=False,
        pad_token_id=pad,
    )
    if family == "llava":
        return t.LlavaConfig(**same)
    return t.LlavaNextConfig(image_grid_pinpoints=needed(folder, "image_grid_pinpoints"), **same)
