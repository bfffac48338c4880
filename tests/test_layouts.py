"""Every published family's folder loads, reads images and videos, and answers, on the installed transformers."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import layouts as la
import numpy as np
import pytest
import torch
import transformers
from layouts import FAMILIES, PROMPT, VIDEO, clip, encode, picture
from torch import Tensor

# Placeholders of a picture of 90 x 60 pixels and of eight frames of 70 x 60, from the geometry that layouts.py builds.
IMAGE = {
    "llava": 4 * 4,
    "llava_next": 4 * 4 + 6 * (8 + 1),  # the whole, then two rows of two tiles cut to the picture, a newline ends each row
    "llava_next_video": 4 * 4 + 6 * (8 + 1),
    "llava_onevision": 5 * 5 + 5 * (8 + 1),  # one row of two tiles, cut at the sides
    "video_llava": 4 * 4,
    "qwen2_vl": 2 * 3,
    "qwen2_5_vl": 2 * 3,
    "qwen3_vl": 2 * 3,
    "internvl": 7 * 4,  # two rows of three tiles, then the whole
}
FRAMES = {
    "llava_next_video": 8 * 4,
    "llava_onevision": 8 * 3 * 3 + 1,  # a newline ends the video
    "video_llava": 8 * (4 * 4 + 1),  # each frame's CLS
    "qwen2_vl": 4 * 2 * 2,
    "qwen2_5_vl": 4 * 2 * 2,
    "qwen3_vl": 4 * 2 * 2,
    "internvl": 8 * 4,
}


class Loaded(NamedTuple):
    model: Any
    processor: Any
    report: dict[str, Any]  # keys of the weights that were missing or left over

    def generate(self, inputs: Any, new: int = 3) -> list[list[int]]:
        out = self.model.generate(**inputs, max_new_tokens=new, min_new_tokens=new, do_sample=False)
        return out[:, inputs["input_ids"].shape[1] :].tolist()

    def logits(self, inputs: Any) -> Tensor:
        """Of the first token of the answer, [B, V]."""
        with torch.no_grad():
            return self.model.generate(
                **inputs, max_new_tokens=1, do_sample=False, output_logits=True, return_dict_in_generate=True
            ).logits[0]

    def placeholders(self, inputs: Any) -> int:
        config = self.model.config
        shown = [config.image_token_id, getattr(config, "video_token_id", config.image_token_id)]
        return int(torch.isin(inputs["input_ids"], torch.tensor(shown)).sum())


@pytest.fixture(scope="module")
def of(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The family's checkpoint, written and loaded once."""

    @cache
    def loaded(family: str) -> Loaded:
        (model, report), processor = la.load(la.layout(family, tmp_path_factory.mktemp(family)), output_loading_info=True)
        return Loaded(model, processor, report)

    return loaded


