"""Figures that others have published of the systems reproduced here: facts with their sources, to stand beside measured ones.

None was measured with this project, and most are second-hand: read in another paper's table. `docs/reproduce.md` has the command
for each table; `tests/test_reproduce.py` holds the two to each other. Figures of one source may be compared, those of two should
not: benchmark versions, words and baselines differ (`docs/audit.md`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

COST = "cost"  # in place of a benchmark
MEAN = "mean retention"  # percent of the unpruned model, over the source's own benchmarks
_TEN = "VQAv2_TESTDEV GQA VizWiz ScienceQA TextVQA POPE MME MMBench MMBench_CN MMVet".split()  # columns of the tables of pictures
_METRICS = {"MME": "perception", "POPE": "F1", "MMBench": "Overall", "MMBench_CN": "Overall", "ScienceQA": "Overall"}
_DOUBTS = {
    "VQAv2_TESTDEV": "from the server: this project writes the submission",
    "VizWiz": "the split is not stated at hand; here it is val",
    "MMBench": "perhaps the server's matching, which is milder than exact",
    "MMBench_CN": "perhaps the server's matching, which is milder than exact",
    "MMVet": "another judge",
}
_RADAR = "the chart's number of tokens is doubtful: its baselines do not match other papers' at 32"


@dataclass(frozen=True)
class Published:
    """One figure.

    model, method, budget, params: as a configuration here is named; a model that is not here has a name of its own. benchmark: ''
    for a mean over several, COST for what an answer costs. metric: which of a result's metrics is the same quantity ('' the main
    one), MEAN, or what is counted. source: who says so; own: whether these are the authors of the method (or, unpruned, of the
    model), also where others quote them. doubt: why it may be another quantity than the measured one.
    """

    table: str
    model: str
    method: str
    budget: str
    benchmark: str
    figure: float
    source: str
    own: bool = False
    metric: str = ""
    doubt: str = ""
    params: tuple[tuple[str, Any], ...] = ()

    def among(self, metrics: Mapping[str, Any], primary: str) -> float | None:
        """The measured figure that this one is to stand beside, of a result's metrics; None where it has none."""
        value = metrics.get(self.metric or primary)
        return float(value) if isinstance(value, int | float) else None


def figure(model: str, method: str, budget: str, benchmark: str, params: Mapping[str, Any] | None = None) -> Published | None:
    """The published figure of a configuration on a whole benchmark ('': its mean retention), of several the authors' own before
    others, or None. `scriptcompat`, the code that Script released, has Script's: which code made them is not known."""
    found = figures(model, method, budget, benchmark, params)
    return next((one for one in found if one.own), found[0] if found else None)


def figures(model: str, method: str, budget: str, benchmark: str, params: Mapping[str, Any] | None = None) -> list[Published]:
    """All of them, table by table."""
    named = "script" if method == "scriptcompat" else method
    given = tuple(sorted(pair for pair in (params or {}).items() if pair != _DEFAULT_STEP))
    key = model, named, budget, benchmark, given
    return [one for one in records() if (one.model, one.method, one.budget, one.benchmark, one.params) == key]


@cache
def records() -> tuple[Published, ...]:
    """Table by table."""
    return (*_pictures(), *_retentions(), *_costs(), *_sequential())


# pictures ----------------------------------------------------------------------------------------------------------------

