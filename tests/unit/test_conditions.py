"""What the system refuses is told apart from what is broken."""

import errno
import os
import sqlite3
from pathlib import Path

import pytest
import zmq

from sovl_daemon.conditions import Condition, condition_of, in_words, is_damage


def sqlite_error(path: Path, statement: str) -> sqlite3.Error:
    database = sqlite3.connect(path)
    try:
        database.execute(statement)
    except sqlite3.Error as error:
        return error
    finally:
        database.close()
    raise AssertionError("it went well")


@pytest.mark.parametrize(
    ("number", "condition"),
    [
        (errno.ENOSPC, Condition.FULL),
        (errno.EDQUOT, Condition.FULL),
        (errno.EROFS, Condition.READ_ONLY),
        (errno.EACCES, Condition.PERMISSION),
        (errno.EMFILE, Condition.DESCRIPTORS),
        (errno.ENOMEM, Condition.MEMORY),
        (errno.EADDRNOTAVAIL, Condition.NETWORK),
        (errno.ENOENT, None),
    ],
)
def test_errno(number: int, condition: Condition | None) -> None:
    assert condition_of(OSError(number, os.strerror(number))) is condition
    assert condition_of(zmq.ZMQError(number)) is condition


def test_causes_and_groups_are_looked_into() -> None:
    try:
        try:
            raise OSError(errno.ENOSPC, "full")
        except OSError as error:
            raise ValueError("the file cannot be written") from error
    except ValueError as error:
        assert condition_of(error) is Condition.FULL
        assert condition_of(ExceptionGroup("", [error])) is Condition.FULL
    assert condition_of(ValueError("full")) is None


def test_sqlite_tells_damage_from_a_lock(tmp_path: Path) -> None:
    (tmp_path / "none.db").write_bytes(b"nonsense " * 1000)
    damaged = sqlite_error(tmp_path / "none.db", "PRAGMA user_version")
    assert is_damage(damaged)
    assert condition_of(damaged) is None
    holder = sqlite3.connect(tmp_path / "a.db", isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    database = sqlite3.connect(tmp_path / "a.db", timeout=0)
    with pytest.raises(sqlite3.OperationalError) as found:
        database.execute("CREATE TABLE a (b)")
    assert condition_of(found.value) is Condition.LOCKED
    assert not is_damage(found.value)
    holder.close()
    database.close()


def test_no_thread_to_be_had() -> None:
    assert condition_of(RuntimeError("can't start new thread")) is Condition.MEMORY
    assert condition_of(MemoryError()) is Condition.MEMORY
    assert condition_of(RuntimeError("anything else")) is None


def test_words_are_one_line_with_the_file() -> None:
    assert in_words(OSError(errno.ENOSPC, "No space", "/a/b")) == "/a/b: No space"
    assert in_words(ValueError("one\ntwo")) == "one"
    assert in_words(ValueError()) == "ValueError"
