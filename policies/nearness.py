"""How soon a layer comes round again."""

from __future__ import annotations

from policies.jitable import jitable


@jitable
def nearness(layer: int, current: int, num_layers: int) -> float:
    """1 for the current layer, 1 - 1/L for the next one, down to 1/L for the one just left."""
    return 1.0 - ((layer - current) % num_layers) / num_layers
