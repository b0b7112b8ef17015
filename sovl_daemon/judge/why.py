"""Why it acted at a moment, or did not, in words: from the log of decisions alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime

from sovl_daemon.control.decision_log import DecisionLog, Logged
from sovl_daemon.control.task import Task

_DOES = {
    "hold": "It changed nothing.",
    "ask": "It asked the judge.",
    "act": "It decided to do {action}.",
    "relax": "It decided to take {action} back.",
    "done": "What it had decided about {action} was done.",
    "failed": "What it had decided about {action} could not be done.",
}
_ANSWERS = {
    "true": "The judge said true, an adjustment is needed ({confidence:.0%} sure).",
    "false": "The judge said false, no adjustment is needed ({confidence:.0%} sure).",
    "abstain": "The judge abstained: it was not sure enough, and then nothing is changed.",
}
_LATEST_S = 60.0  # within which an answer or an outcome belongs to a decision


def explain(log: DecisionLog, decision: Logged, tasks: Mapping[str, Task]) -> list[str]:
    """A decision as sentences: when, the readings, their zones, the reason, verdict and outcome."""
    task = tasks.get(decision.task)
    when = datetime.fromtimestamp(decision.time_s).astimezone().isoformat(" ", "seconds")
    return [
        f"Decision {decision.id} on {decision.task}, {when}.",
        *_readings(decision, task),
        f"{_DOES[decision.does].format(action=decision.action)} Why: {decision.why}.",
        *_verdict(decision),
        *_followed(decision, log.around(decision, after=True, limit=4)),
    ]


def _readings(decision: Logged, task: Task | None) -> Iterator[str]:
    limits = {limit.metric: limit for limit in task.limits} if task else {}
    names = {each.label: each.name for each in task.metrics} if task else {}
    for label, words in decision.metrics.items():
        limit = limits.get(names.get(label, ""))
        bounds = {
            "acts at once from": limit and limit.hard,
            "asks the judge from": limit and limit.grey,
            "may relax up to": limit and limit.low,
        }
        zones = [f"{zone} {value:g}" for zone, value in bounds.items() if value is not None]
        yield f"  {label}: {words}{zones and '; '}{', '.join(zones)}"


def _verdict(decision: Logged) -> Iterator[str]:
    if decision.answer is None:
        if decision.does in ("act", "relax"):
            yield "The judge was not needed: a rule without a judge decided."
        return
    yield _ANSWERS[decision.answer].format(confidence=decision.confidence or 0.0)
    if decision.recommended:
        sure = f"{decision.sure or 0.0:.0%}"
        yield f"It recommended {decision.recommended}, which is enough with {sure}."


def _followed(decision: Logged, later: Sequence[Logged]) -> Iterator[str]:
    """What came of it, where something had to come."""
    wanted = {"ask": ("hold", "act"), "act": ("done", "failed"), "relax": ("done", "failed")}
    for each in later:
        soon = each.time_s - decision.time_s <= _LATEST_S
        if soon and each.does in wanted.get(decision.does, ()):
            after_s = each.time_s - decision.time_s
            yield f"{after_s:.1f} s later (decision {each.id}): {each.why}."
            return
    if decision.does in wanted:
        yield "What came of it is not in the log."
