"""When gestation begins and ends nights, and what it makes of its knobs, without a daemon."""

import time
from typing import Any

import anyio
import pytest
from structlog.testing import capture_logs

from agents.gestation import Gestation
from bus.commands import Done
from bus.envelope import Envelope, Payload
from bus.errors import AGENT_LOST, CANCELLED, ENGINE, CommandError
from bus.topics import INTERACTION, AnswerStarted, InteractionRecorded, MindState, NightStep
from config import Paths, Settings, with_value
from sovl_daemon.contracts.gestation import (
    Gestate,
    HoldNights,
    NightHold,
    NightReport,
    Wake,
    Woken,
)
from sovl_daemon.contracts.health import Diagnose, HealthReport
from sovl_daemon.contracts.mind import NoteSleep
from sovl_daemon.contracts.scribe import Unlearned, UnlearnedPage
from sovl_daemon.contracts.trainer import HoldTraining, NightLearned, TrainingHold
from sovl_daemon.mind.sleep import AWAKE_AT_LEAST_S, longest_night


class Trainer:
    """Stands for the link to a trainer, and notes what it was asked."""

    def __init__(self) -> None:
        self.caller = self
        self.asked: list[tuple[str, dict[str, Any]]] = []

    def call(self, command: str, args: dict[str, Any]) -> "Trainer":
        self.asked.append((command, args))
        return self

    async def __aenter__(self) -> "Trainer":
        return self

    async def __aexit__(self, *_: object) -> None:
        return None

    def __aiter__(self) -> "Trainer":
        return self

    async def __anext__(self) -> None:
        raise StopAsyncIteration

    async def result(self) -> dict[str, Any]:
        return {"learned": 10}


async def night(
    monkeypatch: pytest.MonkeyPatch, *, trains: str
) -> tuple[NightLearned, Trainer, float]:
    """What a night learns, the trainer that was asked or not, and how long it just sleeps."""
    settings = with_value(Settings(), "enable_sleep_training", trains)
    gestation = Gestation(settings, Paths.of(settings), "hub")
    await gestation.start()
    gestation._entries = 10
    trainer = Trainer()
    gestation._link = trainer  # type: ignore[assignment]
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr(anyio, "sleep", sleep)
    return await gestation._learn(None), trainer, sum(slept)


async def test_it_trains_while_it_sleeps_unless_told_not_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    longest_s = longest_night(10, Settings().controls_config)
    result, trainer, slept = await night(monkeypatch, trains="true")
    assert (result.learned, slept) == (10, 0)
    assert trainer.asked == [("learn_night", {"seconds": longest_s})]
    result, trainer, slept = await night(monkeypatch, trains="false")
    assert (result.learned, result.reason) == (0, "controls_config.enable_sleep_training is off")
    assert (trainer.asked, slept) == ([], longest_s)


STATE = MindState(
    confidence=0.9,
    temperament=0.5,
    mood="calm",
    pressure=0.0,
    exposure=100,
    stage=0.5,
    influence=0.0,
    asleep=False,
    has_woken=True,
    nights=1,
)


class Alone(Gestation):
    """Gestation whose neighbours are a few lines; `ends` is what ends the learning of a night."""

    def __init__(self, **values: str) -> None:
        settings = Settings()
        for key, value in values.items():
            settings = with_value(settings, key, value)
        super().__init__(settings, Paths.of(settings), "hub")
        self.unlearned = 10
        self.ends: Exception | None = None
        self.asked: list[Any] = []
        self.published: list[tuple[str, Payload]] = []

    async def ask(self, request: Any, /, **_: Any) -> Any:
        self.asked.append(request)
        match request:
            case Unlearned():
                return UnlearnedPage(interactions=[], count=self.unlearned, memory="m")
            case NoteSleep():
                return Done()
            case Diagnose():
                return HealthReport(
                    health="fit", allows_heavy_work=True, objections=[], findings=[]
                )
            case HoldTraining(hold=hold):
                return TrainingHold(held=bool(hold), training=False)
        raise AssertionError(request)

    async def publish(self, topic: str, payload: Payload, *, retain: bool = False) -> None:
        self.published.append((topic, payload))

    async def hear(self, payload: Payload, topic: str = "") -> None:
        await self.on_event(Envelope.of(payload).model_copy(update={"topic": topic}))

    async def _learn(self, job: Any) -> NightLearned:
        if self.ends is not None:
            raise self.ends
        learned, self.unlearned = self.unlearned, 0
        return NightLearned(text=f"learned {learned}", learned=learned)

    def asleep(self) -> list[bool]:
        """What the mind was told of its sleep, in turn."""
        return [each.asleep for each in self.asked if isinstance(each, NoteSleep)]


