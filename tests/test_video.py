"""Video reading: exactly the frames that were asked for, from every container, and an error for a file that is not whole."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from script_vlmeval import video
from script_vlmeval.errors import UserError

BITS, SIDE, RATE = 6, 16, 10
KINDS = {  # container -> codec, pixel format
    "mp4": ("mpeg4", "yuv420p"),
    "mov": ("mpeg4", "yuv420p"),
    "avi": ("mpeg4", "yuv420p"),
    "mkv": ("mpeg4", "yuv420p"),
    "webm": ("libvpx", "yuv420p"),
    "gif": ("gif", "rgb8"),
}


def drawn(number: int) -> np.ndarray:
    """A picture that says its number in black and white squares, lowest bit on the left: no codec loses that."""
    bits = [(number >> b & 1) * 255 for b in range(BITS)]
    return np.repeat(np.repeat(np.array([bits], np.uint8), SIDE, 0), SIDE, 1)[..., None].repeat(3, -1)


def number(picture: Image.Image) -> int:
    assert picture.mode == "RGB"
    middle = np.asarray(picture)[SIDE // 2, SIDE // 2 :: SIDE, 0]
    return sum(int(v > 127) << b for b, v in enumerate(middle))


def numbers(clip: video.Clip) -> list[int]:
    return [number(f) for f in clip.frames]


def make(path: Path, n: int = 20, rotation: int = 0, steps: list[int] | None = None, **options: str) -> Path:
    """A clip of n numbered frames; steps: when each is shown, in tenths of a second."""
    codec, pixels = KINDS[path.suffix[1:]]
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream(codec, rate=RATE)
        stream.width, stream.height, stream.pix_fmt = BITS * SIDE, SIDE, pixels
        if rotation:
            stream.set_display_rotation(rotation)
        container.start_encoding()
        for i in range(n):
            frame = av.VideoFrame.from_ndarray(drawn(i), "rgb24").reformat(format=pixels)
            frame.pts = i if steps is None else steps[i]
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


# -- which frames --------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("sampler", ["ends", "inner"])
def test_rules_of_the_loaders(sampler):
    for total in range(9, 200, 7):
        for n in (1, 2, 4, 8):
            theirs = (
                np.linspace(0, total - 1, n, dtype=int).tolist()
                if sampler == "ends"
                else [int(i * (total / (n + 1))) for i in range(1, n + 1)]
            )
            assert video.chosen(total, n, sampler) == theirs


def test_samplers_differ_and_never_repeat():
    assert video.chosen(10, 4) == [0, 3, 6, 9]
    assert video.chosen(10, 4, "inner") == [2, 4, 6, 8]
    for total in range(30):
        for n in range(1, 32):
            for sampler in ("ends", "inner"):
                found = video.chosen(total, n, sampler)
                assert len(found) == min(total, n)
                assert found == sorted(set(found))
                assert all(0 <= i < total for i in found)


@pytest.mark.parametrize("sampler", ["ends", "inner"])
@pytest.mark.parametrize("kind", KINDS)
def test_exactly_the_chosen_frames(kind: str, sampler, tmp_path: Path):
    path = make(tmp_path / f"clip.{kind}")
    for n in (1, 5, 7):
        clip = video.read(path, n, sampler)
        assert numbers(clip) == video.chosen(20, n, sampler)
        assert clip.seconds == pytest.approx([i / RATE for i in video.chosen(20, n, sampler)])
        assert (clip.total, clip.size) == (20, (BITS * SIDE, SIDE))
        assert (clip.fps, clip.duration) == pytest.approx((RATE, 2.0))


@pytest.mark.parametrize("kind", KINDS)
def test_a_short_clip_is_shown_once(kind: str, tmp_path: Path):
    path = make(tmp_path / f"clip.{kind}", n=3)
    assert numbers(video.read(path, 8)) == numbers(video.read(path, 8, "inner")) == [0, 1, 2]


def test_seconds_are_those_of_the_file(tmp_path: Path):
    clip = video.read(make(tmp_path / "clip.mkv", n=4, steps=[0, 1, 10, 15]), 4)
    assert clip.seconds == pytest.approx([0, 0.1, 1.0, 1.5])
    later = video.read(make(tmp_path / "later.mkv", n=4, steps=[50, 51, 60, 65]), 4)
    assert later.seconds == pytest.approx(clip.seconds)


def test_reading_again_gives_the_same(tmp_path: Path):
    path = make(tmp_path / "clip.mp4")
    first, second = video.read(str(path), 6), video.read(path, 6)
    assert [f.tobytes() for f in first.frames] == [f.tobytes() for f in second.frames]
    assert (first.seconds, first.duration) == (second.seconds, second.duration)


@pytest.mark.parametrize("degrees", [90, -90, 180])
def test_turned_upright(degrees: int, tmp_path: Path):
    clip = video.read(make(tmp_path / "clip.mp4", n=12, rotation=degrees), 3)
    assert clip.size == ((SIDE, BITS * SIDE) if abs(degrees) == 90 else (BITS * SIDE, SIDE))
    assert [number(f.rotate(-degrees, expand=True)) for f in clip.frames] == [0, 5, 11]


# -- headers -------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("kind", "passes"), [("mp4", 1), ("gif", 1), ("mkv", 1)])
def test_decoded_once(kind: str, passes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path, calls, decode = make(tmp_path / f"clip.{kind}"), [], video._decode
    monkeypatch.setattr(video, "_decode", lambda *given, **how: calls.append(given) or decode(*given, **how))
    video.read(path, 5)
    assert len(calls) == passes


@pytest.mark.parametrize("stated", [0, 6, 2000])
def test_a_header_with_another_number_of_frames(stated: int, tmp_path: Path):
    """The count in an AVI's header; the index and the frames are untouched."""
    path = make(tmp_path / "clip.avi")
    data = bytearray(path.read_bytes())
    for at in (data.index(b"avih") + 8 + 16, data.index(b"strh") + 8 + 32):
        data[at : at + 4] = stated.to_bytes(4, "little")
    path.write_bytes(data)
    if stated > 20:  # not to be told from a file that was cut off
        with pytest.raises(ValueError, match=r"clip\.avi.*ends after 2\.0 of 200\.0 seconds"):
            video.read(path, 4)
    else:
        clip = video.read(path, 4)
        assert (numbers(clip), clip.total) == (video.chosen(20, 4), 20)


