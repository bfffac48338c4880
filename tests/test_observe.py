"""What methods see of a model, against the model's own eager pass; and what a batch's contexts share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import models
import pytest
import torch
import transformers
from torch import Tensor

from script_vlmeval import families, tower
from script_vlmeval.encode import Chosen, encode_once
from script_vlmeval.errors import UserError
from script_vlmeval.inputs import shown as _shown
from script_vlmeval.methods import METHODS, Method, Visual, get_method
from script_vlmeval.prune import pruning
from script_vlmeval.query import LlmQuery

FIELDS = frozenset("keys query encoded saliency cls encoder_keys project resized seed".split())


@dataclass(frozen=True)
class Spy(Method, register=False):
    """Keeps the first tokens, and what it saw."""

    name: ClassVar[str] = "spy"
    needs: ClassVar[frozenset[str]] = FIELDS
    stage: int = 0

    def plan(self, budget: int, n_visual: int, n_layers: int) -> dict[int, int]:
        return {self.stage: budget}

    def select(self, visual: Visual, k: int) -> Tensor:
        SEEN.append(visual)
        return torch.arange(k).expand(*visual.shape[:2], k)


@dataclass(frozen=True)
class Inside(Spy, register=False):
    needs: ClassVar[frozenset[str]] = frozenset({"attention", "layer_keys", "text_keys", "text", "norm"})


SEEN: list[Visual] = []


@pytest.fixture(autouse=True)
def forget():
    SEEN.clear()
    assert "spy" not in METHODS


@pytest.fixture(params=[models.random_llava, models.trained_llava], ids=["random", "trained"])
def subject(request: pytest.FixtureRequest) -> models.Subject:
    return request.param()


def see(subject: models.Subject, prompts: list[models.Prompt], method: Method = Spy(), **given) -> Visual:
    with pruning(subject.model, method, 5, question=[p.question for p in prompts], query=subject.query, **given), torch.no_grad():
        subject.model(**models.collate(prompts))
    return SEEN[-1]


@pytest.mark.parametrize("images", [1, 2])
def test_saliency_is_the_eager_attention_of_cls(subject: models.Subject, images: int):
    """attentions[-2], averaged over heads, at the row of CLS, without CLS's own column and not renormalised."""
    prompts = [subject.prompt(images, 0), subject.prompt(1, 1)]
    visual = see(subject, prompts)
    eager = models.eager_tower(subject.model)
    with torch.no_grad():
        out = eager(torch.cat([p.pixels for p in prompts]), output_attentions=True, output_hidden_states=True)
    expected = out.attentions[-2].mean(1)[:, 0, 1:]
    torch.testing.assert_close(visual.saliency[:, 0], expected)
    assert (visual.saliency.sum(-1) < 1).all()
    torch.testing.assert_close(visual.encoded[:, 0], out.hidden_states[-2][:, 1:])
    torch.testing.assert_close(visual.cls[:, 0], out.hidden_states[-2][:, 0])
    torch.testing.assert_close(visual.project(visual.encoded), visual.tokens)


def test_encoder_keys_are_the_layer_s_key_projections(subject: models.Subject):
    prompts = [subject.prompt(1, 0)]
    visual = see(subject, prompts)
    tower_model = subject.model.model.vision_tower
    with torch.no_grad():
        entered = tower_model(prompts[0].pixels, output_hidden_states=True).hidden_states[-3]
    layer = tower.selected_layer(subject.model)
    keys = layer.self_attn.k_proj(layer.layer_norm1(entered))
    heads = keys.unflatten(-1, (layer.self_attn.num_heads, -1)).mean(2)
    torch.testing.assert_close(visual.encoder_keys[:, 0], heads[:, 1:])


def test_resized_is_the_encoder_on_a_smaller_picture(subject: models.Subject):
    prompts = [subject.prompt(1, 0), subject.prompt(1, 1)]
    visual = see(subject, prompts)
    side = visual.grid[0]
    with torch.no_grad():
        torch.testing.assert_close(visual.resized(side, side), visual.tokens, atol=1e-4, rtol=1e-4)
        small = visual.resized(2, 3)
    assert small.shape == (2, 1, 6, visual.tokens.shape[-1])
    assert (small[0] - small[1]).abs().max() > 0.01


def test_the_method_s_own_use_of_the_encoder_is_not_taken_for_the_prompt_s(subject: models.Subject):
    prompts = [subject.prompt(1, 0)]
    first = see(subject, prompts)

    class Meddling(Spy, register=False):
        def select(self, visual: Visual, k: int) -> Tensor:
            visual.resized(2, 2)
            visual.project(visual.encoded * 0)
            return super().select(visual, k)

    with pruning(subject.model, Meddling(), 5, question="x", query=subject.query) as trace, torch.no_grad():
        for _ in range(2):
            subject.model(**models.collate(prompts))
    assert trace.stages
    torch.testing.assert_close(SEEN[-1].encoded, first.encoded)
    torch.testing.assert_close(SEEN[-1].saliency, first.saliency)


