"""The models that can be named: checkpoint, family, prompt and budgets of each, and how to load one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import UserError, unknown
from .tiny import ASSETS, N_VISUAL

if TYPE_CHECKING:
    from .query import ClipQuery


@dataclass(frozen=True)
class Backbone:
    """One model under one name."""

    id: str
    checkpoint: str  # folder with a transformers checkpoint
    family: str  # transformers model_type
    summary: str
    visual: int  # visual tokens of one image; of a `dynamic` model, the most that one may have
    budgets: tuple[int | str, ...]  # customary ones, registered with VLMEvalKit
    prompt: str  # around {message}, the placeholders and texts of a message in their order
    bare_questions: bool  # whether sentences that ask for a form of answer are left out of the prompt
    image: str  # the placeholder of one image
    clip: str | None  # folder with the text side of its vision tower; None: it has none, relevance is the language model's
    clip_sign: int  # how relevance follows from the cosine in that space, see Visual.sign
    square: bool  # whether pictures are padded to a square with their mean colour, as LLaVA-1.5 evaluates
    max_new_tokens: int
    dynamic: bool = False  # whether the number of visual tokens follows from the size of a picture
    pixels: tuple[int, int] | None = None  # to which a dynamic model scales pictures, at least and at most
    schedules: tuple[str, ...] = ()  # published layer schedules, registered with VLMEvalKit for methods that have them


_GRID = tuple(f"r{removed}k{first}" for removed in (50, 75, 90) for first in (2, 3, 5))  # of Sequential Prune's release
_USER = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, and polite "
)
_LLAVA = Backbone(
    id="llava",
    checkpoint="llava-hf/llava-1.5-7b-hf",
    family="llava",
    summary="LLaVA-1.5 7B",
    visual=576,
    budgets=(192, 128, 64),
    prompt=_USER + "answers to the user's questions. USER: {message} ASSISTANT:",
    bare_questions=False,
    image="<image>\n",
    clip="openai/clip-vit-large-patch14-336",
    clip_sign=-1,
    square=True,
    max_new_tokens=128,
    schedules=_GRID,
)
_QWEN = Backbone(
    id="qwen2vl2b",
    checkpoint="Qwen/Qwen2-VL-2B-Instruct",
    family="qwen2_vl",
    summary="Qwen2-VL 2B Instruct",
    visual=2048,
    budgets=("50pct", "25pct", "10pct"),
    prompt="<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n{message}<|im_end|>\n"
    "<|im_start|>assistant\n",
    bare_questions=False,
    image="<|vision_start|><|image_pad|><|vision_end|>",
    clip=None,
    clip_sign=1,
    square=False,
    max_new_tokens=128,
    dynamic=True,
    pixels=(256 * 28 * 28, 2048 * 28 * 28),
    schedules=_GRID,
)
_TINY = Backbone(
    id="tiny",
    checkpoint=str(ASSETS),
    family="llava",
    summary="embedded 2.7 M parameter LLaVA, trained on drawn scenes (ShapesVQA, ShapesYN)",
    visual=N_VISUAL,
    budgets=(72, 36, 16, 8),
    prompt="{message}",
    bare_questions=True,  # it was trained on questions alone, and answers in one word
    image="<image>",
    clip=str(ASSETS / "clip"),
    clip_sign=1,  # its text tower was trained to agree with the patches that a question is about
    square=True,
    max_new_tokens=4,
)
BACKBONES: dict[str, Backbone] = {
    record.id: record
    for record in (
        _TINY,
        _LLAVA,
        replace(_LLAVA, id="llava13b", checkpoint="llava-hf/llava-1.5-13b-hf", summary="LLaVA-1.5 13B"),
        _QWEN,
        replace(_QWEN, id="qwen2vl7b", checkpoint="Qwen/Qwen2-VL-7B-Instruct", summary="Qwen2-VL 7B Instruct"),
    )
}


def backbone(name: str, checkpoints: Mapping[str, str] | None = None) -> Backbone:
    """The record of that name, with another checkpoint folder where one is given. UserError for unknown names."""
    if name not in BACKBONES:
        raise unknown("model", name, BACKBONES, "See --list models.")
    record = BACKBONES[name]
    if folder := (checkpoints or {}).get(name):
        record = replace(record, checkpoint=folder, clip=record.clip and str(Path(folder) / "clip"))
    return record


def check_checkpoint(record: Backbone) -> None:
    """UserError where the checkpoint is not there, before anything heavy is imported."""
    folder = Path(record.checkpoint)
    if not (folder / "config.json").is_file():
        raise UserError(
            f"No checkpoint of '{record.id}' in {folder}: expected config.json and model.safetensors there. "
            f"Give another folder with --checkpoint {record.id}=DIR."
        )


def checkpoint_digest(record: Backbone) -> str:
    """Digest of configuration, tokenizer and weights, the text side included, for the fingerprint."""
    digest = hashlib.sha256()
    files = {file for folder in (record.checkpoint, record.clip) if folder for file in Path(folder).rglob("*")}
    for file in sorted(files):
        if file.suffix in (".json", ".safetensors"):
            digest.update(file.name.encode())
            with file.open("rb") as stream:
                while block := stream.read(1 << 22):
                    digest.update(block)
    return digest.hexdigest()[:16]


@cache
def layers(record: Backbone) -> int:
    """Layers of the language model, by the checkpoint's configuration."""
    text = json.loads((Path(record.checkpoint) / "config.json").read_text(encoding="utf-8")).get("text_config", {})
    if "num_hidden_layers" in text:
        return int(text["num_hidden_layers"])
    from transformers import AutoConfig  # a published config.json may leave out what is its class's default

    return int(AutoConfig.from_pretrained(record.checkpoint).get_text_config().num_hidden_layers)


