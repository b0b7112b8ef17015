"""One daemon for its directories, whatever others remove."""

import shutil
from pathlib import Path

import pytest

from config import Paths, Settings
from config.edit import with_value
from sovl_daemon.instance import AlreadyRunning, Displaced, Instance


def paths(root: Path, runtime: str = "run", state: str = "state") -> Paths:
    settings = with_value(Settings(), "bus.runtime_dir", str(root / runtime))
    settings = with_value(settings, "store.state_dir", str(root / state))
    found = Paths.of(settings, {"XDG_CACHE_HOME": str(root / "cache")})
    found.ensure()
    return found


@pytest.mark.parametrize(
    ("other", "says"),
    [
        ({"state": "other"}, "talk to it with: sovl console"),
        ({"runtime": "other"}, "XDG_RUNTIME_DIR"),
    ],
)
def test_a_second_one_in_either_directory_is_refused(
    tmp_path: Path, other: dict[str, str], says: str
) -> None:
    second = Instance(paths(tmp_path, **other))
    with Instance(paths(tmp_path)), pytest.raises(AlreadyRunning, match=says), second:
        pass
    with second:
        pass


@pytest.mark.parametrize("removed", ["run", "run/hub.lock", "state/hub.lock"])
def test_what_was_removed_is_taken_anew(tmp_path: Path, removed: str) -> None:
    ours = paths(tmp_path)
    with Instance(ours) as instance:
        assert instance.check()
        gone = tmp_path / removed
        shutil.rmtree(gone) if gone.is_dir() else gone.unlink()
        with pytest.raises(AlreadyRunning), Instance(paths(tmp_path)):  # before it was noticed
            pass
        assert not instance.check()
        instance.renew()
        assert instance.check()
        with pytest.raises(AlreadyRunning), Instance(ours):
            pass


def test_another_took_its_place(tmp_path: Path) -> None:
    ours = paths(tmp_path)
    with Instance(ours) as instance:
        (tmp_path / "run" / "hub.lock").unlink()
        (tmp_path / "state" / "hub.lock").unlink()
        with Instance(ours), pytest.raises(Displaced, match="already running"):
            instance.renew()


@pytest.mark.parametrize("moved", [True, False])
def test_a_state_directory_that_is_gone(tmp_path: Path, moved: bool) -> None:
    ours = paths(tmp_path)
    with Instance(ours) as instance:
        if moved:
            ours.state_dir.rename(tmp_path / "elsewhere")
        else:
            shutil.rmtree(ours.state_dir)
            ours.state_dir.mkdir()
        with pytest.raises(Displaced, match="removed" if moved else "replaced"):
            instance.check()
