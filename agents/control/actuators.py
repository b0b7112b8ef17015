"""What the controller can do: the actuators that the daemon has, and those of third parties."""

from __future__ import annotations

import os
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from agents.actuator import MB, Actuator, Means
from agents.control.training_actuators import (
    LaterNights,
    LowerLearningRate,
    PauseTraining,
    SmallerBatches,
)
from sovl_daemon.contracts.generator import EngineUsage, Reclaim
from sovl_daemon.contracts.judge import AskJudge
from sovl_daemon.control.action import Action, ActionFailed, Effect
from sovl_daemon.limits import available_parallelism

GROUP = "sovl.actions"

_MIN_BYTES = 4 * MB  # less is not worth an action
_TOUCHED = 0.5  # of a cache: it may be twice as large as what was written to it
_WEIGHTS = 0.75  # of the weights' bytes; what is not a matrix keeps its precision
_FEW_CONVERSATIONS = 2
_FEW_MB = 8
_ONE_WAY = "the weights of this model can be held in one way alone"
_CANARY = "The capital of France is Paris.\nRespond only with true or false.\n"


class Freeing(Actuator):
    """Base of actuators that free memory; each says in `gain` how many bytes at least."""

    async def refuse(self) -> str | None:
        """Refuse where hardly anything would be gained."""
        gain = self.gain(await self.means.usage())
        return f"only {max(0, gain) >> 10} KiB would be freed" if gain < _MIN_BYTES else None

    async def predict(self) -> Effect:
        """What is gained."""
        return self._bytes(self.gain(await self.means.usage()))

    async def apply(self) -> None:
        """Set the key, and give what is free back to the system."""
        await super().apply()
        await self.means.ask(Reclaim(prefixes=False))

    def gain(self, usage: EngineUsage) -> int:
        """How many bytes would be freed, of what the engine says that it holds."""
        raise NotImplementedError


class ClearCaches(Freeing):
    """Forgets what ended answers have read, and gives free memory back."""

    name = "clear_caches"

    async def apply(self) -> None:
        """Clear."""
        await self.means.ask(Reclaim(prefixes=True))

    async def revert(self, before: str) -> None:
        """Nothing was set."""

    def gain(self, usage: EngineUsage) -> int:
        """What is kept of ended answers, and what lies free in the heap."""
        return int(_TOUCHED * (usage.prefix_bytes + usage.free))


class LimitAdmission(Actuator):
    """Lets few conversations advance together; the others wait."""

    name = "limit_admission"
    key = "generation.max_concurrent"
    target = str(_FEW_CONVERSATIONS)

    async def refuse(self) -> str | None:
        """Refuse where there are no more already."""
        now = await self.measure()
        few = now <= _FEW_CONVERSATIONS
        return f"no more than {now:.0f} conversations are answered at a time" if few else None

    async def predict(self) -> Effect:
        """Fewer conversations at a time."""
        return Effect(await self.measure() - _FEW_CONVERSATIONS, "conversations")

    async def measure(self) -> float:
        """How many conversations the engine lets advance together."""
        return float((await self.means.usage()).max_concurrent)

    async def current(self) -> str:
        """What the engine is set to."""
        return str((await self.means.usage()).max_concurrent)


