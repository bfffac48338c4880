"""What the environment says of this process: which of how many it is, and where the table lies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..errors import UserError

PATIENCE = "SCRIPT_VLMEVAL_RENDEZVOUS_S"


@dataclass(frozen=True)
class Place:
    """What the environment says of this process. `local` is None where it does not say; `agent`: torchrun keeps the table."""

    rank: int
    world: int
    local: int | None
    address: str = ""
    port: int = 0
    agent: bool = False
    patience: float = 300.0  # seconds for the others to come

    @classmethod
    def read(cls, env: Mapping[str, str]) -> Place:
        """UserError for an environment from which no run can be put together."""
        if not env.get("WORLD_SIZE") and not env.get("RANK"):
            return cls(0, 1, _number(env, "LOCAL_RANK", 0))
        world = _number(env, "WORLD_SIZE", None, low=1)
        rank = _number(env, "RANK", 0 if world == 1 else None)
        if rank >= world:
            raise UserError(f"RANK={rank} with WORLD_SIZE={world}: ranks count from 0 to {world - 1}.")
        local = _number(env, "LOCAL_RANK", None) if env.get("LOCAL_RANK") else None
        if world == 1:
            return cls(rank, world, local or 0)
        if not env.get("MASTER_ADDR"):
            raise UserError(f"WORLD_SIZE={world} without MASTER_ADDR: start the run with torchrun, or name the host of rank 0.")
        port = _number(env, "MASTER_PORT", None, low=1, high=65535)
        agent = env.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        return cls(rank, world, local, env["MASTER_ADDR"], port, agent, float(_number(env, PATIENCE, 300, low=1)))

    @property
    def keeps(self) -> bool:
        """Whether the table lies in this process."""
        return self.rank == 0 and not self.agent


def _number(env: Mapping[str, str], name: str, default: int | None, low: int = 0, high: int = 2**31) -> int:
    text = env.get(name, "")
    if not text and default is not None:
        return default
    if text.isascii() and text.isdigit() and low <= int(text) <= high:
        return int(text)
    problem = f"{name}={text!r} is no number from {low} to {high}" if text else f"{name} is not set"
    raise UserError(f"{problem}: start the run with torchrun, or set RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT alike.")
