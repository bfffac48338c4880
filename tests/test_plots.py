"""The plots of a folder: which there are, that they stay the same, what is on them, and that nothing lies on anything."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations, pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from matplotlib import rc_context

from script_vlmeval import draw
from script_vlmeval.cells import Config
from script_vlmeval.draw import Row, bars, folder, groups, mean, measure, pareto, plot, radar, spans, style
from script_vlmeval.errors import UserError

METHODS = ("cdpruner", "dart", "divprune", "fastv", "pyramiddrop", "random", "script", "sparsevlm", "visionzip")
BENCHMARKS = (
    "AI2D_TEST", "ChartQA_TEST", "GQA_TestDev_Balanced", "MMBench_DEV_EN_V11", "MMBench_DEV_CN_V11", "MME", "MMMU_DEV_VAL",
    "MMVet", "OCRBench", "POPE", "ScienceQA_TEST", "SEEDBench_IMG", "TextVQA_VAL", "VizWiz",
)  # fmt: skip


def row(method: str, budget: str, benchmark: str = "A", score: float = 80.0, kept: float | None = None, **more: Any) -> Row:
    """Retention in percent of 100 points, where `retention` does not say otherwise."""
    tokens = {"visual_kept": kept if kept is not None else float(budget or 576), **more.pop("tokens", {})}
    data = {"primary": "Overall", "tokens": tokens, "samples_per_second": 4.0, **more.pop("data", {})}
    config = Config(more.pop("model", "llava"), method, budget)
    return Row(config, benchmark, score, more.pop("stderr", 1.0), 100, 0, data, more.pop("retention", score))


def sweep(methods: Sequence[str], budgets: Sequence[int], benchmarks: Sequence[str], model: str = "llava") -> list[Row]:
    """Better methods first, scores with some scatter."""
    draws = random.Random(0)
    rows = [row("full", "", benchmark, 100.0, model=model) for benchmark in benchmarks]
    for benchmark in benchmarks:
        for i, method in enumerate(methods):
            for budget in budgets:
                score = 100 - (1 + i) * (576 / budget) ** 0.5 * draws.uniform(0.6, 1.4)
                data = {"samples_per_second": 10 / budget**0.3, "efficiency": {"flops": budget * 1e10}}
                rows.append(row(method, str(budget), benchmark, score, model=model, data=data))
    return rows


def evidence(rows: Sequence[Row]) -> SimpleNamespace:
    """Intervals of 2 points down and 1 up."""
    around = {(str(r.config), r.benchmark): SimpleNamespace(low=r.score - 2, high=r.score + 1) for r in rows}
    means = {str(r.config): SimpleNamespace(low=r.score - 2, high=r.score + 1) for r in rows}
    return SimpleNamespace(interval=around, retention=around, mean_retention=means, damaged=())


def stems(paths: Sequence[Path]) -> list[str]:
    return [path.stem for path in paths if path.suffix == ".png"]


# files -------------------------------------------------------------------------------------------------------------------


def test_every_plot_is_there_twice(tmp_path: Path):
    rows = sweep(["script"], [128, 64], BENCHMARKS[:3])
    written = draw.plots(rows, evidence(rows), tmp_path / "plots")
    assert stems(written) == ["accuracy", "cost-tokens", "cost-seconds", "cost-flops", "retention", "radar"]
    assert sorted(path.name for path in (tmp_path / "plots").iterdir()) == sorted(path.name for path in written)
    for path in written:
        assert path.read_bytes().startswith(b"\x89PNG" if path.suffix == ".png" else b"<?xml")


def test_the_same_rows_give_the_same_bytes(tmp_path: Path):
    rows = sweep(["script"], [64], ["A"])
    first = {path.name: path.read_bytes() for path in draw.plots(rows, None, tmp_path / "a")}
    second = {path.name: path.read_bytes() for path in draw.plots(rows, None, tmp_path / "b")}
    assert first == second
    assert not [name for name, content in first.items() if b"<dc:date>" in content or b"tIME" in content]


def test_one_cell_has_one_plot(tmp_path: Path):
    assert stems(draw.plots([row("script", "64", retention=None)], None, tmp_path)) == ["accuracy"]


def test_only_unpruned_results_have_none(tmp_path: Path):
    assert draw.plots([row("full", "")], None, tmp_path / "plots") == []
    assert not (tmp_path / "plots").exists()


def test_a_folder_of_plots_that_are_no_longer_given_goes(tmp_path: Path):
    (tmp_path / "plots").mkdir()
    (tmp_path / "plots" / "radar.png").write_text("")
    draw.plots([row("full", "")], None, tmp_path / "plots")
    assert not (tmp_path / "plots").exists()


def test_what_was_not_measured_has_no_plot(tmp_path: Path):
    rows = [replace(r, data=r.data | {"samples_per_second": None, "efficiency": {}}) for r in sweep(["a"], [64], ["A", "B"])]
    assert stems(draw.plots(rows, None, tmp_path)) == ["accuracy", "cost-tokens", "retention"]


def test_models_have_plots_of_their_own(tmp_path: Path):
    rows = [*sweep(["script"], [64], ["A"]), row("script", "64", model="qwen", retention=None)]
    found = stems(draw.plots(rows, None, tmp_path))
    assert [name for name in found if name.startswith("accuracy")] == ["accuracy-llava", "accuracy-qwen"]
    assert "retention-qwen" not in found


def test_plots_that_are_no_longer_given_go_and_others_stay(tmp_path: Path):
    for name in ("radar.png", "cost-flops-llava.svg", "mine.png", "radar.txt", "accuracy.old.png"):
        (tmp_path / name).write_text("")
    draw.plots([row("script", "64", retention=None)], None, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "accuracy.png",
        "accuracy.svg",
        "mine.png",
        "radar.txt",
        "accuracy.old.png",
    }


def test_a_folder_that_cannot_be_made_is_the_users_to_change(tmp_path: Path):
    (tmp_path / "plots").write_text("")
    with pytest.raises(UserError, match="plots"):
        draw.plots([row("script", "64")], None, tmp_path / "plots")


# layout ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("many", [True, False])
def test_nothing_lies_on_anything(many: bool):
    """Titles, labels of ticks and axes, and the legend, at nine methods x four budgets x fourteen benchmarks too."""
    rows = sweep(METHODS, [256, 128, 64, 32], BENCHMARKS) if many else sweep(METHODS[:1], [64], ["A"])
    rows = [replace(r, data={"primary": r.metric, "tokens": r.data["tokens"]}) for r in rows]  # one kind of cost will do
    with rc_context(style.STYLE):
        for name, figure in folder._figures(rows, spans.Spans(evidence(rows))):
            figure.get_layout_engine().execute(figure)
            boxes = [axis.get_tightbbox() for axis in figure.axes] + [legend.get_window_extent() for legend in figure.legends]
            page = figure.bbox
            assert len(boxes) == (15 if many else 1) + 1 or name == "radar", name
            assert all(page.x0 <= b.x0 and b.x1 <= page.x1 and page.y0 <= b.y0 and b.y1 <= page.y1 for b in boxes), name
            assert not [1 for a, b in combinations(boxes, 2) if overlap(a, b) > 1], name
            assert not [name for axis in figure.axes if name != "radar" and crowded(axis.get_xticklabels())]
            assert max(figure.get_size_inches()) < 20


def overlap(a: Any, b: Any) -> float:
    """How far two boxes reach into each other, in pixels."""
    return min(a.x1, b.x1, key=float) - max(a.x0, b.x0) if min(a.y1, b.y1) - max(a.y0, b.y0) > 1 else 0.0


def crowded(labels: Any) -> bool:
    extents = sorted((label.get_window_extent() for label in labels if label.get_text()), key=lambda box: box.x0)
    return any(overlap(a, b) > 1 for a, b in combinations(extents, 2))


def test_long_titles_are_set_smaller():
    with rc_context(style.STYLE):
        figure, axes = style.panels(3, 2.9, [])
        for axis, text in zip(axes, ("A", "MMBench_DEV_EN_V11 (accuracy, some judge)", "B"), strict=True):
            style.title(axis, text)
        figure.get_layout_engine().execute(figure)
        assert overlap(axes[1].get_tightbbox(), axes[2].get_tightbbox()) <= 0
        assert figure.get_size_inches()[0] == pytest.approx(10.5)


def test_methods_differ_in_grey_too():
    looks = style.looks([f"m{i}" for i in range(45)])
    assert len({(look["marker"], str(look["linestyle"])) for look in looks.values()}) == 45


def test_a_method_looks_the_same_whoever_stands_beside_it():
    alone, among = style.looks(["cdpruner", "mine"]), style.looks(["script", "cdpruner", "random", "mine", "fastv"])
    assert [alone[name] for name in ("cdpruner", "mine")] == [among[name] for name in ("cdpruner", "mine")]
    looks = style.looks([*METHODS, "downsample", "pool", "mine"])
    assert len({str(look["color"]) for look in looks.values()}) == len(looks)
    assert len({(look["marker"], str(look["linestyle"])) for look in looks.values()}) == len(looks)


def middle(artist: Any) -> float:
    """Where the first mark of a line is drawn, in pixels from the left."""
    return float(artist.get_transform().transform(artist.get_xydata()[0])[0])


@pytest.mark.parametrize("curves", [True, False])
def test_equal_points_do_not_hide_each_other(curves: bool):
    rows = [row("full", "", score=100.0), *(row(method, "64", score=80.0) for method in METHODS[:4])]
    with rc_context(style.STYLE):
        looks = style.looks(style.ranked(rows))
        none, cost = spans.Spans(), pareto.COSTS[0]
        figure = plot.curves(rows, looks, none) if curves else pareto.against(cost, rows, looks, none)
        figure.get_layout_engine().execute(figure)
        (axis,) = figure.axes
        places = sorted(middle(line) for line in axis.lines if len(line.get_xdata()) == 1 and line.get_ydata()[0] == 80)
    assert len(places) == 4
    assert min(b - a for a, b in pairwise(places)) > 2
    assert places[-1] - places[0] < 40


def test_a_legend_lists_what_is_drawn():
    def entries(rows: Sequence[Row], cost: bool) -> list[str]:
        looks = style.looks(style.ranked(rows))
        figure = pareto.against(pareto.COSTS[0], rows, looks, spans.Spans()) if cost else plot.curves(rows, looks, spans.Spans())
        return [text.get_text() for text in figure.legends[0].get_texts()]

    bare = [row("script", "64", stderr=None), row("script", "32", score=60.0, stderr=None)]
    assert entries(bare, cost=True) == ["script", "Pareto front"]
    assert entries(bare, cost=False) == ["script"]
    whole = [row("full", "", score=90.0), row("script", "64"), row("script", "32", score=60.0)]
    assert entries(whole, cost=True) == ["script", "unpruned", "Pareto front", "95 % interval"]
    assert entries(whole, cost=False) == ["script", "unpruned", "95 % interval"]


def test_an_axis_says_what_was_measured_and_its_unit():
    def label(metric: str, scorer: str) -> str:
        return measure.measured(row("script", "64", data={"primary": metric, "scorer": scorer}))

    assert label("Overall", "script_vlmeval exact match") == "exact match, %"
    assert label("total", "script_vlmeval MME points") == "MME points"
    assert label("total", "script_vlmeval yes/no pairs") == "yes/no pairs, points"
    assert label("Overall", "script_vlmeval VQA accuracy, ten references") == "VQA accuracy, %"
    assert [label("Overall", "vlmeval 0.0.20 VQAEval"), label("judge_acc", "a judge")] == ["score", "judge_acc"]


def test_small_costs_have_a_smaller_unit():
    seconds, flops = pareto.COSTS[1:]
    assert seconds.unit([0.007, 0.03]) == (1e3, "ms per answer, without encoder")
    assert seconds.unit([0.007, 2.0])[0] == 1
    assert [flops.unit([value])[1] for value in (3.0, 0.1, 1e-4)] == ["prefill TFLOPs", "prefill GFLOPs", "prefill MFLOPs"]


def test_names_are_set_alike_in_all_panels():
    rows = [r for r in sweep(METHODS[:5], [64], ["A", "B"]) if r.benchmark == "A" or r.config.method in ("full", "dart")]
    figure = bars.retention(rows, spans.Spans())
    assert {label.get_rotation() for axis in figure.axes for label in axis.get_xticklabels()} == {90}


def test_methods_with_several_budgets_get_the_first_looks():
    rows = [row("a", "64"), row("z", "64"), row("z", "32"), row("full", "")]
    assert style.ranked(rows) == ["z", "a"]


# the front ---------------------------------------------------------------------------------------------------------------


def front(*points: tuple[float, float]) -> list[tuple[float, float]]:
    found = pareto.front([pareto.Point(cost, row("script", "64", score=score)) for cost, score in points])
    return [(point.cost, point.row.score) for point in found]


def test_the_front_is_what_nobody_beats():
    assert front((3, 90), (1, 50), (2, 40), (2, 70), (4, 85)) == [(1, 50), (2, 70), (3, 90)]


def test_equal_scores_are_beaten_by_the_cheaper_one():
    assert front((2, 70), (1, 70), (3, 70)) == [(1, 70)]


def test_a_hairs_breadth_in_cost_earns_no_place():
    assert front((1.0, 40), (1.005, 70), (1.2, 80)) == [(1.005, 70), (1.2, 80)]
    assert front((1.0, 40), (1.02, 70)) == [(1.0, 40), (1.02, 70)]


def test_costs_are_in_the_units_of_their_labels():
    cell = row("script", "64", data={"efficiency": {"prefill_flops": 2.5e12}})
    assert {cost.name: cost.of(cell) for cost in pareto.COSTS} == {"tokens": 64, "seconds": 0.25, "flops": 2.5}


# budgets, means, intervals -----------------------------------------------------------------------------------------------


def test_a_budget_is_what_was_read_and_not_what_it_is_called():
    rows = [row("fastv", "72"), row("fastv", "r75k2", kept=72.0), row("seqprune", "r75k2", kept=119.7), row("script", "16")]
    found = groups.budgets(rows)
    assert [(budget.label, sorted(budget.lines)) for budget in found] == [
        ("119.7 tokens", ["seqprune"]), ("72 tokens", ["fastv 72", "fastv r75k2"]), ("16 tokens", ["script"]),
    ]  # fmt: skip
    assert found[1].method("fastv r75k2") == "fastv"


def test_shares_are_equal_where_they_are_on_every_benchmark():
    own = [row(m, "25pct", b, kept=k) for m in ("a", "b") for b, k in (("A", 144.0), ("B", 300.0))]
    assert [budget.label for budget in groups.budgets(own)] == ["25 % of the tokens"]
    own[-1] = row("b", "25pct", "B", kept=200.0)
    assert len(groups.budgets(own)) == 2


def test_the_mean_is_of_those_that_have_all_benchmarks():
    rows = [row("full", "", b, 100.0) for b in "ABC"] + [
        row("script", "64", b, s) for b, s in zip("ABC", (80, 90, 70), strict=True)
    ]
    rows += [row("random", "64", b, 99.0) for b in "AB"]
    found = {str(r.config): r for r in mean.means(rows)}
    assert set(found) == {"llava_full", "llava_script_64"}
    cell = found["llava_script_64"]
    assert (cell.score, cell.tokens, cell.data["samples_per_second"]) == (80, 64, 4)
    assert mean.means([r for r in rows if r.benchmark != "C"]) == []
    assert mean.means([*rows, row("full", "", "V", 100.0, tokens={"frames": 8})]) == []


def test_intervals_are_those_of_the_evidence():
    cell = row("script", "64", score=80.0)
    given = spans.Spans(evidence([cell]))
    assert given.score(cell) == given.retention(cell) == spans.Span(78, 81)
    assert spans.Span(78, 81).around(80) == ([2], [1])
    assert given.score(row("random", "64", score=50.0)) == spans.Span(50 - 1.96, 50 + 1.96)
    assert spans.Spans().retention(cell) is None
    unknown = evidence([cell])
    other = row("random", "64", score=50.0)
    unknown.damaged = {(str(other.config), other.benchmark)}
    assert spans.Spans(unknown).score(other) is None
    unknown.retention = {key: SimpleNamespace(low=math.nan, high=math.nan) for key in unknown.retention}
    assert spans.Spans(unknown).retention(cell) is None


def test_the_mean_has_its_own_interval():
    (cell,) = [r for r in mean.means(sweep(["script"], [64], ["A", "B", "C"])) if not r.config.full]
    given = spans.Spans(
        SimpleNamespace(interval={}, retention={}, mean_retention={str(cell.config): spans.Span(1, 2)}, damaged=())
    )
    assert given.score(cell) == given.retention(cell) == spans.Span(1, 2)


# bars and radars ---------------------------------------------------------------------------------------------------------


def test_bars_are_as_high_as_the_retention_and_begin_at_zero():
    rows = [row("full", "", score=100.0), row("a", "64", score=70.0), row("a", "128", score=90.0), row("b", "64", score=104.0)]
    figure = bars.retention(rows, spans.Spans(evidence(rows)))
    (axis,) = figure.axes
    assert [patch.get_height() for patch in axis.patches] == [90, 70, 104]
    assert axis.get_ylim()[0] == 0
    assert axis.get_ylim()[1] > 105  # the interval's end
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["128 tokens", "64 tokens", "95 % interval"]
    first, second, third = (patch.get_facecolor() for patch in axis.patches)
    assert first != second == third


def test_without_an_unpruned_score_there_is_nothing_to_retain():
    assert bars.retention([row("a", "64", retention=None)], spans.Spans()) is None


def test_a_radar_has_a_polygon_for_each_method_with_three_benchmarks():
    rows = [*sweep(["a", "b"], [64], ["A", "B", "C", "D"]), *(row("c", "64", benchmark) for benchmark in "AB")]
    figure = radar.radar([r for r in rows if (r.config.method, r.benchmark) != ("b", "D")], style.looks(["a", "b", "c"]))
    (axis,) = figure.axes
    whole, broken, ring = sorted(axis.lines, key=lambda line: line.get_color() == style.INK)
    assert len(whole.get_xdata()) == 5
    assert whole.get_ydata()[0] == whole.get_ydata()[-1]
    assert math.isnan(broken.get_ydata()[3])
    assert set(ring.get_ydata()) == {100}
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b", "unpruned (100 %)"]


def test_two_benchmarks_make_no_radar():
    assert radar.radar(sweep(["a"], [64], ["A", "B"]), style.looks(["a"])) is None


def test_a_radar_of_many_methods_has_the_best():
    methods = [f"m{i:02}" for i in range(19)]
    figure = radar.radar(sweep(methods, [256], ["A", "B", "C"]), style.looks(methods))
    assert figure.axes[0].get_title(loc="left") == "256 tokens (11 best of 19)"
    shown = [text.get_text() for text in figure.legends[0].get_texts()]
    assert len(shown) == 12
    assert "m00" in shown
    assert "m18" not in shown


@pytest.mark.parametrize("low", [99.9, 95.0, 61.0, 3.0, 0.0])
def test_rings_are_round_and_reach_from_below_everything_through_100(low: float):
    rings = list(radar._rings(low, 101.0))
    assert rings[0] < low or low == 0
    assert 100 in rings
    assert 2 <= len(rings) <= 8


def test_long_names_are_wrapped_and_whole():
    assert radar._wrapped("GQA_TestDev_Balanced") == "GQA_\nTestDev_\nBalanced"
    assert radar._wrapped("MME") == "MME"
    assert re.sub(r"\s", "", radar._wrapped("a b_c_d" * 9)) == ("ab_c_d" * 9)


@pytest.mark.parametrize(("methods", "bands"), [(8, 8), (9, 0)])
def test_of_many_methods_bands_would_cover_each_other(methods: int, bands: int):
    from matplotlib.collections import FillBetweenPolyCollection

    figure = plot.curves(sweep(METHODS[:methods], (64, 128), ["A"]), looks=None, spans=None)
    drawn = [one for axis in figure.axes for one in axis.collections]
    assert sum(isinstance(one, FillBetweenPolyCollection) for one in drawn) == bands
    assert sum(one.get_label() == "95 % interval" for one in figure.legends[0].legend_handles) == 1
