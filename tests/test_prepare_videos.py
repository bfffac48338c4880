"""Official downloads of the video benchmarks into tables: every cell, every container, and what is wrong with a download."""

from __future__ import annotations

import ast
import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import downloads
import official_videos
import pytest
from downloads import edit
from official_videos import CODECS, MVBENCH, NAMES, OPEN, TABLES

from script_vlmeval import video
from script_vlmeval.prepare import Prepared, prepare
from script_vlmeval.prepare.videos import type_of

ROWS = dict(zip(TABLES, (40, 6, 14, 4, 3, 3, 4, 4, 3), strict=True))
UNSTATED = "bundle (validation or test: not stated)"
Row = dict[str, str]


@pytest.fixture
def download(tmp_path: Path) -> Callable[..., Path]:
    return lambda table, layout="official": official_videos.make(table, tmp_path / "download" / table, layout)


def data_of(source: Path) -> Path:
    """The data folder of a test, beside its folder `download`."""
    data = next(base for base in (source, *source.parents) if base.name == "download").parent / "data"
    data.mkdir(exist_ok=True)
    return data


def run(table: str, source: Path, **options: bool) -> tuple[Prepared, list[Row]]:
    """What `prepare` says and the rows of the table, read with nothing but the csv module."""
    said = prepare(table, source, data_of(source), quiet=True, **options)
    with said.table.open(encoding="utf-8", newline="") as file:
        return said, list(csv.DictReader(file, delimiter="\t"))


def refused(table: str, source: Path, **options: bool) -> str:
    return downloads.refused(table, source, data_of(source), **options)


def shown(row: Row) -> str:
    """The colour of the square in a row's video, as our own reader sees it."""
    (frame,) = video.read(row["video_path"], 1).frames
    pixel = frame.getpixel((22, 24))
    return min(NAMES, key=lambda name: sum(abs(a - b) for a, b in zip(pixel, official_videos.COLORS[name], strict=True)))


# -- every table ---------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("table", TABLES)
def test_every_row_names_a_video_that_shows_its_answer(table, download):
    said, rows = run(table, download(table))
    assert said.rows == len(rows) == ROWS[table]
    assert not said.missing
    for row in rows:
        assert Path(row["video_path"]).is_absolute()
        answer = row["answer"]
        if len(answer) == 1:
            answer = ast.literal_eval(row["candidates"])["ABCD".index(answer)].removeprefix(f"{answer}. ")
        assert shown(row) in answer


@pytest.mark.parametrize("table", TABLES)
def test_another_number_of_rows_than_published_is_said(table, download):
    said, _ = run(table, download(table))
    assert all(any(f"{number:,}" in note for note in said.notes) for number in said.expected)


@pytest.mark.parametrize("table", OPEN)
def test_bundles_hold_every_container(table, download):
    said, rows = run(table, download(table, "bundle"))
    assert [row["video"] for row in rows] == ["000", "001", "002", "003", "004", "005"]  # text, also in a JSON of numbers
    assert [row["index"] for row in rows] == ["500", "501", "502", "503", "504", "505"]
    assert [Path(row["video_path"]).suffix for row in rows] == [".mp4", ".avi", ".mov", ".mkv", ".webm", ".gif"]
    assert [shown(row) for row in rows] == [row["answer"] for row in rows]
    unstated = table in ("MSVD-QA", "MSRVTT-QA")
    assert {row["split"] for row in rows} == {UNSTATED if unstated else "test"}
    assert any("bundle" in note for note in said.notes) == unstated


def test_videos_may_lie_deeper_beside_or_be_called_otherwise(download):
    source = download("MSRVTT-QA", "bundle")
    (source / "videos/all").mkdir()
    (source / "videos/001.avi").rename(source / "videos/all/001.AVI")
    (source / "videos/002.mov").rename(source / "002.mov")
    (source / "mp4").mkdir()
    (source / "videos/000.mp4").rename(source / "mp4/000.mp4")
    shutil.copy(source / "videos/003.mkv", source / "000.mkv")  # of two containers, the usual one
    (source / "videos/loop").symlink_to(source)
    _, rows = run("MSRVTT-QA", source)
    places = [str(Path(row["video_path"]).relative_to(source)) for row in rows[:4]]
    assert places == ["mp4/000.mp4", "videos/all/001.AVI", "002.mov", "videos/003.mkv"]


