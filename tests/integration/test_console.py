"""The console in a terminal, without a model."""

from collections.abc import Iterator

import anyio
import pytest

from bus.endpoints import Endpoints
from bus.publisher import Publisher
from bus.topics import QUESTION, Question
from sovl_daemon.testing import PATIENCE_S, Daemon
from tests.screen import Terminal


@pytest.fixture
def terminal(echo_daemon: Daemon) -> Iterator[Terminal]:
    opened = Terminal(echo_daemon)
    try:
        opened.screen.wait_for("Type help")
        yield opened
    finally:
        opened.process.kill()


async def wonder(daemon: Daemon, terminal: Terminal, *questions: Question) -> None:
    """Publish until the last one shows: what is published before it is subscribed to is lost."""
    publisher = Publisher(Endpoints.local(daemon.runtime_dir).publish, "curiosity")
    for _ in range(100):
        for question in questions:
            await publisher.publish(QUESTION, question)
        await anyio.sleep(0.2)
        if f"SOVL wonders: {questions[-1].text}" in terminal.screen.text:
            break
    publisher.close()


async def test_questions_show_where_they_are_asked(echo_daemon: Daemon, terminal: Terminal) -> None:
    terminal.type("say text=ready")
    terminal.screen.wait_for("ready")
    elsewhere = Question(text="And there?", reason="reply", conversation="another")
    await wonder(
        echo_daemon,
        terminal,
        elsewhere,
        Question(text="What is [rain]?", reason="unprompted"),
    )
    terminal.screen.wait_for("SOVL wonders: What is [rain]?")
    assert "And there?" not in terminal.screen.text


async def test_no_question_stands_in_an_answer(echo_daemon: Daemon, terminal: Terminal) -> None:
    terminal.type("say text=x times=20 pause_s=0.05")
    terminal.screen.wait_for("xxx")
    await wonder(echo_daemon, terminal, Question(text="Why?", reason="unprompted"))
    terminal.screen.wait_for("SOVL wonders: Why?")
    assert "x" * 20 in terminal.screen.text


def test_leaving_ends_it(terminal: Terminal) -> None:
    terminal.type("quit")
    assert terminal.process.wait(PATIENCE_S) == 0
