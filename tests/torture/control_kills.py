"""kill -9 at every step of every action of a running daemon: afterwards journal and truth agree.

The controller lives in a process of its own, which is killed before each step in turn: each use of
the journal, and before and after each command by which something is set; doing and undoing. Hub and
model host live, so what was half done stays done until the new controller finds it. In another
round the whole hub is killed instead.
"""

import json
import os
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.common import Bench, Goal, median
from config import Settings, get_value
from sovl_daemon.client import ClientError, CommandError
from sovl_daemon.control.journal import Journal
from sovl_daemon.testing import Daemon, running, until
from sovl_daemon.testing.level import ACT, HOLD, Level, write_task

SABOTAGE = Path(__file__).parents[1] / "fixtures" / "sabotage"
MAX_STEPS = 30
AGREE_S = 20.0
KEYS = {
    "limit_admission": "generation.max_concurrent",
    "shrink_context": "generation.prefix_cache_mb",
    "quantize_int8": "core_config.quantization",
    "offload_weights": "host.offload_weights",
    "fewer_cores": "host.cores",
    "later_nights": "controls_config.sleep_log_min",
}
OF_TRAINING = {  # what they set, if not a key, by the agent that tells
    "lower_learning_rate": ("trainer", "rate"),
    "smaller_batches": ("trainer", "batch"),
    "pause_training": ("gestation", "held"),
}
ACTIONS = (*KEYS, *OF_TRAINING)
OF_MEMORY = ("shrink_context", "quantize_int8", "offload_weights")  # they need some to free
OF_LIFE = ("later_nights",)  # it needs something to learn
STATS = {
    "limit_admission": "max_concurrent",
    "shrink_context": "prefix_cache_mb",
    "quantize_int8": "precision",
    "offload_weights": "offloaded",
    "fewer_cores": "cores",
    "later_nights": "entries_needed",
}
WORDS = {"held": "1", "free": "0", "true": "True", "false": "False"}
LESSONS = 400


@dataclass
class Report:
    """Kills by action and direction, and what did not agree afterwards."""

    kills: Counter[str] = field(default_factory=Counter)
    left: Counter[str] = field(default_factory=Counter)  # how often what was in force after a kill
    wrong: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)  # until all agreed again


def settings_for(folder: Path, action: str, *, process: str) -> dict[str, Any]:
    """A daemon with a small model below `folder`, and the controller in `process`."""
    from tests import tiny_models  # loads torch

    settings = tiny_models.settings(folder)
    if action in OF_MEMORY:
        model = tiny_models.save(tiny_models.wide(), folder / "wide")
        settings["core_config.base_model_name"] = str(model)
    return settings | {
        "agents.placement": {} if process == "hub" else {"controller": process},
        "control.shadow": False,
        "supervision.restart_intensity": 1000,
        "supervision.backoff_initial_s": 0.05,
        "supervision.backoff_max_s": 0.05,
        "training_config.max_patience": 1000,
        "logging.level": "debug",
    }


