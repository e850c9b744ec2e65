"""The console script is the command; tests/docs/test_own_policy.py installs a wheel."""

import importlib
import os
import subprocess
import sys
import tomllib

from sim.paths import ROOT

SCRIPT = "import sys; from sim.__main__ import command; sys.argv = ['moe-sim', *sys.argv[1:]]; command()"


def environment(site):
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return kept | {"PYTHONPATH": str(site)}


def moe_sim(folder, site, *words):
    return subprocess.run([sys.executable, "-c", SCRIPT, *words], cwd=folder, env=environment(site),
                          capture_output=True, text=True, timeout=300)  # fmt: skip


def test_the_console_script_is_the_command(tmp_path):
    stated = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]["moe-sim"]
    module, _, name = stated.partition(":")
    assert callable(getattr(importlib.import_module(module), name))
    done = moe_sim(tmp_path, ROOT, "--version")
    assert done.returncode == 0 and done.stdout.strip()
    wrong = moe_sim(tmp_path, ROOT, "rum")
    assert wrong.returncode == 2 and wrong.stderr.startswith("error: rum is not a command")
