"""A sink of the log never raises, never waits, and tells what it lost."""

import os
import pty
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from sovl_daemon.log_sink import FileTarget, Sink, StreamTarget
from sovl_daemon.testing import until


class Told(list[tuple[int, str]]):
    """What a sink says of lines that were lost."""

    def __call__(self, lines: int, reason: str) -> None:
        self.append((lines, reason))


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    yield reader, writer
    for end in (reader, writer):
        try:
            os.close(end)
        except OSError:
            continue


def numbered(count: int, size: int = 1000) -> list[bytes]:
    return [f"{number:06d}".encode().ljust(size - 1, b".") + b"\n" for number in range(count)]


def read_all(reader: int, wanted: int) -> bytes:
    os.set_blocking(reader, False)
    found = b""
    for _ in until(10, 0.01):
        try:
            found += os.read(reader, 1 << 20)
        except BlockingIOError:
            if len(found) >= wanted:
                break
    return found


def test_a_pipe_that_nobody_reads_costs_no_time_and_little_memory(
    pipe: tuple[int, int], told: Told
) -> None:
    reader, writer = pipe
    sink = Sink(StreamTarget(writer), told)
    lines = numbered(3000)
    for line in lines:
        sink.write(line)  # a blocking one would never return
    assert sink.trouble == "nobody reads it"
    assert sink.lost > 1000
    kept = len(lines) - sink.lost
    found = read_all(reader, 1000 * kept)
    assert found == b"".join(lines[:kept])
    for _ in until():
        if told:
            break
    assert told == [(3000 - kept, "nobody reads it")]
    sink.write(b"again\n")
    assert read_all(reader, 6) == b"again\n"
    sink.close()


def test_the_pipe_itself_stays_as_others_know_it(pipe: tuple[int, int], told: Told) -> None:
    sink = Sink(StreamTarget(pipe[1]), told)
    assert os.get_blocking(pipe[1])
    sink.close()


def test_a_reader_that_is_gone(pipe: tuple[int, int], told: Told) -> None:
    reader, writer = pipe
    sink = Sink(StreamTarget(writer), told)
    os.close(reader)
    for line in numbered(2000):
        sink.write(line)
    assert sink.trouble == "Broken pipe"
    sink.close()


def test_a_terminal_that_stands_still(told: Told) -> None:
    main, terminal = pty.openpty()
    sink = Sink(StreamTarget(terminal), told)
    for line in numbered(3000):
        sink.write(line)
    assert sink.lost
    sink.close()
    os.close(main)
    os.close(terminal)


def test_a_socket_that_nobody_reads(told: Told) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        sink = Sink(StreamTarget(ours.fileno()), told)
        for line in numbered(3000):
            sink.write(line)
        assert sink.lost
        assert ours.getblocking()
        sink.close()


def test_what_is_kept_leaves_without_another_line(pipe: tuple[int, int], told: Told) -> None:
    reader, writer = pipe
    sink = Sink(StreamTarget(writer), told)
    lines = numbered(200)
    for line in lines:
        sink.write(line)
    assert read_all(reader, 200_000) == b"".join(lines)
    assert not told
    sink.close()


def test_a_close_does_not_wait_for_a_reader(pipe: tuple[int, int], told: Told) -> None:
    sink = Sink(StreamTarget(pipe[1]), told)
    for line in numbered(200):
        sink.write(line)
    sink.close(0.1)  # else it never comes back


def target(path: Path, **changed: int) -> FileTarget:
    return FileTarget(path, **{"max_bytes": 1 << 20, "backups": 2, **changed})


def test_a_file_that_others_move_or_remove_is_made_anew(tmp_path: Path, told: Told) -> None:
    path = tmp_path / "folder" / "log"
    sink = Sink(target(path), told)
    sink.write(b"one\n")
    path.rename(tmp_path / "moved")
    sink.write(b"two\n")
    assert path.read_bytes() == b"two\n"
    path.unlink()
    path.parent.rmdir()
    sink.write(b"three\n")
    assert path.read_bytes() == b"three\n"
    assert (tmp_path / "moved").read_bytes() == b"one\n"
    sink.close()


def test_a_file_that_others_cut_goes_on_at_its_beginning(tmp_path: Path, told: Told) -> None:
    sink = Sink(target(tmp_path / "log"), told)
    sink.write(b"one\n")
    os.truncate(tmp_path / "log", 0)
    sink.write(b"two\n")
    assert (tmp_path / "log").read_bytes() == b"two\n"
    sink.close()


def test_half_a_line_of_whoever_wrote_before_is_ended(tmp_path: Path, told: Told) -> None:
    (tmp_path / "log").write_bytes(b'{"event":"ha')
    sink = Sink(target(tmp_path / "log"), told)
    sink.write(b"{}\n")
    assert (tmp_path / "log").read_bytes() == b'{"event":"ha\n{}\n'
    sink.close()


def test_a_file_that_cannot_be_opened_is_tried_again(tmp_path: Path, told: Told) -> None:
    path = tmp_path / "log"
    path.mkdir()
    sink = Sink(target(path), told)
    sink.write(b"one\n")
    assert sink.trouble == "Is a directory"
    path.rmdir()
    for _ in until():
        if not sink.trouble:
            break
    assert path.read_bytes() == b"one\n"
    sink.close()


def test_a_device_is_no_file_to_rotate(told: Told) -> None:
    sink = Sink(target(Path("/dev/null"), max_bytes=10), told)
    for line in numbered(10):
        sink.write(line)
    assert not sink.trouble
    sink.close()


def test_a_full_device(told: Told) -> None:
    sink = Sink(target(Path("/dev/full")), told)
    for line in numbered(1500):
        sink.write(line)
    assert sink.trouble == "No space left on device"
    assert sink.lost
    sink.close()
