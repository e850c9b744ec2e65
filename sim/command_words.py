"""Reads the words of a command that takes one folder and NAME=VALUE."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from traces.errors import UserError


def read_words(
    command: str, argv: Sequence[str], known: Mapping[str, str], what: str = "folder of results"
) -> tuple[str, list[tuple[str, str]]]:
    """The one word without `=`, and the others as (name, value).

    `known`: name -> what stands for its value. Raises: UserError for any other, and for none or several folders.
    """
    folders = [word for word in argv if "=" not in word]
    pairs = [(name, value) for name, equals, value in (word.partition("=") for word in argv) if equals]
    for name, value in pairs:
        if name not in known or not value:
            listed = ", ".join(f"{name}={value}" for name, value in known.items())
            raise UserError(f"{command}: {name}={value} is not known: the words are {listed or what}")
    if len(folders) != 1:
        raise UserError(f"{command} takes one {what}, got {len(folders)}: see `python -m sim {command} --help`")
    return folders[0], pairs


def written_file(word: str) -> str:
    """The file that a command writes, where it takes it as a word of its own: OUT, or out=OUT as elsewhere."""
    return word.removeprefix("out=")


FEWEST_MACHINES, MOST_MACHINES = 8, 1000


def machines_of(options: Mapping[str, str]) -> int | None:
    """The word machines=N; None where it is not given. Raises: UserError for anything else than 0 or enough of them."""
    word = options.get("machines")
    if word is None:
        return None
    number = int(word) if word.isdecimal() and word.isascii() and len(word) < 9 else -1
    if number != 0 and not FEWEST_MACHINES <= number <= MOST_MACHINES:
        raise UserError(f"machines={word}: must be 0 (none), or from {FEWEST_MACHINES} to {MOST_MACHINES}")
    return number
