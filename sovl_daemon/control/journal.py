"""The journal of actions: what is intended is on disk before anything is done."""

from __future__ import annotations

import sqlite3
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sovl_daemon.control.circuit_breaker import CircuitBreaker
from sovl_daemon.database import close_database, open_database, try_to_write

State = Literal[
    "intended", "applied", "verified", "committed", "reverting", "reverted", "abandoned"
]
ADVICE = "move the file away to begin a new one"
OPEN: tuple[State, ...] = ("intended", "applied", "verified", "reverting")
"""States in which an action is in flight: there is at most one."""

_SCHEMA = (
    """
    CREATE TABLE actions (
        id          INTEGER PRIMARY KEY,
        task        TEXT NOT NULL,
        action      TEXT NOT NULL,
        target      TEXT NOT NULL,
        before      TEXT NOT NULL,
        why         TEXT NOT NULL,
        intended_s  REAL NOT NULL,
        deadline_s  REAL NOT NULL,
        predicted   REAL NOT NULL,
        unit        TEXT NOT NULL,
        measured_before REAL NOT NULL,
        measured_after  REAL,
        state       TEXT NOT NULL,
        reason      TEXT NOT NULL DEFAULT '',
        expires_s   REAL
    ) STRICT;
    CREATE UNIQUE INDEX one_in_flight ON actions ((1))
        WHERE state IN ('intended', 'applied', 'verified', 'reverting');
    CREATE INDEX by_state ON actions (state);
    CREATE TABLE quarantine (
        action    TEXT PRIMARY KEY,
        failures  INTEGER NOT NULL,
        until_s   REAL NOT NULL,
        backoff_s REAL NOT NULL
    ) STRICT
    """,
)
_FIELDS = (
    "task, action, target, before, why, intended_s, deadline_s, predicted, unit, measured_before,"
    " measured_after, state, reason, expires_s, id"
)


class InFlight(Exception):
    """Another action is in flight; wait until it is committed or reverted."""


@dataclass(frozen=True, slots=True)
class JournalEntry:
    """One action in the journal. Times are seconds since the epoch.

    `before` is the setting that was in force, and what a revert sets; `deadline_s` when its effect
    had to show; `expires_s` when its setting is taken back unless renewed.
    """

    task: str
    action: str
    target: str
    before: str
    why: str
    intended_s: float
    deadline_s: float
    predicted: float
    unit: str
    measured_before: float
    measured_after: float | None = None
    state: State = "intended"
    reason: str = ""
    expires_s: float | None = None
    id: int = 0

    @property
    def lasts(self) -> bool:
        """Whether it left a setting that has to be taken back some day."""
        return self.target != ""

    def has_expired(self, now_s: float) -> bool:
        """Whether its time to live is over; also if the clock was set back before its start."""
        return self.expires_s is not None and not self.intended_s <= now_s < self.expires_s


@dataclass(frozen=True, slots=True)
class Record:
    """How an action did on one day (UTC).

    Of `begun` times it was `verified` so often: enough of what it had predicted was measured.
    `freed` is what was measured then, in all, in `unit`.
    """

    day: str
    action: str
    begun: int
    verified: int
    freed: float
    unit: str


