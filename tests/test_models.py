"""Every model family from a folder in the layout of published checkpoints: swept from the command line, asked as published."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import data_factory
import layouts
import models
import originals
import pytest
import torch
from conftest import ROOT

from script_vlmeval import backbones, inputs, plugin, prompts, survey
from script_vlmeval.backbones import BACKBONES, Models
from script_vlmeval.benchmarks import BENCHMARKS
from script_vlmeval.cli import main
from script_vlmeval.methods import get_method
from script_vlmeval.offers import OFFERS
from script_vlmeval.plugin import Dataset
from script_vlmeval.runtime import Runtime

hosted = models.since_5("is none that VLMEvalKit can be imported with")
pytestmark = pytest.mark.filterwarnings("ignore:Passing `min_pixels`", "ignore:target not reached")
SYSTEM = (
    "A chat between a curious {who} and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the {who}'s questions. "
)
WIDE, SQUARE = (90, 60), (56, 56)
Part = dict[str, str]


@pytest.fixture(scope="module", autouse=True)
def short() -> Iterator[None]:
    """A random model never ends an answer by itself, and benchmarks allow many tokens."""
    few = tuple(replace(record, max_new_tokens=4, host_max_new_tokens=4, frames=4) for record in BACKBONES.values())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backbones, "_RECORDS", few)
        for record in few:
            patch.setitem(BACKBONES, record.id, record)
        patch.setattr(prompts, "max_new_tokens", lambda name, style: 4 if prompts.default_style(name) == style else None)
        yield


@pytest.fixture(scope="module")
def runtime_of(at: Callable[[str], Path], short: None) -> Callable[..., Runtime]:
    """A family's model, each loaded once."""
    loaded: dict[tuple[str, ...], Runtime] = {}

    def runtime(family: str, protocol: Any = None, dtype: str = "float32") -> Runtime:
        key = (family, str(protocol), dtype)
        if key not in loaded:
            loaded[key] = Runtime.load(
                "x", device="cpu", dtype=dtype, checkpoints=Models({"x": str(at(family))}, {"x": family}, protocol)
            )
        return loaded[key]

    return runtime


@pytest.fixture
def pictures(tmp_path: Path) -> Callable[..., Part]:
    def part(size: tuple[int, int] = WIDE, seed: int = 0) -> Part:
        path = tmp_path / f"{size[0]}x{size[1]}-{seed}.png"
        layouts.picture(*size, seed).save(path)
        return {"type": "image", "value": str(path)}

    return part


def text(value: str) -> Part:
    return {"type": "text", "value": value}


def drawn(name: str, folder: Path) -> Path:
    """Two questions in the place of the embedded benchmark's many: a wide picture and a square one."""
    rows = []
    for i, size in enumerate((WIDE, SQUARE)):
        layouts.picture(*size, i).save(folder / f"{name}-{i}.png")
        where = str(folder / f"{name}-{i}.png")
        rows.append(dict(index=i, image_path=where, question=f"What is {'here' * i}?", answer="red", category="color"))
    return data_factory.write_tsv(folder / f"{name}.tsv", rows)


