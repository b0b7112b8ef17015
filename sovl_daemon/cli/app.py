"""The `sovl` command: each subcommand is short and leaves the work to a module of its own."""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Callable
from functools import partial
from importlib.metadata import version as distribution_version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import anyio
import typer
from typer.core import TyperGroup

from sovl_daemon.cli import actions, data, exits, judge, keys, mind, model, render, state, typed
from sovl_daemon.client import AsyncClient
from sovl_daemon.client.target import Target

if TYPE_CHECKING:
    from bus.commands import ReplyT, Request


class _Group(TyperGroup):
    """Errors become one line and an exit code; an unknown command names the nearest one."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name = args[0]
        if name not in self.commands and not name.startswith("-"):
            close = difflib.get_close_matches(name, self.commands, n=1)
            hint = f"did you mean {close[0]}?" if close else "see: sovl --help"
            exits.complain(f"{name}: no such command, {hint}")
            raise typer.Exit(exits.UNKNOWN_COMMAND)
        return super().resolve_command(ctx, args)

    def make_context(self, *args: Any, **extra: Any) -> Any:
        with exits.one_line_errors():  # to print the help can fail, too
            return super().make_context(*args, **extra)

    def invoke(self, ctx: Any) -> Any:
        with exits.one_line_errors():
            return super().invoke(ctx)


app = typer.Typer(
    name="sovl",
    cls=_Group,
    help="A small mind that lives on your own machine.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
)
app.add_typer(model.app)
app.add_typer(mind.app)
app.add_typer(keys.app)
app.add_typer(data.app)
app.add_typer(state.app)
app.add_typer(actions.app)
app.add_typer(judge.app)

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Settings = Annotated[
    list[str], typer.Option("--set", metavar="KEY=VALUE", help="Override a setting.")
]


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"sovl {distribution_version('sovl-daemon')}")  # noqa: T201 - this is the command line
        raise typer.Exit


@app.callback()
def connection(
    connect: Annotated[
        str | None,
        typer.Option(help="Runtime directory or tcp://HOST:PORT of the daemon.", metavar="WHERE"),
    ] = None,
    key: Annotated[Path | None, typer.Option(help="Our .key_secret file, for tcp.")] = None,
    server_key: Annotated[
        Path | None, typer.Option(help="The daemon's server.key file, for tcp.")
    ] = None,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Say which daemon is meant; the default is this user's own."""
    chosen = {"SOVL_CONNECT": connect, "SOVL_KEY": key, "SOVL_SERVER_KEY": server_key}
    os.environ.update({name: str(value) for name, value in chosen.items() if value is not None})


@app.command()
def run(
    context: typer.Context,
    config: Annotated[
        Path | None, typer.Option(help="Configuration file.", envvar="SOVL_CONFIG")
    ] = None,
    overrides: Settings = [],  # noqa: B006 - typer copies it
    dry_run: Annotated[
        bool, typer.Option(help="Try everything lightly and leave no trace in the memory.")
    ] = False,
    console: Annotated[
        bool, typer.Option("--console", help="Talk to it; leaving the console stops it.")
    ] = False,
    once: Annotated[
        str | None, typer.Option(help="Answer one prompt (greedily), then stop.", metavar="PROMPT")
    ] = None,
) -> None:
    """Run the daemon in the foreground."""
    from sovl_daemon.cli.daemon import run_daemon

    if console or once is not None:
        options = [f"--set={each}" for each in overrides] + ["--dry-run"] * dry_run
        source = context.get_parameter_source("config")
        if source is not None and source.name == "COMMANDLINE":  # a child inherits the environment
            options.append(f"--config={config}")
        _run_and_talk(options, once)
        return
    if dry_run:
        overrides = [*overrides, "training_config.dry_run=true"]
    raise typer.Exit(run_daemon(config, overrides))


