"""Video reading: exactly the frames that were asked for, from every container, and an error for a file that is not whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
from PIL import Image

from script_vlmeval import video
from script_vlmeval.errors import UserError
from script_vlmeval.video import file, seeking, whole
from script_vlmeval.video.packets import Packets, scan
from script_vlmeval.video.sampling import Wanted

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


def make(path: Path, n: int = 20, rotation: int = 0, steps: list[int] | None = None, b_frames: int = 0, **options: str) -> Path:
    """A clip of n numbered frames; steps: when each is shown, in tenths of a second."""
    codec, pixels = KINDS[path.suffix[1:]]
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream(codec, rate=RATE)
        stream.width, stream.height, stream.pix_fmt = BITS * SIDE, SIDE, pixels
        if b_frames:
            stream.codec_context.max_b_frames = b_frames
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
    assert video.chosen(10, 4, "middle") == [1, 3, 6, 8]  # 1.25, 3.75, 6.25, 8.75
    assert video.chosen(11, 2, "middle") == [2, 8]  # 2.75, 8.25
    assert video.chosen(9, 1, "middle") == [4]
    for total in range(30):
        for n in range(1, 32):
            for sampler in video.SAMPLERS:
                found = video.chosen(total, n, sampler)
                assert len(found) == min(total, n)
                assert found == sorted(set(found))
                assert all(0 <= i < total for i in found)


@pytest.mark.parametrize("sampler", video.SAMPLERS)
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


# -- a span, and frames a second -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("start", "end", "sampler", "frames"),  # 20 frames, 10 a second
    [
        (0.5, 1.2, "ends", [5, 7, 9, 12]),  # among 5..12: 0, 2.33, 4.67, 7
        (0.5, 1.2, "middle", [6, 8, 10, 12]),  # 1, 3, 5, 7
        (0.5, 1.2, "inner", [6, 8, 9, 11]),  # 1.6, 3.2, 4.8, 6.4
        (0.45, 1.25, "ends", [5, 7, 9, 12]),
        (1.6, None, "ends", [16, 17, 18, 19]),
        (1.65, 99, "middle", [17, 18, 19]),
        (None, 0.2, "ends", [0, 1, 2]),
        (-5, 0.1, "middle", [0, 1]),
        (0.7, 0.7, "middle", [7]),
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_only_frames_of_the_span(kind: str, start, end, sampler, frames, tmp_path: Path):
    clip = video.read(make(tmp_path / f"clip.{kind}"), 4, sampler, start=start, end=end)
    assert numbers(clip) == frames
    assert clip.seconds == pytest.approx([i / RATE for i in frames])
    assert clip.total == 20
    assert (clip.fps, clip.duration) == pytest.approx((RATE, 2.0))


@pytest.mark.parametrize(("start", "end"), [(2.1, 3.0), (1.2, 0.5), (0.11, 0.19), (None, -1.0), (float("nan"), 1.0)])
def test_a_span_without_frames_is_an_error(start, end, tmp_path: Path):
    with pytest.raises(ValueError, match=r"clip\.mp4: it has no frame from .* to .* seconds, and lasts 2\.0"):
        video.read(make(tmp_path / "clip.mp4"), 4, start=start, end=end)
    with pytest.raises(ValueError, match=r"from 5 to its end seconds, and lasts 4\.0"):
        video.read(folder(tmp_path / "frames"), 4, start=5, folder_fps=3)


def test_times_of_a_span_are_those_of_the_frames(tmp_path: Path):
    """Also where frames are unevenly far apart, and where the file does not begin at 0."""
    for first in (0, 50):
        path = make(tmp_path / f"{first}.mkv", n=6, steps=[first + t for t in (0, 1, 10, 15, 16, 40)])
        clip = video.read(path, 8, start=0.1, end=1.6)
        assert (numbers(clip), clip.total) == ([1, 2, 3, 4], 6)
        assert clip.seconds == pytest.approx([0.1, 1.0, 1.5, 1.6])


@pytest.mark.parametrize("part", [0.3, 0.8])
@pytest.mark.parametrize("kind", KINDS)
def test_a_span_does_not_hide_that_a_file_is_cut_off(kind: str, part: float, tmp_path: Path):
    path = make(tmp_path / f"clip.{kind}", n=40)
    assert numbers(video.read(path, 2, end=0.3)) == [0, 3]
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * part)])
    with pytest.raises(ValueError, match=rf"cannot read video .*clip\.{kind}"):
        video.read(path, 2, end=0.3)


@pytest.mark.parametrize(
    ("fps", "most", "frames"),  # 2 seconds, 10 frames a second
    [
        (1, None, [0, 10]),
        (2.5, None, [0, 4, 8, 12, 16]),
        (3, 0, [0, 3, 6, 10, 13, 16]),  # steps of 3.33
        (0.4, None, [0]),  # less than one frame, and yet one is shown
        (10, None, list(range(20))),
        (25, None, list(range(20))),  # none is repeated
        (3, 6, [0, 3, 6, 10, 13, 16]),
        (3, 4, [0, 6, 12, 19]),  # too many: as many as allowed, by the sampler
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_frames_a_second(kind: str, fps, most, frames, tmp_path: Path):
    assert numbers(video.read(make(tmp_path / f"clip.{kind}"), most, fps=fps)) == frames


def test_frames_a_second_of_a_span(tmp_path: Path):
    path = make(tmp_path / "clip.mp4")
    assert numbers(video.read(path, None, fps=4, start=0.5, end=1.4)) == [5, 7, 10, 12]  # one second, 5 to 14: 0, 2.5, 5, 7.5
    assert numbers(video.read(path, 2, "middle", fps=4, start=0.5, end=1.4)) == [7, 12]


def test_the_host_s_rule_of_frames_a_second():
    for total in range(5, 400, 13):
        for rate in (10.0, 24.0, 30000 / 1001):
            for fps in (0.5, 1.0, 3.0):
                theirs = [int(i * (rate / fps)) for i in range(int(total / rate * fps))]
                found = Wanted(0, "ends", fps).among([0.0] * total, rate)
                assert found == (theirs or [0])


@pytest.mark.parametrize("rate", [0, -1, float("nan"), float("inf")])
def test_rates_that_cannot_be(rate: float, tmp_path: Path):
    for given in ({"fps": rate}, {"folder_fps": rate}):
        with pytest.raises(UserError, match=rf"at {rate:g} a second"):
            video.read(tmp_path, 4, **given)


def test_neither_frames_nor_a_rate(tmp_path: Path):
    for none in (None, 0):
        with pytest.raises(UserError, match="ask for 1 or more"):
            video.read(tmp_path, none)


# -- headers -------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("how", [{}, {"start": 0.5, "end": 1.2}, {"fps": 3}, {"fps": 3, "end": 1.2}], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_decoded_once(kind: str, how: dict[str, float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path, calls, decode = make(tmp_path / f"clip.{kind}"), [], whole.decode
    monkeypatch.setattr(whole, "decode", lambda *given, **how: calls.append(given) or decode(*given, **how))
    video.read(path, 5, **how)
    assert len(calls) == 1


def test_times_that_packets_have_wrong_are_found_in_a_second_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path, calls, decode = make(tmp_path / "clip.mp4"), [], whole.decode
    monkeypatch.setattr(whole, "decode", lambda *given, **how: calls.append(how) or decode(*given, **how))
    for shift in (0.3, 100):  # as an edit list may shift them
        calls.clear()
        monkeypatch.setattr(file, "scan", lambda path, by=shift: Packets(0.0, [t + by for t in scan(path).times]))
        assert numbers(video.read(path, 3, start=0.5, end=1.2)) == [5, 8, 12]
        assert [how["threads"] for how in calls] == [True, False]


@pytest.mark.parametrize("kind", ["mp4", "mkv", "avi"])
def test_a_span_of_frames_that_are_stored_in_another_order(kind: str, tmp_path: Path):
    path = make(tmp_path / f"clip.{kind}", b_frames=2)
    with av.open(str(path)) as container:
        stored = [packet.dts if packet.pts is None else packet.pts for packet in container.demux(video=0) if packet.size]
    assert kind == "avi" or stored != sorted(stored)
    assert numbers(video.read(path, 4, start=0.5, end=1.2)) == [5, 7, 9, 12]


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
        assert numbers(video.read(path, 3, start=0.5, end=1.2)) == [5, 8, 12]


# -- long files ------------------------------------------------------------------------------------------------------------------
LONG, FAST = 400, 25  # frames, frames a second
X264 = {"preset": "ultrafast", "bf": "3", "b-pyramid": "none"}
OPEN = {"preset": "ultrafast", "x264-params": "open-gop=1:bframes=3:scenecut=0"}
X265 = {"preset": "ultrafast", "x265-params": "log-level=none:pools=1:bframes=3:open-gop=1:keyint=40"}
VPX = {"deadline": "realtime", "cpu-used": "8"}
SOUGHT = {  # name -> codec, frames between keyframes, options: files of which only a part is decoded
    "groups_of_10.mp4": ("libx264", 10, X264),
    "groups_of_40.mp4": ("libx264", 40, X264),
    "open.mp4": ("libx264", 40, OPEN),
    "open.mkv": ("libx264", 40, OPEN),
    "open.ts": ("libx264", 40, OPEN),
    "hevc.mp4": ("libx265", 40, X265),
    "clip.mov": ("mpeg4", 12, {}),
    "clip.avi": ("mpeg4", 12, {}),
    "b_frames.avi": ("mpeg4", 12, {"bf": "2"}),
    "vp8.webm": ("libvpx", 40, VPX),
    "vp9.webm": ("libvpx-vp9", 40, VPX),
}
WHOLE = {  # files that cannot be decoded but from their beginning, or may as well be
    "one_group.mp4": ("libx264", 10_000, X264),
    "wrong_times.avi": ("libx264", 40, X264),  # in the order they are stored, which is not that of the frames
    "fields.ts": ("mpeg2video", 12, {"bf": "2"}),
    "refresh.mkv": ("libx264", 40, {"preset": "ultrafast", "x264-params": "intra-refresh=1"}),
    "clip.gif": ("gif", 0, {}),
}
WAYS = [
    *(Wanted(3, sampler) for sampler in video.SAMPLERS),
    Wanted(4, "middle", None, 3.0, 7.2),
    Wanted(2, "ends", None, 12.0, None),
    Wanted(3, "inner", None, None, 2.5),
    Wanted(0, "ends", 0.25),
    Wanted(0, "ends", 1.0, 5.0, 9.0),
    Wanted(3, "ends", 25.0),
]
FEW = [Wanted(3, "ends"), Wanted(4, "middle", None, 3.0, 7.2), Wanted(0, "ends", 0.25)]  # of all, of a span, by a rate


ENCODED: dict[tuple[object, ...], bytes] = {}  # several tests begin with the same clip


def moving(path: Path, codec: str, gop: int, options: dict[str, str], steps: list[int] | None = None, turned: int = 0) -> Path:
    """A long clip in which every frame differs from every other."""
    if codec not in av.codecs_available:
        pytest.skip(f"this PyAV has no {codec}")
    known = (path.suffix, codec, gop, str(options), str(steps), turned)
    if known in ENCODED:
        path.write_bytes(ENCODED[known])
        return path
    noise = np.random.default_rng(0).integers(0, 255, (48, 64 + LONG, 3), dtype=np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=FAST, options=options)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "rgb8" if codec == "gif" else "yuv420p"
        if gop:
            stream.gop_size = gop
        if turned:
            stream.set_display_rotation(turned)
        container.start_encoding()
        for i in range(LONG):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(noise[:, i : i + 64]), "rgb24")
            frame = frame.reformat(format=stream.pix_fmt)
            frame.pts = i if steps is None else steps[i]
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    ENCODED[known] = path.read_bytes()
    return path


def plainly(path: Path) -> tuple[list[av.VideoFrame], list[float]]:
    """Every frame of a file, decoded one after the other, and its time."""
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    first = frames[0].time
    times = [i / FAST if frame.time is None else frame.time - first for i, frame in enumerate(frames)]
    return frames, times


def upright(frame: av.VideoFrame) -> bytes:
    return frame.to_image().rotate(frame.rotation, expand=True).tobytes()


def passes(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """An item for every pass over a whole file from now on."""
    calls: list[bool] = []
    decode = whole.decode
    monkeypatch.setattr(whole, "decode", lambda *given, threads: calls.append(threads) or decode(*given, threads=threads))
    return calls


def same_as_plainly(path: Path, ways: Sequence[Wanted] = WAYS) -> None:
    frames, times = plainly(path)
    for way in ways:
        clip = video.read(path, way.frames, way.sampler, fps=way.fps, start=way.start, end=way.end)
        expected = way.among(times, clip.fps)
        assert clip.seconds == tuple(times[i] for i in expected)
        assert [frame.tobytes() for frame in clip.frames] == [upright(frames[i]) for i in expected]
        assert clip.total == len(frames)


def same_as_whole(path: Path, way: Wanted) -> None:
    """Also in what is said of the file."""
    packets = scan(path)
    indices = way.among(packets.times, packets.rate)
    found, expected = seeking.decode(path, packets, indices), whole.decode(path, indices, threads=False)
    assert found is not None
    assert (found.times, found.fps, found.duration) == (expected.times, expected.fps, expected.duration)
    assert [(f.tobytes(), time) for f, time in found.kept] == [(f.tobytes(), time) for f, time in expected.kept]


@pytest.mark.parametrize("name", SOUGHT)
def test_a_long_file_is_decoded_around_the_chosen_frames(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path, calls = moving(tmp_path / name, *SOUGHT[name]), passes(monkeypatch)
    same_as_plainly(path, WAYS if name in ("groups_of_40.mp4", "open.mkv", "b_frames.avi") else FEW)
    assert not calls
    same_as_whole(path, WAYS[0])


@pytest.mark.parametrize("name", WHOLE)
def test_other_long_files_are_decoded_whole(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path, calls = moving(tmp_path / name, *WHOLE[name]), passes(monkeypatch)
    same_as_plainly(path, FEW)
    assert len(calls) >= len(FEW)


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv"])
def test_long_files_with_uneven_late_and_turned_frames(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    steps = (70 + np.cumsum(np.random.default_rng(1).integers(1, 4, LONG))).tolist()
    path, calls = moving(tmp_path / name, "libx264", 20, X264, steps, turned=90 * name.endswith("mp4")), passes(monkeypatch)
    same_as_plainly(path)
    assert len(calls) < len(WAYS)  # the widest gaps are looked behind, which may be half of a file
    same_as_whole(path, Wanted(2, "middle"))


def remuxed(source: Path, path: Path, dropped: range = range(0), earlier: float = 0.0) -> Path:
    """The packets of a file without some of them, and all of them so many seconds earlier."""
    with av.open(str(source)) as given, av.open(str(path), "w", options={"avoid_negative_ts": "disabled"}) as made:
        stream = given.streams.video[0]
        shift, copied = int(earlier / stream.time_base), made.add_stream_from_template(stream)
        for i, packet in enumerate(p for p in given.demux(stream) if p.size):
            if i not in dropped:
                packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
                packet.stream = copied
                made.mux(packet)
    return path


def test_an_edit_list_hides_frames_that_are_decoded_and_not_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    source = moving(tmp_path / "clip.mp4", *SOUGHT["open.mp4"])
    path, calls = remuxed(source, tmp_path / "edited.mp4", earlier=2.2), passes(monkeypatch)
    assert len(plainly(path)[0]) == LONG - 55
    same_as_plainly(path, FEW)
    assert not calls


@pytest.mark.parametrize("cut", [0, 5])
def test_a_file_that_begins_with_frames_that_cannot_be_made(cut: int, tmp_path: Path):
    """At an open group, whose first frames need those of the group before, or in the middle of a group."""
    source = moving(tmp_path / "clip.mp4", *SOUGHT["open.mp4"])
    with av.open(str(source)) as container:
        keys = [i for i, packet in enumerate(container.demux(video=0)) if packet.is_keyframe]
    dropped = range(keys[1] + cut)
    path = remuxed(source, tmp_path / "late.mkv", dropped)  # in mp4, an edit list would hide them
    frames, times = plainly(path)
    assert len(frames) < LONG - len(dropped)
    assert scan(path).order == ()
    clip = video.read(path, 3, "middle")
    assert [f.tobytes() for f in clip.frames] == [upright(frames[i]) for i in video.chosen(len(frames), 3, "middle")]
    assert clip.seconds == tuple(times[i] for i in video.chosen(len(frames), 3, "middle"))


def test_a_packet_that_is_not_shown_is_no_frame(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """VP8 has such: pictures that others are made from. Here, one bit makes one."""
    path, calls = moving(tmp_path / "clip.webm", "libvpx", 40, VPX), passes(monkeypatch)
    with av.open(str(path)) as container:
        hidden = [bytes(p) for p in container.demux(video=0) if p.size][130]
    path.write_bytes(path.read_bytes().replace(hidden, bytes([hidden[0] & ~0x10]) + hidden[1:]))
    assert len(plainly(path)[0]) == LONG - 1
    same_as_plainly(path, FEW)
    assert not calls


def test_pictures_of_mpeg_4_that_may_be_empty_are_decoded_to_know(tmp_path: Path):
    path = tmp_path / "still.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=FAST)
        stream.width, stream.height = 16, 16
        for _ in range(LONG):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8), "rgb24")))
        container.mux(stream.encode())
    packets = scan(path)
    assert (len(packets.times), packets.order) == (LONG, ())
    assert video.read(path, 2).total == LONG


def lying(path: Path, how: str) -> Packets:
    """What packets might say wrongly of a file."""
    packets = scan(path)
    order = list(packets.order)
    if how == "time":
        order[5] = order[5]._replace(pts=order[5].pts + 1)
    if how == "duration":
        order[5] = order[5]._replace(duration=order[5].duration + 1)
    if how == "one more":
        order.insert(5, order[5]._replace(pts=order[5].pts - 1))
    keys = packets.keys
    if how == "keyframes":  # frame 5 of each group, of which nothing says that it can be begun with
        keys = (keys[0], *(order[i + 5] for i in range(40, LONG, 40)))
    return replace(packets, order=tuple(order), keys=keys)


@pytest.mark.parametrize("how", ["time", "duration", "one more", "keyframes"])
def test_packets_that_say_what_is_not_are_found_out(how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path, calls = moving(tmp_path / "clip.mp4", *SOUGHT["groups_of_40.mp4"]), passes(monkeypatch)
    assert seeking.decode(path, lying(path, ""), [LONG // 2]) is not None
    assert seeking.decode(path, lying(path, how), [LONG // 2]) is None
    monkeypatch.setattr(file, "scan", lambda path: lying(path, how))
    same_as_plainly(path, FEW)
    assert len(calls) == len(FEW)


def test_frames_that_would_be_turned_differently_are_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A file may say it once, at its beginning, in a packet that is never read again."""
    path, frames = moving(tmp_path / "clip.mp4", *SOUGHT["groups_of_40.mp4"]), seeking._frames

    def turned(*given):
        for index, frame in frames(*given):
            yield index, SimpleNamespace(rotation=90 * (index < 100), to_image=frame.to_image)

    assert seeking.decode(path, scan(path), [200]) is not None
    monkeypatch.setattr(seeking, "_frames", turned)
    assert seeking.decode(path, scan(path), [200]) is None


