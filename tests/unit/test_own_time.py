"""The time that a process had for itself, told by a made-up kernel and by the real one."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import anyio
import pytest

from sovl_daemon.own_time import EVERY_S, OwnTime, _read, move_on_after, work_done

PID = 7
SPIN = [sys.executable, "-c", "while True: pass"]
DOZE = [sys.executable, "-c", "import time\nwhile True: sum(range(20_000)); time.sleep(0.01)"]


class Kernel:
    """A /proc with threads of one process, and a clock."""

    def __init__(self, proc: Path, *, counts: bool) -> None:
        self.proc, self.counts = proc, counts
        self.now = 100.0
        self.own_time = lambda: OwnTime(lambda: (PID,), proc=proc, clock=lambda: self.now)

    def tells(self, thread: int, state: str, *, ran: float, waited: float = 0.0) -> None:
        folder = self.proc / str(PID) / "task" / str(thread)
        folder.mkdir(parents=True, exist_ok=True)
        ticks = round(ran * os.sysconf("SC_CLK_TCK"))
        (folder / "stat").write_text(f"{thread} (a) b) {state} {'0 ' * 10}{ticks} 0 0 0")
        numbers = (ran, waited) if self.counts else (0, 0)
        told = f"{numbers[0] * 1e9:.0f} {numbers[1] * 1e9:.0f} 3\n"
        (folder / "schedstat").write_text(told)

    def passes(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture(params=[True, False], ids=["schedstat", "without"])
def kernel(request: pytest.FixtureRequest, tmp_path: Path) -> Kernel:
    kernel = Kernel(tmp_path, counts=request.param)
    kernel.tells(PID, "S", ran=1)
    return kernel


def test_who_sleeps_or_runs_has_all_time_for_itself(kernel: Kernel) -> None:
    own_time = kernel.own_time()
    kernel.passes(0.25)
    kernel.tells(PID, "S", ran=1)
    assert own_time() == pytest.approx(0.25)
    kernel.passes(0.25)
    kernel.tells(PID, "R", ran=1.25)
    assert own_time() == pytest.approx(0.5, abs=0.01)


def test_who_waits_for_a_core_has_none(kernel: Kernel) -> None:
    """Two looks within one long wait, which the kernel adds up when it is over."""
    own_time = kernel.own_time()
    for _ in range(8):
        kernel.passes(0.25)
        kernel.tells(PID, "R", ran=1)
        own_time()
    kernel.passes(0.25)
    kernel.tells(PID, "R", ran=1.01, waited=2.24)
    assert own_time() == pytest.approx(0, abs=0.02)


def test_of_all_threads_the_one_that_waited_longest_counts(kernel: Kernel) -> None:
    """The loop's thread waits for the interpreter's lock, and its holder for a core."""
    kernel.tells(8, "R", ran=5)
    own_time = kernel.own_time()
    kernel.passes(0.25)
    kernel.tells(PID, "S", ran=1)
    kernel.tells(8, "R", ran=5.05, waited=0.2)
    assert own_time() == pytest.approx(0.05, abs=0.01)


def test_a_late_look_counts_no_more_than_two(kernel: Kernel) -> None:
    own_time = kernel.own_time()
    kernel.passes(3600)
    assert own_time() == 2 * EVERY_S


def test_a_process_that_came_later_has_waited_for_nothing_yet(tmp_path: Path) -> None:
    kernel = Kernel(tmp_path, counts=True)
    own_time = kernel.own_time()
    kernel.tells(PID, "R", ran=1, waited=50)
    kernel.passes(0.25)
    assert own_time() == 0.25


def test_a_kernel_that_tells_nothing_leaves_the_clock_on_the_wall(tmp_path: Path) -> None:
    kernel = Kernel(tmp_path / "nowhere", counts=True)
    own_time = kernel.own_time()
    kernel.passes(0.25)
    assert own_time() == 0.25


async def test_a_limit_in_it_waits_for_who_is_starved() -> None:
    now = [0.0]
    with move_on_after(0.1, lambda: now[0]) as scope:
        await anyio.sleep(0.5)
        now[0] = 0.2
        await anyio.sleep(20)
    assert scope.cancelled_caught
    with move_on_after(10, lambda: now[0]) as scope:
        await anyio.sleep(0)
    assert not scope.cancelled_caught


# Real processes


@contextmanager
def pinned(*commands: list[str], nice: int = 0) -> Iterator[list[int]]:
    """Run processes on one core, the first one at this niceness."""
    core = {min(os.sched_getaffinity(0))}
    with ExitStack() as stack:
        pids = []
        for index, command in enumerate(commands):
            words = ["nice", f"-n{nice}", *command] if index == 0 and nice else command
            process = stack.enter_context(subprocess.Popen(words))
            stack.callback(process.kill)
            os.sched_setaffinity(process.pid, core)
            pids.append(process.pid)
        yield pids


def measured(pid: int, seconds: float) -> float:
    """The share of the time that a process has for itself."""
    own_time, began = OwnTime(lambda: (pid,)), time.monotonic()
    while time.monotonic() - began < seconds:
        time.sleep(EVERY_S)
        own_time()
    return own_time() / (time.monotonic() - began)


def test_a_process_that_is_starved_has_next_to_nothing() -> None:
    with pinned(DOZE, SPIN, SPIN, nice=19) as pids:
        time.sleep(1)
        assert measured(pids[0], 3) < 0.4


def test_one_that_hangs_beside_busy_ones_has_what_it_gets() -> None:
    with pinned(SPIN, SPIN) as pids:
        time.sleep(0.5)
        ran = _read(Path(f"/proc/{pids[0]}/task/{pids[0]}"))
        share = measured(pids[0], 2)
        ran_later = _read(Path(f"/proc/{pids[0]}/task/{pids[0]}"))
    assert ran is not None
    assert ran_later is not None
    assert share > 0.8 * (ran_later.ran_s - ran.ran_s) / 2.25
    with pinned(["sleep", "60"], SPIN, SPIN, nice=19) as pids:
        time.sleep(1)
        assert measured(pids[0], 2) > 0.6


def test_who_looks_at_itself_is_not_starved_by_looking() -> None:
    done = threading.Event()
    threading.Thread(target=done.wait, daemon=True).start()
    assert measured(os.getpid(), 0.6) > 0.2
    done.set()


def test_work_is_computing_and_what_goes_to_disks() -> None:
    assert work_done(os.getpid()) == work_done(os.getpid())
    assert work_done(2**22 + 1) == (0, 0)
