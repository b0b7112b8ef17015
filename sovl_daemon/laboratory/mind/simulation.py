"""A mind's days in a moment: the real functions, driven by an imagined visitor.

Answers, training and dreams are imagined, for there is no model here; when it tires, sleeps, dreams
and asks is decided by the functions that decide it in the daemon, with the same knobs.
"""

import random
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypedDict

from config.controls import ControlsConfig
from config.mind import TrainingConfig
from sovl_daemon.laboratory.mind.visitor import (
    HOUR_S,
    TOPICS,
    Knowledge,
    Prompt,
    prompts,
    similarity,
)
from sovl_daemon.mind.curiosity import SILENCE_S, curiosity, worth_asking
from sovl_daemon.mind.dreams import QUESTIONS_A_DREAM, choice_weights, choose, noise
from sovl_daemon.mind.lifecycle import capacity, night_learning_rate, stage
from sovl_daemon.mind.sleep import Rhythm, WakeReason, longest_night, sleep_reason, tiredness
from sovl_daemon.mind.state import Mind
from sovl_daemon.mind.temperament import Mood, mood
from sovl_daemon.mind.wake import wakes

EventKind = Literal["first words", "visit", "question", "dream", "sleep", "wake"]

_TICK_S = 10.0
_TICKS_A_MOMENT = 6
_TRAINING_S = (20.0, 80.0)  # an interaction, as busy as the machine may be
_UNKNOWN = 0.6  # the most it may know of what comes to its mind


@dataclass(frozen=True, slots=True)
class LifeEvent:
    """What happened at `time_s`, seconds since the start."""

    time_s: float
    kind: EventKind
    detail: str


@dataclass(frozen=True, slots=True)
class MindSnapshot:
    """A mind at `time_s`, seconds since the start, and what happened since the last moment.

    `confidence` is the mean of the last answers', None before the first; `entries` are the
    interactions that no night has consumed.
    """

    time_s: float
    confidence: float | None
    temperament: float
    mood: Mood
    tiredness: float
    pressure: float
    exposure: int
    influence: float
    asleep: bool
    entries: int
    events: tuple[LifeEvent, ...]


