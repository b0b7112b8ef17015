"""What the mind is asked: what it is like, how it is tuned, and what it takes in from others."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field, WithJsonSchema

from bus.commands import Done, Reply, Request
from bus.topics import MindState
from sovl_daemon.contracts.knobs import KnobsTurned
from sovl_daemon.mind.state import Mind

# For people


class MindReport(MindState, Reply):
    """The mind in words, and in the numbers of the event `mind.state`."""

    text: str = Field(description="the same in words")


class ShowMind(Request[MindReport], command="mind"):
    """What it is like now."""


class TemperamentKnobs(BaseModel):
    """The eight knobs of the temperament, in the order of the manual."""

    eager: float | None = Field(default=None, description="temp_eager_threshold.")
    sluggish: float | None = Field(default=None, description="temp_sluggish_threshold.")
    influence: float | None = Field(default=None, description="temp_mood_influence.")
    curiosity: float | None = Field(default=None, description="temp_curiosity_boost.")
    restless: float | None = Field(default=None, description="temp_restless_drop.")
    melancholy: float | None = Field(default=None, description="temp_melancholy_noise.")
    conf_strength: float | None = Field(default=None, description="conf_feedback_strength.")
    smoothing_factor: float | None = Field(default=None, description="temp_smoothing_factor.")


class TunedTemperament(TemperamentKnobs, KnobsTurned):
    """How the temperament is tuned now."""


class TuneTemperament(TemperamentKnobs, Request[TunedTemperament], command="temp"):
    """The eight knobs of the temperament, in the order of the manual; what is left out stays."""


class LifecycleKnobs(BaseModel):
    """How a life is counted."""

    capacity: float | None = Field(default=None, description="lifecycle_capacity_factor.")
    curve: Literal["sigmoid_linear", "exponential"] | None = Field(
        default=None, description="lifecycle_curve."
    )


class TunedLifecycle(LifecycleKnobs, KnobsTurned):
    """How a life is counted now."""


class TuneLifecycle(LifecycleKnobs, Request[TunedLifecycle], command="lifecycle"):
    """How a life is counted; what is left out stays."""


class BlendKnobs(BaseModel):
    """How strong and how random."""

    weight: float | None = Field(default=None, description="scaffold_weight_cap.")
    temp: float | None = Field(default=None, description="base_temperature.")


class TunedBlend(BlendKnobs, KnobsTurned):
    """How strong and how random it is now."""


class TuneBlend(BlendKnobs, Request[TunedBlend], command="blend"):
    """How strong and how random; what is left out stays."""


# For other agents


class NoteCapacity(Request[Done], command="mind_capacity"):
    """What there is to fill with a life."""

    parameters: int = Field(ge=1, description="Trainable parameters of the adapters.")


WholeMind = Annotated[Mind, WithJsonSchema({"type": "object"})]
"""All that is kept of a mind; documents do not take it apart."""


class MindRead(Reply):
    """All that is kept of a mind."""

    mind: WholeMind


class ReadMind(Request[MindRead], command="mind_document"):
    """All of it as it is now."""


class BecomeMind(Request[Done], command="mind_restore"):
    """A mind as it was read; none for one that is born now."""

    mind: WholeMind | None = None


class NoteDream(Request[Done], command="mind_dreamt"):
    """A dream and the questions that it raised."""

    name: str
    questions: list[str]


class NoteSleep(Request[Done], command="mind_asleep"):
    """Whether it sleeps from now on."""

    asleep: bool


class NoteNight(Request[MindRead], command="mind_slept"):
    """The question that a night raised; `foretell` asks what it would be, and changes nothing."""

    question: str = ""
    foretell: bool = False


class NextQuestion(Reply):
    """The question that it asks now, None if it has none."""

    question: str | None


class Erupt(Request[NextQuestion], command="mind_erupted"):
    """A question that came to mind, blank for none."""

    question: str = ""
