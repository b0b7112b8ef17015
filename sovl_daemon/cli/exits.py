"""Exit codes of `sovl`, one for each kind of trouble, and the one line that goes with it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import typer

from bus.auth import KeyProblem
from bus.errors import BAD_ARGUMENT, BAD_COMMAND, BUSY, CANCELLED, DEADLINE, CommandError
from config import ConfigError
from sovl_daemon.client.errors import (
    ClientError,
    DaemonDown,
    DaemonSlow,
    PermissionRefused,
    WrongKey,
)
from sovl_daemon.memory.interactions import StoreError
from sovl_daemon.memory.pairs import PairsError

FAILED = 1
USAGE = 2
DOWN = 3
WRONG_KEY = 4
BUSY_NOW = 5
SLOW = 6
UNKNOWN_COMMAND = 7
INTERRUPTED = 130

_OF_CODE = {
    BAD_ARGUMENT: USAGE,
    BAD_COMMAND: UNKNOWN_COMMAND,
    BUSY: BUSY_NOW,
    DEADLINE: SLOW,
    CANCELLED: INTERRUPTED,
}
_OF_TYPE: dict[type[Exception], int] = {
    DaemonDown: DOWN,
    WrongKey: WRONG_KEY,
    PermissionRefused: WRONG_KEY,
    DaemonSlow: SLOW,
    ConfigError: USAGE,
}


def exit_code(error: Exception) -> int:
    """The exit code for an error."""
    if isinstance(error, CommandError):
        return _OF_CODE.get(error.code, FAILED)
    return _OF_TYPE.get(type(error), FAILED)


def complain(error: Exception | str) -> None:
    """Say on standard error what went wrong."""
    print(f"sovl: {error}", file=sys.stderr)  # noqa: T201 - this is the command line


def leave(error: Exception) -> NoReturn:
    """Complain and exit with the code of the error."""
    complain(error)
    raise typer.Exit(exit_code(error))


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Turn the errors that users can do something about into one line and an exit code."""
    try:
        yield
    except (CommandError, ClientError, ConfigError, KeyProblem, PairsError, StoreError) as error:
        leave(error)
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None
