"""The laws of a pruning method, for every registered one: on tensors alone, and around a random and a trained LLaVA.

A new method joins by being registered. What it may legally do (stages inside the language model, merged tokens) is read from its
plan and its result; a law that does not apply then says so by skipping.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import fields, replace

import models
import pytest
import torch
from torch import Tensor, nn

from script_vlmeval.errors import UserError
from script_vlmeval.families import FAMILIES, language_model
from script_vlmeval.kernels import unit
from script_vlmeval.methods import METHODS, Method, Visual, catalogue, get_method
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


# -- on tensors ----------------------------------------------------------------------------------------------------------------
B, G, TILE, D = 3, 2, 24, 40


def visual(seed: int = 0, b: int = B) -> Visual:
    """Every field that a family could offer."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    matrix = normal(D, 24) / 5
    encoded = normal(b, G, TILE, D)
    return Visual(
        tokens=normal(b, G, TILE, 24),
        keys=normal(b, G, TILE, 8),
        query=normal(b, 4, 8),
        query_mask=torch.tensor([[True, True, False, True], [True, False, False, False], [True] * 4])[:b],
        saliency=normal(b, G, TILE).softmax(-1),
        attention=normal(b, G, TILE).softmax(-1),
        encoded=encoded,
        encoder_keys=normal(b, G, TILE, 16),
        cls=normal(b, G, D),
        project=lambda x: x @ matrix,
        grid=(4, 6),
        seed=torch.tensor([3, 1_000_000_007, 3])[:b],
    )


def rows(v: Visual, at: slice | list[int]) -> Visual:
    """Some of the images alone."""
    changed = {f.name: getattr(v, f.name)[at] for f in fields(v) if isinstance(getattr(v, f.name), Tensor)}
    return replace(v, **changed)


@pytest.mark.parametrize("k", [1, 7, TILE - 1])
def test_exactly_k_ascending_distinct(method: Method, k: int):
    v = visual()
    reduced = method(v, k)
    assert reduced.keep.shape == (B, G, k)
    assert reduced.tokens.shape == (B, G, k, v.tokens.shape[-1])
    assert torch.isfinite(reduced.tokens).all()
    check_ascending(reduced.keep, TILE)


def check_ascending(keep: Tensor, n: int) -> None:
    """Ascending and different, with any number of merged tokens (-1) at the end."""
    merged = keep < 0
    assert (keep >= -1).all()
    assert (keep < n).all()
    assert not (merged[..., :-1] & ~merged[..., 1:]).any(), "merged tokens stand at the end"
    assert ((keep[..., 1:] > keep[..., :-1]) | merged[..., 1:]).all()


@pytest.mark.parametrize("k", [TILE, TILE + 1, 10_000])
def test_a_budget_of_all_tokens_changes_nothing(method: Method, k: int):
    v = visual()
    reduced = method(v, k)
    assert torch.equal(reduced.tokens, v.tokens)
    assert torch.equal(reduced.keep, torch.arange(TILE).expand(B, G, TILE))


def test_a_budget_of_nothing_is_refused(method: Method):
    with pytest.raises(UserError, match="at least 1"):
        method(visual(), 0)


def test_kept_tokens_keep_their_features(method: Method):
    v = visual()
    reduced = method(v, 7)
    real = reduced.keep >= 0
    original = v.tokens.gather(2, reduced.keep.clamp_min(0)[..., None].expand_as(reduced.tokens))
    if method.needs & {"encoded", "project"}:
        pytest.skip("may merge before the projector, so tokens with a position of their own may change too")
    assert torch.equal(reduced.tokens[real], original[real])


def test_deterministic_on_tensors(method: Method):
    first, second = method(visual(), 7), method(visual(), 7)
    assert torch.equal(first.keep, second.keep)
    assert torch.equal(first.tokens, second.tokens)


def test_inputs_are_left_alone(method: Method):
    v, untouched = visual(), visual()
    method(v, 7)
    for field in fields(v):
        value = getattr(v, field.name)
        if isinstance(value, Tensor):
            assert torch.equal(value, getattr(untouched, field.name)), field.name


