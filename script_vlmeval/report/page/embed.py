"""Data within the page: blocks that browsers keep and do not execute, and that no text in them can end."""

from __future__ import annotations

from html import escape
from typing import Any

from ...files import dumps

CLOSE = b"</script>\n"


def opened(name: str, kind: str = "application/json", **attributes: Any) -> bytes:
    """The start of a block that scripts find by its name; attributes become `data-...`."""
    more = "".join(f' data-{key}="{escape(str(value))}"' for key, value in attributes.items())
    return f'<script type="{kind}" id="{escape(name)}"{more}>'.encode("utf-8", "replace")


def embedded(value: Any) -> bytes:
    """JSON on one line without `<`, so that neither a tag nor a comment begins in it."""
    return dumps(value).replace(b"<", b"\\u003c")
