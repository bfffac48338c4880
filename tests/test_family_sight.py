"""What methods get to see in every family: the tiles of each picture, every token's own encoder features, and no tower twice."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch
from family_cases import (
    BATCHES,
    BOTH,
    CASES,
    FRAMES,
    entering,
    first_layers,
    message,
    nearsighted,
    prepared,
    prepared_alone,
    runtime,
    saved,
)
from family_paint import PAINTED, Painted
from family_runs import Spy, alone, broken, encoder_fields, generate, groups_of, mate, spied
from models import since_5
from test_in_llm import LongerHalf
from torch import Tensor

from script_vlmeval import families
from script_vlmeval import runtime as runtimes
from script_vlmeval.methods import get_method
from script_vlmeval.observe import Observer
from script_vlmeval.offers import served
from script_vlmeval.prune import pruning

NEWLINES = [c for c in BOTH if c[0] in ("llava_next hf", "llava_next_video", "llava_onevision")]


# -- which ---------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("case", "batch"), BOTH)
def test_a_method_sees_the_tiles_and_nothing_else(case: str, batch: str):
    sees_tiles(case, batch)


def sees_tiles(case: str, batch: str) -> None:
    seen, trace = spied(case, prepared(case, batch).inputs)
    rows = [r for group in trace.rows.get(0, []) for r in group.tolist()]
    found: list[list[tuple[tuple[int, int], list[int]]]] = [[] for _ in range(len(prepared(case, batch)))]
    images = [(picture, v.grid) for v in seen for picture in v.tokens]
    for b, (picture, grid) in zip(rows, images, strict=True):
        assert grid is not None
        for tile in picture:
            found[b].append((grid, [_place(entering(case, batch, b).x, x) for x in tile]))
    for e, tiles in zip(alone(case, batch), found, strict=True):
        expected = [(grid, at.tolist()) for grid, at in zip(e.grids, e.tiles, strict=True)]
        assert sorted(tiles) == sorted(expected)


def _place(x: Tensor, token: Tensor) -> int:
    """Where it stands; encoding in another batch may have moved its last bits."""
    far = (x - token).abs().amax(1)
    assert far.min() < 1e-4
    assert int((far < 1e-3).sum()) == 1
    return int(far.argmin())


@pytest.mark.parametrize(("case", "batch"), NEWLINES)
def test_newlines_are_in_no_tile(case: str, batch: str):
    for e in alone(case, batch):
        same_rows = e.x[e.between] == runtime(case).model.model.image_newline
        assert same_rows.all()
        assert len(e.between) == int((e.x == runtime(case).model.model.image_newline).all(1).sum())


def test_the_cls_of_a_frame_is_in_no_tile():
    model, inputs = runtime("video_llava").model, prepared_alone("video_llava", "video", 0).inputs
    with torch.no_grad():
        out = model.model.video_tower(inputs["pixel_values_videos"].flatten(0, 1), output_hidden_states=True)
        cls = model.model.multi_modal_projector(out.hidden_states[model.config.vision_feature_layer][:, 0])
    e = entering("video_llava", "video", 0)
    torch.testing.assert_close(e.x[e.between], cls)
    assert (e.between - e.visual[0]).tolist() == [17 * i for i in range(FRAMES)]


ENCODED = [
    # OneVision pools a video behind its projector, which is not linear: what is encoded is pooled before it, and differs
    (case, batch)
    for case, batch in BOTH
    if not case.startswith("qwen") and (case, batch) not in (("llava_onevision", "video"), ("llava_onevision", "mixed"))
]


@pytest.mark.parametrize(("case", "batch"), ENCODED)
def test_what_is_encoded_is_that_of_the_token(case: str, batch: str):
    projects(case, batch)


def projects(case: str, batch: str, **more: Any) -> None:
    """Projected again it is the token, in packed and cut maps, pooled frames and shuffled patches."""
    spy = Spy(encoder_fields(case))
    with pruning(runtime(case).model, spy, 1):
        generate(case, batch, **more)
    assert spy.seen
    for visual in spy.seen:
        assert visual.project is not None
        assert visual.encoded is not None
        with torch.no_grad():
            torch.testing.assert_close(visual.project(visual.encoded), visual.tokens, atol=1e-4, rtol=1e-4)


# -- where in the picture --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", PAINTED)
def test_a_painted_patch_is_the_token_at_its_row_and_column(name: str):
    finds_paint(PAINTED[name])


def finds_paint(painted: Painted) -> None:
    """With towers whose patches do not look at each other, so that only tokens that show the spot change; likewise what the
    encoder tells of them."""
    rt = runtime(painted.case)
    with nearsighted(rt.model):
        inputs = [rt.prepare([painted.message(saved, spot)]).inputs for spot in (False, True)]
        plain, changed = (spied(painted.case, given)[0] for given in inputs)
    for name in ("tokens", *sorted(encoder_fields(painted.case) & {"encoded", "encoder_keys"})):
        found: list[tuple[int, int] | None] = []
        for one, other in zip(plain, changed, strict=True):
            assert one.grid is not None
            for tile in (getattr(one, name) - getattr(other, name)).norm(dim=-1).flatten(0, 1):
                where = divmod(int(tile.argmax()), one.grid[1])
                found.append(where if float(tile.max()) > 1e-3 else None)
        assert found == list(painted.expected), name


# -- encode once ---------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("case", "batch"), [mate(case) for case in CASES])
def test_towers_run_once_for_all_configurations(case: str, batch: str):
    encodes_once(case, batch)


def encodes_once(case: str, batch: str, names: Sequence[str] = ()) -> None:
    rt, calls = runtime(case), [0]
    towers = [layer.register_forward_pre_hook(lambda *_: calls.append(calls.pop() + 1)) for layer in first_layers(rt.model)]
    every = [name for name in served(rt.family.offers) if name not in ("full", "downsample")]  # this looks at smaller pictures
    given = rt.prepare([message(parts) for parts in BATCHES[batch]])
    try:
        with rt.batch():
            rt.encode(given)
            for name in names or every:
                rt.answer(given, get_method(name), "90pct", max_new_tokens=1)
        assert len(every) > 8
        assert calls == [2 if batch == "mixed" and case != "internvl" else 1]  # images and videos apart
    finally:
        for handle in towers:
            handle.remove()


# -- beams ---------------------------------------------------------------------------------------------------------------------
@since_5("repeats the crops of a batch one by one, not picture by picture")
@pytest.mark.parametrize("batch", ["one", "two"])
@pytest.mark.parametrize("case", ["llava_next paper", "llava_next hf", "llava_onevision", "internvl"])
def test_beams_of_a_row_see_and_keep_the_same(case: str, batch: str):
    kept = []
    for beams in (1, 2):
        with pruning(runtime(case).model, LongerHalf(), None) as trace:
            generate(case, batch, num_beams=beams)
            kept.append([own for group in groups_of(trace) for own in zip(*(x.tolist() for x in group), strict=True)])
    assert sorted((b, tiles) for tiles, b in kept[1]) == sorted((2 * b + beam, tiles) for tiles, b in kept[0] for beam in (0, 1))
    projects(case, batch, num_beams=2)


# -- the comparison can fail ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("case", CASES)
def test_tokens_one_place_off_are_noticed(case: str, monkeypatch: pytest.MonkeyPatch):
    broken(monkeypatch, case, lambda g: replace(g, at=g.at + 1))
    with pytest.raises(AssertionError):
        sees_tiles(*mate(case))


@pytest.mark.parametrize("name", PAINTED)
def test_rows_taken_for_columns_are_noticed(name: str, monkeypatch: pytest.MonkeyPatch):
    def wrong(g: families.Group) -> families.Group:
        assert g.grid is not None
        return replace(g, at=g.at.unflatten(2, g.grid).transpose(2, 3).flatten(2))

    broken(monkeypatch, PAINTED[name].case, wrong)
    with pytest.raises(AssertionError):
        finds_paint(PAINTED[name])


@pytest.mark.parametrize("case", sorted({case for case, _ in ENCODED}))
def test_features_of_the_neighbour_are_noticed(case: str, monkeypatch: pytest.MonkeyPatch):
    broken(monkeypatch, case, lambda g: replace(g, order=None if g.order is None else g.order.roll(1, 2)))
    with pytest.raises(AssertionError):
        projects(case, "two")


@pytest.mark.parametrize("case", ["llava_next hf", "video_llava", "qwen2_vl"])
def test_encoding_again_is_noticed(case: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(runtimes, "encode_once", lambda *_: nullcontext())
    with pytest.raises(AssertionError):
        encodes_once(*mate(case), ["random", "fastv"])


@since_5("cannot repeat crops")
def test_features_of_another_row_are_noticed_with_beams(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Observer, "_originals", lambda *_: None)
    with pytest.raises((AssertionError, IndexError)):
        projects("llava_next hf", "two", num_beams=2)
