"""Small random Qwen2-VL, Qwen2.5-VL and Qwen3-VL, and prompts with images or videos of several sizes, padded on the left."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import transformers as t
from models import PAD, drawn
from reference import Decoder, Row, Span, three_axes
from torch import Tensor

VOCAB, BOS, IMAGE, VIDEO, START, END = 80, 1, 76, 77, 78, 79
PATCH, MERGE, FRAMES, LAYERS, WIDTH = 4, 2, 2, 4, 64
SECONDS, RATE = 2, 2  # Qwen2.5-VL: between the frames of a video, and how many positions a second is
OLD = t.__version__.startswith("4.")
Grid = tuple[int, int, int]  # times, rows, columns

_TOWER = {"depth": 2, "hidden_size": 32, "intermediate_size": 64, "out_hidden_size": WIDTH}
_THREE = {"depth": 3, "num_position_embeddings": 64, "deepstack_visual_indexes": [0, 1, 2]}
# family -> its classes' name, and what is its own of the vision config, the text config and the rotary parameters
FAMILIES: dict[str, tuple[str, dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "qwen2_vl": (
        "Qwen2VL",
        {"depth": 2, "embed_dim": 32, "hidden_size": WIDTH, "mlp_ratio": 2},
        {},
        {"mrope_section": [2, 3, 3]},
    ),
    "qwen2_5_vl": (
        "Qwen2_5_VL",
        {**_TOWER, "window_size": 16, "fullatt_block_indexes": [1], "tokens_per_second": RATE},
        {},
        {"mrope_section": [2, 3, 3]},
    ),
    "qwen3_vl": (
        "Qwen3VL",
        {**_TOWER, **_THREE},
        {"head_dim": 24},  # not the width over the heads
        {"mrope_section": [6, 3, 3], "mrope_interleaved": True},
    ),
}


def model_class(family: str) -> Any:
    return getattr(t, f"{FAMILIES[family][0]}ForConditionalGeneration")


def build(attn: str = "sdpa", seed: int = 0, family: str = "qwen2_vl") -> Any:
    """A model for generation: tower of 2 or 3 layers, 4-layer decoder with grouped-query attention, float32; of a Qwen3-VL the
    tower adds features after the decoder's first three layers."""
    name, own_vision, own_text, own_rope = FAMILIES[family]
    vision = {"num_heads": 4, "patch_size": PATCH, "spatial_merge_size": MERGE, "temporal_patch_size": FRAMES, **own_vision}
    text = {"hidden_size": WIDTH, "intermediate_size": 96, "num_hidden_layers": LAYERS, "vocab_size": VOCAB}
    text |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512, **own_text}
    text |= {"pad_token_id": PAD, "bos_token_id": BOS, "eos_token_id": None}
    rope = {"type": "default", "rope_type": "default", **own_rope}
    text |= {"rope_scaling": rope, "rope_theta": 1e4} if OLD else {"rope_parameters": {**rope, "rope_theta": 1e4}}
    ids = {"image_token_id": IMAGE, "video_token_id": VIDEO, "vision_start_token_id": START, "vision_end_token_id": END}
    config = getattr(t, f"{name}Config")(text_config=text, vision_config=vision, **ids)
    model = model_class(family)._from_config(config, attn_implementation=attn).eval()
    return drawn(model, seed)


