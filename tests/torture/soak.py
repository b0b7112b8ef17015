"""Many commands among random cancels, client kills and host kills: none lost, none answered twice.

The clients are bare sockets, so that an answer too many cannot hide in a library. Those that are
killed are replaced; what is counted is what the surviving ones sent.
"""

import argparse
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import psutil
import zmq

from benchmarks.common import Bench, Goal, show
from sovl_daemon.testing import WITHOUT_MODEL, Daemon, running
from tests.packages import install

spawn = multiprocessing.get_context("spawn")
WINDOW = 8
FINAL = ("result", "error")
QUIET_S = 30.0  # an answer that takes longer counts as lost
SETTINGS = {
    **WITHOUT_MODEL,
    "agents.placement": {"echo": "host"},
    "bus.max_pending_per_agent": 10_000,
    "supervision.restart_intensity": 1000,
    "supervision.backoff_initial_s": 0.05,
    "supervision.backoff_max_s": 0.05,
    "logging.level": "warning",
}


class Client:
    """Sends commands, cancels some, and counts every answer."""

    def __init__(self, runtime_dir: str, seed: int) -> None:
        self.socket = zmq.Context().socket(zmq.DEALER)
        self.socket.linger = 0
        self.socket.connect(f"ipc://{runtime_dir}/commands.ipc")
        self.rng = random.Random(seed)
        self.open: set[str] = set()
        self.finals: Counter[str] = Counter()
        self.outcomes: Counter[str] = Counter()

    def run(self, count: int) -> dict[str, object]:
        for number in range(count):
            self.send(f"{os.getpid()}-{number}")
            while len(self.open) >= WINDOW:
                if not self.receive():
                    return self.report(count)
        while self.open and self.receive():
            pass
        while self.socket.poll(500):  # an answer too many would come about now
            self.take()
        return self.report(count)

    def send(self, command: str) -> None:
        slow = self.rng.random() < 0.1
        args = {"text": "x" * self.rng.randrange(200), "times": self.rng.randrange(1, 4)}
        payload = {"name": "say", "args": args | ({"pause_s": 0.02} if slow else {})}
        self.open.add(command)
        self.say("command", command, payload)
        if slow and self.rng.random() < 0.7:
            self.say("cancel", command + "-c", {}, command)

    def say(self, kind: str, name: str, payload: object, about: str | None = None) -> None:
        message = {"v": 1, "kind": kind, "id": name, "payload": payload, "correlation": about}
        self.socket.send_json(message)

    def receive(self) -> bool:
        if not self.socket.poll(int(1000 * QUIET_S)):
            return False
        self.take()
        return True

    def take(self) -> None:
        message = self.socket.recv_json()
        if message["kind"] in FINAL:
            command = message["correlation"]
            self.finals[command] += 1
            self.open.discard(command)
            self.outcomes[message["payload"].get("code", "result")] += 1

    def report(self, count: int) -> dict[str, object]:
        twice = sum(times - 1 for times in self.finals.values())
        lost = count - len(self.finals)
        return {"sent": count, "lost": lost, "twice": twice, "outcomes": self.outcomes}


def live(runtime_dir: str, count: int, seed: int, reports) -> None:
    reports.put((seed, Client(runtime_dir, seed).run(count)))


class Crowd:
    """Client processes, some of which are killed and replaced."""

    def __init__(self, runtime_dir: Path, clients: int, each: int) -> None:
        self.runtime_dir, self.each = str(runtime_dir), each
        self.reports = spawn.Queue()
        self.seeds = iter(range(10**6))
        self.processes = dict(self.start() for _ in range(clients))
        self.done: list[dict[str, object]] = []

    def start(self):
        seed = next(self.seeds)
        args = (self.runtime_dir, self.each, seed, self.reports)
        process = spawn.Process(target=live, args=args, daemon=True)
        process.start()
        return seed, process

    def kill_one(self) -> bool:
        """kill -9 of a client that is still at work, and another in its place."""
        busy = [seed for seed, process in self.processes.items() if process.is_alive()]
        if not busy:
            return False
        victim = self.processes.pop(random.choice(busy))
        victim.kill()
        victim.join()
        seed, process = self.start()
        self.processes[seed] = process
        return True

    def collect(self) -> None:
        while not self.reports.empty():
            seed, report = self.reports.get()
            if self.processes.pop(seed, None) is not None:
                self.done.append(report)


def hub_size(daemon: Daemon) -> dict[str, float]:
    hub = psutil.Process(daemon.process.pid)
    with daemon.client() as client:
        tasks = client.control("stats")["hub"]["tasks"]
        in_flight = client.control("status")["in_flight"]
    return {
        "rss_mb": hub.memory_info().rss / 1e6,
        "fds": settled(hub.num_fds),
        "threads": settled(hub.num_threads),
        "tasks": tasks,
        "in_flight": in_flight,
    }


