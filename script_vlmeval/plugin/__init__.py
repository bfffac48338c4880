"""VLMEvalKit as the host: our models and datasets in its registries, its datasets and scorers in our runner.

The only package that imports vlmeval, and only when something is asked of it:

    host.py         importing vlmeval and undoing what that does to the process
    classes.py      the model class and the embedded sets as VLMEvalKit's own runner uses them; sets.py: what it lacks
    datasets.py     a benchmark as our runner sees it: rows, messages, score
    hosted.py       the host's own image sets behind it; videos.py: video sets; pictures.py: the user's own tables
    scores.py       what a scorer says; judged.py: a judge's; host_scores.py: the host's; submissions.py: files to send in
    worth.py        what each row is worth to a score; groups.py: which rows are scored together
    workbook.py     workbooks of answers
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from .datasets import Dataset, open_dataset
from .scores import Score
from .videos import SAMPLER
from .worth import Worth

if TYPE_CHECKING:
    from .classes import PrunedVLM

__all__ = ["SAMPLER", "Dataset", "PrunedVLM", "Score", "Worth", "config_names", "host_label", "open_dataset", "register"]


def host_label() -> str:
    """VLMEvalKit's version and flavour, for fingerprints."""
    from .host import host

    return host().label


def config_names() -> list[str]:
    """Every registered configuration name: each model unpruned, then each method at each of the model's budgets and, where it has
    them, layer schedules. Names that the model cannot serve are left out, as far as that shows without its checkpoint."""
    from ..backbones import BACKBONES
    from ..cells import FULL
    from ..methods import catalogue

    names = []
    for model, record in BACKBONES.items():
        names.append(f"{model}_{FULL}")
        for name, about in catalogue().items():
            budgets = (*record.budgets, *record.schedules) if "removed" in dict(about.params) else record.budgets
            names += [n for n in (f"{model}_{name}_{budget}" for budget in budgets if name != FULL) if _served(n)]
    return names


def _served(name: str) -> bool:
    """Whether a model of the registry can serve a configuration, as far as its record tells."""
    from ..backbones import BACKBONES
    from ..cells import Config
    from ..errors import UserError
    from ..runtime import method_for

    config = Config.parse(name)
    try:
        method_for(BACKBONES[config.model], config)
    except UserError:
        return False
    return True


def register() -> None:
    """Put our model names and datasets into VLMEvalKit's registries, in place; calling it again changes nothing.

    Import and call this before VLMEvalKit's runner starts. Afterwards `--model tiny_script_16 --data ShapesVQA` work there.
    """
    from .host import host

    h = host()
    from .classes import EMBEDDED, PrunedVLM
    from .sets import SETS, VIDEO_SETS, tolerant

    # In place, and as real partials: other modules hold the dictionary, and the runner edits `keywords` of its values.
    h.config.supported_VLM.update({name: partial(PrunedVLM, config=name) for name in config_names()})
    h.vlm.PrunedVLM = PrunedVLM  # `--config FILE` looks classes up by attribute
    for cls in (*EMBEDDED, *SETS, *VIDEO_SETS):
        setattr(h.dataset, cls.__name__, cls)
        if cls not in h.dataset.DATASET_CLASSES:
            h.dataset.DATASET_CLASSES.insert(0, cls)
        known = h.dataset.SUPPORTED_DATASETS
        known.extend(name for name in cls.supported_datasets() if name not in known)
    videos = h.dataset.supported_video_datasets
    videos.update({name: tolerant(factory) for name, factory in videos.items()})


def __getattr__(name: str) -> Any:
    if name == "PrunedVLM":
        from .host import host

        host()  # first, so that the import below finds vlmeval loaded and tidied up after
        from .classes import PrunedVLM

        return PrunedVLM
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
