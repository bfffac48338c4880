"""One file per method; loading the folder registers them under their lower-cased class names.

`catalogue()` reads the files without running them, so that a list of methods costs no torch import.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .base import METHODS as METHODS
    from .base import Method as Method
    from .base import Reduced as Reduced
    from .base import Visual as Visual
    from .base import get_method as get_method

_FOLDER = Path(__file__).parent
_LAZY = ("METHODS", "Method", "Reduced", "Visual", "get_method")


@dataclass(frozen=True)
class MethodInfo:
    """What is known of a method without importing it."""

    name: str
    summary: str
    needs: tuple[str, ...]
    params: tuple[tuple[str, str], ...]  # name, default as written


def _files() -> list[Path]:
    return sorted(p for p in _FOLDER.glob("*.py") if p.stem != "base" and not p.stem.startswith("_"))


def load_all() -> None:
    """Import every method file (and torch)."""
    for path in _files():
        import_module(f"{__name__}.{path.stem}")


@cache
def catalogue() -> dict[str, MethodInfo]:
    """Name -> MethodInfo, read from the sources alone."""
    found: dict[str, MethodInfo] = {}
    for path in _files():
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and _derives(node):
                found[node.name.lower()] = _describe(node)
    return found


def info(name: str) -> MethodInfo | None:
    """What is known of a method, or of a hybrid of two (`script+fastv`); None where there is none of that name."""
    known, parts = catalogue(), name.split("+")
    if len(parts) != 2 or not known.keys() >= set(parts):
        return known.get(name)
    first, then = (known[part] for part in parts)
    params = {**dict(then.params), **dict(first.params), "before": "None"}
    summary = f"{first.name} before the language model, {then.name} inside it"
    return MethodInfo(name, summary, tuple(sorted({*first.needs, *then.needs})), tuple(params.items()))


def sources(name: str) -> list[Path]:
    """The file of a method, or of both of a hybrid, and those of this folder that it imports, directly or not, besides the
    contract."""
    found, ahead = dict[Path, None](), [_FOLDER / f"{part}.py" for part in name.split("+")]
    if "+" in name:
        ahead.append(_FOLDER / "_hybrid.py")
    while ahead:
        path = ahead.pop()
        if path in found or not path.is_file() or path.stem == "base":
            continue
        found[path] = None
        imports = [n for n in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(n, ast.ImportFrom)]
        ahead += [_FOLDER / f"{n.module}.py" for n in imports if n.level == 1 and n.module]
    return sorted(found)


def _derives(node: ast.ClassDef) -> bool:
    """Whether it is a method of its own: derived from Method itself, and not kept out of the registry."""
    kept_out = any(k.arg == "register" for k in node.keywords)
    return not kept_out and any(isinstance(b, ast.Name) and b.id == "Method" for b in node.bases)


def _describe(node: ast.ClassDef) -> MethodInfo:
    name, needs, merges, gated = node.name.lower(), tuple[str, ...](), False, False
    params: list[tuple[str, str]] = []
    for line in node.body:
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name):
            if line.target.id == "needs" and line.value:
                needs = _strings(line.value)
            elif "ClassVar" not in ast.unparse(line.annotation):
                params.append((line.target.id, ast.unparse(line.value) if line.value else "required"))
        elif isinstance(line, ast.Assign) and ast.unparse(line.targets[0]) == "needs":
            needs = _strings(line.value)
        elif isinstance(line, ast.Assign) and ast.unparse(line.targets[0]) == "gated":
            gated = ast.unparse(line.value) == "True"
        elif isinstance(line, ast.FunctionDef):
            merges |= line.name == "reduce"
    params += [(option, "'none'") for option in around(name, merges, gated)]
    summary = (ast.get_docstring(node) or "").split("\n")[0].rstrip(".")
    return MethodInfo(name, summary, needs, tuple(params))


def around(name: str, merges: bool, gated: bool) -> tuple[str, ...]:
    """The options that can be put around a method: one that merges by itself, or weighs tokens by how distinct they are."""
    return (*(() if merges or name == "full" else ("merge",)), *(("centre",) if gated else ()))


def _strings(node: ast.expr) -> tuple[str, ...]:
    return tuple(sorted(str(c.value) for c in ast.walk(node) if isinstance(c, ast.Constant)))


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        load_all()
        return getattr(import_module(f"{__name__}.base"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
