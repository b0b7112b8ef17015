"""What the hub itself is asked on its control socket."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from bus.commands import CommandDescription, Reply, Request
from bus.counters import BrokerCounters
from bus.topics import GpuSample, MetricReading, ProcessSample

FOLLOW_S = 30.0
"""How long `config_set` waits for the agents: to hold a large model in other bits takes so long."""


class Pong(Reply):
    """The hub is there."""

    state: str = Field(
        description="`starting`, `ready`, `degraded` (an agent that it needs was lost) or "
        "`stopping`"
    )
    detail: str = Field(description="why, for people")
    version: str = Field(description="release of the daemon")
    pid: int = Field(description="number of the hub's process")
    uptime_s: float = Field(description="seconds since its start")
    max_message_bytes: int | None = Field(
        default=None, description="the largest message it reads"
    )  # an older daemon does not say


class Ping(Request[Pong], command="ping"):
    """Nothing but whether it answers."""


class AgentStatus(Reply):
    """An agent as the hub sees it."""

    state: str = Field(description="where it is in its life, or `paused`")
    detail: str = Field(description="what it is about, for people")
    process: str = Field(description="the process that it runs in")
    pid: int = Field(description="number of that process")
    silent_s: float | None = Field(
        description="seconds since its last sign of life, null before the first"
    )


class ChildStatus(Reply):
    """What the hub keeps alive: a process, or an agent within the hub."""

    agents: list[str] = Field(description="names of the agents in it")
    restarts: int = Field(description="how often it was started again")
    up_s: float = Field(description="seconds since it was started")


class DaemonStatus(Pong):
    """The hub, its agents and processes."""

    agents: dict[str, AgentStatus] = Field(description="each agent by its name")
    children: dict[str, ChildStatus] = Field(description="each process by its name")
    dry_run: bool = Field(description="whether this is a dry run")
    in_flight: int = Field(description="commands that await their final answer")
    troubles: list[str] = Field(
        description="what the system refuses for now (a full disk, a log that nobody reads), one "
        "line each; it passes by itself or by a person's hand"
    )


class Status(Request[DaemonStatus], command="status"):
    """How all of it is."""


class DaemonStats(Reply):
    """What was counted since the start."""

    bus: BrokerCounters = Field(description="counters of events")
    commands: dict[str, int | dict[str, int]] = Field(description="counters of commands")
    control: dict[str, int] = Field(description="counters of this socket")
    hub: dict[str, int] = Field(description="figures of the hub's own process")
    agents: dict[str, dict[str, Any]] = Field(description="each agent's own counters by its name")


class Stats(Request[DaemonStats], command="stats"):
    """What was counted."""


class LastHealth(Reply):
    """The last sample of machine and processes, empty before the first."""

    cpu_percent: float | None = Field(default=None, description="of all cores")
    memory_percent: float | None = Field(default=None, description="memory in use")
    memory_available: int | None = Field(default=None, description="bytes that programs can have")
    swap_percent: float | None = Field(default=None, description="swap in use")
    load_1m: float | None = Field(default=None, description="load of the last minute")
    processes: dict[str, ProcessSample] = Field(
        default={}, description="each process of the daemon by its name"
    )
    gpus: tuple[GpuSample, ...] = Field(default=(), description="each GPU")


class ShowHealth(Request[LastHealth], command="health"):
    """The payload of the last `health.sample`."""


class LastMetrics(Reply):
    """The last metrics as they were checked, empty before the first."""

    time_s: float | None = Field(
        default=None, description="when, on the monotonic clock of the machine"
    )
    interval_s: float | None = Field(default=None, description="when the next ones are due")
    tasks: dict[str, dict[str, MetricReading]] = Field(
        default={}, description="the metrics of each task, by task and metric"
    )


class ShowMetrics(Request[LastMetrics], command="metrics"):
    """The payload of the last `metrics.sample`."""


class CommandList(Reply):
    """All that clients may ask."""

    commands: list[CommandDescription] = Field(description="what agents offer")
    control: list[CommandDescription] = Field(description="what the hub itself answers")


class ListCommands(Request[CommandList], command="commands"):
    """All commands of both sockets."""


class Stopping(Reply):
    """It ends."""

    stopping: bool = Field(description="`true`; the daemon then finishes what runs, saves and ends")


class Stop(Request[Stopping], command="stop"):
    """An end in good order."""


class AgentPaused(Reply):
    """Whether an agent is held back."""

    agent: str = Field(description="its name")
    paused: bool = Field(description="whether it is held back now")


class PauseAgent(Request[AgentPaused], command="pause"):
    """Which agent."""

    agent: str = Field(description="Name of the agent.")


class ResumeAgent(Request[AgentPaused], command="resume"):
    """Which agent."""

    agent: str = Field(description="Name of the agent.")


class ShownConfig(Reply):
    """All settings or, where a key was given, that one."""

    settings: dict[str, Any] | None = Field(
        default=None, description="all settings, by section; left out where a key was given"
    )
    key: str | None = Field(default=None, description="else its full name")
    value: Any = Field(default=None, description="and its value")


class ShowConfig(Request[ShownConfig], command="config"):
    """Which setting."""

    key: str | None = Field(default=None, description="A key; all settings when left out.")


class Reloaded(Reply):
    """The configuration file was read."""

    changed: dict[str, Any] = Field(description="the new value of each key")


class Reload(Request[Reloaded], command="reload"):
    """The configuration file anew."""


class SettingChange(Reply):
    """What became of one key."""

    key: str = Field(description="its full name")
    value: Any = Field(description="its value now")
    before: Any = Field(description="its value before")
    restart: bool = Field(description="whether the new value waits for the next start")


class SettingsChanged(Reply):
    """What became of one key or, in `changes`, of several, and of those who act on it."""

    key: str = Field(default="", description="its full name")
    value: Any = Field(default=None, description="its value now")
    before: Any = Field(default=None, description="its value before")
    restart: bool = Field(
        default=False, description="whether the new value waits for the next start"
    )
    changes: list[SettingChange] = Field(
        default=[],
        description="instead, where `values` were given: what became of each",
    )
    late: list[str] = Field(description="the agents that had not followed after 30 seconds")
    refused: dict[str, str] = Field(
        description="by the agent's name, what it cannot follow of the settings"
    )


class ConfigSet(Request[SettingsChanged], command="config_set"):
    """A setting and its new value, or several: all of them are set, or none."""

    key: str | None = Field(default=None, description="A key, with or without its section.")
    value: str | None = Field(default=None, description="The new value, as JSON or plain text.")
    values: dict[str, str] | None = Field(
        default=None,
        min_length=1,
        description="Instead of `key` and `value`: several keys with their new values.",
    )
    save: bool = Field(default=True, description="Also write it to the configuration file.")


class SavedSetting(Reply):
    """A setting as the configuration file has it."""

    value: Any = Field(description="what the setting would be after a restart")


class ConfigSaved(Request[SavedSetting], command="config_saved"):
    """Which setting."""

    key: str = Field(description="A key, with or without its section.")
