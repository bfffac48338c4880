"""Frames of a video: which ones, of which span, when each is shown, and an error for a file that is not whole."""

from .clip import Clip
from .container import closed, opened
from .folder import pictures_in
from .memory import remembered
from .reading import read
from .sampling import SAMPLERS, Sampler, chosen

__all__ = ["SAMPLERS", "Clip", "Sampler", "chosen", "closed", "opened", "pictures_in", "read", "remembered"]
