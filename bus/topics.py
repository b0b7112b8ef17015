"""The events of SOVL and their topics. `docs/protocol.md` lists them from here."""

from __future__ import annotations

from typing import Any

from bus.envelope import Payload

BUS = "bus"
AGENT = "agent"
CONFIG = "config.changed"
HEALTH = "health.sample"
INTERACTION = "interaction.recorded"
HUB = "hub.state"


class AgentState(Payload, kind="agent.state"):
    """Topic agent.NAME, retained: a step in the life of an agent."""

    agent: str
    state: str
    detail: str = ""
    process: str
    pid: int


class ConfigChanged(Payload, kind="config.changed"):
    """Topic config.changed, retained: settings that differ from before, and all of them."""

    changed: dict[str, Any]
    settings: dict[str, Any]


class HubState(Payload, kind="hub.state"):
    """Topic hub.state, retained: starting, ready, degraded or stopping, and why."""

    state: str
    detail: str = ""


class HealthSample(Payload, kind="health.sample"):
    """Topic health.sample, retained. Bytes unless named otherwise; None where not available."""

    cpu_percent: float
    memory_percent: float
    memory_available: int
    swap_percent: float
    load_1m: float
    processes: dict[str, ProcessSample]
    gpus: tuple[GpuSample, ...] = ()


class ProcessSample(Payload):
    """One process of the daemon. `anonymous` is memory that no file backs."""

    pid: int
    cpu_percent: float
    rss: int
    anonymous: int | None
    threads: int
    fds: int


class GpuSample(Payload):
    """One GPU as NVML sees it. Temperature in degrees Celsius."""

    index: int
    name: str
    memory_used: int
    memory_total: int
    utilization_percent: float
    temperature: float


class InteractionRecorded(Payload, kind="interaction.recorded"):
    """Topic interaction.recorded: an exchange is safely on disk."""

    interaction: int
    conversation: str
    tokens: int


class SubscriberCut(Payload, kind="bus.subscriber_cut"):
    """Topic bus.subscriber_cut: a subscriber stopped reading and was cut off."""

    name: str
    dropped: int
    reason: str


HealthSample.model_rebuild()
