"""An agent whose open file was removed or replaced says so, and has the new one after a restart."""

import os
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from agents.scribe import Scribe
from bus.errors import TransientError
from config import Paths, Settings
from config.edit import with_value
from sovl_daemon.control.decision_log import DecisionLog
from sovl_daemon.control.journal import Journal
from sovl_daemon.memory.interactions import Interaction, InteractionStore
from sovl_daemon.opened import Mapped, opened_database

SAID = Interaction("1", "c", "Hello?", "Hello.", tokens=2, confidence=0.5)


async def scribe(root: Path) -> Scribe:
    settings = with_value(Settings(), "store.state_dir", str(root))
    found = Scribe(settings, Paths.of(settings, {}), "hub")
    await found.start()
    return found


@pytest.mark.parametrize("name", ["sovl.db", "sovl.db-wal", "sovl.db-shm"])
async def test_a_database_that_is_removed_ends_its_agent(tmp_path: Path, name: str) -> None:
    agent = await scribe(tmp_path)
    agent.check_files()
    (tmp_path / name).unlink()
    with pytest.raises(TransientError, match=f"{name} was removed"):
        agent.check_files()
    await agent.stop()


async def test_a_backup_that_is_put_back_is_what_counts(tmp_path: Path) -> None:
    backup = tmp_path / "backup"
    store = InteractionStore(backup)
    store.add(SAID)
    store.close()
    agent = await scribe(tmp_path)
    backup.replace(tmp_path / "sovl.db")
    with pytest.raises(TransientError, match=r"sovl\.db was replaced"):
        agent.check_files()
    await agent.stop()
    again = await scribe(tmp_path)
    again.check_files()
    assert again._store is not None
    assert again._store.count() == 1
    await again.stop()


def test_what_was_written_to_a_removed_write_ahead_log_is_not_lost(tmp_path: Path) -> None:
    path = tmp_path / "sovl.db"
    store = InteractionStore(path)
    files = opened_database(path)
    (tmp_path / "sovl.db-wal").unlink()
    store.add(SAID)
    assert [file.fault() for file in files] == ["", "removed", ""]
    store.close()
    with sqlite3.connect(path) as database:
        assert database.execute("SELECT count(*) FROM interactions").fetchone() == (1,)


def test_a_mapped_file_counts_until_it_is_written_to(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"weights")
    mapped = Mapped(path)
    path.rename(tmp_path / "old")
    path.write_bytes(b"others!")
    assert mapped.fault() == ""
    old = tmp_path / "old"
    old.write_bytes(b"weight")
    assert mapped.fault() == ""  # it is being written
    os.utime(old, (1.0, 1.0))
    assert mapped.fault() == "changed"


@pytest.mark.parametrize("kind", [Journal, DecisionLog])
def test_a_log_is_not_folded_into_another_file(tmp_path: Path, kind: Any) -> None:
    """Whoever restores a backup has that, and not what the old write-ahead log makes of it."""
    path, backup = tmp_path / "it.db", tmp_path / "backup.db"
    with sqlite3.connect(backup) as other:
        other.execute("CREATE TABLE restored (id)")
    other.close()
    ours = kind(path)
    backup.replace(path)
    ours.close()
    with sqlite3.connect(path) as found:
        assert found.execute("SELECT name FROM sqlite_master").fetchall() == [("restored",)]
    found.close()
