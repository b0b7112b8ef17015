"""Sections about the service, from its bus and processes to what it stores and how it answers."""

import re
from typing import Annotated, Literal

from annotated_types import Ge, Le
from pydantic import ValidationInfo, field_validator

from config.section import AbsolutePath, Name, Section, Text, key, matching, refuse
from sovl_daemon.limits import available_parallelism

_HIGHEST_PORT = 65_533  # the two ports above it are used too


def _is_endpoint(text: str) -> bool:
    found = re.fullmatch(r"tcp://(\[[0-9A-Fa-f:.%]+\]|[A-Za-z0-9_.*-]+):([0-9]{1,5})", text)
    return found is not None and 1 <= int(found[2]) <= _HIGHEST_PORT


Endpoint = Annotated[
    Text, matching(_is_endpoint, f"an endpoint: tcp://HOST:PORT, PORT from 1 to {_HIGHEST_PORT}")
]
Device = Annotated[
    Text,
    matching(
        re.compile(r"auto|cpu|cuda(:[0-9]{1,3})?").fullmatch,
        'one of "auto", "cpu", "cuda", "cuda:N"',
    ),
]


Weight = Annotated[float, Ge(0), Le(1)]


class BusSettings(Section):
    """Endpoints and limits of the message bus."""

    runtime_dir: AbsolutePath | None = key(
        None,
        "Directory of the sockets; null for the one the system provides.",
        restart=True,
        lenient=True,
    )
    listen: Endpoint | None = key(
        None,
        "TCP endpoint for other machines, tcp://HOST:PORT; PORT and the two after it are used. "
        "Null for local sockets alone.",
        restart=True,
    )
    subscriber_queue: int = key(
        1000,
        "Events kept for one subscriber before drops.",
        unit="events",
        restart=True,
        ge=10,
        le=100_000,
    )
    subscriber_stall_s: float = key(
        5.0,
        "A subscriber whose queue stays full this long is cut off.",
        unit="seconds",
        restart=True,
        ge=0.1,
        le=600,
    )
    max_message_bytes: int = key(
        1_048_576, "Largest message.", unit="bytes", restart=True, ge=65_536, le=67_108_864
    )
    max_pending_per_agent: int = key(
        64, "Open commands one agent takes.", unit="commands", restart=True, ge=1, le=10_000
    )
    max_pending_per_client: int = key(
        64, "Open commands one client may have.", unit="commands", restart=True, ge=1, le=10_000
    )
    command_deadline_s: float = key(
        600,
        "A command without a deadline of its own may go so long without a step on the way. Work "
        "that is long by nature, such as a night, has none.",
        unit="seconds",
        restart=True,
        ge=0.1,
        le=86_400,
    )


class HostSettings(Section):
    """The process that owns the models and the device."""

    device: Device = key("auto", "Where the models run: auto, cpu, cuda or cuda:N.", restart=True)
    threads: int = key(
        0,
        "CPU threads for tensors; 0 is as many as a step takes least time with, which depends on "
        "what else the machine does.",
        unit="threads",
        restart=True,
        ge=0,
        le=256,
    )
    cores: int = key(
        0,
        "Cores that the process keeps to; 0 for all that it was given.",
        unit="cores",
        ge=0,
        le=4096,
    )
    offload_weights: bool = key(
        False,
        "If true, the base's weights stay in their file and are read for each token: slow, and "
        "next to no memory.",
    )
    nice: int = key(
        5,
        "Niceness of the process: higher yields more.",
        unit="niceness",
        restart=True,
        ge=0,
        le=19,
    )
    oom_score_adj: int = key(
        500,
        "How readily the kernel ends it when memory runs out: higher is sooner.",
        unit="score",
        restart=True,
        ge=0,
        le=1000,
    )
    stall_s: float = key(
        30,
        "A tensor step that takes longer counts as hung. Time in which it waited for a core does "
        "not count.",
        unit="seconds",
        restart=True,
        ge=1,
        le=3600,
    )

    def max_threads(self) -> int:
        """Return how many threads tensors may take on this machine now."""
        return self.threads or available_parallelism()


