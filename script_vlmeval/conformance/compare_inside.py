"""FastV and Sequential Prune against prefills of their official code, recorded layer by layer.

Each function takes the arrays of one recording with what it is about (`beside`), builds the small LLaMA of the recording inside
a LLaVA, gives it the recorded embeddings in one pruned forward, and compares every layer: the tokens that enter it, the last
token that leaves it, and what the method saw of the layer before. The release's mask mode hides tokens that are dropped here:
the last token sees the same. Where the release is not what the definition says, only what comes before that is compared: in a
batch it chooses by the first sample for all, and of several images it keeps the number and shifts the places of one.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import families, tiny
from ..methods import Method, Visual, get_method
from ..prune import pruning
from .tally import Tally, close, same

_HIDDEN = 1e-4  # of hidden states and logits, relative to the largest
_ATTENTION = 1e-5


@dataclass(frozen=True)
class Prefills(Tally):
    """Samples compared, with the layers whose tokens were found to be exactly the recorded ones."""

    layers: int = 0
    recorded: int = 0  # layers that the recordings hold
    logits: float = 0.0  # the worst error of the last token's logits, relative to the largest

    def __add__(self, other: Tally) -> Prefills:
        more = other if isinstance(other, Prefills) else Prefills(other.exact, other.sets, other.invariants)
        return Prefills(
            *(self.exact + more.exact, self.sets + more.sets, self.invariants + more.invariants),
            *(self.layers + more.layers, self.recorded + more.recorded, max(self.logits, more.logits)),
        )

    __radd__ = __add__  # a plain count plus this one keeps what only this one knows

    def __str__(self) -> str:
        return f"{super().__str__()}; {self.inside}"

    @property
    def inside(self) -> str:
        return (
            f"kept positions exact: {self.layers} of {self.recorded} layers, "
            f"last-token logits worst relative error {self.logits:.1e}"
        )


@dataclass
class Prefill:
    """What one forward did, in the form of a recording: B samples, L layers, T tokens of the prompt."""

    visible: np.ndarray  # (B, L, T) bool: the tokens that entered each layer
    hlast: np.ndarray  # (B, L, D) the last token as it left each layer
    logits: np.ndarray  # (B, tokens that left the last layer, V)
    seen: dict[int, np.ndarray]  # layer before a stage -> (B, T) the attention that the method saw, NaN elsewhere
    rows: dict[int, np.ndarray]  # layer -> (B, T) what its last token attended to, where the kernel tells; NaN elsewhere
    lengths: list[int]  # of the sequence that left each layer, padding included
    said: list[str]  # warnings


def fastv(data: Mapping[str, Any]) -> Tally:
    """In-place, mask mode, and without pruning: positions exactly; hidden states, logits and attention to rounding."""
    case = data["case"]
    removed = 0.0 if case["mode"] == "dense" else float(case["R"])
    return compared(data, get_method("fastv", removed=removed, first_layer=case["K"]))


def seqprune(data: Mapping[str, Any]) -> Tally:
    """In-place and mask mode, as `fastv`; the mask mode knows a step of 10 % alone."""
    case = data["case"]
    return compared(data, get_method("seqprune", removed=float(case["R"]), first_layer=case["K"], step=case["step"]))


def beside(file: Path) -> dict[str, Any]:
    """What a recording is about: its case, its prompt, and the folder with the models."""
    folder = file.parent.parent
    cases = json.loads((folder / "cases.json").read_text(encoding="utf-8"))["cases"]
    case = next(c for c in cases if c["name"] == file.stem)
    with np.load(folder / "inputs" / f"{case['inputs']}.npz") as arrays:
        return {**arrays, "case": case, "folder": folder}


# -- comparing ---------------------------------------------------------------------------------------------------------------
def compared(data: Mapping[str, Any], method: Method, attn: str = "sdpa") -> Prefills:
    """How a method's prefill with this attention kernel agrees with the recording; MismatchError where it does not."""
    case, ours = data["case"], prefill(data, method, attn)
    same(f"{method.name}'s lengths and what it says that it kept", ours.lengths, ours.visible[0].sum(-1))
    _warns_where_it_should(case, ours.said, method.name)
    if case.get("images", 1) > 1:
        return _several_images(data, ours, method.name)
    found = _whole(data, ours, method.name)
    for item in range(1, case.get("batch", 1)):
        found += _by_itself(data, ours, method, attn, item)
    return found


def _warns_where_it_should(case: Mapping[str, Any], said: Sequence[str], name: str) -> None:
    """Where a sequential schedule removes nothing, or runs out of layers before it has removed what it should."""
    sequential = case["mode"].startswith("seq")
    events = int(1 / (case["step"] / 100) * case["R"]) if sequential else int(case["mode"] != "dense")
    nothing, short = events == 0, case["K"] + events > len(case["visible_per_layer"])
    for words, expected in {"no pruning": nothing, "target not reached": short}.items():
        same(f"whether {name} warns: {words}", any(words in text for text in said), expected)


