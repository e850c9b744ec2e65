"""Systems of several devices, each a SimPy model of its own: a package with a module `run`, and a yaml in conf/system.

May import `sim.results` and below.
Start with `od_moe/run.py`, `expert_streaming/run.py`; `four_systems/run.py` sets them beside policies.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from sim.paths import CONF, yaml_names
from traces.errors import UserError


def load_system(config: Mapping[str, Any]) -> Any:
    """The module of the system that a `system` group names: it has ``run(config, trace, folder, timeline) -> str``, or
    ``beside_policies(config, folder)`` where it compares systems with the parts of a run.

    Raises: UserError for an unknown name.
    """
    names = yaml_names(CONF / "system")
    if config.get("name") not in names or config["name"] == "device":
        raise UserError(f"system.name={config.get('name')}: must be one of {', '.join(names)}")
    return importlib.import_module(f"sim.systems.{config['name']}.run")


def like_run_of(name: str) -> Any:
    """What gives a system the parts of a run: ``like_run(config, replay)``, and ``TAKEN`` and ``LEFT`` in words."""
    return importlib.import_module(f"sim.systems.{name}.like_run")