@pytest.fixture
def shapes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder of its own, with the small table. Where results go."""
    (tmp_path / "data").mkdir()
    monkeypatch.setenv("LMUData", str(tmp_path / "data"))
    monkeypatch.setattr("script_vlmeval.tiny.write_benchmark", drawn)
    return tmp_path / "results"


def swept(work: Path, folder: Path, family: str, *names: str, more: Sequence[str] = ()) -> int:
    argv = ["--data", "ShapesVQA", "--device", "cpu", "--work-dir", str(work), "--quiet", "--limit", "2", *more]
    return main([*argv, "--checkpoint", f"x={folder}", "--family", family, "--model", *names])


def answers(work: Path, config: str, benchmark: str = "ShapesVQA") -> list[dict[str, Any]]:
    lines = (work / config / benchmark / "predictions.jsonl").read_text().splitlines()
    return sorted((json.loads(line) for line in lines), key=lambda r: int(r["index"]))


def fingerprint(work: Path, config: str, benchmark: str = "ShapesVQA") -> dict[str, Any]:
    return json.loads((work / config / benchmark / "result.json").read_text())["fingerprint"]


# -- from the command line -------------------------------------------------------------------------------------------------------
# family, protocol -> visual tokens of the wide picture; those that always stay; kept of a quarter; a budget and what it keeps
EXPECTED: dict[tuple[str, str], tuple[int, int, float, int, float]] = {
    ("llava", ""): (16, 0, 4, 5, 5),
    ("llava_next", "paper"): (80, 0, 20, 15, 15),
    ("llava_next", "hf"): (70, 6, 22, 15, 21),
    ("llava_next_video", ""): (70, 6, 22, 5, 31),  # five of each tile, as every integer budget means
    ("llava_onevision", ""): (70, 5, 21, 5, 20),
    ("video_llava", ""): (16, 0, 4, 5, 5),
    ("qwen2_vl", ""): (280, 0, 70, 64, 64),
    ("qwen2_5_vl", ""): (280, 0, 70, 64, 64),
    ("qwen3_vl", ""): (280, 0, 70, 64, 64),
    ("internvl", ""): (28, 0, 7, 2, 14),
}


def test_the_table_names_every_family():
    assert {family for family, _ in EXPECTED} == set(OFFERS) == set(layouts.FAMILIES)
    assert {record.family for record in BACKBONES.values()} == set(OFFERS)


@hosted
@pytest.mark.parametrize(("family", "protocol"), EXPECTED)
def test_a_family_is_swept(family: str, protocol: str, at: Callable[[str], Path], shapes: Path):
    full, between, quarter, budget, kept = EXPECTED[family, protocol]
    names = ["x_script_25pct", "x_full", f"x_divprune_{budget}"]
    assert swept(shapes, at(family), family, *names, more=["--protocol", protocol] if protocol else []) == 0
    for name, expected in zip(names, (quarter, full, kept), strict=True):
        first, second = answers(shapes, name)
        tokens = first["tokens"]
        assert (tokens["visual_full"], tokens["between"], tokens["visual_kept"]) == (full, between, expected), name
        assert tokens["relevance"] == ("llm" if name == "x_script_25pct" else "none")
        assert tokens["layers"] == [[pytest.approx(tokens["text"] + expected), layouts.LAYERS]]
        assert second["tokens"]["visual_kept"] <= second["tokens"]["visual_full"]
        assert (shapes / name / "ShapesVQA" / f"{name}_ShapesVQA.xlsx").is_file()
        said = fingerprint(shapes, name)
        assert said.get("protocol", "") == protocol
        assert (said["message style"], said["conversation"]) == ("vlmevalkit", "model")
        assert (
            said["prompt"]
            == BACKBONES[next(r.id for r in BACKBONES.values() if r.family == family and r.id != "tiny")].talk.prompt
        )


@hosted
@pytest.mark.parametrize(
    ("name", "family", "configs", "kept"),
    [
        ("qwen25vl7b", "qwen2_5_vl", ["qwen25vl7b_cdpruner_25pct"], 70),
        ("llavanext", "llava_next", ["llavanext_script_20"], 20),
        ("llava13b", "llava", ["llava13b_visionzip_5"], 5),
    ],
)
def test_a_name_of_the_table_takes_a_checkpoint(
    name: str, family: str, configs: list[str], kept: int, at: Callable[[str], Path], shapes: Path
):
    argv = ["--data", "ShapesVQA", "--device", "cpu", "--work-dir", str(shapes), "--quiet", "--limit", "1"]
    assert main([*argv, "--checkpoint", f"{name}={at(family)}", "--model", *configs]) == 0
    assert answers(shapes, configs[0])[0]["tokens"]["visual_kept"] == kept


@hosted
def test_two_checkpoints_of_own_names_in_one_run(at: Callable[[str], Path], shapes: Path):
    argv = ["--data", "ShapesVQA", "--device", "cpu", "--work-dir", str(shapes), "--quiet", "--limit", "1"]
    given = ["--checkpoint", f"x={at('llava')}", f"y={at('internvl')}", "--family", "llava", "internvl"]
    assert main([*argv, *given, "--model", "x_full", "y_full"]) == 0
    assert [answers(shapes, n)[0]["tokens"]["visual_full"] for n in ("x_full", "y_full")] == [16, 28]


@hosted
def test_another_protocol_is_another_result(at: Callable[[str], Path], shapes: Path, capsys: pytest.CaptureFixture[str]):
    assert swept(shapes, at("llava_next"), "llava_next", "x_full") == 0
    assert fingerprint(shapes, "x_full")["protocol"] == "paper"
    capsys.readouterr()
    assert swept(shapes, at("llava_next"), "llava_next", "x_full", more=["--protocol", "hf"]) == 2
    assert "protocol" in capsys.readouterr().err
    assert answers(shapes, "x_full")[0]["tokens"]["visual_full"] == 80


@hosted
@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl"])
def test_half_precision_runs(family: str, at: Callable[[str], Path], shapes: Path):
    assert swept(shapes, at(family), family, "x_script_25pct", "x_full", more=["--dtype", "bfloat16"]) == 0
    assert fingerprint(shapes, "x_full")["dtype"] == "bfloat16"


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl"])
def test_half_precision_loads(family: str, dtype: str, at: Callable[[str], Path], pictures: Callable[..., Part]):
    runtime = Runtime.load("x", device="cpu", dtype=dtype, checkpoints=Models({"x": str(at(family))}, {"x": family}))
    assert {p.dtype for p in runtime.model.parameters()} == {getattr(torch, dtype)}
    prepared = runtime.prepare([[pictures(), text("What?")]])
    assert prepared.inputs["pixel_values"].dtype == getattr(torch, dtype)
    assert runtime.answer(prepared, get_method("script"), "25pct")[0].tokens["visual_kept"] > 0


# -- the text side of the vision tower -------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def clipped(at: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Checkpoints that have it."""
    import shutil

    def folder(family: str) -> Path:
        copy = tmp_path_factory.mktemp("clipped") / family
        shutil.copytree(at(family), copy)
        originals.fitting(copy)
        return copy

    return folder


