"""Models of published families run from a folder in the layout of the real ones, through the command line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import checkpoints
import pytest

from script_vlmeval import backbones, loading
from script_vlmeval.cells import Config
from script_vlmeval.cli import main
from script_vlmeval.errors import UserError
from script_vlmeval.methods import get_method
from script_vlmeval.runtime import Runtime, method_of

NAMES = ["full", "divprune_64", "cdpruner_25pct", "seqprune_r50k1", "fastv_75pct", "script+fastv_40pct"]


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoints.qwen2_vl(tmp_path_factory.mktemp("qwen2_vl"))


@pytest.fixture(scope="module", autouse=True)
def short() -> Iterator[None]:
    """A random model never ends an answer by itself."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(backbones.BACKBONES, "qwen2vl2b", replace(backbones.BACKBONES["qwen2vl2b"], max_new_tokens=6))
        yield


@pytest.fixture(scope="module")
def runtime(qwen: Path, short: None) -> Runtime:
    return Runtime.load("qwen2vl2b", device="cpu", checkpoints={"qwen2vl2b": str(qwen)})


def message(folder: Path, size: tuple[int, int], text: str = "What is this?") -> list[dict[str, str]]:
    from PIL import Image

    path = folder / f"{size[0]}x{size[1]}.png"
    Image.effect_noise(size, 80).convert("RGB").save(path)
    return [{"type": "image", "value": str(path)}, {"type": "text", "value": text}]


@pytest.mark.filterwarnings("ignore:target not reached")
def test_qwen2_vl_is_swept_from_the_command_line(qwen: Path, tmp_path: Path):
    names = [f"qwen2vl2b_{name}" for name in NAMES]
    flags = ["--checkpoint", f"qwen2vl2b={qwen}", "--limit", "3", "--device", "cpu", "--work-dir", str(tmp_path), "--quiet"]
    assert main(["--data", "ShapesVQA", "--model", *names, *flags]) == 0
    kept: dict[str, Any] = {}
    for name in names:
        lines = (tmp_path / name / "ShapesVQA" / "predictions.jsonl").read_text().splitlines()
        kept[name] = [json.loads(line)["tokens"] for line in lines]
        assert (tmp_path / name / "ShapesVQA" / f"{name}_ShapesVQA.xlsx").is_file()
    full = kept["qwen2vl2b_full"][0]["visual_full"]
    assert full == 256  # the least that a picture is scaled to
    mean = {name: {t["visual_kept"] for t in tokens} for name, tokens in kept.items()}
    assert mean["qwen2vl2b_divprune_64"] == mean["qwen2vl2b_cdpruner_25pct"] == {64}
    assert mean["qwen2vl2b_full"] == {256}
    assert kept["qwen2vl2b_cdpruner_25pct"][0]["relevance"] == "llm"
    assert all(m <= full * 0.75 for m in mean["qwen2vl2b_fastv_75pct"])
    assert all(0.38 * full < m <= 0.4 * full for m in mean["qwen2vl2b_script+fastv_40pct"])


def test_pictures_of_several_sizes_are_answered_together_as_alone(runtime: Runtime, tmp_path: Path):
    messages = [message(tmp_path, size) for size in ((640, 480), (300, 900), (640, 480))]
    for name, budget in (("full", ""), ("divprune", "25pct"), ("fastv", "60pct"), ("script+fastv", "30pct")):
        with runtime.batch():
            together = runtime.answer(runtime.prepare(messages), get_method(name), budget)
        alone = [runtime.answer(runtime.prepare([m]), get_method(name), budget)[0] for m in messages]
        assert [a.tokens for a in together] == [a.tokens for a in alone]
        assert [a.text for a in together] == [a.text for a in alone]
    assert len({a.tokens["visual_full"] for a in together}) == 2


def test_a_picture_is_encoded_once_for_all_configurations(runtime: Runtime, tmp_path: Path):
    prepared = runtime.prepare([message(tmp_path, (640, 480)), message(tmp_path, (300, 900))])
    calls: list[int] = []
    handle = runtime.model.model.visual.blocks[0].register_forward_hook(lambda *_: calls.append(1))
    try:
        with runtime.batch():
            runtime.encode(prepared)
            answers = [
                runtime.answer(prepared, get_method(n), b)[0] for n, b in (("full", ""), ("random", "64"), ("fastv", "r50k2"))
            ]
    finally:
        handle.remove()
    assert len(calls) == 1
    assert len({a.text for a in answers}) > 1


def test_what_a_dynamic_model_cannot_serve_is_said_before_it_loads(qwen: Path, tmp_path: Path):
    at = {"qwen2vl2b": str(qwen)}
    for name, words in (
        ("qwen2vl2b_visionzip_64", "qwen2_vl models do not give"),
        ("qwen2vl2b_fastv_64", "smallest budget"),  # of the largest picture
        ("qwen2vl2b_divprune_r50k2", "no layer schedule"),
    ):
        with pytest.raises(UserError, match=words):
            method_of(Config.parse(name), at)
    with pytest.raises(UserError, match="relevance=llm"):
        method_of(Config.parse("qwen2vl2b_cdpruner_64", {"relevance": "clip"}), at)
    with pytest.raises(UserError, match="No checkpoint of 'llava'"):
        method_of(Config.parse("llava_seqprune_r75k2"), {"llava": str(tmp_path)})


def test_pictures_are_scaled_as_the_record_says(runtime: Runtime, tmp_path: Path):
    for size, tokens in (((40, 40), 256), ((3000, 3000), 2025), ((1280, 960), 1564)):
        grid = runtime.prepare([message(tmp_path, size)]).inputs["image_grid_thw"]
        assert int(grid.prod()) // 4 == tokens
    assert runtime.record.pixels == (256 * 28**2, 2048 * 28**2)


def test_layers_come_from_the_checkpoint(qwen: Path):
    record = backbones.backbone("qwen2vl2b", {"qwen2vl2b": str(qwen)})
    assert loading.layers(record) == checkpoints.LAYERS
