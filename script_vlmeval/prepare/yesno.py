"""Yes/no questions about pictures: POPE (three overlapping sets) and MME (pairs in fourteen categories)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ..errors import UserError
from .folder import Folder, pick
from .recipe import IMAGE, Recipe, Row

_SETS = ("random", "popular", "adversarial")
_PUBLISHED = {"random": (2_910, 3_000), "popular": (3_000,), "adversarial": (3_000,)}
_ANSWERS = {"yes": "Yes", "no": "No"}
MME_CATEGORIES = (
    "existence count position color posters celebrity scene landmark artwork OCR "
    "commonsense_reasoning numerical_calculation text_translation code_reasoning"
).split()
_SUFFIXES = (".jpg", ".png", ".jpeg")


def _answer(text: str, where: str) -> str:
    try:
        return _ANSWERS[text.strip().lower()]
    except KeyError:
        raise UserError(f"{where}: the answer {text[:40]!r} is neither yes nor no. Download the file again.") from None


# -- POPE ----------------------------------------------------------------------------------------------------------------------
def _pope(folder: Folder) -> Iterator[Row]:
    """Questions that several sets share become one row, with all of their names in `category`."""
    files = {name: folder.find(*_pope_places(name)) for name in _SETS}
    pictures = folder.find("val2014", "images/val2014", "coco/val2014")
    rows: dict[tuple[str, str], Row] = {}
    counts = dict.fromkeys(_SETS, 0)
    for name, path in files.items():
        for number, entry in enumerate(folder.lines(path), 1):
            counts[name] += 1
            _add(rows, name, entry["image"], entry["text"], _answer(entry["label"], f"{path}, line {number}"), pictures, path)
        if not counts[name]:
            raise UserError(f"{path} is empty. Download it again.")
    folder.total = len(rows)
    yield from rows.values()
    counted = ", ".join(f"{name} {n:,}" for name, n in counts.items())
    folder.note(f"Questions of each set: {counted}; those that sets share are asked once.")
    if any(counts[name] not in _PUBLISHED[name] for name in _SETS):
        folder.note("Published are 3,000 of each, or 2,910 in the earlier file of the random set: these files are not those.")
    elif counts["random"] == 3_000:
        folder.note("Published LLaVA figures rest on an earlier file of the random set, with 2,910 questions.")


def _pope_places(name: str) -> tuple[str, ...]:
    file = f"coco_pope_{name}.json"
    return file, f"output/coco/{file}", f"coco/{file}"


def _add(rows: dict[tuple[str, str], Row], name: str, image: str, text: str, answer: str, pictures: Path, path: Path) -> None:
    row = rows.setdefault(
        (image, text),
        dict(index=str(len(rows)), image_path=str(pictures / image), question=text, answer=answer, category=name),
    )
    if row["answer"] != answer:
        raise UserError(f"{path}: '{text}' about {image} is answered {answer} here and {row['answer']} elsewhere.")
    if name not in row["category"].split(","):
        row["category"] += f",{name}"


# -- MME -----------------------------------------------------------------------------------------------------------------------
def _mme(folder: Folder) -> Iterator[Row]:
    """Each category is a folder of pictures and texts of the same name, side by side or in two folders."""
    homes = {name: folder.find(name, f"MME_Benchmark/{name}", f"MME_Benchmark_release_version/{name}") for name in MME_CATEGORIES}
    folder.complete()
    files = {name: _texts(home) for name, home in homes.items()}
    folder.total = 2 * sum(map(len, files.values()))
    index = 0
    for category, home in homes.items():
        pictures = home / "images" if (home / "images").is_dir() else home
        for file in files[category]:
            picture = pick(*(pictures / f"{file.stem}{suffix}" for suffix in _SUFFIXES))
            for question, answer in _pair(folder, file):
                row = dict(index=str(index), image_path=str(picture), question=question, answer=answer, category=category)
                yield row
                index += 1


def _texts(home: Path) -> list[Path]:
    """The texts of questions of a category, at least one."""
    texts = home / "questions_answers_YN"
    files = sorted(path for path in (texts if texts.is_dir() else home).glob("*.txt") if not path.name.startswith("."))
    if not files:
        raise UserError(f"{home} holds no text of questions (*.txt). Unpack the whole download there.")
    return files


def _pair(folder: Folder, file: Path) -> list[tuple[str, str]]:
    """The two questions of a picture: lines of question, tab, answer."""
    lines = [line for line in folder.text(file).split("\n") if line.strip()]
    cut = [line.rstrip().rpartition("\t") for line in lines]
    if len(lines) != 2 or not all(question.strip() for question, _, _ in cut):
        raise UserError(f"{file}: two lines of question, tab, answer were expected. Download it again.")
    return [(question.strip(), _answer(answer, str(file))) for question, _, answer in cut]


RECIPES = {
    recipe.table: recipe
    for recipe in (
        Recipe(
            "POPE",
            "coco_pope_random.json\ncoco_pope_popular.json\ncoco_pope_adversarial.json\nval2014/COCO_val2014_<12 digits>.jpg",
            _pope,
            (),  # depends on which of its random sets is there
            IMAGE,
            ("index", IMAGE, "question", "answer", "category"),
            ("https://github.com/AoiDragon/POPE/tree/main/output/coco", "https://cocodataset.org/#download"),
            "COCO val2014",
        ),
        Recipe(
            "MME",
            f"{len(MME_CATEGORIES)} folders, existence to code_reasoning: <category>/images/<name>.jpg and "
            "<category>/questions_answers_YN/<name>.txt, or both beside each other in <category>",
            _mme,
            (2_374,),
            IMAGE,
            ("index", IMAGE, "question", "answer", "category"),
            ("https://github.com/BradyFU/Awesome-Multimodal-Large-Language-Models/tree/Evaluation",),
        ),
    )
}
