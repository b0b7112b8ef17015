"""`sovl keys`: who may connect by tcp."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bus.auth import KeyRing
from config import Paths, load
from sovl_daemon.cli import render

app = typer.Typer(
    name="keys", help="Make keys, and say who may connect by tcp.", no_args_is_help=True
)
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def new(
    name: Annotated[str, typer.Argument(help="`server` for the daemon, else a client's name.")],
    as_json: Json = False,
) -> None:
    """Make a key pair: NAME.key to hand out, NAME.key_secret to keep."""
    public = _ring().new(name)
    render.show({"public": str(public), "secret": f"{public}_secret"}, as_json=as_json)


@app.command()
def allow(
    name: Annotated[str, typer.Argument(help="A name for the holder of the key.")],
    public: Annotated[
        Path | None, typer.Argument(help="Its .key file [default: NAME.key].")
    ] = None,
    as_json: Json = False,
) -> None:
    """Let the holder of a key in, at once."""
    key = _ring().allow(name, public)
    render.show({"allowed": name, "key": key}, as_json=as_json)


@app.command()
def revoke(name: str, as_json: Json = False) -> None:
    """Keep a holder out from now on, open connections included."""
    _ring().revoke(name)
    render.show({"revoked": name}, as_json=as_json)


@app.command("list")
def list_keys(as_json: Json = False) -> None:
    """List who may connect."""
    render.show(_ring().allowed(), as_json=as_json)


def _ring() -> KeyRing:
    return KeyRing(Paths.of(load()).keys_dir)
