"""Measurements that others published, each beside the simulator's prediction: one package per published source.

A package of this folder has a module `predict` with a function `predict_published(config) -> Findings`; a new package
is a new name for `published=`. What several of them share is a module beside them. May import everything below
`sim.validation`. Start with `mixtral_offloading.predict`.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable

from sim.validation.config import PublishedConfig
from sim.validation.findings import Findings
from traces.errors import UserError


def published_names() -> tuple[str, ...]:
    """All published sources, by name of their package."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(__path__) if module.ispkg))


def predict(config: PublishedConfig) -> Findings:
    """Predict the measurements that ``config`` names.

    Raises: UserError for an unknown name, or for files that are missing or broken.
    """
    if config.name not in published_names():
        raise UserError(f"published.name={config.name}: must be one of {', '.join(published_names())}")
    module = importlib.import_module(f"{__name__}.{config.name}.predict")
    predict_published: Callable[[PublishedConfig], Findings] = module.predict_published
    return predict_published(config)
