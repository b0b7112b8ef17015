"""Starts that fail: every way that the suite knows, with its documented exit code."""

import json
import os
import resource
import sqlite3
import subprocess
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path

from sovl_daemon.testing import SOVL

# What root may do, and other people may not.
UNPRIVILEGED = ("setpriv", "--bounding-set=-dac_override,-fowner")
NOBODY = ("setpriv", "--reuid=12345", "--clear-groups", "--inh-caps=+dac_read_search",
          "--ambient-caps=+dac_read_search")  # fmt: skip


@dataclass(frozen=True)
class Way:
    """How a start fails: what is prepared in a folder, the words of the command, and its code."""

    code: int
    says: str
    prepare: Callable[[Path], object] = lambda root: None
    words: Sequence[str] = ()
    wrapper: Sequence[str] = ()
    environment: dict[str, str] = field(default_factory=dict)
    limits: Callable[[], object] | None = None
    mount: bool = False
    around: Callable[[Path], AbstractContextManager[object]] = lambda root: nullcontext()


def environment(root: Path) -> dict[str, str]:
    """That of a daemon which has all its folders below `root`."""
    kept = {name: text for name, text in os.environ.items() if not name.startswith("SOVL_")}
    return kept | {
        "XDG_CONFIG_HOME": str(root / "config"),
        "SOVL_BUS__RUNTIME_DIR": str(root / "run"),
        "SOVL_STORE__STATE_DIR": str(root / "state"),
        "SOVL_AGENTS__DISABLED": json.dumps([]),
    }


def start(root: Path, way: Way, timeout_s: float = 100.0) -> subprocess.CompletedProcess[bytes]:
    """Try to start in this way, and wait for the end."""
    way.prepare(root)
    with way.around(root):
        return subprocess.run(
            [*way.wrapper, *SOVL, "run", *(word.format(root=root) for word in way.words)],
            env=environment(root) | {k: v.format(root=root) for k, v in way.environment.items()},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            preexec_fn=way.limits,
            timeout=timeout_s,
        )


def verdict(way: Way, found: subprocess.CompletedProcess[bytes]) -> str:
    """What was not as it has to be; empty if all was."""
    lines = found.stderr.decode(errors="replace").splitlines()
    if found.returncode != way.code:
        return f"exit code {found.returncode}, not {way.code}: {lines[-3:]}"
    if len(lines) != 1 or not lines[0].startswith("sovl: ") or way.says not in lines[0]:
        return f"not one line with {way.says!r}: {lines[-3:]}"
    return ""


def _config(text: str) -> Callable[[Path], object]:
    def write(root: Path) -> None:
        file = root / "config" / "sovl" / "config.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    return write


def _state(name: str, content: bytes = b"") -> Callable[[Path], object]:
    def write(root: Path) -> None:
        (root / "state").mkdir(exist_ok=True)
        (root / "state" / name).write_bytes(content)

    return write


def _closed(path: str, owner: int = 0) -> Callable[[Path], object]:
    def close(root: Path) -> None:
        (root / path).mkdir(parents=True)
        (root / path).chmod(0o500)
        os.chown(root / path, owner, owner)

    return close


def _newer(root: Path) -> None:
    (root / "state").mkdir()
    database = sqlite3.connect(root / "state" / "sovl.db")
    database.execute("PRAGMA user_version=999")
    database.close()


@contextmanager
def mounted(path: Path, size: str = "1m", *options: str):
    """A small file system of its own."""
    path.mkdir(parents=True, exist_ok=True)
    words = ["-t", "tmpfs", "-o", ",".join((f"size={size}", *options)), "tmpfs", str(path)]
    subprocess.run(["mount", *words], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


def filled(disk: Path) -> Path:
    """Fill a disk to its last byte; the file that does it."""
    ballast = disk / "ballast"
    with ballast.open("ab", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))
    return ballast