_EADP = "EADP's table"
_ZOO, _VICA, _TRANSPRUNE, _PAGE = "LLaVA's model zoo", "ViCA's table", "TransPrune's table", "Script's project page (chart)"
# table, source, own, model, method, budget: ten figures, - where there is none
_ROWS = (
    ("cdpruner-llava", _ZOO, True, "llava", "full", "", "78.5 62.0 50.0 66.8 58.2 85.9 1510.7 64.3 58.3 30.5"),
    ("cdpruner-llava", _VICA, False, "llava", "full", "", "78.5 61.9 - 69.5 58.2 86.8 1506.5 64.7 58.1 -"),
    ("cdpruner-llava", _TRANSPRUNE, False, "llava", "cdpruner", "192", "- 60.3 - 68.8 - 87.3 1447 63.1 - -"),
    ("cdpruner-llava", _EADP, False, "llava", "cdpruner", "128", "76.2 59.3 57.3 69.0 56.0 87.3 1431.4 62.4 54.7 32.1"),
    ("cdpruner-llava", _EADP, False, "llava", "cdpruner", "64", "75.0 58.6 58.0 68.1 54.7 87.0 1399.1 61.1 53.2 29.5"),
    ("cdpruner-llava", _EADP, False, "llava", "cdpruner", "32", "73.6 57.0 57.9 69.5 52.1 87.1 1353.0 59.1 49.6 27.8"),
    ("cdpruner-llava", _VICA, False, "llava", "cdpruner", "32", "- - - - 53.2 87.9 1373.0 - - -"),
    ("cdpruner-next", _EADP, False, "llavanext", "full", "", "81.3 62.5 60.9 67.6 60.3 86.8 1510.9 65.8 57.3 40.0"),
    ("cdpruner-next", _EADP, False, "llavanext", "cdpruner", "640", "79.9 62.3 60.8 67.9 58.4 87.1 1474.5 66.2 57.5 40.7"),
    ("cdpruner-next", _EADP, False, "llavanext", "cdpruner", "320", "77.9 61.6 59.9 67.7 56.4 86.8 1453.0 64.1 55.7 37.9"),
    ("cdpruner-next", _EADP, False, "llavanext", "cdpruner", "160", "76.4 60.6 59.7 67.5 53.2 86.3 1402.3 63.6 53.8 35.0"),
    ("script-chart", _PAGE, True, "llava", "script", "32", "68.8 54.4 54.1 69.1 47.6 84.4 1258.5 57.0 46.0 23.7"),
    ("script-chart", _PAGE, False, "llava", "visionzip", "32", "62.5 50.9 54.8 67.0 45.8 75.1 1179.6 52.2 42.6 20.7"),
    ("script-chart", _PAGE, False, "llava", "sparsevlm", "32", "58.7 46.2 49.5 68.3 41.8 69.0 987.3 54.2 42.9 21.8"),
    ("script-chart", _PAGE, False, "llava", "fastv", "32", "52.1 44.1 52.2 68.5 42.1 59.9 898.8 41.4 32.0 16.2"),
)
_SPLITS = {_ZOO: "its split is test; here it is val", _EADP: "perhaps another split than the usual test; here it is val"}


def _pictures() -> Iterator[Published]:
    for table, source, own, model, method, budget, line in _ROWS:
        for benchmark, text in zip(_TEN, line.split(), strict=True):
            if text == "-":
                continue
            doubts = [_SPLITS.get(source, _DOUBTS[benchmark]) if benchmark == "VizWiz" else _DOUBTS.get(benchmark, "")]
            doubts += [_RADAR] if table == "script-chart" else []
            doubt = "; ".join(filter(None, doubts))
            metric = _METRICS.get(benchmark, "")
            yield Published(table, model, method, budget, benchmark, float(text), source, own, metric, doubt)


# means over benchmarks ---------------------------------------------------------------------------------------------------

_SETS = "over the source's own benchmarks"
_MEANS = (  # table, model, method, source, own: budget and percent
    ("means", "llava", "cdpruner", "CDPruner", True, "128 99.0 64 97.0 32 94.3"),
    ("means", "llava", "cdpruner", "FSR", False, "128 97.6 64 95.7"),
    ("means", "llava", "cdpruner", "Cen-Prune", False, "128 97.3 64 96.3 32 93.7"),
    ("means", "llava", "script", "Script", True, "64 96.86"),
    ("means", "llavanext", "cdpruner", "CDPruner", True, "640 100.1 320 98.0 160 96.0"),
    ("means", "llavanext", "cdpruner", "EADP", False, "320 97.3 160 94.9"),
    ("means", "llavanext", "script", "Script, project page", True, "320 99.88"),
    ("means", "llavanext", "script", "Script, abstract", True, "320 96.88"),
    ("means", "qwen25vl7b", "cdpruner", "CDPruner", True, "39.5pct 97.5 19.75pct 92.8 9.88pct 85.2"),
    ("means", "qwen25vl7b", "cdpruner", "TOPS", False, "19.75pct 94.3 9.88pct 89.6"),
    ("means", "qwen25vl7b", "cdpruner", "Cen-Prune", False, "19.75pct 87.1 9.88pct 79.5"),
    ("means", "qwen25vl7b", "cdpruner", "Hi-Lo Prune", False, "19.75pct 84.2 9.88pct 83.9"),
    ("means", "qwen25vl7b", "cdpruner", "EADP", False, "19.75pct 77.4 9.88pct 69.3"),
    ("means", "LLaVA-Video-7B", "cdpruner", "CDPruner", True, "64 98.6 32 95.0 16 89.7"),
    ("means", "LLaVA-Video-7B", "cdpruner", "independent re-run", False, "64 95.1 32 91.0 16 85.8"),
)
_MEAN_DOUBTS = {
    "Script, abstract": "; the abstract states no budget",
    "Script, project page": "; the abstract says 96.88",
}
_QWEN = "; of 1,296 tokens a picture, or about a fifth and a tenth, where here a picture's size decides"


