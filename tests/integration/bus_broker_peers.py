"""Peers of the broker in processes of their own: many that join late, and one that is stopped."""

import asyncio
import json
import resource
import sys

import anyio
import orjson
import zmq

from bus.async_socket import AsyncSocket
from bus.envelope import Envelope
from bus.messages import Subscribe
from bus.subscriber import local_subscriber
from sovl_daemon.testing import PATIENCE_S

JOIN_EVERY_S = 0.003


def raise_file_limit(wanted: int) -> None:
    """Each socket takes two descriptors; many systems allow 1024 unless asked."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, hard), hard))


async def join_late(address: str, count: int) -> dict[str, int]:
    """Many subscribers, one after the other; what they saw until the event with `last`."""
    seen = {"finished": 0, "events": 0, "faults": 0}

    async def join(number: int) -> None:
        await anyio.sleep(number * JOIN_EVERY_S)
        port = AsyncSocket(zmq.DEALER, queue=100_000).connect(address)
        await port.send(Envelope.of(Subscribe(topics=("run",), name=str(number))).encode())
        first = orjson.loads((await port.receive())[-1])
        if first["kind"] != "welcome":
            seen["faults"] += 1
            return
        expected = first["payload"]["seqs"].get("run", 0) + 1
        while True:
            event = orjson.loads((await port.receive())[-1])
            if event["kind"] == "beat":
                continue
            seen["events"] += 1
            seen["faults"] += event["seq"] != expected
            expected = event["seq"] + 1
            if event["payload"]["last"]:
                break
        seen["finished"] += 1
        port.close()

    async with anyio.create_task_group() as tasks:
        for number in range(count):
            tasks.start_soon(join, number)
    return seen


async def follow(address: str, queue: int) -> None:
    """One line for each event, until killed."""
    async with local_subscriber(address, ("run",), name="stopped", queue=queue) as subscriber:
        await subscriber.welcome(PATIENCE_S)
        print(json.dumps({"kind": "welcomed"}), flush=True)
        async for event in subscriber:
            found = {"kind": event.kind, "seq": event.seq, **event.payload.model_dump()}
            found.pop("text", None)
            print(json.dumps(found), flush=True)


if __name__ == "__main__":
    raise_file_limit(4096)
    if sys.argv[1] == "join":
        print(json.dumps(asyncio.run(join_late(sys.argv[2], int(sys.argv[3])))))
    else:
        asyncio.run(follow(sys.argv[2], int(sys.argv[3])))
