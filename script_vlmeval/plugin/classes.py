"""What VLMEvalKit's own runner gets from us: a model class and two dataset classes. Imported after `host.host()` only."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from vlmeval.dataset.image_vqa import ImageVQADataset
from vlmeval.dataset.image_yorn import ImageYORNDataset
from vlmeval.smp import LMUDataRoot
from vlmeval.vlm.base import BaseModel

from .. import prompts
from ..benchmarks import read_tsv
from ..cells import Config, Scalar
from ..errors import UserError
from ..scoring import RULES
from .host import MARKER
from .scores import by_rule
from .workbook import read_text

if TYPE_CHECKING:
    from ..runtime import Runtime

log = logging.getLogger(__name__)
_RUNTIMES: dict[str, Runtime] = {}


def runtime_of(model: str) -> Runtime:
    """The loaded model; one for all configurations of it in this process. The last one is kept."""
    if model not in _RUNTIMES:
        from ..runtime import Runtime

        _RUNTIMES.clear()  # one model in memory
        _RUNTIMES[model] = Runtime.load(model)
    return _RUNTIMES[model]


class PrunedVLM(BaseModel):  # type: ignore[misc]
    """A configuration as a VLMEvalKit model: the runner's messages, answered by the same runtime as our own runner's.

    A model that cannot be loaded raises when it is built. A sample that fails never does: the runner gets the marker that it
    asks again on a rerun, and the reason is logged.
    """

    INTERLEAVE = True
    VIDEO_LLM = False  # frames arrive as pictures

    def __init__(self, config: str, params: Mapping[str, Scalar] | None = None, **_: Any) -> None:
        """`config` is a name such as 'tiny_script_16'; what the runner adds for other models (use_vllm) is ignored."""
        super().__init__()
        from ..runtime import method_of

        self.config = Config.parse(config, params or {})
        self.method = method_of(self.config)
        self.runtime = runtime_of(self.config.model)

    def generate(self, message: Any, dataset: Any = None) -> str:
        """As the base class, but texts stay texts: it would open one that reads like a path and download one like a URL."""
        if isinstance(message, list) and all(isinstance(part, dict) for part in message):
            return self.generate_inner(message, dataset)
        answer: str = super().generate(message, dataset)
        return answer

    def use_custom_prompt(self, dataset: str) -> bool:
        """Whether published numbers asked in LLaVA's words, which the host's dataset has not."""
        return prompts.default_style(dataset) == "llava"

    def build_prompt(self, line: Any, dataset: str) -> list[dict[str, str]]:
        """The message for a row of such a benchmark, as our own runner sends it."""
        images = self.dump_image(line, dataset)
        pictures = [{"type": "image", "value": str(path)} for path in ([images] if isinstance(images, str) else images)]
        return prompts.restyled(dataset, pictures, _cells(line, dataset), "llava")

    def generate_inner(self, message: Sequence[Mapping[str, str]], dataset: Any = None) -> str:
        """The answer to one message. `dataset` is a name, or for video the dataset itself; it says how long answers may be."""
        name = str(getattr(dataset, "dataset_name", dataset))
        try:
            prepared = self.runtime.prepare([[dict(part) for part in message]])
            longest = prompts.max_new_tokens(name, prompts.default_style(name))
            return self.runtime.answer(prepared, self.method, self.config.budget, max_new_tokens=longest)[0].text
        except Exception as error:
            log.error("%s could not answer a sample of %s: %s: %s", self.config, name, type(error).__name__, error)
            return MARKER


def _cells(line: Any, dataset: str) -> dict[str, str]:
    """A row's cells as they stand in the table's file, which is how our own runner reads them: the host's reading turns "None"
    into an empty cell and 2 into 2.0. Its own cells where the file does not have the row."""
    cells = {str(name): "" if value is None or value != value else str(value) for name, value in dict(line).items()}
    table = Path(LMUDataRoot()) / f"{dataset}.tsv"
    return _table(table, table.stat().st_mtime_ns).get(cells.get("index", "").lstrip("0"), cells) if table.is_file() else cells


@lru_cache(maxsize=1)
def _table(path: Path, changed: int) -> dict[str, dict[str, str]]:
    """The rows of a table without their pictures, by index without leading zeros; none of a table that cannot be read."""
    try:
        return {row["index"].lstrip("0"): row for row in read_tsv(path, ("index",), skip=("image",))}
    except UserError:
        return {}


def embedded_table(name: str, folder: Path) -> Path:
    """The TSV of an embedded benchmark in a data folder; made there when it, or its pictures, are not."""
    from ..tiny import write_benchmark

    path = folder / f"{name}.tsv"
    # A folder that was moved keeps the table, but the absolute paths in it lead nowhere.
    if path.is_file() and not all(Path(row["image_path"]).is_file() for row in read_tsv(path, ("index", "image_path"))[::50]):
        path.unlink()
    return write_benchmark(name, folder)


class ShapesVQA(ImageVQADataset):  # type: ignore[misc]
    """Open questions about drawn scenes, scored by exact match (the host's own scorer needs ten references)."""

    DATASET_URL: dict[str, str] = {"ShapesVQA": ""}  # noqa: RUF012 - the host's attribute
    DATASET_MD5: dict[str, str] = {}  # noqa: RUF012

    def load_data(self, dataset: str) -> pd.DataFrame:
        return read_text(embedded_table(dataset, Path(LMUDataRoot())))

    def evaluate(self, eval_file: str, **_: Any) -> pd.DataFrame:
        return pd.DataFrame([by_rule(RULES["exact"], Path(eval_file)).metrics])


class ShapesYN(ImageYORNDataset):  # type: ignore[misc]
    """Two yes/no questions for each drawn scene, scored as MME is."""

    DATASET_URL: dict[str, str] = {"ShapesYN": ""}  # noqa: RUF012
    DATASET_MD5: dict[str, str] = {}  # noqa: RUF012

    def load_data(self, dataset: str) -> pd.DataFrame:
        return read_text(embedded_table(dataset, Path(LMUDataRoot())))

    def evaluate(self, eval_file: str, **_: Any) -> pd.DataFrame:
        return pd.DataFrame([by_rule(RULES["pairs"], Path(eval_file)).metrics])

    @classmethod
    def report_primary_metric(cls, metrics: dict[str, Any] | None) -> dict[str, Any]:
        """Left to itself the host would name `acc` as the main figure."""
        return {name: value for name, value in (metrics or {}).items() if name == "total"}


EMBEDDED = (ShapesVQA, ShapesYN)