def test_no_more_is_decoded_than_the_groups_of_the_chosen_frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path, seen, frames = moving(tmp_path / "clip.mp4", *SOUGHT["groups_of_40.mp4"]), [], seeking._frames

    def counted(*given):
        for index, frame in frames(*given):
            seen.append(index)
            yield index, frame

    monkeypatch.setattr(seeking, "_frames", counted)
    video.read(path, 3, "middle")  # 66, 200, 333
    assert seen == [*range(17), *range(40, 67), *range(200, 201), *range(320, 334), *range(360, 400)]
    seen.clear()
    video.read(path, 2, start=9.0, end=9.8)  # 225 and 245: a group of their own, and 20 frames on
    assert seen == [*range(17), *range(200, 246), *range(360, 400)]


def test_more_than_half_is_as_quickly_decoded_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path, calls = moving(tmp_path / "clip.mp4", *SOUGHT["groups_of_40.mp4"]), passes(monkeypatch)
    frames, _ = plainly(path)
    clip = video.read(path, 30)
    assert [f.tobytes() for f in clip.frames] == [upright(frames[i]) for i in video.chosen(LONG, 30)]
    assert calls == [True]


# What is wrong with a long file, where: of its packets, those that are written over.
@pytest.mark.parametrize("kind", ["mp4", "mkv"])
@pytest.mark.parametrize(
    ("packets", "filling"),
    [(range(398, 400), b"\xff"), (range(2, 4), b"\xff"), (range(150, 152), b"\0"), (range(200, 202), b"\xff")],
)
def test_damage_in_a_long_file(kind: str, packets: range, filling: bytes, tmp_path: Path):
    """At either end, in a group that is decoded, and wherever nothing at all was written."""
    path = moving(tmp_path / f"clip.{kind}", *SOUGHT["groups_of_40.mp4"])
    with av.open(str(path)) as container:
        stored = [bytes(p) for p in container.demux(video=0) if p.size]
    data = path.read_bytes()
    for i in packets:
        data = data.replace(stored[i], filling * len(stored[i]))
    path.write_bytes(data)
    with pytest.raises(ValueError, match=rf"cannot read video .*clip\.{kind}"):
        video.read(path, 1, "middle")  # 200


