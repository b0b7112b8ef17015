"""What the system refuses an agent is said once, tried again, and said when it is over."""

import errno
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any, ClassVar

import anyio
import anyio.lowlevel
import pytest

from agents import hindrance
from agents.base import Agent, Job
from agents.hindrance import Hindrance
from bus.commands import Done, Request, command
from bus.errors import UNAVAILABLE, CommandError
from bus.messages import Command, Failure
from config import Paths, Settings
from sovl_daemon.control.journal import Journal
from sovl_daemon.database import UnusableDatabase
from sovl_daemon.memory.interactions import InteractionStore
from sovl_daemon.models.errors import FetchError, NoSpace, SourceUnreachable

FULL = OSError(errno.ENOSPC, "No space left on device", "/a/file")


class Said:
    """An agent as far as its hindrance knows it, with all that it said."""

    def __init__(self) -> None:
        self.log, self.said = self, []

    def warning(self, event: str, **fields: str) -> None:
        self.said.append((event, fields["reason"]))

    def info(self, event: str, **fields: str) -> None:
        self.said.append((event, fields["condition"]))

    async def say(self, detail: str) -> None:
        self.said.append(("detail", detail))


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hindrance, "_FIRST_PAUSE_S", 0.001)


async def test_it_is_said_once_and_once_that_it_is_over() -> None:
    agent: Any = Said()
    tries = iter([FULL, FULL, FULL])

    async def work() -> str:
        if error := next(tries, None):
            raise error
        return "done"

    assert await Hindrance(agent).outlast(work) == "done"
    assert agent.said == [
        ("agent.hindered", "/a/file: No space left on device"),
        ("detail", "hindered: /a/file: No space left on device; it is tried again"),
        ("agent.unhindered", "no space left"),
        ("detail", ""),
    ]


async def test_what_does_not_pass_is_raised() -> None:
    agent: Any = Said()
    with pytest.raises(ValueError, match="broken"):
        async with Hindrance(agent).met():
            raise ValueError("broken")
    with pytest.raises(CommandError):
        async with Hindrance(agent).met():
            raise CommandError("internal", "a fault")
    async with Hindrance(agent).met():
        raise CommandError(UNAVAILABLE, "another agent cannot now")
    assert agent.said[0] == ("agent.hindered", "another agent cannot now")


class Work(Request[Done], command="work"):
    """Nothing but that."""


class Frail(Agent):
    """Cannot do what it is asked for."""

    name: ClassVar[str] = "frail"

    @command(Work)
    async def work(self, request: Work, job: Job) -> Done:
        """Do it."""
        raise OSError(errno.EROFS, "Read-only file system")

    async def say(self, detail: str) -> None:
        """Nobody listens here."""
        self.detail = detail


async def test_a_command_that_meets_one_is_unavailable(tmp_path: Path) -> None:
    settings = Settings()
    paths = Paths.of(settings, {"HOME": str(tmp_path), "XDG_RUNTIME_DIR": "/run/x"})
    agent = Frail(settings, paths, "hub")
    job: Any = type("J", (), {"id": "1"})()
    answer = await agent._answer(job, Command(name="work", args={}), anyio.CancelScope())
    assert isinstance(answer, Failure)
    assert (answer.code, answer.message) == (UNAVAILABLE, "frail: Read-only file system")
    assert agent.detail.startswith("hindered")


@pytest.mark.parametrize("kind", [InteractionStore, Journal])
def test_only_damage_asks_for_a_backup(tmp_path: Path, kind: Any) -> None:
    (tmp_path / "damaged.db").write_bytes(b"nonsense " * 1000)
    with pytest.raises(UnusableDatabase, match=r"backup|move the file away"):
        kind(tmp_path / "damaged.db")
    (tmp_path / "folder.db").mkdir()
    with pytest.raises(UnusableDatabase) as found:
        kind(tmp_path / "folder.db")
    assert str(found.value) == f"{tmp_path}/folder.db: Is a directory"


def test_what_tries_to_write_finds_a_lock(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    with closing(InteractionStore(path)) as store:
        store.try_to_write()
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            store._db.execute("PRAGMA busy_timeout=0")
            with pytest.raises(sqlite3.OperationalError, match="locked"):
                store.try_to_write()
        store.try_to_write()


async def test_what_is_outlasted_is_not_over_because_something_can_be_written() -> None:
    agent: Any = Said()
    agent.try_to_write = anyio.lowlevel.checkpoint
    found = Hindrance(agent)
    tries = iter([FULL] * 8)

    async def work() -> None:
        if error := next(tries, None):
            raise error

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(found.watch)
        await found.outlast(work)
        tasks.cancel_scope.cancel()
    assert [event for event, _ in agent.said].count("agent.hindered") == 1


async def test_a_model_that_cannot_be_fetched_now_is_tried_again() -> None:
    agent: Any = Said()
    tries = iter([SourceUnreachable("the hub cannot be reached"), NoSpace("too little")])

    async def work() -> str:
        if error := next(tries, None):
            raise error
        return "there"

    assert await Hindrance(agent).outlast(work) == "there"
    with pytest.raises(FetchError):
        async with Hindrance(agent).met():
            raise FetchError("the hub has no such model")
