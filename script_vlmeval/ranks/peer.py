"""A process of the run: how others name it, and how they see that it is gone."""

from __future__ import annotations

import contextlib
import os
import socket
import uuid
from dataclasses import dataclass
from pathlib import Path

ON, LEFT, FAILED = "on", "left", "failed"  # the first word of what a process says of itself


@dataclass(frozen=True)
class Peer:
    """A process of the run. Process numbers mean something within one `machine`; `born` tells apart who had the number when."""

    rank: int
    host: str
    pid: int
    born: str
    machine: str
    nonce: str

    @classmethod
    def me(cls, rank: int) -> Peer:
        machine = socket.gethostname()
        with contextlib.suppress(OSError):  # containers on one computer may share its name
            machine += Path("/proc/sys/kernel/random/boot_id").read_text().strip() + os.readlink("/proc/self/ns/pid")
        return cls(rank, socket.gethostname(), os.getpid(), born(os.getpid()), machine, uuid.uuid4().hex)

    def ended(self, observer: Peer) -> bool:
        """Whether its process is seen to be gone, which only its own machine can see."""
        return self.machine == observer.machine and born(self.pid) not in (self.born, "?")

    def trouble(self, word: str, observer: Peer, ended: bool) -> str:
        """What its latest word, and whether its process had ended before that was read, say against it; '' for nothing."""
        kind, _, rest = word.partition(" ")
        if kind == FAILED:
            return f"{self} failed: {rest}"
        return f"{self} is gone: its process ended without a word" if kind == ON and ended else ""

    def __str__(self) -> str:
        return f"rank {self.rank} ({self.host}, pid {self.pid})"


def born(pid: int) -> str:
    """When a process started, in the kernel's ticks; '' for none and for a zombie, '?' where that cannot be known."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        return "" if fields[0] in (b"Z", b"X") else fields[19].decode()
    except (FileNotFoundError, ProcessLookupError):
        pass  # not Linux, or truly gone
    except OSError:
        return "?"
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return ""
    except OSError:
        return "?"
    return "?"
