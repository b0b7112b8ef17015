"""Prompts of 1, 10 and 100 MB by four ways, while five others talk: does anybody else notice?

Before and while are measured in turns in one run, for what the machine is about beside it changes.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import zmq

from benchmarks.common import Bench, Goal, percentile
from sovl_daemon.client import CommandError
from sovl_daemon.testing import SOVL, Daemon, running

MEGABYTE = 1_000_000
SIZES = (1, 10, 100)
TALKERS = 5
QUIET_S = 8.0  # how long the talk is listened to before each way

TALK = """
import sys, time, anyio
from pathlib import Path
from sovl_daemon.client import AsyncClient, Target

async def talk(client):
    while True:
        story = {"prompt": "Tell me a long story.", "max_tokens": 200}
        async with client.call("generate", story) as call:
            last = None
            async for step in call:
                now = time.monotonic()
                if last is not None:
                    print(now, now - last, flush=True)
                last = now
            await call.result()

async def main():
    async with AsyncClient(Target.local(Path(sys.argv[1]))) as client:
        async with anyio.create_task_group() as tasks:
            for _ in range(int(sys.argv[2])):
                tasks.start_soon(talk, client)

anyio.run(main)
"""


def refused_by_command_line(daemon: Daemon, size: int) -> float:
    with _text(size) as text:
        return _run([*SOVL, "generate", "-"], daemon, text)


def refused_by_console(daemon: Daemon, size: int) -> float:
    with _text(size, end="\n") as text:
        return _run([*SOVL, "console"], daemon, text)


def refused_by_client(daemon: Daemon, size: int) -> float:
    text = "word " * (size * MEGABYTE // 5)
    with daemon.client() as client:
        began = time.perf_counter()
        try:
            client.ask("generate", prompt=text)
        except CommandError as error:
            assert "\n" not in error.message
            return time.perf_counter() - began
    raise AssertionError("a prompt of megabytes was answered")


def refused_by_socket(daemon: Daemon, size: int) -> float:
    payload = {"name": "generate", "args": {"prompt": "word " * (size * MEGABYTE // 5)}}
    message = json.dumps({"v": 1, "kind": "command", "id": "big", "payload": payload}).encode()
    socket = zmq.Context.instance().socket(zmq.DEALER)
    socket.linger = 0
    try:
        socket.connect(f"ipc://{daemon.runtime_dir}/commands.ipc")
        began = time.perf_counter()
        socket.send(message, copy=False)
        while socket.poll(60_000):
            reply = socket.recv_json()
            if reply["kind"] == "error":
                assert reply["correlation"] == "big"
                return time.perf_counter() - began
    finally:
        socket.close()
    raise AssertionError("no answer")


WAYS: dict[str, Callable[[Daemon, int], float]] = {
    "command line": refused_by_command_line,
    "console": refused_by_console,
    "client": refused_by_client,
    "raw socket": refused_by_socket,
}


@contextmanager
def _text(size: int, end: str = "") -> Iterator[Path]:
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        for _ in range(size):
            file.write("word " * (MEGABYTE // 5))
        file.write(end)
        file.flush()
        yield Path(file.name)


def _run(command: list[str], daemon: Daemon, text: Path) -> float:
    """Seconds from when it can read the first byte: a start of Python is no part of them."""
    with text.open() as file:
        began = time.perf_counter()
        done = subprocess.run(
            command, stdin=file, env=daemon.environment, capture_output=True, text=True, check=False
        )
        took = time.perf_counter() - began
    assert done.stderr.count("\n") == 1, done.stderr
    return max(0.0, took - _start_seconds(daemon))


def _start_seconds(daemon: Daemon) -> float:
    began = time.perf_counter()
    subprocess.run([*SOVL, "ping"], env=daemon.environment, capture_output=True, check=True)
    return time.perf_counter() - began


def gaps(log: Path, since: float, until: float) -> list[float]:
    """Seconds between the tokens of each talk in a stretch of time."""
    pairs = (line.split() for line in log.read_text().splitlines())
    found = [(float(at), float(gap)) for at, gap in pairs if at and gap]
    return [gap for at, gap in found if since <= at < until]


def run(quick: bool) -> Bench:
    os.environ.pop("SOVL_CONNECT", None)
    rows: list[dict[str, object]] = []
    with (
        tempfile.TemporaryDirectory(prefix="sovl") as place,
        running(Path(place)) as daemon,
        (Path(place) / "talk").open("w") as out,
    ):
        log, host = Path(place) / "talk", daemon.worker().pid
        talk = [sys.executable, "-c", TALK, str(daemon.runtime_dir), str(TALKERS)]
        with subprocess.Popen(talk, stdout=out) as talking:
            try:
                time.sleep(10)
                for size in SIZES[: 1 if quick else None]:
                    rows += [row(daemon, log, way, size) for way in WAYS]
            finally:
                talking.kill()
        restarted = float(daemon.worker().pid != host)
    goals = [
        Goal("median_over_before", max(float(str(each["median"])) for each in rows), "<=", 1.5),
        Goal("p99_over_before", max(float(str(each["p99"])) for each in rows), "<=", 1.5),
        Goal("refusal_s", max(float(str(each["refusal_s"])) for each in rows), "<=", 1),
        Goal("host_restarts", restarted, "<=", 0),
    ]
    note = "median and p99: time between tokens of five talks, over that of the seconds before."
    return Bench("large_prompts", rows, goals, note)


def row(daemon: Daemon, log: Path, way: str, size: int) -> dict[str, object]:
    """One prompt after the other for as long as was listened before."""
    listened = time.monotonic()
    time.sleep(QUIET_S)
    began = time.monotonic()
    refusals = []
    while time.monotonic() - began < QUIET_S:
        refusals.append(WAYS[way](daemon, size))
        time.sleep(1)
    before = gaps(log, listened, began)
    meanwhile = gaps(log, began, time.monotonic())
    return {
        "way": way,
        "megabytes": size,
        "refusal_s": percentile(refusals, 0.5),
        "median_ms": 1000 * percentile(before, 0.5),
        "median": percentile(meanwhile, 0.5) / percentile(before, 0.5),
        "p99": percentile(meanwhile, 0.99) / percentile(before, 0.99),
    }
