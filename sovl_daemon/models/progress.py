"""How a pull tells what it is doing."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StageProgress:
    """A step of a pull, or of other long work: `done` of `total` in `unit`.

    `total` is None while nobody knows it.
    """

    stage: str
    done: int
    total: int | None
    unit: str

    def amount(self) -> str:
        """How far it is, in words; empty while nobody can tell. Bytes are told to the megabyte."""
        scale, unit = (1e6, "MB") if self.unit == "B" else (1, self.unit)
        if self.total is None:
            return f"{self.done / scale:.0f} {unit}" if self.done else ""
        return f"{self.done / scale:.0f}/{self.total / scale:.0f} {unit}"


ProgressCallback = Callable[[StageProgress], None]


def ignore_progress(_: StageProgress) -> None:
    """Drop the report."""


def begin(stage: str, report: ProgressCallback) -> None:
    """Report that a stage of unknown length begins."""
    report(StageProgress(stage, 0, None, ""))
