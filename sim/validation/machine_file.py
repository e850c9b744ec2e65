"""Reads a machine that was calibrated elsewhere."""

from __future__ import annotations

from pathlib import Path

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sim.hardware import Hardware, hardware_from_config, load_hardware
from traces.errors import UserError


def read_machine(name: str) -> Hardware:
    """The machine in a file, or the one that `conf/hardware` has under a name.

    Raises: UserError where there is neither, or where the file is no machine.
    """
    path = Path(name).expanduser()
    if not path.is_file():
        return load_hardware(name)
    try:
        config = OmegaConf.to_container(OmegaConf.load(path))
    except (OmegaConfBaseException, OSError, ValueError) as error:
        raise UserError(f"hardware={name} cannot be read: {error}") from error
    if not isinstance(config, dict):
        raise UserError(f"hardware={name} must hold a list of `field: value` lines")
    return hardware_from_config({str(key): value for key, value in config.items()})
