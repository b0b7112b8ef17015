"""Every decision with its reason, kept for a while, and how well the loop has done over time."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from sovl_daemon.control.decision import Decision
from sovl_daemon.control.journal import ADVICE
from sovl_daemon.database import close_database, open_database, try_to_write

_SCHEMA = (
    """
    CREATE TABLE decisions (
        id         INTEGER PRIMARY KEY,
        time_s     REAL NOT NULL,
        task       TEXT NOT NULL,
        does       TEXT NOT NULL,
        action     TEXT NOT NULL,
        why        TEXT NOT NULL,
        answer     TEXT,
        confidence REAL,
        metrics    TEXT NOT NULL
    ) STRICT;
    CREATE INDEX decisions_by_time ON decisions (time_s)
    """,
    """
    ALTER TABLE decisions ADD COLUMN recommended TEXT NOT NULL DEFAULT '';
    ALTER TABLE decisions ADD COLUMN sure REAL
    """,
)
_COLUMNS = "id, time_s, task, does, action, why, answer, confidence, recommended, sure, metrics"


@dataclass(frozen=True, slots=True)
class Logged:
    """A decision as it was kept. `time_s` is seconds since the epoch.

    `answer` is the judge's, `recommended` the action it would take, `sure` how surely that is
    enough.
    """

    id: int
    time_s: float
    task: str
    does: str
    action: str
    why: str
    answer: str | None
    confidence: float | None
    recommended: str
    sure: float | None
    metrics: dict[str, str]


@dataclass(frozen=True, slots=True)
class DailyTally:
    """What was decided on a task on one day (UTC), and what the judge said.

    `acts` and `relaxations` are how often it was to act and to take back, `questions` how often the
    judge was asked, and `true`, `false` and `abstentions` what it said.
    """

    day: str
    task: str
    acts: int
    relaxations: int
    questions: int
    true: int
    false: int
    abstentions: int


class DecisionLog:
    """The last decisions; use it from one thread at a time."""

    def __init__(
        self, path: Path | str, *, keep: int = 20_000, wall: Callable[[], float] = time.time
    ) -> None:
        """Open or create; `keep` is how many decisions stay. Raises UnusableDatabase."""
        self._db = open_database(path, _SCHEMA, ADVICE)
        # A lost second of reasons is no loss; the journal of actions is another file.
        self._db.execute("PRAGMA synchronous=NORMAL")
        self._keep = keep
        self._wall = wall

    def try_to_write(self) -> None:
        """Write what changes nothing. Raises sqlite3.Error where one may not write."""
        try_to_write(self._db)

    def close(self) -> None:
        """Close the file."""
        close_database(self._db)

    def add(self, decision: Decision) -> int:
        """Keep a decision, and forget the oldest beyond what is kept; return its id."""
        said = decision.verdict
        cursor = self._db.execute(
            "INSERT INTO decisions (time_s, task, does, action, why, answer, confidence,"
            " recommended, sure, metrics) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                self._wall(),
                decision.task,
                decision.does,
                decision.action,
                decision.why,
                said.answer if said else None,
                said.confidence if said else None,
                said.recommended if said else "",
                said.sure if said and said.recommended else None,
                orjson.dumps(decision.metrics).decode(),
            ),
        )
        id_ = int(cursor.lastrowid or 0)
        self._db.execute("DELETE FROM decisions WHERE id <= ?", (id_ - self._keep,))
        return id_

    def recent(self, limit: int = 50, task: str | None = None) -> list[Logged]:
        """The last decisions (of one task), newest first."""
        rows = self._db.execute(
            f"SELECT {_COLUMNS}"  # noqa: S608 - a constant
            " FROM decisions WHERE :task IS NULL OR task = :task ORDER BY id DESC LIMIT :limit",
            {"task": task, "limit": limit},
        )
        return [_logged(row) for row in rows]

    def at(self, id_: int) -> Logged | None:
        """The decision of this number, if it is still kept."""
        query = f"SELECT {_COLUMNS} FROM decisions WHERE id = ?"  # noqa: S608
        row = self._db.execute(query, (id_,)).fetchone()
        return _logged(row) if row else None

    def until(self, time_s: float, task: str | None = None) -> list[Logged]:
        """For each task (or one) the last decision up to a moment: what held then, and why."""
        rows = self._db.execute(
            f"SELECT {_COLUMNS} FROM decisions WHERE id IN"  # noqa: S608
            " (SELECT max(id) FROM decisions WHERE time_s <= :time_s"
            " AND (:task IS NULL OR task = :task) GROUP BY task) ORDER BY id DESC",
            {"time_s": time_s, "task": task},
        )
        return [_logged(row) for row in rows]

    def around(self, decision: Logged, *, after: bool, limit: int = 3) -> list[Logged]:
        """The next or the last decisions of the same task, the nearest first."""
        way, order = (">", "ASC") if after else ("<", "DESC")
        rows = self._db.execute(
            f"SELECT {_COLUMNS} FROM decisions WHERE task = ? AND id {way} ?"  # noqa: S608
            f" ORDER BY id {order} LIMIT ?",
            (decision.task, decision.id, limit),
        )
        return [_logged(row) for row in rows]

    def tallies(self, since_s: float) -> list[DailyTally]:
        """What was decided on each task on each day from a moment on, the oldest day first."""
        rows = self._db.execute(
            "SELECT date(time_s, 'unixepoch') AS day, task, sum(does = 'act'),"
            " sum(does = 'relax'), sum(does = 'ask'), total(answer = 'true'),"
            " total(answer = 'false'), total(answer = 'abstain')"
            " FROM decisions WHERE time_s >= ? GROUP BY day, task ORDER BY day, task",
            (since_s,),
        )
        return [DailyTally(str(day), str(task), *map(int, counts)) for day, task, *counts in rows]


def _logged(row: Sequence[Any]) -> Logged:
    *fields, metrics = row
    values: list[Any] = [*fields, orjson.loads(metrics)]
    return Logged(*values)
