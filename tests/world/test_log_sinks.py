"""A log that cannot be written never reaches the work."""

import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from sovl_daemon.testing import SOVL, Daemon, running, until
from tests.conftest import ECHO
from tests.starts import environment, filled, mounted
from tests.world import situation


class Reader:
    """Whoever reads the daemon's standard output, by a named pipe; may leave and come back."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self._path = path
        self._descriptor: int | None = None

    def come(self) -> None:
        self._descriptor = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK)

    def leave(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
        self._descriptor = None

    def events(self, wanted: str) -> list[dict[str, object]]:
        """What is read until an event comes."""
        assert self._descriptor is not None
        found = b""
        for _ in until(30, 0.01):
            try:
                found += os.read(self._descriptor, 1 << 20)
            except BlockingIOError:
                continue
            if f'"event":"{wanted}"'.encode() in found and found.endswith(b"\n"):
                break
        return [json.loads(line) for line in found.splitlines() if line.startswith(b"{")]


@pytest.fixture(scope="module")
def heard(echo_package: Path) -> Iterator[tuple[Daemon, Reader]]:
    """A daemon that logs to a pipe, and its reader."""
    with tempfile.TemporaryDirectory(prefix="sovl") as folder:
        root = Path(folder)
        reader = Reader(root / "pipe")
        reader.come()
        options = {"logging.destination": "stdout", "logging.format": "json",
                   "logging.level": "debug"}  # fmt: skip
        wrapper = ("sh", "-c", f'exec "$@" >{root}/pipe', "sh")
        with running(root, packages=echo_package, wrapper=wrapper, **ECHO, **options) as daemon:
            yield daemon, reader
        reader.leave()


def talk(daemon: Daemon, times: int) -> None:
    with daemon.client() as client:
        for _ in range(times):
            assert client.ask("say", text="x")["text"]


def troubles(daemon: Daemon) -> list[str]:
    with daemon.client() as client:
        status = client.control("status")
    assert status["state"] == "ready"
    return list(status["troubles"])


@situation("clice-io/clice#514", "A reader that reads nothing does not freeze the daemon.")
def test_a_reader_that_stands_still(heard: tuple[Daemon, Reader]) -> None:
    daemon, reader = heard
    for _ in until(60, 0):
        talk(daemon, 50)  # some hundred lines: a pipe holds 64 KiB
        if troubles(daemon):
            break
    assert troubles(daemon) == ["log: nobody reads it"]
    reader.events("command.ended")
    for _ in until():
        reader.events("command.ended")
        if not troubles(daemon):
            break
    assert not troubles(daemon)


@situation("own", "When whoever reads the log goes, the daemon stays; when one comes, it tells.")
def test_a_reader_that_goes_and_another_that_comes(heard: tuple[Daemon, Reader]) -> None:
    daemon, reader = heard
    reader.leave()
    for _ in until(60, 0):
        talk(daemon, 200)
        found = troubles(daemon)
        if found and "lost" in found[0]:
            break
    assert found[0].startswith("log: Broken pipe, ")
    assert daemon.process.poll() is None
    reader.come()
    told = [each for each in reader.events("log.lost") if each["event"] == "log.lost"]
    assert int(str(told[0]["lines"])) > 0
    assert not troubles(daemon)


@situation("own", "A disk without room for the log costs log lines only, and they are counted.")
@pytest.mark.skipif(os.getuid() != 0, reason="only root may mount")
def test_a_log_on_a_full_disk(runtime: Path, echo_package: Path) -> None:
    with (
        mounted(runtime / "log") as disk,
        running(
            runtime,
            packages=echo_package,
            **ECHO,
            **{"logging.file": str(disk / "log.jsonl"), "logging.level": "debug"},
        ) as daemon,
    ):
        daemon.log_file = disk / "log.jsonl"
        ballast = filled(disk)
        for _ in until(60, 0):
            talk(daemon, 100)
            if troubles(daemon):
                break
        assert troubles(daemon)[0].startswith("log: No space left on device")
        assert b"Logging error" not in (runtime / "output").read_bytes()
        ballast.unlink()
        for _ in until():
            if not troubles(daemon):
                break
        assert not troubles(daemon)
        orders = [event["order"] for event in daemon.events()]
        assert orders == sorted(orders)


@situation("Backblaze/B2_Command_Line_Tool#1071", "Output cut off by head is no error to be told.")
@pytest.mark.parametrize("words", ["logs -n 5000 --json", "logs -f --json", "logs -n 5000"])
def test_a_pipe_into_head(tmp_path: Path, words: str) -> None:
    (tmp_path / "state").mkdir()
    line = b'{"time":"2030-01-01T00:00:00Z","level":"info","agent":"a","event":"' + b"x" * 100
    (tmp_path / "state" / "log.jsonl").write_bytes((line + b'"}\n') * 5000)
    if "-f" in words:
        words += " -n 5000"
    script = f'{{ "$@" {words}; echo $? >&2; }} | head -1'
    command = ["bash", "-c", script, "bash", *SOVL]
    found = subprocess.run(command, env=environment(tmp_path), capture_output=True)
    assert found.stdout.count(b"\n") == 1
    assert found.stderr == b"141\n"
