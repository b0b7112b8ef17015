"""The interaction store: durable, idempotent, and clear about what is wrong with its file."""

import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sovl_daemon.memory.interactions import Interaction, InteractionStore, StoreError


def exchange(number: int, conversation: str = "a") -> Interaction:
    return Interaction(f"command{number}", conversation, f"q{number}", f"r{number}", number, 0.5)


def test_what_was_added_is_there_after_reopening(tmp_path: Path) -> None:
    store = InteractionStore(tmp_path / "db")
    number = store.add(exchange(1))
    store.close()
    (found,) = InteractionStore(tmp_path / "db").recent(5)
    assert (found.id, found.prompt, found.response, found.tokens) == (number, "q1", "r1", 1)
    assert found.time > 1.7e9


def test_same_command_twice_is_one_interaction(tmp_path: Path) -> None:
    store = InteractionStore(tmp_path / "db")
    assert store.add(exchange(1)) == store.add(exchange(1))
    assert store.count() == 1


def test_recent_is_oldest_first_and_of_one_conversation(tmp_path: Path) -> None:
    store = InteractionStore(tmp_path / "db")
    for number in range(6):
        store.add(exchange(number, "ab"[number % 2]))
    assert [each.tokens for each in store.recent(3)] == [3, 4, 5]
    assert [each.tokens for each in store.recent(2, "a")] == [2, 4]
    assert store.recent(5, "nobody") == []


def test_since_has_everything_from_a_moment_on(tmp_path: Path) -> None:
    store = InteractionStore(tmp_path / "db")
    for number in range(1, 6):
        store.add(replace(exchange(number), time=float(number)))
    assert [each.tokens for each in store.since()] == [1, 2, 3, 4, 5]
    assert [each.tokens for each in store.since(4.0)] == [4, 5]
    assert list(store.since(6.0)) == []


def test_a_store_can_be_read_while_another_writes(tmp_path: Path) -> None:
    store = InteractionStore(tmp_path / "a?b%20#c")
    store.add(exchange(1))
    reader = InteractionStore.reading(tmp_path / "a?b%20#c")
    store.add(exchange(2))
    assert [each.tokens for each in reader.since()] == [1, 2]
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        reader.add(exchange(3))
    reader.close()
    store.close()


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("none", "no such file, nothing has been lived through yet"),
        ("x" * 300, "cannot be read: File name too long"),
    ],
)
def test_reading_makes_no_store(tmp_path: Path, name: str, problem: str) -> None:
    with pytest.raises(StoreError, match=problem):
        InteractionStore.reading(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_sql_is_text_like_any_other(tmp_path: Path) -> None:
    store = InteractionStore(tmp_path / "db")
    evil = "'; DROP TABLE interactions; --"
    store.add(Interaction("c", evil, evil, evil, 1, None))
    assert store.recent(1, evil)[0].prompt == evil


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_survives(text: str) -> None:
    store = InteractionStore(":memory:")
    store.add(Interaction("c", "a", text, text, 1, None))
    assert store.recent(1)[0].response == text


def test_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "db").write_bytes(b"this is no database at all, far from it" * 50)
    with pytest.raises(StoreError, match="db: file is not a database; restore it"):
        InteractionStore(tmp_path / "db")


def test_newer_schema_is_refused_and_kept(tmp_path: Path) -> None:
    InteractionStore(tmp_path / "db").close()
    with sqlite3.connect(tmp_path / "db") as database:
        database.execute("PRAGMA user_version = 99")
    with pytest.raises(StoreError, match=r"newer SOVL \(schema 99\)"):
        InteractionStore(tmp_path / "db")
    with sqlite3.connect(tmp_path / "db") as database:
        assert database.execute("PRAGMA user_version").fetchone() == (99,)


def test_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="unable to open"):
        InteractionStore(tmp_path / "none" / "db")
