"""A night: what was lived by day is learned, examined, and kept if it passes."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence, Set
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from pydantic import BaseModel

from agents.base import Agent, Job
from agents.recall import recalled, unlearned
from agents.shared_engine import shared_engine
from agents.training.checkpoints import Checkpoints
from agents.training.session import TrainingSession, progress_of
from agents.training.throttle import TrainingThrottle
from bus.errors import CommandError
from bus.topics import NIGHT, NightStep
from sovl_daemon.contracts.dreamer import Wonder
from sovl_daemon.contracts.scribe import Rehearsal, Unlearned
from sovl_daemon.contracts.trainer import NightLearned, NightMetrics
from sovl_daemon.memory.interactions import Interaction
from sovl_daemon.night.curriculum import Curriculum
from sovl_daemon.own_time import OwnTime

if TYPE_CHECKING:  # torch is loaded by the generator
    from sovl_daemon.engine.learning.learner import Learner

_MAX_ENTRIES = 500  # interactions of one night...
_MAX_CHARACTERS = 4_000_000  # ...and how much text, which the host holds as long as it lasts
_REMEMBERED = 1000  # learned interactions, of which some are rehearsed
_REHEARSED = 60
_CHECKPOINT_EVERY = 10
_STEP_S = 2.0  # of a night on a slow machine, about; it may last that long in any case
_LOOK_S = 10.0  # a step may take seconds
_NIGHT = "a night"


class UnfinishedNight(BaseModel):
    """How far a night was, and which interactions it is about, as its checkpoint says."""

    step: int
    ids: list[int]


@dataclass(frozen=True, slots=True)
class Night:
    """What one night learns with and from: interactions of the store whose identity is `memory`."""

    session: TrainingSession
    learner: Learner
    curriculum: Curriculum
    ids: list[int]
    memory: str


class NightLearning:
    """Learns by night; what could not be learned comes last in the nights after."""

    def __init__(self, agent: Agent, checkpoints: Checkpoints, throttle: TrainingThrottle) -> None:
        self._agent = agent
        self._checkpoints = checkpoints
        self._throttle = throttle
        self._put_off: set[int] = set()  # interactions of nights that were rolled back

    async def learn(self, job: Job, *, seconds: float, stage: float) -> NightLearned:
        """Learn what no night has learned yet; cut off, it goes on where it was next time."""
        agent, checkpoints = self._agent, self._checkpoints
        own_time = OwnTime(every_s=_LOOK_S)  # beside busy programs a night is longer, not shallower
        until = own_time() + seconds
        memory = (await agent.ask(Unlearned(limit=0))).memory
        found = await unlearned(agent, _MAX_ENTRIES, _MAX_CHARACTERS)
        if not found:
            return NightLearned(learned=0, reason="nothing new to learn")
        checkpoints.require_fit()
        unfinished = await checkpoints.unfinished(_NIGHT, UnfinishedNight)
        session = TrainingSession(await shared_engine.fused(), agent.settings, stage)
        entries = tonight(found, unfinished.progress.ids if unfinished else [], self._put_off)
        entries = entries[: await session.room_for(entries)]
        ids = [each.id for each in entries]
        of = f" of {len(found)}" if len(found) > len(entries) else ""
        job.progress(text=f"Dreaming up questions about {len(entries)}{of} interactions ...\n")
        curriculum = await session.plan_night(entries, await self._rehearsed())
        learner = self._throttle.attach(await session.learner(curriculum, night=True))
        before = await session.evaluate(learner, curriculum)
        start = 0
        if unfinished is not None and await checkpoints.resume(session, learner, unfinished):
            # Not what was told of: a step may have been made after that, and is in what was kept.
            start = learner.steps
            agent.log.info("night.resumed", step=start)
        until = max(until, own_time() + _STEP_S * (curriculum.steps - start))
        night = Night(session, learner, curriculum, ids, memory)
        steps = await self._learn(night, job, start=start, is_over=lambda: own_time() >= until)
        after = await session.evaluate(learner, curriculum)
        metrics = NightMetrics(
            lessons=len(curriculum.lessons),
            steps=steps,
            recall_before=round(before.recall, 4),
            recall=round(after.recall, 4),
            drift=round(after.drift, 4),
        )
        if (problem := session.rejection(before, after, curriculum)) is not None:
            await checkpoints.discard_unfinished()
            self._put_off.update(ids)
            agent.log.warning("night.rolled_back", reason=problem, **metrics.wire())
            return NightLearned(learned=0, reason=f"rolled back: {problem}", **metrics.wire())
        commit = partial(
            checkpoints.commit,
            session,
            learner,
            await session.on_thread(learner.candidate.state),
            metrics,
            reason="night",
            memory=memory,
            interactions=ids,
            question=await self._question(),
        )
        number = await agent.hindrance.outlast(commit)  # waits for room; who speaks ends it
        text = (
            f"learned {len(ids)} interactions in {steps} steps, "
            f"recall {metrics.recall:.2f}, drift {metrics.drift:.3f}"
        )
        return NightLearned(text=text, learned=len(ids), generation=number, **metrics.wire())

    async def _learn(
        self, night: Night, job: Job, *, start: int, is_over: Callable[[], bool]
    ) -> int:
        """Learn from the step `start` on; returns the step it ended at. Each tenth is kept."""
        step, session, learner = start, night.session, night.learner
        async with aclosing(session.steps(learner, night.curriculum, start)) as reports:
            async for report in reports:
                step += 1
                await self._throttle.measured(report)
                progress = progress_of(report, step, night.curriculum.steps)
                job.progress(**progress.model_dump())
                told = progress.model_dump(exclude={"tokens_per_s"})
                event = NightStep(reason="learning", entries=len(night.ids), **told)
                await self._agent.publish(f"{NIGHT}.progress", event)
                if step % _CHECKPOINT_EVERY == 0:
                    training = await session.on_thread(learner.state)
                    async with self._agent.hindrance.met():  # without one the night goes on
                        await self._checkpoints.keep_unfinished(
                            training,
                            of=_NIGHT,
                            progress=UnfinishedNight(step=step, ids=night.ids),
                            memory=night.memory,
                            interactions=night.ids,
                        )
                if is_over():
                    break
        return step

    async def _rehearsed(self) -> list[Interaction]:
        """Some of what earlier nights learned."""
        old = (await self._agent.ask(Rehearsal(limit=_REMEMBERED))).ids
        rng = random.Random(self._agent.settings.core_config.random_seed)  # noqa: S311 - no secret
        return await recalled(self._agent, rng.sample(old, min(_REHEARSED, len(old))))

    async def _question(self) -> str:
        """What it wonders after a night, empty if nothing."""
        try:
            return (await self._agent.ask(Wonder(prompt=None))).text
        except CommandError as error:
            self._agent.log.warning("curiosity.speechless", reason=error.message)
            return ""


def tonight(
    found: list[Interaction], begun_with: Sequence[int], put_off: Set[int]
) -> list[Interaction]:
    """What an unfinished night was `begun_with`, if all that is still to learn, else all there is.

    What was lived since waits for the next night. What was `put_off` comes last: where some cannot
    be learned, the rest should not wait for them for ever.
    """
    begun = [each for each in found if each.id in begun_with]
    if begun and len(begun) == len(begun_with):
        return begun
    return sorted(found, key=lambda each: each.id in put_off)
