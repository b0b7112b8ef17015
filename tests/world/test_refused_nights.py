"""A night whose state cannot be written down waits for room, and is kept then."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from bus.errors import UNAVAILABLE, CommandError
from sovl_daemon.testing import PATIENCE_S, Daemon, running, until
from tests import tiny_models
from tests.starts import filled, mounted, read_only
from tests.world import situation

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(os.getuid() != 0, reason="only root may mount"),
    pytest.mark.timeout(400),
]


class Night(threading.Thread):
    """A night that somebody asked for, and what came of it."""

    def __init__(self, daemon: Daemon) -> None:
        super().__init__()
        self._daemon = daemon
        self.result: dict[str, Any] = {}
        self.start()

    def run(self) -> None:
        with self._daemon.client() as client:
            self.result = client.ask("gestate")


@contextmanager
def lived(runtime: Path, models: Path) -> Iterator[Daemon]:
    """A daemon that has something to learn."""
    settings = tiny_models.settings(models) | {"controls_config.sleep_time_factor": 0.5}
    with running(runtime, **settings) as daemon:
        with daemon.client() as client:
            client.ask("generate", prompt="The capital of Zorland is Mivek.")
        yield daemon


def hindered(daemon: Daemon, agent: str) -> list[dict[str, Any]]:
    return [
        each
        for each in daemon.events()
        if each["event"] == "agent.hindered" and each["agent"] == agent
    ]


def wait_until_trouble(daemon: Daemon, agent: str, says: str) -> None:
    troubles: list[str] = []
    for _ in until():
        with daemon.client() as client:
            troubles = client.control("status")["troubles"]
        if any(each.startswith(agent) and says in each for each in troubles):
            return
    raise AssertionError(f"{agent} was not hindered: {troubles}\n{daemon.output()}")


def nobody_was_restarted(daemon: Daemon) -> None:
    for _ in until():
        with daemon.client() as client:
            found = client.control("status")
        if not [each for each in found["troubles"] if "hindered" in each]:
            break
    assert not [each for each in found["troubles"] if "hindered" in each]
    assert all(child["restarts"] == 0 for child in found["children"].values())
    assert all(agent["state"] == "ready" for agent in found["agents"].values())


@situation("own", "A night's work on a full disk waits for room, and is kept as soon as there is.")
def test_a_night_on_a_full_disk(runtime: Path, tmp_path: Path) -> None:
    with mounted(runtime / "state", "16m") as disk, lived(runtime, tmp_path) as daemon:
        ballast = filled(disk)
        night = Night(daemon)
        wait_until_trouble(daemon, "trainer", "No space left")
        assert night.is_alive()
        ballast.unlink()
        night.join(PATIENCE_S)
        assert night.result["learned"] == 1
        nobody_was_restarted(daemon)


@situation("own", "A night's work in a folder that is read-only now is kept when it no longer is.")
def test_a_night_on_a_read_only_disk(runtime: Path, tmp_path: Path) -> None:
    with mounted(runtime / "state", "16m") as disk, lived(runtime, tmp_path) as daemon:
        with read_only(disk):
            night = Night(daemon)
            wait_until_trouble(daemon, "trainer", "Read-only file system")
            assert night.is_alive()
        night.join(PATIENCE_S)
        assert night.result["learned"] == 1
        nobody_was_restarted(daemon)
        assert len(hindered(daemon, "trainer")) == 1


@situation("own", "Who speaks while a night waits for room ends it, and a later night learns.")
def test_somebody_speaks_on_a_full_disk(runtime: Path, tmp_path: Path) -> None:
    with mounted(runtime / "state", "16m") as disk, lived(runtime, tmp_path) as daemon:
        ballast = filled(disk)
        night = Night(daemon)
        wait_until_trouble(daemon, "trainer", "No space left")
        with daemon.client() as client:
            with pytest.raises(CommandError, match="could not be written down") as refused:
                client.ask("generate", prompt="Are you awake?")
            assert refused.value.code == UNAVAILABLE
            night.join(PATIENCE_S)
            assert night.result["woke"] == "called"
            ballast.unlink()
            nobody_was_restarted(daemon)
            assert client.ask("gestate")["learned"] == 1
