"""What tests of `prepare` share: miniatures of the official downloads, the tables made of them, a refusal that changes no table,
and official files with other contents."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import official_images
import official_videos
import pytest
from official_images import put

from script_vlmeval.benchmarks import resolve
from script_vlmeval.cli import main
from script_vlmeval.errors import UserError
from script_vlmeval.prepare import prepare

MAKERS = dict.fromkeys(official_images.MAKERS, official_images) | dict.fromkeys(official_videos.TABLES, official_videos)


def download(name: str, folder: Path) -> Path:
    """A miniature of a benchmark's official download, in a folder of its name."""
    table = resolve(name).host
    return MAKERS[table].make(table, folder / name)


@contextmanager
def prepared(names: Sequence[str], factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The data folder (`LMUData`) with the tables of benchmarks, made by `run.py prepare`."""
    folder, downloads = factory.mktemp("LMUData"), factory.mktemp("downloads")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LMUData", str(folder))
        for name in names:
            assert main(["prepare", name, "--source", str(download(name, downloads)), "--quiet"]) == 0
        yield folder


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
