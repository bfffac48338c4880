"""The methods to check: registered ones by name, and those that a user's own file defines."""

from __future__ import annotations

import hashlib
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, Field, fields, is_dataclass
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

from .. import methods
from ..errors import UserError, unknown
from ..methods import METHODS, Method, catalogue, get_method


def resolve(wanted: Sequence[str | Path]) -> list[tuple[Method, Path | None]]:
    """Methods with the user's file that each comes from, None for registered ones. 'all' stands for all registered ones.

    Raises UserError for unknown names and for files that cannot be used.
    """
    found: dict[tuple[str, Path | None], tuple[Method, Path | None]] = {}
    for item in wanted:
        if str(item).endswith(".py") or isinstance(item, Path) or "/" in item:
            here = load(Path(item))
        else:
            here = [(get_method(name), None) for name in _names(item)]
        found |= {(method.name, path): (method, path) for method, path in here}
    return list(found.values())


def _names(item: str) -> list[str]:
    if item == "all":
        return sorted(catalogue())
    if item not in catalogue():
        raise unknown("method", item, catalogue(), "A file of your own is given by its path, ending in .py.")
    return [item]


def load(path: Path) -> list[tuple[Method, Path | None]]:
    """The methods that a file defines, with their default parameters. They do not stay registered."""
    path = path.expanduser()
    if not path.is_file():
        raise UserError(f"There is no file {path}.")
    if path.resolve().parent == Path(methods.__file__).parent:  # one of the project's own
        return [(get_method(name), None) for name in _defined_in(path)]
    with _registry_restored():
        name = _import(path)
        classes = [cls for cls in METHODS.values() if cls.__module__ == name]
    if not classes:
        raise UserError(f"{path} defines no method: a class that derives from script_vlmeval.methods.Method.")
    return [(_default(cls, path), path) for cls in classes]


def _defined_in(path: Path) -> list[str]:
    methods.load_all()
    found = [name for name, cls in METHODS.items() if cls.__module__ == f"{methods.__name__}.{path.stem}"]
    if not found:
        raise UserError(f"{path} defines no method of its own.")
    return found


@contextmanager
def _registry_restored() -> Iterator[None]:
    methods.load_all()
    before = dict(METHODS)
    try:
        yield
    finally:
        METHODS.clear()
        METHODS.update(before)


def _import(path: Path) -> str:
    """Run the file as a module beside the project's methods, so that `from .base import Method` works; the module's name."""
    digest = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:8]
    name = f"{methods.__name__}._own_{path.stem}_{digest}"
    spec = spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = module_from_spec(spec)  # dataclasses look their module up there
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[name]
        if isinstance(error, UserError):
            raise UserError(f"{path}: {error}") from error
        if isinstance(error, Exception | SystemExit):
            raise UserError(f"{path}{_line(path, error)} {type(error).__name__}: {error}") from error
        raise
    return name


def _line(path: Path, error: BaseException) -> str:
    """':12:' where the file itself is at fault."""
    if isinstance(error, SyntaxError):
        return f":{error.lineno}:"
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if Path(f.filename) == path]
    return f":{lines[-1]}:" if lines else ":"


def _default(cls: type[Method], path: Path) -> Method:
    known: tuple[Field[Any], ...] = fields(cls) if is_dataclass(cls) else ()
    needed = [f.name for f in known if f.default is MISSING and f.default_factory is MISSING]
    if needed:
        raise UserError(f"'{cls.name}' in {path} has no default for {', '.join(needed)}: give one, so that it can be checked.")
    return cls()
