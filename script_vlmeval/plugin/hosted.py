"""The host's own datasets: which can be scored here, building one without a download, its rows and its prompts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from ..errors import UserError
from .folders import DATA, digest
from .host import environment, host, offline
from .scores import EVALUATORS, OURS

Row = Mapping[str, str]
Message = list[dict[str, str]]


def video_names() -> set[str]:
    known = {str(name) for name in getattr(host().dataset, "supported_video_datasets", {})}
    for cls in host().dataset.DATASET_CLASSES:
        if getattr(cls, "MODALITY", "IMAGE") == "VIDEO":
            known.update(cls.supported_datasets())
    return known


def needs_judge(name: str) -> UserError:
    return UserError(f"'{name}' is scored by a judge model or a scorer of its own: not supported yet.")


def refuse_unscorable(cls: Any, name: str) -> None:
    if cls.__name__ == "ConcatDataset":
        parts = ", ".join(cls.DATASET_SETS[name])
        raise UserError(f"'{name}' is a collection: name its parts instead ({parts}).")
    if cls.evaluate.__qualname__ not in {*EVALUATORS, *OURS}:
        raise needs_judge(name)


def refuse_without_answers(dataset: Any, name: str) -> None:
    columns = [dataset.data[c] for c in ("answer", "answers") if c in dataset.data]
    if not any(column.notna().any() for column in columns):
        raise UserError(f"{name}.tsv holds no answers: this split is scored on its authors' server. Use a split with answers.")


def build(cls: Any, name: str, folder: Path) -> Any:
    """The host's dataset object, with its checksums out of the way: on a mismatch it would download over the user's file."""
    own = cls.__dict__.get("DATASET_MD5")
    cls.DATASET_MD5 = {}
    try:
        with environment(**{DATA: str(folder)}), offline():
            return cls(dataset=name)
    except UserError:
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".rstrip(": ")
        raise UserError(f"VLMEvalKit cannot read {folder / name}.tsv: {reason}.") from error
    finally:
        if own is None:
            del cls.DATASET_MD5
        else:
            cls.DATASET_MD5 = own


def notes_on(cls: Any, name: str, path: Path) -> tuple[str, ...]:
    pin = getattr(cls, "DATASET_MD5", {}).get(name)
    if not pin or digest(path, "md5") == pin:
        return ()
    return (f"{path} differs from the table that this version of VLMEvalKit expects (md5 {pin}): scores may differ too.",)


def rows_of(dataset: Any, text: list[dict[str, str]]) -> tuple[list[dict[str, str]], tuple[str, ...]]:
    """The rows the host kept, as the text of the file; and the indices of those it skipped.

    The host reads with pandas' defaults, which turn "None" into an empty cell and 007 into 7. Where it rearranges the table,
    its own cells are taken.
    """
    table = dataset.data
    positions, indices = list(table.index), [str(index) for index in table["index"]]
    aligned = all(
        isinstance(p, int) and 0 <= p < len(text) and text[p]["index"].lstrip("0") == index.lstrip("0")
        for p, index in zip(positions, indices, strict=True)
    )
    if aligned:
        kept = set(positions)
        return [text[p] for p in positions], tuple(row["index"] for i, row in enumerate(text) if i not in kept)
    records = table.drop(columns=["image"], errors="ignore").to_dict("records")
    return [{str(k): "" if v != v else str(v) for k, v in record.items()} for record in records], ()


def messages_of(dataset: Any, rows: Iterable[Row]) -> Callable[[Row], Message]:
    """The host's own prompt for each of the rows, which stand in the order of its table."""
    position = {row["index"]: i for i, row in enumerate(rows)}

    def message(row: Row) -> Message:
        parts = dataset.build_prompt(dataset.data.iloc[position[row["index"]]])
        return [{str(k): str(v) for k, v in part.items()} for part in parts]

    return message
