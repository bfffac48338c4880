"""Questions about pictures that are answered by reading or at length: DocVQA, OCRBench and MM-Vet.

DocVQA and OCRBench are also found as parquet files, with the pictures inside: these become files.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import UserError
from .folder import Folder, pick
from .pictures import name_of
from .recipe import IMAGE, Recipe, Row


def _listed(answers: Any) -> str:
    """References as a Python list: some entries have a single text, or a number."""
    return str([str(answer) for answer in (answers if isinstance(answers, list) else [answers])])


# -- DocVQA --------------------------------------------------------------------------------------------------------------------
def _docvqa(folder: Folder) -> Iterator[Row]:
    names = ("val_v1.0_withQT.json", "val_v1.0.json", "spdocvqa_qas/val_v1.0_withQT.json", "val/val_v1.0.json")
    shards = _shards(folder, names, "validation-*.parquet", "DocVQA/validation-*.parquet", "data/validation-*.parquet")
    if shards:
        folder.total = sum(map(folder.count, shards))
        yield from (_docvqa_row(entry, _kept(folder, entry, "questionId")) for shard in shards for entry in folder.parquet(shard))
        return
    asked = folder.find(*names)
    pictures = folder.find("documents", "spdocvqa_images", "val/documents", "images")
    questions = folder.entries(asked, "data")
    folder.total = len(questions)
    for entry in questions:
        yield _docvqa_row(entry, pick(pictures / Path(entry["image"]).name, pictures.parent / entry["image"]))


def _docvqa_row(entry: dict[str, Any], picture: Path) -> Row:
    row = dict(index=str(entry["questionId"]), image_path=str(picture), question=str(entry["question"]))
    kinds = entry.get("question_types")
    return row | dict(answer=_listed(entry["answers"]), question_types=str(list(kinds)) if kinds else "")


# -- OCRBench ------------------------------------------------------------------------------------------------------------------
def _ocrbench(folder: Folder) -> Iterator[Row]:
    """FullTest.json, which may lie there too, is another set."""
    names = ("OCRBench.json", "OCRBench/OCRBench.json", "OCRBench/json_files/OCRBench.json", "json_files/OCRBench.json")
    shards = _shards(folder, names, "data/test-*.parquet", "test-*.parquet")
    if shards:
        folder.total = sum(map(folder.count, shards))
        found = (entry for shard in shards for entry in folder.parquet(shard))
        for index, entry in enumerate(found):
            picture = _kept(folder, entry | {"index": index}, "index")
            yield _ocrbench_row(index, entry["question"], entry["answer"], entry["question_type"], entry["dataset"], picture)
        return
    asked = folder.find(*names)
    pictures = folder.find("OCRBench_Images", "OCRBench/OCRBench_Images", "images", "Images")
    questions = folder.entries(asked)
    folder.total = len(questions)
    for index, entry in enumerate(questions):
        picture = pick(pictures / entry["image_path"], pictures.parent / entry["image_path"])
        yield _ocrbench_row(index, entry["question"], entry["answers"], entry["type"], entry["dataset_name"], picture)


def _ocrbench_row(index: int, question: str, answers: Any, kind: str, dataset: str, picture: Path) -> Row:
    row = dict(index=str(index), image_path=str(picture), question=question, answer=_listed(answers))
    return row | dict(category=kind, dataset_name=dataset)


# -- MM-Vet --------------------------------------------------------------------------------------------------------------------
def _mmvet(folder: Folder) -> Iterator[Row]:
    """The index is the number of the official id, v1_0, which stands in a column of its own."""
    asked = folder.find("mm-vet.json")
    pictures = folder.find("images")
    questions = folder.json(asked)
    folder.total = len(questions)
    for name, entry in questions.items():
        number = str(name).rpartition("_")[2]
        row = dict(index=number, image_path=str(pictures / entry["imagename"]), question=str(entry["question"]))
        yield row | dict(answer=str(entry["answer"]), category=",".join(entry["capability"]), id=str(name))


# -- parquet -------------------------------------------------------------------------------------------------------------------
def _shards(folder: Folder, names: tuple[str, ...], *patterns: str) -> list[Path]:
    """The parquet files of a download that has none of the files in `names`."""
    return [] if folder.maybe(*names) else folder.glob(*patterns, needed=False)


def _kept(folder: Folder, entry: dict[str, Any], key: str) -> Path:
    """An entry's picture, named after the row."""
    content = (entry["image"] or {}).get("bytes")
    if not content:
        raise UserError(f"{folder.root}: the entry {entry[key]} has no picture in it. Download the parquet file again.")
    return folder.keep(name_of(str(entry[key]), content), content)


RECIPES = {
    recipe.table: recipe
    for recipe in (
        Recipe(
            "DocVQA_VAL",
            "val_v1.0_withQT.json or val_v1.0.json\ndocuments/<name>.png\nor validation-*.parquet with the pictures inside",
            _docvqa,
            (5_349,),
            IMAGE,
            ("index", IMAGE, "question", "answer", "question_types"),
            ("https://rrc.cvc.uab.es/?ch=17&com=downloads", "https://huggingface.co/datasets/lmms-lab/DocVQA"),
            "val",
        ),
        Recipe(
            "OCRBench",
            "OCRBench.json\nOCRBench_Images/<image_path>\nor data/test-*.parquet with the pictures inside",
            _ocrbench,
            (1_000,),
            IMAGE,
            ("index", IMAGE, "question", "answer", "category", "dataset_name"),
            ("https://github.com/Yuliang-Liu/MultimodalOCR", "https://huggingface.co/datasets/echo840/OCRBench"),
            "test",
        ),
        Recipe(
            "MMVet",
            "mm-vet.json\nimages/<name>",
            _mmvet,
            (218,),
            IMAGE,
            ("index", IMAGE, "question", "answer", "category", "id"),
            ("https://github.com/yuweihao/MM-Vet/releases/download/v1/mm-vet.zip",),
        ),
    )
}
