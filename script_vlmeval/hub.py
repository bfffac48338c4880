"""Where checkpoints come from: a local folder, the hub's cache, or a download that says its size before it begins.

A checkpoint is what transformers' own classes read: config.json, weights and a tokenizer, all in one folder. Nothing else of a
repository is fetched: no Python code, no second copy of the weights in another format, no sub-folders.
"""

from __future__ import annotations

import errno
import glob
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import UserError

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoSibling

# One part of an id such as llava-hf/llava-1.5-7b-hf: letters, digits, - _ and dots; ends in neither - nor a dot.
_PART = re.compile(r"(?!.*(--|\.\.))[A-Za-z0-9_]([A-Za-z0-9_.-]{0,94}[A-Za-z0-9_])?")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_TRUE = {"1", "ON", "YES", "TRUE"}  # what the hub's client takes for true
_EXPECTED = "config.json, weights (model.safetensors, or shards with their index) and a tokenizer"
_TEXT = {"tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "merges.txt", "vocab.txt", "chat_template.jinja"}
_TOKENIZERS = [{name} for name in ("tokenizer.json", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "vocab.txt")]
_TOKENIZERS.append({"vocab.json", "merges.txt"})
_FORMATS = {"model": ".safetensors", "pytorch_model": ".bin"}  # as transformers prefers them
_FOREIGN = ("consolidated", "training_args", "adapter_model")  # original weights, and what is no model at all
_ADAPTER = "adapter_config.json"
_SPARE = 1.05  # of the download's size, so that the disk is not filled to its last byte
_UNWRITABLE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST}


@dataclass(frozen=True)
class _Order:
    """What one download brings into the cache."""

    id: str
    commit: str
    files: list[str]  # of the whole checkpoint
    absent: int  # how many of them are not in the cache yet
    size: int  # of those, in bytes
    cache: Path


def _stderr(line: str) -> None:
    print(line, file=sys.stderr)


def is_id(checkpoint: str) -> bool:
    """Whether this names a model on the hub: org/name in the hub's alphabet, where nothing of that name lies here."""
    parts = checkpoint.split("/")
    named = len(parts) == 2 and all(_PART.fullmatch(part) for part in parts) and not checkpoint.endswith(".git")
    return named and not Path(checkpoint).exists()


def wanted(files: Sequence[str]) -> list[str]:
    """Those of a repository's files that transformers' own classes read, in their order; one format of weights, as it prefers."""
    top = [name for name in files if "/" not in name]
    weights = set(_weights(top))
    described = {name for name in top if name.endswith(".json") and not name.endswith(".index.json") and name != _ADAPTER}
    return [name for name in top if name in weights | described | _TEXT]


def _weights(top: Sequence[str]) -> list[str]:
    """Weights, led by their index if there is one, as `from_pretrained` would choose them; none where it would find none."""
    for stem, suffix in _FORMATS.items():
        index = f"{stem}{suffix}.index.json"
        if stem + suffix in top:
            return [stem + suffix]
        if index in top:
            usual = [name for name in top if re.fullmatch(rf"{stem}-\d+-of-\d+{re.escape(suffix)}", name)]
            other = [name for name in top if name.endswith(suffix) and not name.startswith(_FOREIGN)]
            return [index, *(usual or other)]  # an index may list any name, and is not read before the download
    return []


def _lack(names: Sequence[str]) -> str | None:
    """What a folder with these files lacks to be a checkpoint; None: nothing, as far as names tell."""
    if "config.json" not in names:
        return "config.json"
    if not _weights(names):
        return "weights (model.safetensors or pytorch_model.bin, or shards with their index)"
    return None if any(kind <= set(names) for kind in _TOKENIZERS) else "tokenizer (tokenizer.json or tokenizer.model)"


def check(folder: Path) -> None:
    """UserError where a folder is not a whole checkpoint; reads names, sizes, the index and the headers of safetensors."""
    if not folder.is_dir():
        raise UserError(
            f"There is no folder {folder}. A checkpoint is a folder with {_EXPECTED}, "
            "or the id of a model on the Hugging Face hub, such as llava-hf/llava-1.5-7b-hf."
        )
    names = sorted(file.name for file in folder.iterdir() if file.is_file())  # a cache's link to nothing is no file
    if lack := _lack(names):
        raise UserError(f"{folder} has no {lack}. Expected there: {_EXPECTED}.")
    first = _weights(names)[0]
    shards = _listed(folder / first) if first.endswith(".index.json") else [first]
    if missing := [name for name in shards if not (folder / name).is_file()]:
        raise UserError(
            f"{folder} is half a checkpoint: it lacks {len(missing)} of {len(shards)} shards, first {missing[0]}. "
            "Copy or download the rest into it."
        )
    for name in shards:
        if damage := _damage(folder / name):
            raise _spoilt(folder / name, damage)


