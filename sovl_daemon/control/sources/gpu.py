"""NVIDIA cards through NVML; a machine without any is normal."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import pynvml

from sovl_daemon.control.sources.source import Values


class Gpus:
    """Reads each card as `gpuN.memory_percent`, `gpuN.memory_used_bytes`,
    `gpuN.utilization_percent`, `gpuN.temperature`, `gpuN.power_watts`, and the worst of all cards
    as `gpu.memory_percent`, `gpu.utilization_percent`, `gpu.temperature`.

    None for what a card does not tell. Without a driver or a card nothing is read at all.
    """  # noqa: D205 - the names are the summary

    def __init__(self) -> None:
        self._cards = _open()

    @property
    def count(self) -> int:
        """How many cards there are."""
        return len(self._cards)

    def read(self) -> Values:
        """Read every card."""
        cards = [_card(handle) for handle in self._cards]
        values = {
            f"gpu{n}.{key}": value for n, card in enumerate(cards) for key, value in card.items()
        }
        for key in ("memory_percent", "utilization_percent", "temperature") if cards else ():
            known = [value for card in cards if (value := card[key]) is not None]
            values[f"gpu.{key}"] = max(known, default=None)
        return values


def _open() -> list[object]:
    try:
        pynvml.nvmlInit()
        count = pynvml.nvmlDeviceGetCount()
    except pynvml.NVMLError:
        return []
    cards: list[object] = []
    for index in range(count):
        with suppress(pynvml.NVMLError):  # a card that has fallen off the bus
            cards.append(pynvml.nvmlDeviceGetHandleByIndex(index))
    return cards


def _card(handle: object) -> dict[str, float | None]:
    used = _ask(lambda: pynvml.nvmlDeviceGetMemoryInfo(handle).used)
    total = _ask(lambda: pynvml.nvmlDeviceGetMemoryInfo(handle).total)
    milliwatts = _ask(lambda: pynvml.nvmlDeviceGetPowerUsage(handle))
    sensor = pynvml.NVML_TEMPERATURE_GPU
    return {
        "memory_used_bytes": used,
        "memory_percent": None if used is None or not total else 100.0 * used / total,
        "utilization_percent": _ask(lambda: pynvml.nvmlDeviceGetUtilizationRates(handle).gpu),
        "temperature": _ask(lambda: pynvml.nvmlDeviceGetTemperature(handle, sensor)),
        "power_watts": None if milliwatts is None else milliwatts / 1000.0,
    }


def _ask(question: Callable[[], float]) -> float | None:
    try:
        return float(question())
    except pynvml.NVMLError:
        return None  # not every card answers every question
