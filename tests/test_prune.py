"""The mechanism against a slow reference that removes nothing: dropped tokens stay in the sequence and are masked.

The reference reads one unpadded row at a time, computes every step from scratch without a cache, gives each layer a 4-D mask of
its own and passes positions explicitly. Only the layers' own arithmetic is shared. Methods defined here choose by rules that the
reference repeats on its own side; stages inside the language model are tested through them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import models
import pytest
import torch
from models import LAYERS, N, Prompt, private, random_prompt, since_5
from torch import Tensor, nn

from script_vlmeval import attention, sequence
from script_vlmeval.errors import UserError
from script_vlmeval.methods import METHODS, Method, Reduced, Visual, catalogue, get_method
from script_vlmeval.methods.base import take
from script_vlmeval.prefill import Prefill
from script_vlmeval.prune import pruning
from script_vlmeval.sequence import Stage

STEPS = 5


@private
@dataclass(frozen=True)
class Longest(Method):
    """The tokens of largest norm, at the stages of `stages`: (stage, tokens) pairs."""

    stages: tuple[tuple[int, int], ...] = ((0, 5),)

    def plan(self, budget: int, n_visual: int, n_layers: int) -> dict[int, int]:
        return dict(self.stages)

    def score(self, visual: Visual) -> Tensor:
        return visual.tokens.norm(dim=-1)


@private
@dataclass(frozen=True)
class Attended(Longest):
    """The tokens that the last prompt token attends to most in the layer before; before the language model, the longest."""

    needs = frozenset({"attention"})
    stages: tuple[tuple[int, int], ...] = ((1, 5),)
    seen: list[Tensor] = field(default_factory=list)

    def score(self, visual: Visual) -> Tensor:
        if visual.attention is None:
            return visual.tokens.norm(dim=-1)
        self.seen.append(visual.attention)
        return visual.attention


@private
@dataclass(frozen=True)
class Folded(Longest):
    """The longest tokens but one, and the mean of the rest as a token without a place of its own."""

    def reduce(self, visual: Visual, k: int) -> Reduced:
        kept = take(visual, self.select(visual, k - 1))
        rest = torch.ones(visual.shape, dtype=torch.bool).scatter_(2, kept.keep, False)
        mean = (visual.tokens * rest[..., None]).sum(2, keepdim=True) / rest.sum(2)[..., None, None]
        keep = torch.cat([kept.keep, torch.full_like(kept.keep[..., :1], -1)], 2)
        return Reduced(keep, torch.cat([kept.tokens, mean], 2))


def test_methods_defined_here_are_not_registered():
    assert sorted(METHODS) == sorted(catalogue())


# -- the reference -------------------------------------------------------------------------------------------------------------
class Reference:
    """Generation with masks in place of removal, for one row at a time."""

    def __init__(self) -> None:
        self.model = models.build("eager")
        self.lm = self.model.model.language_model
        self.attention: Tensor | None = None  # of the layer that ran last, (H, L, L)
        for layer in self.lm.layers:
            layer.self_attn.register_forward_hook(self._watch)

    def _watch(self, module: nn.Module, args: Any, output: tuple[Tensor, Tensor]) -> None:
        self.attention = output[1][0]

    def embed(self, prompt: Prompt) -> tuple[Tensor, list[Tensor]]:
        """(L, D) embeddings with the images in place, and the positions of each image."""
        ids = torch.tensor(prompt.ids)
        x, at = self.lm.embed_tokens(ids), (ids == models.IMAGE).nonzero()[:, 0]
        if len(at):
            x = x.clone()
            features = self.model.model.get_image_features(pixel_values=prompt.pixels)
            x[at] = torch.cat(list(getattr(features, "pooler_output", features)))  # transformers 4 returns the list itself
        return x, list(at.view(-1, N))

    def forward(
        self, x: Tensor, images: list[Tensor], method: Longest, alive: list[Tensor] | None
    ) -> tuple[Tensor, list[Tensor]]:
        """(L, V) logits, and per layer (L,) the tokens that it may look at: chosen here, or given by the prompt's pass."""
        chosen: list[Tensor] = []
        now = torch.ones(len(x), dtype=torch.bool)
        h, rope = x[None], None
        for i, layer in enumerate(self.lm.layers):
            for stage in (0, i) if i == 0 else (i,):
                if alive is None and stage in dict(method.stages) and (stage or i == 0):
                    now = self.choose(h[0], now, images, method, stage)
            now = now if alive is None else alive[i]
            chosen.append(now)
            if rope is None:  # positions count what is left before the language model
                rope = self.lm.rotary_emb(h, (now.long().cumsum(0) - 1).clamp_min(0)[None])
            causal = torch.ones(len(x), len(x), dtype=torch.bool).tril() & now
            mask = torch.zeros(1, 1, len(x), len(x)).masked_fill(~causal, torch.finfo(torch.float32).min)
            h = layer(h, attention_mask=mask, position_embeddings=rope)
        return self.model.lm_head(self.lm.norm(h))[0], chosen

    def choose(self, h: Tensor, now: Tensor, images: list[Tensor], method: Longest, stage: int) -> Tensor:
        by_attention = "attention" in method.needs and stage > 0
        score = self.attention.mean(0)[-1] if by_attention else h.norm(dim=-1)
        now = now.clone()
        for at in images:
            left = at[now[at]]
            now[left] = False
            now[left[score[left].argsort(descending=True)[: dict(method.stages)[stage]]]] = True
        return now

    @torch.no_grad()
    def generate(self, prompt: Prompt, method: Longest, steps: int, forced: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(steps, V) logits and (steps,) tokens, greedy or along `forced` ones."""
        start, images = self.embed(prompt)
        x, alive, logits, tokens = start, None, [], []
        for step in range(steps):
            out, chosen = self.forward(x, images, method, alive)
            logits.append(out[-1])
            tokens.append(out[-1].argmax() if forced is None else forced[step])
            x = torch.cat([start, self.lm.embed_tokens(torch.stack(tokens))])
            if step == 0:
                prompt_alive = chosen
            alive = [torch.cat([c, torch.ones(len(x) - len(start), dtype=torch.bool)]) for c in prompt_alive]
        return torch.stack(logits), torch.stack(tokens)


@pytest.fixture(scope="module")
def reference() -> Reference:
    return Reference()


def agrees(reference: Reference, method: Longest, prompts: list[Prompt], attn: str = "sdpa", **options: Any) -> models.Run:
    run = models.run(models.random_llava(attn), prompts, method, steps=STEPS, **options)
    for b, prompt in enumerate(prompts):
        logits, tokens = reference.generate(prompt, method, STEPS)
        torch.testing.assert_close(run.logits[b], logits, atol=2e-4, rtol=1e-4)
        assert run.tokens[b].tolist() == tokens.tolist()
    return run


METHODS_HERE = {
    "before": Longest(),
    "before one": Longest(((0, 1),)),
    "fastv": Attended(),
    "late fastv": Attended(((3, 2),)),
    "progressive": Attended(((1, 12), (2, 7), (3, 2))),
    "inside by norm": Longest(((2, 4),)),
    "both by norm": Longest(((0, 9), (2, 4))),
    "both by attention": Attended(((0, 9), (2, 4))),
    "every stage": Longest(((0, 13), (1, 10), (2, 6), (3, 3))),
}
BATCHES = {
    "one": [random_prompt(1, 0)],
    "one, two images": [random_prompt(2, 1)],
    "two, padded": [random_prompt(1, 0), random_prompt(1, 3)],
    "two, two images each": [random_prompt(2, 0), random_prompt(2, 3)],
    "unequal images": [random_prompt(2, 0), random_prompt(1, 3), random_prompt(0, 1)],
}
EQUAL_LENGTH = [random_prompt(1, 0, text=4 + N + 3), random_prompt(2, 1, text=4), random_prompt(0, 2, text=4 + 2 * (N + 3))]


@pytest.mark.parametrize("attn", ["sdpa", "eager"])
@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("name", METHODS_HERE)
def test_generation_equals_the_masked_reference(reference: Reference, name: str, batch: str, attn: str):
    agrees(reference, METHODS_HERE[name], BATCHES[batch], attn)


@pytest.mark.parametrize("attn", ["sdpa", "eager"])
@pytest.mark.parametrize("name", METHODS_HERE)
def test_rows_of_equal_length_with_unequal_images(reference: Reference, name: str, attn: str):
    """No padding before pruning and some after: the mask that transformers leaves out must come back, in decoding too."""
    assert len({len(p.ids) for p in EQUAL_LENGTH}) == 1
    agrees(reference, METHODS_HERE[name], EQUAL_LENGTH, attn)


def test_the_reference_is_the_model_where_nothing_is_dropped(reference: Reference):
    prompt = random_prompt(2, 1)
    run = models.run(models.random_llava(), [prompt], steps=STEPS)
    logits, tokens = reference.generate(prompt, Longest(()), STEPS)
    torch.testing.assert_close(run.logits[0], logits, atol=2e-4, rtol=1e-4)
    assert run.tokens[0].tolist() == tokens.tolist()


@pytest.mark.parametrize("name", ["before", "fastv", "both by norm"])
def test_dropping_matters(reference: Reference, name: str):
    """A comparison of pruned with pruned says nothing where pruning changes nothing."""
    prompt = random_prompt(1, 0)
    pruned, full = (reference.generate(prompt, m, 1)[0] for m in (METHODS_HERE[name], Longest(())))
    assert (pruned - full).abs().max() > 0.1


@pytest.mark.parametrize("name", ["before", "fastv", "progressive", "both by norm"])
def test_a_direct_forward_is_pruned_alike(reference: Reference, name: str):
    """Without generate() nobody passes positions."""
    subject, prompt = models.random_llava(), random_prompt(2, 1)
    with torch.no_grad(), models.context(subject, [prompt], METHODS_HERE[name]):
        logits = subject.model(**models.collate([prompt])).logits[0, -1]
    torch.testing.assert_close(logits, reference.generate(prompt, METHODS_HERE[name], 1)[0][0], atol=2e-4, rtol=1e-4)


# -- the comparison can fail ---------------------------------------------------------------------------------------------------
def _mask_of_the_first_layer(self: Stage, mask: Tensor | None, start: int, *rest: Any) -> Tensor | None:
    columns = self.index.shape[1] + (0 if mask is None else mask.shape[-1] - start)
    return None if mask is None else mask[..., :columns]


def _no_mask(self: Stage, *rest: Any) -> None:
    return None


def _rope_of_the_first(table: Tensor, index: Tensor) -> Tensor:
    return table[..., : index.shape[1], :]


_decode = Prefill.step


def _positions_not_shifted(self: Prefill, kwargs: dict[str, Any], past: int) -> dict[str, Any]:
    return {**_decode(self, dict(kwargs), past), "position_ids": kwargs.get("position_ids")}


def _pads_forgotten(self: Prefill, kwargs: dict[str, Any], past: int) -> dict[str, Any]:
    done = _decode(self, dict(kwargs), past)
    return {**done, "attention_mask": torch.ones_like(done["attention_mask"])}


PADDED = "two, padded"
MUTATIONS: dict[str, tuple[Any, str, Callable[..., Any], str, list[Prompt], str]] = {
    # what to break, the wrong version, and the method and batch that must notice
    "decode mask of the first layer": (Stage, "decode_mask", _mask_of_the_first_layer, "fastv", EQUAL_LENGTH, "eager"),
    "no decode mask": (Stage, "decode_mask", _no_mask, "fastv", BATCHES[PADDED], "sdpa"),
    "rotary table not gathered": (sequence, "take_rope", _rope_of_the_first, "fastv", BATCHES["one"], "sdpa"),
    "decode positions not shifted": (Prefill, "step", _positions_not_shifted, "before", BATCHES["one"], "sdpa"),
    "padding forgotten in decoding": (Prefill, "step", _pads_forgotten, "before", BATCHES[PADDED], "sdpa"),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_the_comparison_notices_a_broken_mechanism(reference: Reference, name: str, monkeypatch: pytest.MonkeyPatch):
    where, attribute, wrong, method, batch, attn = MUTATIONS[name]
    monkeypatch.setattr(where, attribute, wrong)
    with pytest.raises(AssertionError):
        agrees(reference, METHODS_HERE[method], batch, attn)


# -- attention rows ------------------------------------------------------------------------------------------------------------
def attention_agrees(stage: int, attn: str) -> None:
    prompts = [random_prompt(2, 0), random_prompt(2, 3)]
    inputs, eager = models.collate(prompts), models.random_llava("eager")
    with torch.no_grad():
        out = eager.model.generate(
            **inputs, max_new_tokens=1, do_sample=False, output_attentions=True, return_dict_in_generate=True
        )
    row = out.attentions[0][stage - 1][:, :, -1].mean(1)  # (B, L)
    at = (inputs["input_ids"] == models.IMAGE).nonzero()[:, 1].view(-1, N)
    method = Attended(((stage, N - 1),))
    models.run(models.random_llava(attn), prompts, method, inputs=inputs)
    torch.testing.assert_close(
        method.seen[0][:, 0], row.repeat_interleave(2, 0).gather(1, at), atol=0 if attn == "eager" else 1e-6, rtol=0
    )


@pytest.mark.parametrize("attn", ["sdpa", "eager"])
@pytest.mark.parametrize("stage", range(1, LAYERS))
def test_attention_is_what_the_eager_layer_computes(stage: int, attn: str):
    attention_agrees(stage, attn)


_weights = attention.Pass._weights


def _other(change: Callable[[attention.Pass], dict[str, Any]]) -> Callable[..., Tensor]:
    return lambda self, at, keys: _weights(replace(self, query=None, **change(self)), at, keys)


WRONG_ATTENTION = {
    "mask": _other(lambda p: {"mask": None}),
    "position": _other(lambda p: {"rope": tuple(c.roll(1, 1) for c in p.rope)}),
    "row": _other(lambda p: {"hidden": p.hidden.flip(1)}),
}


@pytest.mark.parametrize("what", WRONG_ATTENTION)
def test_the_attention_comparison_notices_a_wrong(what: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(attention.Pass, "_weights", WRONG_ATTENTION[what])
    with pytest.raises(AssertionError):
        attention_agrees(2, "sdpa")


# -- merging -------------------------------------------------------------------------------------------------------------------
def entering(subject: models.Subject, prompts: list[Prompt], method: Any, layer: int) -> Tensor:
    """The hidden states that enter a layer at the prefill, seen from outside."""
    seen: list[Tensor] = []

    def watch(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen.append(args[0] if args else kwargs["hidden_states"])

    with torch.no_grad(), models.context(subject, prompts, method):
        handle = subject.model.model.language_model.layers[layer].register_forward_pre_hook(watch, with_kwargs=True)
        try:
            subject.model(**models.collate(prompts))
        finally:
            handle.remove()
    return seen[0]


def folded(x: Tensor, images: list[Tensor], k: int) -> Tensor:
    """x (L, D) with each image replaced by its k - 1 longest tokens in order, then the mean of its others."""
    parts, at = [], 0
    for image in images:
        own = x[image]
        kept = own.norm(dim=-1).topk(k - 1).indices.sort().values
        rest = torch.ones(len(own), dtype=torch.bool)
        rest[kept] = False
        parts += [x[at : image[0]], own[kept], own[rest].mean(0, keepdim=True)]
        at = int(image[-1]) + 1
    return torch.cat([*parts, x[at:]])


@pytest.mark.parametrize("stage", [0, 2])
def test_a_merged_token_follows_the_kept_ones_of_its_image(stage: int):
    subject, prompt = models.random_llava(), random_prompt(2, 1)
    images = list((torch.tensor(prompt.ids) == models.IMAGE).nonzero()[:, 0].view(-1, N))
    whole = entering(subject, [prompt], get_method("full"), stage)[0]
    short = entering(subject, [prompt], Folded(((stage, 4),)), stage)[0]
    torch.testing.assert_close(short, folded(whole, images, 4))


def test_merged_tokens_take_positions_and_cache_like_others():
    subject, prompt = models.random_llava(), random_prompt(2, 1)
    run = models.run(subject, [prompt], Folded(((0, 4),)), steps=4)
    length = len(prompt.ids) - 2 * (N - 4)
    assert run.cache == [length + 3] * LAYERS
    assert run.kept[0].shape == (2, 1, 4)
    assert (run.kept[0][..., -1] == -1).all()
    assert (run.kept[0][..., :-1] >= 0).all()
    short = entering(subject, [prompt], Folded(((0, 4),)), 0)
    with torch.no_grad():
        lm = subject.model.model.language_model
        out = lm(inputs_embeds=short, position_ids=torch.arange(length)[None], attention_mask=torch.ones(1, length))
        torch.testing.assert_close(run.logits[:, 0], subject.model.lm_head(out.last_hidden_state[:, -1]), atol=2e-4, rtol=1e-4)


def test_a_stage_after_merging_reports_merged_tokens_as_such():
    run = models.run(models.random_llava(), [random_prompt(1, 0)], Folded(((0, 6), (2, 3))))
    assert run.lengths == [len(random_prompt(1, 0).ids) - N + n for n in (6, 6, 3, 3)]
    assert run.kept[2][0, 0, -1] == -1


# -- other ways to generate ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["before", "both by norm", "fastv"])
def test_beam_scores_equal_the_reference(reference: Reference, name: str):
    subject, prompts = models.random_llava(), BATCHES[PADDED]
    inputs, method = models.collate(prompts), METHODS_HERE[name]
    beams = {"num_beams": 3, "num_return_sequences": 2, "length_penalty": 0.0, "do_sample": False}
    with torch.no_grad(), models.context(subject, prompts, method):
        out = subject.model.generate(**inputs, **beams, max_new_tokens=4, output_scores=True, return_dict_in_generate=True)
    new = out.sequences[:, inputs["input_ids"].shape[1] :]
    for row, score in enumerate(out.sequences_scores):
        logits, _ = reference.generate(prompts[row // 2], method, 4, forced=new[row])
        expected = logits.log_softmax(-1).gather(1, new[row][:, None]).sum()
        torch.testing.assert_close(score, expected, atol=1e-3, rtol=0)


@since_5("gives beams of rows with several images the wrong ones")
@pytest.mark.parametrize("name", ["cdpruner", "random"])
def test_beams_of_a_row_share_its_question_and_seed(name: str):
    """Rows are repeated after the vision encoder ran; the first step of every beam is the greedy one's."""
    subject, prompts = models.random_llava(), [random_prompt(2, 0), random_prompt(1, 3)]
    inputs = models.collate(prompts)
    greedy = models.run(subject, prompts, get_method(name))
    with torch.no_grad(), models.context(subject, prompts, get_method(name)) as trace:
        subject.model.generate(**inputs, num_beams=3, max_new_tokens=2, do_sample=False)
    (kept,) = trace.kept[0]
    of_image = [0, 1] * 3 + [2] * 3
    assert torch.equal(kept, greedy.kept[0][of_image])


@since_5("fails in prompt lookup without an end token")
@pytest.mark.parametrize("name", ["before", "fastv"])
def test_speculation_equals_greedy_decoding(name: str):
    """Prompt lookup guesses several tokens at once and takes rejected ones back out of the shortened cache."""
    subject, prompt = models.random_llava(), random_prompt(1, 0)
    greedy = models.run(subject, [prompt], METHODS_HERE[name], steps=12)
    with torch.no_grad(), models.context(subject, [prompt], METHODS_HERE[name]):
        guessed = subject.model.generate(
            **models.collate([prompt]), max_new_tokens=12, do_sample=False, prompt_lookup_num_tokens=3
        )
    assert guessed[0, len(prompt.ids) :].tolist() == greedy.tokens[0].tolist()


# -- what cannot work is refused -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["before", "fastv"])
def test_a_static_cache_is_refused(name: str):
    subject = models.random_llava()
    vars(subject.model).pop("_cache", None)  # transformers 4 keeps a static cache there, half made since the refusal before
    with pytest.raises(UserError, match="static cache"):
        models.run(subject, [random_prompt()], METHODS_HERE[name], steps=3, cache_implementation="static")


def test_stages_inside_need_a_cache():
    with pytest.raises(UserError, match="use_cache=True"):
        models.run(models.random_llava(), [random_prompt()], METHODS_HERE["fastv"], steps=3, use_cache=False)


@since_5("cannot cut a prompt inside an image")
@pytest.mark.parametrize("name", ["before", "fastv", "script"])
@pytest.mark.parametrize("chunk", [8, 3 + N, 4 + N])
def test_chunked_prefill_is_refused_or_changes_nothing(name: str, chunk: int):
    """Also where the border falls behind the image: what decides about the tokens may not have been read yet."""
    subject, prompt = models.random_llava(), random_prompt(1, 0)
    if name == "script":  # conditioned on the whole prompt
        subject, method = models.without_query(subject), get_method(name)
    else:
        method = METHODS_HERE[name]
    whole = models.run(subject, [prompt], method, steps=3)
    try:
        chunked = models.run(subject, [prompt], method, steps=3, prefill_chunk_size=chunk)
    except UserError:
        return
    torch.testing.assert_close(chunked.logits, whole.logits, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("name", METHODS_HERE)
def test_a_second_turn_on_a_pruned_cache_is_refused_or_right(reference: Reference, name: str):
    """generate() cuts the new prompt by the length of the first layer's cache, which is shorter where stage 0 ran."""
    subject, prompt, method = models.random_llava(), random_prompt(1, 0), METHODS_HERE[name]
    turn = [5, 6, 7, 8, 9]
    with torch.no_grad(), models.context(subject, [prompt], method):
        out = subject.model.generate(**models.collate([prompt]), max_new_tokens=3, do_sample=False, return_dict_in_generate=True)
        ids = torch.cat([out.sequences, torch.tensor([turn])], 1)
        try:
            more = subject.model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                past_key_values=out.past_key_values,
                max_new_tokens=1,
                output_logits=True,
                return_dict_in_generate=True,
            )
        except UserError:
            return
    forced = ids[0, len(prompt.ids) :]
    expected = reference.generate(prompt, method, len(forced) + 1, forced=torch.cat([forced, forced[:1]]))[0][-1]
    torch.testing.assert_close(more.logits[0][0], expected, atol=2e-4, rtol=1e-4)


def test_embeddings_without_ids_are_refused():
    subject, prompt = models.random_llava(), random_prompt(1, 0)
    embeds = subject.model.model.language_model.embed_tokens(torch.tensor([prompt.ids]))
    with torch.no_grad(), models.context(subject, [prompt], Longest()):
        with pytest.raises(UserError, match="input_ids"):
            subject.model(inputs_embeds=embeds)
        with pytest.raises(UserError, match="input_ids"):
            subject.model.generate(inputs_embeds=embeds, attention_mask=torch.ones(embeds.shape[:2]), max_new_tokens=1)


def test_a_truncated_run_of_placeholders_is_refused():
    """transformers compares totals only, so one row's missing token may hide behind another row's surplus."""
    a, b = random_prompt(1, 0), random_prompt(1, 3)
    short, long = (replace(p, ids=(*p.ids[:5], *ids)) for p, ids in ((a, a.ids[6:]), (b, (models.IMAGE, *b.ids[5:]))))
    with pytest.raises(UserError, match="truncated"):
        models.run(models.random_llava(), [short, long], Longest())


def test_an_unknown_family_is_refused():
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, vocab_size=8)
    with pytest.raises(UserError, match="llava"):
        pruning(LlamaForCausalLM(config), Longest(), 4)


