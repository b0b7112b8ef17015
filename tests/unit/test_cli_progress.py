"""The bar: what it shows of a step, and where it shows nothing."""

import io
from typing import Any

import pytest
from rich.console import Console

from sovl_daemon.cli.progress import bar, counted

NIGHT = {"step": 30, "steps": 130, "loss": 2.34567, "tokens_per_s": 812.4, "left_s": 65.2}
TRAINING = NIGHT | {"epoch": 2, "epochs": 3, "text": "Epoch 2/3 Step 30/130 | Loss: 2.3457\n"}


def screen(*, terminal: bool, width: int = 100) -> Console:
    return Console(
        file=io.StringIO(), force_terminal=terminal, width=width, _environ={"TERM": "xterm"}
    )


def shown(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize(
    ("step", "words"),
    [
        (NIGHT, ["30/130, loss 2.3457, 812 tokens/s, 1 min 5 s left"]),
        (TRAINING, ["Epoch 2/3", "30/130, loss 2.3457"]),
        ({"step": 1, "steps": 2}, ["1/2"]),
    ],
)
def test_a_step_that_is_counted(step: dict[str, Any], words: list[str]) -> None:
    console = screen(terminal=True)
    with counted(console) as show:
        assert show(step)
    assert [word for word in words if word not in shown(console)] == []


def test_the_bar_gives_way_to_the_words_on_a_narrow_terminal() -> None:
    console = screen(terminal=True, width=80)
    with counted(console) as show:
        show(TRAINING)
    assert "1 min 5 s left" in shown(console)


@pytest.mark.parametrize("step", [{}, {"text": "Hi"}, {"step": 3}, {"step": "a", "steps": "b"}])
def test_what_is_not_counted_is_left_to_others(step: dict[str, Any]) -> None:
    console = screen(terminal=True)
    with counted(console) as show:
        assert not show(step)
    assert shown(console) == ""


def test_without_a_terminal_there_is_no_bar() -> None:
    console = screen(terminal=False)
    with counted(console) as show:
        assert not show(TRAINING)
    assert shown(console) == ""


def test_it_is_gone_in_the_end() -> None:
    console = screen(terminal=True)
    with bar(console) as show:
        show("loading [1]", 1, None, "")
    assert "loading [1]" in shown(console)
    assert shown(console).endswith("\x1b[2K")
