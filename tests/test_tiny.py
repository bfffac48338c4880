"""The embedded model is the one that the code describes, and its benchmarks are the ones that were published."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from script_vlmeval import shapes, tiny

SIZE_LIMIT = 8_000_000


def table(name: str, folder: Path) -> list[dict[str, str]]:
    with tiny.write_benchmark(name, folder).open(encoding="utf-8") as file:
        return list(csv.DictReader(file, delimiter="\t"))


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, str]]]:
    folder = tmp_path_factory.mktemp("drawn")
    return {name: table(name, folder) for name in tiny.BENCHMARKS}


def test_the_assets_are_those_of_the_code(tmp_path: Path):
    """A tokenizer or configuration that was changed without training again would go unnoticed otherwise."""
    llava, text = tiny.build()
    tiny.save(llava, text, llava.model.multi_modal_projector.linear_1.weight[:64, :128], tmp_path)
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "clip/config.json", "clip/tokenizer.json"):
        drop = ("transformers_version", "dtype", "torch_dtype")
        made, shipped = (json.loads((folder / name).read_text()) for folder in (tmp_path, tiny.ASSETS))
        assert {k: v for k, v in made.items() if k not in drop} == {k: v for k, v in shipped.items() if k not in drop}, name


def test_the_assets_are_small():
    assert sum(file.stat().st_size for file in tiny.ASSETS.rglob("*") if file.is_file()) < SIZE_LIMIT


@pytest.mark.parametrize("name", list(tiny.BENCHMARKS))
def test_the_questions_are_the_published_ones(name: str, tmp_path: Path):
    """Those of another version of the code would be drawn anew, and not be mixed with these."""
    path = tiny.write_benchmark(name, tmp_path)
    assert tiny.asked(path) == tiny.PUBLISHED[name]
    whole = path.read_text()
    path.write_text(whole.replace("red", "blue"))
    assert tiny.write_benchmark(name, tmp_path).read_text() == whole


def test_the_tokenizer_reads_as_training_did(tables: dict[str, list[dict[str, str]]]):
    tokenizer = tiny.tokenizer()
    for row in tables["ShapesVQA"][:200]:
        assert tokenizer(row["question"], add_special_tokens=False)["input_ids"] == tiny.word_ids(row["question"])
        assert tiny.UNK not in tiny.word_ids(row["question"])


def test_every_picture_has_a_yes_and_a_no(tables: dict[str, list[dict[str, str]]]):
    pairs: dict[str, list[str]] = {}
    for row in tables["ShapesYN"]:
        pairs.setdefault(row["image_path"], []).append(row["answer"])
    assert len(pairs) == tiny.PICTURES
    assert all(sorted(answers) == ["No", "Yes"] for answers in pairs.values())


def test_answers_are_true_of_the_pictures():
    """Redrawn from the same seed, counted from the objects themselves."""
    import numpy as np

    rng = np.random.default_rng(5)
    for _ in range(100):
        scene = shapes.draw(rng)
        question = shapes.ask(scene, "count", rng)
        word = question.text.split()[2]
        shape = next(s for s in shapes.SHAPES if word.startswith(s))
        assert question.answer == str(sum(t.shape == shape for t in scene.things))
        yes, no = shapes.ask_yes_no(scene, rng)
        if yes.kind == "exist":
            assert yes.text[11:-1] in {t.name for t in scene.things}
            assert no.text[11:-1] not in {t.name for t in scene.things}


def test_references_need_no_picture(tables: dict[str, list[dict[str, str]]]):
    open_ = tiny.reference("ShapesVQA", tables["ShapesVQA"])
    assert open_["chance"] < open_["blind"] < 45
    pairs = tiny.reference("ShapesYN", tables["ShapesYN"])
    assert pairs["chance"] == 150
    assert 100 <= pairs["blind"] < 200
    assert tiny.reference("ShapesVQA", tables["ShapesVQA"][:10]) == {"chance": None, "blind": None}
