"""Multiple choice about pictures: ScienceQA by its literal rule, MMBench over all rotations of its options."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from .choice import chosen, scienceqa_letter
from .points import of_groups
from .verdicts import Row, Verdicts, breakdown, error_of, grouped, mean

_ROTATION = 1_000_000  # what a rotation of MMBench adds to the index
_COLUMNS = {"category": "category", "l2": "l2-category"}


def scienceqa(rows: Sequence[Row]) -> Verdicts:
    """Accuracy in percent by LLaVA's rule (`scienceqa_letter`): `Overall`, `stderr`, `category/x`."""
    return chosen(rows, {"category": "category"}, scienceqa_letter)


def mmbench(rows: Sequence[Row]) -> Verdicts:
    """Circular accuracy in percent: a question is right when every rotation that is there is right.

    Rotations share `g_index`, or else the index up to multiples of 1,000,000. `Overall`, `stderr`, `category/x` and `l2/x` are
    over questions, `split/x` too where there are several splits; `plain` is over the unrotated rows. `per_sample` is of rows,
    whose points are shares of their question's.
    """
    single = chosen(rows)
    scores = single.per_sample
    groups: dict[str, list[int]] = defaultdict(list)
    questions = [question_of(row) for row in rows]
    for i, question in enumerate(questions):
        groups[question].append(i)
    firsts = [_first(question, members, rows) for question, members in groups.items()]
    worth = {question: min(scores[i] for i in members) for question, members in groups.items()}
    circular = list(worth.values())
    heads = [rows[i] for i in firsts]
    metrics = {"Overall": 100 * mean(circular), **error_of(circular, heads)}
    plain = [scores[i] for i in firsts if _index(rows[i]) == question_of(rows[i])]
    if plain:
        metrics["plain"] = 100 * mean(plain)
    metrics |= breakdown(heads, circular, _COLUMNS)
    if len(grouped([row.get("split", "") for row in heads], circular)) > 1:
        metrics |= breakdown(heads, circular, {"split": "split"})
    extra = {name: value for name, value in single.metrics.items() if name not in ("Overall", "stderr")}
    return Verdicts(single.read, scores, metrics | extra, of_groups([worth[question] for question in questions], questions))


def _index(row: Row) -> str:
    """The index without leading zeros or a decimal point, so that those of one question compare equal."""
    index = row.get("index", "").strip().removesuffix(".0")
    return str(int(index)) if index.isdecimal() else index


def question_of(row: Row) -> str:
    """What the rotations of one question share."""
    group = row.get("g_index", "").strip()
    if group:
        return _index({"index": group})
    index = _index(row)
    return str(int(index) % _ROTATION) if index.isdecimal() else index


def _first(question: str, members: Sequence[int], rows: Sequence[Row]) -> int:
    """The unrotated row of a question, or the first one where it is missing."""
    return next((i for i in members if _index(rows[i]) == question), members[0])
