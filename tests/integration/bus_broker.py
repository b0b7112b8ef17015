"""A broker in this process, for the tests of the bus."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio
import pytest
import zmq

from bus import broker as broker_module
from bus import subscriber as subscriber_module
from bus.async_socket import AsyncSocket
from bus.auth import Listener, open_listener
from bus.broker import Broker
from bus.envelope import Envelope, Payload
from bus.messages import Subscribe
from bus.subscriber import Subscriber, local_subscriber
from sovl_daemon.testing import PATIENCE_S


class Step(Payload, kind="test.step"):
    number: int
    last: bool = False
    text: str = ""


@dataclass
class Bus:
    """A broker that runs, and its addresses."""

    broker: Broker
    publish: str
    events: str

    def step(
        self, number: int, *, topic: str = "run", retain: bool = False, text: str = ""
    ) -> None:
        self.broker.publish(topic, Step(number=number, text=text), retain=retain)

    def subscriber(self, *topics: str, name: str = "test", queue: int = 1000) -> Subscriber:
        return local_subscriber(self.events, topics or ("run",), name=name, queue=queue)


@asynccontextmanager
async def serving(
    runtime: Path, *, queue: int = 1000, stall_s: float = 5.0, listener: Listener | None = None
) -> AsyncIterator[Bus]:
    bus = Bus(None, f"ipc://{runtime}/publish", f"ipc://{runtime}/events")  # type: ignore[arg-type]
    publish = AsyncSocket(zmq.PULL, queue=10_000).bind(bus.publish)
    listener = listener or open_listener(bus.events, queue=queue, max_bytes=1 << 20)
    bus.broker = Broker(publish, [listener], stall_s=stall_s)
    running = asyncio.create_task(bus.broker.run())
    try:
        yield bus
    finally:
        running.cancel()
        await asyncio.wait([running])
        publish.close()
        listener.port.close()
    assert running.cancelled(), running.exception()


def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let brokers beat often, and subscribers soon notice when they do not."""
    monkeypatch.setattr(broker_module, "BEAT_S", 0.1)
    monkeypatch.setattr(subscriber_module, "SILENCE_S", 0.5)


async def take(events: AsyncIterator[Envelope], count: int) -> list[Envelope]:
    with anyio.fail_after(PATIENCE_S):
        return [await anext(events) for _ in range(count)]


async def none_more(events: AsyncIterator[Envelope], seconds: float = 0.2) -> bool:
    with anyio.move_on_after(seconds):
        await anext(events)
        return False
    return True


async def raw(bus: Bus, *topics: str, name: str = "raw", queue: int = 1000) -> AsyncSocket:
    """A subscriber of which every message is seen, or none."""
    port = AsyncSocket(zmq.DEALER, queue=queue).connect(bus.events)
    await port.send(Envelope.of(Subscribe(topics=topics, name=name)).encode())
    return port


async def has_come(condition: Callable[[], bool]) -> None:
    with anyio.fail_after(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.01)
