"""After failures, on caches that were there before, and with drafts: what a second pass must not take from a first one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import models
import pytest
import qwen
import torch
from models import IMAGE, Prompt, random_prompt, since_5

from script_vlmeval import attention, plans
from script_vlmeval.errors import UserError
from script_vlmeval.families import Group
from script_vlmeval.methods import get_method
from script_vlmeval.plans import Plan

FASTV = get_method("fastv", first_layer=2)


class _OnTheWayError(Exception):
    pass


def test_a_pass_that_failed_on_its_way_to_the_kernel_leaves_nothing_to_the_next():
    """Between a layer's entry and its kernel, where queries and keys are listened for."""
    subject, prompts = models.random_llava(), [random_prompt(1, 0), random_prompt(1, 3)]
    inputs = models.collate(prompts)
    projection = subject.model.model.language_model.layers[1].self_attn.q_proj
    fails = [True]

    def once(*_: Any) -> None:
        if fails and fails.pop():
            raise _OnTheWayError

    with torch.no_grad():
        with models.context(subject, prompts, FASTV, 9):
            expected = subject.model(**inputs).logits[:, -1]
        handle = projection.register_forward_pre_hook(once)
        try:
            with models.context(subject, prompts, FASTV, 9):
                with pytest.raises(_OnTheWayError):
                    subject.model.generate(**inputs, max_new_tokens=1)
                assert subject.model.config.text_config._attn_implementation == "sdpa"
                assert not attention._LISTENERS
                again = subject.model(**inputs).logits[:, -1]
        finally:
            handle.remove()
    assert torch.equal(again, expected)


# -- drafts --------------------------------------------------------------------------------------------------------------------
def repeating() -> Prompt:
    """A prompt whose end occurred before, so that prompt lookup drafts at once."""
    prompt = random_prompt(1, 0)
    return replace(prompt, ids=(*prompt.ids, 10, 11, 12, 13, 14, 10, 11))


@since_5("fails in prompt lookup without an end token")
@pytest.mark.parametrize("name", ["fastv", "random"])
def test_drafts_in_the_first_pass_are_refused(name: str):
    subject, prompts = models.random_llava(), [repeating()]
    with (
        pytest.raises(UserError, match="Speculative decoding"),
        torch.no_grad(),
        models.context(subject, prompts, get_method(name), 9),
    ):
        subject.model.generate(**models.collate(prompts), max_new_tokens=5, prompt_lookup_num_tokens=3, do_sample=False)


@pytest.mark.parametrize("name", ["fastv", "divprune"])
def test_an_assistant_is_refused_in_plain_words(name: str):
    subject, prompts = models.random_llava(), [random_prompt(1, 0)]
    helper = models.build("sdpa", seed=1)
    with (
        pytest.raises(UserError, match="Speculative decoding"),
        torch.no_grad(),
        models.context(subject, prompts, get_method(name), 9),
    ):
        subject.model.generate(**models.collate(prompts), max_new_tokens=5, assistant_model=helper, do_sample=False)


# -- caches --------------------------------------------------------------------------------------------------------------------
def follow(subject: models.Subject, prompt: Prompt, cache: Any, new: int) -> None:
    ids = torch.tensor([[*prompt.ids, *[5] * (1 + new)]])
    subject.model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), past_key_values=cache, max_new_tokens=1, do_sample=False
    )


@pytest.mark.parametrize("name", ["fastv", "divprune", "script+fastv"])
@pytest.mark.parametrize("where", ["in the context", "in another context"])
def test_a_further_turn_on_a_pruned_cache_is_refused(name: str, where: str):
    subject, prompt = models.random_llava(), random_prompt(1, 0)
    method, budget = get_method(name, **({"first_layer": 1} if "fastv" in name else {})), 7
    with torch.no_grad():
        with models.context(subject, [prompt], method, budget):
            out = subject.model.generate(
                **models.collate([prompt]), max_new_tokens=2, do_sample=False, return_dict_in_generate=True
            )
            if where == "in the context":
                with pytest.raises(UserError, match=r"whole dialogue|prompt anew|further turns"):
                    follow(subject, prompt, out.past_key_values, 4)
        if where == "in another context":
            with pytest.raises(UserError, match="whole dialogue"), models.context(subject, [prompt], method, budget):
                follow(subject, prompt, out.past_key_values, 4)


def test_an_image_behind_a_text_that_was_read_before_is_refused():
    """The first piece holds nothing to prune; the second would go through unpruned."""
    subject, prompt = models.random_llava(), random_prompt(1, 0)
    start = prompt.ids.index(IMAGE)
    first, rest = (torch.tensor([ids]) for ids in (prompt.ids[:start], prompt.ids[start:]))
    with torch.no_grad(), models.context(subject, [prompt], FASTV, 9):
        cache = subject.model(input_ids=first, use_cache=True).past_key_values
        with pytest.raises(UserError, match="Visual tokens on a filled cache"):
            subject.model(input_ids=rest, pixel_values=prompt.pixels, past_key_values=cache, use_cache=True)


@since_5("cannot cut a prompt inside an image")
def test_chunked_prefill_is_refused_where_the_first_chunk_is_small():
    model, prompt = qwen.build(), qwen.prompt([(1, 8, 12)])
    with torch.no_grad(), pytest.raises(UserError), plain(model, get_method("divprune"), 9):
        model.generate(**qwen.collate([prompt]), max_new_tokens=1, prefill_chunk_size=8)


