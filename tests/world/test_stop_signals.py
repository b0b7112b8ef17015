"""Signals that ask it to stop: whenever they come, it ends with a documented code."""

import signal
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import anyio
import psutil
import pytest

from agents.base import Agent
from bus.commands import AgentStats
from config import Paths, Settings
from sovl_daemon.testing import PATIENCE_S, Daemon, running, until
from tests.conftest import ECHO
from tests.starts import environment
from tests.world import situation


class SlowStats(AgentStats):
    made: int


class Slow(Agent):
    """Counts what its start makes, and is stopped before there is any."""

    name: ClassVar[str] = "slow"

    async def start(self) -> None:
        self.starting.set()
        await anyio.sleep_forever()

    def stats(self) -> SlowStats:
        return SlowStats(made=self.made)


SENT_DURING_IMPORT = """
import os, signal, sys
class Finder:
    def find_spec(self, name, path, target=None):
        if name == {module!r}:
            os.kill(os.getpid(), signal.{number})
sys.meta_path.insert(0, Finder())
from sovl_daemon.cli.entry import main
sys.argv = ["sovl", "run"]
main()
"""


@pytest.mark.parametrize(("number", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
@pytest.mark.parametrize("module", ["typer", "sovl_daemon.hub", "agents.scribe"])
@situation("own", "A start that is called off ends with the code of the signal and no words.")
def test_a_stop_before_there_is_a_daemon(
    tmp_path: Path, number: str, code: int, module: str
) -> None:
    script = SENT_DURING_IMPORT.format(number=number, module=module)
    command = [sys.executable, "-P", "-c", script]
    found = subprocess.run(command, env=environment(tmp_path), capture_output=True)
    assert (found.returncode, found.stderr) == (code, b"")


@situation("own", "An agent that is stopped while it starts ends without a fault.")
async def test_a_stop_during_the_start_of_an_agent(runtime: Path) -> None:
    settings = Settings.model_validate({"bus": {"runtime_dir": str(runtime)}})
    agent = Slow(settings, Paths.of(settings), "hub")
    agent.starting = anyio.Event()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(agent.serve)
        await agent.starting.wait()
        tasks.cancel_scope.cancel()
    assert agent.state == "stopped"


@situation("own", "Who presses Ctrl-C again and again while it stops harms nothing by that.")
def test_stop_signals_until_the_process_is_gone(echo_daemon: Daemon) -> None:
    for _ in until(60, pause=0.01):
        if echo_daemon.process.poll() is not None:
            break
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            echo_daemon.process.send_signal(number)
    assert echo_daemon.process.returncode == 0
    assert echo_daemon.events()[-1]["event"] == "hub.stopped"


@situation("own", "A worker that crashes while it is being stopped leaves a trace in the log.")
def test_a_crash_at_the_end_is_logged(runtime: Path, echo_package: Path) -> None:
    patient = {"supervision.dead_after_s": 60, "supervision.drain_s": 0}
    with running(runtime, packages=echo_package, **ECHO, **patient) as daemon:
        worker = daemon.worker()
        worker.suspend()
        assert any(worker.status() == psutil.STATUS_STOPPED for _ in until())
        daemon.process.send_signal(signal.SIGTERM)
        assert any(_is_told_to_stop(worker) for _ in until())
        worker.send_signal(signal.SIGSEGV)
        worker.resume()
        assert daemon.process.wait(PATIENCE_S) == 0
        ended = daemon.logged("child.ended_badly")
        assert (ended["child"], ended["why"]) == ("host", "killed by SIGSEGV")
        traces = [each["text"] for each in daemon.events() if each["event"] == "process.output"]
        assert "Fatal Python error: Segmentation fault" in traces


def _is_told_to_stop(process: psutil.Process) -> bool:
    status = Path(f"/proc/{process.pid}/status").read_text()
    pending = next(each for each in status.splitlines() if each.startswith("ShdPnd"))
    return bool(int(pending.split()[1], 16) & 1 << (signal.SIGTERM - 1))


@situation("own", "A worker that ends as it was told to is not reported.")
def test_an_ordinary_end_is_not_called_bad(echo_daemon: Daemon) -> None:
    assert echo_daemon.stop() == 0
    assert "child.ended_badly" not in echo_daemon.log_file.read_text()
