"""Miniature tables in the formats that VLMEvalKit publishes: a few tiny pictures, every column that its readers use."""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image

COLORS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (30, 40, 220), "yellow": (230, 220, 40)}
NAMES = list(COLORS)
MME_CATEGORIES = (
    "OCR artwork celebrity color count existence landmark position posters scene "
    "code_reasoning commonsense_reasoning numerical_calculation text_translation"
).split()


def picture(color: str, size: int = 24) -> Image.Image:
    """A square of a colour on grey."""
    image = Image.new("RGB", (size, size), (90, 90, 90))
    image.paste(COLORS[color], (6, 6, size - 6, size - 6))
    return image


def as_base64(color: str, size: int = 24) -> str:
    buffer = io.BytesIO()
    picture(color, size).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def write_tsv(path: Path, rows: Sequence[Mapping[str, object]]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter="\t", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return path


def mme(folder: Path) -> Path:
    """14 categories, one picture each with a yes and a no question."""
    rows = []
    for i, category in enumerate(MME_CATEGORIES):
        shown, other = NAMES[i % 4], NAMES[(i + 1) % 4]
        for k, (asked, answer) in enumerate([(shown, "Yes"), (other, "No")]):
            question = f"Is there a {asked} square in the image? Please answer yes or no."
            where = f"{category}/{i:04d}.png"
            rows.append(dict(index=2 * i + k, category=category, image_path=where, question=question, answer=answer))
            rows[-1]["image"] = as_base64(shown)
    return write_tsv(folder / "MME.tsv", rows)


def gqa(folder: Path, n: int = 12) -> Path:
    """The last third of the rows re-uses earlier pictures by their index, as the published tables do."""
    own = n - n // 3
    rows = [
        dict(
            index=100 + i,
            image=as_base64(NAMES[i % 4]) if i < own else str(100 + i - own),
            question="What color is the square?",
            answer=NAMES[(i if i < own else i - own) % 4],
        )
        for i in range(n)
    ]
    return write_tsv(folder / "GQA_TestDev_Balanced.tsv", rows)


OCR_CATEGORIES = (
    "Regular Text Recognition",
    "Irregular Text Recognition",
    "Artistic Text Recognition",
    "Handwriting Recognition",
    "Digit String Recognition",
    "Non-Semantic Text Recognition",
    "Scene Text-centric VQA",
    "Doc-oriented VQA",
    "Key Information Extraction",
    "Handwritten Mathematical Expression Recognition",
)


def ocrbench(folder: Path, n: int = 20) -> Path:
    """Two questions of each category; answers are Python lists written as text."""
    rows = [
        dict(
            index=i,
            image=as_base64(NAMES[i % 4]),
            question="What is written?",
            answer=repr([f"Text {i}", f"x _ {{ {i} }}"] if i % 3 else [f"Line\n{i}"]),
            category=OCR_CATEGORIES[i % 10],
        )
        for i in range(n)
    ]
    return write_tsv(folder / "OCRBench.tsv", rows)


def docvqa(folder: Path, n: int = 6) -> Path:
    rows = [
        dict(index=i, image=as_base64(NAMES[i % 4]), question="What is the total?", answer=repr([f"{i} dollars", f"$ {i}"]))
        for i in range(n)
    ]
    return write_tsv(folder / "DocVQA_VAL.tsv", rows)


def pope(folder: Path, n: int = 12) -> Path:
    """Rows of one, or of two, of the three categories."""
    rows = []
    for i in range(n):
        asked, answer = (NAMES[i % 4], "Yes") if i % 2 == 0 else (NAMES[(i + 1) % 4], "No")
        category = ("random", "popular", "adversarial", "random,popular")[i % 4]
        question = f"Is there a {asked} square in the image?"
        rows.append(dict(index=i, image=as_base64(NAMES[i % 4]), question=question, answer=answer, category=category))
    return write_tsv(folder / "POPE.tsv", rows)


def science_qa(folder: Path, n: int = 8) -> Path:
    """Multiple choice with hints, and a fourth option in some rows only."""
    rows = []
    for i in range(n):
        options = dict(A="red", B="green", C="blue", D="yellow" if i % 4 == 3 else "")
        row = dict(index=i, image=as_base64(NAMES[i % 4]), question="Which color is the square?", hint="Look." if i % 2 else "")
        rows.append(row | options | dict(answer="ABCD"[i % 4], category="physics", split="test"))
    return write_tsv(folder / "ScienceQA_TEST.tsv", rows)


def mmbench(folder: Path, n: int = 3) -> Path:
    """Circular: each question in four rotations, a million apart."""
    rows = []
    for turn in range(4):
        for i in range(n):
            shown, turned = NAMES[i % 4], NAMES[turn:] + NAMES[:turn]
            row = dict(index=241 + i + turn * 1_000_000, question="Which color is the square?", hint="")
            row |= dict(zip("ABCD", turned, strict=True)) | dict(answer="ABCD"[turned.index(shown)], category="image_scene")
            rows.append(row | {"l2-category": "coarse_perception", "image": as_base64(shown) if turn == 0 else str(241 + i)})
    return write_tsv(folder / "MMBench_DEV_EN.tsv", rows)


def mixed(folder: Path, name: str = "own") -> Path:
    """A user's own table without an index: open, yes/no and multiple choice, a relative path, a base64 cell."""
    (folder / "pictures").mkdir(exist_ok=True)
    picture("red").save(folder / "pictures" / "red.png")
    picture("blue").save(folder / "pictures" / "blue.jpg")
    red = "pictures/red.png"
    rows = [
        dict(question="What color is the square?", answer="red", image_path=red, image="", A="", B=""),
        dict(question="Is the square red?", answer="yes", image_path=red, image="", A="", B=""),
        dict(question="Which color?", answer="B", image_path="pictures/blue.jpg", image="", A="red", B="blue"),
        dict(question="Is it green?", answer="No", image_path="", image=as_base64("yellow"), A="", B=""),
    ]
    return write_tsv(folder / f"{name}.tsv", rows)


def shapes(name: str, folder: Path) -> Path:
    """What `tiny.write_benchmark` makes, in miniature."""
    where = folder / "images" / name
    where.mkdir(parents=True, exist_ok=True)
    rows = []
    for i, color in enumerate(NAMES):
        path = where / f"{i}.png"
        picture(color).save(path)
        pair = [(color, "Yes"), (NAMES[i - 1], "No")]
        asked = (
            [(f"Is there a {c} square? Please answer yes or no.", a) for c, a in pair]
            if name == "ShapesYN"
            else [("What color is the square?", color), (f"Is there a {color} square?", "yes")]
        )
        for question, answer in asked:
            category = "exist" if question.startswith("Is") else "color"
            rows.append(dict(index=len(rows), image_path=str(path), question=question, answer=answer, category=category))
    return write_tsv(folder / f"{name}.tsv", rows)
