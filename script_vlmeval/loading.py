"""From a record to a model in memory: finding or fetching the checkpoint, loading it with transformers' own classes alone.

Nothing of a checkpoint is executed: no code of a repository, weights from safetensors or through weights-only loading. Original
LLaVA checkpoints are converted while they load (`convert/`).

Protocols of LLaVA-NeXT: `paper` is what pruning papers measure, every picture on 2 x 2 crops and an overview, 5 x 576 tokens and
no newlines; `hf` is transformers' own, as many crops as fit the picture, the padding cut off, a newline token behind every row.
"""

from __future__ import annotations

import hashlib
import pickle
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import convert, hub
from .backbones import BACKBONES, Backbone, published_clip
from .efficiency import Shape
from .errors import UserError, reason_of

if TYPE_CHECKING:
    from .query import ClipQuery

CROPS = 2  # along each side, of the `paper` protocol
_WHOLE = 64 << 20  # bytes up to which a file is read whole for its digest
_BLOCKS, _BLOCK = 64, 1 << 20  # what is read of larger ones, evenly spread
FROZEN = ("llava",)  # families whose training left the vision tower as it was published
ALL_GPUS = "all"  # --device: one model over all GPUs that are visible
_SAFE: dict[str, Any] = {"trust_remote_code": False}  # left out, transformers asks on the terminal whether to run what is there
_IDS = ("bos_token_id", "eos_token_id", "pad_token_id", "suppress_tokens")  # the last of words that were added, see convert
_FLASH = "pip install flash-attn --no-build-isolation"


# -- where it is -----------------------------------------------------------------------------------------------------------------
def located(record: Backbone) -> Path | None:
    """Its folder, where the checkpoint is on this computer. No network."""
    return hub.locate(record.checkpoint)


def check_checkpoint(record: Backbone, *, offline: bool = False) -> None:
    """UserError where the checkpoint, or the tower that an original one needs, is neither here nor can be fetched: a folder's is
    put there by the user. Nothing heavy is imported for the former."""
    fetchable = hub.is_id(record.checkpoint) and not offline
    if folder := located(record):
        if not fetchable and convert.is_original(folder) and (lacking := convert.lacking(folder)):
            raise UserError(f"Cannot load '{record.id}': {lacking}")
        return
    if fetchable:
        return
    try:
        hub.fetch(record.checkpoint, offline=True)
    except UserError as error:
        raise UserError(
            f"No checkpoint of '{record.id}'. {error} (--checkpoint {record.id}=DIR_OR_HUB_ID names another.)"
        ) from None


def fetched(record: Backbone, *, offline: bool, clip: bool, say: Callable[[str], None] | None = None) -> Backbone:
    """The record with its checkpoint, and its text side where that is needed, on this computer. UserError where that fails."""
    say = say or _stderr
    check_checkpoint(record, offline=offline)
    folder = hub.fetch(record.checkpoint, offline=offline, say=say)
    here = replace(record, checkpoint=str(folder))
    if convert.is_original(folder):
        tower = _fetched_tower(record, folder, offline, say) if convert.lacking(folder) else convert.tower_at(folder)
        here = replace(here, clip=record.clip and str(tower or record.clip))  # the text side that belongs to its tower
    if clip:
        here = with_text_side(here, offline=offline, say=say)
    return _as_it_asks(here, folder)


def with_text_side(record: Backbone, *, offline: bool, say: Callable[[str], None] | None = None) -> Backbone:
    """The record with its text side, where it has one, on this computer. UserError where that fails."""
    return replace(record, clip=record.clip and str(hub.fetch(record.clip, offline=offline, say=say or _stderr)))


def _stderr(line: str) -> None:
    print(line, file=sys.stderr)


def _fetched_tower(record: Backbone, folder: Path, offline: bool, say: Callable[[str], None]) -> Path:
    """The CLIP checkpoint of an original checkpoint's tower, from the hub or its cache."""
    if (name := convert.tower_of(folder)) is None:
        raise UserError(f"Cannot load '{record.id}': {convert.lacking(folder)}")
    try:
        return hub.fetch(name, offline=offline, say=say)
    except UserError as error:
        raise UserError(
            f"'{record.id}' needs its vision tower {name} too, which `hf download {name}` puts into the hub's cache. {error}"
        ) from None


def _as_it_asks(record: Backbone, folder: Path) -> Backbone:
    """A name of one's own asks in the words of its chat template; of a model of the table, other words there are a warning."""
    prompt = convert.other_prompt(folder, record.talk.prompt, record.talk.image)
    if prompt is None:
        return record
    if record.id not in BACKBONES:
        host = record.host_talk and replace(record.host_talk, prompt=prompt)
        return replace(record, talk=replace(record.talk, prompt=prompt), host_talk=host)
    words = [convert.beginning(text) for text in (prompt, record.talk.prompt)]
    warnings.warn(
        f"{record.checkpoint} asks in '{words[0]}' by its chat template, and is asked as '{words[1]}', as '{record.id}' is. "
        f"Under a name of its own (--checkpoint NAME=DIR_OR_HUB_ID --family {record.family}) it is asked in its own words.",
        stacklevel=2,
    )
    return record


