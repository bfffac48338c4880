"""The turns of one batch: everything that is compared runs once, again and again, in an order of its own each time.

The first turn looks at what is kept and counts for nothing else, the second warms up. The vision side runs beforehand and is
timed by itself; its outputs are then the same for all. A configuration that fails is left out of later turns and says why.
"""

from __future__ import annotations

import gc
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from .. import efficiency, families, loading
from ..cells import Config
from ..errors import UserError
from ..methods import Method, get_method
from ..prune import pruning
from ..runtime import Prepared, per_tile
from .clocks import Clock
from .passes import Asked, Passes, Timed, entering, generate
from .rows import IDEAL, Row, compare
from .subject import Subject

WARM_UPS = 1
_COUNTED = ("eager", "sdpa")  # torch's counter knows no operator of flash-attn
_EACH = ("prefill_ms", "selection_ms", "question_ms", "token_ms", "generation_ms", "peak_bytes")


@dataclass(frozen=True)
class Turns:
    """How a batch is measured. seed: of the order. new: tokens of an answer. done: hears of each generation, whose it was."""

    repeats: int
    new: int
    seed: int
    done: Callable[[str], None]


@dataclass
class _Side:
    """One of those that take turns: its arguments of `generate`, and the context around it."""

    row: Row
    given: dict[str, Any]
    context: Callable[[Passes], AbstractContextManager[Any]]


def attempt(call: Callable[[], Any]) -> tuple[Any, str]:
    """What it returns, or why it cannot. Other failures are raised."""
    try:
        return call(), ""
    except UserError as error:
        return None, str(error)
    except Exception as error:
        if not loading.no_memory(error):
            raise
    gc.collect()  # behind the handler, which held what the failed call had on its stack
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return None, "out of memory"


@torch.inference_mode()
def measure(subject: Subject, methods: Mapping[Config, Method | str], size: int, turns: Turns) -> list[Row]:
    """Every configuration on one batch, and the ideal of each level. methods: of each configuration, or why it has none."""
    clock = Clock(subject.runtime.device)
    rows = {config: _row(config, size) for config in methods}
    prepared, error = attempt(lambda: subject.batch(size))
    encoder, error = (None, error) if error else attempt(lambda: _encoder(subject, prepared, turns.repeats, clock))
    with subject.runtime.batch():
        _, error = (None, error) if error else attempt(lambda: subject.runtime.encode(prepared))
        for config, method in methods.items():
            rows[config].error = error or (method if isinstance(method, str) else "")
        had = {} if error else {config: method for config, method in methods.items() if isinstance(method, Method)}
        sides = [_side(subject, prepared, rows[config], method) for config, method in had.items()]
        ideals = _look(subject, prepared, sides, turns, clock)
        _take_turns(subject, [*sides, *ideals], turns, clock)
    found = [*rows.values(), *(side.row for side in ideals)]
    took, flops = encoder or ([], None)
    for row in found:
        row.repeats["encoder_ms"] = took
        row.counted |= {"encoder_flops": flops / size} if flops and row.counted else {}
    compare(found)
    return _ordered(found)


def _row(config: Config, size: int) -> Row:
    return Row(config.model, config.method, config.budget, size, dict(config.params))


def _ordered(rows: Iterable[Row]) -> list[Row]:
    """The unpruned model, then budget by budget, and of a budget level by level, the ideal at the end of each."""
    rows = list(rows)
    budgets = list(dict.fromkeys(row.budget for row in rows))
    levels = list(dict.fromkeys(row.level for row in rows))
    return sorted(rows, key=lambda row: (not row.full, budgets.index(row.budget), levels.index(row.level), row.ideal))


def _encoder(subject: Subject, prepared: Prepared, repeats: int, clock: Clock) -> tuple[list[float], int | None]:
    """Milliseconds of the tower and what joins it to the language model, each time anew, and its FLOPs by torch's own counter:
    families' towers are too different for a formula. It is counted while it warms up. None where the counter cannot see all."""
    took = list[float]()
    with subject.runtime.batch(), FlopCounterMode(display=False) as counter:
        subject.runtime.encode(prepared)
    for _ in range(repeats):
        with subject.runtime.batch():
            clock.settle()
            begin = clock.now()
            subject.runtime.encode(prepared)
            end = clock.now()
            clock.settle()
        took.append(clock.ms(begin, end))
    return took, counter.get_total_flops() if _attention(subject.model) in _COUNTED else None


def _attention(model: Any) -> str:
    """The kind of attention of the vision side."""
    found: str = model.config.vision_config._attn_implementation
    return found


# -- sides ---------------------------------------------------------------------------------------------------------------------
def _bare(_: Passes) -> AbstractContextManager[Any]:
    return nullcontext()


