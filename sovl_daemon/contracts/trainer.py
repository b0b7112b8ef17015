"""What the trainer is asked: to learn a night, and to hold training back."""

from __future__ import annotations

from pydantic import Field

from bus.commands import Reply, Request


class NightMetrics(Reply):
    """How much there was to learn in a night, and its exam: of one that was kept or rolled back."""

    lessons: int = Field(default=0, description="how many lessons were made of what it lived")
    steps: int = Field(default=0, description="micro-batches that it learned from")
    recall_before: float = Field(
        default=0.0, description="share of the exam's questions that it could answer before"
    )
    recall: float = Field(default=0.0, description="the same afterwards")
    drift: float = Field(default=0.0, description="how far all else moved")


class NightLearned(NightMetrics):
    """What came of a night's learning."""

    text: str = Field(default="", description="what came of the night")
    learned: int = Field(default=0, description="interactions that it consumed")
    reason: str = Field(default="", description="why nothing was learned or kept")
    generation: int | None = Field(default=None, description="where it was written, if it was kept")


class LearnNight(Request[NightLearned], command="learn_night"):
    """How long a night may last."""

    seconds: float = Field(gt=0)


class TrainingHold(Reply):
    """Whether training is held back, and whether something is trained now all the same."""

    held: bool
    training: bool


class HoldTraining(Request[TrainingHold], command="hold_training"):
    """Whether training is held."""

    hold: bool | None = Field(default=None, description="Shown when left out.")
