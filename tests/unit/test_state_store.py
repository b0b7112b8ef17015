"""The state store: what was committed is what is found, whatever came in between."""

import itertools
import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from sovl_daemon.state import (
    Contents,
    InvalidSaveName,
    NotFound,
    NotStorable,
    Origin,
    SaveExists,
    StateLocked,
    StateStore,
)
from sovl_daemon.state.learned import LearnedRun, ids_of, learned_of, runs_of, with_learned
from tests.states import FILES, ORIGIN, mind, number_in


@pytest.fixture
def store(tmp_path: Path) -> StateStore:
    return StateStore(tmp_path / "state")


def commit(store: StateStore, *numbers: int, keep: int = 100) -> None:
    with store.writer(keep=keep) as writer:
        for number in numbers:
            writer.commit(mind(number), ORIGIN, reason=f"night {number}", interactions=[number])


def test_nothing_was_ever_learned(store: StateStore) -> None:
    assert store.newest().generation is None
    with store.writer(keep=5) as writer:
        assert writer.load().generation is None
    with pytest.raises(NotFound, match="nothing has been learned"):
        store.find("current")


def test_what_was_committed_is_loaded(store: StateStore) -> None:
    before = datetime.now(UTC)
    with store.writer(keep=5) as writer:
        made = writer.commit(
            mind(7), ORIGIN, reason="night", metrics={"loss": [2.5, 1]}, interactions=[3, 4, 9]
        )
    found = StateStore(store.root).newest()
    assert found.generation == made
    assert found.refused == ()
    manifest = made.manifest
    assert sorted(path.name for path in made.folder.iterdir()) == sorted(FILES)
    assert made.folder == store.root / "generations" / "000001"
    assert (manifest.number, manifest.parent, manifest.reason) == (1, None, "night")
    assert (manifest.base, manifest.scaffold, manifest.memory) == ("base", "scaffold", "memory-1")
    assert manifest.metrics == {"loss": [2.5, 1]}
    assert manifest.interactions == [3, 4, 9]
    assert before <= manifest.created <= datetime.now(UTC)
    assert made.holds() == ["scaffold", "cross-attention", "token map", "mind"]
    contents = made.contents()
    assert contents.mind == mind(7).mind
    assert contents.token_map == mind(7).token_map
    assert contents.fusion["0.gate"].shape == ()
    assert contents.training is None
    assert number_in(made) == 7


def test_files_and_folders_are_for_their_owner(store: StateStore) -> None:
    commit(store, 1)
    assert all(
        path.stat().st_mode & 0o077 == 0
        for path in (store.root, store.generations, store.folder(1))
    )


def test_the_seal_is_what_sha256sum_reads(store: StateStore) -> None:
    commit(store, 1)
    subprocess.run(["sha256sum", "--check", "manifest.sha256"], cwd=store.folder(1), check=True)


def test_each_generation_knows_its_parent_and_all_that_was_learned(store: StateStore) -> None:
    commit(store, 10, 11, 12)
    last = store.find("current").manifest
    assert (last.number, last.parent, last.interactions) == (3, 2, [12])
    assert last.learned_from("memory-1") == {10: 1, 11: 2, 12: 3}


def test_ids_of_another_interaction_store_are_not_those(store: StateStore) -> None:
    commit(store, 10)
    assert store.find("1").manifest.learned_from("memory-2") == {}
    other = Origin(base="base", scaffold="scaffold", memory="memory-2")
    with store.writer(keep=5) as writer:
        made = writer.commit(mind(1), other, reason="night", interactions=[10, 11])
    assert made.manifest.learned_from("memory-2") == {10: 2, 11: 2}


