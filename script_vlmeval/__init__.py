"""Visual-token pruning on unmodified transformers models, evaluated through VLMEvalKit.

from script_vlmeval import get_method, pruning
with pruning(model, get_method("script"), 64): model.generate(**inputs)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .methods import Reduced as Reduced
    from .methods import Visual as Visual
    from .methods import get_method as get_method
    from .plugin import register as register
    from .prune import pruning as pruning

__version__ = "0.1.0"
__all__ = ["Reduced", "Visual", "__version__", "get_method", "pruning", "register"]
_HOME = {"pruning": "prune", "get_method": "methods", "register": "plugin", "Visual": "methods", "Reduced": "methods"}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f".{_HOME[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
