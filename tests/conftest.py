"""Fixtures that several test folders share."""

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"


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
def shared_measurements() -> Path:
    """Folder of real measurements by others; skips where it is absent."""
    return _shared("measurements")
