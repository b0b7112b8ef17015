"""Commands through the router: whatever happens, each gets exactly one final answer."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bus import router as router_module
from bus.errors import (
    BAD_ARGUMENT,
    BAD_COMMAND,
    BAD_MESSAGE,
    BUSY,
    CANCELLED,
    DEADLINE,
    DUPLICATE,
)
from bus.messages import (
    Accepted,
    Command,
    Failure,
    Heartbeat,
    Progress,
    Register,
    Result,
    Subscribe,
)
from tests.integration.bus_router import Switch, switching


@pytest.fixture
async def switch(runtime: Path) -> AsyncIterator[Switch]:
    async with switching(runtime) as switch:
        yield switch


@pytest.fixture
def short_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(router_module, "CANCEL_GRACE_S", 0.3)


async def test_accepted_then_progress_then_result(switch: Switch) -> None:
    agent, client = await switch.agent(), switch.client()
    command = await client.ask(text="hi", times="3")
    envelope = await agent.hear()
    assert envelope.id == command
    assert envelope.payload == Command(name="say", args={"text": "hi", "times": "3"})
    for number in range(3):
        await agent.progress(command, number=number)
    await agent.result(command, text="done")
    assert await client.answers(command) == [
        Accepted(agent="echo"),
        *(Progress(data={"number": number}) for number in range(3)),
        Result(data={"text": "done"}),
    ]
    assert switch.counters["results"] == switch.counters["accepted"] == 1
    assert len(switch.pending) == 0


async def test_an_error_of_the_agent_is_final_too(switch: Switch) -> None:
    agent, client = await switch.agent(), switch.client()
    command = await client.ask()
    await agent.failure(await agent.taken(), "failed", "out of words")
    assert (await client.error(command)).message == "out of words"


async def test_a_second_final_answer_is_not_passed_on(switch: Switch) -> None:
    agent, client = await switch.agent(), switch.client()
    command = await client.ask()
    await agent.taken()
    await agent.result(command, n=1)
    await agent.result(command, n=2)
    await agent.progress(command, n=3)
    await agent.failure(command, "failed")
    assert await client.final(command) == Result(data={"n": 1})
    assert await client.hears_nothing()
    assert switch.counters["late_answers"] == 2


async def test_an_unknown_command_names_the_nearest(switch: Switch) -> None:
    client = switch.client()
    error = await client.error(await client.ask("sai", text="x"))
    assert error.code == BAD_COMMAND
    assert error.message == "sai: no such command, did you mean say?"
    assert error.detail["nearest"] == ["say"]


async def test_bad_arguments_are_all_named(switch: Switch) -> None:
    client = switch.client()
    error = await client.error(await client.ask(times=0, txt="x"))
    assert error.code == BAD_ARGUMENT
    assert [fault.split(":")[0] for fault in error.detail["faults"]] == ["text", "times", "txt"]


async def test_internal_commands_are_for_agents_alone(switch: Switch) -> None:
    agent, client, legs = await switch.agent(), switch.client(), await switch.agent("legs")
    error = await client.error(await client.ask("remember"))
    assert error.code == BAD_COMMAND
    assert "remember" not in error.detail["known"]
    command = await legs.say(Command(name="remember"))
    await agent.result(await agent.taken(), n=1)
    replies = [await legs.hear() for _ in range(2)]
    assert [reply.payload for reply in replies] == [Accepted(agent="echo"), Result(data={"n": 1})]
    assert {reply.correlation for reply in replies} == {command}


@pytest.mark.parametrize(
    "payload",
    [
        Register(agent="echo", process="host", pid=1),
        Heartbeat(agent="echo", state="ready"),
        Result(data={}),
        Progress(data={}),
        Failure(code="x", message="x"),
        Subscribe(topics=()),
    ],
)
async def test_a_client_cannot_pose_as_an_agent(switch: Switch, payload: object) -> None:
    client = switch.client()
    await client.say(payload)  # type: ignore[arg-type]
    reply = (await client.hear()).payload
    assert isinstance(reply, Failure)
    assert reply.code == BAD_MESSAGE
    assert "is not spoken on this socket" in reply.message
    assert switch.router.session("echo").address is None


async def test_an_agent_without_a_seat_is_refused(switch: Switch) -> None:
    stranger = await switch.agent("stranger", register=False)
    for say in (stranger.register, stranger.beat):
        await say()
        reply = (await stranger.hear()).payload
        assert isinstance(reply, Failure)
        assert "stranger" in reply.message
    assert set(switch.router.sessions) == {"echo", "legs"}


async def test_rubbish_is_answered_and_counted(switch: Switch) -> None:
    client = switch.client()
    for data in (b"", b"{}", b"\xff" * 100):
        await client.port.send(data)
        reply = await client.hear()
        assert isinstance(reply.payload, Failure)
        assert (reply.payload.code, reply.correlation) == (BAD_MESSAGE, None)
    await client.port.send(b"more", b"frames")
    await switch.until(lambda: switch.router.stats()["refused_frames"] == 1)
    assert switch.counters["bad_messages"] == 3


# Limits


async def test_an_agent_takes_only_so_much(runtime: Path) -> None:
    async with switching(runtime, per_agent=3, per_client=2) as switch:
        agent, mine, yours = await switch.agent(), switch.client(), switch.client()
        first = [await mine.ask() for _ in range(2)]
        for _ in first:
            await mine.hear()
        error = await mine.error(await mine.ask())
        assert (error.code, error.message) == (
            BUSY,
            "this client has 2 commands in flight, allowed 2; try again later",
        )
        await yours.ask()
        await yours.hear()
        error = await yours.error(await yours.ask())
        assert error.code == BUSY
        assert error.message.startswith("echo has 3 commands in flight, allowed 3")
        await agent.result(await agent.taken())
        assert isinstance(await mine.final(first[0]), Result)
        await mine.ask()
        assert (await mine.hear()).payload == Accepted(agent="echo")
        assert switch.counters["refused_busy"] == 2


async def test_the_same_id_twice_is_one_command(switch: Switch) -> None:
    agent, client, other = await switch.agent(), switch.client(), switch.client()
    command = await client.ask(id_="one")
    await client.ask(id_="one")
    assert (await other.error(await other.ask(id_="one"))).code == DUPLICATE
    await agent.result(await agent.taken())
    assert await client.answers(command) == [Accepted(agent="echo"), Result(data={})]
    assert await client.hears_nothing()
    assert await agent.hears_nothing(0.05)
    assert switch.counters["repeated"] == 1


# Cancelling


async def test_cancel_before_the_agent_has_it(switch: Switch) -> None:
    client = switch.client()
    command = await client.ask()
    await client.cancel(command)
    said = await client.answers(command)
    assert said[:2] == [Accepted(agent="echo"), Progress(data={"waiting": "echo is starting"})]
    assert isinstance(said[2], Failure)
    assert said[2].code == CANCELLED
    agent = await switch.agent()
    assert await agent.hears_nothing()


async def test_cancel_while_it_runs(switch: Switch) -> None:
    agent, client = await switch.agent(), switch.client()
    command = await client.ask()
    await agent.taken()
    await client.cancel(command)
    assert await agent.told_to_cancel() == command
    await agent.failure(command, CANCELLED)
    assert (await client.error(command)).code == CANCELLED


async def test_a_result_that_was_faster_than_the_cancel_counts(switch: Switch) -> None:
    agent, client = await switch.agent(), switch.client()
    command = await client.ask()
    await agent.taken()
    await client.cancel(command)
    await agent.result(command, n=1)
    assert await client.final(command) == Result(data={"n": 1})
    await client.cancel(command)
    assert await client.hears_nothing()


async def test_another_client_cannot_cancel(switch: Switch) -> None:
    agent, client, other = await switch.agent(), switch.client(), switch.client()
    command = await client.ask()
    await agent.taken()
    await other.cancel(command)
    await other.cancel("no such command")
    assert await agent.hears_nothing()
    await agent.result(command)
    assert isinstance(await client.final(command), Result)


@pytest.mark.usefixtures("short_grace")
async def test_an_agent_that_ignores_a_cancel_does_not_keep_the_client_waiting(
    switch: Switch,
) -> None:
    agent, client = await switch.agent(), switch.client()
    command = await client.ask()
    await agent.taken()
    for _ in range(5):  # asking again buys the agent no time
        await client.cancel(command)
        await asyncio.sleep(0.05)
    assert await agent.told_to_cancel() == command
    error = await client.error(command)
    assert (error.code, error.message) == (CANCELLED, "cancelled; its agent did not answer")
    await agent.result(command)
    assert await client.hears_nothing()
    assert await agent.hears_nothing(0.05)
    assert switch.counters["cancelled"] == 1


# Deadlines


async def test_the_deadline_of_a_command_that_waits(switch: Switch) -> None:
    client = switch.client()
    error = await client.error(await client.ask(deadline_s=0.05))
    assert error.code == DEADLINE
    assert error.message == "no answer before the deadline: echo is starting"


async def test_the_deadline_of_a_command_that_runs(switch: Switch) -> None:
    agent, client = await switch.agent(), switch.client()
    command = await client.ask(deadline_s=0.2)
    await agent.taken()
    await agent.progress(command)
    error = await client.error(command)
    assert (error.code, error.message) == (
        DEADLINE,
        "no answer before the deadline: it took too long",
    )
    assert await agent.told_to_cancel() == command
    await agent.failure(command, CANCELLED)
    assert await client.hears_nothing()


async def test_without_a_deadline_the_default_counts(runtime: Path) -> None:
    async with switching(runtime, deadline_s=0.05) as switch:
        client = switch.client()
        assert (await client.error(await client.ask())).code == DEADLINE
