"""A real daemon over tcp: who has the keys is served, nobody else is."""

import asyncio
import socket
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest
import zmq

from bus.async_socket import AsyncSocket
from bus.auth import KeyRing
from bus.envelope import Envelope
from bus.messages import Command
from sovl_daemon.cli.daemon import EX_CONFIG
from sovl_daemon.client import (
    AsyncClient,
    Client,
    ClientError,
    DaemonDown,
    DaemonSlow,
    Target,
    WrongKey,
)
from sovl_daemon.testing import PATIENCE_S, Daemon, running
from tests.conftest import ECHO


def three_free_ports() -> int:
    """The first of three ports in a row."""
    for port in range(20_000, 60_000, 7):
        sockets = [socket.socket() for _ in range(3)]
        try:
            for offset, each in enumerate(sockets):
                each.bind(("127.0.0.1", port + offset))
        except OSError:
            continue
        finally:
            for each in sockets:
                each.close()
        return port
    raise AssertionError("no three free ports in a row")


class Remote:
    """A daemon that listens on tcp, and the keys of some clients."""

    def __init__(self, daemon: Daemon, address: str, keys: KeyRing, mine: KeyRing) -> None:
        self.daemon, self.address, self.keys, self.mine = daemon, address, keys, mine

    def target(self, name: str, *, address: str = "", server: Path | None = None) -> Target:
        secret = self.mine.directory / f"{name}.key_secret"
        if not secret.exists():
            self.mine.new(name)
        server = server or self.keys.directory / "server.key"
        return Target.remote(address or self.address, secret, server)

    def allow(self, name: str) -> Target:
        target = self.target(name)
        self.keys.allow(name, self.mine.directory / f"{name}.key")
        return target


@pytest.fixture(scope="module")
def remote(echo_package: Path) -> Iterator[Remote]:
    with tempfile.TemporaryDirectory(prefix="sovl") as directory:
        root = Path(directory)
        keys = KeyRing(root / "state" / "keys")
        keys.new("server")
        address = f"tcp://127.0.0.1:{three_free_ports()}"
        settings = {**ECHO, "bus.listen": address}
        with running(root, packages=echo_package, **settings) as daemon:
            yield Remote(daemon, address, keys, KeyRing(root / "mine"))


async def test_the_right_key_opens_everything(remote: Remote) -> None:
    async with AsyncClient(remote.allow("me")) as client, client.events("echo.") as events:
        await events.welcome(PATIENCE_S)
        assert (await client.control("ping"))["state"] == "ready"
        async with client.call("say", {"text": "hi", "times": 2}) as call:
            assert [step async for step in call] == [{"text": "hi"}] * 2
            assert (await call.result())["text"] == "hihi"
        with anyio.fail_after(PATIENCE_S):
            assert (await anext(aiter(events))).topic == "echo.heard"


def refused(target: Target, error: type[ClientError], words: str) -> None:
    with pytest.raises(error, match=words), Client(target):
        pass


def test_a_key_that_is_not_allowed_is_told_so_and_let_in_once_it_is(remote: Remote) -> None:
    refused(remote.target("stranger"), WrongKey, r"refused the keys; see: sovl keys allow")
    with Client(remote.allow("stranger")) as client:
        assert client.control("ping")["state"] == "ready"


def test_a_wrong_server_key_is_told(remote: Remote) -> None:
    remote.allow("me")
    other = remote.mine.directory / "other.key"
    if not other.exists():
        remote.mine.new("other")
    refused(remote.target("me", server=other), WrongKey, "refused the keys")


async def test_without_keys_nothing_is_heard_or_done(remote: Remote) -> None:
    with remote.daemon.client() as local:
        before = local.control("stats")["commands"]
        for port_offset, name in enumerate(("ping", "say")):
            address = remote.address[:-5] + str(int(remote.address[-5:]) + port_offset)
            plain = AsyncSocket(zmq.DEALER).connect(address)
            ask = Command(name=name, args={"text": "x"} if name == "say" else {})
            await plain.send(Envelope.of(ask).encode())
            with anyio.move_on_after(0.5):
                raise AssertionError(await plain.receive())
            plain.close()
        after = local.control("stats")["commands"]
    assert before.get("accepted") == after.get("accepted")


