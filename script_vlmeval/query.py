"""The question in a space that it shares with the visual tokens: CLIP's, or the language model's own embeddings."""

from __future__ import annotations

import json
import pickle
import re
import warnings
import zipfile
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from .errors import UserError, reason_of

_IDS = 77  # that CLIP reads at once
_PIECES = _IDS - 2  # word pieces per chunk: two ids mark begin and end
_LARGEST = 2  # the end id of older CLIP configurations, which is not the tokenizer's: pooling goes by the largest id instead
_CLASS = "vision_model.embeddings.class_embedding"
_PROJECTION = "visual_projection.weight"


def core(tower: Any) -> Any:
    """The module of a vision tower that has embeddings and layers: transformers 5 flattened the tower."""
    return getattr(tower, "vision_model", tower)


class QuerySource(Protocol):
    """Where relevance comes from. `name` is recorded in results, `sign` becomes Visual.sign."""

    name: str
    sign: int

    def encode(self, questions: list[str]) -> tuple[Tensor, Tensor]:
        """(B, M, C) rows and their (B, M) mask for B questions; a question without text has no real row."""
        ...

    def keys(self, model: nn.Module, selected: Tensor) -> Tensor | None:
        """(images, N, C) from the tower's selected patch features (images, N, E); None = the visual tokens themselves."""
        ...


@dataclass(eq=False)
class ClipQuery:
    """CLIP relevance: question through the text tower, patches through `post_layernorm` and `visual_projection`.

    As CDPruner's release computes it, except for questions of more than 75 word pieces: those are cut into chunks that each get
    begin and end tokens, and methods average the chunks. Both layers on the vision side are applied to the penultimate layer's
    patches, for which CLIP did not train them; `sign` is -1 for CLIP for the reason given in CDPruner's issue 14.

    compat: the releases' rule for long questions, by the name `clipcompat`, with the same bits for short ones. Begin, pieces
    and end are cut every 77 ids, and each row is pooled as transformers 4.37.2 pools, whatever the version at hand: at the
    first end id, or in checkpoints whose configuration says 2, at the largest id; a row without an end id at its first position.
    So the first row of every long question is the state at its begin token, the same for all questions, and later rows start
    in the middle. A question without text has no row here either, where the releases encode an empty sentence.
    """

    text: Any  # CLIPTextModelWithProjection
    tokenizer: Any
    projection: Tensor  # (C, E)
    sign: int = -1
    compat: bool = False
    name: str = field(init=False, default="clip")

    def __post_init__(self) -> None:
        self.name = "clipcompat" if self.compat else "clip"

    @classmethod
    def load(
        cls, folder: Path | str, tokenizer: Any = None, *, sign: int = -1, device: str = "cpu", compat: bool = False
    ) -> ClipQuery:
        """From a CLIP checkpoint folder: the text tower and one matrix of the vision side, not a second vision tower. UserError
        for a folder that lacks any of it, or whose weights are damaged or would run code."""
        from transformers import AutoTokenizer

        folder = Path(folder)
        projection = _read_tensor(folder, _PROJECTION)
        text = _text_tower(folder).to(device)
        return cls(
            text,
            tokenizer or AutoTokenizer.from_pretrained(folder, trust_remote_code=False),
            projection.float().to(device),
            sign,
            compat,
        )

    @torch.no_grad()
    def encode(self, questions: list[str]) -> tuple[Tensor, Tensor]:
        chunks = [self._rows(q) for q in questions]
        flat = [c for group in chunks for c in group]
        m = max((len(g) for g in chunks), default=0)
        out = self.projection.new_zeros(len(questions), max(m, 1), self.projection.shape[0])
        mask = torch.zeros(out.shape[:2], dtype=torch.bool, device=out.device)
        if not flat:
            return out, mask
        length = max(map(len, flat))
        pad = 0 if self.compat else self.tokenizer.pad_token_id or 0
        ids = torch.tensor([c + [pad] * (length - len(c)) for c in flat], device=out.device)
        attend = torch.tensor([[1] * len(c) + [0] * (length - len(c)) for c in flat], device=out.device)
        found = self.text(input_ids=ids, attention_mask=attend)
        embeds = (self._pooled(ids, found.last_hidden_state) if self.compat else found.text_embeds).float()
        rows = [(b, i) for b, group in enumerate(chunks) for i in range(len(group))]
        at_b, at_m = torch.tensor(rows, device=out.device).T
        out[at_b, at_m], mask[at_b, at_m] = embeds, True
        return out, mask

    def _rows(self, question: str) -> list[list[int]]:
        """The ids of a question, as many rows as its length takes."""
        pieces = self.tokenizer(question, add_special_tokens=False)["input_ids"]
        begin, end = self.tokenizer.bos_token_id, self.tokenizer.eos_token_id
        if self.compat:
            ids = [begin, *pieces, end] if pieces else []
            return [ids[i : i + _IDS] for i in range(0, len(ids), _IDS)]
        return [[begin, *pieces[i : i + _PIECES], end] for i in range(0, len(pieces), _PIECES)]

    def _pooled(self, ids: Tensor, states: Tensor) -> Tensor:
        """(R, C) from ids (R, L) and the text tower's last states (R, L, H). Zeros that pad a row on its right are never taken:
        argmax finds the first of equals."""
        end = self.text.config.eos_token_id
        at = (ids if end == _LARGEST else (ids == end).int()).argmax(-1)
        pooled: Tensor = self.text.text_projection(states[torch.arange(len(ids), device=ids.device), at])
        return pooled

    @torch.no_grad()
    def keys(self, model: nn.Module, selected: Tensor) -> Tensor:
        tower: Any = model.model.vision_tower  # type: ignore[union-attr]
        patches = (
            core(tower).post_layernorm(selected).float()
        )  # where the tower is, which may be another device than the text side's
        return torch.matmul(patches, self.projection.to(patches.device).T)


