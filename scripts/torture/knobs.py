"""Every knob of every rule and schema at odd values: accepted with finite numbers, or refused in one sentence."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import fields
from typing import Any, get_args, get_type_hints

from omegaconf import OmegaConf

from policies.base import Part
from scripts.torture.files import LONGEST_SENTENCE
from scripts.torture.tally import Tally
from sim.assembly.build import PARTS, make_part
from sim.assembly.catalogue import POLICY_FOLDER, rule_names
from sim.config import (
    PrefillConfig,
    RunConfig,
    SessionConfig,
    SpeculateConfig,
    SweepConfig,
    TimeConfig,
    TraceConfig,
    validate,
)
from sim.engine.decision.rule_compilation import knobs_struct
from sim.machine.capacity import CacheConfig
from sim.machine.hardware import HARDWARE_FOLDER, hardware_from_config
from sim.machine.host_store import HostConfig
from sim.machine.model import MODEL_FOLDER, dimensions_from_config
from sim.machine.runtime import RUNTIME_FOLDER, Runtime
from sim.predictors.settings import MoeBeyondSettings, PromoeSettings, TrainSettings
from traces.errors import UserError

ODD: tuple[Any, ...] = (
    math.nan, math.inf, -math.inf, -1, 0, 1e30, -1e30, 10**400, 2**63, 0.5, "abc", True, [1], {"a": 1},
)  # fmt: skip
SCHEMAS: dict[str, tuple[Any, dict[str, Any]]] = {
    "cache.": (CacheConfig, {}),
    "": (RunConfig, {}),
    "time.": (TimeConfig, {}),
    "trace.": (TraceConfig, {"embedded": "demo"}),
    "synthetic trace.": (TraceConfig, {"shape": "card", "card": "demo"}),
    "session.": (SessionConfig, {}),
    "prefill.": (PrefillConfig, {}),
    "speculate.": (SpeculateConfig, {}),
    "host.": (HostConfig, {}),
    "sweep.": (SweepConfig, {}),
    "train.": (TrainSettings, {}),
    "predictor.": (MoeBeyondSettings, {}),
    "promoe predictor.": (PromoeSettings, {}),
}
"""Prefix of its knobs -> schema, and what it needs beside the knob that is tried."""
FILES = {
    "hardware.": (HARDWARE_FOLDER / "s1_rtx3080ti.yaml", hardware_from_config),
    "runtime.": (RUNTIME_FOLDER / "eager_hf.yaml", Runtime.from_config),
    "model.": (MODEL_FOLDER / "gpt_oss_20b.yaml", dimensions_from_config),
}
Make = Callable[[str, Any], Any]


def knob_cases() -> Tally:
    """Try every knob at every odd value."""
    tally = Tally("knobs at odd values")
    for prefix, make, knobs in schemas():
        for knob, numeric in knobs.items():
            for value in ODD:
                tally.trials += 1
                try:
                    made = make(knob, value)
                    outcome, defect = "accepted", "NaN is taken for a number" if numeric and value is math.nan else ""
                    if isinstance(made, Part):
                        knobs_struct(made)
                except UserError as error:
                    one = "\n" not in str(error) and len(str(error)) <= LONGEST_SENTENCE
                    outcome, defect = "refused", "" if one else "not one sentence"
                except Exception as error:
                    outcome, defect = "failed", f"{type(error).__name__}: {str(error)[:80]}"
                tally.outcomes[outcome] += 1
                if defect:
                    tally.defects[f"{prefix}{knob}={str(value)[:20]}: {defect}"] += 1
    return tally


def schemas() -> Iterator[tuple[str, Make, dict[str, bool]]]:
    """(prefix, function from knob and value to an object, its knobs and whether they are numbers)."""

    def maker(cls: Any, prefix: str = "", base: dict[str, Any] | None = None) -> Make:
        return lambda knob, value: validate(cls, {**(base or {}), knob: value}, prefix)

    def reader(read: Callable[[Any], Any], plain: dict[str, Any]) -> Make:
        return lambda knob, value: read({**plain, knob: value})

    for part in PARTS:
        for rule in rule_names(part):
            yaml = OmegaConf.load(POLICY_FOLDER / part / f"{rule}.yaml")
            config: Any = OmegaConf.create({"policy": {"alpha": 0.35, part: yaml}})
            cls = type(make_part(part, config.policy[part]))
            yield f"policy.{part} {rule}.", maker(cls, f"policy.{part}."), knobs_of(cls)
    for prefix, (schema, base) in SCHEMAS.items():
        yield prefix, maker(schema, base=base), knobs_of(schema)
    for prefix, (file, read) in FILES.items():
        plain: Any = OmegaConf.to_container(OmegaConf.load(file))
        yield prefix, reader(read, plain), {str(key): isinstance(value, int | float) for key, value in plain.items()}


def knobs_of(cls: Any) -> dict[str, bool]:
    """Names of the fields of a dataclass, and whether each takes a number."""
    hints = get_type_hints(cls)
    kinds = {field.name: get_args(hints[field.name]) or (hints[field.name],) for field in fields(cls)}
    return {name: bool({int, float} & set(kind)) for name, kind in kinds.items()}
