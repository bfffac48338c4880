"""docs/inside.md says what the methods plan, and its benchmark measures what it says."""

from __future__ import annotations

import json
import re
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from conftest import ROOT, benchmark

from script_vlmeval import cells, plans, tiny
from script_vlmeval.errors import UserError
from script_vlmeval.methods import Method, get_method
from script_vlmeval.prefill import Prefill
from script_vlmeval.prune import pruning

PAGE = (ROOT / "docs" / "inside.md").read_text(encoding="utf-8")
N, LAYERS, TEXT, WIDTH, MLP = 576, 32, 64, 4096, 11008
TOY = ["--hidden", "64", "--layers", "24", "--side", "6", "--text", "8", "--repeats", "1"]


@pytest.fixture(scope="module")
def inside() -> ModuleType:
    return benchmark("inside")


# -- the page, read ------------------------------------------------------------------------------------------------------------
def rows_under(head: str) -> list[list[str]]:
    """The cells of the page's table whose head begins so."""
    table = next(t for t in re.findall(r"(?:^\|.*\n)+", PAGE, re.MULTILINE) if t.startswith(f"| {head}"))
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]


def golden(name: str, **wanted: Any) -> list[dict[str, Any]]:
    read = json.loads((ROOT / "tests" / "golden" / name).read_text())
    rows = [dict(zip(read["columns"], row, strict=True)) for row in read["rows"]]
    return [r for r in rows if all(r[key] == value for key, value in wanted.items())]


def lengths(plan: dict[int, int]) -> list[int]:
    """Tokens that enter each layer."""
    return [TEXT + min([k for stage, k in plan.items() if stage <= layer], default=N) for layer in range(LAYERS)]


def mean(plan: dict[int, int]) -> float:
    return sum(lengths(plan)) / LAYERS - TEXT


def flops(plan: dict[int, int]) -> float:
    """Against unpruned, in closed form: 8 h^2 + 6 h f for each token, and 4 h for each pair."""

    def total(seen: list[int]) -> int:
        return sum(t * (8 * WIDTH**2 + 6 * WIDTH * MLP) + 4 * WIDTH * t * t for t in seen)

    return total(lengths(plan)) / total(lengths({}))


# -- its numbers ---------------------------------------------------------------------------------------------------------------
def test_the_tables_are_those_that_the_command_prints(inside: ModuleType, capsys: pytest.CaptureFixture[str]):
    inside.main(["--table"])
    tables = capsys.readouterr().out.strip().split("\n\n")
    assert len(tables) == 3
    for table in tables:
        assert f"\n\n{table}\n\n" in PAGE


def test_the_published_settings():
    rows = rows_under("R, K = 2")
    assert [float(row[0]) for row in rows] == [0.5, 0.75, 0.9, 1.0]
    for removed, *cells_ in rows:
        for name, recorded, given in (("fastv", ("fastv", 0), cells_[:3]), ("seqprune", ("seq", 10), cells_[3:])):
            plan = get_method(name, removed=float(removed), first_layer=2).plan(None, N, LAYERS)
            cache = sum(lengths(plan)) / sum(lengths({}))
            assert given == [f"{mean(plan):.1f}", f"{flops(plan):.3f}", f"{cache:.3f}"]
            method, step = recorded
            wanted = {"model": "llava-1.5-7b", "N": N, "L": LAYERS, "R": float(removed), "K": 2, "method": method, "step": step}
            (row,) = golden("in_llm_schedules.json", **wanted)
            numbers = [float(cell) for cell in given]
            assert numbers == pytest.approx([row["avg_visual"], row["flops_ratio"], row["kv_ratio"]], abs=0.051)
            assert numbers[1:] == pytest.approx([row["flops_ratio"], row["kv_ratio"]], abs=0.00056)  # rounded twice


