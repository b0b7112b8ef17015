"""What the judge reads: metrics in words, recent log lines as evidence, and one question."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sovl_daemon.control.guard import Limit
from sovl_daemon.control.metric import Metric, Reading
from sovl_daemon.control.task import Described, Task

ONLY = "Respond only with true or false."
MAX_LINES = 5
MAX_CHARACTERS = 160
STEADY = 0.003
"""A change within a minute below this share of the scale is called steady."""

_DISTANCES = (
    (0.0, "at its limit"),
    (0.2, "almost at its limit"),
    (0.45, "very near its limit"),
    (0.75, "near its limit"),
    (1.1, "not far from its limit"),
)
_TIMES = (
    (8.0, "there in seconds"),
    (15.0, "there in ten seconds"),
    (25.0, "there in twenty seconds"),
    (38.0, "there in half a minute"),
    (52.0, "there in three quarters of a minute"),
    (70.0, "there within a minute"),
    (110.0, "there in a minute and a half"),
    (170.0, "there in two minutes"),
    (600.0, "there in some minutes"),
)
_SIZES = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"))


@dataclass(frozen=True, slots=True)
class JudgePrompt:
    """The prompt in pieces: `prefix` and `question` are always the same for a task.

    `evidence` are lines of the log, each on a line of its own; empty without any.
    """

    prefix: str
    metrics: str
    evidence: str
    question: str

    @property
    def text(self) -> str:
        """The whole."""
        return self.prefix + self.metrics + self.evidence + self.question

    def pieces(self) -> dict[str, str]:
        """The pieces by the names that the judge's commands have for them."""
        return {
            "prefix": self.prefix,
            "text": self.metrics,
            "evidence": self.evidence,
            "ending": self.question,
        }


def render(
    task: Task, readings: Mapping[str, Reading], log_lines: Sequence[str] = ()
) -> JudgePrompt:
    """Put a task's readings to the judge.

    The block from "Given the following" to "Respond only with true or false." is the contract, in
    this order. What never changes stands before it. Readings with a fault are left out: the judge
    never learns what a broken sensor says. Of the log the last five lines are quoted, each as one
    line and cut to 160 characters, so that text from outside cannot pose as part of the prompt.
    """
    prefix = f"{task.about} {task.decide} {ONLY}\n\nGiven the following {task.title} metrics:\n"
    limits = {limit.metric: limit for limit in task.limits}
    pairs = ((each, readings.get(each.name)) for each in task.metrics)
    lines = [_line(each, reading, limits.get(each.name)) for each, reading in pairs]
    body = "".join(f"{line}\n" for line in lines if line)
    quoted = "".join(f'- "{line}"\n' for line in map(_clean, log_lines[-MAX_LINES:]) if line)
    evidence = quoted and f"Recent log lines:\n{quoted}"
    return JudgePrompt(prefix, body, evidence, f"{task.decide} {ONLY}\n")


def describe(described: Described, reading: Reading) -> str:
    """A sound reading in words, for example `87 % (high, rising 2 %/min)`."""
    level, trend = described.level(reading.value), _trend(described, reading.per_min)
    return f"{quantity(reading.value, described.unit)} ({level}, {trend})"


def quantity(value: float, unit: str) -> str:
    """A number with its unit, in three digits; bytes in the size that fits."""
    if unit == "bytes":
        for size, name in _SIZES:
            if abs(value) >= size:
                return f"{value / size:.3g} {name}"
        return f"{value:.0f} bytes"
    number = f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return f"{number} {unit}".rstrip()


def outlook(reading: Reading, limit: Limit) -> str:
    """How near a metric is to its hard limit, and when it is there at its present trend, in words.

    Near is told in shares of the grey zone; without one, of what lies below the limit. Words,
    because small models read `in half a minute` more surely than they divide two numbers. Empty
    for a metric without a hard limit.
    """
    if limit.hard is None:
        return ""
    left = limit.sign * (limit.hard - reading.value)
    begin = next((each for each in (limit.grey, limit.low) if each is not None), 0.0)
    share = left / (abs(limit.hard - begin) or 1.0)
    near = next((words for most, words in _DISTANCES if share <= most), "far from its limit")
    if left <= 0 or not reading.per_min:
        return near
    left_s = 60.0 * left / abs(reading.per_min)
    if limit.sign * reading.per_min < 0:
        return f"{near}, moving away from it" if left_s <= _TIMES[-1][0] else near
    when = next((words for max_s, words in _TIMES if left_s <= max_s), "")
    return f"{near}{when and f', {when}'}"


def _line(described: Described, reading: Reading | None, limit: Limit | None) -> str:
    if reading is None or reading.fault:
        return ""
    said = describe(described, reading)
    soon = outlook(reading, limit) if limit is not None else ""
    return f"{described.label}: {said}{soon and f', {soon}'}"


def _trend(metric: Metric, per_min: float) -> str:
    noticeable = STEADY * metric.span
    if metric.unit == "bytes":  # a scale of terabytes only says that there is no bound
        noticeable = min(noticeable, 1e6)
    if abs(per_min) < noticeable:
        return "steady"
    way = "rising" if per_min > 0 else "falling"
    return f"{way} {_rate(abs(per_min), metric.unit)}"


def _rate(per_min: float, unit: str) -> str:
    if per_min >= 1 and unit != "bytes":
        text = quantity(round(per_min), unit)
    else:
        text = quantity(float(f"{per_min:.2g}"), unit)
    return f"{text}/min" if unit else f"{text} a minute"


def _clean(line: str) -> str:
    text = "".join(c if c.isprintable() else " " for c in line).replace('"', "'")
    text = " ".join(text.split())
    return text if len(text) <= MAX_CHARACTERS else text[: MAX_CHARACTERS - 3] + "..."
