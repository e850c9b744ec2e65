"""The cache holds code: what others could have written there is not loaded."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.command_line import environment
from traces.user_cache import cache_root, make_private, user, who_else

needs_root = pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="gives files to another user")


def test_a_folder_of_our_own_is_made_private_and_used(tmp_path):
    root = tmp_path / "a" / "b"
    make_private(root / "numba", root)
    assert stat.S_IMODE(root.stat().st_mode) == stat.S_IMODE((root / "numba").stat().st_mode) == 0o700
    assert who_else(root / "numba" / "key", root) is None


@pytest.mark.parametrize("place", ["", "numba", "numba/key", "numba/key/code.nbc"])
@pytest.mark.parametrize("mode", [0o777, 0o775])
def test_what_others_may_write_is_named(tmp_path, place, mode):
    (tmp_path / "numba" / "key").mkdir(parents=True)
    (tmp_path / "numba" / "key" / "code.nbc").write_bytes(b"")
    assert who_else(tmp_path / "numba" / "key", tmp_path) is None
    if mode == 0o775:  # a group with other members than this user
        try:
            os.chown(tmp_path / place, -1, 1 if os.getgid() != 1 else 2)
        except PermissionError:
            pytest.skip("only root gives files to another group")
    (tmp_path / place).chmod(mode)
    assert "can be written by others" in (who_else(tmp_path / "numba" / "key", tmp_path) or "")


@needs_root
@pytest.mark.parametrize("place", ["", "numba", "numba/key", "numba/key/code.nbc"])
def test_what_others_own_is_named(tmp_path, place):
    (tmp_path / "numba" / "key").mkdir(parents=True)
    (tmp_path / "numba" / "key" / "code.nbc").write_bytes(b"")
    os.chown(tmp_path / place, 12345, -1)
    assert "belongs to another user" in (who_else(tmp_path / "numba" / "key", tmp_path) or "")


@needs_root
def test_a_link_of_another_user_is_not_followed(tmp_path):
    (tmp_path / "real").mkdir()
    link = tmp_path / "link"
    link.symlink_to("real")
    assert who_else(link, link) is None
    os.lchown(link, 12345, -1)
    assert "link of another user" in (who_else(link, link) or "")


def test_without_a_home_the_folder_carries_the_user(tmp_path, monkeypatch):
    monkeypatch.delenv("MOE_SIM_CACHE", raising=False)
    monkeypatch.setattr("platformdirs.user_cache_path", lambda name: tmp_path.__class__("~/.cache") / name)
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    assert cache_root() == tmp_path / f"moe-offload-sim-{user()}"


SHOW = "import os, traces; print(os.environ['NUMBA_CACHE_DIR'])"


def started(tmp_path, **changes) -> tuple[str, str]:
    """Where a process keeps compiled code, and what it says."""
    env = environment(MOE_SIM_CACHE=str(tmp_path), NUMBA_CACHE_DIR=None, **changes)
    done = subprocess.run([sys.executable, "-c", SHOW], capture_output=True, text=True, env=env, check=True)
    return done.stdout.strip(), done.stderr


def test_a_poisoned_folder_is_not_used_and_one_line_says_so(tmp_path):
    kept, said = started(tmp_path)
    assert kept.startswith(str(tmp_path)) and said == ""
    tmp_path.chmod(0o777)
    for changes in ({}, {"NUMBA_CACHE_DIR": str(tmp_path)}):
        env = environment(**({"MOE_SIM_CACHE": str(tmp_path), "NUMBA_CACHE_DIR": None} | changes))
        done = subprocess.run([sys.executable, "-c", SHOW], capture_output=True, text=True, env=env, check=True)
        kept = done.stdout.strip()
        assert not kept.startswith(str(tmp_path) + "/") and kept != str(tmp_path) and not Path(kept).exists()
        assert done.stderr.count("\n") == 1 and "compiled code is not kept" in done.stderr and "777" in done.stderr
