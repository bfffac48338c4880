"""The overview as a table for a paper, `summary.tex`: methods by benchmarks at each budget, in the style of booktabs.

A score stands over its interval. Of configurations that read equally many visual tokens the best is bold, and those that cannot
be told apart from it are underlined. The paper needs the package booktabs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from ..cells import Config
from ..files import replacing
from . import figures
from .overview import standing
from .summary import Summary

if TYPE_CHECKING:
    from ..draw import Row
    from .evidence import Evidence

TABLE = "summary.tex"
_SPECIAL = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    **{letter: f"\\{letter}" for letter in "&%$#_{}"},
}  # fmt: skip
_NONE = "--"


def escaped(text: str) -> str:
    """As LaTeX prints it: no letter is a command, and there is one line."""
    return "".join(_SPECIAL.get(letter, letter) for letter in " ".join(text.split()))


def write_table(summary: Summary, evidence: Evidence) -> Path:
    """Beside the workbook; equal folders give equal bytes. UserError when the disk refuses."""
    path = summary.workbook.parent / TABLE
    text = "\n".join(_lines(summary, evidence)) + "\n"
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="replace", newline="\n")
    return path


def _lines(summary: Summary, evidence: Evidence) -> Iterator[str]:
    """A block for each model and budget, the unpruned model first."""
    headings = {row.benchmark: row.heading for row in summary.rows}
    names = [name for name in summary.benchmarks if name in headings]
    yield "% needs \\usepackage{booktabs}. Bold: the best at equally many visual tokens; underlined: not told apart from it."
    yield "% Below each score its 95 % interval. Retention: mean of the benchmarks' percents of the unpruned score."
    yield rf"\begin{{tabular}}{{l{'c' * (len(names) + 1)}}}"
    yield r"\toprule"
    yield _line(["Method", *(escaped(headings[name]) for name in names), r"Retention, \%"])
    several = len({config.model for config in summary.configs}) > 1
    for (model, budget), configs in groupby(summary.configs, lambda config: (config.model, config.budget)):
        yield r"\midrule"
        about = ", ".join([*([model] if several else []), _budget(budget) if budget else "unpruned"])
        yield rf"\multicolumn{{{len(names) + 2}}}{{l}}{{\textit{{{escaped(about)}}}}} \\"
        for config in configs:
            yield from _method(config, names, summary, evidence)
    yield r"\bottomrule"
    yield r"\end{tabular}"


def _budget(budget: str) -> str:
    if budget.endswith("pct"):
        return f"{budget.removesuffix('pct')} % of the visual tokens"
    return f"{budget} visual tokens" if budget.isdecimal() else budget


def _method(config: Config, names: Sequence[str], summary: Summary, evidence: Evidence) -> Iterator[str]:
    """Its scores, and its intervals in a line of their own."""
    here = {row.benchmark: row for row in summary.rows if str(row.config) == str(config)}
    rows = [here.get(name) for name in names]
    mean = summary.mean_retention(config)
    spread = None if config.full else figures.of(evidence.mean_retention.get(str(config)))
    kept = _NONE if mean is None else f"{mean.value:.1f}" + "*" * mean.incomplete + f" ({mean.lacks})" * bool(mean.lacks)
    method = "full" if config.full else config.method + "".join(f", {key}={value}" for key, value in config.params)
    yield _line([escaped(method), *(_score(row, summary, evidence) for row in rows), kept])
    below = [interval.said(row.score) if row and (interval := figures.score(row, evidence)) else "" for row in rows]
    below.append(spread.said(mean.value) if mean and spread else "")
    if any(below):
        yield _line(["", *(_small(text) for text in below)])


def _score(row: Row | None, summary: Summary, evidence: Evidence) -> str:
    if row is None:
        return _NONE
    text = f"{row.score:.1f}" + "*" * row.incomplete
    first, tied = standing(row, [other for other in summary.rows if other.benchmark == row.benchmark], evidence)
    return rf"\textbf{{{text}}}" if first else rf"\underline{{{text}}}" if tied else text


def _small(text: str) -> str:
    """An interval as it stands below its score."""
    text = text.replace("±", r"$\pm$").replace(" to ", "--")
    return rf"{{\scriptsize {text}}}" if text else ""


def _line(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"
