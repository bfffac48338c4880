"""docs/add_a_method.md does what it says: its code is run, and the output that it shows is compared with the real one."""

from __future__ import annotations

import copy
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import models
import numpy as np
import pytest
import torch
from conftest import ROOT

from script_vlmeval import conformance
from script_vlmeval.conformance import Case, MethodReport, around, check_law, laws, loading
from script_vlmeval.conformance.cases import build, tensors
from script_vlmeval.conformance.outcome import NotApplicable
from script_vlmeval.conformance.report import block
from script_vlmeval.errors import UserError
from script_vlmeval.methods import METHODS, Method, Visual, get_method
from script_vlmeval.methods.base import INSIDE
from script_vlmeval.prune import pruning
from script_vlmeval.tiny import ASSETS

TEXT = (ROOT / "docs" / "add_a_method.md").read_text(encoding="utf-8")
PYTHON = dict(re.findall(r"^```python\n# ([\w.]+)\n(.*?)^```$", TEXT, re.M | re.S))
FIELDS = r"field of `Visual`|field, inside alone"
SHOWN = dict(re.findall(r"^```\n\$ python run.py conformance --method ([\w.]+)\n(.*?)^```$", TEXT, re.M | re.S))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The document's files, as a reader would save them."""
    folder = tmp_path_factory.mktemp("own")
    for name in ("draft.py", "zooprune.py", "late.py"):
        (folder / name).write_text(PYTHON[name], encoding="utf-8")
    return folder


@pytest.fixture(autouse=True)
def registry_as_before() -> Iterator[None]:
    """Without what a test registers, and meanwhile without what a reader of the page has put into the methods folder."""
    get_method("full")  # fills it
    before = dict(METHODS)
    for name in ("zooprune", "late"):
        METHODS.pop(name, None)
    yield
    METHODS.clear()
    METHODS.update(before)


@pytest.fixture
def zoo(folder: Path, registry_as_before: None) -> Iterator[ModuleType]:
    """The finished file as a module, imported from its own folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        import zooprune

        yield zooprune
    del sys.modules["zooprune"]


def checked(path: Path, **options: object) -> MethodReport:
    """`run.py conformance`, without what takes long; a file's defaults are its own."""
    return conformance.check([path], **{"fuzz": 0, "model": False, **options}).methods[0]


def labels(line: str) -> str:
    """A line but for its counts and its path."""
    return re.sub(r"\d+", "#", line.replace(str(Path(line.split("(")[-1].rstrip(")")).parent) + "/", ""))


# -- what is said of methods in general ----------------------------------------------------------------------------------------
def test_the_rungs_and_the_methods_named_for_them():
    rungs = re.findall(r"^\| `(\w+)` \|.*\| `(\w+)`, `(\w+)` \|$", TEXT, re.M)
    assert [rung for rung, *_ in rungs] == ["score", "order", "select", "reduce"]
    for rung, *names in rungs:
        for name in names:
            assert rung in vars(METHODS[name]), f"{name} overrides {rung}"


def test_the_fields_and_their_shapes():
    visual = build(Case(b=2, g=3))
    outside, inside = (re.findall(r"^\| `(\w+)` \| (\S.*?) \|", part, re.M) for part in re.split(FIELDS, TEXT)[1:])
    assert len(outside) == 8
    assert {name for name, _ in inside} == INSIDE
    for name, shape in outside + inside:
        assert name in Visual.__dataclass_fields__
        if name in tensors(visual):
            assert len(shape.split()) == getattr(visual, name).ndim, name


def test_every_law_is_counted_in_what_is_shown():
    for shown in SHOWN.values():
        counts = {line[2:18].strip(): sum(map(int, re.findall(r"(\d+) (?:passed|FAILED)", line))) for line in shown.splitlines()}
        assert counts["laws on tensors"] == len(laws.LAWS)
        assert counts["around a model"] == len(around.LAWS)
        hold, broken = re.findall(r"(\d+) laws hold, (\d+) broken", shown)[0]
        assert int(hold) + int(broken) == len(laws.LAWS) + len(around.LAWS)


