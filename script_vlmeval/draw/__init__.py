"""What is shown of a finished cell (`Row`), and its plots as PNG: accuracy against the visual-token budget."""

from .plot import accuracy
from .row import Row, at, headed, number, peers

__all__ = ["Row", "accuracy", "at", "headed", "number", "peers"]
