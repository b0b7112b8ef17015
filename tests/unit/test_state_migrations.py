"""Generations of format 1 go on as format 2; what was on disk stays as it was."""

import hashlib
import json
from pathlib import Path

import pytest
from safetensors.numpy import save

from sovl_daemon.state import Damaged, StateStore
from tests.states import ORIGIN, mind, number_in


def write_format_1(store: StateStore, number: int, mind_json: str | None = None) -> Path:
    """A generation as format 1 had it, of mind `number`."""
    contents = mind(number)
    text = json.dumps({"number": number, "temperament": 0.25})
    files = {
        "fusion.safetensors": save(dict(contents.fusion)),
        "scaffold.safetensors": save(dict(contents.scaffold)),
        "token_map.json": json.dumps(contents.token_map).encode(),
        "mind.json": (text if mind_json is None else mind_json).encode(),
    }
    folder = store.folder(number)
    folder.mkdir(parents=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    manifest = {
        "format_version": 1,
        "number": number,
        "parent": None,
        "created": "2025-11-21T12:00:00+00:00",
        "reason": "night",
        "base": "base",
        "scaffold": "scaffold",
        "metrics": {"loss": 2.5},
        "interactions": [4, 1, 2],
        "files": {
            name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            for name, data in files.items()
        },
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def contents_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def store(tmp_path: Path) -> StateStore:
    return StateStore(tmp_path)


def test_an_old_generation_goes_on_as_a_new_one(store: StateStore) -> None:
    write_format_1(store, 3)
    with store.writer(keep=2) as writer:
        loaded = writer.load()
        assert loaded.generation is not None
        manifest = loaded.generation.manifest
        assert loaded.migrated_from == 3
        assert (manifest.number, manifest.parent, manifest.format_version) == (4, 3, 3)
        assert manifest.reason == "migrated from format 1"
        assert manifest.learned_from("whichever") == {1: 3, 2: 3, 4: 3}
        assert loaded.generation.mind() == {"number": 3, "temperament": {"score": 0.25}}
        assert number_in(loaded.generation) == 3
        assert writer.load().migrated_from is None
        assert writer.commit(mind(5), ORIGIN, reason="night").manifest.learned_from("memory-1")
    assert store.numbers() == [4, 5]
    with store.writer(keep=9) as writer:
        assert writer.load().migrated_from is None


def test_the_old_one_stays_as_it_was(store: StateStore) -> None:
    folder = write_format_1(store, 3)
    before = contents_of(folder)
    with store.writer(keep=2) as writer:
        writer.load()
    assert contents_of(folder) == before


def test_readers_read_both_formats_and_change_nothing(store: StateStore) -> None:
    folder = write_format_1(store, 3)
    before = contents_of(folder)
    found = store.find("current").manifest
    assert (found.format_version, found.interactions) == (1, [1, 2, 4])
    assert [each.fault for each in store.history()] == [""]
    assert contents_of(folder) == before
    assert store.numbers() == [3]


def test_a_save_of_an_old_format_can_be_loaded(store: StateStore) -> None:
    write_format_1(store, 3).rename(store.root / "old")
    store.saves.mkdir()
    (store.root / "old").rename(store.saves / "old")
    with store.writer(keep=5) as writer:
        back = writer.restore("old")
    assert (back.manifest.number, back.manifest.format_version) == (1, 3)
    assert back.mind()["temperament"] == {"score": 0.25}


def test_a_damaged_old_generation_is_refused(store: StateStore) -> None:
    folder = write_format_1(store, 3)
    (folder / "token_map.json").write_text("{}")
    with pytest.raises(Damaged, match=r"generation 3: token_map.json: 2 bytes instead of"):
        store.find("3")


def test_an_old_manifest_that_is_none_is_refused(store: StateStore) -> None:
    folder = write_format_1(store, 3)
    manifest = json.loads((folder / "manifest.json").read_text())
    for faulty in (
        {name: value for name, value in manifest.items() if name != "interactions"},
        manifest | {"interactions": 7},
        manifest | {"interactions": ["a", 1]},
        manifest | {"number": "x"},
    ):
        (folder / "manifest.json").write_text(json.dumps(faulty))
        with pytest.raises(Damaged, match="cannot be read as a manifest"):
            store.find("3")


@pytest.mark.parametrize("text", ["[1]", "{", "7"])
def test_what_cannot_be_migrated_is_kept_and_told(store: StateStore, text: str) -> None:
    write_format_1(store, 3)
    write_format_1(store, 4, mind_json=text)
    with store.writer(keep=5) as writer:
        loaded = writer.load()
    assert loaded.generation is not None
    assert loaded.migrated_from == 3
    assert number_in(loaded.generation) == 3
    (refusal,) = loaded.refused
    assert "cannot be migrated from format 1" in refusal.reason
    assert refusal.moved_to == store.damaged / "000004"
