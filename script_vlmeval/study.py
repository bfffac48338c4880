"""What to run: from flags and a study file to configurations, benchmarks, models and options."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .cells import Config, Scalar, parse_params, read_study
from .errors import UserError, unknown

if TYPE_CHECKING:
    from .backbones import Models
    from .benchmarks import Benchmark
    from .judge import Judge

DEFAULTS: dict[str, Any] = {
    "work-dir": "results",
    "mode": "all",
    "limit": None,
    "batch-size": 32,
    "max-failures": None,
    "atlas": 100,
    "seed": 0,
    "device": "auto",
    "dtype": "auto",
    "attn": "sdpa",
    "prompt-style": "auto",
    "protocol": None,
    "judge": None,
    "judge-url": None,
}


CHOICES = {
    "mode": ["all", "infer", "eval"],
    "dtype": ["auto", "float32", "bfloat16", "float16"],
    "attn": ["sdpa", "eager", "flash_attention_2"],
    "prompt-style": ["auto", "llava", "vlmevalkit"],
    "protocol": ["paper", "hf"],
}


def read(args: argparse.Namespace) -> tuple[list[Config], list[str], dict[str, Any]]:
    """Configurations, benchmark names and options, from flags and the study file."""
    configs, data, options = list[Config](), list[str](), dict[str, Any]()
    if args.config:
        study = read_study(args.config, DEFAULTS)
        configs, data, options = list(study.configs), list(study.data), dict(study.options)
    if args.model:
        configs = [Config.parse(name) for name in dict.fromkeys(args.model)]
    configs = _with_params(configs, parse_params(args.param))
    data = list(dict.fromkeys(args.data)) or data
    if not configs:
        raise UserError("No model: name configurations with --model (tiny_script_16), or a study with --config.")
    if not data:
        raise UserError("No benchmark: name them with --data (ShapesVQA), or in the study. `--list data` shows the names.")
    return configs, data, settings(args, options)


def settings(args: argparse.Namespace, options: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Every option: the flags, over those of a study, over the defaults. UserError for what cannot be."""
    found = DEFAULTS | dict(options or {})
    found |= {k: v for k in DEFAULTS if (v := getattr(args, k.replace("-", "_"))) not in (None, [])}
    if isinstance(sizes := found["batch-size"], list):
        if len(sizes) > 1:
            raise UserError(
                f"--batch-size {' '.join(sizes)}: answers are given in one size of batch; `run.py bench` takes several."
            )
        found["batch-size"] = sizes[0]
    for key, least in (("limit", 1), ("batch-size", 1), ("seed", 0), ("max-failures", 0), ("atlas", 0)):
        if (key, found[key]) != ("batch-size", "auto"):
            found[key] = _integer(key, found[key], least)
    for key, known in CHOICES.items():
        if found[key] not in (*known, DEFAULTS[key]):
            raise unknown(f"value for --{key}:", str(found[key]), known)
    found["device"] = str(found["device"])
    return found


def _integer(key: str, value: Any, least: int) -> int | None:
    if value is None:
        return None
    try:
        number = int(str(value))
    except ValueError:
        also = " (or auto)" if key == "batch-size" else ""
        raise UserError(f"--{key} {value!r} is not a whole number{also}.") from None
    if number < least:
        raise UserError(f"--{key} {number}: it must be at least {least}.")
    return number


def _with_params(configs: list[Config], params: dict[str, Scalar]) -> list[Config]:
    """Each configuration with those of the parameters that its method has. UserError for one that no method here has."""
    from .methods import info

    if not params:
        return configs
    known = {c.method: {p for p, _ in m.params} for c in configs if (m := info(c.method))}
    everything = set().union(*(known.get(c.method, set()) for c in configs))
    for name in params:
        if name not in everything:
            raise unknown("parameter", name, everything, "(of the methods named)")
    return [_given(c, {k: v for k, v in params.items() if k in known.get(c.method, ())}) for c in configs]


def _given(config: Config, params: dict[str, Scalar]) -> Config:
    """The configuration with these parameters over its own."""
    return Config(config.model, config.method, config.budget, tuple(sorted({**dict(config.params), **params}.items())))