class SupervisionSettings(Section):
    """Heartbeats, restarts and the stages of a shutdown."""

    heartbeat_s: float = key(
        1.0, "Time between two heartbeats.", unit="seconds", restart=True, ge=0.05, le=60
    )
    dead_after_s: float = key(
        3.0,
        "Silence after which a process counts as dead. Time in which it waited for a core does not "
        "count.",
        unit="seconds",
        restart=True,
        ge=0.1,
        le=600,
    )
    start_timeout_s: float = key(
        600,
        "Longest time without progress while a process starts. A download that goes on is "
        "progress.",
        unit="seconds",
        restart=True,
        ge=1,
        le=7200,
    )
    restart_intensity: int = key(
        5,
        "Restarts within the window before giving up.",
        unit="restarts",
        restart=True,
        ge=0,
        le=1000,
    )
    restart_window_s: float = key(
        60, "Window in which restarts are counted.", unit="seconds", restart=True, ge=1, le=86_400
    )
    backoff_initial_s: float = key(
        0.2,
        "Pause before the first restart; it doubles.",
        unit="seconds",
        restart=True,
        ge=0.01,
        le=60,
    )
    backoff_max_s: float = key(
        30, "Longest pause before a restart.", unit="seconds", restart=True, ge=0.01, le=3600
    )
    backoff_jitter: float = key(
        0.2, "Share of the pause that is random.", unit="ratio", restart=True, ge=0, le=1
    )
    drain_s: float = key(
        5,
        "Shutdown: time for open commands to finish.",
        unit="seconds",
        restart=True,
        ge=0,
        le=600,
    )
    stop_s: float = key(
        10,
        "Shutdown: time for processes to save and stop.",
        unit="seconds",
        restart=True,
        ge=0.1,
        le=600,
    )
    close_s: float = key(
        5,
        "Shutdown: time to close sockets and the log.",
        unit="seconds",
        restart=True,
        ge=0.1,
        le=600,
    )

    @field_validator("dead_after_s")
    @classmethod
    def _outlasts_a_heartbeat(cls, seconds: float, info: ValidationInfo) -> float:
        heartbeat = info.data.get("heartbeat_s", 0)
        if seconds <= heartbeat:
            raise refuse(f"must be more than heartbeat_s ({heartbeat})", "heartbeat_s")
        return seconds

    @field_validator("backoff_max_s")
    @classmethod
    def _not_below_the_first_pause(cls, seconds: float, info: ValidationInfo) -> float:
        initial = info.data.get("backoff_initial_s", 0)
        if seconds < initial:
            raise refuse(f"must be at least backoff_initial_s ({initial})", "backoff_initial_s")
        return seconds


class LoggingSettings(Section):
    """What is logged, where and how much of it is kept."""

    level: Literal["debug", "info", "warning", "error"] = key("info", "Least severity logged.")
    destination: Literal["file", "stdout", "both"] = key(
        "file", "Where log lines go.", restart=True
    )
    file: AbsolutePath | None = key(
        None, "Log file; null for log.jsonl in the state directory.", restart=True, lenient=True
    )
    format: Literal["auto", "json", "pretty"] = key(
        "auto",
        "Form of lines on stdout: auto is pretty on a terminal. The file is always JSON.",
        restart=True,
    )
    max_bytes: int = key(
        10_485_760,
        "Size at which the file is rotated.",
        unit="bytes",
        restart=True,
        ge=4096,
        le=1_073_741_824,
    )
    backups: int = key(5, "Rotated files kept.", unit="files", restart=True, ge=0, le=100)


