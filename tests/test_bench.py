"""`bench`: real sizes, turns, clocks, tokens and caches as planned, the ideal, files, and failures that stay rows."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as t
from conftest import ROOT

from script_vlmeval import tower
from script_vlmeval.backbones import Models
from script_vlmeval.bench import clocks, command, geometry, measure, passes, rows, subject, table
from script_vlmeval.bench import command as bench
from script_vlmeval.bench.command import _generations
from script_vlmeval.bench.wanted import wanted
from script_vlmeval.cells import Config
from script_vlmeval.efficiency import Shape, kv_bytes
from script_vlmeval.errors import UserError
from script_vlmeval.methods import get_method
from script_vlmeval.runtime import Runtime

FAST: dict[str, Any] = {"repeats": 1, "new_tokens": 2, "device": "cpu", "quiet": True}
BUDGET = {"llava": 64, "llavanext": 320, "qwen25vl7b": 102}
PROMPT = {"llava": 616, "llavanext": 2920, "qwen25vl7b": 1066}  # 40 words, the picture, and Qwen's two marks around it
NAMES = ("full", "cdpruner", "script", "fastv", "seqprune", "ideal")


SETTINGS = {("script", "192"): {}, ("fastv", "192"): {"first_layer": 1}, ("fastv", "144"): {"first_layer": 1}}
SETTINGS |= {("seqprune", "144"): {"first_layer": 1, "step": 40}}


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """The models' prompts through narrow, shallow ones."""
    for name, found in list(geometry.GEOMETRIES.items()):
        monkeypatch.setitem(geometry.GEOMETRIES, name, found.narrow())


def found_in(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "bench.json").read_text())


def by_name(folder: Path) -> dict[tuple[str, int], dict[str, Any]]:
    return {(row["name"], row["batch"]): row for row in found_in(folder)["rows"]}


@pytest.fixture
def lightly(monkeypatch: pytest.MonkeyPatch) -> None:
    """JSON alone: a workbook and plots take longer than what they show."""
    from script_vlmeval.bench import files

    monkeypatch.setattr(files, "save", lambda *_: None)
    monkeypatch.setattr(files, "draw", lambda *_: None)


# -- models of real size -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("model", PROMPT)
def test_a_grid_of_methods_and_batches(model: str, narrow: None, lightly: None, tmp_path: Path):
    budget = "10pct" if model.startswith("qwen") else str(BUDGET[model])
    assert bench(random_weights=[model], budgets=[budget], batch_sizes=["1", 2], out=tmp_path, **FAST) == 0
    found = by_name(tmp_path)
    assert list(found) == [(f"{model}_{m}{'' if m == 'full' else f'_{budget}'}", n) for n in (1, 2) for m in NAMES]
    shape = Shape.of(geometry.GEOMETRIES[model].config())
    for (_, size), row in found.items():
        check_row(row, found[f"{model}_full", size], PROMPT[model], BUDGET[model])
        assert row["kv_bytes"] == size * kv_bytes(shape, row["entering"], 4), "what the cache holds is what was planned"
        inside = row["method"] in ("fastv", "seqprune")
        assert (row["entering"][0] == PROMPT[model]) == (row["method"] == "full" or inside)
        assert row["flat"] != inside
        assert row["params"] == settings(row["method"])
    ideal, script = found[f"{model}_ideal_{budget}", 2], found[f"{model}_script_{budget}", 2]
    assert (ideal["entering"], ideal["kv_bytes"]) == (script["entering"], script["kv_bytes"])


def settings(method: str) -> dict[str, int]:
    """What a grid gives a method in a narrow model: of its 18 layers, and no gentler step reaches these budgets."""
    return {"fastv": {"first_layer": 1}, "seqprune": {"first_layer": 1, "step": 40}}.get(method, {})


