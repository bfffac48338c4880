"""One sample to a picture: what methods keep of it at which budget, how relevant its places are, and what the model says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .backbones import Models
from .cells import Config, Scalar
from .errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image

    from .backbones import Backbone
    from .draw.picture import Pixels, View
    from .draw.sheet import Panel
    from .inputs import Sample
    from .kept import Kept
    from .runtime import Answer, Runtime

_MOST = 8  # views side by side; of more frames these are drawn, at equal steps
_LONGEST, _SHORTEST = 720, 320  # pixels of a picture's longer side as it is drawn


@dataclass(frozen=True)
class Wanted:
    """What is shown to the model, and under which configurations."""

    message: tuple[Mapping[str, str], ...]
    question: str
    configs: tuple[tuple[Config, ...], ...]  # of each method
    frames: int


def command(
    images: Sequence[str] = (),
    video: str = "",
    question: str = "",
    *,
    model: str = "tiny",
    methods: Sequence[str] = ("script",),
    budgets: Sequence[str] = (),
    out: str | Path = "kept.png",
    params: Mapping[str, Scalar] | None = None,
    frames: int | None = None,
    models: Models | None = None,
    style: str = "auto",
    seed: int = 0,
    device: str = "auto",
    dtype: str = "auto",
    attn: str = "sdpa",
) -> int:
    """Draw into `out`, a PNG, SVG or PDF by its name. Exit status 0.

    images, or a video (a file, or a folder of frames), and a question: for the embedded model a drawn scene where none is named.
    budgets: the model's customary ones where none is named. frames: of a video, the model's own number where None. UserError for
    what does not exist or cannot work, before any weights are loaded.
    """
    from .draw.sheet import check_kind

    path = Path(out)
    check_kind(path)
    if not path.parent.is_dir():
        raise UserError(f"There is no folder '{path.parent}' to put {path.name} into: make it, or choose another -o.")
    models = models or Models()
    record = models.record(model)
    wanted = _wanted(record, list(images), video, question, frames or record.frames, seed)
    wanted = replace(wanted, configs=_configs(record, methods, budgets, params or {}, models))
    _draw(wanted, record, models, path, style, seed, {"device": device, "dtype": dtype, "attn": attn})
    return 0


# -- what is asked -----------------------------------------------------------------------------------------------------------
def _configs(
    record: Backbone, methods: Sequence[str], budgets: Sequence[str], params: Mapping[str, Scalar], models: Models
) -> tuple[tuple[Config, ...], ...]:
    """The configurations of each method. UserError for those that cannot be had."""
    from .runtime import method_of

    found = []
    for method in dict.fromkeys(methods):
        names = [str(budget) for budget in budgets or record.budgets]
        if method == "full":
            continue  # it stands beside the others anyhow
        found.append(tuple(Config.parse(f"{record.id}_{method}_{budget}", params) for budget in dict.fromkeys(names)))
    for configs in found:
        for config in configs:
            method_of(config, models)
    if not found:
        raise UserError("No method to show beside the unpruned model: name some with --method, such as script cdpruner.")
    return tuple(found)


def _wanted(record: Backbone, images: list[str], video: str, question: str, frames: int, seed: int) -> Wanted:
    """The message. UserError for what is not there."""
    if images and video:
        raise UserError("Both --image and --video are named: show one or the other.")
    if video and record.id == "tiny":
        raise UserError("'tiny' was trained on single drawn pictures and reads no video: choose another --model (qwen2vl2b).")
    if not images and not video:
        if record.id != "tiny":
            raise UserError("Nothing to show: name pictures with --image, or a video with --video.")
        images, question = _scene(seed, question)
    for name in filter(None, [*images, video]):
        if not Path(name).expanduser().exists():
            raise UserError(f"There is no file '{name}' to show.")
    if not question.strip():
        raise UserError("No question: methods choose by it, and the model answers it. Say it with --question.")
    message = [{"type": "image", "value": str(Path(name).expanduser())} for name in images]
    if video:
        message.append({"type": "video", "value": str(Path(video).expanduser()), "frames": str(frames)})
    return Wanted((*message, {"type": "text", "value": question}), question, (), frames)


def _scene(seed: int, question: str) -> tuple[list[str], str]:
    """A drawn picture, in a folder that goes when the program ends, and a question about it where none was asked."""
    import atexit
    import shutil
    import tempfile

    import numpy as np
    from PIL import Image

    from . import shapes

    rng = np.random.default_rng(seed)
    scene = shapes.draw(rng)
    asked = None if question.strip() else shapes.ask(scene, "color", rng) or shapes.ask(scene, "exist", rng)
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    Image.fromarray(scene.pixels).save(folder / "scene.png")
    return [str(folder / "scene.png")], asked.text if asked else question or "What is there?"


# -- answers and pictures ----------------------------------------------------------------------------------------------------
def _draw(wanted: Wanted, record: Backbone, models: Models, path: Path, style: str, seed: int, how: dict[str, str]) -> None:
    from .atlas import decoded
    from .draw.sheet import Sheet, draw_sheet
    from .runtime import Runtime

    try:
        shown = decoded(wanted.message, wanted.frames)
    except ValueError as error:
        raise UserError(f"{str(error)[:1].upper()}{str(error)[1:]}.") from None
    runtime = Runtime.load(record.id, checkpoints=models, **how)
    answers = _answers(runtime, wanted, style, seed)
    rows = [[_panel(config, answers[config]) for config in configs] for configs in wanted.configs]
    full = answers[Config(record.id, "full")]
    whole = _panel(Config(record.id, "full"), full)
    views = _views(shown)
    draw_sheet(Sheet(wanted.question, views, rows, whole, _maps(wanted, answers), _names(views, shown)), path)
    for panel in (whole, *(panel for row in rows for panel in row)):
        print(f"{panel.title:24} {panel.note:40} {panel.text}" + f"  ({panel.clear})" * bool(panel.clear))
    print(f"Drawn: {path}")


def _answers(runtime: Runtime, wanted: Wanted, style: str, seed: int) -> dict[Config, Answer]:
    """Under every configuration, and unpruned."""
    from .runtime import method_for

    full = Config(runtime.record.id, "full")
    found: dict[Config, Answer] = {}
    try:
        prepared = runtime.prepare([wanted.message], style)
    except ValueError as error:
        raise UserError(f"{str(error)[:1].upper()}{str(error)[1:]}.") from None
    with runtime.batch():
        runtime.encode(prepared)
        for configs in ((full,), *wanted.configs):
            budgets = [config.budget for config in configs]
            for config in configs:
                method = method_for(runtime.record, config)
                (found[config],) = runtime.answer(prepared, method, config.budget, seed=seed, budgets=budgets, kept=True)
    return found


def _panel(config: Config, answer: Answer) -> Panel:
    from .draw.clear import clear
    from .draw.sheet import Panel

    tokens, stages = answer.tokens, answer.kept.stages if answer.kept else []
    title = "unpruned" if config.full else f"{config.method} · {config.budget}"
    layers = [str(stage) for stage in stages if stage]
    mean = "a mean of " if layers else ""
    note = f"{mean}{tokens['visual_kept']:.4g} of {tokens['visual_full']:g} visual tokens"
    if layers:
        note += f", dropped before {'the model and ' * (0 in stages)}layer{'s' * (len(layers) > 1)} {', '.join(layers)}"
    more = "" if config.full else clear(config)
    return Panel(title, note, answer.text or "(no answer)", answer.kept, "; ".join(filter(None, [_merged(answer.kept), more])))


def _merged(kept: Kept | None) -> str:
    """How many tokens that stand at the end are nowhere in the picture."""
    if kept is None or not kept.stages:
        return ""
    count = sum(part.merged[max(part.merged)] for part in kept.pictures if part.merged)
    return f"{count} of them merged from many places and not drawn" if count else ""


def _maps(wanted: Wanted, answers: Mapping[Config, Answer]) -> list[tuple[str, Kept]]:
    """The relevance that methods saw, each once, with whose it is and where it came from."""
    found: dict[tuple[str, bytes], tuple[list[str], Kept]] = {}
    for configs in wanted.configs:
        for config in configs:
            kept = answers[config].kept
            seen = [part.seen.tobytes() for part in kept.pictures if part.seen is not None] if kept else []
            if kept and seen:
                names, _ = found.setdefault((kept.relevance, b"".join(seen)), ([], kept))
                if config.method not in names:
                    names.append(config.method)
    return [(f"{', '.join(names)} ({source})", kept) for (source, _), (names, kept) in found.items()]


def _views(shown: Sample) -> dict[View, Pixels]:
    """Pictures, and of videos at most so many frames, as they are drawn."""
    found: dict[View, Image] = {(i, None): image for i, image in enumerate(shown.images)}
    for v, clip in enumerate(shown.videos):
        n = len(clip.frames)
        for frame in range(n) if n <= _MOST else [round(i * (n - 1) / (_MOST - 1)) for i in range(_MOST)]:
            found[len(shown.images) + v, frame] = clip.frames[frame]
    return {view: _pixels(image) for view, image in found.items()}


def _pixels(image: Image) -> Any:
    """Scaled down, or up by whole steps, to what a page shows."""
    import numpy as np
    from PIL.Image import Resampling

    longest = max(image.size)
    if longest < _SHORTEST:
        times = -(-_SHORTEST // longest)
        image = image.resize((image.width * times, image.height * times), Resampling.NEAREST)
    small = image.convert("RGB")
    small.thumbnail((_LONGEST, _LONGEST))
    return np.asarray(small)


def _names(views: Mapping[View, Any], shown: Sample) -> dict[View, str]:
    """What stands above each of several views."""
    times = [clip.seconds for clip in shown.videos]
    found: dict[View, str] = {}
    for picture, frame in views:
        if frame is None:
            found[picture, frame] = f"picture {picture + 1}"
        else:
            found[picture, frame] = f"frame {frame + 1}, {times[picture - len(shown.images)][frame]:.1f} s"
    return found
