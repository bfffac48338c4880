"""The four open-ended video sets: as their authors publish them, and in the form of the evaluation bundles.

Tables hold the official questions and answers as they are, and the names of types in place of their digits. Names of videos
stay text, also "007".
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import UserError
from .folder import Folder, pick
from .recipe import VIDEO, Recipe, Row

SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".gif")  # where a name comes with several, the first of these is taken
_DEPTH = 3  # folders below the questions in which videos are looked for
_UNSTATED = "bundle (validation or test: not stated)"
_COLUMNS = ("index", "video", VIDEO, "question", "answer", "split", "type")
_BUNDLE = "or an evaluation bundle: test_q.json, test_a.json, videos/<video_name>.mp4"
_TYPES = {  # the digits in the official files, as their README files explain them
    "TGIF-QA": ("Object", "Number", "Color", "Location"),
    "ActivityNet-QA": tuple(
        "Motion,Spatial Relationship,Temporal Relationship,Yes/No,Color,Object,Location,Number,Other".split(",")
    ),
}

Entry = Mapping[str, Any]


# -- what annotations hold -----------------------------------------------------------------------------------------------------
def cell(entry: Entry, key: str, path: Path, place: int) -> str:
    """What stands under a key, as the text of a cell. UserError where there is nothing; `place` counts from 0."""
    if entry.get(key) is None:
        raise UserError(
            f"{path}: question {place + 1} has no '{key}' (it has {', '.join(entry) or 'nothing'}). Is it the official file?"
        )
    return as_text(entry[key])


def as_text(value: object) -> str:
    """A value of JSON as the text of a cell: lists as Python writes them, nothing for null."""
    return "" if value is None else str(value)


def indices(official: list[str], key: str, path: Path) -> list[str]:
    """The official ids, or running numbers where no row has one. UserError where some rows have none, or two the same."""
    if not any(official):
        return [str(i) for i in range(len(official))]
    if not all(official):
        raise UserError(f"{path}: question {official.index('') + 1} has no '{key}', others have one. Download it again.")
    _check_unique(official, key, path)
    return official


def _check_unique(ids: list[str], key: str, path: Path) -> None:
    """UserError where an id occurs twice: answers could not be told apart."""
    twice = [name for name, n in Counter(ids).items() if n > 1]
    if twice:
        raise UserError(f"{path}: {key} '{twice[0]}' occurs more than once ({len(twice)} such). Download it again.")


def type_of(table: str, digit: str) -> str:
    """The name of a type that the official file gives as a digit; what has no name stays."""
    names = _TYPES.get(table, ())
    return names[int(digit)] if digit.isdecimal() and int(digit) < len(names) else digit


# -- videos --------------------------------------------------------------------------------------------------------------------
class Videos:
    """The video files below a folder, by name: with or without its suffix, and the `v_` of ActivityNet's files."""

    def __init__(self, places: Iterable[Path]) -> None:
        self._found: dict[str, Path] = {}
        self._home = Path()
        for base in places:
            self._home = base
            for path in sorted(_walk(base, _DEPTH), key=lambda path: (SUFFIXES.index(path.suffix.lower()), path)):
                self._found.setdefault(path.stem, path)
            if self._found:  # what lies elsewhere belongs to something else
                break

    def __bool__(self) -> bool:
        return bool(self._found)

    def path(self, name: str, missing: str = ".mp4") -> Path:
        """The file of a video; where there is none, the path at which it was expected, for the check of media to report."""
        name = os.path.basename(name)
        stem = os.path.splitext(name)[0] if os.path.splitext(name)[1].lower() in SUFFIXES else name
        for known in (stem, f"v_{stem}", stem.removeprefix("v_")):
            if known in self._found:
                return self._found[known]
        return next(iter(self._found.values()), self._home / "-").with_name(f"{stem}{missing}")


def _walk(base: Path, depth: int) -> Iterator[Path]:
    """Files named like videos in a folder and `depth` levels below it, following links."""
    with os.scandir(base) as found:
        for entry in found:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                yield from _walk(Path(entry.path), depth - 1) if depth else ()
            elif os.path.splitext(entry.name)[1].lower() in SUFFIXES:
                yield Path(entry.path)


def _videos(folder: Folder, annotations: Path, *expected: str) -> Videos:
    """The videos that lie with the annotations, or else anywhere in the download; remembered as lacking where there are none."""
    videos = Videos(place for place in (annotations.parent, folder.root) if place.is_dir())
    if not videos:
        folder.find(*expected)
    return videos


