"""Workbooks of answers: read as text, written as text, and rid of what an earlier scoring left beside them."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pandas as pd

from ..celltext import unescape
from ..errors import UserError
from .host import MARKER

FILLER = "Z"  # for the host's scorers: no option, no yes or no, hardly ever an answer
FAILED = "script_vlmeval failed"  # a column that no table has


def read_workbook(path: Path) -> pd.DataFrame:
    """The rows of a workbook (or of a TSV, as the host may write), every cell as text. The column `FAILED` says which have no
    answer; their predictions are `FILLER`. UserError when it has no predictions."""
    try:
        if path.suffix == ".xlsx":
            frame = pd.read_excel(path, dtype=str, keep_default_na=False)
        else:
            frame = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False)
    except FileNotFoundError:
        raise UserError(f"There are no answers to score: {path} does not exist. Run with --mode infer first.") from None
    except (ValueError, KeyError, OSError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} cannot be read as a workbook: {error}.") from None
    missing = [column for column in ("index", "prediction") if column not in frame]
    if missing:
        raise UserError(f"{path} has no column '{missing[0]}'.")
    frame = frame.map(unescape)
    # A failed row is wrong, and must not be read by a scorer: "... via API." counts as option A in some.
    failed = frame["prediction"].str.strip().eq("") | frame["prediction"].str.contains(MARKER, regex=False)
    return frame.assign(prediction=frame["prediction"].mask(failed, FILLER), **{FAILED: failed})


def answered_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a workbook for scorers of ours, which take an empty prediction for what it is: wrong."""
    frame = read_workbook(path)
    frame["prediction"] = frame["prediction"].mask(frame.pop(FAILED), "")
    return [{str(k): str(v) for k, v in row.items()} for row in frame.to_dict("records")]


def write_workbook(frame: pd.DataFrame, path: Path) -> None:
    """Text stays text: no formula and no link is made of what a model said."""
    options = {"strings_to_formulas": False, "strings_to_urls": False, "strings_to_numbers": False}
    with pd.ExcelWriter(path, engine="xlsxwriter", engine_kwargs={"options": options}) as writer:
        frame.to_excel(writer, index=False)


def remove_stale(workbook: Path) -> None:
    """Files of an earlier scoring: the host's scorers would read them instead of the answers."""
    for path in workbook.parent.iterdir():
        if path.name.startswith(f"{workbook.stem}_") and path.suffix in (".xlsx", ".csv", ".tsv", ".json", ".pkl"):
            path.unlink()
