"""The question in a space that it shares with the visual tokens: CLIP's, or the language model's own embeddings."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from .errors import UserError

_PIECES = 75  # word pieces per chunk: CLIP reads 77 ids, two of them mark begin and end
_PROJECTION = "visual_projection.weight"


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
    begin and end tokens, and methods average the chunks; the release cuts mid-sentence and pools constant rows. Both layers on
    the vision side are applied to the penultimate layer's patches, for which CLIP did not train them; `sign` is -1 for CLIP for
    the reason given in CDPruner's issue 14.
    """

    text: Any  # CLIPTextModelWithProjection
    tokenizer: Any
    projection: Tensor  # (C, E)
    sign: int = -1
    name: str = "clip"

    @classmethod
    def load(cls, folder: Path | str, tokenizer: Any = None, *, sign: int = -1, device: str = "cpu") -> ClipQuery:
        """From a CLIP checkpoint folder: the text tower and one matrix of the vision side, not a second vision tower."""
        from transformers import AutoTokenizer, CLIPTextModelWithProjection

        folder = Path(folder)
        projection = _read_tensor(folder, _PROJECTION)
        text = CLIPTextModelWithProjection.from_pretrained(folder, dtype=torch.float32).eval().to(device)
        return cls(text, tokenizer or AutoTokenizer.from_pretrained(folder), projection.float().to(device), sign)

    @torch.no_grad()
    def encode(self, questions: list[str]) -> tuple[Tensor, Tensor]:
        chunks = [self._chunks(q) for q in questions]
        flat = [c for group in chunks for c in group]
        m = max((len(g) for g in chunks), default=0)
        out = self.projection.new_zeros(len(questions), max(m, 1), self.projection.shape[0])
        mask = torch.zeros(out.shape[:2], dtype=torch.bool, device=out.device)
        if not flat:
            return out, mask
        length = max(map(len, flat))
        pad = self.tokenizer.pad_token_id or 0
        ids = torch.tensor([c + [pad] * (length - len(c)) for c in flat], device=out.device)
        attend = torch.tensor([[1] * len(c) + [0] * (length - len(c)) for c in flat], device=out.device)
        embeds = self.text(input_ids=ids, attention_mask=attend).text_embeds.float()
        rows = [(b, i) for b, group in enumerate(chunks) for i in range(len(group))]
        at_b, at_m = torch.tensor(rows, device=out.device).T
        out[at_b, at_m], mask[at_b, at_m] = embeds, True
        return out, mask

    def _chunks(self, question: str) -> list[list[int]]:
        pieces = self.tokenizer(question, add_special_tokens=False)["input_ids"]
        begin, end = self.tokenizer.bos_token_id, self.tokenizer.eos_token_id
        return [[begin, *pieces[i : i + _PIECES], end] for i in range(0, len(pieces), _PIECES)]

    @torch.no_grad()
    def keys(self, model: nn.Module, selected: Tensor) -> Tensor:
        tower: Any = model.model.vision_tower  # type: ignore[union-attr]
        norm = getattr(tower, "vision_model", tower).post_layernorm  # transformers 5 flattened the tower
        return torch.matmul(norm(selected).float(), self.projection.T)


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


def _read_tensor(folder: Path, name: str) -> Tensor:
    """One tensor of a checkpoint in safetensors (single or sharded), without loading the rest."""
    from safetensors import safe_open

    index = folder / "model.safetensors.index.json"
    file = folder / (json.loads(index.read_text())["weight_map"].get(name, "") if index.exists() else "model.safetensors")
    if not file.is_file():
        raise UserError(f"No CLIP weights in {folder}: expected model.safetensors with '{name}'.")
    with safe_open(str(file), "pt") as tensors:
        if name not in tensors.keys():  # noqa: SIM118 - not a mapping
            raise UserError(f"{file} has no '{name}': it is not a full CLIP checkpoint, so there is no text space to compare in.")
        found: Tensor = tensors.get_tensor(name)
        return found
