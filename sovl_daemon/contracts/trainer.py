"""What the trainer is asked: to learn, to be held back meanwhile, and to keep what it learned."""

from __future__ import annotations

from pydantic import BaseModel, Field

from bus.commands import AgentStats, Reply, Request
from sovl_daemon.contracts.force import FORCE


class StepProgress(BaseModel):
    """One step of learning, as it is told while it goes on."""

    step: int
    steps: int
    loss: float
    tokens_per_s: float
    left_s: float


class EpochProgress(StepProgress):
    """A step of a training on pairs, also in words."""

    epoch: int
    epochs: int
    text: str


class TrainingMetrics(Reply):
    """How a training on pairs went."""

    before: float | None = Field(
        default=None, description="validation loss before, null where no pair was held back"
    )
    validation: float | None = Field(default=None, description="the same at its best")
    epochs: int = Field(default=0, description="passes made")


class TrainedOnPairs(TrainingMetrics):
    """What came of a training on pairs."""

    text: str = Field(description="what came of it")
    generation: int | None = Field(default=None, description="where it was written, if it was kept")


class TrainOnPairs(Request[TrainedOnPairs], command="train"):
    """How to train; what is left out comes from the configuration."""

    epochs: int | None = Field(default=None, ge=1, le=1000, description="Passes over the pairs.")
    file: str | None = Field(default=None, description="Pairs; store.training_file if left out.")
    skip_bad: bool = Field(default=False, description="Skip malformed lines, and count them.")
    dry_run: bool = Field(default=False, description="Within dry_run_params; keeps nothing.")
    fresh: bool = Field(
        default=False, description="Do not go on with a training of the same that was cut off."
    )
    force: bool = FORCE


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
    """Whether training is held; answered when what is trained has stopped for it."""

    hold: bool | None = Field(default=None, description="Shown when left out.")


class EaseFactors(BaseModel):
    """How gently it learns: factors on its rate, and on how much of a batch is computed at once."""

    rate: float
    batch: float


class TrainingEase(Reply):
    """How gently it is to learn, and how it really does.

    `eased` is how the last step learned, null where nothing is trained; `rows` is how many samples
    the largest micro-batch had so far.
    """

    ease: EaseFactors
    eased: EaseFactors | None
    rows: int


class EaseTraining(Request[TrainingEase], command="ease_training"):
    """How gently it learns; what is left out stays."""

    rate: float | None = Field(default=None, gt=0, le=1, description="Factor on the learning rate.")
    batch: float | None = Field(
        default=None, gt=0, le=1, description="Share of a micro-batch that is computed at a time."
    )


class StateSaved(Reply):
    """What was saved."""

    text: str = Field(description="what was saved, for people")
    generation: int = Field(description="number of the generation that was saved")


class SaveState(Request[StateSaved], command="save"):
    """What to call it."""

    name: str | None = Field(
        default=None, description="Its name; controls_config.save_path_prefix when left out."
    )
    force: bool = Field(default=False, description="Replace a save of that name.")


class StateLoaded(Reply):
    """What was gone back to."""

    text: str = Field(description="what was loaded, and what it holds, for people")
    generation: int = Field(description="number of the generation that was made of it")


class LoadState(Request[StateLoaded], command="load"):
    """Where to go back to."""

    name: str | None = Field(
        default=None,
        description="A save or the number of a generation; controls_config.save_path_prefix "
        "when left out.",
    )


class StateReset(Reply):
    """What it begins anew with."""

    text: str = Field(description="that all was forgotten, for people")
    generation: int = Field(description="number of the new, empty generation")


class ResetState(Request[StateReset], command="reset"):
    """That all is forgotten."""


class TrainerStats(AgentStats):
    """How gently it is to learn."""

    rate: float = Field(description="factor on the learning rate")
    batch: float = Field(description="share of a micro-batch that is computed at a time")
