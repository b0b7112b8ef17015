"""Recent lines of the daemon's own log, as evidence for the judge."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import orjson

_TAIL_BYTES = 65_536
_RECENT_S = 300.0
_TELLING = ("warning", "error", "critical")
_FRAME = ("time", "order", "level", "event", "correlation", "process", "exception")


def troubles(log_file: Path, limit: int = 5, *, now_s: float | None = None) -> list[str]:
    """The last warnings and errors of the last five minutes, oldest first, each as one line.

    What the controller itself wrote is left out, or a judge would read its own verdicts. Without a
    log file there are none.
    """
    since_s = (time.time() if now_s is None else now_s) - _RECENT_S
    found = [
        _said(line)
        for line in _lines(log_file)
        if line.get("level") in _TELLING
        and line.get("agent") != "controller"
        and _time_s(line) >= since_s
    ]
    return found[-limit:]


def _lines(log_file: Path) -> Iterator[Mapping[str, Any]]:
    try:
        with log_file.open("rb") as file:
            file.seek(max(0, log_file.stat().st_size - _TAIL_BYTES))
            tail = file.read(_TAIL_BYTES)
    except OSError:
        return
    for line in tail.splitlines():
        try:
            found = orjson.loads(line)
        except orjson.JSONDecodeError:
            continue  # the first may be cut, the last half written
        if isinstance(found, dict):
            yield found


def _time_s(line: Mapping[str, Any]) -> float:
    try:
        return datetime.fromisoformat(str(line.get("time"))).timestamp()
    except ValueError:
        return 0.0


def _said(line: Mapping[str, Any]) -> str:
    fields = (f"{key}={value}" for key, value in line.items() if key not in _FRAME)
    return f"{line.get('level')}: {line.get('event')} {' '.join(fields)}"