def check_query(record: Backbone, method: str, source: str) -> None:
    """UserError where a method conditions on the question and the checkpoint has no text side to compare it in."""
    if record.clip is None and source == "auto":
        return
    if record.clip is None:
        raise UserError(f"'{method}' wants relevance from '{source}', which '{record.id}' has not: set relevance=llm.")
    if not (Path(record.clip) / "config.json").is_file():
        raise UserError(
            f"'{method}' conditions on the question, which needs the text side of the vision tower in {record.clip}: "
            "put a CLIP checkpoint there."
        )


@contextmanager
def quiet() -> Iterator[None]:
    """transformers without its progress bars and load reports: we say ourselves what matters."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def load(record: Backbone, *, device: str, dtype: Any, attn: str) -> tuple[Any, Any]:
    """(model in evaluation mode, processor padding on the left). UserError where the folder holds no model of the family."""
    from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

    check_checkpoint(record)
    try:
        config = AutoConfig.from_pretrained(record.checkpoint)
        if config.model_type != record.family:
            raise UserError(f"{record.checkpoint} holds a '{config.model_type}' model, '{record.id}' is a '{record.family}'.")
        with quiet():
            auto: Any = AutoModelForImageTextToText  # its types do not know what output_loading_info returns
            model, info = auto.from_pretrained(record.checkpoint, dtype=dtype, attn_implementation=attn, output_loading_info=True)
            processor = AutoProcessor.from_pretrained(record.checkpoint, **_pixels(record))
        model = model.eval().to(device)
    except UserError:
        raise
    except Exception as error:  # a truncated file, another architecture, a missing kernel, no memory: each has its own type
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise UserError(f"Cannot load '{record.id}' from {record.checkpoint}: {reason}") from error
    if missing := sorted(set(info["missing_keys"]) - {"lm_head.weight"}):  # they would be random, and scores noise
        raise UserError(
            f"The checkpoint {record.checkpoint} lacks {len(missing)} weights of '{record.id}', such as {missing[0]}."
        )
    processor.tokenizer.padding_side = "left"
    return model, processor


def _pixels(record: Backbone) -> dict[str, Any]:
    """What the processor is told of sizes."""
    return {} if record.pixels is None else {"size": dict(zip(("shortest_edge", "longest_edge"), record.pixels, strict=True))}


def load_query(record: Backbone, device: str) -> ClipQuery:
    """The question's side, loaded only when a method needs it."""
    from .query import ClipQuery

    assert record.clip is not None
    with quiet():
        return ClipQuery.load(record.clip, sign=record.clip_sign, device=device)
