"""VLMEvalKit as the host: the process stays as it was, registries fill once, scores are the host's own."""

from __future__ import annotations

import logging
import os
import re
import shutil
import ssl
import subprocess
import sys
import threading
import types
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import data_factory
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from script_vlmeval import backbones, inputs, plugin, runtime, scoring
from script_vlmeval.benchmarks import resolve
from script_vlmeval.errors import UserError
from script_vlmeval.plugin.host import host
from script_vlmeval.plugin.workbook import read_answers, write_workbook


@pytest.fixture(scope="module")
def h():
    return host()


@pytest.fixture
def small_shapes(monkeypatch):
    """The embedded benchmarks in miniature."""
    monkeypatch.setattr("script_vlmeval.tiny.write_benchmark", data_factory.shapes, raising=False)


def answer(dataset, folder, predictions, name="tiny_full"):
    """The workbook that the runner writes."""
    frame = pd.DataFrame(dataset.rows).drop(columns=["image"], errors="ignore").assign(prediction=list(predictions))
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}_{dataset.name}.xlsx"
    write_workbook(frame, path)
    return path


@pytest.fixture
def stock(h, monkeypatch):
    """The host's own dataset object of a crafted table, whose checksum would otherwise make it download. Its scorers write into
    /tmp under the time of day: a name of our own keeps another run of these tests out."""
    monkeypatch.setattr("vlmeval.dataset.utils.multiple_choice.timestr", lambda: f"test-{uuid.uuid4()}")

    def build(name):
        for cls in h.dataset.DATASET_CLASSES:
            if name in cls.supported_datasets():
                monkeypatch.setattr(cls, "DATASET_MD5", {})
        return h.dataset.build_dataset(name)

    return build


def guesses(dataset):
    """Right answers, wrong ones and chatter in turn."""
    said = []
    for i, row in enumerate(dataset.rows):
        if row["index"].endswith("000241") or row["index"] == "241":  # every rotation of MMBench's first question
            said.append(row["answer"])
            continue
        wrong = {"Yes": "no", "No": "yes"}.get(row["answer"], "purple")
        said.append([row["answer"], f"{row['answer']}.", wrong, row["answer"].lower(), "Yes, no"][i % 5])
    return said


# the process -------------------------------------------------------------------------------------------------------------

STATE = """
import logging, os, random, ssl, sys, warnings
import numpy as np, torch
import script_vlmeval.plugin
assert "vlmeval" not in sys.modules
def state():
    return (torch.is_grad_enabled(), torch.initial_seed(), hash(torch.get_rng_state().numpy().tobytes()), random.getstate(),
            hash(np.random.get_state()[1].tobytes()), ssl._create_default_https_context, dict(os.environ), list(sys.path),
            list(logging.root.handlers), logging.root.level, list(warnings.filters))
os.environ["VLMEVALKIT_USE_MODELSCOPE"] = "0"
os.environ["CUDA_VISIBLE_DEVICES"] = "GPU-0aa1,GPU-0bb2"
torch.manual_seed(7); random.seed(7); np.random.seed(7)
before = state()
from script_vlmeval.plugin.host import host
host()
after = state()
assert "vlmeval" in sys.modules
assert [i for i, (a, b) in enumerate(zip(before, after)) if a != b] == [], [(a, b) for a, b in zip(before, after) if a != b]
"""


def test_importing_the_host_leaves_the_process_as_it_was(tmp_path):
    environment = {**os.environ, "HOME": str(tmp_path), "LMUData": str(tmp_path / "nowhere")}
    done = subprocess.run([sys.executable, "-c", STATE], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "LMUData").exists()
    assert ".env" not in done.stderr  # the host's complaint about a file that nobody promised


def test_what_the_import_does_is_undone_also_after_an_error():
    from script_vlmeval.plugin.host import undone

    grad, tls, path = torch.is_grad_enabled(), ssl._create_default_https_context, list(sys.path)
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)

    def import_that_fails():
        torch.set_grad_enabled(False)
        torch.manual_seed(1234)
        ssl._create_default_https_context = ssl._create_unverified_context
        os.environ["SCRIPT_VLMEVAL_TEST"] = "1"
        sys.path.insert(0, "/nowhere")
        logging.basicConfig(force=True)
        raise RuntimeError

    with pytest.raises(RuntimeError), undone():
        import_that_fails()
    assert torch.equal(torch.rand(1), expected)
    assert (torch.is_grad_enabled(), ssl._create_default_https_context, sys.path) == (grad, tls, path)
    assert "SCRIPT_VLMEVAL_TEST" not in os.environ


