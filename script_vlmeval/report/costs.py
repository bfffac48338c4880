"""The sheet of costs: what a cell's answers took, as measured."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..draw import Row, at, number

_TOKENS = {  # as result.json says it -> as the sheet does; means over the answered rows
    "visual_full": "visual tokens entering",
    "visual_kept": "visual tokens kept, mean over layers",
    "between": "tokens between them",
    "text": "text tokens",
    "frames": "frames",
}


def costs(row: Row) -> dict[str, Any]:
    """Of a cell. Figures under "efficiency" in its result keep their own names and units."""
    tokens = {head: at(row.data, f"tokens.{name}") for name, head in _TOKENS.items()}
    full, kept = number(at(row.data, "tokens.visual_full")), number(at(row.data, "tokens.visual_kept"))
    layers = at(row.data, "tokens.layers")
    known = [count for count in map(number, layers) if count is not None] if isinstance(layers, list) else []
    return {
        **tokens,
        "kept %": 100 * kept / full if kept is not None and full else None,
        "tokens in the first layer": known[0] if known else None,
        "tokens in the last layer": known[-1] if known else None,
        "tokens, mean over layers": sum(known) / len(known) if known else None,
        "answers": row.n - row.failed,
        **speed(row),
        **dict(flat(row.data.get("efficiency"), "")),
    }


def speed(row: Row) -> dict[str, Any]:
    """Of the answers alone: pictures are encoded once for all configurations."""
    per = number(row.data.get("samples_per_second"))
    return {
        "seconds without encoder": row.data.get("seconds"),
        "seconds per answer": 1 / per if per else None,
        "answers/s": row.data.get("samples_per_second"),
    }


def flat(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Nested mappings as 'a.b' -> value; a list is one text."""
    if isinstance(value, dict):
        for name, item in value.items():
            yield from flat(item, f"{path}.{name}".strip("."))
    elif path:
        yield path, ", ".join(map(str, value)) if isinstance(value, list) else value
