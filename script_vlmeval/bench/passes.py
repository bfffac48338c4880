"""One generation, timed pass by pass by hooks around the whole model; a GPU is waited for once, at its end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from .. import tower
from ..families import language_model
from ..prune import pruning
from .clocks import Clock, Moment, Spans


def storages(kv: Any) -> int:
    """Bytes that the tensors of a cache really hold."""
    found = [part.untyped_storage() for layer in kv.layers for part in (layer.keys, layer.values)]
    return sum({s.data_ptr(): s.nbytes() for s in found}.values())


@dataclass
class Passes:
    """Where the model's first pass, the prefill, began and ended; the cache that it left; and how many passes there were."""

    clock: Clock
    spans: Spans = field(init=False)
    marks: dict[str, Moment] = field(default_factory=dict)
    kv_bytes: int = 0
    count: int = 0

    def __post_init__(self) -> None:
        self.spans = Spans(self.clock)

    @contextmanager
    def of(self, model: nn.Module) -> Iterator[None]:
        handles = [model.register_forward_pre_hook(self._before), model.register_forward_hook(self._after)]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _before(self, *_: Any) -> None:
        if not self.count:
            self.marks["begin"] = self.clock.now()

    def _after(self, module: Any, args: Any, output: Any) -> None:
        self.count += 1
        if self.count == 1:
            self.marks["first"] = self.clock.now()
            self.kv_bytes = storages(output.past_key_values)
            self.marks["resumed"] = self.clock.now()


class Timed(pruning):
    """The context, with a clock on all that it does in the prefill: finding the tokens, what the method sees, its choice, and
    leaving tokens out."""

    def __init__(self, passes: Passes, *args: Any, **more: Any) -> None:
        self.passes = passes
        super().__init__(*args, **more)

    def _on_language_model(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self.passes.count:
            return super()._on_language_model(module, args, kwargs)
        for seen in self.observer.vision.seen.values():
            tower.anew(seen)  # it hangs on the encoder's output, which all turns share
        with self.passes.spans.of("selection"):
            return super()._on_language_model(module, args, kwargs)

    def _before_layer(self, i: int) -> Callable[..., Any]:
        hook = super()._before_layer(i)

        def timed(*given: Any) -> Any:
            if self.passes.count or self.pruned is None or i not in self.pruned.plan.inside:
                return hook(*given)
            with self.passes.spans.of("selection"):
                return hook(*given)

        return timed


class Asked:
    """A query source, with a clock on the encoding of questions."""

    def __init__(self, source: Any, spans: Spans) -> None:
        self.name, self.sign, self._source, self._spans = source.name, source.sign, source, spans

    def encode(self, questions: list[str]) -> tuple[Tensor, Tensor]:
        with self._spans.of("question"):
            found: tuple[Tensor, Tensor] = self._source.encode(questions)
        return found

    def keys(self, model: nn.Module, selected: Tensor) -> Tensor | None:
        found: Tensor | None = self._source.keys(model, selected)
        return found


def generate(
    model: Any,
    given: dict[str, Any],
    new: int,
    clock: Clock,
    context: Callable[[Passes], AbstractContextManager[Any]],
) -> tuple[dict[str, Any], Any]:
    """One greedy generation of `new` tokens in a context: its figures, and what the context yielded.

    The device has nothing to do when this is called, and again when it returns. The cache is transformers' own for all, so that
    what is compared is pruning.
    """
    clock.forget_peak()
    passes = Passes(clock)
    with context(passes) as yielded, passes.of(model):
        called = clock.now()
        model.generate(**given, do_sample=False, num_beams=1, max_new_tokens=new, use_cache=True)
        end = clock.now()
        clock.settle()
        assert passes.count == new, "a pass for each token"
    marks, found = passes.marks, dict[str, Any]()
    found["prefill_ms"] = clock.ms(marks["begin"], marks["first"])
    found["selection_ms"], found["question_ms"] = passes.spans.ms("selection"), passes.spans.ms("question")
    found["token_ms"] = clock.ms(marks["resumed"], end) / (new - 1)
    found["generation_ms"] = clock.ms(called, end)
    found["kv_bytes"], found["peak_bytes"] = passes.kv_bytes, clock.peak()
    return found, yielded


@contextmanager
def entering(model: nn.Module, into: list[Tensor]) -> Iterator[None]:
    """Put the embeddings (B, L, D) that first enter the language model into a list, before anything is dropped."""

    def keep(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not into:
            into.append(kwargs["inputs_embeds"])

    handle = language_model(model).register_forward_pre_hook(keep, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()
