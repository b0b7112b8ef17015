"""What the model sees of a conversation, and the way of a prompt to its tokens."""

import re
import sys
import traceback
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import anyio
import pytest
import structlog

from agents.generator.generator import Generator
from agents.generator.prompt import with_question
from agents.generator.tuning import Tuning
from bus.envelope import Envelope, Payload
from bus.errors import CommandError
from bus.messages import Command
from config import Paths, Settings
from sovl_daemon.contracts.generator import HoldInt8
from sovl_daemon.contracts.scribe import ConversationContext
from sovl_daemon.engine.engine import Engine
from sovl_daemon.engine.serving import batch
from sovl_daemon.engine.text.message import Message
from tests.unit.engine_tiny import save_tiny

ROOT = Path(__file__).parents[2]


def test_a_question_of_its_own_belongs_to_the_answer_before_it() -> None:
    said = [Message("user", "Hi!"), Message("assistant", "Hello.")]
    assert with_question(said, "Who are you?") == [
        Message("user", "Hi!"),
        Message("assistant", "Hello.\nWho are you?"),
    ]


def test_a_question_may_begin_a_conversation() -> None:
    system = [Message("system", "Be kind.")]
    assert with_question(system, "Who are you?") == [*system, Message("assistant", "Who are you?")]


def test_without_a_question_nothing_is_added() -> None:
    said = [Message("user", "Hi!"), Message("assistant", "Hello.")]
    assert with_question(said, None) == said


class Alone(Generator):
    """A generator that was never served; it notes by which frames an error came to it."""

    def __init__(self, engine: Engine) -> None:
        settings = Settings()
        super().__init__(settings, Paths.of(settings), "host")
        self._engine, self._tuning = engine, Tuning(engine, structlog.get_logger())
        self._link: Any = self
        self.log: Any = self
        self.middleware = ()
        self.frames: list[str] = []

    async def ask(self, request: Any, /, **_: Any) -> Any:
        return ConversationContext(interactions=[], question=None)

    async def publish(self, topic: str, payload: Payload, *, retain: bool = False) -> None:
        pass

    async def configure(self, values: Mapping[str, Any]) -> None:
        raise CommandError("unavailable", "the file cannot be written")

    def answer(self, *_: object) -> None:
        """Stand for the link, which sends the final answer."""

    def exception(self, *_: object, **__: object) -> None:
        """Stand for the log, which tells of the error that is being handled."""
        above = [frame for frame, _ in traceback.walk_stack(sys._getframe(1))]
        below = [frame for frame, _ in traceback.walk_tb(sys.exc_info()[2])][1:]
        self.frames = [name for frame in [*above[::-1], *below] if (name := _ours(frame))]


def _ours(frame: FrameType) -> str:
    path = Path(frame.f_code.co_filename)
    inside = path.relative_to(ROOT) if path.is_relative_to(ROOT) else path
    ours = inside.parts[0] in ("agents", "bus", "sovl_daemon")
    return f"`{inside}` `{frame.f_code.co_qualname}`" if ours else ""


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[Engine]:
    loaded = await Engine.load(save_tiny(tmp_path / "base"), device="cpu", dtype="float32")
    yield loaded
    await loaded.close()


async def test_a_prompt_passes_the_frames_that_the_document_lists(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def choose(*_: object) -> None:
        raise RuntimeError("here the next tokens are chosen")

    monkeypatch.setattr(batch, "choose", choose)
    generator = Alone(engine)
    command = Command(name="generate", args={"prompt": "Hello"})
    await generator._handle(Envelope.of(command), command, anyio.CancelScope())
    text = (ROOT / "docs" / "architecture.md").read_text()
    section = text.partition("### One prompt, from the agent's loop to its token\n")[2].partition(
        "\n#"
    )[0]
    assert generator.frames == re.findall(r"^\d+\. (`\S+` `\S+`)", section, re.M)
    assert 3 < len(generator.frames) <= 8


async def test_what_the_hub_refuses_the_engine_gives_up_again(engine: Engine) -> None:
    generator = Alone(engine)
    with pytest.raises(CommandError, match="cannot be written"):
        await generator.int8(HoldInt8(), None)  # type: ignore[arg-type]
    assert engine.precision == engine.model.plain