def _whole(data: Mapping[str, Any], ours: Prefill, name: str) -> Prefills:
    """The first sample, every layer, and the logits of all tokens that were recorded."""
    layers = data["visible"].shape[1]
    _layers(data, ours, name, 0, layers)
    recorded = data["logits"][0]
    logits = ours.logits[0, -1:] if data["case"]["mode"].endswith("mask") else ours.logits[0]
    _near(f"{name}'s logits", logits, recorded)
    error = float(np.abs(logits[-1] - recorded[-1]).max() / np.abs(recorded[-1]).max())
    return Prefills(exact=1, layers=layers, recorded=layers, logits=error)


def _layers(data: Mapping[str, Any], ours: Prefill, name: str, item: int, layers: int) -> None:
    """One sample in the first layers."""
    same(f"{name}'s tokens by layer", ours.visible[item, :layers], data["visible"][item, :layers])
    for layer in range(layers):
        _near(f"{name}'s last token after layer {layer}", ours.hlast[item, layer], data["hlast"][item, layer])
        for what, rows in (("the attention seen", ours.seen), ("the attention", ours.rows)):
            if layer in rows and (known := ~np.isnan(rows[layer][item])).any():
                recorded = data["lastrow"][item, layer][known]
                close(f"{name}: {what} in layer {layer}", rows[layer][item][known], recorded, atol=_ATTENTION)


def _near(what: str, ours: np.ndarray, recorded: np.ndarray) -> None:
    close(what, ours, recorded, atol=_HIDDEN * float(np.abs(recorded).max()))


def _by_itself(data: Mapping[str, Any], ours: Prefill, method: Method, attn: str, item: int) -> Prefills:
    """A further sample of a batch is as recorded until the release gives it the first one's choice. It makes its own, by what was
    recorded of it, and goes on as when alone."""
    first, layers, visual = data["case"]["K"], data["visible"].shape[1], _visual(data)
    _layers(data, ours, method.name, item, first)
    left = int(visual[data["visible"][item, first]].sum())
    places = np.flatnonzero(visual)[_ranked(data, item, visual)[:left]]
    same(f"{method.name}'s own choice for sample {item}", ours.visible[item, first], _with(~visual, places))
    alone = prefill({**data, "inputs_embeds": data["inputs_embeds"][item : item + 1]}, method, attn)
    same(f"{method.name}'s tokens in a batch and alone", ours.visible[item], alone.visible[0])
    _near(f"{method.name}'s last token in a batch and alone", ours.hlast[item], alone.hlast[0])
    return Prefills(invariants=1, layers=first, recorded=layers)


def _several_images(data: Mapping[str, Any], ours: Prefill, name: str) -> Prefills:
    """As recorded up to the choice, which is the best of all images by what was recorded. The release keeps as many as of one
    image, and counts their places from the first one's start as though no text stood between the images."""
    case, visual = data["case"], _visual(data)
    first, layers = case["K"], data["visible"].shape[1]
    _layers(data, ours, name, 0, first)
    ranked = _ranked(data, 0, visual)
    places = np.flatnonzero(visual)[ranked[: int((1 - case["R"]) * len(ranked))]]
    same(f"{name}'s choice among all images", ours.visible[0, first], _with(~visual, places))
    released = visual.argmax() + ranked[: int((1 - case["R"]) * case["N"])]
    same("the release's choice among all images", _with(~visual, released), data["visible"][0, first])
    return Prefills(invariants=1, layers=first, recorded=layers)


def _ranked(data: Mapping[str, Any], item: int, visual: np.ndarray) -> np.ndarray:
    """The visual tokens of a sample, best first, by the attention that was recorded before the first choice."""
    return np.argsort(-data["lastrow"][item, data["case"]["K"] - 1, visual], kind="stable")


def _with(visible: np.ndarray, places: np.ndarray) -> np.ndarray:
    visible[places] = True
    return visible


