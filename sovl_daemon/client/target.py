"""Which daemon to talk to, and with which keys."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bus.auth import KeyProblem, KeyRing
from bus.endpoints import Endpoints
from sovl_daemon.client.errors import DaemonDown, PermissionRefused, WrongKey
from sovl_daemon.own_time import OwnTime


@dataclass(frozen=True)
class Target:
    """A daemon. `options` are the CURVE socket options, empty for unix sockets."""

    endpoints: Endpoints
    options: dict[str, Any]
    title: str

    @classmethod
    def local(cls, runtime_dir: Path) -> Target:
        """The daemon with this runtime directory."""
        return cls(Endpoints.local(runtime_dir), {}, str(runtime_dir))

    @classmethod
    def remote(cls, address: str, key: Path, server_key: Path) -> Target:
        """The daemon at tcp://HOST:PORT, with our secret key and the daemon's public one."""
        try:
            ring = KeyRing(key.parent)
            public, secret = ring.pair(key.name.removesuffix(".key_secret"))
            server = ring.public(server_key)
        except KeyProblem as error:
            raise WrongKey(str(error)) from None
        options = {
            "curve_publickey": public,
            "curve_secretkey": secret,
            "curve_serverkey": server,
        }
        return cls(Endpoints.tcp(address), options, address)

    @classmethod
    def find(cls, environ: Mapping[str, str] = os.environ) -> Target:
        """The daemon that $SOVL_CONNECT names, else the one of this user's configuration.

        A tcp address needs $SOVL_KEY (our .key_secret file) and $SOVL_SERVER_KEY (its .key file).
        A path is a runtime directory.
        """
        address = environ.get("SOVL_CONNECT", "")
        if not address:
            return cls.local(_runtime_dir(environ))
        if not address.startswith("tcp://"):
            return cls.local(Path(address))
        missing = [name for name in ("SOVL_KEY", "SOVL_SERVER_KEY") if not environ.get(name)]
        if missing:
            raise WrongKey(f"{address}: set {' and '.join(missing)} to key files (sovl keys new)")
        return cls.remote(address, Path(environ["SOVL_KEY"]), Path(environ["SOVL_SERVER_KEY"]))

    def own_time(self) -> OwnTime:
        """A clock to wait for it by: on a busy machine nobody is slow for want of a core."""
        pids = {os.getpid(), *self._server_pid()}
        return OwnTime(lambda: pids)

    def _server_pid(self) -> Iterator[int]:
        """The process that listens there, where that can be told: it may be elsewhere, or gone."""
        if self.options:
            return
        with suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
            probe.setblocking(False)
            probe.connect(self.endpoints.control.removeprefix("ipc://"))
            told = probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
            yield int.from_bytes(told[:4], sys.byteorder)

    def check(self) -> None:
        """Raise what can be told at once, without waiting for a connection."""
        if self.options:
            return
        path = Path(self.endpoints.control.removeprefix("ipc://"))
        try:
            found = path.exists()
        except PermissionError:
            found = False
        if not found:
            raise DaemonDown(f"no SOVL daemon runs in {self.title}; start it with: sovl run")
        if not os.access(path, os.W_OK):
            raise PermissionRefused(f"{path}: permission denied; ask to join the socket's group")


def _runtime_dir(environ: Mapping[str, str]) -> Path:
    from config import Paths, load  # only needed here, and not light

    return Paths.of(load(environ=environ), environ).runtime_dir
