"""The judge: the frozen base model says true or false to a prompt, in one forward pass."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

import anyio
import anyio.to_thread

from agents.base import Agent, Job
from agents.control.health import tasks_of
from agents.shared_engine import shared_engine
from bus.commands import command
from bus.errors import BAD_ARGUMENT, ENGINE, CommandError
from sovl_daemon.contracts.judge import (
    AskJudge,
    JudgeStats,
    LineShare,
    PromptText,
    TimedProbabilities,
    WeighedPrompt,
    WeighPrompt,
)
from sovl_daemon.control.prompt import render
from sovl_daemon.judge.typical import typical_key, typical_prompts

if TYPE_CHECKING:  # torch is loaded by the generator
    from sovl_daemon.engine.engine import Engine
    from sovl_daemon.engine.judging.judging import PromptParts


class Judge(Agent):
    """Runs in the model host, ahead of all conversations."""

    name: ClassVar[str] = "judge"
    home: ClassVar[str] = "host"

    async def start(self) -> None:
        """Nothing was judged yet."""
        self._verdicts = 0
        self._last_s = 0.0
        self._engine: Engine | None = None
        self._preparing = anyio.Lock()
        self._seen_ns = -1
        self._by: Literal["", "probe", "words"] = ""
        tasks = tasks_of(self.settings, self.paths).values()
        self._tasks = {render(task, {}).prefix: task for task in tasks}
        self._keys = {prefix: typical_key(task) for prefix, task in self._tasks.items()}

    async def run(self) -> None:
        """Get ready before the first question, whose answer is awaited."""
        await self._prepared()

    @command(AskJudge, internal=True)
    async def judge(self, request: AskJudge, job: Job) -> TimedProbabilities:
        """Say how probable true and false are."""
        engine = await self._prepared()
        from sovl_daemon.engine.errors import EngineError

        began = time.monotonic()
        try:
            task = self._keys.get(request.prefix, "")
            found = await engine.judge(_pieces(request), request.by, task)
        except EngineError as error:
            raise CommandError(ENGINE, str(error)) from None
        self._verdicts, self._last_s = self._verdicts + 1, time.monotonic() - began
        return TimedProbabilities(**found._asdict(), seconds=round(self._last_s, 4))

    @command(WeighPrompt, internal=True)
    async def weigh(self, request: WeighPrompt, job: Job) -> WeighedPrompt:
        """Judge a prompt by the probe, and say which of its lines moved the verdict how far."""
        engine = await self._prepared()
        from sovl_daemon.engine.errors import EngineError, OptionError

        try:
            task = self._keys.get(request.prefix, "")
            found, shares = await engine.explain(_pieces(request), task)
        except OptionError as error:
            raise CommandError(BAD_ARGUMENT, str(error)) from None
        except EngineError as error:
            raise CommandError(ENGINE, str(error)) from None
        lines = [LineShare(text=each.text, logit=each.logit) for each in shares]
        return WeighedPrompt(**found._asdict(), shares=lines)

    def stats(self) -> JudgeStats:
        """By what it judges, how many verdicts there were, and how long the last one took."""
        return JudgeStats(
            by=self._by, verdicts=self._verdicts, last_ms=round(1000 * self._last_s, 1)
        )

    async def _prepared(self) -> Engine:
        """The engine, with the newest probe of its model."""
        engine = await shared_engine.loaded()
        if engine.model.path is None:
            return engine
        async with self._preparing:  # who comes meanwhile waits for the probe too
            own = _changed_ns(self.paths.state_dir)
            if engine is not self._engine or own != self._seen_ns:
                await self._take_probe(engine, engine.model.path)
                self._engine, self._seen_ns = engine, own
        return engine

    async def _take_probe(self, engine: Engine, folder: Path) -> None:
        from sovl_daemon.engine.errors import EngineError
        from sovl_daemon.engine.judging.judging import PromptParts
        from sovl_daemon.judge.shelf import find_probe

        try:
            probe = await anyio.to_thread.run_sync(find_probe, self.paths.state_dir, folder)
            await engine.use_probe(probe)
            for prefix, task in self._tasks.items():
                typical = [PromptParts(**each.pieces()) for each in typical_prompts(task)]
                await engine.centre(self._keys[prefix], typical)
        except EngineError as error:  # words are asked for, which abstain rather than err
            self.log.warning("judge.probe_refused", reason=str(error))
            probe = None
            with suppress(EngineError):  # an engine that was closed judges nothing
                await engine.use_probe(None)
        self._by = "probe" if probe else "words"
        self.log.info("judge.ready", model=folder.name, by=self._by)


def _pieces(prompt: PromptText) -> PromptParts:
    from sovl_daemon.engine.judging.judging import PromptParts

    return PromptParts(prompt.prefix, prompt.text, prompt.evidence, prompt.ending)


def _changed_ns(state_dir: Path) -> int:
    """When probes were last put into the state directory; 0 if none was."""
    try:
        return (state_dir / "probes").stat().st_mtime_ns
    except OSError:
        return 0