@contextmanager
def read_only(path: Path):
    """A folder in which nothing new can be made; what is open for writing already stays so."""
    subprocess.run(["mount", "--bind", str(path), str(path)], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", str(path)], check=True)
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


@contextmanager
def _read_only(root: Path):
    with mounted(root / "state") as path:
        subprocess.run(["mount", "-o", "remount,ro", str(path)], check=True)
        yield


def _fifo(root: Path) -> None:
    os.mkfifo(root / "pipe")


WAYS: dict[str, Way] = {
    "configuration: not JSON": Way(78, "not JSON at line 1", _config("{")),
    "configuration: empty": Way(78, "not JSON", _config("")),
    "configuration: unknown section": Way(78, "did you mean", _config('{"core_confg": {}}')),
    "configuration: several faults": Way(78, "; ", _config('{"a": {}, "b": {}}')),
    "configuration: wrong value": Way(
        78, "bus.max_message_bytes", _config('{"bus": {"max_message_bytes": "x"}}')
    ),
    "configuration: not text": Way(78, "not UTF-8", lambda root: (
        _config("")(root), (root / "config/sovl/config.json").write_bytes(b"\xff\xfe{}"))),
    "configuration: not there": Way(78, "no such file", words=("--config", "{root}/none.json")),
    "configuration: a folder": Way(78, "Is a directory", words=("--config", "{root}")),
    "configuration: a pipe": Way(
        78, "not a regular file", _fifo, words=("--config", "{root}/pipe")
    ),
    "configuration: a device": Way(78, "not a regular file", words=("--config", "/dev/zero")),
    "configuration: a loop of links": Way(
        78, "symbolic links", lambda root: (root / "loop").symlink_to("loop"),
        words=("--config", "{root}/loop"),
    ),
    "option: no value": Way(78, "KEY=VALUE", words=("--set", "nonsense")),
    "option: unknown key": Way(78, "did you mean", words=("--set", "logging.levl=debug")),
    "variable: unknown key": Way(78, "SOVL_LOGGING__LEVL", environment={"SOVL_LOGGING__LEVL": "x"}),
    "no home": Way(
        78, "no home directory", wrapper=(*NOBODY, "env", "-u", "HOME", "-u", "XDG_CONFIG_HOME")
    ),
    "state: is a file": Way(
        78, "File exists", lambda root: (root / "state").touch()
    ),
    "state: below a file": Way(
        78, "cannot be made", lambda root: (root / "x").touch(),
        environment={"SOVL_STORE__STATE_DIR": "{root}/x/state"},
    ),
    "state: of somebody else": Way(
        78, "Permission denied", _closed("state", 12345), wrapper=UNPRIVILEGED
    ),
    "state: database of somebody else": Way(
        78, "Permission denied", lambda root: (
            _state("sovl.db")(root), (root / "state/sovl.db").chmod(0o400)),
        wrapper=UNPRIVILEGED,
    ),
    "state: database is a folder": Way(
        78, "is a directory", lambda root: (root / "state/sovl.db").mkdir(parents=True)
    ),
    "state: database is none": Way(
        78, "restore it from a backup", _state("sovl.db", b"nonsense " * 1000)
    ),
    "state: of a newer version": Way(78, "newer", _newer),
    "state: mind is empty": Way(78, "mind.json", _state("mind.json")),
    "state: read-only": Way(75, "Read-only", around=_read_only, mount=True),
    "runtime: of somebody else": Way(
        78, "Permission denied", _closed("run", 12345), wrapper=UNPRIVILEGED
    ),
    "runtime: is a file": Way(78, "File exists", lambda root: (root / "run").touch()),
    "runtime: too long": Way(
        78, "shorter directory", environment={"SOVL_BUS__RUNTIME_DIR": "/tmp/" + "x" * 120}
    ),
    "log: is a folder": Way(
        78, "is a directory", environment={"SOVL_LOGGING__FILE": "{root}"}
    ),
    "log: folder of somebody else": Way(
        78, "Permission denied", _closed("log", 12345), wrapper=UNPRIVILEGED,
        environment={"SOVL_LOGGING__FILE": "{root}/log/x.jsonl"},
    ),
    "keys: none for tcp": Way(
        78, "keys only", environment={"SOVL_BUS__LISTEN": "tcp://127.0.0.1:7999"}
    ),
    "agents: unknown": Way(
        78, "no agent", environment={"SOVL_AGENTS__DISABLED": '["nobody"]'}
    ),
    "model: unknown": Way(
        78, "core_config.base_model_name", words=("--set", "base_model_name=no-such-model"),
        environment={"HF_HUB_OFFLINE": "1", "SOVL_STORE__MODEL_DIR": "{root}/models"},
    ),
    "descriptors: too few": Way(
        78, "open files", limits=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (12, 12))
    ),
}  # fmt: skip
