"""A file in place of a file of a configuration group, as `hardware=mine.yaml`; and figures set in place of a file's.

A file on the command line is registered under its path as one more choice of the group, so that whatever holds of the
shipped choices (overrides, sweeps, provenance) holds of it. It is data of others: nothing in it is interpolated. A rule
in place of a file of `policy/PART` is one more choice too: `rule.py`, `rule.py:Class`, `module:Class` or the name of an
entry point.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
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
PARTS = ("eviction", "prediction", "prefetch", "substitution", "assignment", "allocation")
NO_FIGURES = ("name", "names", "label", "source", "sources", "uncertainty")
_PLAIN = re.compile(r"[\w./+-]+", re.ASCII)


def with_files(words: Sequence[str]) -> list[str]:
    """Overrides as Hydra takes them; the files that `GROUP=PATH.yaml` names are read and registered.

    Raises: UserError where such a file cannot be read or holds no mapping.
    """
    return [_registered(_of_trace(word)) for word in words]


def _of_trace(word: str) -> str:
    """`card=NAME` or `card=FILE` is short for `trace.card=`, of `trace=synthetic`."""
    name, equals, value = word.partition("=")
    return (
        f"trace.card={','.join(quoted(_unquoted(one)) for one in value.split(','))}"
        if name == "card" and equals
        else word
    )


def _registered(word: str) -> str:
    """One override; several values after commas are a sweep."""
    group, _, value = word.partition("=")
    if not re.fullmatch(r"\w+(/\w+)*", group) or not (CONF / group).is_dir():
        return word
    choices = [value] if Path(value).is_file() else value.split(",")
    if not any(_is_file_name(group, _unquoted(choice)) for choice in choices):
        return word
    return f"{group}={','.join(_choice(group, _unquoted(choice)) for choice in choices)}"


def _is_file_name(group: str, choice: str) -> bool:
    """Whether a choice is not simply the name of a file of the group."""
    if choice.endswith(ENDING) or _is_model_config(group, choice):
        return True
    return choice != "" and _rule_target(group, choice) is not None


def _is_model_config(group: str, choice: str) -> bool:
    """Whether a choice is the folder of a model, its `config.json`, or a GGUF file."""
    if group != "model" or choice in ("", ".", "..") or _known(group, choice):
        return False
    return choice.endswith((".json", ".gguf")) or Path(choice).expanduser().is_dir()


def _rule_target(group: str, choice: str) -> str | None:
    """What names the class, where a choice of `policy/PART` is a rule and not a file of the group."""
    folder, _, part = group.partition("/")
    if folder != "policy" or part not in PARTS or choice.endswith(ENDING) or _known(group, choice):
        return None
    from sim.rule_files import entry_point_targets, file_target

    if file_target(choice) is not None or re.fullmatch(r"[\w.]+:\w+", choice):
        return choice
    return entry_point_targets().get(choice) if choice.isidentifier() else None


def _known(group: str, choice: str) -> bool:
    return (CONF / group / f"{choice}{ENDING}").is_file()


def _unquoted(choice: str) -> str:
    return choice[1:-1] if len(choice) > 1 and choice[0] in "'\"" and choice[-1] == choice[0] else choice


def _choice(group: str, choice: str) -> str:
    """The name of a choice in Hydra's grammar, which is the path as it was typed unless the group has such a file."""
    target = _rule_target(group, choice)
    sizes = _is_model_config(group, choice)
    if not choice.endswith(ENDING) and target is None and not sizes:
        return choice
    if "${" in choice or not choice.isprintable():
        raise UserError(f"{group}={choice}: a path here must be printable and hold no ${{")
    if target is not None:
        content = rule_node(group, target)
    elif sizes:
        from sim.model_files.config_json import read_config_json
        from sim.model_files.gguf_header import read_gguf

        place = Path(choice).expanduser()
        content = read_gguf(place) if choice.endswith(".gguf") else read_config_json(place)
        choice = str(Path(choice).expanduser().absolute())
    else:
        path = Path(choice).expanduser()
        content = read_mapping(path, f"{group}={choice}: the file")
        if group.partition("/")[0] == "policy":
            content = _beside_its_rules(content, path.absolute().parent, group)
        if path != Path(choice) or (CONF / group / choice).exists():
            choice = str(path.absolute())
    *folders, name = filter(None, f"{group}/{choice}".split("/"))
    ConfigStore.instance().store(name, _as_text(content), "/".join(folders))
    return quoted(choice)


def quoted(text: str) -> str:
    """A value of an override as Hydra's grammar takes it for that text."""
    return text if _PLAIN.fullmatch(text) else "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def rule_node(group: str, target: str) -> dict[str, Any]:
    """What a file of `policy/PART` would say of a rule: its class and its knobs' defaults; None for those without.

    Raises: UserError where the rule cannot be found.
    """
    import policies.base
    from sim.rule_files import file_target, find_class

    rule = find_class(target, getattr(policies.base, group.partition("/")[2].capitalize()), group)
    where = file_target(target)
    named = f"{rule.__module__}.{rule.__name__}" if where is None else f"{where[0].absolute()}:{rule.__name__}"
    knobs = fields(rule) if is_dataclass(rule) else ()
    return {"_target_": named} | {knob.name: _default(knob) for knob in knobs if knob.init}


def _default(knob: Any) -> Any:
    """The default of a knob, None where it has none."""
    if knob.default_factory is not MISSING:
        return knob.default_factory()
    return None if knob.default is MISSING else knob.default


def _beside_its_rules(content: dict[str, Any], folder: Path, group: str) -> dict[str, Any]:
    """A policy's file with the rules' files that it names found from its own folder."""
    found: dict[str, Any] = _absolute({key: _absolute(value, folder) for key, value in content.items()}, folder)
    if group == "policy" and isinstance(content.get("defaults"), list):
        found["defaults"] = [_with_rule(entry, folder) for entry in content["defaults"]]
    return found


def _absolute(value: Any, folder: Path) -> Any:
    """A part's group with the absolute path of the file that its ``_target_`` names."""
    from sim.rule_files import file_target

    where = (
        file_target(value["_target_"]) if isinstance(value, dict) and isinstance(value.get("_target_"), str) else None
    )
    if where is None:
        return value
    return value | {"_target_": f"{folder / where[0]}{'' if where[1] is None else ':' + where[1]}"}


def _with_rule(entry: Any, folder: Path) -> Any:
    """An entry of a defaults list; a rule that it names becomes a choice of its part."""
    from sim.rule_files import file_target

    if not (isinstance(entry, dict) and len(entry) == 1):
        return entry
    ((key, choice),) = entry.items()
    part = str(key).split(" ")[-1].split("@")[-1].strip("/")
    group = f"policy/{part.removeprefix('policy/')}"
    target = _rule_target(group, choice) if isinstance(choice, str) else None
    if target is None:
        return entry
    where = file_target(target)
    if where is not None:
        target = f"{folder / where[0]}{'' if where[1] is None else ':' + where[1]}"
    name = re.sub(r"[^\w.]", "_", target).lstrip("_")
    ConfigStore.instance().store(name, _as_text(rule_node(group, target)), group)
    return {key: name}


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
