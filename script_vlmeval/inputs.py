"""From a VLMEvalKit message to what a model takes: pictures and videos decoded, the prompt written, a batch collated."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers

from . import families, prompts, video
from .backbones import Backbone, Talk
from .loading import CROPS, quiet

if TYPE_CHECKING:
    from PIL.Image import Image

Message = Sequence[Mapping[str, str]]
_OLD = transformers.__version__.startswith("4.")


@dataclass(frozen=True)
class Sample:
    """One message, decoded: its pictures, its question, and a digest of all that it holds."""

    images: tuple[Image, ...]
    sizes: tuple[tuple[int, int], ...]  # width and height of the pictures before any padding
    prompt: str  # as the model takes it, with placeholders for the images
    question: str  # what selection conditions on: the text without sentences that ask for a form of answer
    digest: str
    videos: tuple[video.Clip, ...] = ()


def read(record: Backbone, talk: Talk, message: Message) -> Sample:
    """Decode one message. Raises ValueError, naming the file, for a picture or video that cannot be read."""
    parts = [(str(part["type"]), str(part["value"])) for part in message]
    digest, images, sizes, videos, prompt = hashlib.sha256(), [], [], [], ""
    for kind, value in parts:
        if kind == "text":
            shown = prompts.question_of(value) if record.bare_questions else value
            prompt += (_between(talk, prompt) if prompt or any(kind != "text" for kind, _ in parts) else talk.gap) + shown
            continue
        if kind not in ("image", "video"):
            raise ValueError(f"'{record.id}' reads images, videos and text, not {kind}")
        if kind == "video":
            clip = _clip(record, value, digest)
            if talk.video:
                videos.append(clip)
                prompt += talk.video
                continue
        for picture in [_picture(value, digest)] if kind == "image" else clip.frames:
            sizes.append(picture.size)
            images.append(_padded(picture) if talk.square else picture)
            prompt += talk.image
    text = "\n".join(value for kind, value in parts if kind == "text")
    digest.update(text.encode())
    whole = talk.prompt.format(message=prompt)
    return Sample(tuple(images), tuple(sizes), whole, prompts.question_of(text), digest.hexdigest(), tuple(videos))


def _between(talk: Talk, prompt: str) -> str:
    """What stands before a text: what the family puts behind pictures, or a new line behind other text."""
    if not prompt:
        return ""
    return talk.gap if prompt.endswith((talk.image, talk.video or talk.image)) else "\n"


def collate(record: Backbone, model: Any, processor: Any, samples: Sequence[Sample], device: str) -> dict[str, Any]:
    """A left-padded batch of samples, on the device, pictures in the model's precision."""
    family = families.FAMILIES[record.family]
    if record.protocol == "paper":
        found = _paper(model, processor, samples)
    else:
        nested = [list(s.images) for s in samples if s.images]
        images = nested if family.packs else [i for own in nested for i in own]
        clips = [clip for s in samples for clip in s.videos]
        shown = _shown_videos(record, clips) if clips else {}
        if record.pixels and images:
            low, high = record.pixels  # each version heeds, without complaint, one of the two
            sizes = {"min_pixels": low, "max_pixels": high} if _OLD else {"size": {"shortest_edge": low, "longest_edge": high}}
            shown["images_kwargs"] = sizes
        with quiet():  # of what will be called otherwise some day
            found = processor(text=[s.prompt for s in samples], images=images or None, return_tensors="pt", padding=True, **shown)
    inputs = {
        name: value.to(device, model.dtype if "pixel" in name else value.dtype)
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


def _shown_videos(record: Backbone, clips: Sequence[video.Clip]) -> dict[str, Any]:
    """What a processor is told of videos whose frames were chosen already, and must not be chosen among again."""
    import numpy as np

    qwen = record.family.startswith("qwen")
    frames = [[np.asarray(f) for f in (_paired(clip) if qwen else _filled(clip, record.frames))] for clip in clips]
    given: dict[str, Any] = {"videos": [np.stack(f) for f in frames]}
    if record.family == "video_llava" and _OLD:
        return given
    rates = [_rate(clip) for clip in clips]
    lasts = [len(clip.frames) - 1 if qwen else record.frames for clip in clips]  # a frame that is repeated keeps its time
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


def _clip(record: Backbone, path: str, digest: Any) -> video.Clip:
    """A video, the bytes of its file, or of the files of its folder, added to the digest."""
    clip = video.read(path, record.frames)
    source = Path(path)
    files = sorted(source.iterdir()) if source.is_dir() else [source]
    for file in files:
        with file.open("rb") as stream:
            while block := stream.read(1 << 22):
                digest.update(block)
    return clip


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
