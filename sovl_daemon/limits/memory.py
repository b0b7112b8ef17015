"""How much memory there is for this process."""

from __future__ import annotations

from typing import NamedTuple

import psutil

from sovl_daemon.limits.control_group import ControlGroups, Room

_OURS = ControlGroups()


class MemoryUsage(NamedTuple):
    """What is in use, in percent, and left, in bytes, of the machine or the group."""

    percent: float
    available: int
    total: int


def memory(groups: ControlGroups = _OURS) -> MemoryUsage | None:
    """Return how it is now; None where neither machine nor control group tells.

    Memory in use is what is not available, unrounded: caches that can be dropped are no use. It is
    the share of the machine or of a control group with a limit, whichever is fuller, and what is
    left and there at all in the one that has less of it.
    """
    rooms = [room for room in (_machine(), groups.memory()) if room is not None]
    if not rooms:
        return None
    return MemoryUsage(
        max(room.percent for room in rooms),
        min(room.available for room in rooms),
        min(room.limit for room in rooms),
    )


def _machine() -> Room | None:
    try:
        found = psutil.virtual_memory()
    except (
        OSError,
        ValueError,
        LookupError,
    ):  # of /proc/meminfo, which is hidden or short of a line
        return None
    if not found.total > 0:
        return None
    return Room(found.total - min(found.total, max(0, found.available)), found.total)
