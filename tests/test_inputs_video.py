"""What a message says of its videos, and of who speaks: which frames are shown, what the prompt ends with, what counts as the
same sample."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from family_cases import VIDEO, runtime
from PIL import Image

from script_vlmeval import inputs
from script_vlmeval.backbones import BACKBONES
from script_vlmeval.errors import UserError
from script_vlmeval.recent import Recent
from script_vlmeval.video import memory

N = 24  # frames of the clip, each in a grey of its own
QWEN, ONEVISION, INTERN, TINY = (BACKBONES[name] for name in ("qwen2vl2b", "llavaov", "internvl3", "tiny"))
Part = dict[str, str]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder of frames: one a second where nothing is said."""
    folder = tmp_path_factory.mktemp("clip")
    for i in range(N):
        Image.fromarray(np.full((112, 140, 3), 10 * i, np.uint8)).save(folder / f"{i}.png")
    return str(folder)


def text(value: str, role: str = "") -> Part:
    return {"type": "text", "value": value} | ({"role": role} if role else {})


def asked(clip: str, **how: str) -> list[Part]:
    return [{"type": "video", "value": clip, **how}, text("What happens?")]


def read(message: list[Part], record=QWEN) -> inputs.Sample:
    return inputs.read(record, record.talk, message)


def greys(sample: inputs.Sample) -> list[int]:
    frames = sample.videos[0].frames if sample.videos else sample.images
    return [frame.getpixel((0, 0))[0] // 10 for frame in frames]


# -- which frames --------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("how", "frames"),
    [
        ({}, [0, 3, 6, 9, 13, 16, 19, 23]),  # of the model, end to end
        ({"frames": "", "sampler": "", "fps": "", "start": "", "end": "", "folder_fps": ""}, [0, 3, 6, 9, 13, 16, 19, 23]),
        ({"frames": "4", "sampler": "middle"}, [3, 9, 15, 21]),
        ({"frames": " 3 ", "sampler": "inner"}, [6, 12, 18]),
        ({"frames": "2", "start": "4", "end": "9.5"}, [4, 9]),
        ({"frames": "2", "sampler": "middle", "end": "5"}, [1, 4]),
        ({"fps": "0.25"}, [0, 4, 8, 12, 16, 20]),
        ({"fps": "1"}, list(range(N))),  # no limit but its own
        ({"fps": "1", "frames": "0"}, list(range(N))),
        ({"fps": "1", "frames": "3", "sampler": "middle"}, [4, 12, 20]),
        ({"frames": "4", "sampler": "middle", "folder_fps": "3", "start": "1", "end": "3.5"}, [4, 6, 8, 10]),
    ],
    ids=str,
)
def test_a_part_says_which_frames_are_shown(how: Part, frames: list[int], clip: str):
    sample = read(asked(clip, **how))
    assert greys(sample) == frames
    assert sample.frames == (len(frames),)


def test_frames_are_counted_also_where_they_are_shown_as_images(clip: str):
    message = [*asked(clip, frames="3"), *asked(clip, frames="99"), {"type": "image", "value": f"{clip}/0.png"}]
    for record in (QWEN, INTERN, TINY, ONEVISION):
        sample = read(message, record)
        assert sample.frames == (3, N)
        if not record.talk.video:
            assert len(sample.images) == 3 + N + 1
    assert read([text("hello")]).frames == ()


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ({"frames": "0"}, "whole number of 1 or more, not '0'"),
        ({"frames": "-1"}, "not '-1'"),
        ({"frames": "2.5"}, "not '2.5'"),
        ({"frames": "many", "fps": "1"}, "whole number of 0 or more, not 'many'"),
        ({"fps": "0"}, "fps is a number above 0, not '0'"),
        ({"fps": "nan"}, "not 'nan'"),
        ({"folder_fps": "-3"}, "folder_fps is a number above 0, not '-3'"),
        ({"start": "0:03"}, "start is a number, not '0:03'"),
        ({"end": "inf"}, "end is a number, not 'inf'"),
        ({"sampler": "outer"}, "one of ends, inner, middle, not 'outer'"),
        ({"start": "60"}, "no frame from 60 to its end"),
    ],
    ids=str,
)
def test_nonsense_is_an_error_of_that_row(how: Part, reason: str, clip: str):
    with pytest.raises(ValueError, match=reason) as raised:
        read(asked(clip, **how))
    assert clip in str(raised.value)
    assert not isinstance(raised.value, UserError)


# -- the digest ----------------------------------------------------------------------------------------------------------------
def test_the_digest_covers_which_frames_were_shown(clip: str):
    ways = [
        {},
        {"frames": "4"},
        {"frames": "4", "sampler": "middle"},
        {"frames": "4", "sampler": "inner"},
        {"frames": "4", "sampler": "middle", "start": "3"},
        {"frames": "4", "sampler": "middle", "end": "20"},
        {"fps": "0.25"},
        {"frames": "4", "folder_fps": "3"},
    ]
    found = [read(asked(clip, **how)).digest for how in ways]
    assert len(set(found)) == len(found)
    assert found == [read(asked(clip, **how)).digest for how in ways]
    assert read(asked(clip, frames="8", sampler="ends")).digest == found[0]


