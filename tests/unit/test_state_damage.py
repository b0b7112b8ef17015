"""Whatever happens to the files: the generation before is loaded, and it is told. Never silence.

What a power cut does to writes that were not yet synced depends on disk and file system and cannot
be tested here; that every file and folder is synced before the rename can (see the order below).
"""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from sovl_daemon.models import files
from sovl_daemon.state import Damaged, Generation, NewerFormat, NoSoundGeneration, StateStore
from tests.states import FILES, ORIGIN, mind, number_in
from tests.unit.test_state_store import commit


@pytest.fixture
def store(tmp_path: Path) -> StateStore:
    return StateStore(tmp_path / "state")


def load(store: StateStore) -> tuple[int, list[str]]:
    """The number of the mind that is loaded, and what was refused."""
    with store.writer(keep=100) as writer:
        found = writer.load()
    assert found.generation is not None
    return number_in(found.generation), [str(refusal) for refusal in found.refused]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("length", [0, 1, -1])
def test_a_truncated_file_is_refused_by_name(store: StateStore, name: str, length: int) -> None:
    commit(store, 1, 2)
    path = store.folder(2) / name
    path.write_bytes(path.read_bytes()[:length])
    number, refused = load(store)
    assert number == 1
    assert len(refused) == 1
    assert "manifest" in refused[0] if name.startswith("manifest") else name in refused[0]
    assert f"kept in {store.damaged / '000002'}" in refused[0]
    assert (store.damaged / "000002" / name).exists()
    assert load(store) == (1, [])


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_refused_by_name(store: StateStore, name: str) -> None:
    commit(store, 1, 2)
    (store.folder(2) / name).unlink()
    number, refused = load(store)
    assert (number, f"{name}: missing" in refused[0]) == (1, True)


@pytest.mark.parametrize("name", FILES)
def test_every_flipped_bit_is_found(store: StateStore, name: str) -> None:
    """All bits of the small files, each 7th of the others: 7 is odd, so every kind of bit."""
    commit(store, 1)
    path = store.folder(1) / name
    sound = path.read_bytes()
    for bit in range(0, 8 * len(sound), 1 if len(sound) < 100 else 7):
        changed = bytearray(sound)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        with pytest.raises(Damaged):
            Generation.sound(store.folder(1))
    path.write_bytes(sound)
    assert number_in(Generation.sound(store.folder(1))) == 1


@given(data=st.data())
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_in_place_of_any_file_are_refused(tmp_path: Path, data: st.DataObject) -> None:
    store = StateStore(tmp_path / "any")
    shutil.rmtree(store.root, ignore_errors=True)
    commit(store, 1)
    path = store.folder(1) / data.draw(st.sampled_from(FILES))
    content = data.draw(st.binary(max_size=400))
    if content != path.read_bytes():
        path.write_bytes(content)
        with pytest.raises((Damaged, NewerFormat)):
            Generation.sound(store.folder(1))


@pytest.mark.parametrize(
    "text",
    ["", "[]", "null", '"x"', "{", "{}", '{"format_version": "2"}', '{"format_version": true}',
     '{"format_version": 0}', '{"format_version": 2}', "[" * 100_000],
)  # fmt: skip
def test_what_is_no_manifest_is_refused(store: StateStore, text: str) -> None:
    commit(store, 1)
    (store.folder(1) / "manifest.json").write_text(text)
    for seal in (True, False):
        if not seal:
            (store.folder(1) / "manifest.sha256").unlink()
        with pytest.raises(Damaged, match=r"manifest\.(json|sha256)"):
            Generation.sound(store.folder(1))


def test_a_folder_under_a_wrong_number_is_refused(store: StateStore) -> None:
    commit(store, 1, 2)
    shutil.copytree(store.folder(1), store.folder(9))
    number, refused = load(store)
    assert (number, "the manifest is that of generation 1" in refused[0]) == (2, True)


def test_a_file_in_place_of_a_folder_is_no_generation(store: StateStore) -> None:
    commit(store, 1)
    store.folder(2).write_text("")
    (store.generations / "notes").mkdir()
    assert load(store) == (1, [])


