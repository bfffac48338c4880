"""`prepare`: official downloads of the image sets into tables, and what it says of downloads that are not whole."""

from __future__ import annotations

import ast
import csv
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import av
import pytest
from data_factory import COLORS, NAMES
from downloads import refused
from official_images import MAKERS, OCR_FILE, draw, encoded, make, write_parquet
from PIL import Image
from stand_ins import wait_for

from script_vlmeval.benchmarks import read_tsv
from script_vlmeval.errors import UserError
from script_vlmeval.prepare import Folder, Prepared, Recipe, media, prepare, recipes
from script_vlmeval.prepare.endings import ends
from script_vlmeval.prepare.engine import make as run_recipe
from script_vlmeval.prepare.recipe import IMAGE

ROOT = Path(__file__).resolve().parents[1]
TABLES = list(MAKERS)
TEST_SETS = {"VQAv2_TESTDEV", "VizWiz_TEST"}


def done(table: str, source: Path, data: Path, **options: bool) -> list[dict[str, str]]:
    return read_tsv(prepare(table, source, data, quiet=True, **options).table)


def left(data: Path) -> set[str]:
    """Everything in the data folder, hidden files included."""
    return {path.name for path in data.iterdir()}


# -- every table ---------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("table", TABLES)
def test_every_table_is_made_and_points_at_its_pictures(table: str, tmp_path: Path, data: Path):
    source = make(table, tmp_path / "download")
    made = prepare(table, source, data, quiet=True)
    rows = read_tsv(made.table)
    recipe = recipes()[table]
    assert made.table == data / f"{table}.tsv"
    assert made.rows == len(rows) > 1
    assert made.missing == ()
    assert list(rows[0])[:3] == ["index", "image_path", "question"]
    assert [name for name in recipe.columns if name in rows[0]] == list(rows[0])[: len(recipe.columns)]
    for row in rows:
        assert os.path.isabs(row["image_path"])
        assert "image" not in row  # VLMEvalKit would take it for base64
        with Image.open(row["image_path"]) as picture:
            picture.load()
    assert ("answer" in rows[0] or "answers" in rows[0]) == (table not in TEST_SETS)
    assert all(f"{number:,}" in made.notes[0] for number in recipe.expected)


@pytest.mark.parametrize("table", TABLES)
def test_the_note_beside_a_table_says_where_it_came_from(table: str, tmp_path: Path, data: Path):
    source = make(table, tmp_path / "download")
    made = prepare(table, source, data, quiet=True)
    noted = json.loads((data / f"{table}.json").read_text())
    assert noted["source"] == str(source)
    assert noted["rows"] == made.rows
    assert noted["expected"] == list(recipes()[table].expected)
    assert noted["made_by"] == "script_vlmeval"
    assert len(noted["sha256"]) == 64
    assert (noted["missing"], noted["skipped"]) == ([], [])
    assert left(data) <= {f"{table}.tsv", f"{table}.json", f"{table}.all.txt", "images"}


@pytest.mark.parametrize("table", ["DocVQA_VAL", "ScienceQA_TEST", "MMBench_DEV_EN", "POPE"])
def test_pandas_reads_the_same_cells(table: str, tmp_path: Path, data: Path):
    pandas = pytest.importorskip("pandas")
    rows = done(table, make(table, tmp_path / "download"), data)
    frame = pandas.read_csv(data / f"{table}.tsv", sep="\t", dtype=str, keep_default_na=False)
    assert frame.to_dict("records") == rows


def shown(row: dict[str, str]) -> str:
    """The colour of the square in a row's picture."""
    with Image.open(row["image_path"]) as picture:
        middle = picture.convert("RGB").getpixel((12, 12))
    return min(COLORS, key=lambda name: sum(abs(a - b) for a, b in zip(COLORS[name], middle, strict=True)))


@pytest.mark.parametrize("table", ["VQAv2_VAL", "GQA_TestDev_Balanced", "VizWiz", "TextVQA_VAL", "MMVet"])
def test_each_row_has_its_own_picture(table: str, tmp_path: Path, data: Path):
    for row in done(table, make(table, tmp_path / "download"), data):
        assert shown(row) in row.get("answer", row.get("answers", ""))


