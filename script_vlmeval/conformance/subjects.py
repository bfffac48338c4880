"""A model to prune, how to ask it something, and what came out of one generation.

A prompt's content depends on its own seed only, so it is the same in every batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .. import backbones, loading, shapes, tiny
from ..methods import Method
from ..prune import pruning
from ..trace import Trace

PAD = tiny.PAD


@dataclass(frozen=True)
class Prompt:
    """One row of a batch."""

    ids: tuple[int, ...]
    pixels: Tensor  # (images, 3, H, W)
    question: str
    seed: int


@dataclass(frozen=True)
class Subject:
    """A model to prune, and how to ask it something."""

    name: str
    model: Any
    query: Any
    prompt: Callable[..., Prompt]  # number of images, seed -> a prompt
    n: int  # visual tokens of an image
    budget: int  # one at which something is dropped and something stays

    @property
    def layers(self) -> int:
        return len(self.model.model.language_model.layers)


@dataclass(frozen=True)
class Run:
    """What came out of one generation."""

    logits: Tensor  # (B, steps, V)
    tokens: Tensor  # (B, steps)
    kept: dict[int, Tensor]  # stage -> (images or samples, G, k), in the order of the batch
    lengths: list[int]  # that entered each layer at the prefill
    entering: Tensor | None  # (layers, B) real tokens
    cache: list[int] | None  # entries of each layer's cache at the end
    trace: Trace | None


# -- the embedded model ------------------------------------------------------------------------------------------------------
def scene_prompt(images: int = 1, seed: int = 0) -> Prompt:
    """A question about drawn scenes, as the embedded model was trained on."""
    draw = np.random.default_rng(1000 + seed)
    scenes = [shapes.draw(draw) for _ in range(max(images, 1))]
    question = next(q.text for kind in ("relation", "exist") if (q := shapes.ask(scenes[0], kind, draw)))
    ids = (tiny.BOS, *[tiny.IMAGE] * (images * tiny.N_VISUAL), *tiny.word_ids(question))
    pixels = np.stack([s.pixels for s in scenes])[:images].transpose(0, 3, 1, 2)
    return Prompt(ids, torch.from_numpy(pixels / np.float32(127.5) - 1), question, seed)


@cache
def embedded(attn: str = "sdpa") -> Subject:
    """The embedded trained model. UserError where its files are missing."""
    record = backbones.BACKBONES["tiny"]
    model, _ = loading.load(record, device="cpu", dtype=torch.float32, attn=attn)
    query = loading.load_query(record, "cpu")
    return Subject(f"trained-{attn}", endless(model), query, scene_prompt, tiny.N_VISUAL, 20)


def endless(model: Any) -> Any:
    """Generation that ends by the number of tokens alone, so that runs can be compared step by step."""
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = PAD
    return model.requires_grad_(False)


def without_query(subject: Subject) -> Subject:
    """The same model, with relevance from the language model's embeddings."""
    return replace(subject, query=None)


# -- asking ----------------------------------------------------------------------------------------------------------------------
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


def context(subject: Subject, prompts: Sequence[Prompt], method: Method, budget: int | str | None = None) -> pruning:
    """The pruning context for these prompts: their own seeds and questions, in the space that the method asks for."""
    return pruning(
        subject.model,
        method,
        subject.budget if budget is None else budget,
        seed=[p.seed for p in prompts],
        question=[p.question for p in prompts],
        query=None if method.source() in ("llm", "words") else subject.query,
    )


@torch.no_grad()
def run(
    subject: Subject,
    prompts: Sequence[Prompt],
    method: Method | None = None,
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


def _result(out: Any, inputs: dict[str, Tensor], trace: Trace | None, subject: Subject) -> Run:
    cached = getattr(out, "past_key_values", None)
    return Run(
        logits=torch.stack(out.logits, 1),
        tokens=out.sequences[:, inputs["input_ids"].shape[1] :],
        kept={} if trace is None else {stage: _by_sample(trace, stage) for stage in trace.kept},
        lengths=[] if trace is None else list(trace.lengths),
        entering=None if trace is None else trace.entering(subject.layers),
        cache=None if cached is None else [layer.keys.shape[2] for layer in cached.layers],
        trace=trace,
    )


def _by_sample(trace: Trace, stage: int) -> Tensor:
    return stacked(trace.kept[stage])[torch.cat(trace.rows[stage]).argsort(stable=True)]


def stacked(kept: Sequence[Tensor]) -> Tensor:
    """Several (I, G, k) as one; -2 fills up those with fewer tokens."""
    k = max(keep.shape[-1] for keep in kept)
    return torch.cat([nn.functional.pad(keep, (0, k - keep.shape[-1]), value=-2) for keep in kept])


# -- the model around ----------------------------------------------------------------------------------------------------------
def hooks(model: nn.Module) -> dict[str, list[int]]:
    """The hooks on every module, and forwards replaced on instances."""
    kinds = [name for name in vars(nn.Module()) if name.endswith("_hooks")]
    found = {f"{name}.{kind}": list(getattr(module, kind)) for name, module in model.named_modules() for kind in kinds}
    replaced = {f"{name}.forward": [id(m.__dict__["forward"])] for name, m in model.named_modules() if "forward" in m.__dict__}
    return {key: value for key, value in {**found, **replaced}.items() if value}


@contextmanager
def spoiled(model: Any, value: float) -> Iterator[None]:
    """The projector gives one value that is not a number to work with."""

    def spoil(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        output = output.clone()
        output[0, 3, 2] = value
        return output

    handle = model.model.multi_modal_projector.register_forward_hook(spoil)
    try:
        yield
    finally:
        handle.remove()