@hosted
@pytest.mark.parametrize("family", ["llava", "llava_next"])
def test_relevance_is_clip_s_where_it_is_there(
    family: str, clipped: Callable[[str], Path], at: Callable[[str], Path], shapes: Path, capsys: pytest.CaptureFixture[str]
):
    assert swept(shapes / "with", clipped(family), family, "x_script_25pct") == 0
    assert "CLIP" not in capsys.readouterr().err
    assert swept(shapes / "without", at(family), family, "x_script_25pct", "x_divprune_25pct") == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if "CLIP" in line]
    assert len(lines) == 1
    assert lines[0].startswith("warning: ")
    assert f"{at(family)}/clip" in lines[0]
    said = [answers(shapes / w, "x_script_25pct")[0]["tokens"]["relevance"] for w in ("with", "without")]
    assert said == ["clip", "llm"]
    there, gone = (fingerprint(shapes / w, "x_script_25pct") for w in ("with", "without"))
    assert there["checkpoint"] == gone["checkpoint"]
    assert "clip" in there
    assert "clip" not in gone
    assert (there["relevance"], gone["relevance"]) == ("clip", "llm")


@hosted
def test_nothing_is_said_of_clip_where_no_method_asks(
    at: Callable[[str], Path], shapes: Path, capsys: pytest.CaptureFixture[str]
):
    assert swept(shapes, at("llava"), "llava", "x_divprune_25pct") == 0
    assert "CLIP" not in capsys.readouterr().err