# -- cells, table by table -----------------------------------------------------------------------------------------------------
def test_vqav2_pairs_questions_and_answers_by_id(tmp_path: Path, data: Path):
    rows = done("VQAv2_VAL", make("VQAv2_VAL", tmp_path / "d"), data)
    assert [row["index"] for row in rows] == ["40002", "41002", "42002", "43002"]
    assert ast.literal_eval(rows[1]["answer"]) == ["None"] + ["green"] * 9
    assert (rows[0]["question_type"], rows[0]["answer_type"]) == ("what color", "other")
    assert rows[2]["image_path"].endswith("/val2014/COCO_val2014_000000000042.jpg")


def test_vqav2_testdev_keeps_all_ids_for_the_submission(tmp_path: Path, data: Path):
    source = make("VQAv2_TESTDEV", tmp_path / "d")
    rows = done("VQAv2_TESTDEV", source, data)
    assert [row["index"] for row in rows] == ["8000", "10000", "12000"]
    assert (data / "VQAv2_TESTDEV.all.txt").read_text().split() == ["7000", "8000", "9000", "10000", "11000", "12000"]


def test_vqav2_testdev_says_when_the_list_is_not_there_and_takes_it_up_later(tmp_path: Path, data: Path):
    source = make("VQAv2_TESTDEV", tmp_path / "d")
    every = source / "v2_OpenEnded_mscoco_test2015_questions.json"
    every.rename(source.parent / every.name)
    assert any(
        "test2015_questions.json is not there" in note for note in prepare("VQAv2_TESTDEV", source, data, quiet=True).notes
    )
    assert not (data / "VQAv2_TESTDEV.all.txt").exists()
    (source.parent / every.name).rename(every)
    prepare("VQAv2_TESTDEV", source, data, quiet=True)
    assert (data / "VQAv2_TESTDEV.all.txt").exists()


def test_gqa_keeps_ids_as_text_and_types(tmp_path: Path, data: Path):
    rows = done("GQA_TestDev_Balanced", make("GQA_TestDev_Balanced", tmp_path / "d"), data)
    assert [row["index"] for row in rows] == ["00", "01", "02", "03"]
    assert [rows[0][key] for key in ("structural", "semantic", "detailed")] == ["query", "attr", "color"]


def test_vizwiz_answers_are_in_its_own_column(tmp_path: Path, data: Path):
    rows = done("VizWiz", make("VizWiz", tmp_path / "d"), data)
    assert ast.literal_eval(rows[2]["answers"]) == ["None"] + ["blue"] * 9
    assert "answer" not in rows[0]
    assert [row["index"] for row in rows] == ["0", "1", "2"]


def test_scienceqa_takes_test_items_with_a_picture_in_the_order_of_the_split(tmp_path: Path, data: Path):
    rows = done("ScienceQA_TEST", make("ScienceQA_TEST", tmp_path / "d"), data)
    assert [row["index"] for row in rows] == ["3", "2", "0"]
    assert [rows[0][letter] for letter in "ABCDE"] == ["red", "green", "", "", ""]
    assert [rows[1][letter] for letter in "ABCDE"] == ["red", "green", "blue", "yellow", ""]
    assert [(row["answer"], row["hint"]) for row in rows] == [("B", "Look."), ("A", ""), ("A", "")]
    assert rows[0]["category"] == "physics"


def test_textvqa_finds_both_kinds_of_pictures_and_ocr_tokens(tmp_path: Path, data: Path):
    rows = done("TextVQA_VAL", make("TextVQA_VAL", tmp_path / "d"), data)
    assert [Path(row["image_path"]).name for row in rows] == ["a0.jpg", "a1.png", "a2.jpg"]
    assert [ast.literal_eval(row["ocr_tokens"]) for row in rows] == [["STOP", "it's"], ["STOP", "it's"], []]


def test_textvqa_without_ocr_tokens_has_no_column_for_them(tmp_path: Path, data: Path):
    source = make("TextVQA_VAL", tmp_path / "d")
    (source / OCR_FILE).unlink()
    made = prepare("TextVQA_VAL", source, data, quiet=True)
    assert "ocr_tokens" not in read_tsv(made.table)[0]
    assert any(OCR_FILE in note for note in made.notes)


def test_pope_joins_the_sets_that_share_a_question(tmp_path: Path, data: Path):
    made = prepare("POPE", make("POPE", tmp_path / "d"), data, quiet=True)
    rows = read_tsv(made.table)
    assert [row["category"] for row in rows] == ["random,popular,adversarial", "random", "popular", "adversarial"]
    assert [row["answer"] for row in rows] == ["Yes", "No", "No", "No"]
    assert any("random 2, popular 2, adversarial 2" in note for note in made.notes)


