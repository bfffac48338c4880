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
_TERA, _GIGA, _MIB = 1e12, 1e9, 2**20
_COUNTED = {  # as "efficiency" in result.json says it -> as the sheet does, and its unit; means over the answered rows
    "prefill_flops": ("prefill TFLOPs", _TERA),
    "prefill_flops_std": ("prefill TFLOPs, standard deviation", _TERA),
    "papers_flops": ("prefill TFLOPs as papers count", _TERA),
    "kv_bytes": ("cache MiB", _MIB),
    "kv_bytes_std": ("cache MiB, standard deviation", _MIB),
    "decode_flops": ("GFLOPs per new token", _GIGA),
}
_FEWER = {  # what pruning makes smaller -> how many times, against the same prompts unpruned
    "prefill_flops": "x fewer FLOPs than unpruned",
    "papers_flops": "x fewer as papers count",
    "kv_bytes": "x smaller cache than unpruned",
}


def costs(row: Row) -> dict[str, Any]:
    """Of a cell. Figures under "efficiency" in its result that are not known here keep their own names and units."""
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
        **counted(row),
        **dict(flat(_others(row), "")),
    }


def counted(row: Row) -> dict[str, float]:
    """What a cell's samples cost by count, those figures that its result has: TFLOPs, MiB, and how many times fewer than of the
    same prompts unpruned."""
    found = {name: number(at(row.data, f"efficiency.{name}")) for name in _COUNTED}
    units = {head: value / unit for name, (head, unit) in _COUNTED.items() if (value := found[name]) is not None}
    full = {name: number(at(row.data, f"efficiency.unpruned_{name}")) for name in _FEWER}
    return units | {head: whole / part for name, head in _FEWER.items() if (whole := full[name]) and (part := found[name])}


def _others(row: Row) -> dict[str, Any]:
    """Figures that others have put beside these."""
    known = {*_COUNTED, *(f"unpruned_{name}" for name in _FEWER)}
    given = row.data.get("efficiency")
    return {name: value for name, value in given.items() if name not in known} if isinstance(given, dict) else {}


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
