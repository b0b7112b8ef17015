"""What the console shows of SOVL's own questions."""

from pathlib import Path
from typing import Any

import pytest

from bus.topics import Question
from sovl_daemon.cli.console import Console, _History
from sovl_daemon.client import AsyncClient
from sovl_daemon.contracts.hub import CommandList


@pytest.fixture
def console() -> Console:
    return Console(AsyncClient(), CommandList(commands=[], control=[]))


async def shown_while_reading(console: Console, *questions: Question) -> str:
    async def read() -> str:
        for each in questions:
            console.hear(each)
        return "line"

    return await console.next_line(read)


async def test_a_question_back_is_shown_in_its_conversation(
    console: Console, capsys: pytest.CaptureFixture[str]
) -> None:
    here = Question(text="Which one?", reason="reply", conversation=console.conversation)
    there = Question(text="And there?", reason="reply", conversation="another")
    assert await shown_while_reading(console, there, here) == "line"
    assert capsys.readouterr().out == "SOVL asks back: Which one?\n"


async def test_what_is_asked_meanwhile_waits_for_the_prompt(
    console: Console, capsys: pytest.CaptureFixture[str]
) -> None:
    console.hear(Question(text="Why?", reason="unprompted"))
    assert capsys.readouterr().out == ""
    await shown_while_reading(console)
    assert capsys.readouterr().out == "SOVL wonders: Why?\n"
    await shown_while_reading(console)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("line", ["", "   ", "\t\n"])
async def test_a_blank_line_asks_nothing(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    async def ask(self: Console, command: str, /, **args: Any) -> None:
        asked.append((command, args))

    monkeypatch.setattr(Console, "_ask", ask)
    console = Console(AsyncClient(), CommandList(commands=[], control=[]))
    await console.do(line)
    assert asked == []
    await console.do(f"{line} rain \n")
    assert asked == [("generate", {"prompt": "rain"})]


def test_a_history_that_cannot_be_kept_is_said_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "state").touch()
    history = _History(tmp_path / "state" / "console_history")
    for line in ("one", "two"):
        history.append_string(line)
    assert history.get_strings() == ["one", "two"]
    assert list(history.load_history_strings()) == []
    (said,) = capsys.readouterr().err.splitlines()
    assert said.endswith("File exists: this history is not kept")


def test_a_history_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "state" / "console_history"
    _History(path).append_string("one")
    assert list(_History(path).load_history_strings()) == ["one"]