def test_damage_that_a_decoder_covers_up_is_left_to_the_whole_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path, calls = moving(tmp_path / "clip.mp4", *SOUGHT["groups_of_40.mp4"]), passes(monkeypatch)
    with av.open(str(path)) as container:
        stored = [bytes(p) for p in container.demux(video=0) if p.size][205]
    data, half = path.read_bytes(), len(stored) // 2
    path.write_bytes(data.replace(stored, stored[:half] + bytes(b ^ 0x55 for b in stored[half:])))
    assert video.read(path, 1, "middle", start=8.2, end=8.8).total == LONG
    assert calls == [True]


def test_damage_that_packets_say_is_not_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path, calls = moving(tmp_path / "clip.ts", *SOUGHT["open.ts"]), passes(monkeypatch)
    data = bytearray(path.read_bytes())
    at = len(data) // 2
    data[at : at + 3000] = bytes(3000)
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"clip\.ts: it is cut off or damaged"):
        video.read(path, 1, "ends")
    assert not calls


def test_lost_packets_leave_a_gap_that_is_looked_behind(tmp_path: Path):
    """Frames behind the gap are made from lost ones: they are missing, or wrong, also for a plain decoder."""
    path = remuxed(moving(tmp_path / "clip.mp4", *SOUGHT["groups_of_40.mp4"]), tmp_path / "lost.mkv", range(125, 140))
    packets = scan(path)
    assert packets.order
    assert seeking.decode(path, packets, [300]) is None


