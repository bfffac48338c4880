"""Benchmarks that VLMEvalKit lacks, as classes of its own kind, over the tables that `prepare` makes: VQAv2, the test split of
VizWiz, and four open-ended video sets. Its runner finds them once `register()` was called; ours reads the image sets through
them. Imported after `host.host()` only."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from vlmeval.dataset.image_vqa import ImageVQADataset
from vlmeval.dataset.video_base import VideoBaseDataset
from vlmeval.smp import LMUDataRoot

from .. import prompts, video
from ..benchmarks import GROUPS, resolve
from ..scoring import RULES
from .scores import by_rule
from .submissions import SUBMISSIONS, write_submission
from .videos import SAMPLER, rows_of
from .workbook import answered_rows, read_text


def _table(name: str) -> Path:
    return Path(LMUDataRoot()) / f"{name}.tsv"


class _Prepared(ImageVQADataset):  # type: ignore[misc]
    """An image set whose table `prepare` made."""

    DATASET_URL: dict[str, str] = {}  # noqa: RUF012 - the host's attribute
    DATASET_MD5: dict[str, str] = {}  # noqa: RUF012

    def load_data(self, dataset: str) -> pd.DataFrame:
        if not _table(dataset).is_file():
            raise FileNotFoundError(f"{_table(dataset)}: make it with `run.py prepare {resolve(dataset).name} --source DIR`")
        return read_text(_table(dataset))


class VQAv2(_Prepared):
    """Open questions about COCO pictures, ten human answers each."""

    DATASET_URL: dict[str, str] = {"VQAv2_VAL": ""}  # noqa: RUF012


class Unanswered(_Prepared):
    """Test splits whose answers are the server's: scoring writes the file to send in."""

    DATASET_URL: dict[str, str] = {"VQAv2_TESTDEV": "", "VizWiz_TEST": ""}  # noqa: RUF012

    def evaluate(self, eval_file: str, **_: Any) -> pd.DataFrame:
        workbook, submission = Path(eval_file), SUBMISSIONS[self.dataset_name]
        path = write_submission(submission, answered_rows(workbook), Path(LMUDataRoot()), workbook)
        return pd.DataFrame([{"submission": str(path)}])


class OpenVideoQA(VideoBaseDataset):  # type: ignore[misc]
    """Open questions about videos, scored by exact match: TGIF-QA, MSVD-QA, MSRVTT-QA, ActivityNet-QA.

    Frames are the middles of equal segments, read through PyAV, so that GIF, AVI, WebM and MKV work.
    """

    TYPE = "Video-VQA"

    def __init__(self, dataset: str = "MSVD-QA", nframe: int | None = 8, fps: float | None = None, **_: Any) -> None:
        super().__init__(dataset=dataset, nframe=0 if fps and fps > 0 else nframe or 8, fps=fps if fps and fps > 0 else -1)
        self.data = read_text(Path(self.data_file))

    @classmethod
    def supported_datasets(cls) -> list[str]:
        return list(GROUPS["videoqa4"])

    def prepare_dataset(self, dataset: str) -> dict[str, str]:
        """The host's question after the data: where it lies. UserError where `prepare` did not make it."""
        path = _table(dataset)
        rows_of(path)
        return {"root": str(path.parent), "data_file": str(path)}

    def build_prompt(self, line: Any, video_llm: bool) -> list[dict[str, str]]:
        """The question about a row's video: the video itself for a model that reads one, else its frames as JPEG files."""
        row = {str(k): str(v) for k, v in (self.data.iloc[line] if isinstance(line, int) else line).items()}
        parts = prompts.video_message(self.dataset_name, row, prompts.default_style(self.dataset_name))
        if video_llm:
            return [{"type": part["type"], "value": part["value"]} for part in parts]
        frames = [{"type": "image", "value": path} for path in self._frames(row)]
        return [*frames, *({"type": "text", "value": part["value"]} for part in parts if part["type"] == "text")]

    def _frames(self, row: dict[str, str]) -> list[str]:
        folder = Path(self.frame_root, row["video"])
        folder.mkdir(parents=True, exist_ok=True)
        wanted = f"{self.fps:g}fps" if self.fps > 0 else f"{self.nframe}"
        if (done := sorted(folder.glob(f"{wanted}-*-of-*.jpg"))) and len(done) == int(done[0].stem.rpartition("-")[2]):
            return [str(path) for path in done]
        clip = video.read(row["video_path"], max(self.nframe, 0), SAMPLER, fps=self.fps if self.fps > 0 else None)
        paths = [folder / f"{wanted}-{i:04d}-of-{len(clip.frames)}.jpg" for i in range(1, len(clip.frames) + 1)]
        for frame, path in zip(clip.frames, paths, strict=True):
            partial_file = path.with_name(f".{path.name}.{os.getpid()}")
            frame.save(partial_file, "JPEG", quality=95)
            partial_file.replace(path)
        return [str(path) for path in paths]

    @classmethod
    def evaluate(cls, eval_file: str, **_: Any) -> pd.DataFrame:
        return pd.DataFrame([by_rule(RULES["videoqa"], Path(eval_file)).metrics])


def tolerant(factory: Callable[..., Any]) -> Callable[..., Any]:
    """A factory of a video set that ignores what it does not take: the host's runner hands every factory all its flags."""
    return factory if getattr(factory, "func", None) is _called else partial(_called, factory)


def _called(factory: Callable[..., Any], **flags: Any) -> Any:
    given = {name: flags[name] for name in ("nframe", "fps") if flags.get(name) is not None}
    return factory(**given)


SETS = (VQAv2, Unanswered)
VIDEO_SETS = (OpenVideoQA,)
