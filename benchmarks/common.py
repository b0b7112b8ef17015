"""What all benchmarks share: the form of a result, and how it looks."""

import json
import os
import platform
import statistics
import subprocess
import sys
from dataclasses import asdict, dataclass, field
from importlib.metadata import version

import psutil
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table


@dataclass
class Goal:
    """`bound` is "<=" or ">="; the goal is met when value and goal stand so."""

    name: str
    value: float | None
    bound: str
    goal: float

    @property
    def met(self) -> bool | None:
        if self.value is None:
            return None
        return self.value <= self.goal if self.bound == "<=" else self.value >= self.goal

    def as_dict(self) -> dict[str, object]:
        value = None if self.value is None else round(self.value, 4)
        return {
            "name": self.name,
            "value": value,
            "goal": f"{self.bound} {self.goal:g}",
            "met": self.met,
        }


@dataclass
class Bench:
    bench: str
    rows: list[dict[str, object]]
    goals: list[Goal] = field(default_factory=list)
    note: str = ""

    def as_dict(self) -> dict[str, object]:
        goals = [goal.as_dict() for goal in self.goals]
        return asdict(self) | {"machine": machine(), "goals": goals}


def machine() -> dict[str, object]:
    git = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    return {
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(psutil.virtual_memory().total / 2**30, 1),
        "python": platform.python_version(),
        "torch": version("torch"),
        "commit": git.stdout.strip() or None,
    }


def percentile(values: list[float], share: float) -> float:
    """The value that `share` (0..1) of all are at or below."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def median(values: list[float]) -> float:
    return statistics.median(values)


def ratio(some: list[float], others: list[float]) -> float:
    """The median of what one round has over what the other has."""
    return median([one / other for one, other in zip(some, others, strict=True)])


def in_new_process(module: str, *arguments: str) -> str:
    """What a benchmark's module prints when it is run with these arguments."""
    command = [sys.executable, "-P", "-W", "ignore", "-m", module, *arguments]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout.strip()


def show(result: Bench, as_json: bool) -> None:
    if as_json:
        print(json.dumps(result.as_dict()))
        return
    console = Console()
    facts = ", ".join(f"{key} {value}" for key, value in machine().items())
    console.print(f"[bold]{result.bench}[/] ({facts})")
    if result.rows:
        table = Table(*result.rows[0])
        for row in result.rows:
            table.add_row(*map(_text, row.values()))
        wide = console.options.update(max_width=1000)  # cut off, figures would be of no use
        console.width = max(console.width, Measurement.get(console, wide, table).maximum)
        console.print(table)
    goals = Table("goal", "value", "bound", "met")
    for goal in (each.as_dict() for each in result.goals):
        met = {True: "[green]yes[/]", False: "[red]no[/]", None: "not measured"}[goal["met"]]
        goals.add_row(str(goal["name"]), _text(goal["value"]), str(goal["goal"]), met)
    console.print(goals)
    if result.note:
        console.print(result.note)


def markdown(result: Bench) -> str:
    """The same as a section of docs/benchmarks.md."""
    lines = [f"## {result.bench}", ""]
    if result.rows:
        lines += _markdown_table(result.rows)
    lines += _markdown_table([goal.as_dict() for goal in result.goals])
    return "\n".join([*lines, result.note, ""])


def _markdown_table(rows: list[dict[str, object]]) -> list[str]:
    head = list(rows[0])
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    lines += ["| " + " | ".join(_text(row[key]) for key in head) + " |" for row in rows]
    return [*lines, ""]


def _text(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