def test_json_of_numpy_values_works(h):
    import json

    text = json.dumps([np.float32(1.5), np.bool_(True), np.int64(3), np.ones(2)], cls=h.smp.file.NumpyEncoder)
    assert json.loads(text) == [1.5, True, 3, [1.0, 1.0]]


def test_the_label_names_version_and_flavour(h):
    assert h.label.startswith("vlmeval ")
    assert h.label.endswith(")")


# registration ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def one_model(monkeypatch):
    """A model registry and a runtime that need no weights."""
    tiny = replace(backbones.BACKBONES["tiny"], budgets=(36, 16))
    monkeypatch.setattr(backbones, "BACKBONES", {"tiny": tiny, "llava": backbones.BACKBONES["llava"]})
    monkeypatch.setattr(runtime, "Runtime", FakeRuntime)
    monkeypatch.setattr("script_vlmeval.plugin.classes._RUNTIMES", {})
    FakeRuntime.loads = 0


class FakeRuntime:
    """Says what it was asked; breaks on request."""

    loads = 0

    @classmethod
    def load(cls, model):
        cls.loads += 1
        return cls()

    def prepare(self, messages):
        if any("break" in part["value"] for message in messages for part in message):
            raise OSError("no such picture")
        return messages

    def answer(self, prepared, method, budget, max_new_tokens=None):
        return [types.SimpleNamespace(text=f"{prepared[0][-1]['value']}|{type(method).__name__}|{budget}", tokens={})]


def test_registering_twice_changes_nothing(h, one_model, monkeypatch):
    models = dict(h.config.supported_VLM)
    monkeypatch.setattr(h.dataset, "DATASET_CLASSES", list(h.dataset.DATASET_CLASSES))
    monkeypatch.setattr(h.dataset, "SUPPORTED_DATASETS", list(h.dataset.SUPPORTED_DATASETS))
    before = (len(h.dataset.DATASET_CLASSES), len(h.dataset.SUPPORTED_DATASETS))
    same = h.config.supported_VLM
    try:
        for _ in range(2):
            plugin.register()
            assert h.config.supported_VLM is same
            assert set(plugin.config_names()) <= same.keys()
            assert len(h.dataset.DATASET_CLASSES) <= before[0] + 5
            assert h.dataset.SUPPORTED_DATASETS.count("ShapesVQA") == h.dataset.SUPPORTED_DATASETS.count("ShapesYN") == 1
        assert {"tiny_full", "tiny_script_16", "tiny_random_36"} <= same.keys()
        assert {"llava_seqprune_r75k2", "llava_fastv_r50k3", "llava_fastv_128"} <= same.keys()
        assert "tiny_fastv_36" not in same, "its floor is 48"
        assert "llava_script_r75k2" not in same
        assert "tiny_full_16" not in same
        assert isinstance(same["tiny_script_16"], partial)
        assert same["tiny_script_16"].keywords == {"config": "tiny_script_16"}
        assert h.vlm.PrunedVLM is plugin.PrunedVLM
        assert h.dataset.DATASET_TYPE("ShapesYN") == "Y/N"
    finally:
        same.clear()
        same.update(models)


def test_the_model_answers_through_the_runtime_and_loads_it_once(h, one_model):
    model = plugin.PrunedVLM("tiny_script_16", use_vllm=False)
    plugin.PrunedVLM("tiny_full")
    message = [dict(type="image", value="a.png"), dict(type="text", value="what?")]
    assert FakeRuntime.loads == 1
    assert model.generate(message, dataset="GQA") == "what?|Script|16"
    assert model.generate_inner(message, dataset=types.SimpleNamespace(dataset_name="X")) == "what?|Script|16"


def test_a_text_that_reads_like_a_path_or_an_address_stays_text(h, one_model):
    model = plugin.PrunedVLM("tiny_full")
    for text in (__file__, "https://example.invalid/x.png"):
        assert model.generate([dict(type="text", value=text)]).startswith(text)


def test_a_failed_sample_becomes_the_hosts_marker(h, one_model, caplog):
    from vlmeval.inference import FAIL_MSG

    assert plugin.PrunedVLM("tiny_full").generate([dict(type="text", value="break")], dataset="MME") == FAIL_MSG
    assert "no such picture" in caplog.text


