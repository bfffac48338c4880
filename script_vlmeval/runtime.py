"""A loaded model that answers batches of VLMEvalKit messages under a configuration.

The harness and VLMEvalKit's own runner both answer through this class, so a configuration gives the same predictions in both.
"""

from __future__ import annotations

import hashlib
import math
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from . import backbones, families, methods, plans, tower
from .backbones import Backbone
from .cells import Config, schedule
from .encode import Chosen, QueryOnce, encode_once
from .errors import UserError
from .methods import Method
from .prune import pruning
from .query import LlmQuery
from .trace import Trace

if TYPE_CHECKING:
    from PIL.Image import Image

Message = Sequence[Mapping[str, str]]

# Sentences that ask for a form of answer. Selection conditions on the question alone, as the papers do.
_FORMAT = re.compile(
    r"\s*(?:Answer the question using a single word or phrase\.|Answer with the option's letter from the given choices directly\."
    r"|Please answer yes or no\.|Please answer the question using a single word or phrase\."
    r"|Please select the correct answer from the options above\.?)\s*",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Sample:
    """One message, decoded: its pictures, its question, and a digest of all that it holds."""

    images: tuple[Image, ...]
    sizes: tuple[tuple[int, int], ...]  # width and height of the pictures before any padding
    prompt: str  # as the model takes it, with placeholders for the images
    question: str  # what selection conditions on: the text without sentences that ask for a form of answer
    digest: str


@dataclass(frozen=True)
class Prepared:
    """A batch as the model takes it."""

    inputs: dict[str, Any]
    questions: list[str]
    digests: list[str]
    shown: torch.Tensor | None  # (images, N) bool, False = padding; None where no picture was padded
    chosen: dict[tuple[Method, int], Chosen] = field(default_factory=dict)  # what methods chose of this batch

    def __len__(self) -> int:
        return len(self.questions)


@dataclass(frozen=True)
class Answer:
    """What the model said, and the tokens that it really read: {visual_full, visual_kept (mean over layers), text, layers}."""

    text: str
    tokens: dict[str, Any]


class Runtime:
    """One model in memory. Pictures are decoded by `read`, batches made by `prepare`, answered by `answer`."""

    def __init__(self, record: Backbone, model: Any, processor: Any, device: str) -> None:
        self.record, self.model, self.processor, self.device = record, model, processor, device
        self.family = families.family_of(model)
        self._queries: dict[str, QueryOnce] = {}

    @classmethod
    def load(
        cls,
        name: str,
        *,
        device: str = "auto",
        dtype: str = "auto",
        attn: str = "sdpa",
        checkpoints: Mapping[str, str] | None = None,
    ) -> Runtime:
        """Load a backbone. dtype 'auto' is float32 on a CPU and bfloat16 on a GPU. UserError for what cannot be loaded."""
        where = choose_device(device)
        record = backbones.backbone(name, checkpoints)
        kind = choose_dtype(dtype, where)
        model, processor = backbones.load(record, device=where, dtype=getattr(torch, kind), attn=attn)
        return cls(record, model, processor, where)

    def read(self, message: Message) -> Sample:
        """Decode one message. Raises ValueError, naming the file, for a picture that cannot be read."""
        parts = [(str(part["type"]), str(part["value"])) for part in message]
        digest, images, sizes, prompt = hashlib.sha256(), [], [], ""
        for kind, value in parts:
            if kind == "image":
                picture = _picture(value, digest)
                sizes.append(picture.size)
                images.append(_padded(picture) if self.record.square else picture)
                prompt += self.record.image
            elif kind == "text":
                shown = _FORMAT.sub(" ", value).strip() if self.record.bare_questions else value
                prompt += "\n" * (bool(prompt) and not prompt.endswith(self.record.image)) + shown
            else:
                raise ValueError(f"'{self.record.id}' reads images and text, not {kind}")
        text = "\n".join(value for kind, value in parts if kind == "text")
        digest.update(text.encode())
        question = _FORMAT.sub(" ", text).strip()
        return Sample(tuple(images), tuple(sizes), self.record.prompt.format(message=prompt), question, digest.hexdigest())

    def prepare(self, items: Sequence[Sample | Message]) -> Prepared:
        """A left-padded batch of samples, or of messages that are read first."""
        samples = [item if isinstance(item, Sample) else self.read(item) for item in items]
        pictures = [i for s in samples for i in s.images]
        inputs = self.processor(text=[s.prompt for s in samples], images=pictures or None, return_tensors="pt", padding=True).to(
            self.device
        )
        if "pixel_values" in inputs:
            inputs["pixel_values"] = inputs["pixel_values"].to(self.model.dtype)
        sizes = [size for s in samples for size in s.sizes] if self.record.square else []
        return Prepared(
            dict(inputs), [s.question for s in samples], [s.digest for s in samples], _shown(sizes, self.record.visual)
        )

    @contextmanager
    def batch(self) -> Iterator[None]:
        """Within this context the vision tower and projector run once per prepared batch, whatever is asked of it."""
        handles = tower.watch(self.model) if "saliency" in self.family.offers else []
        try:
            with encode_once(*(getattr(self.model.model, name) for name in self.family.vision)):
                yield
        finally:
            for handle in handles:
                handle.remove()
            for query in self._queries.values():
                query.forget()

    @torch.inference_mode()
    def encode(self, prepared: Prepared) -> None:
        """Run the vision side of a batch now, inside `batch()`, so that no configuration's time holds it."""
        if "pixel_values" in prepared.inputs:
            self.model.get_image_features(**{name: prepared.inputs[name] for name in self.family.pictures})

    @torch.inference_mode()
    def answer(
        self, prepared: Prepared, method: Method, budget: str, *, seed: int = 0, budgets: Sequence[str] = ()
    ) -> list[Answer]:
        """Greedy answers of a batch under a method and budget ('' = all tokens). budgets: those that will be asked for of this
        batch, so that a method whose choices are nested runs once for all of them.

        Sample seeds follow from the run's seed and the sample's content, so they are the same in every batch, on every device
        and in every runner.
        """
        seeds = [int(hashlib.sha256(f"{seed}:{d}".encode()).hexdigest()[:14], 16) for d in prepared.digests]
        context = pruning(
            self.model,
            method,
            budget or "100pct",
            seed=seeds,
            question=prepared.questions,
            query=self._query(method.source()) if {"keys", "query"} & method.needs else None,
            shown=prepared.shown,
            chosen=prepared.chosen.setdefault((method, seed), Chosen(budgets)),
        )
        if method.reprunes():
            warnings.warn(
                "reprune_each_step reads the whole prompt again for each token: for parity, not for results.", stacklevel=2
            )
        with context as trace:
            out = self.model.generate(
                **prepared.inputs,
                do_sample=False,
                num_beams=1,
                max_new_tokens=self.record.max_new_tokens,
                use_cache=not method.reprunes(),
            )
            counts = self._counts(trace)
        texts = self.processor.tokenizer.batch_decode(out[:, prepared.inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        return [Answer(text.strip(), {**c, "relevance": trace.relevance}) for text, c in zip(texts, counts, strict=True)]

    def _query(self, source: str) -> QueryOnce:
        """The question's side, loaded when a method first asks for it."""
        source = "llm" if source == "auto" and self.record.clip is None else source
        if source not in self._queries:
            found = (
                LlmQuery(self.processor.tokenizer, self.model.get_input_embeddings(), words=source == "words")
                if source in ("llm", "words")
                else backbones.load_query(self.record, self.device)
            )
            self._queries[source] = QueryOnce(found)
        return self._queries[source]

    def _counts(self, trace: Trace) -> list[dict[str, Any]]:
        """Per row: visual tokens before pruning, their mean over the layers, text tokens, all tokens entering each layer."""
        assert trace.text is not None
        assert trace.visual is not None
        layers = trace.entering(self.model.config.text_config.num_hidden_layers).T.tolist()
        return [
            {"visual_full": v, "visual_kept": sum(row) / len(row) - t, "text": t, "layers": row}
            for v, t, row in zip(trace.visual.tolist(), trace.text.tolist(), layers, strict=True)
        ]


def method_of(config: Config, checkpoints: Mapping[str, str] | None = None) -> Method:
    """The method of a configuration, refused where the model or its family cannot serve it. Loads no weights."""
    record = backbones.backbone(config.model, checkpoints)
    backbones.check_checkpoint(record)
    try:
        return _method_for(record, config)
    except UserError as error:
        raise UserError(f"'{config}': {error}") from None


def _method_for(record: Backbone, config: Config) -> Method:
    if schedule(config.budget) and (twice := [name for name, _ in config.params if name in ("removed", "first_layer")]):
        raise UserError(
            f"The budget {config.budget} says how much goes and from which layer on: leave out {' and '.join(twice)}."
        )
    method, budget = plans.asked(methods.get_method(config.method, **dict(config.params)), config.budget or None)
    count = plans.tokens(budget, record.visual)
    if (count or 0) > record.visual and not record.dynamic:
        raise UserError(f"'{record.id}' has {record.visual} visual tokens per image: use '{record.id}_full' for all.")
    families.FAMILIES[record.family].require(config.method, method.needs)
    if "query" in method.needs and method.source() in ("auto", "clip"):
        backbones.check_query(record, config.method, method.source())
    if config.budget:  # of a dynamic model, for the largest picture: what can be had there can be had everywhere
        plans.plan(method, count, record.visual, backbones.layers(record))
    return method


def choose_device(wanted: str) -> str:
    """'auto' is the first GPU where there is one. UserError for one that is not there."""
    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(wanted)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError):
        gpus = torch.cuda.device_count()
        raise UserError(f"--device '{wanted}' is not a device here: use auto, cpu or cuda (GPUs seen: {gpus}).") from None
    return device.type if device.type == "cpu" else str(device)


def choose_dtype(wanted: str, device: str) -> str:
    """'auto' is float32 on a CPU, bfloat16 on a GPU."""
    return wanted if wanted != "auto" else "float32" if device == "cpu" else "bfloat16"


def _picture(path: str, digest: Any) -> Image:
    """A picture in RGB, its bytes added to the digest."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        data = Path(path).read_bytes()
        digest.update(hashlib.sha256(data).digest())
        with Image.open(path) as opened:
            return ImageOps.exif_transpose(opened).convert("RGB")
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError, SyntaxError) as error:
        raise ValueError(f"cannot read picture {path}: {error}") from None


def _padded(picture: Image) -> Image:
    """A square with the picture in its middle, on LLaVA's mean colour."""
    from PIL import Image as images

    side = max(picture.size)
    if picture.size == (side, side):
        return picture
    canvas = images.new("RGB", (side, side), (122, 116, 104))
    canvas.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    return canvas


def _shown(sizes: Sequence[tuple[int, int]], n: int) -> torch.Tensor | None:
    """(images, n) bool: patches of the padded square that show some of the picture. None where no picture was padded."""
    if all(width == height for width, height in sizes):
        return None
    side = math.isqrt(n)
    edges = torch.arange(side + 1) / side
    masks = []
    for width, height in sizes:
        square = max(width, height)
        spans = [((square - length) // 2 / square, ((square - length) // 2 + length) / square) for length in (height, width)]
        rows, columns = ((edges[1:] > low) & (edges[:-1] < high) for low, high in spans)
        masks.append((rows[:, None] & columns).flatten())
    return torch.stack(masks)
