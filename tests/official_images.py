"""Miniatures of the official downloads of the image sets: the same files and keys, a few rows, squares whose colour is known.

`make(table, folder)` writes the download of one table and returns the folder to be named as its source; `write_parquet` the
form of DocVQA and OCRBench in which pictures stand inside.
"""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

from data_factory import NAMES, OCR_CATEGORIES, picture, write_tsv

MME_NESTED = ("artwork", "celebrity", "landmark", "posters", "scene")  # categories with two folders inside
MME_FLAT = (
    "existence count position color OCR commonsense_reasoning numerical_calculation text_translation code_reasoning".split()
)
OCR_FILE = "TextVQA_Rosetta_OCR_v0.2_val.json"
FORMATS = {".jpg": "JPEG", ".png": "PNG", ".gif": "GIF"}


def encoded(color: str, suffix: str = ".jpg", size: int = 24) -> bytes:
    buffer = io.BytesIO()
    picture(color, size).save(buffer, FORMATS[suffix])
    return buffer.getvalue()


def draw(path: Path, color: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(color, path.suffix))
    return path


def put(path: Path, value: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
    return path


def color(i: int) -> str:
    return NAMES[i % len(NAMES)]


def ten(answer: str, odd: int = 0) -> list[dict[str, object]]:
    """Ten references, `odd` of which say something else."""
    said = ["None"] * odd + [answer] * (10 - odd)
    return [dict(answer=text, answer_confidence="yes", answer_id=i + 1) for i, text in enumerate(said)]


def coco(folder: Path, split: str, image: int, shown: str) -> str:
    return draw(folder / split / f"COCO_{split}_{image:012d}.jpg", shown).name


# -- one function per table ----------------------------------------------------------------------------------------------------
def vqav2_val(folder: Path, n: int = 4) -> None:
    asked, answered = [], []
    for i in range(n):
        coco(folder, "val2014", 40 + i, color(i))
        key = dict(image_id=40 + i, question_id=(40 + i) * 1000 + 2)
        asked.append(key | dict(question="What color is the square?"))
        about = dict(question_type="what color", answer_type="other", multiple_choice_answer=color(i))
        answered.insert(0, key | about | dict(answers=ten(color(i), odd=i)))
    put(folder / "v2_OpenEnded_mscoco_val2014_questions.json", dict(data_type="mscoco", questions=asked))
    put(folder / "v2_mscoco_val2014_annotations.json", dict(data_type="mscoco", annotations=answered))


def vqav2_testdev(folder: Path, n: int = 3) -> None:
    every = []
    for i in range(2 * n):
        coco(folder, "test2015", 7 + i, color(i))
        every.append(dict(image_id=7 + i, question_id=(7 + i) * 1000, question="What color is it?"))
    put(folder / "v2_OpenEnded_mscoco_test2015_questions.json", dict(questions=every))
    put(folder / "v2_OpenEnded_mscoco_test-dev2015_questions.json", dict(questions=every[1::2]))


def gqa(folder: Path, n: int = 4) -> None:
    questions = {}
    for i in range(n):
        draw(folder / "images" / f"n{i // 2}.jpg", color(i // 2))
        types = dict(structural="query", semantic="attr", detailed="color")
        row = dict(imageId=f"n{i // 2}", question="What color is the square?", answer=color(i // 2), types=types, isBalanced=True)
        questions[f"0{i}"] = row | dict(fullAnswer=f"It is {color(i // 2)}.")
    put(folder / "testdev_balanced_questions.json", questions)


def vizwiz(folder: Path, split: str = "val", n: int = 3) -> None:
    rows = []
    for i in range(n):
        name = draw(folder / split / f"VizWiz_{split}_{i:08d}.jpg", color(i)).name
        row = dict(image=name, question="What color is this?")
        said = [dict(answer=entry["answer"], answer_confidence="yes") for entry in ten(color(i), odd=1)]
        rows.append(row | (dict(answers=said, answer_type="other", answerable=1) if split == "val" else {}))
    put(folder / "Annotations" / f"{split}.json", rows)


def science_qa(folder: Path) -> None:
    """Questions with and without a picture, of all splits."""
    problems, ids = {}, []
    for i in range(5):
        shown = "image.png" if i != 1 else None
        choices = ["red", "green", "blue", "yellow"][: 2 + i % 3]
        row = dict(
            question="Which color is the square?", choices=choices, answer=i % 2, hint="Look." if i % 2 else "", image=shown
        )
        problems[str(i)] = row | dict(subject="natural science", topic="physics", grade="grade3", split="test", lecture="")
        if shown:
            draw(folder / "images" / "test" / str(i) / shown, ["red", "green"][i % 2])
        ids.append(str(i))
    put(folder / "problems.json", problems)
    put(folder / "pid_splits.json", dict(train=["4"], val=[], test=ids[:4][::-1]))


def textvqa(folder: Path, n: int = 3) -> None:
    rows, spotted = [], []
    for i in range(n):
        suffix = ".png" if i == 1 else ".jpg"
        draw(folder / "train_images" / f"a{i}{suffix}", color(i))
        said = [entry["answer"] for entry in ten(color(i), odd=2)]
        rows.append(dict(question_id=34602 + i, image_id=f"a{i}", question="what color is this?", answers=said, image_classes=[]))
        if i != 2:
            spotted.append(dict(image_id=f"a{i}", ocr_tokens=["STOP", "it's"], ocr_info=[]))
    put(folder / "TextVQA_0.5.1_val.json", dict(dataset_name="textvqa", data=rows))
    put(folder / OCR_FILE, dict(data=spotted))


def pope(folder: Path) -> None:
    """Each set asks one question that all have and one of its own."""
    image = coco(folder, "val2014", 310196, "red")
    for k, name in enumerate(("random", "popular", "adversarial")):
        asked = [("Is there a red square in the image?", "yes"), (f"Is there a {NAMES[k + 1]} square in the image?", "no")]
        lines = [dict(question_id=i + 1, image=image, text=text, label=label) for i, (text, label) in enumerate(asked)]
        path = folder / f"coco_pope_{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def mme(folder: Path) -> None:
    for i, category in enumerate([*MME_NESTED, *MME_FLAT]):
        home = folder / category
        images, texts = (home / "images", home / "questions_answers_YN") if category in MME_NESTED else (home, home)
        draw(images / f"{i:04d}{'.png' if i % 2 else '.jpg'}", color(i))
        asked = [(color(i), "Yes"), (color(i + 1), "No")]
        texts.mkdir(parents=True, exist_ok=True)
        lines = [f"Is there a {name} square in the image? Please answer yes or no.\t{answer}" for name, answer in asked]
        (texts / f"{i:04d}.txt").write_text("\n".join(lines) + ("\n" if i % 2 else ""))


def mmbench(folder: Path, name: str = "mmbench_dev_20230712.tsv", n: int = 2) -> None:
    """Rotations name the picture of the first turn by its index."""
    rows = []
    for turn in range(3):
        for i in range(n):
            shown, turned = NAMES[i], NAMES[turn:] + NAMES[:turn]
            row = dict(index=241 + i + turn * 1_000_000, question="Which color is the square?", hint="")
            row |= dict(zip("ABCD", turned, strict=True)) | dict(answer="ABCD"[turned.index(shown)], category="image_scene")
            cell = base64.b64encode(encoded(shown)).decode() if turn == 0 else str(241 + i)
            rows.append(
                row | {"image": cell, "source": "made", "l2-category": "coarse_perception", "comment": "", "split": "dev"}
            )
    folder.mkdir(parents=True, exist_ok=True)
    write_tsv(folder / name, rows)


def mmvet(folder: Path, n: int = 3) -> None:
    found = {}
    for i in range(n):
        name = draw(folder / "images" / f"v1_{i}.png", color(i)).name
        row = dict(imagename=name, question="What color is\nthe square?", answer=f"{color(i)}<OR>{color(i)} square")
        found[f"v1_{i}"] = row | dict(imagesource="made", capability=["ocr", "math"] if i else ["rec"])
    put(folder / "mm-vet.json", found)


def docvqa(folder: Path, n: int = 3) -> None:
    rows = []
    for i in range(n):
        name = draw(folder / "documents" / f"p{i}.png", color(i)).name
        row = dict(questionId=337 + i, question="What is the total?", question_types=["form"], image=f"documents/{name}", docId=i)
        rows.append(row | dict(answers=[f"{i} dollars", f"$ {i}"], data_split="val"))
    put(folder / "val_v1.0_withQT.json", dict(dataset_name="SP-DocVQA", dataset_split="val", data=rows))


def ocrbench(folder: Path, n: int = 10) -> None:
    rows = []
    for i in range(n):
        where = f"set{i % 3}/{i}.png"
        draw(folder / "OCRBench_Images" / where, color(i))
        answers = f"Text {i}" if i % 2 else [f"Text {i}", f"Text{i}"]
        row = dict(dataset_name=f"set{i % 3}", id=str(i % 3), question="what is written in the image?", answers=answers)
        rows.append(row | dict(image_path=where, type=OCR_CATEGORIES[i % 10]))
    put(folder / "OCRBench" / "OCRBench.json", rows)


def write_parquet(table: str, folder: Path, n: int = 3) -> Path:
    """DocVQA_VAL or OCRBench as the hub has them."""
    import pyarrow
    import pyarrow.parquet

    rows = []
    for i in range(n):
        image = dict(bytes=encoded(color(i), ".png"), path=f"{i}.png")
        if table == "DocVQA_VAL":
            rows.append(dict(questionId=str(337 + i), question="What is the total?", question_types=["form"], image=image))
            rows[-1] |= dict(answers=[f"{i} dollars"])
        else:
            rows.append(dict(dataset="set", question="what is written?", question_type=OCR_CATEGORIES[i], answer=[f"Text {i}"]))
            rows[-1] |= dict(image=image)
    split = "validation" if table == "DocVQA_VAL" else "test"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "data").mkdir(exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "data" / f"{split}-00000-of-00001.parquet")
    return folder


MAKERS = {
    "VQAv2_VAL": vqav2_val,
    "VQAv2_TESTDEV": vqav2_testdev,
    "GQA_TestDev_Balanced": gqa,
    "VizWiz": vizwiz,
    "VizWiz_TEST": lambda folder: vizwiz(folder, "test"),
    "ScienceQA_TEST": science_qa,
    "TextVQA_VAL": textvqa,
    "POPE": pope,
    "MME": mme,
    "MMBench_DEV_EN": mmbench,
    "MMBench_DEV_CN": lambda folder: mmbench(folder, "mmbench_dev_cn_20231003.tsv"),
    "MMVet": mmvet,
    "DocVQA_VAL": docvqa,
    "OCRBench": ocrbench,
}


def make(table: str, folder: Path) -> Path:
    """Writes the miniature download of a table into a folder, which is made, and returns it."""
    folder.mkdir(parents=True, exist_ok=True)
    MAKERS[table](folder)
    return folder
