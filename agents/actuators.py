"""What the controller can do: each actuator is a reversible action made of other agents' commands.

A setting is changed for the running daemon alone, never in the configuration file, so that after
the hub's end the configured one is in force again by itself.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any, ClassVar

import anyio

from bus.errors import CommandError
from sovl_daemon.control.action import Action, ActionFailed, Effect
from sovl_daemon.control.sources.process_tree import exact_anonymous_bytes

GROUP = "sovl.actions"

_ASK_S = 30.0
_POLL_S = 0.05
_MB = 1 << 20
_LEAST_BYTES = 4 * _MB  # less is not worth an action
_TOUCHED = 0.5  # of a cache: it may be twice as large as what was written to it
_WEIGHTS = 0.75  # of the weights' bytes; what is not a matrix keeps its precision
_FEW_CONVERSATIONS = 2
_FEW_MB = 8
_CANARY = "The capital of France is Paris.\nRespond only with true or false.\n"

Ask = Callable[..., Awaitable[dict[str, Any]]]


@dataclass(frozen=True)
class Means:
    """What actuators act through.

    Attributes:
        ask: Runs a command of an agent.
        control: Runs a command of the hub.
        time_to_live_s: How long a setting stays unless renewed.

    """

    ask: Ask
    control: Ask
    time_to_live_s: Callable[[], float]

    async def tell(self, command: str, **args: Any) -> dict[str, Any]:
        """Run an agent's command. Raises ActionFailed."""
        with _failures(command), anyio.fail_after(_ASK_S):
            return await self.ask(command, **args)

    async def usage(self) -> dict[str, Any]:
        """What the engine holds and does. Raises ActionFailed."""
        return await self.tell("engine_usage")

    async def set(self, key: str, value: str) -> None:
        """Set a key until the daemon ends. Raises ActionFailed."""
        with _failures(key), anyio.fail_after(_ASK_S):
            await self.control("config_set", key=key, value=value, save=False)

    async def saved(self, key: str) -> str:
        """What a key is in the configuration file, and so after a restart. Raises ActionFailed."""
        with _failures(key), anyio.fail_after(_ASK_S):
            return str((await self.control("config_saved", key=key))["value"])

    async def host_bytes(self) -> float:
        """Anonymous memory of the model host, as the kernel counts it. Raises ActionFailed."""
        pid = (await self.usage())["pid"]
        found = await anyio.to_thread.run_sync(exact_anonymous_bytes, pid)
        if found is None:
            raise ActionFailed(f"the kernel does not tell what process {pid} holds")
        return float(found)


@contextmanager
def _failures(what: str) -> Iterator[None]:
    try:
        yield
    except CommandError as error:
        raise ActionFailed(f"{what}: {error.message}") from None
    except TimeoutError:
        raise ActionFailed(f"{what}: no answer within {_ASK_S:.0f} s") from None


class Actuator:
    """Base of actuators that set one key. `agent` is whose state tells what is in force.

    A third party's, offered by an entry point of the group `sovl.actions`, is a subclass too; what
    it does by commands instead of a key it says in `current`, `apply` and `revert`.
    """

    name: ClassVar[str]
    agent: ClassVar[str] = "generator"
    key: ClassVar[str] = ""
    target: ClassVar[str] = ""
    within_s: ClassVar[float] = 5.0

    def __init__(self, means: Means) -> None:
        self.means = means

    @property
    def time_to_live_s(self) -> float | None:
        """As configured, for what leaves a setting."""
        return self.means.time_to_live_s() if self.target else None

    async def refuse(self) -> str | None:
        """Nothing stands against it."""
        return None

    async def predict(self) -> Effect:
        """Each says for itself what it will gain."""
        raise ActionFailed(f"{self.name} does not say what it would gain")

    async def measure(self) -> float:
        """Anonymous memory of the model host, in bytes."""
        return await self.means.host_bytes()

    async def current(self) -> str:
        """What the engine is really set to; nothing for what leaves no setting."""
        return ""

    async def apply(self) -> None:
        """Set the key."""
        await self._hold(self.target)

    async def verify(self) -> str | None:
        """Nothing else can be wrong."""
        return None

    async def stays(self) -> str | None:
        """What the user saved meanwhile is the user's."""
        if not self.key or await self.means.saved(self.key) != self.target:
            return None
        return f"{self.key} was saved as {self.target} meanwhile"

    async def revert(self, before: str) -> None:
        """Set the key as it was."""
        await self._hold(before)

    def _bytes(self, gain: int) -> Effect:
        return Effect(float(max(1, gain)), within_s=self.within_s)

    async def _hold(self, value: str) -> None:
        """Set the key, and wait until it is in force."""
        await self.means.set(self.key, value)
        until_s = anyio.current_time() + self.within_s
        while anyio.current_time() < until_s:
            if await self.current() == value:
                return
            await anyio.sleep(_POLL_S)
        raise ActionFailed(f"{self.key} is not {value} after {self.within_s:.0f} s")


class ClearCaches(Actuator):
    """Forgets what ended answers have read, and gives free memory back."""

    name = "clear_caches"

    async def refuse(self) -> str | None:
        """Refuse where hardly anything would be gained."""
        gain = await self._gain()
        return f"only {gain >> 10} KiB would be freed" if gain < _LEAST_BYTES else None

    async def predict(self) -> Effect:
        """What is kept of ended answers, and what lies free in the heap."""
        return self._bytes(await self._gain())

    async def apply(self) -> None:
        """Clear."""
        await self.means.tell("reclaim", prefixes=True)

    async def revert(self, before: str) -> None:
        """Nothing was set."""

    async def _gain(self) -> int:
        usage = await self.means.usage()
        return int(_TOUCHED * (usage["prefix_bytes"] + usage["free"]))


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
        return float((await self.means.usage())["max_concurrent"])

    async def current(self) -> str:
        """What the engine is set to."""
        return str((await self.means.usage())["max_concurrent"])