def test_tensors_of_torch_come_back_bit_for_bit(store: StateStore) -> None:
    whole = torch.randn(6, 4, generator=torch.Generator().manual_seed(1))
    tensors = {
        "parameter": torch.nn.Parameter(whole),
        "slice": whole[:, 1],
        "transposed": whole.T,
        "half": whole.to(torch.bfloat16),
        "count": torch.tensor(3),
    }
    with store.writer(keep=5) as writer:
        made = writer.commit(Contents(fusion=tensors), ORIGIN, reason="night")
    found, arrays = made.fusion("torch"), made.fusion()
    assert found.keys() == arrays.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert torch.equal(found[name], tensor)
        assert found[name].dtype == tensor.dtype
        assert torch.equal(torch.from_numpy(arrays[name].copy()), tensor.to(torch.float32).to(
            torch.int64 if name == "count" else torch.float32
        ))  # fmt: skip


def test_arrays_need_not_be_contiguous(store: StateStore) -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3).T
    with store.writer(keep=5) as writer:
        made = writer.commit(Contents(scaffold={"a": array}), ORIGIN, reason="night")
    assert made.scaffold()["a"].tolist() == array.tolist()


@pytest.mark.parametrize(
    "contents",
    [
        Contents(mind={"score": float("nan")}),
        Contents(mind={"when": datetime.now(UTC)}),
        Contents(token_map={"text": "\ud800"}),
        Contents(fusion={"a": "text"}),
        Contents(scaffold={"a": np.array(["text"])}),
        Contents(scaffold={"a": np.array([object()])}),
    ],
)
def test_what_cannot_be_stored_changes_nothing(store: StateStore, contents: Contents) -> None:
    commit(store, 1)
    with store.writer(keep=5) as writer:
        with pytest.raises(NotStorable, match="the state holds what"):
            writer.commit(contents, ORIGIN, reason="night")
        assert [path.name for path in store.generations.iterdir()] == ["000001"]
        assert writer.commit(mind(2), ORIGIN, reason="night").manifest.number == 2


@pytest.mark.parametrize("bad", [float("inf"), datetime.now(UTC), {1: 2}])
def test_metrics_are_json(store: StateStore, bad: object) -> None:
    with store.writer(keep=5) as writer, pytest.raises(NotStorable):
        writer.commit(mind(1), ORIGIN, reason="night", metrics={"loss": bad})
    assert store.numbers() == []


def test_a_full_disk_changes_nothing(store: StateStore, monkeypatch: pytest.MonkeyPatch) -> None:
    commit(store, 1)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with store.writer(keep=5) as writer:
        with monkeypatch.context() as patch:
            patch.setattr(Path, "write_bytes", full)
            with pytest.raises(OSError, match="No space left"):
                writer.commit(mind(2), ORIGIN, reason="night")
        assert number_in(store.find("current")) == 1
        assert [path.name for path in store.generations.iterdir()] == ["000001"]


# One writer


def test_there_is_one_writer_and_any_number_of_readers(store: StateStore) -> None:
    commit(store, 1)
    with store.writer(keep=5) as writer:
        with pytest.raises(StateLocked, match=r"another process writes the state in .*sovl stop"):
            store.writer(keep=5).__enter__()
        assert number_in(StateStore(store.root).find("current")) == 1
        writer.commit(mind(2), ORIGIN, reason="night")
        assert number_in(StateStore(store.root).find("current")) == 2
    commit(store, 3)


