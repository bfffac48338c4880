"""`run.py conformance`: names, a user's own files, and what is said about them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from conftest import ROOT

from script_vlmeval import conformance
from script_vlmeval.cli import main
from script_vlmeval.conformance import loading
from script_vlmeval.conformance.report import block, command
from script_vlmeval.errors import UserError
from script_vlmeval.methods import METHODS, catalogue

GOOD = """
from dataclasses import dataclass
from {base} import Method, Visual

@dataclass(frozen=True)
class Loudest(Method):
    '''Keep the longest tokens.'''
    power: float = 2.0

    def score(self, visual: Visual):
        return visual.tokens.float().norm(dim=-1) ** self.power
"""
BAD = GOOD.replace("        return visual", "        visual.tokens.mul_(2)\n        return visual", 1)


@pytest.fixture
def own(tmp_path: Path):
    """Writes a file of a user's own."""

    def write(text: str, name: str = "loudest.py") -> Path:
        (tmp_path / name).write_text(text.replace("{base}", "script_vlmeval.methods"))
        return tmp_path / name

    return write


@pytest.fixture(autouse=True)
def registry_as_before():
    before = dict(METHODS)
    yield
    assert before == METHODS, "a user's method stayed registered"


def told(capsys: pytest.CaptureFixture[str], *argv: object) -> tuple[int, str]:
    status = main(["conformance", "--method", *map(str, argv)])
    out, err = capsys.readouterr()
    assert not err.replace("\r", "").strip() or status == 2
    return status, out + err


def said(capsys: pytest.CaptureFixture[str], names: list[object], recordings: Path | None = None) -> tuple[int, str]:
    """As `told`, with one random example: where what is looked at is said besides the laws."""
    status = command([*map(str, names)], recordings, quiet=True, fuzz=1)
    return status, capsys.readouterr().out


# -- what is said --------------------------------------------------------------------------------------------------------------
def test_a_sound_file_of_one_s_own(own, capsys: pytest.CaptureFixture[str]):
    path = own(GOOD)
    status, out = told(capsys, path)
    assert status == 0, out
    assert f"loudest ({path})" in out
    assert "none of a method of your own" in out
    assert "FAILED" not in out
    assert "100 tried" in out
    assert out.splitlines()[-1].endswith("all hold")


def test_a_broken_file_of_one_s_own(own, capsys: pytest.CaptureFixture[str]):
    status, out = told(capsys, own(BAD))
    assert status == 1
    assert "FAILED inputs_left_alone" in out
    assert "it changed visual.tokens in place" in out
    assert "smallest example: B=1 G=1 N=2" in out
    assert out.splitlines()[-1].endswith("FAILED: loudest")


def test_names_and_files_in_one_go_with_recordings(own, capsys: pytest.CaptureFixture[str], tmp_path: Path):
    (tmp_path / "oracles" / "selection").mkdir(parents=True)
    golden = ROOT / "tests" / "golden" / "20_tiny.npz"
    (tmp_path / "oracles" / "selection" / golden.name).write_bytes(golden.read_bytes())
    status, out = said(capsys, ["scriptcompat", "random", own(GOOD)], tmp_path / "oracles")
    assert "1 rows compared: 1 exact" in out
    assert "none of this method" in out
    assert "3 methods; " in out
    assert status == 0, out


def test_without_recordings_it_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path):
    monkeypatch.setenv("SHARED", str(tmp_path))
    status, out = said(capsys, ["fastervlm"])
    assert "recordings        not here (give --recordings DIR)" in out
    assert status == 0, out


def test_a_recording_that_is_not_reproduced_is_a_failure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    import numpy as np

    (tmp_path / "selection").mkdir()
    with np.load(ROOT / "tests" / "golden" / "20_tiny.npz") as file:
        np.savez(tmp_path / "selection" / "20_tiny.npz", **{**file, "cdpruner.order": file["cdpruner.order"][:, ::-1]})
    report = conformance.check(["cdpruner"], tmp_path, fuzz=0, model=False)
    assert [f.law for f in report.methods[0].recordings.failures] == ["recording 20_tiny"]
    assert "cdpruner.order" in report.methods[0].recordings.failures[0].explanation
    assert not report.ok


