"""Small random checkpoints in LLaVA's own file layout, and the same weights in the Hugging Face layout to compare with.

`llava15` and `llava16` write what `liuhaotian/llava-v1.5-7b` and `liuhaotian/llava-v1.6-vicuna-7b` consist of, `clip` the vision
tower's own checkpoint (the first of them cannot be loaded without it), `twin` makes the model that the weights come from, and
`hf_twin` writes it as `from_pretrained` takes it. One family and seed, one model. The twin's rows past the vocabulary are random.
"""

from __future__ import annotations

import io
import json
from functools import cache
from pathlib import Path
from typing import Any

import torch
import transformers as t
from models import drawn
from safetensors.torch import load_file, save_file
from tokenizers import pre_tokenizers
from torch import Tensor

VOCAB, ROWS = 340, 384  # pieces of the tokenizer; rows of the embedding, a multiple of 64
IMAGE, PAD = VOCAB, VOCAB + 1
SIZE, PATCH, LAYERS, WIDTH = 16, 4, 3, 64
N = (SIZE // PATCH) ** 2
PINPOINTS = [[16, 32], [32, 16], [32, 32], [48, 16], [16, 48]]
CLIP = "openai/clip-vit-large-patch14-336"
MEAN, STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]

VISION: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
VISION |= {"projection_dim": 24, "image_size": SIZE, "patch_size": PATCH, "hidden_act": "quick_gelu"}
TEXT: dict[str, Any] = {"hidden_size": WIDTH, "intermediate_size": 96, "num_hidden_layers": LAYERS, "num_attention_heads": 4}
TEXT |= {"num_key_value_heads": 2, "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "hidden_act": "silu"}
TEXT |= {"bos_token_id": 1, "eos_token_id": 2}


# -- the model ----------------------------------------------------------------------------------------------------------------
def twin(family: str, seed: int = 0, attn: str = "sdpa") -> Any:
    """The model of family 'llava' or 'llava_next', with weights that half precision holds exactly."""
    old = {"image_token_index": IMAGE, "vision_feature_layer": -2, "vision_feature_select_strategy": "default"}
    parts = {
        "vision_config": t.CLIPVisionConfig(**VISION),
        "text_config": t.LlamaConfig(**TEXT, vocab_size=ROWS, pad_token_id=PAD),
    }
    if family == "llava":
        cls, config = t.LlavaForConditionalGeneration, t.LlavaConfig(**old, **parts, image_seq_length=N)
    else:
        cls, config = t.LlavaNextForConditionalGeneration, t.LlavaNextConfig(**old, **parts, image_grid_pinpoints=PINPOINTS)
    model = _halved(drawn(cls._from_config(config, attn_implementation=attn).eval(), seed))
    if family == "llava":  # its tower was frozen
        for name, weight in model.model.vision_tower.named_parameters():
            weight.copy_(_clip_model().state_dict()["vision_model." + name.removeprefix("vision_model.")])
    model.generation_config = t.GenerationConfig(bos_token_id=1, eos_token_id=2, pad_token_id=PAD)
    return model


@cache
def _clip_model() -> Any:
    """A whole CLIP: the text side, and the tower that all of family 'llava' share."""
    text = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "projection_dim": 24}
    text |= {"vocab_size": 514, "bos_token_id": 512, "eos_token_id": 513, "pad_token_id": 513}
    model = t.CLIPModel(t.CLIPConfig(text_config=text, vision_config=VISION, projection_dim=24)).eval()
    model.generation_config = t.GenerationConfig()  # it does not generate: `drawn` asks for one
    model = _halved(drawn(model, 99))
    del model.generation_config
    return model


@torch.no_grad()
def _halved(model: Any) -> Any:
    for weight in model.parameters():
        weight.copy_(weight.half())
    return model


