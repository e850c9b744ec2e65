"""Fixtures that several test folders share."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"


def _shared(name: str) -> Path:
    folder = SHARED / name
    if not folder.is_dir():
        pytest.skip(f"the folder ../shared/{name} with other people's data is not here")
    return folder


@pytest.fixture(scope="session")
def shared_traces() -> Path:
    """Folder of real traces recorded by others; skips where it is absent."""
    return _shared("traces")


@pytest.fixture(scope="session")
def shared_cases() -> Path:
    """Folder of small inputs of the kinds that people have; skips where it is absent."""
    return _shared("cases")


@pytest.fixture(scope="session")
def shared_measurements() -> Path:
    """Folder of real measurements by others; skips where it is absent."""
    return _shared("measurements")


@pytest.fixture(autouse=True)
def hydra_begins_anew() -> Iterator[None]:
    """What a test leaves in Hydra, choices from files (`hardware=mine.yaml`) too, is unknown to the tests after it."""
    yield
    loaded = sys.modules.get("hydra.core.global_hydra")
    if loaded is not None:
        loaded.GlobalHydra.instance().clear()
    module = sys.modules.get("hydra.core.config_store")
    if module is not None:
        repo = module.ConfigStore.instance().repo
        for group in [name for name in repo if (ROOT / "conf" / name).is_dir() and name != "hydra"]:
            del repo[group]
