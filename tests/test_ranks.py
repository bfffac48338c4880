"""Processes of one run: numbers, values, and how each of them hears that another one is gone. Loopback only, free ports."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from script_vlmeval.errors import UserError
from script_vlmeval.ranks import RankFailed, Ranks
from script_vlmeval.ranks.peer import Peer, born

ROOT = Path(__file__).resolve().parents[1]
FORK = multiprocessing.get_context("forkserver")  # loads torch once, for all processes of all tests
FORK.set_forkserver_preload(["torch.distributed.run", "pytest", "script_vlmeval.ranks.control"])

Work = Callable[[Ranks, Connection], object]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def child(work: Work, env: dict[str, str], settings: dict[str, float], pipe: Connection) -> None:
    """A process of a run: what `work` returns, or the error that ended it, goes back as (kind, value)."""
    if settings.pop("apart", 0):  # as if each process ran on a computer of its own
        socket.gethostname = lambda: f"host{env['RANK']}"
    for name, value in settings.items():
        setattr(Ranks, name, value)
    os.environ.update(env)
    try:
        ranks = Ranks.here()
        try:
            answer = ("done", work(ranks, pipe))
        finally:
            ranks.close()
    except BaseException as error:
        answer = (type(error).__name__, str(error) if isinstance(error, (RankFailed, UserError)) else traceback.format_exc())
    pipe.send(answer)


class Run:
    """Processes of one run: `pipes` lead to their work, `answers` collects how they ended."""

    def __init__(self, work: Work, world: int, start: int | None = None, port: int = 0, **settings: float) -> None:
        port = port or free_port()
        self.processes, self.pipes = [], []
        for rank in range(world if start is None else start):
            env = dict(RANK=str(rank), WORLD_SIZE=str(world), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
            env["SCRIPT_VLMEVAL_RENDEZVOUS_S"] = "60" if start is None else "1"
            ours, theirs = FORK.Pipe()
            process = FORK.Process(target=child, args=(work, env, {"beat": 0.2, "linger": 10.0, **settings}, theirs), daemon=True)
            process.start()
            theirs.close()
            self.processes.append(process)
            self.pipes.append(ours)

    def answer(self, rank: int) -> tuple[str, object]:
        assert self.pipes[rank].poll(60), f"rank {rank} does not end"
        return self.pipes[rank].recv()

    def answers(self) -> list[tuple[str, object]]:
        return [self.answer(rank) for rank in range(len(self.processes))]

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.join(10)


@pytest.fixture
def started() -> Iterator[Callable[..., Run]]:
    runs: list[Run] = []

    def start(*args: object, **settings: object) -> Run:
        runs.append(Run(*args, **settings))
        return runs[-1]

    yield start
    for run in runs:
        run.close()


def claiming(ranks: Ranks, pipe: Connection) -> tuple[list[int], int]:
    """Two threads in each process, as the one that reads ahead claims beside the one that answers."""
    mine: list[int] = []

    def claim() -> None:
        while (number := ranks.claim("units")) < 400:
            mine.append(number)
            ranks.add("bytes", 10)
            ranks.check()

    beside = threading.Thread(target=claim)
    beside.start()
    claim()
    beside.join()
    ranks.add("ready")
    ranks.wait(lambda: ranks.add("ready", 0) == ranks.world)
    return mine, ranks.add("bytes", 0)


def test_each_number_is_handed_out_once(started: Callable[..., Run]):
    answers = started(claiming, 4).answers()
    assert [kind for kind, _ in answers] == ["done"] * 4, answers
    assert sorted(number for _, (mine, _) in answers for number in mine) == list(range(400))
    assert {total for _, (_, total) in answers} == {4000}


def handing_over(ranks: Ranks, pipe: Connection) -> object:
    if ranks.first:
        ranks.wait(lambda: ranks.add("waiting", 0) == 1)
        ranks.give("large", bytes(range(256)) * 40_000)  # 10 MB, above what the store takes at once
        ranks.give("empty", b"")
        with pytest.raises(ValueError, match="before"):
            ranks.give("empty", b"again")
        return ranks.local
    before = ranks.given("large")
    ranks.add("waiting")
    value = ranks.take("large")
    return before, value == bytes(range(256)) * 40_000, ranks.take("empty"), ranks.given("large"), ranks.local


def test_a_value_is_waited_for(started: Callable[..., Run]):
    assert started(handing_over, 2).answers() == [("done", 0), ("done", (False, True, b"", True, 1))]


def waiting(ranks: Ranks, pipe: Connection) -> object:
    """Tells its process number, then waits for what nobody gives; in the end asks who is gone."""
    pipe.send(os.getpid())
    try:
        return ranks.take("never")
    except RankFailed as failed:
        return str(failed), ranks.gone(patience=0.5)


def test_a_killed_process_is_noticed_and_named(started: Callable[..., Run]):
    run = started(waiting, 3)
    pids = [pipe.recv() for pipe in run.pipes]
    os.kill(pids[2], signal.SIGKILL)
    for rank in (0, 1):
        kind, told = run.answer(rank)
        assert kind == "done", told
        assert all(f"rank 2 ({socket.gethostname()}, pid {pids[2]}) is gone" in text for text in told), told


def test_a_stopped_process_counts_as_gone_once_it_was_silent(started: Callable[..., Run]):
    run = started(waiting, 2, silence=1.0)
    pids = [pipe.recv() for pipe in run.pipes]
    os.kill(pids[1], signal.SIGSTOP)
    kind, told = run.answer(0)
    assert kind == "done", told
    assert f"pid {pids[1]}) fell silent" in told[0], told


def test_without_the_process_that_keeps_the_table_contact_is_lost(started: Callable[..., Run]):
    run = started(waiting, 3)
    pids = [pipe.recv() for pipe in run.pipes]
    os.kill(pids[0], signal.SIGKILL)
    for rank in (1, 2):
        kind, told = run.answer(rank)
        assert kind == "done", told
        for text in told:
            assert f"rank 0 ({socket.gethostname()}, pid {pids[0]})" in text, told
            assert "lost contact with the first process" in text or "is gone" in text, told


def failing(ranks: Ranks, pipe: Connection) -> object:
    if ranks.rank == 1:
        ranks.fail("no memory left\non cuda:1")
        return None
    return waiting(ranks, pipe)


def test_a_failure_reaches_the_others(started: Callable[..., Run]):
    run = started(failing, 3)
    for rank in (0, 2):
        run.pipes[rank].recv()
        kind, told = run.answer(rank)
        assert kind == "done", told
        assert all("rank 1 (" in text and text.endswith("failed: no memory left\non cuda:1") for text in told), told
    assert run.answer(1) == ("done", None)


def failing_first(ranks: Ranks, pipe: Connection) -> object:
    if ranks.first:
        ranks.fail("bad table")
        return None
    return waiting(ranks, pipe)


def test_the_reason_outlives_the_process_that_keeps_the_table(started: Callable[..., Run]):
    run = started(failing_first, 2)
    run.pipes[1].recv()
    kind, told = run.answer(1)
    assert kind == "done", told
    assert told[0].endswith("failed: bad table")


def leaving(ranks: Ranks, pipe: Connection) -> object:
    """The others say goodbye, and their processes end; one goes on for longer than the silence that would be a death."""
    if ranks.rank != pipe.recv():
        return None
    pipe.send("still here")
    assert pipe.recv() == "they have ended"
    for _ in range(20):
        ranks.check()
        ranks.claim("units")
        time.sleep(0.05)
    with pytest.raises(RankFailed, match="have left without giving"):
        ranks.take("never")
    return ranks.gone()


@pytest.mark.parametrize("stays", [0, 1])
def test_an_early_goodbye_is_no_failure(started: Callable[..., Run], stays: int):
    run = started(leaving, 2, silence=0.6)
    for pipe in run.pipes:
        pipe.send(stays)
    assert run.pipes[stays].recv() == "still here"
    if stays == 0:  # the other way round the process that keeps the table waits
        run.processes[1].join(30)
    run.pipes[stays].send("they have ended")
    assert run.answers() == [("done", "" if rank == stays else None) for rank in (0, 1)]


def again(ranks: Ranks, pipe: Connection) -> object:
    """Three runs in the same processes, with nothing in the environment to tell them apart."""
    totals = [ranks.add("n")]
    for _ in range(2):
        ranks.close()
        ranks = Ranks.here()
        totals.append(ranks.add("n"))
        ranks.check()
    ranks.close()
    return totals


def test_a_run_sees_nothing_of_the_one_before(started: Callable[..., Run]):
    (_, one), (_, two) = started(again, 2).answers()
    assert [sorted(totals) for totals in zip(one, two, strict=True)] == [[1, 2]] * 3


def asking_of_another_machine(ranks: Ranks, pipe: Connection) -> object:
    alive = ranks.gone(patience=20.0)
    pipe.send(os.getpid())
    assert pipe.recv() == "stopped"
    return alive, ranks.gone(patience=0.5), ranks.local


def test_on_another_machine_signs_of_life_decide(started: Callable[..., Run]):
    run = started(asking_of_another_machine, 2, apart=1, linger=0.5)
    pids = [pipe.recv() for pipe in run.pipes]
    os.kill(pids[1], signal.SIGSTOP)
    run.pipes[0].send("stopped")
    kind, told = run.answer(0)
    assert (kind, told[0], told[2]) == ("done", "", 0), told
    assert told[1] == f"rank 1 (host1, pid {pids[1]}) gave no sign of life for 0.5 s"


def interrupted(ranks: Ranks, pipe: Connection) -> object:
    if ranks.rank == 1:
        ranks.take("end")
        return None
    signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Timer(0.3, signal.raise_signal, [signal.SIGINT]).start()
    with pytest.raises(KeyboardInterrupt):
        ranks.take("never")
    ranks.give("end", b"")
    return ranks.claim("units")


def test_an_interrupt_ends_a_wait_and_leaves_the_connection_whole(started: Callable[..., Run]):
    assert started(interrupted, 2).answers() == [("done", 0), ("done", None)]


def nothing(ranks: Ranks, pipe: Connection) -> None:
    pass


def test_who_does_not_come_is_named(started: Callable[..., Run]):
    run = started(nothing, 4, start=2)
    kind, told = run.answer(0)
    assert kind == "UserError", told
    assert "2 of 4 processes came within 1 s" in told
    assert "missing: rank 2, 3" in told


def test_a_table_that_nobody_keeps():
    env = dict(RANK="1", WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(free_port()), SCRIPT_VLMEVAL_RENDEZVOUS_S="1")
    with pytest.raises(UserError, match=r"Nothing answers at MASTER_ADDR=127.0.0.1 .* RANK=0"):
        Ranks.here(env)


def test_a_port_that_is_taken(started: Callable[..., Run]):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        kind, told = started(nothing, 2, start=1, port=other.getsockname()[1]).answer(0)
    assert kind == "UserError", told
    assert told.endswith("Try another port.")


@pytest.mark.parametrize(
    ("env", "names"),
    [
        (dict(RANK="0"), "WORLD_SIZE is not set"),
        (dict(WORLD_SIZE="2"), "RANK is not set"),
        (dict(RANK="2", WORLD_SIZE="2"), "RANK=2 with WORLD_SIZE=2"),
        (dict(RANK="1", WORLD_SIZE="1"), "RANK=1 with WORLD_SIZE=1"),
        (dict(RANK="one", WORLD_SIZE="2"), "RANK='one'"),
        (dict(RANK="-1", WORLD_SIZE="2"), "RANK='-1'"),
        (dict(RANK="0", WORLD_SIZE="0"), "WORLD_SIZE='0'"),
        (dict(RANK="0", WORLD_SIZE="2"), "MASTER_ADDR"),
        (dict(RANK="0", WORLD_SIZE="2", MASTER_ADDR="h"), "MASTER_PORT is not set"),
        (dict(RANK="0", WORLD_SIZE="2", MASTER_ADDR="h", MASTER_PORT="99999"), "MASTER_PORT='99999'"),
        (
            dict(RANK="0", WORLD_SIZE="2", MASTER_ADDR="h", MASTER_PORT="1", SCRIPT_VLMEVAL_RENDEZVOUS_S="soon"),
            "RENDEZVOUS_S='soon'",
        ),
    ],
)
def test_an_environment_that_makes_no_run(env: dict[str, str], names: str):
    with pytest.raises(UserError, match=names):
        Ranks.here(env)


def test_a_lone_process_has_it_all_in_memory():
    ranks = Ranks.here({})
    assert (ranks.rank, ranks.world, ranks.local, ranks.first) == (0, 1, 0, True)
    assert [ranks.claim("units") for _ in range(3)] == [0, 1, 2]
    assert (ranks.add("units", 0), ranks.add("other", 5), ranks.add("other", -2)) == (3, 5, 3)
    threading.Timer(0.1, ranks.give, ["late", b"value"]).start()
    assert not ranks.given("late")
    assert ranks.take("late") == b"value"
    assert ranks.given("late")
    with pytest.raises(ValueError, match="before"):
        ranks.give("late", b"")
    ranks.check()
    ranks.fail("unheard")
    assert ranks.gone() == ""
    ranks.close()


def test_a_lone_process_loads_no_torch():
    code = "import sys; from script_vlmeval.ranks import Ranks; Ranks.here({'WORLD_SIZE': '1', 'RANK': '0'}).close(); "
    code += "assert not [m for m in sys.modules if m.partition('.')[0] == 'torch']"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, timeout=60)


def test_a_dead_process_is_one_before_its_parent_looks():
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    me, other = Peer.me(0), replace(Peer.me(1), pid=process.pid, born=born(process.pid))
    assert not other.ended(me)
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # dead, and still a zombie
    assert other.ended(me)
    process.communicate()
    assert other.ended(me)
    assert replace(me, born="1").ended(me), "another process that has the number now"
    assert not replace(other, machine="elsewhere").ended(me)


UNDER_TORCHRUN = """
from script_vlmeval.ranks import RankFailed, Ranks
ranks = Ranks.here()
if ranks.first:
    ranks.give("word", b"hello")
