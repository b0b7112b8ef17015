"""A worker process as the hub sees it: spawned (never forked), listened to, and surely ended."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import anyio
import structlog
from anyio.abc import ByteReceiveStream, Process

from bus.errors import FatalError, TransientError
from config import Settings
from sovl_daemon import log, openmp
from sovl_daemon.own_time import OwnTime, move_on_after, work_done
from sovl_daemon.worker import EX_FATAL, EX_TEMPFAIL, WorkerConfig

MAX_LINE = 1 << 20  # bytes; what is longer is passed on in pieces
LAST_WORDS_S = 1.0  # a process it left behind may hold its output open for ever

logger = structlog.get_logger(agent="supervisor")


class WorkerProcess:
    """Runs some agents in a process of their own.

    `saves` tells whether one of them writes something down: that is waited for before its end.
    """

    def __init__(
        self,
        name: str,
        agents: list[str],
        settings: Callable[[], Settings],
        saves: Callable[[], bool],
    ) -> None:
        self.name = name
        self.agents = agents
        self.pid: int | None = None
        self.own_time = OwnTime(lambda: () if self.pid is None else (self.pid,))
        self._settings = settings
        self._saves = saves
        self._reason = ""

    async def run(self) -> str:
        """Live until the process ends by itself and tell why; end it when cancelled.

        Raises FatalError when starting it again would not help.
        """
        settings = self._settings()
        # -P: a user's folder may hold a config.py or a queue.py of its own.
        command = [sys.executable, "-P", "-m", "sovl_daemon.worker"]
        async with await anyio.open_process(
            command,
            env=_environment(settings),
            start_new_session=True,  # Ctrl-C in the terminal is the hub's to act on
        ) as process:
            self.pid, self._reason = process.pid, ""
            try:
                async with self._listening(process.stdout, process.stderr):
                    await self._attend(process, settings)
            finally:
                self.pid = None
        if process.returncode == EX_FATAL:
            raise FatalError(self._reason)
        if process.returncode == EX_TEMPFAIL:
            raise TransientError(self._reason)
        return self._reason or _why(process.returncode or 0)

    def work(self) -> object:
        """What it has done so far; it changes as long as it gets on."""
        return None if self.pid is None else work_done(self.pid)

    def kill(self) -> None:
        """End it at once: it hangs."""
        if self.pid is not None:
            with suppress(ProcessLookupError):  # it was faster
                os.kill(self.pid, signal.SIGKILL)

    async def _attend(self, process: Process, settings: Settings) -> None:
        assert process.stdin is not None  # noqa: S101 - it is a pipe
        config = WorkerConfig(process=self.name, agents=self.agents, settings=settings)
        try:
            with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
                await process.stdin.send(config.model_dump_json().encode() + b"\n")
            await process.wait()
        except BaseException:
            with anyio.CancelScope(shield=True):
                await self._end(process, settings.supervision.stop_s)
            raise

    async def _end(self, process: Process, patience_s: float) -> None:
        """Ask, wait, then insist; tell where it ended in any other way."""
        well = [0]
        if process.returncode is None:
            process.terminate()
            well.append(-signal.SIGTERM)
            if not await self._ends_within(process, patience_s):
                process.kill()
                well.append(-signal.SIGKILL)
        code = await process.wait()
        if code not in well:
            logger.warning("child.ended_badly", child=self.name, why=_why(code))

    async def _ends_within(self, process: Process, patience_s: float) -> bool:
        while True:
            with move_on_after(patience_s, self.own_time):
                await process.wait()
                return True
            if not self._saves():
                return False

    @asynccontextmanager
    async def _listening(self, *streams: ByteReceiveStream | None) -> AsyncIterator[None]:
        # Shielded: what it says while it stops is worth reading, too.
        scopes = [anyio.CancelScope(shield=True) for _ in streams]
        async with anyio.create_task_group() as tasks:
            for stream, scope in zip(streams, scopes, strict=True):
                tasks.start_soon(self._listen, stream, scope)
            try:
                yield
            finally:
                for scope in scopes:
                    scope.deadline = anyio.current_time() + LAST_WORDS_S

    async def _listen(self, stream: ByteReceiveStream | None, scope: anyio.CancelScope) -> None:
        assert stream is not None  # noqa: S101 - it is a pipe
        with scope:
            async for line in _lines(stream):
                passed = log.pass_on(line, self.name)
                if passed.event in ("worker.fatal", "worker.failed"):
                    self._reason = passed.reason


async def _lines(stream: ByteReceiveStream) -> AsyncIterator[bytes]:
    """The lines of a stream, the last one also without its end."""
    pending = b""
    async for chunk in stream:
        *whole, pending = (pending + chunk).split(b"\n")
        for line in whole:
            yield line
        if len(pending) > MAX_LINE:
            yield pending
            pending = b""
    if pending:
        yield pending


def _environment(settings: Settings) -> dict[str, str]:
    """What libraries read before our code runs.

    One heap for all threads: of those that the tensor thread would have for itself, glibc never
    gives the end back to the system (64 MB at most), so that what is freed there stays ours.
    """
    # Notifications to systemd are the hub's alone.
    inherited = {k: v for k, v in os.environ.items() if k not in ("NOTIFY_SOCKET", "WATCHDOG_USEC")}
    return {
        **inherited,
        **openmp.variables(settings.host.max_threads(), inherited),
        "MALLOC_ARENA_MAX": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }


def _why(code: int) -> str:
    if code >= 0:
        return f"exited with status {code}"
    if code == -signal.SIGBUS:
        return "killed by SIGBUS: a file that it had mapped, such as a model, was cut short"
    return f"killed by {signal.Signals(-code).name}"
