"""The releases' rule for questions that CLIP cannot read at once, and CLIP checkpoints in every format that they come in."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import models
import pytest
import torch
import transformers
from torch import Tensor

from script_vlmeval import tiny
from script_vlmeval.backbones import BACKBONES
from script_vlmeval.errors import UserError
from script_vlmeval.methods import Visual, get_method
from script_vlmeval.prune import pruning
from script_vlmeval.query import ClipQuery

BEGIN, END, VOCAB, WIDTH, JOINT, PATCHES = 98, 99, 100, 32, 8, 24
FOLDER = Path(BACKBONES["tiny"].clip or "")


class Words:
    """A tokenizer: a question is its ids in decimal."""

    bos_token_id, eos_token_id, pad_token_id = BEGIN, END, 7

    def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
        assert not add_special_tokens
        return {"input_ids": [int(word) for word in text.split()]}


def config(end: int) -> Any:
    return transformers.CLIPTextConfig(
        vocab_size=VOCAB,
        hidden_size=WIDTH,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        projection_dim=JOINT,
        bos_token_id=BEGIN,
        eos_token_id=end,
        pad_token_id=1,
    )


def tower(end: int = END) -> Any:
    """A random CLIP text tower whose configuration has `end` as its end id."""
    model = transformers.CLIPTextModelWithProjection(config(end)).eval()
    generator = torch.Generator().manual_seed(3)
    for weight in model.parameters():
        weight.data.copy_(torch.randn(weight.shape, generator=generator) * 2 / weight.shape[-1] ** 0.5)
    return model


def query(end: int = END, compat: bool = True) -> ClipQuery:
    return ClipQuery(tower(end), Words(), torch.eye(JOINT, PATCHES), compat=compat)


def pieces(n: int, seed: int = 0) -> list[int]:
    return torch.randint(2, 90, (n,), generator=torch.Generator().manual_seed(seed)).tolist()


def asked(*numbers: list[int]) -> list[str]:
    return [" ".join(map(str, n)) for n in numbers]


def official(text: Any, numbers: list[int]) -> Tensor:
    """(M, C) as the releases compute it, with the pooling of the transformers at hand."""
    ids = [BEGIN, *numbers, END]
    m = (len(ids) - 1) // 77 + 1
    padded = torch.tensor(ids + [0] * (77 * m - len(ids))).view(m, 77)
    mask = torch.tensor([1] * len(ids) + [0] * (77 * m - len(ids))).view(m, 77)
    with torch.no_grad():
        return text(input_ids=padded, attention_mask=mask).text_embeds


def state(text: Any, ids: list[int], at: int) -> Tensor:
    """(C,) a row that is pooled at a position."""
    with torch.no_grad():
        return text.text_projection(text(input_ids=torch.tensor([ids])).last_hidden_state[0, at])


# -- the rule --------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("end", [END, 2])
@pytest.mark.parametrize(("n", "rows"), [(1, 1), (75, 1), (76, 2), (120, 2), (152, 2), (153, 3), (300, 4)])
def test_as_released(n: int, rows: int, end: int):
    source = query(end)
    found, mask = source.encode(asked(pieces(n)))
    assert mask.tolist() == [[True] * rows]
    torch.testing.assert_close(found[0], official(source.text, pieces(n)), atol=1e-6, rtol=0)


@pytest.mark.parametrize("end", [END, 2])
def test_short_questions_have_the_same_bits(end: int):
    questions = asked(pieces(1), pieces(75, 1), pieces(20, 2))
    for some in (questions, questions[:1], questions[2:]):
        (plain, mask), (compat, again) = query(end, compat=False).encode(some), query(end).encode(some)
        assert torch.equal(plain, compat)
        assert torch.equal(mask, again)


@pytest.mark.parametrize("end", [END, 2])
def test_the_first_row_of_a_long_question_says_nothing(end: int):
    source = query(end)
    (one, other), _ = source.encode(asked(pieces(120, 1), pieces(120, 2)))
    assert torch.equal(one[0], other[0])
    torch.testing.assert_close(one[0], state(source.text, [BEGIN], 0), atol=1e-6, rtol=0)
    assert not torch.allclose(one[1], other[1], atol=1e-2)
    (plain, _), _ = query(end, compat=False).encode(asked(pieces(120, 1), pieces(120, 2)))
    assert not torch.allclose(plain[0], one[0], atol=1e-2)


def test_an_end_of_its_own():
    """76 pieces are 78 ids: the last row is the end id alone, the same for all questions."""
    source = query()
    (one, other), _ = source.encode(asked(pieces(76, 1), pieces(76, 2)))
    assert torch.equal(one[1], other[1])
    torch.testing.assert_close(one[1], state(source.text, [END], 0), atol=1e-6, rtol=0)


def test_a_row_without_an_end_is_pooled_by_the_configuration():
    """The second of three rows: at its first id, or at its largest."""
    numbers = [5] * 200
    numbers[76 + 30] = numbers[76 + 40] = 80  # of equals, the first
    middle = numbers[76:153]
    for end, at in ((END, 0), (2, 30)):
        source = query(end)
        found, _ = source.encode(asked(numbers))
        torch.testing.assert_close(found[0, 1], state(source.text, middle, at), atol=1e-6, rtol=0)


def test_pooled_here_not_in_transformers():
    source = query()
    expected, _ = source.encode(asked(pieces(100)))
    real = source.text

    def other(**inputs: Tensor) -> SimpleNamespace:
        return SimpleNamespace(last_hidden_state=real(**inputs).last_hidden_state)

    other.config, other.text_projection = real.config, real.text_projection
    found, _ = ClipQuery(other, Words(), torch.eye(JOINT, PATCHES), compat=True).encode(asked(pieces(100)))
    assert torch.equal(found, expected)


def test_a_batch_of_all_lengths():
    source, numbers = query(), [pieces(100), [], pieces(3), pieces(200)]
    found, mask = source.encode(asked(*numbers))
    assert mask.sum(1).tolist() == [2, 0, 1, 3]
    assert not found[~mask].any()
    for i in (0, 2, 3):
        torch.testing.assert_close(found[i][mask[i]], official(source.text, numbers[i]), atol=1e-6, rtol=0)
    nothing, mask = source.encode([""])
    assert nothing.shape == (1, 1, JOINT)
    assert not mask.any()


# -- chosen by a method's parameter --------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["cdpruner", "script", "scriptcompat"])
def test_by_a_parameter(name: str):
    assert get_method(name).source() == "auto"
    assert get_method(name, relevance="clipcompat").source() == "clipcompat"
    with pytest.raises(UserError, match=f"'{name}' takes relevance from .*'clipcompat'.* not 'words'"):
        get_method(name, relevance="words")


def embedded_query(compat: bool) -> ClipQuery:
    return ClipQuery.load(FOLDER, compat=compat)


def test_names():
    assert embedded_query(compat=False).name == "clip"
    assert embedded_query(compat=True).name == "clipcompat"


@pytest.mark.parametrize(
    ("wanted", "compat", "fits"), [("clip", True, False), ("clipcompat", False, False), ("auto", True, True)]
)
def test_one_rule_is_not_taken_for_the_other(wanted: str, compat: bool, fits: bool):
    subject, method = models.embedded(), get_method("cdpruner", relevance=wanted)
    if fits:
        pruning(subject.model, method, 5, query=embedded_query(compat))
        return
    with pytest.raises(UserError, match=f"takes relevance from '{wanted}'"):
        pruning(subject.model, method, 5, query=embedded_query(compat))


@pytest.mark.parametrize("name", ["cdpruner", "script", "scriptcompat"])
def test_pruning_by_it(name: str):
    """The same tokens for a short question; for a long one, recorded with the name of the rule, others."""
    subject = models.embedded()
    prompt = subject.prompt(1, 0)
    kept: dict[tuple[bool, bool], Any] = {}
    for long in (False, True):
        question = " ".join([prompt.question] * (15 if long else 1))
        for compat in (False, True):
            method = get_method(name, relevance="clipcompat" if compat else "clip")
            source = embedded_query(compat)
            with pruning(subject.model, method, 8, question=[question], query=source) as trace, torch.no_grad():
                subject.model(**models.collate([prompt]))
            assert trace.relevance == source.name
            kept[long, compat] = [row.tolist() for row in trace.kept[0]]
    assert kept[False, False] == kept[False, True]
    assert kept[True, False] != kept[True, True]


def test_half_of_the_rows():
    """scriptcompat compares with one of two rows, the constant one where its mean is the larger."""
    keys, tokens = torch.randn(1, 1, 16, 4, generator=torch.Generator().manual_seed(0)).abs(), torch.eye(16)[None, None]
    first, second = torch.tensor([1.0, 0, 0, 0]), torch.tensor([0.0, -1, 0, 0])
    method = get_method("scriptcompat", relevance="clipcompat")

    def order(*rows: Tensor) -> list[int]:
        visual = Visual(tokens=tokens, keys=keys, query=torch.stack(rows)[None], query_mask=torch.ones(1, len(rows)) > 0, sign=-1)
        return method.order(visual, 8).flatten().tolist()

    assert order(first, second) == order(first) != order(second)


# -- the vision side -----------------------------------------------------------------------------------------------------------
def norms(**place: Any) -> Any:
    """What of a model a query source reads."""
    norm = torch.nn.LayerNorm(PATCHES, **place)
    return SimpleNamespace(model=SimpleNamespace(vision_tower=SimpleNamespace(post_layernorm=norm)))


def test_a_vision_tower_in_half_precision():
    source, selected = query(), torch.randn(2, 5, PATCHES, generator=torch.Generator().manual_seed(0)).bfloat16()
    keys = source.keys(norms(dtype=torch.bfloat16), selected)
    assert (keys.shape, keys.dtype) == ((2, 5, JOINT), torch.float32)


def test_a_vision_tower_on_another_device():
    """The projection follows the patches there, and stays where it is for the text side."""
    asked_for: list[torch.device] = []

    class Projection:
        def to(self, device: torch.device) -> Tensor:
            asked_for.append(device)
            return torch.eye(JOINT, PATCHES, device=device)

    projection: Any = Projection()
    source = ClipQuery(None, Words(), projection)
    keys = source.keys(norms(device="meta"), torch.ones(2, 5, PATCHES, device="meta"))
    assert keys.device == torch.device("meta")
    assert asked_for == [keys.device]
    assert source.projection is projection


# -- checkpoints -----------------------------------------------------------------------------------------------------------------
def weights() -> dict[str, Tensor]:
    from safetensors.torch import load_file

    return load_file(FOLDER / "model.safetensors")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The embedded CLIP checkpoint without its weights."""
    shutil.copytree(FOLDER, tmp_path / "clip", ignore=shutil.ignore_patterns("*.safetensors"))
    return tmp_path / "clip"


