"""The cores that a process keeps to, for real."""

import os
import subprocess
import sys

import pytest

ALL = sorted(os.sched_getaffinity(0))
KEPT = """
import os
os.sched_setaffinity(0, {chosen})
from sovl_daemon.engine.thread.cores import keep_to_cores
for count in (1, 0):
    keep_to_cores(count)
    print(sorted(os.sched_getaffinity(0)))
"""


@pytest.mark.parametrize("chosen", [ALL, ALL[-1:]])
def test_fewer_cores_and_all_again(chosen: list[int]) -> None:
    """All are those that somebody chose for us before, as with taskset, or those of the group."""
    found = subprocess.run(
        [sys.executable, "-c", KEPT.format(chosen=chosen)], capture_output=True, text=True
    )
    assert found.stdout.splitlines() == [str(chosen[:1]), str(chosen)], found.stderr
