"""The sheet of statistics: every paired comparison of two configurations on one benchmark, with its verdict."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..draw import number
from .sheets import Styled

if TYPE_CHECKING:
    from .evidence import Comparison, Evidence

AGAINST = {"full": "unpruned model", "random": "random choice", "pair": "another method"}  # evidence calls it -> readers do
_P = '[<0.0001]"<0.0001";0.0000'


def comparisons(evidence: Evidence) -> list[dict[str, Any]]:
    """A line each: against the unpruned model, then against random choice, then between methods."""
    kinds = list(AGAINST)
    found = sorted(evidence.comparisons, key=lambda one: kinds.index(one.why) if one.why in kinds else len(kinds))
    return [_line(one) for one in found]


def _line(one: Comparison) -> dict[str, Any]:
    difference = one.difference
    return {
        "benchmark": one.benchmark,
        "config": str(one.config),
        "against": str(one.against),
        "why": AGAINST.get(one.why, one.why),
        "difference": number(difference.value),
        "95% low": number(difference.low),
        "95% high": number(difference.high),
        "verdict": Styled(one.verdict, bold=one.verdict in ("better", "worse"), centred=True),
        "p": _p(difference.p),
        "Holm p": _p(one.adjusted),
        "McNemar p": _p(difference.mcnemar),
        "won": difference.won,
        "lost": difference.lost,
        "smallest detectable": number(difference.detectable),
        "n": difference.n,
        "clusters": difference.clusters,
    }


def _p(value: float | None) -> Styled:
    return Styled(number(value), form=_P)
