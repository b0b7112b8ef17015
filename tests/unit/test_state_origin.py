"""What was learned goes with the models it was learned on, and with no others of their shape."""

from dataclasses import replace
from pathlib import Path

import pytest

from sovl_daemon.state import Contents, Origin, OtherModels, StateStore, is_known_by_name
from tests.states import mind, number_in
from tests.unit.test_state_migrations import write_format_1

A = Origin(
    base="a",
    scaffold="a",
    memory="m",
    digests={
        f"{role}.{part}": "1a" * 32
        for role in ("base", "scaffold")
        for part in ("weights", "vocabulary")
    },
)
B = replace(A, base="b", digests={**A.digests, "base.weights": "2b" * 32})
SAME_NAME = replace(B, base="a")
OTHER_SCAFFOLD = replace(A, digests={**A.digests, "scaffold.vocabulary": "3c" * 32})


@pytest.fixture
def store(tmp_path: Path) -> StateStore:
    found = StateStore(tmp_path)
    with found.writer(keep=5) as writer:
        writer.commit(mind(1), A, reason="night", interactions=[1])
        writer.save("mine")
    return found


@pytest.mark.parametrize("reference", ["1", "mine"])
@pytest.mark.parametrize(
    ("origin", "message"),
    [
        (
            B,
            r"another base, a \(weights 1a1a1a1a\); the base is b \(weights 2b2b2b2b\) now: set "
            r"core_config.base_model_name back to a, .* or begin anew with: sovl state reset",
        ),
        (SAME_NAME, r"base, a \(weights 1a1a1a1a\).*: get the base back that it was learned on"),
        (OTHER_SCAFFOLD, r"another scaffold, a \(vocabulary 1a1a1a1a\)"),
    ],
)
def test_a_refused_load_changes_nothing(
    origin: Origin, message: str, reference: str, store: StateStore
) -> None:
    with store.writer(keep=5) as writer:
        with pytest.raises(OtherModels, match=message):
            writer.restore(reference, origin)
        assert store.numbers() == [1]
        assert number_in(writer.restore(reference, A)) == 1


def test_a_new_name_for_the_same_model_makes_no_difference(store: StateStore) -> None:
    with store.writer(keep=5) as writer:
        writer.restore("mine", replace(A, base="/elsewhere/a-copy"))
    assert store.numbers() == [1, 2]


def test_nothing_is_learned_on_top_of_another_model(store: StateStore) -> None:
    with store.writer(keep=5) as writer:
        with pytest.raises(OtherModels, match="generation 1: it was learned on another base"):
            writer.commit(mind(2), B, reason="night")
        with pytest.raises(OtherModels):
            writer.checkpoint(mind(2), B, progress={}, interactions=[])
        writer.reset()
        made = writer.commit(mind(3), B, reason="night", interactions=[2])
        assert made.manifest.learned_from("m") == {2: 3}
        with pytest.raises(OtherModels, match="the base is b"):
            writer.restore("1", B)


def test_a_night_does_not_go_on_with_another_model(store: StateStore) -> None:
    with store.writer(keep=5) as writer:
        writer.checkpoint(Contents(), A, progress={}, interactions=[])
        assert writer.candidate(A).generation is not None
        (refusal,) = writer.candidate(SAME_NAME).refused
    assert "another base" in refusal.reason


def test_what_knows_no_more_than_names_goes_by_them(tmp_path: Path) -> None:
    store = StateStore(tmp_path)
    write_format_1(store, 3)  # of "base" and "scaffold"
    named = replace(A, base="/models/base", scaffold="scaffold.gguf")
    with store.writer(keep=5) as writer:
        with pytest.raises(OtherModels, match="another base, base; the base is a now"):
            writer.restore("3", A)
        assert store.numbers() == [3]
        back = writer.restore("3", named)
        assert is_known_by_name(back.manifest)
        made = writer.commit(mind(4), named, reason="night")
    assert made.manifest.digests == A.digests
    assert not is_known_by_name(made.manifest)