def _run_and_talk(options: list[str], once: str | None) -> None:
    from sovl_daemon.cli.console import run_console
    from sovl_daemon.cli.foreground import with_daemon

    if once is None:
        with_daemon(options, run_console)
    else:
        with_daemon(options, partial(_answer, prompt=once, temperature=0))


@app.command()
def console() -> None:
    """Talk to the daemon."""
    from sovl_daemon.cli.console import run_console

    _with_client(run_console)


@app.command()
def generate(
    prompt: Annotated[str, typer.Argument(help="What to answer; - reads standard input.")],
    max_tokens: Annotated[int | None, typer.Option(help="Longest answer.")] = None,
    temperature: Annotated[float | None, typer.Option(help="0 is greedy.")] = None,
    top_k: Annotated[int | None, typer.Option(help="0 is off.")] = None,
    top_p: Annotated[float | None, typer.Option(help="1 is off.")] = None,
    seed: Annotated[int | None, typer.Option(help="Makes the answer repeatable.")] = None,
    conversation: Annotated[str | None, typer.Option(help="Go on with this one.")] = None,
    deadline: Annotated[float | None, typer.Option(help="Give up after so many seconds.")] = None,
    as_json: Json = False,
) -> None:
    """Answer one prompt, token by token."""
    given = {
        "prompt": prompt,
        "max_tokens": max_tokens,
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "seed": seed,
        "conversation": conversation,
    }
    args = {name: value for name, value in given.items() if value is not None}

    async def ask(client: AsyncClient) -> None:
        if prompt == "-":
            args["prompt"] = await typed.read_all(client.max_message_bytes)
        await _answer(client, deadline=deadline, as_json=as_json, **args)

    _with_client(ask)


async def _answer(
    client: AsyncClient, *, deadline: float | None = None, as_json: bool = False, **args: Any
) -> None:
    async with client.call("generate", args, deadline_s=deadline) as call:
        async for step in call:
            if "waiting" in step:
                exits.complain(f"{step['waiting']} ...")
            elif not as_json:
                sys.stdout.write(step["text"])
                sys.stdout.flush()
        result = await call.result()
    render.show(result, as_json=as_json, view=lambda _: sys.stdout.write("\n"))


@app.command()
def call(
    name: Annotated[str, typer.Argument(help="A command of the daemon; see: sovl commands")],
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="[VALUE | KEY=VALUE] ...")
    ] = None,
    deadline: Annotated[float | None, typer.Option(help="Give up after so many seconds.")] = None,
    as_json: Json = False,
) -> None:
    """Run any command of the daemon, also those of agents that others wrote."""
    from sovl_daemon.cli.progress import counted
    from sovl_daemon.cli.words import arguments_of, parse_pairs, parse_words
    from sovl_daemon.contracts.hub import ListCommands

    async def ask(client: AsyncClient) -> None:
        words = arguments or []
        listed = await client.control(ListCommands())
        spec = next((spec for spec in listed.commands if spec.name == name), None)
        args = parse_pairs(words) if spec is None else parse_words(words, arguments_of(spec))
        async with client.call(name, args, deadline_s=deadline) as call:
            with counted(render.errors) as show:
                async for step in call:
                    show(step)
                result = await call.result()
            render.show(result, as_json=as_json, view=render.told)

    _with_client(ask)


@app.command()
def commands(as_json: Json = False) -> None:
    """List the commands of the daemon."""
    from sovl_daemon.contracts.hub import ListCommands

    _control(ListCommands(), as_json, view=render.commands)


@app.command()
def ping(as_json: Json = False) -> None:
    """Tell whether the daemon is there, and how fast it answers."""
    import time

    async def ask(client: AsyncClient) -> None:
        began = time.perf_counter()
        pong = await client.control("ping")  # by name: what reads its answer would be counted
        pong["ms"] = round(1000 * (time.perf_counter() - began), 3)
        detail = f" ({pong['detail']})" if pong["detail"] else ""
        text = f"{pong['state']}{render.escape(detail)}, answered in {pong['ms']} ms"
        render.show(pong, as_json=as_json, view=lambda _: render.console.print(text))

    _with_client(ask)


