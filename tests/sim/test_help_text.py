"""Help fits a terminal of 80 columns and stays copyable."""

import shlex

import pytest

from sim.__main__ import command_names, load
from sim.help_text import WIDTH, help_of, to_width


@pytest.mark.parametrize("name", command_names())
def test_help_fits_80_columns_and_loses_no_word(name):
    shown = help_of(load(name))
    assert max(map(len, shown.splitlines())) <= WIDTH
    module = load(name)
    written = module.help_text() if hasattr(module, "help_text") else module.__doc__
    assert [word for word in shown.split() if word != "\\"] == written.split()


def test_rows_commands_and_paragraphs_by_hand():
    word = "word " * 30
    assert to_width("  name=1  " + word).splitlines()[1] == "          " + ("word " * 14).strip()
    command = "  python -m sim run " + " ".join(f"policy.part.knob_{number}=value" for number in range(5))
    shown = to_width(command)
    assert shlex.split(shown.replace("\\\n", "")) == shlex.split(command)
    assert all(line.endswith(" \\") for line in shown.splitlines()[:-1])
    assert to_width("ends early\nand begins anew") == "ends early\nand begins anew"
