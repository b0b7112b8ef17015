"""When curiosity asks and what, beside neighbours that are a few lines."""

import math
import time
from typing import Any

import anyio
import pytest

from agents.curiosity import Curiosity
from bus.commands import Done, Reply, Request
from bus.envelope import Envelope, Payload
from bus.errors import CommandError
from bus.topics import (
    AnswerStarted,
    DreamKept,
    InteractionRecorded,
    MindState,
    Question,
    Words,
)
from config import Paths, Settings, with_value
from sovl_daemon.contracts.dreamer import Thought, Wonder
from sovl_daemon.contracts.mind import Erupt, NextQuestion, NoteSleep
from sovl_daemon.contracts.scribe import Recall, Recalled
from sovl_daemon.memory.interactions import Interaction
from sovl_daemon.mind.curiosity import COOLDOWN_S, SILENCE_S

STATE = MindState(
    confidence=0.1,
    temperament=0.5,
    mood="calm",
    pressure=1.0,
    exposure=100,
    stage=0.5,
    influence=0.0,
    asleep=False,
    has_woken=True,
    nights=1,
)
HEARD = InteractionRecorded(
    interaction=7, conversation="a", tokens=3, confidence=0.0, unseen=True, question=None
)


STRANGE = Thought(text="Why?", confidence=0.0, similarities=[])
SAID = Interaction("c", "a", "It rains.", "I see.", 3, 0.5, id=7)


class Alone(Curiosity):
    """Curiosity with answers of others that a test sets, by what is asked."""

    def __init__(self, **values: str) -> None:
        settings = Settings()
        for key, value in values.items():
            settings = with_value(settings, key, value)
        super().__init__(settings, Paths.of(settings), "hub")
        self.answers: dict[type[Request[Any]], Reply | CommandError] = {
            Wonder: STRANGE,
            Erupt: NextQuestion(question="Why?"),
            NoteSleep: Done(),
            Recall: Recalled(interactions=[SAID], rest=[]),
        }
        self.asked: list[Request[Any]] = []
        self.published: list[Payload] = []

    async def ask(self, request: Any, /, **_: Any) -> Any:
        self.asked.append(request)
        answer = self.answers[type(request)]
        if isinstance(answer, CommandError):
            raise answer
        return answer

    async def publish(self, topic: str, payload: Payload, *, retain: bool = False) -> None:
        self.published.append(payload)

    async def hear(self, payload: Payload) -> None:
        await self.on_event(Envelope.of(payload))


@pytest.fixture
async def curiosity() -> Alone:
    return await one()


async def one(**values: str) -> Alone:
    """As after a long silence, with every urge to ask."""
    made = Alone(**values)
    await made.start()
    await made.hear(STATE)
    made._spoken_at = time.monotonic() - 2 * SILENCE_S
    return made


def erupts(curiosity: Alone) -> bool:
    """Whether it does within a hundred looks; each has its chance of 0.3."""
    return any(curiosity._erupts() for _ in range(100))


async def test_it_erupts_in_silence_alone(curiosity: Alone) -> None:
    assert erupts(curiosity)
    curiosity._spoken_at = time.monotonic()
    assert not erupts(curiosity)


async def test_it_does_not_erupt_again_at_once(curiosity: Alone) -> None:
    await curiosity._wonder()
    curiosity._unanswered = False
    assert not erupts(curiosity)
    curiosity._erupted_at -= 2 * COOLDOWN_S
    assert erupts(curiosity)


@pytest.mark.parametrize("state", [{"asleep": True}, {"pressure": 0.5}])
async def test_without_the_urge_it_does_not_erupt(curiosity: Alone, state: dict[str, Any]) -> None:
    await curiosity.hear(STATE.model_copy(update=state))
    assert not erupts(curiosity)


async def test_it_waits_for_an_answer(curiosity: Alone) -> None:
    await curiosity._wonder()
    assert curiosity.published == [Question(text="Why?", reason="unprompted")]
    assert curiosity.stats().waits_for_an_answer
    curiosity._erupted_at = -math.inf
    assert not erupts(curiosity)
    await curiosity.hear(AnswerStarted(conversation="a"))
    assert not curiosity.stats().waits_for_an_answer
    curiosity._spoken_at = -math.inf
    assert erupts(curiosity)


async def test_what_comes_to_mind_is_asked_if_it_is_strange(curiosity: Alone) -> None:
    await curiosity._wonder()
    assert curiosity.asked == [
        Wonder(temperature=1.3),
        Erupt(question="Why?"),
    ]
    curiosity.answers[Wonder] = Thought(text="Why?", confidence=0.2, similarities=[])
    await curiosity._wonder()  # 0.86: known too well
    assert curiosity.asked[-1] == Erupt(question="")


async def test_with_nothing_to_ask_it_is_silent(curiosity: Alone) -> None:
    curiosity.answers[Erupt] = NextQuestion(question=None)
    await curiosity._wonder()
    assert curiosity.published == []
    assert not curiosity._unanswered


