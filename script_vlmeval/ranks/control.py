"""What a process of a run asks of the others."""

from __future__ import annotations

import atexit
import contextlib
import os
import time
from collections.abc import Callable, Mapping
from operator import methodcaller
from typing import Any

from .meeting import Meeting, connect, meet
from .peer import FAILED, LEFT
from .place import Place
from .table import Line, Lost, Memory, RankFailed
from .watch import Watch


class Ranks:
    """This process among those of its run. `rank` counts over all of them, `local` within a machine; `first` is rank 0.

    Every method may be called from every thread. What needs the others raises RankFailed when the table is out of reach; `check`,
    `wait` and `take` also once another process failed, died or fell silent. A lone process has the same methods, in memory.
    """

    beat = 1.0  # seconds between signs of life
    silence = 20.0  # seconds without one after which a process counts as dead, or a request as lost
    linger = 600.0  # seconds for which rank 0 keeps the table for those who are not done yet
    piece = 4 << 20  # bytes; the store refuses values above 8 MiB

    def __init__(self, place: Place, line: Line | Memory, meeting: Meeting | None = None, watch: Watch | None = None) -> None:
        self.rank, self.world, self.local = place.rank, place.world, place.local or 0
        self.first = place.rank == 0
        self._place, self._line, self._meeting, self._watch = place, line, meeting, watch
        self._prefix = meeting.prefix if meeting else ""
        self.beside = sum(peer.machine == meeting.me.machine for peer in meeting.peers) if meeting else 1  # on this computer
        if meeting and place.local is None:
            self.local = sum(peer.machine == meeting.me.machine for peer in meeting.peers[: self.rank])
        atexit.register(self._stop)  # a thread inside the store while the interpreter is taken down would abort the process

    @classmethod
    def here(cls, env: Mapping[str, str] = os.environ) -> Ranks:
        """As the environment says, once all processes have come. UserError when it makes no sense, or when they do not come."""
        place = Place.read(env)
        if place.world == 1:
            return cls(place, Memory())
        deadline = time.monotonic() + place.patience
        ours, beating = connect(place, deadline)
        line = Line(ours)
        run = f"{env.get('TORCHELASTIC_RUN_ID', '')}/{env.get('TORCHELASTIC_RESTART_COUNT', '')}"
        try:
            meeting = meet(place, line, run, cls.silence, deadline)
        except Lost as lost:
            raise RankFailed(f"lost contact with the first process at {place.address}:{place.port}: {lost}") from lost
        return cls(place, line, meeting, Watch(beating, meeting, cls.beat, cls.silence))

    def give(self, name: str, value: bytes) -> None:
        """Hands a value to all, once: ValueError when somebody gave one by that name before."""
        if self.add(f"given {name}") > 1:
            raise ValueError(f"{name!r} was given before")
        for number, start in enumerate(range(0, len(value), self.piece)):
            self._ask("set", self._key(f"piece{number}", name), value[start : start + self.piece])
        self._ask("set", self._key("size", name), str(len(value)).encode())

    def take(self, name: str) -> bytes:
        """A value, once it is given."""
        self.wait(lambda: self._due(name))
        pieces = -(-int(self._ask("get", self._key("size", name))) // self.piece)
        return b"".join(self._ask("get", self._key(f"piece{number}", name)) for number in range(pieces))

    def given(self, name: str) -> bool:
        """Whether a value is there to be taken, without waiting."""
        return bool(self._ask("check", [self._key("size", name)]))

    def claim(self, name: str) -> int:
        """0, 1, 2, ...: each number once over all processes."""
        return self.add(name) - 1

    def add(self, name: str, n: int = 1) -> int:
        """A counter that all share, after adding `n`. It is the one that `claim` counts with."""
        return int(self._ask("add", self._key("count", name), n))

    def check(self) -> None:
        """RankFailed when another process failed or is gone. Looks at what the heartbeat heard: cheap, and a beat late."""
        if not self._watch:
            return
        if time.monotonic() - self._watch.seen > self.silence:
            self._ask("add", self._key("count", ""), 0)  # it may just have been kept from running
        if self._watch.failure:
            raise RankFailed(self._watch.failure)
        if self._watch.lost:
            raise RankFailed(self._contact_lost(self._watch.lost))

    def wait(self, ready: Callable[[], bool]) -> None:
        """Asks again and again until `ready`, every 50 ms at first and every 500 ms later, with `check` in between."""
        pause = 0.05
        while not ready():
            self.check()
            time.sleep(pause)
            pause = min(1.5 * pause, 0.5)

    def fail(self, reason: str) -> None:
        """Tells the others that this process failed. Never raises."""
        if self._watch:
            with contextlib.suppress(Exception):
                self._watch.say(f"{FAILED} {reason[:4000]}", patience=5.0)

    def gone(self, patience: float = 3.0) -> str:
        """Who has failed or is dead right now, '' for nobody: why a launcher ended this process, if because of another one.

        Processes of this machine are looked up at once; others have `patience` seconds for a sign of life. A process that was
        ended by the same signal is dead too, unless it had said goodbye: `close` after asking.
        """
        if not self._watch or not self._meeting:
            return ""
        deadline, first = time.monotonic() + patience, None
        while True:
            ended = [peer.ended(self._meeting.me) for peer in self._watch.others]
            try:
                words = self._line.ask(self._watch.hear, max(patience, 1.0))
            except Lost as lost:
                return self._watch.failure or self._contact_lost(str(lost))
            found = [p.trouble(words[i], self._meeting.me, ended[i]) for i, p in enumerate(self._watch.others)]
            if trouble := self._watch.failure or next(filter(None, found), ""):
                return trouble
            first = first or words
            heard = zip(self._watch.others, first, words, strict=True)
            mute = [peer for peer, old, new in heard if old == new != LEFT and peer.machine != self._meeting.me.machine]
            if not mute or time.monotonic() > deadline:
                return f"{mute[0]} gave no sign of life for {patience:g} s" if mute else ""
            time.sleep(0.2)

    def close(self) -> None:
        """Says goodbye and stops the heartbeat. Where the table lies in this process, it first waits for the others to leave."""
        if self._watch:
            with contextlib.suppress(Exception):
                self._watch.say(LEFT, patience=5.0)
            if self._place.keeps:
                self._outlast(self._watch)
        self._stop()

    def _outlast(self, watch: Watch) -> None:
        """After a failure it is enough that the others hear of it; after a goodbye they may still be at work."""
        limit = self.linger if watch.word == LEFT else min(self.linger, 3 * self.beat)
        deadline = time.monotonic() + limit
        while len(watch.over) < len(watch.others) and not watch.lost and time.monotonic() < deadline:
            time.sleep(0.05)

    def _stop(self) -> None:
        atexit.unregister(self._stop)
        if self._watch:
            self._watch.stop()
        self._line.close()

    def _key(self, kind: str, name: str) -> str:
        return f"{self._prefix}/{kind}/{name}"

    def _ask(self, method: str, *arguments: Any) -> Any:
        try:
            return self._line.ask(methodcaller(method, *arguments), self.silence)
        except Lost as lost:
            raise RankFailed(self._contact_lost(str(lost))) from lost

    def _due(self, name: str) -> bool:
        """Whether a value is there; RankFailed when nobody is left to give it: the first process leads, and ends the run."""
        left = self._watch.left if self._watch else set()
        over = 0 in left or 0 < self.world - 1 <= len(left)  # looked at before asking, as a gift comes before a goodbye
        if self.given(name):
            return True
        if over:
            self.check()  # a failure made them leave, if there was one
            raise RankFailed(f"the other processes have left without giving {name!r}")
        return False

    def _contact_lost(self, why: str) -> str:
        """What is known of the end of the table."""
        if not self._meeting or (self._watch and self._watch.failure):
            return self._watch.failure if self._watch else why
        first = self._meeting.peers[0]
        death = ", whose process is gone" if not self.first and first.ended(self._meeting.me) else ""
        at = f"{self._place.address}:{self._place.port}"
        return f"lost contact with the first process, {first}{death}: the run's table at {at} does not answer ({why})"
