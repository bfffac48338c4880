"""What every method must do with any tensors, as functions of a method and a case that raise `LawBroken` in plain words.

That tiles are independent of each other is no law: relevance may be normalised over a whole image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any, TypeAlias

import torch
from torch import Tensor

from ..errors import UserError
from ..methods import Method, Reduced, Visual
from .cases import DEGENERATE, UNASKED, Case, build, rows, tensors
from .outcome import LawBroken, NotApplicable, explained

Law: TypeAlias = Callable[[Method, Case], None]
LAWS: dict[str, Law] = {}


def law(function: Law) -> Law:
    """Register a law under its function's name."""
    LAWS[function.__name__] = function
    return function


# -- asking a method -------------------------------------------------------------------------------------------------------------
def ask(method: Method, visual: Visual, k: int) -> Reduced:
    """`method(visual, k)`; where the result is malformed, LawBroken says in what."""
    seen, k_seen = method.guarded(visual, k)
    if k_seen < seen.shape[2]:
        if type(method).reduce is Method.reduce:  # before anything is gathered with them
            _examine_keep(seen, k_seen, method.select(seen, k_seen))
        reduced = method.reduce(seen, k_seen)
        _examine_keep(seen, k_seen, reduced.keep)
        _examine_tokens(seen, k_seen, reduced.tokens)
    return method(visual, k)


def _examine_keep(visual: Visual, k: int, keep: Tensor) -> None:
    """k different, ascending indices below N, any number of -1 at the end."""
    b, g, n = visual.shape
    if tuple(keep.shape) != (b, g, k):
        raise LawBroken(f"asked for k={k} of N={n} tokens, it returned indices of shape {tuple(keep.shape)}, not {(b, g, k)}")
    if keep.dtype != torch.long:
        raise LawBroken(f"its indices are {_short(keep.dtype)}, not int64")
    for index in keep.flatten(0, 1).tolist():
        if complaint := _complaint(index, n):
            raise LawBroken(f"{complaint}: it kept {_listed(index)}")


def _examine_tokens(visual: Visual, k: int, tokens: Tensor) -> None:
    """Finite features, as many as asked for, in the tokens' own precision."""
    expected = (*visual.shape[:2], k, visual.tokens.shape[-1])
    if tuple(tokens.shape) != expected:
        raise LawBroken(f"its features have shape {tuple(tokens.shape)}, not {expected}")
    if tokens.dtype != visual.tokens.dtype:
        raise LawBroken(f"tokens went in as {_short(visual.tokens.dtype)} and came back as {_short(tokens.dtype)}")
    if not bool(torch.isfinite(tokens).all()):
        raise LawBroken("the features that it returned hold NaN or infinity, though none went in")


def _complaint(index: Sequence[int], n: int) -> str:
    """What is wrong with the kept indices of one tile; nothing where they are well formed."""
    real = [i for i in index if i >= 0]
    if min(index) < -1:
        return f"index {min(index)} is negative (-1 alone is allowed, for a token without a place)"
    if max(index) >= n:
        return f"index {max(index)} does not exist, as N={n}"
    if len(set(real)) < len(real):
        twice = next(i for i in real if real.count(i) > 1)
        return f"index {twice} is kept {real.count(twice)} times"
    if list(index) != [*sorted(real), *[-1] * (len(index) - len(real))]:
        return "the indices do not ascend (with -1 at the end)" if -1 in index else "the indices do not ascend"
    return ""


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _listed(index: Sequence[int] | Tensor) -> str:
    values = list(index.tolist() if isinstance(index, Tensor) else index)
    return f"{values}" if len(values) <= 12 else f"[{', '.join(map(str, values[:12]))}, ...]"


def _differ(ours: Tensor, theirs: Tensor) -> str:
    """The first tile in which two selections differ."""
    b, g = (ours != theirs).any(-1).nonzero()[0].tolist()
    return f"image {b}, tile {g}: {_listed(ours[b, g])} and {_listed(theirs[b, g])}"


