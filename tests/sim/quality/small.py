"""Closed-loop evaluations of tiny random models, for tests."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np

from policies.base import Policy
from policies.substitution.score_band import ScoreBand
from sim.assembly.replay import DeviceSetup
from sim.machine.capacity import CacheConfig
from sim.quality.settings import QualityConfig, StudyConfig
from sim.quality.study import Study, make_study
from sim.quality.windows import Windows
from tests.support.replays import BARE, machine
from tests.support.tiny_models import VOCAB, build, byte_tokenizer
from traces.recording.loading import LoadedModel

BAND = replace(BARE, name="band", substitution=ScoreBand(alpha=0.9))


@cache
def loaded(family: str) -> LoadedModel:
    """A tiny random model of a family."""
    return LoadedModel(build(family), byte_tokenizer(), family)


def random_windows(count: int, tokens: int, seed: int = 0) -> Windows:
    """Windows of random tokens, two per document, domains in turn."""
    ids = np.random.default_rng(seed).integers(1, VOCAB, (count, tokens))
    return Windows(ids, tuple(f"document {i // 2}" for i in range(count)), tuple("ab"[i % 2] for i in range(count)))


def study_of(
    family: str = "olmoe", policy: Policy = BAND, windows: int = 4, tokens: int = 24, slots: int = 4, **knobs: Any
) -> Study:
    """An evaluation of a policy in a tiny model with ``slots`` of 8 experts per layer."""
    tasks = {key: knobs.pop(key) for key in ("cloze", "generation", "lines") if key in knobs}
    cache_config = CacheConfig(slots_per_layer=slots, reset=knobs.pop("reset", "request"))
    settings = QualityConfig(windows=windows, tokens=tokens, fit_windows=3, sizes="own", **knobs)
    setup = DeviceSetup(policy, machine(link_bytes_per_s=1e6, cpu_ratio=0.5, staging_slots=4), cache_config)
    config = replace(StudyConfig.windows_only(settings), **tasks)
    return make_study(loaded(family), setup, config, random_windows(windows + 3, tokens))