def test_pope_refuses_sets_that_contradict_each_other(tmp_path: Path, data: Path):
    source = make("POPE", tmp_path / "d")
    path = source / "coco_pope_popular.json"
    path.write_text(path.read_text().replace('"yes"', '"no"'))
    assert "answered No here and Yes elsewhere" in refused("POPE", source, data)


def test_mme_reads_both_layouts_of_its_categories(tmp_path: Path, data: Path):
    source = make("MME", tmp_path / "d")
    rows = done("MME", source, data)
    assert len({row["category"] for row in rows}) == 14
    assert [row["index"] for row in rows] == [str(i) for i in range(28)]
    assert rows[0]["question"].endswith("Please answer yes or no.")
    assert [row["answer"] for row in rows] == ["Yes", "No"] * 14
    shutil.rmtree(source / "color")
    assert f"{source} lacks color. Expected" in refused("MME", source, data, fresh=True)


@pytest.mark.parametrize("text", ["one line\tYes\n", "a\tYes\nb\tMaybe\n", "a Yes\nb No\n"])
def test_mme_refuses_texts_that_are_not_pairs(text: str, tmp_path: Path, data: Path):
    source = make("MME", tmp_path / "d")
    path = next((source / "count").glob("*.txt"))
    path.write_text(text)
    assert str(path) in refused("MME", source, data)


def test_mmbench_writes_one_picture_for_all_turns(tmp_path: Path, data: Path):
    rows = done("MMBench_DEV_EN", make("MMBench_DEV_EN", tmp_path / "d"), data)
    pictures = data / "images" / "MMBench_DEV_EN"
    assert sorted(path.name for path in pictures.iterdir()) == ["241.jpg", "242.jpg"]
    assert [row["image_path"] for row in rows] == [str(pictures / "241.jpg"), str(pictures / "242.jpg")] * 3
    assert [row["index"] for row in rows][-1] == "2000242"
    assert [row["answer"] for row in rows] == list("ABDACD")
    assert (rows[0]["l2-category"], rows[0]["source"], rows[0]["split"]) == ("coarse_perception", "made", "dev")
    assert (pictures / "241.jpg").read_bytes() == encoded("red")


def test_mmbench_keeps_pictures_that_are_whole_and_mends_others(tmp_path: Path, data: Path):
    source = make("MMBench_DEV_EN", tmp_path / "d")
    done("MMBench_DEV_EN", source, data)
    whole, cut = (data / "images" / "MMBench_DEV_EN" / name for name in ("241.jpg", "242.jpg"))
    before = whole.stat().st_mtime_ns
    cut.write_bytes(cut.read_bytes()[:100])
    (whole.parent / ".9.jpg.1.tmp").write_bytes(b"left by a killed run")
    done("MMBench_DEV_EN", source, data, fresh=True)
    assert whole.stat().st_mtime_ns == before
    assert cut.read_bytes() == encoded(NAMES[1])
    assert sorted(path.name for path in whole.parent.iterdir()) == ["241.jpg", "242.jpg"]


@pytest.mark.parametrize(("cell", "says"), [("999", "has no picture"), ("?" * 100, "not whole base64"), ("", "has no picture")])
def test_mmbench_names_the_row_whose_picture_cannot_be_had(cell: str, says: str, tmp_path: Path, data: Path):
    source = make("MMBench_DEV_EN", tmp_path / "d")
    path = source / "mmbench_dev_20230712.tsv"
    rows = read_tsv(path)
    rows[1]["image"] = cell
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter="\t")
        writer.writeheader()
        writer.writerows(rows)
    said = refused("MMBench_DEV_EN", source, data)
    assert says in said
    assert "242" in said


def test_mmvet_keeps_lines_and_abilities(tmp_path: Path, data: Path):
    rows = done("MMVet", make("MMVet", tmp_path / "d"), data)
    assert rows[1]["question"] == "What color is\nthe square?"
    assert [(row["index"], row["id"], row["category"]) for row in rows][:2] == [("0", "v1_0", "rec"), ("1", "v1_1", "ocr,math")]