def _budgets(case: Case) -> list[int]:
    """Below N, from one token to all but one."""
    return sorted({k for k in (1, case.k, case.n - 1) if 1 <= k < case.n})


# -- how many, and which -----------------------------------------------------------------------------------------------------
@law
def exact_count(method: Method, case: Case) -> None:
    """Exactly k distinct tokens in ascending order, with features in the tokens' own precision."""
    for k in _budgets(case):
        with explained(at := replace(case, k=k)):
            ask(method, build(at), k)


@law
def everything(method: Method, case: Case) -> None:
    """A budget of N tokens or more changes nothing, bit for bit."""
    for k in (case.n, case.n + 1, 10_000):
        with explained(at := replace(case, k=k)):
            visual = build(at)
            seen, reduced = method.guarded(visual, k)[0], method(visual, k)
            if not torch.equal(reduced.tokens, seen.tokens):
                raise LawBroken(f"with a budget of {k} for N={case.n} tokens it changed their features")
            if not torch.equal(reduced.keep, torch.arange(seen.shape[2]).expand(seen.shape)):
                raise LawBroken(f"with a budget of {k} for N={case.n} tokens it kept {_listed(reduced.keep[0, 0])}")


@law
def nothing_refused(method: Method, case: Case) -> None:
    """A budget below 1 is refused with a UserError."""
    for k in (0, -1):
        with explained(at := replace(case, k=k)):
            try:
                method(build(at), k)
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
            _same_features(method.guarded(build(at), k)[0], ask(method, build(at), k))


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


# -- the same again -----------------------------------------------------------------------------------------------------------
@law
def deterministic(method: Method, case: Case) -> None:
    """The same input gives the same tokens, whatever was drawn elsewhere, and nobody else's random numbers are moved."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        before = torch.get_rng_state()
        first = ask(method, build(case), case.k)
        moved = not torch.equal(before, torch.get_rng_state())
        torch.manual_seed(1)
        again = ask(method, build(case), case.k)
    hint = "; draw from a torch.Generator seeded with `visual.seed`"
    if not torch.equal(first.keep, again.keep):
        raise LawBroken(f"two runs on the same input differ in {_differ(first.keep, again.keep)}{hint if moved else ''}")
    if not torch.equal(first.tokens, again.tokens):
        raise LawBroken(f"two runs on the same input keep the same tokens with different features{hint if moved else ''}")
    if moved:
        raise LawBroken(f"it draws from torch's global random numbers{hint}")


@law
def inputs_left_alone(method: Method, case: Case) -> None:
    """No tensor that the method is given is changed."""
    visual, untouched = build(case), tensors(build(case))
    ask(method, visual, case.k)
    for name, x in tensors(visual).items():
        if not torch.equal(x, untouched[name]):
            raise LawBroken(f"it changed visual.{name} in place: the next method would see something else")


@law
def batch_mates(method: Method, case: Case) -> None:
    """An image's tokens do not depend on the images beside it, nor on their order."""
    case = replace(case, b=3)
    visual = build(case)
    with explained(case):
        together = ask(method, visual, case.k)
        for b in range(case.b):
            alone = ask(method, rows(visual, [b]), case.k)
            if not torch.equal(alone.keep[0], together.keep[b]):
                found = _differ(alone.keep, together.keep[b : b + 1])
                raise LawBroken(
                    f"image {b} alone and in a batch of {case.b} differ in {found}; is something normalised over all?"
                )
            rounding = max(1e-4, 4 * torch.finfo(visual.tokens.dtype).eps)  # merged features are products of the batch
            if not torch.allclose(alone.tokens[0].float(), together.tokens[b].float(), rtol=rounding, atol=rounding / 10):
                raise LawBroken(f"image {b} alone and in a batch of {case.b} has the same tokens with different features")
        order = [2, 0, 1]
        swapped = ask(method, rows(visual, order), case.k)
        if not torch.equal(swapped.keep, together.keep[order]):
            raise LawBroken(f"in another order of the batch: {_differ(swapped.keep, together.keep[order])}")


