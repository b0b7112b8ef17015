"""What the judge is asked: a verdict on a prompt, and what its lines add to it."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from bus.commands import AgentStats, Reply, Request

Way = Literal["probe", "words"]


class PromptText(BaseModel):
    """A prompt in pieces: what begins and ends it is always the same for a task."""

    prefix: str = Field(description="Kept when it was read once.")
    text: str = Field(description="The metrics, one a line.")
    evidence: str = Field(default="", description="Lines of the log below a first that says so.")
    ending: str = Field(default="", description="The question.")


class Probabilities(Reply):
    """How probable the two answers are."""

    p_true: float = Field(description="probability of true")
    p_false: float = Field(description="probability of false")
    read_tokens: int = Field(description="how many tokens of the prompt were read anew")
    by: Way = Field(description="`probe`, or `words`: the model's own, where none is fitted to it")
    band: float = Field(
        description="half the width of the band around 0.5 in which the probe abstains"
    )


class TimedProbabilities(Probabilities):
    """How probable the two answers are, and how long that took."""

    seconds: float


class AskJudge(PromptText, Request[TimedProbabilities], command="judge"):
    """A prompt, and how it is judged."""

    by: Way = Field(
        default="probe",
        description="probe reads the hidden states, where the model has one; words reads on to "
        "the end and asks for the words true and false.",
    )


class LineShare(BaseModel):
    """A line of the prompt, and what it adds."""

    text: str = Field(description="the line")
    logit: float = Field(description="what it adds to the logit of true")


class WeighedPrompt(Probabilities):
    """How probable the two answers are by the probe, and what each line adds."""

    shares: list[LineShare] = Field(description="what each line of the prompt adds")


class WeighPrompt(PromptText, Request[WeighedPrompt], command="weigh"):
    """A prompt in pieces: what begins and ends it is always the same for a task."""


class JudgeStats(AgentStats):
    """By what it judges, how many verdicts there were, and how long the last one took."""

    by: str = Field(description="`probe` or `words`, empty before it is ready")
    verdicts: int = Field(description="how many there were")
    last_ms: float = Field(description="how long the last one took, 0 before there was one")