def test_what_comes_nearest_to_a_mean_is_what_was_recorded():
    rows = rows_under("mean wanted")
    assert len(rows) == 4 * 2 * 3
    for budget, name, first, removed, nearest, *_ in rows:
        method, step = ("fastv", 0) if name == "`fastv`" else ("seq", 10)
        wanted = {"model": "llava-1.5-7b", "N": N, "L": LAYERS, "target": int(budget), "method": method, "step": step}
        (row,) = golden("in_llm_budgets.json", K=int(first), **wanted)
        if row["reachable"]:
            assert (float(removed), float(nearest)) == (row["R"], row["avg"])
            share = get_method(name.strip("`"), removed=row["R"], first_layer=int(first))
            assert f"{mean(share.plan(None, N, LAYERS)):.2f}" == nearest
        else:
            assert (removed, nearest) == ("unreachable", f"{row['avg']:.2f} at {row['R']:g}")


def test_integer_budgets():
    """The schedule named on the page is the budget's plan, and its mean is never above."""
    spent: dict[int, list[float]] = {}
    for budget, name, first, _, _, schedule, *numbers in rows_under("mean wanted"):
        method = get_method(name.strip("`"), first_layer=int(first))
        if schedule.startswith("unreachable"):
            assert numbers == ["", ""]
            _smallest_is(method, int(budget), schedule)
            continue
        plan = method.plan(int(budget), N, LAYERS)
        named, rest = plans.asked(get_method(name.strip("`")), schedule.strip("`"))
        assert named.plan(rest, N, LAYERS) == plan
        assert numbers == [f"{mean(plan):.2f}", f"{flops(plan):.3f}"]
        assert mean(plan) <= int(budget)
        spent.setdefault(int(budget), []).append(flops(plan) / (TEXT + mean(plan)))
    assert all(max(shares) / min(shares) < 1.012 for shares in spent.values())  # "equal to about a percent"


def test_the_other_methods():
    rows = rows_under("method | mean of 288")
    assert [row[0].strip("`") for row in rows] == ["pyramiddrop", "sparsevlm", "dart", "script+fastv"]
    for name, *found in rows:
        for budget, cell in zip((288, 192, 128, 64), found, strict=True):
            method = get_method(name.strip("`"))
            if cell.startswith("unreachable"):
                _smallest_is(method, budget, cell)
                continue
            plan = method.plan(budget, N, LAYERS)
            assert cell == ", ".join(f"{stage}: {k}" for stage, k in plan.items()) + f" = {mean(plan):.2f}"
            assert mean(plan) <= budget


def _smallest_is(method: Method, budget: int, cell: str) -> None:
    """As the error says, and as trying says."""
    floor = int(re.fullmatch(r"unreachable, smallest (\d+)", cell)[1])
    for refused in (budget, floor - 1):
        with pytest.raises(UserError, match=rf"smallest budget here is {floor}\b"):
            method.plan(refused, N, LAYERS)
    assert mean(method.plan(floor, N, LAYERS)) <= floor


def test_numbers_in_sentences():
    shares = [mean(get_method(name, removed=0.9).plan(None, N, LAYERS)) for name in ("seqprune", "fastv")]
    assert f"{shares[0] / shares[1]:.2f} times the tokens" in PAGE
    assert f"ratio of 0.5 has a mean of {mean(get_method('pyramiddrop').plan(None, N, LAYERS)):.0f}." in PAGE
    nominal = get_method("sparsevlm", published=True)
    means = [f"{mean(nominal.plan(budget, N, LAYERS)):.2f}" for budget in (192, 128, 96, 64)]
    assert f"have means of {', '.join(means[:3])} and {means[3]}." in " ".join(PAGE.split())
    assert list(get_method("seqprune", removed=0.9).plan(None, 100, LAYERS).values())[5] == 39
    assert "six steps of 10 percent leave 39" in " ".join(PAGE.split())


def test_pyramiddrops_own_schedule_is_a_budget():
    pattern = r"is the budget `([\d.]+pct)` of 576.*?`plan\((.*?)\)` equals `plan\((.*?)\)`"
    share, same, published = re.search(pattern, PAGE, re.DOTALL).groups()
    budget, *sizes = (int(word) for word in same.split(","))
    assert (sizes, published) == ([N, LAYERS], f"None, {N}, {LAYERS}")
    assert plans.tokens(share, N) == budget
    method, by_ratio = get_method("pyramiddrop"), get_method("pyramiddrop", ratio=0.5)
    assert method.plan(budget, N, LAYERS) == method.plan(None, N, LAYERS) == by_ratio.plan(None, N, LAYERS)
    with pytest.raises(UserError, match="ratio"):
        by_ratio.plan(budget, N, LAYERS)


