"""What this process may use now, of a machine that it shares: read anew whenever it is asked."""

from sovl_daemon.limits.control_group import ControlGroups, Room
from sovl_daemon.limits.cores import available_parallelism, usable_cores
from sovl_daemon.limits.memory import MemoryUsage, memory

__all__ = [
    "ControlGroups",
    "MemoryUsage",
    "Room",
    "available_parallelism",
    "memory",
    "usable_cores",
]
