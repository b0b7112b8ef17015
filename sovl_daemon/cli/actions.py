"""`sovl actions`: what the daemon did to stay within the machine's means, and taking it back."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import anyio
import typer
from rich.table import Table

from sovl_daemon.cli import render
from sovl_daemon.client import AsyncClient
from sovl_daemon.client.target import Target

if TYPE_CHECKING:
    from bus.commands import ReplyT, Request
    from sovl_daemon.contracts.controller import ActionsShown, LoopPerformance
    from sovl_daemon.control.decision_log import DailyTally
    from sovl_daemon.control.journal import JournalEntry

app = typer.Typer(
    name="actions",
    help="Show what was done to stay within the machine's means, or take it back.",
    no_args_is_help=True,
)
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("list")
def list_actions(as_json: Json = False) -> None:
    """List the settings that are degraded now, and the actions that cannot be done."""
    from sovl_daemon.contracts.controller import ManageActions

    _ask(ManageActions(what="list"), as_json, _held)


@app.command()
def history(
    limit: Annotated[int, typer.Option("-n", "--limit", min=1, max=1000, help="Entries.")] = 20,
    as_json: Json = False,
) -> None:
    """Show the journal: what was done and undone, and why; the newest first."""
    from sovl_daemon.contracts.controller import ManageActions

    _ask(ManageActions(what="history", limit=limit), as_json, _told)


@app.command()
def performance(
    days: Annotated[
        int, typer.Option("-n", "--days", min=1, max=90, help="Days (UTC), today's included.")
    ] = 7,
    as_json: Json = False,
) -> None:
    """Show how well it has done: what was decided on each day, and what each action freed."""
    from sovl_daemon.contracts.controller import ShowPerformance

    _ask(ShowPerformance(days=days), as_json, _performance)


@app.command()
def revert(
    number: Annotated[
        int | None, typer.Argument(min=1, help="Number of the action [default: all in force].")
    ] = None,
    as_json: Json = False,
) -> None:
    """Take degraded settings back now. It may degrade them again: see `pause`."""
    from sovl_daemon.contracts.controller import ManageActions

    _ask(ManageActions(what="revert", id=number), as_json, _reverted)


@app.command()
def pause(
    off: Annotated[bool, typer.Option("--off", help="Let it act again.")] = False,
    as_json: Json = False,
) -> None:
    """Let nothing new be done until `--off`; what is in force goes back in its time."""
    from sovl_daemon.contracts.controller import ManageActions

    _ask(ManageActions(what="resume" if off else "pause"), as_json, _held)


def _ask(request: Request[ReplyT], as_json: bool, view: Callable[[ReplyT], None]) -> None:
    async def ask() -> None:
        async with AsyncClient(Target.find(), source="sovl") as client:
            render.show(await client.ask(request), as_json=as_json, view=view)

    anyio.run(ask)


def _held(found: ActionsShown) -> None:
    modes = ["paused"] * found.paused + ["shadow"] * found.shadow
    modes += ["disabled"] * (not found.enabled)
    if modes:
        render.console.print(f"[bold]{', '.join(modes)}[/]")
    if found.in_force:
        _table(found.in_force)
    else:
        render.console.print("nothing is degraded")
    for task, advice in found.recommended.items():
        sure = f"{advice.action} ({advice.sure:.0%} that it is enough): {advice.why}"
        render.say(f"{task}: would do {sure}")
    for action, why in found.unavailable.items():
        render.console.print(f"{action}: {render.escape(why)}")


def _told(found: ActionsShown) -> None:
    if found.actions:
        _table(found.actions)
    else:
        render.console.print("nothing was done yet")


def _performance(found: LoopPerformance) -> None:
    from sovl_daemon.control.prompt import quantity

    days = {each.day for each in found.decided} | {each.day for each in found.done}
    for day in sorted(days):
        render.console.print(f"[bold]{day}[/]")
        for tally in found.decided:
            if tally.day == day:
                render.say(f"  {tally.task}: {_decided(tally)}")
        for each in found.done:
            if each.day == day:
                verified = f"done {_times(each.begun)}, verified {_times(each.verified)}"
                render.say(f"  {each.action}: {verified}, freed {quantity(each.freed, each.unit)}")
    if not days:
        render.console.print("nothing was decided in these days")


def _decided(tally: DailyTally) -> str:
    parts = []
    if tally.acts:
        parts.append(f"decided {_times(tally.acts)} to act")
    if tally.relaxations:
        parts.append(f"decided {_times(tally.relaxations)} to take something back")
    if tally.questions:
        counts = f"true {tally.true}, false {tally.false}, abstained {tally.abstentions}"
        parts.append(f"asked the judge {_times(tally.questions)} ({counts})")
    return "; ".join(parts) or "nothing had to be done"


def _times(count: int) -> str:
    return {0: "never", 1: "once", 2: "twice"}.get(count, f"{count} times")


def _reverted(found: ActionsShown) -> None:
    for each in found.reverted:
        render.say(f"{each.id} {each.action}: {each.result}, {each.reason}")
    if not found.reverted:
        render.console.print("nothing was in force")


def _table(entries: list[JournalEntry]) -> None:
    table = Table("number", "when", "action", "setting", "state", "task", "why", box=None)
    for each in entries:
        ago = render.duration(max(0.0, time.time() - each.intended_s))
        setting = f"{each.before} → {each.target}" if each.target else ""
        why = each.reason or each.why
        row = (each.id, f"{ago} ago", each.action, setting, each.state, each.task, why)
        table.add_row(*map(render.escape, row))
    render.console.print(table)
