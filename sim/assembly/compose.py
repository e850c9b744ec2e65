"""Composes the configuration of `python -m sim run` outside of a command, for studies and tests."""

from __future__ import annotations

from contextlib import nullcontext

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, open_dict

from sim.group_files import mark_set, with_files
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
    words = with_files(overrides)
    with known:
        config = compose("config", words, return_hydra_config=True)
    with open_dict(config):
        hydra = config.pop("hydra")
        mark_set(config, hydra)
        if with_hydra:
            config.hydra = hydra
    return config
