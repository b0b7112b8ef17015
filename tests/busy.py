"""A busy machine: programs that never rest, and a process that gets next to nothing beside them."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

SPIN = [sys.executable, "-c", "while True: pass"]


@contextmanager
def busy(programs: int, cores: set[int] | None = None) -> Iterator[None]:
    """Run so many programs at normal priority that compute and do nothing else."""
    with ExitStack() as stack:
        for _ in range(programs):
            process = stack.enter_context(subprocess.Popen(SPIN))
            stack.callback(process.kill)
            os.sched_setaffinity(process.pid, cores or os.sched_getaffinity(0))
        yield


@contextmanager
def starved(pid: int, programs: int = 3) -> Iterator[None]:
    """Leave a process one core, at the lowest priority, beside programs that are always busy."""
    threads = [int(each.name) for each in Path(f"/proc/{pid}/task").iterdir()]
    allowed = os.sched_getaffinity(0)
    core = {min(allowed)}
    with busy(programs, core):
        for thread in threads:
            os.sched_setaffinity(thread, core)
            os.sched_setscheduler(thread, os.SCHED_IDLE, os.sched_param(0))
        _set_group_nice(pid, 19)
        try:
            yield
        finally:
            _set_group_nice(pid, 0)
            for thread in threads:
                os.sched_setscheduler(thread, os.SCHED_OTHER, os.sched_param(0))
                os.sched_setaffinity(thread, allowed)


def _set_group_nice(pid: int, nice: int) -> None:
    """Where each session is a group of the scheduler, priorities count within it alone."""
    group = Path(f"/proc/{pid}/autogroup")
    if group.exists():
        group.write_text(str(nice))
