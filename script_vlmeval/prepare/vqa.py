"""Open questions about pictures with short answers: VQAv2, GQA, VizWiz and TextVQA, as their authors publish them.

Several references stand in one cell as a Python list. Pictures stay where the download has them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from sys import intern
from typing import Any

from ..errors import UserError
from .folder import Folder, pick
from .recipe import IMAGE, Recipe, Row

_TYPES = ("structural", "semantic", "detailed")  # of GQA's questions
_TEN = 10  # people who answered each question
_OCR = "TextVQA_Rosetta_OCR_v0.2_val.json"


def _references(value: dict[str, Any]) -> Any:
    """Takes the place of {answer, answer_confidence, ...} by the answer: two million of them are too many to hold."""
    answer = value["answer"] if value.keys() >= {"answer", "answer_confidence"} else value
    return intern(answer) if isinstance(answer, str) else answer


def ten(path: Path, answers: Mapping[str, Any]) -> dict[str, str]:
    """index -> its ten answers as a cell. UserError where a row has another number, or answers that are no texts.

    VQAv2, VizWiz and TextVQA are published with ten for every question of these splits, without exception: their numbers of
    answers are ten times those of questions. VQA accuracy is defined for ten and for nothing else.
    """
    wrong = {index: said for index, found in answers.items() if (said := _not_ten(found))}
    if wrong:
        index, said = next(iter(wrong.items()))
        raise UserError(f"{path}: question '{index}' has {said}, not ten texts ({len(wrong)} such). Is it the official file?")
    return {index: str([str(answer) for answer in found]) for index, found in answers.items()}


def _not_ten(found: Any) -> str:
    """What a question has in place of ten answers, "" where it has them. Numbers pass for texts."""
    if not isinstance(found, list):
        return f"{str(found)[:40]!r} for answers"
    odd = [answer for answer in found if not isinstance(answer, (str, int, float))]
    if odd:
        return f"answers such as {str(odd[0])[:60]}"
    return "" if len(found) == _TEN else f"{len(found)} answers"


# -- VQAv2 ---------------------------------------------------------------------------------------------------------------------
def _vqav2_val(folder: Folder) -> Iterator[Row]:
    asked = folder.find(*_annotation("v2_OpenEnded_mscoco_val2014_questions.json"))
    answered = folder.find(*_annotation("v2_mscoco_val2014_annotations.json"))
    pictures = folder.find("val2014", "images/val2014")
    questions = folder.entries(asked, "questions")
    answers = {entry["question_id"]: entry for entry in folder.entries(answered, "annotations", _references)}
    lone = [entry["question_id"] for entry in questions if entry["question_id"] not in answers]
    if lone:
        raise UserError(f"{answered} has no answers to {len(lone)} of {len(questions)} questions in {asked}, such as {lone[0]}.")
    cells = ten(answered, {str(entry["question_id"]): answers[entry["question_id"]]["answers"] for entry in questions})
    folder.total = len(questions)
    for entry in questions:
        answer = answers[entry["question_id"]]
        row = _vqav2_row(entry, pictures, "val2014") | dict(answer=cells[str(entry["question_id"])])
        yield row | {key: str(answer[key]) for key in ("question_type", "answer_type")}


def _vqav2_testdev(folder: Folder) -> Iterator[Row]:
    """A submission answers all of test2015 in order, with empty texts outside test-dev: its ids go beside the table."""
    asked = folder.find(*_annotation("v2_OpenEnded_mscoco_test-dev2015_questions.json"))
    every = folder.maybe(*_annotation("v2_OpenEnded_mscoco_test2015_questions.json"))
    pictures = folder.find("test2015", "images/test2015")
    questions = folder.entries(asked, "questions")
    folder.total = len(questions)
    for entry in questions:
        yield _vqav2_row(entry, pictures, "test2015")
    if every is None:
        folder.note("v2_OpenEnded_mscoco_test2015_questions.json is not there: the server takes answers to all of its questions.")
    else:
        ids = [str(entry["question_id"]) for entry in folder.entries(every, "questions")]
        folder.extras[".all.txt"] = "".join(f"{index}\n" for index in ids)


def _annotation(name: str) -> tuple[str, ...]:
    return name, f"annotations/{name}", f"questions/{name}"


def _vqav2_row(entry: dict[str, Any], pictures: Path, split: str) -> Row:
    picture = pictures / f"COCO_{split}_{int(entry['image_id']):012d}.jpg"
    return dict(index=str(entry["question_id"]), image_path=str(picture), question=str(entry["question"]))


# -- GQA -----------------------------------------------------------------------------------------------------------------------
def _gqa(folder: Folder) -> Iterator[Row]:
    name = "testdev_balanced_questions.json"
    asked = folder.find(name, f"questions1.2/{name}", f"questions/{name}")
    pictures = folder.find("images")
    questions = folder.json(asked)
    if not isinstance(questions, dict) or not questions:
        raise UserError(f"{asked} is not the official file: an object of questions by id was expected.")
    folder.total = len(questions)
    typed = [name for name in _TYPES if any(name in entry.get("types", {}) for entry in questions.values())]
    for index, entry in questions.items():
        picture = pictures / f"{entry['imageId']}.jpg"
        row = dict(index=str(index), image_path=str(picture), question=entry["question"], answer=entry["answer"])
        yield row | {name: str(entry.get("types", {}).get(name) or "") for name in typed}


# -- VizWiz --------------------------------------------------------------------------------------------------------------------
def _vizwiz_val(folder: Folder) -> Iterator[Row]:
    path, pictures, questions = _vizwiz_files(folder, "val")
    cells = ten(path, {str(index): entry["answers"] for index, entry in enumerate(questions)})
    for index, entry in enumerate(questions):
        row = dict(index=str(index), image_path=str(pictures / entry["image"]), question=entry["question"])
        row |= dict(answers=cells[str(index)])
        yield row | {key: str(entry.get(key, "")) for key in ("answer_type", "answerable")}


def _vizwiz_test(folder: Folder) -> Iterator[Row]:
    _, pictures, questions = _vizwiz_files(folder, "test")
    for index, entry in enumerate(questions):
        yield dict(index=str(index), image_path=str(pictures / entry["image"]), question=entry["question"])


def _vizwiz_files(folder: Folder, split: str) -> tuple[Path, Path, list[dict[str, Any]]]:
    """The file of questions, the folder of pictures, and the questions."""
    asked = folder.find(f"Annotations/{split}.json", f"annotations/{split}.json", f"{split}.json")
    pictures = folder.find(split, f"images/{split}")
    questions = folder.entries(asked, hook=_references)
    folder.total = len(questions)
    return asked, pictures, questions


# -- TextVQA -------------------------------------------------------------------------------------------------------------------
def _textvqa(folder: Folder) -> Iterator[Row]:
    asked = folder.find("TextVQA_0.5.1_val.json")
    pictures = folder.find("train_images", "train_val_images/train_images")
    spotted = folder.maybe(_OCR)
    questions = folder.entries(asked, "data")
    tokens = {entry["image_id"]: entry["ocr_tokens"] for entry in folder.entries(spotted, "data")} if spotted else None
    if tokens is None:
        folder.note(f"{_OCR} is not there: the table has no column ocr_tokens, which published LLaVA-1.5 figures rest on.")
    cells = ten(asked, {str(entry["question_id"]): entry["answers"] for entry in questions})
    folder.total = len(questions)
    for entry in questions:
        name = str(entry["image_id"])
        picture = pick(*(pictures / f"{name}{suffix}" for suffix in (".jpg", ".png", ".jpeg")))
        row = dict(index=str(entry["question_id"]), image_path=str(picture), question=entry["question"])
        row |= dict(answer=cells[str(entry["question_id"])])
        yield row if tokens is None else row | dict(ocr_tokens=str(tokens.get(name, [])))


_VQA_LINKS = ("https://visualqa.org/download.html",)
_VIZWIZ_LINKS = ("https://vizwiz.org/tasks-and-datasets/vqa/",)
RECIPES = {
    recipe.table: recipe
    for recipe in (
        Recipe(
            "VQAv2_VAL",
            "v2_OpenEnded_mscoco_val2014_questions.json\nv2_mscoco_val2014_annotations.json\n"
            "val2014/COCO_val2014_<12 digits>.jpg",
            _vqav2_val,
            (214_354,),
            IMAGE,
            ("index", IMAGE, "question", "answer", "question_type", "answer_type"),
            _VQA_LINKS,
            "val2014",
        ),
        Recipe(
            "VQAv2_TESTDEV",
            "v2_OpenEnded_mscoco_test-dev2015_questions.json\nv2_OpenEnded_mscoco_test2015_questions.json (for the submission)\n"
            "test2015/COCO_test2015_<12 digits>.jpg",
            _vqav2_testdev,
            (107_394,),
            IMAGE,
            ("index", IMAGE, "question"),
            _VQA_LINKS,
            "test-dev2015",
        ),
        Recipe(
            "GQA_TestDev_Balanced",
            "testdev_balanced_questions.json\nimages/<imageId>.jpg",
            _gqa,
            (12_578,),
            IMAGE,
            ("index", IMAGE, "question", "answer", *_TYPES),
            ("https://cs.stanford.edu/people/dorarad/gqa/download.html",),
            "test-dev balanced",
        ),
        Recipe(
            "VizWiz",
            "Annotations/val.json\nval/VizWiz_val_<8 digits>.jpg",
            _vizwiz_val,
            (4_319,),
            IMAGE,
            ("index", IMAGE, "question", "answers", "answer_type", "answerable"),
            _VIZWIZ_LINKS,
            "val",
        ),
        Recipe(
            "VizWiz_TEST",
            "Annotations/test.json\ntest/VizWiz_test_<8 digits>.jpg",
            _vizwiz_test,
            (8_000,),
            IMAGE,
            ("index", IMAGE, "question"),
            _VIZWIZ_LINKS,
            "test",
        ),
        Recipe(
            "TextVQA_VAL",
            f"TextVQA_0.5.1_val.json\n{_OCR} (optional)\ntrain_images/<image_id>.jpg or .png",
            _textvqa,
            (5_000,),
            IMAGE,
            ("index", IMAGE, "question", "answer", "ocr_tokens"),
            ("https://textvqa.org/dataset/",),
            "val",
        ),
    )
}
