"""Both sides of `sweep.py`: VLMEvalKit's own loop, one sweep of this harness, and where their answers differ."""

from __future__ import annotations

import contextlib
import io
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from script_vlmeval import sweep
from script_vlmeval.benchmarks import expand
from script_vlmeval.cells import Config
from script_vlmeval.errors import UserError
from script_vlmeval.runtime import Runtime

BENCHMARK = "ShapesVQA"
Answers = dict[str, dict[str, str]]  # configuration -> index -> prediction


# -- records --------------------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Side:
    """One way to get the answers. cpu: seconds of all threads together, which a busy machine does not stretch as it does time."""

    seconds: float
    cpu: float
    answers: int

    @property
    def rate(self) -> float:
        """Answers a second: samples x configurations over the time."""
        return self.answers / self.seconds


@dataclass(frozen=True)
class Difference:
    """An answer that the two sides give differently. gap: between the two largest logits where they part."""

    config: str
    index: str
    host: str
    ours: str
    token: int | None = None
    gap: float | None = None


# -- both sides -----------------------------------------------------------------------------------------------------------------
def now(device: str) -> tuple[float, float]:
    """Seconds of the clock and of the processor, when all that was asked of the device is done."""
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter(), time.process_time()


def since(start: tuple[float, float], device: str, answers: int) -> Side:
    seconds, cpu = (end - begin for begin, end in zip(start, now(device), strict=True))
    return Side(seconds, cpu, answers)


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Without the host's progress bars."""
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        yield


def predictions(workbook: Path) -> dict[str, str]:
    """Index -> prediction, as the cells of a workbook say, whoever wrote it."""
    import pandas as pd

    frame = pd.read_excel(workbook, dtype=str, keep_default_na=False)
    return dict(zip(frame["index"], frame["prediction"], strict=True))


def by_host(configs: Sequence[Config], samples: int, folder: Path, device: str) -> tuple[Side, Answers]:
    """The host's own loop, configuration by configuration. UserError where it failed to get an answer."""
    from script_vlmeval.plugin.host import MARKER, host, undone

    modules = host()
    with undone():
        from vlmeval.inference import infer_data_job
    from script_vlmeval.plugin.classes import PrunedVLM

    sides, found = list[Side](), Answers()
    for config in configs:
        name, place = str(config), folder / str(config)
        place.mkdir(parents=True)
        model, dataset = PrunedVLM(name, dict(config.params)), modules.dataset.build_dataset(BENCHMARK)
        with silent():
            start = now(device)
            infer_data_job(model, work_dir=str(place), model_name=name, dataset=dataset, limit=samples)
            sides.append(since(start, device, samples))
        found[name] = predictions(place / f"{name}_{BENCHMARK}.xlsx")
        if failed := sum(MARKER in said for said in found[name].values()):
            raise UserError(f"VLMEvalKit's loop has no answer to {failed} of {samples} samples of {name}: see the log above.")
    return Side(*(sum(getattr(side, name) for side in sides) for name in ("seconds", "cpu", "answers"))), found


def by_us(configs: Sequence[Config], runtime: Runtime, options: sweep.Options) -> tuple[Side, Answers]:
    """One sweep of the benchmark; the runtime that is loaded stands for what it would load. UserError for a failed cell."""
    with mock.patch.object(Runtime, "load", return_value=runtime):
        start = now(options.device)
        outcome = sweep.run(configs, expand([BENCHMARK]), options)
        side = since(start, options.device, 0)
    if outcome.status:
        reasons = [*map(str, outcome.failed.values()), *(why for _, why in outcome.rows.values())]
        raise UserError(f"The sweep has {len(reasons)} cells with failures, the first: {reasons[0]}.")
    books = {str(c): options.work_dir / str(c) / BENCHMARK / f"{c}_{BENCHMARK}.xlsx" for c in configs}
    answers = {name: predictions(book) for name, book in books.items()}
    return replace(side, answers=sum(map(len, answers.values()))), answers


# -- the comparison -------------------------------------------------------------------------------------------------------------
def parted(host: Answers, ours: Answers) -> list[Difference]:
    """The answers that differ, among those that the host gave. UserError for one that we have not."""
    found = []
    for config, said in host.items():
        for index, answer in said.items():
            if index not in ours[config]:
                raise UserError(f"Our workbook of {config} has no row {index}, the host's has.")
            if answer != ours[config][index]:
                found.append(Difference(config, index, answer, ours[config][index]))
    return found


def explained(difference: Difference, runtime: Runtime, configs: Mapping[str, Config]) -> Difference:
    """Asked again as the host asks: which token is the first that differs, and how far apart its two largest logits are."""
    from script_vlmeval.plugin.classes import PrunedVLM
    from script_vlmeval.plugin.host import host

    dataset, gaps = host().dataset.build_dataset(BENCHMARK), list[float]()

    def look(module: Any, args: Any, logits: torch.Tensor) -> None:
        first, second = logits[0, -1].float().topk(2).values.tolist()
        gaps.append(first - second)

    model = PrunedVLM(difference.config, dict(configs[difference.config].params))
    line = dataset.data[dataset.data["index"].astype(str) == difference.index].iloc[0]
    handle = runtime.model.get_output_embeddings().register_forward_hook(look)
    try:
        model.generate(message=dataset.build_prompt(line), dataset=BENCHMARK)
    finally:
        handle.remove()
    host_words, our_words = difference.host.split(), difference.ours.split()
    same = (a == b for a, b in zip(host_words, our_words, strict=False))
    token = next((i for i, equal in enumerate(same) if not equal), min(len(host_words), len(our_words)))
    gap = gaps[token] if token < len(gaps) else None
    return replace(difference, token=token, gap=gap)
