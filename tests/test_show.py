"""`run.py show`: what was dropped is pale at its place and nowhere else, and what cannot be shown is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from script_vlmeval.cells import Config
from script_vlmeval.draw.clear import clear
from script_vlmeval.draw.picture import dimmed, of_view, relevance, strength
from script_vlmeval.draw.sheet import Panel, Sheet, draw_sheet
from script_vlmeval.errors import UserError
from script_vlmeval.kept import Kept, Picture
from script_vlmeval.methods import METHODS, load_all
from script_vlmeval.show import command

WHOLE = (0.0, 0.0, 1.0, 1.0)
RED = np.full((40, 60, 3), (200, 20, 30), dtype=np.uint8)


def half(keep: str, stage: int = 0, tile: Any = WHOLE, **more: Any) -> Picture:
    """Two cells side by side."""
    return Picture(0, (1, 2), (tile,), {stage: np.array([[[c == "x" for c in keep]]])}, **more)


def shown(parts: list[Picture], stages: list[int]) -> np.ndarray:
    return dimmed(RED, *strength(RED.shape[:2], parts, stages))


# -- pixels ------------------------------------------------------------------------------------------------------------------
def test_what_was_kept_is_untouched_and_what_was_dropped_is_grey():
    found = shown([half("x.")], [0])
    np.testing.assert_array_equal(found[:, :30], RED[:, :30])
    dropped = found[:, 30:]
    assert (dropped[..., 0] == dropped[..., 2]).all(), "no colour"
    assert (dropped > 180).all(), "pale"


def test_earlier_is_paler():
    part = Picture(0, (1, 3), (WHOLE,), {2: np.array([[[True, True, False]]]), 4: np.array([[[True, False, False]]])})
    found = shown([part], [2, 4])[20, [5, 25, 50]].astype(int)
    assert found[0].tolist() == RED[0, 0].tolist()
    assert found[1].max() < found[2].min()


def test_what_no_tile_covers_was_not_seen():
    found = shown([half("xx", tile=(0.25, 0.0, 0.75, 1.0))], [0])
    assert (found[:, 15:45] == RED[:, 15:45]).all()
    assert (found[:, :15] != RED[:, :15]).all()
    assert (found[:, 45:] != RED[:, 45:]).all()


def test_padding_around_a_picture_is_not_drawn():
    padded = Picture(0, (4, 1), ((0.0, -0.5, 1.0, 1.5),), {0: np.array([[[False], [True], [False], [False]]])})
    found = shown([padded], [0])
    assert (found[:20] == RED[:20]).all()
    assert (found[20:] != RED[20:]).all()


def test_what_the_overview_alone_kept_has_pale_colours():
    fine = Picture(0, (2, 4), (WHOLE,), {0: np.zeros((1, 2, 4), dtype=bool)})
    found = shown([half("x."), fine], [0]).astype(int)
    assert found[20, 10, 0] > found[20, 10, 2] + 50, "in colour"
    assert (found[20, 10] > RED[0, 0]).all(), "and pale"
    assert found[20, 50, 0] == found[20, 50, 2]


def test_relevance_is_that_of_the_finest_tile():
    """A thumbnail behind the tiles, as InternVL has it, hides none of them."""
    seen = np.array([[[0, 51]], [[102, 153]], [[255, 255]]], dtype=np.uint8)
    tiles = ((0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 1.0, 1.0), WHOLE)
    found = relevance((10, 40), [Picture(0, (1, 2), tiles, seen=seen)])
    assert found[5, [5, 15, 25, 35]].tolist() == [0.0, 0.2, 0.4, 0.6]


def test_a_frame_without_a_record_of_its_own_has_that_of_the_one_it_was_joined_with():
    parts = [half("x.", frame=0, frames=4), half(".x", frame=2, frames=4)]
    kept = Kept(tuple(parts))
    assert [of_view(kept, (0, frame)) for frame in range(4)] == [parts[:1], parts[:1], parts[1:], parts[1:]]
    assert of_view(kept, (1, None)) == []


# -- the sheet -----------------------------------------------------------------------------------------------------------------
def drawn(path: Path, views: int = 1, panels: int = 2) -> bytes:
    kept = Kept((half("x.", seen=np.array([[[0, 255]]], dtype=np.uint8)),), "clip")
    long = "An answer of $5 and _more_ than fits, " * 12
    rows = [[Panel(f"script · {i}", "1 of 2 visual tokens", long, kept) for i in range(panels)]]
    what = {(0, None) if views == 1 else (0, i): RED for i in range(views)}
    whole = Panel("unpruned", "2 of 2", "yes", None)
    draw_sheet(Sheet("Is it red? " * 20, what, rows, whole, [("script", kept)], dict.fromkeys(what, "frame")), path)
    return path.read_bytes()


@pytest.mark.parametrize(("kind", "begins"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_the_kind_follows_from_the_name_and_the_bytes_are_the_same_again(tmp_path: Path, kind: str, begins: bytes):
    found = drawn(tmp_path / f"a.{kind}")
    assert found.startswith(begins)
    assert found == drawn(tmp_path / f"b.{kind}")


def test_views_stand_side_by_side_and_budgets_below_each_other(tmp_path: Path):
    drawn(tmp_path / "one.png", panels=2)
    drawn(tmp_path / "four.png", views=3, panels=2)
    one, four = (Image.open(tmp_path / f"{name}.png").size for name in ("one", "four"))
    assert four[1] > 1.4 * one[1]


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ("tiny_script_16", ""),
        ("tiny_visionzip_16", ""),
        ("tiny_pool_16", "averaged"),
        ("tiny_downsample_16", "smaller picture"),
        ("tiny_pool+fastv_16", "averaged"),
        ("tiny_nobody+knows_16", ""),
    ],
)
def test_what_a_clear_cell_stands_for_is_said(config: str, said: str):
    found = clear(Config.parse(config))
    assert said in found
    assert bool(found) == bool(said)


def test_merging_changes_what_a_clear_cell_stands_for():
    assert "resemble" in clear(Config.parse("tiny_script_16", {"merge": "mean"}))


def test_every_method_that_changes_tokens_says_so():
    load_all()
    for name, method in METHODS.items():
        assert bool(clear(Config("tiny", name, "16"))) == method.changes, name


# -- the command -----------------------------------------------------------------------------------------------------------------
def test_what_is_merged_and_what_is_averaged_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert command(model="tiny", methods=["visionzip", "pool"], budgets=["16"], out=tmp_path / "kept.png") == 0
    _, merged, averaged, *_ = capsys.readouterr().out.splitlines()
    assert "3 of them merged" in merged
    assert "averaged" in averaged


def test_the_embedded_model_is_shown_a_drawn_scene(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "kept.png"
    assert command(model="tiny", methods=["script", "random"], budgets=["16", "72"], out=out, seed=3) == 0
    said = capsys.readouterr().out
    assert [line.split("  ")[0] for line in said.splitlines()[:5]] == [
        "unpruned",
        *("script · 16", "script · 72", "random · 16", "random · 72"),
    ]
    assert "16 of 144 visual tokens" in said
    picture = np.asarray(Image.open(out).convert("RGB"))
    assert picture.std() > 20, "something is drawn"


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"out": "kept.txt"}, "is no name of a picture"),
        ({"out": "nowhere/kept.png"}, "no folder"),
        ({"images": ["gone.png"], "question": "what?"}, "no file 'gone.png'"),
        ({"images": ["a.png"], "video": "b.mp4"}, "Both"),
        ({"images": [__file__], "question": "what?"}, "picture"),
        ({"images": [__file__]}, "No question"),
        ({"video": __file__, "question": "what?"}, "reads no video"),
        ({"model": "llava"}, "Nothing to show"),
        ({"model": "lava", "question": "what?"}, "Did you mean 'llava'"),
        ({"methods": ["skript"]}, "Did you mean 'script'"),
        ({"methods": ["full"]}, "No method"),
        ({"budgets": ["many"]}, "many"),
        ({"budgets": ["200"]}, "144"),
    ],
    ids=str,
)
def test_what_cannot_be_shown_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: dict[str, Any], said: str):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=said):
        command(**{"budgets": ["16"], **asked})
    assert not list(tmp_path.iterdir())
