"""What every method must do with any tensors, as functions of a method and a case that raise `LawBroken` in plain words.

That tiles are independent of each other is no law: relevance may be normalised over a whole image.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any, TypeAlias

import torch
from torch import Tensor

from ..errors import UserError
from ..methods import Method, Reduced, Visual
from ..plans import layer_mean
from .cases import DEGENERATE, UNASKED, Case, build, declared, optional, rows, tensors
from .examine import NORMALISED, ask, differ, listed
from .outcome import LawBroken, NotApplicable, explained, first_line

Law: TypeAlias = Callable[[Method, Case], None]
LAWS: dict[str, Law] = {}
_NOT_FINITE = ("nan", "nans", "inf", "infs", "infinite", "infinity", "finite", "nonfinite")
_REFUSES = "; `base.require_finite(x, what)` refuses such values"
_DRAWS = 4  # batches that are tried: one alone may hide what mates change


def law(function: Law) -> Law:
    """Register a law under its function's name."""
    LAWS[function.__name__] = function
    return function


def _budgets(case: Case) -> list[int]:
    """Below N, from one token to all but one."""
    return sorted({k for k in (1, case.k, case.n - 1) if 1 <= k < case.n})


# -- what it says of itself --------------------------------------------------------------------------------------------------
@law
def declares_what_it_reads(method: Method, case: Case) -> None:
    """Every optional field of Visual that it reads is listed in `needs`: around a model, the others are None."""
    every = build(case)
    if (error := _fails(method, declared(every, method.needs), case.k)) is None or _fails(method, every, case.k) is not None:
        return  # what fails with every field there is for other laws to explain
    read = optional() - method.needs
    for name in sorted(read):
        if _fails(method, declared(every, method.needs | read - {name}), case.k) is None:
            read -= {name}
    fields = " and ".join(f"visual.{name}" for name in sorted(read))
    raise LawBroken(f"it reads {fields}, which `needs` does not list: add {'it' if len(read) == 1 else 'them'} ({error})")


def _fails(method: Method, visual: Visual, k: int) -> str | None:
    """What it raises, in a line."""
    try:
        method(visual, k)
    except Exception as error:
        return f"where it is None, {type(error).__name__}: {first_line(error)}"
    return None


# -- how many, and which -----------------------------------------------------------------------------------------------------
@law
def exact_count(method: Method, case: Case) -> None:
    """Exactly k distinct tokens in ascending order, with features in the tokens' own precision."""
    for k in _budgets(case):
        with explained(at := replace(case, k=k)):
            ask(method, build(at, method.needs), k)


@law
def everything(method: Method, case: Case) -> None:
    """A budget of N tokens or more changes nothing, bit for bit."""
    for k in (case.n, case.n + 1, 10_000):
        with explained(at := replace(case, k=k)):
            visual = build(at, method.needs)
            seen, reduced = method.guarded(visual, k)[0], method(visual, k)
            if not torch.equal(reduced.tokens, seen.tokens):
                raise LawBroken(f"with a budget of {k} for N={case.n} tokens it changed their features")
            if not torch.equal(reduced.keep, torch.arange(seen.shape[2]).expand(seen.shape)):
                raise LawBroken(f"with a budget of {k} for N={case.n} tokens it kept {listed(reduced.keep[0, 0])}")


@law
def nothing_refused(method: Method, case: Case) -> None:
    """A budget below 1 is refused with a UserError."""
    for k in (0, -1):
        with explained(at := replace(case, k=k)):
            try:
                method(build(at, method.needs), k)
            except UserError:
                continue
            raise LawBroken(f"a budget of {k} was accepted: it must be a UserError")


@law
def features_kept(method: Method, case: Case) -> None:
    """A token that keeps its place keeps its features, unless the method says that it `changes` them."""
    if method.changes:
        raise NotApplicable("it says that it changes features")
    for k in _budgets(case):
        with explained(at := replace(case, k=k)):
            _same_features(method.guarded(build(at, method.needs), k)[0], ask(method, build(at, method.needs), k))