def test_our_reader_takes_what_the_encoders_wrote(tmp_path):
    for suffix in (*CODECS, ".gif", ""):
        clip = video.read(official_videos.write_clip(tmp_path / f"clip{suffix}", "red"), 4)
        assert (clip.total, clip.size) == (official_videos.FRAMES, (64, 48)), suffix


# -- multiple choice -----------------------------------------------------------------------------------------------------------
def test_mvbench(download):
    source = download("MVBench")
    _, rows = run("MVBench", source)
    header = "index task_type prefix data_type bound start end video video_path question answer candidates"
    assert list(rows[0]) == header.split()
    assert [row["index"] for row in rows] == [str(i) for i in range(40)]
    tasks = [row["task_type"].lower().replace(" ", "_").replace("-", "_") for row in rows[::2]]
    assert tasks == list(MVBENCH)  # the order that numbers the rows
    for row, task in zip(rows, [task for task in tasks for _ in range(2)], strict=True):
        place, suffix, bound = MVBENCH[task]
        assert row["prefix"] == f"video/{place}/"
        assert row["data_type"] == ("video" if suffix else "frame")
        assert (row["bound"], row["end"]) == (("True", "1.5") if bound else ("False", ""))
        assert row["video_path"].endswith(f"/{place}/{row['video']}")
        assert ast.literal_eval(row["candidates"]) == NAMES
    assert rows[1]["start"] == "0.5"
    assert rows[0]["video_path"] == str(source / "video/data0613/star/Charades_v1_480/action_sequence_0.mp4")


def test_mvbench_with_data0613_moved_where_it_belongs(download):
    source = download("MVBench")
    for part in (source / "video/data0613").iterdir():
        part.rename(source / "video" / part.name)
    _, rows = run("MVBench", source)
    assert len(rows) == 40
    assert rows[0]["video_path"] == str(source / "video/star/Charades_v1_480/action_sequence_0.mp4")


def test_mvbench_without_ntu(download):
    source = download("MVBench")
    shutil.rmtree(source / "video/nturgbd")
    error = refused("MVBench", source)
    assert "2 of 40 videos are missing" in error
    assert "video/nturgbd/fine_grained_pose_0.avi" in error
    said, rows = run("MVBench", source, allow_missing=True)
    assert len(said.missing) == 2
    assert said.rows == len(rows) == 38
    assert "Fine-grained Pose" not in {row["task_type"] for row in rows}
    assert rows[-1]["index"] == "39"  # the others keep their numbers


def test_mvbench_in_its_archives(download):
    source = download("MVBench")
    shutil.rmtree(source / "video/perception")
    (source / "video/perception.zip").write_bytes(b"PK")
    (source / "video/tvqa.zip").write_bytes(b"PK")  # unpacked, and kept
    (source / "video/star.zip").write_bytes(b"PK")  # unpacked from data0613.zip
    assert "not unpacked: perception.zip. Unpack" in refused("MVBench", source)


def test_mvbench_without_some_questions(download):
    source = download("MVBench")
    (source / "json/fine_grained_pose.json").unlink()
    (source / "json/state_change.json").unlink()
    error = refused("MVBench", source)
    assert "json/fine_grained_pose.json" in error
    assert "json/state_change.json" in error


def test_bounds_must_be_there(download):
    source = download("MVBench")
    edit(source / "json/action_localization.json", lambda rows: rows[1].pop("end"))
    error = refused("MVBench", source)
    assert "action_localization.json" in error
    assert "question 2 has no 'end'" in error


def test_an_answer_that_is_no_option_is_said_and_options_become_texts(download):
    source = download("MLVU_MCQ")
    edit(source / "MLVU/json/4_count.json", lambda rows: rows[0].update(candidates=[1, 2, 3], answer=2))
    edit(source / "MLVU/json/5_order.json", lambda rows: rows[1].update(answer="purple"))
    said, rows = run("MLVU_MCQ", source)
    assert (rows[6]["candidates"], rows[6]["answer"]) == ("['1', '2', '3']", "2")
    (note,) = [note for note in said.notes if "none of the options" in note]
    assert "1 of 14 questions" in note
    assert note.endswith("index 9.")


