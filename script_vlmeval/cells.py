"""Names and grids: 'tiny_script_16' <-> Config, a YAML study -> configurations and benchmarks.

The grammar is `<model>_<method>_<budget>` or `<model>_full`; ids are lower case letters and digits, and two methods joined by +
make a hybrid ('llava_script+fastv_64'). A budget is a number of visual tokens per image ('16'), a share of the image's own
tokens ('25pct', '12.5pct') or a published layer schedule ('r75k2': 75 % removed from layer 2 on). Each budget has one spelling,
so that one configuration has one folder. Only the form is checked here: whether a model or method exists is for the registries
that know.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import Any, TypeAlias

from .errors import UserError, unknown

Scalar: TypeAlias = str | int | float | bool

FULL = "full"
FORM = "<model>_<method>_<budget> (for example tiny_script_16) or <model>_full"
_ID = re.compile(r"[a-z0-9]+")
_METHOD = re.compile(r"[a-z0-9]+(\+[a-z0-9]+)?")
_NUMBER = r"[0-9]+(?:\.[0-9]+)?"
_BUDGET = re.compile(rf"(?P<count>[0-9]+)|(?P<share>{_NUMBER})pct|r(?P<removed>{_NUMBER})k(?P<first>[0-9]{{1,4}})")
_RANGES = {  # the most that each kind may be, and how to say it
    "count": (10**9 - 1, "at least 1 visual token, and fewer than a billion"),
    "share": (100, "between 1 and 100 percent"),
    "removed": (100, "between 1 and 100 percent"),
}
_STUDY_KEYS = ("models", "methods", "budgets", "full", "configs", "data", "options")


@dataclass(frozen=True)
class Config:
    """What answers: a model under a pruning method at a budget. `params` are the method's other settings, sorted by name."""

    model: str
    method: str
    budget: str = ""
    params: tuple[tuple[str, Scalar], ...] = ()

    @classmethod
    def parse(cls, name: str, params: Mapping[str, Scalar] | None = None) -> Config:
        """The configuration of that name; UserError on bad grammar.

        `params` given to a `_full` configuration are dropped: they are meant for the methods run beside it.
        """
        parts = name.split("_")
        if not 2 <= len(parts) <= 3:
            raise UserError(f"'{name}' is in {len(parts)} part(s), split at underscores: a configuration is named {FORM}.")
        for kind, part in zip(("model", "method"), parts, strict=False):
            _check_id(name, kind, part)
        model, method = parts[:2]
        budget = _budget_of(name, parts)
        return cls(model, method, budget, tuple(sorted((params or {}).items())) if budget else ())

    @classmethod
    def of_folder(cls, name: str) -> Config | None:
        """The configuration that a folder is named after, None of one that is somebody else's."""
        try:
            return cls.parse(name)
        except UserError:
            return None

    @property
    def full(self) -> bool:
        """Whether this is the unpruned model."""
        return self.method == FULL

    def __str__(self) -> str:
        return "_".join(part for part in (self.model, self.method, self.budget) if part)


@dataclass(frozen=True)
class Cell:
    """A configuration on a benchmark: the unit of work, of storage and of the tables."""

    config: Config
    benchmark: str

    def __str__(self) -> str:
        return f"{self.config}/{self.benchmark}"


@dataclass(frozen=True)
class Study:
    """A sweep as data: every configuration on every benchmark, and the options of the command line that it sets."""

    configs: tuple[Config, ...]
    data: tuple[str, ...]
    options: dict[str, Scalar]


def tokens(budget: str, n_visual: int) -> int:
    """Visual tokens that a budget means for an image of `n_visual` of them: '64' -> 64, '25pct' -> a quarter, '' -> all.

    Shares are rounded to the nearest token (halves up); the answer is at least 1. UserError for a layer schedule: how many
    tokens it leaves depends on the layer, so only the method's plan can say (`schedule`).
    """
    if budget.endswith("pct"):
        share = Decimal(budget.removesuffix("pct")) * n_visual / 100
        return max(1, int(share.quantize(Decimal(1), ROUND_HALF_UP)))
    if budget.startswith("r"):
        raise UserError(f"The budget '{budget}' is a schedule over layers: give a number of visual tokens or a share.")
    return max(1, int(budget) if budget else n_visual)


def schedule(budget: str) -> tuple[float, int] | None:
    """What a layer schedule says, 'r75k2' -> (0.75, 2): the share removed and the first layer without it; None for others."""
    if not (match := _BUDGET.fullmatch(budget)) or match["removed"] is None:
        return None
    return float(Decimal(match["removed"]) / 100), int(match["first"])