# Words that say nothing about what to look for: articles, auxiliaries, pronouns, question words, connectives, prepositions.
_EMPTY = frozenset(
    "a an the is are was were be been being am do does did have has had i you he she it we they this that these those its his "
    "her their your my our me him them us what which who whom whose where when why how and or but so if then question answer to "
    "for with by from at into onto upon".split()
)


@dataclass(eq=False)
class LlmQuery:
    """The question's tokens as the language model embeds them, beside the visual tokens as it reads them.

    words: only content words, each tokenised alone, as MMTok does; the whole question where it has no content word.
    """

    tokenizer: Any
    embed: nn.Module
    words: bool = False
    sign: int = 1
    name: str = "llm"

    @torch.no_grad()
    def encode(self, questions: list[str]) -> tuple[Tensor, Tensor]:
        ids = [self._ids(q) for q in questions]
        longest = max([1, *map(len, ids)])
        weight: Any = self.embed.weight
        padded = torch.tensor([i + [0] * (longest - len(i)) for i in ids], device=weight.device)
        mask = torch.tensor([[True] * len(i) + [False] * (longest - len(i)) for i in ids], device=weight.device)
        return self.embed(padded), mask

    def _ids(self, question: str) -> list[int]:
        kept = [w for w in re.findall(r"\w+", question) if w.lower() not in _EMPTY] if self.words else []
        pieces = [self.tokenizer(part, add_special_tokens=False)["input_ids"] for part in kept or [question]]
        return [i for piece in pieces for i in piece]

    def keys(self, model: nn.Module, selected: Tensor) -> Tensor | None:
        return None


# -- checkpoints -----------------------------------------------------------------------------------------------------------------
def _text_tower(folder: Path) -> Any:
    """CLIPTextModelWithProjection in float32, complete."""
    from transformers import CLIPTextModelWithProjection

    kind: Any = CLIPTextModelWithProjection
    try:
        text, info = kind.from_pretrained(folder, dtype=torch.float32, weights_only=True, output_loading_info=True)
    except Exception as error:  # a damaged shard, another architecture: each has its own type
        raise UserError(f"Cannot load CLIP's text side from {folder}: {reason_of(error)}") from error
    if missing := sorted(info["missing_keys"]):  # they would be random
        raise UserError(f"{folder} lacks {len(missing)} weights of CLIP's text side, such as {missing[0]}.")
    return text.eval()