def test_a_bad_name_is_refused_when_the_model_is_built(h, one_model):
    with pytest.raises(UserError):
        plugin.PrunedVLM("tiny_script_-4")


# the host's benchmarks ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "make", "primary"),
    [
        ("MME", data_factory.mme, "total"),
        ("GQA", data_factory.gqa, "Overall"),
        ("POPE", data_factory.pope, "Overall"),
        ("ScienceQA", data_factory.science_qa, "Overall"),
        ("MMBench", data_factory.mmbench, "Overall"),
    ],
)
def test_the_hosts_own_score_stands_beside_the_official_rules(stock, data, tmp_path, name, make, primary):
    make(data)
    dataset = plugin.open_dataset(resolve(name), None, tmp_path)
    said = guesses(dataset)
    workbook = answer(dataset, tmp_path / "cell", said)
    original = workbook.read_bytes()
    score = dataset.score(workbook)

    theirs = stock(resolve(name).host)
    path = tmp_path / "stock" / f"m_{resolve(name).host}.xlsx"
    path.parent.mkdir()
    theirs.data.drop(columns=["image"]).assign(prediction=said).to_excel(path, index=False, engine="xlsxwriter")
    table = theirs.evaluate(str(path), model="exact_matching", nproc=1)
    scale = 100 if theirs.TYPE == "MCQ" else 1
    row = table.iloc[0]
    expected = row["perception"] + row["reasoning"] if name == "MME" else row["Overall"] * scale
    (other,) = score.others
    assert other.primary == primary
    assert other.metrics[primary] == pytest.approx(expected)
    assert 0 < other.metrics[primary] < (2800 if name == "MME" else 100)
    assert other.scorer.startswith("vlmeval ")
    assert workbook.read_bytes() == original
    assert set(other.per_sample) <= {r["index"] for r in dataset.rows} == set(score.per_sample)
    if name not in ("MME", "POPE"):
        assert 100 * np.mean(list(other.per_sample.values())) == pytest.approx(other.metrics[primary])
    assert score.scorer.startswith("script_vlmeval ")
    assert 0 < score.metrics[score.primary] < (2800 if name == "MME" else 100)
    differing = {
        row["index"]: text for row, text in zip(dataset.rows, said, strict=True) if row["index"] in (other.differs or ())
    }
    trap = {"GQA": r"\w+\.", "POPE": "purple|Yes, no", "MME": "Yes, no", "ScienceQA": r"[A-E]\."}.get(name, "")
    assert all(re.fullmatch(trap, text) for text in differing.values()), differing
    assert bool(differing) == bool(trap), "each trap is there"


def test_words_that_the_hosts_reader_loses_are_named(h, data, tmp_path):
    """pandas makes empty cells of None and NA: right answers that the host counts as wrong."""
    accepted = ["None", "007", "NA", "red"]
    rows = [
        dict(index=i, image=data_factory.as_base64("red"), question="q", answer=repr([a] * 10)) for i, a in enumerate(accepted)
    ]
    data_factory.write_tsv(data / "TextVQA_VAL.tsv", rows)
    dataset = plugin.open_dataset(resolve("TextVQA"), None, tmp_path)
    score = dataset.score(answer(dataset, tmp_path, accepted))
    (other,) = score.others
    assert score.metrics["Overall"] == 100
    assert other.metrics["Overall"] == 50
    assert other.differs == ("0", "2")
    assert other.said()["rows that differ"] == 2


def test_our_pair_scores_are_mmes(h, data, tmp_path):
    data_factory.mme(data)
    dataset = plugin.open_dataset(resolve("MME"), None, tmp_path)
    said = guesses(dataset)
    score = dataset.score(answer(dataset, tmp_path / "cell", said))
    ours = scoring.pairs([{**row, "prediction": text} for row, text in zip(dataset.rows, said, strict=True)])
    (other,) = score.others
    for name in ("total", "perception", "reasoning", *data_factory.MME_CATEGORIES):
        assert ours.metrics[name] == pytest.approx(other.metrics[name])
    assert [other.per_sample[row["index"]] for row in dataset.rows] == ours.per_sample


