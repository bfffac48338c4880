"""The atlas: small pictures of a benchmark's first rows, whole or not there, and made once for the same rows."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from script_vlmeval import atlas
from script_vlmeval.benchmarks import Benchmark
from script_vlmeval.plugin import Dataset


def saved(path: Path, size: tuple[int, int] = (900, 300), colour: int = 60) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((size[1], size[0], 3), colour, dtype=np.uint8)).save(path)
    return str(path)


def dataset(shown: dict[str, list[dict[str, str]]], **more: str) -> Dataset:
    """Rows by index, and what each shows."""
    rows = [{"index": index, "question": f"what is {index}?", "answer": "it", **more} for index in shown]
    message: Callable[[Any, str], Any] = lambda row, style: [*shown[row["index"]], {"type": "text", "value": row["question"]}]  # noqa: E731
    return Dataset(Benchmark("Set", "Set", "tsv", "exact", "accuracy"), rows, "digest", message)


def image(path: str) -> dict[str, str]:
    return {"type": "image", "value": path}


def samples(folder: Path | None) -> list[dict[str, Any]]:
    assert folder is not None
    return [json.loads(line) for line in (folder / "samples.jsonl").read_text(encoding="utf-8").splitlines()]


def test_pictures_are_small_and_each_is_there_once(tmp_path: Path):
    a, b = saved(tmp_path / "a.png"), saved(tmp_path / "b.png", (20, 30), 200)
    found = dataset({"x/1": [image(a)], "2": [image(a)], "3": [image(b), image(a)], "4": [image(b)]}, A="one", B="two")
    folder = atlas.write(tmp_path / "results", found, 3)
    assert folder == tmp_path / "results" / "atlas" / "Set"
    told = samples(folder)
    assert [(s["index"], s["pictures"], s["frames"]) for s in told] == [
        ("x/1", ["0-0.jpg"], 0),
        ("2", ["0-0.jpg"], 0),
        ("3", ["2-0.jpg", "2-1.jpg"], 0),
    ]
    assert told[0]["question"] == "what is x/1?\nA. one\nB. two"
    assert told[0]["answer"] == "it"
    assert [Image.open(folder / name).size for name in ("0-0.jpg", "2-0.jpg")] == [(448, 149), (20, 30)]


def test_a_video_is_its_frames(tmp_path: Path):
    for i in range(6):
        saved(tmp_path / "clip" / f"{i}.png", (64, 48), 30 * i)
    folder = atlas.write(tmp_path, dataset({"1": [{"type": "video", "value": str(tmp_path / "clip")}]}), frames=3)
    (told,) = samples(folder)
    assert (told["pictures"], told["frames"]) == (["0-0.jpg", "0-1.jpg", "0-2.jpg"], 3)
    assert folder is not None
    brightness = [np.asarray(Image.open(folder / name)).mean() for name in told["pictures"]]
    assert brightness == sorted(brightness)


def test_a_row_that_cannot_be_read_is_there_without_pictures(tmp_path: Path):
    told = samples(atlas.write(tmp_path, dataset({"1": [image("gone.png")], "2": [image(saved(tmp_path / "a.png"))]})))
    assert [s["pictures"] for s in told] == [[], ["1-0.jpg"]]


def test_it_is_made_once_for_the_same_rows(tmp_path: Path):
    shown = {"1": [image(saved(tmp_path / "a.png"))]}
    folder = atlas.write(tmp_path, dataset(shown))
    assert folder is not None
    (folder / "0-0.jpg").write_bytes(b"as it was")
    assert atlas.write(tmp_path, dataset(shown)) == folder
    assert (folder / "0-0.jpg").read_bytes() == b"as it was"
    shown["2"] = shown["1"]
    atlas.write(tmp_path, dataset(shown))
    assert (folder / "0-0.jpg").read_bytes() != b"as it was"
    assert len(samples(folder)) == 2


def test_it_says_of_which_table_it_is(tmp_path: Path):
    """Equal rows of another table, or of an earlier version that did not say: the pictures stay, the word is put right."""
    found = dataset({"1": [image(saved(tmp_path / "a.png"))]})
    folder = atlas.write(tmp_path, found)
    assert folder is not None
    made = json.loads((folder / "atlas.json").read_text())
    assert made["data"] == "digest"
    (folder / "0-0.jpg").write_bytes(b"as it was")
    for before in ({**made, "data": "another"}, {key: value for key, value in made.items() if key != "data"}):
        (folder / "atlas.json").write_text(json.dumps(before))
        atlas.write(tmp_path, found)
        assert json.loads((folder / "atlas.json").read_text()) == made
    assert (folder / "0-0.jpg").read_bytes() == b"as it was"
    (folder / "atlas.json").write_text(json.dumps({**made, "rows": "others"}))
    atlas.write(tmp_path, found)
    assert (folder / "0-0.jpg").read_bytes() != b"as it was"


def test_what_is_killed_in_the_middle_leaves_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    shown = {"1": [image(saved(tmp_path / "a.png"))]}
    before = atlas.write(tmp_path, dataset(shown))
    assert before is not None

    def killed(path: Path, picture: Any) -> str:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(atlas, "_written", killed)
        with pytest.raises(KeyboardInterrupt):
            atlas.write(tmp_path, dataset({**shown, "2": shown["1"]}))
    assert len(samples(before)) == 1
    (before.parent / ".Set.new.1.tmp").mkdir()  # of a process that could not clean up
    atlas.write(tmp_path, dataset({**shown, "2": shown["1"]}))
    assert [path.name for path in before.parent.iterdir()] == ["Set"]


def test_the_same_bytes_again_and_nothing_for_no_rows(tmp_path: Path):
    found = dataset({"1": [image(saved(tmp_path / "a.png"))]})
    one, two = (atlas.write(tmp_path / name, found) for name in "ab")
    assert one is not None
    assert two is not None
    assert {p.name: p.read_bytes() for p in one.iterdir()} == {p.name: p.read_bytes() for p in two.iterdir()}
    assert atlas.write(tmp_path, found, 0) is None
    assert not (tmp_path / "atlas").exists()
