"""How the processes of a run find each other, and agree on who they are.

Every process writes down who it is, the first one gathers that into a roster, and a process joins the roster that names it. The
run is on once all have joined the same one, the first process last. So a table that an earlier run used, before a restart or in
the same processes, does no harm: its roster names processes that do not come.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
import time
from dataclasses import asdict, dataclass
from datetime import timedelta
from functools import partial
from importlib import import_module
from typing import Any

from ..errors import UserError, reason_of
from .peer import ON, Peer
from .place import PATIENCE, Place
from .table import Line

_SERVERS: dict[int, Any] = {}  # port -> table that this process keeps, until it ends: its next run finds it there


def connect(place: Place, deadline: float) -> list[Any]:
    """Two connections to the table, which is opened here where this process keeps it. UserError without one until `deadline`."""
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # a lost connection is told in a line of ours, not in 25 of C++
    if not place.keeps:
        _reach(place, deadline)
    opened = partial(_store(), place.address, place.port, wait_for_workers=False)
    if place.keeps and place.port not in _SERVERS:
        try:
            _SERVERS[place.port] = opened(is_master=True, multi_tenant=True)
        except RuntimeError as error:
            at = f"MASTER_ADDR={place.address} MASTER_PORT={place.port}"
            raise UserError(f"The run's table cannot be opened at {at}: {reason_of(error)}. Try another port.") from error
    limit = timedelta(seconds=max(5.0, deadline - time.monotonic()))
    try:
        return [opened(is_master=False, timeout=limit) for _ in range(2)]
    except RuntimeError as error:
        raise UserError(f"What answers at {place.address}:{place.port} is no table of a run: {reason_of(error)}") from error


def _store() -> Any:
    """The class of the table. Its module takes seconds to load, and a lone process never does."""
    return import_module("torch.distributed").TCPStore


def _reach(place: Place, deadline: float) -> None:
    """Back when something listens at the table's address. A plain socket tries quietly, and an interrupt gets through."""
    while True:
        try:
            socket.create_connection((place.address, place.port), timeout=5.0).close()
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise UserError(
                    f"Nothing answers at MASTER_ADDR={place.address} MASTER_PORT={place.port} after {place.patience:g} s "
                    f"({reason_of(error)}). Is the process with RANK=0 running there, and may this host reach it? "
                    f"{PATIENCE} sets how long to wait."
                ) from error
            time.sleep(0.2)


@dataclass(frozen=True)
class Meeting:
    """Who takes part, in order of rank, and the prefix of the keys that belong to them alone."""

    me: Peer
    peers: list[Peer]
    prefix: str


def meet(place: Place, line: Line, run: str, patience: float, deadline: float) -> Meeting:
    """Waits for all processes of the run. UserError naming who is missing at `deadline`."""
    me = Peer.me(place.rank)
    keys = [f"script_vlmeval/{run}/hello/{rank}" for rank in range(place.world)]
    line.ask(lambda store: store.set(keys[me.rank], json.dumps(asdict(me))), patience)
    joined: dict[str, list[Peer]] = {}
    while True:
        found = line.ask(lambda store: _step(store, f"script_vlmeval/{run}", keys, me, joined), patience)
        if found:
            return Meeting(me, joined[found], found)
        if time.monotonic() > deadline:
            raise _absent(place, line, keys, patience)
        time.sleep(0.05)


def _step(store: Any, run: str, keys: list[str], me: Peer, joined: dict[str, list[Peer]]) -> str:
    """The prefix of the roster that is complete, '' while there is none.

    The first process joins last, and with that the roster is final: it is in no second one, so nobody can be a run ahead. The
    others read the roster, then look at those they joined, and join it only if none of these was final by then.
    """
    if me.rank == 0 and store.check(keys):
        store.set(f"{run}/roster", json.dumps([json.loads(hello) for hello in store.multi_get(keys)]))
    roster = bytes(store.get(f"{run}/roster")) if store.check([f"{run}/roster"]) else b"[]"
    for prefix in joined:
        if store.add(f"{prefix}/joined", 0) == len(keys):
            return prefix
    peers, prefix = [Peer(**known) for known in json.loads(roster)], f"{run}/{hashlib.sha256(roster).hexdigest()[:16]}"
    if me in peers and prefix not in joined and (me.rank or store.add(f"{prefix}/joined", 0) == len(keys) - 1):
        store.set(f"{prefix}/word/{me.rank}", ON)  # before it counts, as the others read it once all have joined
        store.add(f"{prefix}/joined", 1)
        joined[prefix] = peers
        return "" if me.rank else prefix
    return ""


def _absent(place: Place, line: Line, keys: list[str], patience: float) -> UserError:
    missing = line.ask(lambda store: [str(rank) for rank, key in enumerate(keys) if not store.check([key])], patience)
    came = f"{place.world - len(missing)} of {place.world} processes came within {place.patience:g} s"
    who = f"missing: rank {', '.join(missing[:16])}" if missing else "but not all stayed"
    at = f"{place.address}:{place.port}"
    return UserError(f"{came} to {at}, {who}. Start as many as WORLD_SIZE says; {PATIENCE} sets how long to wait for them.")