@hosted
@pytest.mark.parametrize("source", ["llm", "clip", "clipcompat"])
def test_the_source_of_relevance_can_be_chosen(source: str, clipped: Callable[[str], Path], shapes: Path):
    more = ["--param", f"relevance={source}", "--mode", "all"]
    assert swept(shapes, clipped("llava"), "llava", "x_script_25pct", more=more) == 0
    assert {a["tokens"]["relevance"] for a in answers(shapes, "x_script_25pct")} == {source}
    result = json.loads((shapes / "x_script_25pct/ShapesVQA/result.json").read_text())
    assert result["tokens"]["relevance"] == source
    assert result["fingerprint"]["method relevance"] == source


# -- prompts -------------------------------------------------------------------------------------------------------------------
def told(record: backbones.Backbone, message: Sequence[Mapping[str, str]], style: str = "auto") -> str:
    return inputs.read(record, record.asked(style), message).prompt


def published(record: backbones.Backbone, question: str, **shown: int) -> str:
    """As the chat template has it; LLaVA's own evaluation puts a system sentence before it."""
    head = SYSTEM.format(who="user") if record.family in ("llava", "llava_next") else ""
    return head + layouts.PROMPT[record.family].render(question, **shown)


def frames(folder: Path, n: int = 4) -> Part:
    folder.mkdir(exist_ok=True)
    for i in range(n):
        layouts.picture(70, 60, 100 + i).save(folder / f"{i}.png")
    return {"type": "video", "value": str(folder)}


PUBLISHED = [name for name in BACKBONES if name != "tiny"]


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("images", [0, 1, 3])
def test_a_prompt_is_the_published_one(name: str, images: int, pictures: Callable[..., Part]):
    record = BACKBONES[name]
    message = [*(pictures(seed=i) for i in range(images)), text("What is {this}?\nOne word.")]
    assert told(record, message) == published(record, "What is {this}?\nOne word.", images=images)


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_parts_of_a_message_keep_their_order(name: str, pictures: Callable[..., Part]):
    record = BACKBONES[name]
    talk = record.talk
    message = [text("First"), pictures(), text("then"), pictures(seed=1), text("which?"), text("Say.")]
    inside = f"First{talk.image}{talk.gap}then{talk.image}{talk.gap}which?\nSay."
    sample = inputs.read(record, talk, message)
    assert sample.prompt == talk.prompt.format(message=inside)
    assert sample.question == "First\nthen\nwhich?\nSay."
    assert len(sample.images) == 2


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_video_in_a_prompt(name: str, tmp_path: Path):
    """qwen3_vl: the processor writes the marks around each frame itself."""
    record, message = BACKBONES[name], [frames(tmp_path / "v"), text("What happens?")]
    sample = inputs.read(record, record.talk, message)
    if not record.talk.video:
        assert (len(sample.images), len(sample.videos)) == (4, 0)
        assert sample.prompt == published(record, "What happens?", images=4)
        return
    assert (len(sample.images), len(sample.videos), len(sample.videos[0].frames)) == (0, 1, 4)
    expected = published(record, "What happens?", videos=1)
    if record.family == "qwen3_vl":
        expected = expected.replace("<|vision_start|><|video_pad|><|vision_end|>", "<|video_pad|>")
    assert sample.prompt == expected


