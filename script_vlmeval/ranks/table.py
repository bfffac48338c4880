"""The table that the processes share, and one connection to it."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as Unanswered
from typing import Any, TypeVar

from ..errors import reason_of

T = TypeVar("T")
Operation = Callable[[Any], T]  # of a store: a TCPStore, or a `Memory`


class RankFailed(Exception):
    """Another process of the run failed or is gone. The message says which (rank, host, process number) and why."""


class Lost(Exception):
    """The table cannot be reached any more."""


class Memory:
    """The table of a lone process."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}
        self.lock = threading.RLock()
        self.set, self.get = self.values.__setitem__, self.values.__getitem__

    def check(self, keys: list[str]) -> bool:
        return all(key in self.values for key in keys)

    def add(self, key: str, n: int) -> int:
        total = int(self.values.get(key, b"0")) + n
        self.values[key] = str(total).encode()
        return total

    def ask(self, operation: Operation[T], patience: float) -> T:
        with self.lock:
            return operation(self)

    def close(self) -> None:
        """As a `Line` has it."""


class Line:
    """A connection and the thread that speaks on it. `ask` may be called from any thread, and from a signal handler."""

    def __init__(self, store: Any) -> None:
        self.store = store
        self.asked: queue.SimpleQueue[tuple[Operation[Any], Future[Any]] | None] = queue.SimpleQueue()
        threading.Thread(target=self._serve, name="ranks-line", daemon=True).start()

    def ask(self, operation: Operation[T], patience: float) -> T:
        """Lost when the table answers with an error of the network, or not within `patience` seconds."""
        answer: Future[T] = Future()
        self.asked.put((operation, answer))
        slices = 40  # one wait could run out behind another thread that holds the interpreter lock, forty cannot
        for _ in range(slices):
            try:
                return answer.result(patience / slices)
            except Unanswered:
                continue
        raise Lost(f"no answer for {patience:g} s")

    def close(self) -> None:
        self.asked.put(None)

    def _serve(self) -> None:
        broken: Exception | None = None  # after an error nobody knows which answer comes next
        while (request := self.asked.get()) is not None:
            operation, answer = request
            try:
                if broken:
                    raise broken
                answer.set_result(operation(self.store))
            except (RuntimeError, OSError, Lost) as error:
                broken = Lost(reason_of(error))
                answer.set_exception(broken)