def preparable(names: Sequence[str]) -> list[Benchmark]:
    """The benchmarks of names and groups, each once, whatever its frames. UserError for one that is not made from a download."""
    from .benchmarks import expand, known_names, plain
    from .prepare import recipes

    found = {b.host: plain(b) for b in expand(names)}
    for benchmark in found.values():
        if benchmark.kind in ("embedded", "tsv"):
            raise UserError(f"'{benchmark.name}' needs no preparing: name it with --data.")
        if benchmark.host not in recipes():
            made = {name for name in known_names() if not name.startswith("Shapes")}
            raise unknown("download", benchmark.name, made, "`--list data` shows what can be prepared.")
    return list(found.values())


def judge_of(settings: dict[str, Any], work_dir: Path) -> Judge | None:
    """The judge that is named; None where none is. UserError for one that cannot be asked."""
    from .judge import judge_of

    if not settings["judge"]:
        if settings["judge-url"]:
            raise UserError("--judge-url says where a judge is served: name its model with --judge.")
        return None
    return judge_of(str(settings["judge"]), str(settings["judge-url"] or ""), cache=work_dir / ".judge")


def check_names(configs: Sequence[Config], models: Models) -> None:
    """UserError, with "did you mean", for a model or method that does not exist."""
    from .methods import catalogue

    for config in configs:
        models.record(config.model)
        for part in config.method.split("+"):
            if part not in catalogue():
                raise unknown("method", part, catalogue(), f"(in '{config}'; see --list methods)")


def models_of(args: argparse.Namespace, configs: Sequence[Config], protocol: Any) -> Models:
    """The models of the table, with what the flags say of checkpoints and of names of the user's own. UserError for a model or
    method that does not exist, and for flags that name nothing that is run."""
    from .backbones import BACKBONES, Models

    checkpoints: dict[str, str] = {}
    for pair in args.checkpoint:
        name, sign, place = pair.partition("=")
        if not sign or not place or not re.fullmatch("[a-z0-9]+", name):
            raise UserError(f"--checkpoint '{pair}' must be NAME=DIR or NAME=HUB_ID, NAME of lower case letters and digits.")
        if checkpoints.setdefault(name, place) != place:
            raise UserError(f"--checkpoint names two places for '{name}': {checkpoints[name]} and {place}. Give one.")
    own = [name for name in checkpoints if name not in BACKBONES]
    models = Models(checkpoints, _families({name: checkpoints[name] for name in own}, args.family), protocol, args.offline)
    check_names(configs, models)
    used = dict.fromkeys(c.model for c in configs)
    if idle := [name for name in checkpoints if name not in used]:
        raise UserError(f"--checkpoint {idle[0]}=...: no configuration of '{idle[0]}' is run, only of {', '.join(used)}.")
    if protocol and not any(models.record(name).protocol for name in used):
        raise UserError(f"--protocol {protocol} is for LLaVA-NeXT (llavanext): {', '.join(used)} have one protocol.")
    return models


def _families(places: dict[str, str], named: Sequence[str]) -> dict[str, str]:
    """The family of each name of the user's own: one for all, one for each in their order or, of none, what the checkpoints on
    this computer say themselves."""
    if not named:
        return {name: _said(name, place) for name, place in places.items()}
    if len(named) not in (len(places), min(len(places), 1)):
        names = ", ".join(places) or "none is"
        raise UserError(f"--family: one for all names that are not in the table, or one for each, in their order ({names}).")
    return dict(zip(places, list(named) * (len(places) if len(named) == 1 else 1), strict=True))


def _said(name: str, place: str) -> str:
    """The family that a checkpoint says it is of. UserError where it is not here, or is of none that is known."""
    from . import convert, hub
    from .backbones import BACKBONES
    from .offers import OFFERS

    if (folder := hub.locate(place)) is None:
        if hub.is_id(place):
            raise unknown("model", name, BACKBONES, f"Of a checkpoint that is not here yet ({place}), say its --family.")
        hub.fetch(place, offline=True)  # says what is wrong with the folder
        raise UserError(f"{place} is no checkpoint.")
    if (kind := convert.kind(folder)) not in OFFERS:
        raise UserError(f"{folder} holds a '{kind}' model, of no known family: {', '.join(OFFERS)}.")
    return kind
