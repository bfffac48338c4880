"""What the harness costs around the model, for `sweep.py`: a runtime that answers at once, and a table in VQAv2's layout.

Opening is reading the table; asking and storing is everything between that and the workbook, durable answers on disk included;
the workbook is written and the score computed from the same answers. Decoding pictures is the model's side, and left out.
"""

from __future__ import annotations

import csv
import functools
import resource
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from script_vlmeval import sweep
from script_vlmeval.backbones import BACKBONES, Backbone
from script_vlmeval.benchmarks import expand
from script_vlmeval.cells import Config
from script_vlmeval.errors import UserError
from script_vlmeval.inputs import Sample
from script_vlmeval.plugin import Dataset, host_label
from script_vlmeval.runtime import Answer, Prepared, Runtime

TABLE, PICTURES = "VQAv2_VAL", 16
PARTS = ("opening", "asking and storing", "workbook", "score")
_COLUMNS = ("index", "image_path", "question", "answer", "question_type", "answer_type")
_KINDS = ("what is the", "how many", "is the", "what color is the")
_SAID = ("yes", "no", "2", "red", "a dog", "on the table")


@dataclass
class Cost:
    """Seconds of each part; bytes of memory that the process held at most, before the run (imports) and in all."""

    rows: int
    seconds: dict[str, float] = field(default_factory=dict)
    imports_bytes: int = 0
    peak_bytes: int = 0


class Instant(Runtime):
    """Answers at once, without a model, as many tokens as LLaVA-1.5's would enter."""

    def __init__(self, record: Backbone) -> None:
        self.record, self.device = record, "cpu"

    def read(self, message: Any, style: str = "auto") -> Sample:
        text = next(part["value"] for part in message if part["type"] == "text")
        return Sample((), (), text, text, "0")

    def prepare(self, items: Sequence[Any], style: str = "auto") -> Prepared:
        return Prepared({}, [item.question for item in items], [item.digest for item in items], None)

    def collate(self, samples: Sequence[Any], style: str = "auto") -> Prepared:
        return self.prepare(samples, style)

    def place(self, prepared: Prepared) -> Prepared:
        return prepared

    @contextmanager
    def batch(self) -> Iterator[None]:
        yield

    def encode(self, prepared: Prepared) -> None: ...

    def ready(self, method: Any) -> None: ...

    def let_go(self) -> None: ...

    def answer(self, prepared: Prepared, *_: Any, **__: Any) -> list[Answer]:
        layers = [616] * BACKBONES["llava"].layers
        counts: Mapping[str, Any] = {"visual_full": 576, "visual_kept": 576.0, "between": 0, "text": 40, "layers": layers}
        said = [_SAID[len(question) % len(_SAID)] for question in prepared.questions]
        return [Answer(text, {**counts, "relevance": "none"}) for text in said]


def write_table(folder: Path, rows: int) -> None:
    """A table as `prepare` writes VQAv2's, its pictures a few small ones."""
    from PIL import Image

    draw = np.random.default_rng(0)
    pictures = [folder / "val2014" / f"COCO_val2014_{i:012d}.jpg" for i in range(PICTURES)]
    pictures[0].parent.mkdir(parents=True)
    for path in pictures:
        Image.fromarray(draw.integers(0, 256, (48, 64, 3), dtype=np.uint8)).save(path)
    with (folder / f"{TABLE}.tsv").open("w", encoding="utf-8", newline="") as file:
        out = csv.writer(file, delimiter="\t", lineterminator="\n")
        out.writerow(_COLUMNS)
        for i in range(rows):
            kind = _KINDS[i % len(_KINDS)]
            answers = [_SAID[k] for k in draw.integers(0, len(_SAID), 10)]
            question = f"{kind.capitalize()} thing number {i} {'of these ' * (i % 5)}in the picture?"
            out.writerow([262_148_000 + i, pictures[i % PICTURES], question, str(answers), kind, "other"])


@contextmanager
def clocked(seconds: dict[str, float]) -> Iterator[None]:
    """Adds up how long the parts take, wherever the package has their functions by name."""

    def timed(part: str, function: Any) -> Any:
        @functools.wraps(function)
        def run(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                seconds[part] = seconds.get(part, 0.0) + time.perf_counter() - start

        return run

    places = [module for name, module in sorted(sys.modules.items()) if name.startswith("script_vlmeval")]
    with ExitStack() as stack:
        for part, name in (("opening", "open_dataset"), ("workbook", "write_predictions")):
            found = {id(module): module for module in places if callable(getattr(module, name, None))}
            functions = {id(module): timed(part, getattr(module, name)) for module in found.values()}
            for key, module in found.items():
                stack.enter_context(mock.patch.object(module, name, functions[key]))
        stack.enter_context(mock.patch.object(Dataset, "score", timed("score", Dataset.score)))
        yield


def peak() -> int:
    """Bytes; Linux counts in KiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def measure(rows: int, folder: Path) -> Cost:
    """One configuration over a table of so many rows in the data folder. UserError where a cell fails."""
    write_table(folder, rows)
    host_label()  # imports VLMEvalKit
    cost = Cost(rows, imports_bytes=peak())
    options = sweep.Options(folder / "work", device="cpu", quiet=True)
    with clocked(cost.seconds), mock.patch.object(Runtime, "load", return_value=Instant(BACKBONES["tiny"])):
        start = time.perf_counter()
        outcome = sweep.run([Config.parse("tiny_full")], expand(["VQAv2"]), options)
        total = time.perf_counter() - start
    if outcome.status:
        raise UserError(f"The sweep failed: {[*outcome.failed.values(), *outcome.rows.values()][0]}.")
    cost.seconds["asking and storing"] = total - sum(cost.seconds.values())
    cost.peak_bytes = peak()
    return cost


def shown(cost: Cost) -> str:
    """The lines of a measurement."""
    lines = [f"{cost.rows:,} rows in VQAv2's layout, one configuration, a model that answers at once"]
    lines += [
        f"  {part:20} {1e3 * cost.seconds[part] / cost.rows:8.3f} ms a sample {cost.seconds[part]:9.2f} s" for part in PARTS
    ]
    total = sum(cost.seconds.values())
    lines.append(f"  {'together':20} {1e3 * total / cost.rows:8.3f} ms a sample {total:9.2f} s")
    lines.append(f"  peak memory {cost.peak_bytes / 2**20:,.0f} MiB, of it {cost.imports_bytes / 2**20:,.0f} after imports")
    return "\n".join(lines)
