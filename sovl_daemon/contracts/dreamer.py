"""What the dreamer is asked: to dream, to be tuned, and to think aloud."""

from __future__ import annotations

from pydantic import BaseModel, Field

from bus.commands import AgentStats, Reply, Request
from sovl_daemon.contracts.force import FORCE
from sovl_daemon.mind.curiosity import QUESTION_TOKENS


class DreamKnobs(BaseModel):
    """The ten knobs of dreaming in the order of the manual."""

    swing: float | None = Field(default=None, description="dream_swing_var.")
    delta: float | None = Field(default=None, description="dream_lifecycle_delta.")
    temp_on: bool | None = Field(default=None, description="dream_temperament_on.")
    noise: float | None = Field(default=None, description="dream_noise_scale.")
    mem_weight: float | None = Field(default=None, description="dream_memory_weight.")
    mem_maxlen: int | None = Field(default=None, description="dream_memory_maxlen.")
    prompt_weight: float | None = Field(default=None, description="dream_prompt_weight.")
    novelty_boost: float | None = Field(default=None, description="dream_novelty_boost.")
    memory_decay: float | None = Field(default=None, description="dream_memory_decay.")
    prune_threshold: float | None = Field(default=None, description="dream_prune_threshold.")


class DreamReport(DreamKnobs, Reply):
    """What it dreamt; or, where knobs were turned, how all of them are set now."""

    text: str = Field(description="what it dreamt and wonders, or how dreaming is tuned now")
    interaction: int | None = Field(default=None, description="what it dreamt of")
    noise: float | None = Field(
        default=None, description="how blurred that was; where knobs were turned, dream_noise_scale"
    )


class DreamNow(DreamKnobs, Request[DreamReport], command="dream"):
    """The ten knobs of dreaming in the order of the manual; without any, it dreams now."""

    force: bool = FORCE


class Thought(Reply):
    """What came to mind, how sure it was of it, and how like each remembered dream it is."""

    text: str
    confidence: float
    similarities: list[float]


class Wonder(Request[Thought], command="wonder"):
    """What to think about: a text, nothing for the first words, None for something lived."""

    prompt: str | None = None
    temperature: float = Field(default=1.1, ge=0, le=2)
    top_k: int = Field(default=50, ge=0)
    max_tokens: int = Field(default=QUESTION_TOKENS, ge=1, le=200)


class DreamerStats(AgentStats):
    """How many dreams the scaffold sees."""

    dreams_in_context: int = Field(description="dreams that the scaffold sees")
