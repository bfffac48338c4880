"""The demo scripts, with stand-ins for the GPUs and for Python; and the studies they run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT

from script_vlmeval.benchmarks import BENCHMARKS
from script_vlmeval.cells import Config, read_study
from script_vlmeval.errors import UserError
from script_vlmeval.listing import tell
from script_vlmeval.methods import get_method
from script_vlmeval.runtime import method_of

DEMOS = ("demo_llava.sh", "demo_qwenvl2.sh")
STUDIES = {"demo_llava.sh": "llava", "demo_qwenvl2.sh": "qwen2vl"}
MODELS = {"demo_llava.sh": "llava", "demo_qwenvl2.sh": "qwen2vl2b"}
LAYERS = {"llava": 32, "qwen2vl2b": 28}
RELEASE = ["DocVQA_VAL", "OCRBench"]
# What a stand-in for Python does: it notes what it was asked, lists data from a file, fails where FAIL says so ("1:7" on GPU 1
# with status 7, "dry:2" when asked whether a study can be served), and hands programs to the real one.
FAKE_PYTHON = f"""#!{sys.executable} -IS
import json, os, sys, time
args, gpu = sys.argv[1:], os.environ.get("CUDA_VISIBLE_DEVICES")
if args[0] == "-" and "--data" not in args:
    os.execv({sys.executable!r}, [{sys.executable!r}, *args])
with open(os.environ["CALLS"], "a") as file:
    file.write(json.dumps([gpu, os.getpid(), args]) + "\\n")
if "--list" in args:
    print(open(os.environ["TABLE"]).read(), end="")
asked = {{"--dry-run": "dry" if "--config" in args else "", "infer": gpu}}
failures = dict(f.split(":") for f in os.environ.get("FAIL", "").split())
for flag, key in asked.items():
    if flag in args and key in failures:
        print("row 1\\rrow 2\\nerror: out of luck", file=sys.stderr)
        sys.exit(int(failures[key]))
if "infer" in args:
    time.sleep(float(os.environ.get("SLEEP", 0)))