@pytest.mark.parametrize(
    ("name", "make"), [("MME", data_factory.mme), ("GQA", data_factory.gqa), ("SQA", data_factory.science_qa)]
)
def test_messages_are_those_of_the_hosts_runner(stock, data, tmp_path, name, make):
    make(data)
    dataset = plugin.open_dataset(resolve(name), None, tmp_path)
    theirs = stock(resolve(name).host)
    assert len(dataset) == len(theirs)
    for i, row in enumerate(dataset.rows):
        ours, expected = dataset.message(row), theirs.build_prompt(theirs.data.iloc[i])
        for mine, part in zip(ours, expected, strict=True):  # pictures lie in a folder of their own table's
            if part["type"] == "image":
                assert Path(mine.pop("value")).read_bytes() == Path(part.pop("value")).read_bytes()
        assert ours == expected


def test_scoring_again_reads_the_answers_again(h, data, tmp_path):
    """The host would print the old figure: its score files outlive the answers."""
    data_factory.mme(data)
    dataset = plugin.open_dataset(resolve("MME"), None, tmp_path)
    right = dataset.score(answer(dataset, tmp_path, [row["answer"] for row in dataset.rows]))
    stale = tmp_path / "tiny_full_MME_exact_matching_result.pkl"
    stale.touch()
    wrong = dataset.score(answer(dataset, tmp_path, ["Z"] * len(dataset)))
    assert (right.metrics["total"], wrong.metrics["total"]) == (2800, 0)
    assert (tmp_path / "vlmevalkit" / "tiny_full_MME_score.csv").is_file()
    assert not stale.exists()


def test_ocrbench_is_scored_as_the_host_does_without_running_its_cells(h, data, tmp_path):
    """On predictions that contain an answer, contain it in other letters or spacing, or miss it."""
    data_factory.ocrbench(data, 200)
    dataset = plugin.open_dataset(resolve("OCRBench"), None, tmp_path)
    draw = np.random.default_rng(0)
    said = []
    for row in dataset.rows:
        accepted = scoring.references(row["answer"])
        text = f"It says {accepted[draw.integers(len(accepted))]}."
        said.append(draw.choice([text, text.upper(), text.replace(" ", ""), text.replace("\n", " "), "Text", "none of it"]))
    workbook = answer(dataset, tmp_path, said)
    ours = dataset.score(workbook)
    host_cls = next(c for c in h.dataset.DATASET_CLASSES if c.__name__ == "OCRBench")
    (tmp_path / "host").mkdir()
    theirs = host_cls.evaluate(str(shutil.copy(workbook, tmp_path / "host" / "answers.xlsx")))
    assert sum(ours.per_sample.values()) == theirs["Final Score"]
    assert ours.metrics["Overall"] == pytest.approx(100 * theirs["Final Score"] / 200)
    assert 20 < ours.metrics["Overall"] < 80
    for category in ("Doc-oriented VQA", "Handwritten Mathematical Expression Recognition"):
        assert ours.metrics[category] == pytest.approx(100 * theirs[category] / 20)
    assert dataset.score(answer(dataset, tmp_path, [""] * 200)).metrics["Overall"] == 0


def test_docvqa_is_scored_by_likeness(h, data, tmp_path):
    data_factory.docvqa(data)
    dataset = plugin.open_dataset(resolve("DocVQA"), None, tmp_path)
    right = dataset.score(answer(dataset, tmp_path, [f"{i} dollars" for i in range(6)]))
    wrong = dataset.score(answer(dataset, tmp_path, ["a ship"] * 6))
    near = dataset.score(answer(dataset, tmp_path, [f"{i} dollar" for i in range(6)]))
    assert right.metrics[right.primary] == right.others[0].metrics["Overall"] == 100
    assert wrong.metrics[wrong.primary] == wrong.others[0].metrics["Overall"] == 0
    assert near.metrics[near.primary] == pytest.approx(near.others[0].metrics["Overall"]) == pytest.approx(800 / 9)


def test_failed_and_empty_answers_are_wrong_and_formulas_stay_text(h, data, tmp_path):
    data_factory.science_qa(data)
    dataset = plugin.open_dataset(resolve("SQA"), None, tmp_path)
    said = ["Failed to obtain answer via API.", "", "=1+1", "A", *["Z"] * 4]
    workbook = answer(dataset, tmp_path, said)
    found = read_answers(workbook)
    assert [row["prediction"] for row in found.rows] == ["", "", "=1+1", "A", *["Z"] * 4]
    found.copy_to(tmp_path / "copy.xlsx")
    copied = pd.read_excel(tmp_path / "copy.xlsx", dtype=str)
    assert list(copied["prediction"]) == ["Z", "Z", "=1+1", "A", *["Z"] * 4]
    assert dataset.score(workbook).metrics["Overall"] == 0