def _annotations(folder: Folder, table: str, *names: str) -> Path:
    """The file of questions. UserError where it may be another set's: the forms do not tell them apart."""
    bundle = table.replace("ActivityNet", "Activitynet").replace("-QA", "_Zero_Shot_QA")
    below = [f"{home}/{name}" for home in (table, bundle) for name in names]
    if not any((folder.root / name).exists() for name in (*names, *below)):
        homes = [base for base in folder.bases() if any((base / name).exists() for name in names)]
        if len(homes) > 1:
            listed = ", ".join(home.name for home in homes)
            raise UserError(
                f"{folder.root} holds {names[0]} in several folders ({listed}): name the one of {folder.called or table}."
            )
    path = folder.maybe(*names, *below) or folder.find(*names)
    _check_name(path.parent, table, folder.called or table)
    return path


def _check_name(home: Path, table: str, called: str) -> None:
    """UserError, which says `called`, for a folder that is named like another of the four."""
    own, name = table.removesuffix("-QA").lower(), home.name.lower()
    other = next((known for known in _LAYOUTS if known.removesuffix("-QA").lower() in name), table)
    if other != table and own not in name:
        raise UserError(f"The questions in {home} are those of {other} by the folder's name: name the folder of {called}.")


# -- the two forms of questions ------------------------------------------------------------------------------------------------
def _numbered(folder: Folder, path: Path, name_of: Callable[[str], str], videos: Videos, suffix: str) -> Iterator[Row]:
    """test_qa.json: a list of {id, video_id: int, question, answer}."""
    found = folder.entries(path)
    ids = indices([as_text(entry.get("id")) for entry in found], "id", path)
    folder.total = len(found)
    for place, (index, entry) in enumerate(zip(ids, found, strict=True)):
        name = name_of(cell(entry, "video_id", path, place))
        row = dict(index=index, video=name, video_path=str(videos.path(name, suffix)))
        yield row | {key: cell(entry, key, path, place) for key in ("question", "answer")} | dict(split="test")


def _paired(folder: Folder, table: str, split: str, *expected: str) -> Iterator[Row]:
    """test_q.json and test_a.json, which belong together by question_id, whatever their order."""
    asked = _annotations(folder, table, "test_q.json")
    answered = asked.with_name("test_a.json") if asked.exists() else folder.root / "test_a.json"
    if not answered.exists():
        folder.find(str(answered.relative_to(folder.root)))
    videos = _videos(folder, asked, *expected)
    questions, answers = folder.entries(asked), _by_id(folder.entries(answered), answered)
    ids = list(_by_id(questions, asked))
    _match(ids, answers, asked, answered)
    folder.total = len(questions)
    typed = any("type" in answer for answer in answers.values())
    for place, (index, entry) in enumerate(zip(ids, questions, strict=True)):
        name, answer = cell(entry, "video_name", asked, place), answers[index]
        row = dict(index=index, video=name, video_path=str(videos.path(name)), question=cell(entry, "question", asked, place))
        row |= dict(answer=cell(answer, "answer", answered, place), split=split)
        yield row | (dict(type=type_of(table, as_text(answer.get("type")))) if typed else {})


def _by_id(found: Sequence[Entry], path: Path) -> dict[str, Entry]:
    """UserError where a question_id is missing or occurs twice."""
    ids = [cell(entry, "question_id", path, place) for place, entry in enumerate(found)]
    _check_unique(ids, "question_id", path)
    return dict(zip(ids, found, strict=True))


def _match(questions: list[str], answers: Mapping[str, Entry], asked: Path, answered: Path) -> None:
    """UserError unless each question has its answer and the other way round."""
    alone, unasked = [name for name in questions if name not in answers], sorted(answers.keys() - set(questions))
    if not alone and not unasked:
        return
    parts = [f"{len(alone)} of {len(questions)} questions have no answer (such as '{alone[0]}')"] if alone else []
    parts += [f"{len(unasked)} of {len(answers)} answers have no question (such as '{unasked[0]}')"] if unasked else []
    raise UserError(
        f"{asked} and {answered.name} do not belong together by question_id: {'; '.join(parts)}. Take both from one split."
    )


def _bundle(folder: Folder, table: str, split: str) -> Iterator[Row]:
    if split == _UNSTATED:
        called = folder.called or table
        folder.note(f"{called} from an evaluation bundle, which does not say whether it is the validation or the test split.")
    yield from _paired(folder, table, split, "videos/*.mp4", "video/*.mp4")


def _is_bundle(folder: Folder, table: str, official: str) -> bool:
    """Whether there is test_q.json and not the file of the official form."""
    if any((folder.root / path).exists() for path in (official, f"{table}/{official}")):
        return False
    own = f"{table.replace('-QA', '')}_Zero_Shot_QA/test_q.json"
    return (folder.root / own).exists() or (folder.maybe(official) is None and folder.maybe("test_q.json") is not None)


