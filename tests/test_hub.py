"""Where checkpoints come from: folders, the hub's cache, and downloads by the real client from a hub on this computer."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import originals
import pytest
import torch
from hub_server import HubServer
from huggingface_hub import constants, file_download, utils

from script_vlmeval import hub, loading
from script_vlmeval.backbones import Models
from script_vlmeval.errors import UserError

ID = "some-org/small.Model_1"
LLAVA = "some-org/llava-v1.5"
SHARDS = [f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)]
INDEX = json.dumps({"weight_map": {f"layer{i}": name for i, name in enumerate(SHARDS)}}).encode()


def safetensors(size: int) -> bytes:
    """A file of one tensor of that many bytes."""
    header = json.dumps({"__metadata__": {"format": "pt"}, "w": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}})
    return len(header).to_bytes(8, "little") + header.encode() + bytes(size)


CHECKPOINT = {
    "config.json": b'{"model_type": "llava"}',
    "model.safetensors.index.json": INDEX,
    "preprocessor_config.json": b"{}",
    "tokenizer.json": b'{"version": "1.0"}',
    **{name: safetensors(100_000 + i) for i, name in enumerate(SHARDS)},
}
NEVER = [
    "README.md",
    "modeling.py",
    "consolidated.safetensors",
    "pytorch_model-00001-of-00001.bin",
    "pytorch_model.bin.index.json",
]
NEVER += [
    "model.gguf",
    "flax_model.msgpack",
    "tf_model.h5",
    "training_args.bin",
    "onnx/model.onnx",
    "onnx/config.json",
    "old/model.safetensors",
]


def written(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


def without(*names: str) -> dict[str, bytes]:
    return {name: data for name, data in CHECKPOINT.items() if name not in names}


def reset() -> None:
    """Old clients keep a session per thread, which remembers whether it may use the network."""
    if hasattr(utils, "reset_sessions"):
        utils.reset_sessions()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty cache, nobody's token, a working folder without models, and a client that may use the network."""
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    for name, file in {"HF_HUB_CACHE": "hub", "HF_TOKEN_PATH": "token", "AGENT_HARNESSES_PATH": "agents"}.items():
        monkeypatch.setattr(constants, name, str(tmp_path / file), raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    reset()
    yield tmp_path / "hub"
    reset()


@pytest.fixture
def server(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with HubServer({ID: {**CHECKPOINT, **dict.fromkeys(NEVER, b"never")}}) as running:
        point_to(running.url, monkeypatch)
        yield running


def point_to(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sets what HF_ENDPOINT sets where it is there when the client is imported."""
    monkeypatch.setattr(constants, "ENDPOINT", url)
    template = url + "/{repo_id}/resolve/{revision}/{filename}"
    for module in (constants, file_download):  # old clients have it in both
        monkeypatch.setattr(module, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)


def never(line: str) -> None:
    raise AssertionError(f"said {line!r}")


def refused(checkpoint: str = ID, *, offline: bool = False) -> str:
    with pytest.raises(UserError) as caught:
        hub.fetch(checkpoint, offline=offline, say=lambda line: None)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Names


@pytest.mark.parametrize("name", ["llava-hf/llava-1.5-7b-hf", ID, "a/b"])
def test_ids(name: str, cache: Path):
    assert hub.is_id(name)


@pytest.mark.parametrize(
    "name",
    [
        "gpt2",
        "./a/b",
        "../b",
        "./b",
        "~/b",
        "/a/b",
        "a/b/c",
        "a/",
        "/b",
        "a b/c",
        "a--b/c",
        "a/b..c",
        "a/-b",
        "a/b.",
        "a/b.git",
        "ä/b",
        "",
    ],
)
def test_no_ids(name: str, cache: Path):
    assert not hub.is_id(name)


def test_a_folder_goes_before_the_hub(cache: Path):
    folder = written(Path("some-org/model"), CHECKPOINT)
    assert not hub.is_id("some-org/model")
    assert hub.locate("some-org/model") == folder == hub.fetch("some-org/model", offline=False, say=never)
    assert hub.is_id("some-org/other")


def test_wanted_of_shards():
    files = [*NEVER, *CHECKPOINT, "tokenizer.model", "merges.txt", "vocab.json", "chat_template.jinja", "notes.txt"]
    assert sorted(hub.wanted(files)) == sorted(
        [*CHECKPOINT, "tokenizer.model", "merges.txt", "vocab.json", "chat_template.jinja"]
    )


def test_wanted_takes_one_format_of_weights():
    shards = [*SHARDS, "model.safetensors.index.json"]
    bins = ["pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin", "pytorch_model.bin.index.json"]
    assert hub.wanted(["model.safetensors", *shards, *bins, "config.json"]) == ["model.safetensors", "config.json"]
    assert hub.wanted([*bins, "training_args.bin", "config.json"]) == [*bins, "config.json"]
    assert hub.wanted(["pytorch_model.bin", *bins]) == ["pytorch_model.bin"]
    assert hub.wanted(["model.fp16.safetensors", "optimizer.bin"]) == []
    odd = ["model.safetensors.index.json", "vision.safetensors", "consolidated.safetensors"]
    assert hub.wanted(odd) == odd[:2]  # an index may name its shards as it likes


# Folders


@pytest.mark.parametrize(
    "files",
    [
        CHECKPOINT,
        {"config.json": b"{}", "model.safetensors": safetensors(3), "vocab.json": b"{}", "merges.txt": b""},
        {"config.json": b"{}", "pytorch_model.bin": b"x", "tokenizer.model": b""},
        {
            "config.json": b"{}",
            "tokenizer.json": b'{"version": "1.0"}',
            "pytorch_model.bin.index.json": b'{"weight_map": {"w": "pytorch_model-00001-of-00001.bin"}}',
            "pytorch_model-00001-of-00001.bin": b"x",
        },
    ],
    ids=["shards", "single", "bin", "bin shards"],
)
def test_whole_folders(files: dict[str, bytes], tmp_path: Path):
    folder = written(tmp_path / "model", files)
    hub.check(folder)
    assert hub.locate(str(folder)) == folder == hub.fetch(str(folder), offline=True, say=never)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (without("config.json"), "has no config.json"),
        (without("tokenizer.json"), "has no tokenizer"),
        ({"vocab.json": b"{}", **without("tokenizer.json")}, "has no tokenizer"),
        (without("model.safetensors.index.json"), "has no weights"),
        (without(*SHARDS[1:]), f"half a checkpoint: it lacks 2 of 3 shards, first {SHARDS[1]}"),
        ({**CHECKPOINT, "model.safetensors.index.json": b"{"}, "no index of weights"),
        ({**CHECKPOINT, SHARDS[1]: b""}, f"{SHARDS[1]} is empty"),
        ({**CHECKPOINT, SHARDS[1]: safetensors(9)[:50]}, f"{SHARDS[1]} is cut off"),
        ({**CHECKPOINT, SHARDS[1]: safetensors(9)[:-1]}, f"{SHARDS[1]} has "),
        ({**CHECKPOINT, SHARDS[1]: b"version https://git-lfs.github.com/spec/v1"}, f"{SHARDS[1]} is a Git LFS pointer"),
        ({**CHECKPOINT, SHARDS[1]: (4).to_bytes(8, "little") + b"oops"}, f"{SHARDS[1]} is no safetensors file"),
        ({**CHECKPOINT, SHARDS[1]: (2).to_bytes(8, "little") + b"[]"}, f"{SHARDS[1]} is no safetensors file"),
        ({**without(*SHARDS, "model.safetensors.index.json"), "pytorch_model.bin": b""}, "pytorch_model.bin is empty"),
    ],
)
def test_folders_that_are_not_whole(files: dict[str, bytes], message: str, tmp_path: Path):
    folder = written(tmp_path / "model", files)
    assert message in refused(str(folder))
    assert hub.locate(str(folder)) is None


@pytest.mark.parametrize("name", ["./nowhere", "nowhere", "/no/where", "a/b/c"])
def test_what_is_neither_a_folder_nor_an_id(name: str, server: HubServer):
    message = refused(name)
    assert "config.json" in message
    assert "tokenizer" in message
    assert not server.requests


def test_the_home_folder_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = written(tmp_path / "model", CHECKPOINT)
    assert hub.locate("~/model") == folder == hub.fetch("~/model", offline=True)


# The cache


def snapshot(cache: Path, commit: str, files: dict[str, bytes]) -> Path:
    return written(cache / "models--some-org--small.Model_1" / "snapshots" / commit, files)


def test_the_snapshot_of_main_is_taken_unless_it_is_partial(cache: Path):
    old, new = snapshot(cache, "a" * 40, CHECKPOINT), snapshot(cache, "b" * 40, CHECKPOINT)
    ref = cache / "models--some-org--small.Model_1" / "refs" / "main"
    ref.parent.mkdir()
    for chosen, other in ((old, new), (new, old)):
        ref.write_text(chosen.name)
        assert hub.locate(ID) == chosen == hub.fetch(ID, offline=True, say=never)
        (chosen / SHARDS[2]).unlink()
        assert hub.locate(ID) == other
        (chosen / SHARDS[2]).symlink_to("../../blobs/gone")
        assert hub.locate(ID) == other
        (chosen / SHARDS[2]).unlink()
        written(chosen, CHECKPOINT)


def test_revisions(tmp_path: Path):
    assert hub.revision(tmp_path / "snapshots" / ("0" * 40)) == "0" * 40
    assert hub.revision(tmp_path / "snapshots" / "main") is None
    assert hub.revision(tmp_path / ("0" * 40)) is None


# Downloads


def test_a_download(server: HubServer, cache: Path, monkeypatch: pytest.MonkeyPatch):
    said: list[str] = []

    def say(line: str) -> None:
        assert not [request for request in server.requests if "/resolve/" in request]
        said.append(line)

    folder = hub.fetch(ID, offline=False, say=say)
    assert folder.is_relative_to(cache)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == CHECKPOINT
    assert server.fetched() == sorted(CHECKPOINT)
    commit = server.commit(ID)
    assert hub.revision(folder) == commit
    assert len(said) == 1
    assert said[0].startswith(f"Downloading {ID} at {commit[:12]}: 0.3 MB in {len(CHECKPOINT)} files into {cache} (")

    server.requests.clear()
    assert hub.locate(ID) == folder == hub.fetch(ID, offline=True, say=never) == hub.fetch(ID, offline=False, say=never)
    assert not server.requests


def test_weights_come_last(server: HubServer):
    hub.fetch(ID, offline=False, say=lambda line: None)
    order = [request.rpartition("/")[2] for request in server.requests if request.startswith("GET") and "/resolve/" in request]
    weights = {*SHARDS, "model.safetensors.index.json"}
    assert set(order[len(CHECKPOINT) - len(weights) :]) == weights


def test_bin_weights_are_fetched_where_there_are_no_others(server: HubServer):
    server.repos[ID] = {"config.json": b"{}", "pytorch_model.bin": b"x" * 20_000, "tokenizer.json": b"{}", "code.py": b""}
    folder = hub.fetch(ID, offline=False, say=lambda line: None)
    assert sorted(file.name for file in folder.iterdir()) == ["config.json", "pytorch_model.bin", "tokenizer.json"]


def test_what_is_in_the_cache_is_neither_counted_nor_fetched(server: HubServer, cache: Path):
    said: list[str] = []
    hub.fetch(ID, offline=False, say=said.append)
    snapshot(cache, server.commit(ID), {})
    (cache / "models--some-org--small.Model_1" / "snapshots" / server.commit(ID) / SHARDS[0]).resolve().unlink()
    assert hub.locate(ID) is None
    server.requests.clear()
    hub.fetch(ID, offline=False, say=said.append)
    assert ": 0.1 MB in 1 file into" in said[1]
    assert server.fetched() == [SHARDS[0]]


@pytest.mark.parametrize("switch", ["--offline", "HF_HUB_OFFLINE=1", "TRANSFORMERS_OFFLINE=yes", "HF_HUB_OFFLINE"])
def test_offline_asks_nothing(switch: str, server: HubServer, monkeypatch: pytest.MonkeyPatch):
    name, _, value = switch.partition("=")
    if value:
        monkeypatch.setenv(name, value)
    elif name != "--offline":
        monkeypatch.setattr(constants, name, True)
    message = refused(offline=name == "--offline")
    assert f"{switch} refuses" in message
    assert f"hf download {ID}" in message
    assert "--checkpoint NAME=DIR" in message
    assert not server.requests


def test_offline_says_what_a_partial_snapshot_lacks(server: HubServer, cache: Path):
    snapshot(cache, "a" * 40, without(SHARDS[1]))
    assert f"lacks 1 of 3 shards, first {SHARDS[1]}" in refused(offline=True)


@pytest.mark.parametrize(
    ("kind", "refusal", "message"),
    [
        ("listing", (404, "RepoNotFound"), "neither a folder here nor a model"),
        ("listing", (401, ""), "HF_TOKEN"),
        ("listing", (403, ""), "HF_TOKEN"),
        ("listing", (500, ""), "answered 500"),
        ("files", (403, "GatedRepo"), "accept its conditions"),
        ("files", (401, "GatedRepo"), "accept its conditions"),
    ],
)
def test_refusals(kind: str, refusal: tuple[int, str], message: str, server: HubServer):
    setattr(server, kind, refusal)
    assert message in refused()
    assert hub.locate(ID) is None


def test_an_adapter_is_not_fetched(server: HubServer):
    server.repos[ID] |= {"adapter_config.json": b"{}", "adapter_model.safetensors": safetensors(9)}
    assert "merge it into its base model first" in refused()
    assert not server.fetched()
    adapter = ["adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"]
    assert hub.wanted([*adapter, "model.safetensors.index.json", "config.json", "odd.safetensors"]) == [
        "model.safetensors.index.json",
        "config.json",
        "odd.safetensors",
    ]


# Original checkpoints, whose tower is a repository of its own


@pytest.fixture
def published(server: HubServer, tmp_path: Path) -> HubServer:
    """An original LLaVA-1.5 and its CLIP."""
    for name, make in ((LLAVA, originals.llava15), (originals.CLIP, originals.clip)):
        made = make(tmp_path / "made" / name.partition("/")[2])
        server.repos[name] = {file.name: file.read_bytes() for file in made.iterdir()}
    return server


def own(offline: bool = False) -> Models:
    return Models({"x": LLAVA}, {"x": "llava"}, offline=offline)


def test_the_tower_of_an_original_checkpoint_is_fetched_too(published: HubServer, cache: Path):
    said: list[str] = []
    record = loading.fetched(own().record("x"), offline=False, clip=False, say=said.append)
    assert [line.split()[1] for line in said] == [LLAVA, originals.CLIP]
    assert record.clip == str(hub.locate(originals.CLIP))
    published.requests.clear()
    again = loading.fetched(own().record("x"), offline=True, clip=True, say=never)
    assert again == record == loading.fetched(record, offline=True, clip=True, say=never)
    model, _ = loading.load(record, device="cpu", dtype=torch.float32, attn="sdpa")
    assert model.config.vision_config.hidden_size == originals.VISION["hidden_size"]
    assert not published.requests


def test_a_tower_that_cannot_be_fetched(published: HubServer):
    clip = published.repos.pop(originals.CLIP)
    with pytest.raises(UserError, match=f"needs its vision tower {originals.CLIP} too, which `hf download {originals.CLIP}`"):
        loading.fetched(own().record("x"), offline=False, clip=False, say=lambda line: None)
    assert hub.locate(LLAVA)
    published.repos[originals.CLIP] = clip
    published.requests.clear()
    for check in (loading.check_checkpoint, partial(loading.fetched, clip=False)):
        with pytest.raises(UserError, match=rf"no weights of its vision tower.*`hf download {originals.CLIP}`"):
            check(own().record("x"), offline=True)
    assert not published.requests


def test_relevance_of_a_checkpoint_on_the_hub_is_by_the_published_clip(published: HubServer, cache: Path):
    published.repos[ID] = CHECKPOINT
    record = Models({"x": ID}, {"x": "llava"}).record("x")
    assert loading.fetched(record, offline=False, clip=False, say=lambda line: None).clip == originals.CLIP
    assert hub.locate(originals.CLIP) is None
    found = loading.fetched(record, offline=False, clip=True, say=lambda line: None)
    assert found.clip == str(hub.locate(originals.CLIP))


def test_an_unknown_name(server: HubServer):
    assert "Check the spelling" in refused("some-org/nothing")


def test_no_connection(server: HubServer, monkeypatch: pytest.MonkeyPatch):
    point_to("http://127.0.0.1:9", monkeypatch)  # nobody listens to the port for discarding
    message = refused()
    assert "http://127.0.0.1:9 cannot be reached" in message
    assert f"{ID} is neither a folder here nor in the cache" in message
    assert "Check the spelling" in message
    assert "--checkpoint NAME=DIR" in message


def test_a_hub_that_does_not_answer(server: HubServer, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 0.05)
    server.delay = 0.5
    assert "did not answer in time" in refused()


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["config.json"], "has no config.json"),
        (["tokenizer.json"], "has no tokenizer"),
        ([*SHARDS, "model.safetensors.index.json"], ""),
    ],
)
def test_repositories_that_are_no_checkpoints(names: list[str], message: str, server: HubServer):
    server.repos[ID] = {**without(*names), "weights.pth": b""}
    assert (message or "has no weights") in refused()
    assert not server.fetched()


def test_too_little_room(server: HubServer, monkeypatch: pytest.MonkeyPatch):
    size = sum(len(data) for data in CHECKPOINT.values())
    usage = type(shutil.disk_usage("/"))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 0, int(size * 1.04)))
    assert "HF_HOME=DIR" in refused()
    assert not server.fetched()
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 0, int(size * 1.06)))
    monkeypatch.setattr(file_download, "_check_disk_space", lambda *_: None)
    assert hub.fetch(ID, offline=False, say=lambda line: None)


def test_a_download_that_breaks_off_is_completed_by_the_next(server: HubServer, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # the client waits between its own attempts
    server.cut[SHARDS[1]] = 5_000
    message = refused()
    assert "interrupted" in message
    assert "go on" in message
    assert hub.locate(ID) is None
    server.cut.clear()
    server.requests.clear()
    folder = hub.fetch(ID, offline=False, say=lambda line: None)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == CHECKPOINT
    assert "config.json" not in server.fetched()
    assert SHARDS[1] in server.fetched()


def test_a_spoilt_file_in_the_cache_is_fetched_again_when_deleted_as_told(server: HubServer):
    folder = hub.fetch(ID, offline=False, say=lambda line: None)
    spoilt = (folder / SHARDS[1]).resolve()
    spoilt.write_bytes(b"short")
    assert hub.locate(ID) is None
    assert f"Delete {spoilt} and" in refused()
    spoilt.unlink()
    assert hub.fetch(ID, offline=False, say=lambda line: None) == folder == hub.locate(ID)


def test_a_cache_that_cannot_be_written(server: HubServer, cache: Path):
    cache.mkdir()
    (cache / "models--some-org--small.Model_1").write_text("in the way")
    assert f"cannot be written into {cache}" in refused()
