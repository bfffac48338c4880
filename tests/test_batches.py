"""Chunks that every process computes alike, batches of near-equal length, and sizes that memory allows."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from script_vlmeval.batches import Meter, Sizer, chunk_size, chunks, cuts
from script_vlmeval.errors import UserError

LENGTHS = st.lists(st.integers(0, 10**6), max_size=60)


class Fake(Meter):
    """GPUs whose batches take `base + slope * size`."""

    def __init__(self, total: int | Sequence[int], base: int = 100, slope: int = 1) -> None:
        self.totals = (total,) if isinstance(total, int) else tuple(total)
        self.base, self.slope, self.left, self.size, self.resets = base, slope, 0, 0, 0

    def run(self, size: int) -> None:
        self.size = max(self.size, size)

    def reset(self) -> tuple[int, ...]:
        self.resets += 1
        self.size = 0
        return (self.base + self.left,) * len(self.totals)

    def peak(self) -> tuple[int, ...]:
        return (self.base + self.slope * self.size,) * len(self.totals)

    def total(self) -> tuple[int, ...]:
        return self.totals


def grown(sizer: Sizer, meter: Fake, batches: int = 12) -> list[int]:
    """The sizes of full batches that went through, one after the other."""
    sizes = []
    for _ in range(batches):
        meter.run(sizer.now)
        sizes.append(sizer.now)
        sizer.fitted(sizer.now)
    return sizes


# chunks ------------------------------------------------------------------------------------------------------------------
def test_the_longest_rows_come_first_and_equal_ones_in_their_order():
    assert [c.tolist() for c in chunks([3, 9, 3, 1, 9], 2)] == [[1, 4], [0, 2], [3]]
    assert chunks([], 4) == []


@given(LENGTHS, st.integers(1, 70))
def test_chunks_hold_every_row_once(lengths: list[int], size: int):
    found = chunks(lengths, size)
    flat = [int(at) for chunk in found for at in chunk]
    assert flat == sorted(range(len(lengths)), key=lambda at: (-lengths[at], at))
    assert [len(chunk) for chunk in found[:-1]] == [size] * (len(found) - 1)
    assert all(len(chunk) for chunk in found)


def test_lengths_without_a_sign_are_sorted_too():
    assert chunks(np.array([0, 200, 3], dtype=np.uint8), 3)[0].tolist() == [1, 2, 0]


@pytest.mark.parametrize(
    ("rows", "batch", "processes", "size"),
    [
        (10_000, 32, 1, 256),  # eight batches
        (10, 32, 1, 256),
        (214_354, 32, 8, 256),
        (10_000, 32, 8, 128),  # 78 chunks for eight
        (1_000, 32, 8, 32),  # one batch at least
        (100_000, 256, 1, 512),  # no more pictures than that
        (100_000, 1_000, 4, 1_000),
        (214_354, 1, 64, 8),
    ],
)
def test_chunks_of_a_given_batch_size(rows: int, batch: int, processes: int, size: int):
    assert chunk_size(rows, batch, processes, auto=False) == size


@given(st.integers(0, 300_000), st.integers(1, 300), st.integers(1, 64), st.booleans())
def test_chunks_are_whole_batches_and_leave_work_for_all(rows: int, batch: int, processes: int, auto: bool):
    size = chunk_size(rows, batch, processes, auto)
    assert size >= 1
    assert size % batch == 0 or (auto and size < batch)
    if processes > 1 and size > batch:
        assert rows // size >= 8 * processes


@pytest.mark.parametrize("rows", [8, 64, 200, 1_000, 5_000, 9_000, 60_000, 214_354])
@pytest.mark.parametrize("processes", [2, 8, 16])
def test_no_process_goes_without_where_the_size_is_found_by_trying(rows: int, processes: int):
    size = chunk_size(rows, 256, processes, auto=True)
    assert -(-rows // size) >= min(rows, processes) / 2
    assert -(-rows // size) >= 8 * processes or size <= 64


# batches -----------------------------------------------------------------------------------------------------------------
def cut(costs: list[float], most: int, ratio: float = 2.0) -> list[list[int]]:
    return list(cuts(costs, lambda: most, ratio))


def test_a_batch_ends_where_padding_would_be_more_than_half():
    assert cut([1, 8, 4, 3, 100, 2], 8) == [[4], [1, 2], [3, 5], [0]]
    assert cut([1, 8, 4, 3, 100, 2], 8, ratio=100) == [[4, 1, 2, 3, 5, 0]]
    assert cut([5, 5, 5, 5, 5], 2) == [[0, 1], [2, 3], [4]]
    assert cut([], 4) == []


def test_rows_that_cost_nothing_or_nobody_knows_what_are_kept():
    assert cut([0, 0, 3], 8) == [[2], [0, 1]]
    assert sorted(at for batch in cut([1, float("nan"), 5, float("nan")], 3) for at in batch) == [0, 1, 2, 3]


@given(st.lists(st.floats(0, 1e6), max_size=60), st.integers(1, 20), st.floats(1, 4))
def test_batches_hold_every_row_once_within_their_bounds(costs: list[float], most: int, ratio: float):
    found = cut(costs, most, ratio)
    assert sorted(at for batch in found for at in batch) == list(range(len(costs)))
    assert [costs[at] for batch in found for at in batch] == sorted(costs, reverse=True)
    for batch, after in zip(found, [*found, []][1:], strict=True):
        assert 1 <= len(batch) <= most
        assert costs[batch[0]] <= ratio * costs[batch[-1]]
        assert len(batch) == most or not after or costs[batch[0]] > ratio * costs[after[0]]  # none is smaller than it must be


def test_the_size_of_a_batch_is_asked_when_it_is_cut():
    sizes = iter([1, 2, 4, 0])
    assert list(cuts([1.0] * 8, lambda: next(sizes))) == [[0], [1, 2], [3, 4, 5, 6], [7]]


# sizes -------------------------------------------------------------------------------------------------------------------
def test_a_size_doubles_while_memory_is_there():
    meter = Fake(total=100_000)
    assert grown(Sizer.of("auto", meter), meter, 8) == [8, 16, 32, 64, 128, 256, 256, 256]


@pytest.mark.parametrize(("total", "largest"), [(1930, 64), (1928, 32), (260, 8), (0, 8)])
def test_a_size_stops_where_twice_as_many_would_not_fit(total: int, largest: int):
    meter = Fake(total, base=1000, slope=10)  # 64 samples take 1640 of 0.85 * 1930 = 1640.5
    assert grown(Sizer.of("auto", meter), meter)[-1] == largest


def test_every_gpu_of_a_spread_model_must_have_room():
    assert grown(Sizer.of("auto", meter := Fake([100_000, 250])), meter)[-1] == 64


def test_only_full_batches_make_a_size_grow():
    meter = Fake(total=100_000)
    sizer = Sizer.of("auto", meter)
    sizer.fitted(7)
    assert sizer.now == 8
    sizer.fitted(8)
    sizer.fitted(8)  # cut before it grew
    assert sizer.now == 16


def test_peaks_of_an_earlier_batch_do_not_count():
    meter = Fake(total=300)
    sizer = Sizer.of("auto", meter)
    meter.run(190)
    sizer.fitted(3)
    assert grown(sizer, meter, 3) == [8, 16, 32]


def test_what_a_batch_leaves_behind_is_no_part_of_the_base():
    meter = Fake(total=825, slope=10)
    sizer = Sizer.of("auto", meter)
    meter.left = 80  # all of the first batch is still there when the next one is measured
    assert grown(sizer, meter)[-1] == 32  # 100 + 640 does not fit into 701; 180 + 2 * (420 - 180) would


def test_a_batch_that_was_cut_before_the_size_shrank_says_what_itself_took():
    meter = Fake(total=320, slope=10)
    sizer = Sizer.of("auto", meter)
    meter.run(16)
    sizer.fitted(16)
    assert sizer.now == 16  # 100 + 160 fits into 272


def test_a_size_that_failed_never_comes_back():
    meter = Fake(total=100_000)
    sizer = Sizer.of("auto", meter)
    assert grown(sizer, meter, 4)[-1] == 64
    sizer.failed(128)
    assert sizer.now == 64
    assert set(grown(sizer, meter)) == {64}
    sizer.failed(33)
    assert set(grown(sizer, meter)) == {16}
    sizer.failed(64)  # of a batch that had been cut before
    assert set(grown(sizer, meter)) == {16}
    for _ in range(6):
        sizer.failed(sizer.now)
    assert set(grown(sizer, meter)) == {1}


def test_a_size_may_grow_up_to_half_of_what_failed():
    meter = Fake(total=100_000)
    sizer = Sizer.of("auto", meter)
    sizer.failed(100)
    assert grown(sizer, meter, 6) == [8, 16, 32, 50, 50, 50]


def test_a_peak_that_failed_does_not_count():
    meter = Fake(total=300)
    sizer = Sizer.of("auto", meter)
    meter.run(190)
    sizer.failed(64)
    meter.run(sizer.now)
    sizer.fitted(sizer.now)
    assert sizer.now == 16


def test_a_given_size_stays_until_it_fails():
    meter = Fake(total=100_000)
    sizer = Sizer.of(12, meter)
    assert set(grown(sizer, meter)) == {12}
    sizer.failed(12)
    assert set(grown(sizer, meter)) == {6}
    assert meter.resets == 0


def test_on_a_cpu_nothing_is_tried():
    sizer = Sizer.of("auto", None)
    sizer.fitted(32)
    assert sizer.now == 32
    sizer.failed(32)
    sizer.fitted(16)
    assert sizer.now == 16


@pytest.mark.parametrize("wanted", [0, -4, "many", "8"])
def test_other_sizes_are_refused(wanted: str | int):
    with pytest.raises(UserError, match="auto"):
        Sizer.of(wanted, None)


# the counters of torch ---------------------------------------------------------------------------------------------------
def test_the_meter_reads_the_counters_of_its_gpus(monkeypatch: pytest.MonkeyPatch):
    reset: list[int] = []
    counters = {
        "reset_peak_memory_stats": reset.append,
        "memory_allocated": lambda device: 10 + device,
        "max_memory_allocated": lambda device: 20 + device,
        "mem_get_info": lambda device: (100 + device, 999),
        "memory_reserved": lambda device: 30,
        "device_count": lambda: 3,
        "current_device": lambda: 2,
    }
    for name, counter in counters.items():
        monkeypatch.setattr(torch.cuda, name, counter)
    one, every, current = (Meter.of(device) for device in ("cuda:1", "all", "cuda"))
    assert one is not None
    assert every is not None
    assert current is not None
    assert (one.reset(), one.peak(), one.total()) == ((11,), (21,), (131,))
    assert every.peak() == (20, 21, 22)
    assert current.peak() == (22,)
    assert reset == [1]


def test_a_cpu_has_no_meter(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert Meter.of("cpu") is None
    assert Meter.of("mps") is None
    assert Meter.of("all") is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_meter_sees_what_is_taken():
    meter = Meter.of("cuda")
    assert meter is not None
    before = meter.reset()[0]
    taken = torch.empty(2**20, dtype=torch.uint8, device="cuda")
    del taken
    assert meter.peak()[0] >= before + 2**20
    assert meter.reset()[0] == before
    assert meter.total()[0] > 2**20


def test_full_benchmarks_are_dealt_alike_by_all():
    lengths = random.Random(0).choices(range(20, 200), k=214_354)
    first, second = chunks(lengths, 256), chunks(list(lengths), 256)
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    assert sum(map(len, first)) == 214_354
