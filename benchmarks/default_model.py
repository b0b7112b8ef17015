"""The model that benchmarks measure."""

from pathlib import Path

import platformdirs

from sovl_daemon.models.catalogue import DEFAULT_MODEL
from sovl_daemon.models.store import ModelStore


def default_model() -> Path:
    """Pull the default model into the user's cache on first use; return its folder."""
    return ModelStore(platformdirs.user_cache_path("sovl") / "models").resolve(DEFAULT_MODEL)
