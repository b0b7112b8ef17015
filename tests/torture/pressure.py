"""Genuine memory pressure on a daemon that talks and trains: with the loop it lives, without not.

Hub, model host and a ballast share a control group. When the daemon is warm, the group gets a limit
of what it uses and a good half more; then the ballast grows slowly to a bound beyond what is left.
The kernel does what it does: it kills the host, unless the loop has made room before. In the end
the ballast goes, and everything must be as it was.
"""

import json
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import platformdirs

from benchmarks.common import Bench, Goal
from sovl_daemon.client import ClientError, CommandError
from sovl_daemon.testing import Daemon, running, until
from tests.torture.memory_group import MB, MOST, Ballast, MemoryGroup, memory_group

IN_USE = 0.62  # of the limit, by the daemon alone
NEAR = 0.9  # of the limit, up to which the ballast grows fast
BEYOND = 0.25  # of what 8 bits a weight save: so far the ballast goes beyond the limit
WARM_STEPS = 8
FAST_MB_S, SLOW_MB_S = 60, 6
SETTINGS = ("core_config.quantization", "generation.max_concurrent", "generation.prefix_cache_mb")
PROMPTS = ("What is the capital of France?", "Tell me about the sea.", "What do cats eat?")


@dataclass
class Pace:
    """Seconds of each part."""

    warm_s: float = 10.0
    hold_s: float = 30.0
    back_s: float = 240.0


@dataclass
class Life:
    """What was seen of one daemon. Bytes of the group, seconds."""

    limit: int = 0
    ballast: int = 0
    most_used: int = 0
    kills: int = 0
    answers: int = 0
    failed: int = 0
    under_pressure: int = 0  # answers while the ballast was at its bound, or beyond what was left
    trained_steps: int = 0
    longest_s: float = 0.0  # that an answer took
    same_host: bool = False
    actions: list[str] = field(default_factory=list)
    back_s: float | None = None  # from the ballast's end until nothing was degraded any more
    same_settings: bool = False
    same_weights: bool = False


class Talk:
    """Talks without a pause, in its own thread, to a host that may be killed meanwhile."""

    def __init__(self, daemon: Daemon, life: Life) -> None:
        self._daemon, self._life = daemon, life
        self._over = threading.Event()
        works = (self._talk, self._train)
        self._threads = [threading.Thread(target=each, daemon=True) for each in works]
        self._pairs = daemon.root / "pairs.jsonl"
        self.pressed = False

    def start(self) -> None:
        rows = (
            {"prompt": f"What is the capital of land {n}?", "response": f"It is town {n}."}
            for n in range(40)
        )
        self._pairs.write_text("".join(json.dumps(row) + "\n" for row in rows))
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(60)  # a training that is still paused says nothing any more

    def _talk(self) -> None:
        turn = 0
        while not self._over.is_set():
            turn += 1
            began = time.monotonic()
            try:
                with self._daemon.client() as client:
                    client.ask("generate", prompt=f"{turn}. {PROMPTS[turn % len(PROMPTS)]}")
            except (ClientError, CommandError):
                self._life.failed += 1
                self._over.wait(0.2)
                continue
            self._life.answers += 1
            self._life.under_pressure += self.pressed
            self._life.longest_s = max(self._life.longest_s, time.monotonic() - began)

    def _train(self) -> None:
        while not self._over.is_set():
            try:
                self._learn()
            except (ClientError, CommandError):
                self._over.wait(0.5)  # the host is gone, or training is paused

    def _learn(self) -> None:
        with self._daemon.client() as client:
            for step in client.stream("train", file=str(self._pairs), epochs=1000, fresh=True):
                self._life.trained_steps += "step" in step
                if self._over.is_set():
                    return


def live(
    root: Path, *, controlled: bool, settings: dict[str, Any], pace: Pace | None = None
) -> Life:
    """One daemon from its start until all is as before, or its host was killed."""
    pace, life = pace or Pace(), Life()
    given = {
        "controls_config.has_woken": True,
        "control.enabled": controlled,
        "control.shadow": False,
        **settings,
    }
    with memory_group() as group:
        group.limit(MOST)
        with running(root, wrapper=group.wrapper, **given) as daemon:
            _live(group, daemon, life, pace)
    return life


def _live(group: MemoryGroup, daemon: Daemon, life: Life, pace: Pace) -> None:
    daemon.logged("scaffold.ready")
    before, host = _state(daemon), daemon.worker().pid
    with closing(Talk(daemon, life)) as talk, closing(Ballast(group)) as ballast:
        talk.start()
        used = _settled(group, life, pace.warm_s)
        life.limit = min(MOST, int(used / IN_USE))
        group.limit(life.limit)
        life.ballast = life.limit - used + int(BEYOND * _saving(before))
        _press(group, ballast, life, talk, pace)
        life.same_host = not life.kills and daemon.worker().pid == host
        ballast.hold(0)
        talk.pressed = False
        if life.same_host:
            life.back_s = _seconds_until_back(daemon, pace.back_s)
    life.actions = _actions(daemon)
    after = _state(daemon) if life.same_host else {}
    life.same_settings = all(after.get(key) == before[key] for key in SETTINGS)
    life.same_weights = bool(after) and after["fingerprint"] == before["fingerprint"]


