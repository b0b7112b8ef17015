"""All that a mind is in numbers, as one value: how it changes, and how it is written down."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import JsonValue, TypeAdapter, ValidationError

from config.controls import ControlsConfig
from config.mind import TrainingConfig
from sovl_daemon.mind.curiosity import CuriosityPressure, QuestionQueue
from sovl_daemon.mind.dreams import DreamMemory, DreamReason, dream_reason
from sovl_daemon.mind.history import History
from sovl_daemon.mind.lifecycle import exposure_gain, life_weight, stage
from sovl_daemon.mind.temperament import Temperament, updated

VERSION = 1
"""Of the form that `Mind.to_json` writes."""


@dataclass(frozen=True, slots=True)
class Mind:
    """One mind between two events. What happens to it makes a new one.

    `exposure` is what it took in; `learned_weight` the weight of the scaffold's influence since the
    last night, 0 before the first; `dreamt_at` the temperament's score at the last dream, and
    `fresh_answers` the answers since; dreams are remembered by name, their tensors lie elsewhere.
    Times are no part of it, see `Rhythm`; nor are interactions, which the store counts.

    Raises:
        ValueError: a number is out of its range.

    """

    exposure: int = 0
    learned_weight: float = 0.0
    confidences: History = field(default_factory=History)
    temperament: Temperament = field(default_factory=Temperament)
    pressure: CuriosityPressure = field(default_factory=CuriosityPressure)
    questions: QuestionQueue = field(default_factory=QuestionQueue)
    dream_memory: DreamMemory[str] = field(default_factory=DreamMemory)
    dreamt_at: float = 0.0
    fresh_answers: int = 0
    dreams: int = 0
    nights: int = 0
    has_woken: bool = False
    asleep: bool = False

    def __post_init__(self) -> None:
        _refuse_outside("learned_weight", self.learned_weight, 0, 1)
        _refuse_outside("dreamt_at", self.dreamt_at, -1, 1)
        for value in self.confidences.values:
            _refuse_outside("confidences", value, 0, 1)
        for name in ("exposure", "fresh_answers", "dreams", "nights"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} {getattr(self, name)} is not allowed: give 0 or more")

    @classmethod
    def born(cls, knobs: ControlsConfig) -> "Mind":
        """Return a new mind; `has_woken` and `is_sleeping` say how it begins."""
        return cls(has_woken=knobs.has_woken, asleep=knobs.is_sleeping)

    # What it is like

    def confidence(self, knobs: ControlsConfig) -> float | None:
        """The mean confidence of the last answers; None if not known or not tracked."""
        return self.confidences.mean if knobs.enable_confidence_tracking else None

    def score(self, knobs: ControlsConfig) -> float:
        """The temperament's score; 0 where it has no temperament."""
        return self.temperament.score if knobs.enable_temperament else 0.0

    def influence(self, knobs: ControlsConfig) -> float:
        """The factor on the weights of cross-attention.

        With `enable_lifecycle_weighting` the life weight as the last night left it; else 1, and the
        weights that the user set hold as they are.
        """
        return self.learned_weight if knobs.enable_lifecycle_weighting else 1.0

    def dream_reason(self, knobs: ControlsConfig) -> DreamReason | None:
        """Return why a dream starts now, None if none does; one answer starts one dream at most.

        What is not tracked, and the temperament of one that has none, start nothing.
        """
        if not self.fresh_answers or not knobs.enable_confidence_tracking:
            return None
        unmoved = Temperament(self.dreamt_at)
        temperament = self.temperament if knobs.enable_temperament else unmoved
        return dream_reason(self.confidences, temperament, self.dreamt_at, knobs)

    # What happens to it

    def answered(
        self,
        confidence: float,
        *,
        unseen: bool,
        capacity: float,
        knobs: ControlsConfig,
        training: TrainingConfig,
    ) -> "Mind":
        """Return the mind after an answer of this confidence, to a prompt it had `unseen` or not.

        How eager it was when it met the prompt decides what the prompt gives; how confident it has
        become, which way the temperament goes.
        """
        _refuse_outside("confidence", confidence, 0, 1)
        gain = exposure_gain(self.score(knobs), training) if unseen else 0
        confidences, known = self.confidences, None
        if knobs.enable_confidence_tracking:
            confidences = confidences.resized(knobs.confidence_history_maxlen).add(confidence)
            known = confidences.mean
        now = stage(self.exposure, capacity)
        temperament = self.temperament
        if knobs.enable_temperament:
            temperament = updated(temperament, known, now, knobs)
        after = replace(
            self,
            exposure=self.exposure + gain,
            confidences=confidences,
            temperament=temperament,
            fresh_answers=self.fresh_answers + 1,
        )
        return replace(after, pressure=self.pressure.answered(after.score(knobs), confidence))

    def dreamt(self, name: str, questions: Iterable[str], knobs: ControlsConfig) -> "Mind":
        """Return the mind after a dream, remembered by `name`, that raised these questions."""
        return replace(
            self._wondering(questions),
            dream_memory=self.dream_memory.add(name, knobs),
            dreamt_at=self.temperament.score,
            fresh_answers=0,
            dreams=self.dreams + 1,
        )

    def fell_asleep(self) -> "Mind":
        """Return the mind asleep."""
        return replace(self, asleep=True)

    def slept(self, question: str, *, capacity: float, training: TrainingConfig) -> "Mind":
        """Return the mind after learning that is kept, by night or not, and raised this `question`.

        The influence becomes the life weight. A night that is aborted, or has nothing to learn,
        ends with `woke` alone.
        """
        weight = life_weight(stage(self.exposure, capacity), training)
        return replace(
            self._wondering([question]), learned_weight=weight, nights=self.nights + 1, asleep=False
        )

    def woke(self) -> "Mind":
        """Return the mind awake; its first words are said, now or long ago."""
        return replace(self, asleep=False, has_woken=True)

    def waited(self, seconds: float) -> "Mind":
        """Return the mind after so many more `seconds` of silence. Raises ValueError below 0."""
        return replace(self, pressure=self.pressure.waited(seconds))

    def erupted(self, question: str) -> "Mind":
        """Return the mind after its curiosity erupted with this question, blank if with none."""
        return replace(self._wondering([question]), pressure=self.pressure.relieved())

    def asked(self) -> tuple[str | None, "Mind"]:
        """Return the next question it has, None if it has none, and the mind that has asked it."""
        question, questions = self.questions.take()
        return question, replace(self, questions=questions)

    # How it is written down

    def to_json(self) -> dict[str, JsonValue]:
        """Return it as plain JSON, with the version of its form."""
        return {"version": VERSION, **_adapter.dump_python(self, mode="json")}

    @classmethod
    def from_json(cls, document: object) -> "Mind":
        """Return what `to_json` wrote.

        Raises:
            ValueError: it is of another version, or anything in it is missing, unknown, of another
                type or out of its range.

        """
        if not isinstance(document, Mapping):
            raise ValueError(f"mind: {type(document).__name__} is not allowed: give an object")
        fields = dict(document)
        version = fields.pop("version", None)
        if type(version) is not int or version != VERSION:
            raise ValueError(
                f"mind: version {version!r} is not known, only {VERSION}: "
                "update SOVL if a newer one wrote it"
            )
        try:
            # From text, because only there does strictness know that JSON has no tuples.
            mind = _adapter.validate_json(json.dumps(fields), strict=True, extra="forbid")
        except TypeError as error:
            raise ValueError(f"mind: not plain JSON: {error}") from None
        except ValidationError as error:
            raise ValueError(_first_fault(error)) from None
        _refuse_changes(fields, _adapter.dump_python(mind, mode="json"), "mind")
        return mind

    def _wondering(self, questions: Iterable[str]) -> "Mind":
        queue = self.questions
        for question in questions:
            queue = queue.add(question)
        return replace(self, questions=queue)


_adapter = TypeAdapter(Mind)


def _refuse_outside(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ValueError(f"{name} {value} is not allowed: give {low} to {high}")


def _first_fault(error: ValidationError) -> str:
    fault = error.errors(include_url=False)[0]
    place = ".".join(["mind", *map(str, fault["loc"])])
    return f"{place}: {fault['msg'].removeprefix('Value error, ')}"


def _refuse_changes(given: Any, read: Any, place: str) -> None:
    """Refuse a document that was not read to the letter: what is absent would take a default."""
    if isinstance(given, Mapping) and isinstance(read, dict):
        for name in read:
            if name not in given:
                raise ValueError(f"{place}.{name}: missing, but every field is needed")
            _refuse_changes(given[name], read[name], f"{place}.{name}")
    elif isinstance(given, list) and isinstance(read, list) and len(given) == len(read):
        for index, (one, other) in enumerate(zip(given, read, strict=True)):
            _refuse_changes(one, other, f"{place}.{index}")
    elif given != read:
        raise ValueError(f"{place}: {given!r} is not what was written, {read!r} would be")
