"""Checkpoints in LLaVA's own layout are the models that their Hugging Face conversions are, and what is none says why."""

from __future__ import annotations

import json
import pickle
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import originals
import pytest
import torch
import transformers as t
from originals import IMAGE, PAD, ROWS, VOCAB, N
from safetensors.torch import load_file, save_file

from script_vlmeval import convert
from script_vlmeval.errors import UserError
from script_vlmeval.query import ClipQuery

FAMILIES = {"llava": originals.llava15, "llava_next": originals.llava16}
PROMPTS = ["USER: <image>\nWhat is shown? ASSISTANT:", "A chat. USER: <image>\nDescribe the dog;  Ünïcode 漢 ASSISTANT:"]
both = pytest.mark.parametrize("family", FAMILIES)


@pytest.fixture(scope="module", autouse=True)
def silent() -> Any:
    level = t.logging.get_verbosity()
    t.logging.set_verbosity_error()
    yield
    t.logging.set_verbosity(level)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = {family: make(tmp_path_factory.mktemp(family)) for family, make in FAMILIES.items()}
    for folder in made.values():
        originals.clip(folder / "clip")
    return made


@pytest.fixture(scope="module")
def conversions(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {family: originals.hf_twin(tmp_path_factory.mktemp(f"hf_{family}"), family) for family in FAMILIES}


@pytest.fixture
def copy(folders: dict[str, Path], tmp_path: Path) -> Callable[[str], Path]:
    """A checkpoint to spoil."""
    return lambda family: Path(shutil.copytree(folders[family], tmp_path / family))


def load(folder: Path, dtype: torch.dtype = torch.float32, attn: str = "sdpa", **options: Any) -> tuple[Any, Any]:
    return convert.load(folder, convert.clip_of(folder, None), dtype=dtype, attn=attn, **options)


def inputs(processor: Any, prompts: list[str] = PROMPTS) -> Any:
    from PIL import Image

    draw = np.random.default_rng(0)
    pictures = [Image.fromarray(draw.integers(0, 255, (20 + 9 * i, 37, 3), dtype=np.uint8)) for i in range(len(prompts))]
    return processor(text=prompts, images=pictures, return_tensors="pt", padding=True)


@torch.no_grad()
def logits(model: Any, asked: Any) -> torch.Tensor:
    """(tokens of all prompts, VOCAB), padding left out."""
    asked = {key: value.to(model.dtype) if key == "pixel_values" else value for key, value in asked.items()}
    return model(**asked).logits[asked["attention_mask"].bool()][:, :VOCAB]


def edit(folder: Path, **changes: Any) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder


def respell(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    """Change the second shard of a v1.6 folder."""
    path = folder / "model-00002-of-00002.safetensors"
    weights = load_file(path)
    change(weights)
    save_file(weights, path)


# -- the same model -----------------------------------------------------------------------------------------------------------
@both
@pytest.mark.parametrize("attn", ["sdpa", "eager"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_logits_are_those_of_the_hugging_face_layout(
    folders: dict[str, Path], conversions: dict[str, Path], family: str, attn: str, dtype: torch.dtype
):
    model, processor = load(folders[family], dtype, attn)
    asked = inputs(processor)
    other = t.AutoModelForImageTextToText.from_pretrained(conversions[family], dtype=dtype, attn_implementation=attn).eval()
    assert type(model) is type(other)
    assert model.config._attn_implementation == attn
    assert not model.training
    assert {weight.dtype for weight in model.parameters()} == {dtype}
    assert {weight.device.type for weight in model.parameters()} == {"cpu"}
    found = logits(model, asked)
    assert found.float().std() > 0.5
    assert torch.equal(found, logits(other, asked))


def test_another_seed_is_another_model(folders: dict[str, Path], tmp_path: Path):
    model, processor = load(originals.clip(originals.llava15(tmp_path, seed=1) / "clip").parent)
    asked = inputs(processor)
    assert torch.equal(logits(model, asked), logits(originals.twin("llava", seed=1), asked))
    assert not torch.equal(logits(model, asked), logits(originals.twin("llava"), asked))


@both
def test_a_device_map_changes_nothing_else(folders: dict[str, Path], family: str, monkeypatch: pytest.MonkeyPatch):
    cls, given = type(originals.twin(family)), []
    own = cls.from_pretrained
    monkeypatch.setattr(cls, "from_pretrained", lambda *a, **k: given.append(k["device_map"]) or own(*a, **k))
    model, processor = load(folders[family], device_map={"": "cpu"})
    assert given == [{"": "cpu"}]
    assert torch.equal(logits(model, inputs(processor)), logits(originals.twin(family), inputs(processor)))


@both
def test_saving_gives_the_hugging_face_layout(folders: dict[str, Path], family: str, tmp_path: Path):
    model, processor = load(folders[family])
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    assert not convert.is_original(tmp_path)
    again, asking = type(model).from_pretrained(tmp_path).eval(), t.AutoProcessor.from_pretrained(tmp_path)
    asked, other = inputs(processor), inputs(asking)
    assert asked.keys() == other.keys()
    assert all(torch.equal(asked[key], other[key]) for key in asked)
    assert torch.equal(logits(again, asked), logits(model, asked))
    assert again.generation_config.to_dict() == model.generation_config.to_dict()
    assert again.config.image_token_id == IMAGE


def test_the_tower_of_the_clip_folder_may_be_a_bin(copy: Callable[[str], Path]):
    folder = copy("llava")
    shutil.rmtree(folder / "clip")
    originals.clip(folder / "clip", "bin")
    model, processor = load(folder)
    assert torch.equal(logits(model, inputs(processor)), logits(originals.twin("llava"), inputs(processor)))


def test_safetensors_are_read_where_there_are_both(copy: Callable[[str], Path]):
    folder = copy("llava_next")
    torch.save({"model.image_newline": torch.zeros(1)}, folder / "pytorch_model.bin")
    model, processor = load(folder)
    assert torch.equal(logits(model, inputs(processor)), logits(originals.twin("llava_next"), inputs(processor)))


def test_one_file_without_an_index_will_do(copy: Callable[[str], Path]):
    folder = copy("llava")
    whole: dict[str, Any] = {}
    for path in sorted(folder.glob("pytorch_model-*")):
        whole |= torch.load(path, weights_only=True)
        path.unlink()
    (folder / "pytorch_model.bin.index.json").unlink()
    whole["model.image_newline"] = torch.ones(originals.WIDTH)  # a LLaVA-1.5 has no use for it
    torch.save(whole, folder / "pytorch_model.bin", _use_new_zipfile_serialization=False)  # as older versions did
    model, processor = load(folder)
    assert torch.equal(logits(model, inputs(processor)), logits(originals.twin("llava"), inputs(processor)))


def test_no_second_copy_of_the_weights(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch):
    """The model's weights are the very tensors of the state dict."""
    handed: dict[str, torch.Tensor] = {}
    whole = convert.state_of
    monkeypatch.setattr(convert, "state_of", lambda *args: handed.update(whole(*args)) or dict(handed))
    model, _ = load(folders["llava"], torch.float16)
    assert {w.data_ptr() for w in model.parameters()} == {w.data_ptr() for w in handed.values()}


def test_the_files_may_change_once_it_is_loaded(copy: Callable[[str], Path]):
    folder = copy("llava")
    model, _ = load(folder, torch.float16)  # as they are stored, so that nothing has to be converted
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    for path in (*folder.glob("pytorch_model*.bin"), folder / "clip" / "model.safetensors"):
        with path.open("r+b") as stream:
            stream.write(bytes(path.stat().st_size))
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())


def test_rotary_parameters_are_the_checkpoint_s(copy: Callable[[str], Path]):
    scaled = {"type": "linear", "factor": 4.0}  # as in LLaVAs on Vicuna-16k
    model, _ = load(edit(copy("llava"), rope_theta=5000.0, rope_scaling=scaled))
    width = originals.WIDTH // originals.TEXT["num_attention_heads"]
    expected = [1 / 5000 ** (i / width) / 4 for i in range(0, width, 2)]
    assert model.model.language_model.rotary_emb.inv_freq.tolist() == pytest.approx(expected)


# -- words --------------------------------------------------------------------------------------------------------------------
@both
def test_new_words_are_the_mean_and_are_never_said(folders: dict[str, Path], family: str):
    model, processor = load(folders[family])
    for table in (model.get_input_embeddings().weight, model.get_output_embeddings().weight):
        assert table.shape[0] == ROWS
        torch.testing.assert_close(table[VOCAB:], table[:VOCAB].mean(0).expand(ROWS - VOCAB, -1), atol=1e-3, rtol=1e-3)
    config = model.generation_config
    assert (config.bos_token_id, config.eos_token_id, config.pad_token_id) == (1, 2, PAD)
    assert not config.do_sample
    asked = inputs(processor)
    with torch.no_grad():  # so that they would be said
        model.get_output_embeddings().weight[VOCAB:] = 30 * torch.randn(ROWS - VOCAB, originals.WIDTH)
    start = asked["input_ids"].shape[1]
    said = model.generate(**asked, max_new_tokens=4, do_sample=False)[:, start:]
    loose = model.generate(**asked, max_new_tokens=4, do_sample=False, suppress_tokens=None)[:, start:]
    assert (loose >= VOCAB).any()
    ended = (said == 2).cumsum(1) - (said == 2).int() > 0  # what comes after the end is padding
    assert (said[~ended] < VOCAB).all()


def test_an_answer_ends_at_its_end(folders: dict[str, Path]):
    model, processor = load(folders["llava"])
    asked = inputs(processor, PROMPTS[:1])
    first = int(logits(model, asked)[-1].argmax())
    with torch.no_grad():
        head = model.get_output_embeddings().weight
        head[2] = 2 * head[first]
    said = model.generate(**asked, max_new_tokens=4, do_sample=False)
    assert said[0, asked["input_ids"].shape[1] :].tolist() == [2]


def own_ids(prompt: str) -> list[int]:
    """As LLaVA does it: what lies between the placeholders, one by one, to sentencepiece."""
    from sentencepiece import SentencePieceProcessor

    source = SentencePieceProcessor(model_proto=originals.pieces())
    ids = [1]
    for i, text in enumerate(prompt.split("<image>")):
        ids += [IMAGE] * (i > 0) + source.encode(text)
    return ids


def test_ids_are_those_of_llava(folders: dict[str, Path]):
    _, processor = load(folders["llava"])
    letters = [*"abcdefghiklmnostuvw ABSTU019.,:?!;'\n\té漢🙂_", "  ", "the ", "USER", "question", "▁"]
    draw = np.random.default_rng(0)
    texts = ["".join(draw.choice(letters, draw.integers(1, 40))) for _ in range(300)]
    texts += [f"{a}<image>{b}" for a, b in zip(texts[::2], texts[1::2], strict=True)]
    texts += [*PROMPTS, "<image><image>\n", "", " ", "<image>", "USER: <image> What"]
    for text in texts:
        assert processor.tokenizer(text).input_ids == own_ids(text), text


def test_text_comes_back(folders: dict[str, Path]):
    _, processor = load(folders["llava"])
    text = "The dog;  Ünïcode 漢\nand more"
    ids = processor.tokenizer(text).input_ids
    assert processor.tokenizer.decode(ids, skip_special_tokens=True) == text
    assert set(ids) & set(range(3, 259)), "no byte was needed"


@both
def test_the_processor_is_that_of_the_hugging_face_layout(folders: dict[str, Path], conversions: dict[str, Path], family: str):
    _, processor = load(folders[family])
    other = t.AutoProcessor.from_pretrained(conversions[family])
    asked, expected = inputs(processor), inputs(other)
    assert asked.keys() == expected.keys()
    assert all(torch.equal(asked[key], expected[key]) for key in asked)
    assert type(processor.image_processor) is type(other.image_processor)
    assert (asked["input_ids"][0, 0], asked["attention_mask"][0, 0]) == (PAD, 0)
    assert asked["input_ids"][1, 0] == 1
    if family == "llava":
        assert (asked["input_ids"] == IMAGE).sum(1).tolist() == [N, N]


def test_class_tokens_may_be_among_the_features(copy: Callable[[str], Path]):
    model, processor = load(edit(copy("llava"), mm_vision_select_feature="cls_patch"))
    asked = inputs(processor)
    assert (asked["input_ids"] == IMAGE).sum(1).tolist() == [N + 1, N + 1]
    assert logits(model, asked).isfinite().all()


@both
def test_pictures_are_taken_as_the_clip_folder_says(copy: Callable[[str], Path], family: str):
    folder = copy(family)
    path = folder / "clip" / "preprocessor_config.json"
    usual = inputs(load(folder)[1])["pixel_values"]
    path.write_text(json.dumps(json.loads(path.read_text()) | {"image_mean": [0.0, 0.0, 0.0]}))
    shifted = inputs(load(folder)[1])["pixel_values"]
    path.unlink()
    assert torch.equal(inputs(load(folder)[1])["pixel_values"], usual), "without the file, as published"
    first = (shifted - usual)[0].reshape(-1, 3, originals.SIZE, originals.SIZE)[0]
    expected = torch.tensor([m / s for m, s in zip(originals.MEAN, originals.STD, strict=True)])
    torch.testing.assert_close(first.mean((1, 2)), expected, atol=1e-4, rtol=1e-4)


def test_the_question_s_side_is_in_the_clip_folder(folders: dict[str, Path]):
    query = ClipQuery.load(folders["llava"] / "clip")
    rows, mask = query.encode(["what is this", ""])
    assert mask.tolist() == [[True], [False]]
    assert rows.shape[-1] == query.projection.shape[0] == originals.VISION["projection_dim"]


# -- what a folder is ---------------------------------------------------------------------------------------------------------
@both
def test_a_folder_says_what_it_is(folders: dict[str, Path], conversions: dict[str, Path], family: str, tmp_path: Path):
    assert convert.is_original(folders[family])
    assert convert.family_of(folders[family]) == family
    assert convert.layers(folders[family]) == originals.LAYERS
    assert not convert.is_original(tmp_path)
    assert not convert.is_original(conversions[family])


def test_asking_what_a_folder_is_loads_no_torch(folders: dict[str, Path]):
    code = (
        "import sys; from pathlib import Path; from script_vlmeval import convert; p = Path(sys.argv[1])\n"
        "print(convert.is_original(p), convert.family_of(p), convert.layers(p), convert.clip_of(p, None) == p / 'clip')\n"
        "print({'torch', 'transformers', 'tokenizers'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(folders["llava"])], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines() == [f"True llava {originals.LAYERS} True", "set()"], done.stderr


def test_where_the_clip_checkpoint_is_looked_for(folders: dict[str, Path], copy: Callable[[str], Path], tmp_path: Path):
    folder = copy("llava")
    elsewhere, beside = originals.clip(tmp_path / "elsewhere"), folder / "vit"
    assert convert.clip_of(folder, str(elsewhere)) == elsewhere
    assert convert.clip_of(folder, None) == folder / "clip"
    (folder / "clip").rename(beside)
    assert convert.clip_of(folder, None) is None
    assert convert.clip_of(edit(folder, mm_vision_tower="vit"), None) == beside
    assert convert.clip_of(edit(folder, mm_vision_tower=str(elsewhere)), None) == elsewhere
    with pytest.raises(UserError, match="No CLIP checkpoint in"):
        convert.clip_of(folder, str(tmp_path / "nowhere"))


STRANGERS: dict[str, tuple[dict[str, Any], str]] = {
    "onevision": ({"architectures": ["LlavaQwenForCausalLM"]}, r"LLaVA-OneVision or LLaVA-Video \(LlavaQwenForCausalLM\)"),
    "siglip": ({"mm_vision_tower": "google/siglip-so400m-patch14-384"}, "vision tower 'google/siglip"),
    "no tower": ({"mm_vision_tower": None, "mm_video_tower": "LanguageBind"}, "vision tower 'None'"),
    "mpt": ({"architectures": ["LlavaMptForCausalLM"]}, r"another language model \(LlavaMpt"),
    "mistral": ({"architectures": ["LlavaMistralForCausalLM"]}, r"another language model \(LlavaMistral"),
    "moe": ({"moe": {"moe_enable": True}}, "mixture of experts"),
    "linear": ({"mm_projector_type": "linear"}, "projector of type 'linear'"),
    "mlp3x": ({"mm_projector_type": "mlp3x_gelu"}, "projector of type 'mlp3x_gelu'"),
    "resampler": ({"mm_resampler_type": "perceiver"}, "resampler"),
    "start and end": ({"mm_use_im_start_end": True}, "mm_use_im_start_end"),
    "scales": ({"s2": True}, "several scales"),
    "features": ({"mm_vision_select_feature": "cls"}, "features 'cls'"),
    "merge": ({"mm_patch_merge_type": "spatial"}, "mm_patch_merge_type 'spatial'"),
    "crops": ({"image_aspect_ratio": "anyres"}, "'flat' and image_aspect_ratio 'anyres'"),
}


@pytest.mark.parametrize("name", STRANGERS)
def test_relatives_are_named(copy: Callable[[str], Path], name: str):
    changes, message = STRANGERS[name]
    folder = edit(copy("llava"), **changes)
    assert convert.is_original(folder)
    for ask in (convert.family_of, load):
        with pytest.raises(UserError, match=message):
            ask(folder)


def test_an_adapter_is_no_model(copy: Callable[[str], Path]):
    folder = copy("llava")
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(UserError, match=r"an adapter to be merged .*llava-hf"):
        convert.family_of(folder)


# -- what is missing or broken ------------------------------------------------------------------------------------------------
def test_llava15_needs_the_clip_checkpoint(copy: Callable[[str], Path]):
    folder = copy("llava")
    shutil.rmtree(folder / "clip")
    with pytest.raises(
        UserError, match=rf"no weights of its vision tower.*{originals.CLIP} into {re.escape(str(folder / 'clip'))}"
    ):
        load(folder)


def test_the_published_tower_s_sizes_are_known(copy: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch):
    with torch.device("meta"):
        tower = t.CLIPVisionModel(t.CLIPVisionConfig(**convert.TOWER))
    assert sum(weight.numel() for weight in tower.parameters()) == 303_507_456
    assert (tower.config.image_size // tower.config.patch_size) ** 2 == 576
    folder = copy("llava_next")
    shutil.rmtree(folder / "clip")
    monkeypatch.setattr(convert, "TOWER", originals.VISION)
    model, processor = load(folder)
    assert torch.equal(logits(model, inputs(processor)), logits(originals.twin("llava_next"), inputs(processor)))
    with pytest.raises(UserError, match="no sizes of its vision tower: put the CLIP checkpoint openai/other"):
        load(edit(folder, mm_vision_tower="openai/other"))


def test_a_clip_folder_holds_a_clip(copy: Callable[[str], Path]):
    folder = copy("llava")
    edit(folder / "clip", model_type="siglip")
    with pytest.raises(UserError, match="holds a 'siglip' model"):
        load(folder)


@both
def test_half_a_checkpoint(copy: Callable[[str], Path], family: str):
    folder = copy(family)
    shard = next(folder.glob("*-00002-of-00002.*"))
    shard.unlink()
    with pytest.raises(UserError, match=f"Half a checkpoint: .* lacks {shard.name}"):
        load(folder)


def test_no_checkpoint(copy: Callable[[str], Path]):
    folder = copy("llava")
    for path in folder.glob("pytorch_model*"):
        path.unlink()
    with pytest.raises(UserError, match="No weights in"):
        load(folder)


class Evil:
    """What would create a file if unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_that_runs_code_is_not_read(copy: Callable[[str], Path], zipped: bool, tmp_path: Path):
    folder, mark = copy("llava"), tmp_path / "ran"
    with (folder / "pytorch_model-00002-of-00002.bin").open("wb") as stream:
        if zipped:
            torch.save({"lm_head.weight": Evil(mark)}, stream)
        else:
            pickle.dump({"lm_head.weight": Evil(mark)}, stream)
    with pytest.raises(UserError, match=r"00002\.bin is unsafe.*safetensors"):
        load(folder)
    assert not mark.exists()


@both
@pytest.mark.parametrize("spoil", ["cut", "pointer", "empty"])
def test_a_broken_file_is_named(copy: Callable[[str], Path], family: str, spoil: str):
    folder = copy(family)
    shard = next(folder.glob("*-00002-of-00002.*"))
    whole = shard.read_bytes()
    shard.write_bytes(
        {"cut": whole[: len(whole) // 2], "pointer": b"version https://git-lfs.github.com/spec/v1\n", "empty": b""}[spoil]
    )
    with pytest.raises(UserError, match=f"{shard.name} cannot be read .*Git LFS"):
        load(folder)


SPOILT: dict[str, tuple[Callable[[dict[str, torch.Tensor]], Any], str]] = {
    "missing": (lambda w: w.pop("model.mm_projector.0.weight"), "lacks 1 weights, such as .*linear_1.weight"),
    "unexpected": (lambda w: w.update({"model.layers.9.x": torch.ones(1)}), "has unknown 1 weights, such as .*layers.9.x"),
    "mismatched": (lambda w: w.update({"model.mm_projector.0.weight": torch.ones(3, 3)}), "another shape 1 weights"),
    "short": (
        lambda w: w.update({"lm_head.weight": w["lm_head.weight"][:-1].clone()}),
        "another shape 1 weights, such as .*lm_head",
    ),
}


@pytest.mark.parametrize("name", SPOILT)
def test_weights_that_do_not_fit(copy: Callable[[str], Path], name: str):
    change, message = SPOILT[name]
    folder = copy("llava_next")
    first = load_file(folder / "model-00001-of-00002.safetensors")

    def moved(weights: dict[str, torch.Tensor]) -> None:  # whichever shard they were in
        weights |= first
        change(weights)

    respell(folder, moved)
    save_file(
        {"model.norm.weight": (first | load_file(folder / "model-00002-of-00002.safetensors"))["model.norm.weight"]},
        folder / "model-00001-of-00002.safetensors",
    )
    with pytest.raises(UserError, match=message):
        load(folder)


def test_the_tokenizer_must_be_there_and_fit(copy: Callable[[str], Path]):
    folder = copy("llava")
    with pytest.raises(UserError, match=f"not LLaMA's tokenizer of {VOCAB + 1} pieces: it has {VOCAB}"):
        load(edit(folder, vocab_size=VOCAB + 1))
    (folder / "tokenizer.model").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(UserError, match="no sentencepiece model"):
        load(folder)
    (folder / "tokenizer.model").unlink()
    with pytest.raises(UserError, match=r"no tokenizer\.model"):
        load(folder)


@pytest.mark.parametrize("key", ["vocab_size", "num_hidden_layers", "rms_norm_eps"])
def test_a_configuration_that_says_too_little(copy: Callable[[str], Path], key: str):
    folder = copy("llava")
    config = json.loads((folder / "config.json").read_text())
    del config[key]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=f"does not say '{key}'"):
        load(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(UserError, match="Cannot read"):
        convert.is_original(folder)
