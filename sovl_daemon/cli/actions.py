"""`sovl actions`: what the daemon did to stay within the machine's means, and taking it back."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Annotated, Any

import anyio
import typer
from rich.table import Table

from sovl_daemon.cli import render
from sovl_daemon.client import AsyncClient
from sovl_daemon.client.target import Target
from sovl_daemon.control.prompt import quantity

app = typer.Typer(
    name="actions",
    help="Show what was done to stay within the machine's means, or take it back.",
    no_args_is_help=True,
)
View = Callable[[dict[str, Any]], None]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("list")
def list_actions(as_json: Json = False) -> None:
    """List the settings that are degraded now, and the actions that cannot be done."""
    _actions(as_json, _held, what="list")


@app.command()
def history(
    limit: Annotated[int, typer.Option("-n", "--limit", min=1, max=1000, help="Entries.")] = 20,
    as_json: Json = False,
) -> None:
    """Show the journal: what was done and undone, and why; the newest first."""
    _actions(as_json, _told, what="history", limit=limit)


@app.command()
def performance(
    days: Annotated[
        int, typer.Option("-n", "--days", min=1, max=90, help="Days (UTC), today's included.")
    ] = 7,
    as_json: Json = False,
) -> None:
    """Show how well it has done: what was decided on each day, and what each action freed."""
    _ask(as_json, _performance, "performance", days=days)


@app.command()
def revert(
    number: Annotated[
        int | None, typer.Argument(min=1, help="Number of the action [default: all in force].")
    ] = None,
    as_json: Json = False,
) -> None:
    """Take degraded settings back now. It may degrade them again: see `pause`."""
    given = {} if number is None else {"id": number}
    _actions(as_json, _reverted, what="revert", **given)


@app.command()
def pause(
    off: Annotated[bool, typer.Option("--off", help="Let it act again.")] = False,
    as_json: Json = False,
) -> None:
    """Let nothing new be done until `--off`; what is in force goes back in its time."""
    _actions(as_json, _held, what="resume" if off else "pause")


def _actions(as_json: bool, view: View, **args: Any) -> None:
    _ask(as_json, view, "actions", **args)


def _ask(as_json: bool, view: View, command: str, **args: Any) -> None:
    async def ask() -> None:
        async with AsyncClient(Target.find(), source="sovl") as client:
            render.show(await client.ask(command, **args), as_json=as_json, view=view)

    anyio.run(ask)


def _held(data: dict[str, Any]) -> None:
    modes = [word for word in ("paused", "shadow") if data[word]]
    modes += [] if data["enabled"] else ["disabled"]
    if modes:
        render.console.print(f"[bold]{', '.join(modes)}[/]")
    if data["in_force"]:
        _table(data["in_force"])
    else:
        render.console.print("nothing is degraded")
    for task, advice in data["recommended"].items():
        sure = f"{advice['action']} ({advice['sure']:.0%} that it is enough): {advice['why']}"
        render.console.print(render.escape(f"{task}: would do {sure}"))
    for action, why in data["unavailable"].items():
        render.console.print(f"{action}: {render.escape(why)}")


def _told(data: dict[str, Any]) -> None:
    if data["actions"]:
        _table(data["actions"])
    else:
        render.console.print("nothing was done yet")


def _performance(data: dict[str, Any]) -> None:
    for day in sorted({each["day"] for each in (*data["decided"], *data["done"])}):
        render.console.print(f"[bold]{day}[/]")
        for each in data["decided"]:
            if each["day"] == day:
                render.console.print(render.escape(f"  {each['task']}: {_decided(each)}"))
        for each in data["done"]:
            if each["day"] == day:
                render.console.print(render.escape(f"  {each['action']}: {_done(each)}"))
    if not data["decided"] and not data["done"]:
        render.console.print("nothing was decided in these days")


def _decided(tally: dict[str, Any]) -> str:
    parts = []
    if tally["acts"]:
        parts.append(f"decided {_times(tally['acts'])} to act")
    if tally["relaxations"]:
        parts.append(f"decided {_times(tally['relaxations'])} to take something back")
    if tally["questions"]:
        counts = f"true {tally['true']}, false {tally['false']}, abstained {tally['abstentions']}"
        parts.append(f"asked the judge {_times(tally['questions'])} ({counts})")
    return "; ".join(parts) or "nothing had to be done"


def _done(record: dict[str, Any]) -> str:
    freed = quantity(record["freed"], record["unit"])
    return f"done {_times(record['begun'])}, verified {_times(record['verified'])}, freed {freed}"


def _times(count: int) -> str:
    return {0: "never", 1: "once", 2: "twice"}.get(count, f"{count} times")


def _reverted(data: dict[str, Any]) -> None:
    for each in data["reverted"]:
        said = f"{each['id']} {each['action']}: {each['result']}, {each['reason']}"
        render.console.print(render.escape(said))
    if not data["reverted"]:
        render.console.print("nothing was in force")


def _table(entries: list[dict[str, Any]]) -> None:
    table = Table("number", "when", "action", "setting", "state", "task", "why", box=None)
    for each in entries:
        ago = render.duration(max(0.0, time.time() - each["intended_s"]))
        setting = f"{each['before']} → {each['target']}" if each["target"] else ""
        why = each["reason"] or each["why"]
        row = (each["id"], f"{ago} ago", each["action"], setting, each["state"], each["task"], why)
        table.add_row(*map(render.escape, row))
    render.console.print(table)
