"""The suite finds what is wrong with a method, by the right law and in words that help."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest

from script_vlmeval import conformance
from script_vlmeval.conformance import EXAMPLES, Case, MethodReport, Report, around, laws, loading
from script_vlmeval.conformance.outcome import Failure
from script_vlmeval.conformance.report import block, total
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
    "rescaled": ("batch_mates", "is something normalised over all?"),
    "undeclared": ("declares_what_it_reads", "it reads visual.saliency, which `needs` does not list: add it"),
    "secretive": ("declares_what_it_reads", "it reads visual.cls and visual.encoded, which `needs` does not list: add them"),
    "always": ("everything", "changed their features"),
    "lenient": ("nothing_refused", "a budget of 0 was accepted"),
    "careless": ("missing_named", "no visual.saliency went unnoticed"),
    "informing": ("nan_refused", "refused for another reason: no information on finances"),
    "hollow": ("exact_count", "its result was refused: NaN or infinity in the scores of 'hollow'"),
    "spendthrift": ("budget_kept_over_layers", "a mean of"),
    "chatty": ("exact_count", "raised ValueError at broken.py"),
}


@cache
def methods() -> dict[str, Method]:
    return {method.name: method for method, _ in loading.load(FILE)}


RANDOM = {
    "longest",
    "pairing",
    "dice",
    "chatty",
}  # sound, broken on them alone, changing its mind, crashing


@cache
def report(name: str) -> MethodReport:
    """The laws, and random examples of those to which they say what laws do not."""
    return conformance.check_method(methods()[name], FILE, None, fuzz=EXAMPLES * (name in RANDOM), model=False)


def test_the_file_is_all_that_is_tested():
    assert set(methods()) == {*BROKEN, "longest"}
    assert not set(methods()) & set(METHODS), "they must not stay registered"


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_method_is_caught_by_the_law_that_it_breaks(name: str):
    law, words = BROKEN[name]
    found = {f.law: f for f in report(name).failures}
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
    case = report("pairing").random.case
    assert (case.b, case.g, case.n, case.k, case.dtype, case.degenerate) == (1, 3, 2, 1, "float32", "none")


def test_around_a_model_a_broken_method_is_caught_too():
    found = conformance.check_method(methods()["central"], FILE, None, fuzz=0, model=True)
    assert "batch_equals_alone" in {f.law for f in found.around.failures}
    said = next(f.explanation for f in found.around.failures if f.law == "batch_equals_alone")
    assert "keeps" in said
    assert said.endswith("is something normalised over all?")


# -- what is said ----------------------------------------------------------------------------------------------------------------
def test_each_law_has_a_name_of_its_own():
    assert not set(around.LAWS) & set(laws.LAWS)


@pytest.mark.parametrize(
    ("name", "basic"), [("short", "exact_count"), ("dice", "deterministic"), ("secretive", "declares_what_it_reads")]
)
def test_where_a_basic_law_is_broken_the_others_are_named_only(name: str, basic: str):
    lines = block(report(name))
    assert [line for line in lines if line.startswith("  FAILED")] == [f"  FAILED {basic}"]
    assert f"    the law: {laws.LAWS[basic].__doc__}" in lines
    assert lines[-1].startswith("  likely echoes of the same fault: ")
    assert lines[-1].endswith(", not shown")
    assert len(report(name).failures) > 2, "they still count"


def test_every_method_is_held_to_the_same_number_of_laws():
    for name in ("longest", "short", "pairing"):
        checked = report(name).laws
        assert len(checked.passed) + len(checked.failures) + len(checked.skipped) == len(laws.LAWS)


def test_random_examples_are_no_law_and_are_counted_alike():
    good, bad = ("\n".join(block(report(name))) for name in ("longest", "pairing"))
    assert "random examples   100 tried, all hold" in good
    assert " tried, FAILED" in bad
    assert "16 passed" in good
    assert "15 passed; not applicable: nested" in bad, "no law of the ladder is broken"
    line = total(Report([report("longest"), report("pairing")]))
    assert "0 broken, 1 on random examples; " in line
    assert line.endswith("FAILED: pairing")


def test_the_plainest_example_is_shown():
    cases = [Case(dtype="float16"), Case(2, 2), Case(degenerate="all tokens are zero"), Case(1, 1, (3, 3)), Case(1, 1, (2, 3))]
    found = MethodReport("x", None)
    found.laws.failures = [Failure(f"law {i}", f"returned ({i}, 1, 2)", case) for i, case in enumerate(cases)]
    lines = block(found)
    assert "  FAILED law 0, law 1, law 2, law 3, law 4" in lines, "shapes apart, one finding"
    assert "    but returned (4, 1, 2)" in lines, "the reason is that of the example"
    assert "    smallest example: B=1 G=1 N=6 (2 x 3) k=2 float32" in lines


@pytest.mark.parametrize("name", ["chatty", "informing"])
def test_of_a_message_only_the_first_line_is_shown(name: str):
    text = "\n".join(block(report(name)))
    assert "second line" not in text
    assert all("\n" not in f.explanation for f in report(name).failures)


def test_a_malformed_result_is_no_refusal_of_the_input():
    found = conformance.check_method(methods()["short"], FILE, None, fuzz=0, model=True)
    said = [f.explanation for f in found.around.failures]
    assert any("its result was refused: 'short' returned" in text for text in said)
    assert not any("refused what it must accept" in text for text in said)


def test_the_code_of_an_example_makes_its_tensors():
    from script_vlmeval.conformance.cases import Case, build

    case = next(f.case for f in report("greedy").laws.failures if f.law == "degenerate")
    assert eval(case.code, {"Case": Case, "build": build}).shape == (case.b, case.g, case.n)
