"""Encode once, prune many: how often the vision side really runs, and that nobody can tell from the answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import models
import numpy as np
import pytest
import torch
from torch import nn

from script_vlmeval import shapes
from script_vlmeval.encode import QueryOnce, encode_once
from script_vlmeval.methods import get_method
from script_vlmeval.runtime import Prepared, Runtime
from script_vlmeval.tiny import ASSETS

pytestmark = pytest.mark.skipif(not (ASSETS / "config.json").is_file(), reason=f"the embedded model is not in {ASSETS}")

CONFIGS = [("full", ""), ("random", "8"), ("cdpruner", "8"), ("cdpruner", "36"), ("script", "8"), ("script", "25pct")]


@pytest.fixture(scope="module")
def runtime() -> Runtime:
    return Runtime.load("tiny", device="cpu")


@pytest.fixture(scope="module")
def messages(tmp_path_factory: pytest.TempPathFactory) -> list[list[dict[str, str]]]:
    """Two batches of two: VLMEvalKit's messages about drawn scenes."""
    from PIL import Image

    folder, draw = tmp_path_factory.mktemp("pictures"), np.random.default_rng(11)
    made = []
    for i in range(4):
        scene, file = shapes.draw(draw), folder / f"{i}.png"
        Image.fromarray(scene.pixels).save(file)
        question = next(q.text for kind in ("color", "exist") if (q := shapes.ask(scene, kind, draw)))
        made.append([{"type": "image", "value": str(file)}, {"type": "text", "value": question}])
    return made


@pytest.fixture
def batch(runtime: Runtime, messages: list[list[dict[str, str]]]) -> Prepared:
    return runtime.prepare(messages[:2])


@contextmanager
def counted(**modules: nn.Module) -> Iterator[Counter[str]]:
    """How often modules inside the encoder run: inside, because the memo's own hooks run every time."""
    counts: Counter[str] = Counter()

    def counter(name: str) -> Any:
        return lambda *_: counts.update([name])

    handles = [module.register_forward_hook(counter(name)) for name, module in modules.items()]
    try:
        yield counts
    finally:
        for handle in handles:
            handle.remove()


def parts(runtime: Runtime) -> dict[str, nn.Module]:
    inner = runtime.model.model
    patches = next(m for name, m in inner.vision_tower.named_modules() if name.endswith("patch_embedding"))
    return {"tower": patches, "projector": inner.multi_modal_projector.linear_1}


def answers(runtime: Runtime, batch: Prepared) -> list[Any]:
    return [runtime.answer(batch, get_method(name), budget) for name, budget in CONFIGS]


def test_the_vision_side_runs_once_for_many_configurations(runtime: Runtime, batch: Prepared):
    with counted(**parts(runtime)) as counts, runtime.batch():
        answers(runtime, batch)
    assert counts == {"tower": 1, "projector": 1}


def test_outside_it_runs_every_time(runtime: Runtime, batch: Prepared):
    """So the count above counts."""
    with counted(**parts(runtime)) as counts:
        answers(runtime, batch)
    assert counts == {"tower": len(CONFIGS), "projector": len(CONFIGS)}


def test_answers_and_numbers_are_the_same(runtime: Runtime, batch: Prepared):
    plain = answers(runtime, batch)
    with runtime.batch():
        assert answers(runtime, batch) == plain


def test_logits_are_the_same_bits(runtime: Runtime, batch: Prepared):
    with torch.inference_mode():
        plain = runtime.model(**batch.inputs).logits
        with runtime.batch():
            assert all(torch.equal(runtime.model(**batch.inputs).logits, plain) for _ in range(2))


def test_another_batch_in_the_same_context_is_encoded(runtime: Runtime, messages: list[list[dict[str, str]]]):
    both = [runtime.prepare(messages[:2]), runtime.prepare(messages[2:])]
    plain = [answers(runtime, batch) for batch in both]
    with counted(**parts(runtime)) as counts, runtime.batch():
        assert [answers(runtime, batch) for batch in both] == plain
    assert counts == {"tower": 2, "projector": 2}


def test_the_next_context_encodes_anew(runtime: Runtime, batch: Prepared):
    with counted(**parts(runtime)) as counts:
        for _ in range(2):
            with runtime.batch():
                answers(runtime, batch)
    assert counts == {"tower": 2, "projector": 2}


