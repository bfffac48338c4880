"""Benchmarks that a judge scores, through the command line, with a judge on this computer that speaks OpenAI's protocol."""

from __future__ import annotations

import json
import logging
import threading
from pathlib import Path

import judge_server
import openpyxl
import pytest
from downloads import prepared
from runtimes import lightly

from script_vlmeval.cli import main
from script_vlmeval.judge import PROTOCOL

KEY = "sk-a-key-that-nobody-may-see"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Tables of three judged benchmarks."""
    with prepared(["MSVD-QA", "MMVet", "MLVU_OpenEnded"], tmp_path_factory) as folder, lightly():
        yield folder


def ask(folder, *more, data=("MSVD-QA_1frame",), models=("tiny_full",)):
    return main(["--data", *data, "--model", *models, "--work-dir", str(folder), "--quiet", *more])


def result(folder, config="tiny_full", benchmark="MSVD-QA_1frame"):
    return json.loads((folder / config / benchmark / "result.json").read_text())


def grading(request):
    """Says yes to every other question, in its own words."""
    if "pred" not in request.user:
        return "ready"
    return f"Here: {{'pred': '{'yes' if len(request.user) % 2 else 'no'}', 'score': 3}}"


def test_a_judge_scores_beside_string_match_and_never_in_its_column(data, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    judge = judge_server.server(grading)
    with judge as url:
        assert ask(tmp_path) == 0
        before = result(tmp_path)
        assert before["primary"] == "em_acc"
        assert ask(tmp_path, "--judge", "some-model", "--judge-url", url) == 0
        after, calls = result(tmp_path), len(judge.requests)
        assert ask(tmp_path, "--judge", "some-model", "--judge-url", url) == 0
        assert ask(tmp_path, "--judge", "some-model", "--judge-url", url, "--mode", "eval") == 0
        assert len(judge.requests) == calls, "each answer is judged once"
    assert (after["primary"], after["score"]) == ("judge_acc", after["metrics"]["judge_acc"])
    assert "some-model at 127.0.0.1" in after["scorer"] == result(tmp_path)["scorer"]
    assert after["metrics"]["judge_unparsable"] == 0
    (exact,) = after["other scorers"]
    assert exact["metrics"]["em_acc"] == before["score"]
    assert ask(tmp_path, models=["tiny_script_16"]) == 0  # by string match
    overview = openpyxl.load_workbook(tmp_path / "summary.xlsx")["overview"]
    heads = [cell.value for cell in overview[1]]
    columns = [head for head in heads if head.startswith("MSVD-QA") and head.endswith(")")]
    assert len(columns) == 2
    for row in overview.iter_rows(min_row=2, values_only=True):
        scores = [row[heads.index(column)] for column in columns]
        assert sum(isinstance(score, float | int) for score in scores) == 1, "one way of scoring, one column"


def test_a_score_in_other_words_is_made_anew(data, tmp_path):
    """Another version of the protocol in the scorer's name is another score, though the judge is the same."""
    judge = judge_server.server(grading)
    with judge as url:
        asked = ("--judge", "some-model", "--judge-url", url)
        assert ask(tmp_path, *asked) == 0
        path = tmp_path / "tiny_full" / "MSVD-QA_1frame" / "result.json"
        good = result(tmp_path)
        assert f"{PROTOCOL['videoqa']}: some-model at" in good["scorer"]
        older = {**good, "scorer": good["scorer"].replace(PROTOCOL["videoqa"], "its protocol, 0"), "score": -1.0}
        for kept, expected in ((older, good), ({**good, "score": -1.0}, {**good, "score": -1.0})):
            path.write_text(json.dumps(kept))
            assert ask(tmp_path, *asked) == 0
            assert [result(tmp_path)[key] for key in ("scorer", "score")] == [expected[key] for key in ("scorer", "score")]


def test_the_key_is_seen_by_the_server_alone(data, tmp_path, monkeypatch, caplog, capsys):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    caplog.set_level(logging.DEBUG)
    judge = judge_server.server(grading)
    with judge as url:
        assert ask(tmp_path, "--judge", "some-model", "--judge-url", url) == 0
    assert {request.headers["authorization"] for request in judge.requests} == {f"Bearer {KEY}"}
    captured = capsys.readouterr()
    assert KEY not in caplog.text + captured.out + captured.err
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]


