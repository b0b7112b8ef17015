"""Sections of the health loop: what is sampled, and who may act on it."""

from config.section import AbsolutePath, Section, key


class HealthSettings(Section):
    """The health monitor."""

    interval_s: float = key(
        1.0, "Time between two samples of the machine.", unit="seconds", ge=0.1, le=3600
    )


class ControlSettings(Section):
    """The loop that keeps SOVL within the machine's means."""

    enabled: bool = key(True, "Whether it watches, decides and acts at all.")
    shadow: bool = key(True, "Only say what would be done, and do nothing.")
    judge: bool = key(
        True, "Put what is doubtful to the model; without it, only hard limits make it act."
    )
    tasks_dir: AbsolutePath | None = key(
        None,
        "Folder with tasks of your own, as TOML or JSON; null for tasks in the state directory. "
        "One by the name of a shipped task replaces it.",
        restart=True,
        lenient=True,
    )
    time_to_live_s: float = key(
        600,
        "A degraded setting is taken back after so long unless it is still needed.",
        unit="seconds",
        ge=1,
        le=86_400,
    )
    heavy_work_mb: float = key(
        256,
        "Memory that must be free before heavy work begins: training, dreaming, more bits.",
        unit="MB",
        ge=0,
        le=1_000_000,
    )
    history_days: float = key(
        30, "How long finished actions stay in the journal.", unit="days", ge=0.01, le=3650
    )