async def test_a_revoked_key_is_out_at_once(remote: Remote) -> None:
    target = remote.allow("guest")
    async with AsyncClient(target) as guest, guest.events("echo.") as events:
        await events.welcome(PATIENCE_S)
        assert (await guest.ask("say", text="in"))["text"] == "in"
        heard = aiter(events)
        with anyio.fail_after(PATIENCE_S):
            await anext(heard)

        remote.keys.revoke("guest")
        before = await accepted(remote)
        with pytest.raises(DaemonSlow), anyio.fail_after(PATIENCE_S):
            await guest.control("ping")
        with anyio.move_on_after(0.5):
            await guest.ask("say", text="out")
        assert await accepted(remote) == before

        await asyncio.sleep(1.2)  # the broker looks once a second
        async with remote.daemon.async_client() as local:
            await local.ask("say", text="a secret")
            cut = (await local.control("stats"))["bus"]["cut_off"]
        assert "its key was revoked" in {each["reason"] for each in cut}
        with anyio.move_on_after(1):
            raise AssertionError(await anext(heard))
    with pytest.raises(WrongKey):
        async with AsyncClient(target):
            pass


async def accepted(remote: Remote) -> int:
    async with remote.daemon.async_client() as local:
        return int((await local.control("stats"))["commands"].get("accepted", 0))


def test_a_key_that_replaces_another_of_the_same_name(remote: Remote) -> None:
    old = remote.allow("moving")
    remote.mine.new("newer")
    remote.keys.allow("moving", remote.mine.directory / "newer.key")
    refused(old, WrongKey, "refused the keys")
    with Client(remote.target("newer")) as client:
        assert client.control("ping")


def test_where_nobody_listens_the_daemon_is_down(remote: Remote) -> None:
    address = f"tcp://127.0.0.1:{three_free_ports()}"
    refused(remote.target("me", address=address), DaemonDown, "no SOVL daemon answers at")


def test_one_who_listens_in_silence_is_slow(remote: Remote) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        address = f"tcp://127.0.0.1:{silent.getsockname()[1]}"
        refused(remote.target("me", address=address), DaemonSlow, "said nothing for 1 s")


def test_tcp_without_keys_is_refused_at_start(runtime: Path, echo_package: Path) -> None:
    listen = f"tcp://127.0.0.1:{three_free_ports()}"
    daemon = Daemon(runtime, packages=echo_package, **ECHO, **{"bus.listen": listen}).start()
    assert daemon.process.wait(PATIENCE_S) == EX_CONFIG
    lines = daemon.output().splitlines()
    assert len(lines) == 1
    assert "bus.listen: tcp is served with keys only" in lines[0]
    assert "sovl keys new server" in lines[0]


def test_a_port_that_is_taken_is_told_in_one_line(runtime: Path, echo_package: Path) -> None:
    KeyRing(runtime / "state" / "keys").new("server")
    with socket.socket() as taken:
        port = three_free_ports()
        taken.bind(("127.0.0.1", port + 1))
        taken.listen()
        settings = {**ECHO, "bus.listen": f"tcp://127.0.0.1:{port}"}
        daemon = Daemon(runtime, packages=echo_package, **settings).start()
        assert daemon.process.wait(PATIENCE_S) != 0
    lines = daemon.output().splitlines()
    assert len(lines) == 1
    assert f"{port + 1}" in lines[0]


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_who_may_use_which_file(remote: Remote) -> None:
    run = remote.daemon.runtime_dir
    modes = {path.name: mode(path) for path in run.glob("*.ipc")}
    assert modes == {
        "control.ipc": 0o660,
        "commands.ipc": 0o660,
        "events.ipc": 0o660,
        "publish.ipc": 0o600,
        "agents.ipc": 0o600,
    }
    assert mode(remote.keys.directory) == 0o700
    assert mode(remote.keys.directory / "server.key_secret") == 0o600
    assert remote.keys.pair("server")[1].decode() not in remote.daemon.log_file.read_text()
