"""What prompts of a task look like in general, drawn from its declaration alone.

A probe compares a prompt with these: what only names the task (its words, its units) then moves no
verdict, so that a task it was never fitted on is judged by what happens in it.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Iterator
from itertools import pairwise

from sovl_daemon.control.guard import Limit
from sovl_daemon.control.metric import Reading
from sovl_daemon.control.prompt import JudgePrompt, render
from sovl_daemon.control.task import Described, Task

COUNT = 16
LINES = (
    "client connected",
    "log file rotated",
    "configuration read, nothing changed",
    "heartbeat of all agents within 40 ms",
    "statistics written",
    "session renewed",
)
"""Lines of a log that say nothing."""

_SOON_S = (10.0, 600.0)


def typical_prompts(task: Task, count: int = COUNT) -> list[JudgePrompt]:
    """Prompts of a task at random moments in its grey zones; the same task, the same prompts."""
    rng = random.Random(f"{task.name} typical")  # noqa: S311 - a game
    prompts = []
    for _ in range(count):
        readings = {each.name: each for each in _readings(task, rng)}
        prompts.append(render(task, readings, rng.sample(LINES, rng.choice((1, 2)))))
    return prompts


def typical_key(task: Task) -> str:
    """A name for the typical prompts of a task, another one when its declaration changes."""
    texts = "".join(prompt.text for prompt in typical_prompts(task))
    return f"{task.name} {hashlib.sha256(texts.encode()).hexdigest()[:16]}"


def _readings(task: Task, rng: random.Random) -> Iterator[Reading]:
    limits = {limit.metric: limit for limit in task.limits}
    for described in task.metrics:
        limit = limits.get(described.name)
        if limit is not None and limit.hard is not None:
            yield _toward(limit, limit.hard, rng)
        else:
            yield _anywhere(described, rng)


def _toward(limit: Limit, hard: float, rng: random.Random) -> Reading:
    """Between calm and the hard limit, half of the time on its way there."""
    calm = next(each for each in (limit.low, limit.grey, 0.0) if each is not None)
    value = rng.uniform(calm, hard)
    if rng.random() < 0.5:
        return Reading(limit.metric, value, 0.0)
    left_s = math.exp(rng.uniform(*map(math.log, _SOON_S)))
    way = rng.choice((1.0, 1.0, -1.0))
    return Reading(limit.metric, value, 0.0, way * 60.0 * (hard - value) / left_s)


def _anywhere(described: Described, rng: random.Random) -> Reading:
    """In any of the levels, not changing."""
    starts = [level.start for level in described.levels]
    ends = [after for _, after in pairwise(starts)]
    ends.append(min(described.high, 2 * starts[-1] or described.high))
    low, high = rng.choice(list(zip(starts, ends, strict=True)))
    return Reading(described.name, rng.uniform(low, high), 0.0)