def test_one_that_cannot_be_read_is_refused(
    store: StateStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit(store, 1, 2)
    opened = Path.open

    def failing(self: Path, *args: Any, **kwargs: Any) -> Any:
        if self.parent.name == "000002" and self.name == "mind.json":
            raise OSError(5, "Input/output error", str(self))
        return opened(self, *args, **kwargs)

    monkeypatch.setattr(Path, "open", failing)
    number, refused = load(store)
    assert (number, "mind.json: Input/output error" in refused[0]) == (1, True)


def test_numbers_are_not_given_twice(store: StateStore) -> None:
    commit(store, 1, 2)
    (store.folder(2) / "mind.json").unlink()
    load(store)
    commit(store, 3)
    assert store.numbers() == [1, 3]
    assert store.find("current").manifest.parent == 1
    (store.folder(3) / "mind.json").unlink()
    assert load(store)[0] == 1
    assert sorted(path.name for path in store.aside()) == ["000002", "000003"]


def newer(folder: Path) -> None:
    """Let a newer SOVL have written a generation."""
    manifest = json.loads((folder / "manifest.json").read_text()) | {"format_version": 99}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / "manifest.sha256").unlink()


def test_a_newer_format_is_refused_but_stays(store: StateStore) -> None:
    commit(store, 1, 2)
    newer(store.folder(2))
    for _ in range(2):
        number, refused = load(store)
        assert number == 1
        assert "format 99 is newer than 3, the newest this version of SOVL reads" in refused[0]
    with pytest.raises(NewerFormat, match=r"generation 2: .*update SOVL"):
        store.find("2")
    commit(store, 3)
    assert store.numbers() == [1, 2, 3]
    assert store.find("current").manifest.parent == 1


def test_pruning_spares_the_current_behind_newer_ones(store: StateStore) -> None:
    commit(store, 1, 2, 3, 4)
    for number in (3, 4):
        newer(store.folder(number))
    with store.writer(keep=2) as writer:
        assert writer.prune() == [1]
    assert load(store)[0] == 2


# Nothing is left


def ruin(store: StateStore) -> None:
    for number in store.numbers():
        (store.folder(number) / "mind.json").unlink()


def test_a_mind_whose_generations_are_all_damaged_does_not_start_afresh(
    store: StateStore,
) -> None:
    commit(store, 1, 2)
    ruin(store)
    for _ in range(2):
        with store.writer(keep=5) as writer:
            with pytest.raises(
                NoSoundGeneration, match=r"000002: mind.json: missing; 000001: "
            ) as e:
                writer.load()
            assert "sovl state load NAME, or begin anew with: sovl state reset" in str(e.value)
            with pytest.raises(NoSoundGeneration):
                writer.commit(mind(3), ORIGIN, reason="night")
    assert store.numbers() == [1, 2]
    assert store.aside() == []


def test_when_only_damaged_ones_are_left_it_is_told(store: StateStore) -> None:
    commit(store, 1, 2)
    (store.folder(2) / "mind.json").unlink()
    load(store)
    shutil.rmtree(store.folder(1))
    with pytest.raises(NoSoundGeneration, match="only damaged ones are left"):
        store.newest()


def test_a_reset_helps_and_keeps_the_damaged(store: StateStore) -> None:
    commit(store, 1, 2)
    ruin(store)
    with store.writer(keep=5) as writer:
        assert writer.reset().manifest.number == 3
    assert [path.name for path in store.aside()] == ["000001", "000002"]
    assert store.find("current").manifest.parent is None


def test_a_save_helps(store: StateStore) -> None:
    commit(store, 1)
    with store.writer(keep=5) as writer:
        writer.save("good")
    commit(store, 2)
    ruin(store)
    with store.writer(keep=5) as writer:
        writer.restore("good")
    assert load(store) == (1, [])


def test_a_damaged_save_is_named_and_not_loaded(store: StateStore) -> None:
    commit(store, 1)
    with store.writer(keep=5) as writer:
        writer.save("good")
        (store.saves / "good" / "fusion.safetensors").write_bytes(b"x")
        with pytest.raises(Damaged, match=r"save good: fusion.safetensors: 1 bytes instead of"):
            writer.restore("good")
    assert store.numbers() == [1]


