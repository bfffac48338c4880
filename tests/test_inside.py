"""Selection inside the language model around a model: shares per image and frame, empty stages, memory, parity, refusals."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import models
import pytest
import qwen
import torch
from models import IMAGE, LAYERS, N, private, random_prompt
from torch import Tensor

from script_vlmeval import attention
from script_vlmeval.errors import UserError
from script_vlmeval.methods import Method, Visual, get_method
from script_vlmeval.prune import pruning


def forward(subject: models.Subject, prompts: list[models.Prompt], method: Any, budget: Any = None, **options: Any) -> Any:
    """(trace, output) of one pruned pass over prompts."""
    with torch.no_grad(), models.context(subject, prompts, method, budget) as trace:
        return trace, subject.model(**models.collate(prompts), **options)


def planned(subject: models.Subject, method: Any, budget: Any) -> Any:
    """The pruning context, where `None` really is no budget."""
    return pruning(subject.model, method, budget, query=subject.query, question="x")


# -- how many, and of what -----------------------------------------------------------------------------------------------------
def test_a_schedule_as_the_budget_is_the_method_with_these_parameters():
    subject, prompts = models.random_llava(), [random_prompt(2, 1)]
    inputs = models.collate(prompts)
    kept = []
    for method, budget in ((get_method("fastv"), "r75k1"), (get_method("fastv", removed=0.75, first_layer=1), None)):
        with torch.no_grad(), planned(subject, method, budget) as trace:
            subject.model(**inputs)
        kept.append(trace.kept)
    assert kept[0].keys() == {1}
    assert kept[0][1][0].shape == (1, 1, N // 2)
    assert torch.equal(kept[0][1][0], kept[1][1][0])


@pytest.mark.parametrize("per", ["image", "frame"])
def test_each_image_keeps_its_share(per: str):
    """Of three images of 16 tokens 19 stay: six of each, and the odd one goes to the first."""
    subject, prompts = models.random_llava(), [random_prompt(3, 1)]
    method = get_method("fastv", removed=0.6, first_layer=2, per=per)
    with torch.no_grad(), planned(subject, method, None) as trace:
        subject.model(**models.collate(prompts))
    (kept,) = trace.kept[2]
    assert torch.bincount(kept.flatten() // N).tolist() == [7, 6, 6]


@pytest.mark.parametrize(
    ("per", "grids", "placeholder", "sizes", "expected"),
    [
        ("frame", [(3, 8, 12)], qwen.VIDEO, [24, 24, 24], [9, 9, 9]),
        ("frame", [(2, 8, 8), (3, 4, 8)], qwen.VIDEO, [16, 16, 8, 8, 8], [6, 6, 3, 3, 3]),  # 56 tokens, 21 stay
        ("image", [(2, 8, 8), (3, 4, 8)], qwen.VIDEO, [32, 24], [12, 9]),
        ("image", [(1, 8, 12), (1, 4, 6)], qwen.IMAGE, [24, 6], [9, 2]),  # 11.25: the larger fraction gets the odd one
    ],
)
def test_frames_and_images_of_several_sizes_keep_their_shares(
    per: str, grids: list[qwen.Grid], placeholder: int, sizes: list[int], expected: list[int]
):
    model, prompt = qwen.build(), qwen.prompt(grids, placeholder=placeholder)
    method = get_method("seqprune", removed=0.625, first_layer=1, step=25, per=per)
    with torch.no_grad(), pruning(model, method, None) as trace:
        model(**qwen.collate([prompt]))
    owner = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    (kept,) = trace.kept[max(trace.kept)]
    assert torch.bincount(owner[kept.flatten()], minlength=len(sizes)).tolist() == expected


@pytest.mark.parametrize("name", ["fastv", "seqprune"])
def test_a_stage_may_leave_no_visual_token(name: str):
    """All removed: later layers see the text alone, and decoding goes on."""
    subject, prompts = models.random_llava(), [random_prompt(1, 0), random_prompt(2, 3), random_prompt(0, 1)]
    method = get_method(name, removed=1.0, first_layer=2, **({"step": 50} if name == "seqprune" else {}))
    inputs = models.collate(prompts)
    with torch.no_grad(), planned(subject, method, None) as trace:
        out = subject.model.generate(**inputs, max_new_tokens=3, do_sample=False, return_dict_in_generate=True)
    text = [len(p.ids) - N * len(p.pixels) for p in prompts]
    entering = trace.entering(LAYERS)
    assert entering[-1].tolist() == text
    assert out.past_key_values.layers[-1].keys.shape[2] == max(text) + 2
    assert entering[0].tolist() == [len(p.ids) for p in prompts]
    for prompt, row in zip(prompts, out.sequences, strict=True):
        with torch.no_grad(), planned(subject, method, None):
            alone = subject.model.generate(**models.collate([prompt]), max_new_tokens=3, do_sample=False)
        assert row[-3:].tolist() == alone[0, -3:].tolist()


def test_nan_is_refused_where_nothing_is_left_to_choose():
    subject, prompts = models.random_llava(), [random_prompt(1, 0)]
    method = get_method("fastv", removed=1.0, first_layer=1)
    handle = subject.model.model.multi_modal_projector.register_forward_hook(lambda m, a, out: out * float("nan"))
    try:
        with torch.no_grad(), pytest.raises(UserError, match="NaN or infinity"), planned(subject, method, None):
            subject.model(**models.collate(prompts))
    finally:
        handle.remove()


# -- memory --------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("name", "params"), [("fastv", {}), ("seqprune", {"step": 30}), ("script+fastv", {"before": 12})])
def test_the_cache_takes_the_bytes_that_the_plan_says(name: str, params: dict[str, Any]):
    subject, prompts, new = models.random_llava(), [random_prompt(2, 1), random_prompt(2, 2)], 4
    method = get_method(name, first_layer=1, removed=0.75, **params)
    with torch.no_grad(), planned(subject, method, None) as trace:
        out = subject.model.generate(**models.collate(prompts), max_new_tokens=new, do_sample=False, return_dict_in_generate=True)
    config = subject.model.config.text_config
    row = 2 * config.num_key_value_heads * (config.hidden_size // config.num_attention_heads) * 4  # keys and values, float32
    text = max(len(p.ids) for p in prompts) - 2 * N
    plan, now, expected = method.plan(None, 2 * N, LAYERS), 2 * N, 0
    if name == "script+fastv":
        plan = {0: 24, 1: 6}
    for layer in range(LAYERS):
        now = plan.get(layer, now)
        expected += len(prompts) * row * (text + now + new - 1)
    layers = out.past_key_values.layers
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for c in layers for t in (c.keys, c.values)}
    assert sum(storages.values()) == pytest.approx(expected, rel=0.05)  # of real memory, nothing larger kept alive by a view
    assert sum(t.numel() * 4 for c in layers for t in (c.keys, c.values)) == expected
    assert trace.lengths == [layer.keys.shape[2] - (new - 1) for layer in layers]


# -- parity with generation without a cache ------------------------------------------------------------------------------------
def test_selecting_again_at_every_step_is_the_releases_generation():
    """Each step reads the prompt and the answer so far from scratch, and the newest token asks."""
    subject, prompt, steps = models.random_llava(), random_prompt(1, 0), 5
    method = get_method("fastv", removed=0.75, first_layer=2, reprune_each_step=True)
    inputs = models.collate([prompt])
    choices: list[list[int]] = []
    with torch.no_grad(), planned(subject, method, None) as trace:
        handle = subject.model.lm_head.register_forward_pre_hook(
            lambda *_: choices.append((trace.again or trace).kept[2][0].flatten().tolist())
        )
        tokens = subject.model.generate(**inputs, max_new_tokens=steps, do_sample=False, use_cache=False)[0].tolist()
        handle.remove()
    first, answer = trace, list(prompt.ids)
    for step in range(steps):
        with torch.no_grad(), planned(subject, replace(method, reprune_each_step=False), None) as trace:
            out = subject.model(**models.collate([replace(prompt, ids=tuple(answer))]), use_cache=False)
        assert trace.kept[2][0].flatten().tolist() == choices[step]
        answer.append(int(out.logits[0, -1].argmax()))
    assert tokens == answer
    assert len(set(map(tuple, choices))) > 1, "the kept set changes from step to step"
    assert first.lengths == [len(prompt.ids)] * 2 + [len(prompt.ids) - N + N // 4] * 2, "the trace stays that of the prompt"
    assert first.again is not None
    assert first.again.lengths[0] == len(prompt.ids) + steps - 1


def test_selecting_again_needs_generation_without_a_cache():
    method = get_method("seqprune", removed=0.5, first_layer=1, reprune_each_step=True)
    with pytest.raises(UserError, match="use_cache=False"), torch.no_grad(), planned(models.random_llava(), method, None):
        models.random_llava().model.generate(**models.collate([random_prompt()]), max_new_tokens=2, use_cache=True)


# -- refusals ------------------------------------------------------------------------------------------------------------------
def test_a_prompt_that_ends_with_its_image_is_refused():
    """Its last token asks and answers, so it cannot be among those that go."""
    prompt = random_prompt(1, 0)
    prompt = replace(prompt, ids=prompt.ids[: max(i for i, t in enumerate(prompt.ids) if t == IMAGE) + 1])
    with pytest.raises(UserError, match="ends with an image"):
        forward(models.random_llava(), [prompt, random_prompt(1, 1)], get_method("fastv", first_layer=1), 8)
    assert forward(models.random_llava(), [prompt], get_method("divprune"), 5)[0].kept[0][0].shape == (1, 1, 5)


@pytest.mark.parametrize(
    ("budget", "words"),
    [(3, "The smallest budget here is"), (None, "give as budget"), ("r75k4", "layers 0 to 3"), ("r75k0", "at least 1")],
)
def test_budgets_that_cannot_be_say_what_can(budget: Any, words: str):
    with pytest.raises(UserError, match=words), torch.no_grad(), planned(models.random_llava(), get_method("fastv"), budget):
        models.random_llava().model(**models.collate([random_prompt()]))


def test_a_method_before_the_language_model_needs_a_budget():
    for budget, words in ((None, "needs a budget"), ("r75k2", "no layer schedule")):
        with pytest.raises(UserError, match=words), torch.no_grad(), planned(models.random_llava(), get_method("grid"), budget):
            models.random_llava().model(**models.collate([random_prompt()]))


@private
@dataclass(frozen=True)
class Unplanned(Method):
    """Reads what there is inside the language model alone, and does not say where."""

    needs = frozenset({"attention"})

    def score(self, visual: Visual) -> Tensor:
        assert visual.attention is not None
        return visual.attention


@private
@dataclass(frozen=True)
class Spending(Unplanned):
    """Takes the budget for what stays in the end."""

    def plan(self, budget: int | None, n_visual: int, n_layers: int) -> dict[int, int]:
        return {2: budget or 1}


def test_a_method_of_the_inside_must_say_from_which_layer_on():
    with pytest.raises(UserError, match="override plan"):
        forward(models.random_llava(), [random_prompt()], Unplanned(), 8)


def test_reading_more_than_the_budget_is_said():
    with pytest.warns(UserWarning, match=r"'spending' reads a mean of 10.0 visual tokens per layer at a budget of 4"):
        forward(models.random_llava(), [random_prompt()], Spending(), 4)


@pytest.mark.parametrize(
    ("name", "params", "budget", "words"),
    [
        ("script+fastv", {"before": 8}, 8, "before is at least 9"),
        ("script+fastv", {"before": 100}, 16, "With before=48 it can be had"),
        ("script+fastv", {}, None, "set before=192"),
        ("full+fastv", {}, 16, "name 'fastv' alone"),
        ("script+full", {}, 16, "name 'script' alone"),
        ("fastv+script", {}, 16, "in this order"),
        ("script+dart+fastv", {}, 16, "Unknown method"),
        ("script+fastv", {"before": "x"}, 16, "number of tokens"),
        ("script+fastv", {"tua": 1}, 16, "Did you mean 'tau'"),
    ],
)
def test_hybrids_that_cannot_be_say_why(name: str, params: dict[str, Any], budget: int | None, words: str):
    with pytest.raises(UserError, match=words):
        get_method(name, **params).plan(budget, 144, 6)


def test_a_hybrid_is_planned_for_what_its_first_part_leaves():
    assert get_method("script+fastv").plan(64, 576, 32) == {0: 128, 2: 59}
    assert get_method("script+fastv", before=192, removed=0.5).plan(None, 576, 32) == {0: 192, 2: 96}
    assert get_method("script+fastv", before=192).scheduled(0.75, 3).plan(None, 576, 32) == {0: 192, 3: 48}
    assert get_method("script+fastv", before="none").plan(600, 576, 32) == {}
    routed = get_method("script+seqprune", tau=0.3, step=20, per="image", before=100).parameters()
    assert (routed["script.tau"], routed["seqprune.step"], routed["seqprune.per"], routed["before"]) == (0.3, 20, "image", 100)


@pytest.mark.parametrize("first", ["visionzip", "pool", "trim", "random"])
def test_hybrids_whose_first_part_merges_work(first: str):
    """Merged tokens are ordinary ones to the second part; alone and in a batch alike."""
    subject, prompts = models.random_llava(), [random_prompt(2, 0), random_prompt(1, 3), random_prompt(0, 1)]
    method = get_method(f"{first}+fastv", first_layer=1, before=8)
    together = models.run(subject, prompts, method, 5, steps=3)
    assert together.lengths[0] > together.lengths[1]
    for i, prompt in enumerate(prompts):
        alone = models.run(subject, [prompt], method, 5, steps=3)
        assert alone.tokens[0].tolist() == together.tokens[i].tolist()
        torch.testing.assert_close(alone.logits[0], together.logits[i], atol=2e-4, rtol=1e-4)


# -- attention -----------------------------------------------------------------------------------------------------------------
def rows_of(model: Any, hidden: Tensor, mask: Tensor | None) -> tuple[Any, ...]:
    rope = model.model.language_model.rotary_emb(hidden, torch.arange(hidden.shape[1])[None])
    return model.model.language_model.layers[0], hidden, rope, mask


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_scores_are_added_up_in_float32_whatever_the_model_is(dtype: torch.dtype):
    """The eager kernel rounds scores to the model's precision first, so that many tokens tie."""
    model = models.build().to(dtype)
    hidden = torch.randn(1, 200, models.WIDTH, generator=torch.Generator().manual_seed(0)).to(dtype)
    with torch.no_grad():
        inputs = rows_of(model, hidden, None)
        found = attention.Pass(*inputs).received(torch.tensor([[199]]))
        query, keys = attention.project(*inputs[:3])
    scores = query[0, :, -1:].double() @ keys[0].repeat_interleave(2, 0).double().transpose(1, 2) * inputs[0].self_attn.scaling
    expected = scores.softmax(-1).mean(0)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found[0].double(), expected, atol=1e-7, rtol=1e-5)
    rounded = scores.to(dtype).double().softmax(-1).mean(0)
    assert (rounded - expected).abs().max() > 1e-5


def test_many_rows_at_once_are_the_rows_one_by_one():
    """More than a chunk of them, at any position, each sees what comes before it alone."""
    model = models.build("eager")
    hidden = torch.randn(2, 150, models.WIDTH, generator=torch.Generator().manual_seed(0))
    at = torch.stack([torch.randperm(150, generator=torch.Generator().manual_seed(s))[:100] for s in (1, 2)])
    with torch.no_grad():
        inputs = rows_of(model, hidden, None)
        causal = torch.full((150, 150), torch.finfo(torch.float32).min).triu(1)[None, None]
        full = inputs[0].self_attn(inputs[0].input_layernorm(hidden), inputs[2], causal)[1].mean(1)
        found = attention.Pass(*inputs).received(at)
    torch.testing.assert_close(found, full.gather(1, at[..., None].expand(-1, -1, 150)), atol=1e-6, rtol=1e-5)