def check_row(row: dict[str, Any], full: dict[str, Any], prompt: int, budget: int) -> None:
    """Tokens within the budget, times that contain each other, ratios of what was measured."""
    assert row["error"] is None
    visual = {616: 576, 2920: 2880, 1066: 1024}[prompt]
    assert (row["visual_full"], row["text"]) == (visual, prompt - visual)
    assert row is full or budget * 0.9 < row["visual"] <= budget
    at = row["median"]
    assert 0 < at["prefill_ms"] < row["repeats"]["generation_ms"][0]
    assert ("selection_ms" in at) == (row["method"] not in ("full", "ideal"))
    if "selection_ms" in at:
        assert 0 <= at["question_ms"] <= at["selection_ms"] < at["prefill_ms"], "selection and the rest make the prefill"
        assert (at["question_ms"] > 0) == (row["method"] in ("cdpruner", "script"))
    assert row["answers_per_second"] == pytest.approx(1000 * row["batch"] / at["answer_ms"])
    assert at["ttft_ms"] == pytest.approx(at["encoder_ms"] + at["prefill_ms"])
    assert at["answer_ms"] == pytest.approx(at["encoder_ms"] + row["repeats"]["generation_ms"][0])
    assert "peak_bytes" not in at, "a CPU has no such counter"
    for name in ("prefill_ms", "ttft_ms", "token_ms", "answer_ms"):
        assert row["against"][f"{name} x full"] == pytest.approx(full["median"][name] / at[name])
    assert row["against"]["prefill_flops x full"] == full["prefill_flops"] / row["prefill_flops"]


def test_the_geometry_is_the_published_one():
    """Parameters as in the published weights, 14,126,854,144 and 16,584,333,312 bytes at two each; LLaVA-NeXT adds a newline, and
    the 13B of LLaVA's own release, of 13,350,839,296, grew by 64 words."""
    counts = {}
    for name, found in geometry.GEOMETRIES.items():
        with torch.device("meta"):
            model = getattr(t, f"{found.name}ForConditionalGeneration")._from_config(found.config())
        counts[name] = sum(weight.numel() for weight in model.parameters())
    assert counts.pop("mid") < 50_000_000
    published = {"llava": 7_063_427_072, "llavanext": 7_063_427_072 + 4096, "qwen25vl7b": 8_292_166_656}
    larger = 13_350_839_296 + 2 * 64 * 5120
    assert counts == {**published, "llava13b": larger, "llavanext13b": larger + 5120}


@pytest.mark.parametrize("name", PROMPT)
def test_models_are_drawn_in_the_precision_wanted(name: str, narrow: None):
    made = subject.drawn(geometry.record(name), geometry.GEOMETRIES[name], "cpu", "bfloat16", "eager")
    assert {weight.dtype for weight in made.model.parameters()} == {torch.bfloat16}
    assert made.model.config._attn_implementation == "eager"
    prepared = made.batch(2)
    assert prepared.inputs["pixel_values"].dtype == torch.bfloat16
    assert prepared.inputs["input_ids"].shape == (2, PROMPT[name])
    assert (made.text_side is None) == (name == "qwen25vl7b")


def test_weights_that_no_memory_holds_are_a_row(monkeypatch: pytest.MonkeyPatch, lightly: None, tmp_path: Path):
    monkeypatch.setattr(subject.os, "sysconf", lambda name: 1 << 14)
    assert bench(random_weights=["llava"], methods=["script"], budgets=["64"], out=tmp_path, **FAST) == 1
    assert {row["error"] for row in by_name(tmp_path).values()} == {
        "its weights take 26 GiB, and this computer has 0: use a GPU, or mid."
    }


def tower_flops(model: Any) -> int:
    """Of one picture: patches, layers of the tower, and the two matrices that join it to the language model."""
    tower, text = model.config.vision_config, model.config.text_config.hidden_size
    side, d = tower.image_size // tower.patch_size, tower.hidden_size
    patches, tokens = side**2, side**2 + 1
    layer = 8 * tokens * d**2 + 4 * tokens**2 * d + 4 * tokens * d * tower.intermediate_size
    first = 2 * patches * 3 * tower.patch_size**2 * d
    return first + tower.num_hidden_layers * layer + 2 * patches * (d * text + text * text)


