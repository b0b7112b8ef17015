"""Telling systemd how we are: one datagram, no library needed."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping

import structlog

log = structlog.get_logger(agent="hub")


class Notifier:
    """Speaks sd_notify(3) to $NOTIFY_SOCKET; silent where there is none.

    `watchdog_s` is the time within which systemd wants to hear from us, None if it does not.
    """

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        self._address = environ.get("NOTIFY_SOCKET", "")
        usec = environ.get("WATCHDOG_USEC", "")
        mine = environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        self.watchdog_s = int(usec) / 1e6 if usec.isdecimal() and int(usec) and mine else None

    def ready(self, status: str) -> None:
        """Say that the service is up."""
        self._send("READY=1", f"STATUS={status}")

    def status(self, text: str) -> None:
        """Say in words what it is about."""
        self._send(f"STATUS={text}")

    def reloading(self) -> None:
        """Announce a reload; `ready` ends it."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def extend(self, seconds: float) -> None:
        """Ask for so much time from now on, for a start or a stop that is under way."""
        self._send(f"EXTEND_TIMEOUT_USEC={int(seconds * 1e6)}")

    def stopping(self, extend_s: float) -> None:
        """Announce the end and ask for `extend_s` seconds for it."""
        self._send("STOPPING=1", f"EXTEND_TIMEOUT_USEC={int(extend_s * 1e6)}")

    def watchdog(self) -> None:
        """Pat the watchdog."""
        self._send("WATCHDOG=1")

    def _send(self, *lines: str) -> None:
        if not self._address:
            return
        abstract = self._address.startswith("@")
        address = "\0" + self._address[1:] if abstract else self._address
        data = "\n".join(line.replace("\n", " ") for line in lines).encode()
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.setblocking(False)  # a manager that does not listen must not stop the hub
                sender.sendto(data, address)
        except OSError as error:
            log.warning("notify.failed", address=self._address, reason=str(error))
