"""The video sets with options to choose from, and the open-ended part of MLVU, with the columns of VLMEvalKit's own tables.

`video_path` is absolute, and so is `subtitle_path` where there are subtitles; everything else stands as in VLMEvalKit's tables.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import UserError
from ..scoring import references
from .folder import Folder, pick
from .recipe import VIDEO, Recipe, Row
from .videos import Entry, Videos, as_text, cell


# -- MVBench -------------------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class _Task:
    """A task of MVBench: its videos lie in `home` under video/; bound: its questions are about a part, from start to end."""

    name: str
    home: str
    kind: str = "video"
    bound: bool = False

    @property
    def file(self) -> str:
        return f"{self.name.lower().replace(' ', '_').replace('-', '_')}.json"


_STAR, _CLEVRER, _PERCEPTION = "star/Charades_v1_480/", "clevrer/video_validation/", "perception/videos/"
_MVBENCH = (  # in VLMEvalKit's order, which numbers the rows
    _Task("Action Sequence", _STAR, bound=True),
    _Task("Action Prediction", _STAR, bound=True),
    _Task("Action Antonym", "ssv2_video/"),
    _Task("Fine-grained Action", "Moments_in_Time_Raw/videos/"),
    _Task("Unexpected Action", "FunQA_test/test/"),
    _Task("Object Existence", _CLEVRER),
    _Task("Object Interaction", _STAR, bound=True),
    _Task("Object Shuffle", _PERCEPTION),
    _Task("Moving Direction", _CLEVRER),
    _Task("Action Localization", "sta/sta_video/", bound=True),
    _Task("Scene Transition", "scene_qa/video/"),
    _Task("Action Count", _PERCEPTION),
    _Task("Moving Count", _CLEVRER),
    _Task("Moving Attribute", _CLEVRER),
    _Task("State Change", _PERCEPTION),
    _Task("Fine-grained Pose", "nturgbd/"),
    _Task("Character Order", _PERCEPTION),
    _Task("Egocentric Navigation", "vlnqa/"),
    _Task("Episodic Reasoning", "tvqa/frames_fps3_hq/", "frame", bound=True),
    _Task("Counterfactual Inference", _CLEVRER),
)
_LATER = "data0613"  # an archive that is unpacked beside the folders it belongs into


def _mvbench(folder: Folder) -> Iterator[Row]:
    """All tasks. Their files of questions must be there; videos of some, such as NTU RGB+D, may have to be got elsewhere."""
    files = [folder.find(f"json/{task.file}") for task in _MVBENCH]
    folder.complete()
    _check_unpacked(files[0].parent.parent / "video", folder.called or "MVBench")
    yield from _answerable(folder, _tasks(folder, files))


def _check_unpacked(videos: Path, called: str) -> None:
    """UserError when videos still lie in their archives: a list of thousands of missing files would not say so."""
    tops = sorted({task.home.split("/")[0] for task in _MVBENCH})
    packed = [f"{top}.zip" for top in tops if not any((base / top).exists() for base in (videos, videos / _LATER))]
    packed = [name for name in packed if (videos / name).is_file()]
    if packed:
        raise UserError(f"{called}: {videos} holds archives that were not unpacked: {', '.join(packed)}. Unpack them there.")


def _tasks(folder: Folder, files: list[Path]) -> Iterator[Row]:
    found = [folder.entries(path) for path in files]
    folder.total = sum(map(len, found))
    index = 0
    for task, path, questions in zip(_MVBENCH, files, found, strict=True):
        for place, entry in enumerate(questions):
            yield dict(index=str(index)) | _mvbench_row(task, entry, path, place)
            index += 1


def _mvbench_row(task: _Task, entry: Entry, path: Path, place: int) -> Row:
    name, videos = cell(entry, "video", path, place), path.parent.parent / "video"
    row = dict(task_type=task.name, prefix=f"video/{task.home}", data_type=task.kind, bound=str(task.bound))
    row |= {key: cell(entry, key, path, place) if task.bound else as_text(entry.get(key)) for key in ("start", "end")}
    row |= dict(video=name, video_path=str(pick(videos / task.home / name, videos / _LATER / task.home / name)))
    row |= {key: cell(entry, key, path, place) for key in ("question", "answer")}
    return row | dict(candidates=_options(entry, "candidates", path, place))


def _options(entry: Entry, key: str, path: Path, place: int) -> str:
    """A list of options as a cell: texts all of them, also where the file has numbers. UserError for anything else."""
    options = entry.get(key)
    if not isinstance(options, list) or len(options) < 2:
        raise UserError(f"{path}: question {place + 1} has no list of options under '{key}'. Is it the official file?")
    return str([as_text(option) for option in options])


def _answerable(folder: Folder, rows: Iterator[Row]) -> Iterator[Row]:
    """The rows, and a note on those whose answer is none of their options: nobody can get them right."""
    odd, total = [], 0
    for row in rows:
        total += 1
        if row["answer"] not in references(row["candidates"]):
            odd.append(row["index"])
        yield row
    if odd:
        folder.note(f"The answer is none of the options in {len(odd)} of {total} questions: index {', '.join(odd[:5])}.")


# -- Video-MME -----------------------------------------------------------------------------------------------------------------
def _video_mme(folder: Folder) -> Iterator[Row]:
    table = "test-00000-of-00001.parquet"
    path = folder.find(f"videomme/{table}", table)
    videos = _videos(folder.find("video", "videos", "data"))
    subtitles = folder.maybe("subtitle", "subtitles")
    folder.total = folder.count(path)
    for place, entry in enumerate(folder.parquet(path)):
        name = cell(entry, "videoID", path, place)
        row = dict(index=str(place), video=name, video_path=str(videos.path(name)))
        row |= {key: cell(entry, key, path, place) for key in ("duration", "domain", "sub_category", "task_type")}
        row |= dict(candidates=_options(entry, "options", path, place), subtitle_path=_if_there(subtitles, f"{name}.srt"))
        yield row | {key: cell(entry, key, path, place) for key in ("question", "answer")}


def _videos(home: Path) -> Videos:
    """The videos in a folder that was asked for; they may lie deeper."""
    return Videos([home] if home.is_dir() else [])


def _if_there(home: Path | None, name: str) -> str:
    """The absolute path of a file that may be absent."""
    return str(home / name) if home and name and (home / name).is_file() else ""


# -- MLVU ----------------------------------------------------------------------------------------------------------------------
_MLVU = "plotQA needle ego count order anomaly_reco topic_reasoning sub_scene summary".split()
_OPEN = ("sub_scene", "summary")  # without options


def _mlvu(folder: Folder, tasks: Sequence[str]) -> Iterator[Row]:
    """Files and folders are called like the task, with its number before it. The folder MLVU itself may be given, too."""
    names = {task: f"{_MLVU.index(task) + 1}_{task}.json" for task in tasks}
    files = {task: folder.find(f"MLVU/json/{name}", f"json/{name}") for task, name in names.items()}
    found = {task: folder.entries(path) for task, path in files.items()}
    folder.total = sum(map(len, found.values()))
    index = 0
    for task, path in files.items():
        home = path.parent.parent / "video" / path.stem
        for place, entry in enumerate(found[task]):
            name = cell(entry, "video", path, place)
            row = dict(
                index=str(index), task_type=task, prefix=f"./MLVU/video/{path.stem}", duration=as_text(entry.get("duration"))
            )
            row |= dict(video=name, video_path=str(home / name))
            row |= {key: cell(entry, key, path, place) for key in ("question", "answer")}
            if task in _OPEN:  # what a judge looks for in an answer; `summary` has none
                yield row | dict(scoring_points=as_text(entry.get("scoring_points")))
            else:
                yield row | dict(candidates=_options(entry, "candidates", path, place))
            index += 1


def _mlvu_choices(folder: Folder) -> Iterator[Row]:
    yield from _answerable(folder, _mlvu(folder, [task for task in _MLVU if task not in _OPEN]))


def _mlvu_open(folder: Folder) -> Iterator[Row]:
    yield from _mlvu(folder, _OPEN)


# -- LongVideoBench ------------------------------------------------------------------------------------------------------------
def _long_video_bench(folder: Folder) -> Iterator[Row]:
    """The validation split, with all its fields, and the letter of `correct_choice` as `answer`."""
    path = folder.find("lvb_val.json")
    videos = _videos(folder.find("videos", "video"))
    subtitles = folder.maybe("subtitles", "subtitle")
    found = folder.entries(path)
    folder.total = len(found)
    keys = list(dict.fromkeys(key for entry in found for key in entry))
    for place, entry in enumerate(found):
        row = {key: as_text(entry.get(key)) for key in keys}
        row |= dict(question=cell(entry, "question", path, place), candidates=_options(entry, "candidates", path, place))
        name = cell(entry, "video_path", path, place)
        row |= dict(index=str(place), video=cell(entry, "video_id", path, place), video_path=str(videos.path(name)))
        row |= dict(subtitle_path=_if_there(subtitles, row.get("subtitle_path", "")), answer=_letter(entry, path, place))
        yield row


def _letter(entry: Entry, path: Path, place: int) -> str:
    """UserError where `correct_choice` is none of the options: the test split comes without."""
    options, choice = entry.get("candidates"), entry.get("correct_choice")
    if not isinstance(options, list) or not isinstance(choice, int) or not 0 <= choice < len(options):
        raise UserError(
            f"{path}: question {place + 1} has no 'correct_choice' among its candidates ({choice}). Is it lvb_val.json?"
        )
    return chr(ord("A") + choice)


# -- the sets ------------------------------------------------------------------------------------------------------------------
_MVBENCH_LAYOUT = """json/<task>.json (20 files)
video/<folder>/<video> (all archives unpacked: clevrer, perception, star and the others)"""
_VIDEO_MME_LAYOUT = """videomme/test-00000-of-00001.parquet
video/<videoID>.mp4 (from videos_chunked_*.zip)
subtitle/<videoID>.srt (optional)"""
_MLVU_LAYOUT = """MLVU/json/{0}.json to {1}.json
MLVU/video/{0}/<video> to {1}/<video>"""
_LONG_LAYOUT = """lvb_val.json
videos/<video_path> (from videos.tar.part.*)
subtitles/<subtitle_path> (optional)"""
_COLUMNS = {  # as VLMEvalKit orders them; the other fields of LongVideoBench follow
    "MVBench": f"index task_type prefix data_type bound start end video {VIDEO} question answer candidates",
    "Video-MME": f"index video {VIDEO} duration domain candidates sub_category task_type subtitle_path question answer",
    "MLVU_MCQ": f"index task_type prefix duration video {VIDEO} question answer candidates",
    "MLVU_OpenEnded": f"index task_type prefix duration video {VIDEO} question answer scoring_points",
    "LongVideoBench": f"index video {VIDEO} question candidates answer correct_choice",
}


def _recipe(
    table: str, layout: str, rows: Callable[[Folder], Iterator[Row]], expected: tuple[int, ...], repository: str, split: str
) -> Recipe:
    link = f"https://huggingface.co/datasets/{repository}"
    return Recipe(table, layout, rows, expected, VIDEO, tuple(_COLUMNS[table].split()), (link,), split)


RECIPES = {
    recipe.table: recipe
    for recipe in (
        _recipe("MVBench", _MVBENCH_LAYOUT, _mvbench, (4000,), "OpenGVLab/MVBench", "test"),
        _recipe("Video-MME", _VIDEO_MME_LAYOUT, _video_mme, (2700,), "lmms-lab/Video-MME", "test"),
        _recipe("MLVU_MCQ", _MLVU_LAYOUT.format("1_plotQA", "7_topic_reasoning"), _mlvu_choices, (2174,), "MLVU/MVLU", "dev"),
        _recipe("MLVU_OpenEnded", _MLVU_LAYOUT.format("8_sub_scene", "9_summary"), _mlvu_open, (), "MLVU/MVLU", "dev"),
        _recipe("LongVideoBench", _LONG_LAYOUT, _long_video_bench, (1337,), "longvideobench/LongVideoBench", "validation"),
    )
}
