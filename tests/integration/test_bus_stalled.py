"""Subscribers by the thousand, and those who do not read."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest
import zmq

from bus import broker as broker_module
from bus.async_socket import AsyncSocket
from bus.auth import Listener
from bus.envelope import Envelope
from bus.publisher import Publisher
from bus.subscriber import Gap, Subscriber
from bus.topics import SubscriberCut
from sovl_daemon.testing import PATIENCE_S
from tests.integration import bus_broker_peers as peers
from tests.integration.bus_broker import (
    Bus,
    Step,
    has_come,
    hurry,
    raw,
    serving,
    take,
)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch)


async def publish_until_cut(bus: Bus) -> int:
    """Publish in small bursts until somebody is cut off; how many events that took."""
    count = 0
    with anyio.fail_after(PATIENCE_S):
        while not bus.broker.stats().cut_off:
            for _ in range(20):
                count += 1
                bus.step(count, text="x" * 5000)
            await asyncio.sleep(0.005)
    return count


@pytest.mark.usefixtures("quick")
async def test_who_never_reads_is_cut_off_and_nobody_else_suffers(runtime: Path) -> None:
    async with (
        serving(runtime, queue=100, stall_s=0.3) as bus,
        bus.subscriber("run", "bus.", name="good") as good,
        bus.subscriber(name="stalled", queue=100) as stalled,
    ):
        await good.welcome(PATIENCE_S)
        await stalled.welcome(PATIENCE_S)
        seen: list[Envelope] = []

        async def read() -> None:
            async for event in good:
                seen.append(event)  # noqa: PERF401 - looked at meanwhile

        reading = asyncio.create_task(read())
        count = await publish_until_cut(bus)
        await has_come(lambda: len(seen) == count + 1)
        reading.cancel()
        cut = seen[-1] if isinstance(seen[-1].payload, SubscriberCut) else seen[-2]
        assert isinstance(cut.payload, SubscriberCut)
        assert (cut.topic, cut.payload.name) == ("bus.subscriber_cut", "stalled")
        assert cut.payload.dropped == bus.broker.stats().dropped > 0
        assert [e.seq for e in seen if e.topic == "run"] == list(range(1, count + 1))
        assert [each.name for each in bus.broker.stats().subscribers] == ["good"]

        got = [event.seq async for event in until_gap(stalled)]
        assert got == list(range(1, len(got) + 1))
        bus.step(0)
        (after,) = await take(aiter(stalled), 1)
        assert after.seq == count + 1
        assert {each.name for each in bus.broker.stats().subscribers} == {"good", "stalled"}


async def until_gap(subscriber: Subscriber) -> AsyncIterator[Envelope]:
    """What a subscriber was sent before it was cut off; checks the gap."""
    seen = 0
    with anyio.fail_after(PATIENCE_S):
        async for event in subscriber:
            if isinstance(event.payload, Gap):
                assert event.payload.topic == "run"
                assert event.payload.missed is not None
                assert event.payload.missed > 0
                return
            seen += 1
            yield event


async def test_a_stopped_process_is_cut_off_and_welcomed_anew(
    runtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broker_module, "BEAT_S", 0.1)
    command = [sys.executable, "-m", peers.__name__, "follow", f"ipc://{runtime}/events", "100"]
    async with serving(runtime, queue=100, stall_s=0.3) as bus:
        process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
        assert process.stdout is not None
        try:
            async with bus.subscriber("bus.") as watcher:
                await watcher.welcome(PATIENCE_S)
                assert json.loads(await process.stdout.readline()) == {"kind": "welcomed"}
                os.kill(process.pid, signal.SIGSTOP)
                count = await publish_until_cut(bus)
                (cut,) = await take(aiter(watcher), 1)
                assert cut.payload.name == "stopped"  # type: ignore[attr-defined]
            os.kill(process.pid, signal.SIGCONT)
            seqs = []
            with anyio.fail_after(PATIENCE_S):
                while (line := json.loads(await process.stdout.readline()))["kind"] != "bus.gap":
                    seqs.append(line["seq"])
            assert seqs == list(range(1, len(seqs) + 1))
            assert len(seqs) + line["missed"] == count
            bus.step(0)
            assert json.loads(await process.stdout.readline())["seq"] == count + 1
        finally:
            process.kill()
            await process.wait()


@pytest.mark.usefixtures("quick")
async def test_hundreds_who_stop_reading_at_once_are_all_cut_off(runtime: Path) -> None:
    """Telling one of them that another was cut off must not go round in circles."""
    count = 300
    port = AsyncSocket(zmq.ROUTER, queue=2, router_mandatory=1, sndbuf=4096)
    listener = Listener(port.bind(f"ipc://{runtime}/events"), "")
    peers.raise_file_limit(4096)
    async with serving(runtime, stall_s=0.2, listener=listener) as bus:
        stalled = [await raw(bus, "", name=str(number), queue=2) for number in range(count)]
        await has_come(lambda: len(bus.broker.stats().subscribers) == count)
        with anyio.fail_after(PATIENCE_S):
            while bus.broker.stats().subscribers:
                bus.step(0, text="x" * 10_000)
                await asyncio.sleep(0.02)
        await has_come(lambda: bus.broker._topics[b"bus.subscriber_cut"].seq == count)
        for each in stalled:
            each.close()


async def test_a_thousand_who_join_late_miss_nothing(runtime: Path) -> None:
    count = 1000
    peers.raise_file_limit(4096)
    command = [sys.executable, "-m", peers.__name__, "join", f"ipc://{runtime}/events", str(count)]
    async with serving(runtime, queue=100_000, stall_s=30) as bus:
        process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
        publisher = Publisher(bus.publish, "me")
        welcomed, number = 0, 0
        with anyio.fail_after(PATIENCE_S):
            while welcomed < count:
                number += 1
                await publisher.publish("run", Step(number=number))
                await asyncio.sleep(0.01)
                welcomed = len(bus.broker.stats().subscribers)
            for _ in range(20):
                await publisher.publish("run", Step(number=0))
            await publisher.publish("run", Step(number=0, last=True))
            output, _ = await process.communicate()
        publisher.close()
    seen = json.loads(output)
    assert (seen["finished"], seen["faults"]) == (count, 0)
    assert seen["events"] >= 21 * count
    assert bus.broker.stats().dropped == 0
