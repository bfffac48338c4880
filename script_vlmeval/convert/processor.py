"""How pictures and prompts reach a model that was loaded from LLaVA's own layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import UserError
from .layout import features, needed

MEAN, STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]  # of CLIP's training
BICUBIC = 3


def processor_of(folder: Path, clip: Path | None, family: str, vision: Any) -> Any:
    """Pictures as CLIP takes them, and as many placeholders for each as there will be visual tokens."""
    import transformers as t

    size = vision.image_size
    said: dict[str, Any] = {}
    if family == "llava_next":
        said["image_grid_pinpoints"] = needed(folder, "image_grid_pinpoints")
    images: Any = t.LlavaNextImageProcessor if family == "llava_next" else t.CLIPImageProcessor
    if clip is not None and (clip / "preprocessor_config.json").is_file():
        pictures = images.from_pretrained(clip, **said)
    else:
        sizes = dict(size={"shortest_edge": size}, crop_size={"height": size, "width": size})
        pictures = images(**sizes, resample=BICUBIC, image_mean=MEAN, image_std=STD, **said)
    cls: Any = t.LlavaNextProcessor if family == "llava_next" else t.LlavaProcessor
    return cls(
        image_processor=pictures,
        tokenizer=_tokenizer(folder),
        patch_size=vision.patch_size,
        vision_feature_select_strategy=features(folder),
        num_additional_image_tokens=1,  # the tower's CLS
    )


def _tokenizer(folder: Path) -> Any:
    """The sentencepiece model as a fast tokenizer, with the ids of LLaVA's own tokenisation, `<image>` for its -200.

    That one cuts a prompt at the placeholders and gives every piece to sentencepiece, which puts a space before it; so does a
    normaliser here that sees the text between special tokens. It is built piece by piece because what LlamaTokenizerFast makes of
    the same file has changed between versions of transformers.
    """
    import tokenizers as k
    from sentencepiece import SentencePieceProcessor
    from transformers import PreTrainedTokenizerFast

    path = folder / "tokenizer.model"
    if not path.is_file():
        raise UserError(f"{folder} has no tokenizer.model: it is read from there, as LLaVA does.")
    try:
        source = SentencePieceProcessor(model_file=str(path))
    except (OSError, RuntimeError) as error:
        raise UserError(f"{path} is no sentencepiece model: a download that broke off, or a pointer of Git LFS?") from error
    pieces = [source.id_to_piece(i) for i in range(source.get_piece_size())]
    vocabulary = int(needed(folder, "vocab_size"))
    if pieces[:3] != ["<unk>", "<s>", "</s>"] or len(pieces) != vocabulary:
        raise UserError(f"{path} is not LLaMA's tokenizer of {vocabulary} pieces: it has {len(pieces)}, {pieces[:3]} first.")
    fallback = any(source.is_byte(i) for i in range(vocabulary))
    ids = {piece: i for i, piece in enumerate(pieces)}
    bpe = k.models.BPE(ids, _merges(source, ids), unk_token="<unk>", fuse_unk=True, byte_fallback=fallback)
    tokenizer = k.Tokenizer(bpe)
    tokenizer.normalizer = k.normalizers.Sequence([k.normalizers.Prepend("▁"), k.normalizers.Replace(" ", "▁")])
    steps = [k.decoders.Replace("▁", " "), k.decoders.ByteFallback(), k.decoders.Fuse(), k.decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = k.decoders.Sequence(steps)
    tokenizer.post_processor = k.processors.TemplateProcessing("<s> $A", "<s> $A <s> $B", [("<s>", 1)])
    words = [*pieces[:3], "<image>", "<pad>"]
    tokenizer.add_special_tokens([k.AddedToken(word, normalized=False, special=True) for word in words])
    names = dict(zip(("unk_token", "bos_token", "eos_token", "pad_token"), ("<unk>", "<s>", "</s>", "<pad>"), strict=True))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, **names, padding_side="left", model_input_names=["input_ids", "attention_mask"]
    )


def _merges(source: Any, ids: dict[str, int]) -> list[tuple[str, str]]:
    """All pairs of pieces that make a piece, the best-scored piece first: the order in which sentencepiece joins them."""
    found = []
    for piece, i in ids.items():
        if len(piece) > 1 and not (source.is_control(i) or source.is_unknown(i) or source.is_byte(i) or source.is_unused(i)):
            cuts = ((piece[:at], piece[at:]) for at in range(1, len(piece)))
            pairs = ((ids[a], ids[b], a, b) for a, b in cuts if a in ids and b in ids)
            found += [(-source.get_score(i), *pair) for pair in sorted(pairs)]
    found.sort(key=lambda row: row[0])  # stable: pairs of equal score stay in the order of their ids
    return [(a, b) for *_, a, b in found]
