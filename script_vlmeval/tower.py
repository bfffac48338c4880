"""What the vision side did with the pictures of a prompt: the encoder's layer whose output the language model reads, what entered
it, what left it, and how crops were packed.

The record of what entered a layer hangs on the encoder's own output, an object or (Qwen in transformers 4) a tensor, so an output
that is returned again for the same pixels (`encode.py`) brings it along.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from torch import Tensor, nn
from torch.nn.functional import interpolate

from . import attention
from .errors import UserError
from .families import Encoded, Family, Media
from .query import core

_ENTERED, _ATTENDED = "_script_vlmeval_entered", "_script_vlmeval_attended"
_GETS: dict[Media, str] = {"image": "get_image_features", "video": "get_video_features"}


def _feature_layer(model: nn.Module) -> int:
    """Index into hidden states, of which the language model reads one. UserError where it reads several, or none that a layer
    put out."""
    config: Any = model.config
    index = config.vision_feature_layer
    if not isinstance(index, int) or index == 0:
        raise UserError(
            f"This checkpoint reads vision_feature_layer {index}; what one layer attends to can be seen of one alone."
        )
    return index


def selected_layer(model: nn.Module, name: str = "vision_tower") -> Any:
    """The layer of an encoder whose output the language model reads: hidden state i is what layer i - 1 put out."""
    encoder = core(getattr(model.model, name)).encoder
    layers = encoder.layers if hasattr(encoder, "layers") else encoder.layer
    index = _feature_layer(model)
    return layers[index if index < 0 else index - 1]


def watch(model: nn.Module, names: Iterable[str] = ("vision_tower",)) -> list[Any]:
    """Handles of hooks that record what enters the selected layer of the encoders. Costs a reference or two per batch."""
    return [handle for name in dict.fromkeys(names) for handle in _watched(model, name)]


_Call: TypeAlias = tuple[tuple[Any, ...], dict[str, Any]]


def _parts(model: nn.Module, name: str) -> dict[str, nn.Module]:
    """The modules of an encoder whose arguments are worth a record."""
    tower: Any = getattr(model.model, name)
    if hasattr(tower, "blocks"):
        return {"attention": tower.blocks[-1].attn, "merger": tower.merger}
    return {"layer": selected_layer(model, name)}


def _watched(model: nn.Module, name: str) -> list[Any]:
    tower: Any = getattr(model.model, name)
    parts = _parts(model, name)
    pending: dict[str, _Call] = {}

    def beginning(module: nn.Module, args: tuple[Any, ...]) -> None:
        pending.clear()  # of a pass that failed after a part

    def entering(part: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            pending[part] = (args, kwargs)

        return hook

    def leaving(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if len(pending) == len(parts) and _ENTERED not in _notes(output):
            _notes(output)[_ENTERED] = dict(pending)
        pending.clear()

    return [
        tower.register_forward_pre_hook(beginning),
        *(module.register_forward_pre_hook(entering(part), with_kwargs=True) for part, module in parts.items()),
        tower.register_forward_hook(leaving),
    ]


def _notes(output: Any) -> dict[str, Any]:
    """What hangs on an encoder's output, which is an object, a tensor or a tuple that begins with one."""
    notes: dict[str, Any] = (output[0] if isinstance(output, tuple) else output).__dict__
    return notes


def _entered(output: Any, part: str) -> _Call:
    found: dict[str, _Call] | None = None if output is None else _notes(output).get(_ENTERED)
    if found is None:
        raise UserError("The vision encoder ran before anybody watched it, so what it did cannot be seen.")
    return found[part]


def _hidden(call: _Call) -> Tensor:
    args, kwargs = call
    hidden: Tensor = args[0] if args else kwargs["hidden_states"]
    return hidden


def entered(output: Any) -> Tensor:
    """(T, 1 + n, E) what entered the selected layer, CLS first, when the encoder gave this output."""
    return _hidden(_entered(output, "layer"))


@dataclass(frozen=True)
class _Layer:
    """A layer's attention and the norm before it, by the names that CLIP and SigLIP have for them."""

    self_attn: Any
    layer_norm1: Any

    @classmethod
    def of(cls, layer: Any) -> Any:
        return cls(layer.attention, layer.layernorm_before) if hasattr(layer, "layernorm_before") else layer


def attended(model: nn.Module, family: Family, media: Media, seen: Encoded) -> tuple[Tensor, Tensor | None]:
    """(T, n) attention that each patch receives of whom the family says, in the layer whose output the language model reads,
    heads averaged; and of CLS's (T, n, H) keys, heads averaged. In fp32, in the encoder's order.

    Kept with the encoder's output, so that it is computed once per picture however many methods read it.
    """
    kept = _notes(seen.tower) if seen.tower is not None else {}
    if _ATTENDED not in kept:
        kept[_ATTENDED] = _attended(model, family, media, seen)
    found: tuple[Tensor, Tensor | None] = kept[_ATTENDED]
    return found


def anew(seen: Encoded) -> None:
    """Let go of what `attended` has kept of these pictures."""
    if seen.tower is not None:
        _notes(seen.tower).pop(_ATTENDED, None)


