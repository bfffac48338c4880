"""Importing VLMEvalKit once, and leaving the process as it was: gradients, seeds, TLS, environment, logging.

Works for the PyPI distribution (ms-vlmeval) and for a checkout of the GitHub repository on the path.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import multiprocessing
import os
import random
import ssl
import sys
import tempfile
import urllib.request
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import import_module, metadata
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

from ..errors import UserError

MARKER = "Failed to obtain answer via API."  # what VLMEvalKit's runner recognises and asks again on the next run


@dataclass(frozen=True)
class Host:
    """VLMEvalKit's modules, and what to call it beside a score."""

    config: Any
    dataset: Any
    vlm: Any
    smp: Any
    label: str


@cache
def host() -> Host:
    """VLMEvalKit, imported on the first call (seconds). UserError when it, or something it needs, is not installed."""
    # On by default in the PyPI distribution, and not among its dependencies. Read later again, so it stays set.
    os.environ.setdefault("VLMEVALKIT_USE_MODELSCOPE", "0")
    with undone(), _no_new_folder(), _no_chatter():
        try:
            modules = {name: import_module(f"vlmeval.{name}") for name in ("smp", "dataset", "vlm", "config")}
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] == "vlmeval":
                raise UserError("VLMEvalKit is not installed: pip install 'ms-vlmeval>=0.0.20,<0.0.21'.") from error
            raise UserError(f"VLMEvalKit needs the package '{error.name}': pip install {error.name}.") from error
        except (ImportError, OSError) as error:  # a compiled package without its system libraries
            advice = "On Debian or Ubuntu: apt-get install libgl1 libglib2.0-0."
            raise UserError(f"VLMEvalKit cannot be imported: {error}. {advice}") from error
    _mend_json(modules["smp"])
    return Host(**modules, label=_label())


@contextlib.contextmanager
def undone() -> Iterator[None]:
    """Undo what happens inside to gradients, random states, TLS checks, environment, path, logging and warnings."""
    import numpy as np
    import torch

    grad, seed, state = torch.is_grad_enabled(), torch.initial_seed(), torch.get_rng_state()
    gpus: Any = torch.cuda  # typed in some releases of torch only
    cuda = gpus.get_rng_state_all() if gpus.is_initialized() else None
    python, numpy, tls = random.getstate(), np.random.get_state(), ssl._create_default_https_context
    before, path, root = dict(os.environ), list(sys.path), logging.getLogger()
    handlers, level = list(root.handlers), root.level
    root.addHandler(logging.NullHandler())  # keeps `basicConfig` inside from adding a handler that prints
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        root.handlers[:], root.level = handlers, level
        _set_environment({name: before.get(name) for name in {*before, *os.environ} if before.get(name) != os.environ.get(name)})
        sys.path[:] = path
        ssl._create_default_https_context = tls
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_grad_enabled(grad)
        torch.manual_seed(seed)  # a seed set inside may wait for CUDA to start: this one takes its place
        torch.set_rng_state(state)
        if cuda is not None:
            gpus.set_rng_state_all(cuda)


@contextlib.contextmanager
def _no_new_folder() -> Iterator[None]:
    """Some of the host's classes ask for the data folder as they are defined, which makes ~/LMUData where none is named.

    An empty folder there would later pass for the user's; where the home folder is read-only, the import would fail.
    """
    folder = Path.home() / "LMUData"
    existed = folder.exists()
    spare = {} if existed or os.access(folder.parent, os.W_OK) else {"LMUData": tempfile.gettempdir()}
    try:
        with environment(**spare):
            yield
    finally:
        if not existed:
            with contextlib.suppress(OSError):  # not empty, or another process was faster
                folder.rmdir()


@contextlib.contextmanager
def _no_chatter() -> Iterator[None]:
    """It reports as an error that its own folder in site-packages holds no .env file."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(before)


def _label() -> str:
    """'vlmeval 0.0.20 (ms-vlmeval)', or the version a checkout states."""
    import vlmeval

    here = Path(str(vlmeval.__file__)).resolve().parent
    for name in ("ms-vlmeval", "vlmeval"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found = metadata.distribution(name)
            # A checkout earlier on the path shadows an installed distribution.
            if Path(str(found.locate_file("vlmeval"))).resolve() == here:
                return f"vlmeval {found.version} ({name})"
    return f"vlmeval {getattr(vlmeval, '__version__', 'unknown')} (source checkout)"


def _mend_json(smp: Any) -> None:
    """Its JSON encoder uses names that NumPy 2 dropped: any NumPy number then raises AttributeError."""
    import numpy as np

    def default(self: json.JSONEncoder, value: Any) -> Any:
        if isinstance(value, np.void):
            return None
        if isinstance(value, np.ndarray):
            return value.tolist()
        if isinstance(value, np.complexfloating):
            return {"real": float(value.real), "imag": float(value.imag)}
        return value.item() if isinstance(value, np.generic) else json.JSONEncoder.default(self, value)

    encoder = getattr(getattr(smp, "file", smp), "NumpyEncoder", None)
    if encoder is not None and not hasattr(np, "float_"):
        encoder.default = default


@contextlib.contextmanager
def environment(**values: str | None) -> Iterator[None]:
    """Environment variables for a while; None removes one."""
    before = {name: os.environ.get(name) for name in values}
    try:
        _set_environment(values)
        yield
    finally:
        _set_environment(before)


def _set_environment(values: dict[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


@contextlib.contextmanager
def offline() -> Iterator[None]:
    """No download while a dataset is built: the host would write over the user's files without asking."""
    from huggingface_hub import constants

    def refuse(url: str, *_: Any, **__: Any) -> Any:
        raise UserError(f"VLMEvalKit wanted to download {url}. Nothing is downloaded here: fetch the file yourself.")

    retrieve, hub = urllib.request.urlretrieve, constants.HF_HUB_OFFLINE
    urllib.request.urlretrieve, constants.HF_HUB_OFFLINE = refuse, True
    try:
        yield
    finally:
        urllib.request.urlretrieve, constants.HF_HUB_OFFLINE = retrieve, hub


@contextlib.contextmanager
def quiet_scoring(scratch: Path) -> Iterator[None]:
    """For a host's scorer: no progress bars, threads instead of 16 new processes (which take longer than most scoring), and no
    log, into which it writes the key of a judge. scratch: an empty folder for what it would write into /tmp."""
    pool, before, pools = multiprocessing.Pool, logging.root.manager.disable, list[ThreadPool]()

    def threads(*_: Any, **__: Any) -> ThreadPool:
        pools.append(ThreadPool(2))
        return pools[-1]

    logging.disable(logging.CRITICAL)
    multiprocessing.Pool = threads
    sink = io.StringIO()
    try:
        with _own_scratch(scratch), warnings.catch_warnings(), contextlib.redirect_stdout(sink), contextlib.redirect_stderr(sink):
            warnings.simplefilter("ignore")
            yield
    finally:
        for made in pools:
            made.terminate()
        logging.disable(before)
        multiprocessing.Pool = pool


@contextlib.contextmanager
def _own_scratch(folder: Path) -> Iterator[None]:
    """Its circular scorer writes /tmp/<date and time to the second>.xlsx and reads it back: two processes that score within a
    second would read each other's rows."""
    module: Any = import_module("vlmeval.dataset.utils.multiple_choice")
    before = getattr(module, "timestr", None)
    module.timestr = lambda *_, **__: os.path.relpath(os.path.realpath(folder / "scratch"), os.path.realpath("/tmp"))
    try:
        yield
    finally:
        if before is None:
            del module.timestr
        else:
            module.timestr = before