def _listed(index: Path) -> list[str]:
    """The shards that an index names. UserError where it names none."""
    try:
        shards = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        shards = []
    if not shards:
        raise _spoilt(index, "is no index of weights: it has no weight_map")
    return shards


def _spoilt(file: Path, damage: str) -> UserError:
    """In a cache the content must go, not the link to it: the client would only link it again."""
    return UserError(f"{file} {damage}. Delete {file.resolve() if file.is_symlink() else 'it'} and fetch it again.")


def _damage(file: Path) -> str | None:
    """Why a file of weights cannot be whole, by its size and header alone; None: it can."""
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            start = stream.read(8)
            if not start:
                return "is empty"
            if start == b"version ":
                return "is a Git LFS pointer, not the file that it points to (git lfs pull brings that)"
            if file.suffix != ".safetensors":
                return None
            length = int.from_bytes(start, "little")
            if 8 + length > size:
                return f"is cut off, or no safetensors file: {size} bytes, and its header alone would be {length}"
            header = json.loads(stream.read(length))
        stop = max((tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"), default=0)
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    except (ValueError, KeyError, TypeError, IndexError, AttributeError):
        return "is no safetensors file: its header cannot be read"
    return None if size == 8 + length + stop else f"has {size} bytes where its header says {8 + length + stop}"


def _complete(folder: Path) -> bool:
    try:
        check(folder)
    except UserError:
        return False
    return True


def _cache() -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def _storage(checkpoint: str) -> Path:
    """A model's folder in the hub's cache."""
    return _cache() / f"models--{checkpoint.replace('/', '--')}"


def _snapshots(checkpoint: str) -> Iterator[Path]:
    """A model's snapshots in the cache: the one that `main` was last, then the others, newest first."""
    storage = _storage(checkpoint)
    ref = storage / "refs" / "main"
    main = ref.read_text(encoding="utf-8").strip() if ref.is_file() else ""
    found = [folder for folder in (storage / "snapshots").glob("*") if folder.is_dir()]
    yield from sorted(found, key=lambda folder: (folder.name != main, -folder.stat().st_mtime, folder.name))


def locate(checkpoint: str) -> Path | None:
    """The folder of a checkpoint that is whole and on this computer: a folder's own, or a snapshot in the hub's cache.

    Never asks the network. A cached snapshot is taken although the hub may have a newer one.
    """
    candidates = _snapshots(checkpoint) if is_id(checkpoint) else iter([Path(checkpoint).expanduser()])
    return next((folder for folder in candidates if _complete(folder)), None)


def revision(folder: Path) -> str | None:
    """The commit of a snapshot in the hub's cache, 40 hexadecimal digits; None for any other folder."""
    folder = folder.absolute()
    return folder.name if folder.parent.name == "snapshots" and _COMMIT.fullmatch(folder.name) else None


def fetch(checkpoint: str, *, offline: bool, say: Callable[[str], None] = _stderr) -> Path:
    """The folder of a checkpoint, downloaded into the hub's cache where it is nowhere on this computer.

    `say` is told what, how much and whereto before the first file is asked for. UserError where there is no such checkpoint, a
    folder is not a whole one, `offline` or HF_HUB_OFFLINE forbids the download, or it fails.
    """
    if not is_id(checkpoint):
        folder = Path(checkpoint).expanduser()
        check(folder)
        return folder
    if found := locate(checkpoint):
        return found
    if switch := _switch(offline):
        raise _forbidden(checkpoint, switch)
    order = _order(checkpoint)
    free = _free(order.cache)
    if order.size * _SPARE > free:
        raise UserError(
            f"{order.id} needs {_size(round(order.size * _SPARE))}, and {order.cache} has {_size(free)} free. "
            "Make room there, or name a folder on another disk with HF_HOME=DIR."
        )
    if order.absent:
        files = f"{order.absent} file{'s' * (order.absent > 1)}"
        what = f"Downloading {order.id} at {order.commit[:12]}: {_size(order.size)} in {files}"
        say(f"{what} into {order.cache} ({_size(free)} free there)")
    return _download(order)


def _switch(offline: bool) -> str | None:
    """What forbids a download, in the user's words; None: nothing."""
    from huggingface_hub import constants

    if offline:
        return "--offline"
    name = "HF_HUB_OFFLINE" if os.environ.get("HF_HUB_OFFLINE") else "TRANSFORMERS_OFFLINE"  # as the client reads them
    value = os.environ.get(name, "")
    if value.upper() in _TRUE:
        return f"{name}={value}"
    return "HF_HUB_OFFLINE" if constants.HF_HUB_OFFLINE else None  # set in this process, or when the client was imported


def _forbidden(checkpoint: str, switch: str) -> UserError:
    state = f"{checkpoint} is neither a folder here nor in the cache {_cache()}"
    if partial := next(_snapshots(checkpoint), None):
        try:
            check(partial)
        except UserError as error:
            state = str(error).partition(". ")[0]
    return UserError(
        f"{state}, and {switch} refuses the download. Run `hf download {checkpoint}` on a connected machine and copy the folder, "
        "or give one with --checkpoint NAME=DIR."
    )


def _order(checkpoint: str) -> _Order:
    """Ask the hub for the current commit and its files. UserError where that is no checkpoint, or there is no answer."""
    from huggingface_hub import HfApi, constants

    try:
        api = HfApi(endpoint=constants.ENDPOINT)
        info = api.model_info(checkpoint, files_metadata=True, timeout=constants.HF_HUB_ETAG_TIMEOUT)
    except Exception as error:  # its HTTP libraries differ between versions
        raise _failure(checkpoint, error, begun=False) from error
    entries = {entry.rfilename: entry for entry in info.siblings or []}
    commit, files = info.sha or "", wanted(list(entries))
    if _ADAPTER in entries:
        raise UserError(f"{checkpoint} holds an adapter (LoRA): merge it into its base model first, and give the folder of that.")
    if lack := _lack(files):
        raise UserError(
            f"{checkpoint} at {commit[:12]} has no {lack}, so transformers cannot load it. "
            "Name a model in transformers' format, or give a folder with --checkpoint NAME=DIR."
        )
    absent = [entries[name] for name in files if not _cached(_storage(checkpoint), commit, entries[name])]
    return _Order(checkpoint, commit, files, len(absent), sum(entry.size or 0 for entry in absent), _cache())


def _cached(storage: Path, commit: str, entry: RepoSibling) -> bool:
    """Whether a file is in the cache, under this commit or, with the same content, under another."""
    content = entry.lfs.sha256 if entry.lfs else entry.blob_id
    return (storage / "snapshots" / commit / entry.rfilename).exists() or bool(content and (storage / "blobs" / content).exists())


def _download(order: _Order) -> Path:
    """Small files first: a snapshot whose weights are all there then lacks nothing, whenever a download was cut off."""
    from huggingface_hub import constants, snapshot_download

    weights = set(_weights(order.files))
    folder = _storage(order.id) / "snapshots" / order.commit
    try:
        for names in ([n for n in order.files if n not in weights], [n for n in order.files if n in weights]):
            patterns = [glob.escape(name) for name in names]
            snapshot_download(
                order.id, revision=order.commit, allow_patterns=patterns, cache_dir=order.cache, endpoint=constants.ENDPOINT
            )
    except Exception as error:  # threads, files, HTTP, and a Rust extension
        raise _failure(order.id, error, begun=True) from error
    check(folder)  # the client may return half a snapshot when the connection is lost between its requests
    return folder


def _failure(checkpoint: str, error: Exception, begun: bool) -> UserError:
    """What a failed request means for the user."""
    from huggingface_hub import constants, errors

    chain = list(causes(error))
    codes = [getattr(getattr(e, "response", None), "status_code", None) for e in chain]
    status = next((code for code in codes if code), None)
    detail = f"{type(chain[-1]).__name__}: {str(chain[-1]).strip().partition(chr(10))[0]}"
    hub = constants.ENDPOINT
    again = "What has arrived is kept: run the same command again to go on." if begun else "Try again later."
    if status in (401, 403) or any(isinstance(e, errors.GatedRepoError) for e in chain):
        return UserError(
            f"{hub} gives no access to {checkpoint} ({status}). If the name is right, the model is gated or private: accept its "
            f"conditions at {hub}/{checkpoint} and log in with `hf auth login`, or set HF_TOKEN."
        )
    if status == 404 and not begun:
        return UserError(
            f"{checkpoint} is neither a folder here nor a model at {hub}. Check the spelling, or whether it is private."
        )
    if status:
        return UserError(f"{hub} answered {status} when asked for {checkpoint}. {again}")
    if unwritable := [e for e in chain if isinstance(e, OSError) and e.errno in _UNWRITABLE]:
        return UserError(f"{checkpoint} cannot be written into {_cache()}: {unwritable[0].strerror}. HF_HOME=DIR names another.")
    if any("Timeout" in type(e).__name__ for e in chain):
        return UserError(f"{hub} did not answer in time when asked for {checkpoint}. {again}")
    if begun:
        return UserError(f"The download of {checkpoint} was interrupted ({detail}). {again}")
    return UserError(
        f"{checkpoint} is neither a folder here nor in the cache, and {hub} cannot be reached ({detail}). Check the spelling and "
        "the connection, or give a folder with --checkpoint NAME=DIR."
    )


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error, what caused it, and so on."""
    seen = set[int]()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _free(folder: Path) -> int:
    """Bytes free on the disk where a folder is, or would be made."""
    there = next(parent for parent in [folder.absolute(), *folder.absolute().parents] if parent.exists())
    return shutil.disk_usage(there).free


def _size(count: int) -> str:
    """A number of bytes in powers of 1000."""
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"
