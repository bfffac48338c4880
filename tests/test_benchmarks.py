"""Names of benchmarks, and tables that are right, odd or broken."""

from __future__ import annotations

import subprocess
import sys

import data_factory
import pytest

from script_vlmeval.benchmarks import BENCHMARKS, GROUPS, expand, read_tsv, read_user_tsv, resolve, tables
from script_vlmeval.errors import UserError
from script_vlmeval.scoring import kind_of


@pytest.mark.parametrize(
    ("asked", "host"),
    [
        ("gqa", "GQA_TestDev_Balanced"),
        ("SQA", "ScienceQA_TEST"),
        ("scienceqa", "ScienceQA_TEST"),
        ("textvqa", "TextVQA_VAL"),
        ("mmbench-cn", "MMBench_DEV_CN"),
        ("MM-VET", "MMVet"),
        ("vqav2", "VQAv2_VAL"),
        ("VQAv2_VAL", "VQAv2_VAL"),
        ("mmbench cn", "MMBench_DEV_CN"),
        ("MLVU_MCQ", "MLVU_MCQ"),
        ("videomme", "Video-MME"),
        ("shapesvqa", "ShapesVQA"),
    ],
)
def test_aliases_ignore_case(asked, host):
    assert resolve(asked).host == host
    assert resolve(asked).name in BENCHMARKS


@pytest.mark.parametrize(
    ("asked", "name", "frames", "fps"),
    [
        ("mvbench_8frame", "MVBench_8frame", 8, None),
        ("Video-MME_64frames", "Video-MME_64frame", 64, None),
        ("MLVU_MCQ_16frame", "MLVU_16frame", 16, None),
        ("MSVD-QA_0.5fps", "MSVD-QA_0.5fps", None, 0.5),
        ("LongVideoBench", "LongVideoBench", None, None),
    ],
)
def test_a_suffix_fixes_the_frames_of_a_video(asked, name, frames, fps):
    found = resolve(asked)
    assert (found.name, found.frames, found.fps, found.modality) == (name, frames, fps, "video")


@pytest.mark.parametrize(("asked", "says"), [("GQA_8frame", "GQA shows pictures"), ("MVBench_0frame", "no frames")])
def test_frames_that_cannot_be_are_refused(asked, says):
    with pytest.raises(UserError, match=says):
        resolve(asked)


def test_groups_stand_for_their_members_once():
    assert {name: len(expand([name])) for name in GROUPS} == {
        "image10": 10,
        "video4": 4,
        "videoqa4": 4,
        "script14": 14,
        "all18": 18,
    }
    assert [b.name for b in expand(["GQA", "Image10"])][:2] == ["GQA", "VQAv2"]
    assert [b.name for b in expand(["video4_8frame"])] == [f"{name}_8frame" for name in GROUPS["video4"]]
    with pytest.raises(UserError, match="pictures"):
        expand(["script14_8frame"])


def test_two_tables_of_one_name_are_refused():
    with pytest.raises(UserError, match="rename"):
        expand(["a/mine.tsv", "b/mine.tsv"])


def test_other_names_go_to_the_host_as_they_are():
    found = resolve("OCRVQA_TESTCORE")
    assert (found.kind, found.host, found.name) == ("host", "OCRVQA_TESTCORE", "OCRVQA_TESTCORE")


def test_a_path_is_the_users_own_table():
    found = resolve("some/my questions.TSV")
    assert (found.kind, found.name) == ("tsv", "my_questions")


def test_an_empty_name_is_refused():
    with pytest.raises(UserError):
        resolve(" ")


def test_cells_stay_text(tmp_path):
    path = tmp_path / "t.tsv"
    path.write_text('index\tquestion\tanswer\n007\tNA\tNone\n1\t"a\tb"\t\n', encoding="utf-8")
    rows = read_tsv(path)
    assert rows[0] == {"index": "007", "question": "NA", "answer": "None"}
    assert rows[1] == {"index": "1", "question": "a\tb", "answer": ""}


def test_cells_may_be_as_large_as_pictures(tmp_path):
    path = tmp_path / "t.tsv"
    path.write_text(f"index\tquestion\timage\n1\tq\t{'A' * 300_000}\n")
    assert len(read_tsv(path)[0]["image"]) == 300_000
    assert "image" not in read_tsv(path, skip=("image",))[0]
    assert read_tsv(path, shorten={"image": lambda cell: cell[:3], "absent": str})[0]["image"] == "AAA"


def test_equal_cells_are_one_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "_REMEMBERED", 8)
    path = tmp_path / "t.tsv"
    lines = [f"{i}\t{i // 5}.jpg\t{'long' * 400}" for i in range(100)]
    path.write_text("\n".join(["index\timage_path\tquestion", *lines]))
    rows = read_tsv(path)
    assert ["\t".join(row.values()) for row in rows] == lines
    assert len({id(row["image_path"]) for row in rows[:4]}) == 1
    assert len({id(row["image_path"]) for row in rows}) < 60, "the memory is cut, not given up"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b"name\tquestion\n1\tq\n", "lacks the column 'index'"),
        (b"index,question\n1,q\n", "tab-separated"),
        (b"index\tquestion\n", "no rows"),
        (b"index\tquestion\n1\tq\n1\tr\n", "index '1' occurs more than once"),
        (b"index\tquestion\n1\tq\textra\n", "line 2"),
        (b"index\tquestion\tquestion\n1\tq\tr\n", "twice"),
        (b"index\tquestion\n1\t\xff\xfe\n", "UTF-8"),
        (b"\x89PNG\r\n\x1a\n\x00\x00\x00", "UTF-8"),
    ],
)
def test_broken_tables_are_explained(tmp_path, content, says):
    path = tmp_path / "bad.tsv"
    path.write_bytes(content)
    with pytest.raises(UserError, match=says) as error:
        read_tsv(path)
    assert "bad.tsv" in str(error.value)


def test_a_missing_table_names_file_folder_and_remedy(tmp_path):
    with pytest.raises(UserError) as error:
        read_tsv(tmp_path / "POPE.tsv", hint="Fetch it.")
    assert str(error.value) == f"There is no file POPE.tsv in {tmp_path}. Fetch it."


def test_one_table_may_mix_kinds(tmp_path):
    rows = read_user_tsv(data_factory.mixed(tmp_path))
    assert [kind_of(row) for row in rows] == ["open", "yesno", "mcq", "yesno"]
    assert [row["index"] for row in rows] == ["0", "1", "2", "3"]


@pytest.mark.parametrize(
    ("columns", "cells", "says"),
    [
        ("question\tanswer", "q\ta", "image_path"),
        ("question\timage_path", "q\tx.png", "'answer'"),
        ("question\tanswer\timage_path", "q\ta\t", "neither 'image' nor 'image_path'"),
        ("question\tanswer\timage_path", "q\t\tx.png", "'answer' is empty"),
        ("question\tanswer\timage_path\tA\tB", "q\tC\tx.png\tred\tblue", "none of the options A, B"),
    ],
)
def test_a_users_table_is_checked_before_anything_runs(tmp_path, columns, cells, says):
    path = tmp_path / "own.tsv"
    path.write_text(f"{columns}\n{cells}\n")
    with pytest.raises(UserError, match=says):
        read_user_tsv(path)


def test_importing_is_light():
    code = "import sys, script_vlmeval.benchmarks; print([m for m in ('torch', 'vlmeval', 'pandas') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
