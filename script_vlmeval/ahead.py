"""Work that is done ahead of who needs it: one thread that reads on, and several that decode pictures side by side."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from queue import SimpleQueue
from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T")
U = TypeVar("U")
_MOST = 8  # threads that decode: more wait for the disk and for each other
PATIENCE = 5.0  # seconds that leaving early waits for a result that is being made


@contextmanager
def ahead(make: Callable[[T], U], items: Iterable[T], depth: int = 2) -> Iterator[Iterator[U]]:
    """`with ahead(make, items) as results: for result in results: ...`, where a thread makes the next ones meanwhile.

    An item is taken from `items`, in the thread, when it is about to be made. Those whose results nobody has yet, being made or
    waiting, are never more than `depth`. What `make` or `items` raises is raised in its place, and is the end, as in a generator.
    Leaving takes no more items, drops what waits, and ends the thread: if it is making a result then, as soon as that is made,
    for which leaving waits five seconds at most. depth 0: everything in the caller's thread.

    A new thread has torch's defaults: gradients are on, and the current GPU is the first.
    """
    made = _each(make, items)
    if not depth:
        try:
            yield made
        finally:
            made.close()
        return
    reader = _Reader(made, depth)
    try:
        yield reader
    finally:
        reader.close()


def _each(make: Callable[[T], U], items: Iterable[T]) -> Generator[U, None, None]:
    """Holds neither an item nor a result beyond its use: each may be a batch of pictures."""
    for item in items:
        made = [make(item)]
        del item
        yield made.pop()


class _End(NamedTuple):
    error: BaseException | None


class _Reader(Generic[U]):
    """The results of a generator that runs in a thread of its own."""

    def __init__(self, made: Iterator[U], depth: int) -> None:
        self._made = made
        self._free = threading.Semaphore(depth)  # places for results, taken before an item is
        self._results: SimpleQueue[U | _End] = SimpleQueue()
        self._left = self._over = False
        self._thread = threading.Thread(target=self._work, name="ahead", daemon=True)
        self._thread.start()

    def _work(self) -> None:
        try:
            while self._wanted():
                self._results.put(next(self._made))  # never in a variable: it would outlive its use
        except StopIteration:  # of the items alone: a generator turns another's into a RuntimeError
            self._results.put(_End(None))
        except BaseException as error:
            self._results.put(_End(error))
        else:
            self._results.put(_End(None))

    def _wanted(self) -> bool:
        """Wait for a free place. False where nobody wants more."""
        self._free.acquire()
        return not self._left

    def __iter__(self) -> Iterator[U]:
        return self

    def __next__(self) -> U:
        if self._over:
            raise StopIteration
        result = self._results.get()
        self._free.release()
        if not isinstance(result, _End):
            return result
        self._over = True
        if result.error is None:
            raise StopIteration
        try:
            raise result.error
        finally:
            del result  # an error that holds itself, by its traceback, would hold a batch too

    def close(self) -> None:
        self._left = self._over = True
        self._free.release()
        self._thread.join(PATIENCE)
        self._results = SimpleQueue()


def decoders(processes: int = 1) -> int:
    """How many threads each of so many processes on this computer may decode with."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(_MOST, cores // processes))


def gather(make: Callable[[T], U], items: Sequence[T], workers: int | None = None) -> list[U | Exception]:
    """What `make` returns or raises for each item, in order, made side by side in threads that all calls share.

    An interrupt is raised, and what has not begun then never is. `make` must not gather itself: it would wait for the thread
    that it has. workers: as many as `decoders` says where None; 1 is the caller's own thread.
    """
    workers = decoders() if workers is None else workers

    def tried(item: T) -> U | Exception:
        try:
            return make(item)
        except Exception as error:
            return error

    if workers == 1 or len(items) < 2:
        return [tried(item) for item in items]
    begun = [_pool(workers).submit(tried, item) for item in items]
    try:
        return [one.result() for one in begun]
    finally:
        for one in begun:
            one.cancel()


@cache
def _pool(workers: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(workers, thread_name_prefix="decode")
