"""An imagined visitor: when they speak and of what, and how sure a mind is of that."""

import itertools
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass

HOUR_S = 3600.0

TOPICS = 40
_PHRASINGS = 6
_WAKING_HOURS = 16  # of each 24; the simulation begins in the morning
_HOURS_BETWEEN_VISITS = 1.25
_PROMPTS = (5, 18)
_SECONDS_BETWEEN_PROMPTS = (12.0, 90.0)
_INSOMNIA = 0.1  # the share of visits by night that take place
_FIRST_SKILL = (0.15, 0.8)
_BEST_SKILL = 0.93
_NOISE = 0.05
_THOROUGH_RATE = 1e-5  # the learning rate at which a night closes 63 % of what is missing
_SAME_TOPIC, _OTHER_TOPIC = 1.0, 0.1


@dataclass(frozen=True, slots=True)
class Prompt:
    """What the visitor says at `time_s`, seconds since the start: a topic, and a wording of it.

    `opens` is true where a visit begins.
    """

    time_s: float
    topic: int
    phrasing: int
    opens: bool

    @property
    def text(self) -> str:
        """Its wording."""
        return f"topic {self.topic}, phrasing {self.phrasing}"


def prompts(hours: float, rng: random.Random) -> Iterator[Prompt]:
    """Yield all that is said in so many hours, in its order: visits, each a burst of prompts.

    They come at random by day and rarely by night; a few topics come up again and again.
    """
    now = 0.0
    while True:
        now += rng.expovariate(1 / (_HOURS_BETWEEN_VISITS * HOUR_S))
        if now >= hours * HOUR_S:
            return
        night = now / HOUR_S % 24 >= _WAKING_HOURS
        if night and rng.random() > _INSOMNIA:
            continue
        for prompt in _visit(now, rng):
            now = prompt.time_s
            yield prompt


def similarity(topic: int, other: int) -> float:
    """The cosine of two prompts in this imagined world."""
    return _SAME_TOPIC if topic == other else _OTHER_TOPIC


class Knowledge:
    """How much a mind knows of each topic, as the confidence of its answers: 0..1."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._skill = [rng.uniform(*_FIRST_SKILL) for _ in range(TOPICS)]

    def confidence(self, topic: int) -> float:
        """Return the confidence of one answer."""
        return min(max(self._rng.gauss(self._skill[topic], _NOISE), 0.0), 1.0)

    def learn(self, topic: int, rate: float) -> None:
        """Take in what a night with this learning rate teaches of a topic."""
        missing = _BEST_SKILL - self._skill[topic]
        self._skill[topic] += missing * -math.expm1(-rate / _THOROUGH_RATE)


def _visit(start_s: float, rng: random.Random) -> Iterator[Prompt]:
    now = start_s
    weights = list(itertools.accumulate(1 / rank for rank in range(1, TOPICS + 1)))
    for index in range(rng.randint(*_PROMPTS)):
        (topic,) = rng.choices(range(TOPICS), cum_weights=weights)
        yield Prompt(now, topic, rng.randrange(_PHRASINGS), opens=index == 0)
        now += rng.uniform(*_SECONDS_BETWEEN_PROMPTS)