def test_a_torn_or_missing_workbook_is_a_user_error(h, data, tmp_path):
    data_factory.gqa(data)
    dataset = plugin.open_dataset(resolve("GQA"), None, tmp_path)
    with pytest.raises(UserError, match="does not exist"):
        dataset.score(tmp_path / "none.xlsx")
    (tmp_path / "torn.xlsx").write_bytes(b"PK\x03\x04 torn")
    with pytest.raises(UserError, match="cannot be read"):
        dataset.score(tmp_path / "torn.xlsx")


def test_a_limit_keeps_what_is_scored_together(small_shapes, data, tmp_path):
    data_factory.mme(data)
    data_factory.mmbench(data)
    data_factory.gqa(data)
    assert [row["index"] for row in plugin.open_dataset(resolve("MME"), 3, tmp_path).rows] == ["0", "1", "2", "3"]
    assert len(plugin.open_dataset(resolve("MMBench"), 1, tmp_path)) == 4
    assert len(plugin.open_dataset(resolve("GQA"), 3, tmp_path)) == 3
    assert len(plugin.open_dataset(resolve("ShapesYN"), 3, tmp_path)) == 4
    shutil.copy(data / "MMBench_DEV_EN.tsv", data / "MMBench_DEV_CN_V11.tsv")  # not in our table: the host scores it
    assert len(plugin.open_dataset(resolve("MMBench_DEV_CN_V11"), 1, tmp_path)) == 4
    with pytest.raises(UserError):
        plugin.open_dataset(resolve("GQA"), 0, tmp_path)


def test_pictures_in_cells_are_not_parted_by_a_limit(data, tmp_path):
    """Of a table without paths, too, where the picture stands in the first of its two rows."""
    shown = [data_factory.as_base64("red"), data_factory.as_base64("blue"), "0", "1"]
    rows = [dict(index=i, category="color", question="q?", answer="Yes" if i < 2 else "No", image=c) for i, c in enumerate(shown)]
    data_factory.write_tsv(data / "MME.tsv", rows)
    dataset = plugin.open_dataset(resolve("MME"), 1, tmp_path)
    assert [row["index"] for row in dataset.rows] == ["0", "2"]
    assert dataset.score(answer(dataset, tmp_path, ["yes", "no"])).metrics["total"] == 200


def test_another_checksum_is_a_note_and_the_file_stays(h, data, tmp_path, monkeypatch):
    path = data_factory.gqa(data)
    before = path.read_bytes()
    monkeypatch.setattr("urllib.request.urlretrieve", lambda *_, **__: pytest.fail("a download"))
    dataset = plugin.open_dataset(resolve("GQA"), None, tmp_path)
    assert "differs" in dataset.notes[0]
    assert path.read_bytes() == before
    assert h.dataset.ImageVQADataset.DATASET_MD5["GQA_TestDev_Balanced"]  # cleared for the opening only


def test_rows_without_a_picture_are_skipped_by_name(data, tmp_path):
    path = data_factory.gqa(data, n=3)
    with path.open("a") as file:
        file.write("007\t\tWhat now?\tNone\n")
    dataset = plugin.open_dataset(resolve("GQA"), None, tmp_path)
    assert (len(dataset), dataset.skipped) == (3, ("007",))


def test_an_undecodable_picture_is_that_rows_error(data, tmp_path):
    path = data_factory.gqa(data, n=3)
    text = path.read_text().splitlines()
    cells = text[1].split("\t")
    cells[1] = cells[1][:80] + "A" * 80
    path.write_text("\n".join([text[0], "\t".join(cells), *text[2:3]]) + "\n")
    dataset = plugin.open_dataset(resolve("GQA"), None, tmp_path)
    with pytest.raises(ValueError, match="index '100'"):
        dataset.message(dataset.rows[0])
    assert dataset.message(dataset.rows[1])


# what cannot be opened ---------------------------------------------------------------------------------------------------


def refused(name, tmp_path):
    with pytest.raises(UserError) as error:
        plugin.open_dataset(resolve(name), None, tmp_path)
    return str(error.value)


