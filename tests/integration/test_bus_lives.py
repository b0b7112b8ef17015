"""What becomes of commands when agents or clients come and go."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bus import router as router_module
from bus.errors import (
    AGENT_FAILED,
    AGENT_LOST,
    BUSY,
    STOPPING,
)
from bus.messages import (
    Accepted,
    Failure,
    Pause,
    Progress,
    Result,
)
from tests.integration.bus_router import Switch, switching


@pytest.fixture
async def switch(runtime: Path) -> AsyncIterator[Switch]:
    async with switching(runtime) as switch:
        yield switch


async def test_commands_wait_for_their_agent_in_order(switch: Switch) -> None:
    client = switch.client()
    asked = [await client.ask() for _ in range(5)]
    for _ in range(2 * len(asked)):
        await client.hear()
    agent = await switch.agent()
    assert [await agent.taken() for _ in asked] == asked


async def test_what_a_lost_agent_had_fails_and_what_waits_waits_on(switch: Switch) -> None:
    agent, client = await switch.agent(), switch.client()
    running = await client.ask()
    await agent.taken()
    switch.router.agent_lost("echo", "killed by SIGKILL")
    error = await client.error(running)
    assert (error.code, error.message) == (
        AGENT_LOST,
        "echo was lost: killed by SIGKILL; ask again",
    )
    waiting = await client.ask()
    assert [(await client.hear()).payload for _ in range(2)] == [
        Accepted(agent="echo"),
        Progress(data={"waiting": "echo is lost"}),
    ]
    successor = await switch.agent()
    assert await successor.taken() == waiting


async def test_words_of_the_one_before_are_ignored(switch: Switch) -> None:
    old, client = await switch.agent(), switch.client()
    first = await client.ask()
    await old.taken()
    new = await switch.agent(register=False)
    await new.register()
    error = await client.error(first)
    assert (error.code, error.message) == (
        AGENT_LOST,
        "echo was lost: it was started anew; ask again",
    )
    second = await client.ask()
    assert await new.taken() == second
    await old.beat("stopping", detail="an echo of the past")
    await old.result(first)
    await old.progress(second)
    await old.result(second, by="old")
    await new.beat("ready", detail="new")
    await switch.until(lambda: switch.router.session("echo").detail == "new")
    await new.result(second, by="new")
    assert await client.answers(second) == [Accepted(agent="echo"), Result(data={"by": "new"})]
    assert switch.router.session("echo").state == "ready"


async def test_an_agent_that_starts_anew_is_the_end_of_the_one_before(switch: Switch) -> None:
    old, client = await switch.agent(), switch.client()
    first = await client.ask()
    await old.taken()
    new = await switch.agent(register=False)
    await new.beat("starting")
    assert (await client.error(first)).code == AGENT_LOST
    second = await client.ask()
    assert await old.hears_nothing()
    await new.register()
    assert await new.taken() == second


async def test_an_agent_whose_connection_closed_is_lost(switch: Switch) -> None:
    agent, client, other = await switch.agent(), switch.client(), switch.client()
    running = await client.ask()
    await agent.taken()
    agent.port.close()
    await asyncio.sleep(0.1)
    await other.ask()  # finds out
    error = await client.error(running)
    assert (error.code, switch.router.session("echo").detail) == (
        AGENT_LOST,
        "its connection closed",
    )


async def test_a_failed_agent_refuses_everything(switch: Switch) -> None:
    client = switch.client()
    waiting = await client.ask()
    await switch.until(lambda: len(switch.pending) == 1)
    switch.router.agent_failed("echo", "no such model")
    for command in (waiting, await client.ask()):
        error = await client.error(command)
        assert (error.code, error.message) == (AGENT_FAILED, "echo has failed: no such model")
    await switch.agent()
    await client.ask()
    assert (await client.hear()).payload == Accepted(agent="echo")


async def test_pause_holds_back_and_resume_lets_go(switch: Switch) -> None:
    agent, client = await switch.agent(), switch.client()
    running = await client.ask()
    await agent.taken()
    switch.router.pause("echo", True)
    assert (await agent.hear()).payload == Pause(paused=True)
    await agent.result(running)
    assert isinstance(await client.final(running), Result)
    waiting = await client.ask()
    await client.hear()
    assert (await client.hear()).payload == Progress(data={"waiting": "echo is paused"})
    assert await agent.hears_nothing()
    switch.router.pause("echo", False)
    assert (await agent.hear()).payload == Pause(paused=False)
    assert await agent.taken() == waiting


async def test_stopping_refuses_what_is_new_and_ends_what_runs(switch: Switch) -> None:
    agent, client = await switch.agent(), switch.client()
    running = await client.ask()
    await agent.taken()
    switch.router.refuse_new()
    assert (await client.hear()).payload == Accepted(agent="echo")
    assert (await client.error(await client.ask())).code == STOPPING
    switch.router.fail_all("the daemon is stopping")
    assert (await client.error(running)).code == STOPPING
    assert switch.router.in_flight() == 0


# The life of clients


async def test_the_work_of_a_client_that_vanished_is_stopped(switch: Switch) -> None:
    agent, client, other = await switch.agent(), switch.client(), switch.client()
    gone = [await client.ask() for _ in range(3)]
    kept = await other.ask()
    for _ in range(4):
        await agent.taken()
    client.port.close()
    await asyncio.sleep(0.1)
    await agent.progress(gone[0])
    assert [await agent.told_to_cancel() for _ in gone] == gone
    await agent.result(gone[0])
    await agent.result(kept)
    assert isinstance(await other.final(kept), Result)
    assert switch.counters["abandoned"] == 3
    assert len(switch.pending) == 0


async def test_what_is_kept_for_who_does_not_read_is_bounded_in_bytes(
    runtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(router_module, "MAX_UNSENT_BYTES", 500)
    async with switching(runtime, queue=20) as switch:
        agent, client = await switch.agent(), switch.client(queue=20)
        asked = [await client.ask() for _ in range(3)]
        for _ in asked:
            await agent.taken()
        for _ in range(200):
            await agent.progress(asked[0], text="x" * 10_000)
        assert {await agent.told_to_cancel() for _ in asked} == set(asked)
        assert switch.counters["undeliverable"] == 2


async def test_a_client_that_does_not_read_still_gets_its_final_answers(runtime: Path) -> None:
    async with switching(runtime, queue=20) as switch:
        agent, client, other = await switch.agent(), switch.client(queue=20), switch.client()
        asked = [await client.ask() for _ in range(3)]
        for _ in asked:
            await agent.taken()
        for _ in range(200):
            await agent.progress(asked[0], text="x" * 10_000)
        assert {await agent.told_to_cancel() for _ in asked} == set(asked)
        assert len(switch.pending) == 0
        await agent.result(asked[1])
        finals = {}
        while len(finals) < len(asked):
            said = await client.hear()
            if isinstance(said.payload, Failure | Result):
                assert said.correlation not in finals
                finals[said.correlation] = said.payload
        assert set(finals) == set(asked)
        assert {each.code for each in finals.values()} == {BUSY}  # type: ignore[union-attr]
        command = await other.ask()
        await agent.result(await agent.taken())
        assert isinstance(await other.final(command), Result)
        again = await client.ask()
        await agent.result(await agent.taken())
        assert isinstance(await client.final(again), Result)