def test_a_method_that_the_model_cannot_serve_is_still_checked(own, capsys: pytest.CaptureFixture[str]):
    path = own(GOOD.replace("    power", "    needs = frozenset({'shown'})\n    power"))
    status, out = said(capsys, [path])
    assert status == 0, out
    assert "not run: it needs shown, which llava models do not give" in out


def test_a_method_without_a_reachable_budget_is_still_checked(own):
    text = GOOD + "    def plan(self, budget, n_visual, n_layers):\n        raise UserError('never')\n"
    report = conformance.check([own("from script_vlmeval.errors import UserError\n" + text)], fuzz=0)
    assert "can be reached" in report.methods[0].no_model
    assert report.ok


# -- files -----------------------------------------------------------------------------------------------------------------------
def test_a_file_meant_for_the_methods_folder_is_loaded_as_if_it_were_there(own):
    ((method, path),) = loading.load(own(GOOD.replace("{base}", ".base")))
    assert (method.name, path.name) == ("loudest", "loudest.py")
    assert method.power == 2.0


def test_a_file_of_the_project_itself_is_the_registered_method():
    ((method, path),) = loading.load(ROOT / "script_vlmeval" / "methods" / "script.py")
    assert type(method) is METHODS["script"]
    assert path is None


def test_two_files_of_one_name_are_two_methods(own, tmp_path: Path):
    (tmp_path / "other").mkdir()
    found = loading.resolve([own(GOOD), own(GOOD, "other/loudest.py")])
    assert [m.name for m, _ in found] == ["loudest", "loudest"]
    assert type(found[0][0]) is not type(found[1][0])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("import torch\n\nx = nowhere\n", r"mine\.py:3: NameError: name 'nowhere'"),
        ("def f(:\n    pass\n", r"mine\.py:1: SyntaxError"),
        ("import no_such_package\n", r"mine\.py:1: ModuleNotFoundError"),
        ("from script_vlmeval.methods import Method\n", "defines no method"),
        (GOOD.replace("Loudest", "Script"), r"mine\.py: a method called 'script' is registered already: rename the class"),
        (
            GOOD.replace("    power", "    needs = frozenset({'salience'})\n    power"),
            "Unknown field .*'salience'. Did you mean 'saliency'",
        ),
        (GOOD.replace("    power", "    needs = 'saliency'\n    power"), "as a set of strings"),
        (GOOD.replace("    power", "    needs = {'tokens'}\n    power"), "'tokens' in `needs`, which comes by itself"),
        (
            GOOD.replace("def score", "def scores"),
            "'loudest' overrides none of score, order, select, reduce: override exactly one",
        ),
        (
            GOOD + "\n    def select(self, visual, k):\n        ...\n",
            "'loudest' overrides score and select: override exactly one",
        ),
        (GOOD + "\n    def __post_init__(self):\n        1 / 0\n", "cannot be made: ZeroDivisionError: division by zero"),
        ("raise ValueError('one\\ntwo')\n", "ValueError: one$"),
        (GOOD + "\nraise SystemExit(3)\n", r"mine\.py:\d+: SystemExit"),
        (GOOD.replace("power: float = 2.0", "power: float"), "no default for power"),
    ],
)
def test_a_file_that_cannot_be_used_is_a_user_error(own, text: str, words: str):
    with pytest.raises(UserError, match=words):
        loading.load(own(text, "mine.py"))


