"""A file is replaced as a whole or not at all, and is on disk before it counts."""

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from agents.mind import MindKeeper
from bus.auth import KeyRing
from config import Paths, Settings, save
from sovl_daemon.durable import replacing, sweep
from sovl_daemon.engine.judging.probe import Probe, ProbeCard, save_probe
from sovl_daemon.memory.pairs import Pair, write_pairs
from sovl_daemon.mind.state import Mind


def write_mind(folder: Path) -> Path:
    keeper = MindKeeper(Settings(), Paths.of(Settings()), "hub")
    keeper._file, keeper._mind = folder / "mind.json", Mind(exposure=7)
    keeper._write()
    return keeper._file


def write_settings(folder: Path) -> Path:
    save(Settings(), folder / "config.json")
    return folder / "config.json"


def write_some_pairs(folder: Path) -> Path:
    write_pairs(folder / "pairs.jsonl", [Pair("a", "b")])
    return folder / "pairs.jsonl"


def write_probe(folder: Path) -> Path:
    card = ProbeCard(model="tiny", identity="1", layer=1, band=0.1)
    save_probe(Probe(card, torch.ones(3, 2), torch.ones(2), 0.0, {}), folder / "probe")
    return folder / "probe.json"


def write_key(folder: Path) -> Path:
    ring = KeyRing(folder)
    ring.allow("me", ring.new("me"))
    return ring.allowed_dir / "me.key"


@pytest.mark.parametrize(
    "write", [write_mind, write_settings, write_some_pairs, write_probe, write_key]
)
def test_it_is_synced_before_the_rename_and_its_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[Path], Path]
) -> None:
    happened: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def note_sync(descriptor: int) -> None:
        happened.append(f"sync {Path(f'/proc/self/fd/{descriptor}').readlink()}")
        fsync(descriptor)

    def note_replace(self: Path, target: Path) -> Path:
        happened.append(f"{self} becomes {target}")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(Path, "replace", note_replace)
    path = write(tmp_path)
    (at,) = (at for at, each in enumerate(happened) if each.endswith(f"becomes {path}"))
    beside = happened[at].partition(" becomes ")[0]
    assert happened[at - 1] == f"sync {beside}"
    assert happened[at + 1] == f"sync {path.parent}"


def test_what_fails_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), replacing(path) as file:
        file.write(b"new")
        raise ZeroDivisionError
    assert [(each.name, each.read_text()) for each in tmp_path.iterdir()] == [("file", "old")]


def test_nobody_reads_meanwhile_what_is_for_its_owner(tmp_path: Path) -> None:
    with replacing(tmp_path / "file", mode=0o600) as file:
        meanwhile = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
    assert (meanwhile, stat.S_IMODE((tmp_path / "file").stat().st_mode)) == (0o600, 0o600)


def test_what_a_killed_writer_left_is_swept_away(tmp_path: Path) -> None:
    writing = replacing(tmp_path / "mind.json")
    writing.__enter__().write(b"half")
    (left,) = tmp_path.iterdir()
    (tmp_path / "mind.json").touch()
    sweep(tmp_path)
    assert [each.name for each in tmp_path.iterdir()] == ["mind.json"]
    assert not left.exists()


def test_a_name_may_be_as_long_as_names_can_be(tmp_path: Path) -> None:
    path = tmp_path / ("ä" * 127)
    with replacing(path) as file:
        file.write(b"whole")
    assert path.read_bytes() == b"whole"
