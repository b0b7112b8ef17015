"""The scribe: writes down every interaction before its answer counts as given."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

import anyio.to_thread

from agents.base import Agent, Job
from bus.commands import command
from bus.envelope import Envelope
from bus.errors import FatalError
from bus.topics import INTERACTION, QUESTION, InteractionRecorded, Question
from config import Paths, Settings
from sovl_daemon.contracts.scribe import (
    Context,
    ConversationContext,
    InteractionPage,
    Learned,
    LearnedIds,
    Recall,
    Recalled,
    RecentInteractions,
    Reconciled,
    Recorded,
    RecordInteraction,
    Rehearsal,
    ScribeStats,
    Unlearned,
    UnlearnedPage,
)
from sovl_daemon.database import UnusableDatabase
from sovl_daemon.handle import Handle
from sovl_daemon.memory.interactions import Interaction, InteractionStore
from sovl_daemon.mind.curiosity import OpenQuestion
from sovl_daemon.opened import opened_database

_AROUND_BYTES = 1024  # of an answer, beside the interactions


class Scribe(Agent):
    """Keeps the interaction store. One thread at a time touches the database."""

    name: ClassVar[str] = "scribe"
    critical: ClassVar[bool] = True
    topics: ClassVar[tuple[str, ...]] = (QUESTION,)
    _store: InteractionStore  # both are there after start
    _disk: Handle
    _asked: OpenQuestion | None = None

    def __init__(self, settings: Settings, paths: Paths, process: str) -> None:
        super().__init__(settings, paths, process)
        self._resources = AsyncExitStack()

    async def start(self) -> None:
        """Open the store; in a dry run it lives in memory and leaves no trace."""
        path = ":memory:" if self.settings.training_config.dry_run else self.paths.database
        try:
            make = partial(anyio.to_thread.run_sync, partial(InteractionStore, path))
            self._store = await self.hindrance.outlast(make)
        except UnusableDatabase as error:
            raise FatalError(str(error)) from None
        self._disk = Handle(self._store)
        self._resources.push_async_callback(self._disk.close)
        self._size = await self._in_thread(self._store.size)
        if not self.settings.training_config.dry_run:
            self.opened = opened_database(self.paths.database)

    async def stop(self) -> None:
        """Close the store."""
        await self._resources.aclose()

    async def try_to_write(self) -> None:
        """Try to write to the database."""
        await self._in_thread(self._store.try_to_write)

    async def on_event(self, event: Envelope) -> None:
        """Remember the last question of the mind's own until it is answered."""
        if isinstance(event.payload, Question):
            asked = event.payload
            self._asked = OpenQuestion(asked.text, time.monotonic(), asked.conversation)

    @command(RecordInteraction, internal=True)
    async def record(self, request: RecordInteraction, job: Job) -> Recorded:
        """Write an interaction down; answers once it is safe on disk."""
        await self._in_thread(self.check_files)
        said = request.interaction
        question = self._open(said.conversation, time.monotonic() - request.seconds)
        unseen = not await self._in_thread(partial(self._store.has_prompt, said.prompt))
        asked, self._asked = self._asked, None if question else self._asked
        try:
            add = partial(self._store.add, replace(said, question=question))
            number = await self._in_thread(add)
        except sqlite3.Error:
            self._asked = asked  # as long as nothing is written, nobody has answered
            raise
        self._size = await self._in_thread(self._store.size)
        event = InteractionRecorded(
            interaction=number,
            conversation=said.conversation,
            tokens=said.tokens,
            confidence=said.confidence,
            unseen=unseen,
            question=question,
        )
        await self.publish(INTERACTION, event)
        return Recorded(interaction=number)

    @command(RecentInteractions)
    async def history(self, request: RecentInteractions, job: Job) -> InteractionPage:
        """Show the last interactions, as many as a message has room for."""
        before = {} if request.before is None else {"before": request.before}
        found = await self._page(self._store.recent, request.limit, request.conversation, **before)
        return InteractionPage(interactions=found, before=found[0].id if found else None)

    @command(Context, internal=True)
    async def context(self, request: Context, job: Job) -> ConversationContext:
        """What was said before a prompt that comes now, and the mind's question that it answers."""
        question = self._open(request.conversation, time.monotonic())
        found = await self._page(self._store.recent, request.limit, request.conversation)
        return ConversationContext(interactions=found, question=question)

    @command(Recall, internal=True)
    async def recall(self, request: Recall, job: Job) -> Recalled:
        """The first interactions of these ids, as a message has room for, and the other ids."""
        found = await self._page(self._store.some, request.ids)
        last = found[-1].id if found else max(request.ids, default=0)
        return Recalled(interactions=found, rest=[id_ for id_ in request.ids if id_ > last])

    @command(Unlearned, internal=True)
    async def unlearned(self, request: Unlearned, job: Job) -> UnlearnedPage:
        """The first interactions that no night has learned, and how many of them there are.

        They are as many as a message has room for: ask again after the last one for more.
        """
        return UnlearnedPage(
            interactions=await self._page(
                self._store.unlearned, request.limit, after=request.after
            ),
            count=await self._in_thread(self._store.unlearned_count),
            memory=await self._in_thread(partial(getattr, self._store, "identity")),
        )

    @command(Rehearsal, internal=True)
    async def rehearsal(self, request: Rehearsal, job: Job) -> LearnedIds:
        """The ids of the last interactions that some night has learned."""
        return LearnedIds(ids=await self._in_thread(partial(self._store.learned, request.limit)))

    @command(Learned, internal=True)
    async def learned(self, request: Learned, job: Job) -> Reconciled:
        """Make the notes agree with what the committed generations say was learned."""
        work = partial(self._store.reconcile, dict(request.learned), request.first, request.last)
        changed = await self._in_thread(work)
        return Reconciled(changed=changed, count=await self._in_thread(self._store.unlearned_count))

    def stats(self) -> ScribeStats:
        """Rows and bytes."""
        return ScribeStats(store=self._size)

    def _open(self, conversation: str, said_at: float) -> str | None:
        asked = self._asked
        answered = asked is not None and asked.answered_by(conversation, said_at)
        return asked.text if asked is not None and answered else None

    async def _page(
        self, read: Callable[..., list[Interaction]], *args: Any, **options: Any
    ) -> Any:
        """What `read` finds, as far as it fits into an answer."""
        room = self.settings.bus.max_message_bytes - _AROUND_BYTES
        return await self._in_thread(partial(read, *args, **options, max_bytes=room))

    async def _in_thread(self, work: Any) -> Any:
        return await self._disk.use(work)
