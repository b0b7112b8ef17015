"""Settings that change while a daemon runs: all at once or none, and answered when they hold."""

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import pytest

from bus.router import AgentSession
from bus.topics import ConfigChanged
from config import Settings
from sovl_daemon.client import AsyncClient, CommandError
from sovl_daemon.hub import Hub
from sovl_daemon.testing import PATIENCE_S, WITHOUT_MODEL, Daemon, running

FOLLOWER = '''
import anyio
from agents.base import Agent
from bus.commands import AgentStats

class FollowerStats(AgentStats):
    follows: int

class Follower(Agent):
    """Follows a long history only when it is let, and never one of 1000."""

    name = "follower"
    home = "host"
    follows = 0

    async def on_settings(self, before):
        wanted = self.settings.generation.history_messages
        while wanted == 500 and not (self.paths.state_dir / "let").exists():
            await anyio.sleep(0.01)
        if wanted == 1000:
            return "1000 are too many"
        self.follows = wanted

    def stats(self):
        return FollowerStats(follows=self.follows)
'''
LENGTH, INTERVAL = "generation.history_messages", "health.interval_s"


@pytest.fixture(scope="module")
def daemon(module_runtime: Path) -> Iterator[Daemon]:
    packages = module_runtime / "packages"
    (packages / "follower-1.dist-info").mkdir(parents=True)
    (packages / "follower.py").write_text(FOLLOWER)
    (packages / "follower-1.dist-info" / "METADATA").write_text("Name: follower\nVersion: 1\n")
    (packages / "follower-1.dist-info" / "entry_points.txt").write_text(
        "[sovl.agents]\nfollower = follower:Follower\n"
    )
    with running(module_runtime, packages=packages, **WITHOUT_MODEL) as daemon:
        yield daemon


def written(daemon: Daemon) -> dict[str, Any]:
    file = daemon.root / "sovl" / "config.json"
    return dict(json.loads(file.read_text())) if file.exists() else {}


async def follows(client: AsyncClient) -> int:
    return int((await client.control("stats"))["agents"]["follower"]["follows"])


async def test_several_keys_are_one_change(daemon: Daemon) -> None:
    async with daemon.async_client() as client, client.events("config.") as events:
        await events.welcome(PATIENCE_S)
        values = {LENGTH: "7", "interval_s": "3"}
        answer = await client.control("config_set", values=values)
        assert [(c["key"], c["value"], c["restart"]) for c in answer["changes"]] == [
            (LENGTH, 7, False),
            (INTERVAL, 3.0, False),
        ]
        assert await follows(client) == 7
        with anyio.fail_after(PATIENCE_S):
            async for event in events:
                assert isinstance(event.payload, ConfigChanged)
                if LENGTH in event.payload.changed:
                    break
        assert event.payload.changed == {LENGTH: 7, INTERVAL: 3.0}
    assert written(daemon) == {"generation": {"history_messages": 7}, "health": {"interval_s": 3.0}}


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ({"values": {LENGTH: "9", INTERVAL: "-1"}}, INTERVAL),
        ({"values": {LENGTH: "9", "history_messages": "8"}}, f"{LENGTH}: is given twice"),
        ({"values": {LENGTH: "9"}, "key": INTERVAL, "value": "9"}, "key and value, or values"),
        ({"key": INTERVAL}, "give key and value, or values"),
        ({"values": {}}, "values: "),
        ({}, "give key and value, or values"),
    ],
)
def test_what_is_refused_changes_nothing(
    daemon: Daemon, args: dict[str, object], says: str
) -> None:
    with daemon.client() as client:
        before, file = client.control("config"), written(daemon)
        with pytest.raises(CommandError, match=says) as refused:
            client.control("config_set", **args)
        assert refused.value.code == "bad_argument"
        assert (client.control("config"), written(daemon)) == (before, file)


async def test_it_is_answered_when_the_agents_follow(daemon: Daemon) -> None:
    """However long that takes; who gives up early, or asks something else, is not held up."""
    answers = []
    async with daemon.async_client() as client, anyio.create_task_group() as tasks:

        async def change() -> None:
            answers.append(
                await client.control(
                    "config_set", timeout_s=0.2, key=LENGTH, value="500", save=False
                )
            )

        with anyio.move_on_after(0.1):
            await change()
        tasks.start_soon(change)
        for _ in range(5):  # longer than the client's patience
            await anyio.sleep(0.1)
            assert (await client.control("ping"))["state"] == "ready"
        assert not answers
        assert await follows(client) != 500
        (daemon.root / "state" / "let").touch()
        with anyio.fail_after(PATIENCE_S):
            while not answers:
                await anyio.sleep(0.01)
        assert (answers[0]["late"], answers[0]["refused"]) == ([], {})
        assert await follows(client) == 500


def test_what_an_agent_refuses_is_told(daemon: Daemon) -> None:
    with daemon.client() as client:
        answer = client.control("config_set", key=LENGTH, value="1000", save=False)
        assert answer["refused"] == {"follower": "1000 are too many"}
    told = daemon.sovl("config", LENGTH, "1000", "--no-save")
    assert "follower cannot follow: 1000 are too many" in told.stdout
    with daemon.client() as client:
        assert client.control("config_set", key=LENGTH, value="5", save=False)["refused"] == {}


async def test_who_has_not_followed_in_time_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sovl_daemon.hub.FOLLOW_S", 0.05)
    hub = Hub(Settings(), tmp_path / "config.json")
    hub._revision = 2
    here: Any = "where it is"
    sessions = [
        AgentSession("slow", here, revision=1, refused="as before"),
        AgentSession("quick", here, revision=2, refused="not this"),
        AgentSession("gone", revision=1),
    ]
    hub.router = SimpleNamespace(sessions={session.name: session for session in sessions})  # type: ignore[assignment]
    assert await hub.followers() == (["slow"], {"quick": "not this"})
