"""What a judge survives: servers that fail, refuse, babble or hang, runs that are killed, caches that are damaged; and what it
never does: ask twice, lose a reply, show a key."""

from __future__ import annotations

import logging
import os
import resource
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
from judge_server import Act, completion, refuses, says, server
from stand_ins import bars_of, wait_for

from script_vlmeval.errors import UserError
from script_vlmeval.judge import (
    Judge,
    Task,
    VideoVerdict,
    client,
    judge_of,
    parse_fraction,
    parse_pair,
    parse_video,
    video_qa,
)
from script_vlmeval.judge.cache import Cache, _set_aside
from script_vlmeval.judge.line import Line

ROOT = Path(__file__).resolve().parents[1]
SECRET = "sk-tell-nobody-0123456789"


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("OPENAI_") or name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)


def make(url: str, **settings: Any) -> Judge:
    return Judge("some-judge", url, **{"backoff": 0.001, "timeout": 5.0, "tries": 3, "rereads": 2} | settings)


def tasks(n: int) -> list[Task]:
    return [Task("Say it again.", f"number {i}", 16) for i in range(n)]


def echo(text: str) -> str | None:
    return text


def number(text: str) -> int | None:
    return int(text) if text.isdigit() else None


# Asking


def test_what_is_sent(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    judge = server("fine")
    with judge as url:
        (reply,) = make(url).ask([Task("Be brief.", "Well?", 7)], echo)
    assert (reply.value, reply.text, reply.cached, reply.calls) == ("fine", "fine", False, 1)
    (request,) = judge.requests
    assert request.path == "/v1/chat/completions"
    assert request.body == {
        "model": "some-judge",
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Well?"}],
        "max_tokens": 7,
        "temperature": 0.0,
    }
    assert [name for name, value in request.headers.items() if SECRET in value] == ["authorization"]
    assert request.headers["authorization"] == f"Bearer {SECRET}"


def test_without_words_for_the_system_there_is_no_such_message():
    judge = server("fine")
    with judge as url:
        make(url).ask([Task("", "Well?", 7)], echo)
    assert judge.requests[0].body["messages"] == [{"role": "user", "content": "Well?"}]


@pytest.mark.parametrize("ending", ["", "/", "/chat/completions", "/chat/completions/"])
def test_spellings_of_a_url(ending: str):
    with server("fine") as url:
        assert make(url + ending).ask(tasks(1), echo)[0].value == "fine"


def test_the_environment_leads_nowhere_else(monkeypatch: pytest.MonkeyPatch):
    nowhere = "http://127.0.0.1:9/v1"
    for name in ("OPENAI_BASE_URL", "OPENAI_API_BASE", "HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, nowhere)
    for name in ("OPENAI_ORG_ID", "OPENAI_PROJECT_ID", "OPENAI_ADMIN_KEY"):
        monkeypatch.setenv(name, "my-account")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", f"Authorization: Bearer {SECRET}")
    judge = server("fine")
    with judge as url:
        assert make(url, tries=1).ask(tasks(1), echo)[0].value == "fine"
    assert not [value for value in judge.requests[0].headers.values() if "my-account" in value or SECRET in value]


def test_many_at_once_keep_their_order():
    """Nobody is answered before four have asked, and answers come in another order than questions."""
    lock, busy, most, four = threading.Lock(), [0], [0], threading.Barrier(4)

    def script(request: Any) -> str:
        with lock:
            busy[0] += 1
            most[0] = max(most[0], busy[0])
        four.wait(timeout=30)
        time.sleep(0.002 * (7 - request.nth % 8))
        with lock:
            busy[0] -= 1
        return str(request.user)

    with server(script) as url:
        replies = make(url, workers=4, timeout=60, tries=1).ask(tasks(40), echo)
    assert [reply.value for reply in replies] == [f"number {i}" for i in range(40)]
    assert most[0] == 4


def test_equal_tasks_are_asked_once():
    judge = server(lambda request: f"{request.user}, {request.nth}")
    with judge as url:
        first, second, third = make(url).ask([*tasks(1), *tasks(2)], echo)
    assert len(judge.requests) == 2
    assert first.text == second.text != third.text
    assert [(r.cached, r.calls) for r in (first, second, third)] == [(False, 1), (True, 0), (False, 1)]


def test_nothing_to_ask():
    assert make("http://127.0.0.1:9/v1").ask([], echo) == []


def test_progress(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    made = bars_of(monkeypatch, client)
    with server("fine") as url:
        judge = make(url, cache=tmp_path)
        judge.ask(tasks(2), echo)
        judge.ask(tasks(5), echo, progress="judging")
        judge.ask(tasks(5), echo, progress="judging", quiet=True)
    silent, told, quiet = made
    assert (told.desc, told.initial, told.total, told.n) == ("judging", 2, 5, 5)
    assert silent.settings["disable"] is True is quiet.settings["disable"]
    assert told.settings["disable"] is None  # a bar where there is a terminal


# Servers that fail

BROKEN = {
    "500": refuses(500, "oops"),
    "503 without a body": Act(503),
    "429": refuses(429, "slow down", Retry_After="0"),
    "408": refuses(408, "took too long"),
    "a body that is not JSON": Act(body=b"<html>gateway</html>"),
    "not JSON, and said to be text": Act(body=b"hello", headers={"Content-Type": "text/plain"}),
    "not even text": Act(body=b"\xff\xfe{"),
    "JSON of another kind": Act(body=b"[1, 2]"),
    "no choices": Act(body=completion([])),
    "a choice that is none": Act(body=completion(["yes"])),
    "no message": Act(body=completion([{"index": 0, "message": None}])),
    "no content": says(None),
    "a closed connection": Act(cut=True),
    "too slow": says("late", delay=30.0),
}


@pytest.mark.parametrize("act", BROKEN.values(), ids=BROKEN.keys())
def test_what_may_pass_is_tried_again(act: Act):
    judge = server([act, act, "fine"])
    with judge as url:
        (reply,) = make(url, **{"timeout": 0.2, "tries": 50} if act.delay else {}).ask(tasks(1), echo)
    assert reply.value == "fine"
    assert reply.calls == len(judge.requests)
    assert reply.calls == 3 or (act.delay and reply.calls > 3)  # on a busy machine what is not slow may be late too
    assert {request.body["temperature"] for request in judge.requests} == {0.0}  # the same question


@pytest.mark.parametrize("act", BROKEN.values(), ids=BROKEN.keys())
def test_what_does_not_pass_is_said(act: Act):
    judge = server(act)
    with (
        judge as url,
        pytest.raises(UserError, match=r"^The judge at 127\.0\.0\.1 gave no answer in 2 tries, at last: \S") as error,
    ):
        make(url, timeout=0.1 if act.delay else 5.0, tries=2).ask(tasks(1), echo)
    assert len(judge.requests) == 2
    assert "\n" not in str(error.value)


def test_nobody_there():
    with pytest.raises(UserError, match=r"no answer in 2 tries.*refused"):
        make("http://127.0.0.1:9/v1", tries=2).ask(tasks(1), echo)


REFUSED = {401: "OPENAI_API_KEY", 403: "OPENAI_API_KEY", 404: "/v1", 400: "too long", 422: "too long"}


@pytest.mark.parametrize("status", REFUSED)
def test_what_will_not_pass_is_said_at_once(status: int):
    judge = server(refuses(status, "too long\nfor us"))
    with judge as url, pytest.raises(UserError, match=rf"refused the request \({status}: too long for us\)") as error:
        make(url).ask(tasks(1), echo)
    assert len(judge.requests) == 1
    assert REFUSED[status] in str(error.value)


def test_a_bill_that_is_not_paid_does_not_pass():
    judge = server(refuses(429, "You exceeded your quota", code="insufficient_quota"))
    with judge as url, pytest.raises(UserError, match="exceeded your quota"):
        make(url).ask(tasks(1), echo)
    assert len(judge.requests) == 1


def test_a_url_that_lacks_its_end():
    with server("fine") as url, pytest.raises(UserError, match=r"404: Not Found.*ending in /v1"):
        make(url.removesuffix("/v1")).ask(tasks(1), echo)


def test_a_refusal_stops_the_others():
    judge = server(lambda request: refuses(401, "no") if request.nth >= 4 else "fine")
    with judge as url, pytest.raises(UserError, match="401"):
        make(url, workers=2).ask(tasks(500), echo)
    assert len(judge.requests) < 100


def test_a_refusal_stops_those_that_try_again():
    judge = server(lambda request: refuses(401, "no") if request.user == "number 1" else refuses(500))
    with judge as url, pytest.raises(UserError, match="401"):
        make(url, workers=2, tries=1000, backoff=0.0).ask(tasks(2), echo)
    assert len(judge.requests) < 500


def waits(monkeypatch: pytest.MonkeyPatch, *acts: Act, **settings: Any) -> list[float]:
    """The seconds that a line would have waited between the answers of a server."""
    found: list[float] = []
    with server([*acts, "fine"]) as url, Line(url, "", **{"timeout": 5.0, "tries": 9, "backoff": 1.0} | settings) as line:
        monkeypatch.setattr(line.stop, "wait", found.append)
        answer = line.ask({"model": "m", "messages": [{"role": "user", "content": "?"}]})
    assert (answer.text, answer.model, answer.sent) == ("fine", "judge-as-served", len(acts) + 1)
    return found


def test_waits_double_and_differ(monkeypatch: pytest.MonkeyPatch):
    found = waits(monkeypatch, *[refuses(500)] * 8)
    assert all(0.5 * 2**i <= wait <= min(1.5 * 2**i, 120) for i, wait in enumerate(found))
    assert len({wait / 2**i for i, wait in enumerate(found)}) > 4


def test_a_server_says_how_long(monkeypatch: pytest.MonkeyPatch):
    dates = [formatdate(time.time() + 40, usegmt=True), formatdate(time.time() - 40, usegmt=True)]
    asked = ["20", "0", "1e9", "soon", "-3", "nan", *dates]
    found = waits(monkeypatch, *[refuses(429, "slow down", Retry_After=text) for text in asked], backoff=0.0)
    assert found[:6] == [20.0, 0.0, 120.0, 0.0, 0.0, 0.0]
    assert 30 < found[6] <= 40
    assert found[7] == 0


# Replies that cannot be read


def test_an_unreadable_reply_is_asked_for_again():
    judge = server(["seven", "VII", "7"])
    with judge as url:
        (reply,) = make(url).ask(tasks(1), number)
    assert (reply.value, reply.text, reply.calls, reply.cached) == (7, "7", 3, False)
    assert [request.body["temperature"] for request in judge.requests] == [0.0, 0.5, 1.0]
    assert len({request.user for request in judge.requests}) == 1


def test_what_stays_unreadable_is_counted(caplog: pytest.LogCaptureFixture):
    judge = server(lambda request: "who knows" if request.user == "number 1" else request.user[-1])
    with judge as url:
        replies = make(url).ask(tasks(3), number)
    assert [(reply.value, reply.text, reply.calls) for reply in replies] == [(0, "0", 1), (None, "who knows", 3), (2, "2", 1)]
    assert "judge: 1 of 3 replies of " in caplog.text


@pytest.mark.parametrize(
    "act",
    [says(None, refusal="I cannot"), says(None, finish_reason="length"), says(None, finish_reason="content_filter"), says("")],
)
def test_a_reply_that_says_nothing_is_a_reply(act: Act):
    with server(act) as url:
        (reply,) = make(url, rereads=0).ask(tasks(1), number)
    assert (reply.value, reply.calls) == (None, 1)
    assert reply.text in ("", "I cannot")


# The cache


def test_nothing_is_asked_twice(tmp_path: Path):
    tries = iter(["who knows", "well"])
    judge = server(lambda request: next(tries, "1") if request.user == "number 1" else request.user[-1])
    with judge as url:
        before = make(url, cache=tmp_path / "judge").ask(tasks(3), number)
        asked = len(judge.requests)
    after = make(url, cache=tmp_path / "judge").ask(tasks(3), number)  # nobody listens any more
    assert asked == 5
    assert [(reply.value, reply.text) for reply in after] == [(reply.value, reply.text) for reply in before]
    assert all(reply.cached and not reply.calls for reply in after)
    assert [path.name for path in (tmp_path / "judge").iterdir()] == ["judge.sqlite"]
    with sqlite3.connect(tmp_path / "judge" / "judge.sqlite") as base:
        rows = base.execute("SELECT text, at, model FROM answers").fetchall()
    assert len(rows) == 5
    assert {model for _, _, model in rows} == {"judge-as-served"}
    assert all(at.startswith("20") for _, at, _ in rows)


def test_what_could_not_be_read_is_asked_on_by_a_later_run(tmp_path: Path):
    """The server may have been mended; what it said before is not asked for again."""
    judge = server(["a", "b", "c", "3"])
    with judge as url:
        assert make(url, cache=tmp_path, rereads=2).ask(tasks(1), number)[0].value is None
        (reply,) = make(url, cache=tmp_path, rereads=2).ask(tasks(1), number)
    assert (reply.value, reply.calls, len(judge.requests)) == (3, 1, 4)


def test_more_rereads_go_on_where_the_others_ended(tmp_path: Path):
    judge = server(["a", "b", "3"])
    with judge as url:
        assert make(url, cache=tmp_path, rereads=1).ask(tasks(1), number)[0].value is None
        (reply,) = make(url, cache=tmp_path, rereads=2).ask(tasks(1), number)
    assert (reply.value, reply.calls, len(judge.requests)) == (3, 1, 3)


@pytest.mark.parametrize("change", ["model", "temperature", "system", "user", "max_tokens", "url"])
def test_another_question_is_asked(tmp_path: Path, change: str):
    judge = server(lambda request: str(request.nth))
    with judge as url:
        settings = {"model": "m", "url": url, "temperature": 0.0, "cache": tmp_path, "rereads": 0}
        words = {"system": "s", "user": "u", "max_tokens": 8}
        assert Judge(**settings).ask([Task(**words)], echo)[0].value == "0"
        if change in words:
            words[change] = 9 if change == "max_tokens" else "other"
        else:
            others = {"model": "n", "temperature": 0.25, "url": url.replace("/v1", "/other/v1")}
            settings[change] = others[change]
        assert Judge(**settings).ask([Task(**words)], echo)[0].value == "1"


def test_texts_come_back(tmp_path: Path):
    texts = ["", "a\nb\r\n\u2028", "\U0001f600", "\x00", "'; DROP TABLE answers; --", "\ud800"]
    asked = [Task("\ud800", f"{i}{text}", 8) for i, text in enumerate(texts)]
    with server(lambda request: texts[int(request.user[0])]) as url:
        judge = make(url, cache=tmp_path)
        before = [reply.text for reply in judge.ask(asked, echo)]
        after = [reply.text for reply in judge.ask(asked, echo)]
    assert before == after == [*texts[:-1], "?"]


def test_what_was_answered_before_a_failure_is_kept(tmp_path: Path):
    judge = server(lambda request: refuses(500, "on fire") if request.user == "number 3" else "fine")
    with judge as url:
        with pytest.raises(UserError, match=r"500: on fire.*What was answered is kept"):
            make(url, cache=tmp_path, workers=1).ask(tasks(6), echo)
        with pytest.raises(UserError, match="500: on fire") as error:
            make(url, workers=1).ask(tasks(6), echo)
        assert "kept" not in str(error.value)
    kept = make(url, cache=tmp_path).ask(tasks(3), echo)
    assert all(reply.cached for reply in kept)


KILLED = """
import sys
from pathlib import Path
from script_vlmeval.judge import Judge, Task
tasks = [Task("Say it again.", f"number {i}", 16) for i in range(400)]
Judge("some-judge", sys.argv[1], cache=Path(sys.argv[2]), workers=4).ask(tasks, lambda text: text)
"""


def test_a_killed_run_loses_what_was_in_flight(tmp_path: Path):
    slow = [0.01]
    judge = server(lambda request: says(request.user, delay=slow[0]))
    with judge as url:
        run = subprocess.Popen([sys.executable, "-c", KILLED, url, str(tmp_path)], cwd=ROOT)
        wait_for(lambda: len(judge.requests) >= 30, run, "30 questions were asked")
        run.send_signal(signal.SIGKILL)
        assert run.wait() == -signal.SIGKILL
        before = len(judge.requests)
        slow[0] = 0.0
        replies = make(url, cache=tmp_path).ask(tasks(before + 20), echo)
    assert [reply.value for reply in replies] == [f"number {i}" for i in range(before + 20)]
    again = [user for user, times in Counter(request.user for request in judge.requests).items() if times > 1]
    assert len(again) <= 4  # one per worker


def test_two_processes_share_a_cache(tmp_path: Path):
    judge = server(lambda request: str(request.nth))
    with judge as url:
        run = subprocess.Popen([sys.executable, "-c", KILLED.replace("400", "30"), url, str(tmp_path)], cwd=ROOT)
        wait_for(lambda: bool(judge.requests), run, "a question was asked")
        ours = make(url, cache=tmp_path).ask(tasks(30), echo)
        assert run.wait(timeout=60) == 0
        asked = len(judge.requests)
        again = make(url, cache=tmp_path).ask(tasks(30), echo)
        assert len(judge.requests) == asked
    assert [reply.value for reply in again] == [reply.value for reply in ours]


def test_the_first_answer_counts_for_both(tmp_path: Path):
    with Cache(tmp_path) as one, Cache(tmp_path) as two:
        assert one.put("key", "first", "m") == "first"
        assert two.put("key", "second", "m") == "first"
        assert one.get("key") == two.get("key") == "first"
        assert one.get("other") is None


def filled(folder: Path) -> Path:
    with Cache(folder):
        pass
    with sqlite3.connect(folder / "judge.sqlite") as base:  # at once: thousands of safe writes take their time
        base.executemany("INSERT INTO answers VALUES (?, ?, '', 'm')", [(f"key {i}", "text " * 20) for i in range(300)])
    base.close()
    return folder / "judge.sqlite"


def other_table(file: Path) -> None:
    file.unlink()
    with sqlite3.connect(file) as base:
        base.execute("CREATE TABLE answers (question TEXT)")
    base.close()


DAMAGE = {
    "text": lambda file: file.write_bytes(b"this is no database, whatever its name " * 200),
    "cut in the middle": lambda file: os.truncate(file, file.stat().st_size // 2),
    "cut in the head": lambda file: os.truncate(file, 50),
    "pages overwritten": lambda file: file.write_bytes(file.read_bytes()[:4096] + b"\xaa" * (file.stat().st_size - 4096)),
    "another table": other_table,
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_cache_is_set_aside(tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: Any):
    for nth in ("", ".2"):
        file = filled(tmp_path)
        damage(file)
        content = file.read_bytes()
        caplog.clear()
        with Cache(tmp_path) as cache:
            assert f"set aside as judge.sqlite{nth}.broken" in caplog.text
            assert cache.get("key 1") is None
            assert cache.keeps
            cache.put("key 1", "new", "m")
        with Cache(tmp_path) as cache:
            assert cache.get("key 1") == "new"
        assert (tmp_path / f"judge.sqlite{nth}.broken").read_bytes() == content
        file.unlink()


def test_a_journal_goes_with_its_database(tmp_path: Path):
    file = tmp_path / "judge.sqlite"
    for name in ("", "-journal", "-wal"):
        Path(f"{file}{name}").write_text(name)
    aside = _set_aside(file)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        f"{aside.name}{name}": name for name in ("", "-journal", "-wal")
    }


def test_an_empty_file_is_an_empty_cache(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    (tmp_path / "judge.sqlite").touch()
    with Cache(tmp_path) as cache:
        assert cache.put("key", "text", "m") == cache.get("key") == "text"
    assert not caplog.text


@pytest.mark.parametrize("blocked", ["a file for a folder", "a folder for a file", "a folder below a file"])
def test_a_cache_that_cannot_be_is_said_before_anything_is_asked(tmp_path: Path, blocked: str):
    (tmp_path / "file").touch()
    (tmp_path / "judge.sqlite").mkdir()
    folder = {"a file for a folder": "file", "a folder for a file": ".", "a folder below a file": "file/below"}[blocked]
    judge = server("fine")
    with judge as url, pytest.raises(UserError, match="Cannot keep a judge's answers in"):
        make(url, cache=tmp_path / folder).ask(tasks(1), echo)
    assert not judge.requests


def test_a_full_disk_costs_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    with server(lambda request: request.user * 50) as url:
        judge = make(url, cache=tmp_path, workers=2)
        judge.ask(tasks(2), echo)
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, ((tmp_path / "judge.sqlite").stat().st_size, before[1]))
        try:
            replies = judge.ask(tasks(20), echo)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [reply.value for reply in replies] == [f"number {i}" * 50 for i in range(20)]
    assert caplog.text.count("cannot be written") == 1
    with Cache(tmp_path):
        assert not list(tmp_path.glob("*.broken"))


# The key


@pytest.mark.parametrize(
    "act",
    [
        "echo",
        refuses(401, f"Incorrect API key provided: {SECRET}"),
        refuses(500, f"crashed with Bearer {SECRET}", X_Seen=SECRET),
        Act(cut=True),
        Act(body=f"not JSON {SECRET}".encode()),
    ],
    ids=["echo", "401", "500", "cut", "garbage"],
)
def test_the_key_shows_nowhere(
    act: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    caplog.set_level(logging.DEBUG)
    logging.getLogger("openai").setLevel(logging.DEBUG)  # as OPENAI_LOG=debug does
    said = ""
    judge = server(lambda request: request.headers["authorization"] if act == "echo" else act)
    with judge as url:
        one = make(url, cache=tmp_path, tries=2)
        try:
            said = repr(one.ask(tasks(1), echo))
        except UserError as error:
            said = f"{error!r} {error.__cause__!r}"
    assert judge.requests[0].headers["authorization"] == f"Bearer {SECRET}"
    assert logging.getLogger("openai").level == logging.DEBUG
    logging.getLogger("openai").setLevel(logging.NOTSET)
    output = capfd.readouterr()
    seen = [said, repr(one), one.label, caplog.text, output.out, output.err]
    assert not [text for text in seen if SECRET in text]
    assert not [path for path in tmp_path.iterdir() if SECRET.encode() in path.read_bytes()]


@pytest.mark.parametrize("key", ["sk-one two", "sk-caf\u00e9", "sk-line\nX-Other: 1"])
def test_a_key_that_no_header_holds(key: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(UserError, match="OPENAI_API_KEY holds") as error:
        make("http://127.0.0.1:9/v1").ask(tasks(1), echo)
    assert key not in str(error.value)


# Naming a judge


def test_a_judge_of_flags(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    local = judge_of("qwen", "http://localhost:8000/v1", cache=tmp_path)
    assert (local.model, local.cache, local.label) == ("qwen", tmp_path, "qwen at localhost:8000, t=0")
    with pytest.raises(UserError, match="set OPENAI_API_KEY, or name the url"):
        judge_of("gpt-4o-mini")
    with pytest.raises(UserError, match="set OPENAI_API_KEY"):
        judge_of("gpt-4o-mini", "https://api.openai.com/v1/")
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    judge = judge_of("gpt-4o-mini")
    assert judge.label == "gpt-4o-mini at api.openai.com, t=0"
    assert Judge("m", temperature=0.25).label.endswith("t=0.25")
    assert judge.environment() == {
        "OPENAI_API_KEY": SECRET,
        "OPENAI_API_BASE": "https://api.openai.com/v1/chat/completions",
        "LOCAL_LLM": "gpt-4o-mini",
        "BOYUE": None,
    }
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(UserError, match="set OPENAI_API_KEY"):
        judge.ask(tasks(1), echo)


BAD_URLS = [
    "localhost:8000/v1",
    "ftp://host/v1",
    "http://",
    "http:///v1",
    "http://host:port/v1",
    "http://host:99999/v1",
    "http://[::1/v1",
    "http://a..b/v1",
    "http://my host/v1",
    "http://host/v 1",
    "gpt-4o",
]


@pytest.mark.parametrize("url", BAD_URLS)
def test_bad_urls(url: str):
    with pytest.raises(UserError, match=r"url.*http://localhost:8000/v1"):
        judge_of("m", url)


@pytest.mark.parametrize(
    "url", ["http://me:hidden@host/v1", "http://hidden@host/v1", "http://host/v1?key=hidden", "http://host/v1#hidden"]
)
def test_a_url_with_a_credential_is_refused_and_not_repeated(url: str):
    with pytest.raises(UserError, match="neither user, password nor query") as error:
        judge_of("m", url)
    assert "hidden" not in str(error.value)


@pytest.mark.parametrize(
    "settings",
    [
        {"tries": 0},
        {"workers": 0},
        {"rereads": -1},
        {"timeout": 0.0},
        {"temperature": -1.0},
        {"temperature": float("nan")},
        {"model": " "},
    ],
    ids=str,
)
def test_bad_settings(settings: dict[str, Any]):
    with pytest.raises(UserError, match="A judge needs"):
        Judge(**{"model": "m", "url": "http://[::1]:80/v1"} | settings)


def test_a_judge_is_tried_before_it_is_needed(tmp_path: Path):
    with server(refuses(404, "no such model")) as url, pytest.raises(UserError, match="no such model"):
        make(url, cache=tmp_path).check()
    judge = server("Yes.")
    with judge as url:
        make(url, cache=tmp_path).check()
        make(url, cache=tmp_path).check()
    assert len(judge.requests) == 2, "a key that was good yesterday may not be today"


def test_importing_loads_no_client():
    heavy = ("openai", "httpx", "httpx2", "torch", "vlmeval")
    code = f"import sys, script_vlmeval.judge; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr


# Reading

YES4, NO0 = VideoVerdict(True, 4.0), VideoVerdict(False, 0.0)
VIDEO = {
    "{'pred': 'yes', 'score': 4}": YES4,
    '{"pred": "yes", "score": 4}': YES4,
    '{"score": "4", "pred": "YES"}': YES4,
    "{'pred': 'Yes', 'score': 4.0}": YES4,
    "{'pred': yes, 'score': '4'}": YES4,
    '```json\n{\n  "pred": "yes",\n  "score": 4\n}\n```': YES4,
    "```python\n{'pred': 'no', 'score': 0}\n```": NO0,
    "The answer says nothing of a dog. {'pred': 'no', 'score': 0} I hope this helps.": NO0,
    "{‘pred’: ‘yes’, ‘score’: 4}": YES4,
    "pred: yes, score: 4": YES4,
    "**pred**: no\n**score**: 0": NO0,
    "{'pred': 'yes', 'score': 4": YES4,  # cut off behind the last token
    "{'pred': 'yes', 'score': 4, 'total_score': 9}": YES4,
    "{} {'pred': 'yes', 'score': 4}": YES4,
    "{'pred': 'yes', 'score': 4} or as JSON {\"pred\": \"yes\", \"score\": 4.0}": YES4,
    "{'pred': 'no', 'score': 5}": VideoVerdict(False, 5.0),
    "{'pred': 'yes', 'score': 6}": None,
    "{'pred': 'yes', 'score': -1}": None,
    "{'pred': 'yes', 'score': '4/5'}": None,
    "{'pred': 'yes', 'score': nan}": None,
    "{'pred': 'yes', 'score': four}": None,
    "{'pred': 'yes'}": None,
    "{'score': 4}": None,
    "{'pred': 'maybe', 'score': 4}": None,
    "{'pred': 'yes or no', 'score': 4}": None,
    "{'pred': '', 'score': ''}": None,
    "{'prediction': 'yes', 'scores': 4}": None,
    "{'pred': 'yes', 'score': 4} no: {'pred': 'no', 'score': 0}": None,
    "{'pred': 'yes', 'score': 4, 'score': 3}": None,
    "yes": None,
    "": None,
}


@pytest.mark.parametrize("text", VIDEO, ids=repr)
def test_reading_a_video_verdict(text: str):
    assert parse_video(text) == VIDEO[text]


FRACTIONS = {
    "0.5": 0.5,
    " 0.5.\n": 0.5,
    "Correctness: 0.5": 0.5,
    "**0.5**": 0.5,
    "Correctness:0.5, so 0.5": 0.5,
    "1": 1.0,
    "1.0": 1.0,
    "0": 0.0,
    ".3": 0.3,
    "0.50 (0.5)": 0.5,
    "0.5 or 0.6": None,
    "1.1": None,
    "-0.5": None,
    "1/2": None,
    "50%": None,
    "1%": None,
    "0,5": None,
    "1e-1": None,
    "0.5.1": None,
    "Q1: 0.5": None,
    "0.4-0.6": None,
    "half": None,
    "": None,
    "٠.٥": None,
}


@pytest.mark.parametrize("text", FRACTIONS, ids=repr)
def test_reading_a_fraction(text: str):
    assert parse_fraction(text) == FRACTIONS[text]


PAIRS = {
    "{'score_accuracy': 4, 'score_relevance': 5, 'total_score': 9}": (4.0, 5.0),
    'Rationale: most points are met.\n```json\n{"score_accuracy": 3.67, "score_relevance": "1"}\n```': (3.67, 1.0),
    "{'score_relevance': 5, 'score_accuracy': 4}": (4.0, 5.0),
    "score_accuracy = (1 + 3) / 2 = 2, hence {'score_accuracy': 2, 'score_relevance': 5}": (2.0, 5.0),
    "score_accuracy: 4, score_relevance: 5": (4.0, 5.0),
    "{'score_accuracy': 4}": None,
    "{'score_accuracy': 0, 'score_relevance': 5}": None,
    "{'score_accuracy': 4, 'score_relevance': 6}": None,
    "{'score_accuracy': score_acc, 'score_relevance': score_rele}": None,
    "4 and 5": None,
    "": None,
}


@pytest.mark.parametrize("text", PAIRS, ids=repr)
def test_reading_a_pair(text: str):
    assert parse_pair(text, "score_accuracy", "score_relevance") == PAIRS[text]


def test_the_words_about_a_video_hold_the_three_texts_as_they_are():
    odd = ["what {is} it?", "a 'dog' %s", "{prediction}\n{0}"]
    task = video_qa(*odd)
    assert all(text in task.user for text in odd)
    assert "{'pred': 'no', 'score': 1}" in task.user
    assert parse_video(task.user) == VideoVerdict(False, 1.0)  # the example is one that can be read
    assert video_qa("q", "a", "p") == video_qa("q", "a", "p") != video_qa("q", "a", "p2")
