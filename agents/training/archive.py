"""The archive: what was learned, on disk; save, load, reset, and the way back after a crash."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import anyio
import anyio.to_thread

from agents.base import Agent, Job
from agents.shared_engine import shared_engine
from bus.commands import command
from bus.errors import BAD_ARGUMENT, CommandError, FatalError
from config import Settings
from sovl_daemon.contracts.mind import BecomeMind, ReadMind
from sovl_daemon.contracts.scribe import Learned, Unlearned
from sovl_daemon.contracts.trainer import (
    LoadState,
    ResetState,
    SaveState,
    StateLoaded,
    StateReset,
    StateSaved,
)
from sovl_daemon.engine.thread.inbox import call
from sovl_daemon.engine.thread.tensor_thread import Priority
from sovl_daemon.mind.state import Mind
from sovl_daemon.state import (
    Generation,
    Origin,
    StateError,
    StateLocked,
    StateStore,
    is_known_by_name,
    misfit,
)

if TYPE_CHECKING:
    from sovl_daemon.engine.engine import Engine
    from sovl_daemon.state import StateWriter

_NOTES_AT_ONCE = 2000
_LAST_ID = 2**63 - 1


def tensors_in(generation: Generation) -> dict[str, Any]:
    """What a generation has learned, read from its files."""
    return {**generation.fusion("torch"), **generation.scaffold("torch")}


class Archive(Agent):
    """The part of an agent that keeps what was learned; a dry run keeps nothing."""

    home: ClassVar[str] = "host"

    async def start(self) -> None:
        """Become the one that writes. Raises FatalError where another one does."""
        self._open = ExitStack()
        self._changing = anyio.Lock()
        self._writer: StateWriter | None = None
        self._unnoted: Generation | None = None
        self._unfit = ""
        if self.settings.training_config.dry_run:
            return
        store = StateStore(self.paths.state_dir)

        async def become_writer() -> StateWriter:
            return self._open.enter_context(store.writer(keep=self.settings.state.keep))

        try:
            self._writer = await self.hindrance.outlast(become_writer)
        except StateLocked as error:
            raise FatalError(str(error)) from None

    @property
    def is_dry(self) -> bool:
        """Whether nothing is kept, as this is a dry run."""
        return self._writer is None

    async def stop(self) -> None:
        """Let another one write."""
        self._open.close()

    async def on_settings(self, before: Settings) -> None:
        """Keep as many generations as configured."""
        if self._writer is not None:
            self._writer.keep = self.settings.state.keep

    async def wake_up(self) -> None:
        """Become what was last committed, or the one before it where that is damaged."""
        if self._writer is None:
            return
        try:
            load = partial(anyio.to_thread.run_sync, self._writer.load)
            loaded = await self.hindrance.outlast(load)
        except StateError as error:
            self.log.error("state.refused", reason=str(error))
            return
        for refusal in loaded.refused:
            self.log.error("state.refused", folder=str(refusal.folder), reason=refusal.reason)
        if loaded.generation is None:
            return
        try:
            become = await self._prepared(loaded.generation)
            # What was cut off between the commit and the mind's own note shows in its nights.
            mind = bool(loaded.refused) or await self._lived_otherwise(loaded.generation)
            await self._become(loaded.generation, become, mind=mind)
        except CommandError as error:
            # Answers are the plain base's until the models or ranks are those it was learned with;
            # and what is learned meanwhile would push this out of the generations that are kept.
            self._unfit = error.message
            self.log.error("state.unfit", reason=error.message)
            return
        if is_known_by_name(loaded.generation.manifest):
            base = loaded.generation.manifest.base
            self.log.warning("state.known_by_name", base=base, number=loaded.generation.folder.name)

    @command(SaveState, long=True)
    async def save(self, request: SaveState, job: Job) -> StateSaved:
        """Keep what was learned under a name; without one the default save is replaced."""
        writer = self._required()
        name = request.name or self.settings.controls_config.save_path_prefix
        async with self._changing:
            if not writer.store.numbers():
                await self._commit_as_it_is("save")
            work = partial(writer.save, name, replacing=request.force or request.name is None)
            saved: Generation = await self._told(work)
        number = saved.manifest.number
        text = f"State saved as {name} (generation {number})"
        return StateSaved(text=text, generation=number)

    @command(LoadState, long=True)
    async def load(self, request: LoadState, job: Job) -> StateLoaded:
        """Go back to a save or a generation; `load` again undoes it."""
        writer = self._required()
        name = request.name or self.settings.controls_config.save_path_prefix
        async with self._changing:
            become = await self._prepared(await self._told(partial(writer.store.find, name)))
            generation: Generation = await self._told(partial(writer.restore, name))
            await self._become(generation, become, mind=True)
            parts = await anyio.to_thread.run_sync(generation.holds)
        held = ", ".join(parts) or "a new-born mind"
        text, number = f"Loaded from {name}: {held}", generation.manifest.number
        return StateLoaded(text=text, generation=number)

    @command(ResetState, long=True)
    async def reset(self, request: ResetState, job: Job) -> StateReset:
        """Forget all that was learned; the generations before stay and can be loaded."""
        writer = self._required()
        async with self._changing:
            generation: Generation = await self._told(writer.reset)
            await self._become(generation, await self._prepared(generation), mind=True)
        number = generation.manifest.number
        return StateReset(text=f"New-born (generation {number})", generation=number)

    async def commit(
        self,
        state: Mapping[str, Any],
        *,
        reason: str,
        metrics: Mapping[str, Any],
        interactions: Sequence[int],
        mind: Mapping[str, Any],
        memory: str,
    ) -> int | None:
        """Write a generation; returns its number, None in a dry run."""
        if self._writer is None:
            return None
        from sovl_daemon.engine.learning.candidate import adapter_tensors, attention_tensors
        from sovl_daemon.state import Contents

        engine = await shared_engine.fused()
        contents = Contents(
            fusion=attention_tensors(state),
            scaffold=adapter_tensors(state),
            token_map=await self._token_map(engine),
            mind=mind,
        )
        work = partial(
            self._writer.commit,
            contents,
            self._origin(memory),
            reason=reason,
            metrics=metrics,
            interactions=interactions,
        )
        generation: Generation = await self._told(work)
        # The manifest counts; the notes are made to agree as soon as they can be written.
        self._unnoted = generation
        async with self.hindrance.met():
            await self._note_learned()
        return generation.manifest.number

    async def _note_learned(self) -> None:
        if self._unnoted is not None:
            await self._reconcile(self._unnoted)
            self._unnoted = None

    async def try_to_write(self) -> None:
        """Try to write to the state directory, and note what was learned if that is to be done."""
        await super().try_to_write()
        await self._note_learned()

    async def keep_unfinished(
        self,
        training: Mapping[str, Any],
        *,
        of: str,
        progress: Mapping[str, Any],
        memory: str,
        interactions: Sequence[int] = (),
        best: Mapping[str, Any] | None = None,
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
            self._origin(memory),
            progress={"of": of, **progress},
            interactions=interactions,
        )
        await anyio.to_thread.run_sync(work)

    async def unfinished(self, of: str) -> Generation | None:
        """What there is to go on with of the same; all else is forgotten, and why is logged."""
        if self._writer is None:
            return None
        origin = self._origin((await self.ask(Unlearned(limit=0))).memory)
        loaded = await anyio.to_thread.run_sync(self._writer.candidate, origin)
        for refusal in loaded.refused:
            self.log.warning("state.begun_anew", reason=refusal.reason)
        found = loaded.generation
        if found is None or found.manifest.metrics.get("of") == of:
            return found
        self.log.warning("state.begun_anew", reason=f"it was of {found.manifest.metrics.get('of')}")
        await self.discard_unfinished()
        return None

    async def discard_unfinished(self) -> None:
        """Forget how far it was."""
        if self._writer is not None:
            await anyio.to_thread.run_sync(self._writer.discard_candidate)

    def require_fit(self) -> None:
        """Raise CommandError while what was learned does not fit, so that nothing is learned."""
        if self._unfit:
            raise CommandError(BAD_ARGUMENT, f"nothing is learned: {self._unfit}")

    def _origin(self, memory: str = "") -> Origin:
        """What a generation is made from."""
        # What was loaded, which is not what is configured for the next start.
        return Origin(**shared_engine.names, memory=memory, digests=shared_engine.digests)

    async def _commit_as_it_is(self, reason: str) -> None:
        from sovl_daemon.engine.learning.candidate import learned_tensors

        engine = await shared_engine.fused()
        state = await call(engine.thread, partial(learned_tensors, engine.fused()), Priority.JUDGE)
        mind = (await self.ask(ReadMind())).mind.to_json()
        memory = (await self.ask(Unlearned(limit=0))).memory
        await self.commit(
            state, reason=reason, metrics={}, interactions=[], mind=mind, memory=memory
        )

    async def _prepared(self, generation: Generation) -> Callable[[], None]:
        """What takes over tensors and token map. Raises CommandError: something does not fit.

        Nothing is changed before, neither here nor on disk.
        """
        from sovl_daemon.engine.errors import EngineError
        from sovl_daemon.engine.learning.candidate import prepare_restore

        engine = await shared_engine.fused()
        if why := misfit(generation.manifest, self._origin()):
            raise CommandError(BAD_ARGUMENT, f"{generation.folder.name}: {why}")
        state = await anyio.to_thread.run_sync(tensors_in, generation)
        prepare = partial(prepare_restore, engine.fused(), state, generation.token_map())
        try:
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
            await self.ask(BecomeMind(mind=Mind.from_json(document) if document else None))
        await self._reconcile(generation)
        self._unfit = ""
        self.log.info("state.loaded", generation=generation.manifest.number)

    async def _lived_otherwise(self, generation: Generation) -> bool:
        """Whether the mind counts other nights than when the generation was committed."""
        lived = (await self.ask(ReadMind())).mind
        return bool(lived.nights != generation.mind().get("nights", 0))

    async def _reconcile(self, generation: Generation) -> None:
        memory = (await self.ask(Unlearned(limit=0))).memory
        learned = sorted(generation.manifest.learned_from(memory).items())
        first = -_LAST_ID
        for at in range(0, len(learned) + 1, _NOTES_AT_ONCE):  # however many, of one message's size
            page = learned[at : at + _NOTES_AT_ONCE]
            last = page[-1][0] if len(page) == _NOTES_AT_ONCE else _LAST_ID
            await self.ask(Learned(learned=page, first=first, last=last))
            first = last + 1

    async def _token_map(self, engine: Engine) -> dict[str, Any]:
        tokens = engine.fusion.tokens if engine.fusion is not None else None
        return {} if tokens is None else await call(engine.thread, tokens.state, Priority.JUDGE)

    def _required(self) -> StateWriter:
        if self._writer is None:
            raise CommandError(BAD_ARGUMENT, "a dry run keeps nothing: start without --dry-run")
        return self._writer

    async def _told(self, work: Any) -> Any:
        """Run in a thread; what the store refuses is told. Raises CommandError."""
        try:
            return await anyio.to_thread.run_sync(work)
        except StateError as error:
            raise CommandError(BAD_ARGUMENT, str(error)) from None
