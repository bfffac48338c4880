"""The cache with room for the answer: keys and values as in transformers' own, moved seldom, never in memory of others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import models
import pytest
import qwen
import torch
import transformers as t
from torch import Tensor, nn
from transformers.cache_utils import DynamicCache, DynamicLayer

from script_vlmeval.cache import Roomy, roomy
from script_vlmeval.methods import get_method
from script_vlmeval.prune import pruning

B, HEADS, D = 3, 2, 4


def drawn(tokens: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    keys, values = torch.randn(2, B, HEADS, tokens, D, generator=torch.Generator().manual_seed(seed))
    return keys, values


def agree(layer: DynamicLayer, own: DynamicLayer, sizes: Sequence[int], seed: int = 1) -> None:
    """Both hand out the same for updates of so many tokens, and hold it."""
    for i, n in enumerate(sizes):
        given = drawn(n, 100 * seed + i)
        got, expected = layer.update(*given), own.update(*given)
        assert layer.get_seq_length() == own.get_seq_length()
        for x, y in zip((*got, layer.keys, layer.values), (*expected, own.keys, own.values), strict=True):
            assert torch.equal(x, y), (i, n)


# -- one layer -----------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("room", [0, 3, 64, 10_000])
@pytest.mark.parametrize("sizes", [(9, *[1] * 150), (2, 70, *[1] * 5, 90, 1, 1)], ids=["an answer", "few tokens, then many"])
def test_it_holds_what_the_usual_layer_holds(sizes: tuple[int, ...], room: int):
    agree(Roomy(room), DynamicLayer(), sizes)


CHANGES: dict[str, Callable[[Any], object]] = {
    "crop": lambda layer: layer.crop(-5),
    "crop all": lambda layer: layer.crop(-layer.get_seq_length()),
    "reorder": lambda layer: layer.reorder_cache(torch.tensor([2, 0, 0])),
    "repeat": lambda layer: (layer.batch_repeat_interleave(2), layer.batch_select_indices(torch.tensor([5, 0, 2]))),
}


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("before", [(9,), (9, 1, 1), (9, *[1] * 8)], ids=["as given", "with room", "room used up"])
def test_it_goes_on_after_a_change(name: str, before: tuple[int, ...]):
    layer, own = Roomy(4), DynamicLayer()
    agree(layer, own, before)
    for changed in (layer, own):
        CHANGES[name](changed)
    agree(layer, own, (1,) * 9, seed=2)


@pytest.mark.parametrize(("room", "most"), [(5, 5), (10_000, 64)])
def test_memory_stays_where_it_is_while_there_is_room(room: int, most: int):
    """And there is no more of it than was asked for, and never much."""
    layer, token = Roomy(room), B * HEADS * D * 4
    places: dict[str, list[int]] = {"keys": [], "values": []}
    layer.update(*drawn(7))
    for i in range(200):
        layer.update(*drawn(1, i))
        for name, own in places.items():
            own.append(getattr(layer, name).data_ptr())
            assert getattr(layer, name).untyped_storage().nbytes() <= (8 + i + most) * token
    for own in places.values():
        moves = [0, *(i for i in range(1, 200) if own[i] != own[i - 1])]
        assert len(moves) > 2
        assert all(then - now > most for now, then in pairwise(moves))


@pytest.mark.parametrize("sizes", [(1,) * 9, (3, 20, 1)])
def test_what_it_was_given_first_is_not_written_into(sizes: tuple[int, ...]):
    """Neither what lies behind a view, nor rows that are one row in memory."""
    whole, row = drawn(40), torch.randn(1, HEADS, 6, D)
    before = [x.clone() for x in (*whole, row)]
    for keys, values in ([x[..., :6, :] for x in whole], (row.expand(B, -1, -1, -1),) * 2):
        layer = Roomy(8)
        layer.update(keys, values)
        for i, n in enumerate(sizes):
            layer.update(*drawn(n, i))
    assert all(torch.equal(x, then) for x, then in zip((*whole, row), before, strict=True))


# -- which models get one ------------------------------------------------------------------------------------------------------
def of(config: Any, **generation: Any) -> nn.Module:
    model = nn.Module()
    model.config, model.generation_config = config, t.GenerationConfig(**generation)
    return model


def test_a_model_whose_layers_hold_all_gets_one():
    cache = roomy(of(t.MistralConfig(num_hidden_layers=3, sliding_window=None)), 7)
    assert cache is not None
    assert [(type(layer), layer.room) for layer in cache.layers] == [(Roomy, 7)] * 3
    assert len({id(layer) for layer in cache.layers}) == 3


OTHERS: dict[str, tuple[Any, dict[str, str]]] = {
    "all slide": (t.MistralConfig(sliding_window=4), {}),
    "some slide": (t.Qwen2Config(num_hidden_layers=3, use_sliding_window=True, sliding_window=4, max_window_layers=2), {}),
    "told otherwise": (t.LlamaConfig(), {"cache_implementation": "static"}),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_models_do_not(name: str):
    config, told = OTHERS[name]
    assert roomy(of(config, **told), 7) is None


# -- generation ----------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("method", ["full", "divprune", "fastv"])
@pytest.mark.parametrize("family", ["llava", "qwen2_vl"])
def test_generation_is_the_same_with_it(family: str, method: str):
    """Of prompts padded on the left, also behind the room that was asked for, and where layers hold unequal numbers of tokens."""
    if family == "llava":
        prompts = [models.random_prompt(images, seed) for images, seed in ((1, 0), (2, 3), (0, 1))]
        model, inputs = models.random_llava().model, models.collate(prompts)
    else:
        model, inputs = qwen.build(), qwen.collate([qwen.prompt([(1, 8, 4)] * n, n) for n in (1, 2, 0)])
    assert not inputs["attention_mask"].all()
    greedy = {"do_sample": False, "max_new_tokens": 12, "output_scores": True, "return_dict_in_generate": True}
    outs = []
    for cache in (DynamicCache(), roomy(model, 3)):
        with torch.no_grad(), pruning(model, get_method(method), None if method == "full" else "50pct"):
            outs.append(model.generate(**inputs, **greedy, past_key_values=cache))
        assert outs[-1].past_key_values is cache
    own, here = outs
    assert own.sequences.tolist() == here.sequences.tolist()
    torch.testing.assert_close(torch.stack(here.scores), torch.stack(own.scores), atol=1e-5, rtol=0)
    for mine, theirs in zip(here.past_key_values.layers, own.past_key_values.layers, strict=True):
        torch.testing.assert_close(mine.keys, theirs.keys, atol=1e-5, rtol=0)
