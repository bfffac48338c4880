"""Text in and out of a spreadsheet's cell, unchanged.

What XML cannot hold (control characters, half surrogate pairs) is written as `_xHHHH_`, the way of the format (ECMA-376,
ST_Xstring), and the underscore of a text that reads like such an escape is escaped too. Excel and LibreOffice undo this; pandas
and openpyxl do not, `unescape` does it for them. A cell holds 32,767 UTF-16 units: a longer text is cut and says so.
"""

from __future__ import annotations

import re

CELL_LIMIT = 32_767
CUT = " … [cut; whole in predictions.jsonl]"
_BAD = "\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff"
_UNSAFE = re.compile(f"[{_BAD}]|_(?=x[0-9A-Fa-f]{{4}}[_{_BAD}])")


def escape(text: str) -> str:
    """The text as a cell can hold it; the inverse of `unescape` unless it is cut."""
    safe = _UNSAFE.sub(lambda match: f"_x{ord(match[0]):04X}_", text)
    units = safe.encode("utf-16-le")
    if len(units) <= 2 * CELL_LIMIT:
        return safe
    start = units[: 2 * (CELL_LIMIT - len(CUT))].decode("utf-16-le", "ignore")
    return re.sub(r"(?<!_x[0-9A-F]{4})_(x[0-9A-F]{0,4})?$", "", start) + CUT  # not in the middle of an escape


def unescape(text: str) -> str:
    """The text that was written, from what pandas or openpyxl read in the cell."""
    return re.sub("_x([0-9A-Fa-f]{4})_", lambda match: chr(int(match[1], 16)), text)