def settled(count: Callable[[], int]) -> int:
    """The lowest of some readings: connections that just ended count for a moment longer."""
    readings = []
    for _ in range(20):
        readings.append(count())
        time.sleep(0.1)
    return min(readings)


def soak(
    root: Path, packages: Path, *, commands: int, clients: int, kills: float, timeout: float
) -> Bench:
    """`kills`: how often per second the host is killed, and as often a client."""
    with running(root, packages=packages, **SETTINGS) as daemon:
        warm_up(daemon, commands // 20)
        kill_host(daemon)  # the log is opened with its first line, which tells of that
        time.sleep(1)
        daemon.wait()
        before = hub_size(daemon)
        crowd = Crowd(daemon.runtime_dir, clients, commands // clients)
        began = time.monotonic()
        host_kills = client_kills = 0
        sizes = []
        hub = psutil.Process(daemon.process.pid)
        while crowd.processes and time.monotonic() - began < timeout:
            time.sleep(1 / kills)
            sizes.append(hub.memory_info().rss / 1e6)
            crowd.collect()
            client_kills += crowd.kill_one() if client_kills < clients else 0
            host_kills += kill_host(daemon)
        seconds = time.monotonic() - began
        unfinished = len(crowd.processes)
        for process in crowd.processes.values():
            process.kill()
        daemon.wait()
        time.sleep(3)
        after = hub_size(daemon) | {"peak_rss_mb": max(sizes)}
    return judge(crowd.done, before, after, seconds, unfinished, host_kills, client_kills)


def warm_up(daemon: Daemon, count: int) -> None:
    reports = spawn.Queue()
    process = spawn.Process(target=live, args=(str(daemon.runtime_dir), count, 0, reports))
    process.start()
    reports.get(timeout=120)
    process.join()


def kill_host(daemon: Daemon) -> int:
    workers = [
        each
        for each in psutil.Process(daemon.process.pid).children()
        if "sovl_daemon.worker" in " ".join(each.cmdline())
    ]
    for worker in workers:
        worker.send_signal(signal.SIGKILL)
    return len(workers)


def judge(done, before, after, seconds, unfinished, host_kills, client_kills) -> Bench:
    def total(name: str) -> int:
        return sum(report[name] for report in done)

    outcomes: Counter[str] = Counter()
    for report in done:
        outcomes.update(report["outcomes"])
    rows = [
        {"figure": "commands of surviving clients", "value": total("sent")},
        {"figure": "seconds", "value": round(seconds, 1)},
        {"figure": "host kills", "value": host_kills},
        {"figure": "client kills", "value": client_kills},
        *({"figure": f"answered: {name}", "value": count} for name, count in outcomes.items()),
        *({"figure": f"hub {name} before", "value": value} for name, value in before.items()),
        *({"figure": f"hub {name} after", "value": value} for name, value in after.items()),
    ]
    goals = [
        Goal("unfinished_clients", unfinished, "<=", 0),
        Goal("lost", total("lost"), "<=", 0),
        Goal("answered_twice", total("twice"), "<=", 0),
        Goal("left_in_flight", after["in_flight"], "<=", 0),
        Goal("memory_growth_mb", after["rss_mb"] - before["rss_mb"], "<=", 10),
        Goal("leaked_fds", after["fds"] - before["fds"], "<=", 0),
        Goal("leaked_threads", after["threads"] - before["threads"], "<=", 0),
        Goal("leaked_tasks", after["tasks"] - before["tasks"], "<=", 0),
    ]
    return Bench("soak", rows, goals)


def soak_somewhere(**options: float) -> Bench:
    with tempfile.TemporaryDirectory(prefix="sovl") as root, tempfile.TemporaryDirectory() as pkg:
        return soak(Path(root), install(Path(pkg), "sovl-echo"), **options)


def run(quick: bool) -> Bench:
    commands = 10_000 if quick else 100_000
    return soak_somewhere(commands=commands, clients=20, kills=0.3, timeout=900)


def main() -> int:
    parser = argparse.ArgumentParser(prog="./scripts/soak", description=__doc__)
    parser.add_argument("--commands", type=int, default=100_000)
    parser.add_argument("--clients", type=int, default=20)
    parser.add_argument("--kills", type=float, default=0.3, help="of host and client, per second")
    parser.add_argument("--timeout", type=float, default=900, help="seconds")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    result = soak_somewhere(
        commands=options.commands,
        clients=options.clients,
        kills=options.kills,
        timeout=options.timeout,
    )
    show(result, options.json)
    return int(any(not goal.met for goal in result.goals))


if __name__ == "__main__":
    sys.exit(main())
