"""The plots of a folder of results, each as PNG and as SVG."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..files import disk
from .bars import retention
from .pareto import COSTS, against
from .plot import curves
from .radar import radar
from .row import Row
from .spans import Evidence, Spans
from .style import STYLE, Looks, heading, looks, ranked, save

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_OURS = re.compile(rf"(accuracy|retention|radar|cost-({'|'.join(cost.name for cost in COSTS)}))(-[a-z0-9]+)?\.(png|svg)")


def plots(rows: Sequence[Row], evidence: Evidence | None, folder: Path) -> list[Path]:
    """Draws what the rows give into `folder`, and removes plots that an earlier call left there and these rows do not give.

    accuracy (against the budget, with 95 % bands), cost-tokens, cost-seconds and cost-flops (against what was measured, with the
    Pareto front), retention (bars) and radar (from three benchmarks on); with `-<model>` behind it where there are several.
    Without evidence there are no intervals but those of the rows' standard errors. UserError when the disk refuses.
    """
    from matplotlib import rc_context

    written: list[Path] = []
    if any(not row.config.full for row in rows):
        with disk(folder):
            folder.mkdir(parents=True, exist_ok=True)
    with rc_context(STYLE):
        for name, figure in _figures(rows, Spans(evidence)):
            with rc_context({"svg.hashsalt": name}):  # several in one page share no names
                written += save(figure, folder / f"{name}.png", folder / f"{name}.svg")
    with disk(folder):
        for path in sorted(folder.glob("*")):
            if _OURS.fullmatch(path.name) and path not in written:
                path.unlink()
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
    return written


def _figures(rows: Sequence[Row], spans: Spans) -> Iterator[tuple[str, Figure]]:
    """By name, one at a time; a method looks the same in all of them."""
    styles = looks(ranked(rows))
    models = list(dict.fromkeys(row.config.model for row in rows))
    for model in models:
        for name, figure in _of([row for row in rows if row.config.model == model], styles, spans):
            if len(models) > 1:
                heading(figure, model)
            yield f"{name}-{model}" if len(models) > 1 else name, figure


def _of(rows: Sequence[Row], styles: Looks, spans: Spans) -> Iterator[tuple[str, Figure]]:
    """Of one model's rows."""
    if any(row.tokens and not row.config.full for row in rows):
        yield "accuracy", curves(rows, styles, spans)
    for cost in COSTS:
        if found := against(cost, rows, styles, spans):
            yield f"cost-{cost.name}", found
    if found := retention(rows, spans):
        yield "retention", found
    if found := radar(rows, styles):
        yield "radar", found
