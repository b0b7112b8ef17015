"""`kill -9` at the steps of an action of a running daemon, and an action that lies.

./scripts/bench control_kills does it with every action, and the whole hub at every step.
"""

from contextlib import closing
from pathlib import Path

import pytest
from benches.control_kills import (
    ACT,
    HOLD,
    SABOTAGE,
    TASK,
    Level,
    Report,
    Torture,
    judged,
    settings_for,
)

from tests.daemon import Daemon, running, until


def test_the_controller_killed_at_every_step(runtime: Path, tmp_path: Path) -> None:
    report = Report()
    settings = settings_for(tmp_path, "limit_admission", process="keeper")
    Torture(runtime, settings, "limit_admission", report).controller()
    assert report.wrong == []
    assert report.kills["limit_admission do"] >= 6
    assert report.kills["limit_admission undo"] >= 4
    assert set(report.left) == {"degraded", "as configured"}
    assert judged(report).goals[0].met


def test_the_hub_killed_while_a_setting_is_in_force_and_not_committed(
    runtime: Path, tmp_path: Path
) -> None:
    report = Report()
    settings = settings_for(tmp_path, "limit_admission", process="hub")
    Torture(runtime, settings, "limit_admission", report).hub([3])
    assert (report.wrong, report.kills["limit_admission do"]) == ([], 1)


@pytest.fixture
def lying(runtime: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SABOTAGE", str(runtime))
    (runtime / "lie").touch()
    tasks = runtime / "state" / "tasks"
    tasks.mkdir(parents=True)
    text = TASK.format(action="shrink_context")
    (tasks / "memory.toml").write_text(text)
    # One task alone would let others come first for a while before it tries the same again.
    (tasks / "other.toml").write_text(text.replace('name = "memory"', 'name = "other"'))


@pytest.mark.usefixtures("lying")
def test_an_action_that_lies_is_found_out_and_left_alone(runtime: Path, tmp_path: Path) -> None:
    settings = settings_for(tmp_path, "shrink_context", process="hub")
    with running(runtime, packages=SABOTAGE, **settings) as daemon:
        Torture.fill(daemon)
        with closing(Level(daemon)) as level:
            level.value = ACT
            said = quarantined(daemon)
            level.value = HOLD
        acted = [each for each in daemon.events() if each["event"] == "control.acted"]
        told = daemon.sovl("actions", "history").stdout
        with daemon.client() as client:
            entries = client.ask("actions", what="history")["actions"]
            kept = client.control("config", key="generation.prefix_cache_mb")["value"]
    assert "shrink_context: in quarantine for" in said
    assert "after 2 failures" in said
    assert [entry["state"] for entry in entries] == ["reverted", "reverted"]
    assert all("freed" in entry["reason"] for entry in entries)
    assert [each["result"] for each in acted[:2]] == ["reverted", "reverted"]
    assert "shrink_context" in told
    assert kept == 64


def quarantined(daemon: Daemon) -> str:
    for _ in until(40, pause=0.5):
        if "quarantine" in (said := daemon.sovl("actions", "list").stdout):
            return said
    raise AssertionError(f"no quarantine\n{daemon.output()}")
