"""The example of a Slurm job: its shell syntax holds, and it gives run.py no flag that there is not."""

from __future__ import annotations

import re
import subprocess

from conftest import ROOT

from script_vlmeval.cli import parser

JOB = ROOT / "scripts" / "slurm_sweep.sbatch"


def test_the_shell_reads_it():
    done = subprocess.run(["bash", "-n", str(JOB)], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr


def test_run_py_has_its_flags():
    text = JOB.read_text(encoding="utf-8")
    study = re.findall(r"^study=\((.*?)\)$", text, flags=re.MULTILINE)
    assert (ROOT / parser().parse_args(study[0].split()).config).is_file()
    said = {flag for words in re.findall(r"run\.py (.*)", text) for flag in re.findall(r"--[a-z-]+", words)}
    known = {flag for action in parser()._actions for flag in action.option_strings}
    assert said <= known, said - known
