"""What a family offers, and what happens to a method that needs more."""

from __future__ import annotations

from dataclasses import replace

import pytest

from script_vlmeval import families
from script_vlmeval.cli import main
from script_vlmeval.errors import UserError
from script_vlmeval.methods import catalogue
from script_vlmeval.offers import OFFERS
from script_vlmeval.runtime import Runtime


def test_llava_serves_every_method():
    for method in catalogue().values():
        families.FAMILIES["llava"].require(method.name, method.needs)


def test_what_is_missing_and_what_would_work_are_named():
    poor = replace(families.FAMILIES["llava"], offers=frozenset({"seed", "keys", "query"}))
    with pytest.raises(UserError) as refused:
        poor.require("scope", {"saliency", "encoded"})
    said = str(refused.value)
    assert "'scope' needs encoded, saliency, which llava models do not give" in said
    working = said.partition("Methods that work: ")[2].rstrip(".").split(", ")
    assert {"random", "cdpruner", "divprune", "script"} <= set(working)
    assert not {"scope", "fastervlm", "trim", "dart"} & set(working)


def test_it_is_refused_before_anything_is_loaded(tmp_path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setitem(OFFERS, "llava", (frozenset({"seed"}), frozenset()))
    monkeypatch.setattr(Runtime, "load", lambda *_, **__: pytest.fail("the model was loaded"))
    work_dir = tmp_path / "results"
    argv = ["--model", "tiny_random_16", "tiny_fastervlm_16", "--data", "ShapesVQA", "--limit", "4", "--work-dir", str(work_dir)]
    assert main([*argv, "--quiet"]) == 2
    assert "'fastervlm' needs saliency" in capsys.readouterr().err
    assert not work_dir.exists()
