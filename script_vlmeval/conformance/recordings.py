"""Which recordings of official code a method has, where they are, and the comparison with each.

The folder with recordings is what is named, else `oracles` of where SHARED points, else `shared/oracles` beside the repository.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError
from .tally import Tally


@dataclass(frozen=True)
class Recorded:
    """The recordings of one method."""

    folder: str  # below the folder with recordings
    pattern: str
    module: str  # beside this file, with a function of the method's name: data -> Tally, or MismatchError

    def files(self, root: Path) -> list[Path]:
        return sorted((root / self.folder).glob(self.pattern))


RECORDED: dict[str, Recorded] = {
    **{name: Recorded("selection", "*.npz", "compare_dpp") for name in ("cdpruner", "script", "scriptcompat", "scriptfigure")},
    **{
        name: Recorded("baselines", f"{name}_*.npz", "compare_encoder")
        for name in ("fastervlm", "vispruner", "visionzip", "holov", "scope", "mmtok")
    },
    **{name: Recorded("baselines", f"{name}_*.npz", "compare_others") for name in ("divprune", "trim", "dart", "vidcom2")},
    "fastv": Recorded("in_llm/cases", "?????_[df]*.npz", "compare_inside"),  # model, then mode: fastv_inplace, fastv_mask, dense
    "seqprune": Recorded("in_llm/cases", "?????_seq_*.npz", "compare_inside"),
}


def find(named: Path | None = None) -> Path | None:
    """The folder with recordings; None where there is none and none was named. UserError where the named one holds none."""
    if named is not None:
        if not any((named / r.folder).is_dir() for r in RECORDED.values()):
            raise UserError(f"{named} holds no recordings: expected the folders selection, baselines and in_llm there.")
        return named
    folder = Path(os.environ.get("SHARED") or Path.cwd().parent / "shared") / "oracles"
    return folder if folder.is_dir() else None


def comparison(method: str) -> Callable[[Mapping[str, Any]], Tally]:
    """The function that compares a method with one recording."""
    found: Callable[[Mapping[str, Any]], Tally] = getattr(_module(method), method)
    return found


def read(method: str, file: Path) -> dict[str, Any]:
    """The arrays of a recording; with what its module's `beside(file)` adds, where what it is about lies in other files."""
    with np.load(file) as data:
        arrays = dict(data)
    beside = getattr(_module(method), "beside", None)
    return arrays if beside is None else {**arrays, **beside(file)}


def _module(method: str) -> Any:
    return import_module(f"{__package__}.{RECORDED[method].module}")


def compare(method: str, file: Path) -> Tally:
    """How strictly the method was found to do what was recorded in the file; MismatchError where it does not."""
    return comparison(method)(read(method, file))
