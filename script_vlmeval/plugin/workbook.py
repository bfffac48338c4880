"""Workbooks of answers: read as text, written as text, and what a scoring puts beside them."""

from __future__ import annotations

import shutil
import zipfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd

from ..celltext import unescape
from ..errors import UserError
from .host import MARKER, said_by

HOST_FILES = "vlmevalkit"  # the folder beside a workbook for what the host's scorer writes
FILLER = "Z"  # for the host's scorers: no option, no yes or no, hardly ever an answer


@dataclass(frozen=True)
class Answers:
    """A workbook, read once for all scorers. `frame`: every cell as text, `FILLER` for the prediction of a row that failed.

    altered: whether the frame says something else than the file, so that no copy of the file can stand for it.
    """

    path: Path
    frame: pd.DataFrame
    failed: pd.Series[bool]
    altered: bool

    @cached_property
    def rows(self) -> list[dict[str, str]]:
        """For scorers of ours, which take an empty prediction for what it is: wrong."""
        said = self.frame.assign(prediction=self.frame["prediction"].mask(self.failed, ""))
        names = [str(column) for column in said]
        return [dict(zip(names, map(str, cells), strict=True)) for cells in zip(*(said[c] for c in said), strict=True)]

    def copy_to(self, path: Path) -> None:
        """The frame as a workbook; written anew only where it must be, which takes longer than most scoring."""
        if self.altered or self.path.suffix != path.suffix:
            write_workbook(self.frame, path)
        else:
            shutil.copyfile(self.path, path)


def read_text(path: Path) -> pd.DataFrame:
    """A TSV, every cell as text: with pandas' defaults the answer "None" would be lost."""
    return pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False)


def read_answers(path: Path) -> Answers:
    """A workbook's rows, or those of a TSV, as the host may write. UserError when it has no predictions."""
    try:
        frame = pd.read_excel(path, dtype=str, keep_default_na=False) if path.suffix == ".xlsx" else read_text(path)
    except FileNotFoundError:
        raise UserError(f"There are no answers to score: {path} does not exist. Run with --mode infer first.") from None
    except (ValueError, KeyError, OSError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} cannot be read as a workbook: {said_by(error)}.") from None
    missing = [column for column in ("index", "prediction") if column not in frame]
    if missing:
        raise UserError(f"{path} has no column '{missing[0]}'.")
    escaped = [column for column in frame if frame[column].str.contains("_x", regex=False).any()]
    for column in escaped:
        frame[column] = frame[column].map(unescape)
    # A failed row is wrong, and must not be read by a scorer: "... via API." counts as option A in some.
    failed = frame["prediction"].str.strip().eq("") | frame["prediction"].str.contains(MARKER, regex=False)
    frame["prediction"] = frame["prediction"].mask(failed, FILLER)
    return Answers(path, frame, failed, altered=bool(escaped) or bool(failed.any()))


def answered_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a workbook for scorers of ours."""
    return read_answers(path).rows


def write_workbook(frame: pd.DataFrame, path: Path) -> None:
    """Text stays text: no formula and no link is made of what a model said."""
    options = {"strings_to_formulas": False, "strings_to_urls": False, "strings_to_numbers": False}
    with pd.ExcelWriter(path, engine="xlsxwriter", engine_kwargs={"options": options}) as writer:
        frame.to_excel(writer, index=False)


def settle(folder: Path, workbook: Path) -> None:
    """The files of a scoring that went well, from the folder where it was done, in place of an earlier one's."""
    for path in workbook.parent.iterdir():
        if path.name.startswith(f"{workbook.stem}_") and path.suffix in (".xlsx", ".csv", ".tsv", ".json", ".pkl"):
            path.unlink()
    shutil.rmtree(workbook.parent / HOST_FILES, ignore_errors=True)
    for path in sorted(folder.iterdir()):
        shutil.move(path, workbook.with_name(path.name))