# -- the sets ------------------------------------------------------------------------------------------------------------------
def _msvd(folder: Folder) -> Iterator[Row]:
    if _is_bundle(folder, "MSVD-QA", "test_qa.json"):
        yield from _bundle(folder, "MSVD-QA", _UNSTATED)
        return
    path = _annotations(folder, "MSVD-QA", "test_qa.json")
    mapping = pick(path.with_name("youtube_mapping.txt"), folder.root / "youtube_mapping.txt")
    if not mapping.exists():
        mapping = folder.find("youtube_mapping.txt")
    videos = _videos(folder, path, "YouTubeClips/*.avi", "video/*.avi")
    names = _mapping(folder, mapping)
    unknown = sorted({as_text(entry.get("video_id")) for entry in folder.entries(path)} - names.keys())
    if unknown:
        raise UserError(f"{mapping} does not name {len(unknown)} of the videos of {path.name}, such as vid{unknown[0]}.")
    yield from _numbered(folder, path, names.__getitem__, videos, ".avi")


def _mapping(folder: Folder, path: Path) -> dict[str, str]:
    """'<name> vid<N>' a line -> number to name. Names may begin with a minus sign or hold nothing but digits."""
    pairs = [line.split() for line in folder.text(path).splitlines() if line.strip()]
    if not pairs or any(len(pair) != 2 or not pair[1].startswith("vid") for pair in pairs):
        raise UserError(f"{path} is not the official list: lines of a name and 'vid' with a number were expected.")
    return {number.removeprefix("vid"): name for name, number in pairs}


def _msrvtt(folder: Folder) -> Iterator[Row]:
    if _is_bundle(folder, "MSRVTT-QA", "test_qa.json"):
        yield from _bundle(folder, "MSRVTT-QA", _UNSTATED)
        return
    path = _annotations(folder, "MSRVTT-QA", "test_qa.json")
    videos = _videos(folder, path, "TestVideo/*.mp4", "video/*.mp4", "videos/*.mp4")
    yield from _numbered(folder, path, "video{}".format, videos, ".mp4")


def _activitynet(folder: Folder) -> Iterator[Row]:
    yield from _paired(folder, "ActivityNet-QA", "test", "all_test/*.mp4", "videos/*.mp4")


def _tgif(folder: Folder) -> Iterator[Row]:
    """FrameQA. Questions are tab-separated, whatever the name of their file says."""
    name = "Test_frameqa_question.csv"
    if _is_bundle(folder, "TGIF-QA", name):
        yield from _bundle(folder, "TGIF-QA", "test")
        return
    path = _annotations(folder, "TGIF-QA", name, f"dataset/{name}")
    videos = _videos(folder, path, "gifs/*.gif")
    found = folder.tsv(path, ("gif_name", "question", "answer"))
    ids = indices([row.get("vid_id", "") for row in found], "vid_id", path)
    folder.total = len(found)
    for index, row in zip(ids, found, strict=True):
        gif = row["gif_name"].removesuffix(".gif")
        yield dict(index=index, video=gif, video_path=str(videos.path(gif, ".gif")), question=row["question"]) | dict(
            answer=row["answer"], split="test", type=type_of("TGIF-QA", row.get("type", ""))
        )


_LAYOUTS = {
    "TGIF-QA": "Test_frameqa_question.csv\ngifs/<gif_name>.gif",
    "MSVD-QA": "test_qa.json\nyoutube_mapping.txt\nYouTubeClips/<name>.avi",
    "MSRVTT-QA": "test_qa.json\nTestVideo/video<N>.mp4",
    "ActivityNet-QA": "test_q.json\ntest_a.json\nall_test/v_<video_name>.mp4 (or .mkv .webm)",
}

_XU = "https://github.com/xudejing/video-question-answering"


def _recipe(table: str, rows: Callable[[Folder], Iterator[Row]], expected: int, *links: str) -> Recipe:
    return Recipe(table, f"{_LAYOUTS[table]}\n{_BUNDLE}", rows, (expected,), VIDEO, _COLUMNS, links)


RECIPES = {
    recipe.table: recipe
    for recipe in (
        _recipe("TGIF-QA", _tgif, 13691, "https://github.com/YunseokJANG/tgif-qa"),
        _recipe("MSVD-QA", _msvd, 13157, _XU, "https://www.cs.utexas.edu/users/ml/clamp/videoDescription"),
        _recipe("MSRVTT-QA", _msrvtt, 72821, _XU),
        _recipe("ActivityNet-QA", _activitynet, 8000, "https://github.com/MILVLG/activitynet-qa", "http://activity-net.org"),
    )
}
