"""`sovl judge`: try the loop that keeps the daemon well."""

from __future__ import annotations

import typer

from sovl_daemon.cli.judge_simulate import simulate

app = typer.Typer(
    name="judge", help="Try the loop that keeps the daemon well.", no_args_is_help=True
)


@app.callback()
def group() -> None:
    """Try the loop that keeps the daemon well."""


app.command()(simulate)
