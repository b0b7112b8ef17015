"""What the scribe is asked: to write down, to read back, and to note what was learned."""

from __future__ import annotations

from pydantic import Field

from bus.commands import AgentStats, Reply, Request
from sovl_daemon.memory.interactions import DatabaseSize, Interaction


class Recorded(Reply):
    """It is safe on disk."""

    interaction: int = Field(description="its number")


class RecordInteraction(Request[Recorded], command="record"):
    """One exchange to write down; `seconds` is how long ago the prompt came."""

    interaction: Interaction
    seconds: float = Field(default=0.0, ge=0)


class InteractionPage(Reply):
    """Interactions, the oldest first."""

    interactions: list[Interaction] = Field(
        description="list of objects, the oldest first; `question` is the one of the mind's own "
        "that the prompt answers, else null"
    )
    before: int | None = Field(
        description="id to ask on with for the ones before, null when there are none"
    )


class RecentInteractions(Request[InteractionPage], command="history"):
    """Which interactions to read back."""

    conversation: str | None = Field(default=None, description="Only this conversation.")
    limit: int = Field(default=5, ge=1, le=1000, description="How many of the last ones.")
    before: int | None = Field(
        default=None, description="Only those before this id: the `before` of an earlier answer."
    )


class ConversationContext(Reply):
    """What was said before a prompt. `question` is the mind's own that it answers, if it does."""

    interactions: list[Interaction]
    question: str | None


class Context(Request[ConversationContext], command="context"):
    """The conversation of a prompt that has just come, and how much of it to read back."""

    conversation: str
    limit: int = Field(ge=0, le=1000)


class Recalled(Reply):
    """The first interactions of the ids asked for, the oldest first, and the ids of the others."""

    interactions: list[Interaction]
    rest: list[int]


class Recall(Request[Recalled], command="recall"):
    """Which interactions."""

    ids: list[int] = Field(max_length=10_000)


class UnlearnedPage(Reply):
    """Interactions that no night has learned: the first ones, and how many there are in all.

    `memory` is the identity of the store that their ids are of.
    """

    interactions: list[Interaction]
    count: int
    memory: str


class Unlearned(Request[UnlearnedPage], command="unlearned"):
    """How much of what was not learned yet, beginning after an id."""

    limit: int = Field(default=1000, ge=0, le=100_000)
    after: int = 0


class LearnedIds(Reply):
    """Ids of interactions that some night has learned, the newest first."""

    ids: list[int]


class Rehearsal(Request[LearnedIds], command="rehearsal"):
    """How many of what was learned."""

    limit: int = Field(default=1000, ge=0, le=10_000)


class Reconciled(Reply):
    """How many notes were wrong, and how many interactions are unlearned now."""

    changed: int
    count: int


class Learned(Request[Reconciled], command="learned"):
    """Interactions with the generations that learned them: all from id `first` to `last`."""

    learned: list[tuple[int, int]] = Field(max_length=10_000)
    first: int
    last: int


class ScribeStats(AgentStats):
    """Rows and bytes."""

    store: DatabaseSize = Field(description="interactions that there are, and bytes of the file")
