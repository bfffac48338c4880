"""What a user may call a benchmark: plain names, aliases, VLMEvalKit's names, groups, and a suffix for the frames of a video."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ..errors import UserError
from .records import RECORDS, Benchmark

_IMAGE10 = "VQAv2 GQA VizWiz ScienceQA TextVQA POPE MME MMBench MMBench_CN MMVet".split()
_VIDEO4 = "MVBench Video-MME MLVU LongVideoBench".split()
_VIDEOQA4 = "TGIF-QA MSVD-QA MSRVTT-QA ActivityNet-QA".split()
GROUPS: dict[str, list[str]] = {
    "image10": _IMAGE10,  # what Script and CDPruner report
    "video4": _VIDEO4,
    "videoqa4": _VIDEOQA4,
    "script14": _IMAGE10 + _VIDEO4,  # fourteen, as Script reports; which four video sets it means is stated nowhere
    "all18": _IMAGE10 + _VIDEO4 + _VIDEOQA4,
}
_FRAMES = re.compile(r"(?P<base>.+?)_(?:(?P<frames>\d+)frames?|(?P<fps>\d+(?:\.\d+)?)fps)", re.IGNORECASE)


def _key(name: str) -> str:
    """Names count as equal without regard to case, hyphens, underscores and blanks."""
    return re.sub(r"[\s_-]+", "", name.lower())


_BY_KEY = {_key(name): record for record in RECORDS for name in (record.host, record.name, *record.aka)}
_BY_KEY |= {_key(record.name): record for record in RECORDS}  # a plain name before a table's
_GROUP_OF = {_key(name): members for name, members in GROUPS.items()}


def known_names() -> set[str]:
    """Everything of ours that can be named, for "did you mean"."""
    return {name for record in RECORDS for name in (record.name, record.host, *record.aka)} | set(GROUPS)


def resolve(name: str) -> Benchmark:
    """The benchmark of a name. Names that are not ours are left to the host, which knows whether they exist
    (`plugin.open_dataset` answers "did you mean" over both lists).

    `MVBench_16frame` and `MVBench_1fps` are MVBench with so many frames of each video, under a name of their own; the plain name
    has as many as the model is made for. UserError for an empty name, a number of frames that cannot be, or frames of pictures.
    """
    asked = name.strip()
    if not asked:
        raise UserError("The name of a benchmark is empty. `--list data` shows the names.")
    if asked.lower().endswith(".tsv"):
        stem = re.sub(r"[^\w.-]+", "_", Path(asked).stem)
        return Benchmark(stem, str(Path(asked).expanduser()), "tsv", "exact", "accuracy", note="your own table")
    if found := _BY_KEY.get(_key(asked)):
        return found
    cut = _FRAMES.fullmatch(asked)
    base = _BY_KEY.get(_key(cut["base"])) if cut else None
    if cut is None or base is None:
        return Benchmark(asked, asked, "host")
    if base.modality != "video":
        raise UserError(f"'{asked}': {base.name} shows pictures, which have no frames. Name it {base.name}.")
    frames, fps = int(cut["frames"] or 0), float(cut["fps"] or 0)
    if not (frames or fps):
        raise UserError(f"'{asked}': a video cannot be shown in no frames. Name at least 1, as {base.name}_8frame.")
    suffix = f"{frames}frame" if frames else f"{fps:g}fps"
    return replace(base, name=f"{base.name}_{suffix}", frames=frames or None, fps=fps or None)


def plain(benchmark: Benchmark) -> Benchmark:
    """Without a number of frames: what is prepared, and what a name with a suffix is a way to show."""
    return _BY_KEY.get(_key(benchmark.host), benchmark)


def expand(names: Sequence[str]) -> list[Benchmark]:
    """The benchmarks of names and groups, in their order, each once; `video4_8frame` is all four with 8 frames. UserError for two
    tables of one name, which would share a folder."""
    found: dict[str, Benchmark] = {}
    for name in (member for asked in names for member in _members(asked)):
        benchmark = resolve(name)
        if found.setdefault(benchmark.name, benchmark).host != benchmark.host:
            before = found[benchmark.name].host
            raise UserError(f"'{before}' and '{benchmark.host}' would both be called '{benchmark.name}': rename one of them.")
    return list(found.values())


def _members(asked: str) -> list[str]:
    """The names in a group, with what stands behind the group's; a name that is none stands for itself."""
    cut = _FRAMES.fullmatch(asked.strip())
    group = cut["base"] if cut else asked
    suffix = asked.strip()[len(group) :] if cut else ""
    return [f"{name}{suffix}" for name in _GROUP_OF.get(_key(group), [group])]
