"""The loop in a running daemon: it acts on what it measures, and everything goes back again."""

import json
import os
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

from bus.endpoints import Endpoints
from bus.publisher import Publisher
from bus.topics import MetricReading, MetricsSample
from sovl_daemon.client import CommandError
from sovl_daemon.control.journal import Journal, JournalEntry
from sovl_daemon.control.sources.process_tree import cores_of
from sovl_daemon.testing import Daemon, running, until
from sovl_daemon.testing.level import ACT, AT_ONCE, HOLD, Level, expect, in_force, write_task
from tests import tiny_models

MEMORY = {"metric": "memory.percent", "high": 100.0}
HARD = MEMORY | {"limits": AT_ONCE}  # a machine always has more than this in use
GREY = MEMORY | {"limits": {"hard": 99.9, "grey": 0.2, "low": 0.1}}
CALM = MEMORY | {"limits": {"hard": 99.9}}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    settings = tiny_models.settings(tmp_path_factory.mktemp("models"), positions=1024)
    return settings | {"control.shadow": False, "logging.level": "debug"}


@pytest.fixture
def acting(runtime: Path, tiny: dict[str, Any]) -> Iterator[Daemon]:
    write_task(runtime, **HARD)
    with running(runtime, **tiny) as daemon:
        yield daemon


def limit(daemon: Daemon) -> int:
    with daemon.client() as client:
        return int(client.control("config", key="generation.max_concurrent")["value"])