def _attended(model: nn.Module, family: Family, media: Media, seen: Encoded) -> tuple[Tensor, Tensor | None]:
    name = family.towers[media]
    if family.looks == "pictures":
        args, kwargs = _entered(seen.tower, "attention")
        return attention.from_pictures(_parts(model, name)["attention"], args, kwargs)[None], None
    layer, hidden = _Layer.of(selected_layer(model, name)), entered(seen.tower)
    return attention.from_cls(layer, hidden) if family.looks == "cls" else (attention.from_patches(layer, hidden), None)


def cls(model: nn.Module, seen: Encoded) -> Tensor:
    """(T, E) the CLS token among the features that the language model reads."""
    state: Tensor = seen.tower.hidden_states[_feature_layer(model)]
    return state[:, 0]


def resizer(model: nn.Module, seen: Encoded) -> Callable[[int, int], Tensor]:
    """rows, columns -> (T, rows * columns, D): what the language model would read of pictures shrunk to so many patches.

    Bicubic with antialiasing on the processed pixels, position embeddings interpolated as the encoder itself does.
    """
    inner: Any = model.model
    config: Any = model.config
    pixels = seen.pixels
    assert pixels is not None

    def encode(rows: int, columns: int) -> Tensor:
        patch = config.vision_config.patch_size
        small = interpolate(pixels.float(), (rows * patch, columns * patch), mode="bicubic", antialias=True).to(pixels.dtype)
        out = inner.vision_tower(small, output_hidden_states=True, interpolate_pos_encoding=True)
        projected: Tensor = inner.multi_modal_projector(out.hidden_states[_feature_layer(model)][:, 1:])
        return projected

    return encode


@dataclass
class _Override:
    """Handle of a method that an object has instead of its class's. Removing it puts back what was there before."""

    owner: Any
    name: str
    before: Any

    @classmethod
    def of(cls, owner: Any, name: str, wrapper: Callable[..., Any]) -> _Override:
        handle = cls(owner, name, owner.__dict__.get(name))
        setattr(owner, name, functools.wraps(getattr(owner, name))(wrapper))
        return handle

    def remove(self) -> None:
        if self.before is None:
            delattr(self.owner, self.name)
        else:
            setattr(self.owner, self.name, self.before)


class Watch:
    """What the vision side of a model does with the images and the videos of a prompt: `seen`, by kind.

    Looks at the model's own calls of `get_image_features` and `get_video_features`; what methods run for themselves is not
    taken for the prompt's. selected, towers: whether anybody reads what enters the projector, and what the encoder does.
    """

    def __init__(self, model: nn.Module, family: Family, *, selected: bool, towers: bool) -> None:
        self.model, self.family, self.selected, self.towers = model, family, selected, towers
        self.seen: dict[Media, Encoded] = {}
        self._now: Encoded | None = None

    def forget(self) -> None:
        """Let go of the last prompt's features."""
        self.seen.clear()
        self._now = None

    def hooks(self) -> Iterator[Any]:
        """Handles, only of what is needed."""
        if not (self.selected or self.towers or self.family.packs or self.family.videos):
            return
        inner: Any = self.model.model
        for media, name in _GETS.items():
            if hasattr(inner, name):
                yield _Override.of(inner, name, self._around(media, getattr(inner, name)))
        if self.family.packs:
            yield _Override.of(inner, "pack_image_features", self._packing(inner.pack_image_features))
        inside = self.family.looks == "pictures"  # what enters the projector does so within the encoder
        if self.selected and not inside:
            yield inner.multi_modal_projector.register_forward_pre_hook(self._on_projector)
        if self.towers or (self.selected and inside):
            names = list(dict.fromkeys(self.family.towers.values()))
            yield from watch(self.model, names)
            for name in names:
                yield getattr(inner, name).register_forward_hook(self._on_tower, with_kwargs=True)

    def _around(self, media: Media, run: Callable[..., Any]) -> Callable[..., Any]:
        def around(*args: Any, **kwargs: Any) -> Any:
            pixels = next((x for x in (*args, *kwargs.values()) if isinstance(x, Tensor)), None)
            if pixels is None or self._now is not None:  # Qwen3-VL has its videos' features from its images' method
                return run(*args, **kwargs)
            given = inspect.signature(run).bind_partial(*args, **kwargs).arguments
            self._now = self.seen[media] = Encoded(pixels.shape, grids=given.get(f"{media}_grid_thw"))
            try:
                return run(*args, **kwargs)
            finally:
                self._now = None

        return around

    def _packing(self, run: Callable[..., Any]) -> Callable[..., Any]:
        def packing(*args: Any, **kwargs: Any) -> Any:
            if (now := self._now) is not None:
                bound = inspect.signature(run).bind(*args, **kwargs).arguments
                now.pieces = [len(x) for x in bound["image_features"]]
                now.newline = bound.get("image_newline") is not None

                def again(features: Sequence[Tensor], newline: Tensor | None) -> list[Tensor]:
                    packed: list[Tensor] = run(**{**bound, "image_features": features, "image_newline": newline})[0]
                    return packed

                now.pack = again
            return run(*args, **kwargs)

        return packing

    def _on_projector(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        if self._now is not None:
            self._now.selected = args[0]

    def _on_tower(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        if self._now is not None:
            self._now.pixels, self._now.tower = args[0] if args else kwargs["pixel_values"], output
            self._now.grids = kwargs.get("grid_thw", self._now.grids)
            if self.selected and self.family.looks == "pictures":
                self._now.selected = _hidden(_entered(output, "merger"))[None]
