"""What every test may rely on: few threads, no display, no network, an empty data folder of its own, the recorded oracles."""

from __future__ import annotations

import gc
import importlib.util
import os
import socket
import sys
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import settings

ROOT = Path(__file__).resolve().parents[1]

# Set before anything imports torch, transformers or vlmeval: each reads its own once, at import. Subprocesses inherit them.
for variable, value in {
    "OMP_NUM_THREADS": "1",  # the models are small, and threads that wait for each other on a busy machine cost more
    "MKL_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "MPLBACKEND": "Agg",
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "VLMEVALKIT_USE_MODELSCOPE": "0",
}.items():
    os.environ[variable] = value
if not Path("/dev/nvidia0").exists():  # Triton decides at its import whether kernels are compiled or interpreted
    os.environ["TRITON_INTERPRET"] = "1"
for secret in ("OPENAI_API_KEY", "GOOGLE_API_KEY", "HF_TOKEN"):  # no test may reach a judge or a hub by accident
    os.environ.pop(secret, None)

# Times on a busy machine say nothing about the code, and a failure that cannot be repeated helps nobody.
settings.register_profile("repository", deadline=None, derandomize=True)
settings.load_profile("repository")


@pytest.fixture(scope="session", autouse=True)
def offline() -> Iterator[None]:
    """Connections in this process to anything but this computer fail at once."""
    connect = socket.socket.connect

    def local_only(sock: socket.socket, address: object) -> None:
        host = address[0] if isinstance(address, tuple) else ""  # a Unix socket's address is a path
        if host not in ("", "localhost", "::1") and not str(host).startswith("127."):
            raise OSError(f"the tests work without network: {address}")
        connect(sock, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", local_only)
        yield


@pytest.fixture(scope="session", autouse=True)
def data_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """VLMEvalKit's data folder (`LMUData`): empty at the start, so that nobody's own files are read or written."""
    folder = tmp_path_factory.mktemp("LMUData")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LMUData", str(folder))
        yield folder


@pytest.fixture(scope="module", autouse=True)
def settled() -> None:
    """Whatever is there before a file's tests stays, and collections of garbage pass over it: through the million objects that
    the host and transformers make, each takes a third of a second, and over the suite that adds up to minutes."""
    gc.collect()
    gc.freeze()


gc.set_threshold(10_000)  # young objects, too, are looked through less often than by default: most tests make a few thousand


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """While modules are imported, a quarter of the time would go into looking for garbage that is not there."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


def pytest_unconfigure() -> None:
    gc.unfreeze()  # what is never let go is complained of by extension modules at the end of a process


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder (`LMUData`) of a test's own, empty."""
    folder = tmp_path / "data"
    folder.mkdir()
    monkeypatch.setenv("LMUData", str(folder))
    return folder


@pytest.fixture(scope="module")
def quick() -> Iterator[None]:
    """No waiting for locks, nor for the disk: what must survive in most tests is the death of a process, not of the machine."""
    from script_vlmeval.store import lock

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lock, "PATIENCE", 0.0)
        patch.setattr(os, "fsync", lambda fd: None)
        yield


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What tests have to say besides that they passed, also from another process."""
    for report in terminalreporter.getreports("passed"):
        for name, text in report.user_properties:
            if name == "account":
                terminalreporter.write_line(str(text))


@pytest.fixture(scope="module")
def at(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder with a small random checkpoint of a family, each made once."""
    import layouts  # here, since it imports transformers

    made: dict[str, Path] = {}

    def folder(family: str) -> Path:
        if family not in made:
            made[family] = layouts.layout(family, tmp_path_factory.mktemp(family))
        return made[family]

    return folder


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with the oracles and the real pictures: $SHARED, or `shared` beside the repository."""
    folder = Path(os.environ.get("SHARED") or ROOT.parent / "shared")
    if not folder.is_dir():
        pytest.skip(f"no oracles: {folder} is not there (set SHARED to the folder that holds them)")
    return folder


def benchmark(name: str) -> ModuleType:
    """The module `benchmarks/<name>.py`, which is in no package."""
    spec = importlib.util.spec_from_file_location(f"{name}_benchmark", ROOT / "benchmarks" / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look their annotations up
    spec.loader.exec_module(module)
    return module


DRAWN = ("test_plots", "test_report", "test_sheets", "test_page", "test_summary", "test_sweep")  # what looks at a folder's plots


@pytest.fixture(scope="module", autouse=True)
def few_plots(request: pytest.FixtureRequest) -> Iterator[None]:
    """A sweep ends with a folder of plots, which takes longer than all the rest of a small one: elsewhere `accuracy.png` does.
    Of a module, so that sweeps which fixtures make once for all its tests have none either."""
    with pytest.MonkeyPatch.context() as patch:
        if request.path.stem not in DRAWN:
            patch.setattr("script_vlmeval.report.files.plots", lambda *_: [])
        yield
