"""`sovl doctor`: looks at everything the daemon needs, and says what is wrong and what to do."""

from __future__ import annotations

import os
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Literal, NamedTuple

import anyio
import psutil
from packaging.requirements import Requirement

from bus.errors import CommandError
from config import ConfigError, Paths, Settings, default_path, load
from sovl_daemon.cli import render
from sovl_daemon.client import AsyncClient, ClientError, DaemonDown
from sovl_daemon.client.target import Target
from sovl_daemon.conditions import in_words
from sovl_daemon.contracts.health import Diagnose
from sovl_daemon.contracts.hub import Status
from sovl_daemon.control.sources.gpu import Gpus
from sovl_daemon.engine.errors import TemplateError
from sovl_daemon.engine.text.chat_template import template_in
from sovl_daemon.limits import memory
from sovl_daemon.models import ModelError, ModelStore
from sovl_daemon.own_time import fail_after

State = Literal["ok", "warning", "wrong"]

_MB = 1e6
_FEW_DISK_BYTES = 500 * _MB  # logs, states and a model need more
_PATIENCE_S = 5.0
_COLOURS = {"ok": "green", "warning": "yellow", "wrong": "red"}


class Check(NamedTuple):
    """What was looked at, how it is, and what to do next where that is not well."""

    name: str
    state: State
    says: str
    next: str = ""


def examine(environ: dict[str, str] | None = None) -> list[Check]:
    """Look at everything; needs no daemon, and what cannot be looked at is a finding as well."""
    found = [_looked("installation", _installation)]
    try:
        settings = load(_config_file(environ or dict(os.environ)))
        paths = Paths.of(settings)
    except ConfigError as error:
        says = "; ".join(str(error).splitlines())
        return [*found, Check("config", "wrong", says, "correct the file or the variable it names")]
    return [*found, *_with(settings, paths)]


def _with(settings: Settings, paths: Paths) -> Iterator[Check]:
    file = default_path()
    about = f"{file}" if file.is_file() else f"the defaults, as there is no {file}"
    yield Check("config", "ok", about)
    checks: tuple[Callable[[Settings, Paths], Check], ...] = (
        _state_directory,
        _databases,
        _model,
        _chat,
        _sockets,
        _memory,
        _disk,
        _gpu,
    )
    for check in checks:
        name = check.__name__.strip("_").replace("_", " ")
        yield _looked(name, partial(check, settings, paths))
    try:
        yield from anyio.run(_daemon)
    except Exception as error:
        yield _unseen("daemon", error)


def _looked(name: str, check: Callable[[], Check]) -> Check:
    try:
        return check()
    except Exception as error:
        return _unseen(name, error)


def _unseen(name: str, error: Exception) -> Check:
    advice = "mend what it says, or tell it to the project if it says nothing"
    return Check(name, "wrong", f"cannot be looked at: {in_words(error)}", advice)


def _config_file(environ: dict[str, str]) -> Path | None:
    given = environ.get("SOVL_CONFIG")
    return Path(given) if given else None


def _installation() -> Check:
    """Whether every package that is required is there, in a version that will do."""
    faults = []
    for text in requires("sovl-daemon") or ():
        needed = Requirement(text)
        if needed.marker is not None and not needed.marker.evaluate({"extra": ""}):
            continue
        try:
            found = version(needed.name)
        except PackageNotFoundError:
            faults.append(f"{needed.name} is missing")
            continue
        if not needed.specifier.contains(found, prereleases=True):
            faults.append(f"{needed.name} is {found}, not {needed.specifier}")
    if faults:
        return Check("installation", "wrong", "; ".join(faults), "run: ./scripts/setup")
    python = ".".join(map(str, sys.version_info[:3]))
    return Check("installation", "ok", f"SOVL {version('sovl-daemon')}, Python {python}")


