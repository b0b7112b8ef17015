"""The interaction store: durable, idempotent, and clear about what is wrong with its file."""

import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sovl_daemon.database import UnusableDatabase
from sovl_daemon.memory.interactions import _SCHEMA, Interaction, InteractionStore


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


def test_it_is_kept_which_question_was_answered(tmp_path: Path) -> None:
    store = InteractionStore(tmp_path / "db")
    store.add(exchange(1))
    store.add(replace(exchange(2), question="What is rain?"))
    assert [each.question for each in store.recent(5)] == [None, "What is rain?"]
    assert [each.question for each in store.unlearned(5)] == [None, "What is rain?"]
    assert [each.question for each in store.since()] == [None, "What is rain?"]


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
    with pytest.raises(UnusableDatabase, match=problem):
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


# What was learned


def ids(found: list[Interaction]) -> list[int]:
    return [each.id for each in found]


def filled(path: Path, count: int = 5) -> InteractionStore:
    store = InteractionStore(path)
    for number in range(count):
        store.add(exchange(number))
    return store


def test_what_was_learned_is_not_learned_again(tmp_path: Path) -> None:
    store = filled(tmp_path / "db")
    assert (ids(store.unlearned(3)), store.unlearned_count()) == ([1, 2, 3], 5)
    store.reconcile({1: 7, 3: 7, 4: 8})
    store.close()
    store = InteractionStore(tmp_path / "db")
    assert (ids(store.unlearned(9)), store.unlearned_count()) == ([2, 5], 2)
    assert store.unlearned(1)[0].prompt == "q1"
    assert store.reconcile({1: 7, 3: 7, 4: 8}) == 0


def test_the_last_that_were_learned(tmp_path: Path) -> None:
    store = filled(tmp_path / "db")
    store.reconcile({1: 7, 3: 7, 4: 8})
    assert (store.learned(2), store.learned(9)) == ([4, 3], [4, 3, 1])


def test_some_are_read_by_their_ids_as_far_as_they_fit(tmp_path: Path) -> None:
    store = filled(tmp_path / "db")
    assert ids(store.some([4, 2, 99])) == [2, 4]
    first, second = store.some([1, 2])
    room = first.nbytes + second.nbytes
    assert ids(store.some([1, 2, 3], max_bytes=room)) == [1, 2]
    assert ids(store.some([1, 2, 3], max_bytes=room - 1)) == [1]
    assert ids(store.recent(3, max_bytes=room + 20)) == [4, 5]


def test_a_single_one_that_is_too_large_is_shortened(tmp_path: Path) -> None:
    store = InteractionStore(tmp_path / "db")
    large = replace(exchange(1), prompt="p" * 5000, response="r" * 5000, question="q" * 5000)
    store.add(large)
    (found,) = store.some([1], max_bytes=2800)
    assert (found.prompt, found.response, found.question) == ("p" * 100, "r" * 100, "q" * 100)
    assert found.nbytes <= 2800
    (none,) = store.some([1], max_bytes=10)
    assert (none.prompt, none.response, none.question) == ("", "", "")
    assert replace(large, question=None).shortened(2800).question is None


def test_what_was_said_before_is_known_to_the_letter(tmp_path: Path) -> None:
    store = filled(tmp_path / "db")
    assert [store.has_prompt(each) for each in ("q1", "Q1", "q", "q9")] == [True, False] + 2 * [
        False
    ]


def test_its_size_is_that_of_the_file(tmp_path: Path) -> None:
    store = filled(tmp_path / "db")
    store.close()
    size = InteractionStore(tmp_path / "db").size()
    assert size == {"interactions": 5, "bytes": (tmp_path / "db").stat().st_size}


def test_it_tries_whether_it_may_write(tmp_path: Path) -> None:
    store = filled(tmp_path / "db")
    store.try_to_write()
    reading = InteractionStore.reading(tmp_path / "db")
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        reading.try_to_write()


