"""Actions of a third party that do not do what they say, in a running daemon.

They are found out, taken back and left alone; an honest one is done in their place.
"""

import re
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from sovl_daemon.control.decision_log import DecisionLog
from sovl_daemon.testing import Daemon, running, until
from sovl_daemon.testing.level import ACT, Level, expect, in_force, write_task
from tests import tiny_models
from tests.packages import install

LIARS = ("boast", "stumble", "dawdle")
FOUND = {
    "boast": "freed ",
    "stumble": "RuntimeError: both feet left",
    "dawdle": "it was not over after 5 s",
}


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install(tmp_path_factory.mktemp("packages"), "sovl-liars")


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory, packages: Path) -> dict[str, Any]:
    tiny = tiny_models.settings(tmp_path_factory.mktemp("models"))
    return tiny | {"packages": packages, "control.shadow": False, "logging.level": "debug"}


def entries(daemon: Daemon) -> list[dict[str, Any]]:
    """The journal, oldest first."""
    with daemon.client() as client:
        return list(reversed(client.ask("actions", what="history")["actions"]))


def settled(daemon: Daemon, count: int) -> list[dict[str, Any]]:
    """Wait until so many actions were begun, and all of them are over."""
    for _ in until():
        found = entries(daemon)
        if len(found) >= count and all(e["state"] in ("reverted", "committed") for e in found):
            return found
    raise AssertionError(f"{found}\n{daemon.output()}")


def listed(daemon: Daemon) -> str:
    """What `sovl actions list` says, once it knows of quarantines."""
    for _ in until():
        if (said := daemon.sovl("actions", "list").stdout).count("in quarantine") == len(LIARS):
            return said
    raise AssertionError(f"{said}\n{daemon.output()}")


def cache_mb(daemon: Daemon) -> set[int]:
    """As it is configured for the running daemon, and as the engine is really set."""
    with daemon.client() as client:
        configured = client.control("config", key="generation.prefix_cache_mb")["value"]
        engine = client.control("stats")["agents"]["generator"]["prefix_cache_mb"]
    return {configured, engine}


def told(daemon: Daemon, words: str) -> str:
    """What `sovl judge why` says of the task now, once these words are in it."""
    for _ in until():
        if words in (said := daemon.sovl("judge", "why", "--task", "memory").stdout):
            return said
    raise AssertionError(f"{said}\n{daemon.output()}")


def decided(root: Path, action: str) -> str:
    """The number of the first decision to do an action."""
    with closing(DecisionLog(root / "state" / "decisions.db")) as log:
        found = [
            each.id for each in log.recent(1000) if (each.does, each.action) == ("act", action)
        ]
    return str(found[-1])


def test_actions_that_lie_are_found_out_and_left_alone(
    runtime: Path, settings: dict[str, Any]
) -> None:
    write_task(runtime, action=LIARS[0], others=(*LIARS[1:], "limit_admission"))
    with running(runtime, **settings) as daemon, closing(Level(daemon)) as level:
        level.value = ACT
        tried = settled(daemon, 7)
        held = listed(daemon)
        stuck = told(daemon, "in quarantine")
        why = daemon.sovl("judge", "why", decided(runtime, "boast")).stdout
        history = " ".join(daemon.sovl("actions", "history").stdout.split())
        assert in_force(daemon) == ["limit_admission"]
        assert cache_mb(daemon) == {64}
    # Once they are found out an honest one is done, and they are tried once more: which of it first
    # is up to how soon the last of them was found out.
    assert [entry["action"] for entry in tried[:3]] == list(LIARS)
    assert sorted(entry["action"] for entry in tried[3:]) == sorted((*LIARS, "limit_admission"))
    for name, reason in FOUND.items():
        own = [entry for entry in tried if entry["action"] == name]
        assert [entry["state"] for entry in own] == ["reverted"] * 2
        assert all(entry["reason"].startswith(reason) for entry in own)
        assert re.search(rf"^{name}: in quarantine for (2\d\d|300) s after 2 failures", held, re.M)
        assert f"{name} is in quarantine for" in stuck
    assert re.search(
        r"It decided to do boast\..*it was reverted: freed \S+ MB of 4000\.0 MB", why, re.S
    )
    assert "boast 64 → 7 reverted memory" in history
    still_left_alone(runtime, settings)


def still_left_alone(runtime: Path, settings: dict[str, Any]) -> None:
    """After a restart the quarantine holds, and the honest action is done at once."""
    with running(runtime, **settings) as daemon, closing(Level(daemon)) as level:
        held = listed(daemon)
        level.value = ACT
        expect(daemon, ["limit_admission"])
        assert held.count("after 2 failures") == len(LIARS)
        assert [entry["action"] for entry in settled(daemon, 8)[7:]] == ["limit_admission"]


def test_a_task_waits_for_the_action_of_another_one(
    runtime: Path, settings: dict[str, Any]
) -> None:
    """What is tried meanwhile would be refused, and then rest as if it had failed."""
    for name, first in (("memory", "boast"), ("other", "stumble")):
        write_task(runtime, name=name, action=first, others=["limit_admission"])
    with running(runtime, **settings) as daemon, closing(Level(daemon)) as level:
        level.value = ACT
        settled(daemon, 3)
        acted = [each for each in daemon.events() if each["event"] == "control.acted"]
    assert {each["action"] for each in acted[:3]} == {"boast", "stumble", "limit_admission"}
    assert not any("in flight" in str(each["reason"]) for each in acted)
