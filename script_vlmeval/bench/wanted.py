"""What is to be measured: models, each with its configurations, from names or as a grid."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..backbones import Backbone, Models
from ..cells import FULL, Config, Scalar, schedule
from ..errors import UserError, unknown
from ..loading import check_checkpoint
from . import geometry
from .geometry import GEOMETRIES, STEEPER, Geometry

if TYPE_CHECKING:
    from ..methods import Method

METHODS = ("cdpruner", "script", "fastv", "seqprune")  # of a grid, unless others are named


@dataclass(frozen=True)
class Wanted:
    """A model, the unpruned configuration first. geometry: of one with random weights. named: those that are not of a grid."""

    record: Backbone
    geometry: Geometry | None
    configs: tuple[Config, ...]
    named: tuple[Config, ...] = ()

    def methods(self) -> dict[Config, Method | str]:
        """Of each configuration its method, or why it cannot be had. UserError for an unknown method or parameter."""
        from ..methods import get_method
        from ..runtime import method_for

        found: dict[Config, Method | str] = {}
        for config in self.configs:
            get_method(config.method, **dict(config.params))
            try:
                found[config] = method_for(self.record, config)
            except UserError as error:
                found[config] = str(error)
        return found

    def out_of_reach(self, methods: Mapping[Config, Method | str]) -> list[Config]:
        """Of the grid, what cannot be had beside others that can: no failure, as nobody named it."""
        if all(isinstance(method, str) for config, method in methods.items() if not config.full):
            return []
        return [config for config, method in methods.items() if isinstance(method, str) and config not in self.named]


def wanted(
    names: Sequence[str],
    random_weights: Sequence[str] = (),
    methods: Sequence[str] = (),
    budgets: Sequence[str] = (),
    params: Mapping[str, Scalar] | None = None,
    models: Models | None = None,
) -> list[Wanted]:
    """Configurations by name, and a grid for models with random weights: of those that no name is of, or whose methods or budgets
    are named.

    UserError for names that do not exist, checkpoints that cannot be had, and where nothing is left to measure.
    """
    models = models or Models()
    _check(names, random_weights, methods, budgets)
    for name in random_weights:
        if name not in GEOMETRIES:
            raise unknown("model", name, GEOMETRIES, "Only these have their sizes here; others are measured from a checkpoint.")
    named = [Config.parse(name, params) for name in names]
    found = []
    for model in dict.fromkeys([*(config.model for config in named), *random_weights]):
        drawn = model in random_weights
        record = _record(model, drawn, models)
        own = [config for config in named if config.model == model]
        mine = tuple(own)
        if drawn and (methods or budgets or not own):
            own += _grid(record, methods, budgets, params or {})
        pruned = [config for config in dict.fromkeys(own) if not config.full]
        found.append(Wanted(record, GEOMETRIES[model] if drawn else None, (Config(model, FULL), *pruned), mine))
    return found


def _check(names: Sequence[str], random_weights: Sequence[str], methods: Sequence[str], budgets: Sequence[str]) -> None:
    if not names and not random_weights:
        raise UserError(
            "Nothing to measure: name configurations with --model (tiny_script_16), or a model with --random-weights "
            f"({', '.join(GEOMETRIES)})."
        )
    if (methods or budgets) and not random_weights:
        flag = "--method" if methods else "--budget"
        raise UserError(
            f"{flag} makes a grid for models with --random-weights: with a checkpoint, name configurations in --model."
        )


def _record(model: str, drawn: bool, models: Models) -> Backbone:
    if not drawn and model not in models.checkpoints and model == "mid":
        raise UserError("'mid' is no model with a checkpoint: measure it with --random-weights mid.")
    if not drawn:
        record = models.record(model)
        check_checkpoint(record, offline=models.offline)
        return record
    record = geometry.record(model)
    if record.protocol and models.protocol == "hf":
        raise UserError(f"--protocol hf: '{model}' with random weights is measured as in papers alone: leave it out.")
    return record


def _grid(record: Backbone, methods: Sequence[str], budgets: Sequence[str], params: Mapping[str, Scalar]) -> Iterator[Config]:
    """Budgets by methods, with other settings than a method's own only where those cannot reach the budget."""
    for budget in map(str, budgets or record.budgets):
        for method in methods or METHODS:
            if method != FULL:
                yield _reaching(record, method, budget, params)


def _reaching(record: Backbone, method: str, budget: str, params: Mapping[str, Scalar]) -> Config:
    """With the first settings that reach the budget, or the first of all: then it is told why these do not."""
    own = {} if schedule(budget) else GEOMETRIES[record.id].params.get(method, {})
    tried = [{**own, **more, **params} for more in ({}, *STEEPER.get(method, ()))]
    configs = [Config.parse(f"{record.id}_{method}_{budget}", settings) for settings in tried]
    return next((config for config in configs if _reaches(record, config)), configs[0])


def _reaches(record: Backbone, config: Config) -> bool:
    from ..runtime import method_for

    with suppress(UserError):
        method_for(record, config)
        return True
    return False


def refuse_if_none(methods: Iterable[Mapping[Config, Method | str]]) -> None:
    """UserError where configurations were named and not one of them can be had."""
    pruned = [(config, method) for of in methods for config, method in of.items() if not config.full]
    if pruned and all(isinstance(method, str) for _, method in pruned):
        config, why = pruned[0]
        raise UserError(f"'{config}': {why}")
