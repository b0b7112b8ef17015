"""Who may drive the plant: the baselines, the bound, and our guard with judges of any quality."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from sovl_daemon.control.decider import Decider
from sovl_daemon.control.metric import Reading
from sovl_daemon.control.task import Task
from sovl_daemon.laboratory.control.baselines import (
    Baseline,
    Hpa,
    Hysteresis,
    Oomd,
    PlantController,
    Threshold,
)
from sovl_daemon.laboratory.control.fitting import fitted, memory_task
from sovl_daemon.laboratory.control.judges import (
    Opine,
    TimedJudge,
    blurred,
    coin,
    constant,
    garbage,
    mistaken,
    perfect,
    shuffled,
)
from sovl_daemon.laboratory.control.oracle import Oracle
from sovl_daemon.laboratory.control.plant import Plant
from sovl_daemon.laboratory.control.run import HARD, ControlSimulation, Faults, Run
from sovl_daemon.laboratory.control.scenario import FAMILIES, Scenario, draw

JudgeFor = Callable[[Plant], TimedJudge]

NONE, BOUND, RIVAL = "none", "hindsight", "threshold+hysteresis"
_CONTROLS_SEED = 9_000


@dataclass(frozen=True)
class Policy:
    """A name, a controller for a task on a plant, and its judge, if it asks one.

    `judge` makes one for a plant, so that nothing that it draws depends on other runs. A judge
    from outside, such as the language model itself, comes in here: see `judges.outside`.
    """

    name: str
    make: Callable[[Task, Plant], PlantController]
    judge: JudgeFor | None = None


def simulation(
    scenario: Scenario, policy: Policy, faults: Faults | None = None
) -> ControlSimulation:
    """A policy on a fresh plant, about to live through a scenario."""
    plant, task = Plant(scenario), memory_task()
    judge = policy.judge(plant) if policy.judge else None
    controller = policy.make(task, plant)
    return ControlSimulation(scenario, task, controller, plant, judge=judge, faults=faults)


def live(scenario: Scenario, policy: Policy, faults: Faults | None = None) -> Run:
    """One run of a policy."""
    return simulation(scenario, policy, faults).finish()


def baselines() -> list[Policy]:
    """What others do, and the bound."""
    return [
        Policy(NONE, lambda task, plant: Baseline(task)),
        Policy("threshold", lambda task, plant: Threshold(task)),
        Policy(RIVAL, lambda task, plant: Hysteresis(task)),
        Policy("oomd-like", lambda task, plant: Oomd(task)),
        Policy("HPA-like", lambda task, plant: Hpa(task)),
        Policy(BOUND, Oracle),
    ]


def ours() -> Policy:
    """The guard with the regression, which stands in for the language model."""
    return Policy("guard+regression", _decider, lambda plant: TimedJudge(fitted().opine))


def guarded(name: str, judge: TimedJudge | None = None) -> Policy:
    """The guard with any judge, or none: then only hard limits act."""
    return Policy(name, _decider, None if judge is None else lambda plant: judge)


def controls() -> list[Policy]:
    """The same guard with judges that know nothing.

    The coin says true as often as the regression; the shuffled one is the regression, but reads
    metrics of another moment.
    """
    return [
        Policy("guard+coin", _decider, _drawing(lambda rng: coin(rng, _asked()[0]))),
        Policy(
            "guard+shuffled",
            _decider,
            _drawing(lambda rng: shuffled(rng, fitted(), _asked()[1])),
        ),
    ]


@cache
def _asked() -> tuple[float, list[dict[str, Reading]]]:
    """The regression's share of true, and what it read, in an hour of each family."""
    runs = [live(draw(family, _CONTROLS_SEED), ours()) for family in FAMILIES]
    share = sum(run.trues for run in runs) / sum(run.questions for run in runs)
    return share, [each for run in runs for each in run.seen]


def qualities() -> list[Policy]:
    """The same guard with judges from the best there can be to none."""
    return [
        Policy("guard+perfect", _decider, lambda plant: TimedJudge(perfect(plant, HARD))),
        *(
            Policy(f"guard+perfect, {share:.0%} wrong", _decider, _erring(share))
            for share in (0.1, 0.25)
        ),
        *(Policy(f"guard+regression, noise {sd:g}", _decider, _noisy(sd)) for sd in (1.0, 3.0)),
        guarded("guard+always true", TimedJudge(constant(1.0))),
        guarded("guard alone"),
    ]


def broken_judges() -> list[Policy]:
    """The same guard with judges that are slow, or say what is no answer."""
    return [
        Policy("slow judge", _decider, lambda plant: TimedJudge(fitted().opine, (3.0, 30.0))),
        guarded("constant judge (false)", TimedJudge(constant(0.0))),
        Policy("garbage judge", _decider, _drawing(garbage)),
    ]


def policies() -> list[Policy]:
    """All there are, by whom the study compares first."""
    return [*baselines(), ours(), *controls(), *qualities(), *broken_judges()]


def _decider(task: Task, plant: Plant) -> PlantController:
    return Decider(task)


def _erring(share: float) -> JudgeFor:
    def judge(plant: Plant) -> TimedJudge:
        return TimedJudge(mistaken(perfect(plant, HARD), _rng(plant), share))

    return judge


def _noisy(deviation: float) -> JudgeFor:
    return _drawing(lambda rng: blurred(fitted().opine, rng, deviation))


def _drawing(make: Callable[[random.Random], Opine]) -> JudgeFor:
    return lambda plant: TimedJudge(make(_rng(plant)))


def _rng(plant: Plant) -> random.Random:
    scenario = plant.scenario
    return random.Random(f"{scenario.family} {scenario.seed} judge")  # noqa: S311 - a game
