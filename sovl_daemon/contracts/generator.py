"""What the generator is asked: to answer, to be tuned, and what its engine holds and does."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from bus.commands import AgentStats, Done, Reply, Request
from sovl_daemon.contracts.force import FORCE
from sovl_daemon.mind.influence import InfluenceMode


class AnswerGiven(Reply):
    """The answer, and how it was made."""

    text: str = Field(description="the whole answer")
    conversation: str = Field(description="id to go on with")
    interaction: int = Field(description="number under which it was written down")
    finish_reason: Literal["stop", "length", "repetition", "cancelled"] = Field(
        description="why the answer ended: `stop` (the model was done), `length` (it reached "
        "`max_tokens`, or the context is full) or `repetition` (it began to say the same again; "
        "that is left out)"
    )
    prompt_tokens: int = Field(description="tokens of the prompt, with history and template")
    cached_tokens: int = Field(
        description="how many of them were not read again, because an earlier answer had read them"
    )
    tokens: int = Field(description="tokens of the answer")
    first_token_s: float | None = Field(description="seconds until the first token")
    tokens_per_s: float = Field(description="tokens a second")
    confidence: float = Field(
        description="mean probability of the likeliest token at each step, 0 to 1; 0.2 where it "
        "hardly varies"
    )
    seconds: float = Field(description="how long it took in all")


class Generate(Request[AnswerGiven], command="generate"):
    """A prompt and how to answer it. What is left out comes from the configuration."""

    prompt: str = Field(description="What to answer.")
    max_tokens: int | None = Field(default=None, ge=1, le=32_768, description="Longest answer.")
    temperature: float | None = Field(default=None, ge=0, le=2, description="0 is greedy.")
    top_k: int | None = Field(default=None, ge=0, le=1_000_000, description="0 is off.")
    top_p: float | None = Field(default=None, ge=1e-6, le=1, description="1 is off.")
    seed: int | None = Field(
        default=None,
        ge=0,
        le=2**32 - 1,
        description="Makes the answer repeatable, but for what rounding decides.",
    )
    conversation: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z0-9_-]{1,64}$",
        description="Id of a conversation to go on with; a new one when left out.",
    )

    @field_validator("prompt")
    @classmethod
    def _not_empty(cls, prompt: str) -> str:
        if not prompt.strip():
            raise ValueError("an empty prompt has no answer")
        return prompt


class BaseDigests(Reply):
    """By which to see whether the base is, bit for bit, what it was."""

    precision: str = Field(description="what the weights are held in")
    weights: str = Field(description="SHA-256 of the base's weights as they are held")
    logits: str = Field(
        description="SHA-256 of what the plain base makes of a fixed text; depends on machine and "
        "threads too"
    )


class DigestBase(Request[BaseDigests], command="fingerprint"):
    """The base as it is held now."""


# How the weights are held


class PrecisionHeld(Reply):
    """What the weights are held in now."""

    text: str = Field(description="what was done, for people")
    seconds: float = Field(description="how long it took")


class HoldInt8(Request[PrecisionHeld], command="int8"):
    """8 bits."""


class HoldInt4(Request[PrecisionHeld], command="int4"):
    """4 bits."""


class HoldFp16(Request[PrecisionHeld], command="fp16"):
    """Whether to begin in any case."""

    force: bool = FORCE


# How the scaffold steers


class FusedLayers(Reply):
    """Which layers the scaffold steers now."""

    text: str = Field(description="what was done, for people")
    layers: list[int] = Field(description="the fused layers, counted from 0")


class SelectLayers(Request[FusedLayers], command="dynamic"):
    """By the mode that is configured."""


class FixLayers(Request[FusedLayers], command="fixed"):
    """By name."""


class CrossInfluence(Reply):
    """How strongly the scaffold steers the base now."""

    text: str = Field(description="what holds now, for people")
    weight: float = Field(description="influence of every fused layer")
    layer_weights: list[float] = Field(
        description="influence of each, if it is not the same for all"
    )
    blend: float = Field(description="share of the fused against the plain state")
    dynamic: InfluenceMode = Field(
        description="what the weight follows: `confidence`, `temperament` or null"
    )


class TuneCross(Request[CrossInfluence], command="cross"):
    """What to change of the scaffold's influence, and the new values where it needs some."""

    what: Literal["weight", "blend", "layers", "confidence", "temperament", "off"] = Field(
        description="weight and blend take one number, layers one for each fused layer; "
        "confidence and temperament make the weight follow them, off makes it steady."
    )
    values: list[float] = Field(default=[], description="Numbers from 0 to 1.", max_length=1024)


class Tune(Request[CrossInfluence], command="tune"):
    """What to tune."""

    what: Literal["cross"] = Field(description="cross: the weight of cross-attention.")
    weight: float | None = Field(
        default=None, ge=0, le=1, description="New weight; shown when left out."
    )


# For other agents


class EngineUsage(Reply):
    """What the engine holds and does now, and its process, in bytes where it is memory.

    `bits` are those of a weight in memory; `cores` is 0 for all that the process was given;
    `threads` are by kind of work, where they are not fixed. `free` can be given back to the system;
    `card_bytes` are held on a GPU.
    """

    precision: str
    offloaded: bool
    bits: int
    switchable: bool
    cores: int
    threads: dict[str, int]
    parameters: int
    max_concurrent: int
    running: int
    waiting: int
    max_prefix_bytes: int
    prefix_bytes: int
    pid: int
    free: int
    card_bytes: int


class ReadUsage(Request[EngineUsage], command="engine_usage"):
    """As it is now, without waiting for the step that runs."""


class Reclaim(Request[Done], command="reclaim"):
    """What to give up for it."""

    prefixes: bool = Field(description="Also forget what ended answers have read.")


class GeneratorStats(AgentStats):
    """What the engine is really held to."""

    precision: str = Field(description="what the weights are held in")
    offloaded: bool = Field(description="whether they stay in their file")
    cores: int = Field(description="how many it runs on")
    max_concurrent: int = Field(description="how many answers advance together")
    prefix_cache_mb: int = Field(description="how much of ended answers is kept")
