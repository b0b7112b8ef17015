"""How a training session lays out a night, with a tiny model that dreams."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agents.training.night import tonight
from agents.training.session import TrainingSession
from config import Settings, with_value
from sovl_daemon.engine.engine import Engine
from sovl_daemon.engine.fusion.lora import LoraOptions
from sovl_daemon.engine.fusion.scaffold import FusionOptions
from sovl_daemon.memory.interactions import Interaction
from sovl_daemon.night.curriculum import ANSWER_WEIGHT
from tests.unit.engine_tiny import save_tiny


@pytest.fixture
async def session(tmp_path: Path) -> AsyncIterator[TrainingSession]:
    folder = save_tiny(tmp_path / "base")
    engine = await Engine.load(folder, device="cpu", dtype="float32")
    await engine.fuse(folder, FusionOptions(lora=LoraOptions()))
    yield TrainingSession(engine, with_value(Settings(), "generation.system_prompt", '""'), 0.0)
    await engine.close()


def lived(prompt: str, question: str | None, number: int = 0) -> Interaction:
    return Interaction("c", "a", prompt, "I see.", 3, None, id=number, question=question)


async def test_answers_to_its_own_questions_weigh_more(session: TrainingSession) -> None:
    entries = [
        lived("Kira is 44 years old.", "How old is Kira?"),
        lived("Zorland's capital is Mivek.", None),
        lived("No idea, sorry!", "Who is Kira?"),
        lived("Hello there!", None),
    ]
    night = await session.plan_night(entries, [])
    weights = [each.weight for each in night.lessons]
    half = weights.count(ANSWER_WEIGHT)
    assert 0 < half < len(weights)
    assert weights == [1.2] * half + [1.0] * (len(weights) - half)
    assert [each.weight for each in night.chats[:2]] == [1.2, 1.0]
    assert {each.weight for each in (*night.chats[2:], *night.texts, *night.eval_dreams)} <= {1.0}


async def test_a_night_has_room_for_so_much(session: TrainingSession) -> None:
    told = [lived(f"Kira met Ann {number}.", None) for number in range(1000)]
    assert await session.room_for(told[:100]) == 100
    assert 100 < await session.room_for(told) < 1000


def test_what_could_not_be_learned_does_not_keep_the_rest_waiting() -> None:
    entries = [lived("Hello there!", None, number) for number in range(4)]
    assert [each.id for each in tonight(entries, [], {0, 2})] == [1, 3, 0, 2]
