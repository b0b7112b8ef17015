"""A shared native handle is closed while a thread still uses it: the process dies of it."""

import asyncio
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing, suppress
from pathlib import Path
from typing import ClassVar

import anyio.lowlevel
import anyio.to_thread
import pytest

from agents.base import Agent
from config import Paths, Settings
from sovl_daemon.client import ClientError
from sovl_daemon.control.decision import Decision
from sovl_daemon.control.decision_log import DecisionLog
from sovl_daemon.control.executor import Executor
from sovl_daemon.control.journal import Journal
from sovl_daemon.handle import Handle, HandleClosed
from sovl_daemon.testing import PATIENCE_S, Daemon, running, until
from tests.conftest import ECHO
from tests.world import situation

WITHOUT_MODEL = {
    "agents.disabled": ["generator", "dreamer", "trainer", "curiosity", "gestation", "judge"]
}
THREADS_AT_THE_END = """
import atexit, os, sys
def tell():
    print(*(open(f"/proc/self/task/{each}/comm").read() for each in os.listdir("/proc/self/task")),
          sep="", end="", file=sys.stderr)
atexit.register(tell)
sys.argv = ["sovl", *sys.argv[1:]]
from sovl_daemon.cli.entry import main
main()
"""


class Keeper(Agent):
    """Has something that an event is still busy with when it is told to stop."""

    name: ClassVar[str] = "keeper"

    async def start(self) -> None:
        self.seen = list[str]()
        self.busy = threading.Event()

    async def _follow(self) -> None:
        await anyio.to_thread.run_sync(self.use)

    def use(self) -> None:
        self.busy.set()
        time.sleep(0.3)
        self.seen.append("used")

    async def stop(self) -> None:
        self.seen.append("closed")


@situation("own", "An agent that is stopped while it works closes its files when the work is over.")
async def test_an_agent_stops_after_all_that_it_does(runtime: Path) -> None:
    settings = Settings.model_validate({"bus": {"runtime_dir": str(runtime)}})
    keeper = Keeper(settings, Paths.of(settings), "hub")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(keeper.serve)
        while not hasattr(keeper, "busy"):
            await anyio.sleep(0.01)
        await anyio.to_thread.run_sync(keeper.busy.wait)
        tasks.cancel_scope.cancel()
    assert keeper.seen == ["used", "closed"]


@pytest.mark.long
@pytest.mark.timeout(900)
@situation("own", "A start that fails says why and exits with its code, 60 times of 60.")
def test_an_empty_mind_file_ends_every_start_in_the_same_way(runtime: Path) -> None:
    codes = []
    for number in range(60):
        root = runtime / str(number)
        (root / "state").mkdir(parents=True)
        (root / "state" / "mind.json").touch()
        daemon = Daemon(root, **WITHOUT_MODEL).start()
        codes.append(daemon.process.wait(PATIENCE_S))
        assert "mind.json" in daemon.output()
    assert codes == [78] * 60


@situation(
    "python/cpython#146471", "A database that many threads share is used by one of them at a time."
)
async def test_a_store_that_is_closed_in_the_middle_of_many_decisions(tmp_path: Path) -> None:
    log = DecisionLog(tmp_path / "decisions.db")
    handle, told = Handle(log), []

    async def tell() -> None:
        while True:
            try:
                told.append(await handle.use(log.add, Decision(0.0, "memory", "hold", "why")))
            except HandleClosed:
                return

    async with anyio.create_task_group() as tasks:
        for _ in range(8):
            tasks.start_soon(tell)
        await anyio.sleep(0.2)
        await handle.close()
    with closing(sqlite3.connect(tmp_path / "decisions.db")) as database:
        kept = database.execute("SELECT count(*) FROM decisions").fetchone()[0]
    assert kept == len(told) > 0


@situation("own", "The journal of actions is closed only after what is being written is on disk.")
async def test_a_journal_is_closed_after_its_last_user(tmp_path: Path) -> None:
    executor = Executor(Journal(tmp_path / "actions.db"), [])
    asking = [asyncio.ensure_future(executor.history(10)) for _ in range(20)]
    await anyio.lowlevel.checkpoint()
    await executor.close()
    found = await asyncio.gather(*asking, return_exceptions=True)
    assert all(each == [] or isinstance(each, HandleClosed) for each in found)


@situation("zeromq/pyzmq#137", "A command that has given its answer leaves no thread to trip over.")
def test_no_thread_of_the_command_outlives_its_work(echo_daemon: Daemon) -> None:
    for words in (["status"], ["call", "say", "hello"]):
        done = subprocess.run(
            [sys.executable, "-P", "-c", THREADS_AT_THE_END, *words],
            env=echo_daemon.environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0
        assert [each for each in done.stderr.splitlines() if "ZMQ" in each] == []


@situation("zeromq/pyzmq#1003", "A program without anybody to talk to does not hang at its end.")
def test_a_daemon_that_hears_nobody_is_given_up_within_seconds(runtime: Path) -> None:
    with running(runtime, **WITHOUT_MODEL) as daemon:
        daemon.process.send_signal(signal.SIGSTOP)
        try:
            assert daemon.sovl("status").returncode == 6
        finally:
            daemon.process.send_signal(signal.SIGCONT)


@situation(
    "dask/distributed#7617",
    "A worker whose hub goes, however it goes, ends by itself and not by a fault of its own.",
)
def test_a_worker_ends_with_its_hub_at_any_moment(runtime: Path, echo_package: Path) -> None:
    for _ in range(2):
        daemon = Daemon(runtime, packages=echo_package, **ECHO)
        daemon.environment["PYTHONFAULTHANDLER"] = "1"
        daemon.start()
        for _ in until():
            with suppress(ClientError), daemon.client() as client:
                client.control("ping")
                break
        time.sleep(random.uniform(0, 1))
        assert daemon.stop() == 0
        assert "Fatal Python error" not in daemon.output()
        assert "killed by" not in daemon.log_file.read_text()