def test_the_writer_may_be_another_process(store: StateStore) -> None:
    script = (
        "import sys; from pathlib import Path; from sovl_daemon.state import StateStore\n"
        "with StateStore(Path(sys.argv[1])).writer(keep=5): print('mine', flush=True); input()"
    )
    command = [sys.executable, "-c", script, str(store.root)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"mine\n"
        with pytest.raises(StateLocked):
            commit(store, 1)
        other.kill()
    commit(store, 1)


# Pruning, saves, going back


def test_the_last_are_kept(store: StateStore) -> None:
    commit(store, *range(1, 8), keep=3)
    assert store.numbers() == [5, 6, 7]
    with store.writer(keep=3) as writer:
        assert writer.prune(1) == [5, 6]
        assert writer.prune(1) == []
    assert number_in(store.find("current")) == 7
    assert sorted(path.name for path in store.generations.iterdir()) == ["000007"]


def test_a_save_outlives_its_generation(store: StateStore) -> None:
    commit(store, 1)
    with store.writer(keep=2) as writer:
        saved = writer.save("monday")
    commit(store, 2, 3, 4, keep=2)
    assert store.numbers() == [3, 4]
    assert number_in(store.find("monday")) == number_in(saved) == 1
    with store.writer(keep=2) as writer:
        writer.remove_save("monday")
    assert store.save_names() == []
    assert [path.name for path in store.saves.iterdir()] == []


def test_a_save_is_replaced_only_if_asked(store: StateStore) -> None:
    with store.writer(keep=5) as writer:
        with pytest.raises(NotFound, match="nothing has been learned"):
            writer.save("a")
        writer.commit(mind(1), ORIGIN, reason="night")
        writer.save("a")
        writer.commit(mind(2), ORIGIN, reason="night")
        with pytest.raises(SaveExists, match="a save 'a' already; to replace it add --force"):
            writer.save("a")
        assert number_in(store.find("a")) == 1
        writer.save("a", replacing=True)
    assert number_in(store.find("a")) == 2
    assert [path.name for path in store.saves.iterdir()] == ["a"]


def test_going_back_is_a_new_generation_that_has_learned_what_the_old_had(
    store: StateStore,
) -> None:
    commit(store, 1, 2, 3)
    with store.writer(keep=5) as writer:
        writer.save("third")
        back = writer.restore("1").manifest
        assert (back.number, back.parent, back.reason) == (4, 3, "load 1")
        assert back.learned_from("memory-1") == {1: 1}
        assert back.interactions == []
        assert number_in(store.find("current")) == 1
        writer.restore("third")
    assert number_in(store.find("current")) == 3
    assert store.find("current").manifest.learned_from("memory-1") == {1: 1, 2: 2, 3: 3}
    assert store.numbers() == [1, 2, 3, 4, 5]


def test_a_reset_can_be_undone(store: StateStore) -> None:
    commit(store, 1)
    with store.writer(keep=5) as writer:
        fresh = writer.reset()
        assert (fresh.manifest.number, fresh.manifest.reason) == (2, "reset")
        assert (fresh.manifest.base, fresh.manifest.memory) == ("", "memory-1")
        assert fresh.contents() == Contents()
        assert fresh.holds() == []
        assert fresh.manifest.learned == ()
        writer.restore("1")
    assert number_in(store.find("current")) == 1


@pytest.mark.parametrize("name", ["", "12", "../x", ".hidden", "a/b", "x" * 65, "a b"])
def test_names_that_no_save_has(store: StateStore, name: str) -> None:
    commit(store, 1)
    with store.writer(keep=5) as writer, pytest.raises(InvalidSaveName, match="cannot name a save"):
        writer.save(name)
    assert store.save_names() == []


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("9", "no generation 9 in .*; saves: monday; generations: 1; see: sovl state list"),
        ("mondy", r"no save 'mondy' in .* \(nearest: monday\); saves: monday; generations: 1; see"),
    ],
)
def test_what_is_not_there_is_named(store: StateStore, reference: str, message: str) -> None:
    commit(store, 1)
    with store.writer(keep=5) as writer:
        writer.save("monday")
    with pytest.raises(NotFound, match=message):
        store.find(reference)


# The candidate of a running night


def test_a_night_goes_on_after_an_interruption(store: StateStore) -> None:
    commit(store, 1)
    contents = mind(50)
    with store.writer(keep=5) as writer:
        assert writer.candidate(ORIGIN).generation is None
        for step in (1, 2):
            moments = {"m": np.full(3, step, np.float32)}
            half = Contents(fusion=contents.fusion, mind={"step": step}, training=moments)
            writer.checkpoint(half, ORIGIN, progress={"step": step}, interactions=[4, 5])
    with store.writer(keep=5) as writer:
        found = writer.candidate(ORIGIN).generation
        assert found is not None
        assert found.manifest.metrics == {"step": 2}
        assert found.manifest.interactions == [4, 5]
        assert (found.training() or {})["m"].tolist() == [2, 2, 2]
        assert number_in(store.find("current")) == 1
        assert 4 not in store.find("current").manifest.learned_from("memory-1")
        made = writer.commit(found.contents(), ORIGIN, reason="night", interactions=[4, 5])
        assert made.manifest.learned_from("memory-1") == {1: 1, 4: 2, 5: 2}
        assert made.training() is None
        assert writer.candidate(ORIGIN).generation is None
    assert not store.candidate.exists()


