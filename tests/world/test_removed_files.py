"""Files and folders that others remove or replace while the daemon lives from them."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from sovl_daemon.cli import exits
from sovl_daemon.client import ClientError, CommandError
from sovl_daemon.memory.interactions import Interaction, InteractionStore
from sovl_daemon.testing import PATIENCE_S, SOVL, Daemon, running, until
from tests.conftest import ECHO
from tests.world import situation

HUB_ALONE = {"agents.disabled": ECHO["agents.disabled"]}


@pytest.fixture(scope="module")
def module_root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    root = Path("/tmp") / f"sovl-removed-{os.getpid()}"
    root.mkdir()
    yield root
    shutil.rmtree(root)


@pytest.fixture(scope="module")
def daemon(module_root: Path) -> Iterator[Daemon]:
    with running(module_root, **HUB_ALONE) as daemon:
        yield daemon


def reached(daemon: Daemon) -> int:
    """The process that a new client finds."""
    for _ in until():
        with suppress(ClientError), daemon.client() as client:
            return int(client.control("ping")["pid"])
    raise AssertionError(daemon.output())


def log_something(daemon: Daemon) -> None:
    with daemon.client() as client:
        for level in ("debug", "info"):
            client.control("config_set", key="logging.level", value=level, save=False)


@situation("own", "Whoever removed the runtime directory still reaches the daemon, and only one.")
def test_the_runtime_directory_is_removed(daemon: Daemon) -> None:
    with daemon.client() as connected:
        shutil.rmtree(daemon.runtime_dir)
        second = daemon.sovl("run")
        assert "is already running" in second.stderr
        assert reached(daemon) == connected.control("ping")["pid"] == daemon.process.pid


@situation(
    "grafana/grafana#131592",
    "A socket that a cleaner of old files removed is there again, without a restart.",
)
def test_a_cleaner_removes_the_sockets_one_after_the_other(daemon: Daemon) -> None:
    for name in ("control.ipc", "commands.ipc", "events.ipc"):
        path = daemon.runtime_dir / name
        path.unlink()
        for _ in until():
            if path.is_socket():
                break
        assert path.stat().st_mode & 0o777 == 0o660
        with daemon.client() as client:
            assert client.ask("diagnose")["findings"]


@situation(
    "tmux/tmux#4640",
    "A folder of sockets under /tmp that was aged out is made anew, with its lock.",
)
def test_another_one_cannot_begin_when_the_lock_was_aged_out(daemon: Daemon) -> None:
    for each in daemon.runtime_dir.iterdir():
        each.unlink()
    reached(daemon)
    lock = daemon.runtime_dir / "hub.lock"
    for _ in until():
        if lock.exists():
            break
    assert "is already running" in daemon.sovl("run").stderr


@situation(
    "fairyglade/ly#403",
    "After a logout that took the runtime directory away, the next login makes it reachable again.",
)
def test_the_runtime_directory_cannot_be_made_until_the_next_login(daemon: Daemon) -> None:
    above = daemon.runtime_dir
    shutil.rmtree(above)
    above.touch()  # nothing can be made below what is no folder
    daemon.logged("hub.unreachable")
    above.unlink()
    assert reached(daemon) == daemon.process.pid
    failures = [each for each in daemon.events() if each["event"] == "hub.unreachable"]
    assert len({each["reason"] for each in failures}) == len(failures)  # each is said once


@situation(
    "logrotate/logrotate#654",
    "After a rotation that renames the log, lines go to the new file without a signal.",
)
def test_the_log_is_renamed_and_followed(daemon: Daemon) -> None:
    follow = [*SOVL, "logs", "-f", "-n", "1", "--json"]
    with subprocess.Popen(
        follow, env=daemon.environment, stdout=subprocess.PIPE, text=True
    ) as follower:
        try:
            assert follower.stdout is not None
            log_something(daemon)
            follower.stdout.readline()  # it has begun
            daemon.log_file.rename(daemon.log_file.with_suffix(".old"))
            log_something(daemon)
            assert "config.changed" in [each["event"] for each in daemon.events()]
            new = daemon.events()[-1]["order"]
            assert any(json.loads(line)["order"] == new for line in follower.stdout)
        finally:
            follower.kill()


@situation(
    "Rcomian/bunyan-rotating-file-stream#2",
    "A log file that somebody deletes by hand is begun anew with the next line.",
)
def test_the_log_is_deleted(daemon: Daemon) -> None:
    daemon.log_file.unlink()
    log_something(daemon)
    assert "config.changed" in daemon.log_file.read_text()


@situation(
    "lf-edge/ekuiper#3770",
    "When a backup takes the place of an open database, the daemon goes on with that, unasked.",
)
def test_the_database_is_replaced(daemon: Daemon) -> None:
    path = daemon.root / "state" / "sovl.db"
    backup = daemon.root / "backup.db"
    store = InteractionStore(backup)
    store.add(Interaction("1", "c", "Hello?", "Hello from the backup.", tokens=2, confidence=None))
    store.close()
    backup.replace(path)
    found: list[dict[str, Any]] = []
    for _ in until():
        with suppress(ClientError, CommandError), daemon.client() as client:
            found = client.ask("history")["interactions"]
        if found:
            break
    assert [each["response"] for each in found] == ["Hello from the backup."]


@situation("own", "A daemon whose state directory is moved away ends, and says so in one line.")
def test_the_state_directory_is_moved(runtime: Path) -> None:
    with running(runtime, **HUB_ALONE) as daemon:
        (runtime / "state").rename(runtime / "elsewhere")
        assert daemon.process.wait(PATIENCE_S) == exits.FAILED
        (said,) = daemon.output().splitlines()
        assert "the state directory" in said
        assert "was re" in said


@situation("own", "A reload that finds its file gone keeps what is in force.")
def test_the_configuration_file_is_gone_at_a_reload(runtime: Path) -> None:
    file = runtime / "mine.json"
    file.write_text(json.dumps({"logging": {"level": "debug"}}))
    with running(runtime, f"--config={file}", **HUB_ALONE) as daemon, daemon.client() as client:
        file.unlink()
        with pytest.raises(CommandError, match=r"mine\.json: no such file"):
            client.control("reload")
        assert client.control("config")["settings"]["logging"]["level"] == "debug"


@situation("own", "A service that keeps its first setting takes none from somebody's home.")
def test_the_first_setting_that_is_kept_stands_alone(runtime: Path) -> None:
    home = runtime / "home" / ".config" / "sovl"
    home.mkdir(parents=True)
    (home / "config.json").write_text(json.dumps({"logging": {"backups": 1}}))
    daemon = Daemon(runtime, **HUB_ALONE)
    daemon.environment["HOME"] = str(runtime / "home")
    daemon.start().wait()
    try:
        with daemon.client() as client:
            client.control("config_set", key="logging.level", value="debug")
        kept = json.loads((runtime / "sovl" / "config.json").read_text())
    finally:
        assert daemon.stop() == 0
    assert kept == {"logging": {"level": "debug"}}
