"""Miniature official downloads of the video benchmarks: the files and fields as published, tiny clips from real encoders.

Each clip shows a square of one colour, and the answer is that colour, or the option that names it.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import av  # here: its encoder of WebM fails where decord, which VLMEvalKit imports, was loaded before it
from data_factory import COLORS, NAMES
from PIL import Image

OPEN = ("TGIF-QA", "MSVD-QA", "MSRVTT-QA", "ActivityNet-QA")  # each also in the layout "bundle"
TABLES = ("MVBench", "Video-MME", "MLVU_MCQ", "MLVU_OpenEnded", "LongVideoBench", *OPEN)

WIDTH, HEIGHT, FRAMES, RATE = 64, 48, 12, 6
CODECS = {".mp4": "libx264", ".avi": "mpeg4", ".mkv": "mpeg4", ".mov": "libx264", ".webm": "libvpx"}

MVBENCH = {  # file of questions -> folder under video/, suffix ("" for a folder of frames), whether rows have start and end
    "action_sequence": ("star/Charades_v1_480", ".mp4", True),
    "action_prediction": ("star/Charades_v1_480", ".mp4", True),
    "action_antonym": ("ssv2_video", ".webm", False),
    "fine_grained_action": ("Moments_in_Time_Raw/videos", ".mp4", False),
    "unexpected_action": ("FunQA_test/test", ".mp4", False),
    "object_existence": ("clevrer/video_validation", ".mp4", False),
    "object_interaction": ("star/Charades_v1_480", ".mp4", True),
    "object_shuffle": ("perception/videos", ".mp4", False),
    "moving_direction": ("clevrer/video_validation", ".mp4", False),
    "action_localization": ("sta/sta_video", ".mp4", True),
    "scene_transition": ("scene_qa/video", ".mp4", False),
    "action_count": ("perception/videos", ".mp4", False),
    "moving_count": ("clevrer/video_validation", ".mp4", False),
    "moving_attribute": ("clevrer/video_validation", ".mp4", False),
    "state_change": ("perception/videos", ".mp4", False),
    "fine_grained_pose": ("nturgbd", ".avi", False),
    "character_order": ("perception/videos", ".mp4", False),
    "egocentric_navigation": ("vlnqa", ".mp4", False),
    "episodic_reasoning": ("tvqa/frames_fps3_hq", "", True),
    "counterfactual_inference": ("clevrer/video_validation", ".mp4", False),
}
MLVU = ("plotQA", "needle", "ego", "count", "order", "anomaly_reco", "topic_reasoning", "sub_scene", "summary")

Rows = Sequence[Mapping[str, Any]]


def make(table: str, folder: Path, layout: str = "official") -> Path:
    """Writes the download of a table into `folder` and returns it. layout: official, or for the four of OPEN bundle."""
    folder.mkdir(parents=True, exist_ok=True)
    if layout == "bundle":
        _bundle(table, folder)
    elif table.startswith("MLVU_"):
        _mlvu(folder)
    else:
        _MAKERS[table](folder)
    return folder


# -- clips ---------------------------------------------------------------------------------------------------------------------
def picture(color: str, step: int = 0) -> Image.Image:
    """A square on grey that walks to the right."""
    image = Image.new("RGB", (WIDTH, HEIGHT), (90, 90, 90))
    image.paste(COLORS[color], (6 + step, 8, 38 + step, 40))
    return image


@cache
def clip(suffix: str, color: str) -> bytes:
    """A file of FRAMES frames, RATE a second."""
    pictures = [picture(color, step) for step in range(FRAMES)]
    if suffix == ".gif":
        buffer = io.BytesIO()
        pictures[0].save(buffer, "GIF", save_all=True, append_images=pictures[1:], duration=1000 // RATE)
        return buffer.getvalue()
    return _encoded(suffix, pictures)


def _encoded(suffix: str, pictures: Sequence[Image.Image]) -> bytes:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format={".mkv": "matroska"}.get(suffix, suffix[1:])) as container:
        stream = container.add_stream(CODECS[suffix], rate=RATE)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for image in pictures:
            container.mux(stream.encode(av.VideoFrame.from_image(image)))
        container.mux(stream.encode())
    return buffer.getvalue()


def write_clip(path: Path, color: str) -> Path:
    """A clip in the format of the path's suffix; a folder of numbered pictures where it has none."""
    if path.suffix:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(clip(path.suffix, color))
        return path
    path.mkdir(parents=True, exist_ok=True)
    for step in range(FRAMES):
        picture(color, step).save(path / f"{step + 1:05d}.jpg")
    return path