def test_an_encoder_output_that_comes_again_brings_its_record(subject: models.Subject):
    """Within encode_once the layers do not run a second time, and nobody can watch them then."""
    prompts = [subject.prompt(1, 0)]
    inputs, inner = models.collate(prompts), subject.model.model
    alone = see(subject, prompts)
    handles = tower.watch(subject.model)
    with encode_once(inner.vision_tower, inner.multi_modal_projector), torch.no_grad():
        subject.model.get_image_features(pixel_values=inputs["pixel_values"])
        for handle in handles:
            handle.remove()
        with pruning(subject.model, Spy(), 5, question="x", query=subject.query):
            subject.model(**inputs)
    torch.testing.assert_close(SEEN[-1].saliency, alone.saliency)


@pytest.mark.skipif(
    int(transformers.__version__.split(".")[0]) < 5, reason="transformers 4 repeats pictures, not prompts, for beams"
)
def test_beams_see_the_same_as_one_row(subject: models.Subject):
    prompts = [subject.prompt(2, 0), subject.prompt(1, 1)]
    one = see(subject, prompts)
    models.run(subject, prompts, Spy(), 5, num_beams=2)
    torch.testing.assert_close(SEEN[-1].saliency, one.saliency[[0, 1, 0, 1, 2, 2]])
    torch.testing.assert_close(SEEN[-1].cls, one.cls[[0, 1, 0, 1, 2, 2]])


def test_a_pass_that_failed_leaves_no_record(subject: models.Subject):
    """Its layer was entered; the next output, which ran no layer, must not be given what entered it then."""
    inputs, inner = models.collate([subject.prompt(1, 0)]), subject.model.model
    handles = tower.watch(subject.model)
    broken = tower.selected_layer(subject.model).mlp
    with encode_once(inner.vision_tower, inner.multi_modal_projector), torch.no_grad():
        first = inner.vision_tower(inputs["pixel_values"], output_hidden_states=True)
        record = tower.entered(first)
        failing = broken.register_forward_pre_hook(lambda *_: (_ for _ in ()).throw(MemoryError()))
        with pytest.raises(MemoryError):
            inner.vision_tower(inputs["pixel_values"] * 2, output_hidden_states=True)
        failing.remove()
        again = inner.vision_tower(inputs["pixel_values"], output_hidden_states=True)
    for handle in handles:
        handle.remove()
    assert tower.entered(again) is record


@pytest.mark.parametrize(("layer", "strategy"), [([-2, -1], "default"), (0, "default"), (-2, "full")])
def test_checkpoints_that_read_the_tower_otherwise_are_refused(layer: object, strategy: str, monkeypatch: pytest.MonkeyPatch):
    subject = models.random_llava()
    monkeypatch.setattr(subject.model.config, "vision_feature_layer", layer)
    monkeypatch.setattr(subject.model.config, "vision_feature_select_strategy", strategy)
    if strategy == "full":
        with pytest.raises(UserError, match="'full' vision features"):
            families.FAMILIES["llava"].split(subject.model, torch.ones(1, 17, dtype=torch.long), None, {})
    else:
        with pytest.raises(UserError, match="vision_feature_layer"):
            tower.watch(subject.model)


# -- inside the language model -----------------------------------------------------------------------------------------------
def test_inside_the_text_after_the_image_and_the_keys_are_seen(subject: models.Subject):
    prompts = [subject.prompt(1, 0), subject.prompt(2, 1)]
    inputs = models.collate(prompts)
    with torch.no_grad():
        places = (inputs["attention_mask"].cumsum(1) - 1).clamp_min(0)  # padding is not counted
        full = subject.model(**inputs, position_ids=places, output_hidden_states=True, use_cache=True)
        with pruning(subject.model, Inside(stage=2), 5, question="x", query=subject.query):
            subject.model(**inputs, use_cache=True)
    visual = SEEN[-1]  # the batch's three images: one of the first row, two of the second
    ids, hidden = inputs["input_ids"], full.hidden_states[2]
    config = subject.model.config
    image = getattr(config, "image_token_id", None) or config.image_token_index
    keys = full.past_key_values.layers[1].keys.transpose(1, 2).flatten(2)
    starts = [(row, start) for row in (0, 1) for start in (ids[row] == image).nonzero()[:: subject.n, 0].tolist()]
    assert len(starts) == 3
    for i, (row, start) in enumerate(starts):
        at = slice(start, start + subject.n)
        torch.testing.assert_close(visual.tokens[i, 0], hidden[row, at])
        torch.testing.assert_close(visual.layer_keys[i, 0], keys[row, at])
        after = (ids[row] != image) & inputs["attention_mask"][row].bool() & (torch.arange(ids.shape[1]) >= start + subject.n)
        real = visual.text_mask[i]
        torch.testing.assert_close(visual.text[i][real], hidden[row][after])
        torch.testing.assert_close(visual.text_keys[i][real], keys[row][after])
    torch.testing.assert_close(visual.norm(hidden), subject.model.model.language_model.norm(hidden))


