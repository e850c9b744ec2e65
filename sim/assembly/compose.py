"""Composes the configuration of `python -m sim run` outside of a command, for studies and tests."""

from __future__ import annotations

from contextlib import nullcontext

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, open_dict

from sim.errors import sentence_of
from sim.group_files import mark_set, with_files
from sim.hydra_command import not_composed
from sim.paths import CONF
from traces.errors import UserError


def compose_run(*overrides: str, with_hydra: bool = False) -> DictConfig:
    """The configuration that `python -m sim run OVERRIDES` replays; `with_hydra`: with Hydra's own group, too.

    Works inside a command as well, whose Hydra is initialised already. Raises: UserError or an error of Hydra's that
    `sim.errors.sentence_of` puts into a sentence, where the overrides make no configuration.
    """
    known = (
        nullcontext()
        if GlobalHydra.instance().is_initialized()
        else initialize_config_dir(str(CONF), version_base="1.3")
    )
    words = with_files(overrides)
    try:
        with known:
            config = compose("config", words, return_hydra_config=True)
    except Exception as error:
        if sentence_of(error) is not None:
            raise
        raise UserError(not_composed("config", words, (), error)) from error
    with open_dict(config):
        hydra = config.pop("hydra")
        mark_set(config, hydra)
        if with_hydra:
            config.hydra = hydra
    return config
