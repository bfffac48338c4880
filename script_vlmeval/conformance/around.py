"""What every method must do around a model: the plan kept to the token, batches and padding without effect, nothing left behind.

A law takes a method and a subject whose budget the method can reach, see `reachable`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any, NoReturn, TypeAlias

import torch
from torch import Tensor

from ..errors import UserError
from ..families import family_of
from ..methods import Method, Reduced, Visual
from . import subjects
from .examine import NORMALISED
from .outcome import LawBroken, NotApplicable
from .subjects import Run, Subject, hooks, run

Law: TypeAlias = Callable[[Method, Subject], None]
LAWS: dict[str, Law] = {}


def law(function: Law) -> Law:
    """Register a law under its function's name."""
    LAWS[function.__name__] = function
    return function


def obstacle(method: Method, subject: Subject) -> str:
    """Why the method cannot run around this model; nothing where it can."""
    if missing := sorted(method.needs - (family := family_of(subject.model)).offers):
        return f"it needs {', '.join(missing)}, which {family.name} models do not give"
    if reachable(method, subject) is None:
        return f"none of the budgets below {subject.n} tokens can be reached"
    return ""


def reachable(method: Method, subject: Subject) -> Subject | None:
    """The subject with the first budget, from its own upwards, that the method's plan can reach with one image and with two; None
    where there is none."""
    for budget in range(subject.budget, subject.n):
        at = replace(subject, budget=budget)
        try:
            for images in (1, 2):
                sizes(method, at, images)
        except UserError:
            continue
        return at
    return None


def sizes(method: Method, subject: Subject, images: int = 1) -> list[int]:
    """Visual tokens of a sample with so many images that enter each layer, by the method's own plan."""
    apart = 1 if method.union else images  # sets that are planned for one by one
    together = images // apart
    plan, now, result = method.plan(together * subject.budget, together * subject.n, subject.layers), together * subject.n, []
    for layer in range(subject.layers):
        now = min(now, plan.get(layer, now))
        result.append(apart * now)
    return result


def dropping(method: Method, subject: Subject, images: int = 1) -> dict[int, int]:
    """Stage -> visual tokens of a sample from there on, for the stages that drop some."""
    entering = [images * subject.n, *sizes(method, subject, images)]
    return {i: now for i, (before, now) in enumerate(pairwise(entering)) if now < before}


def inside(method: Method, subject: Subject) -> bool:
    """Whether it drops tokens inside the language model."""
    return any(stage > 0 for stage in dropping(method, subject))


# -- comparing -------------------------------------------------------------------------------------------------------------------
def close(what: str, a: Tensor, b: Tensor) -> None:
    """LawBroken where logits differ by more than rounding."""
    if not torch.allclose(a, b, atol=2e-4, rtol=1e-4):
        raise LawBroken(f"{what}: logits differ by up to {(a - b).abs().max():.3g}")


def same_kept(what: str, a: dict[int, Tensor], b: dict[int, Tensor], hint: str = "") -> None:
    """LawBroken where other tokens are kept at some stage; the hint says what may be the reason."""
    if a.keys() != b.keys():
        raise LawBroken(f"{what}: tokens are dropped at stages {sorted(a)} and {sorted(b)}")
    for stage, keep in a.items():
        if not torch.equal(keep, b[stage]):
            i = (keep != b[stage]).flatten(1).any(1).nonzero()[0, 0]
            only = [
                sorted(set(x[i].flatten().tolist()) - set(y[i].flatten().tolist()))
                for x, y in ((keep, b[stage]), (b[stage], keep))
            ]
            now = f"at stage {stage}, image {int(i)} keeps {only[0]} once and {only[1]} instead the other time"
            raise LawBroken(f"{what}: {now}{hint}")


def equal(what: str, found: object, expected: object) -> None:
    if found != expected:
        raise LawBroken(f"{what}: {found}, not {expected}")


# -- laws ------------------------------------------------------------------------------------------------------------------------
@law
def same_bits_at_full_budget(method: Method, subject: Subject) -> None:
    """A budget of all visual tokens, or more, gives bit-identical logits."""
    prompts = [subject.prompt(1, 0), subject.prompt(1, 1)]
    full = run(subject, prompts, steps=2)
    for budget in (subject.n, subject.n + 5, "100pct"):
        pruned = run(subject, prompts, method, budget, steps=2)
        if not torch.equal(full.logits, pruned.logits) or pruned.kept:
            by = (full.logits - pruned.logits).abs().max()
            raise LawBroken(f"with a budget of {budget} for {subject.n} tokens the logits change by up to {by:.3g}")


