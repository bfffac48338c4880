"""The processes of one run: what they tell each other, and that none of them waits for one that died.

A sweep runs as one process, or as several under torchrun (or anything else that sets RANK, WORLD_SIZE, MASTER_ADDR and
MASTER_PORT). They share a table of keys and values, torch.distributed's TCPStore, and nothing else: no collective, which hangs
where one of its members died. The table lies with torchrun's agent or, without one, in the process of rank 0.

- A connection carries one request at a time, and one that waits for a key holds it until its time is up. So nothing here waits
  in the store: waiting is asking again. Each process has two connections, `Line` for its requests and `Watch` for its heartbeat.
- A machine that vanished sends no error, and its connections stay silent for a quarter of an hour. So requests run on a thread of
  their own, and whoever asked stops waiting after `silence` seconds.
- Silence is counted in the observer's own cycles, so that a process that held its interpreter lock for long accuses nobody.
"""

from __future__ import annotations

from .control import Ranks
from .table import RankFailed

__all__ = ["RankFailed", "Ranks"]
