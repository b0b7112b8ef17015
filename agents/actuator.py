"""An actuator: a reversible action made of other agents' commands, and what it acts through.

A setting is changed for the running daemon alone, never in the configuration file, so that after
the hub's end the configured one is in force again by itself.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar, Protocol

import anyio

from bus.commands import ReplyT, Request
from bus.errors import CommandError
from sovl_daemon.contracts.generator import EngineUsage, ReadUsage
from sovl_daemon.contracts.hub import FOLLOW_S, ConfigSaved, ConfigSet, SettingsChanged
from sovl_daemon.control.action import ActionFailed, Effect
from sovl_daemon.control.sources.process_tree import cores_of, exact_anonymous_bytes
from sovl_daemon.own_time import fail_after

_ASK_S = 30.0
MB = 1 << 20


class Ask(Protocol):
    """What runs a command and gives its reply, such as `Agent.ask`. Raises CommandError."""

    async def __call__(self, request: Request[ReplyT], /) -> ReplyT:
        """The reply."""
        ...


@dataclass(frozen=True)
class Means:
    """What actuators act through.

    Attributes:
        agents: Runs a command of an agent.
        hub: Runs a command of the hub.
        time_to_live_s: How long a setting stays unless renewed.
        own_time: The clock that limits are counted by.

    """

    agents: Ask
    hub: Ask
    time_to_live_s: Callable[[], float]
    own_time: Callable[[], float] = time.monotonic

    async def ask(self, request: Request[ReplyT], *, within_s: float = _ASK_S) -> ReplyT:
        """The reply of the agent that answers the request. Raises ActionFailed."""
        with self._failures(request.command_name, within_s):
            return await self.agents(request)

    async def usage(self) -> EngineUsage:
        """What the engine holds and does. Raises ActionFailed."""
        return await self.ask(ReadUsage())

    async def set(self, key: str, value: str) -> SettingsChanged:
        """Set a key until the daemon ends; the agents have followed then, or are named.

        Raises ActionFailed.
        """
        with self._failures(key, FOLLOW_S + _ASK_S):
            return await self.hub(ConfigSet(key=key, value=value, save=False))

    async def saved(self, key: str) -> str:
        """What a key is in the configuration file, and so after a restart, as `set` takes it.

        Raises ActionFailed.
        """
        with self._failures(key, _ASK_S):
            value = (await self.hub(ConfigSaved(key=key))).value
        return value if isinstance(value, str) else json.dumps(value)

    async def host_bytes(self) -> float:
        """Anonymous memory of the model host, as the kernel counts it, and that on its card.

        Raises ActionFailed.
        """
        card_bytes = float((await self.usage()).card_bytes)
        return card_bytes + await self._of_host(exact_anonymous_bytes)

    async def host_cores(self) -> float:
        """Cores that the model host may run on, as the kernel has it. Raises ActionFailed."""
        return await self._of_host(cores_of)

    async def _of_host(self, look: Callable[[int], int | None]) -> float:
        pid = (await self.usage()).pid
        found = await anyio.to_thread.run_sync(look, pid)
        if found is None:
            raise ActionFailed(f"the kernel does not tell of process {pid}")
        return float(found)

    @contextmanager
    def _failures(self, what: str, limit_s: float) -> Iterator[None]:
        try:
            with fail_after(limit_s, self.own_time):
                yield
        except CommandError as error:
            raise ActionFailed(f"{what}: {error.message}") from None
        except TimeoutError:
            raise ActionFailed(f"{what}: no answer within {limit_s:.0f} s") from None


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
        """Set the key, and see that it is really in force."""
        changed = await self.means.set(self.key, self.target)
        if (found := await self.current()) != self.target:
            late = "it has not followed in time" if self.agent in changed.late else ""
            why = changed.refused.get(self.agent, late)
            raise ActionFailed(": ".join(filter(None, (f"{self.key} is {found}", why))))

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
        await self.means.set(self.key, before)

    def _bytes(self, gain: int) -> Effect:
        return Effect(float(max(1, gain)), within_s=self.within_s)
