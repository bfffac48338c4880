"""What a clear cell in a picture of kept tokens stands for, where that is more than the token of its own place."""

from __future__ import annotations

import ast
from functools import cache

from ..cells import Config
from ..methods import sources

_KNOWN = {
    "pool": "each clear cell: the centre of tokens that were averaged",
    "downsample": "the model reads a smaller picture; clear: where its tokens stand",
}
_CHANGED = "tokens at clear cells were changed by the method"
_JOINED = "each clear cell also stands for dropped ones that resemble it"


def clear(config: Config) -> str:
    """In a few words; nothing where a clear cell is a token that was kept as it was."""
    parts = [part for part in config.method.split("+") if _changes(part)]
    said = [_KNOWN.get(part, _CHANGED) for part in parts]
    return "; ".join([*said, *([_JOINED] if dict(config.params).get("merge") == "mean" else [])])


@cache
def _changes(method: str) -> bool:
    """Whether the method's own file says `changes = True`; read and not run, since a page must not need torch."""
    for path in sources(method):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and node.name.lower() == method:
                return any(isinstance(line, ast.Assign) and ast.unparse(line) == "changes = True" for line in node.body)
    return False
