"""What a nominal number of tokens means, method by method."""

from __future__ import annotations

from script_vlmeval.errors import UserError
from script_vlmeval.methods import catalogue, get_method

from .inputs import layer_mean
from .registry import Show, finding

_NOMINAL = (192, 128, 64)
_SPARSEVLM = ((309, 204, 113), (312, 117, 39), (82, 32, 18))  # 1.0, merged tokens included, after layers 2, 6 and 15
_PYRAMIDDROP = {8: 288, 16: 144, 24: 72}  # its default


@finding(
    "all", "A nominal 192, 128 or 64 means other numbers of tokens in other releases; here it is their mean over all layers."
)
def token_counts(show: Show) -> bool:
    ratios = (0.3334, 0.2223, 0.1112)
    released: dict[str, list[float]] = {
        "divprune, by ratio": [round(r * 576) for r in ratios],
        "trim, with the mean token": [int(r * 576) + 1 for r in ratios],
        "dart, mean of 32 layers": [layer_mean({2: 4 + 8 * (k // 8)}) for k in _NOMINAL],
        "sparsevlm 1.0, mean of 32 layers": [layer_mean({3: a, 7: b, 16: c}) for a, b, c in _SPARSEVLM],
        "pyramiddrop's default, mean of 32 layers": [layer_mean(_PYRAMIDDROP)],
        "fastv and sequential prune, 0.75 from layer 2": [layer_mean(_share(name)) for name in ("fastv", "seqprune")],
        "scope, 160 over five and over three tiles": [tiles * (160 // tiles) for tiles in (5, 3)],
    }
    expected = [192, 128, 64, 193, 129, 65, 219.75, 159.75, 99.75, 206.5, 145.40625, 82.25, 270, 171, 214.125, 160, 159]
    for name, counts in released.items():
        show(f"{name}: {[round(x, 2) for x in counts]}")
    over = [_over(method, k) for method in catalogue() if method != "full" for k in _NOMINAL]
    show(f"ours, every method: mean minus budget from {min(over):+.2f} to {max(over):+.2f}")
    return [x for counts in released.values() for x in counts] == expected and min(over) > -1 and max(over) <= 0


def _share(method: str) -> dict[int, int]:
    """The stages of a published schedule: 75 % removed from layer 2 on."""
    return get_method(method, removed=0.75, first_layer=2).plan(None, 576, 32)


def _over(method: str, budget: int) -> float:
    """Our mean minus the budget; 0 where the method says that it cannot be had."""
    try:
        return layer_mean(get_method(method).plan(budget, 576, 32)) - budget
    except UserError:
        return 0.0
