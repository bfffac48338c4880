"""One request to an OpenAI-compatible server, with its retries.

What may pass by itself is tried again after a wait that doubles: no connection, no answer in time, 429, 5xx, a body that is no
completion. What will not is a UserError at once: a refused key, an unknown model, a request that the server cannot take. The key
travels in the header `Authorization` and appears in no message, no log and no answer.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ..errors import UserError, reason_of

if TYPE_CHECKING:
    import openai

OPENAI = "https://api.openai.com/v1"
KEY = "OPENAI_API_KEY"
_LONGEST = 120.0  # seconds that one wait takes at most, whatever a server asks for
_PASSING = {408, 409, 425, 429}
_ADVICE = {
    401: f"check {KEY}",
    403: f"check what {KEY} may use",
    404: "check the model's name, and that the url is the part before '/chat/completions', often ending in /v1",
}
_LOGGERS = ("openai", "httpx", "httpx2", "httpcore", "httpcore2")
_jitter = random.Random()  # its own: nobody's seeded numbers shift because a server was busy


@dataclass(frozen=True)
class Answer:
    """A reply, the model that the server names, and how many requests it took."""

    text: str
    model: str
    sent: int


class Stopped(Exception):
    """Another request failed for good, so this one is not tried again."""


class _Trouble(Exception):
    """Why a request failed that may work later, and the seconds that the server asks for."""

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.wait = wait


class Line:
    """A server, asked from several threads. `timeout` and `backoff` in seconds; `tries` requests at most for one answer."""

    def __init__(self, base: str, key: str, *, timeout: float, tries: int, backoff: float) -> None:
        self.host = urlsplit(base).hostname or base
        self.stop = threading.Event()
        self._timeout, self._tries, self._backoff = timeout, tries, backoff
        self._key = _checked(key)
        self._client = _client(base, self._key or "none", timeout)

    def __enter__(self) -> Line:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def ask(self, request: Mapping[str, Any]) -> Answer:
        """The first choice of a chat completion. UserError when the server refuses, or after the last try."""
        reason = ""
        for sent in range(1, self._tries + 1):
            if self.stop.is_set():
                raise Stopped
            try:
                text, model = self._once(request)
            except _Trouble as trouble:
                reason = str(trouble)
                if sent < self._tries:
                    self.stop.wait(self._pause(sent, trouble.wait))
            else:
                return Answer(self._hidden(text), self._hidden(model), sent)
        what = f"The judge at {self.host} gave no answer in {self._tries} tries, at last: {reason}."
        raise UserError(f"{what} Run the same command again when it does, or name another judge.")

    def _once(self, request: Mapping[str, Any]) -> tuple[str, str]:
        """The text of one completion and who wrote it. What is no completion is trouble, and so is what says why not."""
        import openai

        try:
            response = self._client.chat.completions.with_raw_response.create(**request).http_response
        except openai.APIStatusError as error:
            raise self._refusal(error) from None
        except openai.APITimeoutError:
            raise _Trouble(f"no answer within {self._timeout:g} s") from None
        except openai.OpenAIError as error:
            raise _Trouble(self._hidden(reason_of(error.__cause__ or error))[:200]) from None
        try:
            body = response.json()
        except (ValueError, RecursionError):
            raise _Trouble("a body that is not JSON") from None
        text = _content(body)
        if text is None:
            raise _Trouble("a body without choices or content")
        return _writable(text), _writable(str(body.get("model") or ""))

    def _refusal(self, error: openai.APIStatusError) -> UserError | _Trouble:
        status = error.status_code
        said = self._hidden(_said(error.response))
        reason = f"{status}: {said}" if said else f"status {status}"
        if (status in _PASSING or status >= 500) and error.code != "insufficient_quota":  # a bill does not pay itself
            return _Trouble(reason, _asked_wait(error.response.headers))
        advice = f"; {_ADVICE[status]}" if status in _ADVICE else ""
        return UserError(f"The judge at {self.host} refused the request ({reason}){advice}.")

    def _pause(self, sent: int, asked: float) -> float:
        """Seconds before the next try. Spread, so that requests refused together do not come back together."""
        own = self._backoff * 2.0 ** min(sent - 1, 20) * _jitter.uniform(0.5, 1.5)
        return min(max(own, asked), _LONGEST)

    def _hidden(self, text: str) -> str:
        """A server may repeat what it was sent. Placeholders shorter than any key could be part of a word."""
        return text.replace(self._key, "***") if len(self._key) >= 8 else text


@contextmanager
def hushed() -> Iterator[None]:
    """Loggers of the client's libraries say nothing below a warning, whatever the environment asks of them."""
    levels = {name: logging.getLogger(name).level for name in _LOGGERS}
    try:
        for name in _LOGGERS:
            logging.getLogger(name).setLevel(logging.WARNING)
        yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


def _client(base: str, key: str, timeout: float) -> openai.OpenAI:
    """A client that goes where it is told: address and key are given here, and no variable of the environment replaces them."""
    try:
        import openai
    except ImportError as error:
        raise UserError(f"A judge needs the package openai ({reason_of(error)}): pip install openai.") from error
    host = urlsplit(base).hostname or ""
    here = host in ("localhost", "::1") or host.startswith("127.")
    client = openai.OpenAI(
        base_url=base,
        api_key=key,
        max_retries=0,
        timeout=timeout,
        default_headers={"Authorization": f"Bearer {key}"},
        http_client=openai.DefaultHttpxClient(base_url=base, timeout=timeout, trust_env=not here),  # no proxy leads to ourselves
    )
    if base != OPENAI:  # whose account it is concerns nobody else
        client.organization = client.project = None
    return client


def _checked(key: str) -> str:
    """A key that a header can hold; libraries would quote another one in their complaint."""
    key = key.strip()
    if not all("!" <= letter <= "~" for letter in key):
        raise UserError(f"{KEY} holds blanks or characters that no key has; set it to the key alone.")
    return key


def _content(body: Any) -> str | None:
    """The text of the first choice; None when the body is no completion. A reply that was refused or cut off before its first
    word is a reply: what it says, or nothing."""
    choices = body.get("choices") if isinstance(body, dict) else None
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(choice, dict) or not isinstance(message, dict):
        return None
    said = [message[key] for key in ("content", "refusal") if isinstance(message.get(key), str)]
    if not said and choice.get("finish_reason") in ("length", "content_filter"):
        return ""
    return said[0] if said else None


def _said(response: Any) -> str:
    """A server's own short message, in one line; empty where it has none."""
    try:
        body = response.json()
    except (ValueError, RecursionError):
        return ""
    for key in ("error", "message", "detail"):
        body = body.get(key, body) if isinstance(body, dict) else body
    return " ".join(body.split())[:200] if isinstance(body, str) else ""


def _asked_wait(headers: Mapping[str, str]) -> float:
    """Seconds of a Retry-After header, which holds them or a date; 0 where there is none."""
    value = headers.get("retry-after", "")
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - time.time()
        except (ValueError, TypeError):
            return 0.0
    return seconds if seconds > 0 else 0.0


def _writable(text: str) -> str:
    """Without halves of surrogate pairs, which neither UTF-8 nor SQLite can hold."""
    return text.encode("utf-8", "replace").decode("utf-8")
