"""A file in place of a file of a configuration group, as `hardware=mine.yaml`; and figures set in place of a file's.

A file on the command line is registered under its path as one more choice of the group, so that whatever holds of the
shipped choices (overrides, sweeps, provenance) holds of it. It is data of others: nothing in it is interpolated.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf, open_dict

from sim.paths import CONF
from sim.plain_yaml import read_mapping
from traces.errors import UserError

ENDING = ".yaml"
SET = "ESTIMATED: set on the command line"
"""The source of a figure that does not stand in the file."""
MACHINES = ("hardware", "runtime")
"""Groups whose every figure has a source."""
NO_FIGURES = ("name", "names", "label", "source", "sources", "uncertainty")
_PLAIN = re.compile(r"[\w./+-]+", re.ASCII)


def with_files(words: Sequence[str]) -> list[str]:
    """Overrides as Hydra takes them; the files that `GROUP=PATH.yaml` names are read and registered.

    Raises: UserError where such a file cannot be read or holds no mapping.
    """
    return [_registered(word) for word in words]


def _registered(word: str) -> str:
    """One override; several values after commas are a sweep."""
    group, _, value = word.partition("=")
    if not re.fullmatch(r"\w+(/\w+)*", group) or not (CONF / group).is_dir():
        return word
    choices = [value] if Path(value).is_file() else value.split(",")
    if not any(_unquoted(choice).endswith(ENDING) for choice in choices):
        return word
    return f"{group}={','.join(_choice(group, _unquoted(choice)) for choice in choices)}"


def _unquoted(choice: str) -> str:
    return choice[1:-1] if len(choice) > 1 and choice[0] in "'\"" and choice[-1] == choice[0] else choice


def _choice(group: str, choice: str) -> str:
    """The name of a choice in Hydra's grammar, which is the path as it was typed unless the group has such a file."""
    if not choice.endswith(ENDING):
        return choice
    if "${" in choice or not choice.isprintable():
        raise UserError(f"{group}={choice}: a path here must be printable and hold no ${{")
    path = Path(choice).expanduser()
    content = read_mapping(path, f"{group}={choice}: the file")
    if path != Path(choice) or (CONF / group / choice).exists():
        choice = str(path.absolute())
    *folders, name = filter(None, f"{group}/{choice}".split("/"))
    ConfigStore.instance().store(name, _as_text(content), "/".join(folders))
    return choice if _PLAIN.fullmatch(choice) else "'" + choice.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _as_text(value: Any) -> Any:
    """The same content so that OmegaConf takes `${...}` for the text it is."""
    if isinstance(value, dict):
        return {key: _as_text(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_as_text(inner) for inner in value]
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", value) if isinstance(value, str) else value


def mark_set(config: DictConfig, hydra: Any) -> None:
    """Give every figure of a group that is not what the chosen file says the source `SET`, in place.

    ``hydra``: Hydra's own group, which knows the chosen files. Nothing is marked in a group of unknown files.
    """
    words = keys_of(hydra.overrides.task)
    for group, choice in hydra.runtime.choices.items():
        if "/" in group or "@" in group or not isinstance(config.get(group), DictConfig):
            continue
        known = _file_of(group, str(choice), hydra)
        values: Any = OmegaConf.to_container(config[group], resolve=False)
        for key, value in values.items():
            other = known is not None and (value is None or isinstance(value, int | float)) and known.get(key) != value
            if other or f"{group}.{key}" in words:
                mark_figure(config, f"{group}.{key}", words)


def keys_of(words: Iterable[str]) -> set[str]:
    """What overrides set."""
    return {word.lstrip("+").partition("=")[0] for word in words}


def mark_figure(config: DictConfig, key: str, words: Collection[str]) -> None:
    """Say of one figure, as `hardware.sync_s`, that it was set, in place; what ``words`` set besides stays.

    Source and uncertainty of the file's figure are those of another value: it has no uncertainty then unless one is
    set, too. The label of a machine is that of its weakest figure.
    """
    group, _, figure = key.partition(".")
    node = config.get(group)
    if not isinstance(node, DictConfig) or figure not in node or figure in NO_FIGURES:
        return
    if isinstance(node.get("source"), str) and isinstance(node[figure], int | float):
        node.source = f"{node.source}; {figure} {SET.partition(': ')[2]}"
    sources = node.get("sources")
    if group not in MACHINES and not (isinstance(sources, DictConfig) and figure in sources):
        return
    with open_dict(node):
        if f"{group}.sources.{figure}" not in words:
            node.sources = {**(sources or {}), figure: SET}
            node.label = SET.partition(":")[0]
        if isinstance(node.get("uncertainty"), DictConfig) and f"{group}.uncertainty.{figure}" not in words:
            node.uncertainty.pop(figure, None)


def _file_of(group: str, choice: str, hydra: Any) -> Mapping[str, Any] | None:
    """What the chosen file of a group says; None where it is built from others, or not to be found."""
    if choice.endswith(ENDING):
        content: Any = OmegaConf.to_container(ConfigStore.instance().load(f"{group}/{choice}").node, resolve=True)
        return None if "defaults" in content else content
    for path in _files(group, choice, hydra):
        content = read_mapping(path, f"{group}={choice}: the file")
        return None if "defaults" in content else content
    return None


def _files(group: str, choice: str, hydra: Any) -> Iterator[Path]:
    """The files of this choice, the one that Hydra takes first."""
    for source in hydra.runtime.config_sources:
        path = Path(str(source.path)) / group / f"{choice}{ENDING}"
        if source.schema == "file" and path.is_file():
            yield path
