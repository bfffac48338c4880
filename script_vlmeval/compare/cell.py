"""A finished cell's folder, as a comparison needs it: its result, what its rows are worth, its settings and answers."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ..cells import Config
from ..draw import Row, at, number
from ..errors import UserError
from ..files import read_json
from ..report.worth import Worths, again, load_worth, unlike
from ..store import CELL, RESULT, WORTH, CellStore


class Cell:
    """A finished cell's folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def name(self) -> str:
        return f"{self.folder.parent.name}/{self.folder.name}"

    @cached_property
    def row(self) -> Row:
        data = read_json(self.folder / RESULT) or {}
        score, n = number(data.get("score")), data.get("n")
        if data.get("unscored"):
            raise UserError(f"'{self.folder}' has answers and no score: {data['unscored']}.")
        if score is None or not isinstance(n, int):
            raise UserError(f"'{self.folder}' holds no result of this program: `{again(self.folder)}` writes it anew.")
        failed = data["failed"] if isinstance(data.get("failed"), int) else 0
        return Row(Config.parse(self.folder.parent.name), self.folder.name, score, number(data.get("stderr")), n, failed, data)

    @cached_property
    def worths(self) -> Worths:
        """What each row is worth. UserError where that is not known, or is not what the score is made of."""
        path = self.folder / WORTH
        if not path.exists():
            raise UserError(
                f"'{self.folder}' does not say what its rows are worth (no {WORTH}): `{again(self.folder)}`, with the other "
                "flags of its run, scores the answers again and writes it, unless its scorer knows the whole alone."
            )
        try:
            found = load_worth(path)
        except UserError as error:
            raise UserError(f"'{path}' is damaged: {error}; `{again(self.folder)}` writes it anew.") from error
        if why := unlike(found, self.row):
            raise UserError(
                f"'{self.folder}' has rows that do not explain its score ({WORTH}: {why}): "
                f"`{again(self.folder)}` scores it again."
            )
        if np.isnan(found.points).all():
            raise UserError(
                f"'{self.folder}' cannot be compared row by row: its scorer says which rows are right, and not what each adds "
                "to the score."
            )
        return found

    @cached_property
    def settings(self) -> Mapping[str, Any]:
        found = read_json(self.folder / CELL) or at(self.row.data, "fingerprint")
        return found if isinstance(found, dict) else {}

    def said(self) -> dict[str, str | None]:
        """Row index -> its answer, None of a row that failed."""
        store = CellStore(self.folder.parents[1], self.folder.parent.name, self.folder.name, self.settings)
        return {record["index"]: record.get("prediction") for record in store.records(store.lines().values())}
