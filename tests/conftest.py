"""Fixtures for every test."""

from pathlib import Path

import platformdirs
import pytest

from sovl_daemon.models import DEFAULT_MODEL, ModelStore


@pytest.fixture(scope="session")
def default_model() -> Path:
    """Return the folder of the real default model, pulled once into the user's own cache."""
    return ModelStore(platformdirs.user_cache_path("sovl") / "models").resolve(DEFAULT_MODEL)
