"""Rows for a terminal, 130 columns wide at most."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from textwrap import wrap
from typing import Any, TypeAlias

from .rows import Row, Spread

WIDTH = 130
_UNITS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
_Cell: TypeAlias = Callable[[Row], str]


def lines(rows: Sequence[Row]) -> list[str]:
    """A heading and a table of one batch. Columns of which nothing is known, as peak memory on a CPU, are left out."""
    alive = [row for row in rows if not row.error]
    columns = [(head, [cell(row) for row in alive]) for head, cell in _COLUMNS]
    columns = [(head, cells) for head, cells in columns if any(cell not in ("", "-") for cell in cells)]
    widths = [max(len(head), *map(len, cells)) for head, cells in columns]
    made = [heading(rows)]
    for texts in ([head for head, _ in columns], *zip(*(cells for _, cells in columns), strict=True)):
        padded = [text.ljust(w) if not i else text.rjust(w) for i, (text, w) in enumerate(zip(texts, widths, strict=True))]
        made.append("  ".join(padded).rstrip())
    if not alive:
        made = made[:1]
    return [*made, *_settings(alive), *(f"{_called(row)}: not measured, {row.error}" for row in rows if row.error)]


def _settings(rows: Sequence[Row]) -> list[str]:
    """Which rows have other settings than their methods' own."""
    called: dict[str, list[str]] = {}
    for row in rows:
        if row.params:
            called.setdefault(", ".join(f"{name}={value}" for name, value in row.params.items()), []).append(_called(row))
    return wrap("; ".join(f"{', '.join(names)}: {settings}" for settings, names in called.items()), WIDTH)


def heading(rows: Sequence[Row]) -> str:
    """Whose rows these are, and what they have in common."""
    first, seen = rows[0], next((row.counted for row in rows if row.counted), None)
    said = [f"{first.model}, batch {first.batch}"]
    if seen:
        said.append(f"{seen['visual_full']:g} visual and {seen['text']:g} text tokens each")
    if spread := first.spread("encoder_ms"):
        flops = f", {seen['encoder_flops'] / 1e9:,.3g} GFLOPs each" if seen and "encoder_flops" in seen else ""
        said.append(f"encoder {ms(spread.median)} ms ({_range(spread)}){flops}")
    return "; ".join(said)


def notes(facts: Mapping[str, Any]) -> list[str]:
    """What the columns mean, and where and how it was measured."""
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    how = f"{facts['machine']}; {facts['dtype']}, {facts['attention']}; {versions}; {facts['date']}"
    return [
        f"Medians of {facts['repeats']} turns, with the quartiles of prefill; ms of the whole batch. select: all that pruning "
        "does in the prefill.",
        "prefill: to the first token, without the encoder; TTFT: with it; token: each one after the first; all: the encoder and "
        f"{facts['new_tokens']} tokens.",
        "x: times faster than full. ideal: the same model fed as many tokens, nothing chosen; %ideal: of its speed in prefill.",
        "KV: MiB of the batch's cache behind the prefill. FLOPs: of one sample's prefill."
        + " peak: GiB, weights included." * (facts["device"] != "cpu"),
        facts["command"],
        how,
    ]


def ms(value: float | None) -> str:
    """To about three digits."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 1000 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def short(value: float | None) -> str:
    """41650000000000 -> '41.7T'."""
    if value is None:
        return "-"
    size, unit = next(((size, unit) for size, unit in _UNITS if value >= size), (1.0, ""))
    return f"{value / size:.{1 if value / size >= 10 else 2}f}{unit}"


def _range(spread: Spread | None) -> str:
    return "-" if spread is None else f"{ms(spread.low)}-{ms(spread.high)}"


def _called(row: Row) -> str:
    return f"{row.method} {row.budget}".strip()


def _median(quantity: str, unit: float = 1) -> _Cell:
    return lambda row: "-" if (value := row.median(quantity)) is None else ms(value / unit)


def _times(quantity: str, form: str = ".2f") -> _Cell:
    return lambda row: "-" if (value := row.against.get(quantity)) is None else format(value, form)


_COLUMNS: tuple[tuple[str, _Cell], ...] = (
    ("method", _called),
    ("tokens", lambda row: f"{row.counted['visual']:.4g}" if row.counted else "-"),
    ("select", _median("selection_ms")),
    ("prefill", _median("prefill_ms")),
    ("quartiles", lambda row: _range(row.spread("prefill_ms"))),
    ("x", _times("prefill_ms x full")),
    ("%ideal", _times("prefill_ms % of ideal", ".0f")),
    ("TTFT", _median("ttft_ms")),
    ("x", _times("ttft_ms x full")),
    ("token", _median("token_ms")),
    ("all", _median("answer_ms")),
    ("x", _times("answer_ms x full")),
    ("KV", _median("kv_bytes", 2**20)),
    ("peak", _median("peak_bytes", 2**30)),
    ("FLOPs", lambda row: short(row.median("prefill_flops"))),
)
