"""What a dreamer does, beside a tiny model and a scribe that stands for the real one."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import torch

from agents.dreamer import Dreamer, _first_line
from agents.shared_engine import shared_engine
from bus.commands import Done
from bus.envelope import Payload
from bus.errors import CommandError
from bus.topics import DreamKept, Dreamt, MindState
from config import Paths, Settings
from sovl_daemon.contracts.dreamer import DreamReport, Thought, Wonder
from sovl_daemon.contracts.mind import NoteDream
from sovl_daemon.contracts.scribe import InteractionPage, Recall, Recalled, RecentInteractions
from sovl_daemon.engine.engine import Engine
from sovl_daemon.engine.fusion.fusion import DreamStates
from sovl_daemon.engine.fusion.lora import LoraOptions
from sovl_daemon.engine.fusion.scaffold import FusionOptions
from sovl_daemon.engine.serving.options import SamplingOptions
from sovl_daemon.memory.interactions import Interaction
from tests.unit.engine_tiny import save_tiny

STATE = MindState(
    confidence=0.9,
    temperament=0.5,
    mood="calm",
    pressure=0.0,
    exposure=100,
    stage=0.5,
    influence=1.0,
    asleep=False,
    has_woken=True,
    nights=1,
)
LIVED = Interaction("c", "talk", "Kira is 44 years old.", "I see.", 3, 0.5, id=7)
SCENE = "Kira is 44 years old.\nI see."


class Alone(Dreamer):
    """A dreamer whose neighbours are the few lines below."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings, Paths.of(settings), "host")
        self.lived: list[Interaction] = [LIVED]
        self.told: list[NoteDream] = []
        self.published: list[Payload] = []

    async def ask(self, request: Any, /, **_: Any) -> Any:
        match request:
            case RecentInteractions():
                return InteractionPage(interactions=self.lived, before=None)
            case Recall(ids=ids):
                found = [each for each in self.lived if each.id in ids]
                return Recalled(interactions=found, rest=[])
            case NoteDream():
                self.told.append(request)
                return Done()
        raise AssertionError(request)

    async def publish(self, topic: str, payload: Payload, *, retain: bool = False) -> None:
        self.published.append(payload)


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[Engine]:
    folder = save_tiny(tmp_path / "base")
    loaded = await Engine.load(folder, device="cpu", dtype="float32")
    await loaded.fuse(folder, FusionOptions(lora=LoraOptions(rank=2), heads=2, head_size=4))
    shared_engine.set_loaded(loaded)
    shared_engine.set_fused()
    yield loaded
    shared_engine.withdraw()
    await loaded.close()


@pytest.fixture
async def dreamer(engine: Engine) -> Alone:
    made = Alone(Settings())
    await made.start()
    made._state = STATE
    return made