def test_the_host_s_conversation(pictures: Callable[..., Part]):
    record, message = BACKBONES["llava"], [pictures(), text("What?")]
    ours, theirs = (inputs.read(record, record.asked(style), message) for style in ("llava", "vlmevalkit"))
    assert ours.prompt == SYSTEM.format(who="user") + "USER: <image>\nWhat? ASSISTANT:"
    assert theirs.prompt == SYSTEM.format(who="human") + "USER:  <image> What? ASSISTANT:"
    assert ours.images[0].size == (90, 90)
    assert theirs.images[0].size == WIDE
    assert told(BACKBONES["llavanext"], message, "vlmevalkit").startswith(SYSTEM.format(who="human"))
    assert told(BACKBONES["qwen2vl2b"], message, "vlmevalkit") == told(BACKBONES["qwen2vl2b"], message)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[inputs.Sample]:
    """What is read, as the model will take it."""
    found: list[inputs.Sample] = []
    read = inputs.read

    def kept(*given: Any) -> inputs.Sample:
        found.append(read(*given))
        return found[-1]

    monkeypatch.setattr(inputs, "read", kept)
    return found


def host_run(work: Path, folder: Path, name: str, *more: str) -> list[str]:
    """The answers to the first rows of a table of the host's."""
    argv = [
        "--data",
        name,
        "--device",
        "cpu",
        "--work-dir",
        str(work),
        "--quiet",
        "--limit",
        "2",
        "--mode",
        "infer",
        "--atlas",
        "0",
    ]
    assert main([*argv, "--checkpoint", f"llava={folder}", "--model", "llava_divprune_5", *more]) == 0
    return [a["prediction"] for a in answers(work, "llava_divprune_5", name)]


ASKED = {
    "MME": (data_factory.mme, "Is there a red square in the image?\n" + prompts.SHORT, "MME"),
    "GQA": (data_factory.gqa, "What color is the square?\n" + prompts.SHORT, "GQA_TestDev_Balanced"),
}


@hosted
@pytest.mark.parametrize("name", ASKED)
def test_published_benchmarks_are_asked_in_llava_s_words(
    name: str, at: Callable[[str], Path], data: Path, tmp_path: Path, seen: list[inputs.Sample]
):
    make, expected, _ = ASKED[name]
    make(data)
    host_run(tmp_path / "auto", at("llava"), name)
    first = next(s for s in seen if s.prompt == SYSTEM.format(who="user") + f"USER: <image>\n{expected} ASSISTANT:")
    assert first.question == expected.partition("\n")[0]
    auto = json.loads((tmp_path / f"auto/llava_divprune_5/{name}/cell.json").read_text())
    assert (auto["message style"], auto["conversation"]) == ("llava", "model")
    seen.clear()
    host_run(tmp_path / "host", at("llava"), name, "--prompt-style", "vlmevalkit")
    assert seen[0].prompt.startswith(SYSTEM.format(who="human") + "USER: ")
    assert (prompts.SHORT in seen[0].prompt) == (name == "GQA")  # there the host asks so too
    assert ("Please answer yes or no." in seen[0].prompt) == (name == "MME")
    theirs = json.loads((tmp_path / f"host/llava_divprune_5/{name}/cell.json").read_text())
    assert (theirs["message style"], theirs["conversation"]) == ("vlmevalkit", "vlmevalkit")


@hosted
@pytest.mark.parametrize("name", ASKED)
def test_both_runners_give_the_same(
    name: str, at: Callable[[str], Path], data: Path, tmp_path: Path, seen: list[inputs.Sample], monkeypatch: pytest.MonkeyPatch
):
    from script_vlmeval.plugin import classes
    from script_vlmeval.plugin.host import host
    from script_vlmeval.plugin.hosted import build

    make, _, known = ASKED[name]
    make(data)
    monkeypatch.setattr(prompts, "max_new_tokens", lambda *_: 24)  # tokens are bytes here, and many bytes are no letters
    ours = host_run(tmp_path / "ours", at("llava"), name, "--limit", "4")
    asked = [s.prompt for s in seen]
    seen.clear()
    monkeypatch.setitem(BACKBONES, "llava", replace(BACKBONES["llava"], checkpoint=str(at("llava"))))
    monkeypatch.setattr(classes, "_RUNTIMES", {})
    model = plugin.PrunedVLM("llava_divprune_5")
    cls = next(c for c in host().dataset.DATASET_CLASSES if known in c.supported_datasets())
    dataset = build(cls, known, data)
    model.set_dump_image(dataset.dump_image)
    assert model.use_custom_prompt(known)
    messages = [model.build_prompt(dataset.data.iloc[i], known) for i in range(4)]
    assert [model.generate(m, dataset=known) for m in messages] == ours
    assert sorted(s.prompt for s in seen) == sorted(asked)  # ours asks the longest first
    assert len(set(ours)) > 1, ours
    assert not model.use_custom_prompt("OCRBench")