def test_the_digest_covers_how_the_answer_is_opened(clip: str):
    messages = [
        asked(clip),
        [*asked(clip), text("(", "assistant")],
        [*asked(clip), text("Best option:(", "assistant")],
        [*asked(clip), text("(")],
    ]
    assert len({read(message).digest for message in messages}) == 4


# -- the memory ----------------------------------------------------------------------------------------------------------------
def forget() -> None:
    memory._CLIPS, memory._DIGESTS = Recent(4), Recent(64)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths that are read from now on, with nothing remembered."""
    found: list[str] = []
    read = memory.read
    monkeypatch.setattr(memory, "read", lambda path, *given, **how: found.append(str(path)) or read(path, *given, **how))
    forget()
    return found


def folder(at: Path, greys: range) -> str:
    at.mkdir(exist_ok=True)
    for i in greys:
        Image.fromarray(np.full((112, 140, 3), 10 * i, np.uint8)).save(at / f"{i}.png")
    return str(at)


def test_questions_of_one_video_that_follow_each_other_read_it_once(clip: str, reads: list[str]):
    first = read([*asked(clip, frames="4")[:1], text("What happens?")])
    second = read([*asked(clip, frames="4")[:1], text("And then?")])
    assert reads == [clip]
    assert second.videos[0] is first.videos[0]
    assert first.digest != second.digest
    forget()
    assert read([*asked(clip, frames="4")[:1], text("And then?")]).digest == second.digest  # remembered or not
    assert len(reads) == 2


def test_each_way_of_reading_is_remembered_for_itself(clip: str, reads: list[str]):
    ways = [{"frames": "4"}, {"frames": "3"}, {"frames": "4", "sampler": "middle"}, {"frames": "4", "end": "9"}, {"fps": "0.5"}]
    ways += [{"frames": "4", "start": "2"}, {"frames": "4", "folder_fps": "3"}]
    shown = [greys(read(asked(clip, **how))) for how in ways]
    assert len(reads) == len(ways)
    for how, frames in zip(ways, shown, strict=True):
        forget()
        assert greys(read(asked(clip, **how))) == frames


def test_no_more_than_four_clips_are_held(clip: str, reads: list[str], tmp_path: Path):
    paths = [clip, *(folder(tmp_path / str(i), range(i, i + 3)) for i in range(4))]
    for path in (*paths[:4], *paths[:4], paths[4], paths[4], paths[0]):
        read(asked(path))
    assert reads == [*paths, paths[0]]


def test_a_video_that_was_changed_is_read_again(reads: list[str], tmp_path: Path):
    path = folder(tmp_path / "clip", range(4))
    first = read(asked(path))
    folder(tmp_path / "clip", range(4, 5))
    second = read(asked(path))
    assert (greys(first), greys(second)) == ([0, 1, 2, 3], [0, 1, 2, 3, 4])
    (tmp_path / "clip" / "0.png").write_bytes((tmp_path / "clip" / "4.png").read_bytes())
    os.utime(tmp_path / "clip" / "0.png", ns=(1, 1))  # another time of change, whatever the size
    third = read(asked(path))
    assert greys(third) == [4, 1, 2, 3, 4]
    assert len({first.digest, second.digest, third.digest}) == 3
    other = read(asked(folder(tmp_path / "other", range(4))))
    assert other.digest == first.digest  # the bytes count, not the place


def test_another_place_name_size_or_time_is_another_video(tmp_path: Path):
    paths = [Path(folder(tmp_path / name, range(3))) for name in "ab"]
    for file in (f for path in paths for f in path.iterdir()):
        os.utime(file, ns=(1, 1))
    link = tmp_path / "link"
    link.symlink_to(paths[0])
    first = memory._stamp(str(link))
    link.unlink()
    link.symlink_to(paths[1])
    second = memory._stamp(str(link))
    file = (paths[1] / "0.png").rename(paths[1] / "00.png")
    third = memory._stamp(str(link))
    os.utime(file, ns=(1, 2))
    fourth = memory._stamp(str(link))
    file.write_bytes(file.read_bytes() + b"more")
    os.utime(file, ns=(1, 2))
    assert len({first, second, third, fourth, memory._stamp(str(link))}) == 5


def test_a_video_that_cannot_be_read_is_not_remembered(reads: list[str], tmp_path: Path):
    path = str(tmp_path / "clip")
    with pytest.raises(ValueError, match="no such file"):
        read(asked(path))
    folder(tmp_path / "clip", range(3))
    assert greys(read(asked(path))) == [0, 1, 2]


@pytest.mark.parametrize("case", VIDEO)
def test_what_is_shared_is_not_written_into(case: str, clip: str):
    rt = runtime(case)
    message = asked(clip, frames="4")
    frames = read(message).videos[0].frames
    before = [frame.tobytes() for frame in frames]
    batches = [rt.prepare([message, message]).inputs for _ in range(2)]
    assert read(message).videos[0].frames is frames  # so it was these
    assert [frame.tobytes() for frame in frames] == before
    assert all(batches[0][name].equal(batches[1][name]) for name in batches[0])


# -- roles ---------------------------------------------------------------------------------------------------------------------
PUBLISHED = [name for name in BACKBONES if name != "tiny"]


@pytest.mark.parametrize("name", PUBLISHED)
def test_an_answer_is_opened_behind_the_whole_prompt(name: str, clip: str):
    record = BACKBONES[name]
    without = [text("Watch.\n", "system"), *asked(clip, frames="2"), text("\nChoose.", "user")]
    plain, opened = (read(m, record) for m in (without, [text("Best option:(", "assistant"), *without]))
    assert opened.prompt == plain.prompt + ("" if record.talk.prompt.endswith("\n") else " ") + "Best option:("
    assert opened.question == plain.question == "Watch.\n\nWhat happens?\n\nChoose."
    unmarked = [{key: value for key, value in part.items() if key != "role"} for part in without]
    assert read(unmarked, record).prompt == plain.prompt


@pytest.mark.parametrize(
    ("end", "openings", "expected"),
    [
        ("ASSISTANT:", ["Best option:("], "ASSISTANT: Best option:("),
        ("ASSISTANT:", [" Best option:("], "ASSISTANT: Best option:("),
        ("ASSISTANT: ", [" Best option:("], "ASSISTANT: Best option:("),
        ("assistant\n", ["Best option:("], "assistant\nBest option:("),
        ("ASSISTANT:", ["", " "], "ASSISTANT:"),
        ("ASSISTANT:", ["One {message}.", "Two:"], "ASSISTANT: One {message}.\nTwo:"),
    ],
)
def test_exactly_one_blank_stands_before_it(end: str, openings: list[str], expected: str):
    talk = replace(QWEN.talk, prompt="{message} " + end)
    message = [text("Why?"), *(text(o, "assistant") for o in openings)]
    assert inputs.read(QWEN, talk, message).prompt == f"Why? {expected}"


def test_a_model_that_is_asked_bare_questions_is_given_no_request_as_an_opening(clip: str):
    message = [*asked(clip, frames="1"), text("Best option:(", "assistant")]
    assert read(message, TINY).prompt == "<image>What happens?"


@pytest.mark.parametrize(
    ("part", "reason"),
    [
        (text("x", "tool"), "system, user or assistant, not 'tool'"),
        ({"type": "image", "value": "a.png", "role": "assistant"}, "opened by text, not by image"),
    ],
)
def test_roles_that_cannot_be(part: Part, reason: str):
    with pytest.raises(ValueError, match=reason):
        read([text("Why?"), part])


# -- batches -------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("case", [case for case in VIDEO if case != "internvl"])
def test_a_model_is_given_as_many_frames_as_were_asked_for(case: str, clip: str):
    rt = runtime(case)
    batch = rt.prepare([asked(clip, frames="6"), asked(clip, frames="6", sampler="middle", start="2", end="4")])
    assert [rt.read(asked(clip, frames="6", start="2", end="4")).frames, batch.inputs["input_ids"].shape[0]] == [(3,), 2]
    if case.startswith("qwen"):  # pairs of frames, and only those there are
        assert batch.inputs["video_grid_thw"][:, 0].tolist() == [3, 2]
    else:  # the shorter is filled up
        assert batch.inputs["pixel_values_videos"].shape[:2] == (2, 6)


@pytest.mark.parametrize("case", ["llava_next_video", "llava_onevision", "video_llava"])
def test_what_would_be_stacked_has_one_number_of_frames(case: str, clip: str):
    rt = runtime(case)
    with pytest.raises(ValueError, match=r"the same number of frames, not \[4, 6\]"):
        rt.prepare([asked(clip, frames="6"), asked(clip)])
    for how, shown in (({"fps": "0.25"}, 6), ({"fps": "0.25", "end": "11"}, 3)):
        assert rt.prepare([asked(clip, **how)]).inputs["pixel_values_videos"].shape[1] == shown


def test_frames_of_any_number_stand_together_in_qwen(clip: str):
    rt = runtime("qwen2_vl")
    batch = rt.prepare([asked(clip, frames="6"), asked(clip, fps="1", end="3"), asked(clip)])
    assert batch.inputs["video_grid_thw"][:, 0].tolist() == [3, 2, 2]


def test_a_file_says_what_cannot_be_read(tmp_path: Path):
    with pytest.raises(ValueError, match=r"none\.mp4: there is no such file"):
        read(asked(str(tmp_path / "none.mp4"), frames="4"))
