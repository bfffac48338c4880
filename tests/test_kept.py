"""Records of kept tokens: written and read back, lying where the family's own cutting puts them, counting what the model read."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import groupby
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from family_cases import BATCHES, CASES, VIDEO, prepared, runtime, saved
from family_paint import PAINTED, Painted
from models import private
from torch import Tensor

from script_vlmeval import kernels
from script_vlmeval.families.places import Look, cropped, squared
from script_vlmeval.kept import Kept, Picture
from script_vlmeval.methods import Method, Visual, get_method
from script_vlmeval.runtime import Answer, per_tile

WHOLE = (0.0, 0.0, 1.0, 1.0)


# -- the record --------------------------------------------------------------------------------------------------------------
def picture(rows: int, columns: int, tiles: int, seed: int, **more: Any) -> Picture:
    rng = np.random.default_rng(seed)
    shape = (tiles, rows, columns)
    stages = {0: rng.random(shape) < 0.5, 12: rng.random(shape) < 0.2}
    rects = tuple((float(a), -0.25, round(float(a) + 0.5, 5), 1.25) for a in rng.random(tiles).round(4))
    return Picture(3, (rows, columns), rects, stages, {0: 2, 12: 0}, rng.integers(0, 256, shape, dtype=np.uint8), **more)


@pytest.mark.parametrize(("rows", "columns", "tiles"), [(1, 1, 1), (3, 5, 2), (24, 24, 1), (7, 9, 4)])
def test_a_record_is_read_back_as_it_was_written(rows: int, columns: int, tiles: int):
    before = picture(rows, columns, tiles, rows, frame=4, frames=8)
    after = Kept.of(json.loads(json.dumps(Kept((before,), "clip").record())))
    (found,) = after.pictures
    assert (after.relevance, after.stages) == ("clip", [0, 12])
    assert (found.picture, found.frame, found.frames, found.grid, found.tiles) == (3, 4, 8, (rows, columns), before.tiles)
    assert found.merged == {0: 2}
    for stage, mask in before.stages.items():
        np.testing.assert_array_equal(found.stages[stage], mask)
    np.testing.assert_array_equal(found.seen, before.seen)


def test_bits_are_packed_from_the_most_significant_on():
    mask = np.array([[[True, False, False], [False, False, False], [True, False, True]]])
    record = Picture(0, (3, 3), (WHOLE,), {0: mask}).record()
    assert record["stages"] == {"0": "goA="}  # 1000 0010, 1
    assert "seen" not in record
    assert "frame" not in record


@pytest.mark.parametrize(
    "change",
    [
        {"grid": [2]},
        {"grid": [float("inf"), 2]},
        {"grid": [float("nan"), 2]},
        {"tiles": [[0, 0, 1]]},
        {"stages": {"0": "!"}},
        {"stages": {"0": "AAAA"}},
        {"seen": "AA=="},
        {"stages": None},
    ],
    ids=str,
)
def test_what_is_no_record_is_said(change: dict[str, Any]):
    whole = Kept((picture(2, 2, 1, 0),)).record()
    Kept.of(whole)
    with pytest.raises(ValueError, match="no record of kept tokens"):
        Kept.of({"pictures": [whole["pictures"][0] | change]})


# -- where tiles lie ---------------------------------------------------------------------------------------------------------
def cell(part: Picture, tile: tuple[float, ...], x: float, y: float) -> tuple[int, int] | None:
    left, top, right, bottom = tile
    row, column = (y - top) / (bottom - top) * part.grid[0], (x - left) / (right - left) * part.grid[1]
    return (int(row), int(column)) if 0 <= row < part.grid[0] and 0 <= column < part.grid[1] else None


def answered(case: str, asked: Any, method: Method, budget: str, **how: Any) -> list[Answer]:
    run = runtime(case)
    with run.batch():
        return run.answer(asked, method, budget, max_new_tokens=1, kept=True, **how)


@pytest.mark.parametrize("name", PAINTED)
def test_the_cell_over_a_painted_spot_is_the_token_that_shows_it(name: str):
    painted: Painted = PAINTED[name]
    (answer,) = answered(
        painted.case, runtime(painted.case).prepare([painted.message(saved, True)]), get_method("random"), "50pct"
    )
    assert answer.kept is not None
    parts = answer.kept.pictures
    left, top, side = painted.at
    x, y = (left + side / 2) / painted.size[0], (top + side / 2) / painted.size[1]
    each = (parts[0].frames or 0) // len(parts)
    shown = [not painted.video or (part.frame is not None and part.frame <= 2 < part.frame + each) for part in parts]
    found = [cell(part, tile, x, y) if here else None for part, here in zip(parts, shown, strict=True) for tile in part.tiles]
    assert tuple(found) == painted.expected


def test_windows_by_hand():
    assert squared((200, 100)) == (0.0, -0.5, 1.0, 1.5)
    clip: Any = type(
        "Clip", (), {"do_center_crop": True, "size": {"shortest_edge": 336}, "crop_size": {"height": 336, "width": 336}}
    )
    assert cropped(clip, (672, 336)) == (0.25, 0.0, 0.75, 1.0)
    assert cropped(object(), (672, 336)) == WHOLE


def test_frames_that_are_shown_as_pictures_are_named_by_their_video():
    look = Look(((9, 9), (4, 6), (4, 6), (4, 6)), frames=(1, 2))
    assert [look.named("image", i, 4) for i in range(4)] == [(0, None, (9, 9)), (1, 0, (4, 6)), (2, 0, (4, 6)), (2, 1, (4, 6))]
    written = Look(((9, 9),), ((4, 6),), (2,), moving=(True, False))  # InternVL: where the video stands
    assert [written.named("image", i, 3)[:2] for i in range(3)] == [(1, 0), (1, 1), (0, None)]


# -- what was kept -----------------------------------------------------------------------------------------------------------
@private
@dataclass(frozen=True)
class Strewn(Method):
    """Tokens in an order that differs from tile to tile."""

    def order(self, visual: Visual, k: int) -> Tensor:
        _, tiles, n = visual.shape
        key = (torch.arange(n) * 7 + torch.arange(tiles)[:, None] * 3) % n
        return torch.argsort(key, dim=-1, stable=True)[:, :k].expand(visual.shape[0], -1, -1)


@private
@dataclass(frozen=True)
class Latest(Method):
    """Half of the tokens at layer 1 and a quarter at layer 2, the last ones of each set."""

    needs: ClassVar[frozenset[str]] = frozenset({"image"})

    def plan(self, budget: int | None, n_visual: int, n_layers: int) -> dict[int, int]:
        return {1: max(1, n_visual // 2), 2: max(1, n_visual // 4)}

    def score(self, visual: Visual) -> Tensor:
        return torch.arange(visual.shape[2]).expand(visual.shape).float()


@private
@dataclass(frozen=True)
class LatestOfAll(Latest):
    union: ClassVar[bool] = True


TESTED = [(case, "mixed" if case in VIDEO else "two") for case in CASES]


@pytest.mark.parametrize(("case", "batch"), TESTED)
def test_tokens_chosen_before_the_language_model(case: str, batch: str):
    for answer in answered(case, prepared(case, batch), Strewn(), "50pct"):
        assert answer.kept is not None
        for name, parts in groupby(answer.kept.pictures, key=lambda part: (part.picture, part.frame is None)):
            for i, part in enumerate(parts):
                first = i if not name[1] and case != "internvl" else 0  # which tile of a video a frame is; else each is a picture
                n = part.grid[0] * part.grid[1]
                for t, mask in enumerate(part.stages[0], first):
                    order = sorted(range(n), key=lambda j: ((j * 7 + t * 3) % n, j))
                    assert sorted(order[: int(mask.sum())]) == np.flatnonzero(mask).tolist()


@pytest.mark.parametrize("union", [False, True])
@pytest.mark.parametrize(("case", "batch"), TESTED)
def test_tokens_chosen_inside_the_language_model(case: str, batch: str, union: bool):
    """Of each picture, or of all of a prompt, the last tokens, whose places follow from the order of the parts."""
    paper = case == "llava_next paper"  # whose crops alternate in the sequence
    for answer in answered(case, prepared(case, batch), LatestOfAll() if union else Latest(), ""):
        if not answer.tokens["visual_full"]:
            continue
        assert answer.kept is not None
        assert answer.kept.stages == [1, 2]
        whose: dict[int, list[Picture]] = {}
        for part in answer.kept.pictures:
            whose.setdefault(0 if union or case == "internvl" else part.picture, []).append(part)
        for parts in whose.values():
            if case == "internvl" and not union:
                continue  # every frame is a set
            for stage in (1, 2):
                mask = np.concatenate([part.stages[stage].ravel() for part in parts])
                k = max(1, len(mask) // (2 * stage))
                assert mask.sum() == k
                assert paper or union or mask[-k:].all()


METHODS = ["script", "visionzip", "divprune", "holov", "pool", "fastv", "pyramiddrop", "script+fastv", "sparsevlm", "vidcom2"]


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize(("case", "batch"), TESTED)
def test_records_count_what_every_layer_read(case: str, batch: str, name: str):
    offers = runtime(case).family.offers
    method = get_method(name, **({"relevance": "llm"} if "script" in name else {}))
    if not method.needs - {"keys", "query", "seed"} <= offers | {"project", "shown"}:
        pytest.skip("the family does not show what the method needs")
    for answer in answered(case, prepared(case, batch), method, "75pct"):
        tokens = answer.tokens
        if not tokens["visual_full"]:
            assert answer.kept is None or not answer.kept.pictures
            continue
        assert answer.kept is not None
        now = [np.prod(part.shape) for part in answer.kept.pictures]
        assert sum(now) + tokens["between"] == tokens["visual_full"]
        for layer, read in enumerate(tokens["layers"]):
            for i, part in enumerate(answer.kept.pictures):
                if layer in part.stages:
                    now[i] = int(part.stages[layer].sum()) + part.merged.get(layer, 0)
            assert sum(now) + tokens["between"] + tokens["text"] == read, f"layer {layer}"


# -- relevance ---------------------------------------------------------------------------------------------------------------
def test_relevance_is_what_the_method_weighs_by(monkeypatch: pytest.MonkeyPatch):
    """Bit for bit, also at a second budget, of which the method sees nothing."""
    weighed: list[Tensor] = []
    own = kernels.relevance

    def remembered(*given: Any, **how: Any) -> Any:
        found = own(*given, **how)
        weighed.append(found)
        return found

    asked = runtime("llava").prepare(prepared_messages("llava", "two"))
    method = get_method("cdpruner", relevance="llm")
    with runtime("llava").batch(), monkeypatch.context() as patch:
        patch.setattr(kernels, "relevance", remembered)
        first, second = (
            runtime("llava").answer(asked, method, b, budgets=["8", "4"], max_new_tokens=1, kept=True) for b in ("8", "4")
        )
    expected = (weighed[0].clamp(0, 1) * 255).round().byte().numpy()
    for answers in (first, second):
        seen = [part.seen for answer in answers for part in answer.kept.pictures]  # type: ignore[union-attr]
        np.testing.assert_array_equal(np.stack(seen), expected.reshape(-1, 1, 4, 4))  # type: ignore[arg-type]
        assert {answer.kept.relevance for answer in answers if answer.kept} == {"llm"}
    assert len(weighed) == 1, "found out while the model answers, and only where the method itself looks"


def prepared_messages(case: str, batch: str) -> list[Any]:
    from family_cases import message

    return [message(parts) for parts in BATCHES[batch]]


def test_nothing_is_recorded_that_was_not_asked_for():
    run = runtime("llava")
    with run.batch():
        plain = run.answer(prepared("llava", "two"), get_method("random"), per_tile(run.record, "4"), max_new_tokens=1)
        full = run.answer(prepared("llava", "two"), get_method("full"), "", max_new_tokens=1, kept=True)
    assert [answer.kept for answer in (*plain, *full)] == [None] * 4
