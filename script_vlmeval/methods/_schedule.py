"""How many visual tokens a stage inside the language model may keep, so that the mean over all layers is the budget."""

from __future__ import annotations

from ..errors import UserError


def uniform(budget: int, n_visual: int, n_layers: int, first_layer: int) -> int:
    """Tokens from `first_layer` on, after layers that see all n_visual: the most whose mean over all layers is at most `budget`.

    Raises UserError for a budget that even one token from there on exceeds, and for a model without that layer.
    """
    if budget >= n_visual:
        return n_visual
    if first_layer >= n_layers:
        raise UserError(f"Pruning at the entry of layer {first_layer} was asked for; this model has layers 0 to {n_layers - 1}.")
    later = n_layers - first_layer
    kept = (budget * n_layers - first_layer * n_visual) // later
    if kept < 1:
        floor, lowest = (-(-(first * n_visual + n_layers - first) // n_layers) for first in (first_layer, 1))
        earlier = f", and {lowest} when dropping begins at layer 1" if first_layer > 1 else ""
        raise UserError(
            f"A mean of {budget} visual tokens per layer cannot be had: {first_layer} of {n_layers} layers see all {n_visual}. "
            f"The smallest budget here is {floor}{earlier}."
        )
    return kept
