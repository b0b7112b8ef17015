"""The broker over real sockets: order, last values, welcome and gaps."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import anyio
import pytest
import zmq

from bus import broker as broker_module
from bus.async_socket import AsyncSocket
from bus.envelope import Envelope, decode
from bus.errors import BusError
from bus.messages import Subscribe, Welcome
from bus.publisher import Publisher
from bus.subscriber import Gap, Malformed, Subscriber, local_subscriber
from sovl_daemon.testing import PATIENCE_S
from tests.integration.bus_broker import (
    Bus,
    Step,
    has_come,
    hurry,
    none_more,
    raw,
    serving,
    take,
)


@pytest.fixture
async def bus(runtime: Path) -> AsyncIterator[Bus]:
    async with serving(runtime) as bus:
        yield bus


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch)


async def test_events_come_in_order_counted_by_topic(bus: Bus) -> None:
    async with bus.subscriber("run", "walk") as subscriber:
        await subscriber.welcome(PATIENCE_S)
        for number in range(3):
            bus.step(number)
            bus.step(number, topic="walk.slowly")
        found = await take(aiter(subscriber), 6)
    assert [(event.topic, event.seq) for event in found] == [
        (topic, seq) for seq in (1, 2, 3) for topic in ("run", "walk.slowly")
    ]
    assert [event.payload for event in found[::2]] == [Step(number=n) for n in range(3)]


async def test_a_publisher_elsewhere_is_heard(bus: Bus) -> None:
    publisher = Publisher(bus.publish, "me")
    async with bus.subscriber() as subscriber:
        await subscriber.welcome(PATIENCE_S)
        for number in range(500):  # what its queue holds: nobody reads meanwhile
            await publisher.publish("run", Step(number=number), correlation="c")
        found = await take(aiter(subscriber), 500)
    publisher.close()
    assert [event.payload.number for event in found] == list(range(500))  # type: ignore[attr-defined]
    assert {(event.source, event.correlation) for event in found} == {("me", "c")}


async def test_last_words_of_a_publisher_get_out(bus: Bus) -> None:
    async with bus.subscriber() as subscriber:
        await subscriber.welcome(PATIENCE_S)
        publisher = Publisher(bus.publish, "me")
        await publisher.publish("run", Step(number=1))
        publisher.close()
        assert (await take(aiter(subscriber), 1))[0].payload == Step(number=1)


async def test_who_comes_late_gets_the_last_values(bus: Bus) -> None:
    for number in range(5):
        bus.step(number, topic="run.kept", retain=True)
        bus.step(number, topic="run.fleeting")
    async with bus.subscriber() as subscriber:
        events = aiter(subscriber)
        (last,) = await take(events, 1)
        assert (last.topic, last.seq, last.payload) == ("run.kept", 5, Step(number=4))
        bus.step(5, topic="run.kept")
        assert (await take(events, 1))[0].seq == 6
        assert await none_more(events)
    assert bus.broker.last("run.kept") == Step(number=4)
    assert bus.broker.last("run.fleeting") is None
    assert bus.broker.last("never.heard.of") is None


async def test_the_welcome_comes_before_any_event(bus: Bus) -> None:
    bus.step(1, retain=True)
    port = await raw(bus, "run")
    bus.step(2)
    with anyio.fail_after(PATIENCE_S):
        first, second = [decode((await port.receive())[-1]) for _ in range(2)]
    port.close()
    assert first.payload == Welcome(epoch=bus.broker.epoch, seqs={"run": 2})
    assert (second.kind, second.seq) == ("test.step", 1)


async def test_a_topic_is_a_prefix_and_nothing_means_all(bus: Bus) -> None:
    async with bus.subscriber("") as all_of_them, bus.subscriber("run.") as some:
        for each in (all_of_them, some):
            await each.welcome(PATIENCE_S)
        for topic in ("run", "run.far", "runner", "walk"):
            bus.step(1, topic=topic)
        assert len(await take(aiter(all_of_them), 4)) == 4
        events = aiter(some)
        assert [event.topic for event in await take(events, 1)] == ["run.far"]
        assert await none_more(events)


async def test_asking_again_replaces_what_was_asked(bus: Bus) -> None:
    port = await raw(bus, "run")
    await port.send(Envelope.of(Subscribe(topics=("walk",))).encode())
    await has_come(lambda: [each.name for each in bus.broker.stats().subscribers] == [""])
    bus.step(1)
    bus.step(1, topic="walk")
    with anyio.fail_after(PATIENCE_S):
        kinds = [decode((await port.receive())[-1]) for _ in range(3)]
    port.close()
    assert [each.kind for each in kinds] == ["welcome", "welcome", "test.step"]
    assert kinds[2].topic == "walk"


async def test_who_has_asked_for_nothing_gets_nothing(bus: Bus) -> None:
    port = await raw(bus, "run")
    await has_come(lambda: len(bus.broker.stats().subscribers) == 1)
    await port.send(Envelope.of(Subscribe(topics=())).encode())
    await has_come(lambda: bus.broker.stats().subscribers == [])
    bus.step(1)
    await port.receive()  # the first welcome
    await asyncio.sleep(0.1)
    assert port.receive_nowait() is None
    port.close()


@pytest.mark.usefixtures("quick")
async def test_who_has_gone_is_forgotten(bus: Bus) -> None:
    for retained in range(3):
        bus.step(retained, topic=f"run.{retained}", retain=True)
    for _ in range(5):
        async with bus.subscriber("run", "walk"):
            await asyncio.sleep(0.02)
    await has_come(lambda: bus.broker.stats().subscribers == [])
    assert not any(topic.subscribers for topic in bus.broker._topics.values())


async def test_a_gap_is_an_event(runtime: Path) -> None:
    """Events are dropped for one who reads too slowly, and it is told how many."""
    async with serving(runtime, queue=10) as bus, bus.subscriber(queue=10) as subscriber:
        await subscriber.welcome(PATIENCE_S)
        for number in range(2000):  # no turn for the reader in between
            bus.step(number, text="x" * 1000)
        dropped = bus.broker.stats().dropped
        seen = missed = 0
        with anyio.fail_after(PATIENCE_S):
            async for event in subscriber:
                if isinstance(event.payload, Gap):
                    assert event.payload.missed is not None
                    missed += event.payload.missed
                    continue
                seen += 1
                assert event.seq == seen + missed
                if seen == 2000 - dropped:
                    bus.step(2000)  # now there is room again, and the last gap shows
                elif event.seq == 2001:
                    break
        assert missed == dropped > 0


async def test_a_gap_in_the_middle_shows_in_the_middle() -> None:
    subscriber = Subscriber(AsyncSocket(zmq.DEALER), ("run",))
    step = Envelope.of(Step(number=0))
    for seq in (1, 2, 5, 6):
        data = step.model_copy(update={"topic": "run", "seq": seq}).encode()
        subscriber._take(data)
    found = [event.payload if event.kind == "bus.gap" else event.seq for event in subscriber._ready]
    assert found == [1, 2, Gap(topic="run", missed=2), 5, 6]
    subscriber._port.close()


@pytest.mark.usefixtures("quick")
async def test_a_new_broker_is_noticed(runtime: Path) -> None:
    async with AsyncExitStack() as stack:
        async with serving(runtime) as bus:
            subscriber = await stack.enter_async_context(bus.subscriber())
            await subscriber.welcome(PATIENCE_S)
            bus.step(1)
            bus.step(2, retain=True)
            events = aiter(subscriber)
            await take(events, 2)
        async with serving(runtime) as bus:
            bus.step(7, retain=True)
            gap, last = await take(events, 2)
            bus.step(8)
            (after,) = await take(events, 1)
    assert gap.payload == Gap(topic="", missed=None)
    assert (last.seq, last.payload) == (1, Step(number=7))
    assert after.seq == 2


async def test_no_broker_no_welcome(runtime: Path) -> None:
    subscriber = local_subscriber(f"ipc://{runtime}/events", ("",), name="", queue=10)
    async with subscriber:
        with pytest.raises(BusError, match=r"no welcome from the event broker within 0\.1 s"):
            await subscriber.welcome(0.1)


async def test_there_is_a_limit_to_topics(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker_module, "MAX_TOPICS", 5)
    for number in range(9):
        bus.step(number, topic=f"run.{number}")
    bus.step(9, topic="run.0")
    stats = bus.broker.stats()
    assert (stats.topics, stats.published, stats.refused) == (5, 6, 4)


BAD_PUBLISHES = [
    [b""],
    [b"run"],
    [b"run - "],
    [b"run - {}"],
    [b'run - {"v":2,"kind":"x"}'],
    [b'RUN - {"v":1,"kind":"x"}'],
    [b'r\xff - {"v":1,"kind":"x"}'],
    [b" - {" + b'"v":1,"kind":"x"}'],
    [b"x" * 201 + b' - {"v":1,"kind":"x"}'],
    [b"run", b"", b'{"v":1,"kind":"x"}'],
    [b"run - ", b'{"v":1,"kind":"x"}'],
]


async def test_a_bad_publish_is_refused_and_counted(bus: Bus) -> None:
    rude = AsyncSocket(zmq.PUSH).connect(bus.publish)
    for parts in BAD_PUBLISHES:
        await rude.send(*parts)
    await has_come(lambda: bus.broker.stats().refused == len(BAD_PUBLISHES))
    assert bus.broker.stats().topics == 0
    rude.close()


async def test_an_event_that_is_no_json_is_told_to_who_follows_it(bus: Bus) -> None:
    rude = AsyncSocket(zmq.PUSH).connect(bus.publish)
    async with bus.subscriber() as subscriber:
        await subscriber.welcome(PATIENCE_S)
        await rude.send(b'run retain {"v":1,rubbish')
        await has_come(lambda: bus.broker.stats().published == 1)
        bus.step(1)
        bad, gap, good = await take(aiter(subscriber), 3)
    assert isinstance(bad.payload, Malformed)
    assert gap.payload == Gap(topic="run", missed=1)
    assert good.payload == Step(number=1)
    rude.close()


@pytest.mark.parametrize(
    "frames", [[b""], [b"{}"], [b"x"] * 9, [Envelope.of(Step(number=1)).encode()]]
)
async def test_a_bad_subscription_is_refused(bus: Bus, frames: list[bytes]) -> None:
    rude = AsyncSocket(zmq.DEALER).connect(bus.events)
    await rude.send(*frames)
    listener = bus.broker._listeners[0]
    await has_come(lambda: bus.broker.stats().refused + listener.refused == 1)
    assert bus.broker.stats().subscribers == []
    rude.close()


async def test_a_lost_last_event_shows_at_the_next_beat(runtime: Path) -> None:
    async with serving(runtime, queue=10) as bus:
        reader = bus.subscriber("run", queue=10)
        async with reader:
            await reader.welcome(PATIENCE_S)
            text = "x" * 50_000  # larger than what the kernel buffers
            for number in range(200):
                bus.step(number, text=text)
            assert bus.broker.stats().dropped > 0
            last = 0
            with anyio.fail_after(PATIENCE_S):
                async for event in reader:
                    if isinstance(event.payload, Gap):
                        last += event.payload.missed or 0
                    else:
                        last += 1
                    if last == 200:
                        break
