"""kill -9 at random moments of nights: nothing lost, nothing learned twice, no half state.

A tiny model with random weights talks and sleeps; the model host, sometimes the hub, is killed
between the start of a night and a bit after its commit. The host must come back by itself; a hub is
started again, as the service manager would. What is checked is what lies on disk, and the log.
"""

import random
import statistics
import tempfile
import threading
import time
from collections import Counter
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from benchmarks.common import Bench, Goal
from sovl_daemon.client import ClientError, CommandError
from sovl_daemon.memory.interactions import InteractionStore
from sovl_daemon.state import Damaged, StateStore
from sovl_daemon.testing import Daemon, running, until

HUB_SHARE = 0.3  # of all kills; the others hit the model host
COMMIT_SHARE = 0.4  # of all kills; they come while the night is being written down
AROUND_COMMIT_S = 0.15
AFTERWARDS = 1.2  # of a night's length: how late the others may come
WAKE_S = 60.0
LAST_NIGHTS = 3
SYLLABLES = ("ba", "dor", "fel", "gri", "ka", "lum", "mi", "nor", "pel", "ru", "sta", "vo", "zor")
WORDS = ("Hello there!", "How are you?", "Tell me something.", "Good morning!")
# Each of them tells that something was not whole when it was read.
HALF = {"state.refused", "state.unfit", "state.begun_anew", "child.given_up"}


def settings_for(folder: Path) -> dict[str, Any]:
    """A daemon with a tiny model of its own below `folder`, that any night satisfies."""
    from tests import tiny_models  # loads torch

    return tiny_models.settings(folder) | {
        "controls_config.sleep_time_factor": 0.5,
        "supervision.restart_intensity": 1000,
        "supervision.backoff_initial_s": 0.05,
        "supervision.backoff_max_s": 0.1,
    }


@dataclass
class Report:
    """What was done, and what went wrong; `lost` and `twice` are ids, `half` what was found."""

    kills: Counter[str] = field(default_factory=Counter)
    came_back: list[float] = field(default_factory=list)
    interactions: int = 0
    generations: int = 0
    resumed: int = 0
    lost: set[int] = field(default_factory=set)
    twice: set[int] = field(default_factory=set)
    half: set[str] = field(default_factory=set)
    unlearned: int = 0