def _state_directory(settings: Settings, paths: Paths) -> Check:
    """Whether what must survive can be written down."""
    folder = paths.state_dir
    existing = next(each for each in (folder, *folder.parents) if each.exists())
    if not (existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)):
        advice = f"run: sudo chown -R {os.getuid()} {existing}, or set store.state_dir"
        return Check("state directory", "wrong", f"{existing} cannot be written to", advice)
    if existing != folder:
        return Check("state directory", "ok", f"{folder}, made at the first start")
    return Check("state directory", "ok", str(folder))


def _databases(settings: Settings, paths: Paths) -> Check:
    """Whether the SQLite files are whole."""
    names = (paths.database, paths.state_dir / "actions.db", paths.state_dir / "decisions.db")
    damaged = [f"{file}: {fault}" for file in names if file.is_file() and (fault := _fault(file))]
    if damaged:
        advice = "stop the daemon and put the file back from a copy, or move it away"
        return Check("databases", "wrong", "; ".join(damaged), advice)
    return Check("databases", "ok", f"{sum(file.is_file() for file in names)} whole")


def _fault(file: Path) -> str:
    try:
        with closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True, timeout=5)) as database:
            (said,) = database.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.Error as error:
        return str(error)
    return "" if said == "ok" else str(said)


def _model(settings: Settings, paths: Paths) -> Check:
    """Whether base and scaffold are there, whole by their manifests' sizes."""
    core, store = settings.core_config, ModelStore(paths.model_dir)
    names = dict.fromkeys((core.base_model_name, core.scaffold_model_name))
    problems = []
    for name in names:
        if Path(name).is_absolute():
            if not Path(name).exists():
                problems.append(f"{name} is not there")
            continue
        try:
            store.path(name)
        except ModelError as error:
            problems.append(str(error))
    if problems:
        advice = "the daemon pulls a model that it lacks when it starts; see: sovl model list"
        return Check("model", "warning", "; ".join(problems), advice)
    return Check("model", "ok", ", ".join(names))


def _chat(settings: Settings, paths: Paths) -> Check:
    """Whether the base can be talked with, and what is done for its chat template."""
    name, store = settings.core_config.base_model_name, ModelStore(paths.model_dir)
    try:
        folder = Path(name) if Path(name).is_dir() else store.path(name)
    except ModelError:
        return Check("chat", "ok", "not known before there is a model")
    try:
        adapted = template_in(folder).adaptations
    except TemplateError as error:
        advice = "correct its chat template, or set core_config.base_model_name to another model"
        says = f"the chat template of {name} cannot be used: {error}"
        return Check("chat", "wrong", says, advice)
    return Check("chat", "ok", "; ".join(adapted) or "as its template has it")


def _sockets(settings: Settings, paths: Paths) -> Check:
    """Whether sockets can be made in the runtime directory."""
    folder = paths.runtime_dir
    existing = next(each for each in (folder, *folder.parents) if each.exists())
    if not os.access(existing, os.W_OK | os.X_OK):
        advice = "set bus.runtime_dir, or XDG_RUNTIME_DIR, to a folder of your own"
        return Check("sockets", "wrong", f"{existing} cannot be written to", advice)
    return Check("sockets", "ok", str(folder))


def _memory(settings: Settings, paths: Paths) -> Check:
    """Whether there is room, within the limits of machine and control group."""
    found = memory()
    if found is None:
        return Check("memory", "warning", "not known", "see whether /proc/meminfo can be read")
    free, used, total = found.available, found.percent, found.total
    says = f"{free / _MB:.0f} MB free, {used:.0f} % in use, of {total / _MB:.0f} MB"
    if free < settings.control.heavy_work_mb * _MB:
        advice = "end other programs, choose a smaller model, or: sovl call int8"
        return Check("memory", "warning", says, advice)
    return Check("memory", "ok", says)