@law
def padding_has_no_say(method: Method, case: Case) -> None:
    """Rows of the question or the text that the mask calls padding change nothing."""
    plain, other = build(case), build(replace(case, seed=case.seed + 1))
    changed: dict[str, Any] = {}
    for name, mask in (("query", plain.query_mask), ("text", plain.text_mask), ("text_keys", plain.text_mask)):
        assert mask is not None
        changed[name] = torch.where(mask[..., None], getattr(plain, name), 100 * getattr(other, name))
    ours, theirs = ask(method, plain, case.k), ask(method, replace(plain, **changed), case.k)
    if not torch.equal(ours.keep, theirs.keep):
        found = _differ(ours.keep, theirs.keep)
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
        visual = method.guarded(build(case), 1)[0]
        budgets = [k * (visual.shape[2] // case.n) for k in budgets]
        several = method.select_many(visual, budgets)
        for k, keep in zip(budgets, several, strict=True):
            if not torch.equal(alone := method.select(visual, k), keep):
                raise LawBroken(f"budget {k} alone and taken from the order at budget {max(budgets)}: {_differ(alone, keep)}")
        for small, large in pairwise(several):
            if not bool((small[..., :, None] == large[..., None, :]).any(-1).all()):
                raise LawBroken(f"budget {small.shape[-1]} keeps tokens that budget {large.shape[-1]} does not")


# -- what may come in ---------------------------------------------------------------------------------------------------------
@law
def nan_refused(method: Method, case: Case) -> None:
    """NaN or infinity in the tokens, or in another field that the method reads, is a UserError, never a selection."""
    for name in ("tokens", *sorted(method.needs)):
        for value in (float("nan"), float("inf"), -float("inf")):
            visual = build(case)
            spoiled = getattr(visual, name)
            if not isinstance(spoiled, Tensor) or not spoiled.is_floating_point():
                continue
            spoiled[(0,) * spoiled.ndim] = value
            _must_refuse(method, visual, case, ("nan", "inf", "finite"), f"{value} in visual.{name}")


def _must_refuse(method: Method, visual: Visual, case: Case, words: Sequence[str], what: str) -> None:
    """UserError whose message has one of the words."""
    try:
        kept = method(visual, case.k).keep
    except UserError as error:
        if any(word in str(error).lower() for word in words):
            return
        raise LawBroken(f"{what} was refused for another reason: {error}", case) from error
    except Exception as error:
        raise LawBroken(f"{what} raised {type(error).__name__}, not a UserError: {error}", case) from error
    raise LawBroken(
        f"{what} went unnoticed: it kept {_listed(kept[0, 0])}; `base.require_finite(x, what)` refuses such values", case
    )


@law
def missing_named(method: Method, case: Case) -> None:
    """A field that the method needs and is not there is named in a UserError. The question may always be missing."""
    for name in sorted(method.needs - {"query", "attention"}):
        without: dict[str, Any] = {name: None}
        _must_refuse(method, replace(build(case), **without), case, (name,), f"no visual.{name}")


@law
def no_question(method: Method, case: Case) -> None:
    """Without a question, for the batch or for one of its rows, it still keeps k distinct tokens."""
    for name in UNASKED:
        with explained(at := replace(case, degenerate=name)):
            ask(method, build(at), case.k)


@law
def degenerate(method: Method, case: Case) -> None:
    """Identical, zero, parallel or tied features still give exactly k distinct tokens."""
    for name in DEGENERATE:
        for k in _budgets(case):
            with explained(at := replace(case, degenerate=name, k=k)):
                ask(method, build(at), k)


@law
def half_precision(method: Method, case: Case) -> None:
    """float16 and bfloat16 are accepted, and the features come back in that precision."""
    for dtype in ("float16", "bfloat16"):
        for measured in (False, True):
            with explained(at := replace(case, dtype=dtype, measured=measured)):
                ask(method, build(at), case.k)