def test_missing_needs_name_the_methods_that_would_work():
    @private
    @dataclass(frozen=True)
    class Salient(Method):
        needs = frozenset({"saliency", "cls", "encoder_keys", "grid_of_another_family"})

    with pytest.raises(UserError, match="grid_of_another_family") as refusal:
        pruning(models.random_llava().model, Salient(), 4)
    assert "script" in str(refusal.value)
    assert "llava" in str(refusal.value)


@pytest.mark.parametrize("budget", ["many", "r75k2", "-3", -3, 0, "0", "pct"])
def test_a_budget_that_means_nothing_is_refused_at_once(budget: int | str):
    with pytest.raises(UserError):
        pruning(models.random_llava().model, get_method("random"), budget)


def test_a_stage_that_the_model_does_not_have_is_refused():
    with pytest.raises(UserError, match="layers 0 to 3"):
        models.run(models.random_llava(), [random_prompt()], Longest(((LAYERS, 4),)))


@pytest.mark.parametrize("what", ["seed", "question"])
def test_a_list_that_does_not_fit_the_batch_is_refused(what: str):
    subject, prompts = models.random_llava(), [random_prompt(1, 0), random_prompt(1, 3)]
    given: dict[str, Any] = {"seed": [1, 2, 3], "question": ["a", "b", "c"]}
    method = get_method("random" if what == "seed" else "cdpruner")
    context = pruning(subject.model, method, 4, query=subject.query, **{what: given[what]})
    with torch.no_grad(), context, pytest.raises(UserError, match="3 "):
        subject.model(**models.collate(prompts))


