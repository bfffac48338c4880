"""The models that can be named: checkpoint, family, prompt and budgets of each. Records only; `loading.py` loads them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, TypeAlias

from . import hub
from .errors import UserError, unknown
from .offers import OFFERS
from .tiny import ASSETS, N_VISUAL

Protocol: TypeAlias = Literal["paper", "hf"]
PROTOCOLS = ("paper", "hf")
CLIPS = frozenset({"clip", "clipcompat"})  # sources of relevance that need the text side


@dataclass(frozen=True)
class Talk:
    """How a message becomes a prompt."""

    prompt: str  # around {message}, the placeholders and texts of a message in their order
    image: str  # the placeholder of one image
    video: str = ""  # the placeholder of one video; empty: its frames are shown as images
    square: bool = False  # whether pictures are padded to a square with their mean colour, as LLaVA-1.5 evaluates
    gap: str = ""  # between placeholders and the text behind them


@dataclass(frozen=True)
class Backbone:
    """One model under one name."""

    id: str
    checkpoint: str  # folder with a checkpoint, or the id of one on the hub
    family: str  # transformers model_type
    summary: str
    visual: int  # visual tokens of one image; of a `dynamic` model, the most that one may have
    layers: int  # of the language model, as published; a checkpoint at hand is asked itself
    budgets: tuple[int | str, ...]  # customary ones, registered with VLMEvalKit
    talk: Talk
    clip: str | None = None  # the text side of its vision tower; None: it has none, relevance is the language model's
    clip_sign: int = 1  # how relevance follows from the cosine in that space, see Visual.sign
    host_talk: Talk | None = None  # VLMEvalKit's own way to ask, where it differs (--prompt-style vlmevalkit)
    bare_questions: bool = False  # whether sentences that ask for a form of answer are left out of the prompt
    max_new_tokens: int = 128
    host_max_new_tokens: int = 2048  # what VLMEvalKit's own class of the model allows (--prompt-style vlmevalkit)
    dynamic: bool = False  # whether the number of visual tokens follows from the size of a picture
    tiles: int = 1  # over how many tiles an integer budget is spread, as the papers count it
    frames: int = 8  # of a video
    pixels: tuple[int, int] | None = None  # to which a dynamic model scales pictures, at least and at most
    schedules: tuple[str, ...] = ()  # published layer schedules, registered with VLMEvalKit for methods that have them
    protocol: Protocol | None = None  # how crops become tokens, where there are two ways: see PAPER_SIDE

    def asked(self, style: str) -> Talk:
        """How it is asked in a prompt style: its own way, but for VLMEvalKit's where that was named."""
        return self.host_talk if style == "vlmevalkit" and self.host_talk else self.talk

    def counted(self) -> str:
        """How visual tokens are counted, in words."""
        return f"{'at most ' * self.dynamic}{self.visual}" + f" ({self.tiles} tiles)" * (self.tiles > 1)


