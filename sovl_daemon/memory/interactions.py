"""The interactions that SOVL lived through, in SQLite."""

from __future__ import annotations

import json
import sqlite3
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import orjson
from typing_extensions import TypedDict  # pydantic asks for it below Python 3.12

from sovl_daemon.database import (
    UnusableDatabase,
    close_database,
    open_database,
    open_read_only,
    refusals,
    try_to_write,
)

_SCHEMA = (
    """
    CREATE TABLE interactions (
        id           INTEGER PRIMARY KEY,
        command      TEXT NOT NULL UNIQUE,
        time         REAL NOT NULL,
        conversation TEXT NOT NULL,
        prompt       TEXT NOT NULL,
        response     TEXT NOT NULL,
        tokens       INTEGER NOT NULL,
        confidence   REAL
    ) STRICT;
    CREATE INDEX by_conversation ON interactions (conversation, id);
    """,
    """
    CREATE TABLE learned (
        interaction INTEGER PRIMARY KEY,
        generation  INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE identity (value TEXT NOT NULL) STRICT;
    INSERT INTO identity SELECT lower(hex(randomblob(16)));
    """,
    "CREATE INDEX by_prompt ON interactions (prompt);",
    "ALTER TABLE interactions ADD COLUMN question TEXT;",
)
_MIN_BYTES = 1000  # for all of an interaction but its texts
_BYTES_A_CHARACTER = 6  # in JSON, at most
_ALL = sys.maxsize
_FIELDS = "command, conversation, prompt, response, tokens, confidence, time, id, question"
_ADVICE = "restore it from a backup or move it away"


@dataclass(frozen=True)
class Interaction:
    """One exchange. `command` is the id of the command it answered, `time` seconds since the epoch.

    `confidence` is the mean probability of the chosen tokens, 0 to 1; None when unknown.
    `question` is what the mind had asked by itself and the prompt answers; None if it had not.
    """

    command: str
    conversation: str
    prompt: str
    response: str
    tokens: int
    confidence: float | None
    time: float = 0.0
    id: int = 0
    question: str | None = None

    @property
    def nbytes(self) -> int:
        """How much it takes as JSON in a list."""
        return len(orjson.dumps(vars(self))) + 1

    def shortened(self, max_bytes: int) -> Interaction:
        """Return it with only the beginnings of its texts, so that it takes no more."""
        most = max(0, max_bytes - _MIN_BYTES) // (3 * _BYTES_A_CHARACTER)
        asked = self.question and self.question[:most]
        return replace(
            self, prompt=self.prompt[:most], response=self.response[:most], question=asked
        )


class DatabaseSize(TypedDict):
    """How many rows a database has, and how large its file is."""

    interactions: int
    bytes: int