@dataclass(frozen=True, eq=False)
class Prompt:
    """One row of a batch."""

    ids: tuple[int, ...]
    patches: tuple[Tensor, ...]  # (times * rows * columns, values of a patch) of each image or video
    grids: tuple[Grid, ...]  # in patches
    placeholders: tuple[int, ...]  # IMAGE or VIDEO
    family: str

    @property
    def spans(self) -> list[Span]:
        """What each run of placeholders spans, in tokens."""
        found: list[Span] = []
        for (times, rows, columns), placeholder in zip(self.grids, self.placeholders, strict=True):
            step = SECONDS * RATE if self.family == "qwen2_5_vl" and placeholder == VIDEO else 1
            found += [(n, rows // MERGE, columns // MERGE, step) for n in _runs(self.family, placeholder, times)]
        return found


def _runs(family: str, placeholder: int, times: int) -> list[int]:
    """How many frames each run of placeholders holds: Qwen3-VL writes the time before every frame of a video."""
    return [1] * times if family == "qwen3_vl" and placeholder == VIDEO else [times]


def prompt(
    grids: Sequence[Grid], seed: int = 0, text: int = 4, placeholder: int | Sequence[int] = IMAGE, family: str = "qwen2_vl"
) -> Prompt:
    """BOS, two words, the images or videos between their marks, words after each; `text` more words at the end."""
    draw = torch.Generator().manual_seed(seed)
    placeholders = [placeholder] * len(grids) if isinstance(placeholder, int) else list(placeholder)

    def words(n: int) -> list[int]:
        return torch.randint(2, IMAGE, (n,), generator=draw).tolist()

    ids = [BOS, *words(2)]
    for (times, rows, columns), token in zip(grids, placeholders, strict=True):
        for n in _runs(family, token, times):
            ids += [START, *[token] * (n * rows * columns // MERGE**2), END, *words(2)]
    patches = torch.randn(sum(a * b * c for a, b, c in grids), 3 * FRAMES * PATCH**2, generator=draw)
    own = patches.split([a * b * c for a, b, c in grids]) if grids else ()
    return Prompt((*ids, *words(text)), tuple(own), tuple(grids), tuple(placeholders), family)


def collate(prompts: Sequence[Prompt]) -> dict[str, Tensor]:
    """Model inputs as the processor makes them, padded on the left to the longest prompt."""
    length = max(len(p.ids) for p in prompts)
    ids = torch.tensor([[PAD] * (length - len(p.ids)) + list(p.ids) for p in prompts])
    mask = torch.tensor([[0] * (length - len(p.ids)) + [1] * len(p.ids) for p in prompts])
    inputs = {"input_ids": ids, "attention_mask": mask}
    for kind, pixels, grid in (
        (IMAGE, "pixel_values", "image_grid_thw"),
        (VIDEO, "pixel_values_videos", "video_grid_thw"),
    ):
        own = [(x, g) for p in prompts for x, g, k in zip(p.patches, p.grids, p.placeholders, strict=True) if k == kind]
        if own:
            inputs[pixels] = torch.cat([x for x, _ in own])
            inputs[grid] = torch.tensor([g for _, g in own])
    family = prompts[0].family
    if family == "qwen2_5_vl" and "video_grid_thw" in inputs:
        inputs["second_per_grid_ts"] = torch.full((len(inputs["video_grid_thw"]),), float(SECONDS))
    if "mm_token_type_ids" in inspect.signature(model_class(family).forward).parameters:
        inputs["mm_token_type_ids"] = ((ids == IMAGE) + 2 * (ids == VIDEO)).int()
    return inputs


def features(model: Any, prompt: Prompt) -> list[Tensor]:
    """(N, D) what the tower gives for a prompt's visual tokens, in order: before the decoder, after its layer 0, ..."""
    found = []
    for patches, grid, placeholder in zip(prompt.patches, prompt.grids, prompt.placeholders, strict=True):
        get = model.model.get_video_features if placeholder == VIDEO else model.model.get_image_features
        with torch.no_grad():
            out = get(patches, torch.tensor([grid]))
        if OLD:  # a tuple of what each image gives; for Qwen3-VL that, and a list of what is added later
            tokens, later = out if prompt.family == "qwen3_vl" else (out, [])
        else:
            tokens, later = out.pooler_output, getattr(out, "deepstack_features", [])
        found.append([torch.cat(tuple(tokens)), *(x if isinstance(x, Tensor) else torch.cat(tuple(x)) for x in later)])
    return [torch.cat(at_one_depth) for at_one_depth in zip(*found, strict=True)]


def row(model: Any, decoder: Decoder, prompt: Prompt) -> Row:
    """The prompt as the reference reads it: what the vision tower gives, and its own three axes of positions."""
    visual = torch.isin(torch.tensor(prompt.ids), torch.tensor([IMAGE, VIDEO]))
    at, (first, *later) = visual.nonzero()[:, 0], features(model, prompt) or [torch.empty(0)]
    x = decoder.embed(prompt.ids, at, [first])
    tiles = [rows * columns for times, rows, columns, _ in prompt.spans for _ in range(times)]
    # since transformers 5 the text after a video goes on behind its rows and columns, however long it is
    positions = three_axes(visual.tolist(), prompt.spans, behind_sides=hasattr(model.model, "get_vision_position_ids"))
    return Row(x, at.split(tiles) if tiles else (), positions, tuple(f.double() for f in later))
