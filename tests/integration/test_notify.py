"""What systemd hears from a real daemon, in which order, and how it reloads."""

import json
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import pytest

from sovl_daemon.testing import PATIENCE_S, Daemon, until
from tests.conftest import ECHO


class Manager:
    """Systemd's end of the notification socket."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self.heard: list[str] = []
        self.times: list[float] = []

    def listen(self, until_heard: Callable[[], bool], timeout: float = 30) -> None:
        """Take in what comes until there is enough of it."""
        end = time.monotonic() + timeout
        while not until_heard():
            self._listener.settimeout(max(0.01, end - time.monotonic()))
            for word in self._listener.recv(65_536).decode().splitlines():
                self.heard.append(word)
                self.times.append(time.monotonic())

    def when(self, word: str) -> list[float]:
        """Every time at which a word came."""
        return [t for heard, t in zip(self.heard, self.times, strict=True) if heard == word]

    def has(self, word: str) -> Callable[[], bool]:
        return lambda: word in self.heard


@contextmanager
def managed(
    runtime: Path, packages: Path, address: str, **environment: str
) -> Iterator[tuple[Manager, Daemon]]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(address.replace("@", "\0", 1) if address.startswith("@") else address)
        daemon = Daemon(runtime, packages=packages, **ECHO)
        daemon.environment |= {"NOTIFY_SOCKET": address, **environment}
        try:
            yield Manager(listener), daemon.start()
        finally:
            daemon.process.kill()
            daemon.process.wait()


def test_ready_comes_when_the_critical_agents_are_and_the_watchdog_is_patted(
    runtime: Path, echo_package: Path
) -> None:
    watchdog = {"WATCHDOG_USEC": "600000"}
    with managed(runtime, echo_package, f"@{runtime.name}", **watchdog) as (manager, daemon):
        manager.listen(manager.has("READY=1"))
        statuses = [word for word in manager.heard if word.startswith("STATUS=")]
        assert statuses[0].startswith("STATUS=starting: mind: ")
        assert statuses[-1] == "STATUS=ready"
        manager.listen(lambda: len(manager.when("WATCHDOG=1")) >= 6)
        pats = manager.when("WATCHDOG=1")
        between = sorted(b - a for a, b in pairwise(pats))
        assert 0.2 < between[len(between) // 2] < 0.6  # half the time that was given is 0.3 s
        daemon.process.send_signal(signal.SIGTERM)
        manager.listen(manager.has("STOPPING=1"))
        manager.listen(lambda: manager.heard[-1].startswith("STATUS=stopping"))
        assert "EXTEND_TIMEOUT_USEC=20000000" in manager.heard
        assert daemon.process.wait(PATIENCE_S) == 0


def test_not_ready_before_every_critical_agent_is(runtime: Path, echo_package: Path) -> None:
    """A broken store keeps the scribe from starting, so the daemon is never ready."""
    (runtime / "state").mkdir()
    (runtime / "state" / "sovl.db").write_text("not a database " * 1000)
    with managed(runtime, echo_package, str(runtime / "notify")) as (manager, daemon):
        assert daemon.process.wait(PATIENCE_S) != 0
        manager.listen(lambda: any(word.startswith("STATUS=") for word in manager.heard))
        with pytest.raises(TimeoutError):
            manager.listen(manager.has("READY=1"), timeout=0.2)


def test_a_reload_takes_a_good_file_and_refuses_a_bad_one(
    runtime: Path, echo_package: Path
) -> None:
    config = runtime / "sovl" / "config.json"
    config.parent.mkdir()
    config.write_text("{}")

    def reload(text: str) -> None:
        config.write_text(text)
        manager.heard.clear()
        manager.times.clear()
        daemon.process.send_signal(signal.SIGHUP)
        manager.listen(manager.has("READY=1"))
        assert manager.heard[0] == "RELOADING=1"
        assert manager.heard[1].startswith("MONOTONIC_USEC=")

    def level() -> str:
        with daemon.client() as client:
            return str(client.control("config", key="logging.level")["value"])

    with managed(runtime, echo_package, str(runtime / "notify")) as (manager, daemon):
        daemon.wait()
        manager.listen(manager.has("READY=1"))
        reload(json.dumps({"logging": {"level": "warning"}}))
        assert level() == "warning"
        for bad in ('{"logging": {"level": "loud"}}', "{", '{"loging": {}}', "[]", "\xff"):
            reload(bad)
            assert level() == "warning"
            for _ in until():
                faults = [e["fault"] for e in daemon.events() if e["event"] == "config.refused"]
                if faults:
                    break
            assert faults
        assert "loud" in str(faults)
        reload(json.dumps({"logging": {"level": "info"}}))
        assert level() == "info"
        assert daemon.stop() == 0