_GRID = tuple(f"r{removed}k{first}" for removed in (50, 75, 90) for first in (2, 3, 5))  # of Sequential Prune's release
_OPENAI = "openai/clip-vit-large-patch14-336"
_CHAT = (
    "A chat between a curious {who} and an artificial intelligence assistant. The assistant gives helpful, detailed, and polite "
)
_VICUNA = _CHAT + "answers to the {who}'s questions. USER: {{message}} ASSISTANT:"
_CHATML = "<|im_start|>user {message}<|im_end|><|im_start|>assistant\n"
_TURN = "<|im_start|>user\n{message}<|im_end|>\n<|im_start|>assistant\n"
_SHARES: tuple[int | str, ...] = ("50pct", "25pct", "10pct")
_LLAVA = Backbone(
    id="llava",
    checkpoint="llava-hf/llava-1.5-7b-hf",
    family="llava",
    summary="LLaVA-1.5 7B",
    visual=576,
    layers=32,
    budgets=(192, 128, 64),
    talk=Talk(_VICUNA.format(who="user"), "<image>\n", square=True),
    host_talk=Talk(_VICUNA.format(who="human"), " <image> "),
    clip=_OPENAI,
    clip_sign=-1,
    schedules=_GRID,
)
_NEXT = replace(
    _LLAVA,
    id="llavanext",
    checkpoint="llava-hf/llava-v1.6-vicuna-7b-hf",
    family="llava_next",
    summary="LLaVA-NeXT (v1.6) Vicuna 7B",
    visual=5 * 576,
    budgets=(640, 320, 160),
    talk=Talk(_VICUNA.format(who="user"), "<image>\n"),
    host_talk=Talk(_VICUNA.format(who="human"), "<image>\n"),
    tiles=5,
    protocol="paper",
    schedules=(),
)
_ONEVISION = Backbone(
    id="llavaov",
    checkpoint="llava-hf/llava-onevision-qwen2-7b-ov-hf",
    family="llava_onevision",
    summary="LLaVA-OneVision Qwen2 7B",
    visual=10 * 729,
    layers=28,
    budgets=_SHARES,
    talk=Talk(_CHATML, "<image>", "<video>", gap="\n"),
    dynamic=True,
    frames=32,
)
_QWEN = Backbone(
    id="qwen2vl2b",
    checkpoint="Qwen/Qwen2-VL-2B-Instruct",
    family="qwen2_vl",
    summary="Qwen2-VL 2B Instruct",
    visual=2048,
    layers=28,
    budgets=_SHARES,
    talk=Talk(
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n" + _TURN,
        "<|vision_start|><|image_pad|><|vision_end|>",
        "<|vision_start|><|video_pad|><|vision_end|>",
    ),
    dynamic=True,
    pixels=(256 * 28 * 28, 2048 * 28 * 28),
    schedules=_GRID,
)
_QWEN25 = replace(
    _QWEN,
    id="qwen25vl3b",
    checkpoint="Qwen/Qwen2.5-VL-3B-Instruct",
    family="qwen2_5_vl",
    summary="Qwen2.5-VL 3B Instruct",
    layers=36,
    schedules=(),
)
_QWEN3 = replace(
    _QWEN25,
    id="qwen3vl2b",
    checkpoint="Qwen/Qwen3-VL-2B-Instruct",
    family="qwen3_vl",
    summary="Qwen3-VL 2B Instruct",
    layers=28,
    talk=Talk(  # of a video the processor writes the marks itself, with a time before each frame
        _TURN, _QWEN.talk.image, "<|video_pad|>"
    ),
    pixels=(256 * 32 * 32, 2048 * 32 * 32),
    host_max_new_tokens=16384,  # as it registers the Instruct models; its class alone would allow 32768
)
_RECORDS = (
    Backbone(
        id="tiny",
        checkpoint=str(ASSETS),
        family="llava",
        summary="embedded 2.7 M parameter LLaVA, trained on drawn scenes (ShapesVQA, ShapesYN)",
        visual=N_VISUAL,
        layers=6,
        budgets=(72, 36, 16, 8),
        talk=Talk("{message}", "<image>", square=True),
        bare_questions=True,  # it was trained on questions alone, and answers in one word
        clip=str(ASSETS / "clip"),
        clip_sign=1,  # its text tower was trained to agree with the patches that a question is about
        max_new_tokens=4,
        host_max_new_tokens=4,
    ),
    _LLAVA,
    replace(_LLAVA, id="llava13b", checkpoint="llava-hf/llava-1.5-13b-hf", summary="LLaVA-1.5 13B", layers=40),
    _NEXT,
    replace(
        _NEXT,
        id="llavanext13b",
        checkpoint="llava-hf/llava-v1.6-vicuna-13b-hf",
        summary="LLaVA-NeXT (v1.6) Vicuna 13B",
        layers=40,
    ),
    _ONEVISION,
    replace(
        _ONEVISION,
        id="llavaov05b",
        checkpoint="llava-hf/llava-onevision-qwen2-0.5b-ov-hf",
        summary="LLaVA-OneVision Qwen2 0.5B",
        layers=24,
    ),
    replace(
        _LLAVA,
        id="llavavideo",
        checkpoint="llava-hf/LLaVA-NeXT-Video-7B-hf",
        family="llava_next_video",
        summary="LLaVA-NeXT-Video 7B; 144 tokens a frame",
        visual=5 * 576,
        budgets=(64, 32, 16),
        talk=Talk("USER: {message} ASSISTANT:", "<image>\n", "<video>\n"),
        host_talk=None,
        dynamic=True,
        frames=32,
        schedules=(),
    ),
    replace(
        _LLAVA,
        id="videollava",
        checkpoint="LanguageBind/Video-LLaVA-7B-hf",
        family="video_llava",
        summary="Video-LLaVA 7B; 256 tokens a frame, and its CLS",
        visual=256,
        budgets=(128, 64, 32),
        talk=Talk("USER: {message} ASSISTANT:", "<image>\n", "<video>\n"),
        host_talk=None,
        clip=None,
        clip_sign=1,
        schedules=(),
        host_max_new_tokens=1024,
    ),
    _QWEN,
    replace(_QWEN, id="qwen2vl7b", checkpoint="Qwen/Qwen2-VL-7B-Instruct", summary="Qwen2-VL 7B Instruct"),
    _QWEN25,
    replace(_QWEN25, id="qwen25vl7b", checkpoint="Qwen/Qwen2.5-VL-7B-Instruct", summary="Qwen2.5-VL 7B Instruct", layers=28),
    _QWEN3,
    replace(_QWEN3, id="qwen3vl4b", checkpoint="Qwen/Qwen3-VL-4B-Instruct", summary="Qwen3-VL 4B Instruct", layers=36),
    replace(_QWEN3, id="qwen3vl8b", checkpoint="Qwen/Qwen3-VL-8B-Instruct", summary="Qwen3-VL 8B Instruct", layers=36),
    Backbone(
        id="internvl3",
        checkpoint="OpenGVLab/InternVL3-8B-hf",
        family="internvl",
        summary="InternVL3 8B",
        visual=13 * 256,
        layers=28,
        budgets=_SHARES,
        talk=Talk(_TURN, "<IMG_CONTEXT>\n", "<video>\n"),
        dynamic=True,
        host_max_new_tokens=4096,
    ),
)
BACKBONES: dict[str, Backbone] = {record.id: record for record in _RECORDS}


