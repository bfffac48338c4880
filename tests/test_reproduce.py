"""docs/reproduce.md: its commands can be run, and its tables are those of `published.py`, which has every figure once."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from conftest import ROOT

from script_vlmeval import published
from script_vlmeval.backbones import BACKBONES
from script_vlmeval.bench.wanted import wanted
from script_vlmeval.benchmarks import expand
from script_vlmeval.cells import Config, read_study, schedule
from script_vlmeval.cli import main, parser
from script_vlmeval.methods import METHODS, get_method
from script_vlmeval.published import COST, MEAN, STEPS, Published, figure, figures, records

TEXT = (ROOT / "docs" / "reproduce.md").read_text(encoding="utf-8")
STUDIES = sorted((ROOT / "configs" / "reproduce").glob("*.yaml"))
MARKS = {"LLaVA's model zoo": "Z", "ViCA's table": "V", "TransPrune's table": "T", "EADP's table": "E"}
MARKS["Script's project page (chart)"] = "P"
UNMEASURED = "-"


def commands() -> list[str]:
    """Every call of run.py in a block of code, continued lines joined."""
    blocks = "\n".join(re.findall(r"(?:^    .*\n)+", TEXT, flags=re.MULTILINE)).replace("\\\n", " ")
    lines = [line.partition(" # ")[0].strip() for line in blocks.splitlines()]
    return [line for line in lines if re.match(r"python run\.py --", line)]


def words_of(command: str) -> list[str]:
    """As a shell has them, braces included."""
    return [word for given in shlex.split(command) for word in unfolded(given)]


def unfolded(word: str) -> list[str]:
    found = re.search(r"\{([^}]*)\}", word)
    if not found:
        return [word]
    return [one for part in found[1].split(",") for one in unfolded(word.replace(found[0], part, 1))]


# the tables, as they stand in the document ---------------------------------------------------------------------------------


def rows_of(head: list[str], lines: Iterable[list[str]]) -> str:
    table = [head, ["---"] * len(head), *lines]
    return "".join(f"| {' | '.join(line)} |\n" for line in table)


def name(one: Published) -> str:
    return "_".join(filter(None, (one.model, one.method, one.budget)))


def shown(value: float, form: str = "") -> str:
    return f"{value:{form}}" if form else f"{value:g}" if value >= 1000 and value % 1 == 0 else f"{value:.1f}"


def side_by_side(table: str) -> str:
    """Benchmarks by configurations, the published figures of each with the measured one behind them."""
    here = [one for one in records() if one.table == table]
    columns = list(dict.fromkeys((name(one), one.source) for one in here))
    figures = {(name(one), one.source, one.benchmark): shown(one.figure) for one in here}
    head, last = ["benchmark"], [column for column, _ in columns]
    for i, (config, source) in enumerate(columns):
        head.append(f"`{config}` [{MARKS[source]}]")
        head += ["measured"] * (i + 1 == len(last) or last[i + 1] != config)
    lines = []
    for benchmark in dict.fromkeys(one.benchmark for one in here):
        cells = [benchmark]
        for i, (config, source) in enumerate(columns):
            cells.append(figures.get((config, source, benchmark), ""))
            cells += [UNMEASURED] * (i + 1 == len(last) or last[i + 1] != config)
        lines.append(cells)
    return rows_of(head, lines)


def means() -> str:
    found: dict[str, list[str]] = {}
    for one in records():
        if one.table == "means":
            figure = f"{one.figure:.2f}" if one.method == "script" else shown(one.figure)
            found.setdefault(name(one), []).append(f"{figure} ({one.source}{', own' * one.own})")
    return rows_of(
        ["configuration", "published, %", "measured, %"],
        ([f"`{config}`", "; ".join(said), UNMEASURED] for config, said in found.items()),
    )


def costs() -> str:
    found: dict[tuple[str, str], list[str]] = {}
    for one in records():
        if one.table == "costs":
            found.setdefault((one.source, one.metric), []).extend([f"{one.figure:g}", UNMEASURED])
    head = ["source", "", "published, 2,880 tokens", "measured", "published, 320 tokens", "measured"]
    return rows_of(head, ([source, unit, *cells] for (source, unit), cells in found.items()))


def sequential() -> str:
    found: dict[str, list[str]] = {}
    for one in records():
        if one.table == "sequential":
            found.setdefault(one.budget, []).extend([f"{one.figure:.3f}", UNMEASURED])
    head = ["budget", *(text for step in STEPS for text in (f"step {step}", "measured"))]
    return rows_of(head, ([f"`{budget}`", *cells] for budget, cells in found.items()))


def tables() -> Iterator[tuple[str, str]]:
    for table in ("cdpruner-llava", "cdpruner-next", "script-chart"):
        yield table, side_by_side(table)
    yield from (("means", means()), ("costs", costs()), ("sequential", sequential()))


@pytest.mark.parametrize(("table", "text"), tables(), ids=lambda value: value if "|" not in value else "")
def test_the_document_has_the_table(table: str, text: str):
    assert text in TEXT, f"the table '{table}' of docs/reproduce.md is not that of published.py, which is:\n\n{text}"


def test_the_document_has_no_other_figures_in_tables():
    known = {table for one in tables() for table in one[1].splitlines()}
    strangers = [line for line in TEXT.splitlines() if line.startswith("|") and re.search(r"\d\.\d", line) and line not in known]
    assert not strangers
    assert f"{published.HALF[0]} and {published.HALF[1]}" in " ".join(TEXT.split())


def test_every_table_of_the_records_is_shown():
    assert {one.table for one in records()} == {table for table, _ in tables()}


# the records ---------------------------------------------------------------------------------------------------------------


def test_records_name_what_is_there():
    for one in records():
        Config.parse(name(one).replace("LLaVA-Video-7B", "x"))
        assert one.method in {*METHODS, "full"}
        assert one.model in {*BACKBONES, "LLaVA-Video-7B"}
        if one.benchmark not in ("", COST, "Rouge_OCR_VQA"):
            (benchmark,) = expand([one.benchmark])
            assert benchmark.name == one.benchmark
            assert benchmark.kind == "host"


def test_no_figure_is_there_twice():
    keys = [(one.source, name(one), one.benchmark, one.metric, one.params) for one in records()]
    assert len(keys) == len(set(keys))


def test_a_figure_is_found_by_its_configuration():
    found = figure("llava", "cdpruner", "64", "MME")
    assert found is not None
    assert (found.figure, found.metric, found.own) == (1399.1, "perception", False)
    assert found.among({"total": 1700.0, "perception": 1400.5}, "total") == 1400.5
    assert found.among({"total": 1700.0}, "total") is None
    assert figure("llava", "cdpruner", "64", "MME", {"sign": 1}) is None
    assert figure("llava", "cdpruner", "64", "VQAv2") is None  # val: published is test-dev
    assert figure("llava", "cdpruner", "63", "MME") is None
    plain = figure("llava", "cdpruner", "64", "GQA")
    assert plain is not None
    assert plain.among({"accuracy": 58.0}, "accuracy") == 58.0


def test_the_authors_own_figure_comes_first():
    assert [one.figure for one in figures("llava", "cdpruner", "64", "")] == [97.0, 95.7, 96.3]
    own = figure("llava", "full", "", "POPE")
    assert own is not None
    assert (own.figure, own.source) == (85.9, "LLaVA's model zoo")
    mean = figure("llava", "cdpruner", "64", "")
    assert mean is not None
    assert (mean.metric, mean.figure) == (MEAN, 97.0)


def test_the_released_code_has_the_figures_of_its_paper():
    assert figure("llava", "scriptcompat", "32", "GQA") == figure("llava", "script", "32", "GQA") != None  # noqa: E711


def test_a_default_that_is_spelt_out_is_the_default():
    ten = figure("llava13b", "seqprune", "r90k2", "Rouge_OCR_VQA", {"step": 10})
    five = figure("llava13b", "seqprune", "r90k2", "Rouge_OCR_VQA", {"step": 5})
    assert ten is not None
    assert five is not None
    assert (ten.figure, five.figure) == (0.456, 0.525)


# the commands --------------------------------------------------------------------------------------------------------------


def test_time_and_memory_have_the_command_that_measures_them():
    """A sweep measures neither: what is published of them is what a bench is asked for."""
    (command,) = re.findall(r"^    python run\.py bench (.*)$", TEXT.partition("## What an answer costs")[2], flags=re.MULTILINE)
    given = parser("bench").parse_args(["bench", *shlex.split(command)])
    (measured,) = wanted(given.model, given.random_weights, given.method, given.budget)
    told = {name(one) for one in records() if one.table == "costs" and one.metric.endswith((" ms", " GB"))}
    assert told
    assert told <= {str(config) for config in measured.configs}
    assert not [text for text in measured.methods().values() if isinstance(text, str)]


def test_there_are_commands():
    assert len(commands()) == 7 + len(STUDIES)  # costs, the demo grid, five steps


@pytest.mark.parametrize("command", commands())
def test_a_command_can_be_run(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.chdir(ROOT)
    given = words_of(command)[2:]
    given = [word for i, word in enumerate(given) if word != "--work-dir" and given[i - 1] != "--work-dir"]
    assert main([*given, "--dry-run", "--work-dir", str(tmp_path)]) == 0, capsys.readouterr().err
    assert " missing" in capsys.readouterr().out


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_a_study_can_be_had_and_has_the_published_configurations(path: Path):
    study = read_study(path)
    for config in study.configs:
        record = BACKBONES[config.model]
        if config.full or config.budget.endswith("pct"):
            continue
        method = get_method(config.method, **dict(config.params))
        if given := schedule(config.budget):
            assert method.scheduled(*given).plan(None, record.visual, record.layers)
        else:
            assert method.plan(int(config.budget), record.visual, record.layers)
    assert f"--config configs/reproduce/{path.name}" in path.read_text(encoding="utf-8")
    assert f"--config configs/reproduce/{path.name}" in TEXT


def test_every_published_configuration_has_a_command():
    run = {str(config) for path in STUDIES for config in read_study(path).configs}
    run |= {word for command in commands() for word in words_of(command)}
    assert not {name(one) for one in records() if one.model in BACKBONES} - run
    steps = {words[words.index("--param") + 1] for words in map(words_of, commands()) if "--param" in words}
    assert steps == {f"step={step}" for step in STEPS}
    assert {f"llava13b_seqprune_r50k{k}" for k in range(1, 7)} <= run  # the figures that are told as a span


if __name__ == "__main__":
    for table, text in tables():
        print(f"{table}\n\n{text}")
