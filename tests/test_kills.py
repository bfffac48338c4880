"""Nothing is lost by kill -9 at any moment, by one process or two, or by switching between them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from conftest import ROOT

KILLS = int(os.environ.get("KILLS", "8"))  # KILLS=30 is what a release is tried with


def test_a_sweep_that_is_killed_again_and_again_ends_as_an_undisturbed_one(tmp_path: Path):
    argv = [sys.executable, "tests/killing.py", str(tmp_path), str(KILLS), os.environ.get("SEED", "7")]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(argv, cwd=ROOT, env=env, capture_output=True, text=True, check=False, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout.splitlines()[-1])
    logs = "\n".join(path.read_text()[-2000:] for path in tmp_path.glob("*/log.txt"))
    assert told["calm"] == [0], logs
    assert told["kills"] >= KILLS
    assert not told["bad"], f"{told['bad']}\n{logs}"
