"""Reading ahead: order, bounds, errors in their place, and threads that end."""

from __future__ import annotations

import gc
import itertools
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from script_vlmeval import ahead as module
from script_vlmeval.ahead import ahead, decoders, gather

DEPTHS = pytest.mark.parametrize("depth", [0, 1, 2, 5])
SOON = 30  # seconds after which a test fails instead of hanging


class Box:
    """Something that can be seen to go."""


def readers() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name == "ahead"]


@pytest.fixture(autouse=True)
def no_thread_is_left():
    yield
    for thread in readers():
        thread.join(SOON)
    assert not readers()


def same(item: int) -> int:
    return item


def fails_at(number: int, error: BaseException) -> Callable[[int], int]:
    def make(item: int) -> int:
        if item == number:
            raise error
        return item

    return make


@DEPTHS
def test_results_come_in_order(depth: int):
    with ahead(lambda n: n * n, range(50), depth) as results:
        assert list(results) == [n * n for n in range(50)]
        assert list(results) == []
    with ahead(same, [], depth) as results:
        assert list(results) == []


@DEPTHS
def test_everything_happens_in_one_thread(depth: int):
    seen = set()

    def items() -> Iterator[int]:
        for n in range(5):
            seen.add(threading.current_thread())
            yield n

    with ahead(lambda _: seen.add(threading.current_thread()), items(), depth) as results:
        assert list(results) == [None] * 5
    assert len(seen) == 1
    assert (threading.current_thread() in seen) == (depth == 0)


@pytest.mark.parametrize("depth", [1, 2, 5])
@pytest.mark.parametrize("taken", [0, 1, 3])
def test_no_more_items_are_claimed_than_fit(depth: int, taken: int):
    made = 0
    full, beyond = threading.Event(), threading.Event()

    def make(n: int) -> int:
        nonlocal made
        made += 1
        if made == taken + depth:
            full.set()
        if made > taken + depth:
            beyond.set()
        return n

    claims = itertools.count()
    with ahead(make, claims, depth) as results:
        assert [next(results) for _ in range(taken)] == list(range(taken))
        assert full.wait(SOON)
        assert not beyond.wait(0.05)
    assert next(claims) == taken + depth


def test_an_item_being_made_takes_a_place_too():
    """Two places: one result waits, one is being made, and no third item is claimed."""
    second, go_on = threading.Event(), threading.Event()

    def make(n: int) -> int:
        if n == 1:
            second.set()
            assert go_on.wait(SOON)
        return n

    claims = itertools.count()
    with ahead(make, claims, 2) as results:
        assert second.wait(SOON)
        assert next(results) == 0  # does not wait for the second
        go_on.set()
    assert next(claims) <= 3


def test_without_a_thread_an_item_is_claimed_when_it_is_asked_for():
    claims = itertools.count()
    with ahead(same, claims, 0) as results:
        assert next(results) == 0
        assert next(claims) == 1
        assert next(results) == 2
    assert next(claims) == 3


@DEPTHS
@pytest.mark.parametrize("kind", [ValueError, SystemExit, KeyboardInterrupt])
def test_what_is_raised_arrives_in_its_place(depth: int, kind: type[BaseException]):
    error = kind("of three")
    claims = itertools.count()
    seen: list[int] = []
    with ahead(fails_at(3, error), claims, depth) as results:
        with pytest.raises(kind) as caught:
            seen.extend(results)
        assert list(results) == []
    assert caught.value is error
    assert seen == [0, 1, 2]
    assert next(claims) == 4  # nothing is claimed behind an error


@DEPTHS
def test_an_error_of_the_items_arrives_in_its_place(depth: int):
    def items() -> Iterator[int]:
        yield from range(3)
        raise OSError("no more")

    seen: list[int] = []
    with ahead(same, items(), depth) as results, pytest.raises(OSError, match="no more"):
        seen.extend(results)
    assert seen == [0, 1, 2]


@DEPTHS
def test_an_end_that_is_raised_by_mistake_ends_nothing_silently(depth: int):
    with ahead(fails_at(1, StopIteration()), range(4), depth) as results, pytest.raises(RuntimeError):
        list(results)


@DEPTHS
@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt, GeneratorExit, StopIteration])
def test_an_error_of_the_consumer_is_kept_and_ends_the_thread(depth: int, kind: type[BaseException]):
    error = kind()
    claims = itertools.count()

    def consume() -> None:
        with ahead(same, claims, depth) as results:
            for n in results:
                if n == 2:
                    raise error

    with pytest.raises(kind) as caught:
        consume()
    assert caught.value is error
    assert not readers()
    after = next(claims)
    assert 3 <= after <= 3 + depth


def test_an_error_that_nobody_reached_is_dropped():
    failed = threading.Event()

    def make(n: int) -> int:
        if n:
            failed.set()
            raise ValueError("of one")
        return n

    with ahead(make, itertools.count(), 2) as results:
        assert next(results) == 0
        assert failed.wait(SOON)


