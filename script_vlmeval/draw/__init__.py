"""What is shown of a finished cell (`Row`), and plots as PNG and SVG: accuracy against budget and cost, retention, radar."""

from .folder import plots
from .plot import accuracy
from .row import Row, at, headed, number, peers

__all__ = ["Row", "accuracy", "at", "headed", "number", "peers", "plots"]
