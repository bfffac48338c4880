"""A model at work: loaded from its checkpoint, or drawn at its published size, with prompts for either."""

from __future__ import annotations

import inspect
import os
import tempfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from .. import loading
from ..backbones import Backbone, Models
from ..efficiency import BYTES
from ..errors import UserError
from ..methods import Method
from ..query import ClipQuery, LlmQuery, QuerySource
from ..runtime import Prepared, Runtime
from .clocks import Clock
from .geometry import Geometry

TEXT = 40  # text tokens of a prompt for random weights, half of them before the picture
SIDE = 896  # pixels of a picture for a checkpoint: 1024 tokens of Qwen2.5-VL; LLaVA takes any
QUESTION = "Which of the things that lie on the left of the picture is larger than the red one behind it?"


class Words:
    """In the place of a tokenizer: an id for each word, within CLIP's vocabulary and any model's."""

    bos_token_id, eos_token_id, pad_token_id = 49406, 49407, 49407

    def __call__(self, text: str, add_special_tokens: bool = False) -> dict[str, list[int]]:
        return {"input_ids": [1000 + zlib.crc32(word.encode()) % 30_000 for word in text.split()]}


@dataclass
class Subject:
    """What is timed, and the question's side beside it. geometry: of a model with random weights."""

    runtime: Runtime
    geometry: Geometry | None
    text_side: ClipQuery | None = None  # of random weights, where relevance is the tower's
    weights: int | None = None  # bytes on a GPU
    _sources: dict[str, Any] = field(default_factory=dict)

    @property
    def model(self) -> Any:
        return self.runtime.model

    def batch(self, size: int) -> Prepared:
        """So many prompts of the same length, each with a picture of its own."""
        return _drawn_batch(self, self.geometry, size) if self.geometry else _real_batch(self.runtime, size)

    def query(self, method: Method) -> QuerySource | None:
        """Where the method's question comes from. Not remembered between calls, so that its cost is counted."""
        if not {"keys", "query"} & method.needs:
            return None
        source, record = method.source(), self.runtime.record
        source = source if source != "auto" else "llm" if record.clip is None else "clip"
        if source not in self._sources:
            self._sources[source] = self._source(source, record)
        found: QuerySource = self._sources[source]
        return found

    def _source(self, source: str, record: Backbone) -> Any:
        words = self.runtime.processor.tokenizer if self.geometry is None else Words()
        if source in ("llm", "words") or (self.geometry and self.text_side is None):
            return LlmQuery(words, self.model.get_input_embeddings(), words=source == "words")
        if (own := self.text_side) is not None:
            return ClipQuery(own.text, words, own.projection, own.sign, source == "clipcompat")
        record = loading.with_text_side(record, offline=self.runtime.offline)
        return loading.load_query(record, self.runtime.where, compat=source == "clipcompat", model=self.model)


def loaded(record: Backbone, models: Models, device: str, dtype: str, attn: str) -> Subject:
    """From the checkpoint, which is fetched where it is not here. Its answers do not end, so that all are equally long."""
    runtime = Runtime.load(record.id, device=device, dtype=dtype, attn=attn, checkpoints=models)
    runtime.model.generation_config.eos_token_id = None
    return Subject(runtime, None, weights=Clock(device).held())


def drawn(record: Backbone, geometry: Geometry, device: str, dtype: str, attn: str) -> Subject:
    """Random weights, drawn on the device in the precision wanted: no second copy, no file.

    UserError for what a computer's memory cannot hold, where the operating system would end the program.
    """
    import transformers as t

    loading.check_attention(attn, device)
    kind = getattr(t, f"{geometry.name}ForConditionalGeneration")
    config = geometry.config()
    _check_room(kind, config, device, dtype)
    torch.manual_seed(0)
    with loading.quiet(), torch.device(device):
        model = kind._from_config(config, attn_implementation=attn, dtype=getattr(torch, dtype))
    model.eval().requires_grad_(False)
    if record.protocol == "paper":
        loading.as_in_papers(model)
    side = _text_side(geometry, device, config.vision_config.hidden_size, record.clip_sign) if record.clip else None
    return Subject(Runtime(record, model, None, device), geometry, side, Clock(device).held())


def _check_room(kind: Any, config: Any, device: str, dtype: str) -> None:
    if device != "cpu":
        return
    with torch.device("meta"):
        count = sum(weight.numel() for weight in kind._from_config(config).parameters())
    needed, there = count * BYTES[dtype], os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > 0.8 * there:
        raise UserError(
            f"its weights take {needed / 2**30:.0f} GiB, and this computer has {there / 2**30:.0f}: use a GPU, or mid."
        )


def _text_side(geometry: Geometry, device: str, width: int, sign: int) -> ClipQuery:
    """CLIP's text tower, as published unless the geometry is small, float32 as the harness loads it."""
    import transformers as t

    hidden, inner, layers, heads = geometry.clip
    sizes: dict[str, Any] = {"hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": layers}
    sizes |= {"bos_token_id": Words.bos_token_id, "eos_token_id": Words.eos_token_id}
    config = t.CLIPTextConfig(vocab_size=49408, projection_dim=768, num_attention_heads=heads, **sizes)
    with torch.device(device):
        text = t.CLIPTextModelWithProjection(config).eval().requires_grad_(False)
        return ClipQuery(text, Words(), torch.randn(768, width) / width**0.5, sign)


# -- prompts -------------------------------------------------------------------------------------------------------------------
def _drawn_batch(subject: Subject, geometry: Geometry, size: int) -> Prepared:
    """Half of the text, the picture, the other half."""
    device, model = subject.runtime.device, subject.model
    draw = torch.Generator(device).manual_seed(size)
    words = torch.randint(10, 30_000, (size, TEXT), generator=draw, device=device)
    half, marks = len(geometry.marks) // 2, geometry.marks
    middle = torch.tensor([*marks[:half], *[marks[half]] * geometry.visual, *marks[half + 1 :]], device=device)
    ids = torch.cat([words[:, : TEXT // 2], middle.expand(size, -1), words[:, TEXT // 2 :]], 1)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), **geometry.pixels(size, draw)}
    inputs["pixel_values"] = inputs["pixel_values"].to(model.dtype)
    if "mm_token_type_ids" in inspect.signature(model.forward).parameters:  # Qwen, since transformers 5
        inputs["mm_token_type_ids"] = (ids == marks[half]).int()
    placed = {name: value.to(device) for name, value in inputs.items()}
    return Prepared(placed, [QUESTION] * size, [str(i) for i in range(size)], None)


def _real_batch(runtime: Runtime, size: int) -> Prepared:
    """One question about pictures of one size: scenes for the embedded model, noise for others."""
    import numpy as np
    from PIL import Image

    from .. import shapes

    rng, asked = np.random.default_rng(size), QUESTION
    pictures: list[Any] = [rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8) for _ in range(size)]
    if runtime.record.id == "tiny":
        scenes = [shapes.draw(rng) for _ in range(size)]
        question = shapes.ask(scenes[0], "count", rng)
        pictures, asked = [scene.pixels for scene in scenes], question.text if question else "What is there?"
    with tempfile.TemporaryDirectory() as folder:
        items = []
        for i, pixels in enumerate(pictures):
            path = Path(folder) / f"{i}.png"
            Image.fromarray(pixels).save(path)
            items.append([{"type": "image", "value": str(path)}, {"type": "text", "value": asked}])
        return runtime.prepare(items)