"""


@dataclass
class Call:
    """One start of the stand-in: the GPUs it saw (None: all), and what it was asked for."""

    gpu: str | None
    pid: int
    args: list[str]

    def after(self, flag: str) -> list[str]:
        """The values of a flag, of its last occurrence."""
        if flag not in self.args:
            return []
        start = len(self.args) - self.args[::-1].index(flag)
        end = next((i for i in range(start, len(self.args)) if self.args[i].startswith("--")), len(self.args))
        return self.args[start:end]

    @property
    def phase(self) -> str:
        """dry, list, unpack, infer, eval or all."""
        if self.args[0] == "-":
            return "unpack"
        return "dry" if "--dry-run" in self.args else "list" if "--list" in self.args else (self.after("--mode") or ["all"])[0]

    def configs(self) -> list[Config]:
        if config := self.after("--config"):
            return list(read_study(Path(config[0])).configs)
        return [Config.parse(name) for name in self.after("--model")]


@dataclass
class Demo:
    """A demo in a folder of its own."""

    folder: Path
    environment: dict[str, str]

    @property
    def work(self) -> Path:
        return Path(self.environment["WORK_DIR"])

    def start(self, script: str, *args: str, gpus: int, **environment: str) -> subprocess.Popen[str]:
        smi = self.folder / "bin" / "nvidia-smi"
        lines = [f"GPU {i}: NVIDIA H100 (UUID: GPU-{i})" for i in range(gpus)] or ["No devices were found"]
        smi.write_text("#!/bin/sh\n" + "".join(f"echo '{line}'\n" for line in lines) + f"exit {0 if gpus else 6}\n")
        smi.chmod(0o755)
        return subprocess.Popen(
            [ROOT / script, *args],
            cwd=self.folder,
            env={**self.environment, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # which a test started with & would not have
        )

    def run(self, script: str, *args: str, gpus: int = 1, **environment: str) -> tuple[int, str, str]:
        """Exit status, what it said, and what it complained of."""
        process = self.start(script, *args, gpus=gpus, **environment)
        out, err = process.communicate(timeout=60)
        return process.returncode, out, err

    def without_data(self) -> Demo:
        """None of the fourteen benchmarks is at hand: less to run."""
        table = Path(self.environment["TABLE"])
        table.write_text(table.read_text().replace("present", "missing"))
        return self

    def calls(self, phase: str | None = None) -> list[Call]:
        path = Path(self.environment["CALLS"])
        lines = path.read_text().splitlines() if path.exists() else []
        found = [Call(*json.loads(line)) for line in lines]
        return [c for c in found if phase in (None, c.phase)]


@pytest.fixture
def demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Demo:
    """With the tables of GQA, MME and MM-Vet at hand."""
    folder = tmp_path / "a folder"
    for name in ("bin", "data"):
        (folder / name).mkdir(parents=True)
    for name in ("GQA_TestDev_Balanced", "MME", "MMVet"):
        (folder / "data" / f"{name}.tsv").touch()
    with monkeypatch.context() as patch:
        patch.setenv("LMUData", str(folder / "data"))
        tell("data")
    (folder / "table").write_text(capsys.readouterr().out)
    python = folder / "bin" / "my python"
    python.write_text(FAKE_PYTHON)
    python.chmod(0o755)
    unset = ("CUDA_VISIBLE_DEVICES", "FAIL", "SLEEP")
    environment = {k: v for k, v in os.environ.items() if k not in unset} | {
        "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
        "PYTHON": str(python),
        "WORK_DIR": str(folder / "work"),
        "CALLS": str(folder / "calls"),
        "TABLE": str(folder / "table"),
    }
    return Demo(folder, environment)


def grid(script: str) -> list[str]:
    """The configurations of the release's demo, the unpruned model first; FastV, too, where that is what it ran."""
    model, qwen = MODELS[script], "qwen" in script
    budgets = [f"r{removed}k{first}" for removed in (50, 75, 90, 100)[: 4 if qwen else 3] for first in (2, 3, 5)]
    return [f"{model}_full", *(f"{model}_{m}_{b}" for m in ("seqprune", "fastv")[: 1 + qwen] for b in budgets)]


def study(script: str) -> Path:
    return ROOT / "configs" / f"{STUDIES[script]}.yaml"


def names(configs: Sequence[Config]) -> list[str]:
    return [str(c) for c in configs]


@pytest.mark.parametrize("script", [*DEMOS, "scripts/demo.sh"])
def test_bash_reads_them(script: str):
    subprocess.run(["bash", "-n", ROOT / script], check=True)
    if script in DEMOS:
        assert os.access(ROOT / script, os.X_OK)


@pytest.mark.parametrize("script", DEMOS)
@pytest.mark.parametrize("visible", [None, "", "-1", "7"], ids=str)
def test_without_a_gpu_it_says_what_it_takes(demo: Demo, script: str, visible: str | None):
    hidden = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    code, out, err = demo.run(script, gpus=0 if visible is None else 2, **hidden)
    assert (code, out, demo.calls()) == (2, "", [])
    for part in ("GB", "MODEL_FOLDER", *RELEASE, "LMUData", "make demo"):
        assert part in err


@pytest.mark.parametrize("script", DEMOS)
def test_one_gpu(demo: Demo, script: str):
    code, out, err = demo.run(script, "a model", "--limit", "3", gpus=1)
    assert (code, err) == (0, "")
    assert [c.phase for c in demo.calls()] == ["dry", "dry", "list", "all", "all", "all"]
    first, second, last = demo.calls("all")
    assert names(first.configs()) == names(second.configs()) == grid(script)
    assert [first.after("--data"), second.after("--data"), last.after("--data")] == [[n] for n in RELEASE] + [["GQA", "MME"]]
    assert last.after("--config") == [str(study(script))]
    for call in (first, second, last):
        assert call.args[0] == str(ROOT / "run.py")
        assert call.after("--checkpoint") == [f"{MODELS[script]}=a model"]
        assert call.after("--work-dir") == [str(demo.work)]
        assert call.after("--limit") == ["3"]
        assert call.gpu is None
    for part in (
        "POPE (there is no POPE.tsv in the data folder",
        "MMVet (it needs a judge model",
    ):
        assert f"Left out: {part}" in out
    assert out.count("Left out") == 8