@DEPTHS
def test_nothing_comes_after_leaving(depth: int):
    with ahead(same, itertools.count(), depth) as results:
        assert next(results) == 0
    assert list(results) == []


def test_leaving_waits_for_a_result_that_is_being_made():
    begun, go_on, done = threading.Event(), threading.Event(), threading.Event()

    def make(n: int) -> int:
        begun.set()
        assert go_on.wait(SOON)
        done.set()
        return n

    with ahead(make, itertools.count(), 2):
        assert begun.wait(SOON)
        go_on.set()
    assert done.is_set()
    assert not readers()


def test_leaving_does_not_hang_on_a_result_that_never_comes(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "PATIENCE", 0.01)
    begun, go_on = threading.Event(), threading.Event()

    def make(n: int) -> int:
        begun.set()
        go_on.wait(SOON)
        return n

    claims = itertools.count()
    with ahead(make, claims, 2):
        assert begun.wait(SOON)
    (thread,) = readers()
    assert thread.daemon
    go_on.set()
    thread.join(SOON)
    assert next(claims) == 1  # it went on with nothing


@DEPTHS
def test_what_was_used_is_let_go(depth: int):
    """Neither the items nor the results of a reader that has more to do outlive their use."""
    gone: list[weakref.ref[Box]] = []

    def boxed() -> Box:
        box = Box()
        gone.append(weakref.ref(box))
        return box

    released = threading.Semaphore(0)

    def items() -> Iterator[Box]:
        for _ in range(2):
            yield boxed()
        released.acquire(timeout=SOON)
        yield boxed()

    def make(_: Box) -> Box:
        return boxed()

    with ahead(make, items(), depth) as results:
        first, second = next(results), next(results)
        del first, second
        gc.collect()
        assert [ref() for ref in gone[:4]] == [None] * 4
        released.release()
        assert isinstance(next(results), Box)


def test_an_error_does_not_hold_what_it_was_raised_over():
    def make(box: Box) -> None:
        raise ValueError(f"of {box}")

    def failing() -> weakref.ref[Box]:
        box = Box()
        with pytest.raises(ValueError, match="Box"), ahead(make, [box], 2) as results:
            next(results)
        return weakref.ref(box)

    gc.collect()
    gc.disable()
    try:
        assert failing()() is None  # without the collector's help
    finally:
        gc.enable()


def test_many_readers_in_turn_leave_nothing():
    for n in range(100):
        with ahead(same, itertools.count(), 1 + n % 3) as results:
            for i in results:
                if i == n % 7:
                    break
    assert not readers()


def test_a_fast_switch_between_threads_changes_nothing():
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ahead(same, range(3000), 2) as results:
            assert list(results) == list(range(3000))
    finally:
        sys.setswitchinterval(before)


# several threads ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("workers", [1, 2, 8])
def test_what_is_gathered_is_in_order_and_errors_are_in_place(workers: int):
    error = ValueError("broken")
    assert gather(fails_at(3, error), range(6), workers) == [0, 1, 2, error, 4, 5]
    assert gather(same, [], workers) == []
    assert gather(same, [7], workers) == [7]
    (found,) = gather(fails_at(7, error), [7], workers)
    assert found is error


def test_pictures_are_made_side_by_side():
    barrier = threading.Barrier(3)
    assert gather(lambda n: (barrier.wait(SOON), n)[1], range(3), 3) == [0, 1, 2]


def test_one_worker_is_the_caller_and_starts_no_thread(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "_pool", None)
    here = threading.current_thread()
    assert gather(lambda _: threading.current_thread() is here, range(3), 1) == [True] * 3
    assert gather(lambda _: threading.current_thread() is here, [0], 4) == [True]


def test_all_calls_share_their_threads():
    def thread(_: int) -> int:
        return threading.get_ident()

    found = {one for _ in range(10) for one in gather(thread, range(8), 2)}
    assert len(found) <= 2


@pytest.mark.parametrize("workers", [1, 2])
def test_an_interrupt_is_raised_and_the_rest_never_begins(workers: int, monkeypatch: pytest.MonkeyPatch):
    raised = threading.Event()
    begun: list[int] = []

    def make(n: int) -> None:
        begun.append(n)
        if n == 0:
            raise KeyboardInterrupt
        raised.wait(SOON)

    with ThreadPoolExecutor(2) as pool:
        monkeypatch.setattr(module, "_pool", lambda _: pool)
        with pytest.raises(KeyboardInterrupt):
            gather(make, range(1000), workers)
        raised.set()
    assert set(begun) <= {0, 1, 2}  # one in each thread, and the one that followed on the first


def test_as_many_threads_as_there_are_cores_for_each_process(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module.os, "sched_getaffinity", lambda _: set(range(24)), raising=False)
    assert [decoders(), *map(decoders, (1, 4, 8, 100))] == [8, 8, 6, 3, 1]