# -- the embedded model, with its weights --------------------------------------------------------------------------------------
def test_a_checkpoint_and_all_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    from openpyxl import load_workbook

    names = ["tiny_script_16", "tiny_cdpruner_25pct", "tiny_fastv_60"]
    assert bench(names, batch_sizes=(2,), out=tmp_path, given=["bench", "--model", *names], **FAST | {"repeats": 3}) == 0
    facts, found = found_in(tmp_path), by_name(tmp_path)
    assert facts["command"] == "python run.py bench --model tiny_script_16 tiny_cdpruner_25pct tiny_fastv_60"
    assert facts["versions"]["transformers"] == t.__version__
    assert (facts["dtype"], facts["attention"], facts["seed"]) == ("float32", "sdpa", 0)
    assert found["tiny_cdpruner_25pct", 2]["visual"] == found["tiny_ideal_25pct", 2]["visual"] == 36
    assert {row["encoder_flops"] for row in found.values()} == {tower_flops(Runtime.load("tiny", device="cpu").model)}
    assert all(len(row["repeats"][name]) == 3 for row in found.values() for name in ("prefill_ms", "encoder_ms"))
    book = load_workbook(tmp_path / "bench.xlsx")
    assert book.sheetnames == ["bench", "turns", "about"]
    head, *lines = book["bench"].iter_rows(values_only=True)
    at = {name: head.index(name) for name in ("configuration", "prefill ms", "KV MiB", "prefill % of ideal")}
    assert [line[at["configuration"]] for line in lines] == [name for name, _ in found]
    script = found["tiny_script_16", 2]
    assert lines[1][at["prefill ms"]] == pytest.approx(script["median"]["prefill_ms"])
    assert lines[1][at["KV MiB"]] == pytest.approx(script["kv_bytes"] / 2**20)
    assert book["turns"].max_row == 1 + 3 * len(found)
    assert (tmp_path / "bench.png").read_bytes().startswith(b"\x89PNG")
    assert b"<svg" in (tmp_path / "bench.svg").read_bytes()
    check_printed(capsys.readouterr().out, facts)


def check_printed(text: str, facts: dict[str, Any]) -> None:
    lines = text.splitlines()
    assert max(map(len, lines)) <= table.WIDTH
    assert lines[0].startswith("tiny, batch 2; 144 visual and ")
    assert lines[1].split()[:2] == ["method", "tokens"]
    assert "peak" not in text, "a CPU does not count it"
    assert [line.split()[:3] for line in lines if line.startswith("script")] == [["script", "16", "16"]]
    assert facts["command"] in lines
    assert any(facts["machine"] in line and facts["date"] in line for line in lines)


def test_hooks_after_are_hooks_before_and_answers_have_their_length(tmp_path: Path):
    (task,) = wanted(["tiny_script_16", "tiny_fastv_60"])
    made = subject.loaded(task.record, Models(), "cpu", "float32", "sdpa")
    made.model(**made.batch(1).inputs)  # transformers leaves some of its own
    before = hooks(made.model)
    heard: list[str] = []
    measured = measure.measure(made, task.methods(), 1, measure.Turns(2, 12, 0, heard.append))
    assert hooks(made.model) == before
    assert [row.method for row in measured] == ["full", "script", "ideal", "fastv", "ideal"]
    assert len(heard) == 3 + 3 * 5, "a look at each configuration, then a warm-up and two turns of all"


def hooks(model: torch.nn.Module) -> list[int]:
    return [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]


def test_the_ideal_reads_so_many_tokens_and_has_no_hooks(monkeypatch: pytest.MonkeyPatch, narrow: None):
    made = subject.drawn(geometry.record("llava"), geometry.GEOMETRIES["llava"], "cpu", "float32", "sdpa")
    seen: dict[str, list[Any]] = {}
    own = passes.generate

    def look(model: Any, given: Any, new: int, clock: Any, context: Any) -> Any:
        lm, shapes = model.model.language_model, list[tuple[int, ...]]()
        handle = lm.layers[5].register_forward_pre_hook(lambda _, args, kw: shapes.append(args[0].shape), with_kwargs=True)
        found = own(model, given, new, clock, context)
        handle.remove()
        seen.setdefault("ideal" if "inputs_embeds" in given else "other", []).append((shapes, given))
        return found

    monkeypatch.setattr(measure, "generate", look)
    methods = {Config.parse(n): get_method(n.split("_")[1]) for n in ("llava_full", "llava_script_64")}
    measure.measure(made, methods, 2, measure.Turns(1, 3, 0, lambda _: None))
    assert len(seen["ideal"]) == 2
    shapes, given = seen["ideal"][0]
    assert shapes == [(2, 104, 16), (2, 1, 16), (2, 1, 16)]
    assert given["attention_mask"].shape == (2, 104)
    assert "pixel_values" not in given


