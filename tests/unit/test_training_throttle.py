"""What the health loop does to a training: it is held back, and learns more gently."""

from typing import Any

import anyio
import pytest

from agents.training.throttle import TrainingThrottle
from agents.training.trainer import Trainer
from bus.topics import GaugesGiven
from config import Paths, Settings
from sovl_daemon.contracts.trainer import EaseFactors, EaseTraining, HoldTraining
from sovl_daemon.engine.learning.learner import StepReport
from sovl_daemon.engine.learning.sample import ThrottleFactors


class Alone(Trainer):
    """A trainer that notes what it would publish."""

    def __init__(self) -> None:
        settings = Settings()
        super().__init__(settings, Paths.of(settings), "host")
        self.published: list[tuple[str, Any]] = []

    async def publish(self, topic: str, payload: Any, *, retain: bool = False) -> None:
        self.published.append((topic, payload))


class Learner:
    """What of a learner the throttle sees."""

    def __init__(self) -> None:
        self.throttle, self.throttled, self.rows = ThrottleFactors(), ThrottleFactors(), 4


class Job:
    """Notes what the user is told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def progress(self, *, text: str) -> None:
        self.told.append(text)


NOBODY: Any = Job()


@pytest.fixture
async def trainer() -> Alone:
    return Alone()


async def test_it_is_held_until_it_is_let_go(trainer: Alone) -> None:
    held = await trainer.hold_training(HoldTraining(hold=True), NOBODY)
    assert (held.held, held.training) == (True, False)
    assert await trainer.hold_training(HoldTraining(), NOBODY) == held
    throttle, job = trainer._throttle, Job()
    went_on = anyio.Event()

    async def wait() -> None:
        await throttle.wait_until_free(job)  # type: ignore[arg-type]
        went_on.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait)
        await anyio.wait_all_tasks_blocked()
        assert not went_on.is_set()
        assert [text.partition(",")[0] for text in job.told] == ["Paused for want of memory"]
        held = await trainer.hold_training(HoldTraining(hold=False), NOBODY)
        assert (held.held, held.training) == (False, False)
        await went_on.wait()
    await throttle.wait_until_free(job)  # type: ignore[arg-type]
    assert len(job.told) == 1  # nobody is told where nothing is held


async def test_what_is_held_twice_is_let_go_once() -> None:
    throttle = TrainingThrottle(Alone())
    for hold in (True, True, False):
        throttle.hold(hold)
    assert not throttle.is_held


@pytest.mark.parametrize("stopped", [True, False])
async def test_to_hold_it_is_answered_when_its_last_step_is_over(
    trainer: Alone, stopped: bool
) -> None:
    """Or when it is let go meanwhile, and goes on."""
    learner: Any = Learner()
    trainer._throttle.attach(learner)
    told: list[bool] = []

    async def hold() -> None:
        told.append((await trainer.hold_training(HoldTraining(hold=True), NOBODY)).training)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(hold)
        await anyio.wait_all_tasks_blocked()
        assert told == []
        if stopped:
            trainer._throttle.detach()
        else:
            await trainer.hold_training(HoldTraining(hold=False), NOBODY)
    assert told == [not stopped]


async def test_what_learns_is_eased_and_so_is_what_learns_next(trainer: Alone) -> None:
    shown = await trainer.ease_training(EaseTraining(rate=0.5), NOBODY)
    half, whole = EaseFactors(rate=0.5, batch=1.0), EaseFactors(rate=1.0, batch=1.0)
    assert (shown.ease, shown.eased, shown.rows) == (half, None, 0)
    learner: Any = Learner()
    trainer._throttle.attach(learner)
    assert learner.throttle == ThrottleFactors(rate=0.5)
    assert (await trainer.hold_training(HoldTraining(), NOBODY)).training
    await trainer.ease_training(EaseTraining(batch=0.25), NOBODY)
    assert learner.throttle == ThrottleFactors(rate=0.5, batch=0.25)
    shown = await trainer.ease_training(EaseTraining(rate=1.0, batch=1.0), NOBODY)
    assert (shown.ease, shown.eased, shown.rows) == (whole, whole, 4)
    assert trainer.stats().wire() == {"rate": 1.0, "batch": 1.0}
    trainer._throttle.detach()
    assert not (await trainer.hold_training(HoldTraining(), NOBODY)).training


async def test_a_step_gives_gauges(trainer: Alone) -> None:
    await trainer._throttle.measured(StepReport(2.0, 0.0, 5, 0.1, gradient_norm=0.3))
    ((topic, given),) = trainer.published
    assert topic == "gauges.trainer"
    assert isinstance(given, GaugesGiven)
    assert given.values["training.loss"] == 2.0
    assert given.values["training.gradient_norm"] == 0.3