class ShrinkContext(Actuator):
    """Keeps less of what conversations have read: the next turn reads it again."""

    name = "shrink_context"
    key = "generation.prefix_cache_mb"
    target = str(_FEW_MB)

    async def refuse(self) -> str | None:
        """Refuse where hardly anything would be gained."""
        gain = await self._gain()
        return f"only {max(0, gain) >> 10} KiB would be freed" if gain < _LEAST_BYTES else None

    async def predict(self) -> Effect:
        """What is kept beyond the new limit."""
        return self._bytes(await self._gain())

    async def current(self) -> str:
        """What the engine is set to, in MB."""
        return str((await self.means.usage())["max_prefix_bytes"] // _MB)

    async def apply(self) -> None:
        """Set the key, and give what is free back to the system."""
        await super().apply()
        await self.means.tell("reclaim", prefixes=False)

    async def _gain(self) -> int:
        usage = await self.means.usage()
        return int(_TOUCHED * (usage["prefix_bytes"] - _FEW_MB * _MB))


class Quantize(Actuator):
    """Holds the weights in 8 bits. They come back bit for bit from the file that stays mapped."""

    name = "quantize_int8"
    key = "core_config.quantization"
    target = "int8"
    within_s = 30.0

    async def refuse(self) -> str | None:
        """Refuse where the weights are held in as few bits already, or are few."""
        usage = await self.means.usage()
        if usage["bits"] <= 8:
            return f"the weights are held in {usage['precision']} already"
        small = _gain(usage) < _LEAST_BYTES
        return f"only {_gain(usage) >> 10} KiB would be freed" if small else None

    async def predict(self) -> Effect:
        """The bits that most weights lose."""
        return self._bytes(_gain(await self.means.usage()))

    async def current(self) -> str:
        """What the weights are really held in."""
        return str((await self.means.usage())["precision"])

    async def apply(self) -> None:
        """Set the key, and give what is free back to the system."""
        await super().apply()
        await self.means.tell("reclaim", prefixes=False)

    async def verify(self) -> str | None:
        """Whether the model still gives a distribution over tokens."""
        try:
            await self.means.tell("judge", prefix="", text=_CANARY, by="words")
        except ActionFailed as error:
            return str(error)
        return None


def _gain(usage: dict[str, Any]) -> int:
    return int(_WEIGHTS * usage["parameters"] * (usage["bits"] - 8) / 8)


class PauseTraining(Actuator):
    """Stops a night or a training at its next step, where it goes on later; lets none begin."""

    name = "pause_training"
    agent = "gestation"
    target = "held"
    within_s = 30.0

    async def refuse(self) -> str | None:
        """Refuse where nothing trains."""
        return None if await self.measure() else "nothing trains"

    async def predict(self) -> Effect:
        """One training less."""
        return Effect(1.0, "trainings", within_s=self.within_s)

    async def measure(self) -> float:
        """How many nights or trainings there are now: one or none."""
        return float((await self.means.tell("hold_nights"))["busy"])

    async def current(self) -> str:
        """Whether they are held back."""
        return "held" if (await self.means.tell("hold_nights"))["held"] else "free"

    async def apply(self) -> None:
        """Hold them back, and when the last step is over give what is free back to the system."""
        await self.means.tell("hold_nights", hold=True)
        until_s = anyio.current_time() + self.within_s
        while anyio.current_time() < until_s:
            if not await self.measure():
                break
            await anyio.sleep(_POLL_S)
        await self.means.tell("reclaim", prefixes=False)

    async def revert(self, before: str) -> None:
        """Let them come."""
        await self.means.tell("hold_nights", hold=before == "held")


class LowerLearningRate(Actuator):
    """Lets a training that goes on learn half as fast, from its next update on."""

    name = "lower_learning_rate"
    agent = "trainer"
    target = "0.5"
    within_s = 60.0

    async def refuse(self) -> str | None:
        """Refuse where nothing trains."""
        trains = (await self.means.tell("ease_training"))["eased"] is not None
        return None if trains else "nothing trains"

    async def predict(self) -> Effect:
        """Half the rate."""
        return Effect(await self.measure() - float(self.target), "of the rate", self.within_s)

    async def measure(self) -> float:
        """The factor on the learning rate that the last update was really made with."""
        eased = (await self.means.tell("ease_training"))["eased"]
        return 1.0 if eased is None else float(eased)

    async def current(self) -> str:
        """The factor that is set."""
        return f"{(await self.means.tell('ease_training'))['factor']:g}"

    async def apply(self) -> None:
        """Halve it."""
        await self.means.tell("ease_training", factor=float(self.target))

    async def revert(self, before: str) -> None:
        """Set it as it was."""
        await self.means.tell("ease_training", factor=float(before))


ACTUATORS: tuple[type[Actuator], ...] = (
    ClearCaches,
    LimitAdmission,
    ShrinkContext,
    Quantize,
    PauseTraining,
    LowerLearningRate,
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
        raise ActionError(f"{GROUP}: {point.value} is no subclass of agents.actuators.Actuator")
    if getattr(kind, "name", None) != point.name:
        name = getattr(kind, "name", None)
        raise ActionError(f"{GROUP}: {point.value} calls itself {name!r}, not {point.name!r}")
    return kind


def actuators(means: Means) -> list[Action]:
    """One of each. Raises ActionError."""
    made: list[Any] = [each(means) for each in find_actuators().values()]
    return made
