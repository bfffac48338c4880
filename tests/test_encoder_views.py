"""What methods see of encoders without a CLS per patch: Qwen's, whose patches merge by fours, SigLIP, and InternVL's.

Expected values are worked out from what went through the encoder in a plain pass: attention by hand from the layer's own weights,
and for Qwen in whatever order the encoder works in. Which of them a token has is found by the token's own value, so nothing is
taken from the package about where tokens are.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any, ClassVar

import pytest
import torch
from family_cases import BATCHES, attention, nearsighted, prepared, prepared_alone, runtime
from models import private, since_5
from torch import Tensor, nn
from torch.nn.functional import interpolate

from script_vlmeval import attention as rows_of_attention
from script_vlmeval import tower
from script_vlmeval.errors import UserError
from script_vlmeval.methods import Method, Visual, get_method
from script_vlmeval.prune import pruning

QWEN = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
CASES = (*QWEN, "llava_onevision", "internvl")
SERVED = ("fastervlm", "holov", "scope", "vispruner", "mmtok", "scriptfigure")


@private
@dataclass(frozen=True)
class SeesEncoder(Method):
    """The first tokens; remembers what it saw."""

    needs: ClassVar[frozenset[str]] = frozenset({"saliency", "encoded"})
    seen: list[Visual] = field(default_factory=list, compare=False)

    def score(self, visual: Visual) -> Tensor:
        self.seen.append(visual)
        return -torch.arange(visual.shape[2]).expand(visual.shape).float()


def see(case: str, inputs: dict[str, Any], **more: Any) -> list[Visual]:
    spy = SeesEncoder()
    with torch.no_grad(), pruning(runtime(case).model, spy, 1):
        runtime(case).model.generate(**inputs, **{"max_new_tokens": 1, "do_sample": False, **more})
    return spy.seen


# -- worked out from a plain pass ------------------------------------------------------------------------------------------------
def last_attention(model: Any) -> Any:
    encoder = model.model.visual if hasattr(model.model, "visual") else tower.core(model.model.vision_tower).encoder
    if hasattr(encoder, "blocks"):
        return encoder.blocks[-1].attn
    return encoder.layers[-1].self_attn if hasattr(encoder, "layers") else encoder.layer[-1].attention


def behind(model: Any) -> Any:
    """What makes tokens of patches."""
    return model.model.visual.merger if hasattr(model.model, "visual") else model.model.multi_modal_projector


@contextmanager
def calls(*modules: nn.Module) -> Iterator[list[list[tuple[dict[str, Any], Any]]]]:
    """Per module, the arguments and the output of each call."""
    found: list[list[tuple[dict[str, Any], Any]]] = [[] for _ in modules]

    def recording(at: list[tuple[dict[str, Any], Any]]) -> Any:
        def hook(module: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> None:
            at.append(({**kwargs, **({"hidden_states": args[0]} if args else {})}, output))

        return hook

    handles = [m.register_forward_hook(recording(f), with_kwargs=True) for m, f in zip(modules, found, strict=True)]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def weights(module: Any, hidden: Tensor, rope: tuple[Tensor, Tensor] | None = None) -> Tensor:
    """(H, n, n) attention among the rows of `hidden` (n, E)."""
    if hasattr(module, "qkv"):
        query, key, _ = module.qkv(hidden).chunk(3, -1)
    else:
        query, key = module.q_proj(hidden), module.k_proj(hidden)
    query, key = (x.unflatten(-1, (module.num_heads, -1)).transpose(0, 1) for x in (query, key))
    if rope is not None:
        cos, sin = rope
        query, key = (x * cos + torch.cat([-x.chunk(2, -1)[1], x.chunk(2, -1)[0]], -1) * sin for x in (query, key))
    return torch.softmax(query @ key.transpose(1, 2) / query.shape[-1] ** 0.5, -1)


@dataclass(frozen=True)
class Expected:
    """Of V tokens of one kind, in any order."""

    tokens: Tensor  # (V, D)
    saliency: Tensor  # (V,)
    encoded: Tensor  # (V, E)


def of_qwen(module: Any, given: dict[str, Any], grids: Tensor, merged: tuple[dict[str, Any], Tensor]) -> Expected:
    hidden, (cos, sin) = given["hidden_states"], given["position_embeddings"]
    received, start = [], 0
    for frames, height, width in grids.tolist():
        for _ in range(frames):
            at = slice(start, start + height * width)
            received.append(weights(module, hidden[at], (cos[at], sin[at])).mean((0, 1)))
            start = at.stop
    assert start == len(hidden)
    (entering, tokens), four = merged, (-1, 4)
    return Expected(tokens, torch.cat(received).view(four).mean(1), entering["hidden_states"].unflatten(0, four).mean(1))


def of_tiles(module: Any, given: dict[str, Any], projected: tuple[dict[str, Any], Tensor], video: bool) -> Expected:
    attended = torch.stack([weights(module, tile) for tile in given["hidden_states"]])
    entering, tokens = projected[0]["hidden_states"], projected[1]
    if attended.shape[-1] == 17:  # InternVL: CLS, and of 4 x 4 patches 2 x 2 are a token
        saliency = attended[:, :, 0, 1:].mean(1).view(-1, 2, 2, 2, 2).mean((2, 4)).flatten(1)
    else:
        saliency = attended.mean((1, 2))
    if video and attended.shape[-1] == 25:
        values = torch.cat([tokens, entering, saliency[..., None]], -1).transpose(1, 2).unflatten(2, (5, 5))
        pooled = interpolate(values, size=(3, 3), mode="bilinear").flatten(2).transpose(1, 2)
        tokens, entering, saliency = pooled.split([tokens.shape[-1], entering.shape[-1], 1], -1)
        saliency = saliency[..., 0]
    return Expected(tokens.flatten(0, 1), saliency.flatten(), entering.flatten(0, 1))


@cache
def expected(case: str, batch: str) -> Expected:
    model, inputs = runtime(case).model, prepared(case, batch).inputs
    module = last_attention(model)
    with torch.no_grad(), calls(module, behind(model)) as (attended, merged):
        model(**inputs)
        grids = [inputs[name] for name in ("image_grid_thw", "video_grid_thw") if name in inputs]
        kinds = ["pixel_values" in inputs, "pixel_values_videos" in inputs]
        videos = [media for media, there in ((False, kinds[0]), (True, kinds[1])) if there]
        assert len(attended) == len(merged) == len(videos)
        found = [
            of_qwen(module, given[0], grids[i], out) if case in QWEN else of_tiles(module, given[0], out, videos[i])
            for i, (given, out) in enumerate(zip(attended, merged, strict=True))
        ]
    return Expected(*(torch.cat([getattr(e, name) for e in found]) for name in ("tokens", "saliency", "encoded")))


def which(tokens: Tensor, among: Tensor) -> Tensor:
    """Where each token is among the others, by its value."""
    far = torch.cdist(tokens.flatten(0, -2), among, compute_mode="donot_use_mm_for_euclid_dist")
    assert float(far.amin(1).max()) < 1e-3
    assert not ((far > 1e-3) & (far < 1e-2)).any()  # the same one, or that of the same picture shown twice
    return far.argmin(1).view(tokens.shape[:-1])


def agrees(case: str, batch: str, visuals: list[Visual]) -> list[Tensor]:
    known, found = expected(case, batch), []
    for visual in visuals:
        at = which(visual.tokens, known.tokens)
        assert visual.saliency is not None
        assert visual.encoded is not None
        assert visual.saliency.dtype == torch.float32
        torch.testing.assert_close(visual.saliency, known.saliency[at], atol=1e-6, rtol=1e-4)
        torch.testing.assert_close(visual.encoded, known.encoded[at], atol=1e-5, rtol=1e-4)
        found.append(at)
    return found


# -- what is seen ----------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("batch", ["two", "beside", "mixed"])
@pytest.mark.parametrize("case", CASES)
def test_saliency_and_features_are_those_of_the_token(case: str, batch: str):
    """Pictures of several sizes, beside prompts without, frames of videos."""
    at = agrees(case, batch, see(case, prepared(case, batch).inputs))
    assert sum(a.numel() for a in at) > 10
    spread = expected(case, batch).saliency
    assert float(spread.std() / spread.mean()) > 0.02  # else any order would do


@pytest.mark.parametrize("case", CASES)
def test_the_kernel_of_the_encoder_does_not_matter(case: str):
    with attention(runtime(case).model, "eager"):
        agrees(case, "two", see(case, prepared(case, "two").inputs))


def test_windows_are_undone():
    """Qwen2.5-VL's encoder has another order than its pictures; the release of HoloV keeps it for the scores."""
    for batch, media in (("two", "image"), ("video", "video")):
        (first, *_) = agrees("qwen2_5_vl", batch, see("qwen2_5_vl", prepared("qwen2_5_vl", batch).inputs))
        assert (first.flatten(1).diff(dim=1) < 0).any(), media


