"""Small random checkpoints in the file layout of published ones: configuration, weights, tokenizer and processor in a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers as t
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE

SPECIAL = "<|endoftext|> <|im_start|> <|im_end|> <|vision_start|> <|vision_end|> <|image_pad|> <|video_pad|>".split()
LAYERS, WIDTH, PATCH, MERGE, TIMES = 4, 64, 14, 2, 2


def _tokenizer() -> Any:
    """Bytes, and Qwen's special tokens."""
    bytes_of = {c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(BPE(vocab=bytes_of, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(SPECIAL)
    return t.Qwen2TokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>", unk_token=None, padding_side="left"
    )


def qwen2_vl(folder: Path, seed: int = 0) -> Path:
    """A Qwen2-VL with a processor, as `from_pretrained` finds a published one."""
    tokenizer = _tokenizer()
    ids = dict(zip(SPECIAL, tokenizer.convert_tokens_to_ids(SPECIAL), strict=True))
    text = {"hidden_size": WIDTH, "intermediate_size": 96, "num_hidden_layers": LAYERS, "vocab_size": len(tokenizer)}
    text |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 8192}
    text |= {"bos_token_id": ids["<|endoftext|>"], "eos_token_id": ids["<|im_end|>"], "pad_token_id": ids["<|endoftext|>"]}
    rope = {"type": "default", "rope_type": "default", "mrope_section": [2, 3, 3]}
    old = t.__version__.startswith("4.")
    text |= {"rope_scaling": rope} if old else {"rope_parameters": {**rope, "rope_theta": 10000.0}}
    vision = {"depth": 2, "embed_dim": 32, "hidden_size": WIDTH, "num_heads": 4, "mlp_ratio": 2, "in_channels": 3}
    vision |= {"patch_size": PATCH, "spatial_merge_size": MERGE, "temporal_patch_size": TIMES}
    names = {"image_token_id": "<|image_pad|>", "video_token_id": "<|video_pad|>"}
    names |= {"vision_start_token_id": "<|vision_start|>", "vision_end_token_id": "<|vision_end|>"}
    config = t.Qwen2VLConfig(text_config=text, vision_config=vision, **{k: ids[v] for k, v in names.items()})
    torch.manual_seed(seed)
    model = t.Qwen2VLForConditionalGeneration(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.copy_(torch.randn_like(weight) * 1.5 / weight[0].numel() ** 0.5)
    model.save_pretrained(folder)
    sizes = {"patch_size": PATCH, "merge_size": MERGE, "temporal_patch_size": TIMES}
    t.Qwen2VLProcessor(
        image_processor=t.Qwen2VLImageProcessor(**sizes), tokenizer=tokenizer, video_processor=t.Qwen2VLVideoProcessor(**sizes)
    ).save_pretrained(folder)
    return folder
