"""The book of commands in flight: each gets one final answer. Pure: no sockets, no clock."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

from bus.envelope import Envelope
from bus.errors import BUSY, DUPLICATE, CommandError


@dataclass(slots=True, eq=False)
class PendingCommand:
    """One command. `client` is where its answers go; times are monotonic seconds.

    A step on the way moves the deadline so that `patience_s` are left, where that is not None.
    `running` turns true when the agent has it; `cancel_by` is set once it was asked to stop, in
    the time that the agent had for itself.
    """

    command: Envelope
    client: Hashable
    agent: str
    deadline: float
    patience_s: float | None = None
    running: bool = False
    cancel_by: float | None = None

    @property
    def id(self) -> str:
        """The command's id."""
        return self.command.id

    def moved(self, now: float) -> None:
        """Take note of a step on the way."""
        if self.patience_s is not None:
            self.deadline = now + self.patience_s


class PendingCommands:
    """Admits commands within limits and hands each out for its final answer exactly once."""

    def __init__(self, *, per_agent: int, per_client: int) -> None:
        self._limits = {"agent": per_agent, "client": per_client}
        self._entries: dict[str, PendingCommand] = {}
        self._agents: Counter[str] = Counter()
        self._clients: Counter[Hashable] = Counter()

    def __len__(self) -> int:
        return len(self._entries)

    def admit(self, entry: PendingCommand) -> bool:
        """Take a command in; False when this client sent the very same one before.

        Raises CommandError `busy` over a limit, `duplicate_id` when another client uses the id.
        """
        known = self._entries.get(entry.id)
        if known is not None:
            if known.client == entry.client:
                return False
            raise CommandError(DUPLICATE, "this command id is in use; ids must be unique")
        self._refuse_over("agent", self._agents[entry.agent], entry.agent)
        self._refuse_over("client", self._clients[entry.client], "this client")
        self._entries[entry.id] = entry
        self._agents[entry.agent] += 1
        self._clients[entry.client] += 1
        return True

    def _refuse_over(self, kind: str, count: int, who: str) -> None:
        limit = self._limits[kind]
        if count >= limit:
            raise CommandError(
                BUSY,
                f"{who} has {count} commands in flight, allowed {limit}; try again later",
                {"in_flight": count, "allowed": limit},
            )

    def get(self, command_id: str) -> PendingCommand | None:
        """The entry of a command that has no final answer yet."""
        return self._entries.get(command_id)

    def close(self, command_id: str) -> PendingCommand | None:
        """Hand the entry out for its final answer; None if it had one already."""
        entry = self._entries.pop(command_id, None)
        if entry is not None:
            _release(self._agents, entry.agent)
            _release(self._clients, entry.client)
        return entry

    def of_agent(self, agent: str, *, running: bool) -> list[PendingCommand]:
        """The commands that `agent` has (running) or will get (not running), oldest first."""
        return [e for e in self._entries.values() if e.agent == agent and e.running == running]

    def of_client(self, client: Hashable) -> list[PendingCommand]:
        """The commands of one client, oldest first."""
        return [e for e in self._entries.values() if e.client == client]

    def overdue(
        self, now: float, own_time: Callable[[str], float] | None = None
    ) -> list[PendingCommand]:
        """Commands past their deadline, and cancelled ones that their agent never let go.

        `own_time` tells the time that an agent had for itself; without it that is `now`.
        """
        return [
            e
            for e in self._entries.values()
            if now >= e.deadline
            or (e.cancel_by is not None and (own_time(e.agent) if own_time else now) >= e.cancel_by)
        ]

    def all(self) -> list[PendingCommand]:
        """Everything in flight, oldest first."""
        return list(self._entries.values())

    def by_agent(self) -> dict[str, int]:
        """Commands in flight by agent."""
        return dict(self._agents)


def _release(counter: Counter[Any], key: Hashable) -> None:
    counter[key] -= 1
    if not counter[key]:
        del counter[key]