def parse_params(pairs: Sequence[str]) -> dict[str, Scalar]:
    """`--param` arguments, 'name=value' each, with values as the int, float, bool or text that they look like."""
    params: dict[str, Scalar] = {}
    for pair in pairs:
        key, sign, text = (part.strip() for part in pair.partition("="))
        if not sign or not key.isidentifier() or not text:
            raise UserError(f"Cannot read the parameter '{pair}': it must be name=value, for example --param alpha=0.5.")
        value = _scalar(pair, text)
        if key in params and params[key] != value:
            raise UserError(f"The parameter '{key}' is given twice: {params[key]} and {value}.")
        params[key] = value
    return params


def read_study(path: Path, options: Collection[str] | None = None) -> Study:
    """The study that a YAML file describes (configs/tiny.yaml shows the keys): models x methods x budgets, with each model's
    `_full` first unless `full: false`, then `configs`; duplicates removed, order kept.

    With `options`, names of options outside it are refused. UserError, naming file and line or key, for all that is wrong.
    """
    data = _load(path)
    for key in data:
        if key not in _STUDY_KEYS:
            raise unknown("key", str(key), _STUDY_KEYS, f"(in {path})")
    try:
        configs = _distinct([*_grid(data), *(Config.parse(*entry) for entry in _entries(data, "configs"))])
        benchmarks = tuple(dict.fromkeys(_names(data, "data")))
        settings = _options(data, options)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    if not configs:
        raise UserError(f"{path}: no configuration: give models, methods and budgets, or a list of names under 'configs'.")
    return Study(configs, benchmarks, settings)


def _check_id(name: str, kind: str, part: str) -> None:
    if (_METHOD if kind == "method" else _ID).fullmatch(part):
        return
    if _ID.fullmatch(part.lower()):
        raise UserError(f"The {kind} '{part}' in '{name}' has upper case letters: write '{name.lower()}'.")
    raise UserError(f"The {kind} in '{name}' is '{part}': it takes lower case letters and digits, at least one, as in {FORM}.")


def _budget_of(name: str, parts: list[str]) -> str:
    """The checked budget of a split name; '' for full."""
    model, method = parts[:2]
    if method == FULL and len(parts) == 2:
        return ""
    if method == FULL:
        raise UserError(f"'{name}': the unpruned model takes no budget: write '{model}_{FULL}'.")
    if len(parts) == 2 and _BUDGET.fullmatch(method):
        raise UserError(f"'{name}' names no model, or no method: a configuration is named {FORM}.")
    if len(parts) == 2 or not parts[2]:
        raise UserError(f"'{name}' has no budget: write for example '{model}_{method}_16', or '{model}_{FULL}' to prune nothing.")
    if method.isdecimal() and _ID.fullmatch(parts[2]) and not parts[2][0].isdecimal():
        raise UserError(f"'{name}' has its budget before its method: write '{model}_{parts[2]}_{method}'.")
    return check_budget(parts[2], name)


def check_budget(budget: str, name: str = "") -> str:
    """The budget, which has only one spelling; else a UserError saying what would work. `name`: where it stands."""
    start = f"The budget '{budget}' in '{name}'" if name else f"The budget '{budget}'"
    if budget != budget.lower():
        raise UserError(f"{start} has upper case letters: write '{budget.lower()}'.")
    if not (match := _BUDGET.fullmatch(budget)):
        raise UserError(f"{start} {_why_no_budget(budget)}")
    kind, number = next((kind, text) for kind, text in match.groupdict().items() if text)
    first = int(match["first"] or 1)
    if first < 1:
        raise UserError(f"{start} begins at layer 0, before any attention can be looked at: the first layer is at least 1.")
    most, allowed = _RANGES[kind]
    if not 1 <= Decimal(number) <= most:
        raise UserError(f"{start} is out of range: it must be {allowed}.")
    value = f"{Decimal(number).normalize():f}"
    canonical = {"count": value, "share": f"{value}pct", "removed": f"r{value}k{first}"}[kind]
    if budget != canonical:
        raise UserError(f"{start} has superfluous zeros: write '{canonical}', so that results stay in one folder.")
    return budget


def _why_no_budget(budget: str) -> str:
    if re.fullmatch(rf"-{_NUMBER}(pct)?", budget):
        return "is negative: it must be at least 1."
    if re.fullmatch(_NUMBER, budget):
        return "is not a whole number of tokens: write for example 16, or a share such as 12.5pct."
    return "is not a number: a budget is a number of visual tokens (16), a share (25pct) or a layer schedule (r75k2)."


