"""What each row of a table is worth to its score, for `worth.jsonl` and for standard errors: one line a row, in table order."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .. import scoring
from .groups import group_of
from .scores import Score

if TYPE_CHECKING:
    from .datasets import Dataset


@dataclass(frozen=True)
class Worth:
    """By row, in table order. The mean of `points` is the main figure.

    clusters: 8 hexadecimal digits, alike where rows show one picture or video. They stand for the first row that shows it, not
    for the file, so that they are the same in every configuration and wherever the files lie. worth: 0..1, None where the scorer
    does not say. points: None where what rows are worth does not explain the figure. read: None where the scorer does not say.
    """

    indices: list[str]
    clusters: list[str]
    worth: list[float | None]
    points: list[float] | None
    read: Mapping[str, str] | None

    @classmethod
    def of(cls, dataset: Dataset, score: Score) -> Worth | None:
        """None where the scorer does not say what rows are worth.

        A scorer that says it of a question alone and not of each of its rotations has them share it.
        """
        indices = [row["index"] for row in dataset.rows]
        said = score.per_sample or {}
        owners = indices if all(i in said for i in indices) else _owners(dataset, said)
        owned = [owner for owner in owners if owner in said]
        if not owned:
            return None
        worth = [said.get(owner) for owner in owners]
        points = None if score.points is None else _shared(owners, score.points)
        return cls(indices, _clusters(dataset), worth, points, score.read)

    def standard_error(self) -> float | None:
        """Of the main figure, clustered by picture; None where rows do not explain it, show one picture alone, or are
        all worth the same."""
        if self.points is None or len(set(self.points)) == 1:
            return None
        error = scoring.standard_error(self.points, self.clusters)
        return None if math.isnan(error) else error

    def lines(self, failed: Collection[str]) -> Iterator[dict[str, Any]]:
        """The lines of `worth.jsonl`. A row of `failed` is worth nothing. `points` is left out where it is 100 x worth, and null
        where what rows are worth does not explain the figure."""
        for place, index in enumerate(self.indices):
            worth = 0.0 if index in failed else self.worth[place]
            line: dict[str, Any] = {"index": index, "cluster": self.clusters[place]}
            if self.read is not None and index in self.read:
                line["read"] = self.read[index]
            line["worth"] = worth
            points = None if self.points is None else self.points[place]
            if points is None or worth is None or not math.isclose(points, 100 * worth, rel_tol=1e-12, abs_tol=1e-9):
                line["points"] = points
            if index in failed:
                line["failed"] = True
            yield line


def _clusters(dataset: Dataset) -> list[str]:
    firsts: dict[str, str] = {}
    digests: dict[str, str] = {}
    found = []
    for row in dataset.rows:
        index = firsts.setdefault(dataset.cluster(row), row["index"])
        if index not in digests:
            digests[index] = hashlib.sha256(index.encode("utf-8", "surrogatepass")).hexdigest()[:8]
        found.append(digests[index])
    return found


def _owners(dataset: Dataset, said: Collection[str]) -> list[str]:
    """Of each row the index of the one whose value it shares, or its own: the first of its group of which something was said."""
    group = group_of(dataset.benchmark)
    if group is None:
        return [row["index"] for row in dataset.rows]
    groups = [group(dataset.with_picture(row)) for row in dataset.rows]
    owner: dict[str, str] = {}
    for row, name in zip(dataset.rows, groups, strict=True):
        if row["index"] in said:
            owner.setdefault(name, row["index"])
    return [
        row["index"] if row["index"] in said else owner.get(name, row["index"])
        for row, name in zip(dataset.rows, groups, strict=True)
    ]


def _shared(owners: Sequence[str], points: Mapping[str, float]) -> list[float]:
    """Points of all rows from those of the owners, with the same mean and error: rows share an owner's part, and one of which
    nothing is known stands at the mean, where it adds nothing."""
    sizes: dict[str, int] = {}
    for owner in owners:
        if owner in points:
            sizes[owner] = sizes.get(owner, 0) + 1
    if len(sizes) == len(owners):
        return [points[owner] for owner in owners]
    figure = math.fsum(points[owner] for owner in sizes) / len(sizes)
    shares = {owner: len(owners) / (len(sizes) * size) for owner, size in sizes.items()}
    return [shares[owner] * points[owner] + (1 - shares[owner]) * figure if owner in sizes else figure for owner in owners]
