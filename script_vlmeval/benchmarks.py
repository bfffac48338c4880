"""Benchmarks as records, and reading their tables: text in, text out, no torch and no VLMEvalKit.

A name is one of ours (made on the spot), an alias of one of VLMEvalKit's, any other VLMEvalKit name, or the path of a table of
the user's own in VLMEvalKit's TSV format.
"""

from __future__ import annotations

import csv
import re
import sys
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from .errors import UserError
from .scoring import gold_letter, kind_of, options


@dataclass(frozen=True)
class Benchmark:
    """One benchmark. `kind` is where it comes from: 'embedded', 'host' (VLMEvalKit), 'tsv' (the user's), or 'planned'."""

    name: str  # how the user and our result folders call it
    host: str  # VLMEvalKit's name; for 'tsv' the path
    kind: str
    questions: str = ""  # how many, and of which split
    metric: str = ""
    judge: bool = False
    note: str = ""


RECORDS: tuple[Benchmark, ...] = (
    Benchmark("ShapesVQA", "ShapesVQA", "embedded", "test", "accuracy", note="drawn scenes, open answers"),
    Benchmark("ShapesYN", "ShapesYN", "embedded", "test", "accuracy + accuracy+", note="drawn scenes, yes/no pairs as in MME"),
    Benchmark("GQA", "GQA_TestDev_Balanced", "host", "test-dev balanced, 12,578", "accuracy"),
    Benchmark("VizWiz", "VizWiz", "host", "val, 4,319", "VQA accuracy", note="another split than the papers'"),
    Benchmark("SQA", "ScienceQA_TEST", "host", "test with image, 2,017", "accuracy"),
    Benchmark("ScienceQA", "ScienceQA_TEST", "host", "test with image, 2,017", "accuracy"),
    Benchmark(
        "TextVQA", "TextVQA_VAL", "host", "val, 5,000", "VQA accuracy", note="OCR tokens where the table has a column ocr_tokens"
    ),
    Benchmark("POPE", "POPE", "host", "8,910", "F1"),
    Benchmark("MME", "MME", "host", "2,374", "perception + reasoning"),
    Benchmark("MMBench", "MMBench_DEV_EN", "host", "dev, 4,329 rows, 1,164 groups", "accuracy, circular"),
    Benchmark("MMBench-CN", "MMBench_DEV_CN", "host", "dev, 4,329 rows, 1,164 groups", "accuracy, circular"),
    Benchmark("MM-Vet", "MMVet", "host", "218", "judge score", note="needs a judge model", judge=True),
    Benchmark("DocVQA", "DocVQA_VAL", "host", "val, 5,349", "ANLS"),
    Benchmark("OCRBench", "OCRBench", "host", "1,000", "accuracy", note="points of 1,000 divided by ten"),
    Benchmark("VQAv2", "VQAv2_VAL", "planned", "val, 214,354", "VQA accuracy", note="VLMEvalKit has no VQAv2"),
    Benchmark("MVBench", "MVBench_8frame", "planned", "20 tasks", "accuracy", note="video"),
    Benchmark("Video-MME", "Video-MME_8frame", "planned", "2,700", "accuracy", note="video"),
    Benchmark("MLVU", "MLVU_8frame", "planned", "9 tasks", "M-Avg", note="video"),
    Benchmark("LongVideoBench", "LongVideoBench_8frame", "planned", "val, 1,337", "accuracy", note="video"),
    Benchmark("TGIF-QA", "TGIF-QA", "planned", "FrameQA", "accuracy", note="video; VLMEvalKit has none"),
    Benchmark("MSVD-QA", "MSVD-QA", "planned", "test", "accuracy", note="video; VLMEvalKit has none"),
    Benchmark("MSRVTT-QA", "MSRVTT-QA", "planned", "test", "accuracy", note="video; VLMEvalKit has none"),
    Benchmark("ActivityNet-QA", "ActivityNet-QA", "planned", "test, 8,000", "accuracy", note="video; VLMEvalKit has none"),
)
BENCHMARKS: dict[str, Benchmark] = {record.name: record for record in RECORDS}
_BY_LOWER = {record.name.lower(): record for record in RECORDS}


