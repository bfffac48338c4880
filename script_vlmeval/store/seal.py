"""A record as a line that shows whose it is: it ends with a sum over the cell's settings and the rest of its bytes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from ..files import digest, dumps

_SUM = "sum"
_FIRST = ("index", "stamp", "prediction", "error")  # so that a glance need not parse what follows
_MARK = f', "{_SUM}": "'.encode()
_DIGITS = 12
_scan = json.JSONDecoder().raw_decode
_TAIL = len(_MARK) + _DIGITS + len(b'"}\n')


class Seal:
    """Writes and reads the lines of one fingerprint. Those of another cell or other settings, and damaged ones, do not fit."""

    def __init__(self, fingerprint: Mapping[str, Any]) -> None:
        self._empty = hashlib.blake2b(key=digest(fingerprint).encode(), digest_size=_DIGITS // 2)

    def line(self, record: Mapping[str, Any]) -> bytes:
        """A record as a line. ValueError for one that could not be read back."""
        if not _sound(record) or _SUM in record:
            raise ValueError(f"a record is an index with either a prediction or an error, all texts, without a sum: {record!r}")
        body = dumps({name: record[name] for name in _FIRST if name in record} | dict(record))
        return b'%b%b%b"}\n' % (body[:-1], _MARK, self._sum(body))

    def record(self, line: bytes) -> dict[str, Any] | None:
        """The record in a line, without the sum, or None when it is not one of ours."""
        body = self._body(line)
        return None if body is None else _parsed(body)

    def glance(self, line: bytes) -> tuple[str, bool, str] | None:
        """Index, whether it is a prediction, and stamp ('' without) of the record in a line; None as `record` says it."""
        body = self._body(line)
        if body is None:
            return None
        found = _glanced(body)
        if found is not None:
            return found
        record = _parsed(body)
        return None if record is None else (record["index"], "prediction" in record, str(record.get("stamp", "")))

    def _body(self, line: bytes) -> bytes | None:
        """The record as JSON, when the sum fits it."""
        mark = len(line) - _TAIL
        if mark < 0 or not line.startswith(_MARK, mark) or not line.endswith(b'"}\n'):
            return None
        body = line[:mark] + b"}"
        return body if self._sum(body) == line[mark + len(_MARK) : -3] else None

    def _sum(self, body: bytes) -> bytes:
        hashed = self._empty.copy()
        hashed.update(body)
        return hashed.hexdigest().encode()


def _glanced(body: bytes) -> tuple[str, bool, str] | None:
    """The first keys of a record, written in the usual order; None where it takes more than a glance."""
    try:
        text = body.decode()
        if not text.startswith('{"index": "'):
            return None
        index, at = _scan(text, len('{"index": '))
        stamp = ""
        if text.startswith(', "stamp": "', at):
            stamp, at = _scan(text, at + len(', "stamp": '))
    except ValueError:
        return None
    answered = text.startswith(', "prediction": "', at)
    return (index, answered, stamp) if answered or text.startswith(', "error": "', at) else None


def _parsed(body: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(body.decode())
    except (ValueError, RecursionError):
        return None
    return record if _sound(record) else None


def _sound(record: Any) -> bool:
    if not isinstance(record, dict | Mapping) or not isinstance(record.get("index"), str):
        return False
    said = [record[key] for key in ("prediction", "error") if key in record]
    return len(said) == 1 and isinstance(said[0], str)
