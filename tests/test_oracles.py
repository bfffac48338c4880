"""Recordings of the released code, and this project's float64 evaluation of the written definitions, as their README allows.

What is compared, and how strictly, is the package's (`conformance/compare_*.py`); here every recording of every method is one
test. Without the large recordings beside the repository, the two that travel with the tests are compared.
"""

from __future__ import annotations

import os
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT

from script_vlmeval.conformance import recordings
from script_vlmeval.conformance.recordings import RECORDED
from script_vlmeval.conformance.tally import MismatchError, Tally
from script_vlmeval.methods import catalogue

GOLDEN = Path(__file__).parent / "golden"
SHARED = Path(os.environ.get("SHARED") or ROOT.parent / "shared") / "oracles"
RECORDINGS = {"selection": 12, "baselines": 31}  # how many files each folder holds
COUNTS: dict[str, Tally] = defaultdict(Tally)

pytestmark = pytest.mark.filterwarnings("ignore:no question text")


def files(method: str) -> list[Path | None]:
    """The recordings of a method; None where there is none, so that a test can say so."""
    recorded = RECORDED[method]
    golden = sorted(GOLDEN.glob(recorded.pattern)) if recorded.folder == "selection" else []
    return [*(recorded.files(SHARED) or golden or [None])]


@pytest.mark.parametrize(
    ("method", "file"),
    [(method, file) for method in RECORDED for file in files(method)],
    ids=lambda x: x if isinstance(x, str) else x.stem if x else "absent",
)
def test_a_recording_is_reproduced(method: str, file: Path | None):
    if file is None:
        pytest.skip(f"no recordings of '{method}' in {SHARED} (set SHARED to the folder that holds oracles/)")
    tally = recordings.compare(method, file)
    assert tally.compared
    COUNTS[method] += tally


def test_every_recording_belongs_to_a_method():
    """Otherwise a file would lie there unread."""
    if not SHARED.is_dir():
        pytest.skip(f"{SHARED} is not there")
    for folder, expected in RECORDINGS.items():
        there = set((SHARED / folder).glob("*.npz"))
        assert len(there) == expected
        assert there == {f for r in RECORDED.values() if r.folder == folder for f in r.files(SHARED)}


def test_recorded_methods_exist():
    assert set(RECORDED) <= set(catalogue())


@pytest.mark.parametrize("case", ["05_iid_B3_M2_T64", "21_anyres_B5_T32"])
def test_both_scopes_differ_where_they_should(case: str, shared: Path):
    """Otherwise the comparisons of CDPruner with each scope would be one."""
    with np.load(shared / "oracles" / "selection" / f"{case}.npz") as data:
        assert (data["ref.cdpruner_image"] != data["ref.cdpruner_batch"]).any()


ALTERED = {  # one method per kind of recording -> what to alter in it
    "cdpruner": ("cdpruner.order", "order: 1 of"),
    "script": ("ref.script", "ref.script: 1 of"),
    "scriptcompat": ("scriptcompat.order", "order: 1 of"),
    "scriptfigure": ("ref.scriptfigure", "ref.scriptfigure: "),
}


@pytest.mark.parametrize("method", ALTERED)
def test_a_recording_that_says_otherwise_is_a_mismatch(method: str):
    """The comparison really compares: one changed pick is found."""
    key, words = ALTERED[method]
    with np.load(GOLDEN / "20_tiny.npz") as file:
        data = dict(file)
    picks = data[key].copy()
    picks[0, 0] = next(i for i in range(16) if i not in picks[0])
    with pytest.raises(MismatchError, match=words):
        recordings.comparison(method)({**data, key: picks})


def test_where_recordings_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "shared" / "oracles" / "selection").mkdir(parents=True)
    (tmp_path / "repository").mkdir()
    monkeypatch.chdir(tmp_path / "repository")
    monkeypatch.delenv("SHARED", raising=False)
    assert recordings.find() == tmp_path / "shared" / "oracles"
    monkeypatch.setenv("SHARED", str(tmp_path / "elsewhere"))
    assert recordings.find() is None
    assert recordings.find(tmp_path / "shared" / "oracles") == tmp_path / "shared" / "oracles"


def test_account(capsys: pytest.CaptureFixture[str]):
    """How much of the above was really compared, and how strictly."""
    if not COUNTS:
        pytest.skip("no comparison ran before this one")

    def line(name: str, t: Tally) -> str:
        return f"{name}: {t.compared} rows compared: {t.exact} exact, {t.sets} set-equal, {t.invariants} invariants only"

    with capsys.disabled():
        print()
        for method, tally in COUNTS.items():
            print(line(f"  {method}", tally))
        print(line("oracles", sum(COUNTS.values(), Tally())))
