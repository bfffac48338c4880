"""Multiple choice about pictures: ScienceQA's questions with a picture, and MMBench in two languages."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator

from ..benchmarks.tables import REFERENCE
from ..errors import UserError
from .folder import Folder
from .pictures import name_of
from .recipe import IMAGE, Recipe, Row

_LETTERS = "ABCDE"

_OWN = frozenset({"index", "image", IMAGE})  # columns of the official table that the new one fills itself


def _scienceqa(folder: Folder) -> Iterator[Row]:
    problems = folder.find("problems.json", "data/problems.json", "data/scienceqa/problems.json")
    splits = folder.find("pid_splits.json", "data/pid_splits.json", "data/scienceqa/pid_splits.json")
    pictures = folder.find("images/test", "data/scienceqa/images/test", "test")
    found, ids = folder.json(problems), folder.json(splits)["test"]
    lone = [name for name in ids if name not in found]
    if lone:
        raise UserError(f"{problems} lacks {len(lone)} of {len(ids)} questions that {splits} names, such as {lone[0]}.")
    seen = [name for name in ids if found[name].get("image")]
    folder.total = len(seen)
    for name in seen:
        entry = found[name]
        choices = entry["choices"]
        if len(choices) > len(_LETTERS) or not 0 <= int(entry["answer"]) < len(choices):
            raise UserError(f"{problems}, question {name}: answer {entry['answer']} of {len(choices)} choices cannot be.")
        options = {letter: str(choices[i]) if i < len(choices) else "" for i, letter in enumerate(_LETTERS)}
        row = dict(index=str(name), image_path=str(pictures / str(name) / entry["image"]), question=str(entry["question"]))
        row |= dict(hint=str(entry.get("hint") or "")) | options | dict(answer=_LETTERS[int(entry["answer"])])
        row |= dict(category=str(entry.get("topic") or entry.get("subject") or ""))
        yield row | {key: str(entry.get(key) or "") for key in ("subject", "topic", "grade")} | dict(split="test")


def _mmbench(table: str, published: dict[str, int]) -> Recipe:
    """The official table has pictures as base64, or names the row that has: they become files.

    `published`: file -> its number of rows. Where several editions are there, the first is taken.
    """

    def rows(folder: Folder) -> Iterator[Row]:
        path = folder.find(*published, f"{table}.tsv", f"{table}_legacy.tsv")
        read = folder.tsv(path, ("index", "image", "question", "A", "B", "answer"))
        files: dict[str, str] = {}
        cells = {row["index"]: row["image"] for row in read}
        folder.total = len(read)
        for row in read:
            owner = row["image"].strip() if len(row["image"]) <= REFERENCE else row["index"]
            if len(cells.get(owner, "")) <= REFERENCE:
                raise UserError(f"{path}: index '{row['index']}' has no picture, its cell reads {row['image'][:20]!r}.")
            if owner not in files:
                content = _decoded(cells[owner], f"{path}, index '{owner}'")
                files[owner] = str(folder.keep(name_of(owner, content), content))
            yield dict(index=row["index"], image_path=files[owner]) | {k: cell for k, cell in row.items() if k not in _OWN}

    columns = ("index", IMAGE, "question", "hint", "A", "B", "C", "D", "answer")
    layout, counts = " or ".join([*published, f"{table}.tsv"]), tuple(published.values())
    return Recipe(table, layout, rows, counts, IMAGE, columns, _MMBENCH_LINKS, "dev")


_MMBENCH_LINKS = ("https://download.openmmlab.com/mmclassification/datasets/mmbench/", "https://github.com/open-compass/MMBench")


def _decoded(cell: str, where: str) -> bytes:
    try:
        return base64.b64decode(cell, validate=True)
    except (binascii.Error, ValueError):
        raise UserError(f"{where}: the picture is not whole base64. Download the table again.") from None


RECIPES = {
    recipe.table: recipe
    for recipe in (
        Recipe(
            "ScienceQA_TEST",
            "problems.json\npid_splits.json\nimages/test/<id>/image.png",
            _scienceqa,
            (2_017,),
            IMAGE,
            ("index", IMAGE, "question", "hint", *_LETTERS, "answer", "category", "subject", "topic", "grade", "split"),
            ("https://github.com/lupantech/ScienceQA",),
            "test",
        ),
        _mmbench("MMBench_DEV_EN", {"mmbench_dev_20230712.tsv": 4_377, "mmbench_dev_en_20231003.tsv": 4_329}),
        _mmbench("MMBench_DEV_CN", {"mmbench_dev_cn_20231003.tsv": 4_329}),
    )
}
