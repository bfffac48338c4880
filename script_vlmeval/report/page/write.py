"""Puts the page together and writes it."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from html import escape
from importlib.resources import files as resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import TYPE_CHECKING

from ...files import replacing
from ..legend import FAMILIES
from ..summary import Summary
from .embed import CLOSE, embedded, opened
from .facts import headline, plots, provenance, remarks
from .samples import atlases, blocks
from .tables import tables

if TYPE_CHECKING:
    from ..evidence import Evidence

PAGE = "report.html"
_PLACE = re.compile(rb"\{\{(\w+)\}\}")


def write_page(summary: Summary, evidence: Evidence) -> Path:
    """Writes `report.html` beside the summary's workbook, from what is on disk there: equal folders give equal bytes.

    UserError when the disk refuses.
    """
    work_dir = summary.workbook.parent
    path = work_dir / PAGE
    parts = _parts(summary, evidence, work_dir)
    samples = (chunk for i, atlas in enumerate(atlases(work_dir, summary)) for chunk in blocks(atlas, i, work_dir, summary))
    with replacing(path, durable=False) as temporary, open(temporary, "wb") as file:
        file.writelines(_chunks(parts, samples))
    return path


def _parts(summary: Summary, evidence: Evidence, work_dir: Path) -> Mapping[str, bytes]:
    style, script = _joined(".css"), b'(() => {\n"use strict";\n%b})();\n' % _joined(".js")
    facts = {
        "title": escape(f"{work_dir.absolute().name}: visual-token pruning"),
        "headline": headline(summary),
        "plots": plots(work_dir),
        "provenance": provenance(summary),
        "remarks": remarks(summary),
        "families": escape(FAMILIES) if evidence.comparisons else "",
        "policy": f"default-src 'none'; img-src data:; style-src {_hash(style)}; script-src {_hash(script)}",
    }
    data = opened("tables") + embedded(tables(summary, evidence)) + CLOSE
    return {name: _utf8(text) for name, text in facts.items()} | {"style": style, "script": script, "tables": data}


def _chunks(parts: Mapping[str, bytes], samples: Iterable[bytes]) -> Iterator[bytes]:
    """The template with its parts in their places, the samples (which may be large) piece by piece."""
    for i, piece in enumerate(_PLACE.split((_assets() / "page.html").read_bytes())):
        if i % 2 == 0:
            yield piece
        elif piece == b"samples":
            yield from samples
        else:
            yield parts[piece.decode()]


def _joined(suffix: str) -> bytes:
    """All assets of a kind, in the order of their names. Line ends as in the repository, wherever it was checked out."""
    found = sorted((asset for asset in _assets().iterdir() if asset.name.endswith(suffix)), key=lambda asset: asset.name)
    return b"\n".join(asset.read_bytes().replace(b"\r\n", b"\n") for asset in found)


def _assets() -> Traversable:
    return resources(__package__) / "assets"


def _hash(content: bytes) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(content).digest()).decode()}'"


def _utf8(text: str) -> bytes:
    """Half a surrogate pair, which UTF-8 cannot hold, becomes a question mark."""
    return text.encode("utf-8", "replace")
