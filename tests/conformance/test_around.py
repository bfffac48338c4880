"""Pruning around a model, for every registered method, beyond the laws of `conformance/around.py`: another question space,
nested contexts, attention kernels and positions.
"""

from __future__ import annotations

from dataclasses import replace

import models
import pytest
import torch
from test_laws import SUBJECTS
from test_laws import method as method
from test_laws import subject as subject
from torch import Tensor

from script_vlmeval.conformance.around import close, dropping, inside, same_kept
from script_vlmeval.errors import UserError
from script_vlmeval.families import language_model
from script_vlmeval.kernels import unit
from script_vlmeval.methods import Method, get_method
from script_vlmeval.tiny import ASSETS

pytestmark = pytest.mark.filterwarnings("ignore:no question text")


def test_relevance_without_a_question_space_is_independent_of_padding_and_mates(subject: models.Subject, method: Method):
    """Relevance then comes from the language model's embeddings of the prompt, in which padding has no say."""
    subject = models.without_query(subject)
    prompts = [subject.prompt(1, 2), subject.prompt(2, 0)]
    together, alone = models.run(subject, prompts, method), models.run(subject, prompts[:1], method, extra=7)
    for stage in alone.kept:
        k = alone.kept[stage].shape[-1]
        assert torch.equal(together.kept[stage][:1, :, :k], alone.kept[stage])
    close("alone and beside another", together.logits[:1], alone.logits)


def test_recomputation_without_a_question_space_chooses_the_same_tokens(subject: models.Subject, method: Method):
    """Relevance then comes from the prompt, which does not grow with the answer."""
    if inside(method, subject):
        pytest.skip("refused without a cache")
    subject, prompts = models.without_query(subject), [subject.prompt(1, 0), subject.prompt(1, 1)]
    cached, anew = (models.run(subject, prompts, method, steps=6, use_cache=use) for use in (True, False))
    same_kept("with and without a cache", cached.kept, anew.kept)
    close("with and without a cache", cached.logits, anew.logits)


def test_no_column_of_the_cache_is_empty(subject: models.Subject, method: Method):
    """With images in unequal number the row that was the shortest may become the longest; what no row fills is not kept."""
    if not dropping(method, subject):
        pytest.skip("shortens nothing")
    prompts = [subject.prompt(1, 0), subject.prompt(2, 1), subject.prompt(0, 2)]
    run = models.run(subject, prompts, method)
    assert run.lengths == run.entering.max(1).values.tolist()


def test_nesting_is_refused_and_leaves_the_outer_context_working(subject: models.Subject, method: Method):
    prompts = [subject.prompt(1, 0)]
    inputs, once = models.collate(prompts), models.run(subject, prompts, method)
    with torch.no_grad(), models.context(subject, prompts, method) as trace:
        with pytest.raises(UserError, match="already"), models.context(subject, prompts, method):
            pass
        subject.model(**inputs)
        assert trace.lengths == once.lengths


def test_sdpa_equals_eager(subject: models.Subject, method: Method):
    eager = replace(SUBJECTS[subject.name.split("-")[0]]("eager"), budget=subject.budget)
    prompts = [subject.prompt(1, 0), subject.prompt(2, 1)]
    ours, theirs = (models.run(s, prompts, method, steps=3) for s in (subject, eager))
    same_kept("sdpa and eager", ours.kept, theirs.kept)
    close("sdpa and eager", ours.logits, theirs.logits)
    assert torch.equal(ours.tokens, theirs.tokens)


@pytest.mark.parametrize("images", [1, 2])
def test_positions_count_the_shortened_sequence(subject: models.Subject, method: Method, images: int):
    """As if the language model had been given the kept embeddings alone, at positions 0, 1, 2..."""
    if inside(method, subject):
        pytest.skip("shortens inside the language model; tests/test_prune.py has the reference for that")
    prompt = subject.prompt(images, 1)
    run = models.run(subject, [prompt], method)
    if method.changes or any((keep < 0).any() for keep in run.kept.values()):
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
        close("kept tokens alone", run.logits[:, 0], subject.model.lm_head(out.last_hidden_state[:, -1]))


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
