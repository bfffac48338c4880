"""From a VLMEvalKit message to what a model takes: pictures and videos decoded, the prompt written, a batch collated.

A part is a mapping of texts. `type` is text, image or video, and `value` is the words, or the file (a video: or a folder of
frames). A text may have a `role`: "system" and "user" stand where they are in the message, "assistant" opens the answer. A
video may say how it is read, by the names of `video.read`: frames (0: no limit), sampler, fps, start, end, folder_fps.
"""

from __future__ import annotations

import hashlib
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
import transformers

from . import families, pictures, prompts, video
from .backbones import Backbone, Talk
from .loading import CROPS

if TYPE_CHECKING:
    from PIL.Image import Image

Message = Sequence[Mapping[str, str]]
_OLD = transformers.__version__.startswith("4.")
_LETTERS, _PIXELS = 4, 28 * 28  # of a token, about


@dataclass(frozen=True)
class Sample:
    """One message, decoded: its pictures, its question, and a digest of all that it holds."""

    images: tuple[Image, ...]
    sizes: tuple[tuple[int, int], ...]  # width and height of the pictures before any padding
    prompt: str  # as the model takes it, with placeholders for the images
    question: str  # what selection conditions on: the text without sentences that ask for a form of answer
    digest: str
    videos: tuple[video.Clip, ...] = ()
    frames: tuple[int, ...] = ()  # how many of each video of the message are shown, also where they are shown as images
    slots: tuple[int, ...] = ()  # of each of `videos`: how many frames it was to have, to which stacked ones are filled up


def read(record: Backbone, talk: Talk, message: Message) -> Sample:
    """Decode one message. Raises ValueError, naming the file, for a picture or video that cannot be read, and for a part that
    says what cannot be."""
    shown = _Shown(talk)
    parts = [part for part in message if not _opens(part)]
    pictured = any(part["type"] != "text" for part in parts)
    for part in parts:
        kind, value = str(part["type"]), str(part["value"])
        if kind == "text":
            said = prompts.question_of(value) if record.bare_questions else value
            shown.prompt += (_between(talk, shown.prompt) if shown.prompt or pictured else talk.gap) + said
        elif kind == "image":
            shown.add(*pictures.read(value, talk.square, shown.digest))
        elif kind == "video":
            shown.show(*_clip(record, part, shown.digest))
        else:
            raise ValueError(f"'{record.id}' reads images, videos and text, not {kind}")
    text = "\n".join(str(part["value"]) for part in parts if part["type"] == "text")
    shown.digest.update(text.encode())
    whole = talk.prompt.format(message=shown.prompt)
    openings = [str(part["value"]) for part in message if _opens(part)]
    if openings:
        shown.digest.update(f"\0{openings}".encode())
        whole = _opened(whole, [prompts.question_of(o) for o in openings] if record.bare_questions else openings)
    return shown.sample(whole, prompts.question_of(text))


@dataclass
class _Shown:
    """What was decoded of a message so far."""

    talk: Talk
    digest: Any = field(default_factory=hashlib.sha256)
    prompt: str = ""
    images: list[Image] = field(default_factory=list)
    sizes: list[tuple[int, int]] = field(default_factory=list)
    videos: list[video.Clip] = field(default_factory=list)
    frames: list[int] = field(default_factory=list)
    slots: list[int] = field(default_factory=list)

    def add(self, picture: Image, size: tuple[int, int]) -> None:
        """size: before any padding."""
        self.sizes.append(size)
        self.images.append(picture)
        self.prompt += self.talk.image

    def show(self, clip: video.Clip, slots: int) -> None:
        self.frames.append(len(clip.frames))
        if self.talk.video:
            self.videos.append(clip)
            self.slots.append(slots)
            self.prompt += self.talk.video
            return
        for frame in clip.frames:
            self.add(pictures.padded(frame) if self.talk.square else frame, frame.size)

    def sample(self, prompt: str, question: str) -> Sample:
        found = (tuple(self.images), tuple(self.sizes), prompt, question, self.digest.hexdigest())
        return Sample(*found, tuple(self.videos), tuple(self.frames), tuple(self.slots))


def _opens(part: Mapping[str, str]) -> bool:
    """Whether a part is the opening of the answer. ValueError for a role that a part cannot have."""
    role = str(part.get("role") or "")
    if role not in ("", "system", "user", "assistant"):
        raise ValueError(f"a part of a message has the role system, user or assistant, not {role!r}")
    if role == "assistant" and part["type"] != "text":
        raise ValueError(f"an answer is opened by text, not by {part['type']}")
    return role == "assistant"


