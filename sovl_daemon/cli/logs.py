"""Reading the log file, also across its rotation."""

from __future__ import annotations

import os
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TextIO

import orjson
import structlog

from config import Paths, load
from sovl_daemon.cli import exits
from sovl_daemon.log import LEVELS, pretty

POLL_S = 0.2


def show_logs(*, follow: bool, lines: int, agent: str | None, level: str, as_json: bool) -> None:
    """Print the last lines that fit, and with `follow` those to come."""
    if level not in LEVELS:
        exits.complain(f"level: {level!r} is not one of {', '.join(LEVELS)}")
        raise SystemExit(exits.USAGE)
    path = Paths.of(load()).log_file
    if not path.exists():
        exits.complain(f"{path}: no log yet (under systemd see: journalctl -u sovl)")
        raise SystemExit(exits.FAILED)
    colours = sys.stdout.isatty()
    render = structlog.dev.ConsoleRenderer(colors=colours, pad_event_to=24)
    with path.open(encoding="utf-8", errors="replace") as file:
        last = deque((line for line in file if _fits(line, agent, level)), maxlen=lines)
        for line in last:
            _print(line, render, as_json)
        for line in _follow(path, file) if follow else ():
            if _fits(line, agent, level):
                _print(line, render, as_json)


def _follow(path: Path, file: TextIO) -> Iterator[str]:
    """New lines as they come; after a rotation, those of the new file."""
    while True:
        rotated = _rotated(path, file)  # asked first: what came before it is still read below
        yield from _whole_lines(file)
        if rotated:
            with suppress(FileNotFoundError):  # rotated once more: the next look finds the newest
                file = path.open(encoding="utf-8", errors="replace")
        else:
            time.sleep(POLL_S)


def _whole_lines(file: TextIO) -> Iterator[str]:
    """The lines that are complete; the beginning of one waits for its end."""
    if os.fstat(file.fileno()).st_size < file.tell():
        file.seek(0)  # it was emptied where it is, as by logrotate's copytruncate
    while True:
        place = file.tell()
        line = file.readline()
        if not line.endswith("\n"):
            file.seek(place)
            return
        yield line


def _rotated(path: Path, file: TextIO) -> bool:
    try:
        return path.stat().st_ino != os.fstat(file.fileno()).st_ino
    except (FileNotFoundError, NotADirectoryError):
        return False  # in the middle of a rotation, or removed until the next line is written


def _fits(line: str, agent: str | None, level: str) -> bool:
    event = _parse(line)
    if agent is not None and event.get("agent") != agent:
        return False
    return LEVELS.get(event.get("level", ""), 0) >= LEVELS[level]


def _parse(line: str) -> dict[str, str]:
    try:
        return dict(orjson.loads(line))
    except (orjson.JSONDecodeError, TypeError, ValueError):
        return {"event": line.rstrip(), "level": "warning"}


def _print(line: str, render: structlog.dev.ConsoleRenderer, as_json: bool) -> None:
    text = line.rstrip("\n") if as_json else pretty(_parse(line), render)
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