# -- batches -------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("family", "protocol"),
    [("llava_next", "hf"), ("llava_onevision", None), ("qwen2_vl", None), ("internvl", None)],
)
def test_pictures_of_several_sizes_are_answered_together_as_alone(
    family: str, protocol: Any, runtime_of: Callable[..., Runtime], pictures: Callable[..., Part]
):
    runtime = runtime_of(family, protocol)
    messages = [[pictures(size, i), text("What is this?" * (i + 1))] for i, size in enumerate((WIDE, (40, 130), WIDE))]
    messages.append([pictures(SQUARE, 7), pictures(WIDE, 8), text("Which?")])
    first = {} if family == "qwen2_vl" else {"first_layer": 1}
    for name, budget, params in (("full", "", {}), ("divprune", "25pct", {}), ("fastv", "60pct", first)):
        method = get_method(name, **params)
        with runtime.batch():
            together = runtime.answer(runtime.prepare(messages), method, budget)
        alone = [runtime.answer(runtime.prepare([m]), method, budget)[0] for m in messages]
        assert [a.tokens for a in together] == [a.tokens for a in alone], name
        assert [a.text for a in together] == [a.text for a in alone], name
    assert len({a.text for a in together}) > 1


@pytest.mark.parametrize("family", ["qwen2_vl", "llava_next"])
def test_a_picture_is_encoded_once_for_all_configurations(
    family: str, runtime_of: Callable[..., Runtime], pictures: Callable[..., Part]
):
    runtime = runtime_of(family)
    prepared = runtime.prepare([[pictures(size), text("What?")] for size in (WIDE, (40, 130))])
    inner, calls = runtime.model.model, list[int]()
    if family == "qwen2_vl":
        first = inner.visual.blocks[0]
    else:
        first = getattr(inner.vision_tower, "vision_model", inner.vision_tower).encoder.layers[0]
    handle = first.register_forward_hook(lambda *_: calls.append(1))
    try:
        with runtime.batch():
            runtime.encode(prepared)
            found = [
                runtime.answer(prepared, get_method(n), b)[0] for n, b in (("full", ""), ("random", "10pct"), ("fastv", "r50k2"))
            ]
    finally:
        handle.remove()
    assert len(calls) == 1
    assert len({a.text for a in found}) > 1


def test_pictures_are_scaled_as_the_record_says(runtime_of: Callable[..., Runtime], pictures: Callable[..., Part]):
    runtime = runtime_of("qwen2_vl")
    for size, tokens in (((40, 40), 256), ((2000, 2000), 2025), ((1280, 960), 1564)):
        grid = runtime.prepare([[pictures(size), text("What?")]]).inputs["image_grid_thw"]
        assert int(grid.prod()) // 4 == tokens
    assert runtime.record.pixels == (256 * 28**2, 2048 * 28**2)


# -- videos --------------------------------------------------------------------------------------------------------------------
def film(path: Path, n: int = 6) -> Part:
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=2)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for frame in layouts.clip(n, 64, 48):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
        container.mux(stream.encode())
    return {"type": "video", "value": str(path)}


# family -> visual tokens of four frames, and of a picture shown twice as long: Qwen's pictures and videos have sizes of their own
VIDEOS = {"llava": 64, "llava_next_video": 16, "llava_onevision": 37, "video_llava": 68, "internvl": 16}