def write_sharded(folder: Path, tensors: dict[str, Tensor]) -> None:
    names = sorted(tensors)
    parts = {"pytorch_model-00001-of-00002.bin": names[::2], "pytorch_model-00002-of-00002.bin": names[1::2]}
    for file, held in parts.items():
        torch.save({n: tensors[n] for n in held}, folder / file)
    where = {n: file for file, held in parts.items() for n in held}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))


@pytest.mark.parametrize("how", ["zip", "old", "sharded"])
def test_pytorch_s_own_format(how: str, folder: Path):
    if how == "sharded":
        write_sharded(folder, weights())
    else:
        torch.save(weights(), folder / "pytorch_model.bin", _use_new_zipfile_serialization=how == "zip")
    found, expected = ClipQuery.load(folder), embedded_query(compat=False)
    assert torch.equal(found.projection, expected.projection)
    questions = ["is there a red circle", "how many squares are there"]
    assert torch.equal(found.encode(questions)[0], expected.encode(questions)[0])


def test_a_whole_clip_as_published(folder: Path):
    """Both towers in one pickle, as openai's first revisions come, with 2 for the end id of the text side."""
    vision = transformers.CLIPVisionConfig(
        hidden_size=PATCHES, intermediate_size=32, num_hidden_layers=1, num_attention_heads=4, image_size=8, patch_size=4
    )
    both = transformers.CLIPConfig(text_config=config(2).to_dict(), vision_config=vision.to_dict(), projection_dim=JOINT)
    whole = transformers.CLIPModel(both).eval()
    both.save_pretrained(folder)
    torch.save(whole.state_dict(), folder / "pytorch_model.bin")
    source = ClipQuery.load(folder, Words(), compat=True)
    assert torch.equal(source.projection, whole.visual_projection.weight)
    assert source.text.config.eos_token_id == 2
    for name, weight in source.text.text_model.state_dict().items():
        assert torch.equal(weight, whole.text_model.state_dict()[name]), name
    assert source.encode(asked(pieces(100)))[0].shape == (1, 2, JOINT)


