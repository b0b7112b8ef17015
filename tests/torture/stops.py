"""Daemons stopped at random moments, and commands run beside ones that start and stop.

A stop is well when hub and workers end by themselves, or by the signal that was sent, and the hub
with the documented exit code. A command is well when it ends with one of its documented codes.
All of it at once, so that they hinder each other.
"""

import math
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

from benchmarks.common import Bench, Goal
from sovl_daemon.client import ClientError, CommandError
from sovl_daemon.testing import SOVL, Daemon, until
from tests import tiny_models
from tests.conftest import ECHO
from tests.packages import install

STOPS, RUNS, QUICK = 500, 1000, 10
STOPS_AT_ONCE, COMMANDS_AT_ONCE = 3, 6
MOMENTS = ("beginning", "starting", "loading", "answering", "at night", "stopping")
WAYS = ("SIGTERM", "SIGINT", "sovl stop", "worker killed", "SIGTERM", "SIGINT", "sovl stop")
# Told before there was a daemon: by the code of the signal, or by the signal itself where not even
# the interpreter was ready.
CALLED_OFF = (130, 143, -signal.SIGINT, -signal.SIGTERM)
# The daemon is down, slow or busy, lost what it was asked for, or takes no more of it.
DOCUMENTED = (0, 1, 3, 5, 6, 130)
OF_A_CRASH = [signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGILL, signal.SIGFPE]
CRASHES = ["Fatal Python error", *(f"killed by {each.name}" for each in OF_A_CRASH)]
WAIT_S = 120.0


class Trials:
    """What was tried, with running totals on standard error."""

    def __init__(self, until: float) -> None:
        self.found: Counter[str] = Counter()
        self._until = until
        self._lock = threading.Lock()

    def over(self) -> bool:
        return time.monotonic() > self._until

    def add(self, kind: str, detail: str, fault: str = "", said: str = "") -> None:
        with self._lock:
            self.found[kind] += 1
            self.found[f"{kind}: {detail}"] += 1
            if fault:
                self.found[fault] += 1
                print(f"--- {fault}: {kind}: {detail}\n{said[-3000:]}\n---", file=sys.stderr)
            totals = {each: self.found[each] for each in self.found if ":" not in each}
            print(totals, f"{kind}: {detail}", file=sys.stderr, flush=True)


