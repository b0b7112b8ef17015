"""Which daemon a client talks to, what it says of one that does not answer, and its weight."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bus.auth import KeyRing
from bus.endpoints import Endpoints
from sovl_daemon.client import DaemonDown, PermissionRefused, Target, WrongKey

WEIGH = """
import sys, time
began = time.perf_counter()
import sovl_daemon.client
print(time.perf_counter() - began)
print(*sorted({name.partition(".")[0] for name in sys.modules}))
"""


def test_importing_it_loads_no_tensors() -> None:
    ran = subprocess.run([sys.executable, "-c", WEIGH], capture_output=True, text=True, check=True)
    seconds, modules = ran.stdout.splitlines()
    print(f"import of sovl_daemon.client: {float(seconds):.3f} s")
    assert not {"torch", "transformers", "numpy", "agents"} & set(modules.split())
    assert "zmq" in modules


def test_a_runtime_directory_is_named_by_a_path(tmp_path: Path) -> None:
    target = Target.find({"SOVL_CONNECT": str(tmp_path)})
    assert target.endpoints.control == f"ipc://{tmp_path}/control.ipc"
    assert target.options == {}


def test_without_a_word_it_is_the_daemon_of_the_configuration(tmp_path: Path) -> None:
    target = Target.find({"SOVL_BUS__RUNTIME_DIR": str(tmp_path)})
    assert target.endpoints == Endpoints.local(tmp_path)


def test_three_ports_in_a_row() -> None:
    found = Endpoints.tcp("tcp://[::1]:7000")
    assert (found.control, found.commands, found.events) == (
        "tcp://[::1]:7000",
        "tcp://[::1]:7001",
        "tcp://[::1]:7002",
    )


def test_tcp_needs_both_keys(tmp_path: Path) -> None:
    address = {"SOVL_CONNECT": "tcp://host:7000"}
    with pytest.raises(WrongKey, match="set SOVL_KEY and SOVL_SERVER_KEY to key files"):
        Target.find(address)
    with pytest.raises(WrongKey, match="set SOVL_SERVER_KEY to key files"):
        Target.find(address | {"SOVL_KEY": "/some/where"})
    nowhere = {"SOVL_KEY": str(tmp_path / "a.key_secret"), "SOVL_SERVER_KEY": str(tmp_path / "b")}
    with pytest.raises(WrongKey, match="no readable key file"):
        Target.find(address | nowhere)


def test_keys_are_read_from_their_files(tmp_path: Path) -> None:
    mine, theirs = KeyRing(tmp_path / "mine"), KeyRing(tmp_path / "theirs")
    secret = mine.new("me").with_suffix(".key_secret")
    server = theirs.new("server")
    target = Target.find(
        {
            "SOVL_CONNECT": "tcp://host:7000",
            "SOVL_KEY": str(secret),
            "SOVL_SERVER_KEY": str(server),
        }
    )
    public, private = mine.pair("me")
    assert target.options == {
        "curve_publickey": public,
        "curve_secretkey": private,
        "curve_serverkey": theirs.public(server),
    }


def test_where_no_socket_is_the_daemon_is_down(tmp_path: Path) -> None:
    with pytest.raises(DaemonDown, match=r"no SOVL daemon runs in .*; start it with: sovl run"):
        Target.local(tmp_path).check()


def test_a_socket_that_is_not_for_us_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "control.ipc").touch()
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may do everything
    with pytest.raises(PermissionRefused, match="ask to join the socket's group"):
        Target.local(tmp_path).check()
