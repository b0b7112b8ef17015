"""One daemon under a directory of its own: started, waited for, asked, killed and stopped."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from pydantic import JsonValue

from sovl_daemon.client import AsyncClient, Client, ClientError, CommandError
from sovl_daemon.client.target import Target

SOVL = [sys.executable, "-P", "-m", "sovl_daemon.cli"]
"""The words of the `sovl` command."""

WITHOUT_MODEL: dict[str, Any] = {
    "agents.disabled": [
        *("generator", "dreamer", "trainer", "curiosity", "gestation"),
        *("judge", "controller"),
    ],
}
"""Settings of a daemon that loads no model, and so is ready in a second or two."""

PATIENCE_S = 120.0
"""How long is waited for what will come: longer than it takes beside programs that never rest."""


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
        self._process: subprocess.Popen[bytes] | None = None
        self.environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith("SOVL_")},
            "XDG_CONFIG_HOME": str(root),
            "SOVL_BUS__RUNTIME_DIR": str(self.runtime_dir),
            "SOVL_STORE__STATE_DIR": str(root / "state"),
            # It sleeps and dreams when a test says so.
            "SOVL_CONTROLS_CONFIG__ENABLE_GESTATION": "false",
            "SOVL_CONTROLS_CONFIG__ENABLE_DREAMING": "false",
        }
        if packages:  # before those that this process was told of
            told = (str(packages), os.environ.get("PYTHONPATH"))
            self.environment["PYTHONPATH"] = os.pathsep.join(filter(None, told))

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The hub. Raises RuntimeError before the first start."""
        if self._process is None:
            raise RuntimeError("the daemon was not started")
        return self._process

    @property
    def target(self) -> Target:
        """Where its sockets are."""
        return Target.local(self.runtime_dir)

    def start(self, *options: str) -> "Daemon":
        """Begin a start, with more options of `sovl run`; `wait` tells when it is done."""
        sets = [f"--set={key}={json.dumps(value)}" for key, value in self.settings.items()]
        with (self.root / "output").open("ab") as output:
            self._process = subprocess.Popen(
                [*self.wrapper, *SOVL, "run", *sets, *options],
                env=self.environment,
                stdout=output,
                stderr=output,
            )
        return self

    def sovl(
        self, *words: str, text: str | None = None, timeout: float = PATIENCE_S
    ) -> subprocess.CompletedProcess[str]:
        """Run the `sovl` command against this daemon."""
        return subprocess.run(
            [*SOVL, *words],
            env=self.environment,
            input=text,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def client(self) -> Client:
        """A client of this daemon."""
        return Client(self.target)

    def async_client(self) -> AsyncClient:
        """A client of this daemon, for asyncio."""
        return AsyncClient(self.target)

    def wait(self, state: str = "ready", timeout: float = PATIENCE_S) -> "Daemon":
        """The daemon itself, once the hub and every agent are in `state`.

        Raises:
            AssertionError: it ended, or the time was up.

        """
        seen = "nothing"
        for _ in until(timeout):
            if (code := self.process.poll()) is not None:
                raise AssertionError(f"it ended with {code}\n{self.output()}")
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
        """The end of what it wrote to its terminal."""
        return (self.root / "output").read_text(errors="replace")[-5000:]

    def events(self) -> list[dict[str, JsonValue]]:
        """The log so far."""
        return [json.loads(line) for line in self.log_file.read_text().splitlines()]

    def logged(
        self, event: str, count: int = 1, timeout: float = PATIENCE_S
    ) -> dict[str, JsonValue]:
        """The last of the events of that name, once there are `count`.

        Raises:
            AssertionError: the time was up.

        """
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
        """Kill -9 the hub."""
        self.process.kill()
        self.process.wait(PATIENCE_S)

    def stop(self) -> int:
        """The exit code after a SIGTERM."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE_S)


def until(timeout: float = PATIENCE_S, pause: float = 0.05) -> Iterator[None]:
    """Turns of a loop, with pauses between them, until the time is up."""
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
) -> Iterator[Daemon]:
    """A daemon that is ready, is stopped at the end and leaves no process behind.

    `wait` names another state to wait for; `packages` is a folder with installed agents.
    """
    daemon = Daemon(root, packages=packages, wrapper=wrapper, **settings).start(*options)
    try:
        daemon.wait(wait)
        yield daemon
    finally:
        alive_yet = daemon.process.poll() is None
        children = psutil.Process(daemon.process.pid).children() if alive_yet else []
        try:
            daemon.stop()
        finally:
            daemon.process.kill()
            _, alive = psutil.wait_procs(children, PATIENCE_S)
            for each in alive:
                each.kill()
            if alive:
                raise AssertionError("workers outlived the hub")
