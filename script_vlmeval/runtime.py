"""A loaded model that answers batches of VLMEvalKit messages under a configuration.

The harness and VLMEvalKit's own runner both answer through this class, so a configuration gives the same predictions in both.
"""

from __future__ import annotations

import copy
import hashlib
import inspect
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import Any

import torch

from . import families, inputs, loading, methods, plans, tower
from .backbones import CLIPS, Backbone, Models
from .begun import Begun, opening
from .cache import roomy
from .cells import Config, schedule
from .encode import Chosen, QueryOnce, encode_once
from .errors import UserError
from .families.drawn import drawn
from .families.places import Look
from .inputs import Message, Sample
from .kept import Kept
from .methods import Method
from .offers import offers, require
from .pictures import Distinct
from .prune import pruning
from .query import LlmQuery
from .ranks import Ranks


@dataclass(frozen=True)
class Prepared:
    """A batch as the model takes it."""

    inputs: dict[str, Any]
    questions: list[str]
    digests: list[str]
    shown: torch.Tensor | None  # (images, N) bool, False = padding; None where no picture was padded
    chosen: dict[tuple[Method, int], Chosen] = field(default_factory=dict)  # what methods chose of this batch
    begun: Begun = field(default_factory=Begun)  # what the language model made of it before configurations part
    looks: tuple[Look, ...] = ()  # what each prompt shows
    seen: dict[Method, dict[int, Any]] = field(default_factory=dict)  # relevance of its groups to the questions, see `drawn`

    def __len__(self) -> int:
        return len(self.questions)


@dataclass(frozen=True)
class Answer:
    """What the model said, and the tokens that it really read: {visual_full, visual_kept (mean over layers), text, layers}."""

    text: str
    tokens: dict[str, Any]
    look: Callable[[], list[Kept]] = field(default=list, repr=False, compare=False)  # of its batch, where anything was dropped
    nth: int = field(default=0, repr=False, compare=False)

    @property
    def kept(self) -> Kept | None:
        """What was kept of its pictures, where that was asked for: found out when somebody looks."""
        return found[self.nth] if (found := self.look()) else None


