"""Stands in for the NVML library, with readings as recorded from cards; None for no driver."""

from __future__ import annotations

from typing import Any

import pynvml

Readings = dict[str, Any]


class Nvml:
    """What a card does not list is not supported there; a listed exception is raised."""

    NVMLError = pynvml.NVMLError
    NVML_TEMPERATURE_GPU = 0

    def __init__(self, cards: list[Readings] | None) -> None:
        self.cards = cards
        self.begun = 0

    def nvmlInit(self) -> None:  # noqa: N802
        if self.cards is None:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)
        self.begun += 1

    def nvmlShutdown(self) -> None:  # noqa: N802
        pass

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return len(self.cards or [])

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Readings:  # noqa: N802
        assert self.cards is not None
        if not self.cards[index]:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST)
        return self.cards[index]

    def _ask(self, card: Readings, key: str) -> Any:
        value = card.get(key, pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED))
        if isinstance(value, Exception):
            raise value
        return value

    def nvmlDeviceGetName(self, card: Readings) -> Any:  # noqa: N802
        return self._ask(card, "name")

    def nvmlDeviceGetMemoryInfo(self, card: Readings) -> object:  # noqa: N802
        used, total = self._ask(card, "used"), self._ask(card, "total")
        return type("Memory", (), {"used": used, "total": total})

    def nvmlDeviceGetUtilizationRates(self, card: Readings) -> object:  # noqa: N802
        return type("Rates", (), {"gpu": self._ask(card, "gpu")})

    def nvmlDeviceGetTemperature(self, card: Readings, sensor: int) -> Any:  # noqa: N802
        return self._ask(card, "temperature")

    def nvmlDeviceGetPowerUsage(self, card: Readings) -> Any:  # noqa: N802
        return self._ask(card, "milliwatts")
