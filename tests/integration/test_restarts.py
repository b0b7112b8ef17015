"""Supervision of a real daemon: who is started again, with whom, and when it is given up."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from sovl_daemon.cli import exits
from sovl_daemon.cli.daemon import EX_CONFIG
from sovl_daemon.client import CommandError
from sovl_daemon.testing import PATIENCE_S, WITHOUT_MODEL, Daemon, running, until
from tests.packages import install

FRAIL = {
    **WITHOUT_MODEL,
    "agents.placement": {"echo": "host"},
    "supervision.restart_intensity": 100,
    "supervision.backoff_initial_s": 0.05,
    "supervision.backoff_max_s": 0.2,
    "logging.level": "debug",
}


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two agents of third parties: echo, and one that fails when told to."""
    return install(tmp_path_factory.mktemp("packages"), "sovl-echo", "sovl-frail")


@pytest.fixture(scope="module")
def daemon(module_runtime: Path, packages: Path) -> Iterator[Daemon]:
    with running(module_runtime, packages=packages, **FRAIL) as daemon:
        yield daemon


class Look:
    """The daemon's children at one moment."""

    def __init__(self, daemon: Daemon) -> None:
        with daemon.client() as client:
            status = client.control("status")
        self.agents: dict[str, dict[str, Any]] = status["agents"]
        self.restarts = {name: each["restarts"] for name, each in status["children"].items()}
        self.state = status["state"]

    def pid(self, agent: str) -> int:
        return int(self.agents[agent]["pid"])

    def since(self, before: "Look") -> set[str]:
        """Which children were started again."""
        return {name for name, count in self.restarts.items() if count > before.restarts[name]}


def well_again(daemon: Daemon, before: Look, *agents: str) -> Look:
    """Wait until these agents are ready with new processes, and all others are ready, too."""
    for _ in until():
        now = Look(daemon)
        ready = {each["state"] for each in now.agents.values()} == {"ready"}
        if ready and all(now.pid(agent) != before.pid(agent) for agent in agents):
            return now
    raise AssertionError(f"not well again: {now.agents}\n{daemon.output()}")


def workers(daemon: Daemon) -> list[psutil.Process]:
    return psutil.Process(daemon.process.pid).children()


def test_who_leans_on_it_is_started_again_with_it(daemon: Daemon) -> None:
    before = Look(daemon)
    assert list(before.restarts) == ["mind", "scribe", "frail", "health", "host"]
    os.kill(before.pid("frail"), signal.SIGKILL)
    now = well_again(daemon, before, "frail", "echo")
    assert now.since(before) == {"frail", "health", "host"}
    stopped = [
        line["agent"]
        for line in daemon.events()
        if line["event"] == "agent.state" and line.get("state") == "stopped"
    ]
    assert stopped[-2:] == ["echo", "health"]  # the last started first
    restarting = [line for line in daemon.events() if line["event"] == "child.restarting"]
    assert restarting[-1]["why"] == "killed by SIGKILL"


def test_who_does_not_is_left_alone(daemon: Daemon) -> None:
    before = Look(daemon)
    os.kill(before.pid("echo"), signal.SIGKILL)
    now = well_again(daemon, before, "echo")
    assert now.since(before) == {"host"}
    assert now.pid("frail") == before.pid("frail")


def test_two_that_die_at_once_are_each_started_once(daemon: Daemon) -> None:
    """The hub sleeps meanwhile, so that it hears of both in the same moment."""
    for victims in (("echo", "frail"), ("frail", "echo")) * 2:
        before = Look(daemon)
        daemon.process.send_signal(signal.SIGSTOP)
        for agent in victims:
            os.kill(before.pid(agent), signal.SIGKILL)
        time.sleep(0.1)
        daemon.process.send_signal(signal.SIGCONT)
        now = well_again(daemon, before, "frail", "echo")
        assert now.since(before) >= {"frail", "host"}
        time.sleep(0.5)
        now = Look(daemon)
        assert {each.pid for each in workers(daemon)} == {now.pid("frail"), now.pid("echo")}


def test_an_agent_that_ends_with_an_exception(daemon: Daemon) -> None:
    before = Look(daemon)
    with daemon.client() as client, suppress(CommandError):
        client.ask("fall")
    well_again(daemon, before, "frail")
    why = [line["why"] for line in daemon.events() if line["event"] == "child.restarting"]
    assert why[-1] == "RuntimeError: it fell"


