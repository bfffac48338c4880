"""Checkpoints in transformers' layout with random weights, for `sweep.py`: what a run needs on disk, at three scales.

`tiny` is the embedded, trained model. `mid` and `llava7b` have LLaVA's shape: a CLIP tower, 576 visual tokens, a LLaMA decoder, a
tokenizer, a processor, a CLIP text side. Their tokens are whole words, so that answers can be read back token by token, and
nothing ends an answer early. Weights are large enough that attention is not flat and answers depend on what is kept.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))
from script_vlmeval import loading, shapes
from script_vlmeval.backbones import BACKBONES, Backbone
from script_vlmeval.bench.geometry import GEOMETRIES, Geometry
from script_vlmeval.runtime import Runtime

PAD, BOS, UNK, EOS = range(4)
PROMPT = 640  # tokens of a prompt, pictures included, for which work is counted


@dataclass(frozen=True)
class Scale:
    """A model and how it is pruned. budgets: before the language model; inside: of methods that work inside it, whose mean over
    the layers holds the first ones, which see everything: `first` of them."""

    name: str
    budgets: tuple[str, ...]
    inside: tuple[str, ...]
    first: int  # 2 of LLaVA's 32 layers, and in proportion at least 1
    geometry: Geometry | None = None  # None: the embedded model
    clip: tuple[int, int, int] = (0, 0, 0)  # width, intermediate width and layers of the text side


_LLAVA = GEOMETRIES["llava"]
_TEXT = {"hidden_size": 512, "intermediate_size": 1376, "num_hidden_layers": 8, "num_attention_heads": 8}
# 256 wide, above every budget: the kernel of a determinantal process has no rank beyond, and rounding would choose the rest.
_VISION = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2, "num_attention_heads": 4}
_VISION |= {"projection_dim": 256}
_MID = replace(
    _LLAVA,
    source="LLaVA-1.5's shape, narrow and shallow",
    text={**_LLAVA.text, **_TEXT, "num_key_value_heads": 8, "vocab_size": 2048},
    vision={**_LLAVA.vision, **_VISION},
    own={**_LLAVA.own, "image_token_index": 2000},
    marks=(2000,),
)
SCALES = {
    scale.name: scale
    for scale in (
        Scale("tiny", ("72", "36", "16", "8"), ("84", "72", "60", "48"), 1),
        Scale("mid", ("192", "128", "64", "32"), ("224", "192", "160", "128"), 1, _MID, (128, 512, 3)),
        Scale("llava7b", ("192", "128", "64", "32"), ("192", "128", "96", "64"), 2, _LLAVA, (768, 3072, 12)),
    )
}


# -- how much work it is -------------------------------------------------------------------------------------------------------
def work(geometry: Geometry) -> dict[str, float]:
    """Floating-point operations of one prompt, unpruned: the tower with the projector, and the prefill."""
    text, vision = geometry.text, geometry.vision
    width, seen = vision["hidden_size"], (vision["image_size"] // vision["patch_size"]) ** 2 + 1
    tower = vision["num_hidden_layers"] * _layer(width, vision["intermediate_size"], seen, matrices=2)
    projector = 2 * geometry.visual * text["hidden_size"] * (width + text["hidden_size"])
    prefill = text["num_hidden_layers"] * _layer(text["hidden_size"], text["intermediate_size"], PROMPT, matrices=3)
    return {"vision": tower + projector, "prefill": prefill + 2 * text["hidden_size"] * text["vocab_size"]}


def _layer(width: int, inner: int, tokens: int, matrices: int) -> float:
    return 2.0 * tokens * (4 * width**2 + matrices * width * inner) + 4.0 * tokens**2 * width


def described(scale: Scale) -> str:
    """A line on the model: its size, and how much of the work is the tower's."""
    if scale.geometry is None:
        return f"{scale.name}: {BACKBONES['tiny'].summary}, {BACKBONES['tiny'].visual} visual tokens"
    text, of, published = scale.geometry.text, work(scale.geometry), work(_LLAVA)
    share, usual = (x["vision"] / x["prefill"] for x in (of, published))
    layers, visual = text["num_hidden_layers"], scale.geometry.visual
    return (
        f"{scale.name}: {scale.geometry.source}; random weights, width {text['hidden_size']}, {layers} layers, {visual} "
        f"visual tokens; vision {of['vision'] / 1e9:.1f} GFLOP a picture, {share:.1%} of a full prefill of {PROMPT} tokens, "
        f"{of['prefill'] / 1e9:.1f} GFLOP (LLaVA-1.5 7B: {usual:.1%})"
    )


