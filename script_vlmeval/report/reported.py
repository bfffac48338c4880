"""What others have published of a cell, to stand beside what was measured: `published`, where the two are one quantity.

Strict: what is not known to be the same quantity has no figure. The two are never subtracted. Beside a mean retention there is
none: a published mean is over its source's own benchmarks, and no record says which these are.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ..backbones import BACKBONES
from ..benchmarks import BENCHMARKS, Benchmark
from ..draw import Row, at, number
from ..judge import PROTOCOL
from ..published import Published, figure
from ..scoring import RULES

_LIMITED = "(--limit)"  # ends the note of a cell that was cut


@dataclass(frozen=True)
class Reported:
    """A published figure, and the measured one that it stands beside, in the same unit.

    metric: which figure of the result that is; '' the main one. doubt: why the two may be different quantities after all.
    """

    published: Published
    measured: float
    metric: str = ""
    doubt: str = ""

    @property
    def source(self) -> str:
        """Who says so, and whether it is their own system."""
        return self.published.source + ", the authors' own" * self.published.own

    @property
    def origin(self) -> str:
        """All that has to be known of the figure, in a line."""
        return f"{self.source} ({self.doubt})" if self.doubt else self.source


def reported(row: Row) -> Reported | None:
    """The figure that stands beside a cell's. None where nobody published one, or not of the same model and parameters, of the
    whole benchmark, by a rule with the same unit, under the protocol of the papers, or of a metric that the result has."""
    record = BENCHMARKS.get(row.folder)
    if record is None or not (_whole(row, record) and _by_its_rule(row, record) and _as_papers(row)):
        return None
    found = figure(row.config.model, row.config.method, row.config.budget, row.folder, dict(row.config.params))
    measured = None if found is None else number(found.among(row.data["metrics"], row.metric))
    if found is None or measured is None:
        return None
    doubt = "; ".join(filter(None, [found.doubt, *_differences(row)]))
    return Reported(found, measured, "" if found.metric == row.metric else found.metric, doubt)


def origins(found: Mapping[str, Reported]) -> str:
    """Where figures are from, those of one origin together: a line each. found: by benchmark."""
    named = defaultdict[str, list[str]](list)
    for benchmark, one in found.items():
        named[one.origin].append(benchmark)
    return "\n".join(f"{', '.join(benchmarks)}: {origin}" for origin, benchmarks in named.items())


# whether it is the same quantity ------------------------------------------------------------------------------------------


def _whole(row: Row, record: Benchmark) -> bool:
    """Whether all questions were asked. Of a benchmark without a published number that is not known."""
    return row.n in record.published and not any(_LIMITED in note for note in _notes(row))


def _by_its_rule(row: Row, record: Benchmark) -> bool:
    """Whether the benchmark's own rule scored, or the protocol of its judge: other scorers have other units."""
    if record.rule in RULES:
        return row.scorer == f"script_vlmeval {RULES[record.rule].label}"
    return record.rule in PROTOCOL and row.scorer.startswith(f"script_vlmeval judge, {PROTOCOL[record.rule]}: ")


def _as_papers(row: Row) -> bool:
    """Where crops become tokens in one of two ways: whether it was the papers'."""
    model = BACKBONES.get(row.config.model)
    return model is not None and (model.protocol is None or at(row.data, "fingerprint.protocol") == "paper")


def _differences(row: Row) -> Iterator[str]:
    """What this run had otherwise than published ones, as far as its result says."""
    place = at(row.data, "provenance.checkpoint.place")
    if place and place != BACKBONES[row.config.model].checkpoint:
        yield f"the answers here are of the checkpoint {place}"
    if at(row.data, "fingerprint.conversation") == "vlmevalkit":
        yield "asked here in VLMEvalKit's words"
    yield from (note.rstrip(".") for note in _notes(row) if "published" in note)


def _notes(row: Row) -> list[str]:
    return [str(note) for note in row.data.get("notes") or ()]
