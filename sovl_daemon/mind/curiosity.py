"""What makes it ask: how little it knows of something, how long nobody spoke, how it feels."""

import math
import random
from collections.abc import Iterable
from dataclasses import dataclass, replace

SILENCE_S = 20.0
"""It asks nothing unprompted before nobody has spoken for so long."""
COOLDOWN_S = 60.0
"""The least time between two eruptions of curiosity, and between one and asking back."""
PATIENCE_S = 600.0
"""What is said later than this after a question does not answer it."""
QUESTION_TOKENS = 30
"""The length of a question at most."""

_IGNORANCE, _NOVELTY = 0.7, 0.3
_UNPROMPTED, _IN_A_REPLY = 0.9, 0.8
_EAGERNESS, _DOUBT, _SILENCE = 0.1, 0.05, 0.02
_BURSTING = 0.7
_CHANCE = 0.3
_RELIEF = 0.3


def curiosity(confidences: Iterable[float], similarities: Iterable[float]) -> float:
    """Return how curious it is about something, in 0..1.

    0.7 for not knowing: 1 - the highest of `confidences`, the base's and the scaffold's of it; and
    0.3 for its being new: 1 - the highest of `similarities`, the cosines of it to the dreams that
    are remembered. No confidence and no similarity, or one that points away, count as 0.
    """
    known = max(confidences, default=0.0)
    familiar = max(0.0, max(similarities, default=0.0))
    return _IGNORANCE * (1 - known) + _NOVELTY * (1 - familiar)


def worth_asking(curiosity: float, *, unprompted: bool) -> bool:
    """Whether so much curiosity makes a question: above 0.9 unprompted, above 0.8 in a reply."""
    return curiosity > (_UNPROMPTED if unprompted else _IN_A_REPLY)


def question_temperature(temperament: float) -> float:
    """Return the sampling temperature of a question, in 0.7..1.7: 1.1 + 0.4 * temperament."""
    return min(max(1.1 + 0.4 * temperament, 0.7), 1.7)


@dataclass(frozen=True, slots=True)
class CuriosityPressure:
    """The urge to ask, in 0..1.

    SOVL added 0.1 * temperament + 0.05 * (1 - confidence) + 0.02 * seconds of silence at every
    look, so that it depended on how often one looks. Here what an answer adds is added at an
    answer, and silence by the second; with one look an exchange the sum is the same.

    Raises:
        ValueError: the pressure is out of its range.

    """

    value: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.value <= 1:
            raise ValueError(f"pressure {self.value} is not allowed: give 0 to 1")

    def answered(self, temperament: float, confidence: float) -> "CuriosityPressure":
        """Return the pressure after an answer: eager and unsure minds want to know more."""
        return self._moved(_EAGERNESS * temperament + _DOUBT * (1 - confidence))

    def waited(self, seconds: float) -> "CuriosityPressure":
        """Return the pressure after so many more `seconds` of silence.

        Raises:
            ValueError: they are negative.

        """
        if seconds < 0:
            raise ValueError(f"{seconds} seconds of silence are not allowed: give 0 or more")
        return self._moved(_SILENCE * seconds)

    def erupts(
        self, rng: random.Random, *, silence_s: float, since_eruption_s: float = math.inf
    ) -> bool:
        """Whether curiosity erupts now; to be asked once a tick, a second or longer.

        With probability 0.3, drawn from `rng`, once the pressure is above 0.7, nobody has spoken
        for 20 s and the last eruption is 60 s ago. Else `rng` is left alone.
        """
        if self.value <= _BURSTING or silence_s < SILENCE_S or since_eruption_s < COOLDOWN_S:
            return False
        return rng.random() < _CHANCE

    def relieved(self) -> "CuriosityPressure":
        """Return the pressure after an eruption, 0.3 lower."""
        return self._moved(-_RELIEF)

    def _moved(self, by: float) -> "CuriosityPressure":
        return CuriosityPressure(min(max(self.value + by, 0.0), 1.0))


@dataclass(frozen=True, slots=True)
class OpenQuestion:
    """A question of its own that nobody has answered yet.

    `asked_at` counts seconds on any clock. With a `conversation` it asked there alone.
    """

    text: str
    asked_at: float
    conversation: str | None = None

    def answered_by(self, conversation: str, said_at: float) -> bool:
        """Whether a prompt of this time answers it: the first one soon after, where it asked."""
        soon = 0 <= said_at - self.asked_at <= PATIENCE_S
        return soon and self.conversation in (None, conversation)


@dataclass(frozen=True, slots=True)
class QuestionQueue:
    """At most `maxlen` different questions, the oldest first.

    Two that differ in case and spaces alone are the same.

    Raises:
        ValueError: `maxlen` is below 1, or the questions are too many, blank or not different.

    """

    questions: tuple[str, ...] = ()
    maxlen: int = 10

    def __post_init__(self) -> None:
        if self.maxlen < 1:
            raise ValueError(f"maxlen {self.maxlen} is not allowed: give 1 or more")
        known = {_key(question) for question in self.questions}
        if len(known) < len(self.questions) or "" in known or len(known) > self.maxlen:
            raise ValueError(f"give at most {self.maxlen} questions, all different and none blank")

    def __len__(self) -> int:
        return len(self.questions)

    def add(self, question: str) -> "QuestionQueue":
        """Return the queue with one more question; blank and known ones change nothing.

        Where it is full, the oldest question goes.
        """
        if _key(question) in {"", *map(_key, self.questions)}:
            return self
        return replace(self, questions=(*self.questions, question)[-self.maxlen :])

    def take(self) -> tuple[str | None, "QuestionQueue"]:
        """Return the oldest question, None if there is none, and the queue without it."""
        first = self.questions[0] if self.questions else None
        return first, replace(self, questions=self.questions[1:])


def _key(question: str) -> str:
    return " ".join(question.casefold().split())
