"""How a folder's own chat template asks, beside how we would: the words around one message with a picture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_MARK = "(the message)"
_FILES = ("chat_template.json", "processor_config.json", "tokenizer_config.json")  # after chat_template.jinja
_WORDS = ("bos_token", "eos_token", "unk_token", "pad_token")  # that templates write


def other_prompt(folder: Path, prompt: str, image: str) -> str | None:
    """The template's words around `{message}`, where they are not `prompt`'s; None: they are, or none can be told.

    A system sentence that `prompt` has and the template has not is no difference, nor is whitespace. `image` is the placeholder.
    """
    parts = _around(folder, image)
    if parts is None:
        return None
    before, _, after = prompt.format(message=_MARK).partition(_MARK)
    said, ours = ["".join(part.split()) for part in parts], ["".join(part.split()) for part in (before, after)]
    if ours[0].endswith(said[0]) and ours[1] == said[1]:
        return None
    head, tail = (part.replace("{", "{{").replace("}", "}}") for part in parts)
    return f"{head}{{message}}{tail}"


def beginning(prompt: str) -> str:
    """Its first words, for a message: the last of them stand right before what is asked."""
    head = prompt.partition("{message}")[0].strip()
    return head if len(head) <= 24 else f"... {head[-20:].strip()}"


def _around(folder: Path, image: str) -> tuple[str, str] | None:
    """What the template puts before and behind a message that begins with a picture."""
    settings = _read(folder / "tokenizer_config.json")
    template = _template(folder)
    if template is None:
        return None
    words = {name: _content(settings.get(name)) for name in _WORDS}
    listed: list[Any] = [{"type": "image"}, {"type": "text", "text": _MARK}]
    for content in (listed, f"{image}{_MARK}"):  # templates of tokenizers take plain text alone
        text = _rendered(template, content, {name: word for name, word in words.items() if word})
        if text.count(_MARK) == 1 and text.count(image.strip()) == 1:
            placeholder = image if image in text else image.strip()
            before, _, after = text.replace(placeholder, "").partition(_MARK)
            begin = words["bos_token"]
            twice = begin and before.startswith(begin) and _begins(folder, settings, begin)
            return before.removeprefix(begin) if twice else before, after
    return None


def _rendered(template: str, content: Any, words: dict[str, str]) -> str:
    """In transformers' sandbox; empty where the template does not take such a message."""
    from transformers.utils.chat_template_utils import render_jinja_template

    turn: list[Any] = [[{"role": "user", "content": content}]]
    more: Any = words
    try:
        found: Any = render_jinja_template(turn, chat_template=template, add_generation_prompt=True, **more)
    except Exception:  # whatever its author wrote; also where transformers has no jinja2
        return ""
    texts = found[0] if isinstance(found, tuple) else found
    return str(texts[0])


def _template(folder: Path) -> str | None:
    """The template that transformers would choose; of several by name, the default."""
    file = folder / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8", errors="replace")
    for name in _FILES:
        found = _read(folder / name).get("chat_template")
        if isinstance(found, list):
            found = next((one.get("template") for one in found if isinstance(one, dict) and one.get("name") == "default"), None)
        if isinstance(found, str) and found:
            return found
    return None


def _begins(folder: Path, settings: dict[str, Any], begin: str) -> bool:
    """Whether the tokenizer writes the begin token itself, so that a prompt must not."""
    told = _read(folder / "tokenizer.json").get("post_processor")
    return begin in json.dumps(told, ensure_ascii=False) if told else settings.get("add_bos_token") is not False


def _content(token: Any) -> str:
    """The text of a special token, which may be described by an object."""
    return str(token.get("content") or "") if isinstance(token, dict) else str(token or "")


def _read(file: Path) -> dict[str, Any]:
    """What a file of settings holds; empty where it cannot be read, which is for the loader to say."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
