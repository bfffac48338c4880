"""How long choosing frames of a long video takes, against decoding all of it: `python benchmarks/video.py`.

A synthetic clip (H.264 with B-frames, a picture that moves and noise that does not compress away) is written twice, with a
keyframe every 250 frames, as encoders put them, and every 30, as video hosts do. Each is read around the chosen frames, and from
beginning to end, in alternation; the ratio is of medians of this one run, and the frames are checked to be the same. Where more
than half of a file would be decoded anyway, reading it is the whole pass, after a look at its packets.

    python benchmarks/video.py                  about half a minute
    python benchmarks/video.py --frames 30000   20 minutes of video
"""

from __future__ import annotations

import argparse
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import av
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from script_vlmeval import video
from script_vlmeval.video import seeking, whole
from script_vlmeval.video.packets import scan

RATE, WIDTH, HEIGHT = 25, 320, 180
GROUPS, CHOSEN = (250, 30), (8, 64)
T = TypeVar("T")


def write(path: Path, frames: int, group: int) -> None:
    """A clip whose keyframes are `group` frames apart."""
    noise = np.random.default_rng(0).integers(0, 255, (HEIGHT, 2 * WIDTH, 3), dtype=np.uint8)
    smooth = (np.add.outer(np.arange(HEIGHT), np.arange(2 * WIDTH)) % 256).astype(np.uint8)[..., None] // 2 + noise // 8
    options = {"preset": "ultrafast", "bf": "2", "sc_threshold": "0"}
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=RATE, options=options)
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = WIDTH, HEIGHT, "yuv420p", group
        for i in range(frames):
            at = i % WIDTH
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(smooth[:, at : at + WIDTH]), "rgb24")))
        container.mux(stream.encode())


def timed(work: Callable[[], T]) -> tuple[float, T]:
    start = time.perf_counter()
    found = work()
    return time.perf_counter() - start, found


def compare(path: Path, chosen: int, repeats: int) -> tuple[float, float, bool]:
    """(seconds of reading, seconds of the whole pass, whether reading decodes in part). SystemExit where the frames differ."""
    packets = scan(path)
    indices = video.chosen(len(packets.times), chosen, "middle")
    partly = seeking.decode(path, packets, indices) is not None
    reading, passing = [], []
    for _ in range(repeats):
        seconds, clip = timed(lambda: video.read(path, chosen, "middle"))
        reading.append(seconds)
        seconds, found = timed(lambda: whole.decode(path, indices, threads=True))
        passing.append(seconds)
        same = [f.tobytes() for f in clip.frames] == [f.tobytes() for f, _ in found.kept]
        if not same or clip.seconds != tuple(t for _, t in found.kept) or clip.total != len(found.times):
            raise SystemExit(f"{path.name}, {chosen} frames: reading and the whole pass differ")
    return statistics.median(reading), statistics.median(passing), partly


def main() -> None:
    p = argparse.ArgumentParser(description="Cost of choosing frames of a long video, against decoding all of it.")
    p.add_argument("--frames", type=int, default=7500, help="of each clip, 25 a second")
    p.add_argument("--repeats", type=int, default=3)
    args = p.parse_args()
    if args.frames <= max(CHOSEN) or args.repeats < 1:
        p.error(f"--frames is above {max(CHOSEN)} and --repeats 1 or more")
    print(f"{platform.machine()}, {platform.system()}; PyAV {av.__version__}; {args.frames} frames of {WIDTH}x{HEIGHT}")
    print(f"{'keyframe every':>14} {'chosen':>7} {'packets':>9} {'read':>9} {'whole':>9} {'ratio':>7}")
    with tempfile.TemporaryDirectory() as folder:
        for group in GROUPS:
            path = Path(folder) / f"every_{group}.mp4"
            write(path, args.frames, group)
            packets = statistics.median(timed(lambda file=path: scan(file))[0] for _ in range(args.repeats))
            for chosen in CHOSEN:
                read, passed, partly = compare(path, chosen, args.repeats)
                note = "" if partly else "  whole: more than half would be decoded"
                print(f"{group:>14} {chosen:>7} {packets:>7.2f} s {read:>7.2f} s {passed:>7.2f} s {passed / read:>7.1f}{note}")


if __name__ == "__main__":
    main()
