"""`prepare`: what it says on the way, by which name, and what it refuses before anything is scored."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import official_images
import official_videos
import pytest
from data_factory import write_tsv
from downloads import MAKERS, edit, refused
from official_images import draw, encoded
from stand_ins import Bar, bars_of

from script_vlmeval.benchmarks import read_tsv
from script_vlmeval.errors import UserError
from script_vlmeval.prepare import Folder, Prepared, engine, media, prepare, recipes

ROOT = Path(__file__).resolve().parents[1]


# -- ten answers ---------------------------------------------------------------------------------------------------------------
ANSWERS = {  # file, how to reach its entries, index of the second
    "VQAv2_VAL": ("v2_mscoco_val2014_annotations.json", lambda found: found["annotations"][::-1], "41002"),
    "VizWiz": ("Annotations/val.json", lambda found: found, "1"),
    "TextVQA_VAL": ("TextVQA_0.5.1_val.json", lambda found: found["data"], "34603"),
}


def eleven(entry: dict[str, Any]) -> None:
    entry["answers"].append(entry["answers"][0])


def one_key(entry: dict[str, Any]) -> None:
    entry["answers"] = [{"ans": "red"}] * 10


def null(entry: dict[str, Any]) -> None:
    if isinstance(entry["answers"][3], dict):
        entry["answers"][3]["answer"] = None
    else:
        entry["answers"][3] = None


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (eleven, "has 11 answers, not ten texts"),
        (lambda entry: entry["answers"].pop(), "has 9 answers, not ten texts"),
        (one_key, "has answers such as {'ans': 'red'}, not ten texts"),
        (null, "has answers such as None, not ten texts"),
        (lambda entry: entry.update(answers="red"), "has 'red' for answers, not ten texts"),
    ],
)
@pytest.mark.parametrize("table", ANSWERS)
def test_rows_without_ten_answers_are_named(
    table: str, harm: Callable[[dict[str, Any]], Any], says: str, tmp_path: Path, data: Path
):
    source = official_images.make(table, tmp_path / "d")
    name, entries, index = ANSWERS[table]
    path = edit(source / name, lambda found: [harm(entry) for entry in entries(found)[1:]])
    said = refused(table, source, data)
    assert f"{path}: question '{index}' {says}" in said
    assert f"({3 if table == 'VQAv2_VAL' else 2} such)" in said


def test_answers_that_are_numbers_are_texts(tmp_path: Path, data: Path):
    source = official_images.make("TextVQA_VAL", tmp_path / "d")
    edit(source / "TextVQA_0.5.1_val.json", lambda found: found["data"][0].update(answers=[7] * 10))
    assert read_tsv(prepare("TextVQA_VAL", source, data, quiet=True).table)[0]["answer"] == str(["7"] * 10)


# -- editions and places -------------------------------------------------------------------------------------------------------
def rows_of(table: str, number: int, tmp_path: Path, data: Path, file: str) -> Prepared:
    """An MMBench of so many rows, all but the first naming the first one's picture."""
    source = tmp_path / "d"
    source.mkdir()
    official_images.mmbench(source, file, n=1)
    first = read_tsv(source / file)[0]
    write_tsv(source / file, [first, *(first | dict(index=str(i), image=first["index"]) for i in range(1_000, 999 + number))])
    return prepare(table, source, data, quiet=True)


@pytest.mark.parametrize(
    ("table", "number", "file", "says"),
    [
        ("MMBench_DEV_EN", 4_377, "mmbench_dev_20230712.tsv", ""),
        ("MMBench_DEV_EN", 4_329, "mmbench_dev_en_20231003.tsv", ""),
        ("MMBench_DEV_EN", 4_330, "MMBench_DEV_EN.tsv", "hold 4,330 rows, 4,377 or 4,329 are published"),
        ("MMBench_DEV_CN", 4_329, "mmbench_dev_cn_20231003.tsv", ""),
        ("MMBench_DEV_CN", 4_377, "mmbench_dev_cn_20231003.tsv", "hold 4,377 rows, 4,329 are published"),
    ],
)
def test_each_published_edition_is_as_good(table: str, number: int, file: str, says: str, tmp_path: Path, data: Path):
    made = rows_of(table, number, tmp_path, data, file)
    assert made.rows == number
    assert len(made.notes) == (1 if says else 0)
    assert says in " ".join(made.notes)
    assert json.loads((data / f"{table}.json").read_text())["expected"] == list(made.expected)
    assert made.expected == ((4_377, 4_329) if table == "MMBench_DEV_EN" else (4_329,))