async def one(**values: str) -> Alone:
    """Ready to sleep: awake for long enough, sure of itself, and with enough to learn."""
    made = Alone(**values)
    await made.start()
    await made.hear(STATE)
    await made._count()
    made._rhythm = type(made._rhythm)(time.monotonic() - 2 * AWAKE_AT_LEAST_S)
    return made


async def lives(gestation: Alone, monkeypatch: pytest.MonkeyPatch, ticks: int = 3) -> None:
    """Run it for some ticks, without waiting for them."""

    async def tick(seconds: float) -> None:
        nonlocal ticks
        ticks -= 1
        if ticks < 0:
            raise TimeoutError

    monkeypatch.setattr(anyio, "sleep", tick)
    with pytest.raises(TimeoutError):
        await gestation.run()


async def test_it_sleeps_by_itself_once_it_is_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    gestation = await one()
    await lives(gestation, monkeypatch)
    assert gestation.published == [
        ("night.started", NightStep(reason="ready", entries=10)),
        ("night.ended", NightStep(reason="rested", entries=10, learned=10)),
    ]
    assert gestation.asleep() == [True, False]
    assert gestation.stats().entries == 0


@pytest.mark.parametrize("values", [{"enable_gestation": "false"}, {"sleep_log_min": "11"}])
async def test_not_ready_it_stays_awake(
    monkeypatch: pytest.MonkeyPatch, values: dict[str, str]
) -> None:
    gestation = await one(**values)
    await lives(gestation, monkeypatch)
    assert gestation.published == []


async def test_unsure_of_itself_and_rested_it_stays_awake(monkeypatch: pytest.MonkeyPatch) -> None:
    gestation = await one(sleep_time_factor="5.0")
    await gestation.hear(STATE.model_copy(update={"confidence": 0.1}))
    await lives(gestation, monkeypatch)
    assert gestation.published == []


async def test_before_there_is_a_mind_it_stays_awake(monkeypatch: pytest.MonkeyPatch) -> None:
    gestation = await one()
    gestation._state = None
    await lives(gestation, monkeypatch)
    assert gestation.published == []


async def test_it_may_begin_asleep_unless_something_stands_against_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for objection, nights in (("", 1), ("no memory", 0)):
        gestation = await one(is_sleeping="true", enable_gestation="false")

        async def objected(why: str = objection) -> str:
            return why

        monkeypatch.setattr(gestation._gate, "objection", objected)
        await lives(gestation, monkeypatch)
        told = [payload.reason for _, payload in gestation.published]  # type: ignore[attr-defined]
        assert told == ["asleep", "rested"] * nights


async def test_to_hold_nights_is_answered_when_the_present_one_is_over() -> None:
    gestation = await one()
    night = gestation._night = anyio.CancelScope()
    told: list[NightHold] = []

    async def hold() -> None:
        told.append(await gestation.hold_nights(HoldNights(hold=True), _nobody))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(hold)
        await anyio.wait_all_tasks_blocked()
        assert night.cancel_called
        assert told == []
        assert (await gestation.hold_nights(HoldNights(), _nobody)).busy  # who only looks is told
        gestation._night = None
        gestation._night_over.set()
    assert [each.busy for each in told] == [False]


async def test_held_back_it_does_not_sleep(monkeypatch: pytest.MonkeyPatch) -> None:
    gestation = await one()
    held = await gestation.hold_nights(HoldNights(hold=True), _nobody)
    assert held == NightHold(held=True, busy=False, asleep=False, entries=10, entries_needed=10)
    with pytest.raises(CommandError, match="nights are held back"):
        await gestation.gestate(Gestate(), _nobody)
    gestation.asked.clear()
    await lives(gestation, monkeypatch, 2)
    assert gestation.published == []
    # A trainer that was started anew is told each time.
    assert gestation.asked[1:] == [HoldTraining(hold=True)] * 2
    assert gestation.stats().held
    await gestation.hold_nights(HoldNights(hold=False), _nobody)
    await lives(gestation, monkeypatch)
    assert gestation.asleep() == [True, False]


