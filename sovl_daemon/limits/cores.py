"""How many cores there are for this process."""

from __future__ import annotations

import os

from sovl_daemon.limits.control_group import ControlGroups

_OURS = ControlGroups()
_OTHER_THREADS = 32  # of hub and model host, which compute no tensors; 14 at rest


def usable_cores(groups: ControlGroups = _OURS) -> float:
    """Return the cores that this thread may keep busy now, more than 0 and perhaps not whole.

    Those that it may run on (`taskset`, `cpuset`), and no more than the quota of its control
    groups (`docker --cpus`, `CPUQuota=`): who computes beyond that stands still for the rest of
    each period.
    """
    cores = float(len(os.sched_getaffinity(0)))
    quota = groups.cores()
    return cores if quota is None else min(cores, quota)


def available_parallelism(groups: ControlGroups = _OURS) -> int:
    """Return how many threads may compute at once now: whole cores, 1 at least.

    Where the number of threads is limited (`docker --pids-limit`, `TasksMax=`), no more than that
    beside all others: OpenMP ends a process that cannot begin one.
    """
    cores, room = int(usable_cores(groups)), groups.threads()
    return max(1, cores if room is None else min(cores, room.limit - _OTHER_THREADS))
