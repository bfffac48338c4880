"""Frames of a video: which ones, of which span, when each is shown, and an error for a file that is not whole."""

from .clip import Clip
from .memory import Remembered, remembered
from .reading import read
from .sampling import SAMPLERS, Sampler, chosen

__all__ = ["SAMPLERS", "Clip", "Remembered", "Sampler", "chosen", "read", "remembered"]