def test_the_vision_side_runs_for_its_own_clock_and_once_for_all(
    narrow: None, lightly: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from transformers.models.clip import modeling_clip

    runs, own = [], modeling_clip.CLIPEncoder.forward

    def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
        runs.append(self.config.model_type)
        return own(self, *args, **kwargs)

    monkeypatch.setattr(modeling_clip.CLIPEncoder, "forward", counted)
    bench(random_weights=["llava"], methods=["divprune", "script"], budgets=["64"], out=tmp_path, **FAST)
    assert runs.count("clip_vision_model") == 3, "two for the clock, one for all that is compared"
    assert runs.count("clip_text_model") == 3, "the question of every prefill of `script`: the look, the warm-up, the turn"


def test_attention_in_the_tower_is_computed_in_every_turn(monkeypatch: pytest.MonkeyPatch, narrow: None):
    runs, own = list[int](), tower._attended
    monkeypatch.setattr(tower, "_attended", lambda *given: (runs.append(1), own(*given))[1])
    made = subject.drawn(geometry.record("llava"), geometry.GEOMETRIES["llava"], "cpu", "float32", "sdpa")
    methods = {Config.parse(f"llava_{name}_64"): get_method(name) for name in ("fastervlm", "visionzip")}
    measure.measure(made, methods, 1, measure.Turns(2, 2, 0, lambda _: None))
    assert len(runs) == 2 * 4, "the look, the warm-up and two turns of each"


def test_attention_that_no_counter_sees_leaves_the_encoders_figure_out(
    narrow: None, lightly: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    made = subject.drawn(geometry.record("llava"), geometry.GEOMETRIES["llava"], "cpu", "float32", "eager")
    assert measure._attention(made.model) == "eager"
    for kind, known in (("flash_attention_2", False), ("sdpa", True)):
        monkeypatch.setattr(measure, "_attention", lambda _, kind=kind: kind)
        bench(random_weights=["llava"], methods=["script"], budgets=["64"], out=tmp_path, **FAST)
        assert all(("encoder_flops" in row) == known for row in by_name(tmp_path).values())
        assert ("GFLOPs" in capsys.readouterr().out) == known


# -- clocks --------------------------------------------------------------------------------------------------------------------
class Events(clocks.Clock):
    """Counts what it is asked."""

    def __init__(self) -> None:
        super().__init__("cpu")
        self.asked: list[str] = []

    def now(self) -> Any:
        self.asked.append("now")
        return float(len(self.asked))

    def settle(self) -> None:
        self.asked.append("settle")


def test_a_generation_waits_once_at_its_end():
    clock = Events()
    made = subject.loaded(wanted(["tiny_script_16"])[0].record, Models(), "cpu", "float32", "sdpa")
    prepared, method = made.batch(1), get_method("script")

    def context(on: Any) -> Any:
        return passes.Timed(
            on, made.model, method, 16, question=prepared.questions, query=passes.Asked(made.query(method), on.spans)
        )

    figures, _ = passes.generate(made.model, prepared.inputs, 3, clock, context)
    assert clock.asked == ["now"] * 9 + ["settle"], "called, prefill (selection (question)), cache read, end"
    assert figures["selection_ms"] == 3000
    assert figures["question_ms"] == 1000
    assert figures["prefill_ms"] == 5000
    assert figures["token_ms"] == 500
    assert figures["generation_ms"] == 8000


def test_a_gpu_is_clocked_by_events(monkeypatch: pytest.MonkeyPatch):
    class Event:
        made = 0

        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            Event.made += 1
            self.at = Event.made

        def elapsed_time(self, other: Any) -> float:
            return 2.5 * (other.at - self.at)

    monkeypatch.setattr(torch.cuda, "Event", Event)
    clock = clocks.Clock("cuda")
    begin, _, end = clock.now(), clock.now(), clock.now()
    assert clock.ms(begin, end) == 5.0
    spans = clocks.Spans(clock)
    for _ in range(2):
        with spans.of("a"):
            pass
    assert (spans.ms("a"), spans.ms("b")) == (5.0, 0)


# -- turns and failures --------------------------------------------------------------------------------------------------------
@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[str, int], float | Exception]], list[str]]:
    """Generations whose times are given: of a budget, or `full`, at its n-th one; and the order in which they came."""

    def use(ms: Callable[[str, int], float | Exception]) -> list[str]:
        order: list[str] = []

        def generate(model: Any, given: Any, new: int, clock: Any, context: Any) -> Any:
            whose = names(model, given, context)
            order.append(whose)
            found = ms(whose, order.count(whose))
            if isinstance(found, Exception):
                raise found
            figures = dict.fromkeys(("prefill_ms", "selection_ms", "question_ms", "token_ms", "generation_ms"), found)
            with context(passes.Passes(clock)) as trace:
                if trace is not None:
                    model(**given, use_cache=True)
                    trace.counts(6)
                    return {**figures, "kv_bytes": 7, "peak_bytes": None}, Kept(trace.counts(6))
            return {**figures, "kv_bytes": 7, "peak_bytes": None}, None

        monkeypatch.setattr(measure, "generate", generate)
        return order

    return use


