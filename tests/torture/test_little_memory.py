"""Limits of memory below what compilers need: one sentence, where LLVM and torch would abort or hang."""

import subprocess
import sys

import pytest

from scripts.command_line import environment


@pytest.mark.parametrize(
    ("limit", "words", "needed"),
    [
        ("-v 100000", "run policy=lru", 800),
        ("-v 400000", "run policy=lru", 800),
        ("-d 150000", "run policy=lru", 400),
        ("-v 350000", "info demo", 800),
        ("-v 400000", "policies lru", 800),
        ("-v 1200000", "quality", 1600),
        ("-d 700000", "record", 800),
    ],
)
def test_a_limit_that_ends_in_no_crash(limit, words, needed, tmp_path):
    line = f"ulimit {limit}; exec {sys.executable} -m sim {words}"
    done = subprocess.run(
        ["/bin/sh", "-c", line], capture_output=True, text=True, env=environment(), cwd=tmp_path, timeout=60
    )
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: the ") and f"needs at least {needed}, or no limit" in done.stderr
    assert done.stderr.count("\n") == 1 and not list(tmp_path.iterdir())


def test_help_is_shown_in_little_memory(tmp_path):
    line = f"ulimit -v 400000; exec {sys.executable} -m sim run --help"
    done = subprocess.run(["/bin/sh", "-c", line], capture_output=True, text=True, env=environment(), timeout=60)
    assert done.returncode == 0 and "python -m sim run" in done.stdout
