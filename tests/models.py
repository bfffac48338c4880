"""What the tests prune: a small random LLaVA and the embedded trained one, with left-padded prompts and a question space each.

Random models are made in memory from a seed, with weights large enough that attention is not flat and a wrong mask or position
moves the logits by whole units. A prompt's content depends on its own seed only, so it is the same in every batch.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from script_vlmeval import pruning, shapes, tiny

# Models this small gain nothing from a second thread, and on a busy machine lose a factor of 80 to waiting for it.
torch.set_num_threads(1)

VOCAB, PAD, BOS, IMAGE = 80, 0, 1, 79
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
    return _endless(model)


def _endless(model: Any) -> Any:
    """Generation that ends by the number of tokens alone, so that runs can be compared step by step."""
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = PAD
    return model.requires_grad_(False)


def eager_tower(model: Any) -> Any:
    """The model's vision tower again, with attention that can be looked at."""
    own = model.model.vision_tower
    other = type(own)._from_config(own.config, attn_implementation="eager").eval()
    other.load_state_dict(own.state_dict())
    return other


# -- prompts -----------------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Prompt:
    """One row of a batch."""

    ids: tuple[int, ...]
    pixels: Tensor  # (images, 3, H, W)
    question: str
    seed: int


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


def scene_prompt(images: int = 1, seed: int = 0) -> Prompt:
    """A question about drawn scenes, as the embedded model was trained on."""
    draw = np.random.default_rng(1000 + seed)
    scenes = [shapes.draw(draw) for _ in range(max(images, 1))]
    question = next(q.text for kind in ("relation", "exist") if (q := shapes.ask(scenes[0], kind, draw)))
    ids = (tiny.BOS, *[tiny.IMAGE] * (images * tiny.N_VISUAL), *tiny.word_ids(question))
    pixels = np.stack([s.pixels for s in scenes])[:images].transpose(0, 3, 1, 2)
    return Prompt(ids, torch.from_numpy(pixels / np.float32(127.5) - 1), question, seed)


def collate(prompts: Sequence[Prompt], extra: int = 0) -> dict[str, Tensor]:
    """Model inputs, padded on the left to the longest prompt, and by `extra` columns more."""
    length = max(len(p.ids) for p in prompts) + extra
    pads = [length - len(p.ids) for p in prompts]
    inputs = {
        "input_ids": torch.tensor([[PAD] * n + list(p.ids) for n, p in zip(pads, prompts, strict=True)]),
        "attention_mask": torch.tensor([[0] * n + [1] * len(p.ids) for n, p in zip(pads, prompts, strict=True)]),
    }
    pixels = torch.cat([p.pixels for p in prompts])
    return {**inputs, "pixel_values": pixels} if len(pixels) else inputs


# -- the question ------------------------------------------------------------------------------------------------------------
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
@dataclass(frozen=True)
class Subject:
    """A model to prune, and how to ask it something."""

    name: str
    model: Any
    query: Any
    prompt: Callable[..., Prompt]
    n: int  # visual tokens of an image
    budget: int  # one at which something is dropped and something stays

    @property
    def layers(self) -> int:
        return len(self.model.model.language_model.layers)


@cache
def random_llava(attn: str = "sdpa") -> Subject:
    return Subject(f"random-{attn}", build(attn), FakeQuery(), random_prompt, N, 5)


@cache
def trained_llava(attn: str = "sdpa") -> Subject:
    from script_vlmeval import backbones

    record = backbones.BACKBONES["tiny"]
    model, _ = backbones.load(record, device="cpu", dtype=torch.float32, attn=attn)
    return Subject(f"trained-{attn}", _endless(model), backbones.load_query(record, "cpu"), scene_prompt, tiny.N_VISUAL, 20)


@dataclass(frozen=True)
class Run:
    """What came out of one generation."""

    logits: Tensor  # (B, steps, V)
    tokens: Tensor  # (B, steps)
    kept: dict[int, Tensor]  # stage -> (images, G, k)
    lengths: list[int]  # that entered each layer at the prefill
    entering: Tensor | None  # (layers, B) real tokens
    cache: list[int] | None  # entries of each layer's cache at the end
    trace: Any


@torch.no_grad()
def run(
    subject: Subject,
    prompts: Sequence[Prompt],
    method: Any = None,
    budget: int | str | None = None,
    *,
    steps: int = 1,
    extra: int = 0,
    inputs: dict[str, Tensor] | None = None,
    **options: Any,
) -> Run:
    """Greedy generation, pruned by `method` where one is given. `options` go to generate()."""
    inputs = collate(prompts, extra) if inputs is None else inputs
    options = {"do_sample": False, "max_new_tokens": steps, "output_logits": True, "return_dict_in_generate": True, **options}
    if method is None:
        return _result(subject.model.generate(**inputs, **options), inputs, None, subject)
    with context(subject, prompts, method, budget) as trace:
        out = subject.model.generate(**inputs, **options)
    return _result(out, inputs, trace, subject)


def context(subject: Subject, prompts: Sequence[Prompt], method: Any, budget: int | str | None = None) -> pruning:
    """The pruning context for these prompts: their own seeds and questions."""
    return pruning(
        subject.model,
        method,
        subject.budget if budget is None else budget,
        seed=[p.seed for p in prompts],
        question=[p.question for p in prompts],
        query=subject.query,
    )


def _result(out: Any, inputs: dict[str, Tensor], trace: Any, subject: Subject) -> Run:
    cache = getattr(out, "past_key_values", None)
    return Run(
        logits=torch.stack(out.logits, 1),
        tokens=out.sequences[:, inputs["input_ids"].shape[1] :],
        kept={} if trace is None else {stage: torch.cat(groups) for stage, groups in trace.kept.items()},
        lengths=[] if trace is None else list(trace.lengths),
        entering=None if trace is None else trace.entering(subject.layers),
        cache=None if cache is None else [layer.keys.shape[2] for layer in cache.layers],
        trace=trace,
    )


def without_query(subject: Subject) -> Subject:
    """The same model, with relevance from the language model's embeddings."""
    return replace(subject, query=None)
