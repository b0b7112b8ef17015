"""Our event broker beside a bare zmq.proxy and NATS, in one run.

Publisher, broker and each subscriber are processes of their own. Ours and the proxy are measured
with the very same plain sockets, so the ratio is that of the brokers; `ours, typed` adds our
Publisher and Subscriber with their envelopes, which is what agents use, and what is set against
NATS and its own client.
"""

import asyncio
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import time
import venv
from contextlib import contextmanager
from pathlib import Path

import anyio
import zmq

from benchmarks.common import Bench, Goal, median, percentile
from bus.async_socket import AsyncSocket
from bus.auth import open_listener
from bus.broker import Broker
from bus.envelope import Envelope, Payload
from bus.messages import Subscribe
from bus.publisher import Publisher
from bus.subscriber import local_subscriber

spawn = multiprocessing.get_context("spawn")
ROUNDS = 3
QUEUE = 200_000
PATIENCE_S = 60


class Sample(Payload, kind="bench.sample"):
    number: int
    text: str = "x" * 100


EVENT = Envelope.of(Sample(number=0), source="bench").encode_event()


def broker_proxy(place: str) -> None:
    context = zmq.Context()
    front, back = context.socket(zmq.XSUB), context.socket(zmq.XPUB)
    front.set_hwm(QUEUE)
    back.set_hwm(QUEUE)
    front.bind(f"ipc://{place}/in")
    back.bind(f"ipc://{place}/out")
    zmq.proxy(front, back)


def broker_ours(place: str) -> None:
    publish = AsyncSocket(zmq.PULL, queue=10_000).bind(f"ipc://{place}/in")
    listener = open_listener(f"ipc://{place}/out", queue=QUEUE, max_bytes=1 << 20)
    anyio.run(Broker(publish, [listener], stall_s=30).run)


def broker_nats(place: str) -> None:
    os.execvp("nats-server", ["nats-server", "-a", "127.0.0.1", "-p", port_of(place)])


def port_of(place: str) -> str:
    return str(20_000 + sum(place.encode()) % 10_000)


@contextmanager
def broker(kind: str):
    """A broker process in a directory of its own."""
    start = {"proxy": broker_proxy, "ours": broker_ours, "typed": broker_ours, "nats": broker_nats}
    with tempfile.TemporaryDirectory(prefix="sovl") as place:
        process = spawn.Process(target=start[kind], args=(place,), daemon=True)
        process.start()
        time.sleep(1.0)
        try:
            yield place
        finally:
            process.kill()
            process.join()


class Plain:
    """Plain sockets for the proxy or for our broker."""

    def __init__(self, place: str, kind: str) -> None:
        context = zmq.Context.instance()
        self.kind, self.place = kind, place
        self.sender = context.socket(zmq.PUB if kind == "proxy" else zmq.PUSH)
        self.sender.set_hwm(QUEUE if kind == "proxy" else 10_000)
        self.sender.connect(f"ipc://{place}/in")

    def subscribe(self) -> None:
        context = zmq.Context.instance()
        self.socket = context.socket(zmq.SUB if self.kind == "proxy" else zmq.DEALER)
        self.socket.set_hwm(QUEUE)
        self.socket.rcvtimeo = PATIENCE_S * 1000
        self.socket.connect(f"ipc://{self.place}/out")
        if self.kind == "proxy":
            self.socket.subscribe(b"bench")
        else:
            self.socket.send(Envelope.of(Subscribe(topics=("bench",))).encode())
            self.socket.recv()  # the welcome

    async def publish(self, topic: bytes = b"bench") -> None:
        if self.kind == "proxy":
            self.sender.send_multipart([topic, EVENT])
        else:
            self.sender.send(b"%b - %b" % (topic, EVENT))

    async def receive(self) -> None:
        while b"bench.sample" not in self.socket.recv_multipart()[-1]:
            pass  # a beat

    async def close(self) -> None:
        pass


class Typed:
    """Our own Publisher and Subscriber."""

    def __init__(self, place: str, kind: str) -> None:
        self.place = place
        self.number = 0
        self.publisher = Publisher(f"ipc://{place}/in", "bench")

    async def subscribe(self) -> None:
        address = f"ipc://{self.place}/out"
        self.subscriber = local_subscriber(address, ("bench",), name="bench", queue=QUEUE)
        await self.subscriber.__aenter__()
        await self.subscriber.welcome(5)
        self.events = aiter(self.subscriber)

    async def publish(self) -> None:
        self.number += 1
        await self.publisher.publish("bench", Sample(number=self.number))

    async def receive(self) -> None:
        await anext(self.events)

    async def close(self) -> None:
        self.publisher.close()


class Nats:
    """nats-py, the client that NATS gives to Python."""

    def __init__(self, place: str, kind: str) -> None:
        self.place = place

    async def connect(self) -> None:
        import nats

        self.client = await nats.connect(f"nats://127.0.0.1:{port_of(self.place)}")

    async def subscribe(self) -> None:
        self.subscription = await self.client.subscribe("bench", pending_msgs_limit=QUEUE * 2)
        await self.client.flush()

    async def publish(self) -> None:
        await self.client.publish("bench", EVENT)

    async def receive(self) -> None:
        await self.subscription.next_msg(timeout=PATIENCE_S)

    async def close(self) -> None:
        await self.client.flush()


