"""The weights of a folder in LLaVA's own layout, by the names that `from_pretrained` understands."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UserError
from .layout import HOPE, family_of, read

if TYPE_CHECKING:
    import torch
    from torch import Tensor

# The names that transformers' older files have, which every version of it maps to its own. The first prefix that fits counts.
_TOWER = "model.vision_tower.vision_tower."
_NEWLINE = "model.image_newline"
_NAMES = {
    _TOWER: "vision_tower.",
    "model.mm_projector.0.": "multi_modal_projector.linear_1.",
    "model.mm_projector.2.": "multi_modal_projector.linear_2.",
    _NEWLINE: "image_newline",
    "lm_head.": "language_model.lm_head.",
    "model.": "language_model.model.",
}
_PER_WORD = ("model.embed_tokens.weight", "lm_head.weight")
UNSAFE = f"is unsafe: reading it would run code that it holds. Give safetensors; or else {HOPE}"
_DERIVED = ("rotary_emb.inv_freq", "position_ids")  # in files of older versions; computed nowadays


def towered(folder: Path) -> bool:
    """Whether the vision tower is among the weights. Reads names alone; UserError for a checkpoint that cannot be read."""
    files = _files(folder)
    index = folder / f"{'model.safetensors' if files[0].suffix == '.safetensors' else 'pytorch_model.bin'}.index.json"
    names = read(index)["weight_map"] if index.is_file() else [name for path in files for name in _open(path)[0]]
    return any(name.startswith(_TOWER) for name in names)


def state_of(folder: Path, clip: Path | None, vocabulary: int, rows: int, dtype: torch.dtype) -> dict[str, Tensor]:
    """All weights by the names that `from_pretrained` understands, in memory of their own, with rows for the new words."""
    state: dict[str, Tensor] = {}
    newline = family_of(folder) == "llava_next"
    for name, weight in _tensors(folder):
        if not name.endswith(_DERIVED) and (newline or name != _NEWLINE):
            weight = _grown(weight, vocabulary, rows) if name in _PER_WORD else weight
            state[_renamed(name)] = weight.to(dtype, copy=True)
    if clip is not None:  # the tower was frozen: it is the published one
        for name, weight in _tensors(clip):
            if name.startswith("vision_model.") and not name.endswith(_DERIVED):
                state["vision_tower." + name] = weight.to(dtype, copy=True)
    return state


def _renamed(name: str) -> str:
    return next((new + name.removeprefix(old) for old, new in _NAMES.items() if name.startswith(old)), name)


def _grown(weight: Tensor, vocabulary: int, rows: int) -> Tensor:
    """(rows, D) from (vocabulary, D), the new ones the mean in float32; other shapes are left for the check of shapes."""
    if len(weight) != vocabulary:
        return weight
    import torch

    mean = weight.mean(0, keepdim=True, dtype=torch.float32).to(weight.dtype)
    return torch.cat([weight, mean.expand(rows - vocabulary, -1)])


def _files(folder: Path, stems: tuple[str, ...] = ("model", "pytorch_model")) -> list[Path]:
    """The files of weights, safetensors first: those of an index, else one file. UserError where any is not there."""
    for name in (f"{stem}.{end}" for stem, end in zip(stems, ("safetensors", "bin"), strict=True)):
        if (index := folder / f"{name}.index.json").is_file():
            shards = sorted({Path(shard).name for shard in read(index).get("weight_map", {}).values()})
            if gone := [shard for shard in shards if not (folder / shard).is_file()]:
                raise UserError(f"Half a checkpoint: {folder} lacks {gone[0]} and {len(gone) - 1} more of {len(shards)} files.")
            return [folder / shard for shard in shards]
        if (folder / name).is_file():
            return [folder / name]
    raise UserError(f"No weights in {folder}: expected {' or '.join(stems)}, .safetensors or .bin, or shards with their index.")


def _open(path: Path) -> tuple[list[str], Any]:
    """(names, get a tensor by its name) of one file, mapped into memory. UserError for what runs code or is cut off."""
    import torch
    from safetensors import SafetensorError, safe_open

    try:
        if path.suffix == ".safetensors":
            opened = safe_open(path, "pt")
            return list(opened.keys()), opened.get_tensor
        with path.open("rb") as stream:
            zipped, start = zipfile.is_zipfile(path), stream.read(1)
        if not zipped and start != b"\x80":
            raise EOFError("neither a zip file nor a pickle")
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
        return list(found), found.__getitem__
    except pickle.UnpicklingError as error:
        raise UserError(f"{path} {UNSAFE}") from error
    except (OSError, EOFError, RuntimeError, SafetensorError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path} cannot be read ({reason}): a download that broke off, or a pointer of Git LFS?") from error


def _tensors(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """(name, tensor) of a whole checkpoint, one file open at a time."""
    for path in _files(folder):
        names, get = _open(path)
        yield from ((name, get(name)) for name in names)