class Kept:
    def __init__(self, counts: Any) -> None:
        self.found = counts

    def counts(self, layers: int) -> Any:
        return self.found


def names(model: Any, given: Any, context: Any) -> str:
    if "inputs_embeds" in given:
        return f"ideal {given['inputs_embeds'].shape[1]}"
    made = context(passes.Passes(clocks.Clock("cpu")))
    return "full" if isinstance(made, nullcontext) or made.method.name == "full" else made.method.name


def test_turns_are_shuffled_the_first_two_count_for_nothing_and_medians_are_told(fake: Any, lightly: None, tmp_path: Path):
    of = {"full": 10.0, "divprune": 1.0, "script": 2.0}
    order = fake(lambda whose, n: 1000.0 if n < 3 and whose in of else of.get(whose, 0.5) * n)
    bench(["tiny_divprune_16", "tiny_script_16"], out=tmp_path, **FAST | {"repeats": 5})
    ideal = next(name for name in order if name.startswith("ideal"))
    assert order[:3] == ["full", "divprune", "script"]
    turns = [order[3 + 4 * i : 7 + 4 * i] for i in range(6)]
    assert all(sorted(turn) == sorted(["full", "divprune", "script", ideal]) for turn in turns)
    assert len({tuple(turn) for turn in turns}) > 2, "the order differs from turn to turn"
    row = by_name(tmp_path)["tiny_divprune_16", 1]
    assert row["repeats"]["prefill_ms"] == [3, 4, 5, 6, 7]
    assert (row["median"]["prefill_ms"], row["quartiles"]["prefill_ms"]) == (5, [4, 6])
    assert row["against"]["prefill_ms x full"] == 10
    assert row["against"]["prefill_ms % of ideal"] == pytest.approx(100 * 2.0 / 5), "its turns 2 to 6, at half a ms each"


@pytest.mark.parametrize("when", [1, 2, 4])
def test_what_runs_out_of_memory_is_left_out(fake: Any, lightly: None, tmp_path: Path, capsys: Any, when: int):
    memory = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
    order = fake(lambda whose, n: memory if whose == "script" and n == when else 1.0)
    assert bench(["tiny_divprune_16", "tiny_script_16"], out=tmp_path, **FAST | {"repeats": 3}) == 1
    assert order.count("script") == when
    assert order.count("divprune") == 5
    found = by_name(tmp_path)
    assert found["tiny_script_16", 1]["error"] == "out of memory"
    assert "prefill_ms" not in found["tiny_script_16", 1]["median"]
    assert found["tiny_divprune_16", 1]["error"] is None
    assert "script 16: not measured, out of memory" in capsys.readouterr().out