async def test_who_speaks_wakes_it() -> None:
    gestation = await one()
    begun = anyio.Event()

    async def learn(job: Any) -> NightLearned:
        begun.set()
        await anyio.sleep_forever()
        raise AssertionError

    gestation._learn = learn  # type: ignore[method-assign]
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(gestation._sleep, "ready")
        await begun.wait()
        with pytest.raises(CommandError, match="it sleeps already"):
            await gestation.gestate(Gestate(), _nobody)
        assert gestation._tiredness() < 0.5  # asleep, nobody is awake for long
        await gestation.hear(AnswerStarted(conversation="a"))
    assert gestation.published[-1] == ("night.ended", NightStep(reason="called", entries=10))
    assert gestation.asleep() == [True, False]
    assert gestation._reason() is None  # whoever woke it is not left again at once


@pytest.mark.parametrize(
    ("code", "woke"), [(CANCELLED, "called"), (ENGINE, "failed"), (AGENT_LOST, "failed")]
)
async def test_a_night_that_goes_wrong_is_told(code: str, woke: str) -> None:
    gestation = await one()
    gestation.ends = CommandError(code, "no luck")
    night = await gestation._sleep("ready")
    told = {"text": f"Woken early ({woke}): no luck", "woke": woke, "reason": "no luck"}
    assert night.wire() == told
    assert gestation.published[-1] == ("night.ended", NightStep(reason=woke, entries=10))
    assert gestation.asleep() == [True, False]


async def test_who_asked_for_a_night_hears_why_it_failed() -> None:
    gestation = await one()
    gestation.ends = CommandError(ENGINE, "no luck")
    with pytest.raises(CommandError, match=r"^no luck$"):
        await gestation._sleep("asked", _nobody)
    gestation.ends = CommandError(AGENT_LOST, "gone", {"agent": "trainer"})
    lost = "gone; what the night had learned up to its last"
    with pytest.raises(CommandError, match=lost) as caught:
        await gestation._sleep("asked", _nobody)
    assert (caught.value.code, caught.value.detail) == (AGENT_LOST, {"agent": "trainer"})
    assert gestation.asleep() == [True, False] * 2


async def test_a_night_that_is_asked_for_tells_what_it_learned() -> None:
    gestation = await one()
    night = await gestation.gestate(Gestate(force=True), _nobody)
    assert night == NightReport(text="Awake again: learned 10", woke="rested", learned=10)
    assert gestation.published[0] == ("night.started", NightStep(reason="asked", entries=10))


@pytest.mark.parametrize(
    ("learned", "text"),
    [
        (NightLearned(text="learned 3", reason="r"), "learned 3"),
        (NightLearned(reason="training is off"), "training is off"),
        (NightLearned(), "rested"),
    ],
)
async def test_a_night_says_what_it_knows(learned: NightLearned, text: str) -> None:
    gestation = await one()

    async def learn(job: Any) -> NightLearned:
        return learned

    gestation._learn = learn  # type: ignore[method-assign]
    with capture_logs() as logged:
        assert (await gestation._sleep("ready")).text == f"Awake again: {text}"
    (ended,) = [each for each in logged if each["event"] == "night.ended"]
    assert (ended["woke"], ended.get("reason", "")) == ("rested", learned.reason)


async def test_awake_there_is_nobody_to_wake() -> None:
    gestation = await one()
    woken = await gestation.wake(Wake(), _nobody)
    assert woken == Woken(text="It is awake", was_asleep=False)


async def test_what_is_lived_tires_it() -> None:
    gestation = await one()
    gestation.unlearned = 0
    await gestation._count()
    rested = gestation.stats().tiredness
    heard = InteractionRecorded(
        interaction=7, conversation="a", tokens=3, confidence=0.0, unseen=True, question=None
    )
    for _ in range(5):
        await gestation.hear(heard, INTERACTION)
    stats = gestation.stats()
    assert (stats.entries, stats.entries_needed, stats.held) == (5, 10, False)
    assert stats.tiredness == pytest.approx(rested + 0.2 * 0.951, abs=2e-3)


_nobody: Any = type("Nobody", (), {"progress": lambda self, **step: None})()