def checkpoint_digest(folder: Path) -> str:
    """Digest of configuration, tokenizer and weights of one checkpoint, for the fingerprint. Folders inside it are not part of
    it: a CLIP in its `clip` is a checkpoint of its own.

    Of large files, 64 blocks are read: enough to tell any two trained models apart, without reading all of them at every start.
    """
    digest = hashlib.sha256()
    for file in sorted(f for f in folder.iterdir() if f.suffix in (".json", ".safetensors", ".bin", ".model", ".txt")):
        if file.is_file():
            digest.update(file.name.encode())
            _add(digest, file)
    return digest.hexdigest()[:16]


def _add(digest: Any, file: Path) -> None:
    size = file.stat().st_size
    digest.update(str(size).encode())
    starts = range(0, size, _BLOCK) if size <= _WHOLE else (i * (size - _BLOCK) // (_BLOCKS - 1) for i in range(_BLOCKS))
    with file.open("rb") as stream:
        for start in starts:
            stream.seek(start)
            digest.update(stream.read(_BLOCK))


def check_family(record: Backbone, folder: Path) -> None:
    """UserError where the description of a checkpoint is that of another model, or of none."""
    if (kind := convert.kind(folder)) != record.family:
        sees = convert.is_original(folder) or "vision_config" in convert.described(folder)
        blind = "" if sees else " which reads text alone:"
        raise UserError(f"{folder} holds a '{kind}' model,{blind} '{record.id}' is a '{record.family}'.")


def layers(record: Backbone) -> int:
    """Layers of the language model: by the checkpoint's configuration where it is here, else as published."""
    folder = located(record)
    return record.layers if folder is None else convert.layers(folder)


def shape(record: Backbone) -> Shape:
    """Sizes of the language model, by the checkpoint's configuration alone. UserError where it is not here, or does not say."""
    folder = located(record)
    if folder is None:
        raise UserError(f"The sizes of '{record.id}' are in its checkpoint {record.checkpoint}, which is not on this computer.")
    return convert.shape(folder)


def visual(record: Backbone) -> int:
    """Visual tokens of one tile: by the checkpoint's configuration where it is here and pictures have one size, else as
    published."""
    folder = None if record.dynamic else located(record)
    at_hand = folder is not None and convert.kind(folder) == record.family  # another is refused when it is loaded
    return convert.visual(folder) if folder and at_hand else record.visual // record.tiles


def check_query(record: Backbone, method: str, source: str) -> None:
    """UserError where a method conditions on the question and the checkpoint has no text side to compare it in; a warning where
    published figures used one."""
    if record.clip is not None:
        return
    if source != "auto":
        raise UserError(
            f"'{method}' wants relevance from '{source}', which '{record.id}' has not: set relevance=llm, or put the CLIP "
            "checkpoint that its vision tower is of into its folder, as clip."
        )
    if published := published_clip(record.family):
        warnings.warn(
            f"'{record.id}' has no CLIP text side: relevance is the language model's (llm), not that of published figures. "
            f"For these put the CLIP checkpoint {published} into {record.checkpoint}/clip, or into the hub's cache with "
            f"`hf download {published}`.",
            stacklevel=2,
        )


# -- loading ---------------------------------------------------------------------------------------------------------------------
@contextmanager
def quiet(ours: bool = False) -> Iterator[None]:
    """transformers and torch without progress bars, load reports and what will change some day: we say what matters.

    ours: this project's own warnings are heard. Filters are the process's, not the thread's: enter it in the main one.
    """
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            if ours:
                warnings.filterwarnings("ignore", module=r"(transformers|torch|torchvision|PIL|numpy)(\.|$)")
            for category in (FutureWarning, DeprecationWarning) if ours else (Warning,):
                warnings.simplefilter("ignore", category)
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def load(record: Backbone, *, device: str, dtype: Any, attn: str) -> tuple[Any, Any]:
    """(model in evaluation mode, processor padding on the left). UserError where the folder holds no model of the family.

    device: cpu, cuda, cuda:1, or `all`: layers spread over all GPUs.
    """
    check_attention(attn, device)
    folder = located(record)
    assert folder is not None, "fetched() comes first"
    check_family(record, folder)
    make = _original if convert.is_original(folder) else _own
    try:
        model, processor = make(record, folder, device, dtype, attn)
        model = model.eval() if device == ALL_GPUS else model.eval().to(device)
    except UserError:
        raise
    except Exception as error:  # a truncated file, another architecture, a missing kernel, no memory: each has its own type
        raise _failed(record, folder, error) from error
    _greedy(model)
    if record.protocol == "paper":
        as_in_papers(model)
    processor.tokenizer.padding_side = "left"
    return model, processor


def _greedy(model: Any) -> None:
    """Nothing but ids is left of what the checkpoint says of generating: its penalties would change the most likely token."""
    from transformers import GenerationConfig

    told = {name: getattr(model.generation_config, name, None) for name in _IDS}
    model.generation_config = GenerationConfig(**{name: ids for name, ids in told.items() if ids is not None})


def _own(record: Backbone, folder: Path, device: str, dtype: Any, attn: str) -> tuple[Any, Any]:
    """A checkpoint in transformers' layout."""
    from transformers import AutoModelForImageTextToText, AutoProcessor

    with quiet():
        auto: Any = _class_of(record.family) or AutoModelForImageTextToText  # typed without what output_loading_info returns
        placed = {"device_map": "auto"} if device == ALL_GPUS else {}
        how = {"dtype": dtype, "attn_implementation": attn, "output_loading_info": True, **placed, **_SAFE}
        model, info = auto.from_pretrained(folder, **how)
        processor = AutoProcessor.from_pretrained(folder, **_SAFE)
    _check_weights(record, folder, info)
    return model, processor


def _original(record: Backbone, folder: Path, device: str, dtype: Any, attn: str) -> tuple[Any, Any]:
    """A checkpoint in LLaVA's own layout."""
    with quiet():
        placed = "auto" if device == ALL_GPUS else None
        return convert.load(folder, convert.tower_at(folder), dtype=dtype, attn=attn, device_map=placed)


def _class_of(family: str) -> Any:
    """The class that `AutoModelForImageTextToText` does not know of in every version."""
    import transformers

    return transformers.VideoLlavaForConditionalGeneration if family == "video_llava" else None


def _check_weights(record: Backbone, folder: Path, info: dict[str, Any]) -> None:
    """UserError for weights that would be random: scores would be noise."""
    missing = sorted(info["missing_keys"])
    wrong = sorted(str(x[0] if isinstance(x, tuple) else x) for x in info.get("mismatched_keys", ()))
    if missing or wrong:
        first, what = (missing or wrong)[0], "lacks" if missing else "has, in other shapes,"
        raise UserError(f"The checkpoint {folder} {what} {len(missing or wrong)} weights of '{record.id}', such as {first}.")


def _failed(record: Backbone, folder: Path, error: Exception) -> UserError:
    """What a failure to load means to the user."""
    if memory := no_memory(error):
        return UserError(f"Cannot load '{record.id}': {memory}")
    if any(isinstance(cause, pickle.UnpicklingError) for cause in hub.causes(error)):
        return UserError(f"Cannot load '{record.id}': a file of weights in {folder} {convert.UNSAFE}")
    return UserError(f"Cannot load '{record.id}' from {folder}: {reason_of(error)}")


_NO_MEMORY = ("can't allocate memory", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")


def no_memory(error: BaseException) -> str:
    """What to do about a failure that is one of memory; empty for any other."""
    name, text = type(error).__name__, str(error)
    known = name == "OutOfMemoryError" or isinstance(error, MemoryError)
    if not known and not any(words in text for words in _NO_MEMORY):
        return ""
    return (
        "out of memory. Try --dtype bfloat16, a smaller --batch-size, --device all (several GPUs), another --device or a "
        "smaller model."
    )


def check_attention(attn: str, device: str) -> None:
    """UserError for flash attention where it cannot run, with the line that installs it."""
    if attn != "flash_attention_2":
        return
    import torch
    from transformers.utils.import_utils import is_flash_attn_2_available

    if device == "cpu" or not torch.cuda.is_available():
        raise UserError("--attn flash_attention_2 needs a GPU: use --attn sdpa here.")
    if not is_flash_attn_2_available():
        raise UserError(f"--attn flash_attention_2 needs the package flash-attn: {_FLASH}. Or use --attn sdpa.")


def as_in_papers(model: Any) -> None:
    """LLaVA-NeXT as pruning papers run it: one resolution of 2 x 2 crops, no newline tokens."""
    side = CROPS * model.config.vision_config.image_size
    model.config.image_grid_pinpoints = [[side, side]]
    model.model.image_newline = None


def load_query(record: Backbone, device: str, *, compat: bool = False, model: Any = None) -> ClipQuery:
    """The question's side, loaded only when a method needs it. UserError where it is not of the tower of `model`."""
    from .query import ClipQuery, check_tower

    assert record.clip is not None
    folder = hub.locate(record.clip)
    if folder is None:
        raise UserError(
            f"Relevance to the question needs the text side of the vision tower of '{record.id}': expected the CLIP checkpoint "
            f"{record.clip}. Put it there, or set relevance=llm."
        )
    with quiet():
        query = ClipQuery.load(folder, sign=record.clip_sign, device=device, compat=compat)
    if model is not None:
        name = f"'{record.id}' ({record.checkpoint})"
        check_tower(folder, query.projection, model, name, frozen=record.family in FROZEN)
    return query
