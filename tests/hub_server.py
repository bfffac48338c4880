"""A model hub on this computer: enough of the protocol that the real client lists and downloads repositories from it."""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

LARGE = 10_000  # bytes from which a file is stored apart from git, under the digest of its content


class HubServer:
    """Serves `repos` (id -> name -> content) at `url` within a `with`; what was asked stands in `requests`.

    `listing` and `files` are (status, error code) that all requests of that kind are refused with, `cut` the bytes of a file
    after which the connection closes, and `delay` the seconds before any answer.
    """

    def __init__(self, repos: Mapping[str, dict[str, bytes]]) -> None:
        self.repos = dict(repos)
        self.requests: list[str] = []
        self.listing: tuple[int, str] | None = None
        self.files: tuple[int, str] | None = None
        self.cut: dict[str, int] = {}
        self.delay = 0.0
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> HubServer:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def commit(self, repo: str) -> str:
        """The only commit of a repository: it follows from its content."""
        return hashlib.sha1(repr(sorted(self.repos[repo].items())).encode()).hexdigest()

    def fetched(self) -> list[str]:
        """Names of the files whose content was asked for, each once."""
        asked = (re.fullmatch(r"GET /.+?/.+?/resolve/[0-9a-f]{40}/(.+)", request) for request in self.requests)
        return sorted({match[1] for match in asked if match})


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._route()

    def do_GET(self) -> None:
        self._route()

    def _route(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append(f"{self.command} {path}")
        time.sleep(self.hub.delay)
        repo = next((name for name in self.hub.repos if f"{path}/".startswith((f"/api/models/{name}/", f"/{name}/"))), None)
        if not repo:
            self._refuse(404, "RepoNotFound")
        elif path.startswith("/api/"):
            self._api(repo, path.removeprefix(f"/api/models/{repo}"))
        elif match := re.fullmatch(rf"/{re.escape(repo)}/resolve/([0-9a-f]{{40}})/(.+)", path):
            self._file(repo, match[1], match[2])
        else:
            self._refuse(404, "EntryNotFound")

    def _api(self, repo: str, rest: str) -> None:
        commit, files = self.hub.commit(repo), self.hub.repos[repo]
        if self.hub.listing:
            self._refuse(*self.hub.listing)
        elif rest in ("", f"/revision/{commit}"):
            self._json({"id": repo, "sha": commit, "siblings": [{"rfilename": n, **_entry(d)} for n, d in files.items()]})
        elif rest == f"/tree/{commit}":
            self._json([{"type": "file", "path": n, "oid": _entry(d)["blobId"], **_entry(d, "oid")} for n, d in files.items()])
        else:
            self._refuse(404, "RevisionNotFound")

    def _file(self, repo: str, commit: str, name: str) -> None:
        data = self.hub.repos[repo].get(name)
        if self.hub.files:
            return self._refuse(*self.hub.files)
        if data is None or commit != self.hub.commit(repo):
            return self._refuse(404, "EntryNotFound")
        entry = _entry(data)
        start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")[0])
        self.send_response(206 if start else 200)
        self.send_header("ETag", f'"{entry.get("lfs", {}).get("sha256", entry["blobId"])}"')
        self.send_header("X-Repo-Commit", commit)
        self.send_header("X-Linked-Size", str(len(data)))
        self.send_header("Content-Length", str(len(data) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data[start : self.hub.cut.get(name, len(data))])
            self.close_connection = name in self.hub.cut
        return None

    def _json(self, content: Any) -> None:
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()


def _entry(data: bytes, digest: str = "sha256") -> dict[str, Any]:
    """How a listing describes a file; `digest` is what the key of a large file's digest is called there."""
    blob = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
    large = {"lfs": {digest: hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}}
    return {"size": len(data), "blobId": blob, **(large if len(data) >= LARGE else {})}
