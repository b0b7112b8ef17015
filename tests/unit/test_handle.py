"""A native handle is used by one thread at a time, and closed after its last user."""

import asyncio
import sqlite3
import threading
import time

import anyio.to_thread
import pytest

from sovl_daemon.handle import Handle, HandleClosed


class Thing:
    """Notices when two touch it at once, or somebody after its end."""

    def __init__(self) -> None:
        self.busy = self.closed = False
        self.uses = 0
        self.entered = threading.Event()

    def touch(self, seconds: float = 0.01) -> int:
        assert not self.busy
        assert not self.closed
        self.busy = True
        self.entered.set()
        time.sleep(seconds)
        self.busy = False
        self.uses += 1
        return self.uses

    def close(self) -> None:
        assert not self.busy
        assert not self.closed
        self.closed = True


async def test_one_user_at_a_time_each_with_its_own_result() -> None:
    thing = Thing()
    handle, found = Handle(thing), []

    async def use() -> None:
        found.append(await handle.use(thing.touch, 0.002))

    async with anyio.create_task_group() as tasks:
        for _ in range(20):
            tasks.start_soon(use)
    assert sorted(found) == list(range(1, 21))
    await handle.close()


async def test_closing_waits_for_its_last_user_and_those_after_it_are_told() -> None:
    thing = Thing()
    handle = Handle(thing)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(handle.use, thing.touch, 0.2)
        await anyio.to_thread.run_sync(thing.entered.wait)
        await handle.close()
        assert thing.uses == 1
    with pytest.raises(HandleClosed, match="Thing is closed"):
        await handle.use(thing.touch)
    await handle.close()  # once is enough


async def test_a_cancelled_owner_closes_all_the_same() -> None:
    thing = Thing()
    handle = Handle(thing)
    with anyio.CancelScope() as scope:
        scope.cancel()
        await handle.close()
    assert thing.closed


async def test_who_is_cancelled_while_waiting_does_nothing() -> None:
    thing = Thing()
    handle = Handle(thing)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(handle.use, thing.touch, 0.2)
        await anyio.to_thread.run_sync(thing.entered.wait)
        with anyio.move_on_after(0.02):
            await handle.use(thing.touch)
    await handle.close()
    assert thing.uses == 1


async def test_a_task_that_was_torn_from_its_thread_does_not_let_the_closer_in() -> None:
    """As asyncio does at the end of a loop: its cancelling passes every shield."""
    thing = Thing()
    handle = Handle(thing)
    task = asyncio.ensure_future(handle.use(thing.touch, 0.3))
    await anyio.to_thread.run_sync(thing.entered.wait)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert thing.busy
    await handle.close()
    assert (thing.busy, thing.uses) == (False, 1)


async def test_an_error_leaves_it_open() -> None:
    database = sqlite3.connect(":memory:", check_same_thread=False)
    handle = Handle(database)
    with pytest.raises(sqlite3.OperationalError):
        await handle.use(database.execute, "SELEC")
    rows = await handle.use(lambda: database.execute("SELECT 1").fetchall())
    assert rows == [(1,)]
    await handle.close()
