"""A judge on this computer: an HTTP server that speaks as much of /v1/chat/completions as the real client needs.

A script says what each request gets: one thing for all (a text, or an `Act`), a list of them (the last one stays), or a function
of the request.

    with server(["maybe", "{'pred': 'yes', 'score': 4}"]) as url: ...

    judge = server(lambda request: request.user.upper())
    with judge as url: ...
    judge.requests[0].headers["authorization"]
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Request:
    """What was asked. nth: how many came before; headers: by lower-case name."""

    nth: int
    path: str
    headers: Mapping[str, str]
    body: Mapping[str, Any]

    @property
    def user(self) -> str:
        return str(self.body["messages"][-1]["content"])


@dataclass(frozen=True)
class Act:
    """What a request gets: a status and a body, after `delay` seconds; cut: nothing but a closed connection."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    delay: float = 0.0
    cut: bool = False


Script = str | Act | Sequence[str | Act] | Callable[[Request], str | Act]


def says(text: str | None, delay: float = 0.0, **message: Any) -> Act:
    """A completion with one choice; what else `message` names stands beside the text, `finish_reason` in the choice."""
    reason = message.pop("finish_reason", "stop")
    choice = {"index": 0, "finish_reason": reason, "message": {"role": "assistant", "content": text, **message}}
    return Act(body=completion([choice]), delay=delay)


def completion(choices: Sequence[Any]) -> bytes:
    body = {"id": "1", "object": "chat.completion", "created": 0, "model": "judge-as-served", "choices": choices}
    return json.dumps(body).encode()


def refuses(status: int, message: str = "", code: str | None = None, **headers: str) -> Act:
    """An error as OpenAI writes it. Underscores in header names become hyphens."""
    body = json.dumps({"error": {"message": message, "type": "error", "param": None, "code": code}}).encode()
    return Act(status, body, {name.replace("_", "-"): value for name, value in headers.items()})


class server:
    """Serves the script within a `with`, which gives the url to name as a judge's; `requests` holds what was asked so far."""

    def __init__(self, script: Script) -> None:
        self.requests: list[Request] = []
        self.closing = threading.Event()
        self._script = script
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"judge": self}))
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"

    def __enter__(self) -> str:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self.url

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()

    def next(self, path: str, headers: Mapping[str, str], body: Mapping[str, Any]) -> Act:
        """Records a request and looks up what it gets."""
        with self._lock:
            request = Request(len(self.requests), path, headers, body)
            self.requests.append(request)
        script = self._script
        if callable(script):
            act = script(request)
        elif isinstance(script, str | Act):
            act = script
        else:
            act = script[min(request.nth, len(script) - 1)]
        return says(act) if isinstance(act, str) else act


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, *_: object) -> None:
        """A client that gave up in the middle is part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    judge: server
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        act = self.judge.next(self.path, {name.lower(): value for name, value in self.headers.items()}, body)
        if act.delay:
            self.judge.closing.wait(act.delay)
        if act.cut:
            self.close_connection = True
            return
        if not self.path.endswith("/v1/chat/completions"):
            act = Act(404, b'{"detail": "Not Found"}')
        self.send_response(act.status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(act.body)), **act.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(act.body)