def test_ids_that_nothing_has_are_not_learned(tmp_path: Path) -> None:
    store = filled(tmp_path / "db")
    assert store.reconcile({5: 1, 6: 1, -1: 1}) == 1
    assert store.reconcile({5: 1, 6: 1, 7: 1}) == 0
    assert store.add(exchange(6)) == 6
    assert ids(store.unlearned(9)) == [1, 2, 3, 4, 6]


def test_the_committed_generations_are_what_counts(tmp_path: Path) -> None:
    store = filled(tmp_path / "db")
    store.reconcile({1: 1, 2: 1})
    assert store.reconcile({2: 1, 3: 2, 4: 2}) == 3
    assert ids(store.unlearned(9)) == [1, 5]
    assert store.reconcile({}) == 3
    assert store.unlearned_count() == 5


@given(
    before=st.dictionaries(st.integers(-1, 8), st.integers(1, 4)),
    learned=st.dictionaries(st.integers(-1, 8), st.integers(1, 4)),
)
def test_reconciling_leaves_what_it_was_told(
    before: dict[int, int], learned: dict[int, int]
) -> None:
    store = InteractionStore(":memory:")
    for number in range(5):
        store.add(exchange(number))
    store.reconcile(before)
    there = range(1, 6)
    wrong = [id_ for id_ in there if before.get(id_) != learned.get(id_)]
    assert store.reconcile(learned) == len(wrong)
    assert store.reconcile(learned) == 0
    assert ids(store.unlearned(99)) == [id_ for id_ in there if id_ not in learned]
    assert store.unlearned_count() == len(store.unlearned(99))


def test_a_failed_reconciliation_changes_nothing(tmp_path: Path) -> None:
    store = filled(tmp_path / "db")
    store.reconcile({1: 1})
    with pytest.raises(sqlite3.Error):
        store.reconcile({2: "x"})  # type: ignore[dict-item]
    assert ids(store.unlearned(9)) == [2, 3, 4, 5]
    assert store.reconcile({1: 1, 2: 1}) == 1


def test_each_database_has_an_identity_that_stays(tmp_path: Path) -> None:
    store = InteractionStore(tmp_path / "db")
    identity = store.identity
    assert len(identity) == 32
    store.close()
    assert InteractionStore(tmp_path / "db").identity == identity
    assert InteractionStore(tmp_path / "other").identity != identity


@pytest.mark.parametrize("version", range(1, len(_SCHEMA)))
def test_earlier_schemas_go_on(tmp_path: Path, version: int) -> None:
    with sqlite3.connect(tmp_path / "db") as database:
        database.executescript("".join(_SCHEMA[:version]) + f"PRAGMA user_version = {version};")
        database.execute(
            "INSERT INTO interactions (command, time, conversation, prompt, response, tokens)"
            " VALUES ('c', 1, 'a', 'q', 'r', 1)"
        )
    store = InteractionStore(tmp_path / "db")
    assert ids(store.unlearned(9)) == [1]
    assert store.recent(1)[0].question is None
    store.add(replace(exchange(2), question="Why?"))
    assert store.recent(1)[0].question == "Why?"
    store.reconcile({1: 1, 2: 1})
    assert store.unlearned_count() == 0
    assert len(store.identity) == 32


def test_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "db").write_bytes(b"this is no database at all, far from it" * 50)
    with pytest.raises(UnusableDatabase, match="db: file is not a database; restore it"):
        InteractionStore(tmp_path / "db")


def test_newer_schema_is_refused_and_kept(tmp_path: Path) -> None:
    InteractionStore(tmp_path / "db").close()
    with sqlite3.connect(tmp_path / "db") as database:
        database.execute("PRAGMA user_version = 99")
    with pytest.raises(UnusableDatabase, match=r"newer SOVL \(schema 99\)"):
        InteractionStore(tmp_path / "db")
    with sqlite3.connect(tmp_path / "db") as database:
        assert database.execute("PRAGMA user_version").fetchone() == (99,)


def test_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnusableDatabase, match="No such file or directory"):
        InteractionStore(tmp_path / "none" / "db")
