"""The control socket: answers at once, whatever the command socket is busy with."""

import asyncio
from collections import Counter
from pathlib import Path

import anyio
import orjson
import pytest
import zmq
from structlog.testing import capture_logs

from bus.async_socket import AsyncSocket
from bus.auth import open_listener
from bus.commands import CommandSpec, CommandTable, Done, Reply, Request
from bus.envelope import Envelope
from bus.errors import BAD_ARGUMENT, BAD_COMMAND, BAD_MESSAGE, INTERNAL
from bus.messages import Cancel, Command, Failure, Result
from bus.responder import Responder
from sovl_daemon.client import CommandError
from sovl_daemon.testing import PATIENCE_S, Daemon
from tests.integration.bus_router import Client

FLOOD = 10_000


class Sum(Reply):
    sum: int


class Add(Request[Sum], command="add"):
    a: int
    b: int = 1


class Fall(Request[Done], command="fall"):
    pass


class Desk:
    """What stands behind the socket in these tests."""

    async def add(self, request: Add) -> Sum:
        return Sum(sum=request.a + request.b)

    async def fall(self, request: Fall) -> Done:
        raise OSError("disk full")


TABLE = CommandTable(
    [
        CommandSpec("add", "hub", "Add.", Add, "add"),
        CommandSpec("fall", "hub", "Fall.", Fall, "fall"),
    ]
)


async def test_each_question_gets_one_answer(runtime: Path) -> None:
    address = f"ipc://{runtime}/control"
    listener = open_listener(address, queue=100, max_bytes=1 << 20)
    responder = Responder([listener], TABLE, Desk())
    serving = asyncio.create_task(responder.run())
    client = Client(address)

    async def asked(name: str, **args: object) -> Result | Failure:
        command = await client.ask(name, **args)
        answer = await client.hear()
        assert answer.correlation == command
        assert isinstance(answer.payload, Result | Failure)
        return answer.payload

    try:
        assert await asked("add", a="2") == Result(data={"sum": 3})
        for code, question in (
            (BAD_ARGUMENT, asked("add", b="x")),
            (BAD_COMMAND, asked("ad", a=1)),
        ):
            answer = await question
            assert isinstance(answer, Failure)
            assert answer.code == code
        with capture_logs() as lines:
            answer = await asked("fall")
        assert answer == Failure(code=INTERNAL, message="OSError: disk full")
        assert [line["event"] for line in lines] == ["control.failed"]
        for rubbish in (b"", b"{}", Envelope.of(Cancel()).encode()):
            await client.port.send(rubbish)
            answer_ = (await client.hear()).payload
            assert isinstance(answer_, Failure)
            assert answer_.code == BAD_MESSAGE
        assert await asked("add", a=1) == Result(data={"sum": 2})
        assert responder.counters["bad_messages"] == 3
    finally:
        serving.cancel()
        await asyncio.wait([serving])
        listener.port.close()
        client.port.close()


async def flood(port: AsyncSocket) -> None:
    for number in range(FLOOD):
        ask = Command(name="say", args={"text": str(number)})
        await port.send(Envelope.of(ask, message_id=str(number)).encode())


async def test_it_answers_while_the_command_socket_is_flooded(daemon: Daemon) -> None:
    """And every one of the commands gets its one final answer, most of them `busy`."""
    port = AsyncSocket(zmq.DEALER, queue=100_000).connect(daemon.target.endpoints.commands)
    finals: Counter[str] = Counter()
    kinds: Counter[str] = Counter()
    pings = 0
    try:
        async with daemon.async_client() as client, anyio.create_task_group() as tasks:
            tasks.start_soon(flood, port)
            with anyio.fail_after(PATIENCE_S):
                while sum(finals.values()) < FLOOD:
                    assert (await client.control("ping", timeout_s=PATIENCE_S))["state"] == "ready"
                    pings += 1
                    while message := port.receive_nowait():
                        reply = orjson.loads(message[-1])
                        if reply["kind"] in ("result", "error"):
                            finals[reply["correlation"]] += 1
                            kinds[reply["payload"].get("code", "result")] += 1
    finally:
        port.close()
    assert pings > 1
    assert set(finals.values()) == {1}
    assert set(kinds) == {"result", "busy"}


def test_a_setting_that_cannot_be_kept_does_not_end_the_daemon(daemon: Daemon) -> None:
    """The file cannot be written where a folder stands in its place."""
    (daemon.root / "sovl").mkdir(exist_ok=True)
    place = daemon.root / "sovl" / "config.json"
    place.mkdir()
    try:
        with daemon.client() as client:
            with pytest.raises(CommandError):
                client.control("config_set", key="logging.level", value="debug")
            assert client.control("config", key="logging.level")["value"] == "info"
            assert client.control("ping")["state"] == "ready"
    finally:
        place.rmdir()
