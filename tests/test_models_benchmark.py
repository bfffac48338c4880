"""The benchmark of whole models: real geometry, all rows, tokens and caches as planned, and failures that stay rows."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import transformers as t
from conftest import ROOT

TINY = ["--scale", "tiny", "--device", "cpu", "--repeats", "1", "--new-tokens", "2"]
BUDGET = {"llava": 64, "llavanext": 320, "qwen25vl7b": 102}
PROMPT = {"llava": 616, "llavanext": 2920, "qwen25vl7b": 1066}  # 40 words, the picture, and Qwen's two marks around it


@pytest.fixture(scope="module")
def bench() -> Iterator[ModuleType]:
    spec = importlib.util.spec_from_file_location("models_benchmark", ROOT / "benchmarks" / "models.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look their annotations up
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@dataclass
class Found:
    facts: dict[str, Any]
    rows: dict[tuple[str, int, str], dict[str, Any]]
    printed: str


def run(bench: ModuleType, folder: Path, capsys: Any, *options: str) -> Found:
    file = folder / "models.json"
    assert bench.main([*TINY, "--json", str(file), *options]) == 0
    facts = json.loads(file.read_text())
    rows = {(row["model"], row["batch"], row["method"]): row for row in facts.pop("rows")}
    return Found(facts, rows, capsys.readouterr().out)


def test_all_models_methods_and_batches(bench: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    found = run(bench, tmp_path, capsys, "--batch", "1", "2")
    assert set(found.rows) == {(model, size, method) for model in PROMPT for size in (1, 2) for method in bench.NAMES}
    for (model, size, method), row in found.rows.items():
        check_row(row, found.rows[model, size, "full"], PROMPT[model], BUDGET[model])
        assert (row["attn"], row["peak_bytes"], row["weights_bytes"]) == ("sdpa", None, None), "a CPU has no such counters"
        inside = method in ("fastv", "seqprune")
        assert (row["entering"][0] == PROMPT[model]) == (method == "full" or inside)
        assert (len(set(row["entering"])) > 1) == inside
    check_printed(found, len(PROMPT) * 2 * len(bench.NAMES))


def check_row(row: dict[str, Any], full: dict[str, Any], prompt: int, budget: int) -> None:
    """Tokens within the budget, the cache what the tokens say, ratios of what was measured."""
    assert row["error"] == ""
    assert (row["new_tokens"], full["mean_tokens"]) == (2, prompt)
    text = prompt - {616: 576, 2920: 2880, 1066: 1024}[prompt]
    assert row is full or budget * 0.9 < row["mean_tokens"] - text <= budget
    assert row["kv_bytes"] / full["kv_bytes"] == pytest.approx(row["mean_tokens"] / prompt)
    assert min(row["vision_ms"], row["prefill_ms"], row["token_ms"]) > 0
    assert row["of_full"].pop("peak_bytes") is None
    assert row["of_full"] == {name: row[name] / full[name] for name in ("prefill_ms", "token_ms", "kv_bytes")}


def check_printed(found: Found, rows: int) -> None:
    lines = found.printed.splitlines()
    assert "flash_attention_2 is left out" in lines[0]
    assert "GPU" in lines[0]
    assert lines[1].startswith("| model | batch | attn | method |")
    assert sum(line.startswith(tuple(f"| {model} |" for model in PROMPT)) for line in lines) == rows
    assert any("| fastv 64 | 103.2 | 0: 616, 1-17: 73 |" in line for line in lines)
    assert lines[-3] == "scale tiny; fastv with first_layer 1; seqprune with step 40, first_layer 1"
    assert lines[-2] == found.facts["command"]
    assert lines[-2].startswith("python benchmarks/models.py --scale tiny")
    assert f"transformers {t.__version__}" in lines[-1]
    assert lines[-1].endswith(found.facts["date"])


def test_the_geometry_is_the_published_one(bench: ModuleType):
    """Parameters as in the published weights: 14,126,854,144 and 16,584,333,312 bytes at two each; LLaVA-NeXT adds a newline."""
    counts = {}
    for name, geometry in bench.GEOMETRIES.items():
        with torch.device("meta"):
            model = getattr(t, f"{geometry.name}ForConditionalGeneration")._from_config(geometry.config("full"))
        counts[name] = sum(weight.numel() for weight in model.parameters())
    assert counts == {"llava": 7_063_427_072, "llavanext": 7_063_427_072 + 4096, "qwen25vl7b": 8_292_166_656}


@pytest.mark.parametrize("name", PROMPT)
def test_models_are_drawn_in_the_precision_wanted(bench: ModuleType, name: str):
    subject = bench.Subject.build(name, "tiny", "cpu", "bfloat16", "eager")
    model = subject.runtime.model
    assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}
    assert model.config._attn_implementation == "eager"
    prepared = subject.batch(2)
    assert prepared.inputs["pixel_values"].dtype == torch.bfloat16
    assert prepared.inputs["input_ids"].shape == (2, PROMPT[name])
    assert (subject.clip is None) == (name == "qwen25vl7b")


def test_the_vision_side_runs_for_its_own_clock_and_once_for_all_methods(
    bench: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    from transformers.models.clip import modeling_clip

    runs, own = [], modeling_clip.CLIPEncoder.forward

    def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
        runs.append(self.config.model_type)
        return own(self, *args, **kwargs)

    monkeypatch.setattr(modeling_clip.CLIPEncoder, "forward", counted)
    options = ["--model", "llava", "--method", "divprune", "script", "--batch", "1", "--attn", "sdpa", "--new-tokens", "4"]
    found = run(bench, tmp_path, capsys, *options)
    assert {row["new_tokens"] for row in found.rows.values()} == {4}
    assert runs.count("clip_vision_model") == 3, "two for the clock, one for 3 methods twice"
    assert runs.count("clip_text_model") == 2, "the question of every prefill of `script`"


def test_turns_medians_and_rows_out_of_memory(
    bench: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    """Methods take turns, the first turn counts for nothing but tokens, and what fails is left out of later turns."""
    turns: list[str] = []

    def fake(subject: Any, prepared: Any, method: Any, budget: str, new: int, look: bool) -> dict[str, Any]:
        turns.append(method.name)
        if method.name == "script" and turns.count("script") == 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        ms = 1000.0 if look else {"full": 10.0, "divprune": 1.0, "script": 2.0}[method.name] * turns.count(method.name)
        found = {"prefill_ms": ms, "token_ms": ms, "kv_bytes": 7, "peak_bytes": None, "new_tokens": new}
        return {**found, "entering": [5.0, 5.0, 2.0]} if look else found

    monkeypatch.setattr(bench, "answer", fake)
    options = ["--model", "llava", "--method", "divprune", "script", "--batch", "1", "--repeats", "3", "--attn", "sdpa"]
    found = run(bench, tmp_path, capsys, *options)
    assert turns == [*["full", "divprune", "script"] * 2, *["full", "divprune"] * 2]
    row = found.rows["llava", 1, "divprune"]
    assert (row["prefill_ms"], row["layers"], row["mean_tokens"]) == (3.0, "0-1: 5, 2: 2", 4.0)
    assert row["of_full"]["prefill_ms"] == pytest.approx(0.1)
    failed = found.rows["llava", 1, "script"]
    assert (failed["error"], failed["prefill_ms"], failed["of_full"]["kv_bytes"]) == ("out of memory", None, None)
    assert "| script 64 | - | out of memory | - |" in found.printed


@pytest.mark.parametrize("part", ["build", "vision", "full"])
def test_out_of_memory_elsewhere_is_rows_too(
    bench: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, part: str
):
    def fail(*args: Any) -> Any:
        if part != "full" or args[2].name == "full":
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return answer(*args)

    answer = bench.answer
    where = {"build": (bench.Subject, "build"), "vision": (bench, "vision"), "full": (bench, "answer")}[part]
    monkeypatch.setattr(*where, fail)
    found = run(bench, tmp_path, capsys, "--model", "llava", "--method", "divprune", "--batch", "1", "--attn", "sdpa")
    full, other = (found.rows["llava", 1, method] for method in ("full", "divprune"))
    assert full["error"] == "out of memory"
    assert other["error"] == ("" if part == "full" else "out of memory")
    assert other["of_full"] == dict.fromkeys(bench.QUANTITIES), "there is nothing to compare with"


def test_a_budget_out_of_reach_is_a_row(bench: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    found = run(bench, tmp_path, capsys, "--model", "llava", "--method", "pyramiddrop", "--batch", "1", "--attn", "sdpa")
    assert "smallest" in found.rows["llava", 1, "pyramiddrop"]["error"]
    assert found.rows["llava", 1, "full"]["error"] == ""


def test_other_failures_are_not_hidden(bench: ModuleType):
    with pytest.raises(RuntimeError, match="shapes"):
        bench.attempt(lambda: (_ for _ in ()).throw(RuntimeError("shapes do not match")))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--model", "llva"], "'llava'"),
        (["--method", "fastvv"], "'fastv'"),
        (["--repeats", "0"], "--repeats 0"),
        (["--new-tokens", "1"], "--new-tokens 1"),
        (["--batch", "4", "0"], "--batch 0"),
        (["--attn", "flash_attention_2"], "use --attn sdpa"),
        (["--json", "nowhere/at/all.json"], "nowhere/at"),
        (["--device", "cuda"], "--scale tiny --device cpu"),
    ],
)
def test_what_cannot_be_measured_is_one_line(
    bench: ModuleType, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, options: list[str], says: str
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert bench.main([*TINY, *options]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert says in error
    assert error.count("\n") == 1
