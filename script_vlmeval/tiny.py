"""The embedded model: a small trained LLaVA with an aligned CLIP text tower, and its two benchmarks.

`assets/tiny` holds it in the layout of a real checkpoint (weights in half precision, tokenizer, processor), `assets/tiny/clip`
its text side, so the code that loads real models loads this one. `scripts/train_tiny.py` reproduces the weights.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from . import scoring, shapes
from .errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

ASSETS = Path(__file__).parent / "assets" / "tiny"
N_VISUAL = shapes.GRID**2
PAD, BOS, UNK, EOS, IMAGE = range(5)
VOCAB = {w: i for i, w in enumerate(dict.fromkeys(["<pad>", "<bos>", "<unk>", "<eos>", "<image>", *shapes.WORDS]))}
VISION: dict[str, Any] = {
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "image_size": shapes.SIZE,
    "patch_size": shapes.PATCH,
    "projection_dim": 64,
}
LANGUAGE: dict[str, Any] = {
    "hidden_size": 160,
    "intermediate_size": 448,
    "num_hidden_layers": 6,
    "num_attention_heads": 5,
    "num_key_value_heads": 5,
    "max_position_embeddings": 512,
}
TEXT: dict[str, Any] = {
    "hidden_size": 96,
    "intermediate_size": 288,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 77,
    "projection_dim": 64,
}
BENCHMARKS = {"ShapesVQA": 7_001, "ShapesYN": 7_002}  # name -> seed of the test split; training seeds are small numbers
PUBLISHED = {"ShapesVQA": "5644525f3c1a45f5", "ShapesYN": "8ea79fc438de6241"}  # digests of what is asked
PICTURES = 300
_PER_PICTURE = 4  # questions of ShapesVQA
_ENOUGH = 100  # rows, for a reference that means something
_CHOICES = {"exist": 2, "color": len(shapes.COLORS), "shape": len(shapes.SHAPES), "count": 6, "relation": 2}


def word_ids(text: str) -> list[int]:
    """Token ids as the tokenizer gives them, without special tokens. Question marks are dropped: most questions then end with
    the word that names an object, so finding it is learned once, for that word wherever it stands."""
    return [VOCAB.get(w, UNK) for w in re.findall(r"\w+|[^\w\s]+", text.lower().replace("?", " "))]


# -- the model ---------------------------------------------------------------------------------------------------------------
def build() -> tuple[Any, Any]:
    """An untrained LlavaForConditionalGeneration and CLIPTextModelWithProjection."""
    import transformers as t

    special: dict[str, Any] = {"vocab_size": len(VOCAB), "pad_token_id": PAD, "bos_token_id": BOS, "eos_token_id": EOS}
    config = t.LlavaConfig(
        vision_config=t.CLIPVisionConfig(**VISION).to_dict(),
        text_config=t.LlamaConfig(**LANGUAGE, **special, tie_word_embeddings=True).to_dict(),
        image_token_index=IMAGE,
        image_seq_length=N_VISUAL,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        tie_word_embeddings=True,
    )
    return t.LlavaForConditionalGeneration(config), t.CLIPTextModelWithProjection(t.CLIPTextConfig(**TEXT, **special))


def save(llava: Any, text: Any, projection: Tensor, folder: Path) -> None:
    """Write the checkpoint: half-precision safetensors, tokenizer and processor; the text side under `clip/`."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    state = {_published(k): v.detach().half().contiguous() for k, v in llava.state_dict().items() if k != "lm_head.weight"}
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    llava.config.save_pretrained(folder)
    llava.generation_config.save_pretrained(folder)
    made = processor()
    made.save_pretrained(folder)
    made.image_processor.save_pretrained(folder)  # in a file of its own, where transformers 4 looks for it
    _readable_by_4(folder)
    clip = folder / "clip"
    text.config.save_pretrained(clip)
    tensors = {k: v.detach().half().contiguous() for k, v in text.state_dict().items() if "position_ids" not in k}
    save_file({**tensors, "visual_projection.weight": projection.detach().half()}, clip / "model.safetensors", {"format": "pt"})
    tokenizer().save_pretrained(clip)
    _readable_by_4(clip)


def _published(name: str) -> str:
    """The tensor name of published LLaVA checkpoints, which every version of transformers reads: newer ones write others."""
    name = re.sub(r"^model\.vision_tower\.(vision_model\.)?", "vision_tower.vision_model.", name)
    return re.sub(r"^model\.multi_modal_projector", "multi_modal_projector", name).replace(
        "model.language_model.", "language_model.model."
    )


def _readable_by_4(folder: Path) -> None:
    """The tokenizer's configuration in the words of transformers 4, which 5 understands as well."""
    file = folder / "tokenizer_config.json"
    config = {k: v for k, v in json.loads(file.read_text()).items() if k != "backend"}
    config |= {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "extra_special_tokens": {"image_token": "<image>"},
        "model_input_names": ["input_ids", "attention_mask"],
    }
    file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def tokenizer() -> Any:
    """Word-level, lower-cased; unknown words become <unk>."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    t = Tokenizer(models.WordLevel(VOCAB, unk_token="<unk>"))
    t.normalizer = normalizers.Sequence([normalizers.Lowercase(), normalizers.Replace("?", " ")])
    t.pre_tokenizer = pre_tokenizers.Whitespace()
    t.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", BOS)])
    return PreTrainedTokenizerFast(
        tokenizer_object=t,
        pad_token="<pad>",
        bos_token="<bos>",
        unk_token="<unk>",
        eos_token="<eos>",
        additional_special_tokens=["<image>"],
        padding_side="left",
        model_input_names=["input_ids", "attention_mask"],
        model_max_length=LANGUAGE["max_position_embeddings"],
    )


def processor() -> Any:
    """LLaVA's own processor over the small tokenizer and a 96-pixel CLIP image processor."""
    from transformers import CLIPImageProcessor, LlavaProcessor

    half, side = [0.5, 0.5, 0.5], shapes.SIZE
    images = CLIPImageProcessor(
        size={"shortest_edge": side}, crop_size={"height": side, "width": side}, image_mean=half, image_std=half
    )
    return LlavaProcessor(
        image_processor=images,
        tokenizer=tokenizer(),
        patch_size=shapes.PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )


