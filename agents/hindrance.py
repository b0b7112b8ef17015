"""What the system refuses an agent for now: said once, tried again, and said when it is over."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import anyio
import anyio.to_thread

from bus.errors import UNAVAILABLE, CommandError
from sovl_daemon.conditions import condition_of, in_words

if TYPE_CHECKING:
    from agents.base import Agent

T = TypeVar("T")

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 30.0


class Hindrance:
    """Why an agent cannot do all of its work now; `sovl status` shows it as the agent's detail."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self.says = ""
        self._condition: str | None = None
        self._outlasting = 0

    async def meet(self, error: BaseException) -> None:
        """Take note of what the system refused, and say so unless that is known.

        Raises the error if it is of another kind.
        """
        condition, reason = _condition_of(error), in_words(error)
        if condition is None:
            raise error
        if condition != self._condition:
            self._condition, self.says = condition, f"hindered: {reason}; it is tried again"
            self._agent.log.warning("agent.hindered", condition=condition, reason=reason)
            await self._agent.say(self.says)

    async def over(self) -> None:
        """Take note that what was refused goes well again."""
        if self._condition is not None:
            self._agent.log.info("agent.unhindered", condition=self._condition)
            self._condition, self.says = None, ""
            await self._agent.say("")

    @asynccontextmanager
    async def met(self) -> AsyncIterator[None]:
        """Let go of what the block could not do because the system refused."""
        try:
            yield
        except Exception as error:
            await self.meet(error)

    async def outlast(
        self, work: Callable[[], Awaitable[T]], *, longest_s: float = _LONGEST_PAUSE_S
    ) -> T:
        """Do it, again and again as long as the system refuses; returns what came of it."""
        pause_s = _FIRST_PAUSE_S
        self._outlasting += 1
        try:
            while True:
                async with self.met():
                    done = await work()
                    await self.over()
                    return done
                await anyio.sleep(pause_s)
                pause_s = min(2 * pause_s, longest_s)
        finally:
            self._outlasting -= 1

    async def watch(self) -> None:
        """Try again what was refused, for ever."""
        pause_s = _FIRST_PAUSE_S
        while True:
            await anyio.sleep(pause_s)
            # What is outlasted is tried by itself, and may need more than a try to write finds.
            if self._condition is None or self._outlasting:
                pause_s = _FIRST_PAUSE_S
                continue
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
            async with self.met():
                await self._agent.try_to_write()
                await self.over()

    async def try_to_write(self, folder: Path) -> None:
        """Write some bytes to a folder, and remove them. Raises OSError."""

        def write() -> None:
            with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
                file.write(bytes(8192))

        await anyio.to_thread.run_sync(write)


def _condition_of(error: BaseException) -> str | None:
    """Also of another agent that was asked and could not for now."""
    if isinstance(error, CommandError):
        return error.code if error.code == UNAVAILABLE else None
    return condition_of(error)