class Journal:
    """One connection to the journal; use it from one thread at a time."""

    def __init__(self, path: Path | str) -> None:
        """Open or create. Raises UnusableDatabase."""
        self._db = open_database(path, _SCHEMA, ADVICE)

    def try_to_write(self) -> None:
        """Write what changes nothing. Raises sqlite3.Error where one may not write."""
        try_to_write(self._db)

    def close(self) -> None:
        """Fold the write-ahead log in and close."""
        close_database(self._db)

    def intend(self, entry: JournalEntry) -> int:
        """Write down an intent, durably, and return its id.

        Raises:
            InFlight: another action is in flight.

        """
        values = [getattr(entry, name) for name in _FIELDS.split(", ")[:-1]]
        marks = ", ".join("?" * len(values))
        try:
            cursor = self._db.execute(
                f"INSERT INTO actions ({_FIELDS.removesuffix(', id')}) VALUES ({marks})",  # noqa: S608 - names of columns
                values,
            )
        except sqlite3.IntegrityError:
            raise InFlight(f"{entry.action}: another action is in flight") from None
        return int(cursor.lastrowid or 0)

    def move(self, id_: int, state: State, reason: str = "") -> None:
        """Note the next state of an action, and why."""
        self._db.execute(
            "UPDATE actions SET state = ?, reason = ? WHERE id = ?", (state, reason, id_)
        )

    def verified(self, id_: int, measured_after: float) -> None:
        """Note that its effect was measured."""
        self._db.execute(
            "UPDATE actions SET state = 'verified', measured_after = ? WHERE id = ?",
            (measured_after, id_),
        )

    def commit(self, id_: int, expires_s: float | None) -> None:
        """Note that it stands, until `expires_s` unless renewed."""
        self._db.execute(
            "UPDATE actions SET state = 'committed', expires_s = ? WHERE id = ?", (expires_s, id_)
        )

    def renew(self, id_: int, expires_s: float) -> None:
        """Let a committed setting stay until `expires_s`."""
        self._db.execute(
            "UPDATE actions SET expires_s = ? WHERE id = ? AND state = 'committed'",
            (expires_s, id_),
        )

    def entry(self, id_: int) -> JournalEntry:
        """One entry. Raises KeyError for an unknown id."""
        row = self._db.execute(f"SELECT {_FIELDS} FROM actions WHERE id = ?", (id_,)).fetchone()  # noqa: S608
        if row is None:
            raise KeyError(id_)
        return JournalEntry(*row)

    def unfinished(self) -> list[JournalEntry]:
        """Actions in flight, and abandoned ones, newest first: undone in the reverse order."""
        return self._select(f"state IN {(*OPEN, 'abandoned')}")

    def in_force(self) -> list[JournalEntry]:
        """Committed settings that were not taken back, newest first."""
        return self._select("state = 'committed' AND target != ''")

    def recent(self, limit: int = 50) -> list[JournalEntry]:
        """The last entries, newest first."""
        return self._select("1")[:limit]

    def records(self, since_s: float) -> list[Record]:
        """How each action did on each day from a moment on, the oldest day first."""
        rows = self._db.execute(
            "SELECT date(intended_s, 'unixepoch') AS day, action, count(*), count(measured_after),"
            " total(measured_before - measured_after), unit FROM actions WHERE intended_s >= ?"
            " GROUP BY day, action, unit ORDER BY day, action",
            (since_s,),
        )
        return [Record(*row) for row in rows]

    def prune(self, before_s: float) -> int:
        """Delete finished entries from before a moment; return how many. What is in force stays."""
        cursor = self._db.execute(
            "DELETE FROM actions WHERE intended_s < ? AND"
            " (state = 'reverted' OR (state = 'committed' AND target = ''))",
            (before_s,),
        )
        return cursor.rowcount

    def breaker(self, action: str) -> CircuitBreaker:
        """The record of failures of an action."""
        row = self._db.execute(
            "SELECT failures, until_s, backoff_s FROM quarantine WHERE action = ?", (action,)
        ).fetchone()
        return CircuitBreaker(*row) if row else CircuitBreaker()

    def set_breaker(self, action: str, breaker: CircuitBreaker) -> None:
        """Keep the record of failures of an action."""
        self._db.execute(
            "INSERT INTO quarantine VALUES (?, ?, ?, ?) ON CONFLICT (action) DO UPDATE SET"
            " failures = excluded.failures, until_s = excluded.until_s,"
            " backoff_s = excluded.backoff_s",
            (action, breaker.failures, breaker.until_s, breaker.backoff_s),
        )

    def quarantined(self, now_s: float | None = None) -> dict[str, CircuitBreaker]:
        """Actions that are left alone now, by name."""
        moment_s = time.time() if now_s is None else now_s
        rows = self._db.execute("SELECT action, failures, until_s, backoff_s FROM quarantine")
        all_ = {str(name): CircuitBreaker(*rest) for name, *rest in rows}
        return {name: each for name, each in all_.items() if each.is_open(moment_s)}

    def _select(self, condition: str) -> list[JournalEntry]:
        rows = self._db.execute(
            f"SELECT {_FIELDS} FROM actions WHERE {condition} ORDER BY id DESC"  # noqa: S608 - conditions are ours
        )
        return [JournalEntry(*row) for row in rows]
