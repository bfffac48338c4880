"""What a result says of the model behind it, what makes two results different ones, and runs of several models."""

from __future__ import annotations

import gc
import json
import shutil
import weakref
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import data_factory
import layouts
import models
import originals
import pytest

from script_vlmeval import loading, prompts, results, wording
from script_vlmeval.backbones import BACKBONES, Backbone, Models, published_clip
from script_vlmeval.cli import main
from script_vlmeval.methods import get_method
from script_vlmeval.runtime import Runtime, relevance_of

hosted = models.since_5("is none that VLMEvalKit can be imported with")
CLIP = published_clip("llava") or ""
COMMIT = "c" * 40


@pytest.fixture(scope="module")
def llava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small checkpoint whose vision tower is that of `originals.clip`; not to be changed."""
    return originals.hf_twin(tmp_path_factory.mktemp("llava"), "llava")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub's."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def snapshot(cache: Path, name: str) -> Path:
    """Where the cache has a model's files."""
    folder = cache / f"models--{name.replace('/', '--')}" / "snapshots" / COMMIT
    folder.mkdir(parents=True)
    return folder


def drawn(name: str, folder: Path) -> Path:
    """Two questions in the place of the embedded benchmark's many."""
    rows = []
    for i in range(2):
        layouts.picture(56, 56, i).save(folder / f"{name}-{i}.png")
        where = str(folder / f"{name}-{i}.png")
        rows.append(dict(index=i, image_path=where, question=f"What is {'here' * i}?", answer="red", category="color"))
    return data_factory.write_tsv(folder / f"{name}.tsv", rows)


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path) -> Path:
    """Where results go; benchmarks are small and answers short."""
    (tmp_path / "data").mkdir()
    monkeypatch.setenv("LMUData", str(tmp_path / "data"))
    monkeypatch.setattr("script_vlmeval.tiny.write_benchmark", drawn)
    few = tuple(replace(record, max_new_tokens=3, host_max_new_tokens=5) for record in BACKBONES.values())
    monkeypatch.setattr("script_vlmeval.backbones._RECORDS", few)
    for record in few:
        monkeypatch.setitem(BACKBONES, record.id, record)
    return tmp_path / "results"


def swept(work: Path, names: str, folders: dict[str, Path | str], *more: str) -> int:
    """The exit status of a run of checkpoints under names of one's own; each is called a LLaVA."""
    given = [f"{name}={folder}" for name, folder in folders.items()]
    own = ["--family", "llava"] if set(folders) - set(BACKBONES) else []
    argv = ["--data", "ShapesVQA", "--device", "cpu", "--work-dir", str(work), "--quiet", "--model", *names.split()]
    return main([*argv, "--checkpoint", *given, *own, *more])


def told(work: Path, config: str) -> dict[str, Any]:
    return json.loads((work / config / "ShapesVQA/result.json").read_text())


def files(work: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in work.glob("*/ShapesVQA/*") if path.name != ".lock"}


# -- the CLIP that a cell depends on ---------------------------------------------------------------------------------------------
@hosted
def test_a_clip_that_arrives_does_not_concern_cells_without_it(
    llava: Path, work: Path, cache: Path, capsys: pytest.CaptureFixture[str]
):
    own = "x_divprune_5 x_full"
    assert swept(work, f"{own} x_script_5", {"x": llava}) == 0
    assert told(work, "x_script_5")["fingerprint"]["relevance"] == "llm"
    assert told(work, "x_divprune_5")["fingerprint"]["relevance"] == "none"
    originals.clip(snapshot(cache, CLIP))
    capsys.readouterr()
    assert swept(work, own, {"x": llava}) == 0
    assert "Nothing to do: all 2 cells were done" in capsys.readouterr().out
    before = files(work)
    assert swept(work, "x_script_5", {"x": llava}) == 2  # its relevance is another now
    assert 'relevance: "llm" -> "clip"' in capsys.readouterr().err
    assert files(work) == before


