"""Running the daemon in the foreground, and stopping the one that runs."""

from __future__ import annotations

import resource
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import anyio
import structlog

from config import ConfigError, Fault, Paths, default_path, load
from sovl_daemon import import_path, log
from sovl_daemon.cli import exits
from sovl_daemon.cli.entry import leave_at_once
from sovl_daemon.cli.exits import EX_CONFIG
from sovl_daemon.client import AsyncClient, ClientError, DaemonSlow
from sovl_daemon.client.target import Target
from sovl_daemon.conditions import in_words
from sovl_daemon.contracts.hub import Ping, ShowConfig, Stop
from sovl_daemon.hub import Hub
from sovl_daemon.instance import AlreadyRunning, Displaced
from sovl_daemon.limits import ControlGroups
from sovl_daemon.own_time import move_on_after
from sovl_daemon.registry import RegistryError
from sovl_daemon.supervisor import GaveUp

POLL_S = 0.05
_FEW_FILES, _MANY_FILES = 128, 65_536
_FEW_THREADS = 24  # hub and model host have 14 at rest, with one thread for tensors
_OF_A_START = (AlreadyRunning, RegistryError, Displaced, GaveUp)


def run_daemon(config: Path | None, overrides: list[str]) -> int:
    """Run until stopped; the exit code."""
    signal.signal(signal.SIGINT, leave_at_once)  # until the hub itself hears it
    try:
        _open_files()
        _begin_threads()
        given = _pairs(overrides)
        settings = load(config, given)
        paths = Paths.of(settings)
        paths.ensure()
    except ConfigError as error:
        exits.complain(error)
        return _code(error)
    log.configure_hub(settings.logging, paths.log_file)
    if import_path.left_out:
        why = "PYTHONPATH: only absolute entries are followed"
        structlog.get_logger(agent="hub").warning(
            "hub.path_left_out", entries=import_path.left_out, reason=why
        )
    try:
        file = config or default_path()
        anyio.run(Hub(settings, file, given, config_named=config is not None).run)
    except Exception as error:
        leaves = list(_leaves(error))
        if not all(isinstance(each, _OF_A_START) or exits.is_expected(each) for each in leaves):
            raise
        for each in leaves:
            exits.complain(each)
            structlog.get_logger(agent="hub").critical("hub.failed", reason=in_words(each))
        return max(map(_code, leaves))
    return 0


def _open_files() -> None:
    """Take as many descriptors as we may; ZeroMQ ends the process where it gets none."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _MANY_FILES if hard == resource.RLIM_INFINITY else min(hard, _MANY_FILES)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        soft = most
    if 0 <= soft < _FEW_FILES:
        problem = f"{soft} open files are allowed, at least {_FEW_FILES} are needed"
        raise ConfigError([Fault("ulimit -n", f"{problem}; under systemd: LimitNOFILE")])


def _begin_threads() -> None:
    """Refuse to begin where too few threads may; ZeroMQ and OpenMP end a process that gets none."""
    room = ControlGroups().threads()
    if room is not None and room.limit < _FEW_THREADS:
        problem = f"{room.limit} threads and processes are allowed, at least {_FEW_THREADS} needed"
        raise ConfigError([Fault("pids.max", f"{problem}; see TasksMax=, docker --pids-limit")])


def _pairs(overrides: list[str]) -> dict[str, str]:
    pairs = {}
    for word in overrides:
        key, equals, value = word.partition("=")
        if not equals:
            raise ConfigError([Fault(word, "write it as KEY=VALUE", "command line")])
        pairs[key] = value
    return pairs


def _code(error: BaseException) -> int:
    """The exit code of a start: only what no other one would mend keeps systemd from trying."""
    if exits.passes(error):
        return exits.EX_TEMPFAIL
    hopeful = isinstance(error, Displaced) or (isinstance(error, GaveUp) and not error.fatal)
    return exits.FAILED if hopeful else EX_CONFIG


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if not isinstance(error, BaseExceptionGroup):
        yield error
        return
    for each in error.exceptions:
        yield from _leaves(each)


async def stop_daemon() -> int:
    """Ask the daemon to stop and wait until its process is gone; the number of that."""
    target = Target.find()
    own_time = target.own_time()
    async with AsyncClient(target, source="sovl") as client:
        pid = (await client.control(Ping())).pid
        asked = await client.control(ShowConfig(key="supervision.close_s"))
        close_s = float(asked.value)
        await client.control(Stop())
        with suppress(ClientError):
            while True:  # as long as it answers it is about it, and keeps to its own limits
                await client.control(Ping())
                await anyio.sleep(POLL_S)
    with move_on_after(close_s, own_time):
        while _is_alive(pid):  # noqa: ASYNC110 - a process tells nobody when it ends
            await anyio.sleep(POLL_S)
        return pid
    raise DaemonSlow(f"the daemon (pid {pid}) stopped answering, but did not end in {close_s:g} s")


def _is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"
