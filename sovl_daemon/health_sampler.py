"""The sample that people look at: what the sources read, and each process of the daemon."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import psutil

from bus.topics import GpuSample, HealthSample, ProcessSample
from sovl_daemon.control.sources.gpu import GpuStatus
from sovl_daemon.control.sources.process_tree import anonymous_bytes
from sovl_daemon.control.sources.source import Values

T = TypeVar("T")


class HealthSampler:
    """Makes samples. The CPU percentages of processes are since the last one."""

    def __init__(self) -> None:
        self._processes: dict[int, psutil.Process] = {}

    def sample(
        self, values: Values, cards: Sequence[GpuStatus], pids: Mapping[str, int]
    ) -> HealthSample:
        """One sample of what the sources read last, and of the processes that `pids` names.

        One that has ended, or is not to be seen, is left out.
        """
        available = values.get("memory.available_bytes")
        return HealthSample(
            cpu_percent=values.get("cpu.percent"),
            memory_percent=values.get("memory.percent"),
            memory_available=None if available is None else int(available),
            swap_percent=values.get("swap.percent"),
            load_1m=values.get("load.1m"),
            processes=self._sample_processes(pids),
            gpus=tuple(
                GpuSample(
                    index=card.index,
                    name=card.name,
                    memory_used=None if card.memory_used is None else int(card.memory_used),
                    memory_total=None if card.memory_total is None else int(card.memory_total),
                    utilization_percent=card.utilization_percent,
                    temperature=card.temperature,
                )
                for card in cards
            ),
        )

    def _sample_processes(self, pids: Mapping[str, int]) -> dict[str, ProcessSample]:
        self._processes = {p: q for p, q in self._processes.items() if p in pids.values()}
        samples = {}
        for name, pid in pids.items():
            try:
                if pid not in self._processes:
                    self._processes[pid] = psutil.Process(pid)
                process = self._processes[pid]
                if not process.is_running() or process.status() == psutil.STATUS_ZOMBIE:
                    continue
            except (psutil.Error, OSError):
                continue
            samples[name] = _sample_process(process)
        return samples


def _sample_process(process: psutil.Process) -> ProcessSample:
    return ProcessSample(
        pid=process.pid,
        cpu_percent=_ask(process.cpu_percent),
        rss=_ask(lambda: process.memory_info().rss),
        anonymous=anonymous_bytes(process.pid),
        threads=_ask(process.num_threads),
        fds=_ask(process.num_fds),
    )


def _ask(question: Callable[[], T]) -> T | None:
    """An answer; None for a process that ends meanwhile, or does not let us see that."""
    try:
        return question()
    except (psutil.Error, OSError, ValueError, LookupError):
        return None
