"""How answers look to people; `--json` shows the same as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, is_dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from sovl_daemon.contracts import hub

console = Console(highlight=False, soft_wrap=True)
errors = Console(highlight=False, stderr=True)

Answer = TypeVar("Answer")


def show(answer: Answer, *, as_json: bool, view: Callable[[Answer], object] | None = None) -> None:
    """Print an answer as one JSON object, or through `view` for people: else its `facts`.

    It is what JSON can hold, a model or a dataclass; of a model, what is set.
    """
    if as_json:
        text = json.dumps(answer, ensure_ascii=False, default=_plain)
        print(text)  # noqa: T201 - this is the command line
    elif view is not None:
        view(answer)
    else:
        facts(_plain(answer).items())


def _plain(answer: Any) -> Any:
    if isinstance(answer, BaseModel):
        return answer.model_dump(mode="json", exclude_unset=True)
    return asdict(answer) if is_dataclass(answer) and not isinstance(answer, type) else answer


def facts(pairs: Iterable[tuple[str, object]]) -> None:
    """A column of names and values; what is nested goes on one line."""
    table = Table.grid(padding=(0, 2))
    for key, value in pairs:
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        table.add_row(f"[bold]{key}[/]", escape(text))
    console.print(table)


def say(text: str) -> None:
    """A line of plain text."""
    console.print(escape(text))


def told(result: dict[str, Any]) -> None:
    """What any command has to say, in its own words where it has any."""
    if "text" in result:
        say(result["text"])
    else:
        facts(result.items())


def escape(text: object) -> str:
    """Text that rich shall not take for markup."""
    return str(text).replace("[", "\\[")


def status(found: hub.DaemonStatus) -> None:
    """The daemon and a line for each agent."""
    detail = f" ({found.detail})" if found.detail else ""
    dry = ", dry run" if found.dry_run else ""
    console.print(
        f"[bold]{found.state}[/]{escape(detail)}{dry}, SOVL {found.version}, "
        f"pid {found.pid}, up {duration(found.uptime_s)}, {found.in_flight} in flight"
    )
    for trouble in found.troubles:
        console.print(f"[yellow]{escape(trouble)}[/]")
    table = Table("agent", "state", "process", "pid", "restarts", "last sign of life", box=None)
    restarts = {
        agent: child.restarts for child in found.children.values() for agent in child.agents
    }
    for name, agent in found.agents.items():
        well = agent.state == "ready"
        state = agent.state if well else f"{agent.state} {agent.detail}".strip()
        silent = "never" if agent.silent_s is None else f"{agent.silent_s} s ago"
        row = (name, state, agent.process, agent.pid, restarts.get(name, 0), silent)
        table.add_row(*map(escape, row))
    console.print(table)
    for name, agent in found.agents.items():
        if agent.state == "ready" and agent.detail:
            console.print(f"{name}: {escape(agent.detail)}", soft_wrap=True)


def metrics(last: hub.LastMetrics) -> None:
    """A line for each metric of each task; one that cannot be read says why."""
    table = Table("task", "metric", "value", "a minute", "range", box=None)
    for task, found in last.tasks.items():
        for name, each in found.items():
            value, trend = each.fault, ""
            if each.value is not None and not each.fault:
                value, trend = f"{each.value:.6g} {each.unit}".strip(), f"{each.per_min:+.3g}"
            row = (task, name, value, trend, f"{each.low:g} to {each.high:g}")
            table.add_row(*map(escape, row))
    console.print(table)


def stats(counted: hub.DaemonStats) -> None:
    """The counters of bus, commands, control and each agent."""
    sections: dict[str, dict[str, Any]] = {
        "hub": counted.hub,
        "bus": counted.bus.model_dump(),
        "commands": counted.commands,
        "control": counted.control,
        **{f"agent {name}": counters for name, counters in counted.agents.items()},
    }
    for title, counters in sections.items():
        console.print(f"[bold]{title}[/]")
        facts((f"  {key}", value) for key, value in counters.items())


def settings(shown: hub.ShownConfig) -> None:
    """One setting, or all as the configuration file would hold them."""
    if shown.settings is not None:
        console.print_json(json.dumps(shown.settings))
    else:
        console.print(f"{shown.key} = {escape(json.dumps(shown.value))}")


def setting_changed(changed: hub.SettingsChanged) -> None:
    """What a setting was and is."""
    when = ", takes effect at the next start" if changed.restart else ""
    before, value = json.dumps(changed.before), json.dumps(changed.value)
    console.print(f"{changed.key} = {escape(value)} (was {escape(before)}){when}")
    for agent in changed.late:
        console.print(f"{agent} has not followed yet")
    for agent, why in changed.refused.items():
        console.print(f"{agent} cannot follow: {escape(why)}")


def duration(seconds: float) -> str:
    """12 s, 3 min 4 s, 5 h 6 min, 2 d 3 h."""
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def commands(listed: hub.CommandList) -> None:
    """Each command with its arguments and help."""
    table = Table("command", "arguments", "what it does", box=None)
    for spec in (*listed.commands, *listed.control):
        required = spec.arguments.get("required", [])
        names = [
            name if name in required else f"[{name}]"
            for name in spec.arguments.get("properties", {})
        ]
        table.add_row(spec.name, escape(" ".join(names)), escape(spec.help))
    console.print(table)
