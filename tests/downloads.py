"""What tests of `prepare` share: a refusal that changes no table, and official files with other contents."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from official_images import put

from script_vlmeval.errors import UserError
from script_vlmeval.prepare import prepare


def refused(table: str, source: Path, data: Path, **options: Any) -> str:
    """What `prepare` says as it refuses, in one line; the tables in the data folder are what they were."""
    before = tables(data)
    with pytest.raises(UserError) as caught:
        prepare(table, source, data, quiet=True, **options)
    assert "\n" not in str(caught.value)
    assert tables(data) == before
    return str(caught.value)


def tables(data: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in data.glob("*.tsv")}


def edit(path: Path, change: Callable[[Any], object]) -> Path:
    """Changes a JSON value in place."""
    value = json.loads(path.read_text(encoding="utf-8"))
    change(value)
    return put(path, value)
