"""What the tests prune: a small random LLaVA and the embedded trained one, with left-padded prompts and a question space each.

Random models are made in memory from a seed, with weights large enough that attention is not flat and a wrong mask or position
moves the logits by whole units. How they are asked is the conformance suite's (`conformance/subjects.py`).
"""

from __future__ import annotations

import zlib
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor, nn

from script_vlmeval.conformance.subjects import PAD, Prompt, Subject, embedded, endless
from script_vlmeval.conformance.subjects import Run as Run
from script_vlmeval.conformance.subjects import collate as collate
from script_vlmeval.conformance.subjects import context as context
from script_vlmeval.conformance.subjects import run as run
from script_vlmeval.conformance.subjects import scene_prompt as scene_prompt
from script_vlmeval.conformance.subjects import without_query as without_query
from script_vlmeval.methods import METHODS, Method

# Models this small gain nothing from a second thread, and on a busy machine lose a factor of 80 to waiting for it.
torch.set_num_threads(1)

VOCAB, BOS, IMAGE = 80, 1, 79
SIZE, PATCH, LAYERS, WIDTH = 16, 4, 4, 64
N = (SIZE // PATCH) ** 2


def build(attn: str = "sdpa", seed: int = 0) -> Any:
    """A LlavaForConditionalGeneration: 2-layer tower on a 4 x 4 grid, 4-layer decoder with grouped-query attention, float32."""
    import transformers as t

    vision = t.CLIPVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, image_size=SIZE, patch_size=PATCH
    )
    text = t.LlamaConfig(
        hidden_size=WIDTH,
        intermediate_size=96,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=VOCAB,
        max_position_embeddings=512,
        pad_token_id=PAD,
        bos_token_id=BOS,
        eos_token_id=None,
    )
    config = t.LlavaConfig(
        vision_config=vision.to_dict(),
        text_config=text.to_dict(),
        image_token_index=IMAGE,
        image_seq_length=N,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
    )
    model = t.LlavaForConditionalGeneration._from_config(config, attn_implementation=attn).eval()
    return drawn(model, seed)


def drawn(model: Any, seed: int) -> Any:
    """The model with weights from a seed, large enough that attention is not flat; it never ends an answer by itself."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            noise = torch.randn(weight.shape, generator=generator)
            if "embed_tokens" in name:
                weight.copy_(noise)
            elif weight.ndim > 1:
                weight.copy_(noise * 1.5 / weight[0].numel() ** 0.5)
            else:
                weight.copy_(0.2 * noise + (0 if "bias" in name else 1))
    return endless(model)


def private(cls: type[Method]) -> type[Method]:
    """Defining a method registers it; those of the tests must not join the suites that run over the registry."""
    del METHODS[cls.name]
    return cls


def since_5(reason: str) -> pytest.MarkDecorator:
    """Left out where transformers 4 itself, unpruned, cannot do it."""
    return pytest.mark.skipif(transformers.__version__.startswith("4."), reason=f"transformers 4 {reason}")


def eager_tower(model: Any) -> Any:
    """The model's vision tower again, with attention that can be looked at."""
    own = model.model.vision_tower
    other = type(own)._from_config(own.config, attn_implementation="eager").eval()
    other.load_state_dict(own.state_dict())
    return other


# -- prompts and the question ------------------------------------------------------------------------------------------------
def random_prompt(images: int = 1, seed: int = 0, text: int | None = None) -> Prompt:
    """BOS, two words, the images, words after each. `text` sets how many words follow the last image."""
    draw = np.random.default_rng(seed)

    def words(n: int) -> list[int]:
        return draw.integers(2, IMAGE, n).tolist()

    ids = [BOS, *words(2)]
    for _ in range(images):
        ids += [IMAGE] * N + words(3)
    ids += words(2 + seed % 4 if text is None else text)
    pixels = torch.from_numpy(draw.normal(size=(images, 3, SIZE, SIZE)).astype(np.float32))
    return Prompt(tuple(ids), pixels, f"question {'x' * (seed % 3)} {seed}", seed)


class FakeQuery:
    """A question space without a text tower: rows from a digest of the text, patches through a fixed random matrix."""

    name, sign = "fake", -1

    def __init__(self, width: int = 32, c: int = 8) -> None:
        self.c = c
        self.matrix = torch.randn(width, c, generator=torch.Generator().manual_seed(5))

    def encode(self, questions: list[str]) -> tuple[Tensor, Tensor]:
        drawn = [
            torch.randn(1 + len(q) % 3, self.c, generator=torch.Generator().manual_seed(zlib.crc32(q.encode())))
            for q in questions
        ]
        rows = [d if q else d[:0] for d, q in zip(drawn, questions, strict=True)]
        query, mask = torch.zeros(len(rows), 3, self.c), torch.zeros(len(rows), 3, dtype=torch.bool)
        for b, row in enumerate(rows):
            query[b, : len(row)], mask[b, : len(row)] = row, True
        return query, mask

    def keys(self, model: nn.Module, selected: Tensor) -> Tensor:
        return selected @ self.matrix


# -- subjects ----------------------------------------------------------------------------------------------------------------
@cache
def random_llava(attn: str = "sdpa") -> Subject:
    return Subject(f"random-{attn}", build(attn), FakeQuery(), random_prompt, N, 5)


trained_llava = embedded
