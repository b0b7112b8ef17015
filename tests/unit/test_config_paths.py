"""Where things are on disk, and who may enter."""

import os
import stat
from pathlib import Path

import platformdirs
import pytest

import config.paths
from config import ConfigError, Paths, Settings, default_path, with_value


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    names = ("CONFIG", "STATE", "CACHE")
    homes = {f"XDG_{name}_HOME": str(tmp_path / name.lower()) for name in names}
    return homes | {"XDG_RUNTIME_DIR": str(tmp_path / "run")}


def test_a_user_has_their_own_directories(home: dict[str, str], tmp_path: Path) -> None:
    paths = Paths.of(Settings(), home)
    assert paths == Paths(
        runtime_dir=tmp_path / "run/sovl",
        state_dir=tmp_path / "state/sovl",
        cache_dir=tmp_path / "cache/sovl",
        model_dir=tmp_path / "cache/sovl/models",
        config_dir=tmp_path / "config/sovl",
        log_file=tmp_path / "state/sovl/log.jsonl",
        keys_dir=tmp_path / "state/sovl/keys",
        database=tmp_path / "state/sovl/sovl.db",
        training_file=Path(config.paths.__file__).parent / "sample_log.jsonl",
    )
    assert default_path(home) == tmp_path / "config/sovl/config.json"


def test_the_directories_of_systemd_come_before_those_of_a_user(home: dict[str, str]) -> None:
    names = ("RUNTIME", "STATE", "CACHE", "CONFIGURATION")
    given = {f"{name}_DIRECTORY": f"/given/{name}:/second" for name in names}
    paths = Paths.of(Settings(), home | given)
    assert paths.runtime_dir == Path("/given/RUNTIME")
    assert paths.state_dir == Path("/given/STATE")
    assert paths.model_dir == Path("/given/CACHE/models")
    assert paths.config_dir == Path("/given/CONFIGURATION")


def test_the_settings_come_first(home: dict[str, str]) -> None:
    settings = Settings()
    chosen = {
        "bus.runtime_dir": "/r",
        "store.state_dir": "/s",
        "store.model_dir": "~/m",
        "store.training_file": "~/pairs.jsonl",
        "logging.file": "/l/log",
    }
    for key, text in chosen.items():
        settings = with_value(settings, key, text)
    paths = Paths.of(settings, home | {"RUNTIME_DIRECTORY": "/x", "STATE_DIRECTORY": "/y"})
    assert paths.runtime_dir == Path("/r")
    assert paths.database == Path("/s/sovl.db")
    assert paths.model_dir == Path.home() / "m"
    assert paths.training_file == Path.home() / "pairs.jsonl"
    assert paths.log_file == Path("/l/log")


def test_without_any_hint_the_platform_decides() -> None:
    paths = Paths.of(Settings(), {"XDG_STATE_HOME": "relative", "XDG_RUNTIME_DIR": ""})
    assert paths.state_dir == platformdirs.user_state_path("sovl")
    assert paths.cache_dir == platformdirs.user_cache_path("sovl")
    assert paths.config_dir == platformdirs.user_config_path("sovl")
    assert paths.runtime_dir == Path(f"/tmp/sovl-{os.getuid()}")


def test_ensure_makes_private_directories(home: dict[str, str]) -> None:
    paths = Paths.of(Settings(), home)
    before = os.umask(0o077)
    try:
        paths.ensure()
    finally:
        os.umask(before)
    assert mode(paths.runtime_dir) == 0o770
    for directory in (paths.state_dir, paths.cache_dir, paths.model_dir, paths.keys_dir):
        assert mode(directory) == 0o700
    assert not paths.config_dir.exists()


def test_ensure_leaves_the_mode_of_what_is_there(home: dict[str, str]) -> None:
    paths = Paths.of(Settings(), home)
    paths.state_dir.mkdir(parents=True)
    paths.state_dir.chmod(0o750)
    paths.ensure()
    paths.ensure()
    assert mode(paths.state_dir) == 0o750


def test_ensure_names_what_is_in_the_way(home: dict[str, str], tmp_path: Path) -> None:
    paths = Paths.of(Settings(), home)
    paths.cache_dir.parent.mkdir()
    paths.cache_dir.write_text("")
    with pytest.raises(ConfigError) as caught:
        paths.ensure()
    assert str(caught.value) == f"{tmp_path}/cache/sovl: the directory cannot be made: File exists"


def test_ensure_names_what_cannot_be_made(home: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("")
    with pytest.raises(ConfigError) as caught:
        Paths.of(Settings(), home).ensure()
    assert str(caught.value).startswith(f"{tmp_path}/cache/sovl: the directory cannot be made: ")


@pytest.fixture
def fallback(tmp_path: Path, home: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Paths:
    monkeypatch.setattr(config.paths, "_TEMPORARY", tmp_path)
    return Paths.of(Settings(), home | {"XDG_RUNTIME_DIR": ""})


def test_the_fallback_runtime_directory_is_private(fallback: Paths, tmp_path: Path) -> None:
    fallback.ensure()
    assert fallback.runtime_dir == tmp_path / f"sovl-{os.getuid()}"
    assert mode(fallback.runtime_dir) == 0o700


def test_an_open_fallback_is_refused(fallback: Paths) -> None:
    fallback.runtime_dir.mkdir()
    fallback.runtime_dir.chmod(0o777)
    with pytest.raises(ConfigError, match="open to other users: make its mode 0700"):
        fallback.ensure()


def test_a_link_in_place_of_the_fallback_is_refused(fallback: Paths, tmp_path: Path) -> None:
    (tmp_path / "trap").mkdir()
    fallback.runtime_dir.symlink_to(tmp_path / "trap")
    with pytest.raises(ConfigError, match="belongs to someone else"):
        fallback.ensure()


def test_the_fallback_of_another_user_is_refused(
    fallback: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    fallback.ensure()
    owner = os.getuid()
    monkeypatch.setattr(config.paths, "_fallback_runtime_dir", lambda: fallback.runtime_dir)
    monkeypatch.setattr(os, "getuid", lambda: owner + 1)
    with pytest.raises(ConfigError, match="belongs to someone else"):
        fallback.ensure()


def test_a_socket_path_must_fit_the_kernel() -> None:
    paths = Paths.of(with_value(Settings(), "runtime_dir", "/" + "r" * 80), {})
    assert paths.socket("x" * 17) == Path("/" + "r" * 80, "x" * 17)
    with pytest.raises(ConfigError) as caught:
        paths.socket("x" * 18)
    assert "has 100 bytes, a socket path must have fewer than 100" in str(caught.value)


def test_a_runtime_directory_too_long_for_any_socket_is_refused_at_once() -> None:
    settings = with_value(Settings(), "runtime_dir", "/" + "ü" * 50)
    with pytest.raises(ConfigError, match=r"bus\.runtime_dir: the socket path .* has 101 bytes"):
        Paths.of(settings, {})