def test_docvqa_and_ocrbench_have_lists_of_answers(tmp_path: Path, data: Path):
    assert ast.literal_eval(done("DocVQA_VAL", make("DocVQA_VAL", tmp_path / "a"), data)[1]["answer"]) == ["1 dollars", "$ 1"]
    rows = done("OCRBench", make("OCRBench", tmp_path / "b"), data)
    assert [ast.literal_eval(row["answer"]) for row in rows[:2]] == [["Text 0", "Text0"], ["Text 1"]]
    assert rows[9]["category"] == "Handwritten Mathematical Expression Recognition"


@pytest.mark.parametrize("table", ["DocVQA_VAL", "OCRBench"])
def test_pictures_inside_parquet_become_files(table: str, tmp_path: Path, data: Path):
    source = write_parquet(table, tmp_path / "d")
    rows = done(table, source, data)
    assert [Path(row["image_path"]).parent for row in rows] == [data / "images" / table] * 3
    assert [shown(row) for row in rows] == NAMES[:3]
    path = next(source.rglob("*.parquet"))
    path.write_bytes(path.read_bytes()[:-20])
    assert f"{path} is not a whole parquet file" in refused(table, source, data, fresh=True)


# -- finding files -------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("table", TABLES)
def test_a_folder_above_the_download_will_do(table: str, tmp_path: Path, data: Path):
    above = tmp_path / "downloads"
    make(table, above / "this")
    (above / "another").mkdir()
    assert done(table, above, data)


def test_files_come_from_one_download_where_several_lie_beside_each_other(tmp_path: Path, data: Path):
    above = tmp_path / "downloads"
    make("MMVet", above / "a")  # its folder `images` comes first
    make("GQA_TestDev_Balanced", above / "b")
    assert all("/b/images/" in row["image_path"] for row in done("GQA_TestDev_Balanced", above, data))


@pytest.mark.parametrize("table", TABLES)
def test_a_wrong_folder_is_told_what_is_lacking_and_what_is_expected(table: str, tmp_path: Path, data: Path):
    wrong = tmp_path / "wrong"
    wrong.mkdir()
    said = refused(table, wrong, data)
    recipe = recipes()[table]
    assert f"{wrong} lacks " in said
    assert all(line.strip() in said for line in recipe.layout.splitlines())
    assert recipe.links[0] in said
    assert len(said.replace(str(wrong), "/downloads")) <= 400
    assert left(data) == set()


def test_all_that_is_lacking_is_said_at_once(tmp_path: Path, data: Path):
    source = make("VQAv2_VAL", tmp_path / "d")
    (source / "v2_mscoco_val2014_annotations.json").unlink()
    shutil.rmtree(source / "val2014")
    said = refused("VQAv2_VAL", source, data)
    assert "v2_mscoco_val2014_annotations.json" in said
    assert ".json, val2014. Expected" in said
    assert "lacks v2_OpenEnded" not in said


def test_a_long_list_of_what_is_lacking_is_cut(tmp_path: Path, data: Path):
    source = make("MME", tmp_path / "d")
    for name in ("existence", "posters", "OCR"):
        shutil.rmtree(source / name)
    assert "lacks existence, posters, OCR. Expected" in refused("MME", source, data)
    shutil.rmtree(source / "count")
    assert "lacks existence, count, posters and 1 more. Expected" in refused("MME", source, data)
    (tmp_path / "empty").mkdir()
    assert "lacks existence, count, position and 11 more. Expected" in refused("MME", tmp_path / "empty", data)


def test_archives_are_to_be_unpacked(tmp_path: Path, data: Path):
    source = make("VizWiz", tmp_path / "d")
    for name in ("val", "Annotations"):
        shutil.rmtree(source / name)
        with zipfile.ZipFile(source / f"{name}.zip", "w"):
            pass
    (source / "train.tar.gz").touch()
    assert "Unpack Annotations.zip, val.zip there." in refused("VizWiz", source, data)


@pytest.mark.parametrize("what", ["absent", "file"])
def test_a_source_that_is_no_folder(what: str, tmp_path: Path, data: Path):
    source = tmp_path / what
    if what == "file":
        source.touch()
    assert ("is a file" if what == "file" else "does not exist") in refused("GQA_TestDev_Balanced", source, data)