def _press(group: MemoryGroup, ballast: Ballast, life: Life, talk: Talk, pace: Pace) -> None:
    """Fill the group, slowly where it becomes tight, and hold it; a killed host is the end."""
    ballast.hold((int(NEAR * life.limit) - group.used) // MB, per_s=FAST_MB_S)
    fast_s = life.ballast / MB / FAST_MB_S
    slow_s = 2 * life.ballast / MB * (1 - NEAR) / (1 - IN_USE) / SLOW_MB_S
    for used in _watched(group, fast_s):
        life.most_used = max(life.most_used, used)
    ballast.hold(life.ballast // MB, per_s=SLOW_MB_S)
    talk.pressed = True
    for used in _watched(group, slow_s + pace.hold_s):
        life.most_used = max(life.most_used, used)
        if group.kills:
            break
    life.kills = group.kills


def _settled(group: MemoryGroup, life: Life, seconds: float) -> int:
    """The most that is used while it talks and trains, once both go on for a while."""
    for _ in until(60):
        if life.trained_steps >= WARM_STEPS and life.answers >= 1:
            break
    return max(_watched(group, seconds))


def _watched(group: MemoryGroup, seconds: float) -> Iterator[int]:
    """Bytes in use, again and again."""
    for _ in until(seconds, pause=0.1):
        yield group.used


def _saving(state: dict[str, Any]) -> int:
    bits = {"fp32": 32, "fp16": 16}[state["fingerprint"]["precision"]]
    return int(state["parameters"] * (bits - 8) // 8)


def _state(daemon: Daemon) -> dict[str, Any]:
    """What must be the same again."""
    (loaded,) = [each for each in daemon.events() if each["event"] == "model.loaded"][-1:]
    with daemon.client() as client:
        found = {key: client.control("config", key=key)["value"] for key in SETTINGS}
        return {
            **found,
            "fingerprint": client.ask("fingerprint"),
            "parameters": loaded["parameters"],
        }


def _actions(daemon: Daemon) -> list[str]:
    """What was done, in order, as the journal tells."""
    with daemon.client() as client:
        entries = client.ask("actions", what="history", limit=1000)["actions"]
    return [f"{each['action']} {each['state']}" for each in reversed(entries)]


def _seconds_until_back(daemon: Daemon, seconds: float) -> float | None:
    began = time.monotonic()
    for _ in until(seconds, pause=0.5):
        with daemon.client() as client:
            if not client.ask("actions")["in_force"]:
                return time.monotonic() - began
    return None


def figures(life: Life) -> dict[str, object]:
    return {
        "limit_mb": life.limit // MB,
        "ballast_mb": life.ballast // MB,
        "most_used_percent": 100 * life.most_used / life.limit,
        "host_kills": life.kills,
        "answers": life.answers,
        "failed": life.failed,
        "answers_under_pressure": life.under_pressure,
        "trained_steps": life.trained_steps,
        "longest_answer_s": life.longest_s,
        "actions": ", ".join(life.actions) or None,
        "back_s": life.back_s,
    }


def judged(without: Life, with_: Life) -> Bench:
    """The comparison, with what must be shown."""
    rows = [{"loop": name, **figures(life)} for name, life in (("off", without), ("on", with_))]
    goals = [
        Goal("host_kills_without", without.kills, ">=", 1),
        Goal("host_kills_with", with_.kills, "<=", 0),
        Goal("failed_answers_with", with_.failed, "<=", 0),
        Goal("answers_under_pressure_with", with_.under_pressure, ">=", 1),
        Goal("all_back", float(with_.back_s is not None and with_.same_settings), ">=", 1),
        Goal("weights_bit_identical", float(with_.same_weights), ">=", 1),
    ]
    return Bench("pressure", rows, goals, "Hub, host and ballast in one group with a limit.")


def run(quick: bool) -> Bench:
    pace = Pace(hold_s=5.0 if quick else 30.0)
    settings = {"store.model_dir": str(platformdirs.user_cache_path("sovl") / "models")}
    lives = []
    for controlled in (False, True):
        with tempfile.TemporaryDirectory(prefix="sovl") as folder:
            root = Path(folder)
            lives.append(live(root, controlled=controlled, settings=settings, pace=pace))
    return judged(*lives)
