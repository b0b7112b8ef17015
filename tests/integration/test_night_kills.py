"""`kill -9` at random moments of nights; ./scripts/bench night_kills does it thirty times."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from sovl_daemon.testing import running
from tests.torture.night_kills import judged, settings_for, torture


@pytest.fixture
def models(tmp_path: Path) -> Path:
    return tmp_path


@pytest.mark.long  # nights one after another; those below and in test_lives are killed once
def test_nothing_is_lost_or_learned_twice(runtime: Path, models: Path) -> None:
    report = torture(runtime, models, kills=2, seed=3)
    assert report.half == set()
    unmet = [goal.as_dict() for goal in judged(report, kills=2).goals if not goal.met]
    assert unmet == []


def test_killed_right_after_the_commit(runtime: Path, models: Path) -> None:
    """The generation is there, but notes and mind are those from before the night."""
    settings = settings_for(models)
    state = runtime / "state"
    with running(runtime, **settings) as daemon, daemon.client() as client:
        client.ask("generate", prompt="The capital of Zorland is Mivek.")
        before = (state / "mind.json").read_text()
        client.ask("gestate")
        after = client.ask("mind")
    with closing(sqlite3.connect(state / "sovl.db")) as notes, notes:
        notes.execute("DELETE FROM learned")
    (state / "mind.json").write_text(before)
    assert json.loads(before)["nights"] == 0
    with running(runtime, **settings) as daemon, daemon.client() as client:
        assert client.ask("gestate")["learned"] == 0
        found = client.ask("mind")
    assert found["nights"] == after["nights"] == 1
    assert found["influence"] == after["influence"] > 0
