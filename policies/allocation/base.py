"""How many slots each layer gets: the split of a capacity over layers, decided once before a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from policies.needs import Need
from traces.errors import UserError
from traces.format.trace import Trace


@dataclass(frozen=True)
class Allocation:
    """A rule that splits a capacity over the layers."""

    needs: ClassVar[frozenset[Need]] = frozenset()
    """'fit' if it learns from requests that are not replayed."""

    def slots(self, total: int, num_experts: int, others: Trace | None, size: NDArray[np.int64]) -> NDArray[np.int64]:
        """Slots of every layer, [L] int64: at least 1, at most ``num_experts``, ``total`` together.

        ``others``: the requests to learn from; ``size`` [L]: bytes of one expert of each layer.
        """
        raise NotImplementedError


def check_total(total: int, num_layers: int, num_experts: int) -> None:
    """Raises UserError where ``total`` slots cannot give every layer at least one and at most all its experts."""
    if not num_layers <= total <= num_layers * num_experts:
        raise UserError(
            f"cache capacity of {total} slots in all: {num_layers} layers of {num_experts} experts need at least "
            f"{num_layers} and use at most {num_layers * num_experts}"
        )