@hosted
def test_the_clip_behind_relevance_is_part_of_the_result(llava: Path, work: Path, tmp_path: Path):
    folder = Path(shutil.copytree(llava, tmp_path / "x"))
    originals.clip(folder / "clip")
    names = "x_script_5 x_divprune_5"
    assert swept(work, names, {"x": folder}) == 0
    assert told(work, "x_script_5")["provenance"]["checkpoint"]["clip"] == str(folder / "clip")
    assert told(work, "x_divprune_5")["provenance"]["checkpoint"]["clip"] is None
    (folder / "clip/merges.txt").write_text("#version: 0.2\na b\n")
    assert swept(work, "x_divprune_5", {"x": folder}) == 0
    assert swept(work, "x_script_5", {"x": folder}) == 2


def record(folder: Path, family: str = "llava") -> Backbone:
    return Models({"x": str(folder)}, {"x": family}).record("x")


def origin(folder: Path, relevance: str = "none", family: str = "llava") -> results.Origin:
    asked = record(folder, family)
    return results.origins(asked, asked, [relevance])[relevance]


def test_an_original_checkpoint_depends_on_the_clip_that_its_tower_is_of(tmp_path: Path, cache: Path):
    folder = originals.llava15(tmp_path / "original")
    clip = originals.clip(snapshot(cache, CLIP))
    found = origin(folder)
    assert (found.clip, found.clip_commit) == (CLIP, COMMIT)
    assert found.clip_digest == loading.checkpoint_digest(clip)
    inside = originals.clip(folder / "clip")
    assert origin(folder).clip == str(inside)
    assert origin(folder).digest == found.digest


def test_an_original_checkpoint_with_a_tower_does_not_depend_on_the_published_clip(tmp_path: Path, cache: Path):
    folder = originals.llava16(tmp_path / "original")
    before = origin(folder, family="llava_next")
    originals.clip(snapshot(cache, CLIP))
    assert origin(folder, family="llava_next") == before
    assert before.clip is None
    assert origin(folder, "clip", family="llava_next").clip == CLIP
    originals.clip(folder / "clip")  # of which sizes and preprocessing are read
    assert origin(folder, family="llava_next").clip == str(folder / "clip")


def test_where_relevance_comes_from(llava: Path, cache: Path):
    known, without = BACKBONES["llava"], record(llava)
    script = get_method("script")
    assert (relevance_of(known, script), relevance_of(without, script)) == ("clip", "llm")
    for source in ("llm", "clip", "clipcompat"):
        assert relevance_of(known, get_method("script", relevance=source)) == source
    assert relevance_of(known, get_method("mmtok")) == "words"
    assert relevance_of(known, get_method("divprune")) == relevance_of(known, get_method("full")) == "none"
    assert relevance_of(known, get_method("script+fastv")) == "clip"
    assert relevance_of(known, get_method("divprune+fastv")) == "none"


# -- the checkpoint --------------------------------------------------------------------------------------------------------------
@hosted
def test_a_result_names_its_checkpoint(llava: Path, work: Path, cache: Path):
    shutil.copytree(llava, snapshot(cache, "some-org/model"), dirs_exist_ok=True)
    originals.clip(snapshot(cache, CLIP))
    assert swept(work, "x_full y_full y_script_5", {"x": llava, "y": "some-org/model"}) == 0
    common = {"family": "llava", "clip": None, "clip_commit": None}
    assert told(work, "x_full")["provenance"]["checkpoint"] == {"place": str(llava), "commit": None, **common}
    plain = {"place": "some-org/model", "commit": COMMIT}
    assert told(work, "y_full")["provenance"]["checkpoint"] == {**plain, **common}
    seeing = {"family": "llava", "clip": CLIP, "clip_commit": COMMIT}
    assert told(work, "y_script_5")["provenance"]["checkpoint"] == {**plain, **seeing}
    assert told(work, "y_full")["fingerprint"]["checkpoint"] == told(work, "x_full")["fingerprint"]["checkpoint"]


@hosted
def test_the_workbook_names_the_checkpoint(llava: Path, work: Path):
    openpyxl = pytest.importorskip("openpyxl")
    assert swept(work, "x_full", {"x": llava}) == 0
    head, line = openpyxl.load_workbook(work / "summary.xlsx")["provenance"].iter_rows(values_only=True)
    found = dict(zip(head, line, strict=True))
    assert (found["checkpoint.place"], found["checkpoint.commit"]) == (str(llava), None)


