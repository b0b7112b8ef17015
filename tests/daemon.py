"""A real daemon in processes of its own, for tests that talk to it as a user would."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from sovl_daemon.client import AsyncClient, Client, ClientError, CommandError
from sovl_daemon.client.target import Target

SOVL = [sys.executable, "-P", "-m", "sovl_daemon.cli"]


class Daemon:
    """One hub with its workers under a directory of its own. Settings are dotted keys.

    `wrapper` are the words of a command that is to start it.
    """

    def __init__(
        self,
        root: Path,
        *,
        packages: Path | str | None = None,
        wrapper: Sequence[str] = (),
        **settings: object,
    ) -> None:
        self.root = root
        self.wrapper = wrapper
        self.runtime_dir = root / "run"
        self.log_file = root / "state" / "log.jsonl"
        self.settings = settings
        self.process: subprocess.Popen[bytes] | None = None
        self.environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith("SOVL_")},
            "XDG_CONFIG_HOME": str(root),
            "SOVL_BUS__RUNTIME_DIR": str(self.runtime_dir),
            "SOVL_STORE__STATE_DIR": str(root / "state"),
            # It sleeps and dreams when a test says so.
            "SOVL_CONTROLS_CONFIG__ENABLE_GESTATION": "false",
            "SOVL_CONTROLS_CONFIG__ENABLE_DREAMING": "false",
            **({"PYTHONPATH": _search_path(packages)} if packages else {}),
        }

    @property
    def target(self) -> Target:
        return Target.local(self.runtime_dir)

    def start(self, *options: str) -> "Daemon":
        sets = [f"--set={key}={json.dumps(value)}" for key, value in self.settings.items()]
        output = (self.root / "output").open("ab")
        self.process = subprocess.Popen(
            [*self.wrapper, *SOVL, "run", *sets, *options],
            env=self.environment,
            stdout=output,
            stderr=output,
        )
        return self

    def sovl(
        self, *words: str, text: str | None = None, timeout: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """Run the `sovl` command against this daemon."""
        return subprocess.run(
            [*SOVL, *words],
            env=self.environment,
            input=text,
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    def client(self) -> Client:
        return Client(self.target)

    def async_client(self) -> AsyncClient:
        return AsyncClient(self.target)

    def wait(self, state: str = "ready", timeout: float = 60.0) -> "Daemon":
        """Wait until the hub and every agent are in `state`."""
        seen = "nothing"
        for _ in until(timeout):
            assert self.process is not None
            assert self.process.poll() is None, self.output()
            try:
                with self.client() as client:
                    answer = client.control("status")
                agents = {name: agent["state"] for name, agent in answer["agents"].items()}
                seen = f"{answer['state']} {agents}"
                if answer["state"] == state and set(agents.values()) == {state}:
                    return self
            except (ClientError, CommandError) as error:
                seen = str(error)
        raise AssertionError(f"not {state} within {timeout} s but: {seen}\n{self.output()}")

    def output(self) -> str:
        return (self.root / "output").read_text(errors="replace")[-5000:]

    def events(self) -> list[dict[str, Any]]:
        """The log so far."""
        return [json.loads(line) for line in self.log_file.read_text().splitlines()]

    def logged(self, event: str, count: int = 1, timeout: float = 60.0) -> dict[str, Any]:
        """Wait until an event was logged that often, and return the last one."""
        for _ in until(timeout):
            found = [each for each in self.events() if each["event"] == event]
            if len(found) >= count:
                return found[-1]
        raise AssertionError(f"{event} was never logged {count} times\n{self.output()}")

    def worker(self, name: str = "host") -> psutil.Process:
        """A worker process."""
        with self.client() as client:
            agents = client.control("status")["agents"]
        pids = {agent["process"]: agent["pid"] for agent in agents.values()}
        return psutil.Process(pids[name])

    def kill(self) -> None:
        """kill -9 the hub."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(10)

    def stop(self) -> int:
        """SIGTERM, and the exit code."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)


def _search_path(packages: Path | str) -> str:
    """Their folder, before those that this process was told of."""
    return os.pathsep.join(filter(None, (str(packages), os.environ.get("PYTHONPATH"))))


def until(timeout: float, pause: float = 0.05):
    """Iterate, with pauses, until the time is up."""
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        yield
        time.sleep(pause)


@contextmanager
def running(
    root: Path,
    *options: str,
    wait: str = "ready",
    packages: Path | str | None = None,
    wrapper: Sequence[str] = (),
    **settings: object,
):
    """A daemon that is stopped at the end and leaves no process behind."""
    daemon = Daemon(root, packages=packages, wrapper=wrapper, **settings).start(*options)
    try:
        daemon.wait(wait)
        yield daemon
    finally:
        assert daemon.process is not None
        children = (
            psutil.Process(daemon.process.pid).children() if daemon.process.poll() is None else []
        )
        try:
            daemon.stop()
        finally:
            daemon.process.kill()
            _, alive = psutil.wait_procs(children, 5)
            for each in alive:
                each.kill()
            assert not alive, "workers outlived the hub"
