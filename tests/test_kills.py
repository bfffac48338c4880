"""Nothing is lost by kill -9 at any moment, by one process or two, or by switching between them."""

from __future__ import annotations

import json
import multiprocessing
import os
from pathlib import Path

import killing
from runtimes import warm

KILLS = int(os.environ.get("KILLS", "5"))  # KILLS=30 is what a release is tried with


def tried(folder: Path, seed: int) -> None:
    (folder / "told.json").write_text(json.dumps(killing.main(folder, KILLS, seed)))


def test_a_sweep_that_is_killed_again_and_again_ends_as_an_undisturbed_one(tmp_path: Path):
    warm()
    process = multiprocessing.get_context("fork").Process(target=tried, args=(tmp_path, int(os.environ.get("SEED", "7"))))
    process.start()
    try:
        process.join()
    finally:
        process.kill()
    logs = "\n".join(path.read_text()[-2000:] for path in tmp_path.glob("*/log.txt"))
    assert process.exitcode == 0, logs
    told = json.loads((tmp_path / "told.json").read_text())
    assert told["calm"] == [0], logs
    assert told["kills"] >= KILLS
    assert not told["bad"], f"{told['bad']}\n{logs}"