def run(quick: bool, first: int = 0, minutes: float = math.inf) -> Bench:
    """Stop many daemons and run many commands, until all are done or the time is up."""
    # A shell has what it runs in the background ignore Ctrl-C, and children inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    share = QUICK if quick else 1
    trials = Trials(time.monotonic() + 60 * minutes)
    with tempfile.TemporaryDirectory(prefix="sv") as folder:
        root = Path(folder)
        settings = tiny_models.settings(root / "models")
        packages = install(root / "packages", "sovl-echo")

        def stop(number: int) -> None:
            # One in five has a model, at another moment each time; the others begin fast.
            if number % 5 == number // 5 % 5:
                daemon = Daemon(_made(root / f"{number}"), **settings)
            else:
                daemon = Daemon(_made(root / f"{number}"), packages=packages, **ECHO)
            if not trials.over():
                _stop(daemon, number, trials)

        with (
            _life(Daemon(_made(root / "c"), **settings)) as daemon,
            ThreadPoolExecutor(STOPS_AT_ONCE) as stops,
            ThreadPoolExecutor(COMMANDS_AT_ONCE) as commands,
        ):
            asked = [
                *(commands.submit(_command, daemon, trials) for _ in range(RUNS // share)),
                *(stops.submit(stop, number) for number in range(first, STOPS // share)),
            ]
            for each in asked:
                each.result()
    found = trials.found
    rows: list[dict[str, object]] = [
        {"what": what, "count": number} for what, number in sorted(found.items())
    ]
    goals = [
        Goal("stops", found["stop"], ">=", STOPS // share - first),
        Goal("runs of each command", found["sovl generate"], ">=", RUNS // share),
        Goal("crashed", found["crashed"], "<=", 0),
        Goal("another exit code", found["another code"], "<=", 0),
        Goal("did not end", found["did not end"], "<=", 0),
    ]
    note = f"{STOPS_AT_ONCE} stops and {COMMANDS_AT_ONCE} commands at once"
    return Bench("stops", rows, goals, note)


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _stop(daemon: Daemon, number: int, trials: Trials) -> None:
    rng = random.Random(number)
    moment, way = MOMENTS[number % len(MOMENTS)], WAYS[number % len(WAYS)]
    process = daemon.start().process
    try:
        if moment == "beginning":
            time.sleep(rng.uniform(0, 2))
        else:
            _answers(daemon)
        if moment not in ("beginning", "starting"):
            time.sleep(rng.uniform(0, 4))
        if moment in ("answering", "at night"):
            daemon.wait(timeout=WAIT_S)
            _busy_with(daemon, moment)
            time.sleep(rng.uniform(0, 0.5))
        _end(daemon, way, again=moment == "stopping")
        code = process.wait(WAIT_S)
    except (AssertionError, subprocess.TimeoutExpired) as error:
        trials.add("stop", f"{moment}, {way}", "did not end", f"{error}\n{daemon.output()}")
        return
    finally:
        process.kill()
    said = daemon.output()
    if daemon.log_file.exists():
        said += daemon.log_file.read_text()
    fault = ""
    badly = "child.ended_badly" in said and way != "worker killed"
    if badly or any(crash in said for crash in CRASHES) or -code in OF_A_CRASH:
        fault = "crashed"
    elif code not in (0, *(CALLED_OFF if moment == "beginning" else ())):
        fault = "another code"
    trials.add("stop", f"{moment}, {way}: {code}", fault, said)


def _answers(daemon: Daemon) -> None:
    for _ in until(WAIT_S):
        with suppress(ClientError), daemon.client() as client:
            client.control("ping")
            return


def _busy_with(daemon: Daemon, moment: str) -> None:
    def ask() -> None:
        with suppress(ClientError, CommandError), daemon.client() as client:
            if "echo" in client.control("status")["agents"]:
                client.ask("say", text="hello", times=100, pause_s=0.05)
            for number in range(3):
                client.ask("generate", prompt=f"hello {number}", max_tokens=40)
            if moment == "at night":
                client.ask("gestate")

    threading.Thread(target=ask, daemon=True).start()


def _end(daemon: Daemon, way: str, *, again: bool) -> None:
    if way == "sovl stop":
        while daemon.process.poll() is None and daemon.sovl("stop", timeout=WAIT_S).returncode:
            pass  # there was no daemon yet
        return
    if way == "worker killed":
        with suppress(Exception):  # there may be none yet
            daemon.worker().send_signal(signal.SIGKILL)
    number = signal.SIGINT if way == "SIGINT" else signal.SIGTERM
    for _ in range(1 + again):
        if daemon.process.poll() is None:
            daemon.process.send_signal(number)
            time.sleep(0.2)


@contextmanager
def _life(daemon: Daemon) -> Iterator[Daemon]:
    """A daemon that starts, lives and stops, and starts again."""
    over = threading.Event()

    def live_and_die() -> None:
        rng = random.Random(1)
        while not over.is_set():
            process = daemon.start().process
            over.wait(rng.uniform(1, 40))
            process.terminate()
            process.wait(WAIT_S)

    life = threading.Thread(target=live_and_die)
    life.start()
    try:
        yield daemon
    finally:
        over.set()
        life.join()


def _command(daemon: Daemon, trials: Trials) -> None:
    for words in (["status"], ["generate", "hello", "--max-tokens=4"]):
        if trials.over():
            return
        done = subprocess.run([*SOVL, *words], env=daemon.environment, capture_output=True)
        code = done.returncode
        fault = "crashed" if code < 0 else "another code" if code not in DOCUMENTED else ""
        trials.add(f"sovl {words[0]}", str(code), fault, f"{done}")
