"""SQLite files: opened, migrated by number and closed in one way."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

from sovl_daemon.conditions import database_refused


class UnusableDatabase(Exception):
    """A database cannot be used; the message says why and what to do."""


def open_database(path: Path | str, schema: Sequence[str], advice: str) -> sqlite3.Connection:
    """Open or create, in write-ahead mode; what was committed survives a power cut.

    Use the connection from one thread at a time.

    Args:
        path: The file, or `:memory:`.
        schema: One script for each version, the oldest first.
        advice: What to do with a file that is damaged.

    Raises:
        UnusableDatabase: the file is damaged, of a newer version, or refused for now (its cause).

    """
    with refusals(path, advice):
        database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        database.execute("PRAGMA busy_timeout=5000")
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("PRAGMA synchronous=FULL")
        version = _version(database)
        if version > len(schema):
            written = f"written by a newer SOVL (schema {version})"
            raise UnusableDatabase(f"{path}: {written}; update SOVL")
        for number, script in enumerate(schema[version:], start=version + 1):
            step = f"{script}; PRAGMA user_version={number}"
            database.executescript(f"BEGIN IMMEDIATE; {step}; COMMIT;")
    return database


def open_read_only(path: Path, schema: Sequence[str], advice: str) -> sqlite3.Connection:
    """Open one that is there only to read, also while a daemon writes to it.

    Raises:
        UnusableDatabase: there is none, or it is damaged, of another version, or refused for now.

    """
    with refusals(path, advice):
        database = sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True)
        version = _version(database)
    if version != len(schema):
        database.close()
        raise UnusableDatabase(
            f"{path}: has schema {version}, not {len(schema)}; start SOVL, or update it"
        )
    return database


@contextmanager
def refusals(path: Path | str, advice: str) -> Iterator[None]:
    """Raise what SQLite refuses as UnusableDatabase; `advice` is for a damaged file."""
    try:
        yield
    except sqlite3.Error as error:
        said, cause = database_refused(path, error, advice)
        raise UnusableDatabase(said) from cause


def close_database(database: sqlite3.Connection) -> None:
    """Fold the write-ahead log in and close, also where the file was moved or replaced meanwhile.

    SQLite's own close leaves the log there, and would fold it into the file that is there now.
    """
    with suppress(sqlite3.Error):  # a full disk, or one to read from: the log stays
        database.execute("PRAGMA busy_timeout=0")  # nor is anybody waited for who reads
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    database.close()


def try_to_write(database: sqlite3.Connection) -> None:
    """Write the version again, which changes nothing. Raises sqlite3.Error where one may not."""
    database.execute(f"PRAGMA user_version={_version(database)}")


def _version(database: sqlite3.Connection) -> int:
    return int(database.execute("PRAGMA user_version").fetchone()[0])
