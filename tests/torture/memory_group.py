"""A control group with a limit of memory, and a ballast that fills it: pressure, bounded."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sovl_daemon.limits.control_group import ControlGroups, memory_of

MB = 1 << 20
MOST = 3 << 30  # bytes, in no case more

# Grows by a MB at a time to what a line on standard input says, so many a second, and frees what
# is beyond it; ends with its standard input.
_BALLAST = """
import mmap, sys, threading, time
held, wanted, per_s = [], 0, 1
def listen():
    global wanted, per_s
    for line in sys.stdin:
        per_s, wanted = map(int, line.split())
    wanted = -1
threading.Thread(target=listen, daemon=True).start()
while wanted >= 0:
    if len(held) < wanted:
        block = mmap.mmap(-1, 1 << 20)
        block.write(b"x" * (1 << 20))
        held.append(block)
        time.sleep(1 / per_s)
    else:
        while len(held) > wanted:
            held.pop().close()
        time.sleep(0.05)
"""


class NoGroup(Exception):
    """No control group with a limit can be made here."""


class MemoryGroup:
    """A group beside or below our own. The version is that of the machine.

    Raises:
        NoGroup: this user may not make one.

    """

    def __init__(self) -> None:
        places = [place for each in ControlGroups().own("memory") if (place := _place(each))]
        for place in places:
            self.folder = place / f"sovl-{os.getpid()}"
            with suppress(OSError):
                self.folder.mkdir()
                self._v2 = (self.folder / "memory.max").exists()
                if self._v2 or (self.folder / "memory.limit_in_bytes").exists():
                    return
                self.folder.rmdir()
        raise NoGroup("no control group can be made here: run it as root, with cgroups writable")

    @property
    def wrapper(self) -> list[str]:
        """What starts a command in it."""
        enter = f'echo $$ > "{self.folder}/cgroup.procs" && exec "$@"'
        return ["sh", "-c", enter, "sh"]

    def limit(self, size: int) -> None:
        """Let it use so many bytes, and no swap."""
        if size > MOST:
            raise ValueError(f"{size} bytes are not allowed: at most {MOST}")
        name = "memory.max" if self._v2 else "memory.limit_in_bytes"
        (self.folder / name).write_text(str(size))
        with suppress(OSError):  # not every kernel counts swap
            if self._v2:
                (self.folder / "memory.swap.max").write_text("0")
            else:
                (self.folder / "memory.memsw.limit_in_bytes").write_text(str(size))

    @property
    def used(self) -> int:
        """Bytes in use without the caches that can be dropped."""
        room = memory_of(self.folder)
        return room.used if room else 0

    @property
    def kills(self) -> int:
        """How many processes the kernel has killed in it for want of memory."""
        name = "memory.events" if self._v2 else "memory.oom_control"
        rows = (line.split() for line in (self.folder / name).read_text().splitlines())
        return next(int(row[1]) for row in rows if row[0] == "oom_kill")

    def close(self) -> None:
        """End what still lives in it, and remove it."""
        for _ in range(100):
            with suppress(OSError):
                self.folder.rmdir()
                return
            for pid in (self.folder / "cgroup.procs").read_text().split():
                with suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            time.sleep(0.05)


def _place(folder: Path) -> Path | None:
    """Where a group beside or below `folder` may be: version 2 has no processes in inner nodes."""
    return folder.parent if (folder / "memory.max").exists() else folder


@contextmanager
def memory_group() -> Iterator[MemoryGroup]:
    """A group that is removed at the end."""
    group = MemoryGroup()
    try:
        yield group
    finally:
        group.close()


class Ballast:
    """A process in the group that holds as many MB as it is told."""

    def __init__(self, group: MemoryGroup) -> None:
        command = [*group.wrapper, sys.executable, "-c", _BALLAST]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, text=True)

    def hold(self, size_mb: int, *, per_s: int = 100) -> None:
        """Grow to so many MB, `per_s` MB a second, or shrink to them at once."""
        assert self._process.stdin is not None
        if size_mb * MB > MOST:
            raise ValueError(f"{size_mb} MB are not allowed: at most {MOST // MB}")
        self._process.stdin.write(f"{per_s} {size_mb}\n")
        self._process.stdin.flush()

    @property
    def lives(self) -> bool:
        return self._process.poll() is None

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
