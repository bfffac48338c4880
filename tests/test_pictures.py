"""Each picture is read, decoded and made into tensors once, however many questions are about it."""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from script_vlmeval import pictures
from script_vlmeval.pictures import Distinct
from script_vlmeval.recent import Recent


def saved(path: Path, size: tuple[int, int] = (8, 4), grey: int = 9) -> str:
    Image.new("RGB", size, (grey, grey, grey)).save(path)
    return str(path)


def test_one_picture_under_two_names_is_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pictures, "_PICTURES", Recent(16))
    digests = [hashlib.sha256(), hashlib.sha256()]
    first, second = (pictures.read(saved(tmp_path / f"{i}.png"), True, digest) for i, digest in enumerate(digests))
    assert first[0] is second[0]
    assert (first[0].size, first[1]) == ((8, 8), (8, 4))
    assert digests[0].digest() == digests[1].digest()
    assert pictures.read(str(tmp_path / "0.png"), False, hashlib.sha256())[0].size == (8, 4)


def test_a_file_that_changes_is_another_picture(tmp_path: Path):
    path = saved(tmp_path / "a.png", grey=1)
    before = pictures.read(path, False, hashlib.sha256())[0].getpixel((0, 0))
    saved(tmp_path / "a.png", grey=2)
    assert (before, pictures.read(path, False, hashlib.sha256())[0].getpixel((0, 0))) == ((1, 1, 1), (2, 2, 2))


def test_what_cannot_be_read_is_named(tmp_path: Path):
    (tmp_path / "bad.png").write_bytes(b"no picture")
    for name in ("bad.png", "none.png"):
        with pytest.raises(ValueError, match=f"cannot read picture .*{name}"):
            pictures.read(str(tmp_path / name), False, hashlib.sha256())


def test_what_two_threads_ask_for_is_made_once():
    recent: Recent[int] = Recent(2)
    began, go = threading.Event(), threading.Event()
    made: list[int] = []

    def slow() -> int:
        began.set()
        go.wait(10)
        made.append(1)
        return 7

    found: list[int] = []
    threads = [threading.Thread(target=lambda: found.append(recent.get("a", slow))) for _ in range(3)]
    for thread in threads:
        thread.start()
    began.wait(10)
    go.set()
    for thread in threads:
        thread.join(10)
    assert (found, made) == ([7, 7, 7], [1])


def test_an_error_is_not_remembered_and_the_oldest_goes_first():
    recent: Recent[int] = Recent(2)
    with pytest.raises(ZeroDivisionError):
        recent.get("a", lambda: 1 // 0)
    assert [recent.get(key, lambda key=key: ord(key)) for key in "abac"] == [97, 98, 97, 99]
    assert recent.get("a", lambda: 0) == 97
    assert recent.get("b", lambda: 0) == 0


class Rows:
    """An image processor that counts what it is given."""

    size = 3

    def __init__(self, patches: bool = False) -> None:
        self.seen: list[int] = []
        self.patches = patches

    def __call__(self, images: list[Any], **_: Any) -> dict[str, Any]:
        own = [image[0] if isinstance(image, list) else image for image in images]
        self.seen.append(len(own))
        values = [torch.full((image.width if self.patches else 1, 2), float(image.getpixel((0, 0))[0])) for image in own]
        if self.patches:
            grids = torch.tensor([[1, 1, image.width] for image in own])
            return {"pixel_values": torch.cat(values), "image_grid_thw": grids}
        return {"pixel_values": torch.cat(values), "sizes": [image.size for image in own]}


@pytest.mark.parametrize("patches", [False, True])
@pytest.mark.parametrize("nested", [False, True])
def test_each_picture_of_a_call_is_processed_once(patches: bool, nested: bool):
    a, b = Image.new("RGB", (2, 2), (5, 0, 0)), Image.new("RGB", (3, 2), (6, 0, 0))
    given = [a, b, a, a, b]
    own, whole = Rows(patches), Rows(patches)
    found = Distinct(own)([[image] for image in given] if nested else given, return_tensors="pt")
    expected = whole([image.copy() for image in given])
    assert own.seen == [2]
    assert found.keys() == expected.keys()
    for name, value in found.items():
        assert torch.equal(torch.as_tensor(value), torch.as_tensor(expected[name])), name


def test_prompts_of_several_pictures_are_left_alone():
    a = Image.new("RGB", (2, 2))
    own = Rows()
    Distinct(own)([[a, a], [a]])
    assert own.seen == [2]
    assert Distinct(own).size == 3


def test_a_processor_that_cuts_pictures_into_crops_sees_them_all():
    class Crops(Rows):
        def __call__(self, images: list[Any], **_: Any) -> dict[str, Any]:
            self.seen.append(len(images))
            return {"pixel_values": torch.cat([torch.ones(image.width + 1, 2) for image in images])}

    a, b = Image.new("RGB", (2, 2)), Image.new("RGB", (3, 2))
    own = Crops()
    distinct = Distinct(own)
    for _ in range(2):
        assert len(distinct([a, a, b])["pixel_values"]) == 3 + 3 + 4
    assert own.seen == [2, 3, 3], "tried once"
