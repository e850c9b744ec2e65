"""Which published measurements can be predicted, by name."""

from __future__ import annotations

import importlib
from collections.abc import Callable

from sim.validation.config import PublishedConfig
from sim.validation.findings import Findings
from traces.errors import UserError

NAMES = ("mixtral_offloading", "big_moe_on_edge", "measurements")
"""One module of this package each, with a function `predict_published`."""


def predict(config: PublishedConfig) -> Findings:
    """Predict the measurements that ``config`` names.

    Raises: UserError for an unknown name, or for files that are missing or broken.
    """
    if config.name not in NAMES:
        raise UserError(f"published.name={config.name}: must be one of {', '.join(NAMES)}")
    function: Callable[[PublishedConfig], Findings] = importlib.import_module(
        f"sim.validation.{config.name}"
    ).predict_published
    return function(config)
