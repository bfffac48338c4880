"""The heartbeat of a process, and what it hears of the others."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import Any

from ..errors import reason_of
from .meeting import Meeting
from .peer import LEFT, ON, Peer


@dataclass
class Watch:
    """The heartbeat: says every `beat` seconds that this process lives, and reads what the others say.

    `failure` is the first trouble of another process, `lost` why the table is out of reach, `left` who said goodbye,
    `over` all from whom nothing more will come.
    """

    store: Any
    meeting: Meeting
    beat: float
    silence: float
    word: str = ""  # the last one, once it is known
    failure: str = ""
    lost: str = ""
    left: set[int] = field(default_factory=set)
    over: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.me = self.meeting.me
        self.others = [peer for peer in self.meeting.peers if peer.rank != self.me.rank]
        self.heard = [("", 0.0)] * len(self.others)  # the latest word, and for how long it has been that
        self.seen = time.monotonic()
        self.beats, self.stopped = 0, False
        self.wake, self.said = threading.Event(), threading.Event()
        self.thread = threading.Thread(target=self._run, name="ranks-watch", daemon=True)
        self.thread.start()

    def say(self, word: str, patience: float) -> None:
        """The last word of this process; the first of them counts. Back when it is written, or cannot be."""
        self.word = self.word or word
        self.wake.set()
        self.said.wait(patience)

    def stop(self) -> None:
        self.stopped = True
        self.wake.set()
        self.thread.join(2.0)

    def hear(self, store: Any) -> list[str]:
        """The latest words of the others, in order of rank."""
        return [word.decode() for word in store.multi_get([self._key(peer) for peer in self.others])]

    def _key(self, peer: Peer) -> str:
        return f"{self.meeting.prefix}/word/{peer.rank}"

    def _run(self) -> None:
        try:
            while not self.stopped:
                self._cycle()
                self.wake.wait(self.beat)
                self.wake.clear()
        except (RuntimeError, OSError) as error:
            self.lost = reason_of(error)
            self.said.set()

    def _cycle(self) -> None:
        word, self.beats = self.word, self.beats + 1
        self.store.set(self._key(self.me), word or f"{ON} {self.beats}")
        if word:
            self.said.set()
        ended = [peer.ended(self.me) for peer in self.others]  # before the words are read: a goodbye comes before the end
        words = self.hear(self.store)
        now = time.monotonic()
        passed, self.seen = min(now - self.seen, 2 * self.beat), now
        for i, peer in enumerate(self.others):
            self._judge(i, peer, words[i], ended[i], passed)

    def _judge(self, i: int, peer: Peer, word: str, ended: bool, passed: float) -> None:
        last, silent = self.heard[i]
        silent = silent + passed if word == last else 0.0
        self.heard[i] = (word, silent)
        trouble = peer.trouble(word, self.me, ended)
        if word == LEFT:
            self.left.add(peer.rank)
        elif not trouble and silent > self.silence:
            trouble = f"{peer} fell silent: no sign of life for {silent:.0f} s"
        self.failure = self.failure or trouble
        if trouble or word == LEFT:
            self.over.add(peer.rank)
