"""Fixtures for every test."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import platformdirs
import pytest

from sovl_daemon.models import DEFAULT_MODEL, ModelStore
from tests.daemon import Daemon, running
from tests.packages import install


@pytest.fixture(scope="session")
def default_model() -> Path:
    """Return the folder of the real default model, pulled once into the user's own cache."""
    return ModelStore(platformdirs.user_cache_path("sovl") / "models").resolve(DEFAULT_MODEL)


@pytest.fixture(scope="session")
def echo_package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a third party's agent, installed as any package is."""
    return install(tmp_path_factory.mktemp("packages"), "sovl-echo")


@pytest.fixture
def runtime() -> Iterator[Path]:
    """Return a directory with a path short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="sovl") as directory:
        yield Path(directory)


ECHO = {
    "agents.disabled": [
        *("generator", "dreamer", "trainer", "curiosity", "gestation"),
        *("judge", "controller"),
    ],
    "agents.placement": {"echo": "host"},
}


@pytest.fixture
def echo_daemon(runtime: Path, echo_package: Path) -> Iterator[Daemon]:
    """Return a running daemon whose model host holds a quick agent instead of a model."""
    with running(runtime, packages=echo_package, **ECHO) as daemon:
        yield daemon