def test_a_night_does_not_go_on_from_another_state(store: StateStore) -> None:
    commit(store, 1)
    with store.writer(keep=5) as writer:
        writer.checkpoint(mind(2), ORIGIN, progress={}, interactions=[2])
        (store.root / "kept").mkdir()
        (store.candidate / "mind.json").rename(store.root / "kept" / "mind.json")
        (store.candidate / "mind.json").symlink_to(store.root / "kept" / "mind.json")
        writer.restore("1")
        assert not store.candidate.exists()
        writer.checkpoint(mind(3), ORIGIN, progress={}, interactions=[2])
        candidate = store.candidate.rename(store.root / "kept" / "candidate")
        writer.restore("1")
        candidate.rename(store.candidate)
        found = writer.candidate(ORIGIN)
        assert found.generation is None
        (refusal,) = found.refused
        assert "it began from generation 2, the current one is 3" in str(refusal)
    assert not store.candidate.exists()
    assert (store.root / "kept" / "mind.json").exists()


def test_a_night_may_be_given_up(store: StateStore) -> None:
    with store.writer(keep=5) as writer:
        writer.checkpoint(mind(1), ORIGIN, progress={}, interactions=[])
        assert writer.candidate(ORIGIN).generation is not None
        writer.discard_candidate()
        writer.discard_candidate()
        assert writer.candidate(ORIGIN).generation is None


def test_a_damaged_candidate_is_kept_aside(store: StateStore) -> None:
    commit(store, 1)
    with store.writer(keep=5) as writer:
        writer.checkpoint(mind(2), ORIGIN, progress={}, interactions=[])
        (store.candidate / "mind.json").write_text("{}")
        (refusal,) = writer.candidate(ORIGIN).refused
        assert refusal.moved_to == store.damaged / "candidate"
        assert "mind.json" in refusal.reason
        assert number_in(writer.load().generation or pytest.fail("lost")) == 1
    with StateStore(store.root).writer(keep=5) as writer:
        assert writer.load().refused == ()


# Runs of learned interactions


@given(st.dictionaries(st.integers(1, 60), st.integers(1, 4)))
def test_runs_say_the_same_as_the_mapping(learned: dict[int, int]) -> None:
    runs = runs_of(learned)
    assert learned_of(runs) == learned
    assert learned_of(map(LearnedRun._make, json.loads(json.dumps(runs)))) == learned
    for generation in range(1, 5):
        expected = sorted(id_ for id_, number in learned.items() if number == generation)
        assert ids_of(runs, generation) == expected
    neighbours = itertools.pairwise(runs)
    assert all(a.last + 1 < b.first or a.generation != b.generation for a, b in neighbours)


@given(st.dictionaries(st.integers(1, 30), st.integers(1, 4)), st.sets(st.integers(1, 30)))
@settings(max_examples=50)
def test_what_was_learned_before_is_not_learned_twice(
    learned: dict[int, int], more: set[int]
) -> None:
    together = with_learned(learned, more, 9)
    assert together.keys() == learned.keys() | more
    assert all(together[id_] == learned.get(id_, 9) for id_ in together)


def test_a_thousand_nights_stay_a_short_list() -> None:
    learned: dict[int, int] = {}
    for night in range(1000):
        learned = with_learned(learned, range(night * 20, night * 20 + 20), night)
    assert len(runs_of(learned)) == 1000


def test_files_that_others_wrote_are_told(store: StateStore) -> None:
    commit(store, 1, 2)
    save_file({"x": torch.ones(1)}, store.folder(2) / "more.safetensors")
    with store.writer(keep=5) as writer:
        (refusal,) = writer.load().refused
    assert refusal.reason == "more.safetensors: not in the manifest"