def test_video_mme(download):
    source = download("Video-MME")
    _, rows = run("Video-MME", source)
    header = "index video video_path duration domain candidates sub_category task_type subtitle_path question answer"
    assert list(rows[0]) == header.split()
    assert [row["video"] for row in rows] == ["fFjv93ACGo8"] * 3 + ["-N1cdUjctpG"] * 3
    assert ast.literal_eval(rows[1]["candidates"]) == ["A. green", "B. blue", "C. yellow", "D. red"]
    assert [row["answer"] for row in rows] == ["A", "D", "C", "B", "A", "D"]
    assert rows[0]["subtitle_path"] == str(source / "subtitle/fFjv93ACGo8.srt")
    assert rows[3]["subtitle_path"] == ""
    assert (rows[3]["duration"], rows[0]["sub_category"]) == ("long", "Humanity & History")


def test_video_mme_as_its_archives_unpack(download):
    """Into `data`, some videos in another container, and no subtitles."""
    source = download("Video-MME")
    (source / "video").rename(source / "data")
    shutil.rmtree(source / "subtitle")
    (source / "data/fFjv93ACGo8.mp4").unlink()
    official_videos.write_clip(source / "data/fFjv93ACGo8.mkv", "red")
    _, rows = run("Video-MME", source)
    assert rows[0]["video_path"] == str(source / "data/fFjv93ACGo8.mkv")
    assert {row["subtitle_path"] for row in rows} == {""}


def test_video_mme_beside_a_folder_called_data(download):
    source = download("Video-MME")
    official_videos.write_clip(source.parent / "data/fFjv93ACGo8.mp4", "blue")
    (source.parent / "subtitles").mkdir()
    _, rows = run("Video-MME", source.parent)
    assert rows[0]["video_path"] == str(source / "video/fFjv93ACGo8.mp4")
    assert rows[0]["subtitle_path"] == str(source / "subtitle/fFjv93ACGo8.srt")


def test_nothing_is_taken_from_outside(download):
    source = download("Video-MME")
    assert "lacks video. Expected" in refused("Video-MME", source / "videomme")


def test_archives_that_were_not_unpacked_are_named(download):
    source = download("Video-MME")
    shutil.rmtree(source / "video")
    (source / "videos_chunked_01.zip").write_bytes(b"PK")
    error = refused("Video-MME", source)
    assert "videos_chunked_01.zip" in error
    assert "lacks video" in error


def test_mlvu(download):
    source = download("MLVU_MCQ")
    _, rows = run("MLVU_MCQ", source)
    assert list(rows[0]) == "index task_type prefix duration video video_path question answer candidates".split()
    assert [row["task_type"] for row in rows[::2]] == list(official_videos.MLVU[:7])
    assert rows[3]["prefix"] == "./MLVU/video/2_needle"
    assert rows[3]["duration"] == "481.5"
    assert rows[3]["video_path"] == str(source / "MLVU/video/2_needle/needle_1.mp4")


def test_the_inner_folder_of_mlvu(download):
    source = download("MLVU_MCQ") / "MLVU"
    _, rows = run("MLVU_MCQ", source)
    assert rows[-1]["video_path"] == str(source / "video/7_topic_reasoning/topic_reasoning_1.mp4")


def test_mlvu_open(download):
    _, rows = run("MLVU_OpenEnded", download("MLVU_OpenEnded"))
    assert list(rows[0]) == "index task_type prefix duration video video_path question answer scoring_points".split()
    assert [row["task_type"] for row in rows] == ["sub_scene"] * 2 + ["summary"] * 2
    assert ast.literal_eval(rows[0]["scoring_points"]) == ["It is a square.", "It is yellow."]
    assert rows[2]["scoring_points"] == ""
    assert rows[2]["prefix"] == "./MLVU/video/9_summary"


def test_long_video_bench(download):
    source = download("LongVideoBench")
    edit(source / "lvb_val.json", lambda rows: rows[0].pop("view_count"))  # in some rows alone
    _, rows = run("LongVideoBench", source)
    assert set(json.loads((source / "lvb_val.json").read_text())[1]) < set(rows[0])
    assert [row["index"] for row in rows] == ["0", "1", "2"]
    assert [row["answer"] for row in rows] == ["D", "A", "B"]
    assert [row["correct_choice"] for row in rows] == ["3", "0", "1"]
    assert [row["view_count"] for row in rows] == ["", "1001", "1002"]
    assert (rows[0]["video"], rows[0]["position"], rows[0]["duration_group"]) == ("86CxyhFV9M0", "[3, 9]", "15")
    assert rows[0]["video_path"] == str(source / "videos/86CxyhFV9M0.mp4")
    assert rows[0]["subtitle_path"] == str(source / "subtitles/86CxyhFV9M0_en.json")