# -- the draft -----------------------------------------------------------------------------------------------------------------
def test_the_draft_fails_as_shown(folder: Path):
    report = checked(folder / "draft.py")
    said, shown = "\n".join(block(report)), SHOWN["draft.py"].splitlines()
    first = shown[shown.index("  FAILED deterministic") :][:5]
    assert len([line for line in first if line.startswith("    ")]) == 4
    for line in first:
        assert line.split(": [")[0] in said  # which tokens it drew is chance
    assert report.laws.failures[0].law == "deterministic"
    assert shown[-1].endswith("FAILED: draft")


def test_seeded_the_draft_is_no_longer_caught(folder: Path):
    """Its minimum over the batch does no harm to a ranking, and its small step none that a law would see."""
    seeded = "torch.randn(64, u.shape[-1], generator=torch.Generator().manual_seed(0),"
    text = PYTHON["draft.py"].replace("torch.randn(64, u.shape[-1],", seeded).replace("class Draft", "class Seeded")
    (folder / "seeded.py").write_text(text, encoding="utf-8")
    ((method, _),) = loading.resolve([folder / "seeded.py"])
    for law in ("deterministic", "nan_refused", "half_precision"):
        check_law(law, method)


# -- the finished file ---------------------------------------------------------------------------------------------------------
def test_the_file_passes_as_shown(folder: Path):
    report = checked(folder / "zooprune.py", fuzz=3)
    assert report.ok, report.failures
    said, shown = block(report), SHOWN["zooprune.py"].splitlines()
    assert [labels(line) for line in said[:3]] == [labels(line) for line in shown[:3]]
    assert labels(said[4]) == labels(shown[4])
    assert shown[-1].endswith("all hold")


@pytest.mark.parametrize("law", ["plan_kept_exactly", "batch_equals_alone", "cached_equals_recomputed"])
def test_it_works_around_a_model(law: str, zoo: ModuleType):
    around.LAWS[law](zoo.ZooPrune(directions=4), models.random_llava())


