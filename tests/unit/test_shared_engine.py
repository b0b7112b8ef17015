"""Who waits for a model host's engine gets it once it is ready, and never one that is gone."""

from typing import Any

import anyio

from agents.shared_engine import SharedEngine
from sovl_daemon.testing import PATIENCE_S


async def test_neighbours_wait_until_it_is_loaded_and_until_it_is_fused() -> None:
    shared, engine = SharedEngine(), Engine()
    got: list[str] = []

    async def wait(kind: str) -> None:
        assert await getattr(shared, kind)() is engine
        got.append(kind)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait, "fused")
        tasks.start_soon(wait, "loaded")
        await anyio.wait_all_tasks_blocked()
        assert got == []
        shared.set_loaded(engine)
        await anyio.wait_all_tasks_blocked()
        assert got == ["loaded"]
        shared.set_fused()
    assert got == ["loaded", "fused"]


async def test_who_waits_across_a_restart_gets_the_next_one() -> None:
    shared, engine = SharedEngine(), Engine()
    got: list[Any] = []

    async def wait() -> None:
        got.append(await shared.fused())

    with anyio.fail_after(PATIENCE_S):
        async with anyio.create_task_group() as tasks:
            shared.set_loaded(Engine())
            tasks.start_soon(wait)
            await anyio.wait_all_tasks_blocked()
            shared.withdraw()
            assert shared.stalled_for() == 0
            shared.set_loaded(engine)
            await anyio.wait_all_tasks_blocked()
            assert got == []
            shared.set_fused()
    assert got == [engine]
    assert shared.stalled_for() == 7


class Engine:
    """Stands for one, in a step that lasts."""

    def stalled_for(self) -> float:
        return 7