class MindSimulation:
    """One simulated life. The same arguments always give the same one.

    `parameters` is how many trainable ones the scaffold's adapters have.

    Raises:
        ValueError: `hours` are not above 0, or `parameters` below 1.

    """

    def __init__(
        self,
        knobs: ControlsConfig,
        training: TrainingConfig,
        *,
        hours: float,
        seed: int,
        parameters: int,
    ) -> None:
        if not hours > 0:
            raise ValueError(f"{hours} hours are not allowed: give more than 0")
        self._knobs, self._training = knobs, training
        self._hours = hours
        self._capacity = capacity(parameters, training)
        world, self._rng = random.Random(seed), random.Random(seed + 1)  # noqa: S311 - a game
        self._knowledge = Knowledge(world)
        self._prompts = deque(prompts(hours, world))
        self._log: list[Prompt] = []  # what no night has consumed
        self._lived: list[Prompt] = []
        self._seen: set[str] = set()
        self._dreamt: dict[str, int] = {}  # the topic of each prompt that was dreamt of
        self._events: list[LifeEvent] = []
        self._now = 0.0
        self._spoken_at, self._erupted_at = 0.0, -HOUR_S
        self._mind = Mind.born(knobs)
        self._rhythm = Rhythm(0.0)
        # Of this night, or of the one that was cut off: what it is about goes on the next time.
        self._to_learn, self._trained_s, self._entry_s = 0, 0.0, _TRAINING_S[0]
        self._slept_at = self._longest_s = 0.0

    def run(self) -> Iterator[MindSnapshot]:
        """Yield a moment a minute. Can be run through once."""
        if self._mind.asleep:
            self._fall_asleep("asleep")
        elif wakes(self._mind.has_woken, self._knobs):
            self._happened("first words", "once in a life")
            self._mind = self._mind.woke()
        for tick in range(round(self._hours * HOUR_S / _TICK_S) + 1):
            self._now = tick * _TICK_S
            self._live()
            if tick % _TICKS_A_MOMENT == 0:
                yield self._moment()

    def _live(self) -> None:
        called = self._listen()
        if self._mind.asleep:
            self._sleep_on(called)
        else:
            self._wonder()
        if self._now - self._spoken_at >= SILENCE_S:
            self._dream()
        if self._mind.asleep:
            return
        reason = sleep_reason(
            self._rhythm,
            self._now,
            entries=len(self._log),
            confidence=self._mind.confidence(self._knobs),
            stage=self._stage(),
            knobs=self._knobs,
        )
        if reason is not None:
            self._fall_asleep(reason)

    def _moment(self) -> MindSnapshot:
        mind, knobs = self._mind, self._knobs
        events, self._events = tuple(self._events), []
        return MindSnapshot(
            time_s=self._now,
            confidence=mind.confidence(knobs),
            temperament=mind.score(knobs),
            mood=mood(mind.score(knobs), knobs),
            tiredness=self._tiredness(),
            pressure=mind.pressure.value,
            exposure=mind.exposure,
            influence=mind.influence(knobs),
            asleep=mind.asleep,
            entries=len(self._log),
            events=events,
        )

    # What happens to it

    def _listen(self) -> bool:
        """Answer what was said since the last tick, or note the silence; whether somebody spoke."""
        spoken = False
        while self._prompts and self._prompts[0].time_s <= self._now:
            self._answer(self._prompts.popleft())
            spoken = True
        if not self._mind.asleep and self._now > self._spoken_at:
            self._mind = self._mind.waited(_TICK_S)
        return spoken

    def _answer(self, prompt: Prompt) -> None:
        if prompt.opens:
            self._happened("visit", prompt.text)
        confidence = self._knowledge.confidence(prompt.topic)
        self._mind = self._mind.answered(
            confidence,
            unseen=prompt.text not in self._seen,
            capacity=self._capacity,
            knobs=self._knobs,
            training=self._training,
        )
        self._seen.add(prompt.text)
        self._log.append(prompt)
        self._lived.append(prompt)
        self._spoken_at = self._now
        if worth_asking(self._curiosity(prompt.topic, confidence), unprompted=False):
            self._happened("question", f"in a reply: {_question(prompt.topic)}")

    def _wonder(self) -> None:
        erupts = self._mind.pressure.erupts(
            self._rng,
            silence_s=self._now - self._spoken_at,
            since_eruption_s=self._now - self._erupted_at,
        )
        if not erupts:
            return
        self._erupted_at = self._now
        topic, known = self._rng.randrange(TOPICS), self._rng.uniform(0, _UNKNOWN)
        worth = worth_asking(self._curiosity(topic, known), unprompted=True)
        question, self._mind = self._mind.erupted(_question(topic) if worth else "").asked()
        if question is not None:
            self._happened("question", f"unprompted: {question}")

    # Asleep

    def _fall_asleep(self, reason: str) -> None:
        """Begin a night, or go on with what the last one was about if that was cut off."""
        self._mind, self._rhythm = self._mind.fell_asleep(), self._rhythm.fell_asleep(self._now)
        self._slept_at, self._longest_s = self._now, longest_night(len(self._log), self._knobs)
        if not self._to_learn:
            self._to_learn = len(self._log)
            self._trained_s, self._entry_s = 0.0, self._rng.uniform(*_TRAINING_S)
        self._happened("sleep", f"{reason}, {len(self._log)} interactions")

    def _sleep_on(self, called: bool) -> None:
        """Rest until all is learned, or the night is over; whoever speaks wakes it."""
        self._trained_s += _TICK_S
        over = self._now - self._slept_at >= self._longest_s
        if self._knobs.enable_sleep_training:
            needed_s = self._to_learn * self._entry_s * self._knobs.sleep_time_factor
            over |= self._trained_s >= needed_s
        if over:
            self._learn()
            self._wake("rested")
        elif called:
            self._wake("called")

    def _wake(self, reason: WakeReason) -> None:
        self._mind, self._rhythm = self._mind.woke(), self._rhythm.woke(self._now, reason)
        self._happened("wake", f"{reason}, influence {self._mind.influence(self._knobs):.3f}")

    def _learn(self) -> None:
        """Consume what the night was about, learned as well as it was trained for.

        A night without training leaves it all.
        """
        count, self._to_learn = self._to_learn, 0
        if not (count and self._knobs.enable_sleep_training):
            return
        rate = night_learning_rate(self._stage(), self._training)
        share = self._trained_s / (count * self._entry_s)
        for prompt in self._log[:count]:
            self._knowledge.learn(prompt.topic, rate * share)
        question, self._log = _question(self._log[0].topic), self._log[count:]
        self._mind = self._mind.slept(question, capacity=self._capacity, training=self._training)

    def _dream(self) -> None:
        reason = self._mind.dream_reason(self._knobs)
        if reason is None:
            return
        last = self._lived[-1].topic
        recent = self._lived[-100:]
        weights = choice_weights([similarity(each.topic, last) for each in recent], self._knobs)
        chosen = recent[choose(weights, self._rng)]
        unseen = chosen.text not in self._dreamt
        loud = noise(self._mind.score(self._knobs), unseen, self._knobs)
        self._dreamt[chosen.text] = chosen.topic
        topics = [(chosen.topic + step) % TOPICS for step in range(QUESTIONS_A_DREAM)]
        self._mind = self._mind.dreamt(chosen.text, map(_question, topics), self._knobs)
        self._happened("dream", f"{reason}, of {chosen.text}, noise {loud:.2f}")

    # What it is made of

    def _stage(self) -> float:
        return stage(self._mind.exposure, self._capacity)

    def _tiredness(self) -> float:
        return tiredness(
            len(self._log),
            self._mind.confidence(self._knobs),
            self._rhythm.awake_s(self._now),
            self._stage(),
            self._knobs,
        )

    def _curiosity(self, topic: int, confidence: float) -> float:
        dreamt = (self._dreamt[dream.content] for dream in self._mind.dream_memory.dreams)
        return curiosity([confidence], (similarity(topic, other) for other in dreamt))

    def _happened(self, kind: EventKind, detail: str) -> None:
        self._events.append(LifeEvent(self._now, kind, detail))


class LifeSummary(TypedDict):
    """What a life came to; `asleep` is a share of its `hours`, the last six are of its end."""

    hours: float
    seed: int
    visits: int
    nights: int
    dreams: int
    questions: int
    asleep: float
    confidence: float | None
    temperament: float
    mood: str
    exposure: int
    influence: float


def summary(moments: Sequence[MindSnapshot], *, hours: float, seed: int) -> LifeSummary:
    """Return what a life came to: how often what happened, and what it is like at its end."""
    happened = Counter(event.kind for moment in moments for event in moment.events)
    last = moments[-1]
    return {
        "hours": hours,
        "seed": seed,
        "visits": happened["visit"],
        "nights": happened["sleep"],
        "dreams": happened["dream"],
        "questions": happened["question"],
        "asleep": round(sum(moment.asleep for moment in moments) / len(moments), 3),
        "confidence": None if last.confidence is None else round(last.confidence, 3),
        "temperament": round(last.temperament, 3),
        "mood": last.mood,
        "exposure": last.exposure,
        "influence": round(last.influence, 3),
    }


def _question(topic: int) -> str:
    return f"What more is there to know of topic {topic}?"
