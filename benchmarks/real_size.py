"""Models of real size without their checkpoints, for `models.py`: published geometry, random weights, pictures and words."""

from __future__ import annotations

import inspect
import sys
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from script_vlmeval import loading
from script_vlmeval.backbones import BACKBONES
from script_vlmeval.methods import Method
from script_vlmeval.query import ClipQuery, LlmQuery, QuerySource
from script_vlmeval.runtime import Prepared, Runtime

TEXT = 40  # text tokens of a prompt, half of them before the picture
QUESTION = "Which of the things that lie on the left of the picture is larger than the red one behind it?"


# -- geometry ----------------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Geometry:
    """One published model: the sizes that speed and memory follow from, and what the tiny scale has in their place."""

    source: str  # where the sizes are published
    name: str  # of its classes in transformers
    text: dict[str, Any]
    vision: dict[str, Any]
    own: dict[str, Any]
    budget: str  # as its row of the papers' tables
    visual: int  # tokens of one picture
    marks: tuple[int, ...]  # ids of a picture: the placeholder, or begin, placeholder, end
    tiny_text: dict[str, Any]
    tiny_vision: dict[str, Any]

    def config(self, scale: str) -> Any:
        """The configuration of transformers. Without an end token: every answer has the length that was asked for."""
        import transformers as t

        tiny = scale == "tiny"
        text = {**self.text, **(self.tiny_text if tiny else {}), "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": None}
        vision = {**self.vision, **(self.tiny_vision if tiny else {})}
        if rope := text.pop("rope", None):  # transformers 4 and 5 write it differently
            theta = {"rope_theta": 1e6}
            old = {"rope_scaling": {"type": "default", **rope}, **theta}
            text |= old if t.__version__.startswith("4.") else {"rope_parameters": {**rope, **theta}}
        return getattr(t, f"{self.name}Config")(text_config=text, vision_config=vision, tie_word_embeddings=False, **self.own)

    def pixels(self, batch: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """Random pictures, one per prompt, as the processor hands them to the model."""

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
        return found if tiles == 1 else {**found, "image_sizes": torch.tensor([[loading.CROPS * side] * 2] * batch)}


_VICUNA = {"model_type": "llama", "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "vocab_size": 32064}
_VICUNA |= {"num_attention_heads": 32, "num_key_value_heads": 32, "max_position_embeddings": 4096, "rms_norm_eps": 1e-5}
_CLIP = {"model_type": "clip_vision_model", "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24}
_CLIP |= {"num_attention_heads": 16, "image_size": 336, "patch_size": 14, "projection_dim": 768}
_SELECT = {"vision_feature_layer": -2, "vision_feature_select_strategy": "default", "image_seq_length": 576}
_QWEN = {"model_type": "qwen2_5_vl_text", "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28}
_QWEN |= {"num_attention_heads": 28, "num_key_value_heads": 4, "vocab_size": 152064, "max_position_embeddings": 128000}
_QWEN_VISION = {"depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16, "out_hidden_size": 3584}
_QWEN_VISION |= {"patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2, "in_channels": 3, "tokens_per_second": 2}
_QWEN_VISION |= {"window_size": 112, "fullatt_block_indexes": [7, 15, 23, 31]}
_QWEN_IDS = {"vision_start_token_id": 151652, "vision_end_token_id": 151653, "video_token_id": 151656}

_TINY = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 1}
_TINY_TEXT = {**_TINY, "num_key_value_heads": 1, "num_hidden_layers": 18}
_TINY_CLIP = {**_TINY, "num_hidden_layers": 3}
_TINY_QWEN = {"depth": 2, "hidden_size": 16, "intermediate_size": 32, "num_heads": 1, "out_hidden_size": 16}

LLAVA = Geometry(
    source="config.json of llava-hf/llava-1.5-7b-hf (Vicuna 7B, CLIP ViT-L/14-336)",
    name="Llava",
    text=_VICUNA,
    vision=_CLIP,
    own={**_SELECT, "image_token_index": 32000},
    budget="64",
    visual=576,
    marks=(32000,),
    tiny_text=_TINY_TEXT,
    tiny_vision=_TINY_CLIP,
)
GEOMETRIES = {
    "llava": LLAVA,
    "llavanext": replace(
        LLAVA,
        source="config.json of llava-hf/llava-v1.6-vicuna-7b-hf, with one resolution of 2 x 2 crops as in pruning papers",
        name="LlavaNext",
        own={**LLAVA.own, "image_grid_pinpoints": [[672, 672]]},
        budget="320",
        visual=5 * 576,
    ),
    "qwen25vl7b": Geometry(
        source="config.json of Qwen/Qwen2.5-VL-7B-Instruct",
        name="Qwen2_5_VL",
        text={**_QWEN, "rms_norm_eps": 1e-6, "rope": {"rope_type": "default", "mrope_section": [16, 24, 24]}},
        vision=_QWEN_VISION,
        own={**_QWEN_IDS, "image_token_id": 151655},
        budget="10pct",
        visual=1024,
        marks=(151652, 151655, 151653),
        tiny_text={**_TINY_TEXT, "num_attention_heads": 2, "rope": {"rope_type": "default", "mrope_section": [2, 1, 1]}},
        tiny_vision={**_TINY_QWEN, "fullatt_block_indexes": [1]},
    ),
}


# -- a model without a checkpoint ----------------------------------------------------------------------------------------------
class Words:
    """In the place of a tokenizer: an id for each word, within CLIP's vocabulary."""

    bos_token_id, eos_token_id, pad_token_id = 49406, 49407, 49407

    def __call__(self, text: str, add_special_tokens: bool = False) -> dict[str, list[int]]:
        return {"input_ids": [1000 + zlib.crc32(word.encode()) % 30_000 for word in text.split()]}


@dataclass
class Subject:
    """A model at work: what is timed, and the question's side beside it."""

    name: str
    geometry: Geometry
    runtime: Runtime
    clip: ClipQuery | None  # the text side of the tower that papers used; None: the language model's embeddings
    weights: int | None = None  # bytes on the GPU

    @classmethod
    def build(cls, name: str, scale: str, device: str, dtype: str, attn: str) -> Subject:
        """Weights drawn on the device, in the precision wanted: no second copy, no file."""
        import transformers as t

        geometry, record = GEOMETRIES[name], BACKBONES[name]
        before = torch.cuda.memory_allocated() if device != "cpu" else 0
        torch.manual_seed(0)
        kind = getattr(t, f"{geometry.name}ForConditionalGeneration")
        with loading.quiet(), torch.device(device):
            model = kind._from_config(geometry.config(scale), attn_implementation=attn, dtype=getattr(torch, dtype))
        model.eval().requires_grad_(False)
        if record.protocol == "paper":
            loading.as_in_papers(model)
        clip = clip_side(scale, device, geometry.config(scale).vision_config.hidden_size) if record.clip else None
        weights = torch.cuda.memory_allocated() - before if device != "cpu" else None
        return cls(name, geometry, Runtime(record, model, None, device), clip, weights)

    def batch(self, size: int) -> Prepared:
        """So many prompts: half of the text, the picture, the other half."""
        device, model = self.runtime.device, self.runtime.model
        draw = torch.Generator(device).manual_seed(size)
        words = torch.randint(10, 30_000, (size, TEXT), generator=draw, device=device)
        marks = self.geometry.marks
        begin, placeholder, end = marks[: len(marks) // 2], marks[len(marks) // 2], marks[len(marks) // 2 + 1 :]
        middle = torch.tensor([*begin, *[placeholder] * self.geometry.visual, *end], device=device).expand(size, -1)
        ids = torch.cat([words[:, : TEXT // 2], middle, words[:, TEXT // 2 :]], 1)
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), **self.geometry.pixels(size, draw)}
        inputs["pixel_values"] = inputs["pixel_values"].to(model.dtype)
        if "mm_token_type_ids" in inspect.signature(model.forward).parameters:  # Qwen, since transformers 5
            inputs["mm_token_type_ids"] = (ids == placeholder).int()
        inputs = {name: value.to(device) for name, value in inputs.items()}
        return Prepared(inputs, [QUESTION] * size, [str(i) for i in range(size)], None)

    def query(self, method: Method) -> QuerySource | None:
        """Where the method's question comes from. Not remembered between calls, so that its cost is counted."""
        if not {"keys", "query"} & method.needs:
            return None
        source = method.source()
        if source in ("llm", "words") or self.clip is None:
            return LlmQuery(Words(), self.runtime.model.get_input_embeddings(), words=source == "words")
        return ClipQuery(self.clip.text, Words(), self.clip.projection, self.clip.sign, source == "clipcompat")


def clip_side(scale: str, device: str, width: int) -> ClipQuery:
    """CLIP's text tower as in config.json of openai/clip-vit-large-patch14-336, float32 as the harness loads it."""
    import transformers as t

    sizes: dict[str, Any] = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
    sizes |= {**_TINY, "num_hidden_layers": 2} if scale == "tiny" else {}
    ids = {"bos_token_id": Words.bos_token_id, "eos_token_id": Words.eos_token_id}
    with torch.device(device):
        text = t.CLIPTextModelWithProjection(t.CLIPTextConfig(vocab_size=49408, projection_dim=768, **sizes, **ids))
        return ClipQuery(text.eval().requires_grad_(False), Words(), torch.randn(768, width) / width**0.5)