def test_a_data_folder_that_is_not_there_is_not_made(tmp_path: Path):
    source = make("POPE", tmp_path / "d")
    assert "does not exist" in refused("POPE", source, tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_unknown_tables_are_answered_with_near_ones(tmp_path: Path, data: Path):
    assert "Did you mean 'TextVQA_VAL'" in refused("TextVQA_VALL", tmp_path, data)


# -- files that are not whole --------------------------------------------------------------------------------------------------
JSON_FILES = {
    "VQAv2_VAL": "v2_mscoco_val2014_annotations.json",
    "VQAv2_TESTDEV": "v2_OpenEnded_mscoco_test-dev2015_questions.json",
    "GQA_TestDev_Balanced": "testdev_balanced_questions.json",
    "VizWiz": "Annotations/val.json",
    "ScienceQA_TEST": "problems.json",
    "TextVQA_VAL": OCR_FILE,
    "POPE": "coco_pope_adversarial.json",
    "MMVet": "mm-vet.json",
    "DocVQA_VAL": "val_v1.0_withQT.json",
    "OCRBench": "OCRBench/OCRBench.json",
}


@pytest.mark.parametrize("table", JSON_FILES)
def test_truncated_json_is_named_with_the_place(table: str, tmp_path: Path, data: Path):
    path = make(table, tmp_path / "d") / JSON_FILES[table]
    path.write_bytes(path.read_bytes()[:-9])
    said = refused(table, tmp_path / "d", data)
    assert f"{path} is not whole JSON" in said
    assert "line " in said
    assert "column " in said
    assert left(data) == set()


@pytest.mark.parametrize("table", JSON_FILES)
@pytest.mark.parametrize("content", [b"[]", b"{}", b'{"data": [1]}', b"7", b'[{"a": 1}]', b'{"1": {"a": 2}}', b"", b"\xff\xfe"])
def test_other_contents_are_user_errors(table: str, content: bytes, tmp_path: Path, data: Path):
    source = make(table, tmp_path / "d")
    (source / JSON_FILES[table]).write_bytes(content)
    assert str(source) in refused(table, source, data)
    assert left(data) == set()


def test_questions_without_answers_are_counted(tmp_path: Path, data: Path):
    source = make("VQAv2_VAL", tmp_path / "d")
    path = source / "v2_mscoco_val2014_annotations.json"
    path.write_text(json.dumps({"annotations": json.loads(path.read_text())["annotations"][1:]}))
    assert "no answers to 1 of 4 questions" in refused("VQAv2_VAL", source, data)


def test_an_index_that_occurs_twice(tmp_path: Path, data: Path):
    source = make("TextVQA_VAL", tmp_path / "d")
    path = source / "TextVQA_0.5.1_val.json"
    value = json.loads(path.read_text())
    value["data"] += value["data"][1:]
    path.write_text(json.dumps(value))
    assert "index '34603' occurs more than once (2 such)" in refused("TextVQA_VAL", source, data)
    assert left(data) == set()


def test_a_cell_that_must_not_be_empty(tmp_path: Path, data: Path):
    source = make("GQA_TestDev_Balanced", tmp_path / "d")
    path = source / "testdev_balanced_questions.json"
    path.write_text(path.read_text().replace("What color is the square?", " ", 1))
    assert "question of index '00'" in refused("GQA_TestDev_Balanced", source, data)


# -- pictures ------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("harm", ["gone", "cut", "text", "empty"])
def test_missing_and_damaged_pictures_are_listed(harm: str, tmp_path: Path, data: Path):
    source = make("VQAv2_VAL", tmp_path / "d")
    victim = source / "val2014" / "COCO_val2014_000000000041.jpg"
    content = {"cut": victim.read_bytes()[:-100], "text": b"<html>404</html>", "empty": b""}
    if harm == "gone":
        victim.unlink()
    else:
        victim.write_bytes(content[harm])
    said = refused("VQAv2_VAL", source, data)
    assert "1 of 4 pictures are missing or damaged, such as val2014/COCO_val2014_000000000041.jpg" in said
    listed = (data / "VQAv2_VAL.missing.txt").read_text()
    assert listed.split("\t")[0] == str(victim)
    assert listed.split("\t")[1].startswith("missing" if harm == "gone" else "damaged: ")
    assert not (data / "VQAv2_VAL.tsv").exists()
    assert str(data / "VQAv2_VAL.missing.txt") in said


def test_rows_without_pictures_are_left_out_when_asked(tmp_path: Path, data: Path):
    source = make("GQA_TestDev_Balanced", tmp_path / "d")
    victim = source / "images" / "n0.jpg"
    content = victim.read_bytes()
    victim.unlink()
    made = prepare("GQA_TestDev_Balanced", source, data, quiet=True, allow_missing=True)
    assert made.missing == (str(victim),)
    assert [row["index"] for row in read_tsv(made.table)] == ["02", "03"]
    assert made.rows == 2
    assert any("2 rows were left out" in note for note in made.notes)
    noted = json.loads((data / "GQA_TestDev_Balanced.json").read_text())
    assert (noted["missing"], noted["skipped"], noted["rows"]) == ([str(victim)], ["00", "01"], 2)
    assert made == prepare("GQA_TestDev_Balanced", source, data, quiet=True, allow_missing=True)
    refused("GQA_TestDev_Balanced", source, data)  # without the flag it is still an error
    victim.write_bytes(content)  # supplied: our own incomplete table is completed
    assert len(done("GQA_TestDev_Balanced", source, data)) == 4
    assert not (data / "GQA_TestDev_Balanced.missing.txt").exists()


def test_a_table_of_nothing_is_not_made(tmp_path: Path, data: Path):
    source = make("POPE", tmp_path / "d")
    shutil.rmtree(source / "val2014")
    (source / "val2014").mkdir()
    assert "No row would be left" in refused("POPE", source, data, allow_missing=True)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".gif"])