@pytest.mark.parametrize("case", QWEN)
def test_a_changed_patch_is_seen_at_its_token(case: str):
    """Where patches do not look at each other, in no other; the processor gives them token by token, row by row."""
    model, inputs = runtime(case).model, dict(prepared_alone(case, "one", 0).inputs)
    tokens = int(inputs["image_grid_thw"].prod()) // 4
    with nearsighted(model):
        plain = see(case, inputs)[0].encoded
        for token in (1, tokens // 2, tokens - 2):
            pixels = inputs["pixel_values"].clone()
            pixels[4 * token + 2] += 3
            changed = see(case, {**inputs, "pixel_values": pixels})[0].encoded
            moved = (changed - plain).abs().amax(-1).flatten()
            assert (moved > 1e-3).nonzero().flatten().tolist() == [token]


@since_5("repeats pictures, not prompts, for beams")
@pytest.mark.parametrize("case", CASES)
def test_beams_see_the_same_as_one_row(case: str):
    inputs = prepared(case, "mixed").inputs
    one, two = see(case, inputs), see(case, inputs, num_beams=2)
    agrees(case, "mixed", two)
    assert [2 * len(v.tokens) for v in one] == [len(v.tokens) for v in two]


@pytest.mark.parametrize(("size", "most"), [(40, 1), (40, 1 << 24), (5, 1)])
def test_queries_in_parts_are_the_whole(size: int, most: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(rows_of_attention, "_MOST", most)
    query, key = torch.randn(2, 3, size, 4, generator=torch.Generator().manual_seed(0))
    whole = torch.softmax(query @ key.transpose(1, 2) * 0.7, -1).mean((0, 1))
    torch.testing.assert_close(rows_of_attention._from_each(query, key, 0.7), whole)
    assert float(whole.sum()) == pytest.approx(1)


# -- when it is looked at --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("case", CASES)
def test_an_output_that_comes_again_brings_its_record(case: str, monkeypatch: pytest.MonkeyPatch):
    """Encoded once and looked at once, however many methods read it."""
    rt, given = runtime(case), prepared(case, "mixed")
    looks: list[int] = []
    for name in ("from_cls", "from_patches", "from_pictures"):
        run = getattr(rows_of_attention, name)
        monkeypatch.setattr(rows_of_attention, name, lambda *args, run=run: looks.append(1) or run(*args))
    encoder = next(iter(rt.family.towers.values()))
    times = len({"pixel_values", "pixel_values_videos"} & set(given.inputs))
    with calls(tower.core(getattr(rt.model.model, encoder)).get_submodule(_first_norm(case))) as (ran,), rt.batch():
        rt.encode(given)
        for _ in range(2):
            agrees(case, "mixed", see(case, given.inputs))
        rt.answer(given, get_method("fastervlm"), "50pct", max_new_tokens=1)
    assert len(ran) == times
    assert len(looks) == times


def _first_norm(case: str) -> str:
    """A module that a pass through the encoder runs once."""
    return {"internvl": "encoder.layer.0", "llava_onevision": "encoder.layers.0"}.get(case, "blocks.0")


@pytest.mark.parametrize("case", CASES)
def test_without_a_record_it_is_said(case: str):
    rt, given = runtime(case), prepared(case, "two")
    with rt.batch():
        rt.encode(given)
        del tower._notes(_output_again(case, given.inputs))[tower._ENTERED]
        with pytest.raises(UserError, match=r"before anybody watched it|did not run inside"):
            see(case, given.inputs)


def _output_again(case: str, inputs: dict[str, Any]) -> Any:
    """Of the encoder, which has these pixels in its memo."""
    model = runtime(case).model
    found: list[Any] = []
    name = next(iter(runtime(case).family.towers.values()))
    handle = getattr(model.model, name).register_forward_hook(lambda m, a, output: found.append(output))
    try:
        with torch.no_grad():
            model(**inputs)
    finally:
        handle.remove()
    return found[0]


@pytest.mark.parametrize("case", CASES)
def test_who_needs_nothing_of_it_pays_nothing(case: str):
    model = runtime(case).model
    encoder = getattr(model.model, next(iter(runtime(case).family.towers.values())))

    def hooks() -> int:
        return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in (*encoder.modules(), behind(model)))

    before = hooks()
    with pruning(model, get_method("divprune"), 3):
        assert hooks() == before
    for name in ("fastervlm", "mmtok"):
        with pruning(model, get_method(name), 3):
            assert hooks() > before
        assert hooks() == before


# -- methods ---------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", SERVED)
@pytest.mark.parametrize("case", CASES)
def test_methods_of_the_encoder_keep_as_many_as_asked_whatever_the_batch(case: str, name: str):
    rt, method = runtime(case), get_method(name)
    batch = "two" if name in ("vispruner", "mmtok") else "mixed"
    with rt.batch():
        together = rt.answer(prepared(case, batch), method, "50pct", max_new_tokens=2)
        half = rt.answer(prepared(case, batch), get_method("random"), "50pct", max_new_tokens=1)
    assert [a.tokens["visual_kept"] for a in together] == [a.tokens["visual_kept"] for a in half]
    assert together[0].tokens["visual_kept"] < together[0].tokens["visual_full"]
    for b in range(len(BATCHES[batch])):
        (own,) = rt.answer(prepared_alone(case, batch, b), method, "50pct", max_new_tokens=2)
        assert (own.text, own.tokens["layers"]) == (together[b].text, together[b].tokens["layers"])


REFUSED = [(case, name) for case in CASES for name in ("visionzip", "downsample", *(["trim"] if case in QWEN else []))]


@pytest.mark.parametrize(("case", "name"), REFUSED)
def test_what_cannot_be_shown_is_refused(case: str, name: str):
    with pytest.raises(UserError, match=f"'{name}' needs .*{case} models do not give"):
        pruning(runtime(case).model, get_method(name), 3)
