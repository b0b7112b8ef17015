"""The log: one JSON object a line, in one order, written by the hub alone.

Other processes write their lines to their standard output; the hub reads them there and passes
them on (`Order` numbers them all), so that a line gets out even when the bus does not work.
"""

from __future__ import annotations

import itertools
import logging
import logging.handlers
import os
import sys
import threading
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any, TextIO

import orjson
import structlog
from structlog.typing import EventDict, WrappedLogger

from config.service import Logging

LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40, "critical": 50}


def to_line(event: MutableMapping[str, Any]) -> str:
    """One event as JSON, the parts that a reader looks for first in front."""
    order = ("time", "order", "level", "agent", "event", "correlation")
    front = {key: event[key] for key in order if key in event}
    try:
        return orjson.dumps({**front, **event}, default=str).decode()
    except TypeError:
        plain = {key: _plain(value) for key, value in {**front, **event}.items()}
        return orjson.dumps(plain, default=str).decode()


def _plain(value: Any) -> Any:
    """The value itself, or in Python's words if JSON has none: a line must get out."""
    try:
        orjson.dumps(value, default=str)
    except TypeError:
        return hex(value) if isinstance(value, int) else ascii(value)
    return value


class _RotatedFile(logging.handlers.RotatingFileHandler):
    """Python's own lets the file grow without bound when no old ones are kept, and goes on writing
    to one that was removed or renamed, as by logrotate, where nobody finds it.
    """  # noqa: D205 - two faults

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line to the file that its path leads to now."""
        if self.stream is not None and not self._leads_to(self.stream):
            self.stream.close()
            self.stream = None  # opened again before it is written to
        super().emit(record)

    def _leads_to(self, stream: TextIO) -> bool:
        """Whether the path does; a folder that is gone is made."""
        try:
            return os.path.samestat(Path(self.baseFilename).stat(), os.fstat(stream.fileno()))
        except (FileNotFoundError, NotADirectoryError):
            Path(self.baseFilename).parent.mkdir(parents=True, exist_ok=True)
            return False

    def doRollover(self) -> None:  # noqa: N802 - Python's name
        """Begin a new file."""
        if not self.backupCount:
            Path(self.baseFilename).unlink(missing_ok=True)
        super().doRollover()


class _FileSink:
    """A rotated file."""

    def __init__(self, path: Path, settings: Logging) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._handler = _RotatedFile(
            path, maxBytes=settings.max_bytes, backupCount=settings.backups, encoding="utf-8"
        )

    def write(self, event: EventDict) -> None:
        self._handler.emit(logging.makeLogRecord({"msg": to_line(event)}))


class _StreamSink:
    """JSON lines on a stream."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, event: EventDict) -> None:
        self._stream.write(to_line(event) + "\n")
        self._stream.flush()


class _PrettySink(_StreamSink):
    """Lines for people on a terminal."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._render = structlog.dev.ConsoleRenderer(colors=stream.isatty(), pad_event_to=24)

    def write(self, event: EventDict) -> None:
        self._stream.write(pretty(event, self._render) + "\n")
        self._stream.flush()


def pretty(event: EventDict, render: structlog.dev.ConsoleRenderer) -> str:
    """One event as a line for people."""
    hidden = ("order", "time")
    shown = {key: value for key, value in event.items() if key not in hidden and value != ""}
    clock = str(event.get("time", ""))[11:19]
    return str(render(None, "", {"timestamp": clock, **shown}))


class _Sinks:
    """What structlog calls with a finished event.

    Numbers the lines of this process, so that their order survives equal clocks. One thread at a
    time, so that they are written in that order.
    """

    def __init__(self, sinks: list[Any]) -> None:
        self._sinks = sinks
        self._numbers = itertools.count(1)
        self._turn = threading.Lock()

    def write(self, event: EventDict) -> None:
        with self._turn:
            event["order"] = next(self._numbers)
            for sink in self._sinks:
                sink.write(event)

    debug = info = warning = error = critical = exception = write


def _keep_given_time(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """A line passed on from another process keeps its own time."""
    return event if "time" in event else _stamp(logger, method, event)


_stamp = structlog.processors.TimeStamper(fmt="iso", utc=True, key="time")


class _Bridge(logging.Handler):
    """Lets the libraries' own log lines (asyncio, transformers …) into ours."""

    def emit(self, record: logging.LogRecord) -> None:
        log = structlog.get_logger(agent="library", library=record.name)
        text = record.getMessage()
        if record.exc_info:
            text += "\n" + logging.Formatter().formatException(record.exc_info)
        log.log(min(record.levelno, 50), "library.message", message=text)


def set_level(level: str) -> None:
    """Show this level and above from now on."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]))


def configure(level: str, sinks: list[Any]) -> None:
    """Send this process's log to `sinks`."""
    everywhere = _Sinks(sinks)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            _keep_given_time,
            structlog.processors.format_exc_info,
            _to_argument,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        logger_factory=lambda *_: everywhere,
        cache_logger_on_first_use=False,  # the level can change while we run
    )
    logging.basicConfig(handlers=[_Bridge()], level=logging.WARNING, force=True)
    logging.captureWarnings(True)


def _to_argument(logger: WrappedLogger, method: str, event: EventDict) -> Any:
    return (event,), {}


def configure_hub(settings: Logging, log_file: Path) -> None:
    """Log to where the settings say."""
    sinks: list[Any] = []
    if settings.destination in ("file", "both"):
        sinks.append(_FileSink(log_file, settings))
    if settings.destination in ("stdout", "both"):
        as_text = settings.format == "pretty" or (settings.format == "auto" and sys.stdout.isatty())
        sinks.append(_PrettySink(sys.stdout) if as_text else _StreamSink(sys.stdout))
    configure(settings.level, sinks)


def configure_worker(settings: Logging) -> None:
    """Log to standard output, where the hub reads it."""
    configure(settings.level, [_StreamSink(sys.stdout)])


def pass_on(line: bytes, process: str) -> dict[str, Any]:
    """Log a line that another process wrote and return its event.

    A line that is not JSON is wrapped, never lost.
    """
    event = _own_event(line)
    if event is None:
        text = line.decode(errors="replace").rstrip()
        log = structlog.get_logger(process=process, agent="supervisor")
        log.warning("process.output", text=text[:2000])
        return {}
    about = {key: event[key] for key in event if key not in ("level", "event", "order")}
    logger = structlog.get_logger().bind()
    # Not as keywords: a field may have any name at all.
    structlog.get_context(logger).update({**about, "process": process})
    logger.log(LEVELS[event["level"]], event["event"])
    return event


def _own_event(line: bytes) -> dict[str, Any] | None:
    """The event in a line that our own log wrote, None for any other."""
    try:
        event = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(event, dict) or not isinstance(event.get("event"), str):
        return None
    return event if event.get("level") in tuple(LEVELS) else None
