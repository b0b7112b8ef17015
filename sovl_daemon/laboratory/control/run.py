"""One run: a controller drives a plant through a scenario, and what happened is counted."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field

from sovl_daemon.control.action import WITHIN_S, Effect
from sovl_daemon.control.circuit_breaker import CircuitBreaker
from sovl_daemon.control.decision import Step
from sovl_daemon.control.executor import Outcome, Result
from sovl_daemon.control.metric import Inspector, Reading
from sovl_daemon.control.metric_sampler import sampling_interval_s
from sovl_daemon.control.prompt import MAX_LINES
from sovl_daemon.control.task import Task
from sovl_daemon.control.verdict import JudgeQuestion, Opinion
from sovl_daemon.laboratory.control.baselines import MEMORY, PRESSURE, PlantController
from sovl_daemon.laboratory.control.faults import ActionFault, SensorFault, Sensors, effect_delay_s
from sovl_daemon.laboratory.control.judges import TimedJudge
from sovl_daemon.laboratory.control.plant import LASTING, Plant
from sovl_daemon.laboratory.control.scenario import Scenario

KV = "kv_cache.bytes"
BYTES = 160e6  # one percent of a machine with 16 GB
HARD = 92.0
CALM = 85.0
_LIAR = "quantize_int8"
_WRONG = 5.0  # of the capacity, in percent
_PRESSING = 20.0
_LEAST = 0.5  # of the capacity, in percent; less is not worth an action


@dataclass
class Faults:
    """What is wrong in a run."""

    sensor: SensorFault = ""
    action: ActionFault = ""


@dataclass
class Run:
    """What happened.

    Moves are (time, +1 acted or -1 relaxed); seconds are by setting; waits the seconds from each
    time that memory crossed the hard limit to an action's effect, infinite if there was none.
    Invalid counts what was begun on a reading with a fault, or on one that was wrong by more than
    5 % where memory was not really beyond its hard limit, or on an opinion that came too late or
    was no answer.
    """

    ooms: list[float] = field(default_factory=list)
    moves: list[tuple[float, int]] = field(default_factory=list)
    degraded: list[tuple[float, float]] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    failures: int = 0
    false_failures: int = 0
    questions: int = 0
    trues: int = 0
    samples: int = 0
    invalid: int = 0
    waits: list[float] = field(default_factory=list)
    seen: list[dict[str, Reading]] = field(default_factory=list)


class _Flight:
    """One action in flight: the same transaction as the executor's, in simulated time."""

    def __init__(self, plant: Plant, step: Step, rng: random.Random, lies: bool) -> None:
        self.action, self.acts = step.action, step.does == "act"
        self.begun_s = plant.now_s
        self.lied = lies and self.acts
        self._before = plant.measure(step.action)
        self._effect = Effect(max(plant.predict(step.action), 1e-9)) if self.acts else None
        self._takes_s = effect_delay_s(rng)
        if not self.lied:
            plant.land(step.action, self.acts, self._takes_s)

    def over(self, plant: Plant, now_s: float) -> str:
        """`committed`, `reverted`, or nothing as long as it flies."""
        passed_s = now_s - self.begun_s
        if self._effect is None:
            return "reverted" if passed_s >= self._takes_s else ""
        if self._effect.is_shown(self._before, plant.measure(self.action)):
            return "committed"
        return "failed" if passed_s > WITHIN_S else ""