def test_without_a_folder_the_records_own_is_used_and_without_data_only_the_grid_is_run(demo: Demo):
    code, out, _ = demo.without_data().run("demo_llava.sh", "--quiet", gpus=1)
    assert code == 0
    assert [c.after("--data") for c in demo.calls("all")] == [[n] for n in RELEASE]
    assert out.count("Left out") == 10
    assert all("--quiet" in c.args and "--checkpoint" not in c.args for c in demo.calls("all"))


@pytest.mark.parametrize("script", DEMOS)
def test_three_gpus_share_the_configurations(demo: Demo, script: str):
    code, _, err = demo.run(script, "model", "--fresh", gpus=3)
    assert (code, err) == (0, "")
    assert [c.phase for c in demo.calls()] == ["dry", "dry", "list", *["unpack", "infer", "infer", "infer", "all"] * 3]
    wanted = [*[[Config.parse(n) for n in grid(script)]] * 2, list(read_study(study(script)).configs)]
    for i, (configs, data) in enumerate(zip(wanted, [*([n] for n in RELEASE), ["GQA", "MME"]], strict=True)):
        shares, score = demo.calls("infer")[3 * i : 3 * i + 3], demo.calls("all")[i]
        assert sorted(c.gpu or "" for c in shares) == ["0", "1", "2"]
        assert {names(c.configs())[0]: c.gpu for c in shares} == {str(c): str(g) for g, c in enumerate(configs[:3])}
        asked = [config for c in shares for config in c.configs()]
        assert len(asked) == len(configs)
        assert set(asked) == set(configs) == set(score.configs()), "with their parameters, each once"
        assert all(c.after("--data") == data for c in [*shares, score])
        assert all("--fresh" in c.args for c in shares)
        assert (score.gpu, "--fresh" in score.args) == (None, False)
    logs = {p.name for p in (demo.work / "logs").glob("*.log")}
    assert logs == {f"{label}.{i}.log" for label in ("grid_DocVQA_VAL", "grid_OCRBench", "study") for i in range(3)}


@pytest.mark.parametrize(("visible", "used"), [("2,0", ["0", "2"]), ("GPU-1, 2", ["2", "GPU-1"]), ("0,1,-1,2", ["0", "1"])])
def test_only_visible_gpus_are_used(demo: Demo, visible: str, used: list[str]):
    assert demo.without_data().run("demo_llava.sh", "model", gpus=3, CUDA_VISIBLE_DEVICES=visible)[0] == 0
    assert sorted({c.gpu or "" for c in demo.calls("infer")}) == used


def test_one_visible_gpu_of_three_is_one(demo: Demo):
    assert demo.without_data().run("demo_llava.sh", "model", gpus=3, CUDA_VISIBLE_DEVICES="1")[0] == 0
    assert not demo.calls("infer")
    assert {c.gpu for c in demo.calls("all")} == {"1"}


def test_more_gpus_than_configurations(demo: Demo):
    assert demo.without_data().run("demo_llava.sh", "model", gpus=11)[0] == 0
    assert [len(c.configs()) for c in demo.calls("infer")[:10]] == [1] * 10
    assert all(c.configs() for c in demo.calls("infer"))


@pytest.mark.parametrize(("status", "scoring"), [(1, "all"), (137, "eval")])
def test_a_process_that_fails_is_reported_when_the_others_are_done(demo: Demo, status: int, scoring: str):
    code, _, err = demo.without_data().run("demo_llava.sh", "model", gpus=3, FAIL=f"1:{status}", SLEEP="0.1")
    assert code == 1
    assert err.count(f"on GPU 1 failed with status {status}. The end of {demo.work}/logs/") == 2
    assert err.count("  row 2\n  error: out of luck\n") == 2
    assert len(demo.calls("infer")) == 6
    assert len(demo.calls(scoring)) == 2, "what is there is scored"