class StoreSettings(Section):
    """Where state, models and training data are kept."""

    state_dir: AbsolutePath | None = key(
        None,
        "Directory of the state; null for the one the system provides.",
        restart=True,
        lenient=True,
    )
    cache_dir: AbsolutePath | None = key(
        None,
        "Directory of what can be fetched again, that of libraries too; null for the one the "
        "system provides.",
        restart=True,
        lenient=True,
    )
    model_dir: AbsolutePath | None = key(
        None,
        "Directory of the models; null for models in the cache directory.",
        restart=True,
        lenient=True,
    )
    training_file: AbsolutePath | None = key(
        None,
        "Pairs of prompt and response to train on, as JSONL; null for the sample_log.jsonl that "
        "comes with SOVL.",
        lenient=True,
    )


class NightSettings(Section):
    """What a night must have reached for what it learned to be kept."""

    least_recall: float = key(
        0.5,
        "Mean probability of the right words, in answers to questions that no lesson asked.",
        unit="probability",
        ge=0,
        le=1,
    )
    most_drift: float = key(
        0.2,
        "How far answers to everything else may move from the base's: its KL divergence.",
        unit="nats per token",
        ge=0,
        le=100,
    )


class StateSettings(Section):
    """The generations of the mind: what it has learned, as it was after each night."""

    keep: int = key(
        5,
        "Generations kept, the current one included; named saves are kept besides.",
        unit="generations",
        ge=2,
        le=1000,
    )


class FusionSettings(Section):
    """How strongly the scaffold steers the base, and the shape of the cross-attention."""

    weight: float = key(1.0, "Influence of every fused layer.", unit="weight", ge=0, le=1)
    layer_weights: tuple[Weight, ...] = key(
        (),
        "Influence of each fused layer, one number for each; empty for weight in all of them.",
        unit="weight",
        lenient=True,
    )
    blend: float = key(1.0, "Share of the fused against the plain state.", unit="ratio", ge=0, le=1)
    heads: int = key(4, "Heads of the cross-attention.", unit="heads", restart=True, ge=1, le=256)
    head_size: int = key(
        32, "Width of each of them.", unit="dimensions", restart=True, ge=1, le=1024
    )
    adapted_blocks: int = key(
        8,
        "Blocks of the scaffold that get adapters, counted from its end; 0 for all of them.",
        unit="blocks",
        restart=True,
        ge=0,
        le=1024,
    )


class GenerationSettings(Section):
    """How answers are sampled. The temperature is controls_config.base_temperature."""

    max_new_tokens: int = key(60, "Longest answer.", unit="tokens", ge=1, le=32_768)
    top_k: int = key(
        50, "Sample among this many likeliest tokens; 0 for all.", unit="tokens", ge=0, le=1_000_000
    )
    top_p: float = key(
        0.9,
        "Sample among the likeliest tokens of this total probability.",
        unit="probability",
        gt=0,
        le=1,
    )
    seed: int | None = key(
        None, "Seed of sampling; null for a new one each time.", unit="seed", ge=0, le=2**32 - 1
    )
    context_length: int = key(
        2048,
        "Prompt with its history and answer together.",
        unit="tokens",
        restart=True,
        ge=64,
        le=131_072,
    )
    history_messages: int = key(
        10, "Messages of a conversation that are kept.", unit="messages", ge=0, le=1000
    )
    # Without it SmolLM2-135M begins its answers in other languages, and often wanders off.
    system_prompt: Text = key(
        "You are a helpful assistant. Answer in one short English sentence.",
        "Text before every conversation; empty for that of the model's own template.",
    )
    prefix_cache_mb: int = key(
        64,
        "Memory for what was read in ended answers, so that the next prompt of a conversation "
        "is not read from its start; 0 for none.",
        unit="MB",
        ge=0,
        le=1_000_000,
    )
    max_concurrent: int = key(
        8,
        "Conversations answered at the same time.",
        unit="conversations",
        ge=1,
        le=64,
    )


class AgentsSettings(Section):
    """Which agents run, and in which process."""

    placement: dict[Name, Name] = key(
        {},
        "Process of an agent, as agent name to process name, where it is not to run in the one "
        "it asks for. Entries of several sources are joined.",
        restart=True,
    )
    disabled: tuple[Name, ...] = key((), "Agents that do not run.", restart=True, lenient=True)