def hf_twin(folder: Path, family: str, seed: int = 0) -> Path:
    """The same model and its processor in the Hugging Face layout, with the tokenizer that transformers makes of the pieces."""
    twin(family, seed).save_pretrained(folder)
    (folder / "tokenizer.model").write_bytes(pieces())
    tokenizer = t.LlamaTokenizerFast.from_pretrained(folder, legacy=True, add_bos_token=True, padding_side="left")
    tokenizer.add_special_tokens({"additional_special_tokens": [t.AddedToken("<image>", normalized=False, special=True)]})
    tokenizer.add_special_tokens({"pad_token": "<pad>"})
    sizes = {"size": {"shortest_edge": SIZE}, "crop_size": {"height": SIZE, "width": SIZE}}
    said = {"patch_size": PATCH, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
    if family == "llava":
        processor = t.LlavaProcessor(t.CLIPImageProcessor(**sizes), tokenizer, **said)
    else:
        processor = t.LlavaNextProcessor(t.LlavaNextImageProcessor(**sizes, image_grid_pinpoints=PINPOINTS), tokenizer, **said)
    processor.save_pretrained(folder)
    return folder


# -- the original layouts -----------------------------------------------------------------------------------------------------
def llava15(folder: Path, seed: int = 0) -> Path:
    """Two .bin shards without a tower, and the projector's own file, which training left there. The tower is `clip`'s."""
    weights = {name: weight for name, weight in _original(twin("llava", seed)).items() if ".vision_tower." not in name}
    for layer in range(LAYERS):  # files of that age have it
        weights[f"model.layers.{layer}.self_attn.rotary_emb.inv_freq"] = torch.ones(8)
    _write(folder, _config(image_aspect_ratio="pad", unfreeze_mm_vision_tower=False, transformers_version="4.31.0"))
    _shards(folder, weights, "pytorch_model", "bin")
    torch.save({name: torch.zeros_like(w) for name, w in weights.items() if "mm_projector" in name}, folder / "mm_projector.bin")
    return folder


def llava16(folder: Path, seed: int = 0) -> Path:
    """Two safetensors shards with a tuned tower and the embedding of line ends."""
    own = _config(image_aspect_ratio="anyres", unfreeze_mm_vision_tower=True, transformers_version="4.36.2", rope_theta=10000.0)
    own |= {"mm_patch_merge_type": "spatial_unpad", "image_grid_pinpoints": PINPOINTS, "mm_vision_tower_lr": 2e-06}
    own |= {"image_crop_resolution": 224, "image_split_resolution": 224, "attention_bias": False, "attention_dropout": 0.0}
    own |= {"mm_projector_lr": None, "tokenizer_model_max_length": 4096, "tokenizer_padding_side": "right"}
    _write(folder, own)
    _shards(folder, _original(twin("llava_next", seed)), "model", "safetensors")
    return folder


def clip(folder: Path, ending: str = "safetensors") -> Path:
    """The tower's checkpoint, as published: the whole CLIP, with preprocessing and tokenizer."""
    _clip_model().save_pretrained(folder)
    if ending == "bin":
        torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
        (folder / "model.safetensors").unlink()
    steps = {"do_center_crop": True, "do_normalize": True, "do_resize": True, "feature_extractor_type": "CLIPFeatureExtractor"}
    sizes = {"crop_size": SIZE, "size": SIZE, "resample": 3, "image_mean": MEAN, "image_std": STD}
    _json(folder / "preprocessor_config.json", {**steps, **sizes})
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    _json(folder / "vocab.json", {word: i for i, word in enumerate(words)})
    (folder / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    ends = {"bos_token": words[-2], "eos_token": words[-1], "pad_token": words[-1], "unk_token": words[-1]}
    _json(folder / "tokenizer_config.json", {**ends, "tokenizer_class": "CLIPTokenizer", "model_max_length": 77})
    return folder


def fitting(folder: Path) -> Path:
    """The CLIP that the tower of a checkpoint in the Hugging Face layout is of, in its folder `clip`."""
    place = clip(folder / "clip")
    config, vision = (json.loads((at / "config.json").read_text(encoding="utf-8")) for at in (place, folder))
    _json(place / "config.json", config | {"vision_config": vision["vision_config"]})
    weights = {n: w for n, w in load_file(place / "model.safetensors").items() if not n.startswith("vision_model.")}
    for name, weight in load_file(folder / "model.safetensors").items():
        _, found, own = name.partition("vision_tower.")
        if found:
            weights["vision_model." + own.removeprefix("vision_model.")] = weight
    save_file(weights, place / "model.safetensors", {"format": "pt"})
    return place


def _original(model: Any) -> dict[str, Tensor]:
    """The weights under the names of LLaVA's own classes, in half precision, without the new words."""
    names = {"model.language_model.": "model.", "model.multi_modal_projector.linear_1.": "model.mm_projector.0."}
    names |= {"model.multi_modal_projector.linear_2.": "model.mm_projector.2.", "model.image_newline": "model.image_newline"}
    names |= {
        "lm_head.": "lm_head.",
        "model.vision_tower.vision_model.": (tower := "model.vision_tower.vision_tower.vision_model."),
    }
    names |= {"model.vision_tower.": tower}  # transformers 5 has one level less
    found = {}
    for name, weight in model.state_dict().items():
        if not name.endswith("position_ids"):
            old, new = next((old, new) for old, new in names.items() if name.startswith(old))
            weight = weight[:VOCAB] if "embed_tokens" in name or "lm_head" in name else weight
            found[new + name.removeprefix(old)] = weight.half().clone()
    return found


def _shards(folder: Path, weights: dict[str, Tensor], stem: str, ending: str) -> None:
    names = list(weights)
    cut = len(names) // 2
    where: dict[str, str] = {}
    for i, part in enumerate((names[:cut], names[cut:]), 1):
        file = f"{stem}-{i:05d}-of-00002.{ending}"
        where |= dict.fromkeys(part, file)
        save: Any = save_file if ending == "safetensors" else torch.save
        save({name: weights[name] for name in part}, folder / file)
    _json(folder / f"{stem}.{ending}.index.json", {"metadata": {"total_size": 0}, "weight_map": where})


def _config(**own: Any) -> dict[str, Any]:
    """What both published config.json have."""
    said: dict[str, Any] = {"_name_or_path": "llava", "architectures": ["LlavaLlamaForCausalLM"], "model_type": "llava", **TEXT}
    said |= {"freeze_mm_mlp_adapter": False, "freeze_mm_vision_resampler": False, "tune_mm_mlp_adapter": False}
    said |= {"initializer_range": 0.02, "max_length": 4096, "mm_hidden_size": VISION["hidden_size"], "mm_resampler_type": None}
    said |= {"mm_projector_type": "mlp2x_gelu", "mm_use_im_patch_token": False, "mm_use_im_start_end": False}
    said |= {"mm_vision_select_feature": "patch", "mm_vision_select_layer": -2, "mm_vision_tower": CLIP, "pad_token_id": 0}
    said |= {"pretraining_tp": 1, "rope_scaling": None, "tie_word_embeddings": False, "torch_dtype": "float16"}
    said |= {"tune_mm_vision_resampler": False, "use_cache": True, "use_mm_proj": True, "vocab_size": VOCAB}
    return said | own


def _write(folder: Path, config: dict[str, Any]) -> None:
    """Everything but the weights."""
    folder.mkdir(parents=True, exist_ok=True)
    _json(folder / "config.json", config)
    sampling = {"temperature": 0.9, "top_p": 0.6, "do_sample": True, "max_length": 4096}
    _json(folder / "generation_config.json", {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, **sampling})
    (folder / "tokenizer.model").write_bytes(pieces())
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    ends = {f"{name}_token": {"content": word, **flags} for name, word in (("bos", "<s>"), ("eos", "</s>"), ("unk", "<unk>"))}
    said = {name: {"__type": "AddedToken", **token} for name, token in ends.items()} | {"legacy": False, "pad_token": None}
    said |= {"add_bos_token": True, "add_eos_token": False, "clean_up_tokenization_spaces": False, "model_max_length": 2048}
    said |= {"padding_side": "right", "sp_model_kwargs": {}, "tokenizer_class": "LlamaTokenizer"}
    _json(folder / "tokenizer_config.json", said)
    _json(folder / "special_tokens_map.json", {**ends, "pad_token": "<unk>"})


def _json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2), encoding="utf-8")


@cache
def pieces() -> bytes:
    """A tokenizer.model trained with LLaMA's settings: byte pairs, bytes where no piece fits, one space before a text."""
    from sentencepiece import SentencePieceTrainer

    lines = [
        "A chat between a curious user and an artificial intelligence assistant. USER: What is shown here? ASSISTANT: a cat, a",
        "the quick brown fox jumps over the lazy dog; pack my box with five dozen jugs! 0123456789",
        "Answer the question using a single word or phrase. Describe the colour and the shape of the object in this image.",
    ]
    written = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(lines * 4),
        model_writer=written,
        vocab_size=VOCAB,
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        split_digits=True,
        allow_whitespace_only_pieces=True,
        num_threads=1,
        minloglevel=2,
    )
    return written.getvalue()
