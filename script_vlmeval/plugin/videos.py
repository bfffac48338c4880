"""Video benchmarks: tables that `prepare` made, a video in each message, whose frames our own reader chooses.

VLMEvalKit's own classes for them look in the hub's cache, check every file or download, and cut frames into JPEGs; nothing of
that happens here. Its scorers, which need no such object, are asked beside ours.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .. import prompts, video
from ..benchmarks import Benchmark, plain, read_tsv
from ..benchmarks.folders import data_folder
from ..errors import UserError
from .host import host

SAMPLER: video.Sampler = "middle"  # of equal segments
_HOST_CLASSES = {"MVBench": "MVBench", "Video-MME": "VideoMME", "MLVU_MCQ": "MLVU_MCQ", "LongVideoBench": "LongVideoBench"}


def table_of(benchmark: Benchmark) -> Path:
    """The table's path. UserError saying how to make it where it is not there."""
    path = data_folder() / f"{benchmark.host}.tsv"
    if not path.is_file():
        made = f"`python run.py prepare {plain(benchmark).name} --source DIR` (docs/benchmarks.md says what to download)"
        raise UserError(f"There is no {path.name} in {path.parent}: make it from the official download with {made}.")
    return path


def rows_of(path: Path) -> list[dict[str, str]]:
    """Its rows. UserError for a table of another make, which has no absolute paths of videos."""
    rows = read_tsv(path, ("index", "question", "video"), "Make it with `python run.py prepare`.")
    if "video_path" not in rows[0] or not Path(rows[0]["video_path"]).is_absolute():
        raise UserError(
            f"{path} was not made by `python run.py prepare`: its videos have no absolute paths. Move it away, then make it."
        )
    return rows


def message(benchmark: Benchmark, row: dict[str, str], style: str) -> list[dict[str, str]]:
    """The question about a row's video in a style. ValueError where the video is not there."""
    if not Path(row["video_path"]).exists():
        raise ValueError(f"there is no video {row['video_path']}")
    frames, fps = str(benchmark.frames or ""), f"{benchmark.fps:g}" if benchmark.fps else ""
    return prompts.video_message(benchmark.host, row, style, frames, SAMPLER, fps)


def host_class(benchmark: Benchmark) -> Any:
    """The host's class that scores such a table; None where it has none."""
    name = _HOST_CLASSES.get(benchmark.host)
    return next((cls for cls in host().dataset.DATASET_CLASSES if cls.__name__ == name), None) if name else None
