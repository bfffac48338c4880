"""Paired comparisons from the disk: `run.py compare A B`, two configurations of one folder of results, or two people's results.

The same rows were answered twice, so what differs row by row says far more than two scores with two intervals. Between two
folders it is also told which settings differ, and on which rows the answers do, also where no setting explains it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..benchmarks import expand
from ..errors import UserError
from .pair import Pair
from .sides import pairs_of, side_of
from .words import told

__all__ = ["command"]


def command(a: str, b: str, work_dir: Path, data: Sequence[str] = ()) -> int:
    """Prints the comparison. The exit status: 0, or 1 where a cell that both have could not be compared.

    a, b: configurations in `work_dir`, folders of results, or FOLDER/configuration. data: benchmarks, all without. UserError
    where nothing can be compared.
    """
    first, second = side_of(a, work_dir), side_of(b, work_dir)
    pairs = pairs_of(first, second, [benchmark.name for benchmark in expand(data)])
    found, refused = list[Pair](), list[str]()
    for one, other in pairs:
        try:
            found.append(Pair.of(one, other))
        except UserError as error:
            refused.append(f"{one.name if first.config is None else one.row.folder}: {error}")
    if not found:
        raise UserError("\n  ".join(["Nothing here can be compared:", *refused][len(refused) == 1 :]))
    print("\n".join(told(found, first, second)))
    for reason in refused:
        print(f"Not compared: {reason}")
    return 1 if refused else 0