def test_what_is_said_of_hybrids():
    for before in (63, 64):
        with pytest.raises(UserError, match="before"):
            get_method("script+fastv", before=before).plan(64, N, LAYERS)
    assert get_method("script+fastv", before=65).plan(64, N, LAYERS)[0] == 65
    for name in ("full+fastv", "script+full"):
        with pytest.raises(UserError, match="alone"):
            get_method(name)
    found = get_method("script+fastv", merge="mean").parameters()
    assert found["script.merge"] == "mean"
    assert "fastv.merge" not in found
    assert get_method("visionzip+fastv", merge="mean").parameters()["fastv.merge"] == "mean"


def test_the_example_sweep_can_be_planned(tmp_path: Path):
    file = tmp_path / "inside.yaml"
    file.write_text(re.search(r"```yaml\n(.*?)```", PAGE, re.DOTALL)[1], encoding="utf-8")
    study = cells.read_study(file)
    assert len(study.configs) == 1 + 3 * 2 + 5
    found = {}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for config in study.configs[1:]:
            method, budget = plans.asked(get_method(config.method, **dict(config.params)), config.budget)
            found[str(config)] = plans.plan(method, plans.tokens(budget, tiny.N_VISUAL), tiny.N_VISUAL, 6)
    assert found["tiny_fastv_r75k2"] == {2: 36}  # what the comments say
    assert found["tiny_script+fastv_16"][0] == 32
    assert found["tiny_fastv_72"] == found["tiny_fastv_50pct"]


# -- the benchmark -------------------------------------------------------------------------------------------------------------
def test_it_measures_a_toy(inside: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    threads, own = torch.get_num_threads(), dict(vars(Prefill))
    try:
        inside.main([*TOY, "--json", str(tmp_path / "inside.json")])
    finally:
        torch.set_num_threads(threads)
    assert dict(vars(Prefill)) == own
    said, found = capsys.readouterr().out, json.loads((tmp_path / "inside.json").read_text())
    for name in ("fastv", "seqprune"):
        for line in (f"| {name}, mean 11.", f"| {name}, selection thrown away |", f"scoring by {name}: ", f"saved by {name}: "):
            assert line in said
        assert found["scoring"][name]["ms"] > 0
        assert found["mean"][name] <= 12
    assert (found["scoring"]["fastv"]["stages"], found["scoring"]["seqprune"]["stages"]) == (1, 8)
    for name in ("unpruned", "fastv", "seqprune"):
        assert f"cache, {name}: " in said
        assert found["cache"][name]["measured"] == pytest.approx(found["cache"][name]["predicted"], rel=0.05)
    assert found["cache"]["fastv"]["predicted"] < 0.5 * found["cache"]["unpruned"]["predicted"]


def test_what_is_thrown_away_is_chosen_and_changes_nothing(inside: ModuleType):
    args = type("Options", (), dict(hidden=64, layers=6, heads=1, side=4, text=6, device="cpu", dtype="float32", attn="sdpa"))
    model = inside.build(args)
    inputs = inside.prompt(args, model)
    with torch.no_grad():
        full = model(**inputs).logits
        method = get_method("seqprune", step=25)
        with inside.replaced(_reduce=inside._thrown_away), inside.clocks("cpu") as spent, pruning(model, method, 10) as trace:
            out = model(**inputs).logits
    assert torch.equal(out, full)
    assert trace.lengths == [22] * 6
    assert not trace.kept
    assert spent["_choose_inside"] > 0


def test_storages_are_counted_whole_and_once(inside: ModuleType):
    layer = type("Layer", (), {})()
    layer.keys = torch.zeros(1, 2, 100, 4)[:, :, :10]  # a view keeps the whole
    layer.values = layer.keys[..., :2]
    assert inside.storages(type("Cache", (), {"layers": [layer]})) == 2 * 100 * 4 * 4


def test_a_mean_that_the_model_cannot_reach_is_said(inside: ModuleType, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        inside.main([*TOY, "--budget", "2"])
    assert "The smallest budget here is" in capsys.readouterr().err
