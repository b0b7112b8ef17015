"""Rubbish on every socket of a running daemon: refused, counted, and nothing falls over."""

import argparse
import json
import random
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import zmq

from benchmarks.common import Bench, Goal, show
from sovl_daemon.testing import Daemon, running
from tests.packages import install
from tests.torture.soak import SETTINGS, settled

SOCKETS = {
    "control": zmq.DEALER,
    "commands": zmq.DEALER,
    "events": zmq.DEALER,
    "agents": zmq.DEALER,
    "publish": zmq.PUSH,
}
LIMIT = 1 << 20  # bus.max_message_bytes
GREETING = bytes([0xFF, 0, 0, 0, 0, 0, 0, 0, 1, 0x7F, 3, 1]) + b"NULL" + bytes(48)
READY = b"\x05READY\x0bSocket-Type\x00\x00\x00\x06DEALER"
HANDSHAKE = GREETING + bytes([4, len(READY)]) + READY
HALVES = (
    b"\xff",
    GREETING[:16],
    GREETING,
    HANDSHAKE,
    HANDSHAKE + b"\x00\xffhalf a message",
    HANDSHAKE + b"\x01\x00" + b"\x00\xffand a half",
    HANDSHAKE + b"\x02" + b"\x7f" * 8 + b"larger than any memory",
)


def valid(rng: random.Random) -> dict[str, object]:
    """A message that is right, for spoiling."""
    kinds = {
        "command": {"name": "say", "args": {"text": "x"}},
        "subscribe": {"topics": ["agent."], "name": "fuzz"},
        "cancel": {},
        "heartbeat": {"agent": "nobody", "state": "ready"},
        "progress": {"data": {}},
        "result": {"data": {}},
    }
    kind = rng.choice(list(kinds))
    return {"v": 1, "kind": kind, "id": f"{rng.random()}", "payload": kinds[kind]}


def spoiled(rng: random.Random) -> bytes:
    """One frame of rubbish."""
    message = valid(rng)
    match rng.randrange(10):
        case 0:
            return rng.randbytes(rng.randrange(2000))
        case 1:
            return b""
        case 2:
            return bomb(rng)
        case 3:
            return json.dumps(message | {"v": rng.choice([0, 2, -1, "1", None, 1e99])}).encode()
        case 4:
            field = rng.choice(list(message))
            return json.dumps(message | {field: rng.choice([None, 1, [], {}, "x" * 500])}).encode()
        case 5:
            del message[rng.choice(list(message))]
            return json.dumps(message).encode()
        case 6:
            text = json.dumps(message).encode()
            return text[: rng.randrange(len(text))]
        case 7:
            return b"topic - " + json.dumps(message).encode() + rng.randbytes(10)
        case 8:
            return "\udcff".join(map(str, message)).encode(errors="surrogatepass")
        case _:
            return json.dumps(message | {"payload": {"name": "x" * rng.randrange(5000)}}).encode()


def bomb(rng: random.Random) -> bytes:
    """Small to send, and much work for who is careless."""
    deep = "[" * 100_000
    wide = ",".join(f'"a{number}":1' for number in range(rng.choice([100, 30_000])))
    args = rng.choice([deep, deep + "]" * 100_000, f"{{{wide}}}", f'{{"times":1{"0" * 9999}}}'])
    command = f'{{"v":1,"kind":"command","id":"b","payload":{{"name":"say","args":{args}}}}}'
    return rng.choice([deep, command]).encode()


def frames(rng: random.Random) -> list[bytes]:
    """One message of rubbish: usually one frame, sometimes many, seldom one that is too large."""
    if rng.random() < 0.002:
        return [b"x" * (LIMIT + 1)]
    count = rng.choice([1, 1, 1, 1, 2, 3, 50])
    return [spoiled(rng) for _ in range(count)]


def half_open(runtime_dir: Path, rng: random.Random) -> socket.socket:
    """A connection that begins like ZeroMQ, or not at all, and goes no further."""
    raw = socket.socket(socket.AF_UNIX)
    raw.settimeout(1)
    raw.connect(str(runtime_dir / f"{rng.choice(list(SOCKETS))}.ipc"))
    raw.send(rng.choice([*HALVES, rng.randbytes(300)]))
    return raw