@pytest.mark.parametrize("kind", ["mp4", "mkv", "mov"])
def test_a_long_file_that_was_cut_off(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path, calls = moving(tmp_path / f"clip.{kind}", *SOUGHT["groups_of_40.mp4"]), passes(monkeypatch)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 4 // 5])
    with pytest.raises(ValueError, match=rf"cannot read video .*clip\.{kind}"):
        video.read(path, 3, end=4.0)
    assert not calls  # which its packets say


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
    with pytest.raises(UserError, match="'ends', 'inner' or 'middle', not 'outer'"):
        video.read(tmp_path, 4, "outer")


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


def test_a_folder_of_three_frames_a_second(tmp_path: Path):
    at = folder(tmp_path / "frames")
    clip = video.read(at, 3, "middle", start=1, end=2.4, folder_fps=3)
    assert numbers(clip) == [3, 5, 7]  # of 3..7: 0.83, 2.5, 4.17
    assert clip.seconds == pytest.approx([1, 5 / 3, 7 / 3])
    assert (clip.total, clip.fps, clip.duration) == (12, 3.0, 4.0)
    assert numbers(video.read(at, None, fps=1, folder_fps=3)) == [0, 3, 6, 9]
    assert numbers(video.read(at, 3, "middle", start=1, end=2.4)) == [1, 2]


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