def _read_tensor(folder: Path, name: str) -> Tensor:
    """One tensor of a checkpoint. UserError where it is not there."""
    found, file = _find(folder, name)
    if file is None:
        raise UserError(f"No CLIP weights in {folder}: expected model.safetensors or pytorch_model.bin with '{name}'.")
    if found is None:
        raise UserError(f"{file} has no '{name}': it is not a full CLIP checkpoint, so there is no text space to compare in.")
    return found


def _find(folder: Path, name: str) -> tuple[Tensor | None, Path | None]:
    """(one tensor of a checkpoint, the file that has it or should), without loading the rest; single or sharded, safetensors,
    else PyTorch's own format."""
    whole = next((w for w in ("model.safetensors", "pytorch_model.bin") if _shard(folder, w, name)), None)
    file = whole and _shard(folder, whole, name)
    if not file:
        return None, None
    return (_from_safetensors(file, name) if file.suffix == ".safetensors" else _from_pickle(file, name)), file


def check_tower(folder: Path, projection: Tensor, model: Any, name: str, *, frozen: bool) -> None:
    """UserError where a CLIP checkpoint cannot be that of the model's vision tower, by its sizes; a warning where the tower of a
    family that leaves it `frozen` has other weights. projection (C, E) is the checkpoint's."""
    ours = model.config.vision_config
    said = _described(folder)
    told = {size: said[size] for size in ("patch_size", "image_size") if size in said} | {"hidden_size": projection.shape[1]}
    if wrong := [key for key, size in told.items() if getattr(ours, key, size) != size]:
        theirs, held = (", ".join(f"{key} {size(key)}" for key in wrong) for size in (told.get, partial(getattr, ours)))
        raise UserError(
            f"The CLIP checkpoint {folder} is not of the vision tower of {name}: it has {theirs}, the tower {held}. Put the CLIP "
            "there that the tower is of, or set relevance=llm."
        )
    if frozen and (published := _find(folder, _CLASS)[0]) is not None and not _alike(published, model):
        warnings.warn(
            f"The CLIP checkpoint {folder} has the sizes of the vision tower of {name}, but other weights: relevance compares "
            "with a text side that this tower was not trained with.",
            stacklevel=3,
        )


def _described(folder: Path) -> dict[str, Any]:
    """What the checkpoint says of its vision side; empty where it has the text side's configuration alone."""
    try:
        return dict(json.loads((folder / "config.json").read_text(encoding="utf-8")).get("vision_config") or {})
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise UserError(f"{folder}/config.json cannot be read: {error}") from None


def _alike(published: Tensor, model: Any) -> bool:
    """Whether the tower's class embedding is the published one, as far as half precision tells."""
    tower = model.model.vision_tower
    own = core(tower).embeddings.class_embedding.detach()
    if own.is_meta or own.shape != published.shape:  # not at hand, or of another kind
        return bool(own.is_meta)
    step = 2 * max(torch.finfo(torch.float16).eps, torch.finfo(own.dtype).eps)
    return torch.allclose(own.float().cpu(), published.float(), rtol=step, atol=1e-6)


def _shard(folder: Path, whole: str, name: str) -> Path | None:
    """The file that should hold a tensor: the one that holds all, which transformers prefers too, or the index's answer."""
    index, file = folder / f"{whole}.index.json", folder / whole
    if not file.is_file() and index.is_file():
        file = folder / json.loads(index.read_text(encoding="utf-8"))["weight_map"].get(name, "")
    return file if file.is_file() else None


def _from_safetensors(file: Path, name: str) -> Tensor | None:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(file), "pt") as tensors:
            found: Tensor | None = tensors.get_tensor(name) if name in tensors.keys() else None  # noqa: SIM118 - no mapping
    except SafetensorError as error:
        raise UserError(f"{file} is damaged ({error}): download it again.") from error
    return found


def _from_pickle(file: Path, name: str) -> Tensor | None:
    """Weights alone: what a pickle would execute is refused. Mapped into memory where the format allows it."""
    try:
        weights = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError) as error:
        raise UserError(
            f"{file} is damaged or needs code to be loaded, which is not run: use a checkpoint with model.safetensors, or save "
            "the state dict of the model again."
        ) from error
    found = weights.get(name) if isinstance(weights, dict) else None
    return found.clone() if isinstance(found, Tensor) else None  # of its own, not a view that keeps the file mapped
