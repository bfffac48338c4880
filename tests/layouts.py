"""Small random checkpoints in the file layout of the published ones, a folder each: configuration, weights, tokenizer, processor.

`layout("llava", folder)` writes what `from_pretrained` finds at a published repository, by `save_pretrained` of the installed
transformers, and in float32. Only the sizes are small. Kept are what code depends on: token ids in the configuration that agree
with the tokenizer, processors that expand placeholders, special tokens of the tower, tiling, pooling, newlines and deepstack.

Towers see 4 x 4 patches per tile (OneVision 5 x 5: odd, as the published 27 x 27, so that pooling rounds up).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers as t
from PIL import Image
from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers, processors
from tokenizers.models import BPE

OLD = t.__version__.startswith("4.")
WIDTH, LAYERS, TOWER, SIDE, PATCH = 64, 4, 32, 56, 14
MEAN, STD = [0.5, 0.4, 0.45], [0.25, 0.3, 0.2]
QWEN = (
    "<|endoftext|> <|im_start|> <|im_end|> <|object_ref_start|> <|object_ref_end|> <|box_start|> <|box_end|> <|quad_start|> "
    "<|quad_end|> <|vision_start|> <|vision_end|> <|vision_pad|> <|image_pad|> <|video_pad|>"
).split()


@dataclass(frozen=True)
class Prompt:
    """A single turn as the published chat template renders it: head, images, videos, gap, question, tail."""

    head: str
    image: str
    tail: str
    video: str = ""  # empty: the family reads no videos
    gap: str = ""
    system: str = ""  # what the family's model card puts first; the chat template renders it where a system message is given

    def render(self, question: str, images: int = 0, videos: int = 0) -> str:
        return self.head + self.image * images + self.video * videos + self.gap + question + self.tail

    def template(self) -> str:
        """A chat template that renders the same, and a system message before it."""
        kinds = {"image": self.image, "video": self.video}
        shown = "".join(f"{{% if part['type'] == '{kind}' %}}{_say(text)}{{% endif %}}" for kind, text in kinds.items())
        asked = "{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}"
        each = "{{% for part in message['content'] %}}{}{{% endfor %}}".format
        turn = _say(self.head) + each(shown) + _say(self.gap) + each(asked) + _say(self.tail)
        system = "{% if message['role'] == 'system' %}{{ message['content'][0]['text'] + ' ' }}{% else %}"
        return f"{{% for message in messages %}}{system}{turn}{{% endif %}}{{% endfor %}}"


def _say(text: str) -> str:
    return f"{{{{ {json.dumps(text)} }}}}"


VICUNA = (
    "A chat between a curious human and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the human's questions."
)
_assistant = "<|im_end|>\n<|im_start|>assistant\n"
_shown = {"image": "<|vision_start|><|image_pad|><|vision_end|>", "video": "<|vision_start|><|video_pad|><|vision_end|>"}
_helpful = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"

PROMPT: dict[str, Prompt] = {
    "llava": Prompt("USER: ", "<image>\n", " ASSISTANT:"),
    "llava_next": Prompt("USER: ", "<image>\n", " ASSISTANT:", system=VICUNA),
    "llava_next_video": Prompt("USER: ", "<image>\n", " ASSISTANT:", "<video>\n"),
    "llava_onevision": Prompt("<|im_start|>user ", "<image>", "<|im_end|><|im_start|>assistant\n", "<video>", "\n"),
    "video_llava": Prompt("USER: ", "<image>\n", " ASSISTANT:", "<video>\n"),
    "qwen2_vl": Prompt(_helpful, tail=_assistant, **_shown),
    "qwen2_5_vl": Prompt(_helpful, tail=_assistant, **_shown),
    "qwen3_vl": Prompt("<|im_start|>user\n", tail=_assistant, **_shown),
    "internvl": Prompt("<|im_start|>user\n", "<IMG_CONTEXT>\n", _assistant, "<video>\n"),
}


# -- tokenizers --------------------------------------------------------------------------------------------------------------
def _tokenizer(folder: Path, backend: Tokenizer, special: list[str], **config: Any) -> Any:
    """What AutoTokenizer makes of a tokenizer.json and a tokenizer_config.json in the folder."""
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    folder.mkdir(parents=True, exist_ok=True)
    backend.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"padding_side": "left", **config}))
    return t.AutoTokenizer.from_pretrained(folder)


def _llama(folder: Path, extra: list[str]) -> Any:
    """Llama's: BOS first, a space before the text, bytes for what is not in the vocabulary."""
    vocab = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *map(chr, range(33, 127))]
    model = BPE({token: i for i, token in enumerate(vocab)}, [], unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    backend = Tokenizer(model)
    backend.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme="first", split=False)
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.post_processor = processors.TemplateProcessing("<s> $A", "<s> $A <s> $B", [("<s>", 1)])
    config = {"tokenizer_class": "LlamaTokenizer", "unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    return _tokenizer(folder, backend, ["<unk>", "<s>", "</s>", *extra], **config, pad_token="<pad>", legacy=False)


def _qwen(folder: Path, extra: list[str] | None = None, **config: Any) -> Any:
    """Qwen's: bytes, and no BOS."""
    alphabet = {letter: i for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    backend = Tokenizer(BPE(alphabet, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    config |= {"tokenizer_class": "Qwen2Tokenizer", "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    return _tokenizer(folder, backend, [*QWEN, *(extra or [])], **config)


# -- configurations ----------------------------------------------------------------------------------------------------------
def _text(tokenizer: Any, kind: str, **more: Any) -> dict[str, Any]:
    """A decoder with grouped-query attention, and a few rows of embedding more than there are tokens, as published."""
    own = {"model_type": kind, "hidden_size": WIDTH, "intermediate_size": 96, "num_hidden_layers": LAYERS}
    own |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 8192, "tie_word_embeddings": False}
    own |= {"vocab_size": len(tokenizer) // 64 * 64 + 128, "pad_token_id": tokenizer.pad_token_id}
    return own | {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id, **more}


def _tower(kind: str, side: int = SIDE, **more: Any) -> dict[str, Any]:
    own = {"model_type": kind, "hidden_size": TOWER, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}
    return own | {"image_size": side, "patch_size": PATCH, **more}


def _ids(tokenizer: Any, **names: str) -> dict[str, int]:
    return {key: tokenizer.convert_tokens_to_ids(token) for key, token in names.items()}


def _pinpoints(side: int, most: int) -> list[list[int]]:
    return [[side * i, side * j] for i in range(1, most + 1) for j in range(1, most + 1)]


NEXT_PINPOINTS = [[SIDE * i, SIDE * j] for i, j in ((1, 2), (2, 1), (2, 2), (3, 1), (1, 3))]
_crop = {"size": {"shortest_edge": SIDE}, "crop_size": {"height": SIDE, "width": SIDE}, "image_mean": MEAN, "image_std": STD}
_cls = {"patch_size": PATCH, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
_select = {"vision_feature_layer": -2, "vision_feature_select_strategy": "default"}


# -- families: configuration and processor -----------------------------------------------------------------------------------
def _llava(folder: Path, chat: str) -> tuple[Any, Any]:
    tokenizer = _llama(folder, ["<image>", "<pad>"])
    ids = _ids(tokenizer, image_token_index="<image>")
    tower, text = _tower("clip_vision_model"), _text(tokenizer, "llama")
    config = t.LlavaConfig(vision_config=tower, text_config=text, image_seq_length=16, **ids, **_select)
    return config, t.LlavaProcessor(t.CLIPImageProcessor(**_crop), tokenizer, chat_template=chat, **_cls)


def _llava_next(folder: Path, chat: str) -> tuple[Any, Any]:
    tokenizer = _llama(folder, ["<image>", "<pad>"])
    ids = _ids(tokenizer, image_token_index="<image>")
    pins = {"image_grid_pinpoints": NEXT_PINPOINTS}
    tower, text = _tower("clip_vision_model"), _text(tokenizer, "llama")
    config = t.LlavaNextConfig(vision_config=tower, text_config=text, image_seq_length=16, **ids, **pins, **_select)
    return config, t.LlavaNextProcessor(t.LlavaNextImageProcessor(**pins, **_crop), tokenizer, chat_template=chat, **_cls)


def _llava_next_video(folder: Path, chat: str) -> tuple[Any, Any]:
    tokenizer = _llama(folder, ["<video>", "<image>", "<pad>"])
    ids = _ids(tokenizer, image_token_index="<image>", video_token_index="<video>")
    pins = {"image_grid_pinpoints": NEXT_PINPOINTS}
    pool = {"spatial_pool_mode": "average", "spatial_pool_stride": 2}
    lengths = {"image_seq_length": 16, "video_seq_length": 4}
    tower, text = _tower("clip_vision_model"), _text(tokenizer, "llama")
    config = t.LlavaNextVideoConfig(vision_config=tower, text_config=text, **pool, **lengths, **ids, **pins, **_select)
    seen = t.LlavaNextImageProcessor(**pins, **_crop)
    return config, t.LlavaNextVideoProcessor(t.LlavaNextVideoVideoProcessor(**_crop), seen, tokenizer, chat_template=chat, **_cls)


def _llava_onevision(folder: Path, chat: str) -> tuple[Any, Any]:
    side = 5 * PATCH + 2  # a rest at the border, as 384 leaves with patches of 14
    tokenizer = _qwen(folder, ["<image>", "<video>"])
    ids = _ids(tokenizer, image_token_index="<image>", video_token_index="<video>")
    pins = {"image_grid_pinpoints": _pinpoints(side, 6)}
    own = {"vision_feature_layer": -1, "vision_feature_select_strategy": "full", "vision_aspect_ratio": "anyres_max_9"}
    tower, text = _tower("siglip_vision_model", side, vision_use_head=False), _text(tokenizer, "qwen2")
    config = t.LlavaOnevisionConfig(vision_config=tower, text_config=text, **ids, **pins, **own)
    size = {"size": {"height": side, "width": side}, "image_mean": MEAN, "image_std": STD}
    seen, frames = t.LlavaOnevisionImageProcessor(**pins, **size), t.LlavaOnevisionVideoProcessor(**size)
    own = {"num_image_tokens": 25, "vision_feature_select_strategy": "full", "vision_aspect_ratio": "anyres_max_9"}
    return config, t.LlavaOnevisionProcessor(seen, tokenizer, frames, chat_template=chat, **own)


def _video_llava(folder: Path, chat: str) -> tuple[Any, Any]:
    tokenizer = _llama(folder, ["<image>", "<video>", "<pad>"])
    ids = _ids(tokenizer, image_token_index="<image>", video_token_index="<video>")
    lengths = {"image_seq_length": 16, "video_seq_length": 8 * 17}
    tower, text = _tower("clip_vision_model"), _text(tokenizer, "llama")
    config = t.VideoLlavaConfig(vision_config=tower, text_config=text, **lengths, **ids, **_select)
    seen, frames = t.VideoLlavaImageProcessor(**_crop), t.VideoLlavaVideoProcessor(**_crop)
    return config, t.VideoLlavaProcessor(seen, frames, tokenizer, chat_template=chat, **_cls)


def _rope(sections: list[int], **more: Any) -> dict[str, Any]:
    rope = {"rope_type": "default", "mrope_section": sections, **more}
    if OLD:
        return {"rope_scaling": {"type": "default", **rope}, "rope_theta": 1000000.0}
    return {"rope_parameters": {**rope, "rope_theta": 1000000.0}}


def _qwen_ids(tokenizer: Any) -> dict[str, int]:
    names = {"image_token_id": "<|image_pad|>", "video_token_id": "<|video_pad|>"}
    return _ids(tokenizer, **names, vision_start_token_id="<|vision_start|>", vision_end_token_id="<|vision_end|>")


def _qwen_processor(name: str, tokenizer: Any, patch: int, chat: str) -> Any:
    """Nothing is enlarged beyond four merged tokens, where published processors ask for more."""
    sizes = {"patch_size": patch, "merge_size": 2, "temporal_patch_size": 2, "image_mean": MEAN, "image_std": STD}
    sizes |= {"size": {"shortest_edge": (4 * patch) ** 2, "longest_edge": 4096 * patch**2}}
    frames = t.Qwen3VLVideoProcessor if name == "Qwen3VL" else t.Qwen2VLVideoProcessor
    kind = getattr(t, f"{name}Processor")
    return kind(t.Qwen2VLImageProcessor(**sizes), tokenizer, frames(**sizes), chat_template=chat)


def _qwen2_vl(folder: Path, chat: str) -> tuple[Any, Any]:
    tokenizer = _qwen(folder)
    vision = {"depth": 3, "embed_dim": TOWER, "hidden_size": WIDTH, "num_heads": 4, "mlp_ratio": 2, "in_channels": 3}
    vision |= {"patch_size": PATCH, "spatial_merge_size": 2, "temporal_patch_size": 2}
    text = _text(tokenizer, "qwen2_vl_text", **_rope([2, 3, 3]))
    config = t.Qwen2VLConfig(text_config=text, vision_config=vision, **_qwen_ids(tokenizer))
    return config, _qwen_processor("Qwen2VL", tokenizer, PATCH, chat)


def _qwen2_5_vl(folder: Path, chat: str) -> tuple[Any, Any]:
    tokenizer = _qwen(folder)
    vision = {"depth": 3, "hidden_size": TOWER, "intermediate_size": 64, "num_heads": 4, "out_hidden_size": WIDTH}
    vision |= {"patch_size": PATCH, "spatial_merge_size": 2, "temporal_patch_size": 2, "in_channels": 3}
    vision |= {"window_size": 4 * PATCH, "fullatt_block_indexes": [2], "tokens_per_second": 2}
    text = _text(tokenizer, "qwen2_5_vl_text", **_rope([2, 3, 3]))
    config = t.Qwen2_5_VLConfig(text_config=text, vision_config=vision, **_qwen_ids(tokenizer))
    return config, _qwen_processor("Qwen2_5_VL", tokenizer, PATCH, chat)


def _qwen3_vl(folder: Path, chat: str) -> tuple[Any, Any]:
    tokenizer = _qwen(folder)
    vision = {"depth": 4, "hidden_size": TOWER, "intermediate_size": 64, "num_heads": 4, "out_hidden_size": WIDTH}
    vision |= {"patch_size": 16, "spatial_merge_size": 2, "temporal_patch_size": 2, "in_channels": 3}
    vision |= {"num_position_embeddings": 64, "deepstack_visual_indexes": [0, 1, 2]}
    text = _text(tokenizer, "qwen3_vl_text", head_dim=16, **_rope([4, 2, 2], mrope_interleaved=True))
    config = t.Qwen3VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=False, **_qwen_ids(tokenizer))
    return config, _qwen_processor("Qwen3VL", tokenizer, 16, chat)


def _internvl(folder: Path, chat: str) -> tuple[Any, Any]:
    names = {"start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>"}
    extra = ["<img>", "</img>", "<IMG_CONTEXT>", "<quad>", "</quad>", "<ref>", "</ref>", "<box>", "</box>", "<video>"]
    tokenizer = _qwen(folder, extra, extra_special_tokens={**names, "video_token": "<video>"})
    tower = _tower("internvl_vision", attention_bias=True) | {"image_size": [SIDE, SIDE], "patch_size": [PATCH, PATCH]}
    text, ids = _text(tokenizer, "qwen2"), _ids(tokenizer, image_token_id="<IMG_CONTEXT>")
    own = {"image_seq_length": 4, "downsample_ratio": 0.5, "tie_word_embeddings": False}
    config = t.InternVLConfig(vision_config=tower, text_config=text, **own, **ids)
    size = {"size": {"height": SIDE, "width": SIDE}, "image_mean": MEAN, "image_std": STD}
    image = getattr(t, "GotOcr2ImageProcessorFast" if OLD else "GotOcr2ImageProcessor")
    seen = image(crop_to_patches=True, min_patches=1, max_patches=12, **size)
    frames = t.InternVLVideoProcessor(**size)
    return config, t.InternVLProcessor(seen, tokenizer, frames, image_seq_length=4, chat_template=chat)


# -- writing and reading -------------------------------------------------------------------------------------------------------
_PARTS: dict[str, tuple[str, Callable[[Path, str], tuple[Any, Any]]]] = {
    "llava": ("LlavaForConditionalGeneration", _llava),
    "llava_next": ("LlavaNextForConditionalGeneration", _llava_next),
    "llava_next_video": ("LlavaNextVideoForConditionalGeneration", _llava_next_video),
    "llava_onevision": ("LlavaOnevisionForConditionalGeneration", _llava_onevision),
    "video_llava": ("VideoLlavaForConditionalGeneration", _video_llava),
    "qwen2_vl": ("Qwen2VLForConditionalGeneration", _qwen2_vl),
    "qwen2_5_vl": ("Qwen2_5_VLForConditionalGeneration", _qwen2_5_vl),
    "qwen3_vl": ("Qwen3VLForConditionalGeneration", _qwen3_vl),
    "internvl": ("InternVLForConditionalGeneration", _internvl),
}
FAMILIES = tuple(_PARTS)
VIDEO = tuple(family for family in FAMILIES if PROMPT[family].video)
CLASSES = {family: name for family, (name, _) in _PARTS.items()}


def _weights(model: Any, seed: int) -> None:
    """Large enough that attention is not flat and a wrong mask or position shows; biases and norms are drawn too."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            noise = torch.randn(weight.shape, generator=generator)
            if "embed_tokens" in name or "newline" in name:
                weight.copy_(noise)
            elif weight.ndim > 1:
                weight.copy_(noise * 1.5 / weight[0].numel() ** 0.5)
            elif "q_norm" in name or "k_norm" in name:  # which undo the size of the projections' weights
                weight.copy_(0.2 * noise + 1.5)
            else:
                weight.copy_(0.2 * noise + (0 if "bias" in name else 1))


def layout(family: str, folder: Path, seed: int = 0, shard: str = "5GB") -> Path:
    """Writes the family's checkpoint into the folder, in shards of at most `shard` ("200KB": several), and returns the folder."""
    name, parts = _PARTS[family]
    config, processor = parts(folder, PROMPT[family].template())
    config.architectures = [name]
    model = getattr(t, name)(config).eval()
    _weights(model, seed)
    tokenizer = processor.tokenizer
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    model.generation_config = t.GenerationConfig(**ends, pad_token_id=tokenizer.pad_token_id)
    model.save_pretrained(folder, max_shard_size=shard)
    processor.save_pretrained(folder)
    return folder


LAYOUTS: dict[str, Callable[[Path, int], Path]] = {family: partial(layout, family) for family in FAMILIES}


def load(folder: Path, **options: Any) -> tuple[Any, Any]:
    """Model and processor, as a caller gets them who knows nothing but the folder."""
    config = t.AutoConfig.from_pretrained(folder)
    # transformers 4 has no Auto class for VideoLlava that version 5 has too.
    kind = getattr(t, config.architectures[0]) if config.model_type == "video_llava" else t.AutoModelForImageTextToText
    return kind.from_pretrained(folder, **options), t.AutoProcessor.from_pretrained(folder)


# -- asking ------------------------------------------------------------------------------------------------------------------
def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    """A few patches of colour: noise would look the same to a tower wherever it is pooled."""
    colours = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(colours).resize((width, height), Image.Resampling.BILINEAR)


def clip(frames: int = 8, width: int = 70, height: int = 60, seed: int = 0) -> np.ndarray:
    """Decoded frames, [frames, height, width, 3]."""
    return np.stack([np.asarray(picture(width, height, 1000 * seed + i)) for i in range(frames)])


def encode(processor: Any, text: list[str], images: Any = None, videos: list[np.ndarray] | None = None, fps: float = 2.0) -> Any:
    """The processor's call for prompts with images, a list per prompt, and videos whose frames are taken as they are."""
    options: dict[str, Any] = {"padding": True, "return_tensors": "pt"}
    if images:
        options["images"] = images
    if videos:
        options["videos"] = videos
        if not (OLD and isinstance(processor, t.VideoLlavaProcessor)):  # takes no options there, and never resamples
            every = [{"fps": fps, "total_num_frames": len(v), "frames_indices": list(range(len(v)))} for v in videos]
            options |= {"do_sample_frames": False, "fps": fps, "video_metadata": every}
    return processor(text=text, **options)