class ControlSimulation:
    """A controller on a plant. The same arguments always give the same run."""

    def __init__(
        self,
        scenario: Scenario,
        task: Task,
        controller: PlantController,
        plant: Plant,
        *,
        judge: TimedJudge | None = None,
        faults: Faults | None = None,
    ) -> None:
        self._scenario, self._task, self._controller, self._plant = (
            scenario,
            task,
            controller,
            plant,
        )
        self._faults = faults or Faults()
        # Each source of chance has its own stream, so that runs of a seed can be compared in pairs.
        seed = f"{scenario.family} {scenario.seed}"
        self._delays = random.Random(f"{seed} delays")  # noqa: S311 - a game
        self._latencies = random.Random(f"{seed} latencies")  # noqa: S311
        noise = random.Random(f"{seed} noise")  # noqa: S311
        self._sensors = Sensors(plant, scenario.noise, noise, self._faults.sensor)
        self._judge = judge
        names = {MEMORY, PRESSURE, KV}
        metrics = [each for each in task.metrics if each.name in names]
        self._inspectors = {metric.name: Inspector(metric) for metric in metrics}
        self._breakers: dict[str, CircuitBreaker] = {}
        self._flight: _Flight | None = None
        self._crossed_s: float | None = None
        self._answer: tuple[float, JudgeQuestion, Opinion] | None = None
        self._dead = self._read = 0
        self._log: list[str] = []
        self.run = Run()

    def finish(self) -> Run:
        """Live through the whole scenario and return what happened."""
        now_s, plant, run = 0.0, self._plant, self.run
        while now_s < self._scenario.duration_s:
            plant.advance(now_s)
            if len(plant.ooms) > self._dead:
                self._bury()
            readings = self._readings(now_s)
            if self._flight is not None:
                self._land(now_s, self._flight)
            if self._answer is not None and now_s >= self._answer[0]:
                self._deliver(now_s, *self._answer[1:])
            step = self._controller.sense(
                now_s,
                readings,
                log_lines=self._log_lines(now_s),
                unavailable=self._unavailable(now_s),
            )
            if step.does != "hold":
                if step.does != "ask":
                    self.run.invalid += self._is_misread(step, readings)
                self._do(now_s, step)
            memory = readings[MEMORY]
            wait_s = sampling_interval_s(
                0.0 if memory.fault else (HARD - memory.value) / 100.0,
                readings[PRESSURE].value,
                verifying=self._flight is not None or bool(self._answer),
            )
            if plant.settings:
                self._count(now_s, wait_s)
            if self._crossed_s is None:
                self._crossed_s = now_s if plant.used() >= HARD else None
            elif plant.used() < CALM:
                self._crossed_s = None  # it went by of itself, or was dealt with
            run.samples += 1
            now_s += wait_s
        run.ooms = list(plant.ooms)
        return run

    def _readings(self, now_s: float) -> dict[str, Reading]:
        sample = self._sensors.read(now_s)
        inspectors, taken_s = self._inspectors, sample.taken_s
        return {
            MEMORY: inspectors[MEMORY].check(sample.memory, taken_s, now_s),
            PRESSURE: inspectors[PRESSURE].check(sample.pressure, now_s, now_s),
            KV: inspectors[KV].check(sample.kv * BYTES, now_s, now_s),
        }

    def _log_lines(self, now_s: float) -> list[str]:
        """The last lines; cheap, for it is called at every sample."""
        lines = self._scenario.lines
        while self._read < len(lines) and lines[self._read].time_s <= now_s:
            self._log.append(lines[self._read].text)
            self._read += 1
        return self._log[-MAX_LINES:]

    def _do(self, now_s: float, step: Step) -> None:
        if step.does == "ask" and step.question is not None:
            self.run.questions += 1
            self.run.seen.append(dict(step.question.readings))
            if self._judge is not None:
                takes_s = self._latencies.uniform(*self._judge.takes_s)
                opinion = self._judge.opine(step.question)
                self._answer = (now_s + takes_s, step.question, opinion)
        elif step.does == "act" and self._plant.predict(step.action) < _LEAST:
            outcome = Outcome(step.action, "refused", "there is hardly anything to gain")
            self._controller.performed(now_s, outcome)
        elif step.does in ("act", "relax"):
            lies = self._faults.action == "lies" and step.action == _LIAR
            self._flight = _Flight(self._plant, step, self._delays, lies)

    def _is_misread(self, step: Step, readings: dict[str, Reading]) -> bool:
        """Whether what a move rests on is wrong, and the truth is no reason for it either."""
        really = self._plant.used() >= HARD or readings[PRESSURE].value >= _PRESSING
        if step.does == "act" and really:
            return False
        return bool(readings[MEMORY].fault) or not self._sensors.error <= _WRONG

    def _deliver(self, now_s: float, question: JudgeQuestion, opinion: Opinion) -> None:
        self._answer = None
        step = self._controller.answered(now_s, question, opinion)
        if step.does == "act":
            self.run.trues += 1
            late = now_s - question.asked_s > question.task.deadline_s
            both = (opinion.p_true, opinion.p_false)
            sound = all(0 <= p <= 1 for p in both) and 0.5 <= sum(both) <= 1 + 1e-6
            self.run.invalid += late or not sound
            self._do(now_s, step)

    def _land(self, now_s: float, flight: _Flight) -> None:
        result = flight.over(self._plant, now_s)
        if not result:
            return
        self._flight = None
        before = self._breakers.get(flight.action, CircuitBreaker())
        if result == "failed":
            self._breakers[flight.action] = before.failed(now_s)
            self.run.failures += 1
            self.run.false_failures += not flight.lied
            self._plant.land(flight.action, False, 0.0)
        elif result == "committed":
            self._breakers[flight.action] = before.succeeded()
        if result != "failed" and flight.action in LASTING:
            self.run.moves.append((now_s, 1 if flight.acts else -1))
        if result == "committed":
            self._waited(now_s)
        final: Result = "committed" if result == "committed" else "reverted"
        self._controller.performed(now_s, Outcome(flight.action, final, result))

    def _waited(self, until_s: float) -> None:
        if self._crossed_s is not None and self._crossed_s < math.inf:
            self.run.waits.append(until_s - self._crossed_s)
            self._crossed_s = math.inf  # counted; the next crossing comes after a calm

    def _bury(self) -> None:
        """The host was killed: what was in force or in flight died with it."""
        self._dead = len(self._plant.ooms)
        self._crossed_s = self._crossed_s or self._plant.now_s
        self._waited(math.inf)
        self._crossed_s = None
        if self._flight is not None:
            flight, self._flight = self._flight, None
            outcome = Outcome(flight.action, "reverted", "the host was killed")
            self._controller.performed(self._plant.now_s, outcome)
        for action in tuple(self._controller.ladder.in_force):
            self._controller.gone(action)

    def _unavailable(self, now_s: float) -> dict[str, str]:
        if not self._breakers:
            return {}
        held = (name for name, each in self._breakers.items() if each.is_open(now_s))
        return dict.fromkeys(held, "in quarantine")

    def _count(self, now_s: float, seconds: float) -> None:
        self.run.degraded.append((now_s, seconds))
        for setting in self._plant.settings:
            self.run.seconds[setting] = self.run.seconds.get(setting, 0.0) + seconds


def demand(scenario: Scenario) -> list[float]:
    """What would be in use at each second if nobody acted and memory had no end."""
    plant, found = Plant(scenario, mortal=False), []
    for second in range(math.ceil(scenario.duration_s) + 1):
        plant.advance(float(second))
        found.append(plant.used())
    return found
