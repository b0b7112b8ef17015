"""The events of SOVL and their topics. `docs/protocol.md` lists them from here."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from bus.envelope import Payload

AGENT = "agent"
CONFIG = "config.changed"
HEALTH = "health.sample"
METRICS = "metrics.sample"
GAUGES = "gauges"
DIAGNOSIS = "health.diagnosis"
HELD = "work.held"
DECISION = "control.decision"
ACTION = "control.action"
INTERACTION = "interaction.recorded"
HUB = "hub.state"
ANSWERING = "answer.started"
MIND = "mind.state"
QUESTION = "mind.question"
DREAM = "mind.dream"
WORDS = "mind.words"
NIGHT = "night"


class AgentState(Payload, kind="agent.state"):
    """Topic agent.NAME, retained: a step in the life of an agent."""

    agent: str
    state: str
    detail: str = ""
    process: str
    pid: int


class ConfigChanged(Payload, kind="config.changed"):
    """Topic config.changed, retained: settings that differ from before, and all of them.

    Nothing differs where a key was set to what it is: who could not follow may try once more.
    Agents say by the `revision` in their heartbeats which settings they follow.
    """

    changed: dict[str, Any]
    settings: dict[str, Any]
    revision: int = 0


class HubState(Payload, kind="hub.state"):
    """Topic hub.state, retained: starting, ready, degraded or stopping, and why."""

    state: str
    detail: str = ""


class HealthSample(Payload, kind="health.sample"):
    """Topic health.sample, retained. Bytes unless named otherwise; None where not available."""

    cpu_percent: float | None
    memory_percent: float | None
    memory_available: int | None
    swap_percent: float | None
    load_1m: float | None
    processes: dict[str, ProcessSample]
    gpus: tuple[GpuSample, ...] = ()


class ProcessSample(Payload):
    """One process of the daemon. `anonymous` is memory that no file backs."""

    pid: int
    cpu_percent: float | None
    rss: int | None
    anonymous: int | None
    threads: int | None
    fds: int | None


class GpuSample(Payload):
    """One GPU as NVML sees it. Temperature in degrees Celsius."""

    index: int
    name: str | None
    memory_used: int | None
    memory_total: int | None
    utilization_percent: float | None
    temperature: float | None


class MetricsSample(Payload, kind="metrics.sample"):
    """Topic metrics.sample, retained: the checked metrics of each task, by task and metric.

    `time_s` is on the monotonic clock of the machine; `interval_s` when the next one is due.
    """

    time_s: float
    interval_s: float
    tasks: dict[str, dict[str, MetricReading]]


class MetricReading(Payload):
    """One metric: its value with unit and range, and its trend in units a minute.

    `age_s` is how old it was when sampled, `fresh_s` how old it may be. With a `fault` there is no
    value, and nobody judges it.
    """

    value: float | None
    unit: str
    low: float
    high: float
    per_min: float
    age_s: float
    fresh_s: float
    fault: str = ""


class GaugesGiven(Payload, kind="gauges"):
    """Topic gauges.AGENT: values that only this agent knows, by the name of the metric.

    `time_s` is when they were taken, on the monotonic clock of the machine.
    """

    time_s: float
    values: dict[str, float]


class HealthDiagnosis(Payload, kind="health.diagnosis"):
    """Topic health.diagnosis, retained: what the daemon finds about itself.

    `health` is fit, strained (in a grey zone), unfit (beyond a hard limit) or unknown; `anomalies`
    say what is not as it should be, `objections` why heavy work has to wait.
    """

    health: str
    anomalies: tuple[str, ...] = ()
    objections: tuple[str, ...] = ()


class WorkHeld(Payload, kind="work.held"):
    """Topic work.held: heavy work waits, and why; or, with `held` false, waits no more."""

    work: str
    reason: str
    held: bool = True


class ControlDecision(Payload, kind="control.decision"):
    """Topic control.decision: what was decided for a task, and why.

    `does` is hold, ask, act, relax, done or failed; `metrics` are the readings in words; `answer`
    and `confidence` the judge's, where it was asked; `recommended` is the action it would take, and
    `sure` how surely that is enough, 0 to 1. In `shadow` nothing is done.
    """

    task: str
    does: str
    why: str
    metrics: dict[str, str]
    action: str = ""
    answer: str | None = None
    confidence: float | None = None
    recommended: str = ""
    sure: float | None = None
    shadow: bool = False


class ControlAction(Payload, kind="control.action"):
    """Topic control.action: what came of an action or of taking one back.

    `result` is committed, refused, quarantined, reverted, abandoned or kept; `freed` is in the unit
    of its effect, `id` its number in the journal, 0 where it has none.
    """

    action: str
    result: str
    reason: str = ""
    freed: float = 0.0
    id: int = 0
    shadow: bool = False


class InteractionRecorded(Payload, kind="interaction.recorded"):
    """Topic interaction.recorded: an exchange is safely on disk.

    `question` is the one of the mind's own that it answers, None if it answers none.
    """

    interaction: int
    conversation: str
    tokens: int
    confidence: float | None = None
    unseen: bool = False
    question: str | None = None


class AnswerStarted(Payload, kind="answer.started"):
    """Topic answer.started: somebody speaks; who sleeps wakes up."""

    conversation: str


class MindState(Payload, kind="mind.state"):
    """Topic mind.state, retained: the mind in numbers."""

    confidence: float | None = Field(description="mean of the last answers', null before the first")
    temperament: float = Field(description="from -1, melancholic, to 1, curious")
    mood: str = Field(description="the same in a word")
    pressure: float = Field(description="the urge to ask, 0 to 1")
    exposure: int = Field(description="how much it took in")
    stage: float = Field(description="the part of its life that is lived")
    influence: float = Field(description="factor on the scaffold's weight since the last night")
    asleep: bool = Field(description="whether it sleeps")
    has_woken: bool = Field(description="whether its first words are said")
    nights: int = Field(description="nights and trainings whose learning was kept")
    dreams: tuple[DreamKept, ...] = Field(default=(), description="those that are remembered")
    questions: tuple[str, ...] = Field(default=(), description="what it wonders")
    dream_reason: str | None = Field(
        default=None, description="why it would dream now, null for no reason"
    )


class DreamKept(Payload):
    """A dream that is remembered."""

    name: str = Field(description="the number of the interaction that it was of")
    share: float = Field(description="of the scaffold's context, 0 to 1")


class Question(Payload, kind="mind.question"):
    """Topic mind.question: something it wants to know, and why it asks now.

    `unprompted` asks whoever is there. `reply` asks back about what was just said in the
    `conversation`, and only there one can answer it.
    """

    text: str
    reason: Literal["unprompted", "reply"]
    conversation: str | None = None


class Words(Payload, kind="mind.words"):
    """Topic mind.words: the first words of a life."""

    text: str


class Dreamt(Payload, kind="mind.dream"):
    """Topic mind.dream: it dreamt of an interaction."""

    name: str
    reason: str
    prompt: str
    noise: float
    questions: tuple[str, ...]


class NightStep(Payload, kind="night"):
    """Topic night.started, night.progress or night.ended.

    `left_s` is an estimate; at the end, `reason` says what came of it and `learned` how many
    interactions it consumed.
    """

    reason: str
    entries: int
    step: int = 0
    steps: int = 0
    loss: float | None = None
    left_s: float | None = None
    learned: int = 0


class SubscriberCut(Payload, kind="bus.subscriber_cut"):
    """Topic bus.subscriber_cut: a subscriber stopped reading and was cut off."""

    name: str
    dropped: int
    reason: str


HealthSample.model_rebuild()
MetricsSample.model_rebuild()
MindState.model_rebuild()