@pytest.mark.parametrize(
    ("argv", "part"),
    [
        (["conformance", "--method", "scirpt"], "Did you mean 'script'"),
        (["conformance", "--method", "nowhere.py"], "There is no file nowhere.py: give the path"),
        (["conformance"], "No method"),
        (["conformance", "--method", "script", "--recordings", "nowhere"], "nowhere holds no recordings"),
        (["--method", "script"], "belong to `run.py bench` and `run.py conformance` and `run.py show`"),
    ],
)
def test_what_cannot_work_is_one_line_and_status_2(argv: list[str], part: str, capsys: pytest.CaptureFixture[str]):
    assert main(argv) == 2
    out, err = capsys.readouterr()
    assert not out
    assert part in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "words"), [("here", "here is a folder"), ("here.py", "here.py is a folder"), ("mine.txt", "must end in .py")]
)
@pytest.mark.parametrize("absolute", [True, False])
def test_what_is_no_python_file(name: str, words: str, absolute: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / name
    if path.suffix == ".txt":
        path.write_text(GOOD)
    else:
        path.mkdir()
    with pytest.raises(UserError, match=words):
        loading.resolve([str(path) if absolute else name])


def test_a_name_that_is_taken_is_told_without_internal_names(own):
    with pytest.raises(UserError) as error:
        loading.load(own(GOOD.replace("Loudest", "Script"), "mine.py"))
    assert "_own_" not in str(error.value)
    assert "script_vlmeval" not in str(error.value)


def test_a_file_may_inherit_and_add_to_what_it_inherits(own):
    text = GOOD + "\nclass Sorted(Loudest):\n    def order(self, visual, k):\n        return super().order(visual, k)\n"
    text += "\nclass Louder(Loudest):\n    pass\n"
    assert {m.name for m, _ in loading.load(own(text))} == {"loudest", "sorted", "louder"}


@pytest.mark.parametrize("name", sorted(catalogue()))
def test_a_registered_method_is_held_to_what_a_file_is(name: str):
    loading.examine(METHODS[name])


def test_a_file_may_import_its_neighbours_and_each_folder_has_its_own(own, tmp_path: Path):
    text = GOOD.replace("    power: float = 2.0", "    power: float = neighbour.POWER").replace(
        "from data", "import neighbour\nfrom data"
    )
    (tmp_path / "other").mkdir()
    own("POWER = 3.0", "neighbour.py"), own("POWER = 4.0", "other/neighbour.py")
    before = list(sys.path)
    found = loading.resolve([own(text), own(text, "other/loudest.py")])
    assert [m.power for m, _ in found] == [3.0, 4.0]
    assert sys.path == before
    assert "neighbour" not in sys.modules


def test_a_file_is_run_once(own, capsys: pytest.CaptureFixture[str], tmp_path: Path):
    path = own(f"with open({str(tmp_path / 'runs')!r}, 'a') as file:\n    file.write('x')\n" + GOOD)
    assert command([str(path)], None, quiet=True, fuzz=1) == 0
    assert (tmp_path / "runs").read_text() == "x"


# -- parameters ------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "params"),
    [("script", {"merge": "mean"}), ("cdpruner", {"centre": "minmax"}), ("divprune", {"centre": "sigmoid", "merge": "mean"})],
)
def test_variants_of_registered_methods_keep_the_laws(name: str, params: dict[str, str]):
    (found,) = conformance.check([name], fuzz=10, params=params).methods
    assert found.ok, found.failures
    assert found.no_recordings == "not compared: parameters given"
    assert block(found)[0] == f"{name} {' '.join(f'{k}={v}' for k, v in params.items())}"


def test_parameters_of_a_file_of_one_s_own(own):
    path = own(GOOD)
    ((method, _),) = loading.load(path, {"power": 3, "merge": "mean"})
    assert method.parameters() == {"power": 3, "merge": "mean"}
    ((method, _),) = loading.load(own(GOOD.replace("power: float = 2.0", "power: float")), {"power": 3})
    assert method.power == 3


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"powr": 2}, "Unknown parameter of method 'loudest': 'powr'. Did you mean 'power'"),
        ({"power": "much"}, "takes power as float"),
    ],
)
def test_parameters_that_a_file_does_not_take(own, params: dict[str, object], words: str):
    with pytest.raises(UserError, match=words):
        loading.load(own(GOOD), params)


def test_parameters_that_a_registered_method_does_not_take():
    with pytest.raises(UserError, match="Unknown parameter of method 'script'"):
        conformance.check(["script"], params={"nowhere": 1})


def test_all_are_all_registered_ones():
    assert [m.name for m, _ in loading.resolve(["all", "script"])] == sorted(catalogue())
