"""Exit codes of `sovl`, one for each kind of trouble, and the one line that goes with it."""

from __future__ import annotations

import os
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn

import typer

from bus.auth import KeyProblem
from bus.errors import (
    BAD_ARGUMENT,
    BAD_COMMAND,
    BUSY,
    CANCELLED,
    DEADLINE,
    TOO_LARGE,
    UNAVAILABLE,
    BindProblem,
    CommandError,
)
from config import ConfigError
from sovl_daemon.client.errors import (
    ClientError,
    DaemonDown,
    DaemonSlow,
    PermissionRefused,
    WrongKey,
)
from sovl_daemon.conditions import Condition, condition_of, in_words
from sovl_daemon.control.task_file import TaskError
from sovl_daemon.database import UnusableDatabase
from sovl_daemon.engine.errors import EngineError, OptionError
from sovl_daemon.memory.pairs import PairsError
from sovl_daemon.models import ModelError
from sovl_daemon.state import StateError

FAILED = 1
USAGE = 2
DOWN = 3
WRONG_KEY = 4
BUSY_NOW = 5
SLOW = 6
UNKNOWN_COMMAND = 7
EX_TEMPFAIL = 75  # sysexits(3): the same may go well later
EX_CONFIG = 78  # sysexits(3): starting again would not help, so systemd is told not to
INTERRUPTED = 130
NO_READER = 141  # as a shell has it of a program that SIGPIPE ends
TERMINATED = 143  # and that SIGTERM ends; said by entry.py, before anything is imported

_OF_CODE = {
    BAD_ARGUMENT: USAGE,
    TOO_LARGE: USAGE,
    BAD_COMMAND: UNKNOWN_COMMAND,
    BUSY: BUSY_NOW,
    DEADLINE: SLOW,
    CANCELLED: INTERRUPTED,
    UNAVAILABLE: EX_TEMPFAIL,
}
_OF_TYPE: dict[type[BaseException], int] = {
    DaemonDown: DOWN,
    WrongKey: WRONG_KEY,
    PermissionRefused: WRONG_KEY,
    DaemonSlow: SLOW,
    ConfigError: USAGE,
    OptionError: USAGE,
    KeyboardInterrupt: INTERRUPTED,
    BrokenPipeError: NO_READER,
}
_EXPECTED = (
    CommandError,
    ClientError,
    ConfigError,
    KeyProblem,
    BindProblem,
    PairsError,
    UnusableDatabase,
    StateError,
    TaskError,
    ModelError,
    EngineError,
    OSError,
    sqlite3.Error,
    KeyboardInterrupt,
)


def exit_code(error: BaseException) -> int:
    """The exit code for an error."""
    if isinstance(error, CommandError):
        return _OF_CODE.get(error.code, FAILED)
    if passes(error):
        return EX_TEMPFAIL
    return next((_OF_TYPE[kind] for kind in type(error).__mro__ if kind in _OF_TYPE), FAILED)


def passes(error: BaseException) -> bool:
    """Whether the same may go well later, without anything being changed here."""
    return condition_of(error) not in (None, Condition.PERMISSION)


def is_expected(error: BaseException) -> bool:
    """Whether a user can do something about it, so that a traceback would only be in the way."""
    return isinstance(error, _EXPECTED) or condition_of(error) is not None


def complain(error: BaseException | str) -> None:
    """Say on standard error what went wrong; where nobody hears, the exit code has to do."""
    text = in_words(error) if isinstance(error, OSError | sqlite3.Error) else str(error)
    if isinstance(error, ConfigError):
        text = "; ".join(text.splitlines())
    with suppress(OSError, ValueError):
        print(f"sovl: {text}", file=sys.stderr, flush=True)  # noqa: T201 - this is the command line


def leave(error: BaseException) -> NoReturn:
    """Complain and exit with the code of the error; an interruption needs no words."""
    if not isinstance(error, KeyboardInterrupt | BrokenPipeError):
        complain(error)
    raise typer.Exit(exit_code(error))


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Turn the errors that users can do something about into one line and an exit code."""
    try:
        yield
    except (typer.Exit, typer.Abort):
        raise
    except BaseException as error:
        first = error
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        if not is_expected(first):
            raise
        leave(first)


def finish(command: Callable[[], object]) -> int:
    """Run a command to its end, when all it printed has left; the exit code."""
    code: object = 0
    try:
        command()
    except SystemExit as end:
        code = end.code
    except KeyboardInterrupt:
        code = INTERRUPTED
    try:
        sys.stdout.flush()
    except OSError as error:
        # What is left unsaid would be tried again at the interpreter's end, and complained about.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not code:  # else why it ends is said already
            code = exit_code(error)
            if not isinstance(error, BrokenPipeError):
                complain(error)
    return code if isinstance(code, int) else int(code is not None)