@pytest.mark.parametrize("steps", [1, 3])
def test_inside_padding_changes_nothing_without_positions_either(subject: models.Subject, steps: int):
    """A plain forward counts padding in its positions, and rotated keys would show it."""
    method = get_method("dart")
    budget = 12 if subject.n == models.N else 72
    kept, logits = [], []
    for extra in (0, 6):
        inputs = models.collate([subject.prompt(1, 2)], extra)
        with pruning(subject.model, method, budget) as trace, torch.no_grad():
            out = subject.model(**inputs, use_cache=True)
            mask = inputs["attention_mask"]
            for _ in range(steps - 1):
                mask = torch.cat([mask, mask[:, -1:]], 1)
                token = out.logits[:, -1:].argmax(-1)
                out = subject.model(input_ids=token, attention_mask=mask, past_key_values=out.past_key_values, use_cache=True)
        kept.append(trace.kept[2][0])
        logits.append(out.logits[:, -1])
    assert torch.equal(*kept)
    torch.testing.assert_close(*logits, atol=2e-4, rtol=1e-4)


# -- the question --------------------------------------------------------------------------------------------------------------
class Words:
    """A tokenizer: one id per letter."""

    def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
        assert not add_special_tokens
        return {"input_ids": [ord(c) % 70 for c in text]}


def test_the_question_in_the_language_model_s_embeddings():
    embed = torch.nn.Embedding(80, 6)
    query, mask = LlmQuery(Words(), embed).encode(["ab", "abc", ""])
    assert mask.tolist() == [[True, True, False], [True] * 3, [False] * 3]
    torch.testing.assert_close(query[0, 1], embed.weight[ord("b") % 70])


def test_content_words_alone():
    source = LlmQuery(Words(), torch.nn.Embedding(80, 6), words=True)
    assert source._ids("What is on the TABLE?") == [ord(c) % 70 for c in "onTABLE"]
    assert source._ids("What is it?") == [ord(c) % 70 for c in "What is it?"]


@pytest.mark.parametrize("wanted", ["llm", "clip", "words"])
def test_a_question_from_another_space_is_refused(wanted: str):
    subject = models.random_llava()

    class Picky(Spy, register=False):
        def source(self) -> str:
            return wanted

    with pytest.raises(UserError, match=f"takes relevance from '{wanted}'"):
        pruning(subject.model, Picky(), 5, query=subject.query)
    if wanted != "clip":
        pruning(subject.model, Picky(), 5)


# -- padding -------------------------------------------------------------------------------------------------------------------
def test_patches_in_the_padding():
    assert _shown([(10, 10), (3, 3)], 4) is None
    wide = _shown([(8, 4), (5, 5)], 4)
    assert wide[0].view(4, 4).tolist() == [[False] * 4, [True] * 4, [True] * 4, [False] * 4]
    assert wide[1].all()
    assert _shown([(3, 8)], 4)[0].view(4, 4).tolist() == [[False, True, True, False]] * 4  # 2 and 3 of 8 columns are padding


def test_padding_reaches_the_method():
    subject = models.random_llava()
    shown = torch.rand(1, subject.n) > 0.5
    assert torch.equal(see(subject, [subject.prompt(1, 0)], shown=shown).shown, shown[:, None])


# -- what contexts share -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["cdpruner", "random"])
def test_one_run_serves_all_budgets(subject: models.Subject, name: str, monkeypatch: pytest.MonkeyPatch):
    method, prompts = get_method(name), [subject.prompt(2, 0), subject.prompt(1, 1)]
    alone = {b: models.run(subject, prompts, method, b, steps=2) for b in ("3", "25pct", "9")}
    calls: list[int] = []
    order = type(method).order
    monkeypatch.setattr(type(method), "order", lambda self, visual, k: calls.append(k) or order(self, visual, k))
    chosen = Chosen(["9", "3", "25pct", ""])
    for budget, single in alone.items():
        context = models.context(subject, prompts, method, budget)
        context.chosen = chosen
        with context as trace:
            logits = subject.model.generate(
                **models.collate(prompts), max_new_tokens=2, do_sample=False, output_logits=True, return_dict_in_generate=True
            ).logits
        assert torch.equal(torch.stack(logits, 1), single.logits)
        assert torch.equal(torch.cat(trace.kept[0]), single.kept[0])
    assert len(calls) == 1
