"""Recordings of the released code, and this project's float64 evaluation of the written definitions, as their README allows.

What is compared, and how strictly, is the package's (`conformance/compare_*.py`); here every recording of every method is one
test. Without the large recordings beside the repository, the two that travel with the tests are compared.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT

from script_vlmeval.conformance import compare_inside, recordings
from script_vlmeval.conformance.compare_inside import Prefills
from script_vlmeval.conformance.recordings import RECORDED
from script_vlmeval.conformance.tally import MismatchError, Tally
from script_vlmeval.methods import Method, Visual, catalogue, get_method

GOLDEN = Path(__file__).parent / "golden"
SHARED = Path(os.environ.get("SHARED") or ROOT.parent / "shared") / "oracles"
RECORDINGS = {"selection": 12, "baselines": 31, "in_llm/cases": 81}  # how many files each folder holds
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


# -- inside the language model -------------------------------------------------------------------------------------------------
def recorded_prefill(shared: Path, name: str) -> dict[str, Any]:
    file = shared / "oracles" / "in_llm" / "cases" / f"{name}.npz"
    if not file.is_file():
        pytest.skip(f"{file} is not there")
    return recordings.read("fastv", file)


HANDFUL = {  # recording -> the method that does it
    "gqa12_fastv_inplace_N64_R0.9_K3_S10": get_method("fastv", removed=0.9, first_layer=3),
    "mha16_fastv_mask_N24_R0.25_K1_S10": get_method("fastv", removed=0.25, first_layer=1),
    "gqa12_seq_inplace_N37_R0.75_K2_S10": get_method("seqprune", removed=0.75, first_layer=2, step=10),
    "mha16_seq_inplace_N24_R1.0_K2_S10": get_method("seqprune", removed=1.0, first_layer=2, step=10),
    "mha16_seq_inplace_N37_R0.5_K2_S30": get_method("fastv", removed=0.5, first_layer=2),  # one event: they are the same
    "mha16_seq_inplace_N37_R0.5_K2_S10_batch2": get_method("seqprune", removed=0.5, first_layer=2, step=10),
}


@pytest.mark.parametrize("attn", ["eager", "sdpa"])
@pytest.mark.parametrize("name", HANDFUL)
def test_a_prefill_is_reproduced_with_each_kernel(name: str, attn: str, shared: Path):
    """The eager one tells its own attention, which is compared in every layer and over all tokens."""
    data = recorded_prefill(shared, name)
    assert compare_inside.compared(data, HANDFUL[name], attn).compared
    ours = compare_inside.prefill(data, HANDFUL[name], attn)
    assert len(ours.rows) == (len(data["case"]["visible_per_layer"]) if attn == "eager" else 0)
    assert ours.seen


def test_without_pruning_the_model_is_the_recorded_one(shared: Path):
    data = recorded_prefill(shared, "mha16_dense_N37_R0.5_K2_S10")
    for attn in ("eager", "sdpa"):
        ours = compare_inside.prefill(data, None, attn)
        np.testing.assert_allclose(ours.logits, data["logits"], atol=1e-5 * np.abs(data["logits"]).max())


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("mha16_fastv_inplace_N24_R0.5_K2_S10", "tokens by layer"),
        ("mha16_fastv_mask_N24_R0.5_K2_S10", "tokens by layer"),
        ("mha16_fastv_mask_N20_R0.5_K2_S10_2img", "choice among all images"),
    ],
)
def test_the_attention_of_another_layer_is_a_mismatch(name: str, words: str, shared: Path):
    """FastV by the layer that it comes before, rather than the last one that saw everything."""
    own: Any = type(get_method("fastv"))

    class Late(own, register=False):
        needs = own.needs | {"ahead"}

        def order(self, visual: Visual, k: int) -> Any:
            return super().order(replace(visual, attention=visual.ahead), k)

    late: Method = Late(**get_method("fastv", removed=0.5, first_layer=2).parameters())
    with pytest.raises(MismatchError, match=words):
        compare_inside.compared(recorded_prefill(shared, name), late)


def test_the_first_sample_decides_for_the_batch_in_the_release_alone(shared: Path):
    """A method that does so gives both recorded samples, and is told from one that lets each decide for itself."""
    own: Any = type(get_method("seqprune"))

    class First(own, register=False):
        def order(self, visual: Visual, k: int) -> Any:
            assert visual.attention is not None
            return super().order(replace(visual, attention=visual.attention[:1].expand_as(visual.attention)), k)

    name = "mha16_seq_inplace_N37_R0.5_K2_S10_batch2"
    data, first = recorded_prefill(shared, name), First(**HANDFUL[name].parameters())
    ours = compare_inside.prefill(data, first, "sdpa")
    assert (ours.visible == data["visible"]).all()
    np.testing.assert_allclose(ours.logits, data["logits"], atol=1e-4 * np.abs(data["logits"]).max())
    with pytest.raises(MismatchError, match="own choice for sample 1"):
        compare_inside.compared(data, first)


SMALL = ("mha16_seq_inplace_N24_R0.5_K3_S10", get_method("seqprune", removed=0.5, first_layer=3, step=10))


@pytest.mark.parametrize(
    ("array", "words"),
    [("hlast", "last token after layer 15"), ("lastrow", "the attention seen in layer 6"), ("logits", "logits")],
)
def test_a_recorded_prefill_that_says_otherwise_is_a_mismatch(array: str, words: str, shared: Path):
    data = recorded_prefill(shared, SMALL[0])
    altered = data[array].copy()
    if array == "lastrow":  # of the layer before the last event
        altered[0, 6][data["visible"][0, 6]] += 1e-4
    else:
        altered[0, -1, 0] += 3e-4 * np.abs(altered).max()
    with pytest.raises(MismatchError, match=words):
        compare_inside.compared({**data, array: altered}, SMALL[1])


@pytest.mark.parametrize("parameters", [{"removed": 0.6}, {"first_layer": 2}, {"step": 5}], ids=str)
def test_another_schedule_is_a_mismatch(parameters: dict[str, Any], shared: Path):
    method = get_method("seqprune", **{**SMALL[1].parameters(), **parameters})
    with pytest.raises(MismatchError):
        compare_inside.compared(recorded_prefill(shared, SMALL[0]), method)


def test_counts_of_prefills_survive_a_sum():
    some = Prefills(exact=1, layers=16, recorded=16, logits=1e-6) + Prefills(invariants=1, layers=2, recorded=16)
    total = sum([Tally(sets=1), some, Tally(exact=1)], Tally())
    assert isinstance(total, Prefills)
    assert (total.exact, total.sets, total.invariants, total.compared) == (2, 1, 1, 4)
    assert str(total).endswith("kept positions exact: 18 of 32 layers, last-token logits worst relative error 1.0e-06")


def test_account(record_property: Callable[[str, object], None]):
    """How much of the above was really compared, and how strictly: at the end of the run's output, see conftest."""
    if not COUNTS:
        pytest.skip("no comparison ran before this one")

    def line(name: str, t: Tally) -> str:
        counts = f"{name}: {t.compared} rows compared: {t.exact} exact, {t.sets} set-equal, {t.invariants} invariants only"
        return f"{counts}; {t.inside}" if isinstance(t, Prefills) else counts

    lines = [line(f"  {method}", tally) for method, tally in COUNTS.items()]
    record_property("account", "\n".join([*lines, line("oracles", sum(COUNTS.values(), Tally()))]))