def resolve(name: str) -> Benchmark:
    """The benchmark of a name. Names that are not ours are left to the host, which knows whether they exist
    (`plugin.open_dataset` answers "did you mean" over both lists)."""
    asked = name.strip()
    if not asked:
        raise UserError("The name of a benchmark is empty. `--list data` shows the names.")
    if asked.lower().endswith(".tsv"):
        stem = re.sub(r"[^\w.-]+", "_", Path(asked).stem)
        return Benchmark(stem, str(Path(asked).expanduser()), "tsv", metric="accuracy", note="your own table")
    return _BY_LOWER.get(asked.lower()) or Benchmark(asked, asked, "host")


def read_tsv(
    path: Path, required: Collection[str] = ("index", "question"), hint: str = "", skip: Collection[str] = ()
) -> list[dict[str, str]]:
    """The rows of a tab-separated table, every cell as the text that stands there ("None", "007" and "" included).

    `skip` names columns not to keep in memory. UserError for a missing or unreadable file, text that is not UTF-8, a line with
    too many cells, missing required columns, no rows, or an index that occurs twice.
    """
    if not path.is_file():
        raise UserError(f"There is no file {path.name} in {path.absolute().parent}. {hint}".rstrip())
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))  # pictures stand in cells as base64
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = _rows(path, file, required, frozenset(skip))
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text (byte {error.start}). Save it as a UTF-8 tab-separated table.") from None
    except csv.Error as error:
        raise UserError(f"{path} is not a tab-separated table: {error}.") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from None
    if not rows:
        raise UserError(f"{path} has a header but no rows.")
    twice = [index for index, n in Counter(row["index"] for row in rows if "index" in row).items() if n > 1]
    if twice:
        raise UserError(f"{path}: index '{twice[0]}' occurs more than once ({len(twice)} such). Each row needs its own.")
    return rows


def _rows(path: Path, file: Iterable[str], required: Collection[str], skip: frozenset[str]) -> list[dict[str, str]]:
    lines = csv.reader(file, delimiter="\t")
    header: list[str] = next(lines, [])
    if not header:
        raise UserError(f"{path} is empty.")
    missing = [column for column in required if column not in header]
    if missing:
        seen = ", ".join(header[:8])[:120]
        names = " and ".join(map(repr, missing))
        raise UserError(f"{path} lacks the column {names}; its first line reads: {seen}. Is it tab-separated?")
    double = [column for column, n in Counter(header).items() if n > 1]
    if double:
        raise UserError(f"{path} has the column '{double[0]}' twice.")
    rows = []
    for cells in lines:
        if not cells:
            continue
        if len(cells) > len(header):
            raise UserError(f"{path}, line {lines.line_num}: {len(cells)} cells under {len(header)} columns.")
        cells += [""] * (len(header) - len(cells))
        rows.append({column: cell for column, cell in zip(header, cells, strict=True) if column not in skip})
    return rows


def read_user_tsv(path: Path) -> list[dict[str, str]]:
    """A table of the user's own: `question`, `answer` and `image` (base64) or `image_path`; options in A, B, ... make a row
    multiple choice, a yes/no answer makes it yes/no, and it is open otherwise. `index` is counted where it is absent.

    UserError names the file, the row, and what would mend it.
    """
    hint = "Give the path of a tab-separated table with the columns question, answer and image_path."
    rows = read_tsv(path, ("question", "answer"), hint)
    if "image" not in rows[0] and "image_path" not in rows[0]:
        raise UserError(f"{path} lacks a column 'image_path' (a file, relative to the table) or 'image' (base64).")
    if "index" not in rows[0]:
        rows = [{"index": str(i), **row} for i, row in enumerate(rows)]
    for row in rows:
        problem = _problem(row)
        if problem:
            raise UserError(f"{path}, row with index '{row['index']}': {problem}.")
    return rows


def _problem(row: dict[str, str]) -> str:
    empty = [column for column in ("index", "question", "answer") if not row[column].strip()]
    if empty:
        return f"the cell '{empty[0]}' is empty"
    if not (row.get("image") or row.get("image_path")):
        return "it has neither 'image' nor 'image_path'"
    if kind_of(row) == "mcq" and not gold_letter(row):
        return f"the answer '{row['answer'][:40]}' is none of the options {', '.join(options(row))}"
    return ""