def _scalar(pair: str, text: str) -> Scalar:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    if re.fullmatch(r"[+-]?[0-9]{1,18}", text):
        return int(text)
    try:
        value = float(text)
    except ValueError:
        return text
    if not math.isfinite(value):
        raise UserError(f"The parameter '{pair}' is not a finite number.")
    return value


def _load(path: Path) -> dict[Any, Any]:
    """The YAML mapping in a file."""
    import yaml

    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        reason = f"Cannot read the study file '{path}': {error.strerror or error}."
        raise UserError(f"{reason} Give the path of a YAML file such as configs/tiny.yaml.") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f", line {mark.line + 1}" if mark else ""
        raise UserError(f"{path}{where}: this is not YAML: {error.problem or error.context}.") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: this is not YAML: {str(error).splitlines()[0]}.") from None
    if isinstance(data, dict):
        return data
    raise UserError(f"{path}: a study is a mapping with the keys {', '.join(_STUDY_KEYS)}.")


def _list(data: Mapping[Any, Any], key: str) -> list[Any]:
    """The list under a key; a single value stands for a list of one."""
    value = data.get(key, [])
    return value if isinstance(value, list) else [value] if value is not None else []


def _names(data: Mapping[Any, Any], key: str) -> list[str]:
    return [_text(key, value) for value in _list(data, key)]


def _text(key: str, value: Any) -> str:
    """A name from YAML, which reads unquoted words such as `no` as something else."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise UserError(f"'{key}' holds {value!r} where a name is needed (quote it if it is one).")
    return str(value)


def _entries(data: Mapping[Any, Any], key: str) -> list[tuple[str, dict[str, Scalar]]]:
    return [_entry(key, value) for value in _list(data, key)]


def _entry(key: str, value: Any) -> tuple[str, dict[str, Scalar]]:
    """A name, or a mapping of `name` and `params`, as a name and its parameters."""
    if not isinstance(value, dict):
        return _text(key, value), {}
    for part in value:
        if part not in ("name", "params"):
            raise unknown("key", str(part), ("name", "params"), f"(under '{key}')")
    if "name" not in value:
        raise UserError(f"An entry under '{key}' has no 'name'.")
    return _text(key, value["name"]), _scalars("params", value.get("params"))


def _scalars(key: str, value: Any) -> dict[str, Scalar]:
    """A mapping of names to single finite values."""
    if not isinstance(value, dict | None):
        raise UserError(f"'{key}' must be a mapping of names to values.")
    value = value or {}
    for name, item in value.items():
        if not isinstance(name, str) or not isinstance(item, str | int | float) or item in (math.inf, -math.inf) or item != item:
            raise UserError(f"'{key}' has '{name}: {item}': it takes names with a number, a text, true or false.")
    return dict(value)


def _options(data: Mapping[Any, Any], known: Collection[str] | None) -> dict[str, Scalar]:
    """Command-line options by their long names, without the leading dashes; 'batch_size' is read as 'batch-size'."""
    options = {name.replace("_", "-"): value for name, value in _scalars("options", data.get("options")).items()}
    if known is not None and (strange := [name for name in options if name not in known]):
        raise unknown("option", strange[0], known)
    return options


def _grid(data: Mapping[Any, Any]) -> Iterator[Config]:
    """models x methods x budgets, each model's full first."""
    models, methods, budgets = _names(data, "models"), _entries(data, "methods"), _names(data, "budgets")
    full = data.get("full", True)
    if not isinstance(full, bool):
        raise UserError(f"'full' is {full!r}: it must be true or false.")
    pruning = [entry for entry in methods if entry[0] != FULL]
    _check_grid(models, pruning, budgets)
    for model in models:
        if full or len(pruning) < len(methods):
            yield Config.parse(f"{model}_{FULL}")
        for method, params in pruning:
            yield from (Config.parse(f"{model}_{method}_{budget}", params) for budget in budgets)


def _check_grid(models: list[str], pruning: list[Any], budgets: list[str]) -> None:
    given = {"models": models, "methods": pruning, "budgets": budgets}
    missing = " and ".join(f"'{key}'" for key, values in given.items() if not values)
    if missing and (budgets or pruning):
        raise UserError(f"A grid takes models, methods and budgets, and this one has no {missing}.")


def _distinct(configs: Sequence[Config]) -> tuple[Config, ...]:
    """Without duplicates; UserError for one name with two sets of parameters, which would share a folder."""
    by_name: dict[str, Config] = {}
    for config in configs:
        if by_name.setdefault(str(config), config) != config:
            raise UserError(f"'{config}' occurs twice with different parameters: use a study and a --work-dir for each.")
    return tuple(by_name.values())
