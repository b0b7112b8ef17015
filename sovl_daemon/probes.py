"""Reading the machine: psutil and NVML, nothing else."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import psutil
import pynvml

from bus.topics import GpuSample, HealthSample, ProcessSample


class MachineProbe:
    """Samples the machine and the daemon's processes. CPU percentages are since the last sample."""

    def __init__(self) -> None:
        self._processes: dict[int, psutil.Process] = {}
        self._gpus = _open_gpus()
        psutil.cpu_percent()

    def sample(self, pids: dict[str, int]) -> HealthSample:
        """One sample; `pids` names the daemon's processes. One that just ended is left out."""
        memory = psutil.virtual_memory()
        return HealthSample(
            cpu_percent=psutil.cpu_percent(),
            memory_percent=memory.percent,
            memory_available=memory.available,
            swap_percent=psutil.swap_memory().percent,
            load_1m=psutil.getloadavg()[0],
            processes=self._sample_processes(pids),
            gpus=tuple(_sample_gpu(index, gpu) for index, gpu in enumerate(self._gpus)),
        )

    def _sample_processes(self, pids: dict[str, int]) -> dict[str, ProcessSample]:
        self._processes = {p: q for p, q in self._processes.items() if p in pids.values()}
        samples = {}
        for name, pid in pids.items():
            with suppress(psutil.NoSuchProcess):
                if pid not in self._processes:
                    self._processes[pid] = psutil.Process(pid)
                samples[name] = _sample_process(self._processes[pid])
        return samples


def _sample_process(process: psutil.Process) -> ProcessSample:
    with process.oneshot():
        return ProcessSample(
            pid=process.pid,
            cpu_percent=process.cpu_percent(),
            rss=process.memory_info().rss,
            anonymous=anonymous_bytes(process.pid),
            threads=process.num_threads(),
            fds=process.num_fds(),
        )


def anonymous_bytes(pid: int) -> int | None:
    """Memory of a process that no file backs, in bytes; None where the kernel does not tell."""
    try:
        # Not smaps_rollup, which walks all page tables: 5 ms for a model host.
        text = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except OSError:
        return None
    for line in text.splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    return None


def _open_gpus() -> list[object]:
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []  # no NVIDIA driver here: there is nothing to read
    return [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]


def _sample_gpu(index: int, gpu: object) -> GpuSample:
    memory = pynvml.nvmlDeviceGetMemoryInfo(gpu)
    return GpuSample(
        index=index,
        name=pynvml.nvmlDeviceGetName(gpu),
        memory_used=memory.used,
        memory_total=memory.total,
        utilization_percent=pynvml.nvmlDeviceGetUtilizationRates(gpu).gpu,
        temperature=pynvml.nvmlDeviceGetTemperature(gpu, pynvml.NVML_TEMPERATURE_GPU),
    )