def test_an_agent_that_blocks_its_loop_counts_as_dead(daemon: Daemon) -> None:
    before = Look(daemon)
    with daemon.client() as client, pytest.raises(CommandError, match="no sign of life for 3 s"):
        client.ask("block")
    now = well_again(daemon, before, "frail")
    assert now.since(before) == {"frail", "health", "host"}
    why = [line["why"] for line in daemon.events() if line["event"] == "child.restarting"]
    assert why[-1] == "frail gave no sign of life for 3 s"


def test_a_process_that_it_left_behind_does_not_hold_up_its_restart(daemon: Daemon) -> None:
    before = Look(daemon)
    with daemon.client() as client:
        left = psutil.Process(client.ask("leave-a-child")["pid"])
    try:
        os.kill(before.pid("frail"), signal.SIGKILL)
        well_again(daemon, before, "frail")
        assert left.is_running()
    finally:
        left.kill()


def test_whatever_it_writes_is_logged_and_nothing_stalls(daemon: Daemon) -> None:
    before = Look(daemon)
    with daemon.client() as client:
        client.ask("babble")
        assert client.ask("babble") == {}
    assert Look(daemon).since(before) == set()
    for _ in until():
        lines = [line for line in daemon.events() if line["event"] == "process.output"]
        if sum(str(line["text"]).startswith("~") for line in lines) >= 4:
            break
    texts = [str(line["text"]) for line in lines]
    assert "plain words" in texts
    assert "\ufffd\ufffd no text" in texts
    assert all(line["process"] == "frail" for line in lines)
    assert max(map(len, texts)) <= 2000


def test_a_hub_that_was_asleep_blames_nobody(daemon: Daemon) -> None:
    before = Look(daemon)
    daemon.process.send_signal(signal.SIGSTOP)
    time.sleep(5)
    daemon.process.send_signal(signal.SIGCONT)
    time.sleep(1.5)
    now = Look(daemon)
    assert now.since(before) == set()
    assert now.state == "ready"
    with daemon.client() as client:
        assert client.ask("say", text="awake")["pid"] == before.pid("echo")


# Giving up


def failing(runtime: Path, packages: Path, how: str, **settings: object) -> Daemon:
    """A daemon whose critical agent does not start."""
    (runtime / "state").mkdir()
    (runtime / "state" / "frail").write_text(how)
    limits = {"supervision.restart_intensity": 1}
    return Daemon(runtime, packages=packages, **{**FRAIL, **limits, **settings}).start()


@pytest.mark.parametrize(
    ("how", "settings", "line", "code"),
    [
        ("crash", {}, "frail: RuntimeError: no balance", exits.FAILED),
        (
            "hang",
            {"supervision.start_timeout_s": 1},
            "frail: frail was not ready within 1 s",
            exits.FAILED,
        ),
        ("fatal", {}, "frail: frail: no legs; give it some", EX_CONFIG),
    ],
)
def test_when_a_critical_agent_is_given_up_the_daemon_ends_with_one_line(
    runtime: Path, packages: Path, how: str, settings: dict[str, object], line: str, code: int
) -> None:
    daemon = failing(runtime, packages, how, **settings)
    assert daemon.process.wait(PATIENCE_S) == code, daemon.output()
    assert daemon.output().splitlines() == [f"sovl: {line}"]
    given_up = [each for each in daemon.events() if each["event"] == "child.given_up"]
    assert [each["child"] for each in given_up] == ["frail"]
    restarted = [each for each in daemon.events() if each["event"] == "child.restarting"]
    attempts = [each for each in restarted if each["child"] == "frail"]
    assert len(attempts) == (0 if how == "fatal" else 1)
    last = daemon.events()[-1]
    assert (last["event"], last["level"]) == ("hub.failed", "critical")


def test_a_daemon_that_still_starts_says_what_it_waits_for(runtime: Path, packages: Path) -> None:
    daemon = failing(runtime, packages, "hang")
    try:
        for _ in until():
            asked = daemon.sovl("ping", "--json")
            if '"starting"' in asked.stdout and "frail" in asked.stdout:
                break
        else:
            raise AssertionError(asked.stdout)
        (runtime / "state" / "frail").unlink()
        for each in workers(daemon):
            each.kill()
        daemon.wait()
    finally:
        assert daemon.stop() == 0