def test_unknown_names_get_the_nearest_of_both_lists(h, data, tmp_path):
    assert "'ShapesVQA'" in refused("ShapeVQA", tmp_path)
    assert "OCRVQA_TESTCORE" in refused("OCRVQA_TESTCOR", tmp_path)


def test_a_missing_data_folder_is_refused(h, tmp_path, monkeypatch):
    monkeypatch.setenv("LMUData", str(tmp_path / "nowhere"))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert str(tmp_path / "nowhere") in refused("POPE", tmp_path)
    monkeypatch.delenv("LMUData")
    assert str(tmp_path / "LMUData") in refused("POPE", tmp_path)
    assert not (tmp_path / "LMUData").exists()


def test_a_missing_table_is_named(h, data, tmp_path):
    message = refused("POPE", tmp_path)
    assert "POPE.tsv" in message
    assert str(data) in message
    assert "https://" in message


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("MMMB", "parts"),
        ("MVBench", "run.py prepare MVBench --source DIR"),
        ("Video-MME_8frame", "run.py prepare Video-MME --source DIR"),
        ("VQAv2", "run.py prepare VQAv2 --source DIR"),
        ("TempCompass_8frame", "not read here"),
    ],
)
def test_what_is_not_there_is_refused_before_anything_runs(h, data, tmp_path, name, says):
    assert says in refused(name, tmp_path)


def test_a_split_without_answers_has_no_score(h, data, tmp_path):
    row = dict(index=1, image=data_factory.as_base64("red"), question="q", A="x", B="y")
    data_factory.write_tsv(data / "MMBench_TEST_EN.tsv", [row])
    dataset = plugin.open_dataset(resolve("MMBench_TEST_EN"), None, tmp_path)
    score = dataset.score(answer(dataset, tmp_path, ["A"]))
    assert (score.metrics, score.primary) == ({}, "")
    assert "server" in score.unscored


def test_a_broken_table_of_the_host_is_a_user_error(h, data, tmp_path):
    (data / "POPE.tsv").write_text("index\tquestion\n1\tq\n")
    assert "POPE" in refused("POPE", tmp_path)


# the user's own tables, and ours -----------------------------------------------------------------------------------------


def test_a_mixed_table_is_asked_and_scored_by_kind(h, data, tmp_path):
    path = data_factory.mixed(tmp_path)
    dataset = plugin.open_dataset(resolve(str(path)), None, tmp_path / "work")
    messages = [dataset.message(row) for row in dataset.rows]
    texts = [message[-1]["value"] for message in messages]
    assert texts[0].endswith("\nAnswer the question using a single word or phrase.")
    assert texts[1] == "Is the square red?"
    assert "A. red\nB. blue\n" in texts[2]
    assert messages[0][0]["value"] == str(tmp_path / "pictures" / "red.png")
    assert Path(messages[3][0]["value"]).is_file()
    assert str(tmp_path / "work") in messages[3][0]["value"]
    assert all("image" not in row for row in dataset.rows)
    workbook = answer(dataset, tmp_path / "cell", ["Red.", "no", "blue", "No"])
    score = dataset.score(workbook)
    assert score.per_sample == {"0": 1, "1": 0, "2": 1, "3": 1}
    assert (score.primary, score.metrics["Overall"], score.metrics["kind/yesno"]) == ("Overall", 75, 50)
    results = pd.read_excel(workbook.with_name("tiny_full_own_verdicts.xlsx"))
    assert list(results["hit"]) == [1, 0, 1, 1]
    assert workbook.with_name("tiny_full_own_verdicts.csv").is_file()


def test_a_missing_picture_is_for_the_reader_to_say(h, data, tmp_path):
    """Who opens each picture anyway: decoded here too, it would be decoded twice."""
    path = data_factory.mixed(tmp_path)
    (tmp_path / "pictures" / "blue.jpg").write_bytes(b"\xff\xd8 no picture")
    (tmp_path / "pictures" / "red.png").unlink()
    dataset = plugin.open_dataset(resolve(str(path)), None, tmp_path)
    tiny = backbones.BACKBONES["tiny"]
    for i, named in ((0, "red.png"), (2, "blue.jpg")):
        message = dataset.message(dataset.rows[i])
        assert [part["type"] for part in message] == ["image", "text"]
        with pytest.raises(ValueError, match=re.escape(named)):
            inputs.read(tiny, tiny.talk, message)
    assert inputs.read(tiny, tiny.talk, dataset.message(dataset.rows[3])).images


