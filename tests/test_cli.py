"""The door: names, flags and errors, without loading a model."""

from __future__ import annotations

import subprocess
import sys

import pytest
from conftest import ROOT

from script_vlmeval.cli import main


def refused(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """The message of a run that must be refused, in one line, with status 2."""
    assert main(argv) == 2
    out, err = capsys.readouterr()
    assert not out
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    return err


@pytest.mark.parametrize(
    ("argv", "part"),
    [
        (["--model", "tinny_script_16", "--data", "ShapesVQA"], "Did you mean 'tiny'?"),
        (["--model", "tiny_scirpt_16", "--data", "ShapesVQA"], "Did you mean 'script' or"),
        (["--model", "tiny_script_0", "--data", "ShapesVQA"], "at least 1"),
        (["--model", "script_16", "--data", "ShapesVQA"], "names no model"),
        (["--model", "tiny_grid_200", "--data", "ShapesVQA", "--dry-run"], "use 'tiny_full' for all"),
        (["--model", "tiny_dart_16", "--data", "ShapesVQA", "--dry-run"], "25 with layer=1"),
        (["conformance", "--method", "script", "--limit", "3"], "takes no --limit"),
        (["report", "--limit", "3"], "takes no --limit"),
        (["--model", "tiny_script_-4", "--data", "ShapesVQA"], "negative"),
        (["--model", "tiny_script_many", "--data", "ShapesVQA"], "not a number"),
        (["--model", "tiny_script", "--data", "ShapesVQA"], "no budget"),
        (["--model", "tiny_script_16"], "No benchmark"),
        (["--data", "ShapesVQA"], "No model"),
        (["--model", "tiny_script_16", "--data", "ShapesVQA", "--limit", "0"], "at least 1"),
        (["--model", "tiny_script_16", "--data", "ShapesVQA", "--limit", "few"], "not a whole number"),
        (["--model", "tiny_script_16", "--data", "ShapesVQA", "--batch-size", "-1"], "at least 1"),
        (["--model", "tiny_script_16", "--data", "ShapesVQA", "--param", "gama=2"], "Did you mean 'gamma'?"),
        (["--model", "tiny_script_16", "--data", "ShapesVQA", "--param", "gamma"], "name=value"),
        (["--model", "tiny_script_16", "--data", "ShapesVQA", "--checkpoint", "tiny"], "NAME=DIR"),
        (["--model", "tiny_full", "--data", "ShapesVQA", "--checkpoint", "tiny=a", "--checkpoint", "tiny=b"], "two places"),
        (["--model", "tiny_full", "--data", "ShapesVQA", "--checkpoint", "llava=a"], "no configuration of 'llava' is run"),
        (["--model", "tiny_full", "--data", "ShapesVQA", "--protocol", "hf"], "is for LLaVA-NeXT"),
        (["--model", "own_full", "--data", "ShapesVQA", "--checkpoint", "own=org/name"], "--family"),
        (["--model", "tiny_script_16", "--data", "ShapesVQA", "--fresh", "--reuse"], "one of them"),
        (["--config", "nowhere.yaml"], "nowhere.yaml"),
        (["--no-such-flag"], "See --help"),
    ],
)
def test_bad_input_is_one_line_and_status_2(argv: list[str], part: str, capsys: pytest.CaptureFixture[str]):
    assert part in refused(capsys, *argv)


def test_several_processes_are_refused_for_now(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "torchrun" in refused(capsys, "--model", "tiny_full", "--data", "ShapesVQA")


@pytest.mark.parametrize(
    ("what", "names"), [("models", ["tiny"]), ("methods", ["script", "cdpruner"]), ("data", ["ShapesVQA", "GQA"])]
)
def test_lists(what: str, names: list[str], capsys: pytest.CaptureFixture[str]):
    assert main(["--list", what]) == 0
    first = [line.split()[0] for line in capsys.readouterr().out.splitlines() if line]
    assert set(names) <= set(first)


@pytest.mark.parametrize(
    ("argv", "part"),
    [
        (["tiny_dart_16"], "The smallest budget here is 49"),
        (["tiny_dart_72", "--param", "layer=99"], "layers 0 to 5"),
        (["tiny_cdpruner_16", "--param", "theta=0.99"], "theta from 0 to 0.98"),
    ],
)
def test_what_a_method_cannot_do_is_refused_before_anything_is_loaded(
    tmp_path, capsys: pytest.CaptureFixture[str], argv: list[str], part: str
):
    said = refused(capsys, "--data", "ShapesVQA", "--limit", "2", "--work-dir", str(tmp_path / "results"), "--model", *argv)
    assert part in said
    assert not (tmp_path / "results").exists()


def test_dry_run_touches_nothing(tmp_path, capsys: pytest.CaptureFixture[str]):
    argv = ["--config", str(ROOT / "configs/tiny.yaml"), "--work-dir", str(tmp_path / "results"), "--dry-run"]
    assert main(argv) == 0
    out = capsys.readouterr().out
    assert "missing  tiny_script_16/ShapesVQA" in out
    assert "68 missing" in out
    assert not (tmp_path / "results").exists()


def test_run_py_reports_errors_without_a_traceback():
    done = subprocess.run(
        [sys.executable, "run.py", "--model", "tiny_script_0"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "at least 1" in done.stderr


@pytest.mark.parametrize(
    ("argv", "there", "gone"),
    [
        (["--help"], ["--judge", "--image", "--into"], []),
        (["show", "--help"], ["--image", "--method", "--device"], ["--judge", "--into", "--max-failures"]),
        (["--help", "merge"], ["--into"], ["--model", "--image"]),
    ],
)
def test_a_command_s_help_shows_what_it_heeds(
    argv: list[str], there: list[str], gone: list[str], capsys: pytest.CaptureFixture[str]
):
    with pytest.raises(SystemExit) as end:
        main(argv)
    options = capsys.readouterr().out.partition("options:")[2].partition("examples:")[0]
    assert end.value.code == 0
    assert all(flag in options for flag in there)
    assert not any(flag in options for flag in gone)
