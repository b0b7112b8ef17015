"""The judge: the frozen base model says true or false to a prompt, in one forward pass."""

from __future__ import annotations

import time
from typing import Any, ClassVar

from pydantic import Field

from agents.base import Agent, Job
from agents.device import device
from bus.commands import Arguments, command
from bus.errors import ENGINE, CommandError


class JudgeArguments(Arguments):
    """A prompt in two pieces: what is always the same for a task, and what is not."""

    prefix: str = Field(description="Kept when it was read once.")
    text: str = Field(description="The rest.")


class Judge(Agent):
    """Runs in the model host, ahead of all conversations."""

    name: ClassVar[str] = "judge"
    home: ClassVar[str] = "host"

    async def start(self) -> None:
        """Nothing was judged yet."""
        self._verdicts = 0
        self._last_s = 0.0

    @command(JudgeArguments, internal=True)
    async def judge(self, args: JudgeArguments, job: Job) -> dict[str, Any]:
        """Say how probable true and false are as the base's answer."""
        engine = await device.base()
        from sovl_daemon.engine.errors import EngineError

        began = time.monotonic()
        try:
            found = await engine.judge(args.prefix, args.text)
        except EngineError as error:
            raise CommandError(ENGINE, str(error)) from None
        self._verdicts, self._last_s = self._verdicts + 1, time.monotonic() - began
        return {**found._asdict(), "seconds": round(self._last_s, 4)}

    def stats(self) -> dict[str, Any]:
        """How many verdicts there were, and how long the last one took."""
        if self.state != "ready" or not self._verdicts:
            return {}
        return {"verdicts": self._verdicts, "last_ms": round(1000 * self._last_s, 1)}