class ShrinkContext(Freeing):
    """Keeps less of what conversations have read: the next turn reads it again."""

    name = "shrink_context"
    key = "generation.prefix_cache_mb"
    target = str(_FEW_MB)

    async def current(self) -> str:
        """What the engine is set to, in MB."""
        return str((await self.means.usage()).max_prefix_bytes // MB)

    def gain(self, usage: EngineUsage) -> int:
        """What is kept beyond the new limit."""
        return int(_TOUCHED * (usage.prefix_bytes - _FEW_MB * MB))


class Quantize(Freeing):
    """Holds the weights in 8 bits. They come back bit for bit from the file that stays mapped."""

    name = "quantize_int8"
    key = "core_config.quantization"
    target = "int8"
    within_s = 30.0

    async def refuse(self) -> str | None:
        """Refuse where the weights are held in as few bits already, or are few."""
        usage = await self.means.usage()
        if usage.offloaded:
            return "the weights stay in their file, and take nothing"
        if not usage.switchable:
            return _ONE_WAY
        if usage.bits <= 8:
            return f"the weights are held in {usage.precision} already"
        return await super().refuse()

    async def current(self) -> str:
        """What the weights are really held in."""
        return str((await self.means.usage()).precision)

    async def verify(self) -> str | None:
        """Whether the model still gives a distribution over tokens."""
        try:
            await self.means.ask(AskJudge(prefix="", text=_CANARY, by="words"))
        except ActionFailed as error:
            return str(error)
        return None

    def gain(self, usage: EngineUsage) -> int:
        """The bits that most weights lose."""
        return int(_WEIGHTS * usage.parameters * (usage.bits - 8) / 8)


class OffloadWeights(Freeing):
    """Leaves the weights in their file, and has them read for each token: slow, but not dead."""

    name = "offload_weights"
    key = "host.offload_weights"
    target = "true"
    within_s = 30.0

    async def refuse(self) -> str | None:
        """Refuse where they are there already, or few."""
        usage = await self.means.usage()
        if usage.offloaded:
            return "the weights stay in their file already"
        return await super().refuse() if usage.switchable else _ONE_WAY

    async def current(self) -> str:
        """Whether they really stay there."""
        return "true" if (await self.means.usage()).offloaded else "false"

    def gain(self, usage: EngineUsage) -> int:
        """All that most weights take."""
        return int(_WEIGHTS * usage.parameters * usage.bits / 8)


class FewerCores(Actuator):
    """Keeps the model host to half of the cores, so that others have the rest."""

    name = "fewer_cores"
    key = "host.cores"
    target = str(max(1, available_parallelism() // 2))
    within_s = 30.0

    async def refuse(self) -> str | None:
        """Refuse where it runs on no more already, or where it is the hub that would."""
        if (await self.means.usage()).pid == os.getpid():
            return "the model has no process of its own"
        now = await self.measure()
        return f"it runs on no more than {now:.0f} cores" if now <= int(self.target) else None

    async def predict(self) -> Effect:
        """The other half."""
        return Effect(await self.measure() - int(self.target), "cores", self.within_s)

    async def measure(self) -> float:
        """How many cores its threads may run on."""
        return await self.means.host_cores()

    async def current(self) -> str:
        """What the engine is set to."""
        return str((await self.means.usage()).cores)


ACTUATORS: tuple[type[Actuator], ...] = (
    ClearCaches,
    LimitAdmission,
    ShrinkContext,
    Quantize,
    OffloadWeights,
    FewerCores,
    LaterNights,
    PauseTraining,
    LowerLearningRate,
    SmallerBatches,
)


class ActionError(Exception):
    """A third party's action cannot be used; the message says which and why."""


def find_actuators() -> dict[str, type[Actuator]]:
    """All actuators by name: ours, and those that installed packages offer.

    Raises:
        ActionError: one cannot be loaded, is no Actuator, or has another's name.

    """
    found = {each.name: each for each in ACTUATORS}
    for point in sorted(entry_points(group=GROUP), key=lambda point: point.name):
        if point.name in found:
            raise ActionError(f"{GROUP}: {point.value}: there is another {point.name}")
        found[point.name] = _load(point)
    return found


def _load(point: EntryPoint) -> type[Actuator]:
    try:
        kind = point.load()
    except Exception as error:  # a third party's module may fail in any way at all
        raise ActionError(f"{GROUP}: cannot load {point.value}: {error}") from error
    if not (isinstance(kind, type) and issubclass(kind, Actuator)):
        raise ActionError(f"{GROUP}: {point.value} is no subclass of agents.actuator.Actuator")
    if getattr(kind, "name", None) != point.name:
        name = getattr(kind, "name", None)
        raise ActionError(f"{GROUP}: {point.value} calls itself {name!r}, not {point.name!r}")
    return kind


def actuators(means: Means) -> list[Action]:
    """One of each. Raises ActionError."""
    made: list[Any] = [each(means) for each in find_actuators().values()]
    return made
