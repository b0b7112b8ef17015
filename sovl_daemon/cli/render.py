"""How answers look to people; `--json` shows the same as JSON."""

from __future__ import annotations

import json
from typing import Any

from rich.console import Console
from rich.table import Table

console = Console(highlight=False, soft_wrap=True)
errors = Console(highlight=False, stderr=True)


def show(data: dict[str, Any], *, as_json: bool, view: Any = None) -> None:
    """Print `data` as one JSON object, or through `view` for people."""
    if as_json:
        print(json.dumps(data, ensure_ascii=False))  # noqa: T201 - this is the command line
    else:
        (view or facts)(data)


def facts(data: dict[str, Any]) -> None:
    """A column of names and values; what is nested goes on one line."""
    table = Table.grid(padding=(0, 2))
    for key, value in data.items():
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        table.add_row(f"[bold]{key}[/]", escape(text))
    console.print(table)


def told(data: dict[str, Any]) -> None:
    """What a command has to say, in its own words where it has any."""
    if "text" in data:
        console.print(escape(data["text"]))
    else:
        facts(data)


def escape(text: object) -> str:
    """Text that rich shall not take for markup."""
    return str(text).replace("[", "\\[")


def status(data: dict[str, Any]) -> None:
    """The daemon and a line for each agent."""
    detail = f" ({data['detail']})" if data["detail"] else ""
    dry = ", dry run" if data["dry_run"] else ""
    console.print(
        f"[bold]{data['state']}[/]{escape(detail)}{dry}, SOVL {data['version']}, "
        f"pid {data['pid']}, up {duration(data['uptime_s'])}, {data['in_flight']} in flight"
    )
    for trouble in data["troubles"]:
        console.print(f"[yellow]{escape(trouble)}[/]")
    table = Table("agent", "state", "process", "pid", "restarts", "last sign of life", box=None)
    restarts = {
        agent: child["restarts"] for child in data["children"].values() for agent in child["agents"]
    }
    for name, agent in data["agents"].items():
        well = agent["state"] == "ready"
        state = agent["state"] if well else f"{agent['state']} {agent['detail']}".strip()
        silent = "never" if agent["silent_s"] is None else f"{agent['silent_s']} s ago"
        row = (name, state, agent["process"], agent["pid"], restarts.get(name, 0), silent)
        table.add_row(*map(escape, row))
    console.print(table)
    for name, agent in data["agents"].items():
        if agent["state"] == "ready" and agent["detail"]:
            console.print(f"{name}: {escape(agent['detail'])}", soft_wrap=True)


def metrics(data: dict[str, Any]) -> None:
    """A line for each metric of each task; one that cannot be read says why."""
    table = Table("task", "metric", "value", "a minute", "range", box=None)
    for task, found in data.get("tasks", {}).items():
        for name, each in found.items():
            sound = not each["fault"]
            value = f"{each['value']:.6g} {each['unit']}".strip() if sound else each["fault"]
            trend = f"{each['per_min']:+.3g}" if sound else ""
            row = (task, name, value, trend, f"{each['low']:g} to {each['high']:g}")
            table.add_row(*map(escape, row))
    console.print(table)


def stats(data: dict[str, Any]) -> None:
    """The counters of bus, commands, control and each agent."""
    for section in ("hub", "bus", "commands", "control"):
        console.print(f"[bold]{section}[/]")
        facts({f"  {key}": value for key, value in data[section].items()})
    for name, counters in data["agents"].items():
        console.print(f"[bold]agent {name}[/]")
        facts({f"  {key}": value for key, value in counters.items()})


def settings(data: dict[str, Any]) -> None:
    """One setting, or all as the configuration file would hold them."""
    if "settings" in data:
        console.print_json(json.dumps(data["settings"]))
    else:
        console.print(f"{data['key']} = {escape(json.dumps(data['value']))}")


def setting_changed(data: dict[str, Any]) -> None:
    """What a setting was and is."""
    when = ", takes effect at the next start" if data["restart"] else ""
    before, value = json.dumps(data["before"]), json.dumps(data["value"])
    console.print(f"{data['key']} = {escape(value)} (was {escape(before)}){when}")
    for agent in data["late"]:
        console.print(f"{agent} has not followed yet")
    for agent, why in data["refused"].items():
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


def pong(data: dict[str, Any]) -> None:
    """The answer to a ping."""
    detail = f" ({data['detail']})" if data["detail"] else ""
    console.print(f"{data['state']}{escape(detail)}, answered in {data['ms']} ms")


def stopped(data: dict[str, Any]) -> None:
    """The daemon's end."""
    console.print(f"stopped (pid {data['pid']})")


def commands(data: dict[str, Any]) -> None:
    """Each command with its arguments and help."""
    table = Table("command", "arguments", "what it does", box=None)
    for spec in (*data["commands"], *data["control"]):
        required = spec["arguments"].get("required", [])
        names = [
            name if name in required else f"[{name}]"
            for name in spec["arguments"].get("properties", {})
        ]
        table.add_row(spec["name"], escape(" ".join(names)), escape(spec["help"]))
    console.print(table)
