"""A judge: a model behind an OpenAI-compatible server that answers many small questions, each once.

An answer that cannot be read is asked for again, warmer each time, since a server that is asked the same at temperature 0 may
well say the same. What stays unreadable is a reply without a value: the caller counts it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any, Generic, TypeVar
from urllib.parse import urlsplit

from tqdm import tqdm

from ..errors import UserError
from .cache import Cache
from .line import KEY, OPENAI, Line, hushed
from .tasks import Task

T = TypeVar("T")
_HOST = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*\.?|[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*")
_GREETING = Task("", "Is water wet? Answer yes or no.", max_tokens=16)
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Reply(Generic[T]):
    """What became of a task: the value read from the last text, None when no try could be read; whether it came without asking;
    the requests sent for it, failed ones included."""

    value: T | None
    text: str
    cached: bool
    calls: int


@dataclass(frozen=True)
class Judge:
    """Who judges and how. The key is no part of it: OPENAI_API_KEY is read when something is asked, and goes to `url`.

    url: the part before `/chat/completions`; empty means OpenAI's. tries: requests for one answer while the server fails.
    rereads: how often an unreadable answer is asked for again. timeout and backoff (the first wait; it doubles) in seconds.
    cache: the folder of `judge.sqlite`; None keeps nothing. UserError for what cannot be.
    """

    model: str
    url: str = ""
    temperature: float = 0.0
    timeout: float = 60.0
    tries: int = 5
    rereads: int = 3
    workers: int = 8
    backoff: float = 1.0
    cache: Path | None = None

    def __post_init__(self) -> None:
        if not self.model.strip():
            raise UserError("A judge needs the name of a model, such as gpt-4o-mini.")
        _check_url(self.base)
        sound = (
            self.temperature >= 0,
            self.timeout > 0,
            self.tries >= 1,
            self.rereads >= 0,
            self.workers >= 1,
            self.backoff >= 0,
        )
        if not all(sound):
            raise UserError(f"A judge needs at least one try and one worker, and no negative number: {self!r}.")

    @property
    def base(self) -> str:
        """The address in one spelling."""
        return self.url.strip().rstrip("/").removesuffix("/chat/completions").rstrip("/") or OPENAI

    @property
    def label(self) -> str:
        """For the name of a scorer: who, where and how warm."""
        place = urlsplit(self.base)
        return f"{self.model} at {place.netloc}{place.path.removesuffix('/v1')}, t={self.temperature:g}"

    def check(self) -> None:
        """UserError unless the judge answers a question of no weight: a wrong name or key is known before hours of work."""
        replace(self, tries=min(self.tries, 3), cache=None).ask([_GREETING], lambda text: text)

    def environment(self) -> dict[str, str | None]:
        """Variables that lead VLMEvalKit's own scorers to this judge, the key among them; None removes one."""
        return {
            KEY: _key(self.base) or "none",
            "OPENAI_API_BASE": f"{self.base}/chat/completions",
            "LOCAL_LLM": self.model,
            "BOYUE": None,
        }

    def ask(
        self, tasks: Sequence[Task], parse: Callable[[str], T | None], progress: str = "", quiet: bool = False
    ) -> list[Reply[T]]:
        """A reply to each task, in order; equal tasks are asked once. `progress` is what the bar says, empty for no bar.

        UserError when the server refuses or stays away: what was answered until then is in the cache, where there is one.
        """
        with Cache(self.cache) as cache:
            found = {task: self._settle(task, parse, cache, None) for task in dict.fromkeys(tasks)}
            missing = [task for task, reply in found.items() if reply is None]
            bar_off = True if quiet or not progress else None
            with tqdm(total=len(found), initial=len(found) - len(missing), desc=progress, unit="reply", disable=bar_off) as bar:
                replies = {task: reply for task, reply in found.items() if reply is not None}
                if missing:
                    replies |= self._ask_all(missing, parse, cache, bar)
        unread = sum(reply.value is None for reply in replies.values())
        if unread:
            _log.warning("%s: %d of %d replies of %s could not be read", progress or "judge", unread, len(replies), self.label)
        seen: set[Task] = set()
        return [_once(replies[task], task, seen) for task in tasks]

    def _ask_all(
        self, tasks: Sequence[Task], parse: Callable[[str], T | None], cache: Cache, bar: tqdm[Any]
    ) -> dict[Task, Reply[T]]:
        """Side by side. The first failure ends it: no request starts after it, and those under way are waited for and kept."""
        replies: dict[Task, Reply[T]] = {}

        def settle(task: Task) -> Reply[T] | None:
            return self._settle(task, parse, cache, line)

        line = Line(self.base, _key(self.base), timeout=self.timeout, tries=self.tries, backoff=self.backoff)
        with hushed(), line, ThreadPoolExecutor(min(self.workers, len(tasks))) as pool:
            futures: dict[Future[Reply[T] | None], Task] = {}
            try:
                for task in tasks:
                    futures[pool.submit(settle, task)] = task
                for future in as_completed(futures):
                    if reply := future.result():
                        replies[futures[future]] = reply
                    bar.update()
            except BaseException as error:
                line.stop.set()
                pool.shutdown(wait=False, cancel_futures=True)
                if isinstance(error, UserError) and cache.keeps:
                    raise UserError(f"{error} What was answered is kept.") from None
                raise
        return replies

    def _settle(self, task: Task, parse: Callable[[str], T | None], cache: Cache, line: Line | None) -> Reply[T] | None:
        """The reply to one task, tries from the cache first. Without a line None where the cache does not settle it.

        What could not be read stays in the cache and settles nothing: a later run asks on, as often as the first one did, for the
        server may have been mended.
        """
        calls, asked, text = 0, 0, ""
        for nth in count():
            key = self._digest(task, nth)
            known = cache.get(key)
            if known is None:
                if line is None:
                    return None
                if asked > self.rereads:
                    break
                answer = line.ask(self._request(task, nth))
                asked, calls = asked + 1, calls + answer.sent
                known = cache.put(key, answer.text, answer.model)
            text = known
            value = parse(text)
            if value is not None:
                return Reply(value, text, not calls, calls)
        return Reply(None, text, not calls, calls)

    def _warmth(self, nth: int) -> float:
        """The temperature of a try: the judge's own, then at least 0.5, then at least 1."""
        return max(self.temperature, min(0.5 * nth, 1.0))

    def _request(self, task: Task, nth: int) -> dict[str, Any]:
        messages = [{"role": "system", "content": task.system}] if task.system else []
        messages.append({"role": "user", "content": task.user})
        for message in messages:  # half a surrogate pair, which a table may hold, cannot be sent
            message["content"] = message["content"].encode("utf-8", "replace").decode("utf-8")
        return dict(model=self.model, messages=messages, max_tokens=task.max_tokens, temperature=self._warmth(nth))

    def _digest(self, task: Task, nth: int) -> str:
        """The cache's key: everything that the answer depends on, but not how the server is reached (http or https)."""
        where = self.base.partition("://")[2]
        asked = [self.model, where, task.system, task.user, task.max_tokens, float(self._warmth(nth)), nth]
        return hashlib.sha256(json.dumps(asked).encode()).hexdigest()


