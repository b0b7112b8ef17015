"""The scribe: writes down every interaction before its answer counts as given."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from typing import Any, ClassVar

import anyio.to_thread
from pydantic import Field

from agents.base import Agent, Job
from bus.commands import Arguments, command
from bus.envelope import Envelope
from bus.errors import FatalError
from bus.topics import INTERACTION, QUESTION, InteractionRecorded, Question
from config import Paths, Settings
from sovl_daemon.database import UnusableDatabase
from sovl_daemon.handle import Handle
from sovl_daemon.memory.interactions import Interaction, InteractionStore
from sovl_daemon.mind.curiosity import OpenQuestion
from sovl_daemon.opened import opened_database

_AROUND_BYTES = 1024  # of an answer, beside the interactions


class RecordArguments(Arguments):
    """One exchange to write down; `seconds` is how long ago the prompt came."""

    command: str
    conversation: str
    prompt: str
    response: str
    tokens: int
    confidence: float | None = None
    seconds: float = Field(default=0.0, ge=0)


class HistoryArguments(Arguments):
    """Which interactions to read back."""

    conversation: str | None = Field(default=None, description="Only this conversation.")
    limit: int = Field(default=5, ge=1, le=1000, description="How many of the last ones.")
    before: int | None = Field(
        default=None, description="Only those before this id: the `before` of an earlier answer."
    )


class OpenQuestionArguments(Arguments):
    """The conversation of a prompt that has just come."""

    conversation: str


class RecallArguments(Arguments):
    """Which interactions."""

    ids: list[int] = Field(max_length=10_000)


class UnlearnedArguments(Arguments):
    """How much of what was not learned yet, beginning after an id."""

    limit: int = Field(default=1000, ge=0, le=100_000)
    after: int = 0


class RehearsalArguments(Arguments):
    """How many of what was learned."""

    limit: int = Field(default=1000, ge=0, le=10_000)


class LearnedArguments(Arguments):
    """Interactions with the generations that learned them: all from id `first` to `last`."""

    learned: list[tuple[int, int]] = Field(max_length=10_000)
    first: int
    last: int


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

    @command(RecordArguments, internal=True)
    async def record(self, args: RecordArguments, job: Job) -> dict[str, Any]:
        """Write an interaction down; answers once it is safe on disk."""
        await self._in_thread(self.check_files)
        question = self._open(args.conversation, time.monotonic() - args.seconds)
        interaction = Interaction(**args.model_dump(exclude={"seconds"}), question=question)
        unseen = not await self._in_thread(partial(self._store.has_prompt, args.prompt))
        asked, self._asked = self._asked, None if question else self._asked
        try:
            number = await self._in_thread(partial(self._store.add, interaction))
        except sqlite3.Error:
            self._asked = asked  # as long as nothing is written, nobody has answered
            raise
        self._size = await self._in_thread(self._store.size)
        event = InteractionRecorded(
            interaction=number,
            conversation=args.conversation,
            tokens=args.tokens,
            confidence=args.confidence,
            unseen=unseen,
            question=question,
        )
        await self.publish(INTERACTION, event)
        return {"interaction": number}

    @command(HistoryArguments)
    async def history(self, args: HistoryArguments, job: Job) -> dict[str, Any]:
        """Show the last interactions, as many as a message has room for."""
        before = {} if args.before is None else {"before": args.before}
        found = await self._page(self._store.recent, args.limit, args.conversation, **before)
        return {
            "interactions": [vars(each) for each in found],
            "before": found[0].id if found else None,
        }

    @command(OpenQuestionArguments, internal=True)
    async def open_question(self, args: OpenQuestionArguments, job: Job) -> dict[str, Any]:
        """The question of the mind's own that a prompt answers which comes now, None if none."""
        return {"question": self._open(args.conversation, time.monotonic())}

    @command(RecallArguments, internal=True)
    async def recall(self, args: RecallArguments, job: Job) -> dict[str, Any]:
        """The first interactions of these ids, as a message has room for, and the other ids."""
        found = await self._page(self._store.some, args.ids)
        last = found[-1].id if found else max(args.ids, default=0)
        rest = [id_ for id_ in args.ids if id_ > last]
        return {"interactions": [vars(each) for each in found], "rest": rest}

    @command(UnlearnedArguments, internal=True)
    async def unlearned(self, args: UnlearnedArguments, job: Job) -> dict[str, Any]:
        """The first interactions that no night has learned, and how many of them there are.

        They are as many as a message has room for: ask again after the last one for more.
        """
        found = await self._page(self._store.unlearned, args.limit, after=args.after)
        count = await self._in_thread(self._store.unlearned_count)
        memory = await self._in_thread(partial(getattr, self._store, "identity"))
        interactions = [vars(each) for each in found]
        return {"interactions": interactions, "count": count, "memory": memory}

    @command(RehearsalArguments, internal=True)
    async def rehearsal(self, args: RehearsalArguments, job: Job) -> dict[str, Any]:
        """The ids of the last interactions that some night has learned."""
        return {"ids": await self._in_thread(partial(self._store.learned, args.limit))}

    @command(LearnedArguments, internal=True)
    async def learned(self, args: LearnedArguments, job: Job) -> dict[str, Any]:
        """Make the notes agree with what the committed generations say was learned."""
        work = partial(self._store.reconcile, dict(args.learned), args.first, args.last)
        wrong = await self._in_thread(work)
        return {"changed": wrong, "count": await self._in_thread(self._store.unlearned_count)}

    def stats(self) -> dict[str, Any]:
        """Rows and bytes."""
        return {"store": self._size}

    def _open(self, conversation: str, said_at: float) -> str | None:
        asked = self._asked
        answered = asked is not None and asked.answered_by(conversation, said_at)
        return asked.text if asked is not None and answered else None

    async def _page(
        self, read: Callable[..., list[Interaction]], *args: Any, **options: Any
    ) -> Any:
        """What `read` finds, as far as it fits into an answer."""
        room = self.settings.bus.max_message_bytes - _AROUND_BYTES
        return await self._in_thread(partial(read, *args, **options, most_bytes=room))

    async def _in_thread(self, work: Any) -> Any:
        return await self._disk.use(work)