@pytest.mark.parametrize("part", ["build", "batch", "full"])
def test_out_of_memory_elsewhere_is_rows_too(
    fake: Any, lightly: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str
):
    def fail(*_: Any, **__: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    if part == "build":
        monkeypatch.setattr(subject, "loaded", fail)
    if part == "batch":
        monkeypatch.setattr(subject.Subject, "batch", fail)
    fake(lambda whose, n: torch.OutOfMemoryError("CUDA out of memory.") if whose == "full" else 1.0)
    assert bench(["tiny_divprune_16"], out=tmp_path, **FAST) == 1
    full, other = (by_name(tmp_path)[f"tiny_{name}", 1] for name in ("full", "divprune_16"))
    assert full["error"] == "out of memory"
    assert other["error"] == (None if part == "full" else "out of memory")
    assert all(value is None for name, value in other["against"].items() if "full" in name), "there is nothing to compare with"


def test_a_budget_out_of_reach_is_a_row_beside_others(lightly: None, tmp_path: Path):
    assert bench(["tiny_fastv_8", "tiny_script_16"], out=tmp_path, **FAST) == 1
    found = by_name(tmp_path)
    assert "smallest" in found["tiny_fastv_8", 1]["error"]
    assert found["tiny_script_16", 1]["error"] is None


@pytest.mark.parametrize(("named", "status"), [([], 0), (["llavanext_fastv_150"], 1)])
def test_what_a_grid_cannot_reach_is_told_and_no_failure(
    narrow: None, lightly: None, tmp_path: Path, capsys: pytest.CaptureFixture[str], named: list[str], status: int
):
    asked: Any = {"random_weights": ["llavanext"], "methods": ["divprune", "fastv"], "budgets": ["150"], "out": tmp_path}
    assert bench(named, **asked, **FAST) == status
    assert "fastv 150: not measured, " in capsys.readouterr().out
    assert by_name(tmp_path)["llavanext_divprune_150", 1]["error"] is None


def test_a_grid_without_anything_to_measure_is_refused(narrow: None, tmp_path: Path):
    with pytest.raises(UserError, match="llavanext_fastv_150"):
        bench(random_weights=["llavanext"], methods=["fastv"], budgets=["150"], out=tmp_path, **FAST)


def test_other_failures_are_not_hidden():
    with pytest.raises(RuntimeError, match="shapes"):
        measure.attempt(lambda: (_ for _ in ()).throw(RuntimeError("shapes do not match")))


def test_what_was_measured_is_there_when_the_rest_is_killed(lightly: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    own = subject.Subject.batch

    def batch(self: Any, size: int) -> Any:
        if size == 2:
            raise KeyboardInterrupt
        return own(self, size)

    monkeypatch.setattr(subject.Subject, "batch", batch)
    with pytest.raises(KeyboardInterrupt):
        bench(["tiny_script_16"], batch_sizes=(1, 2), out=tmp_path, **FAST)
    assert {size for _, size in by_name(tmp_path)} == {1}


# -- what is asked -------------------------------------------------------------------------------------------------------------
def test_names_and_grids():
    (named,) = wanted(["llava_script_64", "llava_full"], ["llava"])
    assert [str(config) for config in named.configs] == ["llava_full", "llava_script_64"]
    both = wanted(["llava_script_64", "tiny_script_16"], ["llava"], methods=["seqprune", "full"])
    assert [str(config) for config in both[0].configs][1:3] == ["llava_script_64", "llava_seqprune_192"]
    assert [dict(config.params) for config in both[0].configs[2:]] == [{}, {}, {"step": 25}], "gentle where that reaches it"
    (asked,) = wanted([], ["llava"], ["seqprune"], ["64"], {"step": 30})
    assert dict(asked.configs[1].params) == {"step": 30}
    (scheduled,) = wanted([], ["mid"], ["fastv"], ["r75k2"])
    assert not any(isinstance(method, str) for method in scheduled.methods().values()), "the budget says the first layer"
    assert (both[1].geometry, str(both[1].configs[1])) == (None, "tiny_script_16")
    (grid,) = wanted([], ["llavanext"])
    assert len(grid.configs) == 1 + 3 * 4
    cannot = [str(config) for config, method in grid.methods().items() if isinstance(method, str)]
    assert cannot == ["llavanext_fastv_160", "llavanext_seqprune_160"], "two unpruned layers of 32 are more than that"
    (mid,) = wanted([], ["mid"])
    assert not any(isinstance(method, str) for method in mid.methods().values())


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({}, "Nothing to measure"),
        ({"names": ["tiny_scrip_16"]}, "'script'"),
        ({"names": ["tny_script_16"]}, "'tiny'"),
        ({"names": ["tiny_script"]}, "no budget"),
        ({"names": ["tiny_fastv_8"]}, "'tiny_fastv_8'"),
        ({"names": ["mid_script_16"]}, "--random-weights mid"),
        ({"names": ["tiny_script_16"], "methods": ["fastv"]}, "--method makes a grid"),
        ({"random_weights": ["llva"]}, "'llava'"),
        ({"random_weights": ["mid"], "methods": ["fastvv"]}, "'fastv'"),
        ({"random_weights": ["mid"], "budgets": ["many"]}, "'many'"),
        ({"random_weights": ["mid"], "budgets": ["600"]}, "576"),
        ({"random_weights": ["llavanext"], "models": Models(protocol="hf")}, "--protocol hf"),
        ({"names": ["tiny_script_16"], "params": {"gama": 1}}, "gama"),
        ({"names": ["tiny_full"], "repeats": "0"}, "--repeats 0"),
        ({"names": ["tiny_full"], "new_tokens": 1}, "--new-tokens 1"),
        ({"names": ["tiny_full"], "batch_sizes": [4, "auto"]}, "--batch-size auto"),
        ({"names": ["tiny_full"], "attn": "flash_attention_2"}, "--attn sdpa"),
        ({"names": ["tiny_full"], "device": "cuda"}, "--random-weights mid --device cpu"),
        ({"names": ["tiny_full"], "device": "all"}, "one device"),
    ],
)
def test_what_cannot_be_measured_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: dict[str, Any], says: str):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError) as error:
        bench(asked.pop("names", ()), **FAST | {"out": tmp_path / "out"} | asked)
    assert says in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists(), "nothing is left behind"


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="-o"):
        bench(["tiny_full"], out=tmp_path / "file" / "bench", **FAST)