# -- styles ----------------------------------------------------------------------------------------------------------------------
@hosted
def test_words_and_conversation_are_two_settings(llava: Path, work: Path, monkeypatch: pytest.MonkeyPatch):
    allowed: list[int] = []
    answer = Runtime.answer

    def counted(self: Runtime, *args: Any, **kwargs: Any) -> Any:
        allowed.append(kwargs["max_new_tokens"])
        return answer(self, *args, **kwargs)

    monkeypatch.setattr(Runtime, "answer", counted)
    said = {}
    for style in ("auto", "llava", "vlmevalkit"):
        assert swept(work / style, "llava_full", {"llava": llava}, "--prompt-style", style) == 0
        found = told(work / style, "llava_full")["fingerprint"]
        assert "prompt style" not in found
        said[style] = found["message style"], found["conversation"], found["max_new_tokens"]
    # LLaVA's evaluation has no words for this benchmark, so that those of `llava` are the host's as well
    ours = ("vlmevalkit", "model", 3)
    assert said == {"auto": ours, "llava": ours, "vlmevalkit": ("vlmevalkit", "vlmevalkit", 5)}
    assert allowed == [3, 3, 5]


def test_a_model_without_a_conversation_of_the_host_s_keeps_its_own():
    known = BACKBONES["qwen2vl2b"]
    assert known.asked("vlmevalkit") is known.talk


@pytest.mark.parametrize(
    ("name", "style", "benchmark", "limit"),
    [
        ("llava", "auto", "GQA_TestDev_Balanced", 128),
        ("llava", "auto", "MMBench_DEV_EN", 1024),
        ("llava", "llava", "MMBench_DEV_EN", 1024),
        ("llava", "auto", "OCRBench", 128),
        ("llava", "vlmevalkit", "MMBench_DEV_EN", 2048),
        ("llava", "vlmevalkit", "OCRBench", 2048),
        ("qwen2vl7b", "vlmevalkit", "OCRBench", 2048),
        ("qwen3vl4b", "vlmevalkit", "OCRBench", 16384),
        ("tiny", "auto", "", 4),
        ("tiny", "vlmevalkit", "", 4),
    ],
)
def test_how_long_answers_may_be(name: str, style: str, benchmark: str, limit: int):
    dataset: Any = SimpleNamespace(host=benchmark)
    assert wording.longest(style, dataset, BACKBONES[name]) == limit


# -- several models --------------------------------------------------------------------------------------------------------------
@pytest.fixture
def never(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Runtime, "load", lambda *_, **__: pytest.fail("a model was loaded"))


