"""Recordings of the released code, and this project's float64 evaluation of the written definitions, as their README allows.

Where a pick order is a fair comparison it is compared exactly; exact duplicates are compared by group; a budget above the number
of tokens must keep all of them.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from script_vlmeval import kernels
from script_vlmeval.methods import Visual, get_method

GOLDEN = Path(__file__).parent / "golden"
CASES = (
    "01_iid_D64_T8 02_iid_D64_T64 04_iid_D256_T192 05_iid_B3_M2_T64 08_meancos0.2_T64 10_smooth_T64 12_smooth_T128_M2 "
    "14_exact_dup_T64 17_T_eq_Nminus1 19_T_gt_N 20_tiny 21_anyres_B5_T32"
).split()
DUPLICATES, ALL = "14_exact_dup_T64", "19_T_gt_N"
ORDERED = [c for c in CASES if c not in (DUPLICATES, ALL)]
COUNTS: Counter[str] = Counter()


class Recording:
    """One case as the methods see it: the release's batch of tiles is one image."""

    def __init__(self, path: Path):
        self.data = np.load(path)
        self.t = int(self.data["T"])
        self.features, embeds = (torch.from_numpy(self.data[k]) for k in ("image_features", "image_embeds"))
        query = torch.from_numpy(self.data["text_embeds"])
        self.visual = Visual(tokens=self.features[None], keys=embeds[None], query=query[None], sign=-1)
        self.n = self.features.shape[1]

    def relevance(self, *, per_tile: bool) -> torch.Tensor:
        return kernels.relevance(self.visual.keys, self.visual.query, sign=-1, per_tile=per_tile)[0]

    def picks(self, *, per_tile: bool) -> np.ndarray:
        return kernels.greedy_map(kernels.unit(self.features), self.relevance(per_tile=per_tile), min(self.t, self.n)).numpy()

    def script_picks(self) -> np.ndarray:
        return get_method("script").picks(kernels.unit(self.features), self.relevance(per_tile=True), min(self.t, self.n)).numpy()


@pytest.fixture
def recording(request: pytest.FixtureRequest, case: str) -> Recording:
    path = GOLDEN / f"{case}.npz"
    if not path.is_file():
        path = request.getfixturevalue("shared") / "oracles" / "selection" / f"{case}.npz"
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    return Recording(path)


def count(what: str, comparison: str, rows: int) -> None:
    COUNTS["compared"] += rows
    COUNTS[comparison] += rows
    COUNTS[f"of {what}"] += rows


def as_mask(keep: torch.Tensor, n: int) -> np.ndarray:
    return torch.zeros(*keep.shape[1:-1], n, dtype=torch.bool).scatter_(-1, keep[0], True).numpy()


@pytest.mark.parametrize("case", CASES)
def test_relevance_is_the_recorded_one(recording: Recording):
    np.testing.assert_allclose(
        recording.relevance(per_tile=False).numpy(), recording.data["cdpruner.relevance"], atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("case", ORDERED)
def test_cdpruner_picks_in_the_recorded_order(recording: Recording):
    picks = recording.picks(per_tile=False)
    np.testing.assert_array_equal(picks, recording.data["cdpruner.order"])
    np.testing.assert_array_equal(picks, recording.data["ref.cdpruner_batch"])
    count("cdpruner", "exact order", 2 * len(picks))


@pytest.mark.parametrize("case", ORDERED)
def test_cdpruner_keeps_the_recorded_mask(recording: Recording):
    reduced = get_method("cdpruner")(recording.visual, recording.t)
    np.testing.assert_array_equal(as_mask(reduced.keep, recording.n), recording.data["cdpruner.mask"])
    count("cdpruner", "set-equal", len(recording.features))


@pytest.mark.parametrize("case", ORDERED)
def test_cdpruner_per_tile_picks_as_the_definition(recording: Recording):
    picks = recording.picks(per_tile=True)
    np.testing.assert_array_equal(picks, recording.data["ref.cdpruner_image"])
    kept = get_method("cdpruner", scope="tile")(recording.visual, recording.t).keep[0].numpy()
    np.testing.assert_array_equal(kept, np.sort(picks, -1))
    count("cdpruner", "exact order", len(picks))


@pytest.mark.parametrize("case", ["05_iid_B3_M2_T64", "21_anyres_B5_T32"])
def test_both_scopes_differ_where_they_should(recording: Recording):
    """Otherwise the two comparisons above would be one."""
    assert (recording.data["ref.cdpruner_image"] != recording.data["ref.cdpruner_batch"]).any()


@pytest.mark.parametrize("case", ORDERED)
def test_script_picks_as_the_definition(recording: Recording):
    picks = recording.script_picks()
    np.testing.assert_array_equal(picks, recording.data["ref.script"])
    kept = get_method("script")(recording.visual, recording.t).keep[0].numpy()
    np.testing.assert_array_equal(kept, np.sort(picks, -1))
    count("script", "exact order", len(picks))


@pytest.mark.parametrize("case", [c for c in CASES if c != ALL])
def test_script_redundancy_is_the_definition_s(recording: Recording):
    score = kernels.bipartite_redundancy(kernels.unit(recording.features), tau=0.2, gamma=1.0)
    np.testing.assert_allclose(score.numpy(), recording.data["ref.script_gsp_score"], atol=1e-6, rtol=0)


@pytest.mark.parametrize("case", [DUPLICATES])
def test_of_exact_duplicates_the_recorded_groups_are_picked(recording: Recording):
    """Tokens 4g to 4g + 3 are identical, so only the group says something; ties go to the lowest index, its first member."""
    picks = recording.picks(per_tile=False)
    np.testing.assert_array_equal(picks // 4, recording.data["cdpruner.order"] // 4)
    assert (picks % 4 == 0).all()
    count("cdpruner", "exact order", len(picks))


@pytest.mark.parametrize("case", [DUPLICATES])
@pytest.mark.parametrize("method", ["cdpruner", "script"])
def test_duplicates_leave_the_count_exact(recording: Recording, method: str):
    keep = get_method(method)(recording.visual, recording.t).keep[0]
    assert keep.shape == (1, recording.t)
    assert (keep.diff() > 0).all()
    assert 0 <= keep.min() <= keep.max() < recording.n
    count(method, "invariants only", 1)


@pytest.mark.parametrize("case", [ALL])
@pytest.mark.parametrize("method", ["cdpruner", "script"])
def test_a_budget_above_the_number_of_tokens_keeps_all(recording: Recording, method: str):
    keep = get_method(method)(recording.visual, recording.t).keep[0]
    assert keep.tolist() == [list(range(64))]
    assert recording.data["cdpruner.mask"].all()
    assert sorted(recording.picks(per_tile=False)[0]) == list(range(64))
    count(method, "set-equal", 1)


def test_account(capsys: pytest.CaptureFixture[str]):
    """How much of the above was really compared, and how strictly."""
    if not COUNTS:
        pytest.skip("no comparison ran before this one")
    with capsys.disabled():
        kinds = ", ".join(f"{COUNTS[k]} {k}" for k in ("exact order", "set-equal", "invariants only"))
        methods = ", ".join(f"{COUNTS[f'of {m}']} {m}" for m in ("cdpruner", "script"))
        print(f"\noracles: {COUNTS['compared']} rows compared ({methods}): {kinds}")