def test_independent_of_batch_mates_on_tensors(method: Method):
    v = visual()
    v = replace(v, keys=v.keys * torch.tensor([1.0, 30.0, 0.1])[:, None, None, None])
    together = method(v, 7)
    for b in range(B):
        alone = method(rows(v, [b]), 7)
        assert torch.equal(alone.keep[0], together.keep[b])
        torch.testing.assert_close(alone.tokens[0], together.tokens[b])
    swapped = method(rows(v, [2, 0, 1]), 7)
    assert torch.equal(swapped.keep, together.keep[[2, 0, 1]])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_refused(method: Method, value: float):
    """In the tokens, and in every other field that the method says it reads."""
    for name in ["tokens", *sorted(method.needs)]:
        field = getattr(visual(), name)
        if not isinstance(field, Tensor) or not field.is_floating_point():
            continue
        field[(0,) * field.ndim] = value
        with pytest.raises(UserError, match="NaN or infinity"):
            method(replace(visual(), **{name: field}), 7)


def test_a_missing_field_is_named(method: Method):
    """A missing question is not an error: there may be none."""
    for name in sorted(method.needs - {"query"}):
        with pytest.raises(UserError, match=name):
            method(replace(visual(), **{name: None}), 7)


def test_no_question_still_gives_k_tokens(method: Method):
    v = visual()
    unasked = replace(v, query=torch.zeros(B, 1, 8), query_mask=torch.zeros(B, 1, dtype=torch.bool))
    check_ascending(method(unasked, 7).keep, TILE)
    check_ascending(method(replace(v, query=None, query_mask=None), 7).keep, TILE)


@pytest.mark.parametrize("degenerate", ["zero", "equal", "one direction", "equal keys"])
def test_degenerate_features_still_give_k_distinct_tokens(method: Method, degenerate: str):
    v = visual()
    tokens = {
        "zero": torch.zeros_like(v.tokens),
        "equal": v.tokens[:, :, :1].expand_as(v.tokens).clone(),
        "one direction": v.tokens[..., :1] * torch.ones_like(v.tokens),
    }
    v = replace(v, keys=torch.ones_like(v.keys)) if degenerate == "equal keys" else replace(v, tokens=tokens[degenerate])
    check_ascending(method(v, 20).keep, TILE)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_accepted(method: Method, dtype: torch.dtype):
    v = visual()
    halves = {f.name: x.to(dtype) for f in fields(v) if isinstance(x := getattr(v, f.name), Tensor) and x.is_floating_point()}
    weight = torch.randn(D, 24, generator=torch.Generator().manual_seed(0)).to(dtype)
    reduced = method(replace(v, **halves, project=lambda x: x @ weight), 7)
    assert reduced.tokens.dtype == dtype
    check_ascending(reduced.keep, TILE)


# -- around a model ------------------------------------------------------------------------------------------------------------
@pytest.fixture(params=sorted(SUBJECTS))
def subject(request: pytest.FixtureRequest, method: Method) -> models.Subject:
    if request.param == "trained" and not (ASSETS / "config.json").is_file():
        pytest.skip(f"the embedded model is not in {ASSETS}")
    if missing := method.needs - FAMILIES["llava"].offers:
        pytest.skip(f"llava models do not give {', '.join(sorted(missing))}")
    return SUBJECTS[request.param]()


def sizes(subject: models.Subject, method: Method, budget: int) -> list[int]:
    """Visual tokens of an image that enter each layer, by the method's own plan."""
    plan, now, result = method.plan(budget, subject.n, subject.layers), subject.n, []
    for layer in range(subject.layers):
        now = min(now, plan.get(layer, now))
        result.append(now)
    return result


def inside(method: Method, subject: models.Subject) -> bool:
    return any(stage > 0 for stage in method.plan(subject.budget, subject.n, subject.layers))


def hooks(model: nn.Module) -> dict[str, list[int]]:
    """The hooks on every module, and forwards replaced on instances."""
    kinds = [name for name in vars(nn.Module()) if name.endswith("_hooks")]
    found = {f"{name}.{kind}": list(getattr(module, kind)) for name, module in model.named_modules() for kind in kinds}
    replaced = {f"{name}.forward": [id(m.__dict__["forward"])] for name, m in model.named_modules() if "forward" in m.__dict__}
    return {key: value for key, value in {**found, **replaced}.items() if value}


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, atol=2e-4, rtol=1e-4)