def test_the_question_is_encoded_once(runtime: Runtime, batch: Prepared):
    answers(runtime, batch)  # loads the question's side
    query = runtime._query("auto")._source
    query_once = QueryOnce(query)
    with counted(text=query.text) as counts:
        rows = [query_once.encode(batch.questions) for _ in range(3)]
        assert all(torch.equal(rows[0][0], r[0]) for r in rows)
        assert counts == {"text": 1}
        other = query_once.encode(["Is there a red circle?"])
        assert counts == {"text": 2}
    assert torch.equal(other[0], query.encode(["Is there a red circle?"])[0])


def test_two_batches_with_the_same_questions_do_not_share_patches(runtime: Runtime, messages: list[list[dict[str, str]]]):
    """The patches belong to the pictures, not to the text."""
    asked = [[part if part["type"] == "image" else {"type": "text", "value": "Is there a ring?"} for part in m] for m in messages]
    expected = [runtime.answer(runtime.prepare(asked[i : i + 2]), get_method("script"), "8") for i in (0, 2)]
    for i, answer in zip((0, 2), expected, strict=True):
        with runtime.batch():
            fresh = Runtime(runtime.record, runtime.model, runtime.processor, "cpu")
            assert fresh.answer(runtime.prepare(asked[i : i + 2]), get_method("script"), "8") == answer


def forwards(runtime: Runtime) -> dict[str, Any]:
    inner = runtime.model.model
    named = {"tower": inner.vision_tower, "projector": inner.multi_modal_projector}
    return {name: (m.__dict__.get("forward"), m.forward.__func__) for name, m in named.items()}


def test_forward_is_restored(runtime: Runtime, batch: Prepared):
    before = forwards(runtime)
    with runtime.batch():
        assert all(m.forward.__name__ == "forward" for m in parts(runtime).values())
        runtime.answer(batch, get_method("script"), "8")
    assert forwards(runtime) == before
    with pytest.raises(RuntimeError, match="on the way"), runtime.batch():
        raise RuntimeError("on the way")
    assert forwards(runtime) == before


class Doubler(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: torch.Tensor, scale: int = 2) -> torch.Tensor:
        self.calls += 1
        return x * scale


def test_a_forward_of_the_instance_s_own_is_restored():
    """Libraries that place models on devices put one there."""
    module = Doubler()
    own = module.forward = lambda x: x * 3
    with encode_once(module):
        assert module(torch.ones(2)).tolist() == [3, 3]
    assert module.__dict__.get("forward") is own


def test_contexts_can_be_nested():
    module, x = Doubler(), torch.ones(2)
    with encode_once(module):
        with encode_once(module):
            module(x)
        module(x)
    module(x)
    assert module.calls == 2
    assert "forward" not in module.__dict__


def test_only_the_same_input_is_remembered():
    module, x = Doubler(), torch.arange(6.0).view(2, 3)
    with encode_once(module):
        assert module(x) is module(x)
        assert module(x) is module(x[:]), "another view of the same memory"
        assert torch.equal(module(x[:1]), x[:1] * 2)
        assert torch.equal(module(x.clone()), x * 2)
        assert torch.equal(module(x, scale=3), x * 3)
        assert torch.equal(module(x.T), x.T * 2)
    assert module.calls == 5


def test_the_input_may_be_named():
    module, x = Doubler(), torch.ones(2)
    with encode_once(module):
        assert module(x=x) is module(x=x)
        assert torch.equal(module(x=torch.zeros(2)), torch.zeros(2))
    assert module.calls == 2


def test_the_random_model_is_pruned_alike_within_the_context():
    """Pixels reach the tower through other code when generate() encodes ahead of the prefill."""
    subject = models.random_llava()
    prompts = [subject.prompt(2, 0), subject.prompt(1, 1)]
    inputs = models.collate(prompts)
    plain = [models.run(subject, prompts, get_method(n), inputs=inputs, steps=2) for n in ("full", "cdpruner", "script")]
    inner = subject.model.model
    with encode_once(inner.vision_tower, inner.multi_modal_projector):
        again = [models.run(subject, prompts, get_method(n), inputs=inputs, steps=2) for n in ("full", "cdpruner", "script")]
    assert all(torch.equal(a.logits, b.logits) for a, b in zip(plain, again, strict=True))


def test_pictures_are_read_from_where_the_message_says(runtime: Runtime, tmp_path: Path):
    with pytest.raises(ValueError, match="gone"):
        runtime.read([{"type": "image", "value": str(tmp_path / "gone.png")}, {"type": "text", "value": "What?"}])
