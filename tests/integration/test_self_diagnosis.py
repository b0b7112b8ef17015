"""Self-diagnosis in a running daemon: what fails holds heavy work, and everybody is told why."""

import json
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from sovl_daemon.testing import PATIENCE_S, Daemon, running, until
from sovl_daemon.testing.level import ACT, HOLD, Level, write_task
from tests import tiny_models


@pytest.fixture
def daemon(runtime: Path, tmp_path: Path) -> Iterator[Daemon]:
    write_task(runtime, name="test")
    settings = tiny_models.settings(tmp_path) | {"control.heavy_work_mb": 0}
    with running(runtime, **settings) as made:
        yield made


def events(daemon: Daemon, name: str) -> list[dict[str, Any]]:
    return [each for each in daemon.events() if each["event"] == name]


def expect_health(daemon: Daemon, health: str) -> dict[str, Any]:
    for _ in until():
        with daemon.client() as client:
            found = client.ask("diagnose")
        if found["health"] == health:
            return found
    raise AssertionError(f"never {health}: {found}")


def expect_said(daemon: Daemon, health: str) -> None:
    """Wait for the diagnosis that is made by itself, every five seconds."""
    for _ in until():
        said = [each["health"] for each in events(daemon, "health.diagnosed")]
        if said[-1:] == [health]:
            return
    raise AssertionError(f"never said {health}: {said}")


def test_what_fails_holds_heavy_work_until_it_passes(daemon: Daemon) -> None:
    daemon.logged("scaffold.ready")
    steps: list[dict[str, Any]] = []
    with closing(Level(daemon)) as level:
        level.value = ACT
        found = expect_health(daemon, "unfit")
        assert found["objections"] == ["Level is 1 (low, steady)"]
        assert not found["allows_heavy_work"]

        training = threading.Thread(target=lambda: steps.extend(train(daemon)))
        training.start()
        for _ in until():
            if events(daemon, "work.held"):
                break
        (held,) = events(daemon, "work.held")
        assert (held["work"], held["reason"]) == ("training", "Level is 1 (low, steady)")
        assert training.is_alive()
        # Whoever must, may.
        assert any("Epoch" in step.get("text", "") for step in train(daemon, force=True))

        checked = daemon.sovl("doctor", "--json")
        assert checked.returncode == 1
        found = json.loads(checked.stdout)["checks"]
        (wrong,) = [each for each in found if each["state"] == "wrong"]
        assert (wrong["name"], wrong["says"]) == ("self-diagnosis", "Level is 1 (low, steady)")

        expect_said(daemon, "unfit")
        level.value = HOLD
        expect_health(daemon, "fit")
        training.join(PATIENCE_S)
    assert not training.is_alive()
    assert steps[0]["text"].startswith("Held back: Level is 1 (low, steady). To begin all the same")
    assert any("Epoch" in step.get("text", "") for step in steps)
    (released,) = events(daemon, "work.released")
    assert released["work"] == "training"
    expect_said(daemon, "fit")
    assert daemon.sovl("doctor").returncode == 0


def train(daemon: Daemon, **args: Any) -> list[dict[str, Any]]:
    pairs = daemon.root / "pairs.jsonl"
    rows = [{"prompt": f"Say {n}", "response": str(n)} for n in range(8)]
    pairs.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with daemon.client() as client:
        return list(client.stream("train", file=str(pairs), epochs=1, **args))


def test_nights_and_dreams_are_held_too(daemon: Daemon) -> None:
    with closing(Level(daemon)) as level, daemon.client() as client:
        client.ask("generate", prompt="Hello there!")
        level.value = ACT
        expect_health(daemon, "unfit")
        for command in ("gestate", "dream", "fp16"):
            # The bits are all there, but who asks for more has to wait like everybody else.
            (first, *_) = ask_and_leave(daemon, command)
            assert first["text"].startswith("Held back: Level is 1")
        assert client.ask("gestate", force=True)["woke"] == "rested"
    works = {each["work"] for each in events(daemon, "work.held")}
    assert {"a night", "a dream", "more bits"} <= works


def ask_and_leave(daemon: Daemon, command: str) -> list[dict[str, Any]]:
    with daemon.client() as client:
        for step in client.stream(command):
            return [step]
    return []


def test_too_little_memory_is_an_objection(runtime: Path, tmp_path: Path) -> None:
    write_task(runtime, name="test")
    settings = tiny_models.settings(tmp_path) | {"control.heavy_work_mb": 1_000_000}
    with running(runtime, **settings) as daemon, daemon.client() as client:
        found = client.ask("diagnose")
        assert not found["allows_heavy_work"]
        assert "and heavy work needs" in found["objections"][0]
        assert client.ask("diagnose", needs_mb=1)["allows_heavy_work"]
