"""Devices on which the runtime's tests run: the CPU always, CUDA where torch sees one."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from policies.base import Policy
from policies.eviction.lfu import Lfu
from policies.eviction.random import Random
from sim.assembly.replay import Replay
from sim.execution.settings import RealSettings
from tests.support.replays import BARE, POLICIES, replay_of
from traces.format.trace import Trace

DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")),
]
FAST = {"link_bytes_per_s": None, "hidden_size": 32, "expert_ffn": 48, "attention_bytes": 4096}
"""Sizes at which a test takes no time."""


def policy_of(name: str) -> Policy:
    """A policy by name, for tests."""
    extra = {"lfu": Lfu(), "random": Random()}
    if name in extra:
        return Policy(name, extra[name], *BARE.parts()[1:])
    return POLICIES[name]


def real_replay(trace: Trace, policy: Policy, settings: RealSettings, **knobs: Any) -> Replay:
    """A replay with the sizes of the settings."""
    from dataclasses import replace

    return replay_of(replace(trace, geometry=settings.geometry(trace)), policy, **knobs)
