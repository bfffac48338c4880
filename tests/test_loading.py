"""Loading: what is refused and how it is said, what is never executed, no memory, and what a checkpoint's digest sees."""

from __future__ import annotations

import builtins
import json
import pickle
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import data_factory
import layouts
import models
import originals
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from script_vlmeval import backbones, hub, loading, study
from script_vlmeval.backbones import BACKBONES, Models
from script_vlmeval.cells import Config
from script_vlmeval.cli import main, parser
from script_vlmeval.errors import UserError
from script_vlmeval.methods import get_method
from script_vlmeval.offers import offers, served
from script_vlmeval.runtime import Runtime, method_of

hosted = models.since_5("is none that VLMEvalKit can be imported with")


@pytest.fixture
def llava(at: Callable[[str], Path], tmp_path: Path) -> Path:
    """A checkpoint to spoil."""
    return Path(shutil.copytree(at("llava"), tmp_path / "given"))


def run(tmp_path: Path, *argv: str) -> int:
    table = data_factory.mixed(tmp_path)
    return main(["--data", str(table), "--device", "cpu", "--quiet", "--work-dir", str(tmp_path / "results"), *argv])


def refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """The message of a run that must be refused, in one line, with status 2, before anything is written."""
    capsys.readouterr()
    status = run(tmp_path, *argv)
    out, err = capsys.readouterr()
    assert status == 2, err
    assert not out
    lines = [line for line in err.splitlines() if not line.startswith("Writing model shards")]
    assert len(lines) == 1, lines
    assert lines[0].startswith("error: ")
    assert not [f for f in tmp_path.glob("results/**/*") if f.is_file()]
    return lines[0]


def own(folder: Path | str, family: str = "llava", name: str = "x_script_25pct", *more: str) -> list[str]:
    return ["--checkpoint", f"x={folder}", "--family", family, "--model", name, *more]


def edit(file: Path, **changes: Any) -> None:
    said = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**said, **changes}), encoding="utf-8")


# -- a folder that is no whole checkpoint ----------------------------------------------------------------------------------------
def remove(*names: str) -> Callable[[Path], Any]:
    return lambda folder: [(folder / name).unlink() for name in names]


def _weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def _without_a_weight(folder: Path) -> None:
    _weights(folder, lambda w: w.pop(next(name for name in sorted(w) if "layers.2.mlp.down_proj" in name)))


def _without_a_head(folder: Path) -> None:
    _weights(folder, lambda w: w.pop(next(name for name in w if "lm_head" in name)))


def _with_a_wide_weight(folder: Path) -> None:
    def widen(weights: dict[str, torch.Tensor]) -> None:
        name = next(name for name in sorted(weights) if "layers.2.mlp.down_proj" in name)
        weights[name] = torch.zeros(64, 97)

    _weights(folder, widen)


def _truncated(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])


def _half(folder: Path) -> None:
    shutil.rmtree(folder)
    layouts.layout("llava", folder, shard="200KB")
    sorted(folder.glob("model-*.safetensors"))[1].unlink()


def _text_alone(folder: Path) -> None:
    shape = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 400}
    remove("model.safetensors")(folder)
    transformers.LlamaForCausalLM(transformers.LlamaConfig(**shape)).save_pretrained(folder)


BEFORE: dict[str, tuple[Callable[[Path], Any], tuple[str, ...]]] = {  # told from names, sizes and headers
    "absent": (shutil.rmtree, ("There is no folder", "hub")),
    "no configuration": (remove("config.json"), ("has no config.json", "Expected there")),
    "no weights": (remove("model.safetensors"), ("has no weights",)),
    "no tokenizer": (remove("tokenizer.json"), ("has no tokenizer",)),
    "half": (_half, ("half a checkpoint", "lacks 1 of")),
    "truncated": (_truncated, ("model.safetensors has", "where its header says")),
    "empty weights": (lambda f: (f / "model.safetensors").write_bytes(b""), ("is empty",)),
    "a pointer": (lambda f: (f / "model.safetensors").write_text("version https://git-lfs"), ("Git LFS",)),
    "garbage": (lambda f: (f / "model.safetensors").write_bytes(b"\xff" * 5000), ("safetensors",)),
}
LATER: dict[str, tuple[Callable[[Path], Any], tuple[str, ...]]] = {  # told when it is loaded
    "no JSON": (lambda f: (f / "config.json").write_text("{"), ("config.json",)),
    "a list": (lambda f: (f / "config.json").write_text("[]"), ("config.json",)),
    "no model type": (lambda f: (f / "config.json").write_text("{}"), ("model_type",)),
    "unknown model type": (lambda f: edit(f / "config.json", model_type="llavva"), ("llavva",)),
    "a weight missing": (_without_a_weight, ("lacks 1 weights of 'x'", "layers.2.mlp.down_proj")),
    "a head missing": (_without_a_head, ("lacks 1 weights of 'x'", "lm_head")),
    "a weight of another shape": (_with_a_wide_weight, ("x",)),
    "text alone": (_text_alone, ("holds a 'llama' model, which reads text alone", "'x' is a 'llava'")),
    "broken tokenizer": (lambda f: (f / "tokenizer.json").write_text("{"), ("Cannot load 'x'",)),
    "no processor": (
        lambda f: [p.unlink() for p in f.glob("*processor_config.json")],
        ("Cannot load 'x'",),
    ),
}