def judge_of(model: str, url: str = "", cache: Path | None = None) -> Judge:
    """The judge that flags name. UserError also when there is neither a url nor a key, so that this is said before any answer."""
    judge = Judge(model, url, cache=cache)
    _key(judge.base)
    return judge


def _key(base: str) -> str:
    """The key of the environment: a server of one's own may do without, OpenAI's does not."""
    key = os.environ.get(KEY, "").strip()
    if not key and base == OPENAI:
        raise UserError(f"The judge needs a key or a server: set {KEY}, or name the url of an OpenAI-compatible server.")
    return key


def _check_url(url: str) -> None:
    """UserError for what is no plain address. What may be a credential is not repeated."""
    example = "write it as http://localhost:8000/v1"
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        raise UserError(f"The judge's url is not one; {example}.") from None
    if "@" in url or parts.query or parts.fragment:
        raise UserError(f"A judge's url holds neither user, password nor query: set {KEY} for a key, and {example}.")
    if parts.scheme not in ("http", "https") or not _HOST.fullmatch(host) or any(c.isspace() or not c.isprintable() for c in url):
        raise UserError(f"The judge's url '{url}' is not one of a server; {example}.")


def _once(reply: Reply[T], task: Task, seen: set[Task]) -> Reply[T]:
    """A reply as it stands for one of several equal tasks: only the first was asked."""
    if task in seen:
        return replace(reply, cached=True, calls=0)
    seen.add(task)
    return reply
