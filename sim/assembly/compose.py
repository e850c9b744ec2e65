"""Composes the configuration of `python -m sim run` outside of a command, for studies and tests."""

from __future__ import annotations

from contextlib import nullcontext

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig

from sim.paths import CONF


def compose_run(*overrides: str, with_hydra: bool = False) -> DictConfig:
    """The configuration that `python -m sim run OVERRIDES` replays; `with_hydra`: with Hydra's own group, too.

    Works inside a command as well, whose Hydra is initialised already.
    """
    known = (
        nullcontext()
        if GlobalHydra.instance().is_initialized()
        else initialize_config_dir(str(CONF), version_base="1.3")
    )
    with known:
        return compose("config", list(overrides), return_hydra_config=with_hydra)