def same_kept(a: models.Run, b: models.Run) -> None:
    assert a.kept.keys() == b.kept.keys()
    for stage in a.kept:
        assert torch.equal(a.kept[stage], b.kept[stage]), f"stage {stage}"


@pytest.mark.parametrize("budget", ["n", "more", "100pct"])
def test_a_budget_of_all_tokens_gives_the_same_bits(subject: models.Subject, method: Method, budget: str):
    given = {"n": subject.n, "more": subject.n + 5, "100pct": budget}[budget]
    prompts = [subject.prompt(1, 0), subject.prompt(1, 1)]
    full, pruned = models.run(subject, prompts, steps=2), models.run(subject, prompts, method, given, steps=2)
    assert torch.equal(full.logits, pruned.logits)
    assert pruned.kept == {}


def test_the_plan_is_kept_exactly(subject: models.Subject, method: Method):
    prompts = [subject.prompt(1, 0), subject.prompt(1, 1)]
    run = models.run(subject, prompts, method)
    plan = method.plan(subject.budget, subject.n, subject.layers)
    assert set(run.kept) == {stage for stage, k in plan.items() if k < subject.n}
    for stage, keep in run.kept.items():
        assert keep.shape == (2, 1, plan[stage])
        check_ascending(keep, subject.n)


def test_deterministic_around_a_model(subject: models.Subject, method: Method):
    prompts = [subject.prompt(1, 0), subject.prompt(2, 1)]
    first, second = (models.run(subject, prompts, method, steps=2) for _ in range(2))
    same_kept(first, second)
    assert torch.equal(first.logits, second.logits)


def test_a_batch_of_three_equals_each_alone(subject: models.Subject, method: Method):
    """Rows of different lengths, one with two images: its mates are padded heavily."""
    prompts = [subject.prompt(1, 0), subject.prompt(2, 1), subject.prompt(1, 3)]
    together = models.run(subject, prompts, method, steps=3)
    alone = [models.run(subject, [p], method, steps=3) for p in prompts]
    close(together.logits, torch.cat([a.logits for a in alone]))
    assert torch.equal(together.tokens, torch.cat([a.tokens for a in alone]))
    for stage in together.kept:
        assert torch.equal(together.kept[stage], torch.cat([a.kept[stage] for a in alone])), f"stage {stage}"


def test_independent_of_left_padding(subject: models.Subject, method: Method):
    prompts = [subject.prompt(1, 2)]
    plain, padded = (models.run(subject, prompts, method, steps=3, extra=extra) for extra in (0, 7))
    same_kept(plain, padded)
    close(plain.logits, padded.logits)
    assert torch.equal(plain.tokens, padded.tokens)


def test_relevance_without_a_question_space_is_independent_of_padding_and_mates(subject: models.Subject, method: Method):
    """Relevance then comes from the language model's embeddings of the prompt, in which padding has no say."""
    subject = models.without_query(subject)
    prompts = [subject.prompt(1, 2), subject.prompt(2, 0)]
    together, alone = models.run(subject, prompts, method), models.run(subject, prompts[:1], method, extra=7)
    for stage in alone.kept:
        assert torch.equal(together.kept[stage][:1], alone.kept[stage])
    close(together.logits[:1], alone.logits)


@contextmanager
def spoiled(model: nn.Module, value: float):
    """The projector gives one value that is not a number to work with."""

    def spoil(module: nn.Module, args: tuple, output: Tensor) -> Tensor:
        output = output.clone()
        output[0, 3, 2] = value
        return output

    handle = model.model.multi_modal_projector.register_forward_hook(spoil)
    try:
        yield
    finally:
        handle.remove()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_features_that_are_not_finite_are_refused(subject: models.Subject, method: Method, value: float):
    if not method.plan(subject.budget, subject.n, subject.layers):
        pytest.skip("selects nothing")
    before = hooks(subject.model)
    with spoiled(subject.model, value), pytest.raises(UserError, match="NaN or infinity"):
        models.run(subject, [subject.prompt(1, 0)], method)
    assert hooks(subject.model) == before


