"""Fixtures for every test."""

import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import platformdirs
import pytest
from hypothesis import HealthCheck, settings

from sovl_daemon.models import DEFAULT_MODEL, ModelStore
from sovl_daemon.testing import WITHOUT_MODEL, Daemon, running
from tests.packages import install

# What a shell runs in the background is told to ignore Ctrl-C, and so are its children.
signal.signal(signal.SIGINT, signal.default_int_handler)


# However busy the machine is, an example is as good as before.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")


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


@pytest.fixture(scope="module")
def module_runtime() -> Iterator[Path]:
    """Return such a directory for all tests of a module."""
    with tempfile.TemporaryDirectory(prefix="sovl") as directory:
        yield Path(directory)


ECHO = {
    **WITHOUT_MODEL,
    "agents.placement": {"echo": "host"},
}


@pytest.fixture(scope="module")
def daemon(module_runtime: Path, echo_package: Path) -> Iterator[Daemon]:
    """Return one like `echo_daemon` for the tests of a module, which leave it as it is.

    A module whose tests share another daemon has one of its own by this name.
    """
    with running(module_runtime, packages=echo_package, **ECHO) as daemon:
        yield daemon


@pytest.fixture
def echo_daemon(runtime: Path, echo_package: Path) -> Iterator[Daemon]:
    """Return a running daemon whose model host holds a quick agent instead of a model."""
    with running(runtime, packages=echo_package, **ECHO) as daemon:
        yield daemon