@pytest.mark.parametrize("family", [*VIDEOS, "qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def test_videos_are_answered(family: str, runtime_of: Callable[..., Runtime], tmp_path: Path):
    """A file and a folder of frames, with different frames; llava is shown the frames as pictures."""
    runtime = runtime_of(family)
    messages = [[film(tmp_path / "a.mp4"), text("What happens?")], [frames(tmp_path / "v"), text("And here, at the end?")]]
    with runtime.batch():
        prepared = runtime.prepare(messages)
        runtime.encode(prepared)
        full, half = (runtime.answer(prepared, get_method(n), b) for n, b in (("full", ""), ("divprune", "50pct")))
    alone = [runtime.answer(runtime.prepare([m]), get_method("divprune"), "50pct")[0] for m in messages]
    assert [a.text for a in alone] == [a.text for a in half]
    assert [a.tokens for a in alone] == [a.tokens for a in half]
    for whole, pruned in zip(full, half, strict=True):
        between = whole.tokens["between"]
        assert whole.tokens["visual_full"] == VIDEOS.get(family, whole.tokens["visual_full"])
        expected = (whole.tokens["visual_full"] - between) / 2 + between
        assert abs(pruned.tokens["visual_kept"] - expected) <= 2  # halves of frames are rounded
    digests = {*prepared.digests, *runtime.prepare([[frames(tmp_path / "w", 3), text("What happens?")]]).digests}
    assert len(digests) == 3


@hosted
@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl"])
def test_a_broken_video_is_a_failed_row(
    family: str, at: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "broken.mp4").write_bytes(Path(film(tmp_path / "whole.mp4")["value"]).read_bytes()[:700])
    (tmp_path / "empty").mkdir()
    shown = ["whole.mp4", "broken.mp4", "empty", "absent.mp4"]
    rows = [dict(index=str(i), question="What?", answer="x", category="c") for i in range(len(shown))]

    def message(row: Mapping[str, str], style: str) -> list[Part]:
        return [{"type": "video", "value": str(tmp_path / shown[int(row["index"])])}, text("What?")]

    dataset = Dataset(BENCHMARKS["ShapesVQA"], rows, "digest", message)
    monkeypatch.setattr(survey, "open_dataset", lambda *_: dataset)
    assert swept(tmp_path / "results", at(family), family, "x_divprune_25pct") == 1
    assert "3 could not be answered" in capsys.readouterr().err
    result = json.loads((tmp_path / "results/x_divprune_25pct/ShapesVQA/result.json").read_text())
    assert (result["n"], result["failed"], sorted(result["failures"])) == (4, 3, ["1", "2", "3"])
    for index, reason in result["failures"].items():
        assert shown[int(index)] in str(reason)


# -- memory ---------------------------------------------------------------------------------------------------------------------
class Rows:
    """A sweep of eight rows in one batch, with a memory of `most` samples."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, most: Callable[[Any, str], int]) -> None:
        self.tried: list[tuple[str, int]] = []
        answer = Runtime.answer

        def limited(runtime: Runtime, prepared: Any, method: Any, budget: str, **more: Any) -> Any:
            self.tried.append((method.name, len(prepared)))
            if len(prepared) > most(method, budget):
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
            return answer(runtime, prepared, method, budget, **more)

        monkeypatch.setattr(Runtime, "answer", limited)

    def of(self, name: str) -> list[int]:
        return [n for method, n in self.tried if method == name]


@pytest.fixture
def eight(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("script_vlmeval.tiny.write_benchmark", data_factory.shapes)


@hosted
def test_a_batch_that_does_not_fit_is_asked_in_halves(
    at: Callable[[str], Path], eight: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    argv = [
        "--data",
        "ShapesVQA",
        "--device",
        "cpu",
        "--quiet",
        "--mode",
        "infer",
        "--checkpoint",
        f"x={at('llava')}",
        "--family",
        "llava",
    ]
    names = ["x_full", "x_cdpruner_25pct"]
    assert main([*argv, "--work-dir", str(tmp_path / "whole"), "--model", *names]) == 0
    rows = Rows(monkeypatch, lambda method, budget: 2)
    assert main([*argv, "--work-dir", str(tmp_path / "halves"), "--model", *names]) == 0
    assert rows.of("full") == [8, 4, 2, 2, 4, 2, 2]
    assert rows.of("cdpruner") == [2, 2, 2, 2]  # what did not fit is not tried again
    for name in names:
        whole, halves = ([a["prediction"] for a in answers(tmp_path / w, name)] for w in ("whole", "halves"))
        assert len(whole) == 8
        assert whole == halves


@hosted
def test_a_sample_that_does_not_fit_fails_its_cell_alone(
    at: Callable[[str], Path], eight: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    Rows(monkeypatch, lambda method, budget: 8 if method.name == "cdpruner" else 0)
    argv = ["--data", "ShapesVQA", "--device", "cpu", "--quiet", "--checkpoint", f"x={at('llava')}", "--family", "llava"]
    assert main([*argv, "--work-dir", str(tmp_path), "--model", "x_full", "x_cdpruner_25pct"]) == 1
    err = capsys.readouterr().err
    line = next(line for line in err.splitlines() if line.startswith("NOT DONE: x_full/ShapesVQA"))
    assert "out of memory" in line
    assert "--dtype bfloat16" in line
    assert "Traceback" not in err
    assert not (tmp_path / "x_full/ShapesVQA/result.json").exists()
    assert json.loads((tmp_path / "x_cdpruner_25pct/ShapesVQA/result.json").read_text())["failed"] == 0


@hosted
def test_one_sample_that_does_not_fit_is_a_failed_row(
    at: Callable[[str], Path], eight: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """The third row's question is too long for this computer."""
    collate = Runtime.collate

    def limited(runtime: Runtime, samples: Any, *style: Any) -> Any:
        if any("red" not in s.question and "green" in s.question for s in samples):
            raise MemoryError
        return collate(runtime, samples, *style)

    monkeypatch.setattr(Runtime, "collate", limited)
    argv = ["--data", "ShapesVQA", "--device", "cpu", "--quiet", "--checkpoint", f"x={at('llava')}", "--family", "llava"]
    assert main([*argv, "--work-dir", str(tmp_path), "--model", "x_full"]) == 1
    result = json.loads((tmp_path / "x_full/ShapesVQA/result.json").read_text())
    assert (result["n"], result["failed"], list(result["failures"])) == (8, 1, ["3"])
    assert "--batch-size" in str(result["failures"]["3"])


# -- what can be named ---------------------------------------------------------------------------------------------------------
def test_the_list_of_models_says_what_each_can_and_loads_nothing():
    program = (
        "import sys; from script_vlmeval.cli import main; status = main(['--list', 'models']); "
        "heavy = {'torch', 'transformers', 'vlmeval', 'huggingface_hub'} & set(sys.modules); "
        "sys.exit(f'imported {heavy}' if heavy else status)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    head, *rows = done.stdout.splitlines()
    assert head.split() == ["MODEL", "FAMILY", "VISUAL", "TOKENS", "FRAMES", "RELEVANCE", "CHECKPOINT", "ABOUT", "METHODS"]
    by_name = {row.split()[0]: row for row in rows}
    for record in BACKBONES.values():
        row = by_name[record.id]
        assert record.family in row.split()
        assert record.summary in row
        assert record.counted() in row
        assert (record.checkpoint if record.id != "tiny" else "embedded") in row
    assert by_name["llava"].endswith("all")
    assert by_name["llavanext"].endswith("all")
    assert "visionzip" in by_name["llavavideo"]
    assert "cdpruner" in by_name["qwen2vl2b"] or "all but" in by_name["qwen2vl2b"]
    assert "--family" in by_name["NAME"]
