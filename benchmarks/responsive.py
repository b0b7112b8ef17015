"""How soon the hub is up, how small it stays, and how fast it answers while a model works."""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import anyio
import psutil

from benchmarks.common import Bench, Goal, median, percentile
from sovl_daemon.client import AsyncClient, ClientError
from sovl_daemon.client.target import Target
from sovl_daemon.testing import Daemon, running

PINGS = 3000
STARTS = 5
IDLE_S = 20.0


async def pings(target: Target, count: int) -> list[float]:
    """Milliseconds of each ping."""
    times = []
    async with AsyncClient(target, source="bench") as client:
        for _ in range(count):
            began = time.perf_counter()
            await client.control("ping")
            times.append(1000 * (time.perf_counter() - began))
            await anyio.sleep(0.001)
    return times


def busy_pings(target: Target, count: int) -> list[float]:
    """The same while the host generates flat out for several conversations."""
    load = [sys.executable, "-c", LOAD, str(Path(target.title))]
    with subprocess.Popen(load, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline(), "the load did not start"
            return anyio.run(pings, target, count)
        finally:
            process.kill()


LOAD = """
import sys, anyio
from pathlib import Path
from sovl_daemon.client import AsyncClient, Target

async def talk(client):
    while True:
        story = {"prompt": "Tell me a long story.", "max_tokens": 500}
        async with client.call("generate", story) as call:
            async for step in call:
                if "text" in step:
                    print("talking", flush=True)
            await call.result()

async def main():
    async with AsyncClient(Target.local(Path(sys.argv[1]))) as client:
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(talk, client)

anyio.run(main)
"""


def ready_seconds() -> float:
    """From starting the process to the hub's first answer."""
    with tempfile.TemporaryDirectory(prefix="sovl") as directory:
        began = time.perf_counter()
        daemon = Daemon(Path(directory)).start()
        try:
            return anyio.run(_until_answer, daemon, began)
        finally:
            daemon.stop()


async def _until_answer(daemon: Daemon, began: float) -> float:
    while time.perf_counter() - began < 30:
        try:
            async with AsyncClient(daemon.target):
                return time.perf_counter() - began
        except ClientError:
            await anyio.sleep(0.01)
    raise AssertionError("the hub never answered")


def idle_cost(hub: psutil.Process, seconds: float) -> float:
    """Percent of one core that the idle hub uses."""
    before = sum(hub.cpu_times()[:2])
    time.sleep(seconds)
    return 100 * (sum(hub.cpu_times()[:2]) - before) / seconds


def run(quick: bool) -> Bench:
    os.environ.pop("SOVL_CONNECT", None)
    count = PINGS // 10 if quick else PINGS
    ready = [ready_seconds() for _ in range(2 if quick else STARTS)]
    with (
        tempfile.TemporaryDirectory(prefix="sovl") as directory,
        running(Path(directory)) as daemon,
    ):
        hub = psutil.Process(daemon.process.pid)
        time.sleep(2)
        cpu = idle_cost(hub, 3 if quick else IDLE_S)
        idle = anyio.run(pings, daemon.target, count)
        busy = busy_pings(daemon.target, count)
        rss = hub.memory_info().rss / 1e6
        torch = any("torch" in part.path for part in hub.memory_maps())
    rows = [
        {
            "ping": name,
            "p50_ms": percentile(t, 0.5),
            "p99_ms": percentile(t, 0.99),
            "max_ms": max(t),
        }
        for name, t in (("idle", idle), ("busy", busy))
    ]
    goals = [
        Goal("ping_p50_ms_idle", percentile(idle, 0.5), "<=", 1),
        Goal("ping_p99_ms_idle", percentile(idle, 0.99), "<=", 2),
        Goal("ping_p99_ms_busy", percentile(busy, 0.99), "<=", 5),
        Goal("hub_ready_s", median(ready), "<=", 1),
        Goal("hub_rss_mb", rss, "<=", 80),
        Goal("hub_cpu_percent", cpu, "<=", 1),
        Goal("hub_loads_torch", float(torch), "<=", 0),
    ]
    return Bench("responsive", rows, goals, "Busy: three conversations generate without a pause.")