@pytest.mark.parametrize("wrong", ["short", "repeated", "descending", "outside"])
def test_a_method_that_breaks_its_word_is_refused(wrong: str):
    indices = {"short": [0, 1], "repeated": [0, 1, 1], "descending": [2, 1, 0], "outside": [0, 1, N]}

    @private
    @dataclass(frozen=True)
    class Liar(Method):
        def reduce(self, visual: Visual, k: int) -> Reduced:
            keep = torch.tensor(indices[wrong]).expand(*visual.shape[:2], -1)
            return Reduced(keep, visual.tokens[:, :, : keep.shape[-1]])

    with pytest.raises(UserError, match="liar"):
        models.run(models.random_llava(), [random_prompt()], Liar(), 3)


# -- what the trace says -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", METHODS_HERE)
def test_the_trace_is_what_was_measured(reference: Reference, name: str):
    subject, prompts, method = models.random_llava(), BATCHES["unequal images"], METHODS_HERE[name]
    measured: list[int] = []

    def watch(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        measured.append((args[0] if args else kwargs["hidden_states"]).shape[1])

    with torch.no_grad(), models.context(subject, prompts, method) as trace:
        handles = [layer.register_forward_pre_hook(watch, with_kwargs=True) for layer in reference_layers(subject)]
        out = subject.model.generate(**models.collate(prompts), max_new_tokens=3, do_sample=False, return_dict_in_generate=True)
        for handle in handles:
            handle.remove()
    assert trace.lengths == measured[:LAYERS]
    assert [layer.keys.shape[2] for layer in out.past_key_values.layers] == [n + 2 for n in trace.lengths]
    images = [len(p.pixels) for p in prompts]
    assert trace.visual.tolist() == [N * i for i in images]
    assert trace.text.tolist() == [len(p.ids) - N * i for p, i in zip(prompts, images, strict=True)]
    for b, prompt in enumerate(prompts):
        with torch.no_grad():
            alive = reference.forward(*reference.embed(prompt), method, None)[1]
        assert trace.entering(LAYERS)[:, b].tolist() == [int(a.sum()) for a in alive]


def reference_layers(subject: models.Subject) -> list[nn.Module]:
    return list(subject.model.model.language_model.layers)


@pytest.mark.parametrize("name", ["before", "fastv", "progressive", "both by norm"])
def test_kept_indices_are_the_reference_s(reference: Reference, name: str):
    """Positions in the image, whatever the stage."""
    prompt, method = random_prompt(2, 1), METHODS_HERE[name]
    run = models.run(models.random_llava(), [prompt], method)
    with torch.no_grad():
        x, images = reference.embed(prompt)
        alive = reference.forward(x, images, method, None)[1]
    for stage, keep in run.kept.items():
        assert keep[:, 0].tolist() == [alive[stage][at].nonzero()[:, 0].tolist() for at in images]


def test_a_share_is_a_share_of_the_image():
    run = models.run(models.random_llava(), [random_prompt(2, 1)], get_method("random"), "25pct")
    assert run.kept[0].shape == (2, 1, N // 4)


def test_a_further_prompt_in_the_same_context_starts_anew(reference: Reference):
    """Also after one that failed."""
    subject, first, second = models.random_llava(), random_prompt(1, 0), random_prompt(2, 1)
    method = METHODS_HERE["both by norm"]
    with torch.no_grad(), models.context(subject, [second], method) as trace:
        subject.model(**models.collate([first]))
        with pytest.raises(UserError):
            subject.model(inputs_embeds=torch.zeros(1, 4, models.WIDTH))
        out = subject.model.generate(
            **models.collate([second]), max_new_tokens=1, output_logits=True, return_dict_in_generate=True
        )
    torch.testing.assert_close(out.logits[0][0], reference.generate(second, method, 1)[0][0], atol=2e-4, rtol=1e-4)
    assert sorted(trace.kept) == [0, 2]