word = ranks.take("word").decode()
print(f"<{ranks.rank} of {ranks.world}, {ranks.local} here, {word}, {ranks.claim('unit') < 2}>", flush=True)
ranks.close()
"""


def agent(flags: list[str], output: str) -> None:
    """torchrun itself, in a process that has torch loaded already."""
    from torch.distributed import run

    with open(output, "w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ.update(PYTHONPATH=str(ROOT), OMP_NUM_THREADS="1")
    run.main(flags)


def said(folder: Path, agents: int, *flags: str) -> list[str]:
    """What the processes under so many agents said, in order of rank."""
    script, outputs = folder / "work.py", [folder / f"agent{number}.txt" for number in range(agents)]
    script.write_text(UNDER_TORCHRUN, encoding="utf-8")
    processes = [FORK.Process(target=agent, args=([*flags, str(script)], str(output))) for output in outputs]
    try:
        for process in processes:
            process.start()
        for process in processes:
            process.join(90)
        texts = [output.read_text(encoding="utf-8") for output in outputs]
    finally:
        for process in processes:
            process.terminate()  # not kill: it takes its own processes with it
    assert [process.exitcode for process in processes] == [0] * agents, "\n".join(texts)
    return sorted(re.findall("<(.*?)>", "".join(texts)))


def test_under_torchrun(tmp_path: Path):
    said_by = said(tmp_path, 1, "--nproc-per-node", "2", "--master-addr", "127.0.0.1", "--master-port", str(free_port()))
    assert said_by == ["0 of 2, 0 here, hello, True", "1 of 2, 1 here, hello, True"]


def test_under_two_agents(tmp_path: Path):
    where = ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"localhost:{free_port()}", "--local-addr", "127.0.0.1"]
    said_by = said(tmp_path, 2, "--nnodes", "2", "--nproc-per-node", "1", "--rdzv-id", "pair", *where)
    assert said_by == ["0 of 2, 0 here, hello, True", "1 of 2, 0 here, hello, True"]