def parameters(scale: Scale) -> int:
    """Of the whole model, counted without memory for them."""
    import transformers as t

    assert scale.geometry is not None
    with torch.device("meta"):
        model = getattr(t, f"{scale.geometry.name}ForConditionalGeneration")._from_config(scale.geometry.config())
    return sum(weight.numel() for weight in model.parameters())


# -- on disk -------------------------------------------------------------------------------------------------------------------
def tokenizer(vocabulary: int, image: int) -> Any:
    """An id for each word of the prompts, and words that mean nothing up to the size of the vocabulary."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    said = BACKBONES["llava"].talk.prompt.replace("{message}", " ")
    split = pre_tokenizers.Whitespace().pre_tokenize_str
    known = dict.fromkeys(["<pad>", "<s>", "<unk>", "<eos>", *(word for word, _ in split(said)), *shapes.WORDS, "?"])
    words = [*known, *(f"w{i}" for i in range(len(known), vocabulary))][: vocabulary - 1]
    words.insert(image, "<image>")
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", BOS)])
    marks: dict[str, Any] = {
        "pad_token": "<pad>",
        "bos_token": "<s>",
        "unk_token": "<unk>",
        "eos_token": "<eos>",
        "padding_side": "left",
    }
    marks |= {"clean_up_tokenization_spaces": False, "model_input_names": ["input_ids", "attention_mask"]}
    found = PreTrainedTokenizerFast(tokenizer_object=made, **marks)
    found.add_special_tokens({"additional_special_tokens": ["<image>"]})
    return found


def write(scale: Scale, folder: Path) -> None:
    """What a checkpoint's folder holds besides the weights: configuration, tokenizer, processor."""
    import transformers as t

    assert scale.geometry is not None
    geometry, words = scale.geometry, tokenizer(scale.geometry.text["vocab_size"], scale.geometry.marks[0])
    config = geometry.config()
    config.architectures = [f"{geometry.name}ForConditionalGeneration"]
    config.save_pretrained(folder)
    side, half = geometry.vision["image_size"], [0.5, 0.5, 0.5]
    crop = {"size": {"shortest_edge": side}, "crop_size": {"height": side, "width": side}, "image_mean": half, "image_std": half}
    cls = {"patch_size": geometry.vision["patch_size"], "vision_feature_select_strategy": "default"}
    t.LlavaProcessor(t.CLIPImageProcessor(**crop), words, **cls, num_additional_image_tokens=1).save_pretrained(folder)
    words.save_pretrained(folder / "clip")


def _write_text_side(scale: Scale, folder: Path) -> None:
    """CLIP's text tower and the matrix of its vision side, in half precision, beside a tokenizer."""
    import transformers as t
    from safetensors.torch import save_file

    assert scale.geometry is not None
    width, inner, layers = scale.clip
    shared = scale.geometry.vision["projection_dim"]
    sizes: dict[str, Any] = {"hidden_size": width, "intermediate_size": inner, "num_hidden_layers": layers}
    ids = {"pad_token_id": PAD, "bos_token_id": BOS, "eos_token_id": EOS}
    config = t.CLIPTextConfig(
        vocab_size=scale.geometry.text["vocab_size"], num_attention_heads=width // 32, projection_dim=shared, **sizes, **ids
    )
    text = drawn(t.CLIPTextModelWithProjection(config), seed=1)
    config.save_pretrained(folder)
    vision = scale.geometry.vision["hidden_size"]
    projection = torch.randn(shared, vision, generator=torch.Generator().manual_seed(2)) / vision**0.5
    tensors = {name: tensor.half().contiguous() for name, tensor in text.state_dict().items() if "position_ids" not in name}
    save_file({**tensors, "visual_projection.weight": projection.half()}, folder / "model.safetensors", {"format": "pt"})