# -- the benchmarks ------------------------------------------------------------------------------------------------------------
def write_benchmark(name: str, folder: Path) -> Path:
    """Draw a held-out benchmark into folder/<name>.tsv with its pictures beside it; the one that is there already is kept.

    ShapesVQA: 1,200 open questions, four per picture. ShapesYN: 600, a yes and a no per picture. The same questions on every
    machine, the same pictures up to rounding. Two processes may do it at once: pictures appear whole, the table last.
    """
    if name not in BENCHMARKS:
        raise UserError(f"'{name}' is not an embedded benchmark; these are: {', '.join(BENCHMARKS)}.")
    target, pictures = folder / f"{name}.tsv", (folder / "images" / name).resolve()
    if target.is_file() and asked(target) == PUBLISHED[name]:
        return target
    try:
        drawn = pictures.with_name(f".{name}.{os.getpid()}")
        drawn.mkdir(parents=True, exist_ok=True)
        partial = target.with_suffix(f".{os.getpid()}.part")
        with partial.open("w", encoding="utf-8", newline="") as file:
            out = csv.writer(file, delimiter="\t", lineterminator="\n")
            out.writerow(["index", "image_path", "question", "answer", "category"])
            for index, (picture, question) in enumerate(_questions(name, drawn)):
                text = question.text + " Please answer yes or no." if name == "ShapesYN" else question.text
                answer = question.answer.capitalize() if name == "ShapesYN" else question.answer
                out.writerow([index, pictures / picture.name, text, answer, question.kind])
        pictures.mkdir(exist_ok=True)
        for picture in drawn.iterdir():
            picture.replace(pictures / picture.name)
        shutil.rmtree(drawn)
        partial.replace(target)
    except OSError as error:
        raise UserError(f"Cannot write benchmark {name} into {folder}: {error.strerror or error}.") from None
    return target


def asked(table: Path) -> str:
    """A digest of the questions and answers of a drawn benchmark."""
    with table.open(encoding="utf-8", newline="") as file:
        rows = [
            f"{row.get('question')} {row.get('answer')} {row.get('category')}" for row in csv.DictReader(file, delimiter="\t")
        ]
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()[:16]


def reference(name: str, rows: Sequence[Mapping[str, str]]) -> dict[str, float | None]:
    """What needs no picture, in the benchmark's unit. None for too few rows to say.

    chance: guessing among the answers that a question admits. blind: the best answer that the question's form alone suggests.
    ShapesVQA, per cent: the best constant answer to each form of question. ShapesYN, points of 200 per category: a coin for
    each question; and the best of all rules "yes when the question says ...": the two questions of a relation pair say opposite
    things, so such a rule gets both right or both wrong.
    """
    if len(rows) < _ENOUGH:
        return {"chance": None, "blind": None}
    if name == "ShapesYN":
        categories = {row["category"] for row in rows}
        return {"chance": 75.0 * len(categories), "blind": sum(_blind_pairs(rows, c) for c in categories)}
    forms: dict[str, list[str]] = {}
    for row in rows:
        form = row["category"] + (" vertical" if "above or below" in row["question"] else "")
        forms.setdefault(form, []).append(row["answer"])
    guess = sum(len(answers) / _CHOICES[form.split()[0]] for form, answers in forms.items())
    constant = sum(max(answers.count(a) for a in set(answers)) for answers in forms.values())
    return {"chance": 100 * guess / len(rows), "blind": 100 * constant / len(rows)}


def _blind_pairs(rows: Sequence[Mapping[str, str]], category: str) -> float:
    """The best score in a category of saying yes to questions that hold one of some words, and no to others."""
    mine = [row for row in rows if row["category"] == category]
    words = ("left", "right", "above", "below") if category == "relation" else ("there",)
    best = 0.0
    for chosen in (set(c) for n in range(len(words) + 1) for c in combinations(words, n)):
        said = ["Yes" if chosen & set(row["question"].lower().split()) else "No" for row in mine]
        answered = [{**row, "prediction": word} for row, word in zip(mine, said, strict=True)]
        best = max(best, scoring.pairs(answered).metrics["total"])
    return best


def _questions(name: str, pictures: Path) -> Iterator[tuple[Path, shapes.Question]]:
    """(picture file, question), the pictures written on the way."""
    from PIL import Image

    rng = np.random.default_rng(BENCHMARKS[name])
    kind = 0
    for i in range(PICTURES):
        scene = shapes.draw(rng)
        file = pictures / f"{i:04d}.png"
        Image.fromarray(scene.pixels).save(file)
        if name == "ShapesYN":
            yield from ((file, q) for q in shapes.ask_yes_no(scene, rng))
            continue
        asked: list[str] = []
        while len(asked) < _PER_PICTURE:
            question = shapes.ask(scene, shapes.KINDS[kind % len(shapes.KINDS)], rng)
            kind += 1
            if question is not None and question.text not in asked:
                asked.append(question.text)
                yield file, question
