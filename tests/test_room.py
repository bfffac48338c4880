"""Memory between batches and models."""

from __future__ import annotations

import ctypes
import platform
import subprocess
import sys

import pytest
from conftest import ROOT

from script_vlmeval import room

FAULTS = """
import os, resource, torch
from script_vlmeval import room
if not os.fork():  # first the one, which has a process of its own, then the other
    how = "leave"
else:
    assert os.waitstatus_to_exitcode(os.wait()[1]) == 0
    how = "keep"
    assert room.keep()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
torch.set_num_threads(1)
for _ in range(2):
    torch.ones(24, 1 << 19) + 1  # two blocks of 48 MB
before = faults()
for _ in range(20):
    torch.ones(24, 1 << 19) + 1
print(how, faults() - before, flush=True)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc")
def test_blocks_that_are_used_again_are_not_asked_for_again():
    done = subprocess.run([sys.executable, "-c", FAULTS], cwd=ROOT, capture_output=True, text=True, check=True)
    count = dict(line.split() for line in done.stdout.splitlines())
    assert int(count["leave"]) > 3 * int(count["keep"])


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())
    assert not room.keep()