# -- levels --------------------------------------------------------------------------------------------------------------------
def test_each_number_of_tokens_has_its_ideal():
    (task,) = wanted(["tiny_seqprune_r30k2", "tiny_fastv_r30k2"])
    made, heard, methods = subject.loaded(task.record, Models(), "cpu", "float32", "sdpa"), list[str](), task.methods()
    found = measure.measure(made, methods, 1, measure.Turns(2, 2, 0, heard.append))
    assert [row.method for row in found] == ["full", "seqprune", "ideal", "fastv", "ideal"]
    for row, ideal in (found[1:3], found[3:5]):
        assert 0 <= ideal.counted["visual"] - row.counted["visual"] < 1
        assert row.against["prefill_ms % of ideal"] == pytest.approx(100 * ideal.median("prefill_ms") / row.median("prefill_ms"))
    assert found[1].counted["visual"] - found[3].counted["visual"] > 1
    assert len(heard) == _generations(methods, 2), "what the bar counts to"


def test_means_just_below_a_budget_share_its_ideal():
    counts = {"script": 192.0, "fastv": 191.25, "seqprune": 190.9, "ideal": 192}
    took = {"prefill_ms": [1.0], "encoder_ms": [1.0]}
    made = [rows.Row("llava", name, "192", 1, {}, took, {"visual": visual}) for name, visual in counts.items()]
    rows.compare(made)
    assert [row.against["prefill_ms % of ideal"] for row in made] == [100, 100, None, None]


# -- what is told --------------------------------------------------------------------------------------------------------------
def test_quartiles():
    assert rows.Spread.of([]) is None
    assert rows.Spread.of([3.0]) == rows.Spread(3.0, 3.0, 3.0)
    assert rows.Spread.of([5.0, 1.0, 3.0, 2.0, 4.0]) == rows.Spread(2.0, 3.0, 4.0)