def test_half_a_picture_is_never_there(h, data, tmp_path, monkeypatch):
    """Neither for another process, which would take it for a whole one, nor after an error."""
    data_factory.gqa(data)
    dataset = plugin.open_dataset(resolve("GQA"), None, tmp_path)
    save, seen = Image.Image.save, []

    def slowly(self, path, *more, **options):
        Path(path).write_bytes(b"half")
        seen.append(sorted(file.suffix for file in Path(path).parent.iterdir() if not file.name.startswith(".")))
        if len(seen) == 1:
            raise OSError("the disk is full")
        save(self, path, *more, **options)

    monkeypatch.setattr(Image.Image, "save", slowly)
    with pytest.raises(ValueError, match="index '100': the disk is full"):
        dataset.message(dataset.rows[0])
    assert not [file for file in tmp_path.rglob("*") if file.is_file() and file.suffix in (".png", ".jpg")]
    path = Path(dataset.message(dataset.rows[0])[0]["value"])
    assert seen == [[], []]
    assert list(path.parent.iterdir()) == [path]
    assert path.read_bytes().startswith(b"\x89PNG")


def test_one_picture_of_several_threads_is_written_by_each(data, tmp_path, monkeypatch):
    rows = [dict(index=i, question="q", answer="a", image=data_factory.as_base64("red")) for i in range(2)]
    path = data_factory.write_tsv(tmp_path / "own.tsv", rows)
    dataset = plugin.open_dataset(resolve(str(path)), None, tmp_path)
    both, write = threading.Barrier(2, timeout=10), Path.write_bytes

    def together(self, content):
        write(self, content)
        both.wait()

    monkeypatch.setattr(Path, "write_bytes", together)
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(dataset.message, dataset.rows)
    assert first[0] == second[0]
    assert [file.name for file in Path(first[0]["value"]).parent.iterdir()] == [Path(first[0]["value"]).name]


def test_a_table_in_the_data_folder_needs_no_path(h, data, tmp_path):
    data_factory.mixed(data, "my_questions")
    assert len(plugin.open_dataset(resolve("my_questions"), 2, tmp_path)) == 2


@pytest.mark.parametrize(("name", "primary", "best"), [("ShapesVQA", "Overall", 100), ("ShapesYN", "total", 200)])
def test_embedded_sets_are_made_where_they_can_be(h, small_shapes, tmp_path, monkeypatch, name, primary, best):
    monkeypatch.delenv("LMUData", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    dataset = plugin.open_dataset(resolve(name), None, tmp_path / "work")
    assert (tmp_path / "work" / ".data" / f"{name}.tsv").is_file()
    assert not (tmp_path / "home").exists()
    assert [part["type"] for part in dataset.message(dataset.rows[0])] == ["image", "text"]
    score = dataset.score(answer(dataset, tmp_path / "cell", [row["answer"] for row in dataset.rows]))
    assert (score.primary, score.metrics[primary]) == (primary, best)
    again = plugin.open_dataset(resolve(name), 1, tmp_path / "elsewhere")
    assert again.digest == dataset.digest
    assert len(again) == (2 if name == "ShapesYN" else 1)


def test_an_embedded_set_through_the_hosts_own_classes(h, small_shapes, one_model, data, tmp_path, monkeypatch):
    """What VLMEvalKit's runner does: build by name, ask row by row, evaluate the file."""
    monkeypatch.setattr(h.dataset, "DATASET_CLASSES", list(h.dataset.DATASET_CLASSES))
    plugin.register()
    ours = plugin.open_dataset(resolve("ShapesVQA"), None, tmp_path)
    theirs = h.dataset.build_dataset("ShapesVQA")
    assert [theirs.build_prompt(theirs.data.iloc[i]) for i in range(len(theirs))] == [ours.message(row) for row in ours.rows]
    said = guesses(ours)
    path = tmp_path / "m_ShapesVQA.xlsx"
    theirs.data.assign(prediction=said).to_excel(path, index=False)
    table = theirs.evaluate(str(path), model="exact_matching")
    assert table.iloc[0]["Overall"] == ours.score(answer(ours, tmp_path / "cell", said)).metrics["Overall"]