async def opened(kind: str, place: str, *, subscribe: bool):
    end = {"proxy": Plain, "ours": Plain, "typed": Typed, "nats": Nats}[kind](place, kind)
    if kind == "nats":
        await end.connect()
    if subscribe:
        done = end.subscribe()
        if done is not None:
            await done
    return end


async def round_trips(kind: str, place: str, count: int) -> list[float]:
    """Microseconds from publishing to having it back, one at a time."""
    end = await opened(kind, place, subscribe=True)
    await asyncio.sleep(0.5)
    times = []
    for _ in range(count):
        began = time.perf_counter()
        await end.publish()
        await end.receive()
        times.append(1e6 * (time.perf_counter() - began))
    await end.close()
    return times


async def consume(kind: str, place: str, count: int, lines) -> None:
    end = await opened(kind, place, subscribe=True)
    lines.put("ready")
    for _ in range(count):
        await end.receive()
    lines.put(time.time())


async def produce(kind: str, place: str, count: int, lines) -> None:
    end = await opened(kind, place, subscribe=False)
    lines.put("ready")
    await asyncio.sleep(1.0)
    lines.put(time.time())
    for _ in range(count):
        await end.publish()
    await end.close()
    await asyncio.sleep(PATIENCE_S)  # what is queued must still leave


def task(work, kind: str, place: str, count: int, lines) -> None:
    asyncio.run(work(kind, place, count, lines))


def rate(kind: str, subscribers: int, count: int) -> float:
    """Published messages per second until the last subscriber has the last one."""
    with broker(kind) as place:
        lines = spawn.Queue()
        workers = [
            spawn.Process(target=task, args=(consume, kind, place, count, lines), daemon=True)
            for _ in range(subscribers)
        ]
        for worker in workers:
            worker.start()
        for _ in workers:
            lines.get(timeout=PATIENCE_S)
        time.sleep(0.5)
        sender = spawn.Process(target=task, args=(produce, kind, place, count, lines), daemon=True)
        sender.start()
        assert lines.get(timeout=PATIENCE_S) == "ready"
        began = lines.get(timeout=PATIENCE_S)
        ended = max(lines.get(timeout=PATIENCE_S) for _ in workers)
        for each in (*workers, sender):
            each.kill()
            each.join()
    return count / (ended - began)


def one(kind: str, quick: bool) -> dict[str, object]:
    share = 10 if quick else 1
    with broker(kind) as place:
        times = asyncio.run(round_trips(kind, place, 5000 // share))
    scale = 5 if kind in ("typed", "nats") else 1
    return {
        "broker": kind,
        "p50_us": percentile(times, 0.5),
        "p99_us": percentile(times, 0.99),
        "rate_1": rate(kind, 1, 100_000 // share // scale),
        "rate_8": rate(kind, 8, 20_000 // share // scale),
    }


def nats_client() -> bool:
    """Install NATS's client into an environment of its own and make it importable."""
    if shutil.which("nats-server") is None:
        return False
    home = Path(__file__).parents[1] / ".venv-bench"
    if not (home / "bin" / "python").exists():
        venv.create(home, with_pip=True)
    pip = [str(home / "bin" / "python"), "-m", "pip", "install", "--quiet", "nats-py==2.12.0"]
    subprocess.run(pip, check=True)
    site = f"lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"
    os.environ["PYTHONPATH"] += f":{home / site}"
    sys.path.append(str(home / site))
    return True


def run(quick: bool) -> Bench:
    kinds = ["proxy", "ours", "typed", *(["nats"] if nats_client() else [])]
    rounds: dict[str, list[dict[str, float]]] = {kind: [] for kind in kinds}
    for _ in range(1 if quick else ROUNDS):
        for kind in kinds:  # in turn, so that a slow spell of the machine hits all
            rounds[kind].append(one(kind, quick))  # type: ignore[arg-type]

    def middle(kind: str, figure: str) -> float:
        return median([each[figure] for each in rounds[kind]])

    def over(kind: str, other: str, figure: str) -> float:
        pairs = zip(rounds[kind], rounds[other], strict=True)
        return median([ours[figure] / theirs[figure] for ours, theirs in pairs])

    figures = ("p50_us", "p99_us", "rate_1", "rate_8")
    rows = [{"broker": kind, **{f: middle(kind, f) for f in figures}} for kind in kinds]
    with_nats = "nats" in kinds
    goals = [
        Goal("p50_over_raw_proxy", over("ours", "proxy", "p50_us"), "<=", 2),
        Goal("throughput_over_raw_proxy", over("ours", "proxy", "rate_1"), ">=", 0.6),
        Goal("throughput_over_raw_proxy_8", over("ours", "proxy", "rate_8"), ">=", 0.6),
        Goal(
            "throughput_over_nats", over("typed", "nats", "rate_1") if with_nats else None, ">=", 1
        ),
        Goal(
            "throughput_over_nats_8",
            over("typed", "nats", "rate_8") if with_nats else None,
            ">=",
            1,
        ),
    ]
    note = "Medians of paired rounds. proxy and ours: the same plain sockets; typed: our "
    note += "Publisher and Subscriber with envelopes; nats: nats-server with nats-py."
    return Bench("bus", rows, goals, note)


if __name__ == "__main__":
    print(json.dumps(run(quick=True).as_dict()))