@pytest.fixture
def said(dreamer: Alone, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What it will say to itself, the next first."""
    lines: list[str] = []

    async def say(prompt: str, options: SamplingOptions) -> tuple[str, float]:
        if not lines:
            raise CommandError("engine", "speechless")
        return lines.pop(0), 0.25

    monkeypatch.setattr(dreamer, "_say", say)
    return lines


def remembered(dreams: dict[str, float]) -> MindState:
    kept = tuple(DreamKept(name=name, share=share) for name, share in dreams.items())
    return STATE.model_copy(update={"dreams": kept})


def seen(engine: Engine) -> tuple[DreamStates, ...]:
    assert engine.fusion is not None
    return engine.fusion._dreams


async def test_a_dream_is_blurred_and_told(dreamer: Alone, said: list[str]) -> None:
    said += ["Why 44?", "It is so.", "Why 44?"]
    result = await dreamer._dream("asked")
    engine = await shared_engine.fused()
    plain = await engine.dream(SCENE, noise=0.0, seed=0)
    assert plain is not None
    blurred = dreamer._hidden["7"]
    assert blurred.shape == plain.shape
    # 0.05, and 0.03 as no dream had it; as a share of the states' own spread.
    assert float((blurred - plain).std() / plain.std()) == pytest.approx(0.08, rel=0.1)
    assert dreamer.told == [NoteDream(name="7", questions=["Why 44?"])]
    assert dreamer.published == [
        Dreamt(name="7", reason="asked", prompt=LIVED.prompt, noise=0.08, questions=("Why 44?",))
    ]
    told = "It dreamt of: Kira is 44 years old.\nIt wonders: Why 44?"
    assert result == DreamReport(text=told, interaction=7, noise=0.08)


async def test_what_was_dreamt_before_is_less_blurred(dreamer: Alone, said: list[str]) -> None:
    dreamer._state = remembered({"7": 0.1})
    assert (await dreamer._dream("asked")).noise == 0.05
    assert dreamer.told == [NoteDream(name="7", questions=[])]  # it was speechless, and dreamt


async def test_with_nothing_lived_it_does_not_dream(dreamer: Alone) -> None:
    dreamer.lived = []
    with pytest.raises(CommandError, match="nothing to dream of yet"):
        await dreamer._dream("asked")


async def test_the_scaffold_sees_what_was_dreamt_by_its_share(
    dreamer: Alone, engine: Engine, said: list[str]
) -> None:
    await dreamer._dream("asked")
    await dreamer._blend(remembered({"7": 0.25}))
    (dream,) = seen(engine)
    assert dream.hidden is dreamer._hidden["7"]
    assert dreamer.stats().dreams_in_context == 1
    await dreamer._blend(remembered({"7": 0.125}))
    assert [each.weight for each in seen(engine)] == [0.125]


async def test_states_that_are_gone_are_read_again(dreamer: Alone, engine: Engine) -> None:
    state = dreamer._state = remembered({"7": 0.25})
    await dreamer._blend(state)
    plain = await engine.dream(SCENE, noise=0.0, seed=0)
    assert plain is not None
    (dream,) = seen(engine)
    assert torch.equal(dream.hidden, plain)


async def test_what_is_forgotten_leaves_the_scaffold(dreamer: Alone, engine: Engine) -> None:
    dreamer._state = remembered({"7": 0.25})
    await dreamer._blend(dreamer._state)
    await dreamer._blend(remembered({"7": 0.0}))
    assert seen(engine) == ()
    assert dreamer._hidden == {}
    assert dreamer.stats().dreams_in_context == 0


async def test_the_same_dreams_are_not_told_again(dreamer: Alone, engine: Engine) -> None:
    dreamer._state = remembered({"7": 0.25})
    await dreamer._blend(dreamer._state)
    before = seen(engine)
    await dreamer._blend(dreamer._state)
    assert seen(engine) is before  # else every conversation would begin anew each second


async def test_it_wonders_about_what_it_is_given(dreamer: Alone, monkeypatch: Any) -> None:
    heard: list[tuple[str, SamplingOptions]] = []

    async def say(prompt: str, options: SamplingOptions) -> tuple[str, float]:
        heard.append((prompt, options))
        return "Kira is 44 years old.", 0.25

    monkeypatch.setattr(dreamer, "_say", say)

    async def wonder(request: Wonder) -> Thought:
        return await dreamer.wonder(request, None)  # type: ignore[arg-type]

    strange = await wonder(Wonder(prompt="rain", temperature=1.5, top_k=9, max_tokens=3))
    assert strange == Thought(text="Kira is 44 years old.", confidence=0.25, similarities=[])
    dreamer._state = remembered({"7": 0.25})
    (familiar,) = (await wonder(Wonder())).similarities
    assert familiar == pytest.approx(1)
    dreamer.lived = []
    await wonder(Wonder())
    await wonder(Wonder(prompt=""))
    assert [prompt for prompt, _ in heard] == [
        'Ask one short question about this: "rain"',
        'Ask one short question about this: "Kira is 44 years old."',
        'Ask one short question about this: "what people do all day"',
        "You wake up for the first time. What are your first words?",
    ]
    options = heard[0][1]
    assert (options.temperature, options.top_k, options.max_new_tokens) == (1.5, 9, 3)
    assert len({each.seed for _, each in heard}) == 4


async def test_it_says_one_line_and_how_sure_it_was(dreamer: Alone) -> None:
    options = SamplingOptions(temperature=0, max_new_tokens=5, seed=1)
    text, confidence = await dreamer._say("Hello", options)
    assert "\n" not in text
    assert 0 < confidence < 1


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", ""),
        ("\n  \nWhy? Because.\nOr not?", "Why?"),
        ('"It is so."\nmore', "It is so."),
    ],
)
def test_the_first_question_or_line_counts(text: str, line: str) -> None:
    assert _first_line(text) == line
