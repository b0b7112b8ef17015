"""What agents send is never larger than a message may be."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from bus.async_socket import AsyncSocket
from bus.envelope import Envelope, decode
from bus.errors import TOO_LARGE, BadMessage, CommandError
from bus.link import AgentLink
from bus.messages import Failure, Heartbeat, Progress, Result
from bus.publisher import Publisher
from bus.size import Oversize
from bus.topics import Question
from sovl_daemon.testing import PATIENCE_S

LIMIT = 10_000
LARGE = "x" * LIMIT


@pytest.fixture
def hub(runtime: Path) -> Iterator[AsyncSocket]:
    port = AsyncSocket(zmq.ROUTER).bind(f"ipc://{runtime}/agents")
    yield port
    port.close()


@pytest.fixture
def link(hub: AsyncSocket, runtime: Path) -> Iterator[AgentLink]:
    link = AgentLink(f"ipc://{runtime}/agents", "echo", "host", max_bytes=LIMIT)
    yield link
    link.close()


async def heard(hub: AsyncSocket) -> Any:
    return decode((await asyncio.wait_for(hub.receive(), PATIENCE_S))[-1]).payload


async def test_an_answer_too_large_is_an_error_of_its_command(
    hub: AsyncSocket, link: AgentLink
) -> None:
    link.answer(Result(data={"text": LARGE}), "say", "c1")
    found = await heard(hub)
    assert isinstance(found, Failure)
    assert found.code == TOO_LARGE
    assert found.message.startswith(f"say: the answer has {found.detail['bytes']} bytes")
    link.answer(Failure(code="odd", message="no", detail={"why": LARGE}), "say", "c1")
    assert (await heard(hub)).code == TOO_LARGE


async def test_a_heartbeat_comes_without_what_is_too_large(
    hub: AsyncSocket, link: AgentLink
) -> None:
    link.beat(Heartbeat(agent="echo", state="ready", detail="d" * LIMIT, stats={"names": LARGE}))
    found = await heard(hub)
    assert isinstance(found, Heartbeat)
    assert (found.state, found.stats["too_large"]["allowed"]) == ("ready", LIMIT)


async def test_a_step_too_large_is_refused(link: AgentLink) -> None:
    with pytest.raises(CommandError, match="a step on the way has"):
        link.send(Progress(data={"text": LARGE}), "c1")


async def test_an_ask_too_large_is_refused(link: AgentLink) -> None:
    with pytest.raises(CommandError, match="has 1"):
        await link.caller.ask("record", prompt=LARGE)


async def test_an_event_too_large_is_refused(runtime: Path) -> None:
    publisher = Publisher(f"ipc://{runtime}/publish", "echo", max_bytes=LIMIT)
    with pytest.raises(CommandError, match=r"an event of question has \d+ bytes"):
        await publisher.publish("question", Question(text=LARGE, reason="reply"))
    publisher.close()


@pytest.mark.parametrize(
    ("head", "asked"),
    [
        (b'{"v":1,"kind":"command","id":"c1","payload":{"id":"no"', "c1"),
        (b'{"id" : "c1"', "c1"),
        (b'{"payload":{"id":"no"', None),
        (b"\xff\xff", None),
        (b'{"id":"' + b"i" * 200, None),
    ],
)
def test_the_id_of_what_nobody_reads(head: bytes, asked: str | None) -> None:
    message = Oversize.of(memoryview(head + b" " * 5000), 100)
    with pytest.raises(BadMessage, match=r"has \d+ bytes, at most 100 are read") as caught:
        decode(message)
    assert caught.value.asked == asked


def test_much_json_is_read_whole() -> None:
    data = Envelope.of(Progress(data={"lists": [[]] * 100_000})).encode()
    found = decode(data).payload
    assert isinstance(found, Progress)
    assert len(found.data["lists"]) == 100_000