def test_it_is_the_specified_selection(zoo: ModuleType):
    """Against loops in float64 over a projector that is not linear."""
    draw = np.random.default_rng(0)
    u, matrix, z = draw.normal(size=(30, 16)), draw.normal(size=(16, 12)), draw.normal(size=(8, 16))
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    x = np.tanh(u) @ matrix
    s = np.array(
        [np.mean([np.linalg.norm(np.tanh(a + 0.01 * d) @ matrix - np.tanh(a - 0.01 * d) @ matrix) for d in z]) for a in u]
    )
    scaled = (s - s.min()) / (s.max() - s.min() + 1e-8)
    distance = 1 - (x @ x.T) / np.outer(np.linalg.norm(x, axis=1), np.linalg.norm(x, axis=1))
    picks = [int(scaled.argmax())]
    while len(picks) < 12:
        left = [i for i in range(30) if i not in picks]
        picks.append(max(left, key=lambda i: scaled[i] * distance[i, picks].min()))

    def tensor(a: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(a).float()

    found = zoo.sensitivity(tensor(u), lambda v: v.tanh() @ tensor(matrix), tensor(z), 0.01)
    np.testing.assert_allclose(found.numpy(), s / 0.02, rtol=1e-3)
    unit = torch.nn.functional.normalize(tensor(x), dim=-1)
    assert zoo.greedy(unit[None, None], tensor(scaled)[None, None], 12).flatten().tolist() == picks


def test_in_half_precision_a_wider_step_keeps_the_ranking(zoo: ModuleType):
    """The figures in the text."""
    subject, seen = models.trained_llava(), list[Visual]()

    class Spy(zoo.ZooPrune, register=False):
        def order(self, visual: Visual, k: int) -> torch.Tensor:
            seen.append(visual)
            return super().order(visual, k)

    for seed in range(3):
        models.run(subject, [subject.prompt(1, seed)], Spy(directions=1))
    u = torch.cat([v.encoded[0] for v in seen])
    z = torch.randn(64, u.shape[-1], generator=torch.Generator().manual_seed(1))
    projector = subject.model.model.multi_modal_projector

    def ranks(dtype: torch.dtype, step: float) -> torch.Tensor:
        with torch.no_grad():
            s = zoo.sensitivity(u.to(dtype), copy.deepcopy(projector).to(dtype), z, step)
        return s.argsort(-1).argsort(-1).float()

    exact = ranks(torch.float32, 0.01)
    pattern = r"from (\d\.\d+) to (\d\.\d+) in (\w+16)(?: and from (\d\.\d+) to (\d\.\d+) in (\w+16))"
    text = re.findall(pattern, " ".join(TEXT.split()))[0]
    for narrow, wide, name in (text[:3], text[3:]):
        dtype = getattr(torch, name)
        unwidened = 0.01 * (torch.finfo(torch.float32).eps / torch.finfo(dtype).eps) ** (1 / 3)
        for said, step in ((narrow, unwidened), (wide, 0.01)):
            pairs = zip(exact, ranks(dtype, step), strict=True)
            mean = np.mean([float(torch.corrcoef(torch.stack(pair))[0, 1]) for pair in pairs])
            assert mean == pytest.approx(float(said), abs=0.05 if step == 0.01 else 0.15), (name, step)


def test_the_library_block(zoo: ModuleType):
    subject = models.trained_llava()
    inputs = {**models.collate([subject.prompt(1, 0), subject.prompt(1, 1)]), "max_new_tokens": 2, "do_sample": False}
    given = {"model": subject.model, "inputs": inputs}
    exec(compile(PYTHON["library"], "docs/add_a_method.md", "exec"), given)
    assert given["kept"].shape == (2, 1, 64)
    merging = given["merging"]
    assert isinstance(merging, Method)
    assert merging.parameters() == {"directions": 16, "step": 0.01, "merge": "mean", "centre": "minmax"}
    with pruning(subject.model, merging, 64) as trace:
        subject.model.generate(**inputs)
    assert trace.kept[0][0].shape == (2, 1, 64)


def test_what_cannot_be_is_refused(zoo: ModuleType):
    for wrong in ({"directions": 0}, {"step": -1.0}, {"step": float("nan")}):
        with pytest.raises(UserError, match="positive"):
            zoo.ZooPrune(**wrong)


# -- inside the language model ------------------------------------------------------------------------------------------------
@pytest.fixture
def late(folder: Path, registry_as_before: None) -> type[Method]:
    ((method, _),) = loading.resolve([folder / "late.py"])
    return type(method)


def test_the_one_inside_passes(folder: Path):
    report = checked(folder / "late.py", fuzz=3)
    assert report.ok, report.failures
    assert len(report.laws.passed) == len(laws.LAWS)


@pytest.mark.parametrize("law", ["plan_kept_exactly", "batch_equals_alone"])
def test_the_one_inside_works_around_a_model(law: str, late: type[Method]):
    around.LAWS[law](late(), around.reachable(late(), models.random_llava()))


def test_recomputing_does_not_apply_inside(late: type[Method]):
    with pytest.raises(NotApplicable):
        around.LAWS["cached_equals_recomputed"](late(), around.reachable(late(), models.random_llava()))


def test_its_plan_is_darts(late: type[Method]):
    def planned(method: Method, budget: int) -> dict[int, int] | None:
        try:
            return {stage: k for stage, k in method.plan(budget, 144, 6).items() if k < 144}
        except UserError:
            return None

    for layer in (1, 2, 5):
        pair = late(layer=layer), get_method("dart", layer=layer)
        for budget in range(1, 145):
            assert planned(pair[0], budget) == planned(pair[1], budget)
    assert late().plan(72, 144, 6) == {2: 36}  # as the text says
    assert late().plan(145, 144, 6) == {}
    for layer in (0, -1, 6, 7):
        with pytest.raises(UserError, match="cannot have a mean"):
            late(layer=layer).plan(72, 144, 6)
    with pytest.raises(UserError, match="needs a budget"):
        late().plan(None, 144, 6)


def test_inside_it_keeps_what_fastv_keeps(late: type[Method]):
    subject = models.trained_llava()
    inputs = {**models.collate([subject.prompt(1, 0), subject.prompt(1, 1)]), "max_new_tokens": 2, "do_sample": False}
    kept = []
    for method in (late(), get_method("fastv")):
        with pruning(subject.model, method, 72) as trace:
            subject.model.generate(**inputs)
        assert list(trace.kept) == [2]
        kept.append(torch.cat([group.flatten(1) for group in trace.kept[2]]))
    assert kept[0].shape == (2, 36)
    assert torch.equal(*kept)


def test_without_a_plan_it_is_refused(late: type[Method]):
    class Unplanned(late, register=False):
        plan = Method.plan

    subject = models.trained_llava()
    with pytest.raises(UserError, match=re.escape("override plan()")), pruning(subject.model, Unplanned(), 72):
        subject.model.generate(**models.collate([subject.prompt(1, 0)]), max_new_tokens=1)


# -- in the project ------------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def project(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project with the files in its methods folder, and nothing else changed."""
    root = tmp_path_factory.mktemp("project")
    shutil.copytree(ROOT / "script_vlmeval", root / "script_vlmeval", ignore=shutil.ignore_patterns("assets", "__pycache__"))
    shutil.copy(ROOT / "run.py", root)
    for name in ("zooprune.py", "late.py"):
        shutil.copy(folder / name, root / "script_vlmeval" / "methods")
    return root


# Several runs in one process, which imports everything once: arguments in, what each says out. An odd end fails all.
RUNS = """
import contextlib, io, json, sys
from script_vlmeval.cli import main
from script_vlmeval import methods, plugin

def said(argv):
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert main(argv) == 0, argv
    return out.getvalue()

runs = {name: said(argv) for name, argv in json.loads(sys.argv[1]).items()}
runs["plan"] = str(methods.get_method("script+late").plan(36, 144, 6))
runs["file"] = methods.__file__
runs["sources"] = str(methods.sources("zooprune"))
runs["plugin"] = str("tiny_zooprune_16" in plugin.config_names())
runs["parameters"] = str(methods.get_method("zooprune", step=0.1, merge="mean", centre="sigmoid").parameters())
print(json.dumps(runs))
"""
LATE = re.findall(r"`(tiny_[\w+]*late_\d+)`", TEXT)


@pytest.fixture(scope="module")
def told(project: Path) -> dict[str, str]:
    """What the copy says of the files, each in the words of the page."""
    named = next(line for line in TEXT.splitlines() if "tiny_zooprune_16 --param" in line).split()
    dry = ["--checkpoint", f"tiny={ASSETS}", "--dry-run"]
    argv = {
        "list": ["--list", "methods"],
        "named": [*named[named.index("run.py") + 1 :], *dry],
        "late": ["--data", "ShapesVQA", "--model", *LATE, *dry],
    }
    done = subprocess.run(
        [sys.executable, "-c", RUNS, json.dumps(argv)], cwd=project, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_dropped_into_the_folder_it_is_listed(told: dict[str, str]):
    (line,) = [line for line in told["list"].splitlines() if line.startswith("zooprune ")]
    for part in ("encoded, project, seed", "directions=64, step=0.01, merge='none', centre='none'", "The most sensitive token"):
        assert part in line


def test_its_configurations_can_be_named(told: dict[str, str]):
    assert "missing  tiny_zooprune_16/ShapesVQA" in told["named"]


def test_the_one_inside_can_be_named_alone_and_in_a_hybrid(told: dict[str, str]):
    assert LATE == ["tiny_late_72", "tiny_script+late_36"]
    assert all(f"missing  {name}/ShapesVQA" in told["late"] for name in LATE)
    assert told["plan"] == "{0: 72, 2: 18}"  # as the text says


def test_it_is_known_everywhere(project: Path, told: dict[str, str]):
    """To the registry, with its options; to the names that VLMEvalKit gets; to the fingerprint."""
    assert str(project) in told["file"]
    assert "zooprune.py" in told["sources"]
    assert told["plugin"] == "True"
    assert told["parameters"] == "{'directions': 64, 'step': 0.1, 'centre': 'sigmoid', 'merge': 'mean'}"
