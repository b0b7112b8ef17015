"""The journal knows what is in force, lets one action fly, and keeps quarantines."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sovl_daemon.control.action import Effect
from sovl_daemon.control.circuit_breaker import FIRST_S, LONGEST_S, CircuitBreaker
from sovl_daemon.control.journal import OPEN, InFlight, Journal, JournalEntry, Record
from sovl_daemon.database import UnusableDatabase

ENTRY = JournalEntry("memory", "quantize", "int8", "float16", "why", 100, 105, 1e9, "bytes", 2e9)


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "journal.db")


def test_one_action_is_in_flight(journal: Journal) -> None:
    first = journal.intend(ENTRY)
    for state in OPEN:
        journal.move(first, state)
        with pytest.raises(InFlight, match="another action is in flight"):
            journal.intend(ENTRY)
    journal.move(first, "reverted")
    assert journal.intend(ENTRY) > first


def test_an_entry_is_what_was_written(journal: Journal, tmp_path: Path) -> None:
    id_ = journal.intend(ENTRY)
    journal.verified(id_, 1.1e9)
    journal.commit(id_, 400)
    journal.close()
    again = Journal(tmp_path / "journal.db")
    wanted = replace(ENTRY, id=id_, state="committed", measured_after=1.1e9, expires_s=400)
    assert again.entry(id_) == wanted
    assert again.in_force() == [wanted]
    assert again.unfinished() == []
    with pytest.raises(KeyError):
        again.entry(99)


def test_what_leaves_no_setting_is_never_in_force(journal: Journal) -> None:
    journal.commit(journal.intend(replace(ENTRY, target="")), None)
    assert journal.in_force() == []
    assert journal.prune(1000) == 1


def test_pruning_keeps_what_is_in_force_or_unfinished(journal: Journal) -> None:
    kept = journal.intend(ENTRY)
    journal.commit(kept, None)
    lost = journal.intend(ENTRY)
    journal.move(lost, "abandoned")
    old = journal.intend(ENTRY)
    journal.move(old, "reverted")
    assert journal.prune(1000) == 1
    assert [entry.id for entry in journal.recent()] == [lost, kept]


def test_how_an_action_did_is_told_by_day(journal: Journal) -> None:
    for intended_s, after in ((100.0, 0.5e9), (200.0, None), (300.0, 1.5e9), (90_000.0, 1e9)):
        id_ = journal.intend(replace(ENTRY, intended_s=intended_s))
        if after is not None:
            journal.verified(id_, after)
        journal.move(id_, "reverted")
    assert journal.records(0) == [
        Record("1970-01-01", "quantize", begun=3, verified=2, freed=2e9, unit="bytes"),
        Record("1970-01-02", "quantize", begun=1, verified=1, freed=1e9, unit="bytes"),
    ]
    assert [each.begun for each in journal.records(200)] == [2, 1]


@pytest.mark.parametrize(
    ("now_s", "expired"), [(100, False), (399, False), (400, True), (99, True)]
)
def test_a_time_to_live_does_not_outlast_a_clock_that_was_set_back(
    now_s: float, expired: bool
) -> None:
    assert replace(ENTRY, expires_s=400).has_expired(now_s) is expired
    assert not ENTRY.has_expired(now_s)


def test_a_quarantine_survives_a_restart(journal: Journal, tmp_path: Path) -> None:
    assert journal.breaker("quantize") == CircuitBreaker()
    held = CircuitBreaker().failed(100).failed(200)
    journal.set_breaker("quantize", held)
    journal.set_breaker("shrink", CircuitBreaker().failed(100))
    journal.close()
    again = Journal(tmp_path / "journal.db")
    assert again.quarantined(201) == {"quantize": held}
    assert again.quarantined(200 + FIRST_S) == {}


def test_two_failures_bring_a_quarantine_that_doubles() -> None:
    breaker, now_s, lasted = CircuitBreaker(), 0.0, []
    for _ in range(13):
        breaker = breaker.failed(now_s)
        lasted.append(breaker.backoff_s)
        assert breaker.is_open(now_s) is (breaker.failures >= 2)
        now_s = max(now_s, breaker.until_s)
    assert lasted[:4] == [0, FIRST_S, 2 * FIRST_S, 4 * FIRST_S]
    assert lasted[-1] == LONGEST_S
    assert breaker.succeeded() == CircuitBreaker()


def test_a_clock_that_was_set_back_does_not_prolong_a_quarantine() -> None:
    assert not CircuitBreaker().failed(1e9).failed(1e9).is_open(1e6)


@given(st.floats(0, 1e12), st.floats(1, 1e12), st.floats(0, 1e12))
def test_three_quarters_of_the_effect_must_show(before: float, amount: float, freed: float) -> None:
    shown = Effect(amount).is_shown(before, before - freed)
    if freed > 0.7501 * amount + 1:
        assert shown
    if freed < 0.7499 * amount - 1:
        assert not shown


def test_an_amount_is_said_in_its_unit() -> None:
    assert (Effect(4e9).words(), Effect(4e9).words(-6.71e6)) == ("4000.0 MB", "-6.7 MB")
    assert (Effect(1000).words(), Effect(6, "conversations").words(0)) == (
        "1000 bytes",
        "0 conversations",
    )


@pytest.mark.parametrize("amount", [0.0, -1.0, float("nan"), float("inf")])
def test_an_action_must_predict_something(amount: float) -> None:
    with pytest.raises(ValueError, match="not allowed"):
        Effect(amount)


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    path.write_bytes(b"nonsense" * 1000)
    with pytest.raises(UnusableDatabase, match=r"journal\.db: .*move the file away"):
        Journal(path)


def test_a_newer_file_is_left_alone(tmp_path: Path) -> None:
    import sqlite3

    path = tmp_path / "journal.db"
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA user_version=99")
    with pytest.raises(UnusableDatabase, match="newer SOVL"):
        Journal(path)