@dataclass(frozen=True)
class Models:
    """The models of a run: the records above with what the command line says of them.

    checkpoints: another folder or hub id by name; families: the family of names that are not in the table. protocol: see
    `loading`. offline: nothing is downloaded.
    """

    checkpoints: Mapping[str, str] = field(default_factory=dict)
    families: Mapping[str, str] = field(default_factory=dict)
    protocol: Protocol | None = None
    offline: bool = False

    @classmethod
    def of(cls, given: Models | Mapping[str, str] | None) -> Models:
        """A mapping of checkpoint folders will do."""
        return given if isinstance(given, Models) else cls(given or {})

    def __post_init__(self) -> None:
        if self.protocol not in (None, *PROTOCOLS):
            raise unknown("protocol", str(self.protocol), PROTOCOLS)
        for name, family in self.families.items():
            if family not in OFFERS:
                raise unknown("model family", family, OFFERS, f"(of '{name}')")
            if name in BACKBONES and BACKBONES[name].family != family:
                raise UserError(
                    f"'{name}' is a '{BACKBONES[name].family}' model: give a '{family}' checkpoint a name of its own."
                )
            if name not in self.checkpoints:
                raise UserError(f"--family {family}: name the checkpoint too, with --checkpoint {name}=DIR_OR_HUB_ID.")

    def record(self, name: str) -> Backbone:
        """The record of that name. UserError for unknown names and for a protocol that the model has not."""
        if name in BACKBONES:
            record = BACKBONES[name]
        elif name in self.checkpoints:
            record = self._own(name)
        else:
            raise unknown("model", name, {*BACKBONES, *self.checkpoints}, "See --list models.")
        if found := self.checkpoints.get(name):
            record = replace(record, checkpoint=found, clip=record.clip and _beside(found, record.clip))
        if record.protocol and self.protocol:
            record = replace(record, protocol=self.protocol, dynamic=self.protocol == "hf")
        return record

    def _own(self, name: str) -> Backbone:
        """A checkpoint of the user's own, asked as the first model of its family is, unless its chat template has other words:
        see `loading`."""
        if name not in self.families:
            raise UserError(f"'{name}' is no model of the table: say of which family {self.checkpoints[name]} is, with --family.")
        like = next(r for r in _RECORDS if r.family == self.families[name] and r.id != "tiny")
        return replace(like, id=name, summary=f"{self.checkpoints[name]}, as {like.id}")


def published_clip(family: str) -> str | None:
    """The text side that published figures of a family used."""
    return next((r.clip for r in _RECORDS if r.family == family and r.clip and r.id != "tiny"), None)


def _beside(checkpoint: str, clip: str) -> str | None:
    """The text side of a checkpoint of the user's own: of one on the hub the published CLIP, as for models of the table; of a
    folder its own `clip`, or the published CLIP where that is here."""
    folder = Path(checkpoint).expanduser() / "clip"
    return clip if hub.is_id(checkpoint) else str(folder) if folder.is_dir() else clip if hub.locate(clip) else None