def test_long_video_bench_with_folders_in_its_paths(download):
    source = download("LongVideoBench")
    edit(source / "lvb_val.json", lambda rows: rows[0].update(video_path="part/86CxyhFV9M0.mp4"))
    _, rows = run("LongVideoBench", source)
    assert rows[0]["video_path"] == str(source / "videos/86CxyhFV9M0.mp4")


def test_long_video_bench_without_answers(download):
    source = download("LongVideoBench")
    edit(source / "lvb_val.json", lambda rows: rows[2].update(correct_choice=4))
    assert "question 3 has no 'correct_choice' among its candidates (4)" in refused("LongVideoBench", source)
    edit(source / "lvb_val.json", lambda rows: rows[1].pop("correct_choice"))
    assert "question 2 has no 'correct_choice'" in refused("LongVideoBench", source)


# -- open-ended ----------------------------------------------------------------------------------------------------------------
def test_msvd(download):
    source = download("MSVD-QA")
    _, rows = run("MSVD-QA", source)
    assert list(rows[0]) == ["index", "video", "video_path", "question", "answer", "split"]
    assert [row["index"] for row in rows] == ["37000", "37001", "37002", "37003"]
    assert [row["video"] for row in rows] == ["-4wsuPCjDBc_5_15", "007", "mv89psg6zh4_33_46", "-4wsuPCjDBc_5_15"]
    assert rows[1]["video_path"] == str(source / "YouTubeClips/007.avi")
    assert {row["split"] for row in rows} == {"test"}


def test_msvd_with_videos_that_the_list_does_not_name(download):
    source = download("MSVD-QA")
    (source / "youtube_mapping.txt").write_text("007 vid1302\n", encoding="utf-8")
    assert "does not name 2 of the videos of test_qa.json, such as vid1301" in refused("MSVD-QA", source)


def test_msvd_without_its_list(download):
    source = download("MSVD-QA")
    (source / "youtube_mapping.txt").unlink()
    shutil.rmtree(source / "YouTubeClips")
    (source / "YouTubeClips.tar").write_bytes(b"")
    error = refused("MSVD-QA", source)  # one error for both
    assert "youtube_mapping.txt" in error
    assert "Unpack YouTubeClips.tar" in error


def test_msrvtt(download):
    source = download("MSRVTT-QA")
    _, rows = run("MSRVTT-QA", source)
    assert [row["video"] for row in rows] == ["video7010", "video7011", "video7012", "video7010"]
    assert rows[2]["video_path"] == str(source / "TestVideo/video7012.mp4")


@pytest.mark.parametrize("table", ["MSVD-QA", "MSRVTT-QA"])
def test_ids_that_repeat_are_refused(table, download):
    source = download(table)
    edit(source / "test_qa.json", lambda rows: [row.update(id=rows[0]["id"]) for row in rows[1:3]])
    error = refused(table, source)
    assert f"{source / 'test_qa.json'}: id '{37000 if table == 'MSVD-QA' else 171000}' occurs more than once (1 such)" in error


def test_ids_of_gifs_that_repeat_are_refused(download):
    source = download("TGIF-QA")
    path = source / "Test_frameqa_question.csv"
    path.write_text(path.read_text().replace("FRAMEQA1160", "FRAMEQA1159"))
    assert "vid_id 'FRAMEQA1159' occurs more than once" in refused("TGIF-QA", source)


def test_rows_are_numbered_where_none_has_an_id(download):
    source = download("MSRVTT-QA")
    edit(source / "test_qa.json", lambda rows: rows[2].pop("id"))
    assert "question 3 has no 'id', others have one" in refused("MSRVTT-QA", source)
    edit(source / "test_qa.json", lambda rows: [row.pop("id", None) for row in rows])
    _, rows = run("MSRVTT-QA", source)
    assert [row["index"] for row in rows] == ["0", "1", "2", "3"]