@hosted
@pytest.mark.usefixtures("never")
def test_a_later_model_of_another_family_is_said_first(
    llava: Path, work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    other = layouts.layout("qwen2_vl", tmp_path / "qwen")
    assert swept(work, "x_full y_full", {"x": llava, "y": other}) == 2
    assert f"{other} holds a 'qwen2_vl' model, 'y' is a 'llava'" in capsys.readouterr().err
    assert not files(work)


@hosted
def test_a_later_model_with_results_of_other_settings_is_said_first(
    llava: Path, work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    assert swept(work, "y_full", {"y": llava}) == 0
    before = files(work)
    monkeypatch.setattr(Runtime, "load", lambda *_, **__: pytest.fail("a model was loaded"))
    assert swept(work, "x_full y_full", {"x": llava, "y": llava}, "--seed", "1") == 2
    assert "seed: 0 -> 1" in capsys.readouterr().err
    assert files(work) == before


@pytest.fixture
def hollow(llava: Path, tmp_path: Path) -> Path:
    """A checkpoint that looks whole until its weights are loaded."""
    from safetensors.torch import load_file, save_file

    folder = Path(shutil.copytree(llava, tmp_path / "hollow"))
    weights = load_file(folder / "model.safetensors")
    weights.pop(sorted(weights)[0])
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@hosted
def test_a_later_model_that_does_not_load_costs_its_own_cells_alone(
    llava: Path, hollow: Path, work: Path, capsys: pytest.CaptureFixture[str]
):
    given = {"x": llava, "y": hollow, "z": llava}
    assert swept(work, "x_full y_full y_random_5 z_full", given) == 1
    said = capsys.readouterr()
    assert "2 cells done" in said.out
    assert said.err.count("lacks 1 weights of 'y'") == 2
    assert "NOT DONE: y_random_5/ShapesVQA" in said.err
    assert (told(work, "x_full")["failed"], told(work, "z_full")["failed"]) == (0, 0)
    assert sorted(path.parts[-3] for path in work.glob("*_*/ShapesVQA/result.json")) == ["x_full", "z_full"]
    assert sorted(path.parts[-3] for path in work.glob("*_*/ShapesVQA/failure.json")) == ["y_full", "y_random_5"]
    assert swept(work, "x_full y_full", {"x": llava, "y": llava}) == 0  # mended: only its cells are asked


@hosted
def test_a_later_model_without_what_one_method_needs_answers_under_the_others(
    llava: Path, work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    other = layouts.layout("llava", tmp_path / "other")
    originals.clip(other / "clip")  # of another tower
    assert swept(work, "y_full y_script_5", {"y": other}) == 2
    assert not files(work)
    assert swept(work, "x_full y_full y_script_5", {"x": llava, "y": other}) == 1
    assert "NOT DONE: y_script_5/ShapesVQA: The CLIP checkpoint" in capsys.readouterr().err
    assert sorted(path.parts[-3] for path in work.glob("*_*/ShapesVQA/result.json")) == ["x_full", "y_full"]
    assert [path.parts[-3] for path in work.glob("*_*/ShapesVQA/failure.json")] == ["y_script_5"]


@hosted
def test_without_an_answer_before_it_such_a_model_ends_the_run(llava: Path, hollow: Path, work: Path):
    assert swept(work, "y_full x_full", {"y": hollow, "x": llava}) == 2
    assert not files(work)
    assert swept(work, "x_full", {"x": llava}) == 0
    before = files(work)
    assert swept(work, "x_full y_full", {"x": llava, "y": hollow}) == 2
    assert files(work) == before


@hosted
def test_fresh_keeps_the_results_of_a_model_that_does_not_load(llava: Path, hollow: Path, work: Path):
    assert swept(work, "y_full", {"y": llava}) == 0
    before = files(work)
    assert swept(work, "x_full y_full", {"x": llava, "y": hollow}, "--fresh") == 1
    assert files(work).items() >= before.items()


@hosted
def test_one_model_is_in_memory_at_a_time(llava: Path, work: Path, monkeypatch: pytest.MonkeyPatch):
    alive: list[weakref.ref[Any]] = []
    load = loading.load

    def counted(*args: Any, **kwargs: Any) -> Any:
        gc.collect()
        assert not [ref for ref in alive if ref() is not None]
        found = load(*args, **kwargs)
        alive.append(weakref.ref(found[0]))
        return found

    monkeypatch.setattr(loading, "load", counted)
    assert swept(work, "x_full y_full x_random_5", {"x": llava, "y": llava}) == 0
    assert len(alive) == 2


# -- VLMEvalKit's own runner -----------------------------------------------------------------------------------------------------
@hosted
def test_both_runners_read_cells_as_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The host's own reading makes numbers of them, or nothing."""
    from script_vlmeval import plugin
    from script_vlmeval.benchmarks import resolve
    from script_vlmeval.plugin.classes import PrunedVLM
    from script_vlmeval.plugin.host import host
    from script_vlmeval.plugin.hosted import build

    monkeypatch.setenv("LMUData", str(tmp_path))
    name, shown = "ScienceQA_TEST", data_factory.as_base64("red")
    options = [("1", "2", ""), ("10", "20", "30"), ("007", "2.50", "None")]
    rows = [
        dict(index=i, question="How many?", **dict(zip("ABC", cells, strict=True)), answer="A", image=shown, split="test")
        for i, cells in enumerate(options)
    ]
    data_factory.write_tsv(tmp_path / f"{name}.tsv", rows)
    ours = plugin.open_dataset(resolve("SQA"), None, tmp_path / "work")
    cls = next(c for c in host().dataset.DATASET_CLASSES if name in c.supported_datasets())
    theirs = build(cls, name, tmp_path)
    model = PrunedVLM.__new__(PrunedVLM)  # without a model: only what it sends is looked at
    model.set_dump_image(theirs.dump_image)
    sent = [model.build_prompt(theirs.data.iloc[i], name)[-1]["value"] for i in range(len(rows))]
    assert sent == [prompts.restyled(name, ours.message(row), row, "llava")[-1]["value"] for row in ours.rows]
    assert "C. None" in sent[2]
    assert "A. 007\nB. 2.50" in sent[2]
