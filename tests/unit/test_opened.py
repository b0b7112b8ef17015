"""Whether an opened file is still the one at its path."""

from pathlib import Path

import pytest

from sovl_daemon.opened import Opened


@pytest.fixture(params=["file", "folder"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Opened:
    path = tmp_path / "it"
    path.touch() if request.param == "file" else path.mkdir()
    return Opened(path)


def test_what_is_there(opened: Opened) -> None:
    assert opened.fault() == ""


def test_what_was_removed_and_made_anew(opened: Opened) -> None:
    for _ in range(50):  # often enough for a number of an inode to come back
        opened.path.rmdir() if opened.path.is_dir() else opened.path.unlink()
        assert opened.fault() == "removed"
        opened.path.touch()
        assert opened.fault() == "replaced"


def test_what_was_moved_away_and_back(opened: Opened) -> None:
    elsewhere = opened.path.rename(opened.path.with_name("other"))
    assert opened.fault() == "removed"
    elsewhere.rename(opened.path)
    assert opened.fault() == ""


def test_a_folder_above_that_was_removed(tmp_path: Path) -> None:
    path = tmp_path / "above" / "it"
    path.parent.mkdir()
    path.touch()
    opened = Opened(path)
    path.unlink()
    path.parent.rmdir()
    assert opened.fault() == "removed"
    path.parent.touch()
    assert opened.fault() == "removed"


def test_nothing_to_open(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Opened(tmp_path / "it")