def test_cached_decoding_equals_recomputation(subject: models.Subject, method: Method):
    prompts = [subject.prompt(1, 0), subject.prompt(1, 1)]
    cached = models.run(subject, prompts, method, steps=6)
    if inside(method, subject):
        with pytest.raises(UserError, match="use_cache"):
            models.run(subject, prompts, method, steps=6, use_cache=False)
        return
    anew = models.run(subject, prompts, method, steps=6, use_cache=False)
    close(cached.logits, anew.logits)
    assert torch.equal(cached.tokens, anew.tokens)


def test_recomputation_without_a_question_space_chooses_the_same_tokens(subject: models.Subject, method: Method):
    """Relevance then comes from the prompt, which does not grow with the answer."""
    if inside(method, subject):
        pytest.skip("refused without a cache")
    subject, prompts = models.without_query(subject), [subject.prompt(1, 0), subject.prompt(1, 1)]
    cached, anew = (models.run(subject, prompts, method, steps=6, use_cache=use) for use in (True, False))
    same_kept(cached, anew)
    close(cached.logits, anew.logits)


@pytest.mark.parametrize("images", [1, 2])
def test_cache_lengths_equal_the_plan(subject: models.Subject, method: Method, images: int):
    prompts = [subject.prompt(images, 0), subject.prompt(images, 3)]
    run = models.run(subject, prompts, method, steps=4)
    text = [len(p.ids) - images * subject.n for p in prompts]
    visual_tokens = [images * n for n in sizes(subject, method, subject.budget)]
    assert run.lengths == [max(text) + v for v in visual_tokens]
    assert run.cache == [max(text) + v + 3 for v in visual_tokens]
    assert run.entering.tolist() == [[t + v for t in text] for v in visual_tokens]


def test_no_column_of_the_cache_is_empty(subject: models.Subject, method: Method):
    """With images in unequal number the row that was the shortest may become the longest; what no row fills is not kept."""
    if not method.plan(subject.budget, subject.n, subject.layers):
        pytest.skip("shortens nothing")
    prompts = [subject.prompt(1, 0), subject.prompt(2, 1), subject.prompt(0, 2)]
    run = models.run(subject, prompts, method)
    assert run.lengths == run.entering.max(1).values.tolist()


def test_no_hook_stays_behind(subject: models.Subject, method: Method):
    prompts = [subject.prompt(1, 0)]
    models.run(subject, prompts)  # transformers installs hooks of its own at the first call
    before, attention = hooks(subject.model), subject.model.config.text_config._attn_implementation
    models.run(subject, prompts, method, steps=2)
    assert hooks(subject.model) == before
    with pytest.raises(RuntimeError, match="on the way"), models.context(subject, prompts, method):
        raise RuntimeError("on the way")
    assert hooks(subject.model) == before
    assert subject.model.config.text_config._attn_implementation == attention


def test_no_hook_stays_behind_a_failing_method(subject: models.Subject, method: Method, monkeypatch: pytest.MonkeyPatch):
    if not method.plan(subject.budget, subject.n, subject.layers):
        pytest.skip("is never asked")
    prompts = [subject.prompt(1, 0)]
    full = models.run(subject, prompts)
    before = hooks(subject.model)

    def fail(self: Method, visual: Visual, k: int) -> None:
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr(type(method), "reduce", fail)
        with pytest.raises(ZeroDivisionError):
            models.run(subject, prompts, method)
    assert hooks(subject.model) == before
    assert torch.equal(models.run(subject, prompts).logits, full.logits)


def test_two_images_in_a_prompt_are_pruned_one_by_one(subject: models.Subject, method: Method):
    """Each to its own budget."""
    run = models.run(subject, [subject.prompt(2, 1)], method, steps=2)
    plan = method.plan(subject.budget, subject.n, subject.layers)
    assert {stage: keep.shape for stage, keep in run.kept.items()} == {s: (2, 1, k) for s, k in plan.items()}
    for keep in run.kept.values():
        check_ascending(keep, subject.n)


def test_no_image_gives_the_same_bits(subject: models.Subject, method: Method):
    prompts = [subject.prompt(0, 0), subject.prompt(0, 1)]
    full, pruned = models.run(subject, prompts, steps=3), models.run(subject, prompts, method, steps=3)
    assert torch.equal(full.logits, pruned.logits)
    assert torch.equal(full.tokens, pruned.tokens)