def _opened(prompt: str, openings: Sequence[str]) -> str:
    """The prompt with the opening of the answer behind it, set off by one blank or by what the prompt ends with."""
    opening = "\n".join(openings).lstrip()
    return prompt + " " * bool(opening and prompt and not prompt[-1].isspace()) + opening


def _between(talk: Talk, prompt: str) -> str:
    """What stands before a text: what the family puts behind pictures, or a new line behind other text."""
    if not prompt:
        return ""
    return talk.gap if prompt.endswith((talk.image, talk.video or talk.image)) else "\n"


def extent(record: Backbone, message: Message) -> float:
    """About how many tokens a message has, to ask like with like: its words and, where a picture's size decides how many tokens
    it has, its pixels by the file's head. Nothing is decoded; a picture that cannot be read counts as none."""
    found = sum(len(str(part["value"])) for part in message if part["type"] == "text") / _LETTERS
    if record.dynamic:
        found += sum(pictures.pixels(str(part["value"]), record.pixels) for part in message if part["type"] == "image") / _PIXELS
    return found


def collate(record: Backbone, model: Any, processor: Any, samples: Sequence[Sample]) -> dict[str, torch.Tensor]:
    """A left-padded batch of samples, pictures in the model's precision. Not yet on the model's device."""
    family = families.FAMILIES[record.family]
    if record.protocol == "paper":
        found = _paper(model, processor, samples)
    else:
        nested = [list(s.images) for s in samples if s.images]
        images = nested if family.packs else [i for own in nested for i in own]
        clips = [clip for s in samples for clip in s.videos]
        shown = _shown_videos(record, clips, [n for s in samples for n in s.slots]) if clips else {}
        if record.pixels and images:
            low, high = record.pixels  # each version heeds, without complaint, one of the two
            sizes = {"min_pixels": low, "max_pixels": high} if _OLD else {"size": {"shortest_edge": low, "longest_edge": high}}
            shown["images_kwargs"] = sizes
        found = processor(text=[s.prompt for s in samples], images=images or None, return_tensors="pt", padding=True, **shown)
    inputs = {
        name: value.to(model.dtype if "pixel" in name else value.dtype)
        for name, value in found.items()
        if isinstance(value, torch.Tensor)
    }
    if family.packs and inputs.get("pixel_values") is not None and inputs["pixel_values"].ndim == 5:
        inputs["pixel_values"] = _crops(model, inputs)
    return inputs


def _paper(model: Any, processor: Any, samples: Sequence[Sample]) -> Any:
    """LLaVA-NeXT's published protocol: as many placeholders as whole crops have tokens, sizes that leave nothing to cut off."""
    side = families.side_of(model)
    pictures = [image for s in samples for image in s.images]
    token, n = processor.image_token, (1 + CROPS * CROPS) * side * side
    found = processor.tokenizer([s.prompt.replace(token, token * n) for s in samples], padding=True, return_tensors="pt")
    if pictures:
        size = CROPS * model.config.vision_config.image_size
        pixels = processor.image_processor(pictures, image_grid_pinpoints=[[size, size]], return_tensors="pt")
        found["pixel_values"] = pixels["pixel_values"]
        found["image_sizes"] = torch.tensor([[size, size]] * len(pictures))
    return found


