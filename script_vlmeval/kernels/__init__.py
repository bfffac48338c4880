"""Tensor algorithms that methods share: relevance, greedy MAP of a DPP, max-min and coverage selection, redundancy graphs.

All are batched over leading dimensions, run in float32 whatever the input, and never ask the device for a value inside a loop.
"""

from .basic import asked as asked
from .basic import relevance as relevance
from .basic import snapped as snapped
from .basic import unit as unit
from .coverage import greedy_cover as greedy_cover
from .dpp import greedy_map as greedy_map
from .dpp import greedy_repeated as greedy_repeated
from .graph import bipartite_redundancy as bipartite_redundancy
from .graph import full_redundancy as full_redundancy
from .maxmin import farthest_first as farthest_first
