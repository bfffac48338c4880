"""What the vision encoder did with a picture: the layer whose output the language model reads, what entered it, what left it.

The record hangs on the encoder's own output object, so an output that is returned again for the same pixels (`encode.py`)
brings its record along.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn.functional import interpolate

from .errors import UserError

_RECORD = "_script_vlmeval_entered"


def core(tower: Any) -> Any:
    """The module that has embeddings and layers: transformers 5 flattened the tower."""
    return getattr(tower, "vision_model", tower)


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


def selected_layer(model: nn.Module) -> Any:
    """The encoder layer whose output the language model reads: hidden state i is what layer i - 1 put out."""
    layers = core(model.model.vision_tower).encoder.layers  # type: ignore[union-attr]
    index = _feature_layer(model)
    return layers[index if index < 0 else index - 1]


def watch(model: nn.Module) -> list[Any]:
    """Handles of hooks that record what enters the selected layer. Costs a reference to one tensor per batch."""
    tower: Any = model.model.vision_tower  # type: ignore[union-attr]
    layer = selected_layer(model)
    pending: list[Tensor] = []

    def beginning(module: nn.Module, args: tuple[Any, ...]) -> None:
        pending.clear()  # of a pass that failed after the layer

    def entering(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        pending[:] = [args[0] if args else kwargs["hidden_states"]]

    def leaving(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if pending and _RECORD not in output.__dict__:
            output.__dict__[_RECORD] = pending.pop()

    return [
        tower.register_forward_pre_hook(beginning),
        layer.register_forward_pre_hook(entering, with_kwargs=True),
        tower.register_forward_hook(leaving),
    ]


@dataclass(frozen=True)
class Seen:
    """One pass of the vision encoder over a batch of pictures or tiles."""

    pixels: Tensor  # (tiles, 3, height, width)
    output: Any

    def entered(self) -> Tensor:
        """(tiles, 1 + N, E) what entered the selected layer, CLS first."""
        found: Tensor | None = self.output.__dict__.get(_RECORD)
        if found is None:
            raise UserError("The vision encoder ran before anybody watched it, so its attention cannot be seen.")
        return found

    def cls(self, model: nn.Module) -> Tensor:
        """(tiles, E) the CLS token among the features that the language model reads."""
        state: Tensor = self.output.hidden_states[_feature_layer(model)]
        return state[:, 0]


def resizer(model: nn.Module, pixels: Tensor) -> Callable[[int, int], Tensor]:
    """rows, columns -> (tiles, rows * columns, D): what the language model would read of pictures shrunk to so many patches.

    Bicubic with antialiasing on the processed pixels, position embeddings interpolated as the encoder itself does.
    """
    inner: Any = model.model
    config: Any = model.config

    def encode(rows: int, columns: int) -> Tensor:
        patch = config.vision_config.patch_size
        small = interpolate(pixels.float(), (rows * patch, columns * patch), mode="bicubic", antialias=True).to(pixels.dtype)
        out = inner.vision_tower(small, output_hidden_states=True, interpolate_pos_encoding=True)
        projected: Tensor = inner.multi_modal_projector(out.hidden_states[_feature_layer(model)][:, 1:])
        return projected

    return encode