def test_the_table_of_the_largest_figures_fits():
    each = {"prefill_ms": 12345.6, "selection_ms": 1234.5, "token_ms": 234.5, "generation_ms": 23456.7, "encoder_ms": 2345.6}
    made = [
        rows.Row(
            "llavanext13b", method, budget, 16, {}, {n: [v, 1.1 * v] for n, v in (each | {"peak_bytes": 7e10}).items()}, counted
        )
        for method, budget in (("full", ""), ("scriptcompat", "r75k2"), ("ideal", "r75k2"))
        for counted in [{"visual": 2879.9, "visual_full": 2880, "text": 40, "kv_bytes": 4.8e10, "prefill_flops": 8.2e13}]
    ]
    rows.compare(made)
    lines = table.lines(made)
    assert max(map(len, lines)) <= table.WIDTH
    assert lines[1].split()[-3:] == ["KV", "peak", "FLOPs"]
    assert len(lines) == 5


def test_settings_that_are_not_a_methods_own_are_told():
    made = [rows.Row("mid", *of, 1, params) for of, params in SETTINGS.items()]
    assert table.lines(made)[-1] == "fastv 192, fastv 144: first_layer=1; seqprune 144: first_layer=1, step=40"


def test_short_numbers():
    assert [table.short(x) for x in (41.65e12, 4.2e12, 3.7e8, 12.0)] == ["41.6T", "4.20T", "370.0M", "12.0"]
    assert [table.ms(x) for x in (12345.6, 123.45, 1.234, None)] == ["12,346", "123.5", "1.23", "-"]


def test_the_door_of_the_command_is_light():
    heavy = ("torch", "transformers", "openpyxl", "matplotlib")
    code = f"import sys, script_vlmeval.bench; print(*(m for m in {heavy} if m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout.strip()) == (0, "")
    assert callable(command)


# -- on a GPU ------------------------------------------------------------------------------------------------------------------
def said_by_the_script(folder: Path, *parts: str) -> list[list[str]]:
    """The commands that benchmarks/gpu.sh would run."""
    stand_in = folder / "python"
    stand_in.write_text('#!/bin/sh\n[ "$1" = -c ] || printf "%s\\n" "$*" >> "$SAID"\n')
    stand_in.chmod(0o755)
    environment = {"PATH": "/usr/bin:/bin", "PYTHON": str(stand_in), "SAID": str(folder / "said")}
    script = ["bash", str(ROOT / "benchmarks" / "gpu.sh"), str(folder / "out"), *parts]
    done = subprocess.run(script, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return [line.split() for line in (folder / "said").read_text().splitlines()]


def test_the_script_for_a_gpu_runs_commands_that_exist(tmp_path: Path):
    for script, *given in said_by_the_script(tmp_path):
        source = (ROOT / script).read_text()
        if script == "run.py":
            source = (ROOT / "script_vlmeval" / "cli.py").read_text()
            if '"bench"' not in source:
                pytest.skip("the command line has no bench yet")
        assert not [flag for flag in given if flag.startswith("-") and f'"{flag}"' not in source]


def test_the_script_measures_what_is_claimed(tmp_path: Path):
    found = [line for line in said_by_the_script(tmp_path) if line[:2] == ["run.py", "bench"]]
    models = [(line[line.index("--random-weights") + 1], line[line.index("--attn") + 1]) for line in found]
    assert set(models) == {(model, attn) for model in PROMPT for attn in ("sdpa", "flash_attention_2")}
    for line in found:
        at = line.index("--batch-size")
        assert line[at + 1 : at + 3] == ["1", "16"]
        named = [f"llava_seqprune_{budget}" for budget in ("r50k2", "r75k2", "r90k2")]
        assert set(named) <= set(line) or "llava" not in line, "as released, and not only at a budget"
    (one,) = said_by_the_script(tmp_path / "one" if (tmp_path / "one").mkdir() is None else tmp_path, "llavanext-sdpa")
    assert one[one.index("--budget") + 1 :][:3] == ["640", "320", "160"]
