"""The steps of docs/remote.md, done as they stand with a real daemon and two homes."""

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from sovl_daemon.cli import exits
from sovl_daemon.client import Client, ClientError, DaemonDown, Target
from sovl_daemon.testing import PATIENCE_S, WITHOUT_MODEL, Daemon, until
from tests.conftest import ECHO
from tests.unit.test_docs import ROOT

SCP = """#!/bin/sh
place() { case "$1" in *:*) echo "$MACHINES/${1%%:*}/${1#*:}" ;; *) echo "$1" ;; esac; }
cp "$(place "$1")" "$(place "$2")"
"""


def free_ports() -> int:
    """The first of three ports in a row that nobody uses."""
    for _ in until(10, pause=0):
        with socket.socket() as first, socket.socket() as second, socket.socket() as third:
            first.bind(("127.0.0.1", 0))
            port: int = first.getsockname()[1]
            try:
                second.bind(("127.0.0.1", port + 1))
                third.bind(("127.0.0.1", port + 2))
            except (OSError, OverflowError):
                continue
            return port
    raise AssertionError("no three free ports in a row")


class Machines:
    """Two homes for what docs/remote.md does on two machines."""

    def __init__(self, root: Path, daemon: Daemon) -> None:
        self.root = root
        self.port = free_ports()
        tools = root / "bin"
        for directory in (tools, root / "mind.example", root / "laptop"):
            directory.mkdir()
        (tools / "scp").write_text(SCP)
        (tools / "scp").chmod(0o755)
        path = f"{tools}:{Path(sys.executable).parent}:{os.environ['PATH']}"
        plain = {k: v for k, v in os.environ.items() if not k.startswith(("SOVL_", "XDG_"))}
        self.laptop = {
            **plain,
            "PATH": path,
            "HOME": str(root / "laptop"),
            "MACHINES": str(root),
        }
        daemon.environment.pop("XDG_CONFIG_HOME")
        daemon.environment.pop("SOVL_STORE__STATE_DIR")
        home = {"HOME": str(root / "mind.example"), "PATH": path, "MACHINES": str(root)}
        kept = {k: v for k, v in daemon.environment.items() if not k.startswith("XDG_")}
        daemon.environment = self.daemon = {**kept, **home}

    def do(self, block: str, where: str) -> subprocess.CompletedProcess[str]:
        """Run a block of the document as it stands, but for the address."""
        address = re.compile(r"tcp://(0\.0\.0\.0|mind\.example):7070")
        environment = self.laptop if where == "laptop" else self.daemon
        return subprocess.run(
            ["bash", "-euc", address.sub(f"tcp://127.0.0.1:{self.port}", block)],
            env=environment,
            cwd=environment["HOME"],
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
        )


def test_the_steps_to_another_machine_work(runtime: Path, echo_package: Path) -> None:
    blocks = re.findall(
        r"```sh (daemon|laptop)( refused)?\n(.*?)```", (ROOT / "docs/remote.md").read_text(), re.S
    )
    assert len(blocks) == 9
    daemon = Daemon(runtime, packages=echo_package, **ECHO)
    machines = Machines(runtime, daemon)
    daemon.start().wait()
    keys = machines.root / "laptop/.local/state/sovl/keys"
    try:
        for where, refused, block in blocks:
            if "revoke" in block:
                check_revocation(machines, keys, block)
                continue
            done = machines.do(block, where)
            assert done.returncode == (exits.WRONG_KEY if refused else 0), done
            if refused:
                assert "refused the keys" in done.stderr
            if "sovl stop" in block:
                daemon.start().wait()
    finally:
        daemon.stop()


def check_revocation(machines: Machines, keys: Path, block: str) -> None:
    """An open connection is answered before the step, and not after it."""
    address = f"tcp://127.0.0.1:{machines.port}"
    with Client(Target.remote(address, keys / "laptop.key_secret", keys / "server.key")) as client:
        assert client.control("ping")["state"] == "ready"
        assert machines.do(block, "daemon").returncode == 0
        with pytest.raises(ClientError):
            client.control("ping")


def test_listening_without_a_key_is_refused(runtime: Path) -> None:
    settings = {
        **WITHOUT_MODEL,
        "bus.listen": f"tcp://127.0.0.1:{free_ports()}",
    }
    daemon = Daemon(runtime, **settings).start()
    assert daemon.process.wait(PATIENCE_S) == 78
    assert "sovl keys new server" in daemon.output()
    with pytest.raises(DaemonDown), daemon.client():
        pass
