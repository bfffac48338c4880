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
    from .benchmarks import BENCHMARKS, GROUPS

    folder = Path(os.environ.get("LMUData") or Path.home() / "LMUData").expanduser()  # noqa: SIM112 - VLMEvalKit's spelling
    rows: list[tuple[str, ...]] = [("BENCHMARK", "MODALITY", "QUESTIONS", "METRIC", "JUDGE", "STATE", "EXPECTED AT", "NOTE")]
    for b in BENCHMARKS.values():
        table = folder / f"{b.host}.tsv"
        state = "made on demand" if b.kind == "embedded" else "present" if table.is_file() else "missing"
        place = "-" if b.kind == "embedded" else str(table)
        rows.append((b.name, b.modality, b.asked, b.metric or "-", b.judge or "-", state, place, b.note))
    rows += [(name, "group", f"{len(members)} benchmarks", "", "", "", "", " ".join(members)) for name, members in GROUPS.items()]
    return [*rows, ("any other", "", "", "", "", "", "", "VLMEvalKit's own name, or the path of a TSV file")]
