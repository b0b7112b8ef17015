"""What was learned, on disk: committed, saved, gone back to, and taken up again after a crash."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Generic, TypeVar

import anyio
import anyio.to_thread
from pydantic import BaseModel, ValidationError

from agents.base import Agent
from agents.shared_engine import shared_engine
from bus.errors import BAD_ARGUMENT, CommandError, FatalError
from sovl_daemon.contracts.mind import BecomeMind, NoteNight, ReadMind
from sovl_daemon.contracts.scribe import Learned, Unlearned
from sovl_daemon.contracts.trainer import NightMetrics, TrainingMetrics
from sovl_daemon.engine.thread.inbox import call
from sovl_daemon.engine.thread.tensor_thread import Priority
from sovl_daemon.mind.state import Mind
from sovl_daemon.own_time import OwnTime, fail_after
from sovl_daemon.state import (
    Generation,
    Origin,
    StateError,
    StateLocked,
    StateStore,
    is_known_by_name,
    misfit,
)

if TYPE_CHECKING:  # torch is loaded by the generator
    from torch import Tensor

    from agents.training.session import TrainingSession
    from sovl_daemon.engine.learning.learner import Learner
    from sovl_daemon.state import StateWriter

_NOTES_AT_ONCE = 2000
_LAST_ID = 2**63 - 1
_COMMIT_S = 60.0

T = TypeVar("T")
ProgressT = TypeVar("ProgressT", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Unfinished(Generic[ProgressT]):
    """A night or a training that was cut off, and how far it was."""

    generation: Generation
    progress: ProgressT

    async def best(self) -> Mapping[str, Tensor]:
        """What it would have kept if it had ended there, empty if nothing."""
        return await anyio.to_thread.run_sync(_tensors_in, self.generation)


class Checkpoints:
    """Keeps what an agent has taught the engine; in a dry run nothing.

    `changing` is held while what was learned changes, or is about to.
    """

    def __init__(self, agent: Agent) -> None:
        self.changing = anyio.Lock()
        self._agent = agent
        self._open = ExitStack()
        self._writer: StateWriter | None = None
        self._unnoted: Generation | None = None
        self._unfit = ""

    async def open(self) -> None:
        """Become the one that writes. Raises FatalError where another one does."""
        agent = self._agent
        if agent.settings.training_config.dry_run:
            return
        store = StateStore(agent.paths.state_dir)

        async def become_writer() -> StateWriter:
            return self._open.enter_context(store.writer(keep=agent.settings.state.keep))

        try:
            self._writer = await agent.hindrance.outlast(become_writer)
        except StateLocked as error:
            raise FatalError(str(error)) from None

    def close(self) -> None:
        """Let another one write."""
        self._open.close()

    @property
    def is_dry(self) -> bool:
        """Whether nothing is kept, as this is a dry run."""
        return self._writer is None

    def keep(self, generations: int) -> None:
        """Keep so many from now on."""
        if self._writer is not None:
            self._writer.keep = generations

    def require_fit(self) -> None:
        """Raise CommandError while what was learned does not fit, so that nothing is learned."""
        if self._unfit:
            raise CommandError(BAD_ARGUMENT, f"nothing is learned: {self._unfit}")

    # What is answered with

    async def restore(self) -> None:
        """Become what was last committed, or the one before it where that is damaged."""
        if self._writer is None:
            return
        log = self._agent.log
        try:
            load = partial(anyio.to_thread.run_sync, self._writer.load)
            loaded = await self._agent.hindrance.outlast(load)
        except StateError as error:
            log.error("state.refused", reason=str(error))
            return
        for refusal in loaded.refused:
            log.error("state.refused", folder=str(refusal.folder), reason=refusal.reason)
        if loaded.generation is None:
            return
        generation = loaded.generation
        try:
            become = await self._prepared(generation)
            # What was cut off between the commit and the mind's own note shows in its nights.
            nights = (await self._agent.ask(ReadMind())).mind.nights
            mind = bool(loaded.refused) or nights != generation.mind().get("nights", 0)
            await self._become(generation, become, mind=mind)
        except CommandError as error:
            # Answers are the plain base's until the models or ranks are those it was learned with;
            # and what is learned meanwhile would push this out of the generations that are kept.
            self._unfit = error.message
            log.error("state.unfit", reason=error.message)
            return
        if is_known_by_name(generation.manifest):
            base = generation.manifest.base
            log.warning("state.known_by_name", base=base, number=generation.folder.name)

    async def save(self, name: str, *, replacing: bool) -> int:
        """Keep what was learned under a name; returns the number of its generation."""
        writer = self._required()
        async with self.changing:
            if not writer.store.numbers():
                await self._commit_as_it_is()
            saved = await _on_disk(partial(writer.save, name, replacing=replacing))
        return saved.manifest.number

    async def load(self, name: str) -> tuple[int, list[str]]:
        """Go back; returns the number of the generation made of it, and which parts it has."""
        writer = self._required()
        async with self.changing:
            become = await self._prepared(await _on_disk(partial(writer.store.find, name)))
            generation = await _on_disk(partial(writer.restore, name))
            await self._become(generation, become, mind=True)
            parts = await anyio.to_thread.run_sync(generation.holds)
        return generation.manifest.number, parts

    async def reset(self) -> int:
        """Forget all; returns the number of the empty generation. Those before stay."""
        writer = self._required()
        async with self.changing:
            generation = await _on_disk(writer.reset)
            await self._become(generation, await self._prepared(generation), mind=True)
        return generation.manifest.number

    async def commit(
        self,
        session: TrainingSession,
        learner: Learner,
        state: Mapping[str, Tensor],
        metrics: NightMetrics | TrainingMetrics,
        *,
        reason: str,
        memory: str,
        interactions: Sequence[int] = (),
        question: str = "",
    ) -> int | None:
        """Write `state` as a generation, then answer with it; from here on nothing cancels.

        Returns its number, None in a dry run. `interactions` are those that it has learned, of the
        store whose identity is `memory`; `question` is what it wonders after a night.
        """
        from sovl_daemon.engine.learning.candidate import learned_tensors

        agent, engine = self._agent, await shared_engine.fused()
        with fail_after(_COMMIT_S, OwnTime(), shield=True):
            async with agent.saving():
                # Layers that learned before, and do not steer now, stay in the generation.
                others = await session.on_thread(partial(learned_tensors, engine.fused()))
                slept = await agent.ask(NoteNight(question=question, foretell=True))
                number = await self._write(
                    {**others, **state},
                    metrics,
                    reason=reason,
                    memory=memory,
                    interactions=interactions,
                    mind=slept.mind,
                )
                await session.on_thread(learner.commit)
                await agent.ask(NoteNight(question=question))
        agent.log.info(
            "training.committed",
            of=reason,
            generation=number,
            learned=len(interactions),
            **metrics.wire(),
        )
        return number

    async def note_learned(self) -> None:
        """Make the notes agree with the last commit, where that could not be written down."""
        if self._unnoted is not None:
            await self._reconcile(self._unnoted)
            self._unnoted = None

    # What is not over yet

    async def keep_unfinished(
        self,
        training: Mapping[str, Tensor],
        *,
        of: str,
        progress: BaseModel,
        memory: str,
        interactions: Sequence[int] = (),
        best: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Write down how far a night or a training is, in place of what there was.

        `of` names what it is about, `training` is what the learner needs to go on, `best` what it
        would keep if it ended now.
        """
        if self._writer is None:
            return
        from sovl_daemon.engine.learning.candidate import adapter_tensors, attention_tensors
        from sovl_daemon.state import Contents

        state = best or {}
        work = partial(
            self._writer.checkpoint,
            Contents(
                fusion=attention_tensors(state), scaffold=adapter_tensors(state), training=training
            ),
            _origin(memory),
            progress={"of": of, **progress.model_dump()},
            interactions=interactions,
        )
        await anyio.to_thread.run_sync(work)

    async def unfinished(self, of: str, progress: type[ProgressT]) -> Unfinished[ProgressT] | None:
        """What there is to go on with of the same; all else is forgotten, and why is logged."""
        if self._writer is None:
            return None
        origin = _origin((await self._agent.ask(Unlearned(limit=0))).memory)
        loaded = await anyio.to_thread.run_sync(self._writer.candidate, origin)
        for refusal in loaded.refused:
            self._agent.log.warning("state.begun_anew", reason=refusal.reason)
        found = loaded.generation
        if found is None:
            return None
        was = found.manifest.metrics
        try:
            if was.get("of") == of:
                return Unfinished(found, progress.model_validate(was))
            reason = f"it was of {was.get('of')}"
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            reason = f"{first['loc'][0]}: {first['msg']}"
        self._agent.log.warning("state.begun_anew", reason=reason)
        await self.discard_unfinished()
        return None

    async def resume(
        self, session: TrainingSession, learner: Learner, unfinished: Unfinished[ProgressT]
    ) -> bool:
        """Let a learner become what learned when it was cut off; returns whether it could."""
        read = partial(unfinished.generation.training, "torch")
        training = await anyio.to_thread.run_sync(read)
        try:
            await session.on_thread(partial(learner.load, training or {}))
        except CommandError as error:
            self._agent.log.warning("state.begun_anew", reason=error.message)
            return False
        return True

    async def discard_unfinished(self) -> None:
        """Forget how far it was."""
        if self._writer is not None:
            await anyio.to_thread.run_sync(self._writer.discard_candidate)

    # What they share

    async def _commit_as_it_is(self) -> None:
        from sovl_daemon.engine.learning.candidate import learned_tensors

        engine = await shared_engine.fused()
        state = await call(engine.thread, partial(learned_tensors, engine.fused()), Priority.JUDGE)
        mind = (await self._agent.ask(ReadMind())).mind
        memory = (await self._agent.ask(Unlearned(limit=0))).memory
        await self._write(state, None, reason="save", memory=memory, interactions=(), mind=mind)

    async def _write(
        self,
        state: Mapping[str, Tensor],
        metrics: NightMetrics | TrainingMetrics | None,
        *,
        reason: str,
        memory: str,
        interactions: Sequence[int],
        mind: Mind,
    ) -> int | None:
        if self._writer is None:
            return None
        from sovl_daemon.engine.learning.candidate import adapter_tensors, attention_tensors
        from sovl_daemon.state import Contents

        engine = await shared_engine.fused()
        tokens = engine.fusion.tokens if engine.fusion is not None else None
        learnt = (
            await call(engine.thread, tokens.state, Priority.JUDGE) if tokens is not None else None
        )
        contents = Contents(
            fusion=attention_tensors(state),
            scaffold=adapter_tensors(state),
            token_map={} if learnt is None else learnt.model_dump(mode="json"),
            mind=mind.to_json(),
        )
        work = partial(
            self._writer.commit,
            contents,
            _origin(memory),
            reason=reason,
            metrics=metrics.wire() if metrics else {},
            interactions=interactions,
        )
        # The manifest counts; the notes are made to agree as soon as they can be written.
        self._unnoted = generation = await _on_disk(work)
        async with self._agent.hindrance.met():
            await self.note_learned()
        return generation.manifest.number

    async def _prepared(self, generation: Generation) -> Callable[[], None]:
        """What takes over tensors and token map. Raises CommandError: something does not fit.

        Nothing is changed before, neither here nor on disk.
        """
        from sovl_daemon.engine.errors import EngineError
        from sovl_daemon.engine.learning.candidate import prepare_restore
        from sovl_daemon.engine.text.token_map import TokenMapState

        engine = await shared_engine.fused()
        if why := misfit(generation.manifest, _origin()):
            raise CommandError(BAD_ARGUMENT, f"{generation.folder.name}: {why}")
        state = await anyio.to_thread.run_sync(_tensors_in, generation)
        saved = generation.token_map()
        try:
            tokens = TokenMapState.from_json(saved) if saved else None
            prepare = partial(prepare_restore, engine.fused(), state, tokens)
            if document := generation.mind():
                Mind.from_json(document)
            return await call(engine.thread, prepare, Priority.JUDGE)
        except (EngineError, ValueError) as error:
            raise CommandError(BAD_ARGUMENT, f"{generation.folder.name}: {error}") from None

    async def _become(
        self, generation: Generation, become: Callable[[], None], *, mind: bool
    ) -> None:
        """Take over tensors, token map and notes; and the mind where that went back too."""
        engine = await shared_engine.fused()
        await call(engine.thread, become, Priority.JUDGE)
        if mind:
            document = generation.mind()
            was = Mind.from_json(document) if document else None
            await self._agent.ask(BecomeMind(mind=was))
        await self._reconcile(generation)
        self._unfit = ""
        self._agent.log.info("state.loaded", generation=generation.manifest.number)

    async def _reconcile(self, generation: Generation) -> None:
        memory = (await self._agent.ask(Unlearned(limit=0))).memory
        learned = sorted(generation.manifest.learned_from(memory).items())
        first = -_LAST_ID
        for at in range(0, len(learned) + 1, _NOTES_AT_ONCE):  # however many, of one message's size
            page = learned[at : at + _NOTES_AT_ONCE]
            last = page[-1][0] if len(page) == _NOTES_AT_ONCE else _LAST_ID
            await self._agent.ask(Learned(learned=page, first=first, last=last))
            first = last + 1

    def _required(self) -> StateWriter:
        if self._writer is None:
            raise CommandError(BAD_ARGUMENT, "a dry run keeps nothing: start without --dry-run")
        return self._writer


def _origin(memory: str = "") -> Origin:
    """What a generation is made from: what was loaded, not what the next start is to load."""
    return Origin(**shared_engine.names, memory=memory, digests=shared_engine.digests)


def _tensors_in(generation: Generation) -> Mapping[str, Tensor]:
    """What a generation has learned, read from its files."""
    return {**generation.fusion("torch"), **generation.scaffold("torch")}


async def _on_disk(work: Callable[[], T]) -> T:
    """Run in a thread; what the store refuses is told. Raises CommandError."""
    try:
        return await anyio.to_thread.run_sync(work)
    except StateError as error:
        raise CommandError(BAD_ARGUMENT, str(error)) from None
