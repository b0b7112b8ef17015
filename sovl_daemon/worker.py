"""A process of the daemon that runs agents for the hub: `python -m sovl_daemon.worker`.

Its configuration comes as one JSON line on standard input; its log leaves by standard output. It
ends with the hub, however the hub ends: nobody is left behind.
"""

from __future__ import annotations

import faulthandler
import os
import select
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path

import anyio
import structlog
from pydantic import BaseModel

from bus.async_socket import end_sockets
from bus.endpoints import Endpoints
from bus.errors import FatalError, TransientError
from bus.subscriber import local_subscriber
from bus.topics import CONFIG, ConfigChanged
from config import Paths, Settings
from sovl_daemon import log, registry
from sovl_daemon.conditions import condition_of
from sovl_daemon.signals import heard

EX_TEMPFAIL = 75  # of sysexits(3): what the system refused may be had later
EX_FATAL = 78  # as EX_CONFIG of sysexits(3): starting again would not help


class WorkerConfig(BaseModel):
    """What the hub tells a worker."""

    process: str
    agents: list[str]
    settings: Settings


def main() -> int:
    """Run the agents named in the configuration until told to stop."""
    faulthandler.enable()  # the hub logs what it says
    # Unbuffered: a thread that waits in a buffered read would abort the interpreter at its end.
    stdin = FileIO(0, closefd=False)
    config = WorkerConfig.model_validate_json(stdin.readline())
    with _ending_with_the_hub(stdin):
        try:
            return _run(config)
        finally:
            end_sockets()


def _run(config: WorkerConfig) -> int:
    log.configure_worker(config.settings.logging)
    host = config.settings.host
    os.nice(host.nice)
    adjustment = Path("/proc/self/oom_score_adj")  # of the two the kernel is to take this process
    if adjustment.exists() and int(adjustment.read_text()) < host.oom_score_adj:
        adjustment.write_text(str(host.oom_score_adj))
    code = 0
    try:
        anyio.run(_serve, config)
    except* FatalError as errors:
        _report("worker.fatal", errors)
        code = EX_FATAL
    except* TransientError as errors:
        _report("worker.failed", errors)
        code = code or EX_TEMPFAIL
    except* Exception as errors:
        _report("worker.failed", errors)
        code = code or (EX_TEMPFAIL if condition_of(errors) else 1)
    return code


@contextmanager
def _ending_with_the_hub(stdin: FileIO) -> Iterator[None]:
    """Standard input closes when the hub is gone, even by kill -9."""
    over, end = os.pipe()
    watch = threading.Thread(target=_watch, args=(stdin, over), daemon=True)
    watch.start()
    try:
        yield
    finally:
        os.write(end, b".")
        watch.join()


def _watch(stdin: FileIO, over: int) -> None:
    while True:
        ready, _, _ = select.select([stdin.fileno(), over], [], [])
        if over in ready:
            return
        if not stdin.read(1):
            os._exit(0)


async def _serve(config: WorkerConfig) -> None:
    available = registry.find_agents(config.settings)
    paths = Paths.of(config.settings)
    stop = anyio.Event()
    with heard(lambda _: stop.set(), signal.SIGTERM):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_follow_log_level, paths, config.process)
            for name in config.agents:
                agent = available[name](config.settings, paths, config.process)
                tasks.start_soon(agent.serve)
            await stop.wait()
            tasks.cancel_scope.cancel()


async def _follow_log_level(paths: Paths, process: str) -> None:
    address = Endpoints.local(paths.runtime_dir).events
    async with local_subscriber(address, (CONFIG,), name=process, queue=100) as events:
        async for event in events:
            if isinstance(event.payload, ConfigChanged):
                log.set_level(event.payload.settings["logging"]["level"])


def _report(event: str, errors: BaseExceptionGroup[BaseException]) -> None:
    first: BaseException = errors
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    told = isinstance(first, FatalError | TransientError)
    reason = f"{first}" if told else f"{type(first).__name__}: {first}"
    logger = structlog.get_logger(agent="worker")
    logger.error(event, reason=reason, exc_info=None if told or condition_of(first) else errors)


if __name__ == "__main__":
    sys.exit(main())
