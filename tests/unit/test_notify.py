"""sd_notify: what systemd hears, over a real datagram socket."""

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from sovl_daemon.notify import Notifier


@pytest.fixture(params=["path", "path with @", "abstract"])
def manager(request: pytest.FixtureRequest, runtime: Path) -> Iterator[tuple[socket.socket, str]]:
    """Systemd's end of the socket, and the address it gives to services."""
    address = {
        "path": str(runtime / "notify"),
        "path with @": str(runtime / "user@1000"),
        "abstract": f"@{runtime.name}/notify",
    }[request.param]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(address.replace("@", "\0", 1) if address.startswith("@") else address)
        listener.settimeout(5)
        yield listener, address


def heard(listener: socket.socket) -> list[str]:
    return listener.recv(4096).decode().split("\n")


def test_every_word_arrives(manager: tuple[socket.socket, str]) -> None:
    listener, address = manager
    notifier = Notifier({"NOTIFY_SOCKET": address})
    notifier.ready("ready")
    assert heard(listener) == ["READY=1", "STATUS=ready"]
    notifier.status("loading the model")
    assert heard(listener) == ["STATUS=loading the model"]
    notifier.watchdog()
    assert heard(listener) == ["WATCHDOG=1"]
    notifier.stopping(2.5)
    assert heard(listener) == ["STOPPING=1", "EXTEND_TIMEOUT_USEC=2500000"]
    before = time.monotonic_ns() // 1000
    notifier.reloading()
    word, when = heard(listener)
    assert word == "RELOADING=1"
    assert before <= int(when.removeprefix("MONOTONIC_USEC=")) <= time.monotonic_ns() // 1000


def test_a_status_of_two_lines_is_one_word(manager: tuple[socket.socket, str]) -> None:
    listener, address = manager
    Notifier({"NOTIFY_SOCKET": address}).status("broken\nREADY=1")
    assert heard(listener) == ["STATUS=broken READY=1"]


def test_without_a_manager_it_is_silent() -> None:
    with capture_logs() as lines:
        Notifier({}).ready("ready")
    assert lines == []


def test_a_manager_that_has_gone_does_not_stop_us(runtime: Path) -> None:
    with capture_logs() as lines:
        Notifier({"NOTIFY_SOCKET": str(runtime / "nobody")}).ready("ready")
    assert [line["event"] for line in lines] == ["notify.failed"]


def test_a_manager_that_does_not_read_does_not_hold_us_up(runtime: Path) -> None:
    address = str(runtime / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener, capture_logs() as lines:
        listener.bind(address)
        for _ in range(10_000):
            Notifier({"NOTIFY_SOCKET": address}).watchdog()
            if lines:
                break
    assert [line["event"] for line in lines] == ["notify.failed"]


@pytest.mark.parametrize(
    ("environ", "seconds"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_the_watchdog_is_for_the_process_it_names(
    environ: dict[str, str], seconds: float | None
) -> None:
    assert Notifier(environ).watchdog_s == seconds
