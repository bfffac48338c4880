"""The suite finds what is wrong with a method, by the right law and in words that help."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest

from script_vlmeval import conformance
from script_vlmeval.conformance import EXAMPLES, MethodReport, loading
from script_vlmeval.conformance.report import block
from script_vlmeval.methods import METHODS, Method

FILE = Path(__file__).parent / "broken.py"
BROKEN = {  # method -> the law that must catch it, and what must be said
    "repeated": ("exact_count", "index 0 is kept 2 times"),
    "descending": ("exact_count", "do not ascend"),
    "short": ("exact_count", "asked for k=2 of N=4 tokens, it returned indices of shape (1, 1, 1)"),
    "beyond": ("exact_count", "index 4 does not exist, as N=4"),
    "central": ("batch_mates", "alone and in a batch of 3 differ in image 0, tile 0"),
    "trusting": ("nan_refused", "nan in visual.saliency went unnoticed"),
    "greedy": ("degenerate", "is kept"),
    "writing": ("inputs_left_alone", "changed visual.tokens in place"),
    "dice": ("deterministic", "torch.Generator seeded with `visual.seed`"),
    "louder": ("features_kept", "does not say `changes = True`"),
    "single": ("half_precision", "raised RuntimeError at broken.py"),
    "widened": ("half_precision", "went in as float16 and came back as float32"),
    "moody": ("nested", "budget 1 alone and taken from the order at budget 3"),
    "asking": ("no_question", "raised AttributeError at broken.py"),
    "unmasked": ("padding_has_no_say", "query_mask"),
    "pairing": ("random_examples", "indices of shape"),
}


@cache
def methods() -> dict[str, Method]:
    return {method.name: method for method, _ in loading.load(FILE)}


@cache
def report(name: str) -> MethodReport:
    return conformance.check_method(methods()[name], FILE, None, fuzz=EXAMPLES, model=False)


def test_the_file_is_all_that_is_tested():
    assert set(methods()) == {*BROKEN, "longest"}
    assert not set(methods()) & set(METHODS), "they must not stay registered"


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_method_is_caught_by_the_law_that_it_breaks(name: str):
    law, words = BROKEN[name]
    found = {f.law: f for f in report(name).laws.failures}
    assert law in found, f"only {sorted(found)}"
    assert words in found[law].explanation
    assert found[law].case is not None, "an example is shown"


@pytest.mark.parametrize("name", BROKEN)
def test_its_block_says_why_and_shows_an_example(name: str):
    text = "\n".join(block(report(name)))
    assert f"{name} ({FILE})" in text
    for part in ("FAILED", "the law: ", "but ", "smallest example: B=", "to repeat it: "):
        assert part in text


def test_a_sound_method_keeps_them_all():
    assert report("longest").ok
    assert not report("longest").laws.skipped


def test_random_examples_are_shrunk():
    """Three tiles are what it takes; everything else is as small as it can be."""
    case = next(f.case for f in report("pairing").laws.failures if f.law == "random_examples")
    assert (case.b, case.g, case.n, case.k, case.dtype, case.degenerate) == (1, 3, 2, 1, "float32", "none")


def test_around_a_model_a_broken_method_is_caught_too():
    found = conformance.check_method(methods()["central"], FILE, None, fuzz=0, model=True)
    assert "batch_equals_alone" in {f.law for f in found.around.failures}
    assert "keeps" in next(f.explanation for f in found.around.failures)


def test_the_code_of_an_example_makes_its_tensors():
    from script_vlmeval.conformance.cases import Case, build

    case = next(f.case for f in report("greedy").laws.failures if f.law == "degenerate")
    assert eval(case.code, {"Case": Case, "build": build}).shape == (case.b, case.g, case.n)