class Harmful:
    """Writes a file when it is unpickled."""

    def __init__(self, at: Path) -> None:
        self.at = at

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.at,)


@pytest.mark.parametrize("sharded", [False, True])
def test_code_in_a_checkpoint_is_not_run(sharded: bool, folder: Path, tmp_path: Path):
    trap = tmp_path / "trap"
    if sharded:  # in the shard that the projection is not in
        write_sharded(folder, weights())
        index = json.loads((folder / "pytorch_model.bin.index.json").read_text())["weight_map"]
        other = next(file for file in index.values() if file != index["visual_projection.weight"])
        torch.save({"trap": Harmful(trap)}, folder / other)
    else:
        torch.save({**weights(), "trap": Harmful(trap)}, folder / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"clip"):
        ClipQuery.load(folder)
    assert not trap.exists()


@pytest.mark.parametrize("file", ["pytorch_model.bin", "model.safetensors"])
@pytest.mark.parametrize("part", [0.0, 0.5])
def test_a_damaged_file(file: str, part: float, folder: Path):
    if file == "pytorch_model.bin":
        torch.save(weights(), folder / file)
        data = (folder / file).read_bytes()
    else:
        data = (FOLDER / file).read_bytes()
    (folder / file).write_bytes(data[: int(part * len(data))])
    with pytest.raises(UserError, match=f"{file} is damaged"):
        ClipQuery.load(folder)


@pytest.mark.parametrize(
    ("gone", "message"),
    [
        ("visual_projection.weight", "not a full CLIP checkpoint"),
        ("text_projection.weight", r"lacks 1 weights .*text_projection\.weight"),
        ("", "expected model.safetensors or pytorch_model.bin"),
    ],
)
def test_what_is_missing_is_named(gone: str, message: str, folder: Path):
    if gone:
        torch.save({k: v for k, v in weights().items() if k != gone}, folder / "pytorch_model.bin")
    with pytest.raises(UserError, match=message):
        ClipQuery.load(folder)


def test_the_rule_by_word_pieces_of_the_embedded_tokenizer():
    """From the text to the ids: what is cut is what the tokenizer gives."""
    source = embedded_query(compat=True)
    question = " ".join(["is there a red circle"] * 20)
    ids = [tiny.BOS, *tiny.word_ids(question), tiny.EOS]
    assert source._rows(question) == [ids[:77], ids[77:]]
