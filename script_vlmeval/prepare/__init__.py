"""Official downloads into tables in VLMEvalKit's format, checked to the last picture.

recipe.py   what is known of one download: its files, and how rows come out of them
folder.py   finding and reading these files, with errors that name what is missing
endings.py, media.py   whether pictures and videos are whole
table.py, engine.py    the table and its note, written in one step
The rest are the recipes, by kind of question.
"""

from __future__ import annotations

from pathlib import Path

from ..errors import UserError, unknown
from .engine import make
from .recipe import Folder, Prepared, Recipe, Row

__all__ = ["Folder", "Prepared", "Recipe", "Row", "prepare", "recipes"]


def recipes() -> dict[str, Recipe]:
    """Table -> its recipe."""
    from . import choice, choice_videos, reading, videos, vqa, yesno

    return {**vqa.RECIPES, **choice.RECIPES, **yesno.RECIPES, **reading.RECIPES, **videos.RECIPES, **choice_videos.RECIPES}


def prepare(
    name: str,
    source: Path,
    data: Path,
    *,
    quiet: bool = False,
    fresh: bool = False,
    allow_missing: bool = False,
    called: str = "",
) -> Prepared:
    """Makes `data`/<name>.tsv, and <name>.json that says where it came from, out of the official download in `source`.

    `name` is that of the table, such as 'VQAv2_VAL'. `quiet` shows no bars, `fresh` replaces a table that is there,
    `allow_missing` leaves out rows whose pictures or videos are missing or damaged, `called` is the benchmark as the user named
    it, for messages and bars. UserError for whatever cannot be read, is not whole, or would overwrite a table of the user's own.
    """
    known = recipes()
    if name not in known:
        if called and called != name:
            raise UserError(f"{called} is not made from an official download: there is nothing to prepare.")
        raise unknown("table", name, known)
    return make(known[name], source, data, quiet=quiet, fresh=fresh, allow_missing=allow_missing, called=called)
