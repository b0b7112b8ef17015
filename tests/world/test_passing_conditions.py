"""A full disk, a lock, a missing right: degraded and said, tried again, and over by itself."""

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from sovl_daemon.testing import Daemon, running, until
from tests.conftest import ECHO
from tests.starts import filled, mounted
from tests.world import situation

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="only root may mount")

CONTROLLED = ECHO | {
    "agents.disabled": [name for name in ECHO["agents.disabled"] if name != "controller"]
}


def status(daemon: Daemon) -> dict[str, dict[str, dict[str, object]]]:
    with daemon.client() as client:
        return client.control("status")


def troubles(daemon: Daemon, of: str) -> list[str]:
    return [each for each in status(daemon)["troubles"] if str(each).startswith(of)]


@situation("own", "On a full disk the controller is hindered, restarts nobody, and goes on later.")
def test_a_disk_that_fills_while_it_runs(runtime: Path, echo_package: Path) -> None:
    with (
        mounted(runtime / "state", "8m") as disk,
        running(runtime, packages=echo_package, **CONTROLLED) as daemon,
    ):
        ballast = filled(disk)
        for _ in until():
            if troubles(daemon, "controller"):
                break
        assert "disk is full" in troubles(daemon, "controller")[0]
        ballast.unlink()
        for _ in until():
            found = status(daemon)
            if not found["troubles"]:
                break
        assert not found["troubles"]
        assert all(child["restarts"] == 0 for child in found["children"].values())
        assert all(agent["state"] == "ready" for agent in found["agents"].values())
        events = daemon.events()
        hindered = [each for each in events if each["event"] == "agent.hindered"]
        assert 1 <= len([each for each in hindered if each["agent"] == "controller"]) <= 3
        assert not [each for each in events if "exception" in each]


@situation("canonical/lxd#7101", "Started on a full disk it waits for room, and then is ready.")
def test_a_start_on_a_full_disk(runtime: Path, echo_package: Path) -> None:
    with mounted(runtime / "state", "8m") as disk:
        (disk / "keys").mkdir(mode=0o700)
        ballast = filled(disk)
        daemon = Daemon(runtime, packages=echo_package, **CONTROLLED).start()
        try:
            for _ in until():
                assert daemon.process.poll() is None, daemon.output()
                try:
                    found = status(daemon)
                except Exception:  # not there yet
                    continue
                if "hindered" in str(found["detail"]):
                    break
            assert "scribe" in str(found["detail"])
            assert "backup" not in daemon.output()
            ballast.unlink()
            daemon.wait()
        finally:
            assert daemon.stop() == 0


@situation(
    "home-assistant/core#117263", "A database that another program holds is waited for, not lost."
)
def test_a_database_that_somebody_locks(runtime: Path, echo_package: Path) -> None:
    with running(runtime, packages=echo_package, **CONTROLLED) as daemon:
        daemon.stop()
        path = runtime / "state" / "sovl.db"
        with closing(sqlite3.connect(path, isolation_level=None)) as holder:
            holder.execute("PRAGMA locking_mode=EXCLUSIVE")
            holder.execute("BEGIN EXCLUSIVE")
            daemon.start()
            for _ in until():
                try:
                    found = status(daemon)
                except Exception:  # not there yet
                    continue
                if "locked" in str(found["detail"]):
                    break
            assert "scribe" in str(found["detail"])
        daemon.wait()
        assert b"backup" not in (runtime / "output").read_bytes()