def test_where_every_process_is_refused_nothing_is_scored(demo: Demo):
    code, _, err = demo.without_data().run("demo_llava.sh", "model", gpus=2, FAIL="0:2 1:2")
    assert code == 2
    assert err.count("out of luck") == 4
    assert not demo.calls("all")
    assert not demo.calls("eval")


def test_a_study_that_the_folder_cannot_serve_leaves_the_grid(demo: Demo):
    code, _, err = demo.run("demo_llava.sh", "model", gpus=1, FAIL="dry:2")
    assert code == 2
    assert err.count("out of luck") == 1
    assert f"Left out: {study('demo_llava.sh')}" in err
    assert [c.after("--data") for c in demo.calls("all")] == [[n] for n in RELEASE]


def test_ctrl_c_stops_every_process(demo: Demo):
    process = demo.start("demo_llava.sh", "model", gpus=3, SLEEP="60")
    deadline = time.monotonic() + 30
    while len(demo.calls("infer")) < 3 and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "run the same command again" in err
    started = demo.calls("infer")
    assert len(started) == 3
    for call in started:
        with pytest.raises(ProcessLookupError):
            os.kill(call.pid, 0)


# -- the studies ---------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_budget_of_a_study_can_be_had(path: Path):
    """Of the models as published: their checkpoints need not be here."""
    for config in read_study(path).configs:
        method_of(config)


@pytest.mark.parametrize("script", DEMOS)
def test_every_budget_of_a_grid_can_be_had(script: str):
    for config in map(Config.parse, grid(script)):
        method_of(config)


def test_the_figures_in_the_comments():
    """Where stages and steps end without the parameters given: the smallest budget, in tokens or in percent."""
    said = {script: study(script).read_text() for script in DEMOS}
    for name, params, figure in (
        ("seqprune", {}, "steps of 10 percent end at 116"),
        ("pyramiddrop", {}, "8, 16 and 24, end at 145"),
        ("pyramiddrop", {"layers": "4,8,16"}, "4, 8 and 16 at 73"),
    ):
        assert figure in said["demo_llava.sh"]
        assert smallest(name, 576, 32, **params) == int(figure.split()[-1])
    for name, params, figure in (
        ("seqprune", {}, "steps of 10 percent end at 23"),
        ("seqprune", {"step": 25}, "of 25 at 12"),
        ("pyramiddrop", {"layers": "4,8,16"}, "4, 8 and 16 at 15"),
    ):
        assert figure in said["demo_qwenvl2.sh"]
        assert -(-100 * smallest(name, 2048, 28, **params) // 2048) == int(figure.split()[-1])
    assert "7, 14 and 21, end just above 25 percent" in said["demo_qwenvl2.sh"]
    assert smallest("pyramiddrop", 2048, 28) == 2048 // 4 + 1


def smallest(name: str, n: int, depth: int, **params: Any) -> int:
    """The smallest budget that can be had."""
    with pytest.raises(UserError) as refused:
        get_method(name, **params).plan(2, n, depth)
    found = int(str(refused.value).split("smallest budget here is ")[1].split(",")[0].rstrip("."))
    get_method(name, **params).plan(found, n, depth)
    return found


@pytest.mark.parametrize("script", DEMOS)
def test_the_studies_compare_at_equal_budgets(script: str):
    found = read_study(study(script))
    budgets = ("192", "128", "64") if script == "demo_llava.sh" else ("50pct", "25pct", "10pct")
    hybrid = "script+fastv"
    methods = ("cdpruner", "script", "divprune", "fastv", "sparsevlm", hybrid, "seqprune", "pyramiddrop")
    if script != "demo_llava.sh":
        methods = (*(m for m in methods if m != hybrid), hybrid)
    model = MODELS[script]
    wanted = [(m, b) for m in methods for b in budgets if (m, b) != (hybrid, "50pct")]  # which is fastv
    assert names(found.configs) == [f"{model}_full", *(f"{model}_{m}_{b}" for m, b in wanted)]
    records = [BENCHMARKS[name] for name in found.data]
    assert all(b.kind == "host" and not b.judge for b in records)
    assert found.data == ("GQA", "VizWiz", "ScienceQA", "TextVQA", "POPE", "MME", "MMBench", "MMBench_CN")