def attack(runtime_dir: Path, seconds: float, seed: int) -> Iterator[int]:
    """Send rubbish for so long; yields the count of messages so far now and then."""
    rng = random.Random(seed)
    context = zmq.Context()
    ports: dict[str, zmq.Socket[bytes]] = {}
    halves: list[socket.socket] = []
    sent, end = 0, time.monotonic() + seconds
    while time.monotonic() < end:
        name = rng.choice(list(SOCKETS))
        if name not in ports:
            ports[name] = context.socket(SOCKETS[name])
            ports[name].linger = 0
            ports[name].connect(f"ipc://{runtime_dir}/{name}.ipc")
        try:
            ports[name].send_multipart(frames(rng), zmq.NOBLOCK)
            sent += 1
        except zmq.Again:
            time.sleep(0.001)  # its queue is full: the daemon takes its time
        if rng.random() < 0.01:
            ports.pop(name).close()
        if rng.random() < 0.005:
            halves.append(half_open(runtime_dir, rng))
        if len(halves) > 50:
            halves.pop(0).close()
        if sent % 200 == 0:
            yield sent
    for port in ports.values():
        port.close()
    context.destroy(0)
    for half in halves:
        half.close()
    yield sent


def fuzz(root: Path, packages: Path, *, seconds: float, seed: int) -> Bench:
    with running(root, packages=packages, **SETTINGS) as daemon:
        hub = psutil.Process(daemon.process.pid)
        list(attack(daemon.runtime_dir, min(1.0, seconds / 4), seed))  # fills caches and buffers
        before, fds = hub.memory_info().rss, settled(hub.num_fds)
        slowest = 0.0
        sent = 0
        for now in attack(daemon.runtime_dir, seconds, seed + 1):
            sent = now
            began = time.monotonic()
            ping(daemon)
            slowest = max(slowest, time.monotonic() - began)
        time.sleep(2)
        with daemon.client() as client:
            works = client.ask("say", text="still here")["text"] == "still here"
            stats = client.control("stats")
            restarts = sum(
                child["restarts"] for child in client.control("status")["children"].values()
            )
        after, fds_after = hub.memory_info().rss, settled(hub.num_fds)
    refused = {
        "commands": stats["commands"]["refused_frames"] + stats["commands"]["bad_messages"],
        "events and publications": stats["bus"]["refused"],
        "control": stats["control"]["bad_messages"],
    }
    rows = [
        {"figure": "messages sent", "value": sent},
        *({"figure": f"refused: {name}", "value": count} for name, count in refused.items()),
        {"figure": "slowest ping with connecting, s", "value": round(slowest, 3)},
    ]
    goals = [
        Goal("works_afterwards", float(works), ">=", 1),
        Goal("restarts", restarts, "<=", 0),
        Goal("memory_growth_mb", (after - before) / 1e6, "<=", 20),
        Goal("leaked_fds", fds_after - fds, "<=", 0),
        Goal("refused_and_counted", min(refused.values()), ">=", 1),
    ]
    return Bench("fuzz", rows, goals)


def ping(daemon: Daemon) -> None:
    with daemon.client():
        pass  # connecting is a ping


def fuzz_somewhere(seconds: float, seed: int) -> Bench:
    with tempfile.TemporaryDirectory(prefix="sovl") as root, tempfile.TemporaryDirectory() as pkg:
        result = fuzz(Path(root), install(Path(pkg), "sovl-echo"), seconds=seconds, seed=seed)
    result.note = f"seed {seed}"
    return result


def run(quick: bool) -> Bench:
    return fuzz_somewhere(6 if quick else 60, seed=int(time.time()))


def main() -> int:
    parser = argparse.ArgumentParser(prog="./scripts/fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    result = fuzz_somewhere(options.seconds, options.seed)
    show(result, options.json)
    return int(any(not goal.met for goal in result.goals))


if __name__ == "__main__":
    sys.exit(main())