def test_an_end_is_known_by_its_mark_and_a_picture_without_it_is_decoded(suffix: str, tmp_path: Path):
    path = draw(tmp_path / f"a{suffix}", "red")
    whole = path.read_bytes()
    assert ends(path) is True
    path.write_bytes(whole + (b"\0" if suffix == ".gif" else b"added by a camera"))
    assert ends(path) is True
    assert media.wrong_picture(path) == ""
    path.write_bytes(whole[: len(whole) * 2 // 3])
    assert ends(path) is False
    assert media.wrong_picture(path).startswith("damaged: ")
    if suffix == ".png":  # only the end mark is lacking: all pixels are there
        path.write_bytes(whole[:-12])
        assert media.wrong_picture(path) == ""


@pytest.mark.parametrize(
    ("suffix", "codec"), [(".mp4", "mpeg4"), (".mov", "mpeg4"), (".avi", "mpeg4"), (".mkv", "mpeg4"), (".webm", "vp8")]
)
def test_videos_that_were_cut_off_are_found_without_decoding_them(suffix: str, codec: str, tmp_path: Path):
    path = tmp_path / f"a{suffix}"
    options = {"movflags": "faststart"} if suffix == ".mp4" else {}  # its index first, so that its first frames can be read
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream(codec, rate=5, width=64, height=48, pix_fmt="yuv420p")
        for i in range(20):
            frame = av.VideoFrame.from_image(Image.new("RGB", (64, 48), (12 * i, 0, 0)))
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    whole = path.read_bytes()
    assert ends(path) is True
    assert media.wrong_video(path) == ""
    for part in (0.5, 0.9, 0.99):
        path.write_bytes(whole[: int(len(whole) * part)])
        assert ends(path) is False
        assert media.wrong_video(path) == "damaged: cut off"


def test_folders_of_frames_are_looked_at_one_by_one(tmp_path: Path):
    assert media.wrong_video(tmp_path).startswith("missing: no jpg or png")
    draw(tmp_path / "00001.jpg", "red")
    last = draw(tmp_path / "00002.jpg", "blue")
    assert media.wrong_video(tmp_path) == ""
    last.write_bytes(last.read_bytes()[:200])
    assert media.wrong_video(tmp_path).startswith("00002.jpg damaged: ")


@pytest.mark.parametrize("content", [b"", b"#EXTM3U\nhttp://example.org/a.mp4\n", b"<html>404</html>" * 9])
def test_what_is_no_video(content: bytes, tmp_path: Path):
    path = tmp_path / "a.mp4"
    assert media.wrong_video(path) == "missing"
    path.write_bytes(content)
    assert media.wrong_video(path).startswith("damaged: ")


def test_what_is_sound_alone_is_no_video(tmp_path: Path):
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        sound = av.AudioFrame(format="s16", layout="mono", samples=800)
        sound.rate = 8000
        container.mux(stream.encode(sound))
        container.mux(stream.encode())
    assert media.wrong_video(path) == "damaged: it has no video stream"


def test_formats_without_an_end_mark_are_decoded(tmp_path: Path):
    path = tmp_path / "a.bmp"
    Image.new("RGB", (8, 8)).save(path)
    assert ends(path) is None
    assert media.wrong_picture(path) == ""
    path.write_bytes(path.read_bytes()[:80])
    assert media.wrong_picture(path).startswith("damaged: ")


def test_whole_pictures_are_not_looked_at_again(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch):
    source = make("VQAv2_VAL", tmp_path / "d")
    victim = source / "val2014" / "COCO_val2014_000000000041.jpg"
    content = victim.read_bytes()
    victim.unlink()
    refused("VQAv2_VAL", source, data)
    memory = data / ".VQAv2_VAL.checked"
    assert len(memory.read_bytes().splitlines()) == 3
    memory.write_bytes(memory.read_bytes() + b'["torn')
    changed = source / "val2014" / "COCO_val2014_000000000042.jpg"
    changed.write_bytes(encoded("yellow") + b"  ")
    victim.write_bytes(content)
    looked: list[str] = []
    monkeypatch.setattr(media, "wrong_picture", lambda path: looked.append(path.name) or "")
    done("VQAv2_VAL", source, data)
    assert sorted(looked) == [victim.name, changed.name]
    assert not memory.exists()


# -- tables that are there already ---------------------------------------------------------------------------------------------
def test_the_same_again_changes_nothing(tmp_path: Path, data: Path):
    source = make("MME", tmp_path / "d")
    done("MME", source, data)
    before = {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in data.iterdir()}
    made = prepare("MME", source, data, quiet=True)
    assert "nothing was changed" in made.notes[0]
    assert made.rows == 28
    assert {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in data.iterdir()} == before


def test_pictures_that_went_since_are_noticed(tmp_path: Path, data: Path):
    source = make("MME", tmp_path / "d")
    done("MME", source, data)
    next((source / "count").glob("*.??g")).unlink()
    assert "1 of 14 pictures" in refused("MME", source, data)
    assert (data / "MME.tsv").exists()


def test_other_rows_or_another_source_need_fresh(tmp_path: Path, data: Path):
    source, other = make("POPE", tmp_path / "a"), make("POPE", tmp_path / "b")
    before = done("POPE", source, data)
    assert f"was made from {source}" in refused("POPE", other, data)
    path = source / "coco_pope_random.json"
    path.write_text(path.read_text().replace("red", "crimson"))
    assert "other rows now" in refused("POPE", source, data)
    assert read_tsv(data / "POPE.tsv") == before
    assert "crimson" in done("POPE", source, data, fresh=True)[0]["question"]
    assert json.loads((data / "POPE.json").read_text())["source"] == str(source)


@pytest.mark.parametrize("own", ["POPE.tsv", "POPE.json"])
def test_files_of_the_users_own_are_left_alone(own: str, tmp_path: Path, data: Path):
    source = make("POPE", tmp_path / "d")
    (data / own).write_text("mine")
    assert f"{own} is there already" in refused("POPE", source, data)
    assert (data / own).read_text() == "mine"
    assert left(data) == {own}
    assert done("POPE", source, data, fresh=True)


def test_a_table_that_was_changed_by_hand_is_the_users(tmp_path: Path, data: Path):
    source = make("POPE", tmp_path / "d")
    done("POPE", source, data)
    with (data / "POPE.tsv").open("a") as file:
        file.write("x\n")
    assert "changed since" in refused("POPE", source, data)


# -- runs that end early -------------------------------------------------------------------------------------------------------
START = """import sys
from pathlib import Path
from script_vlmeval.errors import UserError
from script_vlmeval.prepare import prepare
"""
CALL = f"""{START}
try: prepare(sys.argv[3], Path(sys.argv[1]), Path(sys.argv[2]), quiet=True)
except UserError as error: print(error); sys.exit(2)
"""


def child(code: str, *arguments: object, **options: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


@pytest.mark.parametrize("table", ["GQA_TestDev_Balanced", "MMBench_DEV_CN"])  # the table, or a picture that is written out
def test_a_full_disk_is_a_user_error_and_leaves_nothing(table: str, tmp_path: Path, data: Path):
    source = make(table, tmp_path / "d")
    small = child(CALL, source, data, table, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100)))
    said, errors = small.communicate(timeout=60)
    assert small.returncode == 2, errors
    assert "File too large" in said
    assert "free some space" in said
    assert [path for path in data.rglob("*") if path.is_file()] == []


def test_a_killed_run_leaves_no_table_and_the_next_one_goes_on(tmp_path: Path, data: Path):
    """It is killed while it looks at the third picture, which never comes to an end."""
    source = make("VQAv2_VAL", tmp_path / "d")
    stuck = f"""{START}
import time
from script_vlmeval.prepare import media
real = media.wrong_picture
media._BATCH = 1
media.wrong_picture = lambda path: time.sleep(60) if path.name.endswith('42.jpg') else real(path)
prepare('VQAv2_VAL', Path(sys.argv[1]), Path(sys.argv[2]), quiet=True)
"""
    process = child(stuck, source, data)
    memory = data / ".VQAv2_VAL.checked"
    wait_for(lambda: memory.exists() and memory.read_bytes().count(b"\n") == 2, process, "two pictures were looked at")
    assert "Another run is preparing VQAv2_VAL" in refused("VQAv2_VAL", source, data)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not (data / "VQAv2_VAL.tsv").exists()
    assert len(memory.read_bytes().splitlines()) == 2
    assert len(done("VQAv2_VAL", source, data)) == 4
    assert left(data) == {"VQAv2_VAL.tsv", "VQAv2_VAL.json"}


# -- the engine with made-up recipes -------------------------------------------------------------------------------------------
def recipe(rows: list[dict[str, str]], **options: object) -> Recipe:
    columns = ("index", IMAGE, "question", "answer")
    return Recipe("Made", "pictures", lambda folder: iter(rows), (len(rows),), IMAGE, columns, **options)


def engine(made: Recipe, tmp_path: Path, data: Path) -> Prepared:
    return run_recipe(made, tmp_path, data, quiet=True, fresh=False, allow_missing=False)


@pytest.mark.parametrize(
    "text", ["a\tb", 'a "b"', "a\nb", "a\rb", "a\r\nb", '"', "  a ", "None", "007", "a\u2028b", "a,b", "'", "\\n", "#"]
)
def test_any_text_survives_the_table(text: str, tmp_path: Path, data: Path):
    pandas = pytest.importorskip("pandas")
    picture = str(draw(tmp_path / "a.png", "red"))
    row = dict(index="1", image_path=picture, question="q", answer=text)
    made = engine(recipe([row, row | dict(index="2", answer="x")]), tmp_path, data)
    assert read_tsv(made.table) == [row, row | dict(index="2", answer="x")]
    assert pandas.read_csv(made.table, sep="\t", dtype=str, keep_default_na=False)["answer"].tolist() == [text, "x"]
    assert made.notes == ()  # as many rows as published


def test_half_a_surrogate_pair_does_not_stop_it(tmp_path: Path, data: Path):
    row = dict(index="1", image_path=str(draw(tmp_path / "a.png", "red")), question="q", answer="a\ud83d")
    assert read_tsv(engine(recipe([row]), tmp_path, data).table)[0]["answer"] == "a?"


def test_several_pictures_in_a_cell_are_all_looked_at(tmp_path: Path, data: Path):
    paths = [str(draw(tmp_path / f"{name}.png", name)) for name in ("red", "blue")]
    row = dict(index="1", image_path=str(paths), question="q", answer="a")
    assert read_tsv(engine(recipe([row]), tmp_path, data).table)[0]["image_path"] == str(paths)
    os.unlink(paths[1])
    with pytest.raises(UserError, match="1 of 2 pictures"):
        engine(recipe([row]), tmp_path, data)


def test_no_rows_are_no_table(tmp_path: Path, data: Path):
    with pytest.raises(UserError, match="hold no row"):
        engine(recipe([]), tmp_path, data)


@pytest.mark.parametrize("name", ["", "../a.jpg", "a/b.jpg", ".hidden"])
def test_names_of_pictures_cannot_lead_elsewhere(name: str, tmp_path: Path):
    with pytest.raises(UserError, match="cannot be the name of a picture"):
        Folder(tmp_path, tmp_path / "images").keep(name, b"x")


def test_blank_columns_may_be_empty(tmp_path: Path, data: Path):
    row = dict(index="1", image_path=str(draw(tmp_path / "a.png", "red")), question="q", answer="")
    with pytest.raises(UserError, match="answer of index '1'"):
        engine(recipe([row]), tmp_path, data)
    assert engine(recipe([row], blank=("answer",)), tmp_path, data).rows == 1
