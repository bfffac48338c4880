"""What each model family can show to methods: names only, so that a configuration can be refused before anything heavy loads."""

from __future__ import annotations

from collections.abc import Iterable

from .errors import UserError
from .methods import catalogue

_INSIDE = frozenset("attention ahead text text_keys text_attention layer_keys given image frame norm seed".split())
_WORDS = _INSIDE | frozenset("keys query".split())  # relevance from the language model's embeddings alone
_PATCHES = _WORDS | frozenset("encoded project".split())  # each visual token is a projected patch
_SEEN = frozenset({"saliency"})
_CLIP = _PATCHES | _SEEN | {"encoder_keys"}  # of an encoder with a CLS token, a patch per token
_MERGED = _WORDS | _SEEN | {"encoded"}  # a token is four patches: their mean is seen, and is not what is projected
_TILES = frozenset("cls resized".split())  # of whole tiles

# Family -> optional Visual fields: always, and those that it has only where no tile is cut (LLaVA-NeXT's protocol `paper`).
OFFERS: dict[str, tuple[frozenset[str], frozenset[str]]] = {
    "llava": (_CLIP | _TILES, frozenset()),
    "llava_next": (_CLIP, _TILES),
    "llava_next_video": (_CLIP, frozenset()),
    "llava_onevision": (_PATCHES | _SEEN, frozenset()),
    "video_llava": (_CLIP, frozenset()),
    "qwen2_vl": (_MERGED, frozenset()),
    "qwen2_5_vl": (_MERGED, frozenset()),
    "qwen3_vl": (_MERGED, frozenset()),
    "internvl": (_PATCHES | _SEEN, frozenset()),
}


def offers(family: str, *, whole: bool = False) -> frozenset[str]:
    """Optional Visual fields that a family gives; whole: where no tile is cut."""
    always, of_tiles = OFFERS[family]
    return always | of_tiles if whole else always


def served(given: frozenset[str]) -> list[str]:
    """The methods that need no more than is given."""
    return [m.name for m in catalogue().values() if set(m.needs) <= given]


def require(family: str, method: str, needs: Iterable[str], given: frozenset[str]) -> None:
    """UserError when the family cannot give what the method reads, naming the methods that it can serve."""
    if missing := sorted(set(needs) - given):
        raise UserError(
            f"'{method}' needs {', '.join(missing)}, which {family} models do not give. "
            f"Methods that work: {', '.join(served(given))}."
        )