def _crops(model: Any, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """The crops of all images one after the other, without the empty ones that fill up a batch: the model would cut these out
    anew at each call, and the memory of `encode_once` would not know them again."""
    crops_of: Any = sys.modules[type(model).__module__].image_size_to_num_patches
    config = model.config
    alone = inputs["batch_num_images"].tolist() if "batch_num_images" in inputs else [1] * len(inputs["image_sizes"])
    whole = [n == 1 for n in alone for _ in range(n)]
    counts = [
        crops_of(size, config.image_grid_pinpoints, config.vision_config.image_size) if several else 1
        for size, several in zip(inputs["image_sizes"].tolist(), whole, strict=True)
    ]
    return torch.cat([image[:n] for image, n in zip(inputs["pixel_values"], counts, strict=True)])


def _shown_videos(record: Backbone, clips: Sequence[video.Clip], slots: Sequence[int]) -> dict[str, Any]:
    """What a processor is told of videos whose frames were chosen already, and must not be chosen among again. ValueError where
    videos of several lengths would be stacked."""
    import numpy as np

    qwen = record.family.startswith("qwen")
    if not qwen and len(set(slots)) > 1:
        raise ValueError(
            f"'{record.id}' reads videos together only where all have the same number of frames, not {sorted(set(slots))}"
        )
    chosen = [_paired(clip) if qwen else _filled(clip, n) for clip, n in zip(clips, slots, strict=True)]
    frames = [[np.asarray(f) for f in pictures] for pictures in chosen]
    given: dict[str, Any] = {"videos": [np.stack(f) for f in frames]}
    if record.family == "video_llava" and _OLD:
        return given
    rates = [_rate(clip) for clip in clips]
    lasts = [len(clip.frames) - 1 if qwen else n for clip, n in zip(clips, slots, strict=True)]  # a repeated frame keeps its time
    given["do_sample_frames"] = False
    given["video_metadata"] = [
        {"fps": rate, "total_num_frames": len(f), "frames_indices": [min(i, last) for i in range(len(f))]}
        for rate, f, last in zip(rates, frames, lasts, strict=True)
    ]
    if _OLD and record.family == "qwen2_5_vl":
        given["fps"] = rates
    if qwen and not _OLD:
        given["cap_pixels_per_frame"] = False  # as transformers 4 does, so that both give the same tokens
    return given


def _rate(clip: video.Clip) -> float:
    """Frames a second, of those that are shown."""
    span = clip.seconds[-1] - clip.seconds[0]
    return (len(clip.seconds) - 1) / span if span > 0 else 1.0


def _paired(clip: video.Clip) -> tuple[Image, ...]:
    """Qwen joins frames in pairs, and its processors take no video of fewer: a lone frame is shown twice."""
    return clip.frames * 2 if len(clip.frames) == 1 else clip.frames


def _filled(clip: video.Clip, frames: int) -> list[Image]:
    """Exactly so many frames, since those of a batch are stacked: a shorter video repeats some, as LLaVA's own loader does."""
    return [clip.frames[i * (len(clip.frames) - 1) // max(frames - 1, 1)] for i in range(frames)]


def _clip(record: Backbone, part: Mapping[str, str], digest: Any) -> tuple[video.Clip, int]:
    """A video, and how many frames it was to have; a digest of its file, or of the files of its folder, and the times of its
    frames added to the digest. The clip may be another sample's too.

    Without a number it has the model's, or as many as `fps` gives where that is said.
    """
    path, fps = str(part["value"]), _number(part, "fps")
    frames = _count(part, 0 if fps else record.frames)
    folder_fps = _number(part, "folder_fps")
    start, end = (_number(part, name, least=-math.inf) for name in ("start", "end"))
    sampler = str(part.get("sampler") or "ends")
    if sampler not in video.SAMPLERS:
        raise ValueError(f"cannot read video {path}: its sampler is one of {', '.join(video.SAMPLERS)}, not {sampler!r}")
    found = video.remembered(path, frames, sampler, fps=fps, start=start, end=end, folder_fps=folder_fps or 1.0)
    digest.update(found.digest + repr(found.clip.seconds).encode())
    return found.clip, len(found.clip.frames) if fps else frames


def _count(part: Mapping[str, str], default: int) -> int:
    """How many frames a video has, or at most has where `fps` is said (0: no limit)."""
    said = str(part.get("frames") or "").strip()
    least = 0 if part.get("fps") else 1
    if not said:
        return default
    if not said.isdecimal() or int(said) < least:
        raise ValueError(f"cannot read video {part['value']}: its frames are a whole number of {least} or more, not {said!r}")
    return int(said)


def _number(part: Mapping[str, str], name: str, least: float = 0.0) -> float | None:
    """A number above `least`; None where a part says nothing of it."""
    said = str(part.get(name) or "").strip()
    if not said:
        return None
    try:
        found = float(said)
    except ValueError:
        found = math.nan
    if not least < found < math.inf:
        raise ValueError(f"cannot read video {part['value']}: its {name} is a number{' above 0' * (not least)}, not {said!r}")
    return found


def shown(sizes: Sequence[tuple[int, int]], side: int) -> torch.Tensor | None:
    """(images, side * side) bool: patches of the padded square that show some of the picture. None where none was padded."""
    if all(width == height for width, height in sizes):
        return None
    edges = torch.arange(side + 1) / side
    masks = []
    for width, height in sizes:
        square = max(width, height)
        spans = [((square - length) // 2 / square, ((square - length) // 2 + length) / square) for length in (height, width)]
        rows, columns = ((edges[1:] > low) & (edges[:-1] < high) for low, high in spans)
        masks.append((rows[:, None] & columns).flatten())
    return torch.stack(masks)
