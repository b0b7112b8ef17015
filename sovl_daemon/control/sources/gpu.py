"""NVIDIA cards through NVML; a machine without any is normal."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pynvml

from sovl_daemon.control.sources.source import Values, plausible

DRIVER = Path("/proc/driver/nvidia/gpus")  # a folder for each card that the driver sees
_LOOK_EVERY_S = 60.0
_COLDEST, _HOTTEST = -55.0, 200.0  # degrees Celsius that a card lives to tell


@dataclass(frozen=True)
class GpuStatus:
    """What a card says of itself, None for what it does not tell: bytes, percent, Celsius, watts.

    Cards that share the machine's memory, and parts of a card, tell of no memory or no use of
    their own.
    """

    index: int
    name: str | None = None
    memory_used: float | None = None
    memory_total: float | None = None
    utilization_percent: float | None = None
    temperature: float | None = None
    power_watts: float | None = None

    @property
    def memory_percent(self) -> float | None:
        """How much of the memory is in use."""
        if self.memory_used is None or not self.memory_total:
            return None
        return plausible(100.0 * self.memory_used / self.memory_total, high=100.0)

    @property
    def silent(self) -> bool:
        """Whether it tells nothing that is measured."""
        return self == GpuStatus(self.index, self.name)


class Gpus:
    """Reads each card as `gpuN.memory_percent`, `gpuN.memory_used_bytes`,
    `gpuN.utilization_percent`, `gpuN.temperature`, `gpuN.power_watts`, and the worst of all cards
    as `gpu.memory_percent`, `gpu.utilization_percent`, `gpu.temperature`.

    None for what a card does not tell. Without a driver or a card nothing is read at all. Once a
    minute it looks for cards anew where there is none or one is silent, as after a reset, and
    where the driver sees another number of them.
    """  # noqa: D205 - the names are the summary

    def __init__(
        self, *, driver: Path = DRIVER, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._driver = driver
        self._clock = clock
        self._handles: list[object | None] = []
        self._cards: tuple[GpuStatus, ...] = ()
        self._initialised = False
        self._look()

    @property
    def count(self) -> int:
        """How many cards there are."""
        return len(self._handles)

    @property
    def cards(self) -> tuple[GpuStatus, ...]:
        """What each said when they were read last."""
        return self._cards

    def read(self) -> Values:
        """Read every card."""
        if self._clock() - self._looked_s >= _LOOK_EVERY_S and self._changed():
            self._look()
        self._cards = tuple(_card(*each) for each in enumerate(self._handles))
        values: dict[str, float | None] = {}
        for card in self._cards:
            values[f"gpu{card.index}.memory_used_bytes"] = card.memory_used
            for key in ("memory_percent", "utilization_percent", "temperature", "power_watts"):
                values[f"gpu{card.index}.{key}"] = getattr(card, key)
        for key in ("memory_percent", "utilization_percent", "temperature"):
            known = [value for card in self._cards if (value := getattr(card, key)) is not None]
            if self._cards:
                values[f"gpu.{key}"] = max(known, default=None)
        return values

    def _changed(self) -> bool:
        if not self._cards or any(card.silent for card in self._cards):
            return True
        return self._driver.is_dir() and len(list(self._driver.iterdir())) != self._seen

    def _look(self) -> None:
        """Open the library and the cards anew: after a reset its old handles are no use."""
        self._looked_s = self._clock()
        self._seen = len(list(self._driver.iterdir())) if self._driver.is_dir() else 0
        self._cards, self._handles = (), []
        with suppress(pynvml.NVMLError):
            if self._initialised:
                pynvml.nvmlShutdown()
                self._initialised = False
        try:
            pynvml.nvmlInit()
            self._initialised = True
            count = pynvml.nvmlDeviceGetCount()
        except pynvml.NVMLError:
            return  # no driver, one of another version, or one that is just being loaded
        self._handles = [_handle(index) for index in range(count)]


def _handle(index: int) -> object | None:
    try:
        handle: object = pynvml.nvmlDeviceGetHandleByIndex(index)
    except pynvml.NVMLError:
        return None  # it has fallen off the bus
    return handle


def _card(index: int, handle: object | None) -> GpuStatus:
    if handle is None:
        return GpuStatus(index)
    milliwatts = _ask(lambda: pynvml.nvmlDeviceGetPowerUsage(handle))
    sensor = pynvml.NVML_TEMPERATURE_GPU
    return GpuStatus(
        index=index,
        name=_name(handle),
        memory_used=_ask(lambda: pynvml.nvmlDeviceGetMemoryInfo(handle).used),
        memory_total=_ask(lambda: pynvml.nvmlDeviceGetMemoryInfo(handle).total, low=1.0),
        utilization_percent=_ask(
            lambda: pynvml.nvmlDeviceGetUtilizationRates(handle).gpu, high=100.0
        ),
        temperature=_ask(
            lambda: pynvml.nvmlDeviceGetTemperature(handle, sensor), _COLDEST, _HOTTEST
        ),
        power_watts=None if milliwatts is None else milliwatts / 1000.0,
    )


def _ask(question: Callable[[], object], low: float = 0.0, high: float = math.inf) -> float | None:
    try:
        return plausible(question(), low, high)
    except pynvml.NVMLError:
        return None  # not every card answers every question, and a lost one none


def _name(handle: object) -> str | None:
    try:
        name = pynvml.nvmlDeviceGetName(handle)
    except (pynvml.NVMLError, UnicodeDecodeError):
        return None
    return name.decode(errors="replace") if isinstance(name, bytes) else str(name)