def _side(subject: Subject, prepared: Prepared, row: Row, method: Method) -> _Side:
    """A configuration. `full` is the model without any hook of this project, but for the clock's two around it."""
    if row.full:
        return _Side(row, prepared.inputs, _bare)
    model, share, more = subject.model, per_tile(subject.runtime.record, row.budget), {"question": prepared.questions}

    def context(passes: Passes) -> AbstractContextManager[Any]:
        source = subject.query(method)
        query = None if source is None else Asked(source, passes.spans)
        return Timed(passes, model, method, share, query=query, shown=prepared.shown, **more)

    return _Side(row, prepared.inputs, context)


def _look(subject: Subject, prepared: Prepared, sides: Sequence[_Side], turns: Turns, clock: Clock) -> list[_Side]:
    """A generation of each, traced: what entered its layers. From what is kept follow the ideals."""
    embeds, model = list[Tensor](), subject.model
    for side in sides:
        context = side.context
        if side.row.full:
            context = lambda _: pruning(model, get_method("full"), "100pct")  # noqa: E731
        with entering(model, embeds):
            _look_at(subject, side, context, turns, clock)
    levels = dict.fromkeys(side.row.level for side in sides if not side.row.full)
    return [_ideal(subject, prepared, embeds[0], sides[0].row, *level) for level in levels if level]


def _look_at(subject: Subject, side: _Side, context: Any, turns: Turns, clock: Clock) -> None:
    found, side.row.error = attempt(lambda: generate(subject.model, side.given, 2, clock, context))
    turns.done(side.row.name)
    if found:
        figures, trace = found
        side.row.counted = _counted(subject, trace.counts(len(families.language_model(subject.model).layers)))
        side.row.counted["kv_bytes"] = figures["kv_bytes"]


def _counted(subject: Subject, counts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Means over the samples. flat: whether the same tokens are in all layers."""
    shape, n = efficiency.Shape.of(subject.model.config), len(counts)
    layers = [sum(of) / n for of in zip(*(count["layers"] for count in counts), strict=True)]
    return {
        "visual": sum(count["visual_kept"] for count in counts) / n,  # mean over the layers
        "visual_full": sum(count["visual_full"] for count in counts) / n,
        "text": sum(count["text"] for count in counts) / n,
        "entering": layers,
        "flat": len(set(layers)) == 1,
        "prefill_flops": sum(efficiency.prefill_flops(shape, count["layers"]) for count in counts) / n,
    }


def _ideal(subject: Subject, prepared: Prepared, embeds: Tensor, like: Row, budget: str, kept: int) -> _Side:
    """The same model, fed the text and so many visual tokens at equal steps: nothing chosen, nothing hooked."""
    ids, row = prepared.inputs["input_ids"], Row(like.model, IDEAL, budget, like.batch)
    visual = families.visual_mask(subject.model, ids)[0]  # rows are alike
    places = visual.nonzero()[:, 0]
    stays = ~visual
    stays[places[torch.arange(kept, device=places.device) * len(places) // kept]] = True
    short = embeds[:, stays].contiguous()
    given = {"inputs_embeds": short, "attention_mask": prepared.inputs["attention_mask"][:, stays].contiguous()}
    text, layers = int(given["attention_mask"][0].sum()) - kept, len(families.language_model(subject.model).layers)
    of = {"visual_kept": kept, "visual_full": len(places), "text": text, "layers": [text + kept] * layers}
    row.counted = _counted(subject, [of])
    return _Side(row, given, _bare)


# -- turns ---------------------------------------------------------------------------------------------------------------------
def _take_turns(subject: Subject, sides: Sequence[_Side], turns: Turns, clock: Clock) -> None:
    """Every side once a turn, in a shuffled order, so that none always follows the same one."""
    order = random.Random(turns.seed)
    for turn in range(WARM_UPS + turns.repeats):
        for side in _shuffled(sides, order):
            if side.row.error:
                continue
            call = lambda side=side: generate(subject.model, side.given, turns.new, clock, side.context)  # noqa: E731
            found, side.row.error = attempt(call)
            turns.done(side.row.name)
            if side.row.error:
                clock.settle()
            if found and turn >= WARM_UPS:
                _note(side.row, found[0])
    for side in sides:
        if side.row.error:
            side.row.repeats.clear()


def _shuffled(sides: Sequence[_Side], order: random.Random) -> Iterator[_Side]:
    yield from order.sample(list(sides), len(sides))


def _note(row: Row, figures: Mapping[str, Any]) -> None:
    row.counted["kv_bytes"] = figures["kv_bytes"]
    for name in _EACH:
        pruned = not (row.full or row.ideal)
        if figures[name] is not None and (pruned or name not in ("selection_ms", "question_ms")):
            row.repeats.setdefault(name, []).append(figures[name])


def failed(methods: Iterable[Config], size: int, error: str) -> list[Row]:
    """Rows that say why there is nothing in them."""
    found = [_row(config, size) for config in methods]
    for row in found:
        row.error = error
    return found