def _disk(settings: Settings, paths: Paths) -> Check:
    """Whether there is room for states, logs and models."""
    free = {}
    for folder in (paths.state_dir, paths.model_dir):
        existing = next(each for each in (folder, *folder.parents) if each.exists())
        free[folder] = psutil.disk_usage(str(existing)).free
    folder, least = min(free.items(), key=lambda item: item[1])
    says = f"{least / _MB:.0f} MB free at {folder}"
    if least < _FEW_DISK_BYTES:
        return Check("disk", "wrong", says, "make room, or set store.state_dir, store.model_dir")
    return Check("disk", "ok", says)


def _gpu(settings: Settings, paths: Paths) -> Check:
    """Whether the GPU is there that is asked for."""
    gpus, wanted = Gpus(), settings.host.device
    gpus.read()
    count, silent = gpus.count, [card for card in gpus.cards if card.silent]
    if wanted.startswith("cuda") and not count:
        says = f"host.device is {wanted}, and no NVIDIA card or driver is found"
        return Check("GPU", "wrong", says, "install the driver, or: sovl config host.device auto")
    if silent:
        says = f"{', '.join(f'gpu{card.index}' for card in silent)} of {count} says nothing"
        return Check("GPU", "warning", says, "see: nvidia-smi; a lost card wants a reset or reboot")
    return Check("GPU", "ok", f"{count} found" if count else "none, so the CPU computes")


async def _daemon() -> list[Check]:
    """Whether it runs, is well, and what it says about itself."""
    try:
        target = Target.find()
        with fail_after(_PATIENCE_S, target.own_time()):
            async with AsyncClient(target, source="sovl") as client:
                return await _running(client)
    except DaemonDown:
        advice = "run: sovl run, or: sudo systemctl start sovl"
        return [Check("daemon", "warning", "it does not run", advice)]
    except (ClientError, CommandError, ConfigError, TimeoutError) as error:
        says = str(error) or f"no answer within {_PATIENCE_S:.0f} s"
        return [Check("daemon", "wrong", says, "see: sovl logs --level warning")]


async def _running(client: AsyncClient) -> list[Check]:
    status = await client.control(Status())
    bad = [
        f"{name} is {agent.state} {agent.detail}".strip()
        for name, agent in status.agents.items()
        if agent.state not in ("ready", "paused", "starting")
    ]
    says = f"{status.state}, pid {status.pid}"
    if bad or status.state == "degraded":
        says = "; ".join([f"{says} ({status.detail})", *bad])
        daemon = Check("daemon", "wrong", says, "see: sovl logs --level warning")
    else:
        daemon = Check("daemon", "ok", says)
    health = status.agents.get("health")
    ready = health is not None and health.state == "ready"
    return [daemon, await _diagnosed(client)] if ready else [daemon]


async def _diagnosed(client: AsyncClient) -> Check:
    found = await client.ask(Diagnose())
    says = "; ".join(each.says for each in found.findings if each.health != "fit")
    if found.allows_heavy_work:
        state: State = "ok" if found.health == "fit" else "warning"
        advice = "see: sovl metrics" if says else ""
        return Check("self-diagnosis", state, says or "nothing is wrong", advice)
    says = says or "; ".join(found.objections)
    return Check("self-diagnosis", "wrong", says, "see: sovl actions list, and sovl metrics")


def show(checks: list[Check], *, as_json: bool) -> bool:
    """Print them; whether nothing is wrong."""
    well = all(each.state != "wrong" for each in checks)
    rows = [each._asdict() for each in checks]
    report = {"well": well, "checks": rows}
    render.show(report, as_json=as_json, view=lambda _: _print(checks))
    return well


def _print(checks: list[Check]) -> None:
    for each in checks:
        mark = f"[{_COLOURS[each.state]}]{each.state:8}[/]"
        render.console.print(f"{mark} [bold]{each.name}[/]: {render.escape(each.says)}")
        if each.next:
            render.console.print(f"         → {render.escape(each.next)}")
