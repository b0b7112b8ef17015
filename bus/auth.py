"""Who may speak: CURVE key pairs, the allow-list, and the listeners that ask for them.

Unix sockets are guarded by file permissions and need no keys; tcp always needs them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import zmq
import zmq.auth

from bus.async_socket import AsyncSocket
from sovl_daemon.durable import replacing

SERVER = "server"
DOMAIN = b"sovl"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


class KeyProblem(Exception):
    """A key that is missing, malformed, or already there."""


class KeyRing:
    """The key files of one directory (format: ZeroMQ certificates, secrets with mode 0600).

    `NAME.key` is public, `NAME.key_secret` is not; `allowed/NAME.key` lists who may connect.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.allowed_dir = directory / "allowed"

    def new(self, name: str) -> Path:
        """Make a key pair and return the path of its public half. Never overwrites."""
        path = self.directory / f"{_checked(name)}.key"
        if path.exists() or path.with_suffix(".key_secret").exists():
            raise KeyProblem(f"{path}: this key exists; remove it first or choose another name")
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        before = os.umask(0o077)
        try:
            zmq.auth.create_certificates(self.directory, name)
        finally:
            os.umask(before)
        return path

    def allow(self, name: str, public: Path | None = None) -> str:
        """Let the holder of a key in. `public` defaults to the NAME.key of this ring."""
        source = public or self.directory / f"{_checked(name)}.key"
        key = self.public(source)
        self.allowed_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        target = self.allowed_dir / f"{_checked(name)}.key"
        with replacing(target) as file:
            file.write(b'curve\n    public-key = "%b"\n' % key)
        return key.decode()

    def revoke(self, name: str) -> None:
        """Keep the holder out from now on, open connections included."""
        path = self.allowed_dir / f"{_checked(name)}.key"
        if not path.exists():
            raise KeyProblem(
                f"{name}: not in the allow-list; allowed: {self._listed() or 'nobody'}"
            )
        path.unlink()

    def allowed(self) -> dict[str, str]:
        """Public key (Z85) by name of everybody who may connect. Unreadable files count not."""
        keys = {}
        for path in sorted(self.allowed_dir.glob("*.key")):
            with suppress(KeyProblem):
                keys[path.stem] = self.public(path).decode()
        return keys

    def public(self, path: Path) -> bytes:
        """The public key in a file. Raises KeyProblem."""
        return _load(path)[0]

    def pair(self, name: str) -> tuple[bytes, bytes]:
        """Public and secret key of a pair. Raises KeyProblem."""
        path = self.directory / f"{_checked(name)}.key_secret"
        public, secret = _load(path)
        if secret is None:
            raise KeyProblem(f"{path}: holds no secret key")
        return public, secret

    def _listed(self) -> str:
        return ", ".join(path.stem for path in sorted(self.allowed_dir.glob("*.key")))


def _load(path: Path) -> tuple[bytes, bytes | None]:
    try:
        return zmq.auth.load_certificate(path)
    except (OSError, ValueError):
        raise KeyProblem(
            f"{path}: no readable key file; make one with: sovl keys new {path.stem}"
        ) from None


def _checked(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise KeyProblem(f"{name!r}: a key name is letters, digits, '_', '-' and '.' only")
    return name


class AllowList:
    """Who may connect by tcp, re-read whenever the directory changes."""

    def __init__(self, ring: KeyRing) -> None:
        self._ring = ring
        self._stamp: object = None
        self._keys: frozenset[str] = frozenset()

    def refresh(self) -> None:
        """Look again. Cheap: one listing unless something changed."""
        stamp = _listing(self._ring.allowed_dir)
        if stamp != self._stamp:
            self._stamp = stamp
            self._keys = frozenset(self._ring.allowed().values())

    def __contains__(self, public_key: str) -> bool:
        self.refresh()
        return public_key in self._keys

    def callback(self, domain: str, key: bytes) -> bool:
        """Answer pyzmq's authenticator."""
        return key.decode() in self


def _listing(directory: Path) -> frozenset[tuple[str, int, int]]:
    """What tells two states of a directory apart; its own time is too coarse for quick changes."""
    found = set()
    with suppress(FileNotFoundError), os.scandir(directory) as entries:
        for entry in entries:
            with suppress(FileNotFoundError):  # removed just now
                found.add((entry.name, entry.inode(), entry.stat().st_mtime_ns))
    return frozenset(found)


class Listener:
    """A ROUTER that clients dial: who sent what, and whether they (still) may."""

    def __init__(self, port: AsyncSocket, address: str, allowed: AllowList | None = None) -> None:
        self.port = port
        self.address = address
        self._allowed = allowed
        self.refused = 0

    def allows(self, user: str) -> bool:
        """Unix sockets have no users of their own: the file's permissions decide."""
        return self._allowed is None or user in self._allowed

    async def drain(self, handle: Callable[[bytes, bytes, str], None]) -> None:
        """Hand (route, data, user) of every message to `handle`, for ever."""

        def check(parts: list[bytes]) -> None:
            user = parts.pop(0).decode() if self.port.tells_users else ""
            if len(parts) != 2 or not self.allows(user):
                self.refused += 1
            else:
                handle(parts[0], parts[1], user)

        await self.port.drain(check)


def open_listener(
    address: str,
    *,
    queue: int,
    max_bytes: int,
    unheard: int = 0,
    mode: int = 0o660,
    keys: KeyRing | None = None,
) -> Listener:
    """Bind a listener. tcp needs `keys` with a server pair, else KeyProblem is raised.

    `queue`, `unheard` and `max_bytes` are those of its AsyncSocket.

    Raises BindProblem when somebody else listens there.
    """
    if not address.startswith("tcp://"):
        port = AsyncSocket(
            zmq.ROUTER, queue=queue, unheard=unheard, max_bytes=max_bytes, router_mandatory=1
        )
        return Listener(port.bind(address, mode=mode), address)
    if keys is None:
        raise KeyProblem(f"{address}: tcp is served with keys only")
    public, secret = keys.pair(SERVER)
    port = AsyncSocket(
        zmq.ROUTER,
        queue=queue,
        unheard=unheard,
        max_bytes=max_bytes,
        tells_users=True,
        router_mandatory=1,
        curve_server=1,
        curve_publickey=public,
        curve_secretkey=secret,
        zap_domain=DOMAIN,
    )
    return Listener(port.bind(address), address, AllowList(keys))


class Authenticator:
    """Answers ZeroMQ's question whether a key may connect. One a process, while tcp is served."""

    def __init__(self, keys: KeyRing) -> None:
        from zmq.auth.asyncio import AsyncioAuthenticator  # 8 MB that only tcp needs

        self._authenticator = AsyncioAuthenticator(zmq.Context.instance())
        self._allowed = AllowList(keys)

    def __enter__(self) -> Authenticator:
        self._authenticator.start()
        self._authenticator.configure_curve_callback(DOMAIN.decode(), self._allowed)
        return self

    def __exit__(self, *_: object) -> None:
        self._authenticator.stop()
