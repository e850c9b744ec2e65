"""Values of a model's `config.json`, each proved to be of its kind where it is read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from traces.errors import UserError

MOST = 2**40
MOST_LAYERS = 65535


class Values:
    """Names and values of one configuration; a name with null is one that is not there."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.config = config
        self._listed: dict[str, frozenset[int]] = {}

    @property
    def family(self) -> str:
        """The model's type in transformers; empty where none is stated."""
        return str(self.config.get("model_type") or "")

    def has(self, *names: str) -> bool:
        """Whether all the names have values."""
        return all(self.config.get(name) is not None for name in names)

    def number(self, *names: str, most: int = MOST) -> int | None:
        """The first of some names that has a value: a whole number, or one such number for every layer.

        Raises: UserError naming the value that is none.
        """
        for name in names:
            value = self.config.get(name)
            if value is None:
                continue
            if isinstance(value, list) and value and all(entry == value[0] for entry in value):
                value = value[0]
            if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
                raise UserError(f"{name}={_shown(value)}: must be a whole number from 0 to {most}")
            return value
        return None

    def needed(self, *names: str, most: int = MOST) -> int:
        """As `number`, but there must be one, above zero."""
        value = self.number(*names, most=most)
        if value is None:
            raise UserError(f"{names[0]} is not set" + (f" (nor {', '.join(names[1:])})" if names[1:] else ""))
        if value == 0:
            name = next(name for name in names if self.config.get(name) is not None)
            raise UserError(f"{name}=0: must be a whole number from 1 to {most}")
        return value

    def flag(self, *names: str, default: bool = False) -> bool:
        """The first of some names that has a value: true or false.

        Raises: UserError naming the value that is neither.
        """
        for name in names:
            value = self.config.get(name)
            if value is None:
                continue
            if not isinstance(value, bool):
                raise UserError(f"{name}={_shown(value)}: must be true or false")
            return value
        return default

    def words(self, name: str, count: int) -> list[str] | None:
        """A list of one word per layer; of more, the first ``count`` (0: all). None where it is not set.

        Raises: UserError where it is no such list, or too short.
        """
        value = self.config.get(name)
        if value is None:
            return None
        if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
            raise UserError(f"{name}={_shown(value)}: must be a list of words")
        if len(value) < count:
            raise UserError(f"{name} lists {len(value)} layers: must list all {count}")
        return value[:count] if count else value

    def numbers(self, name: str, count: int) -> list[int] | None:
        """A list of one whole number per layer, as `words`."""
        value = self.config.get(name)
        if value is None:
            return None
        if not isinstance(value, list) or not all(type(entry) is int and 0 <= entry <= MOST for entry in value):
            raise UserError(f"{name}={_shown(value)}: must be a list of whole numbers from 0 to {MOST}")
        if len(value) < count:
            raise UserError(f"{name} lists {len(value)} layers: must list all {count}")
        return value[:count]

    def listed(self, name: str) -> frozenset[int]:
        """The layers that a list names; read once, since every layer asks."""
        if name not in self._listed:
            value = self.config.get(name)
            values = value if isinstance(value, list) else []
            self._listed[name] = frozenset(number for number in values if isinstance(number, int))
        return self._listed[name]

    def inner(self, name: str) -> Values | None:
        """The values under a name; None where it is not set or holds none."""
        value = self.config.get(name)
        return Values(value) if isinstance(value, dict) else None


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