def test_what_does_not_read_back_is_not_current(
    store: StateStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sovl_daemon.state import NotReadBack, folders

    commit(store, 1)
    synced = folders.sync_tree

    def losing(folder: Path) -> None:
        synced(folder)
        (folder / "mind.json").write_bytes(b"{}")

    with store.writer(keep=5) as writer:
        with monkeypatch.context() as patch:
            patch.setattr(folders, "sync_tree", losing)
            with pytest.raises(
                NotReadBack, match="000002 was written, but reads back as something"
            ):
                writer.commit(mind(2), ORIGIN, reason="night")
        assert number_in(writer.commit(mind(3), ORIGIN, reason="night")) == 3
    assert store.numbers() == [1, 3]


# The order of syncing


def test_everything_is_synced_before_the_rename_and_the_rename_after(
    store: StateStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit(store, 1)
    happened: list[str] = []
    fsync, rename = os.fsync, Path.rename

    def note_sync(descriptor: int) -> None:
        happened.append(f"sync {Path(f'/proc/self/fd/{descriptor}').readlink().name}")
        fsync(descriptor)

    def note_rename(self: Path, target: Path) -> Path:
        happened.append(f"rename {Path(target).name}")
        return rename(self, target)

    monkeypatch.setattr(files.os, "fsync", note_sync)
    monkeypatch.setattr(Path, "rename", note_rename)
    commit(store, 2)
    at = happened.index("rename 000002")
    before = {each.removeprefix("sync ") for each in happened[:at]}
    assert set(FILES) <= before
    assert any(each.startswith(".tmp-") for each in before)
    assert happened[at + 1] == "sync generations"


# Any history


class Histories(RuleBasedStateMachine):
    """What a mind may live through. `minds` is what each generation should hold."""

    def __init__(self) -> None:
        super().__init__()
        import tempfile

        self.folder = tempfile.TemporaryDirectory()
        self.store = StateStore(Path(self.folder.name))
        self.minds: dict[int, int | None] = {}
        self.learned: dict[int, dict[int, int]] = {}
        self.saves: dict[str, tuple[int | None, dict[int, int]]] = {}
        self.highest = self.count = 0

    def teardown(self) -> None:
        self.folder.cleanup()

    @property
    def current(self) -> int | None:
        return max(self.minds, default=None)

    def _made(self, number: int, holds: int | None, learned: dict[int, int], keep: int) -> None:
        assert number == self.highest + 1
        self.highest = number
        self.minds[number], self.learned[number] = holds, learned
        for old in sorted(self.minds)[:-keep]:
            del self.minds[old]

    @rule(keep=st.integers(2, 4), ids=st.sets(st.integers(1, 20)))
    def commit(self, keep: int, ids: set[int]) -> None:
        self.count += 1
        before = self.learned[self.current] if self.current else {}
        with self.store.writer(keep=keep) as writer:
            made = writer.commit(mind(self.count), ORIGIN, reason="night", interactions=ids)
        number = made.manifest.number
        self._made(number, self.count, {**dict.fromkeys(ids, number), **before}, keep)

    @precondition(lambda self: self.minds)
    @rule(name=st.sampled_from("ab"))
    def save(self, name: str) -> None:
        assert self.current
        with self.store.writer(keep=9) as writer:
            writer.save(name, replacing=True)
        self.saves[name] = self.minds[self.current], self.learned[self.current]

    @rule(data=st.data())
    def restore(self, data: st.DataObject) -> None:
        known = {str(number): (mind, self.learned[number]) for number, mind in self.minds.items()}
        known |= self.saves
        if known:
            reference = data.draw(st.sampled_from(sorted(known)))
            with self.store.writer(keep=4) as writer:
                made = writer.restore(reference)
            self._made(made.manifest.number, *known[reference], keep=4)

    @rule()
    def reset(self) -> None:
        with self.store.writer(keep=4) as writer:
            made = writer.reset()
        self._made(made.manifest.number, None, {}, keep=4)

    @precondition(lambda self: len(self.minds) > 1)
    @rule(name=st.sampled_from(FILES), cut=st.integers(0, 30))
    def damage(self, name: str, cut: int) -> None:
        assert self.current
        path = self.store.folder(self.current) / name
        path.write_bytes(path.read_bytes()[:cut] + b"?")
        with self.store.writer(keep=9) as writer:
            (refusal,) = writer.load().refused
        assert refusal.folder == path.parent
        del self.minds[self.current]

    @invariant()
    def the_store_is_as_expected(self) -> None:
        assert self.store.numbers() == sorted(self.minds)
        assert self.store.save_names() == sorted(self.saves)
        found = self.store.newest()
        assert found.refused == ()
        if found.generation is not None:
            assert found.generation.manifest.number == self.current
            assert found.generation.manifest.learned_from("memory-1") == self.learned[self.current]
        for number, holds in self.minds.items():
            self._check(self.store.find(str(number)), holds)
        for name, (holds, _) in self.saves.items():
            self._check(self.store.find(name), holds)

    def _check(self, generation: Generation, holds: int | None) -> None:
        if holds is None:
            assert generation.mind() == {}
        else:
            assert number_in(generation) == holds


TestHistories = Histories.TestCase
TestHistories.settings = settings(max_examples=12, stateful_step_count=12)