def _retentions() -> Iterator[Published]:
    for table, model, method, source, own, line in _MEANS:
        words = line.split()
        doubt = _SETS + _MEAN_DOUBTS.get(source, "") + (_QWEN if model == "qwen25vl7b" else "")
        for budget, text in zip(words[::2], words[1::2], strict=True):
            yield Published(table, model, method, budget, "", float(text), source, own, MEAN, doubt)


_SCRIPT_COST, _CDPRUNER_COST = "Script's project page", "CDPruner"
_COSTS = (  # source, unit: unpruned, at 320 tokens
    (_SCRIPT_COST, "TFLOPs", 41.7, 4.1),
    (_SCRIPT_COST, "KV cache, MB", 1440.0, 169.0),
    (_SCRIPT_COST, "prefill, ms", 246, 35),
    (_CDPRUNER_COST, "TFLOPs", 39.2, 4.0),
    (_CDPRUNER_COST, "KV cache, MB", 2250, 250),
    (_CDPRUNER_COST, "prefill, ms", 250, 38),
    (_CDPRUNER_COST, "decoding, ms", 21, 16),
    (_CDPRUNER_COST, "memory, GB", 18.2, 15.1),
)
_COST_DOUBTS = {
    _SCRIPT_COST: "the GPU is not stated at hand; 169 MB are 338 tokens of a 7B model, not 320",
    _CDPRUNER_COST: "the GPU is not stated at hand; 2250 MB are 2,880 tokens of a 13B model, not of this one",
}


def _costs() -> Iterator[Published]:
    for source, unit, full, pruned in _COSTS:
        for method, budget, value in (("full", "", full), ("script" if source == _SCRIPT_COST else "cdpruner", "320", pruned)):
            yield Published("costs", "llavanext", method, budget, COST, float(value), source, True, unit, _COST_DOUBTS[source])


# Sequential Prune --------------------------------------------------------------------------------------------------------

_DEFAULT_STEP = ("step", 10)
STEPS = (5, 10, 15, 20, 25)
HALF = (0.524, 0.527)  # between these lie all thirty figures at r50
_COMMITTED = {  # budget: Rouge-L f at each step
    "r75k1": ".521 .521 .511 .506 .507",
    "r75k2": ".524 .518 .520 .517 .517",
    "r75k3": ".524 .520 .522 .511 .510",
    "r75k4": ".527 .521 .518 .523 .520",
    "r75k5": ".526 .518 .522 .520 .521",
    "r75k6": ".526 .521 .521 .519 .518",
    "r90k1": ".520 .478 .473 .407 .390",
    "r90k2": ".525 .456 .451 .415 .408",
    "r90k3": ".522 .457 .434 .475 .415",
    "r90k4": ".523 .490 .476 .451 .475",
    "r90k5": ".522 .499 .453 .432 .452",
    "r90k6": ".523 .514 .454 .472 .430",
}


def _sequential() -> Iterator[Published]:
    """Scores in the repository's history: LLaVA-1.5 13B on MileBench's OCR-VQA, which is a table of the user's own here."""
    for budget, line in _COMMITTED.items():
        for step, text in zip(STEPS, line.split(), strict=True):
            yield Published(
                "sequential", "llava13b", "seqprune", budget, "Rouge_OCR_VQA", float(text), "Sequential Prune's repository",
                own=True, metric="Rouge-L f", doubt="chosen anew at each word; Rouge-L is not computed here",
                params=tuple({("step", step)} - {_DEFAULT_STEP}),
            )  # fmt: skip
