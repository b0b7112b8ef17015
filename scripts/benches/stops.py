"""Daemons stopped at random moments, and commands run beside ones that start and stop.

A stop is well when hub and workers end by themselves, or by the signal that was sent, and the hub
with the documented exit code. A command is well when it ends with one of its documented codes.
"""

import random
import signal
import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from benches.common import Bench, Goal
from sovl_daemon.client import ClientError, CommandError
from tests import tiny_models
from tests.daemon import SOVL, Daemon, until

STOPS, RUNS, QUICK = 500, 1000, 10
MOMENTS = ("starting", "loading", "answering", "at night", "stopping")
WAYS = ("SIGTERM", "SIGINT", "sovl stop", "worker killed")
# The daemon is down, slow or busy, lost what it was asked for, or takes no more of it.
DOCUMENTED = (0, 1, 3, 5, 6, 130)
CRASHES = ("Fatal Python error", "killed by SIGSEGV", "killed by SIGABRT")
WAIT_S = 120.0


def run(quick: bool) -> Bench:
    """Stop many daemons, then run many commands."""
    share = QUICK if quick else 1
    chance = random.Random(0)
    stops: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="sv") as folder, _neighbours():
        settings = tiny_models.settings(Path(folder) / "models")
        for number in range(STOPS // share):
            root = Path(folder) / f"{number}"
            root.mkdir()
            stops += _stop(root, settings, MOMENTS[number % 5], WAYS[number % 4], chance)
        commands, wrong = _commands(Path(folder) / "c", settings, RUNS // share)
    rows: list[dict[str, object]] = [
        {"what": what, "count": count} for what, count in sorted((stops + commands).items())
    ]
    goals = [
        Goal("stops with a crash", stops["crashed"], "<=", 0),
        Goal("stops with another exit code", stops["another code"], "<=", 0),
        Goal("commands with another exit code", wrong, "<=", 0),
    ]
    note = f"{STOPS // share} stops, {RUNS // share} runs of each command, beside two busy programs"
    return Bench("stops", rows, goals, note)


@contextmanager
def _neighbours() -> Iterator[None]:
    """Two programs that never rest."""
    busy = [subprocess.Popen(["sh", "-c", "while :; do :; done"]) for _ in range(2)]
    try:
        yield
    finally:
        for each in busy:
            each.kill()
            each.wait()


def _daemon(root: Path, settings: dict[str, Any]) -> Daemon:
    daemon = Daemon(root, **settings)
    daemon.environment["PYTHONFAULTHANDLER"] = "1"
    return daemon.start()


def _stop(
    root: Path, settings: dict[str, Any], moment: str, way: str, chance: random.Random
) -> Counter[str]:
    daemon = _daemon(root, settings)
    try:
        _answers(daemon)
        if moment != "starting":
            time.sleep(chance.uniform(0, 4))
        if moment in ("answering", "at night"):
            daemon.wait(timeout=WAIT_S)
            _busy_with(daemon, moment)
            time.sleep(chance.uniform(0, 0.5))
        _end(daemon, way, again=moment == "stopping")
        assert daemon.process is not None
        return _judged(daemon, daemon.process.wait(WAIT_S), moment, way)
    finally:
        assert daemon.process is not None
        daemon.process.kill()


def _answers(daemon: Daemon) -> None:
    """Wait until it is there: before that, a signal simply ends it."""
    for _ in until(WAIT_S):
        with suppress(ClientError), daemon.client() as client:
            client.control("ping")
            return


def _busy_with(daemon: Daemon, moment: str) -> None:
    def ask() -> None:
        with suppress(ClientError, CommandError), daemon.client() as client:
            for number in range(3):
                client.ask("generate", prompt=f"hello {number}", max_tokens=40)
            if moment == "at night":
                client.ask("gestate")

    threading.Thread(target=ask, daemon=True).start()


def _end(daemon: Daemon, way: str, *, again: bool) -> None:
    assert daemon.process is not None
    if way == "sovl stop":
        daemon.sovl("stop", timeout=WAIT_S)
    elif way == "worker killed":
        with suppress(Exception):  # there may be none yet
            daemon.worker().send_signal(signal.SIGKILL)
    number = signal.SIGINT if way == "SIGINT" else signal.SIGTERM
    for _ in range(1 + again):
        if daemon.process.poll() is None and way != "sovl stop":
            daemon.process.send_signal(number)
            time.sleep(0.2)


def _judged(daemon: Daemon, code: int, moment: str, way: str) -> Counter[str]:
    said = daemon.output() + daemon.log_file.read_text()
    found = Counter({f"{moment}, {way}: {code}": 1})
    if any(crash in said for crash in CRASHES) or code in (-signal.SIGSEGV, -signal.SIGABRT):
        found["crashed"] += 1
        print(said)
    elif code != 0:
        found["another code"] += 1
        print(code, said[-3000:])
    return found


def _commands(root: Path, settings: dict[str, Any], runs: int) -> tuple[Counter[str], int]:
    """Run each command against a daemon that starts, lives and stops, and starts again."""
    root.mkdir()
    counts: Counter[str] = Counter()
    over = threading.Event()
    daemon = Daemon(root, **settings)
    daemon.environment["PYTHONFAULTHANDLER"] = "1"
    life = threading.Thread(target=_live_and_die, args=(daemon, over))
    life.start()
    wrong = 0
    try:
        for _ in range(runs):
            for words in (["status"], ["generate", "hello", "--max-tokens=4"]):
                done = subprocess.run([*SOVL, *words], env=daemon.environment, capture_output=True)
                counts[f"sovl {words[0]}: {done.returncode}"] += 1
                if done.returncode not in DOCUMENTED:
                    wrong += 1
                    print(done)
    finally:
        over.set()
        life.join()
    return counts, wrong


def _live_and_die(daemon: Daemon, over: threading.Event) -> None:
    chance = random.Random(1)
    while not over.is_set():
        daemon.start()
        over.wait(chance.uniform(1, 40))
        daemon.stop()
