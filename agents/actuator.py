"""An actuator: a reversible action made of other agents' commands, and what it acts through.

A setting is changed for the running daemon alone, never in the configuration file, so that after
the hub's end the configured one is in force again by itself.
"""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import anyio

from bus.errors import CommandError
from sovl_daemon.control.action import ActionFailed, Effect
from sovl_daemon.control.sources.process_tree import cores_of, exact_anonymous_bytes
from sovl_daemon.own_time import fail_after

_ASK_S = 30.0
POLL_S = 0.05
MB = 1 << 20

Ask = Callable[..., Awaitable[dict[str, Any]]]


@dataclass(frozen=True)
class Means:
    """What actuators act through.

    Attributes:
        ask: Runs a command of an agent.
        control: Runs a command of the hub.
        time_to_live_s: How long a setting stays unless renewed.
        own_time: The clock that limits are counted by.

    """

    ask: Ask
    control: Ask
    time_to_live_s: Callable[[], float]
    own_time: Callable[[], float] = time.monotonic

    async def tell(self, command: str, **args: Any) -> dict[str, Any]:
        """Run an agent's command. Raises ActionFailed."""
        with _failures(command), fail_after(_ASK_S, self.own_time):
            return await self.ask(command, **args)

    async def usage(self) -> dict[str, Any]:
        """What the engine holds and does. Raises ActionFailed."""
        return await self.tell("engine_usage")

    async def set(self, key: str, value: str) -> None:
        """Set a key until the daemon ends. Raises ActionFailed."""
        with _failures(key), fail_after(_ASK_S, self.own_time):
            await self.control("config_set", key=key, value=value, save=False)

    async def saved(self, key: str) -> str:
        """What a key is in the configuration file, and so after a restart, as `set` takes it.

        Raises ActionFailed.
        """
        with _failures(key), fail_after(_ASK_S, self.own_time):
            value = (await self.control("config_saved", key=key))["value"]
        return value if isinstance(value, str) else json.dumps(value)

    async def host_bytes(self) -> float:
        """Anonymous memory of the model host, as the kernel counts it, and that on its card.

        Raises ActionFailed.
        """
        card_bytes = float((await self.usage())["card_bytes"])
        return card_bytes + await self._of_host(exact_anonymous_bytes)

    async def host_cores(self) -> float:
        """Cores that the model host may run on, as the kernel has it. Raises ActionFailed."""
        return await self._of_host(cores_of)

    async def _of_host(self, look: Callable[[int], int | None]) -> float:
        pid = (await self.usage())["pid"]
        found = await anyio.to_thread.run_sync(look, pid)
        if found is None:
            raise ActionFailed(f"the kernel does not tell of process {pid}")
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
        """Memory of the model host, in bytes."""
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
        until_s = self.means.own_time() + self.within_s
        while self.means.own_time() < until_s:
            if await self.current() == value:
                return
            await anyio.sleep(POLL_S)
        raise ActionFailed(f"{self.key} is not {value} after {self.within_s:.0f} s")
