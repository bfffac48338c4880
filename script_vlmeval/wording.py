"""In whose words a benchmark is asked, and how long its answers may be."""

from __future__ import annotations

from dataclasses import dataclass

from . import prompts
from .backbones import Backbone
from .plugin import Dataset


@dataclass(frozen=True)
class How:
    """What is the same for all configurations on a benchmark."""

    seed: int
    style: str  # as --prompt-style
    max_new_tokens: int


def style_of(wanted: str, dataset: Dataset) -> str:
    """Whose words a benchmark's messages are: VLMEvalKit's where it was named, or published numbers used no others."""
    return "vlmevalkit" if wanted == "vlmevalkit" else prompts.default_style(dataset.host)


def longest(wanted: str, dataset: Dataset, record: Backbone) -> int:
    """How many tokens an answer may have: the host's limit where its style was named, else the benchmark's own or the model's."""
    if wanted == "vlmevalkit":
        return record.host_max_new_tokens
    return prompts.max_new_tokens(dataset.host, style_of(wanted, dataset)) or record.max_new_tokens


def remarks(wanted: str, dataset: Dataset) -> tuple[str, ...]:
    """What must be said beside scores in that style."""
    if style_of(wanted, dataset) != "llava" or not prompts.reads_ocr(dataset.host) or "ocr_tokens" in dataset.rows[0]:
        return ()
    return (
        f"{dataset.name} is asked without OCR tokens, which published LLaVA-1.5 figures had: its table has no column ocr_tokens.",
    )
