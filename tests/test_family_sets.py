"""Which tokens are a set, in every family: images of several tiles, videos, what batch mates must not change, odd pictures; and
models that are spread over several devices."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from family_cases import CASES, FRAMES, A, B, C, message, prepared, runtime, saved
from family_runs import GREEDY, STEPS, Spy, encoder_fields, generate, mate
from models import private, since_5
from torch import Tensor

from script_vlmeval import families, plans
from script_vlmeval.families import Group
from script_vlmeval.methods import Method, Visual, get_method
from script_vlmeval.observe import _IMAGE_SEED
from script_vlmeval.plans import Plan
from script_vlmeval.prefill import Prefill
from script_vlmeval.prune import pruning

DART = get_method("dart", layer=1)


def asked(case: str, *prompts: list[Any]) -> dict[str, Any]:
    return runtime(case).prepare([message(parts) for parts in prompts]).inputs


def run(case: str, inputs: dict[str, Any], method: Method, budget: Any, **more: Any) -> Any:
    """The trace."""
    with torch.no_grad(), pruning(runtime(case).model, method, budget, **more) as trace:
        runtime(case).model.generate(**inputs, do_sample=False, max_new_tokens=1)
    return trace


# -- batch mates ---------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("budget", ["60pct", "70pct"])
@pytest.mark.parametrize("case", CASES)
def test_what_is_a_set_inside_does_not_depend_on_the_rest_of_the_batch(case: str, budget: str):
    rt, (_, batch) = runtime(case), mate(case)
    given = prepared(case, batch)
    prompts = {"mixed": [[A, 1, "what?"], ["hello?"], [2, "and why is that?"]]}.get(
        batch, [[A, B, "which?"], [C, "a longer question here"]]
    )
    with rt.batch():
        together = rt.answer(given, DART, budget, max_new_tokens=STEPS)
    for answer, parts in zip(together, prompts, strict=True):
        (own,) = rt.answer(rt.prepare([message(parts)]), DART, budget, max_new_tokens=STEPS)
        assert answer.tokens["layers"] == own.tokens["layers"]
        assert answer.text == own.text


def group(row: list[int], tiles: int, n: int, at: int = 0, image: list[int] | None = None, media: str = "image") -> Group:
    places = at + torch.arange(len(row) * tiles * n).view(len(row), tiles, n)
    ids = None if image is None else torch.tensor(image)
    return Group(torch.tensor(row), places, (1, n), "video" if media == "video" else "image", image=ids)


def kept_by_set(groups: list[Group], method: Method, budget: str) -> dict[plans.Set, int]:
    plan = Plan.of(method, budget, groups, 4)
    assert plan.sets is not None
    last = plan.inside[max(plan.inside)]
    return {owner: n for owners, n in zip(plan.sets, last, strict=True) for owner in owners}


@pytest.mark.parametrize("said", [None, [0, 1]])
@pytest.mark.parametrize("method", [DART, get_method("divprune+dart", layer=1)])
def test_videos_of_a_sample_are_sets_of_their_own_beside_a_picture_of_two_parts(method: Method, said: list[int] | None):
    videos = group([0, 0], 4, 9, image=said, media="video")
    parts = [group([1], 1, 16, at=100, image=[2]), group([1], 1, 24, at=200, image=[2])]
    alone, beside = kept_by_set([videos], method, "60pct"), kept_by_set([videos, *parts], method, "60pct")
    assert len(alone) == 2
    assert len(beside) == 3
    assert sorted(n for (row, _), n in beside.items() if row == 0) == sorted(alone.values())


@pytest.mark.parametrize("case", CASES)
def test_every_picture_of_a_batch_has_a_number_of_its_own(case: str, monkeypatch: pytest.MonkeyPatch):
    found: list[list[Group]] = []
    family = families.FAMILIES[CASES[case][0]]

    def split(*given: Any) -> list[Group]:
        found.append(family.split(*given))
        return found[-1]

    monkeypatch.setitem(families.FAMILIES, family.name, replace(family, split=split))
    with_videos = mate(case)[1] == "mixed"
    run(case, asked(case, [A, B, "which?"], [A, *([1, 2] if with_videos else []), "what?"]), get_method("random"), 1)
    owners: dict[int, set[int]] = {}
    for g in found[0]:
        assert g.image is not None
        for row, image in zip(g.row.tolist(), g.image.tolist(), strict=True):
            owners.setdefault(image, set()).add(row)
    assert all(len(rows) == 1 for rows in owners.values())
    videos = 2 * (FRAMES if case == "internvl" else 1) if with_videos else 0  # each frame is a picture there
    assert len(owners) == 3 + videos


# -- budgets -------------------------------------------------------------------------------------------------------------------
def test_a_joint_method_inside_is_planned_for_all_tiles_together():
    """Of ten tiles of four tokens, 81 percent are 32, and not ten times three."""
    plan = Plan.of(DART, "81pct", [group([0], 10, 4)], 4)
    assert plan.inside == {1: [(32 * 4 - 40) // 3]}
    assert plan.before is None


def test_tiles_that_are_too_few_tokens_alone_are_enough_together():
    """One of four layers sees all: of 4 tokens a mean of 1 cannot be had, of 40 a mean of 13 can."""
    assert Plan.of(DART, "33pct", [group([0], 10, 4)], 4).inside == {1: [4]}


def test_what_a_hybrid_keeps_is_planned_for_what_its_first_method_leaves():
    plan = Plan.of(get_method("divprune+dart", layer=1), "33pct", [group([0], 10, 4)], 4)
    assert plan.before == [2]
    assert plan.inside == {1: [(13 * 4 - 20) // 3]}


# -- frames that are pictures --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["evs", "vidcom2"])
@pytest.mark.parametrize("case", ["internvl", "llava"])
def test_frames_shown_as_pictures_are_warned_of_once_per_context(case: str, name: str):
    inputs = asked(case, [1, "what?"])
    with warnings.catch_warnings(record=True) as warned, pruning(runtime(case).model, get_method(name), "50pct"):
        warnings.simplefilter("always")
        for _ in range(2):
            runtime(case).model.generate(**inputs, do_sample=False, max_new_tokens=1)
    assert sum(f"'{name}' compares the frames" in str(w.message) for w in warned) == 1


@pytest.mark.parametrize(
    ("case", "name", "parts"),
    [
        ("internvl", "evs", [A, "what?"]),  # tiles of one picture
        ("internvl", "divprune", [1, "what?"]),
        ("llava_onevision", "evs", [1, "what?"]),
        ("llava_onevision", "evs", [A, "what?"]),  # its overview and its map are one picture
        ("qwen3_vl", "vidcom2", [1, 2, "what?"]),
    ],
)
def test_nothing_else_is_warned_of(case: str, name: str, parts: list[Any]):
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*compares the frames")
        run(case, asked(case, parts), get_method(name), "50pct")


def test_what_is_put_around_a_method_knows_that_it_compares_frames():
    assert get_method("evs", merge="mean").frames
    assert not get_method("divprune", merge="mean").frames


# -- videos of Qwen3-VL ----------------------------------------------------------------------------------------------------------
def seen_of(case: str, inputs: dict[str, Any], **more: Any) -> list[Visual]:
    spy = Spy()
    with torch.no_grad(), pruning(runtime(case).model, spy, 1):
        runtime(case).model.generate(**inputs, **{**GREEDY, "max_new_tokens": 1, **more})
    return spy.seen


@pytest.mark.parametrize("case", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def test_two_videos_of_one_size_in_a_prompt_stay_two(case: str):
    (seen,) = seen_of(case, asked(case, [1, 2, "what?"], ["hello"], [2, "why?"]))
    assert seen.shape[:2] == (3, FRAMES // 2)


@since_5("cannot repeat a prompt with videos for beams")
def test_two_videos_stay_two_with_beams():
    (seen,) = seen_of("qwen3_vl", asked("qwen3_vl", [1, 2, "what?"], [2, "why?"]), num_beams=2)
    assert seen.shape[:2] == (6, FRAMES // 2)


def test_without_grids_frames_that_follow_each_other_are_one_video(monkeypatch: pytest.MonkeyPatch):
    family = families.FAMILIES["qwen3_vl"]
    split = lambda model, ids, positions, seen: family.split(model, ids, positions, {})  # noqa: E731
    monkeypatch.setitem(families.FAMILIES, "qwen3_vl", replace(family, split=split))
    (seen,) = seen_of("qwen3_vl", asked("qwen3_vl", [1, 2, "what?"]))
    assert seen.shape[:2] == (1, FRAMES)


@pytest.mark.parametrize("case", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def test_a_video_of_one_frame_is_shown(case: str):
    frame = saved(np.full((112, 140, 3), 90, dtype=np.uint8), f"lone {case}/0")
    rt = runtime(case)
    lone = rt.prepare([[{"type": "video", "value": str(Path(frame).parent)}, {"type": "text", "value": "what?"}]])
    assert lone.inputs["video_grid_thw"][:, 0].tolist() == [1]
    if case == "qwen3_vl":
        assert "<0.0 seconds>" in rt.processor.tokenizer.decode(lone.inputs["input_ids"][0])
    (answer,) = rt.answer(lone, get_method("divprune"), "50pct", max_new_tokens=1)
    assert answer.tokens["visual_kept"] < answer.tokens["visual_full"]


# -- thin pictures ---------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("size", [(1000, 8), (8, 1000)])
@pytest.mark.parametrize("case", ["llava_next hf", "llava_next_video"])
def test_a_picture_of_which_only_the_overview_is_left(case: str, size: tuple[int, int]):
    inputs = asked(case, [size, "what?"], [A, "and this?"])
    trace = run(case, inputs, get_method("divprune"), 5)
    kept = [(k.shape, row.tolist()) for k, row in zip(trace.kept[0], trace.rows[0], strict=True)]
    assert (torch.Size([2, 1, 5]), [0, 1]) in kept, "both overviews"
    assert [row for shape, row in kept if shape[2] != 5] == [[1]], "one map"


# -- seeds ---------------------------------------------------------------------------------------------------------------------
def seeds(case: str, *prompts: list[Any], **more: Any) -> dict[int, list[int]]:
    """Of each row, ascending."""
    spy = Spy(frozenset({"seed"}))
    with torch.no_grad(), pruning(runtime(case).model, spy, 1, **more) as trace:
        runtime(case).model.generate(**asked(case, *prompts), do_sample=False, max_new_tokens=1)
    found: dict[int, list[int]] = {}
    for rows, visual in zip(trace.rows[0], spy.seen, strict=True):
        assert visual.seed is not None
        for row, seed in zip(rows.tolist(), visual.seed.tolist(), strict=True):
            found.setdefault(row, []).append(seed)
    return {row: sorted(own) for row, own in found.items()}


@pytest.mark.parametrize("case", ["qwen2_vl", "internvl", "llava_next hf"])
def test_pictures_of_different_sizes_draw_from_different_seeds(case: str):
    entries = 4 if case == "llava_next hf" else 2  # overview and map
    found = seeds(case, [A, C, "which?"], [B, "what?"], seed=[7, 100])
    assert found[0] == [7 + i * _IMAGE_SEED for i in range(entries)]
    assert found[1] == [100 + i * _IMAGE_SEED for i in range(entries // 2)]


def test_seeds_follow_places_and_not_the_order_of_groups():
    first, second = group([0, 1], 1, 4, at=50), group([0, 1], 1, 3, at=0)
    for order in ([first, second], [second, first]):
        nth = {g.at.shape[2]: g.nth for g in plans.numbered(order)}
        assert nth == {4: (1, 1), 3: (0, 0)}


@private
@dataclass(frozen=True)
class SeededInside(Method):
    """By chance, from layer 1 on."""

    needs: ClassVar[frozenset[str]] = frozenset({"attention", "seed"})
    drawn: ClassVar[list[list[int]]] = []

    def plan(self, budget: int | None, n_visual: int, n_layers: int) -> dict[int, int]:
        return {1: n_visual // 2}

    def score(self, visual: Visual) -> Tensor:
        assert visual.seed is not None
        self.drawn.append(visual.seed.tolist())
        return torch.rand(visual.shape)


def test_sets_of_different_sizes_inside_draw_from_different_seeds():
    SeededInside.drawn.clear()
    run("qwen2_vl", asked("qwen2_vl", [A, C, "which?"]), SeededInside(), None, seed=7)
    assert sorted(s for own in SeededInside.drawn for s in own) == [7, 7 + _IMAGE_SEED]


# -- spread once -----------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("case", ["llava_onevision", "qwen2_5_vl", "llava_next hf"])
def test_values_of_patches_are_spread_over_tokens_once_for_all_groups(case: str, monkeypatch: pytest.MonkeyPatch):
    family, calls = families.FAMILIES[CASES[case][0]], list[str]()

    def spread(model: Any, media: Any, *given: Any) -> Tensor:
        calls.append(media)
        return family.spread(model, media, *given)

    monkeypatch.setitem(families.FAMILIES, family.name, replace(family, spread=spread))
    spy = Spy(encoder_fields(case))
    fields = len(spy.needs & {"encoded", "encoder_keys", "saliency"})
    context = pruning(runtime(case).model, spy, 1)
    with torch.no_grad(), context:
        for _ in range(2):
            generate(case, "two", max_new_tokens=1)
        assert not any(seen.spread for seen in context.observer.vision.seen.values())
    assert len(spy.seen) > 2
    assert calls == ["image"] * fields * 2, "anew for each prompt"


# -- several devices -------------------------------------------------------------------------------------------------------------
class Elsewhere:
    """Stands in for a tensor on another device: nothing can be done with it but to bring it back."""

    def __init__(self, x: Tensor) -> None:
        self.x = x

    def to(self, device: torch.device) -> Tensor:
        assert device == self.x.device
        return self.x


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("case", ["llava", "qwen2_vl"])
def test_decoding_brings_the_prompt_back_from_the_last_device(case: str, padded: bool, monkeypatch: pytest.MonkeyPatch):
    inputs = asked(case, [A, "what?"], *([[A, "and a longer question?"]] if padded else []))
    method, out = get_method("fastv", first_layer=1), []
    step = Prefill.step

    def moved(self: Prefill, kwargs: dict[str, Any], past: int) -> dict[str, Any]:
        if self.masks is None:
            self.base = replace(self.base, valid=Elsewhere(self.base.valid))
        return step(self, kwargs, past)

    for patched in (False, True):
        if patched:
            monkeypatch.setattr(Prefill, "step", moved)
        with torch.no_grad(), pruning(runtime(case).model, method, "60pct"):
            out.append(runtime(case).model.generate(**inputs, do_sample=False, max_new_tokens=STEPS))
    assert torch.equal(*out)


def test_the_last_norm_gives_its_result_where_it_was_asked_for():
    """On the last device accelerate moves the argument there, and not the result back."""
    rt = runtime("llava")
    norm = rt.model.model.language_model.norm

    @contextmanager
    def away() -> Iterator[None]:
        handle = norm.register_forward_hook(lambda module, args, out: Elsewhere(out))
        try:
            yield
        finally:
            handle.remove()

    @private
    @dataclass(frozen=True)
    class Normed(Method):
        """Longest after the norm, from layer 1 on."""

        needs: ClassVar[frozenset[str]] = frozenset({"norm", "attention"})

        def plan(self, budget: int | None, n_visual: int, n_layers: int) -> dict[int, int]:
            return {1: n_visual // 2}

        def score(self, visual: Visual) -> Tensor:
            assert visual.norm is not None
            plain = visual.norm(visual.tokens)
            with away():
                assert torch.equal(visual.norm(visual.tokens), plain)
            return plain.norm(dim=-1)

    assert run("llava", asked("llava", [A, "what?"]), Normed(), None).kept[1]