# -- what cannot be read ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("part", [0.0, 0.3, 0.8])
def test_cut_off(kind: str, part: float, tmp_path: Path):
    path = make(tmp_path / f"clip.{kind}", n=40)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * part)])
    with pytest.raises(ValueError, match=rf"cannot read video .*clip\.{kind}"):
        video.read(path, 4)


def test_cut_off_behind_its_index(tmp_path: Path):
    """A file made for streaming begins with its index, so it can be opened however little of it is there."""
    path = make(tmp_path / "clip.mp4", n=40, movflags="faststart")
    data = path.read_bytes()
    assert video.read(path, 2).total == 40
    for missing in (len(data) // 10, 40, 3):  # frames, or a piece of the last one
        path.write_bytes(data[:-missing])
        with pytest.raises(ValueError, match=r"clip\.mp4"):
            video.read(path, 2)


@pytest.mark.parametrize("kind", ["mkv", "avi", "mp4"])
def test_a_damaged_frame(kind: str, tmp_path: Path):
    """The last packet is there, and holds nothing that can be decoded: an error, however many threads are at work."""
    path = make(tmp_path / f"clip.{kind}", n=24)
    with av.open(str(path)) as container:
        *_, last = (bytes(packet) for packet in container.demux(video=0) if packet.size)
    data = path.read_bytes()
    at = data.rindex(last)
    path.write_bytes(data[:at] + b"\xff" * len(last) + data[at + len(last) :])
    with pytest.raises(ValueError, match=rf"clip\.{kind}"):
        video.read(path, 4)


def test_no_such_file(tmp_path: Path):
    with pytest.raises(ValueError, match=r"none\.mp4: there is no such file"):
        video.read(tmp_path / "none.mp4", 4)


def test_no_picture_in_it(tmp_path: Path):
    path = tmp_path / "sound.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        sound.rate = 8000
        container.mux(stream.encode(sound))
        container.mux(stream.encode())
    with pytest.raises(ValueError, match=r"sound\.mkv: it has no video stream"):
        video.read(path, 4)


@pytest.mark.parametrize("kind", ["mp4", "avi", "mkv"])
def test_zero_frames(kind: str, tmp_path: Path):
    path = make(tmp_path / f"clip.{kind}", n=0)
    with pytest.raises(ValueError, match=rf"clip\.{kind}: {'it has no frames' if kind == 'avi' else ''}"):
        video.read(path, 4)


@pytest.mark.parametrize(
    "content",
    [b"a line of text\n" * 50, b"#EXTM3U\n#EXTINF:1,\nclip.mp4\n#EXT-X-ENDLIST\n", b"ffconcat version 1.0\nfile clip.mp4\n"],
)
def test_only_videos_are_played(content: bytes, tmp_path: Path):
    """FFmpeg would draw the text, and follow the list to the other file."""
    make(tmp_path / "clip.mp4", n=3)
    path = tmp_path / "other.mp4"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"other\.mp4"):
        video.read(path, 4)


