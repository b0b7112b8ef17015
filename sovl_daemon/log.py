"""The log: one JSON object a line, in one order, written by the hub alone.

Other processes write their lines to their standard output; the hub reads them there and passes
them on (`Order` numbers them all), so that a line gets out even when the bus does not work.
"""

from __future__ import annotations

import atexit
import itertools
import logging
import sys
import threading
from collections.abc import Callable, MutableMapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import orjson
import structlog
from structlog.typing import EventDict, WrappedLogger

from config.service import LoggingSettings
from sovl_daemon.log_sink import FileTarget, Sink, StreamTarget

Form = Callable[[EventDict], bytes]

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
        return hex(value) if isinstance(value, int) else _in_words(value)
    return value


def _in_words(value: object) -> str:
    try:
        return ascii(value)
    except Exception as error:  # its own __repr__
        return f"<{type(value).__name__}: {type(error).__name__}>"


def _as_json(event: EventDict) -> bytes:
    return to_line(event).encode() + b"\n"


def _as_text(stream: TextIO) -> Callable[[EventDict], bytes]:
    """Lines for people, with what their terminal cannot show written otherwise."""
    render = structlog.dev.ConsoleRenderer(colors=stream.isatty(), pad_event_to=24)
    return lambda event: f"{pretty(event, render)}\n".encode(stream.encoding, "backslashreplace")


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

    def __init__(self, sinks: Sequence[tuple[Sink, Form]]) -> None:
        self._sinks = sinks
        self._numbers = itertools.count(1)
        self._turn = threading.RLock()  # a sink that had lost lines tells so by a line

    def write(self, event: EventDict) -> None:
        with self._turn:
            event["order"] = next(self._numbers)
            for sink, form in self._sinks:
                sink.write(form(event))

    def troubles(self) -> list[str]:
        """What keeps a sink from writing now."""
        return [
            f"log: {sink.trouble}" + (f", {sink.lost} lines lost" if sink.lost else "")
            for sink, _ in self._sinks
            if sink.trouble
        ]

    def close(self) -> None:
        for sink, _ in self._sinks:
            sink.close()

    debug = info = warning = error = critical = exception = write


def _keep_given_time(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """A line passed on from another process keeps its own time."""
    return event if "time" in event else _stamp(logger, method, event)


_stamp = structlog.processors.TimeStamper(fmt="iso", utc=True, key="time")


_everywhere = _Sinks(())


@atexit.register
def close() -> None:
    """Write what is left, as far as that goes soon."""
    _everywhere.close()


def troubles() -> list[str]:
    """What keeps the log from being written now, one line each."""
    return _everywhere.troubles()


def _tell_lost(lines: int, reason: str) -> None:
    log = structlog.get_logger(agent="log")
    log.warning("log.lost", lines=lines, reason=reason)


class _Bridge(logging.Handler):
    """Lets the libraries' own log lines (asyncio, transformers …) into ours."""

    def emit(self, record: logging.LogRecord) -> None:
        log = structlog.get_logger(agent="library", library=record.name)
        try:
            text = record.getMessage()
        except (TypeError, ValueError, KeyError):  # arguments that do not fit the message
            text = f"{record.msg!s} {_in_words(record.args)}"
        if record.exc_info:
            text += "\n" + logging.Formatter().formatException(record.exc_info)
        log.log(min(record.levelno, 50), "library.message", message=text)


def set_level(level: str) -> None:
    """Show this level and above from now on."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]))


def configure(level: str, sinks: Sequence[tuple[Sink, Form]]) -> None:
    """Send this process's log to `sinks`, each with the form of its lines."""
    global _everywhere
    close()
    _everywhere = everywhere = _Sinks(sinks)
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


def configure_hub(settings: LoggingSettings, log_file: Path) -> None:
    """Log to where the settings say."""
    sinks: list[tuple[Sink, Form]] = []
    if settings.destination in ("file", "both"):
        file = FileTarget(log_file, max_bytes=settings.max_bytes, backups=settings.backups)
        sinks.append((Sink(file, _tell_lost), _as_json))
    if settings.destination in ("stdout", "both"):
        as_text = settings.format == "pretty" or (settings.format == "auto" and sys.stdout.isatty())
        sinks.append((_standard_output(), _as_text(sys.stdout) if as_text else _as_json))
    configure(settings.level, sinks)


def configure_worker(settings: LoggingSettings) -> None:
    """Log to standard output, where the hub reads it."""
    configure(settings.level, [(_standard_output(), _as_json)])


def _standard_output() -> Sink:
    return Sink(StreamTarget(sys.stdout.fileno()), _tell_lost)


class Passed(NamedTuple):
    """What a line passed on was about: its event, and why that happened; empty if not told."""

    event: str = ""
    reason: str = ""


def pass_on(line: bytes, process: str) -> Passed:
    """Log a line that another process wrote and return its event.

    A line that our own log has not written is wrapped, never lost.
    """
    try:
        event = orjson.loads(line)
    except orjson.JSONDecodeError:
        event = None
    known = isinstance(event, dict) and event.get("level") in tuple(LEVELS)
    if not known or not isinstance(event.get("event"), str):
        text = line.decode(errors="replace").rstrip()
        log = structlog.get_logger(process=process, agent="supervisor")
        log.warning("process.output", text=text[:2000])
        return Passed()
    about = {key: event[key] for key in event if key not in ("level", "event", "order")}
    logger = structlog.get_logger().bind()
    # Not as keywords: a field may have any name at all.
    structlog.get_context(logger).update({**about, "process": process})
    logger.log(LEVELS[event["level"]], event["event"])
    return Passed(event["event"], str(event.get("reason", "")))
