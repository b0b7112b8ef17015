"""How a pull tells what it is doing."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Progress:
    """One step of a pull: `done` of `total` in `unit`; `total` is None while nobody knows it."""

    stage: str
    done: int
    total: int | None
    unit: str


ProgressCallback = Callable[[Progress], None]


def ignore_progress(_: Progress) -> None:
    """Drop the report."""


def begin(stage: str, report: ProgressCallback) -> None:
    """Report that a stage of unknown length begins."""
    report(Progress(stage, 0, None, ""))
