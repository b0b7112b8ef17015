"""Running the daemon in the foreground, and stopping the one that runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import structlog

from bus.auth import KeyProblem
from bus.errors import BindProblem
from config import ConfigError, Fault, Paths, default_path, load
from sovl_daemon import log
from sovl_daemon.cli import exits
from sovl_daemon.client import AsyncClient, DaemonSlow
from sovl_daemon.client.target import Target
from sovl_daemon.hub import AlreadyRunning, Hub
from sovl_daemon.registry import RegistryError
from sovl_daemon.supervisor import GaveUp

EX_CONFIG = 78  # sysexits(3): starting again would not help, so systemd is told not to
_EXPECTED = (AlreadyRunning, RegistryError, KeyProblem, BindProblem, ConfigError, GaveUp)


def run_daemon(config: Path | None, overrides: list[str]) -> int:
    """Run until stopped; the exit code."""
    given = _pairs(overrides)
    settings = load(config, given)
    paths = Paths.of(settings)
    log.configure_hub(settings.logging, paths.log_file)
    hub = Hub(settings, config or default_path(), given)
    code = 0
    try:
        anyio.run(hub.run)
    except* _EXPECTED as errors:
        code = _report(errors)
    return code


def _pairs(overrides: list[str]) -> dict[str, str]:
    pairs = {}
    for word in overrides:
        key, equals, value = word.partition("=")
        if not equals:
            raise ConfigError([Fault(word, "write it as KEY=VALUE", "command line")])
        pairs[key] = value
    return pairs


def _report(errors: BaseExceptionGroup[BaseException]) -> int:
    code = 0
    for error in _leaves(errors):
        exits.complain(str(error))
        structlog.get_logger(agent="hub").critical("hub.failed", reason=str(error))
        hopeful = isinstance(error, GaveUp) and not error.fatal
        code = max(code, exits.FAILED if hopeful else EX_CONFIG)
    return code


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for each in error.exceptions for leaf in _leaves(each)]
    return [error]


async def stop_daemon() -> dict[str, Any]:
    """Ask the daemon to stop and wait until its process is gone."""
    async with AsyncClient(Target.find(), source="sovl") as client:
        pid = (await client.control("ping"))["pid"]
        settings = (await client.control("config"))["settings"]["supervision"]
        await client.control("stop")
    budget = settings["drain_s"] + settings["stop_s"] + settings["close_s"]
    with anyio.move_on_after(budget):
        while _is_alive(pid):  # noqa: ASYNC110 - a process tells nobody when it ends
            await anyio.sleep(0.05)
        return {"stopped": True, "pid": pid}
    raise DaemonSlow(f"the daemon (pid {pid}) did not end within {budget:g} s")


def _is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"