@pytest.mark.parametrize("spoilt", BEFORE)
def test_half_a_checkpoint_is_refused(spoilt: str, llava: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    spoil, words = BEFORE[spoilt]
    spoil(llava)
    said = refused(tmp_path, capsys, *own(llava))
    assert all(word in said for word in (*words, str(llava), "--checkpoint x=DIR_OR_HUB_ID"))
    with pytest.raises(UserError):
        Runtime.load("x", device="cpu", checkpoints=Models({"x": str(llava)}, {"x": "llava"}))


@pytest.mark.parametrize("spoilt", LATER)
def test_what_does_not_load_is_said_plainly(spoilt: str, llava: Path):
    spoil, words = LATER[spoilt]
    spoil(llava)
    with pytest.raises(UserError) as caught:
        Runtime.load("x", device="cpu", checkpoints=Models({"x": str(llava)}, {"x": "llava"}))
    said = str(caught.value)
    assert "\n" not in said
    assert all(word in said for word in (*words, str(llava)))


def test_a_model_is_not_guessed_from_a_folder_s_name(llava: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """It would be a random one in the published size."""
    begun: list[Any] = []
    monkeypatch.setattr(transformers.AutoModelForImageTextToText, "from_pretrained", lambda *given, **_: begun.append(given))
    (llava / "config.json").write_text("{}")
    folder = llava.rename(tmp_path / "llava-1.5-7b-hf")
    with pytest.raises(UserError):
        Runtime.load("x", device="cpu", checkpoints=Models({"x": str(folder)}, {"x": "llava"}))
    assert not begun


@hosted
@pytest.mark.parametrize("spoilt", LATER)
def test_what_does_not_load_leaves_nothing_behind(spoilt: str, llava: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    LATER[spoilt][0](llava)
    refused(tmp_path, capsys, *own(llava, "llava", "x_divprune_5"))


def test_a_file_is_no_checkpoint(llava: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert "folder" in refused(tmp_path, capsys, *own(llava / "model.safetensors"))


@hosted
def test_a_broken_checkpoint_leaves_earlier_results_alone(llava: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert run(tmp_path, *own(llava, "llava", "x_divprune_5"), "--limit", "1", "--mode", "infer") == 0
    cell = tmp_path / "results/x_divprune_5/own"
    before = {file.name: file.read_bytes() for file in cell.iterdir() if file.is_file() and file.name != ".lock"}
    _without_a_weight(llava)
    for more in ([], ["--fresh"]):
        assert run(tmp_path, *own(llava, "llava", "x_divprune_5"), *more) == 2
        assert {name: (cell / name).read_bytes() for name in before} == before
        assert {file.name for file in cell.iterdir() if file.is_file()} == {*before, ".lock"}


@pytest.mark.parametrize("family", ["llava", "qwen2_vl"])
def test_a_head_tied_to_the_embedding_need_not_be_there(family: str, at: Callable[[str], Path], tmp_path: Path):
    folder = Path(shutil.copytree(at(family), tmp_path / family))
    said = json.loads((folder / "config.json").read_text())
    edit(folder / "config.json", tie_word_embeddings=True, text_config={**said["text_config"], "tie_word_embeddings": True})
    _without_a_head(folder)
    model = Runtime.load("x", device="cpu", checkpoints=Models({"x": str(folder)}, {"x": family})).model
    assert torch.equal(model.lm_head.weight, model.get_input_embeddings().weight)


# -- families ----------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("held", "named"), [("llava", "qwen2_vl"), ("qwen2_vl", "qwen2_5_vl"), ("llava_next", "llava")])
def test_another_family_than_named(held: str, named: str, at: Callable[[str], Path]):
    with pytest.raises(UserError, match=f"holds a '{held}' model, 'x' is a '{named}'"):
        Runtime.load("x", device="cpu", checkpoints=Models({"x": str(at(held))}, {"x": named}))


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--checkpoint", "x={}", "--family", "lava", "--model", "x_full"], "Unknown model family 'lava'. Did you mean 'llava'"),
        (["--checkpoint", "llava={}", "--family", "llava", "--model", "llava_full"], "none is"),
        (["--family", "llava", "--model", "llava_full"], "none is"),
        (["--checkpoint", "llavaa=org/name", "--model", "llavaa_full"], "Did you mean 'llava'"),
        (["--checkpoint", "llavaa=org/name", "--model", "llavaa_full"], "say its --family"),
        (["--checkpoint", "llavaa=./nowhere", "--model", "llavaa_full"], "nowhere"),
        (["--checkpoint", "x={}", "y={}", "--family", "llava", "llava", "llava", "--model", "x_full"], "(x, y)"),
        (["--checkpoint", "x={}", "--family", "llava", "--model", "y_full"], "Unknown model 'y'"),
        (["--checkpoint", "x", "--family", "llava", "--model", "x_full"], "NAME=DIR"),
        (["--checkpoint", "X={}", "--family", "llava", "--model", "x_full"], "lower case"),
        (["--checkpoint", "x={}", "--family", "llava", "--model", "x_full", "--protocol", "papers"], "invalid choice"),
        (["--checkpoint", "x={}", "--family", "llava", "--model", "x_full", "--attn", "flash_attention_2"], "needs a GPU"),
    ],
)
def test_flags_that_cannot_work(
    argv: list[str], words: str, at: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    if "flash_attention_2" in argv and layouts.OLD:
        pytest.skip("the data's side comes first, and VLMEvalKit cannot be imported")
    said = refused(tmp_path, capsys, *(part.format(at("llava")) for part in argv))
    assert words in said


@pytest.mark.parametrize(
    ("family", "name"),
    [
        ("qwen2_vl", "visionzip_25pct"),
        ("qwen2_5_vl", "trim_25pct"),
        ("qwen3_vl", "trim+fastv_25pct"),
        ("internvl", "downsample_25pct"),
        ("llava_onevision", "visionzip_25pct"),
        ("llava_next_video", "visionzip_25pct"),
        ("qwen2_vl", "visionzip+fastv_25pct"),
    ],
)
def test_a_family_that_cannot_serve_a_method_says_which_it_can(
    family: str, name: str, at: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    said = refused(tmp_path, capsys, *own(at(family), family, f"x_{name}"))
    assert f"'x_{name}'" in said
    assert f"which {family} models do not give" in said
    able = said.partition("Methods that work: ")[2].rstrip(".").split(", ")
    assert able == served(offers(family))
    assert name.partition("_")[0].partition("+")[0] not in able
    assert {"full", "random", "divprune"} <= set(able)


def test_the_protocols_differ_in_what_they_can_show(
    at: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    folder = at("llava_next")
    said = refused(tmp_path, capsys, *own(folder, "llava_next", "x_visionzip_25pct"), "--protocol", "hf")
    assert "visionzip" in said
    assert "cls" in said
    for protocol in (None, "paper"):
        method = method_of(Config.parse("x_visionzip_40"), Models({"x": str(folder)}, {"x": "llava_next"}, protocol))
        assert method.name == "visionzip"


@pytest.mark.parametrize(("budget", "near"), [("64", "65"), ("321", "320"), ("1", "5")])
def test_a_budget_of_five_tiles(budget: str, near: str, at: Callable[[str], Path], tmp_path: Path, capsys):
    said = refused(tmp_path, capsys, *own(at("llava_next"), "llava_next", f"x_divprune_{budget}"))
    assert "5 tiles" in said
    assert f"such as {near}." in said


def test_more_than_all_tokens(at: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    said = refused(tmp_path, capsys, *own(at("llava_next"), "llava_next", "x_divprune_2885"))
    assert "has 80 (5 tiles) visual tokens" in said  # the checkpoint's, not the published model's
    assert "'x_full'" in said


def _records(folder: Path, family: str, protocol: Any = None) -> backbones.Backbone:
    return Models({"x": str(folder)}, {"x": family}, protocol).record("x")


def test_tokens_come_from_the_checkpoint(at: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for family in ("llava", "llava_next", "video_llava"):
        record = _records(at(family), family)
        assert loading.visual(record) == 16  # of each tile
        assert loading.visual(replace(record, checkpoint="nobody/nothing")) == record.visual // record.tiles > 200
    for family in ("qwen2_vl", "llava_onevision"):
        record = _records(at(family), family)
        assert loading.visual(record) == record.visual
    assert loading.visual(_records(at("llava_next"), "llava_next", "hf")) == 576
    assert loading.visual(_records(originals.llava16(tmp_path / "own"), "llava_next")) == 576  # no CLIP says otherwise
    originals.clip(tmp_path / "clipped/clip")
    assert loading.visual(_records(originals.llava15(tmp_path / "clipped"), "llava")) == originals.N
    assert loading.visual(BACKBONES["tiny"]) == BACKBONES["tiny"].visual
    said = refused(tmp_path, capsys, *own(at("llava"), "llava", "x_cdpruner_64"))
    assert "'x' has 16 visual tokens" in said
    assert method_of(Config.parse("x_fastv_9"), Models({"x": str(at("llava"))}, {"x": "llava"})).name == "fastv"
    with pytest.raises(UserError, match="smallest budget"):  # two layers of 32 see all 576
        method_of(Config.parse("llava_fastv_9"))


def test_sizes_that_nobody_said(llava: Path):
    vision = json.loads((llava / "config.json").read_text())["vision_config"]
    edit(llava / "config.json", vision_config={**vision, "image_size": "wide"})
    with pytest.raises(UserError, match="how large the pictures and patches"):
        loading.visual(_records(llava, "llava"))


@pytest.mark.parametrize("relevance", ["clip", "clipcompat"])
@pytest.mark.parametrize("family", ["llava", "qwen2_vl"])
def test_clip_asked_for_where_there_is_none(
    family: str, relevance: str, at: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    said = refused(tmp_path, capsys, *own(at(family), family, "x_cdpruner_25pct"), "--param", f"relevance={relevance}")
    assert f"'{relevance}'" in said
    assert "relevance=llm" in said


def test_layers_come_from_the_checkpoint(at: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for family in layouts.FAMILIES:
        record = Models({"x": str(at(family))}, {"x": family}).record("x")
        assert loading.layers(record) == layouts.LAYERS
        assert loading.layers(replace(record, checkpoint="nobody/nothing")) == record.layers > layouts.LAYERS
    said = refused(tmp_path, capsys, *own(at("qwen2_vl"), "qwen2_vl", "x_fastv_64"))  # of the largest picture
    assert "smallest budget" in said
    assert "no layer schedule" in refused(tmp_path, capsys, *own(at("qwen2_vl"), "qwen2_vl", "x_divprune_r50k2"))


# -- how it generates ----------------------------------------------------------------------------------------------------------
LEAKS = {"repetition_penalty": 5.0, "no_repeat_ngram_size": 1, "temperature": 0.1, "top_k": 1, "do_sample": True, "num_beams": 3}


@pytest.mark.parametrize("kind", ["llava", "qwen2_5_vl", "original"])
def test_greedy_is_greedy(kind: str, at: Callable[[str], Path], tmp_path: Path):
    """A published Qwen2.5-VL asks for a penalty on words that were said."""
    folder, family = tmp_path / "given", "llava_next" if kind == "original" else kind
    if kind == "original":
        originals.clip(originals.llava16(folder) / "clip")
    else:
        shutil.copytree(at(kind), folder)

    def loaded() -> Any:
        return Runtime.load("x", device="cpu", checkpoints=Models({"x": str(folder)}, {"x": family}))

    def said(runtime: Any) -> list[int]:
        given = runtime.prepare([[{"type": "text", "value": "what is it"}]]).inputs
        return runtime.model.generate(**given, do_sample=False, max_new_tokens=4)[0, given["input_ids"].shape[1] :].tolist()

    plain = loaded()
    ids = {name: getattr(plain.model.generation_config, name) for name in ("eos_token_id", "pad_token_id", "suppress_tokens")}
    assert ids["eos_token_id"] is not None
    assert (kind == "original") == bool(ids["suppress_tokens"])
    answer = said(plain)
    edit(folder / "generation_config.json", **LEAKS, bad_words_ids=[answer[:1]])
    leaky = loaded()
    config = leaky.model.generation_config
    assert {name: getattr(config, name) for name in ids} == ids
    assert (config.repetition_penalty or 1.0, config.num_beams or 1, config.use_cache is not False) == (1.0, 1, True)
    assert said(leaky) == answer
    config.bad_words_ids = [answer[:1]]  # the answer could have been another
    assert said(leaky) != answer


# -- in whose words ------------------------------------------------------------------------------------------------------------
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}[INST] {% for c in m['content'] %}{% if c['type'] == 'image' %}<image>\n{% endif %}"
    "{% endfor %}{% for c in m['content'] %}{% if c['type'] == 'text' %}{{ c['text'] }}{% endif %}{% endfor %} [/INST]"
    "{% endfor %}"
)
PLAIN = "{% for m in messages %}{{ '<|' + m['role'] + '|>{' + m['content'] + '}' }}{% endfor %}{{ '<|assistant|>' }}"


def templated(folder: Path, template: str, name: str = "chat_template.jinja") -> Path:
    for file in folder.glob("*.json"):
        if "chat_template" in (said := json.loads(file.read_text())):
            del said["chat_template"]
            file.write_text(json.dumps(said))
    for file in folder.glob("chat_template*"):
        file.unlink()
    if name.endswith(".jinja"):
        (folder / name).write_text(template)
    elif template:
        file = folder / name
        edit(file, chat_template=template) if file.is_file() else file.write_text(json.dumps({"chat_template": template}))
    return folder


def asked(name: str, folder: Path) -> Any:
    given = Models({name: str(folder)}, {} if name in BACKBONES else {name: "llava"})
    return loading.fetched(given.record(name), offline=True, clip=False)


@pytest.mark.parametrize("where", ["chat_template.jinja", "chat_template.json", "tokenizer_config.json"])
def test_a_name_of_one_s_own_asks_as_its_template_does(where: str, llava: Path):
    record = asked("x", templated(llava, MISTRAL, where))
    assert record.talk.prompt == record.asked("vlmevalkit").prompt == "[INST] {message} [/INST]"
    assert (record.talk.image, record.talk.square) == (BACKBONES["llava"].talk.image, True)
    assert asked("x", llava) == record
    again = loading.fetched(record, offline=True, clip=False)
    assert again == record
    runtime = Runtime.load("x", device="cpu", checkpoints=Models({"x": str(llava)}, {"x": "llava"}))
    sample = runtime.read([{"type": "text", "value": "Who?"}])
    assert sample.prompt == "[INST] Who? [/INST]"
    assert runtime.prepare([sample]).inputs["input_ids"][0].tolist().count(1) == 1  # one begin, though the template has it too


def test_a_template_of_plain_text_with_braces(llava: Path):
    record = asked("x", templated(llava, PLAIN))
    assert record.talk.prompt.format(message="M") == "<|user|>{M}<|assistant|>"


def test_a_model_of_the_table_is_asked_as_published(llava: Path):
    with pytest.warns(UserWarning, match=r"asks in '\[INST\]' by its chat template, and is asked as '.*USER:', as 'llava'"):
        record = asked("llava", templated(llava, MISTRAL))
    assert record.talk == BACKBONES["llava"].talk


@pytest.mark.parametrize("template", ["", "{{ raise_exception('no') }}", "{% for", "{{ 'a' }}", "published", None])
def test_templates_that_change_nothing(template: str | None, llava: Path, recwarn: pytest.WarningsRecorder):
    """None there, none that can be followed, or the same words without LLaVA's system sentence."""
    if template != "published":
        templated(llava, template or "", "chat_template.jinja" if template else "chat_template.json")
    for name in ("x", "llava"):
        assert asked(name, llava).talk == BACKBONES["llava"].talk
    assert not recwarn.list


@pytest.mark.parametrize("family", layouts.FAMILIES)
def test_published_templates_are_the_words_of_the_table(family: str, at: Callable[[str], Path], recwarn: pytest.WarningsRecorder):
    like = next(r for r in BACKBONES.values() if r.family == family and r.id != "tiny")
    given = Models({like.id: str(at(family)), "x": str(at(family))}, {"x": family})
    for name in (like.id, "x"):
        assert loading.fetched(given.record(name), offline=True, clip=False).talk == like.talk
    assert not recwarn.list


# -- adapters ------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["x_full", "x_divprune_5"])
def test_an_adapter_is_no_model(name: str, llava: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (llava / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "base_model_name_or_path": "some-org/base"}))
    said = refused(tmp_path, capsys, *own(llava, "llava", name))
    assert "holds an adapter (LoRA): merge it into its base model first" in said
    with pytest.raises(UserError, match="merge it"):
        loading.load(_records(llava, "llava"), device="cpu", dtype=torch.float32, attn="sdpa")


# -- a tower that is elsewhere -------------------------------------------------------------------------------------------------
def test_a_folder_without_a_tower_is_refused_before_it_is_loaded(
    no_hub: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    folder = originals.llava15(tmp_path / "own")
    for more in ([], ["--offline"]):
        said = refused(tmp_path, capsys, *own(folder, "llava", "x_full", *more))
        assert f"no weights of its vision tower: put the CLIP checkpoint {originals.CLIP} into {folder}/clip" in said
        assert f"`hf download {originals.CLIP}`" in said
    with pytest.raises(UserError, match="no weights of its vision tower"):
        method_of(Config.parse("x_full"), Models({"x": str(folder)}, {"x": "llava"}))
    edit(folder / "config.json", mm_vision_tower="/data/own-tower")
    said = refused(tmp_path, capsys, *own(folder, "llava", "x_full"))
    assert f"put the CLIP checkpoint /data/own-tower into {folder}/clip." in said


def test_a_tower_in_the_cache_will_do(no_hub: None, tmp_path: Path):
    folder = originals.llava15(tmp_path / "own")
    snapshot = tmp_path / f"cache/models--{originals.CLIP.replace('/', '--')}/snapshots" / ("0" * 40)
    snapshot.parent.mkdir(parents=True)
    originals.clip(snapshot)
    runtime = Runtime.load("x", device="cpu", checkpoints=Models({"x": str(folder)}, {"x": "llava"}, offline=True))
    assert runtime.record.clip == str(snapshot)
    method = method_of(Config.parse("x_cdpruner_5"), Models({"x": str(folder)}, {"x": "llava"}, offline=True))
    runtime.ready(method)


# -- whose CLIP ----------------------------------------------------------------------------------------------------------------
def ready(folder: Path, family: str = "llava") -> None:
    runtime = Runtime.load("x", device="cpu", checkpoints=Models({"x": str(folder)}, {"x": family}))
    runtime.ready(get_method("cdpruner"))


@pytest.mark.parametrize("wrong", ["patch_size", "image_size", "hidden_size"])
def test_a_clip_of_another_tower(wrong: str, llava: Path):
    clip = originals.fitting(llava)
    said = json.loads((clip / "config.json").read_text())
    if wrong == "hidden_size":
        _weights(clip, lambda w: w.update({"visual_projection.weight": torch.zeros(24, 40)}))
    else:
        edit(clip / "config.json", vision_config={**said["vision_config"], wrong: 28})
    with pytest.raises(UserError, match=rf"{clip} is not of the vision tower of 'x' \({llava}\): it has {wrong} \d+, the tower"):
        ready(llava)


@pytest.mark.parametrize("family", ["llava", "llava_next"])
def test_a_tower_with_other_weights(family: str, at: Callable[[str], Path], tmp_path: Path, recwarn: pytest.WarningsRecorder):
    """LLaVA-1.5's was frozen, LLaVA-NeXT's was not."""
    folder = Path(shutil.copytree(at(family), tmp_path / family))
    clip = originals.fitting(folder)
    ready(folder, family)
    assert not recwarn.list
    _weights(clip, lambda w: w.update({n: 2 * x for n, x in w.items() if n.endswith("class_embedding")}))
    ready(folder, family)
    assert ["but other weights" in str(warning.message) for warning in recwarn.list] == [True] * (family == "llava")


def test_relevance_of_a_checkpoint_of_one_s_own(llava: Path, no_hub: None):
    """On the hub: by the published CLIP, as for the table. In a folder: by what is here, else the language model's."""
    published = BACKBONES["llava"].clip
    assert Models({"x": "some-org/model"}, {"x": "llava"}).record("x").clip == published
    assert Models({"llava": "some-org/model"}).record("llava").clip == published
    assert _records(llava, "llava").clip is None
    with pytest.warns(
        UserWarning, match=rf"put the CLIP checkpoint {published} into {llava}/clip, or into .* `hf download {published}`"
    ):
        method_of(Config.parse("x_cdpruner_5"), Models({"x": str(llava)}, {"x": "llava"}))
    originals.fitting(llava)
    assert _records(llava, "llava").clip == str(llava / "clip")


# -- devices -------------------------------------------------------------------------------------------------------------------
@hosted
@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
@pytest.mark.parametrize("device", ["all", "cuda", "cuda:1", "tpu9"])
def test_a_device_that_is_not_there(device: str, llava: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    said = refused(tmp_path, capsys, *own(llava, "llava", "x_divprune_5"), "--device", device)
    assert f"--device '{device}'" in said
    assert "GPUs seen: 0" in said


def test_flash_attention_says_what_it_needs(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(UserError, match="needs a GPU: use --attn sdpa"):
        loading.check_attention("flash_attention_2", "cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr("transformers.utils.import_utils.is_flash_attn_2_available", lambda: False)
    with pytest.raises(UserError, match="pip install flash-attn"):
        loading.check_attention("flash_attention_2", "cuda")
    loading.check_attention("sdpa", "cuda")


# -- the network ---------------------------------------------------------------------------------------------------------------
@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An empty cache; asking the hub fails the test."""
    from huggingface_hub import constants

    def asked(*_: Any, **__: Any) -> None:
        raise AssertionError("the hub was asked")

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(hub, "_order", asked)
    monkeypatch.setattr(hub, "_download", asked)
    monkeypatch.setattr("socket.socket.connect", asked)
    monkeypatch.setattr("socket.getaddrinfo", asked)


@pytest.mark.parametrize(
    "argv", [["--checkpoint", "x=some-org/model", "--family", "llava", "--model", "x_full"], ["--model", "llava_full"]]
)
def test_offline_asks_nobody(argv: list[str], no_hub: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    said = refused(tmp_path, capsys, *argv, "--offline")
    assert "--offline refuses the download" in said
    assert "hf download" in said
    with pytest.raises(AssertionError, match="the hub was asked"):  # the fixture can fail
        hub.fetch("some-org/model", offline=False)


@hosted
def test_a_folder_asks_nobody(llava: Path, no_hub: None, tmp_path: Path):
    assert run(tmp_path, *own(llava, "llava", "x_script_25pct"), "--limit", "1", "--mode", "infer") == 0


@hosted
def test_the_cache_asks_nobody(llava: Path, no_hub: None, tmp_path: Path):
    snapshot = tmp_path / "cache/models--some-org--model/snapshots" / ("0" * 40)
    snapshot.parent.mkdir(parents=True)
    shutil.move(llava, snapshot)
    argv = own("some-org/model", "llava", "x_divprune_5")
    assert run(tmp_path, *argv, "--limit", "1", "--mode", "infer", "--offline") == 0


# -- nothing of a checkpoint is executed -----------------------------------------------------------------------------------------
@pytest.fixture
def mark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What executed code would leave behind. Whoever is asked says yes."""
    asked: list[str] = []
    monkeypatch.setattr(builtins, "input", lambda *text: asked.append(str(text)) or "y")
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    yield tmp_path / "executed"
    assert not asked, "a question whether to run a repository's code"
    assert not (tmp_path / "executed").exists(), "code of the repository ran"


EVIL = """open({mark!r}, "w").close()
from transformers import AutoConfig, PretrainedConfig, LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor
from transformers import CLIPImageProcessor, PreTrainedTokenizerFast
class C(LlavaConfig): model_type = "evil"
class M(LlavaForConditionalGeneration): config_class = C
class P(LlavaProcessor): pass
class I(CLIPImageProcessor): pass
class T(PreTrainedTokenizerFast): pass
"""
AUTO = {"AutoConfig": "evil.C", "AutoModel": "evil.M", "AutoModelForImageTextToText": "evil.M", "AutoModelForCausalLM": "evil.M"}
AUTO |= {"AutoProcessor": "evil.P", "AutoImageProcessor": "evil.I", "AutoTokenizer": ["evil.T", "evil.T"]}


def poisoned(folder: Path, mark: Path, *files: str) -> Path:
    """Code in the folder, and files that point to it."""
    (folder / "evil.py").write_text(EVIL.format(mark=str(mark)))
    for name in files:
        if (folder / name).is_file():
            edit(folder / name, auto_map=AUTO)
    return folder


SETTINGS = ["config.json", "processor_config.json", "preprocessor_config.json", "tokenizer_config.json", "generation_config.json"]


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl", "internvl"])
def test_code_beside_a_known_model_is_left_alone(family: str, at: Callable[[str], Path], tmp_path: Path, mark: Path):
    folder = poisoned(Path(shutil.copytree(at(family), tmp_path / family)), mark, *SETTINGS)
    runtime = Runtime.load("x", device="cpu", checkpoints=Models({"x": str(folder)}, {"x": family}))
    assert type(runtime.model).__module__.startswith("transformers.models.")
    assert type(runtime.processor).__module__.startswith("transformers.models.")
    assert "evil" not in " ".join(sys.modules)


@pytest.mark.parametrize("where", ["model", "processor", "tokenizer"])
def test_code_that_would_be_needed_is_refused(where: str, llava: Path, tmp_path: Path, mark: Path):
    poisoned(llava, mark, *SETTINGS)
    if where == "model":
        edit(llava / "config.json", model_type="evil", architectures=["M"])
    elif where == "processor":
        for name in ("processor_config.json", "preprocessor_config.json"):
            if (llava / name).is_file():
                edit(llava / name, processor_class="P", image_processor_type="I")
    else:
        edit(llava / "tokenizer_config.json", tokenizer_class="T")
    models = Models({"x": str(llava)}, {"x": "llava"})
    if where == "model":
        with pytest.raises(UserError):
            Runtime.load("x", device="cpu", checkpoints=models)
        return
    try:
        processor = Runtime.load("x", device="cpu", checkpoints=models).processor
    except UserError:
        return
    assert "evil" not in {type(part).__module__.rpartition(".")[2] for part in (processor, processor.tokenizer)}


class Bomb:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (str(self.mark), "w"))


@pytest.mark.parametrize("form", ["zip", "pickle"])
def test_a_pickle_is_not_executed(form: str, llava: Path, mark: Path):
    (llava / "model.safetensors").unlink()
    file = llava / "pytorch_model.bin"
    if form == "zip":
        torch.save({"lm_head.weight": torch.zeros(2), "x": Bomb(mark)}, file)
    else:
        file.write_bytes(pickle.dumps({"x": Bomb(mark)}))
    with pytest.raises(UserError, match=r"Cannot load 'x': a file of weights in .* is unsafe") as caught:
        Runtime.load("x", device="cpu", checkpoints=Models({"x": str(llava)}, {"x": "llava"}))
    assert "weights_only" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_quantised_checkpoint_names_what_it_needs(llava: Path):
    edit(llava / "config.json", quantization_config={"quant_method": "awq", "bits": 4, "group_size": 64, "zero_point": True})
    with pytest.raises(UserError, match="Cannot load 'x' from") as caught:
        Runtime.load("x", device="cpu", checkpoints=Models({"x": str(llava)}, {"x": "llava"}))
    assert "\n" not in str(caught.value)


def test_a_bin_of_weights_alone_loads(llava: Path, mark: Path):
    torch.save(load_file(llava / "model.safetensors"), llava / "pytorch_model.bin")
    expected = Runtime.load("x", device="cpu", checkpoints=Models({"x": str(llava)}, {"x": "llava"})).model.state_dict()
    (llava / "model.safetensors").unlink()
    found = Runtime.load("x", device="cpu", checkpoints=Models({"x": str(llava)}, {"x": "llava"})).model.state_dict()
    assert all(torch.equal(found[name], weight) for name, weight in expected.items())


@hosted
@pytest.mark.parametrize("damage", ["pickle", "no projection", "truncated"])
def test_a_text_side_that_cannot_be_read(
    damage: str, llava: Path, tmp_path: Path, mark: Path, capsys: pytest.CaptureFixture[str]
):
    """Said before any row is asked, not row by row."""
    originals.clip(llava / "clip")
    file = llava / "clip/model.safetensors"
    if damage == "pickle":
        file.unlink()
        (llava / "clip/pytorch_model.bin").write_bytes(pickle.dumps({"visual_projection.weight": Bomb(mark)}))
    elif damage == "no projection":
        weights = load_file(file)
        del weights["visual_projection.weight"]
        save_file(weights, file, {"format": "pt"})
    else:
        file.write_bytes(file.read_bytes()[:-10])
    said = refused(tmp_path, capsys, *own(llava, "llava", "x_cdpruner_25pct"))
    assert str(llava / "clip") in said


# -- memory --------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory."), MemoryError(), RuntimeError("can't allocate memory")]
)
def test_no_memory_to_load(error: Exception, llava: Path, monkeypatch: pytest.MonkeyPatch):
    def full(*_: Any, **__: Any) -> Any:
        raise error

    monkeypatch.setattr(transformers.AutoModelForImageTextToText, "from_pretrained", full)
    with pytest.raises(UserError, match=r"Cannot load 'x': out of memory\. Try --dtype bfloat16") as caught:
        Runtime.load("x", device="cpu", checkpoints=Models({"x": str(llava)}, {"x": "llava"}))
    assert "\n" not in str(caught.value)


@hosted
def test_no_memory_to_load_is_status_2(
    llava: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def full(*_: Any, **__: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has a total capacity of")

    monkeypatch.setattr(transformers.AutoModelForImageTextToText, "from_pretrained", full)
    assert "--device all" in refused(tmp_path, capsys, *own(llava, "llava", "x_divprune_5"))


def test_what_is_no_lack_of_memory():
    for error in (RuntimeError("CUDA error: device-side assert"), ValueError("memory"), OSError("out of memory cards")):
        assert loading.no_memory(error) == ""


# -- the digest ----------------------------------------------------------------------------------------------------------------
def digest(folder: Path) -> str:
    return loading.checkpoint_digest(folder)


def _nudge(folder: Path) -> None:
    def change(weights: dict[str, torch.Tensor]) -> None:
        name = sorted(weights)[-1]
        weights[name] = weights[name].clone()
        weights[name].flatten()[-1] += 1e-6

    _weights(folder, change)


@pytest.mark.parametrize(
    "change",
    [
        _nudge,
        lambda f: edit(f / "config.json", vision_feature_layer=-1),
        lambda f: edit(f / "tokenizer_config.json", padding_side="right"),
        lambda f: edit(f / "generation_config.json", suppress_tokens=[5]),
    ],
    ids=["weight", "config", "tokenizer", "generation"],
)
def test_the_digest_sees_what_changes_answers(change: Callable[[Path], Any], llava: Path):
    before = digest(llava)
    (llava / "README.md").write_text("another text")
    (llava / "config.json").touch()
    assert digest(llava) == before
    change(llava)
    assert digest(llava) != before


def test_a_clip_inside_has_a_digest_of_its_own(llava: Path):
    before = digest(llava)
    clip = originals.clip(llava / "clip")
    assert digest(llava) == before
    found = {digest(clip)}
    for change in (
        lambda: edit(clip / "config.json", note=1),
        lambda: _nudge(clip),
        lambda: (clip / "merges.txt").write_text("#version: 0.2\na b\n"),
    ):
        change()
        found.add(digest(clip))
    assert len(found) == 4
    assert digest(llava) == before


def test_the_digest_does_not_depend_on_the_place(llava: Path, tmp_path: Path):
    assert digest(llava) == digest(Path(shutil.copytree(llava, tmp_path / "elsewhere")))


def test_large_files_are_sampled(llava: Path, monkeypatch: pytest.MonkeyPatch):
    """A sparse file with a header of its own length; a block in its middle is seen, its beginning and its end too."""
    size = 80 << 20
    header = json.dumps({"w": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    file = llava / "model.safetensors"
    with file.open("wb") as stream:
        stream.write(len(header).to_bytes(8, "little") + header)
        stream.truncate(8 + len(header) + size)
    found = {digest(llava)}
    for place in (8 + len(header), 32 * (size - (1 << 20)) // 63 + 4096, size + len(header)):
        with file.open("r+b") as stream:
            stream.seek(place)
            stream.write(b"x" * 8)
        found.add(digest(llava))
    assert len(found) == 4
    read: list[int] = []
    update = loading._add

    def counted(hashed: Any, path: Path) -> None:
        class Counting:
            def update(self, data: bytes) -> None:
                read.append(len(data))
                hashed.update(data)

        update(Counting(), path)

    monkeypatch.setattr(loading, "_add", counted)
    assert digest(llava) in found
    assert sum(read) <= 66 << 20


# -- records -------------------------------------------------------------------------------------------------------------------
def test_a_name_of_one_s_own_is_asked_as_its_family_is(at: Callable[[str], Path]):
    for family in layouts.FAMILIES:
        record = Models({"x": str(at(family))}, {"x": family}).record("x")
        like = next(r for r in BACKBONES.values() if r.family == family and r.id != "tiny")
        assert (record.id, record.checkpoint, record.talk, record.tiles) == ("x", str(at(family)), like.talk, like.tiles)
        assert record.max_new_tokens == like.max_new_tokens


def test_a_protocol_is_llava_next_s_alone(at: Callable[[str], Path]):
    given = {"x": str(at("llava_next")), "y": str(at("llava"))}
    families = {"x": "llava_next", "y": "llava"}
    for protocol in ("paper", "hf"):
        known = Models(given, families, protocol)
        assert known.record("x").protocol == protocol
        assert known.record("x").dynamic == (protocol == "hf")
        assert known.record("y").protocol is None
    assert Models(given, families).record("x").protocol == "paper"
    with pytest.raises(UserError, match="Did you mean 'paper'"):
        Models(protocol="papers")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="'llava' is a 'llava' model"):
        Models({"llava": "d"}, {"llava": "qwen2_vl"})


def test_every_record_can_be_served():
    for record in BACKBONES.values():
        assert set(served(offers(record.family))) >= {"full", "random", "script", "divprune"}
        assert hub.is_id(record.checkpoint) or record.id == "tiny"
        assert Models().record(record.id) == record


@pytest.mark.parametrize("family", layouts.FAMILIES)
def test_a_checkpoint_says_its_family_itself(family: str, at: Callable[[str], Path]):
    args = parser().parse_args(["--checkpoint", f"x={at(family)}"])
    named = study.models_of(args, [Config.parse("x_full")], None)
    assert named.record("x").family == family


def test_an_original_checkpoint_says_its_family_too(tmp_path: Path):
    args = parser().parse_args(
        ["--checkpoint", f"x={originals.llava16(tmp_path / 'a')}", f"y={originals.llava15(tmp_path / 'b')}"]
    )
    named = study.models_of(args, [Config.parse("x_full"), Config.parse("y_full")], None)
    assert [named.record(name).family for name in "xy"] == ["llava_next", "llava"]