def test_tgif(download):
    source = download("TGIF-QA")
    _, rows = run("TGIF-QA", source)
    assert list(rows[0]) == ["index", "video", "video_path", "question", "answer", "split", "type"]
    assert [row["index"] for row in rows] == ["FRAMEQA1159", "FRAMEQA1160", "FRAMEQA1161"]
    assert rows[0]["video_path"] == str(source / "gifs/tumblr_no73q2fm0_250.gif")
    assert (rows[0]["question"], rows[0]["type"]) == ("what is the color of the square ?", "Color")


def test_tgif_as_its_repository_has_it(download):
    """The questions in `dataset`, the pictures elsewhere."""
    source = download("TGIF-QA")
    (source / "dataset").mkdir()
    (source / "Test_frameqa_question.csv").rename(source / "dataset/Test_frameqa_question.csv")
    _, rows = run("TGIF-QA", source)
    assert rows[0]["video_path"] == str(source / "gifs/tumblr_no73q2fm0_250.gif")


def test_activitynet(download):
    source = download("ActivityNet-QA")
    _, rows = run("ActivityNet-QA", source)
    assert [row["index"] for row in rows] == ["v_0QIUV7WYK-__3", "v_1QIUV7WYK-__3", "v_2QIUV7WYK-__3"]
    assert [row["answer"] for row in rows] == NAMES[:3]
    assert {row["question"] for row in rows} == {"what color is the square"}  # as published
    assert {(row["type"], row["split"]) for row in rows} == {("Color", "test")}
    assert rows[1]["video"] == "1QIUV7WYK-_"
    assert rows[1]["video_path"] == str(source / "all_test/v_1QIUV7WYK-_.mkv")


def test_types_have_names(download):
    """Digits that the official files do not explain stay as they are."""
    names = "Motion,Spatial Relationship,Temporal Relationship,Yes/No,Color,Object,Location,Number,Other".split(",")
    assert [type_of("ActivityNet-QA", str(digit)) for digit in range(10)] == [*names, "9"]
    assert [type_of("TGIF-QA", str(digit)) for digit in range(5)] == ["Object", "Number", "Color", "Location", "4"]
    assert [type_of("TGIF-QA", text) for text in ("", "-1", "color", "\u00b2")] == ["", "-1", "color", "\u00b2"]
    assert type_of("MSVD-QA", "1") == "1"
    source = download("ActivityNet-QA")
    edit(source / "test_a.json", lambda rows: [row.update(type=kind) for row, kind in zip(rows, (0, 9, None), strict=True)])
    _, rows = run("ActivityNet-QA", source)
    assert [row["type"] for row in rows] == ["", "9", "Motion"]


def test_activitynet_without_the_prefix(download):
    source = download("ActivityNet-QA")
    for path in (source / "all_test").iterdir():
        path.rename(path.with_name(path.name.removeprefix("v_")))
    _, rows = run("ActivityNet-QA", source)
    assert [Path(row["video_path"]).name for row in rows] == ["0QIUV7WYK-_.mp4", "1QIUV7WYK-_.mkv", "2QIUV7WYK-_.webm"]


def test_questions_and_answers_that_do_not_belong_together(download):
    source = download("ActivityNet-QA")
    edit(source / "test_a.json", lambda rows: rows[0].update(question_id="v_other_1"))
    error = refused("ActivityNet-QA", source)
    assert "1 of 3 questions have no answer (such as 'v_2QIUV7WYK-__3')" in error
    assert "1 of 3 answers have no question (such as 'v_other_1')" in error


@pytest.mark.parametrize("name", ["test_q.json", "test_a.json"])
def test_a_question_id_that_occurs_twice(name, download):
    source = download("MSVD-QA", "bundle")
    edit(source / name, lambda rows: rows.append(rows[2]))
    error = refused("MSVD-QA", source)
    assert name in error
    assert "question_id '502' occurs more than once" in error


def test_answers_that_were_not_downloaded(download):
    source = download("ActivityNet-QA")
    (source / "test_a.json").unlink()
    assert "lacks test_a.json" in refused("ActivityNet-QA", source)