@torch.no_grad()
def drawn(model: Any, seed: int) -> Any:
    """The model with weights from a seed, drawn where it is. The head never says a special token."""
    first = next(model.parameters())
    generator = torch.Generator(first.device).manual_seed(seed)
    for name, weight in model.named_parameters():
        if "embed_tokens" in name or ("embedding" in name and "patch" not in name):
            weight.normal_(generator=generator)
        elif weight.ndim > 1:
            weight.normal_(std=1.5 / weight[0].numel() ** 0.5, generator=generator)
        else:
            weight.fill_(0.0 if "bias" in name else 1.0)
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    if head is not None:
        head.weight[: EOS + 1] = 0
        head.weight[model.config.image_token_index] = 0
    return model.eval().requires_grad_(False)


def _weights(scale: Scale, device: str, dtype: torch.dtype) -> Any:
    import transformers as t

    assert scale.geometry is not None
    kind = getattr(t, f"{scale.geometry.name}ForConditionalGeneration")
    with loading.quiet(), torch.device(device):
        model = kind._from_config(scale.geometry.config(), attn_implementation="sdpa", dtype=dtype)
    model.generation_config = t.GenerationConfig(pad_token_id=PAD, bos_token_id=BOS)
    return drawn(model, seed=0)


# -- in memory -------------------------------------------------------------------------------------------------------------------
def record(scale: Scale, folder: Path, answer_tokens: int) -> Backbone:
    """The scale's model as one that can be named. The embedded one keeps its own: it was trained to end its answers."""
    if scale.geometry is None:
        return BACKBONES["tiny"]
    lengths = {"max_new_tokens": answer_tokens, "host_max_new_tokens": answer_tokens}
    places = {"checkpoint": str(folder), "clip": str(folder / "clip")}
    layers = scale.geometry.text["num_hidden_layers"]
    return replace(BACKBONES["llava"], id=scale.name, summary=scale.geometry.source, layers=layers, **places, **lengths)


@contextmanager
def named(scale: Scale, folder: Path, answer_tokens: int) -> Iterator[Backbone]:
    """The scale's record among the backbones, where both runners look names up. Its files are in the folder, but for weights: a
    file without any stands there until `load`, since a configuration is checked against a whole checkpoint."""
    found, before = record(scale, folder, answer_tokens), dict(BACKBONES)
    if scale.geometry is not None:
        write(scale, folder)
        _stand_in(folder)
    BACKBONES[found.id] = found
    try:
        yield found
    finally:
        BACKBONES.clear()
        BACKBONES.update(before)


def load(scale: Scale, model: Backbone, device: str, dtype: str) -> Runtime:
    """The model in memory, and its text side on disk. `mid` is saved and loaded as any checkpoint; `llava7b` is drawn on the
    device, which spares 14 GB on disk."""
    folder, kind = Path(model.checkpoint), getattr(torch, dtype)
    if scale.geometry is not None:
        _write_text_side(scale, folder / "clip")
    if scale.name == "mid":
        with loading.quiet():
            _weights(scale, "cpu", torch.float32).save_pretrained(folder)
    if scale.name != "llava7b":
        return Runtime.load(model, device=device, dtype=dtype)
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(folder)
    processor.tokenizer.padding_side = "left"
    return Runtime(model, _weights(scale, device, kind), processor, device)


def _stand_in(folder: Path) -> None:
    from safetensors.torch import save_file

    save_file({"none": torch.zeros(1)}, folder / "model.safetensors", {"format": "pt"})