def plain(model: Any, method: Any, budget: Any) -> Any:
    from script_vlmeval.prune import pruning

    return pruning(model, method, budget)


# -- what a sample may read ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["fastv", "pyramiddrop", "sparsevlm", "random+fastv"])
def test_a_small_image_gives_its_unused_budget_to_nobody(name: str):
    model, prompt = qwen.build(), qwen.prompt([(1, 16, 12), (1, 4, 4)])  # 48 and 4 tokens
    method = get_method(name, **({"first_layer": 1} if "fastv" in name else {}))
    with torch.no_grad(), plain(model, method, 26) as trace:
        model(**qwen.collate([prompt]))
    text = len(prompt.ids) - 52
    assert sum(n - text for n in trace.lengths) <= 30 * qwen.LAYERS
    assert min(trace.lengths) - text < 30


def groups(frames: int, n: int) -> list[Group]:
    return [Group(torch.tensor([0]), torch.arange(frames * n).view(1, frames, n), (1, n))]


@pytest.mark.parametrize(
    ("method", "budget", "expected"),
    [
        (get_method("fastv", removed=0.1, first_layer=2, rounding="nearest"), None, {2: 36}),
        (get_method("fastv", first_layer=1), "30pct", {1: 2}),  # 12 of 40: the first of four layers reads all
        (get_method("seqprune", first_layer=1, step=50), "60pct", {1: 18}),
    ],
)
def test_frames_of_few_tokens_are_planned_for_together(method: Any, budget: str | None, expected: dict[int, int]):
    """Ten frames of four tokens are forty tokens, not ten roundings."""
    plan = Plan.of(method, budget, groups(10, 4), 4)
    assert {stage: sizes[0] for stage, sizes in plan.inside.items()} == expected
    if budget:
        assert plans.layer_mean(expected, 40, 4) <= float(budget[:-3]) / 100 * 40


# -- models and memory ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("what", ["window", "mixed"])
def test_layers_that_see_a_part_of_the_prompt_are_refused_inside(what: str, monkeypatch: pytest.MonkeyPatch):
    subject, prompts = models.random_llava(), [random_prompt(1, 0)]
    config = subject.model.model.language_model.config
    if what == "window":
        monkeypatch.setattr(config, "sliding_window", 10, raising=False)
    else:
        monkeypatch.setattr(config, "sliding_window", 4096, raising=False)
        monkeypatch.setattr(config, "layer_types", ["full_attention", "sliding_attention"] * 2, raising=False)
    with torch.no_grad():
        with pytest.raises(UserError, match="not inside it"), models.context(subject, prompts, FASTV, 9):
            subject.model(**models.collate(prompts))
        with models.context(subject, prompts, get_method("divprune"), 5) as trace:
            subject.model(**models.collate(prompts))
    assert trace.kept[0][0].shape == (1, 1, 5)


@pytest.mark.parametrize("attn", ["sdpa", "eager"])
@pytest.mark.parametrize("name", ["seqprune", "sparsevlm", "script+fastv"])
def test_decoding_keeps_nothing_of_the_prefill_but_its_bookkeeping(name: str, attn: str):
    """No hidden states, queries, keys, rotary tables or masks of the prompt."""
    subject, prompts = models.random_llava(attn), [random_prompt(1, 0), random_prompt(2, 3)]
    method = get_method(
        name, **({"first_layer": 1} if name != "sparsevlm" else {}), **({"step": 30} if name == "seqprune" else {})
    )
    context = models.context(subject, prompts, method, 8)
    with torch.no_grad(), context:
        subject.model.generate(**models.collate(prompts), max_new_tokens=3, do_sample=False)
        pruned = context.pruned
        assert pruned is not None
        stages = {id(s): s for s in pruned.layer_stage.values()}.values()
        assert stages
        assert all(s.rope is None and s.mask is None for s in stages)
        assert not any([pruned.previous, pruned.overheard, pruned.deepstack, pruned.units, pruned.after])
        assert pruned.inside is None


def test_a_decoding_mask_is_made_once_a_step_for_the_layers_of_a_stage(monkeypatch: pytest.MonkeyPatch):
    from script_vlmeval.sequence import Stage

    made: list[int] = []
    original = Stage.decode_mask
    monkeypatch.setattr(Stage, "decode_mask", lambda self, *args: made.append(1) or original(self, *args))
    subject, prompts = models.random_llava(), [random_prompt(1, 0), random_prompt(1, 3)]
    models.run(subject, prompts, get_method("fastv", first_layer=1), 8, steps=4)
    assert len(made) == 3, "one stage, three steps after the prefill, for three layers each"


def test_two_turns_of_the_same_images_need_no_marks_of_each_other():
    """Entering a context again with prompts anew is no further turn."""
    subject, prompt = models.random_llava(), random_prompt(1, 0)
    context = models.context(subject, [prompt], FASTV, 9)
    found = []
    for _ in range(2):
        with torch.no_grad(), context:
            found.append(subject.model.generate(**models.collate([prompt]), max_new_tokens=3, do_sample=False))
    assert torch.equal(*found)
