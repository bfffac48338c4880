"""What can be named: tables of models, methods and benchmarks, made without loading any of them."""

from __future__ import annotations

import os
from pathlib import Path


def tell(what: str) -> None:
    """Print a table of the models, methods or data that can be named."""
    rows = {"models": _models, "methods": _methods, "data": _data}[what]()
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]) - 1)]
    for row in rows:
        print("  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]]).rstrip())


def _models() -> list[tuple[str, ...]]:
    from .backbones import BACKBONES, Backbone
    from .methods import catalogue
    from .offers import offers, served

    def methods_of(record: Backbone) -> str:
        able = served(offers(record.family, whole=record.protocol == "paper"))
        lacking = [name for name in catalogue() if name not in able]
        return "all" if not lacking else f"all but {', '.join(lacking)}" if len(lacking) <= len(able) else ", ".join(able)

    head = ("MODEL", "FAMILY", "VISUAL TOKENS", "RELEVANCE", "CHECKPOINT", "ABOUT", "METHODS")
    rows = [
        (
            b.id,
            b.family,
            b.counted(),
            "clip, llm" if b.clip else "llm",
            "embedded" if b.id == "tiny" else b.checkpoint,
            b.summary,
            methods_of(b),
        )
        for b in BACKBONES.values()
    ]
    note = ("NAME", "", "", "", "any other", "--checkpoint NAME=DIR_OR_HUB_ID [--family FAMILY]", "those of the family")
    return [head, *rows, note]


def _methods() -> list[tuple[str, ...]]:
    from .methods import catalogue

    head = ("METHOD", "ABOUT", "NEEDS", "PARAMETERS")
    rows = [
        (m.name, m.summary, ", ".join(m.needs) or "-", ", ".join(f"{k}={v}" for k, v in m.params) or "-")
        for m in catalogue().values()
    ]
    both = ("A+B", "A before the language model, B inside it, as script+fastv", "of both", "before=None, and those of both")
    return [head, *rows, both]


def _data() -> list[tuple[str, ...]]:
    from .benchmarks import BENCHMARKS

    folder = Path(os.environ.get("LMUData") or Path.home() / "LMUData").expanduser()  # noqa: SIM112 - VLMEvalKit's spelling
    rows: list[tuple[str, ...]] = [("BENCHMARK", "VLMEVALKIT NAME", "QUESTIONS", "METRIC", "STATE", "NOTE")]
    for b in BENCHMARKS.values():
        there = "made on demand" if b.kind == "embedded" else "not yet" if b.kind == "planned" or b.judge else None
        state = there or ("present" if (folder / f"{b.host}.tsv").is_file() else "missing")
        rows.append((b.name, b.host, b.questions, b.metric, state, b.note))
    return rows
