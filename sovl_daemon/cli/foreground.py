"""A daemon of one's own for as long as one talks to it."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

import anyio
import typer

from bus.errors import BAD_ARGUMENT, CommandError
from sovl_daemon.cli import render
from sovl_daemon.client import AsyncClient, ClientError, DaemonDown
from sovl_daemon.client.target import Target
from sovl_daemon.contracts.hub import Ping
from sovl_daemon.own_time import OwnTime

POLL_S = 0.1
GRACE_S = 1.0  # between the end of its sockets and the end of its process
_AMOUNT = re.compile(r" [0-9/]+( \S+)?$")  # how far a stage is, in words

Work = Callable[[AsyncClient], Awaitable[None]]


def with_daemon(options: list[str], work: Work) -> None:
    """Do `work` with the running daemon, else with one that lives as long as the work.

    `options` are those of `sovl run`; one that runs already has its own. Raises CommandError.
    """
    if _is_running():
        if options:
            raise CommandError(
                BAD_ARGUMENT,
                f"a daemon runs already and has its own settings: leave {', '.join(options)} out, "
                "or stop it first: sovl stop",
            )
        anyio.run(_talk, None, work)
        return
    with _daemon(options) as process:
        try:
            anyio.run(_talk, process, work)
        except ClientError:
            # If it is the daemon that ended, it has said why.
            if code := _ended(process):
                raise typer.Exit(code) from None
            raise


def _is_running() -> bool:
    async def ask() -> None:
        async with AsyncClient(Target.find()):
            pass

    try:
        anyio.run(ask)
    except DaemonDown:
        return False
    return True


@contextmanager
def _daemon(options: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-P", "-m", "sovl_daemon.cli", "run", *options]
    # In a session of its own: Ctrl-C is for the answer, not for the daemon.
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
    for number in (signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, _leave)
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    sys.exit(128 + number)  # by way of the `finally` that stops the daemon


async def _talk(process: subprocess.Popen[bytes] | None, work: Work) -> None:
    async with await _connect(process) as client:
        await _ready(client)
        await work(client)


async def _connect(process: subprocess.Popen[bytes] | None) -> AsyncClient:
    """A client for a daemon that answers."""
    while True:
        try:
            async with AsyncClient(Target.find()):
                return AsyncClient(Target.find(), source="sovl")
        except DaemonDown:
            if process is None or process.poll() is not None:
                raise
            await anyio.sleep(POLL_S)


async def _ready(client: AsyncClient) -> None:
    """Wait until the model answers, telling what it waits for."""
    told = ""
    with render.errors.status("starting") as spinner:
        while True:
            pong = await client.control(Ping())
            if pong.state != "starting":
                return
            spinner.update(render.escape(f"starting: {pong.detail}"))
            stage = _AMOUNT.sub("", pong.detail)
            if stage != told and not render.errors.is_terminal:
                render.errors.print(f"starting: {stage}", soft_wrap=True, markup=False)
                told = stage
            await anyio.sleep(POLL_S)


def _ended(process: subprocess.Popen[bytes]) -> int:
    """The exit code of a daemon that ended by itself, 0 if it lives."""
    own_time = OwnTime(lambda: (process.pid,))
    until_s = own_time() + GRACE_S
    while process.poll() is None and own_time() < until_s:
        time.sleep(POLL_S)
    return process.returncode or 0