# -- running -----------------------------------------------------------------------------------------------------------------
def prefill(data: Mapping[str, Any], method: Method | None, attn: str) -> Prefill:
    """One forward on the recorded embeddings, pruned by what the method's own parameters say."""
    model = llava(data["folder"], data["case"]["model"], attn)
    embeds = torch.from_numpy(data["inputs_embeds"])
    visual = torch.from_numpy(_visual(data)).expand(len(embeds), -1)
    ids = visual * model.config.image_token_index
    seen: list[Tensor] = []
    with torch.no_grad(), _watched(model, embeds) as (left, rows), warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        if method is None:
            logits, kept = model(input_ids=ids).logits, {}
        else:
            context = pruning(model, listening(method, seen), None)
            context.family = replace(context.family, split=lambda *_: [_images(data["case"], visual)])
            with context as trace:
                logits = model(input_ids=ids).logits
            kept = trace.kept
    visible, last = _entered(visual, kept, len(left)), torch.stack([x[:, -1] for x in left], 1)
    whole = {i: _scattered(visible[:, i], row) for i, row in enumerate(rows)}
    before = {s - 1: _scattered(visible[:, s - 1] & visual, row[:, 0]) for s, row in zip(sorted(kept), seen, strict=False)}
    lengths, words = [x.shape[1] for x in left], [str(w.message) for w in said]
    return Prefill(visible.numpy(), last.numpy(), logits.numpy(), before, whole, lengths, words)


def _visual(data: Mapping[str, Any]) -> np.ndarray:
    """(T,) bool: the visual tokens, of which a recording may have been told fewer than there are."""
    case, image = data["case"], data["input_ids"][0] < 0
    visual = np.repeat(image, np.where(image, case.get("declared_N", case["N"]), 1))
    return np.pad(visual, (0, case["T"] - len(visual)))


@contextmanager
def _watched(model: Any, embeds: Tensor) -> Iterator[tuple[list[Tensor], list[Tensor]]]:
    """The language model reads `embeds`; yields what leaves each layer, and what its last token attended to."""
    left: list[Tensor] = []
    rows: list[Tensor] = []

    def leaves(module: Any, args: Any, output: Any) -> None:
        left.append(output if isinstance(output, Tensor) else output[0])

    def attends(module: Any, args: Any, output: Any) -> None:
        if output[1] is not None:
            rows.append(output[1][:, :, -1].mean(1))

    layers = families.language_model(model).layers
    handles = [model.get_input_embeddings().register_forward_hook(lambda *_: embeds)]
    for layer in layers:
        handles += [layer.register_forward_hook(leaves), layer.self_attn.register_forward_hook(attends)]
    try:
        yield left, rows
    finally:
        for handle in handles:
            handle.remove()


def listening(method: Method, seen: list[Tensor]) -> Method:
    """The same method, which notes the attention that it is shown at each stage."""
    own: Any = type(method)

    class Listening(own, register=False):  # type: ignore[misc, call-arg]
        def guarded(self, visual: Visual, k: int) -> tuple[Visual, int]:
            assert visual.attention is not None
            seen.append(visual.attention)
            found: tuple[Visual, int] = super().guarded(visual, k)
            return found

    made: Method = Listening(**method.parameters())
    return made


def _images(case: Mapping[str, Any], visual: Tensor) -> families.Group:
    """Each sample's images, one tile each."""
    n = case.get("declared_N", case["N"])
    row, column = visual.nonzero(as_tuple=True)
    return families.Group(row.view(-1, n)[:, 0], column.view(-1, 1, n), None)


def _entered(visual: Tensor, kept: Mapping[int, Sequence[Tensor]], layers: int) -> Tensor:
    """(B, L, T) bool: all text, and the visual tokens that are left."""
    place = visual.nonzero()[:, 1].view(len(visual), -1)
    entered = torch.ones(len(visual), layers, visual.shape[1], dtype=torch.bool)
    for stage, (keep,) in sorted(kept.items()):
        entered[:, stage:] = (~visual).scatter(1, place.gather(1, keep[:, 0]), True)[:, None]
    return entered


def _scattered(where: Tensor, row: Tensor) -> np.ndarray:
    """(B, T) the row's values at the places marked, in their order; NaN elsewhere."""
    return torch.full(where.shape, torch.nan).masked_scatter(where, row.float()).numpy()


@cache
def llava(folder: Path, name: str, attn: str) -> Any:
    """A LLaVA around the recorded language model; its vision side is never run."""
    from safetensors.torch import load_file

    llama = json.loads((folder / "cases.json").read_text(encoding="utf-8"))["models"][name]
    untrained, _ = tiny.build()
    config: Any = untrained.config
    config = type(config)(
        vision_config=config.vision_config.to_dict(),
        text_config=type(config.text_config)(**llama).to_dict(),
        image_token_index=llama["vocab_size"] - 1,
    )
    model: Any = type(untrained)._from_config(config, attn_implementation=attn).eval()
    weights = load_file(folder / f"weights_{name}.safetensors")
    model.lm_head.load_state_dict({"weight": weights.pop("lm_head.weight")})
    families.language_model(model).load_state_dict({k.removeprefix("model."): w for k, w in weights.items()})
    return model.requires_grad_(False)
