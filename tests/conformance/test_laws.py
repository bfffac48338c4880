"""The laws of a pruning method, for every registered one: on tensors alone, and around a random and a trained LLaVA.

The laws are the package's (`conformance/laws.py`, `conformance/around.py`), where a new method joins by being registered. A law
that does not apply to a method says so by skipping.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields

import models
import pytest

from script_vlmeval.conformance import EXAMPLES, around, check_law, laws
from script_vlmeval.conformance.cases import Case, build
from script_vlmeval.conformance.fuzz import fuzz
from script_vlmeval.conformance.outcome import NotApplicable
from script_vlmeval.methods import METHODS, Method, Visual, catalogue, get_method, sources
from script_vlmeval.tiny import ASSETS

NAMES = sorted(catalogue())
SUBJECTS: dict[str, Callable[..., models.Subject]] = {"random": models.random_llava, "trained": models.trained_llava}

pytestmark = pytest.mark.filterwarnings("ignore:no question text")


@pytest.fixture(params=NAMES)
def method(request: pytest.FixtureRequest) -> Method:
    return get_method(request.param)


def test_the_suite_covers_what_is_registered():
    """Methods that tests define for themselves must not stay behind."""
    assert sorted(METHODS) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_file_is_called_like_its_method(name: str):
    """Otherwise a result's fingerprint would not notice that the method was edited."""
    assert sources(name)


def test_a_method_is_given_what_it_declares_and_what_comes_with_it():
    given = {f.name for f in fields(Visual) if getattr(build(Case(), {"query", "layer_keys"}), f.name) is not None}
    assert given == {"tokens", "grid", "sign", "shown", "tiles", "query", "query_mask", "layer_keys", "text_keys"}


@pytest.mark.parametrize("name", ["tokens", "keys", "query", "saliency", "attention", "encoded", "encoder_keys", "layer_keys"])
def test_images_differ_in_scale_and_offset(name: str):
    """So that statistics over the batch are those of none of its images."""
    x = getattr(build(Case(b=3, grid=(5, 5))), name).flatten(1)
    low, scale = x.mean(1), x.std(1)
    assert bool((low.diff().abs() > 0.1).all())
    assert bool((scale[1:] > 1.1 * scale[:-1]).all())
    assert name not in ("saliency", "attention") or bool((x >= 0).all())


@contextmanager
def skipping() -> Iterator[None]:
    try:
        yield
    except NotApplicable as reason:
        pytest.skip(str(reason))


@pytest.mark.parametrize("law", laws.LAWS)
def test_law_on_tensors(method: Method, law: str):
    with skipping():
        check_law(law, method)


def test_laws_on_random_tensors(method: Method):
    """A part of what `run.py conformance` tries: the same cases each time, so that more of them prove little here."""
    tried, broken = fuzz(method, EXAMPLES // 4)
    assert broken is None, f"{broken} ({broken.case})"
    assert tried >= EXAMPLES // 4


@pytest.fixture(params=sorted(SUBJECTS))
def subject(request: pytest.FixtureRequest, method: Method) -> models.Subject:
    if request.param == "trained" and not (ASSETS / "config.json").is_file():
        pytest.skip(f"the embedded model is not in {ASSETS}")
    subject = SUBJECTS[request.param]()
    if why := around.obstacle(method, subject):
        pytest.skip(why)
    reached = around.reachable(method, subject)
    assert reached is not None
    return reached


@pytest.mark.parametrize("law", around.LAWS)
def test_law_around_a_model(method: Method, subject: models.Subject, law: str):
    with skipping():
        around.LAWS[law](method, subject)
