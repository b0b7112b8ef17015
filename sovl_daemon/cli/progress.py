"""How what takes long shows on a terminal: one bar, with how far it is and how fast."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

from sovl_daemon.cli.render import duration


class Show(Protocol):
    """Moves a bar: at `done` of `total`, without end if that is None, `amount` in words."""

    def __call__(self, stage: str, done: float, total: float | None, amount: str) -> None:
        """Show it."""


def moves(console: Console) -> bool:
    """Whether a bar can move there."""
    return console.is_terminal and not console.is_dumb_terminal


@contextmanager
def bar(console: Console) -> Iterator[Show]:
    """A bar that is gone at the end; what is printed meanwhile goes above it."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=None),
        TextColumn("{task.fields[amount]}", markup=False),
    )
    with Progress(*columns, console=console, transient=True) as bars:
        task = bars.add_task("starting", total=None, amount="")

        def show(stage: str, done: float, total: float | None, amount: str) -> None:
            bars.update(task, description=stage, completed=done, total=total, amount=amount)

        yield show


@contextmanager
def counted(console: Console) -> Iterator[Callable[[Mapping[str, Any]], bool]]:
    """Give what shows a command's steps on a bar, from the first that is counted on.

    It returns whether it has shown a step: none that is not counted, none without a terminal.
    """
    with ExitStack() as stack:
        show: Show | None = None

        def take(step: Mapping[str, Any]) -> bool:
            nonlocal show
            if not (is_counted(step) and moves(console)):
                return False
            show = show or stack.enter_context(bar(console))
            show(_stage(step), step["step"], step["steps"], _pace(step))
            return True

        yield take


def is_counted(step: Mapping[str, Any]) -> bool:
    """Whether a step says the how manieth of how many it is."""
    return all(isinstance(step.get(name), int | float) for name in ("step", "steps"))


def _stage(step: Mapping[str, Any]) -> str:
    return f"Epoch {step['epoch']}/{step['epochs']}" if {"epoch", "epochs"} <= step.keys() else ""


def _pace(step: Mapping[str, Any]) -> str:
    """What is told of number of steps, loss, speed and time left."""
    words: dict[str, Callable[[float], str]] = {
        "loss": "loss {:.4f}".format,
        "tokens_per_s": "{:.0f} tokens/s".format,
        "left_s": lambda seconds: f"{duration(seconds)} left",
    }
    told = [say(step[name]) for name, say in words.items() if name in step]
    return ", ".join([f"{step['step']}/{step['steps']}", *told])