# -- whole downloads -----------------------------------------------------------------------------------------------------------
def test_missing_and_cut_off_videos_are_all_listed(download, tmp_path):
    source = download("MSRVTT-QA")
    (source / "TestVideo/video7010.mp4").unlink()
    cut = source / "TestVideo/video7012.mp4"
    cut.write_bytes(cut.read_bytes()[:-200])
    error = refused("MSRVTT-QA", source)
    assert "2 of 3 videos are missing or damaged" in error
    listed = (tmp_path / "data/MSRVTT-QA.missing.txt").read_text().splitlines()
    assert [line.split("\t")[0] for line in listed] == [str(source / f"TestVideo/video{n}.mp4") for n in (7010, 7012)]
    _, rows = run("MSRVTT-QA", source, allow_missing=True)
    assert [row["index"] for row in rows] == ["171001"]


@pytest.mark.parametrize("suffix", [".mp4", ".avi", ".mov", ".mkv", ".webm", ".gif"])
def test_a_video_that_was_cut_off_is_found_in_every_container(suffix, download):
    source = download("TGIF-QA", "bundle")
    (clip,) = (source / "videos").glob(f"*{suffix}")
    clip.write_bytes(clip.read_bytes()[: clip.stat().st_size * 2 // 3])
    assert f"1 of 6 videos are missing or damaged, such as videos/{clip.name}" in refused("TGIF-QA", source)


@pytest.mark.parametrize("table", TABLES)
def test_another_folder(table, tmp_path):
    (tmp_path / "download/other").mkdir(parents=True)
    (tmp_path / "download/other/readme.txt").write_text("nothing")
    error = refused(table, tmp_path / "download/other")
    assert "lacks" in error
    assert "Expected there" in error
    assert len(error.replace(str(tmp_path / "download/other"), "/downloads")) <= 400


@pytest.mark.parametrize("table", TABLES)
def test_the_folder_above(table, download):
    source = download(table)
    _, rows = run(table, source.parent)
    assert len(rows) == ROWS[table]


def test_sets_side_by_side(tmp_path):
    """One folder with all bundles, as they are published: each table takes its own."""
    home = tmp_path / "download/GPT_Zero_Shot_QA"
    names = {table: table.replace("Net", "net").replace("-QA", "_Zero_Shot_QA") for table in OPEN}
    for table, name in names.items():
        official_videos.make(table, home / name, "bundle")
    for table, name in names.items():
        _, rows = run(table, home)
        assert rows[0]["video_path"] == str(home / name / "videos/000.mp4")


def test_the_official_form_goes_first(download):
    source = download("MSVD-QA")
    official_videos.make("MSVD-QA", source / "MSVD_Zero_Shot_QA", "bundle")
    _, rows = run("MSVD-QA", source)
    assert {row["split"] for row in rows} == {"test"}
    assert rows[0]["index"] == "37000"


def test_no_video_at_all(download):
    source = download("MSRVTT-QA")
    shutil.rmtree(source / "TestVideo")
    (source / "TestVideo.zip").write_bytes(b"PK")
    error = refused("MSRVTT-QA", source)
    assert "lacks TestVideo/*.mp4" in error
    assert "Unpack TestVideo.zip" in error
    source = download("TGIF-QA", "bundle")
    shutil.rmtree(source / "videos")
    assert "lacks videos/*.mp4" in refused("TGIF-QA", source)


def test_questions_of_another_set(tmp_path):
    """Bundles look all the same, so their folders' names are heeded."""
    source = official_videos.make("MSVD-QA", tmp_path / "download/MSVD_Zero_Shot_QA", "bundle")
    error = refused("MSRVTT-QA", source)
    assert "those of MSVD-QA by the folder's name" in error
    assert refused("MSRVTT-QA", source.parent) == error
    assert run("MSVD-QA", source)[0].rows == 6


def test_sets_side_by_side_under_names_that_say_nothing(tmp_path):
    home = tmp_path / "download/qa"
    official_videos.make("MSVD-QA", home / "one")
    official_videos.make("MSRVTT-QA", home / "two")
    error = refused("MSVD-QA", home)
    assert "several folders (one, two)" in error


@pytest.mark.parametrize(("table", "name"), [("MVBench", "json/action_count.json"), ("MSVD-QA", "test_qa.json")])
def test_questions_in_another_form(table, name, download):
    source = download(table)
    (source / name).write_text('{"info": []}', encoding="utf-8")
    assert f"{name} is not the official file" in refused(table, source)
    (source / name).write_text('[{"question": "what?", "video_id": 1302, "video": "x"}]', encoding="utf-8")
    assert "question 1 has no 'answer'" in refused(table, source)
