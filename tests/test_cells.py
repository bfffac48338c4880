"""The grammar of names, budgets in tokens, and studies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from script_vlmeval.cells import Cell, Config, parse_params, read_study, tokens
from script_vlmeval.errors import UserError
from script_vlmeval.methods import catalogue

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("tiny_script_16", ("tiny", "script", "16")),
        ("llava15_divprune_1", ("llava15", "divprune", "1")),
        ("qwen2vl_script_25pct", ("qwen2vl", "script", "25pct")),
        ("7b_script_12.5pct", ("7b", "script", "12.5pct")),
        ("tiny_script_100pct", ("tiny", "script", "100pct")),
        ("llava_fastv_r75k2", ("llava", "fastv", "r75k2")),
        ("llava_fastv_r66.7k12", ("llava", "fastv", "r66.7k12")),
        ("tiny_full", ("tiny", "full", "")),
    ],
)
def test_names_are_read_and_written(name: str, parts: tuple[str, str, str]):
    config = Config.parse(name)
    assert (config.model, config.method, config.budget) == parts
    assert str(config) == name
    assert config.full == (parts[1] == "full")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("", "<model>_<method>_<budget>"),
        ("tiny", "in 1 part"),
        ("a_b_c_d", "in 4 part"),
        ("tiny_script", "no budget: write for example 'tiny_script_16'"),
        ("tiny_script_", "no budget"),
        ("tiny_script_0", "at least 1"),
        ("tiny_script_-3", "negative"),
        ("tiny_script_-3pct", "negative"),
        ("tiny_script_many", "not a number"),
        ("tiny_script_1.5", "not a whole number"),
        ("tiny_script_16tokens", "not a number"),
        ("tiny_script_ 16", "not a number"),
        ("tiny_script_\u0661\u0666", "not a number"),
        ("tiny_script_0pct", "between 1 and 100 percent"),
        ("tiny_script_101pct", "between 1 and 100 percent"),
        ("tiny_script_100.1pct", "between 1 and 100 percent"),
        ("tiny_script_r0k2", "between 1 and 100 percent"),
        ("tiny_script_r101k2", "between 1 and 100 percent"),
        ("tiny_script_r75k0", "the first layer is at least 1"),
        ("tiny_script_r75", "not a number"),
        ("tiny_script_016", "write '16'"),
        ("tiny_script_25.0pct", "write '25pct'"),
        ("tiny_script_r75k02", "write 'r75k2'"),
        ("tiny_script_25PCT", "write '25pct'"),
        ("Tiny_script_16", "write 'tiny_script_16'"),
        ("tiny_SCRIPT_16", "write 'tiny_script_16'"),
        ("tiny_full_16", "write 'tiny_full'"),
        ("tiny_full_", "write 'tiny_full'"),
        ("tiny_16_script", "write 'tiny_script_16'"),
        ("_script_16", "The model in"),
        ("tiny__16", "The method in"),
        ("ti-ny_script_16", "'ti-ny'"),
        ("tiny_scr ipt_16", "'scr ipt'"),
        ("tiny_script_16\n", "not a number"),
        ("tiny_script_" + "9" * 5000, "fewer than a billion"),
    ],
)
def test_bad_names_say_what_would_work(name: str, says: str):
    with pytest.raises(UserError) as error:
        Config.parse(name)
    assert says in str(error.value)


@given(st.text(st.sampled_from("tinyfulSR_0125.pckr-% \u0663"), max_size=24))
def test_a_name_is_refused_or_is_its_own_spelling(name: str):
    try:
        config = Config.parse(name)
    except UserError:
        return
    assert str(config) == name


def test_params_are_sorted_hashable_and_not_in_the_name():
    config = Config.parse("tiny_script_16", {"b": 2, "a": 0.5})
    assert config.params == (("a", 0.5), ("b", 2))
    assert str(config) == "tiny_script_16"
    assert len({config, Config.parse("tiny_script_16", {"a": 0.5, "b": 2}), Config.parse("tiny_script_16")}) == 2
    assert Config.parse("tiny_full", {"a": 0.5}) == Config.parse("tiny_full")
    assert str(Cell(config, "ShapesVQA")) == "tiny_script_16/ShapesVQA"


@pytest.mark.parametrize(
    ("budget", "n", "expected"),
    [
        ("64", 576, 64),
        ("64", 32, 64),
        ("", 576, 576),
        ("25pct", 144, 36),
        ("12.5pct", 144, 18),
        ("11.1pct", 576, 64),
        ("50pct", 7, 4),
        ("1pct", 10, 1),
        ("100pct", 577, 577),
        ("", 0, 1),
        ("29pct", 100, 29),
    ],
)
def test_tokens_of_a_budget(budget: str, n: int, expected: int):
    assert tokens(budget, n) == expected


def test_a_schedule_is_not_a_number_of_tokens():
    with pytest.raises(UserError, match="schedule"):
        tokens("r75k2", 576)


@given(st.integers(1, 100), st.integers(1, 100_000))
def test_shares_are_the_nearest_count(share: int, n: int):
    assert abs(tokens(f"{share}pct", n) * 100 - share * n) <= 50 or tokens(f"{share}pct", n) == 1


def test_params_are_what_they_look_like():
    given = ["a=1", "b=-0.5", "c=true", "d=False", "e=text=more", "f=1e-3", "g= 7 ", "a=1"]
    found = parse_params(given)
    assert found == {"a": 1, "b": -0.5, "c": True, "d": False, "e": "text=more", "f": 0.001, "g": 7}
    assert [type(value) for value in found.values()] == [int, float, bool, bool, str, float, int]


@pytest.mark.parametrize("pairs", [["a"], ["=1"], ["a="], ["a b=1"], ["a=nan"], ["a=inf"], ["a=1", "a=2"], [""]], ids=str)
def test_bad_params(pairs: list[str]):
    with pytest.raises(UserError, match="parameter"):
        parse_params(pairs)


def study(folder: Path, text: str | bytes, **options: Any):
    path = folder / "study.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return read_study(path, **options)


def test_the_grid(tmp_path: Path):
    found = study(
        tmp_path,
        "models: [a, b]\nmethods: [m, {name: n, params: {x: 0.5}}]\nbudgets: [16, 25pct]\n"
        "data: MME\noptions: {batch_size: 4, seed: 1}\n",
    )
    names = ["full", "m_16", "m_25pct", "n_16", "n_25pct"]
    assert [str(config) for config in found.configs] == [f"{model}_{name}" for model in "ab" for name in names]
    assert found.configs[3].params == (("x", 0.5),)
    assert found.configs[1].params == ()
    assert found.data == ("MME",)
    assert found.options == {"batch-size": 4, "seed": 1}


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("models: [a]\nfull: false\nmethods: [m]\nbudgets: [8]", ["a_m_8"]),
        ("models: [a]", ["a_full"]),
        ("models: a\nmethods: full", ["a_full"]),
        ("configs: [a_m_8, b_full, a_m_8]", ["a_m_8", "b_full"]),
        ("configs: [{name: a_m_8, params: {x: 1}}]", ["a_m_8"]),
        ("models: [a, a]\nmethods: [m, m]\nbudgets: [8, '8']\nconfigs: [a_m_8, a_m_4]", ["a_full", "a_m_8", "a_m_4"]),
    ],
)
def test_duplicates_go_and_order_stays(tmp_path: Path, text: str, names: list[str]):
    assert [str(config) for config in study(tmp_path, text).configs] == names


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "a mapping with the keys"),
        ("- a", "a mapping with the keys"),
        ("{}", "no configuration"),
        ("data: [MME]", "no configuration"),
        ("model: [tiny]", "Did you mean 'models'"),
        ("models: [tiny\nmethods: x", "line 2"),
        ("models: [tiny]\n\tmethods: x", "line 2"),
        (b"models: \xff", "not YAML"),
        ("models: [a]\nmethods: [m]", "no 'budgets'"),
        ("models: [a]\nbudgets: [8]", "no 'methods'"),
        ("methods: [m]\nbudgets: [8]", "no 'models'"),
        ("models: [a]\nmethods: [m]\nbudgets: [0]", "at least 1"),
        ("models: [a]\nmethods: [m]\nbudgets: [-4]", "negative"),
        ("models: [a]\nmethods: [m]\nbudgets: [1.5]", "not a whole number"),
        ("models: [a]\nmethods: [no]\nbudgets: [8]", "False"),
        ("models: [a]\nmethods: [{nam: m}]\nbudgets: [8]", "Did you mean 'name'"),
        ("models: [a]\nmethods: [{params: {x: 1}}]\nbudgets: [8]", "no 'name'"),
        ("models: [a]\nmethods: [{name: m, params: [1]}]\nbudgets: [8]", "must be a mapping"),
        ("models: [a]\nmethods: [{name: m, params: {x: .nan}}]\nbudgets: [8]", "x: nan"),
        ("models: [a]\nmethods: [{name: m, params: {x: .inf}}]\nbudgets: [8]", "x: inf"),
        ("models: [a]\nmethods: [{name: m, params: {x: [1]}}]\nbudgets: [8]", "x: [1]"),
        ("models: [a]\nmethods: [m, {name: m, params: {x: 1}}]\nbudgets: [8]", "twice with different parameters"),
        ("models: {a: b}", "where a name is needed"),
        ("models: [a]\nfull: 3", "must be true or false"),
        ("configs: [Tiny_full]", "upper case"),
        ("models: [a]\noptions: {limit: [1]}", "limit"),
        ("models: [a]\noptions: 3", "must be a mapping"),
    ],
)
def test_bad_studies_name_the_file_and_the_fault(tmp_path: Path, text: str | bytes, says: str):
    with pytest.raises(UserError) as error:
        study(tmp_path, text)
    assert says in str(error.value)
    assert "study.yaml" in str(error.value)


def test_options_can_be_checked(tmp_path: Path):
    assert study(tmp_path, "models: [a]\noptions: {limit: 3}", options=["limit", "seed"]).options == {"limit": 3}
    with pytest.raises(UserError, match="Did you mean 'limit'"):
        study(tmp_path, "models: [a]\noptions: {limt: 3}", options=["limit", "seed"])


def test_a_study_that_cannot_be_read(tmp_path: Path):
    with pytest.raises(UserError, match="No such file"):
        read_study(tmp_path / "none.yaml")
    with pytest.raises(UserError, match="Cannot read"):
        read_study(tmp_path)


def test_the_tiny_study():
    found = read_study(ROOT / "configs" / "tiny.yaml")
    assert found.configs[0] == Config("tiny", "full")
    grid = {f"tiny_{m}_{b}" for m in ("random", "cdpruner", "script") for b in (72, 36, 16, 8)}
    assert grid <= {str(config) for config in found.configs}
    assert {config.method for config in found.configs} == {*catalogue(), "script+fastv"}, "every method has its row"
    assert found.data == ("ShapesVQA", "ShapesYN")
