"""Files to send in where the answers are not public: in the official format, beside the workbook."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..files import replacing
from ..scoring import normalise_vqa

Rows = Sequence[dict[str, str]]


@dataclass(frozen=True)
class Submission:
    """What is sent where. `content(rows, folder of the table)` -> JSON, of a list its entries one by one."""

    content: Callable[[Rows, Path], Mapping[str, str] | Iterator[Mapping[str, Any]]]
    where: str  # who scores it


def _vqav2(rows: Rows, data: Path) -> Iterator[dict[str, Any]]:
    """The server wants every question of the test list, test-dev or not: those that were not asked get an empty answer."""
    said = {row["index"]: normalise_vqa(row["prediction"]) for row in rows}
    every = data / "VQAv2_TESTDEV.all.txt"
    indices = every.read_text(encoding="utf-8").split() if every.is_file() else list(said)
    return ({"question_id": int(i), "answer": said.get(i, "")} for i in indices)


def _vizwiz(rows: Rows, data: Path) -> Iterator[dict[str, Any]]:
    return ({"image": Path(row["image_path"]).name, "answer": normalise_vqa(row["prediction"])} for row in rows)


def _mmvet(rows: Rows, data: Path) -> dict[str, str]:
    return {i if (i := row["index"]).startswith("v1_") else f"v1_{i}": row["prediction"] for row in rows}


SUBMISSIONS = {  # by the table's name
    "VQAv2_TESTDEV": Submission(_vqav2, "the VQA challenge's server on EvalAI"),
    "VizWiz_TEST": Submission(_vizwiz, "the VizWiz VQA challenge's server on EvalAI"),
    "MMVet": Submission(_mmvet, "the authors' evaluator of MM-Vet"),
}


def write_submission(submission: Submission, rows: Rows, data: Path, workbook: Path) -> Path:
    """`<stem>_submission.json`, in one step."""
    path = workbook.with_name(f"{workbook.stem}_submission.json")
    content = submission.content(rows, data)
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        if isinstance(content, Mapping):
            json.dump(content, file, ensure_ascii=False)
        else:
            file.write("[")
            for i, entry in enumerate(content):
                file.write(", " * bool(i) + json.dumps(entry, ensure_ascii=False))
            file.write("]")
    return path