def test_a_row_without_image_beside_rows_with_images(subject: models.Subject, method: Method):
    prompts = [subject.prompt(1, 0), subject.prompt(0, 1), subject.prompt(2, 2)]
    run = models.run(subject, prompts, method, steps=3)
    close(run.logits[1:2], models.run(subject, prompts[1:2], steps=3).logits)
    close(run.logits[2:], models.run(subject, prompts[2:], method, steps=3).logits)


def test_the_context_can_be_entered_again(subject: models.Subject, method: Method):
    prompts = [subject.prompt(1, 0)]
    inputs, context = models.collate(prompts), models.context(subject, prompts, method)
    answers, full = [], models.run(subject, prompts)
    for _ in range(2):
        with torch.no_grad(), context:
            answers += [subject.model(**inputs).logits[:, -1] for _ in range(2)]
        assert torch.equal(models.run(subject, prompts).logits, full.logits), "outside, nothing is pruned"
    assert all(torch.equal(answers[0], a) for a in answers[1:])


def test_nesting_is_refused_and_leaves_the_outer_context_working(subject: models.Subject, method: Method):
    prompts = [subject.prompt(1, 0)]
    inputs, once = models.collate(prompts), models.run(subject, prompts, method)
    with torch.no_grad(), models.context(subject, prompts, method) as trace:
        with pytest.raises(UserError, match="already"), models.context(subject, prompts, method):
            pass
        subject.model(**inputs)
        assert trace.lengths == once.lengths


def test_sdpa_equals_eager(subject: models.Subject, method: Method):
    eager = SUBJECTS[subject.name.split("-")[0]]("eager")
    prompts = [subject.prompt(1, 0), subject.prompt(2, 1)]
    ours, theirs = (models.run(s, prompts, method, steps=3) for s in (subject, eager))
    same_kept(ours, theirs)
    close(ours.logits, theirs.logits)
    assert torch.equal(ours.tokens, theirs.tokens)


@pytest.mark.parametrize("images", [1, 2])
def test_positions_count_the_shortened_sequence(subject: models.Subject, method: Method, images: int):
    """As if the language model had been given the kept embeddings alone, at positions 0, 1, 2..."""
    if inside(method, subject):
        pytest.skip("shortens inside the language model; tests/test_prune.py has the reference for that")
    prompt = subject.prompt(images, 1)
    run = models.run(subject, [prompt], method)
    if any((keep < 0).any() for keep in run.kept.values()):
        pytest.skip("merges tokens; tests/test_prune.py has a merging method")
    embeds, lm = embeddings(subject, prompt), language_model(subject.model)
    places = (torch.tensor(prompt.ids) == subject.model.config.image_token_id).nonzero()[:, 0].view(images, -1)
    stays = torch.ones(len(prompt.ids), dtype=torch.bool)
    if run.kept:
        stays[places] = False
        stays[places.gather(1, run.kept[0][:, 0])] = True
    short = embeds[:, stays]
    with torch.no_grad():
        out = lm(inputs_embeds=short, position_ids=torch.arange(short.shape[1])[None], attention_mask=torch.ones(short.shape[:2]))
        close(run.logits[:, 0], subject.model.lm_head(out.last_hidden_state[:, -1]))


def embeddings(subject: models.Subject, prompt: models.Prompt) -> Tensor:
    """What the language model reads of an unpruned prompt."""
    seen: list[Tensor] = []
    lm = language_model(subject.model)
    handle = lm.register_forward_pre_hook(lambda m, args, kwargs: seen.append(kwargs["inputs_embeds"]), with_kwargs=True)
    try:
        models.run(subject, [prompt])
    finally:
        handle.remove()
    return seen[0]


def test_the_trained_model_s_question_has_a_say():
    """Otherwise the laws above would not see relevance at all: another question, other tokens."""
    if not (ASSETS / "config.json").is_file():
        pytest.skip(f"the embedded model is not in {ASSETS}")
    subject = models.trained_llava()
    prompt = subject.prompt(1, 0)
    asked = [replace(prompt, question=q) for q in ("Is there a red circle?", "What color is the ring?")]
    runs = [models.run(subject, [p], get_method("cdpruner")) for p in asked]
    assert not torch.equal(runs[0].kept[0], runs[1].kept[0])
    assert all(r.trace.relevance == "clip" for r in runs)
    assert torch.isfinite(unit(subject.query.encode([prompt.question])[0])).all()