def write_json(path: Path, value: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


# -- multiple choice -----------------------------------------------------------------------------------------------------------
def _mvbench(folder: Path) -> None:
    """Two questions about two clips of each task; what came in data0613.zip lies where the archive puts it."""
    for nth, (task, (place, suffix, bound)) in enumerate(MVBENCH.items()):
        top = "video/data0613" if place.startswith(("star", "clevrer")) else "video"
        rows = []
        for k in range(2):
            color, name = NAMES[(nth + k) % 4], f"{task}_{k}{suffix}"
            write_clip(folder / top / place / name, color)
            row = dict(video=name, question="What color is the square?", candidates=NAMES, answer=color)
            rows.append(row | (dict(start=0.5 * k, end=1.5) if bound else {}))
        write_json(folder / "json" / f"{task}.json", rows)


def _video_mme(folder: Path) -> None:
    """Three questions about each of two videos, one with subtitles."""
    import pyarrow
    import pyarrow.parquet

    rows = []
    for v, (name, duration) in enumerate([("fFjv93ACGo8", "short"), ("-N1cdUjctpG", "long")]):
        write_clip(folder / "video" / f"{name}.mp4", NAMES[v])
        for k in range(3):
            letter, options = "ABCD"[(v - k) % 4], NAMES[k:] + NAMES[:k]
            rows.append(
                dict(video_id=f"{v + 1:03d}", duration=duration, domain="Knowledge", sub_category="Humanity & History")
                | dict(url=f"https://www.youtube.com/watch?v={name}", videoID=name, question_id=f"{v + 1:03d}-{k + 1}")
                | dict(task_type="Attribute Perception", question="What color is the square?", answer=letter)
                | dict(options=[f"{a}. {text}" for a, text in zip("ABCD", options, strict=True)])
            )
    (folder / "subtitle").mkdir(exist_ok=True)
    (folder / "subtitle" / "fFjv93ACGo8.srt").write_text("1\n00:00:00,000 --> 00:00:01,500\nHere it is.\n", encoding="utf-8")
    (folder / "videomme").mkdir(exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "videomme" / "test-00000-of-00001.parquet")


def _mlvu(folder: Path) -> None:
    """Two questions of each of the nine tasks; the last two are open-ended."""
    for nth, task in enumerate(MLVU):
        rows: list[dict[str, Any]] = []
        for k in range(2):
            color, name = NAMES[(nth + k) % 4], f"{task}_{k}.mp4"
            write_clip(folder / "MLVU/video" / f"{nth + 1}_{task}" / name, color)
            row = dict(video=name, duration=480.5 + k, question="What color is the square?", question_type=task)
            if nth < 7:
                rows.append(row | dict(candidates=NAMES, answer=color))
            else:
                points = dict(scoring_points=["It is a square.", f"It is {color}."]) if task == "sub_scene" else {}
                rows.append(row | dict(answer=f"A {color} square moves to the right.") | points)
        write_json(folder / "MLVU/json" / f"{nth + 1}_{task}.json", rows)


def _long_video_bench(folder: Path) -> None:
    rows = []
    for i, (seconds, group) in enumerate([(12.5, 15), (35, 60), (500.25, 600)]):
        name = f"86CxyhFV9M{i}"
        write_clip(folder / "videos" / f"{name}.mp4", NAMES[i])
        write_json(folder / "subtitles" / f"{name}_en.json", [dict(start="00:00:00.000", end="00:00:01.500", line="Here it is.")])
        options = NAMES[1:] + NAMES[:1]
        rows.append(
            dict(video_id=name, question="In the video, what color is the square?", question_wo_referring_query="What color?")
            | dict(candidates=options, correct_choice=options.index(NAMES[i]), position=[3, 9], topic_category="KH-Art")
            | dict(question_category=("S2A", "T2O", "SSS")[i], level=("L1-Perception", "IntraMoment")[i % 2], id=f"{name}_{i}")
            | dict(video_path=f"{name}.mp4", subtitle_path=f"{name}_en.json", duration_group=group)
            | dict(starting_timestamp_for_subtitles=0, duration=seconds, view_count=1000 + i)
        )
    write_json(folder / "lvb_val.json", rows)


# -- open-ended ----------------------------------------------------------------------------------------------------------------
def _tgif(folder: Path) -> None:
    """Tab-separated, whatever its name says."""
    lines = ["gif_name question answer type vid_id key description".split()]
    for i, color in enumerate(NAMES[:3]):
        name = f"tumblr_no73q2fm{i}_250"
        write_clip(folder / "gifs" / f"{name}.gif", color)
        lines.append([name, "what is the color of the square ?", color, "2", f"FRAMEQA{1159 + i}", str(i), f"a {color} square ."])
    text = "".join("\t".join(cells) + "\n" for cells in lines)
    (folder / "Test_frameqa_question.csv").write_text(text, encoding="utf-8")


def _msvd(folder: Path) -> None:
    """Videos are numbered from 1301 on and found by a list of names."""
    names = ["-4wsuPCjDBc_5_15", "007", "mv89psg6zh4_33_46"]
    for color, name in zip(NAMES, names, strict=False):
        write_clip(folder / "YouTubeClips" / f"{name}.avi", color)
    mapping = "".join(f"{name} vid{1301 + i}\n" for i, name in enumerate(names))
    (folder / "youtube_mapping.txt").write_text(mapping, encoding="utf-8")
    write_json(folder / "test_qa.json", _numbered(37000, 1301, names))


def _msrvtt(folder: Path) -> None:
    names = [f"video{7010 + i}" for i in range(3)]
    for color, name in zip(NAMES, names, strict=False):
        write_clip(folder / "TestVideo" / f"{name}.mp4", color)
    write_json(folder / "test_qa.json", _numbered(171000, 7010, names))


def _numbered(first: int, video: int, names: Sequence[str]) -> Rows:
    """Rows of the two sets whose questions come from captions; one more about the first video."""
    rows = [
        dict(answer=NAMES[i % len(names)], id=first + i, question="what color is the square?", video_id=video + i % len(names))
        for i in range(len(names) + 1)
    ]
    return [row | dict(category_id=14) for row in rows] if video == 7010 else rows


def _activitynet(folder: Path) -> None:
    """Videos in three containers, as the download gives them; names without the prefix of the files."""
    questions, answers = [], []
    for i, suffix in enumerate((".mp4", ".mkv", ".webm")):
        name = f"{i}QIUV7WYK-_"
        write_clip(folder / "all_test" / f"v_{name}{suffix}", NAMES[i])
        questions.append(dict(video_name=name, question="what color is the square", question_id=f"v_{name}_3"))
        answers.append(dict(answer=NAMES[i], type=4, question_id=f"v_{name}_3"))
    write_json(folder / "test_q.json", questions)
    write_json(folder / "test_a.json", answers[::-1])  # matched by id, not by place


def _bundle(table: str, folder: Path) -> None:
    """The form that evaluation bundles give to all four; here every container that may occur, and ids that are numbers."""
    questions, answers = [], []
    for i, suffix in enumerate((".mp4", ".avi", ".mov", ".mkv", ".webm", ".gif")):
        name, color = f"{i:03d}", NAMES[i % 4]
        write_clip(folder / "videos" / f"{name}{suffix}", color)
        questions.append(dict(video_name=name, question="what color is the square?", question_id=500 + i))
        answers.append(dict(answer=color, question_id=500 + i))
    write_json(folder / "test_q.json", questions)
    write_json(folder / "test_a.json", answers)


_MAKERS = {
    "MVBench": _mvbench,
    "Video-MME": _video_mme,
    "LongVideoBench": _long_video_bench,
    "TGIF-QA": _tgif,
    "MSVD-QA": _msvd,
    "MSRVTT-QA": _msrvtt,
    "ActivityNet-QA": _activitynet,
}