def test_replies_that_cannot_be_read_are_counted(data, tmp_path):
    first, lock = [], threading.Lock()

    def shy(request):
        """About the first question that it is asked, each time that it is."""
        with lock:  # two at once would each find no first one
            if "pred" in request.user and not first:
                first.append(request.user)
        return "I would rather not say." if request.user in first else "{'pred': 'yes', 'score': 5}"

    with judge_server.server(shy) as url:
        assert ask(tmp_path, "--judge", "shy", "--judge-url", url) == 0
    found = result(tmp_path)
    unread = int(found["metrics"]["judge_unparsable"])
    assert 0 < unread < found["n"]
    assert found["score"] == pytest.approx(100 * (found["n"] - unread) / found["n"])
    assert f"{unread} of {found['n']} judge replies could not be read" in " ".join(found["notes"])


def test_a_judge_of_whom_nothing_can_be_read_gives_no_score(data, tmp_path, capsys):
    with judge_server.server("I would rather not say.") as url:
        assert ask(tmp_path, "--judge", "shy", "--judge-url", url) == 1
    assert "None of 4 replies of shy at 127.0.0.1" in capsys.readouterr().err
    assert not (tmp_path / "tiny_full" / "MSVD-QA_1frame" / "result.json").exists()


def test_a_judge_that_is_not_there_is_said_before_anything_runs(data, tmp_path, capsys):
    with judge_server.server("x") as url:
        pass  # and gone
    assert ask(tmp_path, "--judge", "some-model", "--judge-url", url) == 2
    assert "127.0.0.1" in capsys.readouterr().err
    assert not list(tmp_path.glob("tiny_full/*/predictions.jsonl"))


def test_a_judge_that_leaves_loses_nothing(data, tmp_path, capsys):
    """The answers stay, the cell is told of, and a rerun asks for what lacks."""
    replies = iter(["ready", "{'pred': 'yes', 'score': 5}"])

    def leaving(request):
        return next(replies, judge_server.refuses(400, "this model is gone"))

    with judge_server.server(leaving) as url:
        assert ask(tmp_path, "--judge", "some-model", "--judge-url", url) == 1
    assert "this model is gone" in capsys.readouterr().err
    answers = (tmp_path / "tiny_full" / "MSVD-QA_1frame" / "predictions.jsonl").read_bytes()
    with judge_server.server(grading) as url:
        assert ask(tmp_path, "--judge", "some-model", "--judge-url", url) == 0
    assert (tmp_path / "tiny_full" / "MSVD-QA_1frame" / "predictions.jsonl").read_bytes() == answers


def test_mmvet_and_the_open_half_of_mlvu(data, tmp_path):
    def grade(request):
        if "score_completeness" in str(request.body) or "score_accuracy" in str(request.body):
            return (
                "{'score_completeness': 4, 'score_reliability': 5}"
                if "Standard Answer" in request.user
                else ("{'score_accuracy': 2, 'score_relevance': 3, 'total_score': 5}")
            )
        return "0.7"

    names = ["MMVet", "MLVU_OpenEnded_1frame"]
    with judge_server.server(grade) as url:
        assert ask(tmp_path, "--judge", "some-model", "--judge-url", url, data=names) == 0
    vet, open_half = (result(tmp_path, benchmark=name) for name in names)
    assert all(predictions(tmp_path / "tiny_full" / "MMVet"))
    assert vet["score"] == pytest.approx(70)
    assert (tmp_path / "tiny_full" / "MMVet" / vet["submission"]).is_file()
    assert all(predictions(tmp_path / "tiny_full" / "MLVU_OpenEnded_1frame"))
    assert open_half["score"] == pytest.approx((2 + 3 + 4 + 5) / 2)
    assert (open_half["metrics"]["task/sub_scene"], open_half["metrics"]["task/summary"]) == (5, 9)
    assert "judge, MLVU's protocol in VLMEvalKit's words, 1: some-model" in open_half["scorer"]


def predictions(folder: Path) -> list[str]:
    return [json.loads(line)["prediction"] for line in (folder / "predictions.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    ("more", "names", "says"),
    [
        (["--judge", "m", "--judge-url", "http://127.0.0.1:9/v1"], ["ShapesVQA"], "need no judge"),
        (["--judge-url", "http://127.0.0.1:9/v1"], ["MSVD-QA"], "--judge"),
        (["--judge", "m"], ["MSVD-QA"], "OPENAI_API_KEY"),
        (["--judge", "m", "--judge-url", "ftp://somewhere"], ["MSVD-QA"], "http"),
    ],
)
def test_a_judge_that_cannot_be_is_refused(data, tmp_path, capsys, more, names, says):
    assert ask(tmp_path, *more, data=names) == 2
    said = capsys.readouterr().err
    assert says in said
    assert said.count("\n") <= 2
    assert "Traceback" not in said