@law
def plan_kept_exactly(method: Method, subject: Subject) -> None:
    """Each stage of the plan keeps exactly its number of tokens, of each of two images too."""
    for images, prompts in ((1, [subject.prompt(1, 0), subject.prompt(1, 1)]), (2, [subject.prompt(2, 1)])):
        kept = run(subject, prompts, method, steps=2).kept
        sets = 1 if method.union and images == 2 else 2
        planned = {stage: (sets, 1, k * len(prompts) // sets) for stage, k in dropping(method, subject, images).items()}
        equal("stage -> (images, tiles, tokens kept)", {stage: tuple(keep.shape) for stage, keep in kept.items()}, planned)


@law
def lengths_equal_the_plan(method: Method, subject: Subject) -> None:
    """What enters each layer, and what its cache holds in the end, is the text and the planned visual tokens."""
    for images in (1, 2):
        prompts = [subject.prompt(images, 0), subject.prompt(images, 3)]
        out = run(subject, prompts, method, steps=4)
        text = [len(p.ids) - images * subject.n for p in prompts]
        visual = sizes(method, subject, images)
        equal(f"tokens entering each layer, {images} image(s)", out.lengths, [max(text) + v for v in visual])
        equal(f"cache of each layer after 4 steps, {images} image(s)", out.cache, [max(text) + v + 3 for v in visual])
        assert out.entering is not None
        equal("real tokens of each row", out.entering.tolist(), [[t + v for t in text] for v in visual])


@law
def same_run_twice(method: Method, subject: Subject) -> None:
    """The same prompts give the same tokens and the same logits."""
    prompts = [subject.prompt(1, 0), subject.prompt(2, 1)]
    first, second = (run(subject, prompts, method, steps=2) for _ in range(2))
    same_kept("two runs on the same prompts", first.kept, second.kept)
    if not torch.equal(first.logits, second.logits):
        raise LawBroken("two runs on the same prompts keep the same tokens with different logits")


@law
def batch_equals_alone(method: Method, subject: Subject) -> None:
    """Three prompts in a batch, one with two images, are answered as each alone."""
    prompts = [subject.prompt(1, 0), subject.prompt(2, 1), subject.prompt(1, 3)]
    together, alone = run(subject, prompts, method, steps=3), [run(subject, [p], method, steps=3) for p in prompts]
    same_kept("in a batch and alone", together.kept, _stacked(alone), f"; {NORMALISED}")
    close("in a batch and alone", together.logits, torch.cat([a.logits for a in alone]))


def _stacked(runs: list[Run]) -> dict[int, Tensor]:
    stages = sorted({stage for r in runs for stage in r.kept})
    return {stage: subjects.stacked([r.kept[stage] for r in runs if stage in r.kept]) for stage in stages}


@law
def left_padding_has_no_say(method: Method, subject: Subject) -> None:
    """Padding on the left changes neither the kept tokens nor the answer."""
    plain, padded = (run(subject, [subject.prompt(1, 2)], method, steps=3, extra=extra) for extra in (0, 7))
    same_kept("without and with 7 columns of padding", plain.kept, padded.kept)
    close("without and with 7 columns of padding", plain.logits, padded.logits)


@law
def no_image(method: Method, subject: Subject) -> None:
    """A prompt without an image is answered as without pruning: bit for bit among its like, and beside images too."""
    plain = [subject.prompt(0, 0), subject.prompt(0, 1)]
    full, pruned = run(subject, plain, steps=2), run(subject, plain, method, steps=2)
    if not torch.equal(full.logits, pruned.logits):
        raise LawBroken(f"without an image the logits change by up to {(full.logits - pruned.logits).abs().max():.3g}")
    mixed = run(subject, [subject.prompt(1, 0), plain[1], subject.prompt(2, 2)], method, steps=2)
    close("a prompt without an image, alone and beside others", run(subject, plain[1:], steps=2).logits, mixed.logits[1:2])
    close("two images, alone and beside others", run(subject, [subject.prompt(2, 2)], method, steps=2).logits, mixed.logits[2:])


@law
def entered_again(method: Method, subject: Subject) -> None:
    """The context can be entered again, with the same answers, and after each time nothing is pruned."""
    prompts = [subject.prompt(1, 0)]
    inputs, context, full = subjects.collate(prompts), subjects.context(subject, prompts, method), run(subject, prompts)
    answers = list[Tensor]()
    for _ in range(2):
        with torch.no_grad(), context:
            answers += [subject.model(**inputs).logits[:, -1] for _ in range(2)]
        if not torch.equal(run(subject, prompts).logits, full.logits):
            raise LawBroken("outside the context the model answers differently")
    if not all(torch.equal(answers[0], answer) for answer in answers[1:]):
        raise LawBroken("the same prompt is answered differently when the context is entered again")


@law
def cached_equals_recomputed(method: Method, subject: Subject) -> None:
    """Decoding from the shortened cache equals reading everything anew at each step, where that is possible."""
    prompts = [subject.prompt(1, 0), subject.prompt(1, 1)]
    if inside(method, subject):
        try:
            run(subject, prompts, method, steps=3, use_cache=False)
        except UserError:
            raise NotApplicable("it drops tokens inside the language model, which is refused without a cache") from None
        raise LawBroken("it drops tokens inside the language model and was not refused without a cache")
    cached, anew = (run(subject, prompts, method, steps=6, use_cache=use) for use in (True, False))
    same_kept("with and without a cache", cached.kept, anew.kept)
    close("with and without a cache", cached.logits, anew.logits)


@law
def not_finite_refused(method: Method, subject: Subject) -> None:
    """NaN or infinity in the visual tokens ends the run with a UserError, and no hook stays."""
    _acting(method, subject)
    before = hooks(subject.model)
    for value in (float("nan"), float("inf")):
        with subjects.spoiled(subject.model, value):
            try:
                run(subject, [subject.prompt(1, 0)], method)
            except UserError as error:
                if "NaN or infinity" not in str(error):
                    raise LawBroken(f"{value} in the visual tokens was refused for another reason: {error}") from error
            else:
                raise LawBroken(f"{value} in the visual tokens went unnoticed")
        equal("hooks after the refusal", hooks(subject.model), before)


def _acting(method: Method, subject: Subject) -> None:
    if not dropping(method, subject):
        raise NotApplicable("it drops nothing")


@law
def nothing_left_behind(method: Method, subject: Subject) -> None:
    """The model has the same hooks and answers after pruning, after an exception in it, and after a method that fails."""
    prompts = [subject.prompt(1, 0)]
    full = run(subject, prompts)  # transformers installs hooks of its own at the first call
    before, attention = hooks(subject.model), subject.model.config.text_config._attn_implementation
    run(subject, prompts, method, steps=2)
    equal("hooks after pruning", hooks(subject.model), before)
    for fails in (_interrupted, _failing):
        fails(method, subject)
        equal("hooks after an exception", hooks(subject.model), before)
    equal("the attention kernel", subject.model.config.text_config._attn_implementation, attention)
    if not torch.equal(run(subject, prompts).logits, full.logits):
        raise LawBroken("after pruning, the model answers differently without it")


class _OnTheWayError(Exception):
    pass


def _interrupted(method: Method, subject: Subject) -> None:
    """An exception inside the context."""
    try:
        with subjects.context(subject, [subject.prompt(1, 0)], method):
            raise _OnTheWayError
    except _OnTheWayError:
        return


def _failing(method: Method, subject: Subject) -> None:
    """An exception inside the method itself."""
    if not any(dropping(method, subject).values()):  # nothing is dropped, or everything, without asking the method
        return
    try:
        run(subject, [subject.prompt(1, 0)], with_reduce(method, _raise))
    except _OnTheWayError:
        return
    raise LawBroken("an exception inside the method did not come out")


def _raise(self: Method, visual: Visual, k: int) -> NoReturn:
    raise _OnTheWayError


def with_reduce(method: Method, reduce: Callable[[Any, Visual, int], Reduced]) -> Method:
    """The same method, with its parameters, but for `reduce`."""
    cls = type(method)
    changed: Method = object.__new__(type(cls.__name__, (cls,), {"reduce": reduce}, register=False))
    changed.__dict__.update(method.__dict__)
    return changed
