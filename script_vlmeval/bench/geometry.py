"""Published sizes of models: speed and memory depend on these alone, so random weights measure both.

Nothing is measured of how good answers are. `mid` is no published model: it has LLaVA-1.5's shape and number of tokens, narrow
and shallow enough for seconds on a CPU.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ..backbones import BACKBONES, Backbone
from ..loading import CROPS

if TYPE_CHECKING:
    import torch

NOWHERE = "script_vlmeval/random-weights"  # in the place of a checkpoint
Params = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Geometry:
    """One model: the sizes that speed and memory follow from."""

    source: str  # where the sizes are published
    name: str  # of its classes in transformers
    text: dict[str, Any]
    vision: dict[str, Any]
    own: dict[str, Any]
    visual: int  # tokens of one picture
    marks: tuple[int, ...]  # ids of a picture: the placeholder, or begin, placeholder, end
    narrow_text: dict[str, Any]  # what its parts have at a scale for tests
    narrow_vision: dict[str, Any]
    clip: tuple[int, int, int, int] = (768, 3072, 12, 12)  # the text tower: width, inner width, layers, heads
    params: Params = field(default_factory=dict)  # of methods whose defaults are for deeper models

    def config(self) -> Any:
        """The configuration of transformers. Without an end token: every answer has the length that was asked for."""
        import transformers as t

        text = {**self.text, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": None}
        if rope := text.pop("rope", None):  # transformers 4 and 5 write it differently
            theta = {"rope_theta": 1e6}
            old = {"rope_scaling": {"type": "default", **rope}, **theta}
            text |= old if t.__version__.startswith("4.") else {"rope_parameters": {**rope, **theta}}
        made = getattr(t, f"{self.name}Config")
        return made(text_config=text, vision_config=dict(self.vision), tie_word_embeddings=False, **self.own)

    def narrow(self) -> Geometry:
        """The same prompts through a narrow, shallow model, of which times say nothing."""
        clip = (_NARROW["hidden_size"], _NARROW["intermediate_size"], 2, 1)
        first = {"first_layer": 1}  # of fewer layers, two unpruned ones are too many
        params = {"fastv": first, "seqprune": first}
        text, vision = {**self.text, **self.narrow_text}, {**self.vision, **self.narrow_vision}
        return replace(self, text=text, vision=vision, clip=clip, params=params)

    def pixels(self, batch: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """Random pictures, one per prompt, as the processor hands them to the model."""
        import torch

        def drawn(*size: int) -> torch.Tensor:
            return torch.randn(*size, generator=generator, device=generator.device)

        patch = self.vision["patch_size"]
        if "spatial_merge_size" in self.vision:
            side = self.vision["spatial_merge_size"] * round(self.visual**0.5)
            patches = drawn(batch * side * side, 3 * self.vision["temporal_patch_size"] * patch**2)
            return {"pixel_values": patches, "image_grid_thw": torch.tensor([[1, side, side]] * batch)}
        side = self.vision["image_size"]
        tiles = self.visual // (side // patch) ** 2
        found = {"pixel_values": drawn(batch * tiles, 3, side, side)}
        return found if tiles == 1 else {**found, "image_sizes": torch.tensor([[CROPS * side] * 2] * batch)}


_VICUNA = {"model_type": "llama", "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "vocab_size": 32064}
_VICUNA |= {"num_attention_heads": 32, "num_key_value_heads": 32, "max_position_embeddings": 4096, "rms_norm_eps": 1e-5}
_VICUNA_13B = {**_VICUNA, "hidden_size": 5120, "intermediate_size": 13824, "num_hidden_layers": 40}
_VICUNA_13B |= {"num_attention_heads": 40, "num_key_value_heads": 40}
_CLIP = {"model_type": "clip_vision_model", "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24}
_CLIP |= {"num_attention_heads": 16, "image_size": 336, "patch_size": 14, "projection_dim": 768}
_SELECT = {"vision_feature_layer": -2, "vision_feature_select_strategy": "default", "image_seq_length": 576}
_QWEN = {"model_type": "qwen2_5_vl_text", "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28}
_QWEN |= {"num_attention_heads": 28, "num_key_value_heads": 4, "vocab_size": 152064, "max_position_embeddings": 128000}
_QWEN_VISION: dict[str, Any] = {
    "depth": 32,
    "hidden_size": 1280,
    "intermediate_size": 3420,
    "num_heads": 16,
    "out_hidden_size": 3584,
}
_QWEN_VISION |= {"patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2, "in_channels": 3, "tokens_per_second": 2}
_QWEN_VISION |= {"window_size": 112, "fullatt_block_indexes": [7, 15, 23, 31]}
_QWEN_IDS = {"vision_start_token_id": 151652, "vision_end_token_id": 151653, "video_token_id": 151656}
# 320 wide, above every budget: the kernel of a determinantal process has no rank beyond, and rounding would choose the rest.
_MID_TEXT = {"hidden_size": 320, "intermediate_size": 864, "num_hidden_layers": 8, "num_attention_heads": 5}
_MID_TEXT |= {"num_key_value_heads": 5}
_MID_CLIP = {
    "hidden_size": 320,
    "intermediate_size": 640,
    "num_hidden_layers": 3,
    "num_attention_heads": 5,
    "projection_dim": 320,
}

_NARROW = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 1}
_NARROW_TEXT = {**_NARROW, "num_key_value_heads": 1, "num_hidden_layers": 18}
_NARROW_CLIP = {**_NARROW, "num_hidden_layers": 3}
_NARROW_QWEN = {"depth": 2, "hidden_size": 16, "intermediate_size": 32, "num_heads": 1, "out_hidden_size": 16}
# What a grid tries one after the other where a method's defaults cannot reach a budget: steps of 10 percent a layer do not reach
# a tenth of the compute. The gentlest comes first, as the steepest leave a single stage, which is FastV.
STEEPER: Mapping[str, tuple[Mapping[str, Any], ...]] = {"seqprune": tuple({"step": step} for step in (15, 20, 25, 30, 40, 50))}

_LLAVA = Geometry(
    source="config.json of llava-hf/llava-1.5-7b-hf (Vicuna 7B, CLIP ViT-L/14-336)",
    name="Llava",
    text=_VICUNA,
    vision=_CLIP,
    own={**_SELECT, "image_token_index": 32000},
    visual=576,
    marks=(32000,),
    narrow_text=_NARROW_TEXT,
    narrow_vision=_NARROW_CLIP,
)
_NEXT = replace(
    _LLAVA,
    source="config.json of llava-hf/llava-v1.6-vicuna-7b-hf, with one resolution of 2 x 2 crops as in pruning papers",
    name="LlavaNext",
    own={**_LLAVA.own, "image_grid_pinpoints": [[672, 672]]},
    visual=5 * 576,
)
GEOMETRIES = {
    "mid": replace(
        _LLAVA,
        source="LLaVA-1.5's shape, narrow and shallow; no published model",
        text={**_VICUNA, **_MID_TEXT},
        vision={**_CLIP, **_MID_CLIP},
        clip=(128, 512, 3, 4),
        params={"fastv": {"first_layer": 1}, "seqprune": {"first_layer": 1}},
    ),
    "llava": _LLAVA,
    "llava13b": replace(_LLAVA, source="config.json of llava-hf/llava-1.5-13b-hf", text=_VICUNA_13B),
    "llavanext": _NEXT,
    "llavanext13b": replace(_NEXT, source="config.json of llava-hf/llava-v1.6-vicuna-13b-hf, crops as 7B", text=_VICUNA_13B),
    "qwen25vl7b": Geometry(
        source="config.json of Qwen/Qwen2.5-VL-7B-Instruct",
        name="Qwen2_5_VL",
        text={**_QWEN, "rms_norm_eps": 1e-6, "rope": {"rope_type": "default", "mrope_section": [16, 24, 24]}},
        vision=_QWEN_VISION,
        own={**_QWEN_IDS, "image_token_id": 151655},
        visual=1024,
        marks=(151652, 151655, 151653),
        narrow_text={**_NARROW_TEXT, "num_attention_heads": 2, "rope": {"rope_type": "default", "mrope_section": [2, 1, 1]}},
        narrow_vision={**_NARROW_QWEN, "fullatt_block_indexes": [1]},
    ),
}
_MID: dict[str, Any] = {
    "id": "mid",
    "summary": "LLaVA-1.5's shape, narrow and shallow",
    "budgets": (288, 192, 144),
    "schedules": (),
}


def record(name: str) -> Backbone:
    """The model's record, without a checkpoint."""
    like = replace(BACKBONES["llava"], **_MID) if name == "mid" else BACKBONES[name]
    return replace(like, checkpoint=NOWHERE, layers=GEOMETRIES[name].text["num_hidden_layers"])
