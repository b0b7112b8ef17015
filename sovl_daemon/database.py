"""SQLite files of the health loop: opened the same way, migrated by number."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from sovl_daemon.conditions import database_refused


class JournalError(Exception):
    """A database cannot be used; the message says why and what to do."""


def open_database(path: Path | str, schema: Sequence[str]) -> sqlite3.Connection:
    """Open or create, in write-ahead mode; what was committed survives a power cut.

    `schema` has one script for each version. Use the connection from one thread at a time.

    Raises:
        JournalError: the file is damaged, of a newer version, or refused for now (its cause).

    """
    try:
        database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        database.execute("PRAGMA busy_timeout=5000")
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("PRAGMA synchronous=FULL")
        _migrate(path, database, schema)
    except sqlite3.Error as error:
        said, cause = database_refused(path, error, "move the file away to begin a new one")
        raise JournalError(said) from cause
    return database


def close_database(database: sqlite3.Connection) -> None:
    """Fold the write-ahead log in and close, also where the file was moved or replaced meanwhile.

    SQLite's own close leaves the log there, and would fold it into the file that is there now.
    """
    with suppress(sqlite3.Error):  # a full disk: the log stays
        database.execute("PRAGMA busy_timeout=0")  # nor is anybody waited for who reads
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    database.close()


def _migrate(path: Path | str, database: sqlite3.Connection, schema: Sequence[str]) -> None:
    version = database.execute("PRAGMA user_version").fetchone()[0]
    if version > len(schema):
        raise JournalError(f"{path}: written by a newer SOVL (schema {version}); update SOVL")
    for number, script in enumerate(schema[version:], start=version + 1):
        database.executescript(f"BEGIN IMMEDIATE; {script}; PRAGMA user_version={number}; COMMIT;")


def try_to_write(database: sqlite3.Connection) -> None:
    """Write the version again, which changes nothing. Raises sqlite3.Error where one may not."""
    version = database.execute("PRAGMA user_version").fetchone()[0]
    database.execute(f"PRAGMA user_version={version}")