def _same_features(visual: Visual, reduced: Reduced) -> None:
    original = visual.tokens.gather(2, reduced.keep.clamp_min(0)[..., None].expand_as(reduced.tokens))
    changed = ((reduced.tokens != original) & (reduced.keep >= 0)[..., None]).any(-1)
    if bool(changed.any()):
        b, g, i = changed.nonzero()[0].tolist()
        by = (reduced.tokens[b, g, i].float() - original[b, g, i].float()).abs().max().item()
        raise LawBroken(
            f"the features of token {int(reduced.keep[b, g, i])} changed by up to {by:.3g}, and the class does not say "
            "`changes = True`; a merged token that stands for no single place has index -1"
        )


@law
def budget_kept_over_layers(method: Method, case: Case) -> None:
    """Its plan reads, on average over the layers, no more visual tokens than the budget says, or refuses the budget."""
    tried = 0
    for n, layers in ((case.n, 4), (144, 6), (576, 32), (1000, 28)):
        for budget in sorted({1, n // 9, n // 3, n // 2, n - 1, n} - {0}):
            try:
                planned = method.plan(budget, n, layers)
            except UserError:
                continue
            tried += 1
            if (mean := layer_mean(planned, n, layers)) > budget and method.name != "full":
                raise LawBroken(
                    f"plan({budget}, {n}, {layers}) is {planned}: a mean of {mean:.1f} visual tokens over the layers, which is "
                    "more; with one stage at layer K the budget is kept by {K: (budget * layers - K * n) // (layers - K)}"
                )
    if not tried:
        raise NotApplicable("it refuses every budget that was tried")


# -- the same again -----------------------------------------------------------------------------------------------------------
@law
def deterministic(method: Method, case: Case) -> None:
    """The same input gives the same tokens, whatever was drawn elsewhere, and nobody else's random numbers are moved."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        before = torch.get_rng_state()
        first = ask(method, build(case, method.needs), case.k)
        moved = not torch.equal(before, torch.get_rng_state())
        torch.manual_seed(1)
        again = ask(method, build(case, method.needs), case.k)
    hint = "; draw from a torch.Generator seeded with `visual.seed`"
    if not torch.equal(first.keep, again.keep):
        raise LawBroken(f"two runs on the same input differ in {differ(first.keep, again.keep)}{hint if moved else ''}")
    if not torch.equal(first.tokens, again.tokens):
        raise LawBroken(f"two runs on the same input keep the same tokens with different features{hint if moved else ''}")
    if moved:
        raise LawBroken(f"it draws from torch's global random numbers{hint}")


@law
def inputs_left_alone(method: Method, case: Case) -> None:
    """No tensor that the method is given is changed."""
    visual, untouched = build(case, method.needs), tensors(build(case, method.needs))
    ask(method, visual, case.k)
    for name, x in tensors(visual).items():
        if not torch.equal(x, untouched[name]):
            raise LawBroken(f"it changed visual.{name} in place: the next method would see something else")


@law
def batch_mates(method: Method, case: Case) -> None:
    """An image's tokens do not depend on the images beside it, nor on their order."""
    for seed in range(case.seed, case.seed + _DRAWS):
        with explained(at := replace(case, b=3, seed=seed)):
            _same_beside_others(method, at)


def _same_beside_others(method: Method, case: Case) -> None:
    visual = build(case, method.needs)
    together = ask(method, visual, case.k)
    for b in range(case.b):
        alone = ask(method, rows(visual, [b]), case.k)
        if not torch.equal(alone.keep[0], together.keep[b]):
            found = differ(alone.keep, together.keep[b : b + 1])
            raise LawBroken(f"image {b} alone and in a batch of {case.b} differ in {found}; {NORMALISED}")
        rounding = max(1e-4, 4 * torch.finfo(visual.tokens.dtype).eps)  # merged features are products of the batch
        if not torch.allclose(alone.tokens[0].float(), together.tokens[b].float(), rtol=rounding, atol=rounding / 10):
            raise LawBroken(f"image {b} alone and in a batch of {case.b} has the same tokens with different features")
    order = [2, 0, 1]
    swapped = ask(method, rows(visual, order), case.k)
    if not torch.equal(swapped.keep, together.keep[order]):
        raise LawBroken(f"in another order of the batch: {differ(swapped.keep, together.keep[order])}")


@law
def padding_has_no_say(method: Method, case: Case) -> None:
    """Rows of the question or the text that the mask calls padding change nothing."""
    plain, other = build(case), build(replace(case, seed=case.seed + 1))
    changed: dict[str, Any] = {}
    of_text = dict.fromkeys(("text", "text_keys", "text_given"), plain.text_mask)
    for name, mask in {"query": plain.query_mask, **of_text}.items():
        assert mask is not None
        changed[name] = torch.where(mask[..., None], getattr(plain, name), 100 * getattr(other, name))
    assert plain.text_mask is not None
    assert plain.text_attention is not None
    changed["text_attention"] = plain.text_attention.masked_fill(~plain.text_mask[:, None, None], 100.0)
    ours, theirs = (ask(method, declared(v, method.needs), case.k) for v in (plain, replace(plain, **changed)))
    if not torch.equal(ours.keep, theirs.keep):
        found = differ(ours.keep, theirs.keep)
        raise LawBroken(f"other values in rows that query_mask or text_mask calls padding change what is kept, in {found}")


@law
def nested(method: Method, case: Case) -> None:
    """Where one order serves all budgets, each budget gets what it would get alone, and a smaller one a part of a larger one."""
    if not method.nested:
        raise NotApplicable("it chooses anew at each budget")
    many_budgets(method, case)


def many_budgets(method: Method, case: Case) -> None:
    budgets = _budgets(case)
    with explained(case):
        visual = method.guarded(build(case, method.needs), 1)[0]
        budgets = [k * (visual.shape[2] // case.n) for k in budgets]
        several = method.select_many(visual, budgets)
        for k, keep in zip(budgets, several, strict=True):
            if not torch.equal(alone := method.select(visual, k), keep):
                raise LawBroken(f"budget {k} alone and taken from the order at budget {max(budgets)}: {differ(alone, keep)}")
        for small, large in pairwise(several):
            if not bool((small[..., :, None] == large[..., None, :]).any(-1).all()):
                raise LawBroken(f"budget {small.shape[-1]} keeps tokens that budget {large.shape[-1]} does not")


# -- what may come in ---------------------------------------------------------------------------------------------------------
@law
def nan_refused(method: Method, case: Case) -> None:
    """NaN or infinity in the tokens, or in another field that the method reads, is a UserError, never a selection."""
    for name in ("tokens", *sorted(method.needs)):
        for value in (float("nan"), float("inf"), -float("inf")):
            visual = build(case, method.needs)
            spoiled = getattr(visual, name)
            if not isinstance(spoiled, Tensor) or not spoiled.is_floating_point():
                continue
            spoiled[(0,) * spoiled.ndim] = value
            _must_refuse(method, visual, case, _NOT_FINITE, f"{value} in visual.{name}", _REFUSES)


def _must_refuse(method: Method, visual: Visual, case: Case, words: Sequence[str], what: str, hint: str = "") -> None:
    """UserError whose message has one of the words, as a word of its own."""
    try:
        kept = method(visual, case.k).keep
    except UserError as error:
        if re.search(rf"\b({'|'.join(words)})\b", str(error), re.IGNORECASE):
            return
        raise LawBroken(f"{what} was refused for another reason: {first_line(error)}", case) from error
    except Exception as error:
        raise LawBroken(f"{what} raised {type(error).__name__}, not a UserError: {first_line(error)}", case) from error
    raise LawBroken(f"{what} went unnoticed: it kept {listed(kept[0, 0])}{hint}", case)


@law
def missing_named(method: Method, case: Case) -> None:
    """A field that the method needs and is not there is named in a UserError. The question may always be missing."""
    for name in sorted(method.needs - {"query", "attention"}):
        without: dict[str, Any] = {name: None}
        _must_refuse(method, replace(build(case, method.needs), **without), case, (name,), f"no visual.{name}")


@law
def no_question(method: Method, case: Case) -> None:
    """Without a question, for the batch or for one of its rows, it still keeps k distinct tokens."""
    for name in UNASKED:
        with explained(at := replace(case, degenerate=name)):
            ask(method, build(at, method.needs), case.k)


@law
def degenerate(method: Method, case: Case) -> None:
    """Identical, zero, parallel or tied features still give exactly k distinct tokens."""
    for name in DEGENERATE:
        for k in _budgets(case):
            with explained(at := replace(case, degenerate=name, k=k)):
                ask(method, build(at, method.needs), k)


@law
def half_precision(method: Method, case: Case) -> None:
    """float16 and bfloat16 are accepted, and the features come back in that precision."""
    for dtype in ("float16", "bfloat16"):
        for measured in (False, True):
            with explained(at := replace(case, dtype=dtype, measured=measured)):
                ask(method, build(at, method.needs), case.k)