class InteractionStore:
    """One connection to the database; use it from one thread at a time.

    Where several interactions are read, `max_bytes` bounds what they take as JSON together: what
    comes after is not read, and a single one that takes more is shortened.

    Write-ahead log with full synchronisation: what `add` returned for survives a power cut.
    """

    def __init__(self, path: Path | str) -> None:
        """Open or create. Raises UnusableDatabase."""
        self.path = path
        self._db = open_database(path, _SCHEMA, _ADVICE)

    @classmethod
    def reading(cls, path: Path) -> InteractionStore:
        """Open a store that is there only to read. Raises UnusableDatabase."""
        try:
            path.stat()
        except FileNotFoundError:
            problem = "no such file, nothing has been lived through yet"
            raise UnusableDatabase(f"{path}: {problem}") from None
        except OSError as error:
            raise UnusableDatabase(f"{path}: cannot be read: {error.strerror}") from error
        store = cls.__new__(cls)
        store.path = path
        store._db = open_read_only(path, _SCHEMA, _ADVICE)
        return store

    def close(self) -> None:
        """Fold the write-ahead log in and close."""
        close_database(self._db)

    def try_to_write(self) -> None:
        """Write what changes nothing. Raises sqlite3.Error where one may not write."""
        try_to_write(self._db)

    def add(self, interaction: Interaction) -> int:
        """Store durably and return the interaction's id. Adding a command twice changes nothing."""
        fields = asdict(interaction) | {"time": interaction.time or time.time()}
        self._db.execute(
            "INSERT INTO interactions"
            " (command, time, conversation, prompt, response, tokens, confidence, question) VALUES"
            " (:command, :time, :conversation, :prompt, :response, :tokens, :confidence, :question)"
            " ON CONFLICT (command) DO NOTHING",
            fields,
        )
        row = self._db.execute(
            "SELECT id FROM interactions WHERE command = ?", (interaction.command,)
        ).fetchone()
        return int(row[0])

    def some(self, ids: Sequence[int], *, max_bytes: int = _ALL) -> list[Interaction]:
        """The interactions of these ids, oldest first; ids that none has are left out."""
        rows = self._db.execute(
            f"SELECT {_FIELDS} FROM interactions WHERE id IN"  # noqa: S608 - as below
            " (SELECT value FROM json_each(?)) ORDER BY id",
            (json.dumps(list(ids)),),
        )
        return _within(rows, max_bytes)

    def has_prompt(self, prompt: str) -> bool:
        """Tell whether this was ever said before, to the letter."""
        found = self._db.execute("SELECT 1 FROM interactions WHERE prompt = ? LIMIT 1", (prompt,))
        return found.fetchone() is not None

    def recent(
        self,
        limit: int,
        conversation: str | None = None,
        *,
        before: int = _ALL,
        max_bytes: int = _ALL,
    ) -> list[Interaction]:
        """The last `limit` interactions (of one conversation) before an id, oldest first."""
        # Two queries: with "IS NULL OR" one of an unknown conversation would read all there are.
        of_one = "conversation = :conversation AND" if conversation is not None else ""
        rows = self._db.execute(
            f"SELECT {_FIELDS} FROM interactions WHERE {of_one} id < :before"  # noqa: S608 - no text
            " ORDER BY id DESC LIMIT :limit",  # from outside
            {"conversation": conversation, "before": before, "limit": limit},
        )
        return _within(rows, max_bytes)[::-1]

    def since(self, moment: float = 0.0) -> Iterator[Interaction]:
        """What was lived from a moment on (seconds since the epoch), oldest first, one by one.

        Raises UnusableDatabase when the file turns out to be damaged.
        """
        query = f"SELECT {_FIELDS} FROM interactions WHERE time >= ? ORDER BY id"  # noqa: S608
        with (
            refusals(self.path, _ADVICE),
            closing(self._db.execute(query, (moment,))) as rows,
        ):
            yield from (Interaction(*row) for row in rows)

    def count(self) -> int:
        """How many interactions there are."""
        return int(self._db.execute("SELECT count(*) FROM interactions").fetchone()[0])

    @property
    def identity(self) -> str:
        """A random name, given when the database was made: ids mean something only together."""
        return str(self._db.execute("SELECT value FROM identity").fetchone()[0])

    def unlearned(self, limit: int, *, after: int = 0, max_bytes: int = _ALL) -> list[Interaction]:
        """The first `limit` interactions after an id that no generation has learned."""
        rows = self._db.execute(
            f"SELECT {_FIELDS} FROM interactions WHERE id > ?"  # noqa: S608 - as above
            " AND id NOT IN (SELECT interaction FROM learned) ORDER BY id LIMIT ?",
            (after, limit),
        )
        return _within(rows, max_bytes)

    def learned(self, limit: int) -> list[int]:
        """The last `limit` interactions that some generation has learned, newest first."""
        rows = self._db.execute(
            "SELECT interaction FROM learned ORDER BY interaction DESC LIMIT ?", (limit,)
        )
        return [id_ for (id_,) in rows]

    def unlearned_count(self) -> int:
        """How many interactions no generation has learned."""
        # Only what was lived through is noted, so the table itself need not be read.
        row = self._db.execute(
            "SELECT (SELECT count(*) FROM interactions) - (SELECT count(*) FROM learned)"
        ).fetchone()
        return int(row[0])

    def reconcile(self, learned: Mapping[int, int], first: int = -_ALL, last: int = _ALL) -> int:
        """Make the notes agree with the committed generations; return how many were wrong.

        `learned` maps interactions to the generations that learned them, all there are from id
        `first` to `last`. It is what counts: the notes may lack a commit that a crash followed, or
        know one that was undone. Ids that no interaction has are left out: they may be given to
        another one later.
        """
        self._db.execute("BEGIN IMMEDIATE")
        with self._db:  # commits, or rolls back on an error
            known = self._learned(first, last)
            wrong = [(id_,) for id_, generation in known.items() if learned.get(id_) != generation]
            self._db.executemany("DELETE FROM learned WHERE interaction = ?", wrong)
            self._db.executemany(
                "INSERT INTO learned SELECT id, :generation FROM interactions WHERE id = :id"
                " ON CONFLICT (interaction) DO NOTHING",
                ({"id": id_, "generation": each} for id_, each in learned.items() - known.items()),
            )
            return len({id_ for id_, _ in known.items() ^ self._learned(first, last).items()})

    def _learned(self, first: int, last: int) -> dict[int, int]:
        return dict(
            self._db.execute(
                "SELECT interaction, generation FROM learned WHERE interaction BETWEEN ? AND ?",
                (first, last),
            ).fetchall()
        )

    def size(self) -> DatabaseSize:
        """Return how large the database is."""
        pages, page_size = (
            self._db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "page_size")
        )
        return {"interactions": self.count(), "bytes": pages * page_size}


def _within(rows: sqlite3.Cursor, max_bytes: int) -> list[Interaction]:
    """What fits, row by row: the others are never in memory."""
    found: list[Interaction] = []
    left = max_bytes
    with closing(rows):
        for row in rows:
            each = Interaction(*row)
            left -= each.nbytes
            if left < 0:
                return found or [each.shortened(max_bytes)]
            found.append(each)
    return found
