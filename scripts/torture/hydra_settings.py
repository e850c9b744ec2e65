"""Hydra's own settings, walked: every node below `hydra` of another shape or removed, in one run and in a sweep.

What is tried follows from the composed configurations of the commands, and from the launchers and sweepers that are
installed: a new one joins by itself.
"""

from __future__ import annotations

from collections.abc import Iterator

from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig

from scripts.torture.configuration import COMMANDS, SHAPES, Case, composed, nodes
from sim.paths import CONF

SWEEP = ("-m", "seed=0,1")
GROUPS = ("launcher", "sweeper")
STARTS_A_CLUSTER = ("ray", "ray_aws")
"""Launchers that are not tried: processes of theirs outlive a case."""


def hydra_cases(plain: bool = False) -> Iterator[Case]:
    """Every setting in every shape; plain: with the launcher and the sweeper that come with Hydra."""
    for name, base in bases(plain):
        chosen = tuple(word for word in base if word not in SWEEP)
        for key, value in nodes(composed(name, chosen, whole=True).hydra, "hydra."):
            yield from (Case(COMMANDS[name], base, f"{key}={shape}", True) for shape in SHAPES)
            if isinstance(value, DictConfig):
                yield Case(COMMANDS[name], base, f"~{key}", True)
        for group in GROUPS:
            yield from (Case(COMMANDS[name], base, f"hydra/{group}={shape}", True) for shape in SHAPES)


def bases(plain: bool) -> Iterator[tuple[str, tuple[str, ...]]]:
    """(yaml, words of a command line that works)."""
    for name in COMMANDS:
        yield name, ()
    yield "config", SWEEP
    if not plain:
        for group in GROUPS:
            for choice in choices(f"hydra/{group}"):
                if choice not in ("basic", *STARTS_A_CLUSTER):
                    yield "config", (*SWEEP, f"hydra/{group}={choice}")


def choices(group: str) -> list[str]:
    """What is installed of a group of Hydra's."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return sorted(GlobalHydra.instance().config_loader().get_group_options(group))