class Runtime:
    """One model in memory. Pictures are decoded by `read`, batches made by `prepare`, answered by `answer`."""

    def __init__(self, record: Backbone, model: Any, processor: Any, device: str, *, offline: bool = False) -> None:
        self.record, self.model, self.processor, self.device, self.offline = record, model, processor, device, offline
        self.where = str(model.device) if device == loading.ALL_GPUS else device  # inputs go there
        self.family = families.family_of(model)
        self._collator = copy.deepcopy(processor)  # a tokenizer serves one thread at a time, and questions are encoded by ours
        if hasattr(self._collator, "image_processor"):
            self._collator.image_processor = Distinct(self._collator.image_processor)
        self._collating = threading.Lock()
        self._queries: dict[str, QueryOnce] = {}

    @classmethod
    def load(
        cls,
        model: str | Backbone,
        *,
        device: str = "auto",
        dtype: str = "auto",
        attn: str = "sdpa",
        checkpoints: Models | Mapping[str, str] | None = None,
    ) -> Runtime:
        """Load a backbone by its name, or by a record that was fetched. dtype 'auto' is float32 on a CPU and bfloat16 on a GPU.
        UserError for what cannot be loaded.

        By its name, a checkpoint that is not on this computer is fetched first. checkpoints: the run's models, or folders by
        name.
        """
        models = Models.of(checkpoints)
        where = choose_device(device)
        fetched = partial(loading.fetched, offline=models.offline, clip=False)
        record = model if isinstance(model, Backbone) else fetched(models.record(model))
        kind = choose_dtype(dtype, where)
        if where.startswith("cuda:"):
            torch.cuda.set_device(where)  # for kernels that run on the current one
        loaded, processor = loading.load(record, device=where, dtype=getattr(torch, kind), attn=attn)
        return cls(record, loaded, processor, where, offline=models.offline)

    def read(self, message: Message, style: str = "auto") -> Sample:
        """Decode one message, to be asked in a prompt style. ValueError, naming the file, for a picture that cannot be read."""
        return inputs.read(self.record, self.record.asked(style), message)

    def prepare(self, items: Sequence[Sample | Message], style: str = "auto") -> Prepared:
        """A left-padded batch of samples, or of messages that are read first, on the model's device."""
        samples = [item if isinstance(item, Sample) else self.read(item, style) for item in items]
        with loading.quiet():  # of what processors say will be called otherwise some day
            return self.place(self.collate(samples, style))

    def collate(self, samples: Sequence[Sample], style: str = "auto") -> Prepared:
        """A left-padded batch, not yet on the model's device. May be called from a thread beside the model's, in which warnings
        cannot be silenced: that is for the caller to do."""
        with self._collating:
            given = inputs.collate(self.record, self.model, self._collator, samples)
        square = self.record.asked(style).square
        shown = inputs.shown([size for s in samples for size in s.sizes], families.side_of(self.model)) if square else None
        ids = given["input_ids"]
        begun = Begun(opening(ids, given.get("attention_mask"), families.visual_mask(self.model, ids)))
        looks = (Look.of(s, self.record.asked(style)) for s in samples)
        return Prepared(given, [s.question for s in samples], [s.digest for s in samples], shown, begun=begun, looks=tuple(looks))

    def place(self, prepared: Prepared) -> Prepared:
        """A batch on the model's device."""
        moved = {name: value.to(self.where) for name, value in prepared.inputs.items()}
        return replace(prepared, inputs=moved, chosen={}, begun=Begun(prepared.begun.opening), seen={})

    @contextmanager
    def batch(self) -> Iterator[None]:
        """Within this context the vision tower and projector run once per prepared batch, whatever is asked of it."""
        handles = tower.watch(self.model, self.family.towers.values()) if "saliency" in self.family.offers else []
        try:
            with encode_once(*(getattr(self.model.model, name) for name in self.family.vision)):
                yield
        finally:
            for handle in handles:
                handle.remove()
            for query in self._queries.values():
                query.forget()

    @torch.inference_mode()
    def encode(self, prepared: Prepared) -> None:
        """Run the vision side of a batch now, inside `batch()`, so that no configuration's time holds it."""
        inner = self.model.model
        for get, names in (("get_image_features", self.family.pictures), ("get_video_features", self.family.videos)):
            pixels = [prepared.inputs[name] for name in names if name in prepared.inputs]
            if pixels:
                self._encode(getattr(inner, get), *pixels)
        if self.where.startswith("cuda"):
            torch.cuda.synchronize(self.where)  # once a batch, so that the first configuration's time holds none of it

    def _encode(self, get: Any, pixels: torch.Tensor, *more: torch.Tensor) -> None:
        """The calls that the model makes itself, whatever a version calls their arguments."""
        config = self.model.config
        layer, strategy = getattr(config, "vision_feature_layer", None), getattr(config, "vision_feature_select_strategy", None)
        known = inspect.signature(get).parameters
        given = {"vision_feature_layer": layer, "vision_feature_select_strategy": strategy}
        given = {name: value for name, value in given.items() if name in known}
        if "batch_num_images" in known and len(more) > 1:
            given["batch_num_images"], more = more[1], more[:1]
        get(pixels, *more, **given)

    @torch.inference_mode()
    def answer(
        self,
        prepared: Prepared,
        method: Method,
        budget: str,
        *,
        seed: int = 0,
        budgets: Sequence[str] = (),
        max_new_tokens: int | None = None,
        kept: bool = False,
    ) -> list[Answer]:
        """Greedy answers of a batch under a method and budget ('' = all tokens). budgets: those that will be asked for of this
        batch, so that a method whose choices are nested runs once for all of them. max_new_tokens: the model's own where None.
        kept: whether the answers can tell which tokens were kept.

        Sample seeds follow from the run's seed and the sample's content, so they are the same in every batch, on every device
        and in every runner.
        """
        seeds = [int(hashlib.sha256(f"{seed}:{d}".encode()).hexdigest()[:14], 16) for d in prepared.digests]
        longest = max_new_tokens or self.record.max_new_tokens
        cache = None if method.reprunes() else roomy(self.model, longest)
        prepared.begun.several = len(budgets) > 1
        context = pruning(
            self.model,
            method,
            per_tile(self.record, budget) or "100pct",
            seed=seeds,
            question=prepared.questions,
            query=self._query(method.source()) if {"keys", "query"} & method.needs else None,
            shown=prepared.shown,
            chosen=prepared.chosen.setdefault((method, seed), Chosen([per_tile(self.record, b) for b in budgets])),
            begun=None if cache is None else prepared.begun,
        )
        if method.reprunes():
            warnings.warn(
                "reprune_each_step reads the whole prompt again for each token: for parity, not for results.", stacklevel=2
            )
        with context as trace:
            context.observer.asked = [] if kept else None
            out = self.model.generate(
                **prepared.inputs,
                do_sample=False,
                num_beams=1,
                max_new_tokens=longest,
                use_cache=not method.reprunes(),
                **({} if cache is None else {"past_key_values": cache}),
            )
            counts = trace.counts(self.model.config.text_config.num_hidden_layers)
            look = self._look(prepared, context) if kept else list
        self._warn_of_length(counts)
        texts = self.processor.tokenizer.batch_decode(out[:, prepared.inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        return [Answer(text.strip(), c, look, i) for i, (text, c) in enumerate(zip(texts, counts, strict=True))]

    def _look(self, prepared: Prepared, context: pruning) -> Callable[[], list[Kept]]:
        """What was kept of each prompt's pictures; nothing where nothing was dropped."""
        if (now := context.pruned) is None:
            return list
        seen, asked = prepared.seen.setdefault(context.method, {}), context.observer.asked or ()
        what = (prepared.looks, now.groups, now.plan, context.trace, asked, seen)
        return cache(partial(drawn, self.model, self.processor, *what))

    def _warn_of_length(self, counts: Sequence[Mapping[str, Any]]) -> None:
        """Say that a prompt was longer than the language model was made for, as many frames of a video are."""
        limit = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        if limit and max(c["layers"][0] for c in counts) > limit:
            warnings.warn(
                f"'{self.record.id}' read prompts of more than the {limit} tokens that its language model was made for: their "
                "answers may make no sense. Of videos, show fewer frames (MVBench_4frame).",
                stacklevel=3,
            )

    def ready(self, method: Method) -> None:
        """Load what a method needs besides the model, so that what cannot be loaded is said before the first question."""
        if {"keys", "query"} & method.needs:
            self._query(method.source())

    def _query(self, source: str) -> QueryOnce:
        """The question's side, loaded when a method first asks for it."""
        source = _resolved(self.record, source)
        if source not in self._queries:
            if source in ("llm", "words"):
                found: Any = LlmQuery(self.processor.tokenizer, self.model.get_input_embeddings(), words=source == "words")
            else:
                record = loading.with_text_side(self.record, offline=self.offline)
                found = loading.load_query(record, self.where, compat=source == "clipcompat", model=self.model)
            self._queries[source] = QueryOnce(found)
        return self._queries[source]


def relevance_of(record: Backbone, method: Method) -> str:
    """Where a method's relevance to the question comes from with this model: clip, clipcompat, llm, words, or none."""
    return _resolved(record, method.source()) if {"keys", "query"} & method.needs else "none"


def _resolved(record: Backbone, source: str) -> str:
    """What `auto` means for this model: its own CLIP, or where it has none the language model."""
    return source if source != "auto" else "llm" if record.clip is None else "clip"


def method_of(config: Config, checkpoints: Models | Mapping[str, str] | None = None) -> Method:
    """The method of a configuration, refused where the model or its family cannot serve it. Loads no weights, fetches nothing."""
    models = Models.of(checkpoints)
    record = models.record(config.model)
    loading.check_checkpoint(record, offline=models.offline)
    try:
        return method_for(record, config)
    except UserError as error:
        raise UserError(f"'{config}': {error}") from None


def method_for(record: Backbone, config: Config) -> Method:
    """The same by the model's record, wherever its checkpoint is."""
    if schedule(config.budget) and (twice := [name for name, _ in config.params if name in ("removed", "first_layer")]):
        raise UserError(
            f"The budget {config.budget} says how much goes and from which layer on: leave out {' and '.join(twice)}."
        )
    method, budget = plans.asked(
        methods.get_method(config.method, **dict(config.params)), per_tile(record, config.budget) or None
    )
    visual = loading.visual(record)
    count = plans.tokens(budget, visual)
    if (count or 0) > visual and not record.dynamic:
        counted = replace(record, visual=visual * record.tiles).counted()
        raise UserError(f"'{record.id}' has {counted} visual tokens per image: use '{record.id}_full' for all.")
    require(record.family, config.method, method.needs, offers(record.family, whole=record.protocol == "paper"))
    if "query" in method.needs and method.source() in {"auto", *CLIPS}:
        loading.check_query(record, config.method, method.source())
    if config.budget:  # of a dynamic model, for the largest picture: what can be had there can be had everywhere
        plans.plan(method, count, visual, loading.layers(record))
    return method


def per_tile(record: Backbone, budget: str) -> str:
    """What a configuration's budget means for each tile: LLaVA-NeXT's 320 are 64 on each of 5. UserError for what cannot be
    divided."""
    if record.tiles == 1 or not budget.isdecimal():
        return budget
    if int(budget) % record.tiles or not int(budget):
        near = max(1, round(int(budget) / record.tiles)) * record.tiles
        raise UserError(f"A budget of '{record.id}' is spread over {record.tiles} tiles: give a multiple, such as {near}.")
    return str(int(budget) // record.tiles)


def choose_device(wanted: str) -> str:
    """'auto' is the first GPU where there is one, 'all' spreads the model over all. UserError for one that is not there."""
    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if wanted == loading.ALL_GPUS and torch.cuda.is_available():
        return wanted
    try:
        device = torch.device(wanted)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError):
        gpus = torch.cuda.device_count()
        raise UserError(f"--device '{wanted}' is not a device here: use auto, cpu, cuda or all (GPUs seen: {gpus}).") from None
    return device.type if device.type == "cpu" else str(device)


def device_of(wanted: str, ranks: Ranks) -> str:
    """The device of one of several processes on a computer: a GPU each, where there are some. UserError for too few of them."""
    if ranks.beside == 1:
        return wanted
    if wanted == loading.ALL_GPUS:
        raise UserError(
            f"--device all spreads one process over all GPUs, and there are {ranks.beside} here: start one on each computer."
        )
    if wanted not in ("auto", "cuda") or not torch.cuda.is_available():
        return wanted
    if ranks.beside > (gpus := torch.cuda.device_count()):
        raise UserError(f"{ranks.beside} processes on this computer, and {gpus} GPU(s): torchrun --nproc-per-node {gpus}.")
    return f"cuda:{ranks.local}"


def choose_dtype(wanted: str, device: str) -> str:
    """'auto' is float32 on a CPU, bfloat16 on a GPU."""
    return wanted if wanted != "auto" else "float32" if device == "cpu" else "bfloat16"