def rows(features: Any) -> int:
    """How many rows of features are in what get_image_features or get_video_features returns: tensors, or lists of them."""
    features = getattr(features, "pooler_output", features)
    if isinstance(features, Tensor):
        return features.numel() // features.shape[-1]
    return sum(rows(part) for part in features)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_folder_holds_what_is_loaded_from_it(of: Any, family: str):
    it = of(family)
    config, tokenizer = it.model.config, it.processor.tokenizer
    assert config.model_type == family
    assert config.architectures == [la.CLASSES[family]] == [type(it.model).__name__]
    assert not any(it.report[keys] for keys in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert {p.dtype for p in it.model.parameters()} == {torch.float32}
    assert len(tokenizer) < config.text_config.vocab_size
    assert config.text_config.num_key_value_heads < config.text_config.num_attention_heads
    assert tokenizer.convert_ids_to_tokens(config.image_token_id) in PROMPT[family].image
    if family in VIDEO and family != "internvl":  # whose frames are images to the model
        assert tokenizer.convert_ids_to_tokens(config.video_token_id) in PROMPT[family].video
    ends = it.model.generation_config
    assert (ends.eos_token_id, ends.pad_token_id) == (tokenizer.eos_token_id, tokenizer.pad_token_id)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_prompt_is_what_the_template_in_the_folder_renders(of: Any, family: str):
    prompt, processor = PROMPT[family], of(family).processor
    question = {"type": "text", "text": "What is this?"}
    for images, videos in [(0, 0), (2, 0), *([(0, 1)] if prompt.video else [])]:
        content = [{"type": "image"}] * images + [{"type": "video"}] * videos + [question]
        turns: list[Any] = [{"role": "user", "content": content}]
        rendered = processor.apply_chat_template(turns, add_generation_prompt=True)
        assert rendered == prompt.render("What is this?", images, videos)
    if prompt.system:
        turns.insert(0, {"role": "system", "content": [{"type": "text", "text": prompt.system}]})
        assert processor.apply_chat_template(turns) == f"{prompt.system} {rendered}"


@pytest.mark.parametrize("family", FAMILIES)
def test_the_answer_depends_on_the_image(of: Any, family: str):
    it, text = of(family), [PROMPT[family].render("Q", 1)]
    seen = [it.logits(encode(it.processor, text, [[picture(90, 60, seed)]])) for seed in (0, 0, 1)]
    assert torch.equal(seen[0], seen[1])
    assert not torch.allclose(seen[0], seen[2], atol=0.1)


@pytest.mark.parametrize("family", FAMILIES)
def test_as_many_placeholders_as_features(of: Any, family: str):
    it, prompt = of(family), PROMPT[family]
    one = encode(it.processor, [prompt.render("Q", 1)], [[picture(90, 60)]])
    two = encode(it.processor, [prompt.render("Q", 1)] * 2, [[picture(90, 60)], [picture(60, 200)]])
    assert it.placeholders(one) == IMAGE[family]
    for inputs in (one, two):
        names = [n for n in inputs if n.startswith(("pixel", "image", "batch"))]
        with torch.no_grad():
            features = it.model.model.get_image_features(**{n: inputs[n] for n in names})
        if family == "qwen3_vl" and isinstance(features, tuple):  # and deepstack's
            features = features[0]
        assert rows(features) == it.placeholders(inputs)


@pytest.mark.parametrize("family", VIDEO)
def test_frames_are_taken_as_they_are(of: Any, family: str):
    it, prompt = of(family), PROMPT[family]
    array = encode(it.processor, [prompt.render("Q", videos=1)], videos=[clip()])
    assert it.placeholders(array) == FRAMES[family]
    pictures = encode(it.processor, [prompt.render("Q", videos=1)], videos=[[picture(70, 60, i) for i in range(8)]])
    assert torch.equal(pictures["input_ids"], array["input_ids"])
    assert len(it.generate(array)[0]) == 3
    other = encode(it.processor, [prompt.render("Q", videos=1)], videos=[clip(seed=1)])
    assert torch.equal(it.logits(array), it.logits(pictures))
    assert not torch.allclose(it.logits(array), it.logits(other), atol=0.1)


@pytest.mark.parametrize("family", VIDEO)
def test_a_video_beside_an_image(of: Any, family: str):
    it, prompt = of(family), PROMPT[family]
    both = encode(it.processor, [prompt.render("Q", 1, 1)], [[picture(90, 60)]], [clip()])
    assert it.placeholders(both) == IMAGE[family] + FRAMES[family]
    batch = encode(it.processor, [prompt.render("Q", 1), prompt.render("Q", videos=1)], [[picture(90, 60)], []], [clip()])
    alone = encode(it.processor, [prompt.render("Q", 1)], [[picture(90, 60)]])
    torch.testing.assert_close(it.logits(batch)[:1], it.logits(alone), atol=1e-4, rtol=1e-4)
    assert len(it.generate(both)[0]) == len(it.generate(batch)[1]) == 3


@pytest.mark.parametrize("family", FAMILIES)
def test_a_padded_batch_answers_as_its_prompts_do_alone(of: Any, family: str):
    """Two pictures in one prompt, one in another, none in the third, of different sizes."""
    it, prompt = of(family), PROMPT[family]
    shown = [[picture(90, 60)], [picture(60, 200, 1), picture(50, 50, 2)], []]
    texts = [prompt.render("Q" * (1 + i), len(images)) for i, images in enumerate(shown)]
    batch = encode(it.processor, texts, shown)
    assert sorted(batch["attention_mask"][:, 0].tolist()) == [0, 0, 1]
    assert batch["attention_mask"][:, -1].all()
    alone = [encode(it.processor, [x], [i] if i else None) for x, i in zip(texts, shown, strict=True)]
    torch.testing.assert_close(it.logits(batch), torch.cat([it.logits(x) for x in alone]), atol=1e-4, rtol=1e-4)
    assert it.generate(batch) == [it.generate(x)[0] for x in alone]


def test_several_images_are_not_tiled_where_the_family_says_so(of: Any):
    """OneVision: a newline after each image's only tile. Images in a flat list are taken for a prompt's only one each."""
    it, text = of("llava_onevision"), [PROMPT["llava_onevision"].render("Q", 2)]
    shown = [picture(90, 60), picture(90, 60, 1)]
    assert it.placeholders(encode(it.processor, text, [shown])) == 2 * (25 + 1)
    assert it.placeholders(encode(it.processor, text, shown)) == 2 * IMAGE["llava_onevision"]


@pytest.mark.parametrize("family", FAMILIES)
def test_attention_is_not_flat(of: Any, family: str):
    """The prompt's last token prefers some tokens, in every layer: the entropy of its heads stays clear of an even share's."""
    it = of(family)
    seen = encode(it.processor, [PROMPT[family].render("Q", 1)], [[picture(90, 60)]])
    it.model.set_attn_implementation("eager")
    try:
        with torch.no_grad():
            layers = it.model(**seen, output_attentions=True).attentions
    finally:
        it.model.set_attn_implementation("sdpa")
    last = torch.stack([layer[0, :, -1] for layer in layers])
    entropy = torch.special.entr(last).sum(-1).mean(-1)
    assert len(layers) == la.LAYERS
    assert float(entropy.max()) < 0.85 * np.log(last.shape[-1])


def test_weights_come_from_the_seed_and_shards_hold_the_same(tmp_path: Path):
    def read(name: str, **options: Any) -> dict[str, Tensor]:
        return la.load(la.layout("llava", tmp_path / name, **options))[0].state_dict()

    whole, shards, other = read("whole"), read("shards", shard="200KB"), read("other", seed=1)
    assert (tmp_path / "shards" / "model.safetensors.index.json").is_file()
    assert len(list((tmp_path / "shards").glob("model-*.safetensors"))) > 1
    assert whole.keys() == shards.keys()
    assert all(torch.equal(whole[n], shards[n]) for n in whole)
    name = "model.language_model.layers.0.self_attn.q_proj.weight"
    assert not torch.equal(whole[name], other[name])


@pytest.mark.parametrize("family", FAMILIES)
def test_each_layout_is_written_by_its_name(tmp_path: Path, family: str):
    assert la.LAYOUTS[family](tmp_path / "here", 3) == tmp_path / "here"
    assert transformers.AutoConfig.from_pretrained(tmp_path / "here").model_type == family
