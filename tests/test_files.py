"""Files in general: replaced whole or not at all, read without surprises, refusals of the disk in words."""

from __future__ import annotations

import errno
import json
import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from script_vlmeval.errors import UserError
from script_vlmeval.files import digest, disk, dumps, lines, read_json, replacing, sync_folder, write_json


def test_what_would_help_is_said_by_those_who_write(tmp_path: Path):
    (tmp_path / "file").write_text("x")
    place = tmp_path / "file/inside.json"
    with pytest.raises(UserError, match=r"inside\.json.*: Not a directory; choose another --work-dir, or"):
        write_json(place, {})
    with pytest.raises(UserError, match=r"Not a directory; ask somebody\.$"):
        write_json(place, {}, "ask somebody")
    for number, words in ((errno.ENOSPC, "free some space"), (errno.EFBIG, "free some space"), (errno.EMFILE, "ulimit -n")):
        with pytest.raises(UserError, match=f"{os.strerror(number)}; .*{words}"), disk(place, "ask somebody"):
            raise OSError(number, os.strerror(number))
    with pytest.raises(UserError, match="as it is"), replacing(tmp_path / "other", "ask somebody"):
        raise UserError("as it is")
    assert sorted(os.listdir(tmp_path)) == ["file"]


def test_the_path_that_the_system_names_is_the_one_that_is_told(tmp_path: Path):
    with pytest.raises(UserError, match="'other place'"), disk(tmp_path):
        raise OSError(errno.EACCES, "Permission denied", "other place")
    with pytest.raises(UserError, match=tmp_path.name), disk(tmp_path):
        raise OSError(errno.EACCES, "Permission denied")


@pytest.mark.parametrize("durable", [True, False])
def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path, durable: bool, monkeypatch: pytest.MonkeyPatch):
    synced = []
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (synced.append(fd), real(fd)))
    path = tmp_path / "value.json"
    write_json(path, {"a": 1}, durable=durable)
    assert bool(synced) == durable

    def fail() -> None:
        with replacing(path, durable=durable) as temporary:
            temporary.write_text("half")
            assert read_json(path) == {"a": 1}
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert read_json(path) == {"a": 1}
    assert os.listdir(tmp_path) == ["value.json"]


def test_what_is_no_json_object_is_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    path = tmp_path / "value.json"
    assert read_json(path) is None
    assert read_json(path / "below") is None
    assert not caplog.records
    for content in (b"", b"[]", b"{", b"\xff", b"7", b"[" * 99_999):
        path.write_bytes(content)
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            assert read_json(path) is None
        assert str(path) in caplog.text
    assert read_json(tmp_path) is None, "a folder"


def test_only_complete_lines_and_only_newlines_end_them(tmp_path: Path):
    path = tmp_path / "lines"
    assert list(lines(path)) == []
    assert list(lines(path / "below")) == []
    text = "a\rb\u2028c\x85\x0b\n\n\x00\n".encode()
    path.write_bytes(text + b"torn")
    assert list(lines(path)) == [text[:-3], b"\n", b"\x00\n"]
    with pytest.raises(UserError, match="Cannot read"):
        list(lines(tmp_path))


def test_json_that_can_be_read_back():
    value: dict[Any, Any] = {
        "nan": float("nan"),
        "inf": [float("-inf"), 1.5],
        "numpy": (np.float32(0.5), np.int64(7), np.bool_(True), np.float64("nan"), np.str_("text")),
        3: None,
        "text": "é\u2028\U0001f600",
    }
    expected = {"nan": None, "inf": [None, 1.5], "numpy": [0.5, 7, True, None, "text"], "3": None, "text": "é\u2028\U0001f600"}
    assert json.loads(dumps(value)) == expected
    assert "é".encode() in dumps(value), "readable as it stands"
    assert json.loads(dumps({"half": "\ud800"})) == {"half": "\ud800"}
    assert dumps({"b": 1, "a": 2}) == b'{"b": 1, "a": 2}'
    assert dumps({"b": 1, "a": [2]}, indent=1, sort_keys=True) == b'{\n "a": [\n  2\n ],\n "b": 1\n}'
    with pytest.raises(TypeError):
        dumps({"a": object()})


def test_digest_is_of_the_content():
    assert digest({"a": 1, "b": "é"}) == digest({"b": "é", "a": 1})
    assert len({digest(m) for m in ({"a": 1}, {"a": 1.0}, {"a": True}, {"a": "1"}, {"b": 1}, {}, {"a": None})}) == 7
    assert digest({}) == "44136fa355b3678a"


def test_a_folder_that_is_gone_cannot_be_synced(tmp_path: Path):
    sync_folder(tmp_path)
    with pytest.raises(FileNotFoundError):
        sync_folder(tmp_path / "gone")