async def test_speechless_it_asks_nothing(curiosity: Alone) -> None:
    curiosity.answers[Wonder] = CommandError("engine", "no words")
    await curiosity._wonder()
    await curiosity._ask_back(HEARD)
    await curiosity._first_words()
    assert curiosity.published == []


async def test_the_first_words_are_told_and_wake_it(curiosity: Alone) -> None:
    await curiosity._first_words()
    assert curiosity.published == [Words(text="Why?")]
    assert curiosity.asked == [
        Wonder(prompt="", temperature=1.7, top_k=30, max_tokens=15),
        NoteSleep(asleep=False),
    ]


async def test_it_asks_back_about_what_was_said(curiosity: Alone) -> None:
    await curiosity._ask_back(HEARD)
    assert curiosity.asked[-1] == Wonder(prompt="It rains.", temperature=1.3)
    assert curiosity.published == [Question(text="Why?", reason="reply", conversation="a")]
    assert not curiosity._listens()
    curiosity._erupted_at -= 2 * COOLDOWN_S
    assert curiosity._listens()


@pytest.mark.parametrize(
    ("confidence", "dreams", "asks"),
    [(0.28, False, True), (0.29, False, False), (None, False, False), (0.0, True, False)],
)
async def test_it_asks_back_about_what_is_strange_alone(
    curiosity: Alone, confidence: float | None, dreams: bool, asks: bool
) -> None:
    """At 0.8 and less of curiosity it does not; what it dreamt of takes 0.3 away."""
    if dreams:
        dream = DreamKept(name="7", share=0.1)
        await curiosity.hear(STATE.model_copy(update={"dreams": (dream,)}))
    await curiosity._ask_back(HEARD.model_copy(update={"confidence": confidence}))
    assert bool(curiosity.published) is asks


async def test_a_blank_thought_is_no_question(curiosity: Alone) -> None:
    curiosity.answers[Wonder] = STRANGE.model_copy(update={"text": ""})
    await curiosity._ask_back(HEARD)
    assert curiosity.published == []


async def test_asleep_or_where_nothing_is_tracked_it_does_not_listen(curiosity: Alone) -> None:
    assert curiosity._listens()
    await curiosity.hear(STATE.model_copy(update={"asleep": True}))
    assert not curiosity._listens()
    assert not (await one(enable_confidence_tracking="false"))._listens()


async def lives(curiosity: Alone, monkeypatch: pytest.MonkeyPatch, ticks: int = 3) -> None:
    """Run it for some ticks, without waiting for them."""

    async def tick(seconds: float) -> None:
        nonlocal ticks
        ticks -= 1
        if ticks < 0:
            raise TimeoutError
        await anyio.lowlevel.checkpoint()

    monkeypatch.setattr(anyio, "sleep", tick)
    with pytest.raises(TimeoutError):
        await curiosity.run()


async def test_it_says_first_words_once_a_life(monkeypatch: pytest.MonkeyPatch) -> None:
    new_born = await one()
    await new_born.hear(STATE.model_copy(update={"has_woken": False, "pressure": 0.0}))
    await lives(new_born, monkeypatch)
    assert new_born.published == [Words(text="Why?")]
    woken = await one()
    await woken.hear(STATE.model_copy(update={"pressure": 0.0}))
    await lives(woken, monkeypatch)
    assert woken.published == []


async def test_what_it_hears_it_asks_about_once(
    curiosity: Alone, monkeypatch: pytest.MonkeyPatch
) -> None:
    await curiosity.hear(HEARD)
    await lives(curiosity, monkeypatch)
    assert [each.reason for each in curiosity.published if isinstance(each, Question)] == ["reply"]


async def test_left_alone_it_wonders(curiosity: Alone, monkeypatch: pytest.MonkeyPatch) -> None:
    await lives(curiosity, monkeypatch, 100)
    asked = [each.reason for each in curiosity.published if isinstance(each, Question)]
    assert asked == ["unprompted"]


async def test_who_speaks_is_not_asked_about_what_was_before(
    curiosity: Alone, monkeypatch: pytest.MonkeyPatch
) -> None:
    await curiosity.hear(HEARD)
    await curiosity.hear(AnswerStarted(conversation="a"))
    await lives(curiosity, monkeypatch)
    assert curiosity.published == []


async def test_who_speaks_ends_the_thought(curiosity: Alone) -> None:
    ask = curiosity.ask

    async def interrupted(request: Request[Any], /) -> Any:
        if isinstance(request, Wonder):
            await curiosity.hear(AnswerStarted(conversation="a"))
        await anyio.lowlevel.checkpoint()
        return await ask(request)

    curiosity.ask = interrupted  # type: ignore[method-assign]
    await curiosity._ask_back(HEARD)
    assert curiosity.published == []
