"""The embedded model, for what synthetic tensors cannot show: what a trained language model attends to, layer by layer."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from script_vlmeval import attention, backbones, families, loading, shapes, tiny
from script_vlmeval.methods import Method
from script_vlmeval.prune import pruning

N, LAYERS = tiny.N_VISUAL, int(tiny.LANGUAGE["num_hidden_layers"])


@cache
def model(kernel: str = "sdpa") -> tuple[Any, Any]:
    """The model and its processor. The `eager` kernel tells all of its attention."""
    return loading.load(backbones.BACKBONES["tiny"], device="cpu", dtype=torch.float32, attn=kernel)


def prompts(seeds: Sequence[int]) -> dict[str, Tensor]:
    """A batch of questions, one about each of the pictures drawn from these seeds. Padded on the left."""
    pictures, texts = [], []
    for seed in seeds:
        rng = np.random.default_rng(seed)
        scene = shapes.draw(rng)
        pictures.append(scene.pixels)
        texts.append("<image>" + shapes.ask_yes_no(scene, rng)[0].text)
    given: dict[str, Tensor] = dict(model()[1](images=pictures, text=texts, return_tensors="pt", padding=True))
    return given


@torch.no_grad()
def attended_by_layer(seed: int) -> tuple[Tensor, ...]:
    """Of each layer (H, T, T), nothing pruned; and where the picture is: see `visual`."""
    return tuple(rows[0] for rows in model("eager")[0](**prompts([seed]), output_attentions=True).attentions)


def visual(seed: int) -> slice:
    at = (prompts([seed])["input_ids"][0] == tiny.IMAGE).nonzero().flatten()
    return slice(int(at[0]), int(at[-1]) + 1)


@torch.no_grad()
def pruned(method: Method, inputs: dict[str, Tensor]) -> tuple[dict[int, list[list[int]]], Tensor]:
    """Stage -> places in the picture that each sample keeps from there on; and the logits of the last token."""
    with pruning(model()[0], method, None) as trace:
        logits: Tensor = model()[0](**inputs).logits[:, -1]
        return {stage: kept[0][:, 0].tolist() for stage, kept in trace.kept.items()}, logits


@torch.no_grad()
def reread(method: Method, seed: int, steps: int) -> list[set[int]]:
    """What is kept at the last stage at each step of a generation without a cache, which reads the whole prompt each time."""
    inputs, found = prompts([seed]), []
    ids = inputs["input_ids"]
    with pruning(model()[0], method, None) as trace:
        for _ in range(steps):
            logits = model()[0](input_ids=ids, pixel_values=inputs["pixel_values"], use_cache=False).logits
            kept = (trace.again or trace).kept
            found.append(set(kept[max(kept)][0].flatten().tolist()))
            ids = torch.cat([ids, logits[:, -1:].argmax(-1)], 1)
    return found


@torch.no_grad()
def pyramid(seed: int, stages: dict[int, int], *, renumbered: bool) -> tuple[list[list[int]], Tensor]:
    """PyramidDrop's released rule, layer by layer: what is kept at each stage, and the logits of the last token.

    renumbered: whether tokens are numbered 0, 1, 2, ... anew after each stage.
    """
    given: list[Tensor] = []
    whole = model()[0]
    lm: Any = families.language_model(whole)
    handle = lm.register_forward_pre_hook(lambda _, __, kwargs: given.append(kwargs["inputs_embeds"]), with_kwargs=True)
    whole(**prompts([seed]))
    handle.remove()
    x, picture = given[0], visual(seed)
    place = torch.arange(x.shape[1])
    position, kept = place[None], []
    for i, layer in enumerate(lm.layers):
        rope = lm.rotary_emb(x, position)
        if i in stages:
            score = attention.Pass(layer, x, rope, None).received(torch.tensor([[x.shape[1] - 1]]))[0, 0]
            seen = (place >= picture.start) & (place < picture.stop)
            best = score.masked_fill(~seen, -1).topk(stages[i]).indices
            stays = (~seen).index_fill(0, best, True)
            x, place, position = x[:, stays], place[stays], position[:, stays]
            position = torch.arange(x.shape[1])[None] if renumbered else position
            rope = lm.rotary_emb(x, position)
            kept.append([p - picture.start for p in place.tolist() if picture.start <= p < picture.stop])
        out = layer(x, attention_mask=None, position_embeddings=rope)
        x = out if isinstance(out, Tensor) else out[0]
    logits: Tensor = whole.lm_head(lm.norm(x))[:, -1]
    return kept, logits
