"""The last results by key, for several threads: what two of them ask for at once is made once."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from threading import Lock
from typing import Any, Generic, TypeVar

V = TypeVar("V")


class Recent(Generic[V]):
    """Remembers `size` results. One that could not be made is not remembered: everybody who waits for it gets the error."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._lock = Lock()
        self._results: OrderedDict[Hashable, Future[V]] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], V]) -> V:
        """The result of that key; made here where nobody has it or is at it."""
        with self._lock:
            known = self._results.pop(key, None)
            result: Future[V] = known or Future()
            self._results[key] = result  # at the end: used last
            while len(self._results) > self._size:
                self._results.popitem(last=False)
        if known is None:
            self._make(key, result, make)
        return result.result()

    def _make(self, key: Hashable, result: Future[Any], make: Callable[[], Any]) -> None:
        try:
            result.set_result(make())
        except BaseException as error:
            with self._lock:
                if self._results.get(key) is result:
                    del self._results[key]
            result.set_exception(error)