def test_ocrbench_as_its_repository_has_it(tmp_path: Path, data: Path):
    """With a larger set beside it, which is not taken."""
    source = official_images.make("OCRBench", tmp_path / "d")
    found = (source / "OCRBench/OCRBench.json").read_text()
    (source / "OCRBench/OCRBench.json").rename(source / "OCRBench/FullTest.json")
    assert "lacks OCRBench.json. Expected" in refused("OCRBench", source, data)
    (source / "OCRBench/json_files").mkdir()
    (source / "OCRBench/json_files/OCRBench.json").write_text(json.dumps(json.loads(found)[:7]))
    assert prepare("OCRBench", source, data, quiet=True).rows == 7
    (source / "OCRBench_Images").rename(source / "OCRBench/OCRBench_Images")
    assert prepare("OCRBench", source / "OCRBench", data, quiet=True, fresh=True).rows == 7


# -- names ---------------------------------------------------------------------------------------------------------------------
def test_errors_use_the_name_that_the_user_said(tmp_path: Path, data: Path):
    source = official_images.make("GQA_TestDev_Balanced", tmp_path / "d")
    path = source / "testdev_balanced_questions.json"
    whole = path.read_text()

    def said(content: str | None) -> str:
        path.write_text(content) if content is not None else None
        return refused("GQA_TestDev_Balanced", source, data, called="GQA")

    assert said(whole.replace("What color is the square?", " ", 1)).startswith("GQA: cells that must be filled")
    assert said('{"1": {"a": 2}}').startswith("GQA: the files in")
    path.write_text(whole)
    picture = source / "images/n0.jpg"
    picture.rename(source / "n0.jpg")
    assert said(None).startswith("GQA: 1 of 2 pictures are missing")
    assert refused("GQA_TestDev_Balanced", tmp_path / "none", data, called="GQA").startswith("GQA: ")
    with engine._alone(engine._Job(recipes()["GQA_TestDev_Balanced"], source, data, True, False, False, "GQA")):
        assert said(None).startswith("Another run is preparing GQA in")
    (source / "n0.jpg").rename(picture)
    made = prepare("GQA_TestDev_Balanced", source, data, quiet=True, called="GQA")
    assert made.table.name == "GQA_TestDev_Balanced.tsv"  # files keep the table's name
    assert json.loads((data / "GQA_TestDev_Balanced.json").read_text())["table"] == "GQA_TestDev_Balanced"


def test_without_another_name_the_table_is_named(tmp_path: Path, data: Path):
    assert refused("GQA_TestDev_Balanced", tmp_path / "none", data).startswith("GQA_TestDev_Balanced: ")
    assert refused("ShapesVQA", tmp_path, data, called="Shapes").startswith("Shapes is not made from an official download")


def test_video_sets_use_it_too(tmp_path: Path, data: Path):
    source = official_videos.make("MSVD-QA", tmp_path / "MSVD_Zero_Shot_QA", "bundle")
    assert refused("MSRVTT-QA", source, data, called="msrvtt").endswith("name the folder of msrvtt.")
    assert any(note.startswith("msvd from") for note in prepare("MSVD-QA", source, data, quiet=True, called="msvd").notes)


LIGHT = """import sys
from script_vlmeval.cli import main
main(["prepare", "GQA", "--source", sys.argv[1]])
print("LOADED", *(name for name in ("torch", "transformers", "vlmeval", "pandas") if name in sys.modules))
"""


def test_the_command_loads_no_library_that_it_does_not_need(tmp_path: Path, data: Path):
    source = official_images.make("GQA_TestDev_Balanced", tmp_path / "d")
    environment = os.environ | {"LMUData": str(data)}
    done = subprocess.run([sys.executable, "-c", LIGHT, source], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1:] == ["LOADED"], done.stderr
    assert (data / "GQA_TestDev_Balanced.tsv").is_file()


# -- bars ----------------------------------------------------------------------------------------------------------------------
@pytest.fixture
def bars(monkeypatch: pytest.MonkeyPatch) -> list[Bar]:
    return bars_of(monkeypatch, engine, media)


