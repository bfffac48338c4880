"""The methods to check: registered ones by name, and those that a user's own file defines."""

from __future__ import annotations

import hashlib
import re
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager, suppress
from dataclasses import MISSING, Field, fields, is_dataclass
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any, TypeAlias

from .. import methods
from ..cells import Scalar
from ..errors import UserError, unknown
from ..methods import METHODS, Method, Visual, catalogue, get_method
from .outcome import first_line

Found: TypeAlias = tuple[Method, Path | None]  # a method, and the user's file that it comes from, None for a registered one
_RUNGS = ("score", "order", "select", "reduce")
_BY_ITSELF = frozenset({"tokens", "grid", "sign", "tiles", "gate"})  # fields of Visual that are never listed in `needs`


def resolve(wanted: Sequence[str | Path], params: Mapping[str, Scalar] | None = None) -> list[Found]:
    """The methods with these parameters and otherwise their defaults. 'all' stands for all registered ones.

    Raises UserError for unknown names and parameters and for files that cannot be used.
    """
    found: dict[tuple[str, Path | None], Found] = {}
    for item in wanted:
        if isinstance(item, Path) or _is_path(item):
            here = load(Path(item), params)
        else:
            here = [(get_method(name, **(params or {})), None) for name in _names(item)]
        found |= {(method.name, path): (method, path) for method, path in here}
    return list(found.values())


def _is_path(item: str) -> bool:
    """Whether a file is meant, not a method: by its form, or because there is one of that name and no such method."""
    return item.endswith(".py") or "/" in item or (item != "all" and item not in catalogue() and Path(item).exists())


def _names(item: str) -> list[str]:
    if item == "all":
        return sorted(catalogue())
    if set(item.split("+")) <= set(catalogue()) and "+" in item:
        raise UserError(f"The parts of a hybrid are checked one by one: --method {item.replace('+', ' ')}.")
    if item not in catalogue():
        raise unknown("method", item, catalogue(), "A file of your own is given by its path, ending in .py.")
    return [item]


def load(path: Path, params: Mapping[str, Scalar] | None = None) -> list[Found]:
    """The methods that a file defines. They do not stay registered."""
    path = path.expanduser()
    if path.is_dir():
        raise UserError(f"{path} is a folder: give the file in it that defines the method.")
    if not path.is_file():
        raise UserError(
            f"There is no file {path}: give the path of a method's file, or a name that `run.py --list methods` shows."
        )
    if path.suffix != ".py":
        raise UserError(f"{path} must end in .py to be read as a method's file.")
    if path.resolve().parent == Path(methods.__file__).parent:  # one of the project's own
        return [(get_method(name, **(params or {})), None) for name in _defined_in(path)]
    with _registry_restored():
        with _neighbours(path.resolve().parent):
            name = _import(path)
        classes = [cls for cls in METHODS.values() if cls.__module__ == name]
        if not classes:
            raise UserError(f"{path} defines no method: a class that derives from script_vlmeval.methods.Method.")
        for cls in classes:
            examine(cls)
        return [(_made(cls, path, params or {}), path) for cls in classes]


def _defined_in(path: Path) -> list[str]:
    methods.load_all()
    found = [name for name, cls in METHODS.items() if cls.__module__ == f"{methods.__name__}.{path.stem}"]
    if not found:
        raise UserError(f"{path} defines no method of its own.")
    return found


def examine(cls: type[Method]) -> None:
    """UserError where `needs` names what there is not, or where not exactly one of the four methods is overridden."""
    if isinstance(cls.needs, str) or not isinstance(cls.needs, AbstractSet):
        raise UserError(f"'{cls.name}' must give `needs` as a set of strings, such as frozenset({{'saliency'}}).")
    known = {f.name for f in fields(Visual)}
    for name in sorted(map(str, cls.needs)):
        if name in _BY_ITSELF:
            raise UserError(f"'{cls.name}' lists '{name}' in `needs`, which comes by itself: take it out.")
        if name not in known:
            raise unknown(f"field of Visual in the `needs` of '{cls.name}':", name, known - _BY_ITSELF)
    overridden = overrides(cls)
    if not overridden:
        raise UserError(f"'{cls.name}' overrides none of {', '.join(_RUNGS)}: override exactly one.")
    if len(overridden) > 1:
        raise UserError(f"'{cls.name}' overrides {' and '.join(overridden)}: override exactly one, the others follow from it.")


def overrides(cls: type[Method]) -> list[str]:
    """Which of the four methods the class overrides, or else the nearest class that it inherits from."""
    for base in cls.__mro__[: cls.__mro__.index(Method)]:
        if found := [rung for rung in _RUNGS if rung in vars(base)]:
            return found
    return []


@contextmanager
def _registry_restored() -> Iterator[None]:
    methods.load_all()
    before = dict(METHODS)
    try:
        yield
    finally:
        METHODS.clear()
        METHODS.update(before)


@contextmanager
def _neighbours(folder: Path) -> Iterator[None]:
    """Files beside the one that is loaded can be imported from it, and are forgotten then: other folders have their own."""
    before = set(sys.modules)
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        with suppress(ValueError):  # the file may have taken it out
            sys.path.remove(str(folder))
        for name in set(sys.modules) - before:
            if (file := getattr(sys.modules[name], "__file__", None)) and Path(file).resolve().parent == folder:
                del sys.modules[name]


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
            raise UserError(f"{path}: {_rephrased(error)}") from error
        if isinstance(error, Exception | SystemExit):
            raise UserError(f"{path}{_line(path, error)} {type(error).__name__}: {first_line(error)}") from error
        raise
    return name


def _line(path: Path, error: BaseException) -> str:
    """':12:' where the file itself is at fault."""
    if isinstance(error, SyntaxError):
        return f":{error.lineno}:"
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if Path(f.filename) == path]
    return f":{lines[-1]}:" if lines else ":"


def _rephrased(error: UserError) -> str:
    """For a name that is taken, what to do about it rather than which modules are at odds."""
    if taken := re.match(r"Two methods are called ('\w+'):", str(error)):
        return f"a method called {taken[1]} is registered already: rename the class; its name in lower case is the method's."
    return first_line(error)


def _made(cls: type[Method], path: Path, params: Mapping[str, Scalar]) -> Method:
    """The method with these parameters, as a registered one would be made."""
    known: tuple[Field[Any], ...] = fields(cls) if is_dataclass(cls) else ()
    needed = [f.name for f in known if f.default is MISSING and f.default_factory is MISSING and f.name not in params]
    if needed:
        raise UserError(f"'{cls.name}' in {path} has no default for {', '.join(needed)}: give one, so that it can be checked.")
    try:
        return get_method(cls.name, **params)
    except UserError as error:
        raise UserError(re.sub(r"<class '(\w+)'>", r"\1", str(error))) from error  # a type that was not written as a string
    except Exception as error:
        raise UserError(f"'{cls.name}' in {path} cannot be made: {type(error).__name__}: {first_line(error)}") from error