@app.command()
def status(as_json: Json = False) -> None:
    """Show the daemon and its agents."""
    from sovl_daemon.contracts.hub import Status

    _control(Status(), as_json, view=render.status)


@app.command()
def stats(as_json: Json = False) -> None:
    """Show the counters of bus, commands and agents."""
    from sovl_daemon.contracts.hub import Stats

    _control(Stats(), as_json, view=render.stats)


@app.command()
def health(as_json: Json = False) -> None:
    """Show the last sample of machine and processes."""
    from sovl_daemon.contracts.hub import ShowHealth

    _control(ShowHealth(), as_json)


@app.command()
def metrics(as_json: Json = False) -> None:
    """Show the last metrics of each task, and what is wrong with them."""
    from sovl_daemon.contracts.hub import ShowMetrics

    _control(ShowMetrics(), as_json, view=render.metrics)


@app.command()
def doctor(as_json: Json = False) -> None:
    """Look at all the daemon needs, and say what is wrong and what to do; needs no daemon."""
    from sovl_daemon.cli.doctor import examine, show

    if not show(examine(), as_json=as_json):
        raise typer.Exit(exits.FAILED)


@app.command()
def config(
    key: Annotated[str | None, typer.Argument(help="A key, with or without its section.")] = None,
    value: Annotated[str | None, typer.Argument(help="Its new value.")] = None,
    save: Annotated[bool, typer.Option(help="Also write it to the file.")] = True,
    as_json: Json = False,
) -> None:
    """Show settings, or change one while the daemon runs."""
    from sovl_daemon.contracts.hub import ConfigSet, ShowConfig

    if value is None:
        _control(ShowConfig() if key is None else ShowConfig(key=key), as_json, render.settings)
    else:
        _control(ConfigSet(key=key, value=value, save=save), as_json, render.setting_changed)


@app.command()
def reload(as_json: Json = False) -> None:
    """Make the daemon read its configuration file again."""
    from sovl_daemon.contracts.hub import Reload

    _control(Reload(), as_json)


@app.command()
def pause(agent: str, as_json: Json = False) -> None:
    """Hold an agent's commands back until it is resumed."""
    from sovl_daemon.contracts.hub import PauseAgent

    _control(PauseAgent(agent=agent), as_json)


@app.command()
def resume(agent: str, as_json: Json = False) -> None:
    """Let a paused agent go on."""
    from sovl_daemon.contracts.hub import ResumeAgent

    _control(ResumeAgent(agent=agent), as_json)


@app.command()
def logs(
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Wait for more.")] = False,
    lines: Annotated[int, typer.Option("-n", "--lines", min=0, help="Last lines to show.")] = 20,
    agent: Annotated[str | None, typer.Option(help="Only of this agent.")] = None,
    level: Annotated[str, typer.Option(help="Of this level and above.")] = "debug",
    as_json: Json = False,
) -> None:
    """Show the log."""
    from sovl_daemon.cli.logs import show_logs

    show_logs(follow=follow, lines=lines, agent=agent, level=level, as_json=as_json)


@app.command()
def stop(as_json: Json = False) -> None:
    """Stop the daemon and wait until it is gone."""
    from sovl_daemon.cli.daemon import stop_daemon

    pid = anyio.run(stop_daemon)
    ended = f"stopped (pid {pid})"
    render.show(
        {"stopped": True, "pid": pid}, as_json=as_json, view=lambda _: render.console.print(ended)
    )


def _control(
    request: Request[ReplyT], as_json: bool, view: Callable[[ReplyT], object] | None = None
) -> None:
    async def ask(client: AsyncClient) -> None:
        render.show(await client.control(request), as_json=as_json, view=view)

    _with_client(ask)


def _with_client(work: Callable[[AsyncClient], Any]) -> None:
    async def connected() -> None:
        async with AsyncClient(Target.find(), source="sovl") as client:
            await work(client)

    anyio.run(connected)