@pytest.mark.parametrize("table", MAKERS)
def test_bars_end_at_what_was_read(table: str, bars: list[Bar], tmp_path: Path, data: Path):
    made = prepare(table, MAKERS[table].make(table, tmp_path / table), data, quiet=True, called="Mine")
    rows, looked = bars
    assert rows.total == rows.n == made.rows
    assert rows.desc == "Mine"
    assert looked.total == looked.n > 0
    assert looked.desc == f"Mine: checking {'videos' if MAKERS[table] is official_videos else 'pictures'}"


@pytest.mark.parametrize("table", official_videos.OPEN)
def test_bars_of_bundles(table: str, bars: list[Bar], tmp_path: Path, data: Path):
    prepare(table, official_videos.make(table, tmp_path / table, "bundle"), data, quiet=True)
    assert (bars[0].total, bars[0].n, bars[0].desc) == (6, 6, table)


@pytest.mark.parametrize("table", ["DocVQA_VAL", "OCRBench"])
def test_bars_of_parquet_files(table: str, bars: list[Bar], tmp_path: Path, data: Path):
    prepare(table, official_images.write_parquet(table, tmp_path / "d"), data, quiet=True)
    assert (bars[0].total, bars[0].n) == (3, 3)


def test_reading_the_files_is_not_a_row(bars: list[Bar], tmp_path: Path, data: Path):
    source = official_images.make("GQA_TestDev_Balanced", tmp_path / "d")
    (source / "testdev_balanced_questions.json").write_text("{")
    refused("GQA_TestDev_Balanced", source, data)
    assert bars == []


# -- what the disk and files refuse --------------------------------------------------------------------------------------------
def test_where_a_text_was_cut_off_is_said_once(tmp_path: Path, data: Path):
    source = official_images.make("GQA_TestDev_Balanced", tmp_path / "d")
    (source / "testdev_balanced_questions.json").write_text('{"a": "b')
    said = refused("GQA_TestDev_Balanced", source, data)
    assert "Unterminated string starting at line 1, column 7 (it ends there: cut off?)" in said


def test_a_data_folder_that_refuses_is_called_so(tmp_path: Path, data: Path):
    """A file where the folder of pictures should be."""
    (data / "images").write_text("")
    said = refused("MMBench_DEV_EN", official_images.make("MMBench_DEV_EN", tmp_path / "d"), data)
    assert f"Cannot read or write '{data / 'images'}" in said
    assert said.endswith("change its permissions, or set LMUData to another data folder.")


@pytest.mark.parametrize("place", ["POPE.tsv", "POPE.json", "POPE.missing.txt", ".POPE.tsv.rows.tmp", ".POPE.checked"])
def test_no_permission_anywhere_in_the_data_folder(place: str, tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch):
    source = official_images.make("POPE", tmp_path / "d")
    if place == "POPE.missing.txt":
        next((source / "val2014").iterdir()).unlink()
        draw(source / "val2014/other.jpg", "red")

    def denied(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*paths: Any, **options: Any) -> Any:
            if Path(paths[-1] if len(paths) > 1 and isinstance(paths[1], Path) else paths[0]).name == place:
                raise PermissionError(errno.EACCES, "Permission denied", str(data / place))
            return real(*paths, **options)

        return call

    monkeypatch.setattr(os, "replace", denied(os.replace))
    monkeypatch.setattr(Path, "open", denied(Path.open))
    said = refused("POPE", source, data)
    assert f"Cannot read or write '{data / place}': Permission denied" in said
    assert "LMUData" in said
    assert "work-dir" not in said


def test_a_table_that_cannot_be_read(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch):
    source = official_images.make("POPE", tmp_path / "d")
    table = prepare("POPE", source, data, quiet=True).table

    def denied(_: object) -> str:
        raise PermissionError(errno.EACCES, "Permission denied", str(table))

    monkeypatch.setattr("script_vlmeval.prepare.table.digest", denied)
    with pytest.raises(UserError, match=r"POPE\.tsv': Permission denied; .* LMUData"):
        prepare("POPE", source, data, quiet=True)


def test_a_picture_that_cannot_be_kept(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch):
    def denied(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "write_bytes", denied)
    with pytest.raises(UserError, match="set LMUData to another data folder"):
        Folder(tmp_path, data / "images").keep("a.jpg", encoded("red"))
