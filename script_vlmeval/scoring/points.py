"""Points: what each row adds to a figure that is not the rows' mean.

Points are linearised (influence functions): their plain mean over all rows is the figure itself, and the clustered standard error
of that mean is the figure's, to first order. So one formula, one bootstrap and one paired difference serve every figure. Points
are in the figure's unit and may lie outside of its range: a row of a small category of MME moves the total by more than others.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence

from .verdicts import mean


def of_strata(values: Sequence[float], strata: Sequence[str], clusters: Sequence[str], scale: float = 1.0) -> list[float]:
    """Points of scale x the sum of the strata's means, as MME sums categories and MLVU averages tasks.

    Strata are fixed, so a row deviates from its own stratum's mean alone. Deviations are stretched by what few clusters in a
    stratum have lost to that mean, G/(G-1) in the variance: with clusters that lie in one stratum each, the standard error is
    exactly the one of independent strata. A stratum of one cluster does not show its spread: then all rows deviate from the mean
    of the strata's means, which overstates the error rather than hide it.
    """
    rows: dict[str, list[int]] = defaultdict(list)
    for i, name in enumerate(strata):
        rows[name].append(i)
    means = {name: mean([values[i] for i in members]) for name, members in rows.items()}
    sizes = {name: len({clusters[i] for i in members}) for name, members in rows.items()}
    total, common, whole = sum(means.values()), mean(list(means.values())), len(set(clusters))
    alone = min(sizes.values()) < 2
    points = [0.0] * len(values)
    for name, members in rows.items():
        centre = common if alone else means[name]
        stretch = 1.0 if alone else math.sqrt(sizes[name] / (sizes[name] - 1) * (whole - 1) / whole)
        share = len(values) / len(members) * stretch
        for i in members:
            points[i] = scale * (total + share * (values[i] - centre))
    return points


def of_groups(values: Sequence[float], groups: Sequence[str]) -> list[float]:
    """Points of the mean in percent over groups of rows, a group being worth what its members say alike: the rotations of one
    question share its part. Where all groups are equally large, a row's points are 100 x its value."""
    sizes = Counter(groups)
    figure = mean(list(dict(zip(groups, values, strict=True)).values()))
    shares = {name: len(groups) / (len(sizes) * size) for name, size in sizes.items()}
    return [100 * (shares[name] * value + (1 - shares[name]) * figure) for name, value in zip(groups, values, strict=True)]


def of_f1(n: int, splits: Sequence[Sequence[tuple[int, bool, bool]]]) -> list[float]:
    """Points of the mean over splits of F1 = 100 x 2 hits / (2 hits + misses), of a table of n rows.

    splits: of each, the rows in it by their place, and whether each is a hit (true positive) and a miss (false positive or
    negative). A split with neither has F1 = 0, which no row moves.
    """
    counts = [(sum(hit for _, hit, _ in rows), sum(2 * hit + miss for _, hit, miss in rows)) for rows in splits]
    points = [sum(200 * hits / whole for hits, whole in counts if whole) / len(splits)] * n
    for (hits, whole), rows in zip(counts, splits, strict=True):
        for i, hit, miss in rows:
            if hit or miss:  # so that `whole` is not 0
                points[i] += n / len(splits) * 200 * (hit * whole - hits * (2 * hit + miss)) / whole**2
    return points