class Torture:
    """One daemon that is killed again and again, and what it acknowledged."""

    def __init__(self, daemon: Daemon, seed: int) -> None:
        self.daemon = daemon
        self.rng = random.Random(seed)
        self.store = StateStore(daemon.root / "state")
        self.acknowledged: dict[int, str] = {}
        self.learned: dict[int, int] = {}
        self.committed: dict[int, int] = {}
        self.night_s = 1.0
        self.report = Report()

    def run(self, kills: int) -> Report:
        """Kill it so many times, each time in another night, then let it sleep in peace."""
        self.quiet_night()
        for _ in range(kills):
            self.talk(self.rng.randint(1, 3))
            self.kill_in_a_night()
            self.check()
        for _ in range(LAST_NIGHTS):
            self.quiet_night()
            if not self.check():
                break
        self.report.unlearned = self.check()
        self.report.interactions = len(self.acknowledged)
        self.report.generations = len(self.committed)
        self.report.resumed = len(self.logged("night.resumed"))
        return self.report

    # What is done to it

    def talk(self, prompts: int) -> None:
        """Say something, and note what was acknowledged."""
        with self.daemon.client() as client:
            for _ in range(prompts):
                prompt = self.something()
                answer = client.ask("generate", prompt=prompt)
                self.acknowledged[answer["interaction"]] = prompt

    def something(self) -> str:
        if self.rng.random() < 0.3:
            return self.rng.choice(WORDS)
        place, name = ("".join(self.rng.choices(SYLLABLES, k=2)).title() for _ in range(2))
        return f"The capital of {place} is {name}."

    def quiet_night(self) -> None:
        """Let it sleep until it wakes by itself; that is how long a night is."""
        self.talk(2)
        began = time.monotonic()
        with self.daemon.client() as client:
            client.ask("gestate")
        self.night_s = time.monotonic() - began

    def kill_in_a_night(self) -> None:
        """Send it to sleep, kill the host or the hub, and wait until all is there again."""
        host, victim = self.daemon.worker("host"), "host"
        if self.rng.random() < HUB_SHARE:
            victim = "hub"
        asleep = threading.Thread(target=self.sleep)
        asleep.start()
        self.wait_for_the_moment(asleep)
        began = time.monotonic()
        if victim == "host":
            host.kill()
        else:
            self.daemon.kill()
            assert psutil.wait_procs([host], 5)[1] == [], "an orphan stayed"
            self.daemon.start()
        asleep.join(WAKE_S)
        self.wait_for_another(host.pid)
        self.report.kills[victim] += 1
        self.report.came_back.append(time.monotonic() - began)

    def sleep(self) -> None:
        """A night that may be cut off."""
        with suppress(ClientError, CommandError), self.daemon.client() as client:
            client.ask("gestate")

    def wait_for_the_moment(self, asleep: threading.Thread) -> None:
        if self.rng.random() > COMMIT_SHARE:
            time.sleep(self.rng.uniform(0, AFTERWARDS * self.night_s))
            return
        before = self.written()
        while asleep.is_alive() and self.written() == before:
            time.sleep(0.001)
        time.sleep(self.rng.uniform(0, AROUND_COMMIT_S))

    def written(self) -> set[str]:
        """Names of generations, and of those that are being written."""
        return {path.name for path in self.store.generations.iterdir()}

    def wait_for_another(self, before: int) -> None:
        """Until every agent is ready, and the host is not the one from before."""
        seen: object = None
        for _ in until(WAKE_S):
            with suppress(ClientError, CommandError), self.daemon.client() as client:
                seen = client.control("status")["agents"]
                agents = [(each["state"], each["process"], each["pid"]) for each in seen.values()]
                hosts = {pid for _, process, pid in agents if process == "host"}
                if {state for state, _, _ in agents} == {"ready"} and before not in hosts:
                    return
        raise AssertionError(f"it did not come back: {seen}\n{self.daemon.output()}")

    # What must hold

    def check(self) -> int:
        """Compare what is on disk with what was acknowledged; returns how many are unlearned."""
        history = self.history()
        said = self.acknowledged.items()
        self.report.lost |= {number for number, prompt in said if history.get(number) != prompt}
        for number in self.store.numbers():
            self.count(number)
        self.look_for_second_times()
        self.report.half |= {str(each) for each in self.logged(*HALF) if not tidied(each)}
        unlearned = len(history.keys() - self.learned.keys())
        self.wait_until_settled(unlearned)
        return unlearned

    def history(self) -> dict[int, str]:
        with self.daemon.client() as client:
            found = client.ask("history", limit=1000)["interactions"]
        return {each["id"]: each["prompt"] for each in found}

    def count(self, number: int) -> None:
        """Take note of what a generation says it has learned."""
        try:
            manifest = self.store.find(str(number)).manifest
        except Damaged as error:
            self.report.half.add(str(error))
            return
        self.committed[number] = len(manifest.interactions)
        for learned in manifest.interactions:
            if self.learned.setdefault(learned, number) != number:
                self.report.twice.add(learned)

    def look_for_second_times(self) -> None:
        """A manifest names an interaction once; the log tells how many a night has learned."""
        for each in self.logged("training.committed"):
            if each["learned"] > self.committed.get(each["generation"], each["learned"]):
                self.report.twice.add(each["generation"])

    def wait_until_settled(self, unlearned: int) -> None:
        """Until notes and mind agree with the current generation, as they do once it is loaded."""
        current = self.store.find("current")
        seen: object = None
        for _ in until(WAKE_S):
            with closing(InteractionStore.reading(self.daemon.root / "state" / "sovl.db")) as notes:
                count, memory = notes.unlearned_count(), notes.identity
            with self.daemon.client() as client:
                nights = client.ask("mind")["nights"]
            seen = f"{count} unlearned, {nights} nights"
            if (count, nights) == (unlearned, current.mind()["nights"]):
                break
        else:
            self.report.half.add(f"{seen}, but {unlearned} and {current.mind()['nights']} on disk")
        self.report.lost |= self.learned.keys() - current.manifest.learned_from(memory).keys()

    def logged(self, *names: str) -> list[dict[str, Any]]:
        return [each for each in self.daemon.events() if each["event"] in names]


def tidied(event: dict[str, Any]) -> bool:
    """Whether only a checkpoint was left over, of a night that was committed when the kill came."""
    return str(event.get("reason", "")).startswith("it began from generation")


def torture(root: Path, models: Path, *, kills: int, seed: int) -> Report:
    """Kill a new daemon below `root` so many times; `models` is where its tiny model is put."""
    with running(root, **settings_for(models)) as daemon:
        return Torture(daemon, seed).run(kills)


def judged(report: Report, kills: int) -> Bench:
    rows: list[dict[str, object]] = [
        *({"figure": f"kills of the {name}", "value": each} for name, each in report.kills.items()),
        {"figure": "interactions", "value": report.interactions},
        {"figure": "generations", "value": report.generations},
        {"figure": "nights that went on where they were", "value": report.resumed},
        {"figure": "back after s, median", "value": statistics.median(report.came_back)},
        {"figure": "back after s, most", "value": max(report.came_back)},
        *({"figure": "not whole", "value": each} for each in sorted(report.half)),
    ]
    goals = [
        Goal("came_back", len(report.came_back), ">=", kills),
        Goal("interactions_lost", len(report.lost), "<=", 0),
        Goal("learned_twice", len(report.twice), "<=", 0),
        Goal("half_states", len(report.half), "<=", 0),
        Goal("unlearned_in_the_end", report.unlearned, "<=", 0),
    ]
    return Bench("night_kills", rows, goals)


def run(quick: bool, *, seed: int = 1) -> Bench:
    kills = 10 if quick else 30
    with (
        tempfile.TemporaryDirectory(prefix="sovl") as root,
        tempfile.TemporaryDirectory() as models,
    ):
        return judged(torture(Path(root), Path(models), kills=kills, seed=seed), kills)
