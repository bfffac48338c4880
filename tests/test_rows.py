"""Results read back from disk: what is left out is told once and in words, and pictures are those of the table that was asked."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import openpyxl
import pytest
from PIL import Image

from script_vlmeval.cells import Config
from script_vlmeval.draw import Row
from script_vlmeval.report.page import samples
from script_vlmeval.report.questions import Questions
from script_vlmeval.report.rows import read
from script_vlmeval.store import CellStore

pytestmark = pytest.mark.usefixtures("quick")


def put(work_dir: Path, config: str, table: str = "d1", **change: Any) -> Path:
    """A finished cell of one row, with its result as changed."""
    settings = {"config": config, "data": table}
    figures = {"metrics": {"Overall": 50.0}, "primary": "Overall", "score": 50.0, "n": 1, "failed": 0, "scorer": "s"}
    with CellStore(work_dir, config, "GQA", settings) as store:
        store.open()
        store.append([{"index": "0", "prediction": f"{config} said"}])
        whose = {"config": config, "benchmark": "GQA", "params": {}}
        store.finish({"cell": whose, "fingerprint": settings, **figures, **change})
    return store.folder


# results that cannot be read -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"{}", "it lacks 'cell'"),
        (b"", "not readable as JSON"),
        (b"{", "not readable as JSON"),
        (b"\xff\xfe", "not readable as JSON"),
        (b"[" * 100_000, "not readable as JSON"),
        (b"[1]", "not a JSON object"),
        (b'{"cell": 3, "score": 1}', "a value is of another kind"),
    ],
    ids=lambda value: str(value)[:12],
)
def test_a_result_that_cannot_be_read_is_told_once_in_words(
    tmp_path: Path, content: bytes, why: str, caplog: pytest.LogCaptureFixture
):
    put(tmp_path, "tiny_full")
    folder = put(tmp_path, "tiny_script_16")
    (folder / "result.json").write_bytes(content)
    summary = read(tmp_path)
    assert dict(summary.gaps) == {("tiny_script_16", "GQA"): "unreadable"}
    (told,) = caplog.messages
    assert f"{folder / 'result.json'}: not a result of this program ({why})" in told
    assert "Remove the file and run the sweep again" in told
    assert "Error" not in told


def test_a_result_of_another_cell_says_of_which(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    put(tmp_path, "tiny_full")
    put(tmp_path, "tiny_script_16", cell={"config": "tiny_full", "benchmark": "GQA"})
    read(tmp_path)
    assert "(it is about tiny_full on GQA)" in caplog.text


# questions -----------------------------------------------------------------------------------------------------------------


def test_an_empty_workbook_asks_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    openpyxl.Workbook().save(tmp_path / "tiny_full_GQA.xlsx")
    row = Row(Config.parse("tiny_full"), "GQA", 50.0, None, 1, 0, {"fingerprint": {"data": "d1"}})
    assert not Questions().of(row, tmp_path, None).rows
    assert "not a workbook of predictions" in caplog.text


# pictures ------------------------------------------------------------------------------------------------------------------


def atlas(work_dir: Path, made: Mapping[str, Any] | None = None) -> None:
    folder = work_dir / "atlas" / "GQA"
    folder.mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(folder / "0-0.jpg")
    (folder / "samples.jsonl").write_text(json.dumps({"index": "0", "question": "?", "pictures": ["0-0.jpg"]}) + "\n")
    if made is not None:
        (folder / "atlas.json").write_text(json.dumps(made))


def on_the_page(work_dir: Path) -> list[str]:
    """The configurations that samples are shown of."""
    summary = read(work_dir)
    found = []
    for i, one in enumerate(samples.atlases(work_dir, summary)):
        front = next(iter(samples.blocks(one, i, work_dir, summary)))
        found += [config["name"] for config in json.loads(front[front.index(b"{") : front.rindex(b"}") + 1])["configs"]]
    return found


def test_only_cells_of_the_pictures_table_are_shown_on_them(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    put(tmp_path, "tiny_full")
    put(tmp_path, "tiny_script_16", "d2")
    put(tmp_path, "tiny_script_8", "d2")
    atlas(tmp_path, {"rows": "r", "data": "d1"})
    assert on_the_page(tmp_path) == ["tiny_full"]
    assert "not shown for tiny_script_16 and 1 more" in caplog.text


@pytest.mark.parametrize("made", [None, {}, {"rows": "r"}, {"data": 3}], ids=str)
def test_pictures_of_an_earlier_version_are_shown_where_all_cells_have_one_table(
    tmp_path: Path, made: dict[str, Any] | None, caplog: pytest.LogCaptureFixture
):
    put(tmp_path, "tiny_full")
    put(tmp_path, "tiny_script_16")
    atlas(tmp_path, made)
    assert on_the_page(tmp_path) == ["tiny_full", "tiny_script_16"]
    assert not caplog.text
    put(tmp_path, "tiny_script_8", "d2")
    assert not samples.atlases(tmp_path, read(tmp_path))
    assert "2 tables" in caplog.text
    assert "run the sweep again" in caplog.text


def test_pictures_that_no_cell_was_asked_of_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.WARNING)
    put(tmp_path, "tiny_full")
    atlas(tmp_path, {"data": "d7"})
    assert not samples.atlases(tmp_path, read(tmp_path))
    assert "not shown for tiny_full:" in caplog.text