def test_a_hard_limit_acts_and_revert_takes_it_back(acting: Daemon) -> None:
    expect(acting, ["limit_admission"])
    assert limit(acting) == 2
    for _ in until():
        told = acting.sovl("metrics").stdout
        if "latency.first_token_s" in told:  # as the generator counts it
            break
    assert "latency.first_token_s" in told
    assert "memory.percent" in told
    with acting.client() as client:
        client.ask("actions", what="pause")
        (done,) = client.ask("actions", what="revert")["reverted"]
        (entry,) = client.ask("actions", what="history")["actions"]
        found = client.ask("performance")
    (decided,) = [each for each in found["decided"] if each["acts"]]
    assert (decided["task"], decided["acts"], decided["relaxations"]) == ("memory", 1, 0)
    (record,) = found["done"]
    assert (record["begun"], record["verified"], record["freed"]) == (1, 1, 6)
    told = acting.sovl("actions", "performance").stdout
    assert f"{decided['day']}\n" in told
    assert "  memory: decided once to act\n" in told
    assert "  limit_admission: done once, verified once, freed 6 conversations\n" in told
    assert (done["action"], done["result"]) == ("limit_admission", "reverted")
    assert (entry["before"], entry["target"], entry["state"]) == ("8", "2", "reverted")
    assert entry["measured_before"] - entry["measured_after"] == 6
    assert limit(acting) == 8
    assert in_force(acting) == []


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="there is one core")
def test_cores_and_the_start_of_nights_are_set_and_taken_back(
    runtime: Path, tiny: dict[str, Any]
) -> None:
    write_task(runtime, action="fewer_cores", others=["later_nights"])
    with (
        running(runtime, **tiny) as daemon,
        closing(Level(daemon)) as level,
        daemon.client() as client,
    ):
        client.ask("generate", prompt="Something to learn")
        host = daemon.worker().pid
        given = cores_of(host)
        level.value = ACT
        expect(daemon, ["later_nights", "fewer_cores"])  # the latest first
        assert given is not None
        assert (cores_of(host), client.ask("sleep")["log"]) == (given // 2, 20)
        level.value = HOLD
        assert client.ask("generate", prompt="On fewer cores")["tokens"]
        client.ask("actions", what="revert")
        assert (cores_of(host), client.ask("sleep")["log"]) == (given, 10)


@pytest.mark.parametrize("way", ["relaxed", "expired"])
def test_what_is_not_needed_any_more_goes_back(
    runtime: Path, tiny: dict[str, Any], way: str
) -> None:
    """Soundly low it is relaxed; no longer read at all, it is not renewed."""
    write_task(runtime, AT_ONCE | {"low_s": 0.0})
    ttl_s = 60.0 if way == "relaxed" else 4.0
    with running(runtime, **tiny | {"control.time_to_live_s": ttl_s}) as daemon:
        with closing(Level(daemon)) as level:
            level.value = ACT
            expect(daemon, ["limit_admission"])
            time.sleep(ttl_s if way == "expired" else 0)
            assert in_force(daemon) == ["limit_admission"]  # renewed as long as it was needed
            if way == "relaxed":
                level.value = 0.0
                expect(daemon, [])
        expect(daemon, [])
        with daemon.client() as client:
            (entry,) = client.ask("actions", what="history")["actions"]
        over = {"relaxed": "every metric has been low", "expired": "its time to live is over"}
        assert entry["reason"].startswith(over[way])
        assert limit(daemon) == 8


async def test_a_night_is_ended_and_held_back_until_it_may_go_on(
    runtime: Path, tiny: dict[str, Any]
) -> None:
    write_task(runtime, action="pause_training")
    with running(runtime, **tiny) as daemon, closing(Level(daemon)) as level:
        daemon.logged("scaffold.ready")
        async with daemon.async_client() as client:
            for number in range(2, 18):  # enough for a night that lasts until it is called
                await client.ask("generate", prompt=f"I have {number} dogs. Who are you?")
            async with client.call("gestate") as night:
                level.value = ACT
                woken = await night.result()
            assert woken["woke"] == "called"
            await anyio.to_thread.run_sync(expect, daemon, ["pause_training"])
            with pytest.raises(CommandError, match="nights are held back"):
                await client.ask("gestate")
            level.value = HOLD
            await client.ask("actions", what="pause")
            await client.ask("actions", what="revert")
            assert (await client.ask("gestate"))["woke"] == "rested"


async def test_without_a_health_monitor_nothing_is_renewed(
    runtime: Path, tiny: dict[str, Any]
) -> None:
    write_task(runtime)
    reading = MetricReading(
        value=1.0, unit="", low=0.0, high=1.0, per_min=0.0, age_s=0.0, fresh_s=3.0
    )
    short = {"control.time_to_live_s": 3.0, "agents.disabled": ["health"]}
    with running(runtime, **tiny | short) as daemon:
        publisher = Publisher(Endpoints.local(daemon.runtime_dir).publish, "test")
        for age_s in (10.0, 0.0):  # an old one is not believed
            for _ in range(10):
                sample = MetricsSample(
                    time_s=time.monotonic() - age_s,
                    interval_s=0.1,
                    tasks={"memory": {"test.level": reading}},
                )
                await publisher.publish("metrics.sample", sample)
                await anyio.sleep(0.1)
            if age_s:
                assert await anyio.to_thread.run_sync(in_force, daemon) == []
        await anyio.to_thread.run_sync(expect, daemon, ["limit_admission"])
        await anyio.to_thread.run_sync(expect, daemon, [])
        publisher.close()


def test_what_a_crash_left_half_done_is_undone(runtime: Path, tiny: dict[str, Any]) -> None:
    """The controller dies between intent and commit; the hub, which holds the setting, lives."""
    write_task(runtime, **CALM)
    with running(runtime, **tiny) as daemon:
        journal = Journal(runtime / "state" / "actions.db")
        number = journal.intend(half_done())
        journal.close()
        with daemon.client() as client:
            client.control("config_set", key="generation.max_concurrent", value="2", save=False)
        assert limit(daemon) == 2
        daemon.worker("host").kill()  # its agents come back, and journal and reality are compared
        entry: dict[str, Any] = {}
        for _ in until():
            with daemon.client() as client, suppress(CommandError):  # it may be starting anew, too
                (entry,) = client.ask("actions", what="history")["actions"]
            if entry and entry["state"] == "reverted":
                break
        assert (entry["id"], entry["state"]) == (number, "reverted")
        assert entry["reason"] == "it was not committed"
        assert limit(daemon) == 8


def half_done() -> JournalEntry:
    return JournalEntry(
        task="memory",
        action="limit_admission",
        target="2",
        before="8",
        why="a test",
        intended_s=time.time(),
        deadline_s=time.time() + 5,
        predicted=6,
        unit="conversations",
        measured_before=8,
    )


def test_the_grey_zone_is_put_to_the_judge(runtime: Path, tiny: dict[str, Any]) -> None:
    """A model of random weights says neither true nor false, so nothing is done."""
    write_task(runtime, **GREY)
    with running(runtime, **tiny) as daemon:
        assert "the judge says abstain" in logged(daemon, "true and false have only")
        assert in_force(daemon) == []


def logged(daemon: Daemon, text: str) -> str:
    for _ in until():
        for event in daemon.events():
            if event["event"] == "control.decided" and text in str(event["says"]):
                return str(event["says"])
    raise AssertionError(f"{text!r} was never logged\n{daemon.output()}")


def test_shadow_mode_says_what_it_would_do_and_does_nothing(
    runtime: Path, tiny: dict[str, Any]
) -> None:
    write_task(runtime, **HARD)
    with running(runtime, **tiny | {"control.shadow": True}) as daemon:
        for _ in until():
            acted = [each for each in daemon.events() if each["event"] == "control.acted"]
            if acted:
                break
        assert acted[0]["shadow"] is True
        assert acted[0]["action"] == "limit_admission"
        assert limit(daemon) == 8
        assert in_force(daemon) == []
        assert daemon.sovl("actions", "list").stdout.startswith("shadow\nnothing is degraded\n")
        assert daemon.sovl("actions", "revert").stdout == "nothing was in force\n"
        refused = daemon.sovl("actions", "revert", "7")
        assert "id: 7 is not in force; in force: none" in refused.stderr
        # Allowed to act, it does not believe that it has.
        daemon.sovl("config", "control.shadow", "false", "--no-save")
        expect(daemon, ["limit_admission"])
        assert limit(daemon) == 2
        # And in shadow mode nothing stays degraded.
        daemon.sovl("config", "control.shadow", "true", "--no-save")
        expect(daemon, [])
        assert limit(daemon) == 8


def test_the_hub_killed_nothing_stays_degraded(runtime: Path, tiny: dict[str, Any]) -> None:
    write_task(runtime, **HARD)
    with running(runtime, **tiny) as daemon:
        expect(daemon, ["limit_admission"])
        daemon.sovl("actions", "pause", "--off")
        assert "paused" not in daemon.sovl("actions", "list").stdout
        daemon.sovl("actions", "pause")
        shown = json.loads(daemon.sovl("actions", "list", "--json").stdout)
        assert (shown["paused"], shown["unavailable"]["limit_admission"]) == (
            True,
            "paused by the user",
        )
        told = daemon.sovl("actions", "history").stdout
        assert "limit_admission" in told
        assert "8 → 2" in told
        daemon.kill()
    write_task(runtime, **CALM)
    with running(runtime, **tiny) as daemon:
        expect(daemon, [])
        with daemon.client() as client:
            (entry,) = client.ask("actions", what="history")["actions"]
        assert (entry["state"], entry["reason"]) == ("reverted", "it was no longer in force")
        assert limit(daemon) == 8


@pytest.mark.parametrize(
    ("settings", "given", "says"),
    [
        ({"control.judge": False}, GREY, "there is no judge: control.judge is off"),
        ({"control.enabled": False}, HARD, None),
    ],
)
def test_what_is_switched_off_does_nothing(
    runtime: Path,
    tiny: dict[str, Any],
    settings: dict[str, Any],
    given: dict[str, Any],
    says: str | None,
) -> None:
    own = {"control.tasks_dir": str(runtime / "state" / "tasks")}
    write_task(runtime, **given)
    with running(runtime, **tiny | settings | own) as daemon:
        if says:
            logged(daemon, says)
        else:
            time.sleep(3)  # as many samples
            assert [e for e in daemon.events() if e["event"].startswith("control.")] == []
        assert in_force(daemon) == []
