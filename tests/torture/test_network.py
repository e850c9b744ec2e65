"""Nothing is asked of the network, at import or at work, unless a download is allowed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BLOCKED = """
import socket, sys
def refuse(*arguments, **named):
    raise SystemExit("something wants the network")
socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = socket.create_connection = refuse
import importlib, pkgutil
import policies, sim, traces
for package in (traces, policies, sim):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
from sim.__main__ import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_no_network_at_import_or_run(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    argv = ["run", "policy=lru", "engine=compiled", "trace.requests=1", f"hydra.run.dir={tmp_path / 'run'}"]
    done = subprocess.run([sys.executable, "-c", BLOCKED, *argv], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "metrics.json").is_file()
