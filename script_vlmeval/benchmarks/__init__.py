"""Benchmarks as records, and reading their tables: text in, text out, no torch and no VLMEvalKit.

records.py   what is known of each: names, splits, rows, metric, judge
names.py     what a user may call it: aliases, groups, frame counts
folders.py   where data lies
tables.py    tables in VLMEvalKit's TSV format, every cell the text that stands there
"""

from __future__ import annotations

from .names import GROUPS, expand, known_names, plain, resolve
from .records import BENCHMARKS, Benchmark
from .tables import read_tsv, read_user_tsv

__all__ = ["BENCHMARKS", "GROUPS", "Benchmark", "expand", "known_names", "plain", "read_tsv", "read_user_tsv", "resolve"]
