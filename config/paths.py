"""Where things are on disk."""

import errno
import os
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from config.faults import ConfigError, Fault
from config.settings import Settings

_APP = "sovl"
_SOCKET_PATH_LIMIT = 100  # bytes; the kernel's is 108, zmq and its lock files need the rest
_SAMPLE = Path(__file__).with_name("sample_log.jsonl")
_TEMPORARY = Path("/tmp")  # noqa: S108 - the directory in it is private and its owner checked


@dataclass(frozen=True)
class Paths:
    """The directories and files of one daemon, all absolute.

    Attributes:
        runtime_dir: Sockets.
        state_dir: What must survive.
        cache_dir: What can be fetched again.
        model_dir: Models.
        config_dir: The configuration file.
        log_file: The JSON log.
        keys_dir: CURVE keys.
        database: The SQLite file.
        training_file: The pairs to train on.

    """

    runtime_dir: Path
    state_dir: Path
    cache_dir: Path
    model_dir: Path
    config_dir: Path
    log_file: Path
    keys_dir: Path
    database: Path
    training_file: Path

    @classmethod
    def of(cls, settings: Settings, environ: Mapping[str, str] | None = None) -> "Paths":
        """Find the paths: settings first, then systemd's directories, then the user's own.

        Args:
            settings: `bus.runtime_dir`, `store.*` and `logging.file` are read.
            environ: The environment; None for that of the process.

        Raises:
            ConfigError: The runtime directory is too long for a socket, or no home is known.

        """
        environ = os.environ if environ is None else environ
        state = (
            _chosen(settings.store.state_dir)
            or _given(environ, "STATE_DIRECTORY")
            or _xdg(environ, "XDG_STATE_HOME")
            or _at_home(platformdirs.user_state_path)
        )
        cache = (
            _chosen(settings.store.cache_dir)
            or _given(environ, "CACHE_DIRECTORY")
            or _xdg(environ, "XDG_CACHE_HOME")
            or _at_home(platformdirs.user_cache_path)
        )
        paths = cls(
            runtime_dir=_chosen(settings.bus.runtime_dir) or _runtime_dir(environ),
            state_dir=state,
            cache_dir=cache,
            model_dir=_chosen(settings.store.model_dir) or cache / "models",
            config_dir=config_dir(environ),
            log_file=_chosen(settings.logging.file) or state / "log.jsonl",
            keys_dir=state / "keys",
            database=state / "sovl.db",
            training_file=_chosen(settings.store.training_file) or _SAMPLE,
        )
        paths.socket("")
        return paths

    def socket(self, name: str) -> Path:
        """Return the path of a unix socket.

        Raises:
            ConfigError: The path is too long to bind.

        """
        path = self.runtime_dir / name
        length = len(os.fsencode(path))
        if length < _SOCKET_PATH_LIMIT:
            return path
        problem = (
            f"the socket path {path} has {length} bytes, a socket path must have fewer than "
            f"{_SOCKET_PATH_LIMIT}: choose a shorter directory"
        )
        raise ConfigError([Fault("bus.runtime_dir", problem)])

    def ensure(self) -> None:
        """Create what is missing: 0700, the runtime directory 0770 so that its group may connect.

        The fallback runtime directory under the shared temporary directory is 0700.

        Raises:
            ConfigError: A directory cannot be made or written to, the log file or the database
                cannot be written, or the fallback belongs to someone else.

        """
        self.ensure_runtime()
        for directory in (self.state_dir, self.log_file.parent):
            _make(directory, 0o700)
            _check_writable(directory, os.W_OK | os.X_OK)
        for directory in (self.cache_dir, self.model_dir, self.keys_dir):
            _make(directory, 0o700)
        for file in (self.log_file, self.database):
            if file.is_dir():
                raise ConfigError([Fault(str(file), "is a directory where a file has to be")])
            if file.exists():
                _check_writable(file, os.W_OK)

    def ensure_runtime(self) -> None:
        """Create the runtime directory alone. Raises as `ensure`."""
        fallback = self.runtime_dir == _fallback_runtime_dir()
        _make(self.runtime_dir, 0o700 if fallback else 0o770)
        if fallback:  # in a folder for all, where another user could have laid it in wait
            status = self.runtime_dir.lstat()
            if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
                problem = "belongs to someone else: remove it or set bus.runtime_dir"
                raise ConfigError([Fault(str(self.runtime_dir), problem)])
            if status.st_mode & 0o077:
                problem = "is open to other users: make its mode 0700 or set bus.runtime_dir"
                raise ConfigError([Fault(str(self.runtime_dir), problem)])
        _check_writable(self.runtime_dir, os.W_OK | os.X_OK)


def config_dir(environ: Mapping[str, str]) -> Path:
    """Return the directory of the configuration file."""
    return (
        _given(environ, "CONFIGURATION_DIRECTORY")
        or _xdg(environ, "XDG_CONFIG_HOME")
        or _at_home(platformdirs.user_config_path)
    )


def default_path(environ: Mapping[str, str] | None = None) -> Path:
    """Return the path of the configuration file when none is named.

    Args:
        environ: The environment; None for that of the process.

    """
    return config_dir(os.environ if environ is None else environ) / "config.json"


def _runtime_dir(environ: Mapping[str, str]) -> Path:
    return (
        _given(environ, "RUNTIME_DIRECTORY")
        or _xdg(environ, "XDG_RUNTIME_DIR")
        or _fallback_runtime_dir()
    )


def _fallback_runtime_dir() -> Path:
    return _TEMPORARY / f"{_APP}-{os.getuid()}"


def _chosen(path: Path | None) -> Path | None:
    return None if path is None else _at_home(lambda _: path.expanduser())


def _at_home(find: Callable[[str], Path]) -> Path:
    try:
        return find(_APP)
    except RuntimeError as error:  # neither HOME nor the list of users knows one
        problem = "no home directory is known: set it, or XDG_CONFIG_HOME and its like"
        raise ConfigError([Fault("HOME", problem)]) from error


def _given(environ: Mapping[str, str], variable: str) -> Path | None:
    """Return the first directory systemd names; it separates several by colons."""
    first = environ.get(variable, "").partition(":")[0]
    return Path(first) if first else None


def _xdg(environ: Mapping[str, str], variable: str) -> Path | None:
    """Return our directory below an XDG one; the standard says to ignore a relative one."""
    base = Path(environ.get(variable, ""))
    return base / _APP if base.is_absolute() else None


def _make(directory: Path, mode: int) -> None:
    if directory.is_dir():
        return
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        directory.mkdir(mode)
        directory.chmod(mode)  # mkdir's own mode is cut by the umask
    except FileExistsError as error:
        if not directory.is_dir():  # it is there when another process was faster
            raise _unmakeable(directory, error) from error
    except OSError as error:
        raise _unmakeable(directory, error) from error


def _unmakeable(directory: Path, error: OSError) -> ConfigError:
    problem = f"the directory cannot be made: {error.strerror}"
    return ConfigError([Fault(str(directory), problem)])


def _check_writable(path: Path, mode: int) -> None:
    if os.access(path, mode):
        return
    read_only = os.statvfs(path).f_flag & os.ST_RDONLY
    number = errno.EROFS if read_only else errno.EACCES
    problem = f"cannot be written to: {os.strerror(number)}"
    raise ConfigError([Fault(str(path), problem)]) from OSError(number, os.strerror(number))
