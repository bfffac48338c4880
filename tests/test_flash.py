"""Pruning on transformers' flash-attention path gives what it gives on the others."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import flash
import models
import pytest
import torch
from models import N, random_prompt

from script_vlmeval.methods import get_method

STEPS = 4
PROMPTS = {
    "one": [random_prompt(1, 0)],
    "two images": [random_prompt(2, 1)],
    "padded": [random_prompt(1, 0), random_prompt(2, 3)],
    "equal lengths, unequal images": [random_prompt(1, 0, text=4 + N + 3), random_prompt(2, 1, text=4)],
}
METHODS: dict[str, tuple[str, dict[str, Any], int]] = {
    "before": ("divprune", {}, 5),
    "fastv": ("fastv", {"first_layer": 1}, 7),
    "sequential": ("seqprune", {"first_layer": 1, "step": 25}, 10),
    "its own layer": ("pyramiddrop", {}, 8),
    "text raters, merging": ("sparsevlm", {}, 10),
    "hybrid": ("cdpruner+fastv", {"first_layer": 1}, 4),
    "keys of the layer": ("dart", {"layer": 1}, 9),
}


@pytest.fixture(scope="module")
def subject() -> models.Subject:
    return models.Subject("flash", flash.through_flash(models.build("sdpa")), models.FakeQuery(), random_prompt, N, 5)


@pytest.mark.parametrize("batch", PROMPTS)
@pytest.mark.parametrize("name", METHODS)
def test_flash_attention_answers_as_sdpa_does(subject: models.Subject, name: str, batch: str):
    method, params, budget = METHODS[name]
    flash.CALLS.update(dense=0, packed=0)
    there, here = (
        models.run(s, PROMPTS[batch], get_method(method, **params), budget, steps=STEPS) for s in (subject, models.random_llava())
    )
    assert sum(flash.CALLS.values()) == models.LAYERS * STEPS
    assert there.tokens.tolist() == here.tokens.tolist()
    torch.testing.assert_close(there.logits, here.logits, atol=2e-4, rtol=1e-4)
    for stage, kept in here.kept.items():
        assert torch.equal(there.kept[stage], kept)
    assert there.cache == here.cache


def test_the_flash_path_without_pruning_is_the_model(subject: models.Subject):
    for prompts in PROMPTS.values():
        there, here = (models.run(s, prompts, steps=STEPS) for s in (subject, replace(models.random_llava())))
        torch.testing.assert_close(there.logits, here.logits, atol=2e-4, rtol=1e-4)