@pytest.mark.parametrize("frames", [0, -1])
def test_no_frames_wanted(frames: int, tmp_path: Path):
    with pytest.raises(UserError, match="ask for 1 or more"):
        video.read(tmp_path, frames)


def test_unknown_sampler(tmp_path: Path):
    with pytest.raises(UserError, match="'ends' or 'inner', not 'middle'"):
        video.read(tmp_path, 4, "middle")


# -- folders -------------------------------------------------------------------------------------------------------------------
def folder(at: Path, n: int = 12) -> Path:
    at.mkdir()
    for i in range(n):
        Image.fromarray(drawn(i)).save(at / f"frame{i}.{'png' if i % 2 else 'JPG'}", "png" if i % 2 else "jpeg")
    return at


def test_a_folder_in_natural_order(tmp_path: Path):
    at = folder(tmp_path / "frames")
    for other in ("notes.txt", ".frame5.png", "Thumbs.db"):
        (at / other).write_text("not a picture")
    clip = video.read(at, 4)
    assert numbers(clip) == [0, 3, 7, 11]
    assert clip.seconds == (0, 3, 7, 11)
    assert (clip.total, clip.fps, clip.duration, clip.size) == (12, 1.0, 12.0, (BITS * SIDE, SIDE))
    assert numbers(video.read(at, 99, "inner")) == list(range(12))


def test_a_picture_is_turned_upright(tmp_path: Path):
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: a quarter to the right
    Image.fromarray(drawn(5)).save(tmp_path / "0.jpg", exif=exif)
    clip = video.read(tmp_path, 1)
    assert clip.size == (SIDE, BITS * SIDE)
    assert number(clip.frames[0].rotate(90, expand=True)) == 5


def test_a_folder_without_pictures(tmp_path: Path):
    with pytest.raises(ValueError, match="no jpg or png"):
        video.read(tmp_path, 4)


def test_a_broken_picture_is_named(tmp_path: Path):
    at = folder(tmp_path / "frames")
    file = at / "frame11.png"
    file.write_bytes(file.read_bytes()[:50])
    with pytest.raises(ValueError, match=r"frame11\.png"):
        video.read(at, 4)
    assert numbers(video.read(at, 4, "inner")) == [2, 4, 7, 9]