class Torture:
    """One daemon whose action is killed step by step."""

    def __init__(self, root: Path, settings: dict[str, Any], action: str, report: Report) -> None:
        self.root, self.settings, self.action, self.report = root, settings, action, report
        self.steps = root / "steps"
        self.configured = str(self._setting())

    @contextmanager
    def living(self) -> Iterator[tuple[Daemon, Level]]:
        write_task(self.root, action=self.action)
        with (
            _variable("SABOTAGE", str(self.root)),
            running(self.root, packages=SABOTAGE, **self.settings) as daemon,
            closing(Level(daemon)) as level,
            learning(daemon) if self.action in OF_TRAINING else nullcontext(),
        ):
            yield daemon, level

    def controller(self) -> None:
        """Kill the controller's process at each step of doing and of undoing."""
        with self.living() as (daemon, level):
            for work in ("do", "undo"):
                for number in range(MAX_STEPS):
                    self._prepare(daemon, level, degraded=work == "undo")
                    if not self._killed(daemon, level, work, number):
                        break
                    self._agree(daemon, f"{work} {number}")
            self._agree(daemon, "in the end", really=True)

    def hub(self, numbers: Iterable[int]) -> None:
        """Kill the hub, with it everything, at some steps of doing; start it again."""
        for number in numbers:
            with self.living() as (daemon, level):
                self.fill(daemon)
                if not self._killed(daemon, level, "do", number):
                    return
                daemon.process.wait(10)
            with self.living() as (daemon, _):
                self._agree(daemon, f"hub {number}", really=True)

    def fill(self, daemon: Daemon) -> None:
        """Let there be something to free, or to learn, for what needs that."""
        if self.action not in (*OF_MEMORY, *OF_LIFE):
            return
        length = 70 if self.action in OF_MEMORY else 1
        with daemon.client() as client:
            for sea in ("Black", "White"):
                client.ask("generate", prompt=f"The {sea} Sea is wide. " * length)

    def _prepare(self, daemon: Daemon, level: Level, *, degraded: bool) -> None:
        """Bring it into force, or out of it, unharmed."""
        if degraded:
            self.fill(daemon)
        level.value = ACT if degraded else HOLD
        for _ in until(30):
            with suppress(ClientError, CommandError), daemon.client() as client:
                found = client.ask("actions")
                if bool(found["in_force"]) == degraded:
                    break
                if not degraded:
                    client.ask("actions", what="revert")
        else:
            raise AssertionError(f"never {degraded=}\n{daemon.output()}")
        level.value = HOLD
        if not degraded:
            self.fill(daemon)
        time.sleep(0.3)  # until the gauge has arrived

    def _killed(self, daemon: Daemon, level: Level, work: str, number: int) -> bool:
        """Do or undo, killed before the step of that number; False if there are fewer."""
        self.steps.write_text(str(number))
        if work == "undo":
            with suppress(ClientError, CommandError), daemon.client() as client:
                client.ask("actions", what="revert")
        else:
            level.value = ACT
        for _ in until(20):
            if not self.steps.exists():
                level.value = HOLD
                self.report.kills[f"{self.action} {work}"] += 1
                return True
            if number and self._is_done(daemon, work):
                break
        self.steps.unlink(missing_ok=True)
        level.value = HOLD
        return False

    def _is_done(self, daemon: Daemon, work: str) -> bool:
        with suppress(ClientError, CommandError), daemon.client() as client:
            return bool(client.ask("actions")["in_force"]) == (work == "do")
        return False

    def _agree(self, daemon: Daemon, what: str, *, really: bool = False) -> None:
        """Wait until the journal is settled, and compare it with what is in force.

        `really` asks the engine itself, which tells each second, else the hub.
        """
        began, seen = time.monotonic(), "nothing"
        for _ in until(AGREE_S):
            try:
                seen = self._difference(daemon, really=really)
            except (ClientError, CommandError, KeyError) as error:
                seen = f"{type(error).__name__}: {error}"
            if not seen:
                self.report.seconds.append(time.monotonic() - began)
                return
        self.report.wrong.append(f"{self.action} {what}: {seen}")

    def _difference(self, daemon: Daemon, *, really: bool) -> str:
        with daemon.client() as client:
            client.ask("actions")  # the controller is there again
            if self.action in OF_TRAINING:
                agent, key = OF_TRAINING[self.action]
                found = f"{client.control('stats')['agents'][agent][key]:g}"
            elif really:
                agent = "gestation" if self.action in OF_LIFE else "generator"
                found = client.control("stats")["agents"][agent][STATS[self.action]]
            else:
                found = client.control("config", key=KEYS[self.action])["value"]
        with closing(Journal(self.root / "state" / "actions.db")) as journal:
            if open_ := journal.unfinished():
                return f"unfinished: {open_}"
            targets = [WORDS.get(each.target, each.target) for each in journal.in_force()]
        if str(found) != (targets or [self.configured])[0]:
            return f"{found} is in force, and in the journal {targets}"
        self.report.left["degraded" if targets else "as configured"] += 1
        return ""

    def _setting(self) -> object:
        if self.action in OF_TRAINING:
            return 0 if self.action == "pause_training" else 1
        key = KEYS[self.action]
        return self.settings.get(key, get_value(Settings(), key))


@contextmanager
def learning(daemon: Daemon) -> Iterator[None]:
    """A training that goes on all the while, from its first step on."""
    daemon.logged("scaffold.ready")
    begun, over = threading.Event(), threading.Event()
    thread = threading.Thread(target=_learn, args=(daemon, begun, over))
    thread.start()
    try:
        assert begun.wait(60), f"it never began to train\n{daemon.output()}"
        yield
    finally:
        over.set()
        thread.join()


def _learn(daemon: Daemon, begun: threading.Event, over: threading.Event) -> None:
    pairs = daemon.root / "pairs.jsonl"
    rows = [{"prompt": f"Say {n}", "response": str(n)} for n in range(LESSONS)]
    pairs.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with daemon.client() as client:
        for step in client.stream("train", file=str(pairs), epochs=1000, force=True):
            if "epoch" in step:
                begun.set()
            if over.is_set():
                return


@contextmanager
def _variable(name: str, value: str) -> Iterator[None]:
    os.environ[name] = value
    try:
        yield
    finally:
        del os.environ[name]


def torture(
    root: Path, folder: Path, actions: Iterable[str] = ACTIONS, hub_steps: Iterable[int] = range(99)
) -> Report:
    """Kill the controller at every step of some actions, then the hub at some of the first one."""
    report, actions = Report(), list(actions)
    for number, action in enumerate(actions):
        settings = settings_for(folder, action, process="keeper")
        own = root / str(number)  # what one leaves in the journal is no matter of the next
        own.mkdir()
        Torture(own, settings, action, report).controller()
    settings = settings_for(folder, actions[0], process="hub")
    Torture(root, settings, actions[0], report).hub(hub_steps)
    return report


def judged(report: Report) -> Bench:
    """The counts, with what must be shown."""
    rows: list[dict[str, object]] = [
        {"figure": f"kills, {name}", "value": count} for name, count in report.kills.items()
    ]
    rows += [{"figure": f"then {name}", "value": count} for name, count in report.left.items()]
    rows.append({"figure": "median s until all agreed", "value": median(report.seconds)})
    goals = [Goal("disagreements", float(len(report.wrong)), "<=", 0)]
    return Bench("control_kills", rows, goals, "; ".join(report.wrong))


def run(quick: bool) -> Bench:
    with (
        tempfile.TemporaryDirectory(prefix="sovl") as root,
        tempfile.TemporaryDirectory(prefix="sovl") as folder,
    ):
        actions = ["limit_admission"] if quick else ACTIONS
        return judged(torture(Path(root), Path(folder), actions, range(3 if quick else 99)))
