"""How soon a hard limit acts: from when its duration is over to the start of the action.

A gauge rises towards its limit as fast as the sampling reckons with, passes it at a moment that the
sampling knows nothing of, and stays there. From that moment on the limit's duration runs; what the
daemon takes beyond it is the reaction. The action begins with the intent in the journal. Half of
the time the model answers meanwhile.
"""

import itertools
import sys
import tempfile
import threading
import time
from contextlib import closing, suppress
from datetime import datetime
from pathlib import Path

import platformdirs

from benchmarks.common import Bench, Goal, percentile
from sovl_daemon.client import ClientError, CommandError
from sovl_daemon.control.journal import Journal, JournalEntry
from sovl_daemon.testing import Daemon, running, until
from sovl_daemon.testing.level import Level, write_task

ROUNDS = 100  # of each kind
HARD, HARD_S = 0.5, 0.3
# An action that was just taken back is not tried again for a while, by the same task.
TASKS = 12
REST_S = 10.5
SLOW_MS = 200  # from here on it is told what was decided meanwhile
STEP = 0.002  # of the gauge
PACE_PER_S = 0.1  # of its scale
PACE = {"dwell_s": 0.05, "cooldown_s": 0.05, "urgent_s": 0.05, "per_hour": 100_000}
LIMITS = {"hard": HARD, "low": 0.25, "hard_s": HARD_S, "low_s": 0.0}


class Talk:
    """Answers without a pause while `on`."""

    def __init__(self, daemon: Daemon) -> None:
        self.on, self._over = False, False
        self._daemon = daemon
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def close(self) -> None:
        self._over = True
        self._thread.join()

    def _run(self) -> None:
        while not self._over:
            if not self.on:
                time.sleep(0.05)
                continue
            with suppress(ClientError, CommandError), self._daemon.client() as client:
                client.ask("generate", prompt="Tell me a story.", max_tokens=40)


def reactions(daemon: Daemon, level: Level, count: int) -> list[float]:
    """Milliseconds of each."""
    found = []
    rested_s = [time.monotonic() + REST_S] * TASKS  # others may have been here before
    with closing(Journal(daemon.root / "state" / "actions.db")) as journal:
        known = max((entry.id for entry in journal.recent(1)), default=0)
        for number in range(count):
            task = number % TASKS
            time.sleep(max(0.0, rested_s[task] - time.monotonic()))
            level.name = f"test.t{task}"
            over_s = _cross(level, number)
            entry = _next(journal, known, daemon)
            known = entry.id
            found.append(1000 * (entry.intended_s - over_s))
            if found[-1] > SLOW_MS:
                _tell_why(daemon, over_s, entry)
            level.value = 0.1  # low, so that it goes back
            for _ in until(20):
                if not journal.in_force() and not journal.unfinished():
                    break
            else:
                raise AssertionError(f"it never went back\n{daemon.output()}")
            rested_s[task] = time.monotonic() + REST_S
    return found


def _cross(level: Level, number: int) -> float:
    """Let the gauge rise past the limit; return when the duration is over, by the wall clock."""
    # For more than the calm interval, so that no sample from before lets it sleep through; each
    # time from elsewhere, so that the crossing falls anywhere between two samples.
    start = HARD - 1.2 * PACE_PER_S - 0.00137 * (number % 20)
    for value in itertools.takewhile(lambda value: value < HARD, itertools.count(start, STEP)):
        level.value = value
        time.sleep(STEP / PACE_PER_S)
    level.value = HARD + STEP
    level.given.clear()
    assert level.given.wait(5)
    return level.given_s + HARD_S


def _next(journal: Journal, known: int, daemon: Daemon) -> JournalEntry:
    for _ in until(20, pause=0.01):
        for entry in journal.recent(1):
            if entry.id > known:
                return entry
    raise AssertionError(f"it never acted\n{daemon.output()}")


def _tell_why(daemon: Daemon, over_s: float, entry: JournalEntry) -> None:
    times = ((datetime.fromisoformat(each["time"]).timestamp(), each) for each in daemon.events())
    for time_s, event in times:
        if over_s - HARD_S <= time_s <= entry.intended_s + HARD_S:
            words = event.get("says") or event.get("reason") or event.get("detail") or ""
            print(f"{1000 * (time_s - over_s):7.0f} ms: {event['event']}: {words}", file=sys.stderr)


def run(quick: bool) -> Bench:
    count = ROUNDS // 10 if quick else ROUNDS
    settings = {
        "store.model_dir": str(platformdirs.user_cache_path("sovl") / "models"),
        "controls_config.has_woken": True,
        "control.shadow": False,
    }
    with tempfile.TemporaryDirectory(prefix="sovl") as folder:
        root = Path(folder)
        return measured(root, settings, count)


def measured(root: Path, settings: dict[str, object], count: int) -> Bench:
    for number in range(TASKS):
        write_task(root, LIMITS, name=f"t{number}", metric=f"test.t{number}", pace=PACE)
    times: dict[str, list[float]] = {}
    with (
        running(root, **settings) as daemon,
        closing(Level(daemon, every_s=0.002)) as level,
        closing(Talk(daemon)) as talk,
    ):
        level.value = 0.1
        for name, talk.on in (("idle", False), ("answering", True)):
            times[name] = reactions(daemon, level, count)
    everything = [ms for each in times.values() for ms in each]
    rows: list[dict[str, object]] = [
        {
            "model": name,
            "actions": len(each),
            "p50_ms": percentile(each, 0.5),
            "p99_ms": percentile(each, 0.99),
            "max_ms": max(each),
        }
        for name, each in times.items()
    ]
    goals = [
        Goal("reaction_p99_ms", percentile(everything, 0.99), "<=", 100),
        Goal("acted_too_early", float(sum(ms < 0 for ms in everything)), "<=", 0),
    ]
    return Bench("reaction", rows, goals, f"A limit that must hold for {HARD_S} s.")
