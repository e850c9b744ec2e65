"""What each run was set to, as columns beside its results: rules of the policy, set-up, workload, alpha."""

import importlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from policies.needs import SEES_FUTURE
from sim.figures.looks import add_looks
from sim.results.json_files import read_json
from sim.results.series import rule_name
from traces.text import short_name

RULES = ("eviction", "prediction", "prefetch", "substitution", "assignment")
GROUPS = ("setup", "workload", "batch_size")
PANEL_KEYS = ("hardware", "model", "trace", "batch_size", "embedded", "path", "label", "labels", "workload", "geometry")
"""Settings that have a column or a panel of their own: they are no part of a contender's name."""


def add_settings(table: pd.DataFrame) -> pd.DataFrame:
    """The table of `sim.results.table.collect` with what figures group by.

    Adds ``eviction``, ``prediction``, ``prefetch``, ``substitution``, ``assignment`` (names of rules, None where they
    are not known), ``alpha``, ``workload``, ``setup`` (hardware, its figures in which the runs differ, and the model
    where needed), ``link_bytes_per_s``, ``link_latency_s``, ``sees_future`` (whether a rule reads what no live system
    knows), ``residency`` (``cache``, ``all`` or ``none``), ``bound`` (whether it is no contender: it sees the future,
    or holds everything or nothing), ``contender``: the series without what ``setup``, ``workload`` and ``batch_size``
    say, ``place``: those of them in which the runs differ, ``name``: contender and place, and the columns of
    `add_looks`. Runs that do not depend on the capacity appear once.
    """
    rows = [settings_of(_config(Path(str(folder)))) for folder in table["folder"]]
    described = table.assign(**{key: [row[key] for row in rows] for key in rows[0]})
    described["workload"] = [row["workload"] or trace for row, trace in zip(rows, table["trace"], strict=True)]
    described["setup"] = [
        " ".join([setup, *machine_words(str(series))])
        for setup, series in zip(_setups(table), table["series"], strict=True)
    ]
    described["contender"] = [contender(str(series)) for series in table["series"]]
    described["place"] = place_names(described)
    described["name"] = names(described)
    described["bound"] = described["sees_future"] | described["residency"].isin(["all", "none"])
    return add_looks(once(described))


def once(table: pd.DataFrame) -> pd.DataFrame:
    """The runs without those that differ from another in a capacity that they do not use."""
    same = [key for key in ("name", "capacity", "trace_hash", "hardware", "model", "runtime") if key in table]
    idle = table["residency"].isin(["all", "none"])
    return table[~(idle & table.assign(idle=idle).duplicated(["idle", *same]))].reset_index(drop=True)


def names(table: pd.DataFrame, but: str = "") -> list[str]:
    """A name for every run: its contender, and what else the runs differ in except the capacity and `but`."""
    return [", ".join(filter(None, words)) for words in zip(table["contender"], place_names(table, but), strict=True)]


def place_names(table: pd.DataFrame, but: str = "") -> list[str]:
    """Set-up, workload and batch size of every run, those in which the runs differ; `but`: the one left out."""
    keys = [key for key in GROUPS if key != but and table[key].nunique() > 1]
    words = {key: "batch\u00a0" if key == "batch_size" else "" for key in keys}
    return [", ".join(f"{word}{run[key]}" for key, word in words.items()) for _, run in table.iterrows()]


def settings_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of one run's configuration; None where it does not say."""
    policy, trace, hardware = (_group(config, name) for name in ("policy", "trace", "hardware"))
    band = _group(policy, "substitution")
    label = next((trace[key] for key in ("workload", "labels", "label") if trace.get(key)), None)
    words = "+".join(map(str, label)) if isinstance(label, list) else label
    return {
        **{rule: rule_name(_group(policy, rule)) for rule in RULES},
        "alpha": band.get("alpha", policy.get("alpha")),
        "workload": None if label is None else short_name(words),
        "link_bytes_per_s": hardware.get("link_bytes_per_s"),
        "link_latency_s": hardware.get("link_latency_s"),
        "residency": policy.get("residency"),
        "sees_future": any(sees_future(_group(policy, rule)) for rule in RULES),
    }


def sees_future(part: Mapping[str, Any]) -> bool:
    """Whether a rule needs the future of the trace or an oracle; rules that cannot be found do not count."""
    module, _, name = str(part.get("_target_", "")).rpartition(".")
    if not module.startswith("policies."):
        return False
    try:
        needs = getattr(importlib.import_module(module), name).needs
    except (ImportError, AttributeError):
        return False
    return bool(SEES_FUTURE & set(needs))


def contender(series: str) -> str:
    """A series' name without the settings that have a panel or an axis of their own."""
    words = [word for word in series.split(" ") if not word.startswith("hardware.")]
    return " ".join(word for word in words if word.partition("=")[0].split(".")[-1] not in PANEL_KEYS)


def machine_words(series: str) -> list[str]:
    """Figures of the machine in which runs differ, in words and units, as `link 12 GB/s`."""
    words = [word.partition("=") for word in series.split(" ") if word.startswith("hardware.")]
    return [knob_words(key, value) for key, _, value in words]


def knob_axis(key: str) -> tuple[str, str, float]:
    """(words, unit, factor to it) of a knob by its name: `hardware.link_bytes_per_s` -> link bandwidth, GB/s, 1e-9."""
    name = re.sub(r"^(hardware|runtime|policy)\.", "", key)
    for ending, (more, unit, factor) in UNITS.items():
        found = re.fullmatch(rf"(\w+?){ending}((?:_per_\w+)?)", name)
        if found:
            stem = found[1].replace("_", " ")
            words = stem if stem.endswith(more) else f"{stem} {more}"
            return capitals(words), f"{unit}{found[2].replace('_', ' ')}", factor
    return capitals(re.sub("[_./]", " ", name)), "", 1.0


def capitals(words: str) -> str:
    """Words with those in capitals that are written so."""
    return re.sub(r"\b(gpu|cpu|kv)\b", lambda word: word.group().upper(), words)


def knob_words(key: str, value: str) -> str:
    """A setting in words: `link 12 GB/s`."""
    words, unit, factor = knob_axis(key)
    try:
        return f"{words} {float(value) * factor:g} {unit}".strip()
    except ValueError:
        return f"{words} {value}"


UNITS = {
    "_bytes_per_s": ("bandwidth", "GB/s", 1e-9), "_flops_per_s": ("rate", "TFLOP/s", 1e-12),
    "_bytes": ("size", "MB", 1e-6), "_s": ("time", "ms", 1e3),
}  # fmt: skip
"""Ending of a name -> what it adds to the words, the unit that figures show it in, and the factor to it."""


def _setups(table: pd.DataFrame) -> list[str]:
    """Hardware and model; the model only where hardware and model do not go together one to one."""
    pairs = table[["hardware", "model"]].drop_duplicates()
    both = pairs["hardware"].duplicated().any()
    return [
        f"{hardware}, {model}" if both else str(hardware)
        for hardware, model in zip(table["hardware"], table["model"], strict=True)
    ]


def _config(folder: Path) -> Mapping[str, Any]:
    config = read_json(folder / "provenance.json").get("config")
    return config if isinstance(config, dict) else {}


def _group(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    group = config.get(name)
    return group if isinstance(group, dict) else {}
